# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest

from spine_nav_common.core.geometry import exp_se3
from spine_nav_common.core.truth import (
    Truth,
    TruthError,
    TruthFrame,
    TruthRod,
    TruthScrew,
    load_truth,
    write_truth,
)


@pytest.fixture
def truth(case) -> Truth:
    T = exp_se3(np.array([0.1, 0.0, 0.5, 2.0, 0.1, 0.2]))
    frames = {s: TruthFrame(s, {"L1": T, "L2": T}, {"L1": 12}) for s in (10, 20)}
    screw = TruthScrew(10, 0, "L1", "left", np.array([0, 0, 0.4]), np.array([0, 0, -1.0]), 90)
    line = np.array([[0, 0, 0.4], [0.03, 0, 0.4]])
    rod = TruthRod(10, "left", line, np.array([True, False]))
    return Truth(("L1", "L2"), ("L1",), case.plan, frames, (screw,), (rod,))


def test_round_trip(tmp_path, truth):
    write_truth(tmp_path / "truth.json", truth)
    back = load_truth(tmp_path / "truth.json")
    assert (back.levels, back.exposed, list(back.frames)) == (("L1", "L2"), ("L1",), [10, 20])
    np.testing.assert_array_equal(
        back.frames[20].T_camera_ct["L2"], truth.frames[20].T_camera_ct["L2"]
    )
    assert back.frames[10].visible_px == {"L1": 12}
    np.testing.assert_allclose(back.plan[0].entry_m, truth.plan[0].entry_m, atol=1e-12)
    np.testing.assert_array_equal(back.screws[0].axis, truth.screws[0].axis)
    np.testing.assert_array_equal(back.rods[0].centreline_m, truth.rods[0].centreline_m)
    np.testing.assert_array_equal(back.rods[0].seen, truth.rods[0].seen)


def test_only_levels_and_frames_are_needed(tmp_path):
    document = {"levels": ["L1"], "frames": [], "bumped": None, "plan": None}
    (tmp_path / "truth.json").write_text(json.dumps(document))
    truth = load_truth(tmp_path / "truth.json")
    assert truth.exposed == ("L1",)
    assert truth.screws == ()


def _set(path: list, value):
    def change(document: dict) -> None:
        target = document
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("levels"), "levels"),
        (lambda d: d.pop("frames"), "frames"),
        (_set(["levels"], ["L9"]), "L9"),
        (_set(["frames", 1, "stamp_ns"], 10), "twice"),
        (_set(["frames", 1, "T_camera_ct_m", "L1"], [[1, 0], [0, 1]]), r"frames\[1\].*shape"),
        (_set(["frames", 0, "T_camera_ct_m", "L1", 0, 0], 3.0), r"frames\[0\].*orthonormal"),
        (_set(["frames", 0, "T_camera_ct_m"], None), r"frames\[0\]"),
        (_set(["screws", 0, "head_camera_m"], [1, 2]), r"screws\[0\]"),
        (_set(["rods", 0, "centreline_camera_m"], [[0, 0, float("nan")]]), r"rods\[0\]"),
        (_set(["rods", 0, "seen"], [True]), r"rods\[0\]"),
        (_set(["plan", "L1_middle"], {}), "plan"),
    ],
)
def test_damaged_truth_is_refused(tmp_path, truth, change, words):
    file = tmp_path / "truth.json"
    write_truth(file, truth)
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    with pytest.raises(TruthError, match=words):
        load_truth(file)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_no_truth(tmp_path, text):
    (tmp_path / "truth.json").write_text(text)
    with pytest.raises(TruthError, match="spinenav simulate"):
        load_truth(tmp_path / "truth.json")
