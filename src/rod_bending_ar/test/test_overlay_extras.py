# SPDX-License-Identifier: Apache-2.0
"""Screws, rods, bends and tools on the picture: each is there, and each goes with what it rests on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from rod_bending_ar.core.bender import bender_picture, parse_step, step_text
from rod_bending_ar.core.cortex import Margins
from rod_bending_ar.core.extras import (
    Extras,
    Moments,
    NextBend,
    PlacedScrew,
    ShownRod,
    ToolAxis,
    place_curve,
    place_screws,
    place_tool,
    tool_deviation,
    usable,
)
from rod_bending_ar.core.forward import BendStep
from rod_bending_ar.core.lens import as_lens
from rod_bending_ar.core.marks import (
    _ASIDE,
    _NEAR,
    BREACH,
    NARROW,
    SAFE,
    Sheet,
    _note_beyond,
    band,
    tool_words,
)
from rod_bending_ar.core.marks import TOOL as TOOL_INK
from rod_bending_ar.core.paint import covers
from rod_bending_ar.overlay import draw_overlay
from spine_nav_common.core.implant_outputs import ScrewRow
from spine_nav_common.core.types import (
    Case,
    Intrinsics,
    LevelEstimate,
    Mesh,
    NavigationResult,
    Rejected,
    ScrewPlan,
    Status,
)

K = Intrinsics(640, 480, 600.0, 600.0, 320.0, 240.0)
GREY = np.full((480, 640, 3), 90, np.uint8)
STAMP = 5_000_000_000
MS = 1_000_000


def bone(z_m: float) -> Mesh:
    """A vertebra-sized block, 16 mm of bone about either planned screw."""
    shape = trimesh.creation.box((0.06, 0.06, 0.024)).subdivide().subdivide()
    return Mesh(np.asarray(shape.vertices, float) + (0, 0, z_m), np.asarray(shape.faces, np.int32))


def lines(level: str, z_m: float) -> list[ScrewPlan]:
    return [
        ScrewPlan(level, side, np.array([x, 0.030, z_m]), np.array([x, -0.015, z_m]))
        for side, x in (("left", 0.016), ("right", -0.016))
    ]


CASE = Case(
    "t", "LPS", {"L3": bone(0.02), "L4": bone(-0.02)}, ("L3", "L4"),
    tuple(lines("L3", 0.02) + lines("L4", -0.02)), "",
)  # fmt: skip
PLANS = {(p.level, p.side): p for p in CASE.plan}
MARGINS = Margins(CASE)
# looked at from behind: the camera's z runs from the back into the bone, its x to the right
T = np.eye(4)
T[:3, :3] = np.array([[1.0, 0, 0], [0, 0, -1], [0, -1, 0]]) @ np.diag([1.0, 1.0, 1.0])
T[:3, 3] = (0.0, 0.0, 0.5)
SHIFT = np.eye(4)
SHIFT[0, 3] = 0.06  # the stereo camera's frame, 60 mm to the right


def result(l3=Status.TRACKED, l4=Status.TRACKED, stamp=STAMP) -> NavigationResult:
    def level(name, status):
        held = status in (Status.TRACKED, Status.OCCLUDED)
        return LevelEstimate(
            name, status, T if held else None, predicted_tre_mm=1.0 if held else None
        )

    return NavigationResult(stamp, (level("L3", l3), level("L4", l4)))


def row(level="L3", side="left", x_mm=1.0, stamp=STAMP) -> ScrewRow:
    plan = PLANS[level, side]
    head = plan.entry_m + (1e-3 * x_mm, 0.012, 0.0)
    T_stereo = np.linalg.inv(SHIFT) @ T
    at = T_stereo[:3, :3] @ head + T_stereo[:3, 3]
    out = T_stereo[:3, :3] @ (0.0, 1.0, 0.0)
    return ScrewRow(stamp, 3, at, out, 0.9, 1.0, level, side, True)


def placed(**named) -> PlacedScrew:
    found, notes = place_screws((row(**named),), result(), SHIFT, PLANS, MARGINS, play_deg=0.0)
    assert not notes
    return found[0]


def rod(planned=False, stamp=STAMP) -> ShownRod:
    z = np.linspace(-0.03, 0.03, 60)
    curve = np.stack([np.full(60, 0.016), np.full(60, 0.045), z], axis=1)
    return ShownRod("L3", curve, planned, stamp)


BEND = NextBend("left", "planned", "", BendStep(2, 61.5, -35.0, 18.0, 20.4), 3, STAMP)
TOOL = ToolAxis(
    "L3", np.array([0.017, 0.031, 0.02]), np.array([0.0, 1.0, 0.0]), 0.8, STAMP, 1.5, 2.0
)
ALL = Extras(MARGINS, (placed(),), (rod(), rod(True)), (BEND,), TOOL)


def draw(extras=None, res=None, **named) -> np.ndarray:
    return draw_overlay(GREY, K, CASE, res or result(), extras=extras, **named)


def test_a_placed_screw_is_compared_where_its_vertebra_is():
    screw = placed(x_mm=1.5)
    assert screw.check.entry_mm == pytest.approx(1.5, abs=1e-6)
    np.testing.assert_allclose(screw.head_m, PLANS["L3", "left"].entry_m + (0.0015, 0.012, 0))


@pytest.mark.parametrize(
    "one",
    [
        {"screws": ALL.screws},
        {"rods": ALL.rods[:1]},
        {"rods": ALL.rods[1:]},
        {"bends": ALL.bends},
        {"tool": TOOL},
        {"margins": MARGINS},
        {"notes": ("rod: nothing is known of it",)},
    ],
    ids=lambda one: next(iter(one)),
)
def test_each_of_them_stands_on_the_picture(one):
    bare = draw()
    changed = (draw(Extras(**one)) != bare).any(axis=2)
    assert changed.sum() > 40


STALE = {
    "screws": (1001, lambda e, s: replace(e, screws=(replace(e.screws[0], stamp_ns=s),))),
    "rods": (1001, lambda e, s: replace(e, rods=(rod(stamp=s),))),
    "bends": (3001, lambda e, s: replace(e, bends=(replace(BEND, stamp_ns=s),))),
    "tool": (151, lambda e, s: replace(e, tool=replace(TOOL, stamp_ns=s))),
}


@pytest.mark.parametrize("name", STALE)
@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_too_old_goes_and_says_so(name, sign):
    age_ms, change = STALE[name]
    young = usable(change(ALL, STAMP - sign * (age_ms - 2) * MS), result())
    assert getattr(young, name)
    old = usable(change(ALL, STAMP - sign * age_ms * MS), result())
    assert not getattr(old, name)
    assert any(f"{age_ms} ms before" in n for n in old.notes)


@pytest.mark.parametrize(
    "status", [Status.OCCLUDED, Status.LOST, Status.SEARCHING, Status.REGISTERING, Status.REJECTED]
)
def test_what_rests_on_a_level_goes_with_it(status):
    left = usable(ALL, result(l3=status))
    assert not left.screws and not left.rods and left.tool is None
    assert sum("L3 is not tracked" in n for n in left.notes) == 3, "screw, rod, tool"
    # and nothing of it is on the picture, whatever is handed to the drawing
    bare = draw(Extras(notes=left.notes), result(l3=status))
    shown = draw(replace(ALL, margins=None, bends=()), result(l3=status))
    assert np.array_equal(bare, shown)


def test_a_margin_goes_with_its_level_and_with_its_predicted_error():
    only = Extras(MARGINS)
    both, one = draw(only), draw(only, result(l4=Status.LOST))
    assert any(colours(both, c) for c in (SAFE, NARROW, BREACH))
    assert colours(one[:, 330:], SAFE) < colours(both[:, 330:], SAFE) or not np.array_equal(
        both, one
    )
    unknown = result()
    levels = tuple(replace(e, predicted_tre_mm=None) for e in unknown.levels)
    body = draw(only, replace(unknown, levels=levels))[60:380, 60:]
    assert not colours(body, SAFE) and not colours(body, NARROW) and not colours(body, BREACH)


def colours(picture: np.ndarray, colour) -> int:
    return int((np.abs(picture.astype(int) - np.array(colour)).max(axis=2) < 12).sum())


def test_what_is_known_too_badly_is_not_drawn():
    vague = replace(ALL.screws[0], bound95_mm=5.1)
    left = usable(replace(ALL, screws=(vague,), tool=replace(TOOL, bound95_mm=2.6)), result())
    assert not left.screws and left.tool is None
    assert sum("known within" in n for n in left.notes) == 2
    nan = usable(replace(ALL, screws=(replace(vague, bound95_mm=float("nan")),)), result())
    assert not nan.screws


def test_without_a_result_of_this_very_image_nothing_stands_there():
    for picture in (
        draw_overlay(GREY, K, CASE, None, extras=ALL),
        draw(ALL, stamp_ns=STAMP + 66 * MS),
    ):
        assert (picture[60:430] == 90).all()


def test_a_hand_before_a_screw_covers_it():
    depth = np.full((480, 640), 0.35, np.float32)
    extras = Extras(None, ALL.screws, ALL.rods)
    bare = draw_overlay(GREY, K, replace(CASE, plan=()), result(), depth)
    covered = draw_overlay(GREY, K, replace(CASE, plan=()), result(), depth, extras=extras)
    assert np.array_equal(bare[60:400, :380], covered[60:400, :380])


def test_screws_without_a_known_rig_or_moment_are_not_shown():
    for moment, rig, word in (
        (Rejected("no pose of the same moment"), SHIFT, "moment"),
        (result(), Rejected("no transform joins the cameras"), "transform"),
        (result(l3=Status.LOST), SHIFT, "not tracked"),
    ):
        found, notes = place_screws((row(),), moment, rig, PLANS, MARGINS)
        assert not found and word in notes[0]
    unnamed = replace(row(), level="")
    assert "no level" in place_screws((unnamed,), result(), SHIFT, PLANS, MARGINS)[1][0]


def test_moments_are_those_of_the_same_picture():
    moments = Moments()
    assert isinstance(moments.at(STAMP), Rejected)
    for k in range(5):
        moments.note(result(stamp=STAMP + 66 * k * MS))
    assert moments.at(STAMP + 140 * MS).stamp_ns == STAMP + 132 * MS
    assert isinstance(moments.at(STAMP + 400 * MS), Rejected)
    moments.note(result(stamp=STAMP - 10_000 * MS))  # a clock that was set back
    assert isinstance(moments.at(STAMP + 132 * MS), Rejected)


CENTRES = {v: CASE.plan_points_m(v).mean(axis=0) for v in CASE.exposed_levels}


def test_a_rod_moves_with_the_vertebra_that_it_lies_at():
    curve = rod().curve_m @ T[:3, :3].T + T[:3, 3] - SHIFT[:3, 3]
    found = place_curve(curve, False, STAMP, result(), SHIFT, {"L4": CENTRES["L4"]})
    assert found.level == "L4"
    np.testing.assert_allclose(found.curve_m, rod().curve_m, atol=1e-9)
    assert isinstance(place_curve(curve, False, STAMP, result(), Rejected("x"), CENTRES), Rejected)
    lost = result(Status.LOST, Status.LOST)
    assert isinstance(place_curve(curve, False, STAMP, lost, SHIFT, CENTRES), Rejected)


def tool_pose(x_mm=1.0, lean_deg=0.0) -> np.ndarray:
    """In the camera's frame; origin at the tip, z to the handle."""
    c, s = np.cos(np.radians(lean_deg)), np.sin(np.radians(lean_deg))
    at = PLANS["L3", "left"].entry_m + (1e-3 * x_mm, 0.0, 0.0)
    pose = np.eye(4)
    pose[:3, 2] = T[:3, :3] @ (s, c, 0.0)
    pose[:3, 0] = T[:3, :3] @ (c, -s, 0.0)
    pose[:3, 1] = np.cross(pose[:3, 2], pose[:3, 0])
    pose[:3, 3] = T[:3, :3] @ at + T[:3, 3]
    return pose


TURN = np.radians(0.5) ** 2 * np.eye(3)


def test_a_tool_is_measured_against_the_plan_that_it_is_at():
    tool = place_tool(tool_pose(1.5, 4.0), 0.8, TURN, STAMP, result(), CASE.plan)
    off = tool_deviation(tool, CASE.plan)
    assert (off.plan.level, off.plan.side) == ("L3", "left")
    assert off.angle_deg == pytest.approx(4.0, abs=1e-6)
    assert off.entry_mm == pytest.approx(1.5 * np.cos(np.radians(4.0)), abs=1e-6)
    assert off.tip_mm == pytest.approx(1.5, abs=1e-6) and off.depth_mm == pytest.approx(0, abs=1e-6)


def test_a_tools_number_errs_by_tip_and_bone_together():
    """The planned line is no better known than the vertebra that it is planned in."""
    now = result()
    levels = tuple(replace(e, predicted_tre_mm=2.4) for e in now.levels)
    tool = place_tool(tool_pose(1.5), 0.7, TURN, STAMP, replace(now, levels=levels), CASE.plan)
    assert "1.5 ± 2.5 mm" in tool_words(tool_deviation(tool, CASE.plan))
    levels = tuple(replace(e, predicted_tre_mm=None) for e in now.levels)
    unknown = place_tool(tool_pose(1.5), 0.7, TURN, STAMP, replace(now, levels=levels), CASE.plan)
    assert isinstance(unknown, Rejected)


def test_a_tools_angle_errs_by_its_own_direction_and_the_bones():
    def told(turn, covariance=None, bound_mm=1.0, tilt_deg=4.0, lift_mm=0.0):
        now = result()
        anchor = None if covariance is None else T[:3, 3]
        levels = tuple(
            replace(e, covariance=covariance, anchor_camera_m=anchor, predicted_tre_mm=bound_mm)
            for e in now.levels
        )
        pose = tool_pose(0.0, tilt_deg)
        pose[:3, 3] += 1e-3 * lift_mm * pose[:3, 2]
        tool = place_tool(pose, 0.6, turn, STAMP, replace(now, levels=levels), CASE.plan)
        return tool_deviation(tool, CASE.plan)

    def bone(rad2):
        return np.diag([1e-8, 1e-8, 1e-8, *rad2])

    known = bone([1e-12] * 3)
    one = told(np.radians(1.0) ** 2 * np.eye(3), known)
    assert one.angle95_deg == pytest.approx(2.4477, rel=1e-2)
    assert "4.0 ± 2.4°" in tool_words(one)
    both = told(np.radians(1.0) ** 2 * np.eye(3), bone(np.radians([1.0] * 3) ** 2))
    assert both.angle95_deg == pytest.approx(2.4477 * np.sqrt(2.0), rel=1e-2)
    # about its own axis (the camera's z, nearly) a tool turns without pointing elsewhere
    spun = told(np.diag([1e-8, 1e-8, np.radians(10.0) ** 2]), known, tilt_deg=0.0)
    assert spun.angle95_deg < 0.1
    # in the worst direction, not in the mean
    worst = told(np.radians([1.0, 3.0, 1.0]) ** 2 * np.eye(3), known, tilt_deg=0.0)
    assert worst.angle95_deg == pytest.approx(2.4477 * 3.0, rel=1e-2)
    # a bone of which no covariance is heard turns by as much as its bound leaves room for
    for bad in (None, np.zeros((6, 6)), np.full((6, 6), np.nan), -np.eye(6)):
        alone = told(1e-12 * np.eye(3), bad, bound_mm=1.8)
        assert alone.angle95_deg == pytest.approx(np.degrees(2 * 1.8 / 45.0), rel=1e-2)
    # far from the entry the axis passes it as badly known as its direction is
    near = told(np.radians(1.0) ** 2 * np.eye(3), known, 0.8)
    far = told(np.radians(1.0) ** 2 * np.eye(3), known, 0.8, lift_mm=40.0)
    assert near.entry95_mm == pytest.approx(1.0, rel=1e-2)
    assert far.entry95_mm == pytest.approx(
        np.hypot(1.0, 40.0 * np.tan(np.radians(2.4477))), rel=0.05
    )


NO_TURN = [
    np.zeros((3, 3)),
    np.full((3, 3), np.nan),
    np.diag([1e-4, -1e-4, 1e-4]),
    np.diag([np.inf] * 3),
]


@pytest.mark.parametrize("turn", NO_TURN, ids=["zero", "NaN", "not positive", "infinite"])
def test_a_tool_that_does_not_state_how_well_its_direction_is_known_is_refused(turn):
    found = place_tool(tool_pose(), 0.8, turn, STAMP, result(), CASE.plan)
    assert isinstance(found, Rejected) and "direction" in found.reason


def test_a_tool_on_a_level_that_is_lost_is_told_against_no_neighbour():
    there = place_tool(tool_pose(1.5), 0.7, TURN, STAMP, result(), CASE.plan)
    now = result()
    lost = tuple(
        replace(e, status=Status.LOST, T_camera_ct=None) if e.level == there.level else e
        for e in now.levels
    )
    assert any(e.status is Status.TRACKED for e in lost)
    found = place_tool(tool_pose(1.5), 0.7, TURN, STAMP, replace(now, levels=lost), CASE.plan)
    assert isinstance(found, Rejected) and "no tracked plan is near" in found.reason


@pytest.mark.parametrize("bound", [0.0, float("nan"), float("inf"), -1.0])
def test_a_tool_that_states_no_uncertainty_is_refused(bound):
    found = place_tool(tool_pose(), bound, TURN, STAMP, result(), CASE.plan)
    assert isinstance(found, Rejected) and "uncertainty" in found.reason


def test_a_tool_without_a_tracked_plan_is_refused():
    lost = result(Status.LOST, Status.LOST)
    assert isinstance(place_tool(tool_pose(), 0.8, TURN, STAMP, lost, CASE.plan), Rejected)
    assert isinstance(
        place_tool(tool_pose(), 0.8, TURN, STAMP, Rejected("late"), CASE.plan), Rejected
    )


def test_colours_are_told_apart_by_the_margin():
    assert [band(m) for m in (2.0, 1.99, 0.0, -0.01)] == [SAFE, NARROW, NARROW, BREACH]


def test_a_step_survives_its_words():
    step = parse_step(step_text(BEND.step))
    assert (step.n, step.feed_mm, step.rotate_deg, step.bend_set_deg) == (2, 61.5, -35.0, 20.4)
    for wrong in ("", "next: bend", "2: feed x mm, rotate 1.0 deg, bend to 2.0 deg"):
        with pytest.raises(ValueError, match="is no bend"):
            parse_step(wrong)


def test_the_benders_picture_shows_every_number_of_the_step():
    def picture(**change):
        return bender_picture(replace(BEND.step, **change), "left", 3, (380, 170), 2)

    same = picture()
    assert same.shape == (170, 380, 3) and picture() is same
    for change in ({"feed_mm": 10.0}, {"rotate_deg": 90.0}, {"bend_set_deg": 40.0}, {"n": 3}):
        assert not np.array_equal(picture(**change), same)


def test_no_number_and_no_tool_is_written_over_a_level_or_over_each_other():
    picture = np.zeros((480, 640, 3), np.uint8)
    sheet = Sheet(picture, as_lens(Intrinsics(640, 480, 600.0, 600.0, 320.0, 240.0)), 1, 1)
    label = (330, 100, 80, 60)  # where the words beyond the handle would stand
    taken = [label]
    for _ in range(3):
        _note_beyond(sheet, "tool 1.2 mm off", (300.0, 130.0), (1.0, 0.0), TOOL_INK, taken, _ASIDE)
    _note_beyond(sheet, "1.1", (320.0, 130.0), (1.0, 0.0), TOOL_INK, taken, _NEAR)
    assert len(taken) == 5
    assert not any(covers(a, b) for i, a in enumerate(taken) for b in taken[:i])
    x, y, w, h = label
    assert not picture[y : y + h, x : x + w].any(), "the level's label is untouched"
    number = taken[-1]
    assert abs(number[0] - 320) < 60 and abs(number[1] - 130) < 60, "a number stays at its screw"
    crowded = [(0, 0, 640, 480)]
    _note_beyond(sheet, "1.1", (320.0, 130.0), (1.0, 0.0), TOOL_INK, crowded, _NEAR)
    assert crowded == [(0, 0, 640, 480)] and picture[100:160, 300:380].any(), "told all the same"
