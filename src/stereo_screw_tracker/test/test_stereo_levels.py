# SPDX-License-Identifier: Apache-2.0
"""Levels by count: only where every row fits the exposed levels, and remembered by track."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spine_nav_common.core.types import Head3D, ScrewTrack, StereoResult
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
