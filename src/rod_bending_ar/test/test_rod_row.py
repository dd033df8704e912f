# SPDX-License-Identifier: Apache-2.0
"""Which screws belong to which rod, and everything that is no row of screws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rod_support import R_CAMERA_PATIENT, heads_mm, screw_rows

from spine_nav_common.core.errors import RodError
from spine_nav_common.core.implant_outputs import ScrewRow
from spine_nav_common.core.screw_rows import saddle_rows, select_stamp

FILE = "screws.csv"


def in_camera(points: np.ndarray) -> np.ndarray:
    return points @ R_CAMERA_PATIENT.T + (0.0, 0.0, 500.0)


def shuffled(rows: list[ScrewRow]) -> list[ScrewRow]:
    return [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]


@pytest.mark.parametrize("levels", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
def test_heads_in_any_order_come_out_caudal_first(levels: bool, labelled: bool) -> None:
    """From levels, from two labelled sides, or (with neither) from --cranial."""
    cranial = None if levels or labelled else "up"
    rows = shuffled(screw_rows(levels=levels, labelled=labelled))
    left, right = saddle_rows(rows, FILE, cranial=cranial)
    assert (left.side, right.side) == ("left", "right")
    assert np.allclose(left.saddles_mm, in_camera(heads_mm("left")))
    assert np.allclose(right.saddles_mm, in_camera(heads_mm("right")))


@pytest.mark.parametrize("degrees", [0.0, 40.0, 90.0, 180.0])
def test_any_roll_of_the_camera_gives_the_same_sides(degrees: float) -> None:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    roll = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    rows = [
        replace(r, head_m=roll @ r.head_m, axis=roll @ r.axis) for r in screw_rows(labelled=False)
    ]
    left, right = saddle_rows(rows, FILE)
    assert left.ids == (0, 1, 2, 3, 4)
    assert right.ids == (5, 6, 7, 8, 9)


def test_cranial_turns_the_row_and_swaps_the_sides() -> None:
    rows = screw_rows(levels=False, labelled=False)
    up_left, _ = saddle_rows(rows, FILE, cranial="up")
    _, down_right = saddle_rows(rows, FILE, cranial="down")
    assert up_left.ids == down_right.ids[::-1]


def test_one_side_alone_with_levels_is_enough() -> None:
    (left,) = saddle_rows(screw_rows(sides=("left",)), FILE, side="left")
    assert left.ids == (0, 1, 2, 3, 4)


def test_sides_of_unequal_length_without_levels() -> None:
    """Their centres lie far apart along the spine, which must not turn the direction."""
    rows = [r for r in screw_rows(levels=False) if r.side == "left" or r.track_id in (5, 6)]
    left, right = saddle_rows(rows, FILE)
    assert left.ids == (0, 1, 2, 3, 4)
    assert right.ids == (5, 6)


@pytest.mark.parametrize("degrees", [-44.0, 44.0])
def test_cranial_is_enough_where_the_camera_is_rolled(degrees: float) -> None:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    roll = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    rows = [
        replace(r, head_m=roll @ r.head_m, axis=roll @ r.axis)
        for r in screw_rows(levels=False, labelled=False)
    ]
    left, right = saddle_rows(rows, FILE, cranial="up")
    assert left.ids == (0, 1, 2, 3, 4)
    assert right.ids == (5, 6, 7, 8, 9)


def refusal(rows: list[ScrewRow], **options: str | None) -> str:
    with pytest.raises(RodError) as caught:
        saddle_rows(rows, FILE, **options)
    assert caught.value.file == FILE
    assert caught.value.remedy
    return str(caught.value)


def test_no_screw_is_refused() -> None:
    assert "holds no screw" in refusal([])
    with pytest.raises(RodError, match="holds no screw"):
        select_stamp([], "last", FILE)


def test_one_screw_is_refused() -> None:
    rows = [r for r in screw_rows() if r.side == "left" or r.level == "L4"]
    assert "side right: it has one screw" in refusal(rows)
    assert saddle_rows(rows, FILE, side="left")  # the remedy works


def test_a_single_head_is_refused() -> None:
    assert "show the heads of both sides" in refusal(screw_rows()[:1])
    assert "one screw" in refusal(screw_rows()[:1], side="left", cranial="up")


def test_side_without_screws_is_refused() -> None:
    assert "side right: it has no screw" in refusal(screw_rows(sides=("left",)), side="right")


@pytest.mark.parametrize("side", ["lef", "LEFT", "both"])
def test_unknown_side_is_refused(side: str) -> None:
    assert "give left or right" in refusal(screw_rows(), side=side)


def test_unknown_side_in_the_file_is_refused() -> None:
    rows = [replace(r, side="L") for r in screw_rows()]
    assert "track_id 0: side: 'L' is no side" in refusal(rows)


def test_an_unknown_direction_is_asked_for_in_words_of_the_table() -> None:
    for rows in (
        screw_rows(levels=False, labelled=False),
        screw_rows(sides=("left",), levels=False),
    ):
        text = refusal(rows)
        assert "where the patient's head lies" in text and "--" not in text
    assert "give left, right, up or down" in refusal(screw_rows(), cranial="north")


def test_direction_that_contradicts_levels_is_refused() -> None:
    assert "contradict each other" in refusal(screw_rows(), cranial="down")


def test_sides_swapped_against_levels_are_refused() -> None:
    other = {"left": "right", "right": "left"}
    assert "contradict each other" in refusal(
        [replace(r, side=other[r.side]) for r in screw_rows()]
    )


def test_empty_sides_that_do_not_part_are_refused() -> None:
    one_row = [replace(r, side="") for r in screw_rows(sides=("left",))]
    assert "do not part into two rows" in refusal(one_row)


def unnamed(rows: list[ScrewRow], level: str) -> list[ScrewRow]:
    """As the heads of a level are that is not tracked."""
    return [replace(r, level="", side="") if r.level == level else r for r in rows]


def test_heads_of_a_level_that_is_not_tracked_lie_in_their_row_all_the_same() -> None:
    rows = screw_rows()
    for level in {r.level for r in rows}:
        left, right = saddle_rows(shuffled(unnamed(rows, level)), FILE)
        assert np.allclose(left.saddles_mm, in_camera(heads_mm("left")))
        assert np.allclose(right.saddles_mm, in_camera(heads_mm("right")))


def test_a_name_that_contradicts_the_rows_is_refused_where_others_have_none() -> None:
    rows = screw_rows()
    other = {"left": "right", "right": "left"}
    wrong = replace(rows[4], side=other[rows[4].side])
    assert "lies in the" in refusal(unnamed([*rows[:4], wrong, *rows[5:]], rows[0].level))


def test_both_sides_merged_are_refused_by_level() -> None:
    rows = [replace(r, side="left") for r in screw_rows()]
    assert "both sides merged" in refusal(rows)


@pytest.mark.parametrize("stagger_mm", [0.0, 16.0])
def test_both_sides_merged_are_refused_by_position(stagger_mm: float) -> None:
    rows = [replace(r, side="left") for r in screw_rows(levels=False)]
    moved = R_CAMERA_PATIENT @ (0.0, 0.0, stagger_mm / 1e3)
    rows = rows[:5] + [replace(r, head_m=r.head_m + moved) for r in rows[5:]]
    assert "both sides merged" in refusal(rows, cranial="up")


def test_two_levels_merged_are_refused() -> None:
    """Wider than long: the longest extent of the heads is not the spine."""
    rows = [replace(r, side="left") for r in screw_rows(levels=False) if r.track_id % 5 < 2]
    assert "both sides merged" in refusal(rows, cranial="up")


def test_duplicate_ids_are_refused() -> None:
    rows = screw_rows()
    assert "2 appears twice" in refusal([*rows, replace(rows[2], head_m=rows[2].head_m + 0.2)])


def test_same_head_twice_is_refused() -> None:
    rows = screw_rows(levels=False)
    again = replace(rows[2], track_id=77, head_m=rows[2].head_m + 0.002)
    assert "duplicate" in refusal([*rows, again])


@pytest.mark.parametrize("field", ["head_m", "axis"])
def test_numbers_that_are_not_finite_are_refused(field: str) -> None:
    rows = screw_rows()
    bad = replace(rows[1], **{field: np.array([0.0, np.nan, 1.0])})
    assert "not finite" in refusal([rows[0], bad, *rows[2:]])


def test_axis_that_is_no_direction_is_refused() -> None:
    rows = screw_rows()
    assert "no unit vector" in refusal([replace(rows[0], axis=np.zeros(3)), *rows[1:]])


def test_levels_out_of_order_are_refused() -> None:
    rows = screw_rows(sides=("left",))
    swapped = [*rows[:2], replace(rows[2], level="L3"), replace(rows[3], level="L4"), rows[4]]
    assert "do not follow each other" in refusal(swapped)


def test_unknown_level_is_refused() -> None:
    rows = screw_rows()
    assert "'C7' is no level" in refusal([replace(rows[0], level="C7"), *rows[1:]])


def test_stamp_selects_a_frame() -> None:
    rows = screw_rows(stamp_ns=100) + screw_rows(stamp_ns=200)
    assert {r.stamp_ns for r in select_stamp(rows, "last", FILE)} == {200}
    assert {r.stamp_ns for r in select_stamp(rows, "100", FILE)} == {100}
    with pytest.raises(RodError, match="100 to 200"):
        select_stamp(rows, "150", FILE)
    with pytest.raises(RodError, match="is no stamp"):
        select_stamp(rows, "newest", FILE)
