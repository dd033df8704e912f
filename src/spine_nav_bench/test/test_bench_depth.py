# SPDX-License-Identifier: Apache-2.0
"""The bench of the depth calibration: a simulated camera, and which calibration goes to which recording."""

from __future__ import annotations

from pathlib import Path

import pytest

from spine_nav_bench import bench_depth
from spine_nav_bench.bench_depth import depth_record, simulated_camera, with_calibration
from spine_nav_bench.results_depth import DEPTH_TARGETS
from spine_nav_common.core.errors import InputError


@pytest.fixture(scope="module")
def camera():
    return simulated_camera(bench_depth.SEED, 18)


def test_the_true_bias_is_what_is_judged(camera):
    assert camera["left_mm"] < 0.6 * camera["beside_scale_mm"] <= camera["bias_mm"]
    assert camera["views"] >= 15


def test_a_camera_that_cannot_be_calibrated_is_no_row():
    with pytest.raises(InputError, match="are needed"):
        simulated_camera(bench_depth.SEED, 6)


def test_each_recording_gets_its_own_calibration():
    seen = []
    replay = with_calibration(lambda *a, **k: seen.append((a, k)), {Path("a"): Path("a.yaml")})
    replay(Path("a"), Path("case"), Path("out"), segmenter=None)
    assert seen[0][1] == {"calibration": (Path("a.yaml"),), "segmenter": None}
    with pytest.raises(KeyError):
        replay(Path("b"), Path("case"), Path("out"))


def record(camera, tre_mm=0.4, coverage=0.95, worst=0.9):
    def run(tre):
        numbers = {
            "tre_mm": {"mean": tre, "median": tre, "p95": tre, "count": 9}, "availability": 1.0,
            "bound_mm": None, "silent_failures": 0,
        }  # fmt: skip
        return {
            "pooled": {**numbers, "coverage95": coverage},
            "scenes": [{**numbers, "coverage95": worst, "scene": "one"}],
        }

    return {"cameras": [camera], "with": run(tre_mm), "without": run(0.8)}


def test_a_missed_target_is_called_so(camera):
    def met(r):
        return [t.read(r)[1] for t in DEPTH_TARGETS if t.read(r) is not None]

    good = {**camera, "left_mm": 0.1}
    assert met(record(good)) == [True, True, True]
    bad = {**camera, "left_mm": 0.2}
    assert met(record(bad, 0.6, worst=0.8)) == [False, False, False]
    assert met({"cameras": [good, bad], "with": None, "without": None}) == [False]


def test_without_scenes_there_are_cameras_alone(camera, monkeypatch, tmp_path):
    monkeypatch.setattr(bench_depth, "simulated_camera", lambda seed: {**camera, "seed": seed})
    made = depth_record(None, None, None, tmp_path)
    assert [c["seed"] for c in made["cameras"]] == made["seeds"] and made["with"] is None
    assert len(made["seeds"]) == bench_depth.CAMERAS
