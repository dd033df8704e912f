# SPDX-License-Identifier: Apache-2.0
"""Heads collected for the bound's fit: matched to the truth, stated and true error side by side."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from screw_support import CAMERA, World, frame, heads_m, posterior

from spine_nav_common.core.truth import Truth, TruthFrame, TruthScrew
from stereo_screw_tracker.core.config import StereoConfig
from stereo_screw_tracker.core.tracker import StereoTracker

TRAINING = Path(__file__).resolve().parents[3] / "training"
if not (TRAINING / "calibration" / "stereo_calibrate.py").is_file():
    pytest.skip("training/ is not part of this installation", allow_module_level=True)
sys.path.insert(0, str(TRAINING.parent))

from training.calibration import stereo_calibrate as calibrate
from training.calibration import stereo_fit_bounds as fitting

STAMPS = (0, 100_000_000, 200_000_000)


@dataclass
class Scene:
    """Three pairs of a spine that stands still."""

    heads: np.ndarray
    seed: int = 200_000

    def pairs(self) -> list:
        return [frame(stamp) for stamp in STAMPS]

    def truth(self) -> Truth:
        screws = tuple(
            TruthScrew(stamp, i, "L3", "left", head, posterior(), 100)
            for stamp in STAMPS
            for i, head in enumerate(self.heads)
        )
        return Truth(("L3",), ("L3",), (), {s: TruthFrame(s, {}) for s in STAMPS}, screws)


def collected(heads: np.ndarray) -> tuple[list, int]:
    world = World()
    tracker = StereoTracker(StereoConfig(find_rods=False), world, world, world)
    found = calibrate.heads_of(Scene(heads), tracker)
    assert tracker.trace is None  # the tracker goes on without growing a list
    return found


def test_every_shown_head_has_its_true_error():
    records, strangers = collected(heads_m())
    assert strangers == 0
    assert {r["stamp_ns"] for r in records} == set(STAMPS)
    assert len(records) >= 2 * len(heads_m())
    for r in records:
        off = np.linalg.norm(np.subtract(r["point_m"], r["truth_m"]))
        assert r["error_mm"] == pytest.approx(1e3 * off)
        assert 0.0 < r["error_mm"] < 10.0
    assert np.median([r["axis_deg"] for r in records]) < 10.0


def test_a_row_that_is_no_head_is_counted_and_not_fitted():
    records, strangers = collected(heads_m()[:-1])
    assert strangers > 0
    gone = heads_m()[-1]
    assert min(np.linalg.norm(np.subtract(r["point_m"], gone)) for r in records) > 0.01


def test_two_rows_do_not_share_a_head():
    screw = TruthScrew(0, 0, "L3", "left", np.array([0.0, 0.0, 0.5]), posterior(), 100)
    points = np.array([[0.002, 0.0, 0.5], [0.001, 0.0, 0.5]])
    assert list(calibrate.matches(points, [screw])) == [1]
    assert calibrate.matches(points + 0.1, [screw]) == {}


def test_the_fit_reads_what_is_written(tmp_path):
    records, _ = collected(heads_m())
    file = tmp_path / "heads.npz"
    calibrate.write_records(file, records, {"command": "test"})
    read, origin = fitting.load_records(file)
    assert origin["command"] == "test"
    assert len(read) == len(records)
    assert read.metre_px[0] == pytest.approx(CAMERA.intrinsics.fx * CAMERA.baseline_m)
    np.testing.assert_allclose(read.error_mm, [r["error_mm"] for r in records])
