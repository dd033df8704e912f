# SPDX-License-Identifier: Apache-2.0
"""Levels by count: only where every row fits the exposed levels, and remembered by track."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spine_nav_common.core.types import Case, Head3D, Mesh, ScrewPlan, ScrewTrack, StereoResult
from stereo_screw_tracker.core.levels import LevelNames

EXPOSED = ("L3", "L4", "L5")


def result(per_side: dict[str, int], stamp_ns: int = 1) -> StereoResult:
    """Rows of heads, head up in the image, cranial first; ids count on."""
    tracks = []
    for side, x in (("left", -0.02), ("right", 0.02)):
        for i in range(per_side.get(side, 0)):
            point = np.array([x, -0.03 + 0.033 * i, 0.5])
            axis = np.array([0.0, 0.0, -1.0])
            head = Head3D(point, np.eye(3) * 1e-8, axis, 0.03, 0.9, 0.1)
            tracks.append(ScrewTrack(len(tracks), head, 1.0, "", side))
    return StereoResult(stamp_ns, tuple(tracks), (), {})


def levels(named: StereoResult) -> list[str]:
    return [s.level for s in named.screws]


def test_as_many_heads_as_levels_are_named_from_cranial_to_caudal():
    assert levels(LevelNames(EXPOSED).name(result({"left": 3, "right": 3}))) == [*EXPOSED, *EXPOSED]


def test_the_order_of_the_case_does_not_matter():
    assert levels(LevelNames(EXPOSED[::-1]).name(result({"left": 3, "right": 3})))[0] == "L3"


@pytest.mark.parametrize("sides", [{"left": 2, "right": 3}, {"left": 2, "right": 2},
                                   {"left": 4, "right": 4}, {"left": 3, "right": 4}])  # fmt: skip
def test_another_count_names_nothing(sides):
    assert set(levels(LevelNames(EXPOSED).name(result(sides)))) == {""}


def test_one_row_alone_has_no_direction_and_no_names():
    assert set(levels(LevelNames(EXPOSED).name(result({"left": 3})))) == {""}


def test_a_missing_head_leaves_the_others_their_names():
    names = LevelNames(EXPOSED)
    whole = result({"left": 3, "right": 3})
    names.name(whole)
    part = replace(whole, screws=whole.screws[1:])
    assert levels(names.name(part)) == [*EXPOSED[1:], *EXPOSED]


def test_a_head_too_many_forgets_the_names():
    names = LevelNames(EXPOSED)
    names.name(result({"left": 3, "right": 3}))
    assert set(levels(names.name(result({"left": 4, "right": 3})))) == {""}


def test_levels_from_registered_vertebrae_stay():
    whole = result({"left": 3, "right": 3})
    told = replace(whole, screws=tuple(replace(s, level="T12") for s in whole.screws))
    assert set(levels(LevelNames(EXPOSED).name(told))) == {"T12"}


def test_without_a_case_nothing_is_named():
    assert set(levels(LevelNames(()).name(result({"left": 3, "right": 3})))) == {""}


# -- rows that count right and are wrong

FOUR = ("L1", "L2", "L3", "L4")
STEP = 0.034


def rows(left, right) -> StereoResult:
    """Heads at these numbers of steps caudal of the first level, head up in the image."""
    tracks = []
    for side, x, places in (("left", -0.018, left), ("right", 0.018, right)):
        for place in places:
            point = np.array([x, -0.05 + STEP * place, 0.5])
            head = Head3D(point, np.eye(3) * 1e-6, np.array([0, 0, -1.0]), 0.05, 0.9, 0.0)
            tracks.append(ScrewTrack(len(tracks), head, 1.5, "", side))
    return StereoResult(1, tuple(tracks), (), {})


def case_of(steps=(1.0, 1.0, 1.0), plan: bool = True, tilt_m: float = 0.0) -> Case:
    """Vertebrae these steps apart, LPS; tilt_m: the left entries lie that much higher."""
    z = -STEP * np.concatenate([[0.0], np.cumsum(steps)])
    box = np.array([[x, y, h] for x in (-0.03, 0.03) for y in (-0.03, 0.03) for h in (-0.01, 0.01)])
    faces = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
                      [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]], np.int32)  # fmt: skip
    meshes = {v: Mesh(box + (0, 0, h), faces) for v, h in zip(FOUR, z, strict=True)}
    lines = tuple(
        ScrewPlan(v, side, np.array([x, 0.03, h + up]), np.array([x, -0.01, h + up]))
        for v, h in zip(FOUR, z, strict=True)
        for side, x, up in (("left", 0.018, tilt_m), ("right", -0.018, 0.0))
    )
    return Case("steps", "LPS", meshes, FOUR, lines if plan else (), "")


RIGHT = (0, 1, 2, 3)
CASES = {"none": None, "plan": case_of(), "meshes": case_of(plan=False)}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_rows_that_lie_across_from_each_other_are_named(case):
    assert levels(LevelNames(FOUR, case).name(rows(RIGHT, RIGHT))) == [*FOUR, *FOUR]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize(
    "left",
    [(1, 2, 3, 4), (-1, 0, 1, 2), (0, 1, 3, 4), (-1, 0, 2, 3), (0, 1, 2, 2.5), (0.5, 1, 2, 3)],
    ids=str,
)
@pytest.mark.parametrize("swap", [False, True])
def test_a_missed_head_and_a_ghost_name_nothing(case, left, swap):
    both = (RIGHT, left) if swap else (left, RIGHT)
    assert set(levels(LevelNames(FOUR, case).name(rows(*both)))) == {""}


def test_rows_that_agree_with_each_other_but_not_with_the_case_name_nothing():
    """The same head missed and the same ghost seen in both rows: a step twice as long as the CT's."""
    gone = (0, 1, 3, 4)
    assert levels(LevelNames(FOUR).name(rows(gone, gone)))[0] == "L1"  # nothing else to tell it
    for case in (case_of(), case_of(plan=False)):
        assert set(levels(LevelNames(FOUR, case).name(rows(gone, gone)))) == {""}
    uneven = case_of(steps=(1.0, 2.0, 1.0))
    assert levels(LevelNames(FOUR, uneven).name(rows(gone, gone))) == [*FOUR, *FOUR]


def test_a_bent_spine_and_tilted_vertebrae_are_still_named():
    named = LevelNames(FOUR, case_of()).name(rows((0.2, 1.0, 1.9, 2.8), (0, 1, 2, 3)))
    assert levels(named) == [*FOUR, *FOUR]
    # half a step of tilt is in doubt by itself, and plain where the plan has it too
    tilted = rows((-0.5, 0.5, 1.5, 2.5), RIGHT)
    assert set(levels(LevelNames(FOUR, case_of()).name(tilted))) == {""}
    plan = case_of(tilt_m=0.5 * STEP)
    assert levels(LevelNames(FOUR, plan).name(tilted)) == [*FOUR, *FOUR]


def test_rows_that_contradict_each_other_forget_the_names():
    names = LevelNames(FOUR, case_of())
    assert levels(names.name(rows(RIGHT, RIGHT)))[0] == "L1"
    assert set(levels(names.name(rows((1, 2, 3, 4), RIGHT)))) == {""}
