# SPDX-License-Identifier: Apache-2.0
"""The view along the trajectories: what passes the planned axis shows where it passes it, and a tile
whose level is not tracked shows its reason and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rod_bending_ar import bulls_eye
from rod_bending_ar.bulls_eye import REACH_M, TILE_PX, WORDS_PX, bulls_eyes
from rod_bending_ar.core.extras import Extras, PlacedScrew, ToolAxis
from rod_bending_ar.core.marks import PLACED
from spine_nav_common.core.types import (
    Case,
    LevelEstimate,
    Mesh,
    NavigationResult,
    Rejected,
    ScrewPlan,
    Status,
)

STAMP = 5_000_000_000
PLAN = tuple(
    ScrewPlan("L3", side, np.array([x, 0.03, 0.0]), np.array([x, -0.02, 0.0]))
    for side, x in (("left", 0.015), ("right", -0.015))
)
CASE = Case("t", "LPS", {"L3": Mesh(np.zeros((3, 3)), np.zeros((0, 3), int))}, ("L3",), PLAN, "")
OUT = np.array([0.0, 1.0, 0.0])
ZOOM = 0.5 * TILE_PX / REACH_M


def result(status=Status.TRACKED, stamp=STAMP) -> NavigationResult:
    held = status is Status.TRACKED
    level = LevelEstimate(
        "L3", status, np.eye(4) if held else None, predicted_tre_mm=1.0 if held else None,
        reason="" if held else "a hand covers it",
    )  # fmt: skip
    return NavigationResult(stamp, (level,))


def screw(x_mm: float, z_mm: float) -> Extras:
    """The left screw, aside of its plan: to the patient's left, and to the head."""
    head = PLAN[0].entry_m + (1e-3 * x_mm, 0.012, 1e-3 * z_mm)
    return Extras(screws=(PlacedScrew("L3", "left", head, OUT, 1.0, STAMP, Rejected("x")),))


def middle_of(picture: np.ndarray, colour) -> np.ndarray:
    """Mean place (x, y) of a colour."""
    rows, columns = np.nonzero(np.abs(picture.astype(int) - colour).max(axis=2) < 30)
    assert len(rows) > 10
    return np.array([columns.mean(), rows.mean()])


@pytest.mark.parametrize(("x_mm", "z_mm"), [(4.0, 0.0), (-4.0, 0.0), (0.0, 4.0), (3.0, -5.0)])
def test_a_screw_stands_where_its_axis_passes_the_plan(x_mm, z_mm):
    seen = middle_of(bulls_eyes(CASE, result(), screw(x_mm, z_mm)), PLACED)
    # looked at from behind, the patient's left is on the left and the head is up
    expected = 0.5 * TILE_PX + ZOOM * 1e-3 * np.array([-x_mm, -z_mm])
    assert np.abs(seen - expected).max() < 4.0


def test_each_side_has_its_own_tile():
    picture = bulls_eyes(CASE, result(), screw(0.0, 0.0))
    assert picture.shape[1] == 2 * TILE_PX
    bare = bulls_eyes(CASE, result())
    changed = (picture != bare).any(axis=2)
    assert changed[:, :TILE_PX].any() and not changed[:, TILE_PX:].any()


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.TRACKED])
def test_without_a_tracked_level_nothing_but_its_reason_is_there(status):
    lost = bulls_eyes(CASE, result(status), screw(0.0, 0.0))
    assert np.array_equal(lost, bulls_eyes(CASE, result(status)))
    assert (lost[44:70, 5:200] != lost[0, 120]).any(), "the reason"
    live = bulls_eyes(CASE, result())
    half = TILE_PX // 2
    assert (live[half, half] != lost[half - 30, half]).any()


def test_a_tool_that_is_too_old_or_aims_elsewhere_is_not_in_the_tile():
    tool = ToolAxis("L3", PLAN[0].entry_m + (0.001, 0.0, 0.0), OUT, 0.8, STAMP, 1.5, 2.0)
    bare = bulls_eyes(CASE, result(), Extras())
    shown = bulls_eyes(CASE, result(), Extras(tool=tool))
    assert (shown[:, :TILE_PX] != bare[:, :TILE_PX]).any()
    assert np.array_equal(shown[:, TILE_PX:], bare[:, TILE_PX:])
    old = replace(tool, stamp_ns=STAMP - 151_000_000)
    assert np.array_equal(bulls_eyes(CASE, result(), Extras(tool=old)), bare)


def test_without_a_result_every_tile_says_why():
    one, other = (bulls_eyes(CASE, None, why=w) for w in ("no poses", "the navigation is silent"))
    assert one.shape == other.shape and not np.array_equal(one, other)


def test_no_word_is_smaller_than_what_is_read_at_two_metres(monkeypatch):
    sizes = []

    def spy(draw, at):
        def drawn(*given):
            sizes.append(given[at])
            return draw(*given)

        return drawn

    monkeypatch.setattr(bulls_eye, "draw_text", spy(bulls_eye.draw_text, 4))
    monkeypatch.setattr(bulls_eye, "note", spy(bulls_eye.note, 3))
    tool = ToolAxis("L3", PLAN[0].entry_m + (0.001, 0.0, 0.0), OUT, 0.8, STAMP, 1.5, 2.0)
    bulls_eyes(CASE, result(), Extras(tool=tool))
    bulls_eyes(CASE, result(Status.LOST))
    assert sizes and min(sizes) == WORDS_PX
    long = replace(result(Status.LOST).levels[0], reason="words " * 60)
    tile = bulls_eyes(CASE, NavigationResult(STAMP, (long,)))[: TILE_PX - 1, : TILE_PX - 1]
    assert (tile[-8:] == tile[0, 120]).all() and (tile[:, -7:] == tile[0, 120]).all(), (
        "it stays inside"
    )
