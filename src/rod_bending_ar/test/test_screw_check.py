# SPDX-License-Identifier: Apache-2.0
"""Margins and grades on bones whose walls are known exactly, and every case in which none is told."""

from __future__ import annotations

from dataclasses import replace
from math import erf, sqrt

import numpy as np
import pytest
import trimesh

from rod_bending_ar.core.cortex import CAP_M, DIAMETER_MM, DRAWS, Margins, grade_of
from rod_bending_ar.core.screw_check import (
    Known,
    ScrewCheck,
    ScrewChecks,
    check_row,
    check_screw,
    grade_words,
)
from spine_nav_common.core.implant_outputs import ScrewRow
from spine_nav_common.core.types import Case, LevelEstimate, Mesh, Rejected, ScrewPlan, Status

SIZE_M = np.array([0.012, 0.060, 0.030])  # a pedicle of 12 mm, 60 mm deep, 30 mm high
SURE = Known(0.0, 0.0, axis_sigma_deg=0.0, play_deg=0.0)


def bone(size=SIZE_M) -> Mesh:
    shape = trimesh.creation.box(size).subdivide().subdivide()
    return Mesh(np.asarray(shape.vertices, float), np.asarray(shape.faces, np.int32))


def line(x_mm: float = 0.0, side: str = "left", x_target_mm: float | None = None) -> ScrewPlan:
    """From the back (+y in LPS) 50 mm into the bone."""
    end = x_mm if x_target_mm is None else x_target_mm
    return ScrewPlan(
        "L3", side, np.array([1e-3 * x_mm, 0.030, 0.0]), np.array([1e-3 * end, -0.020, 0.0])
    )


def margins(*plans: ScrewPlan, frame: str = "LPS", mesh: Mesh | None = None) -> Margins:
    return Margins(Case("t", frame, {"L3": mesh or bone()}, ("L3",), plans, ""))


@pytest.mark.parametrize(
    ("breach_mm", "grade"),
    [(-3, "A"), (0, "A"), (0.01, "B"), (1.99, "B"), (2, "C"), (3.99, "C"), (4, "D"), (6, "E"), (20, "E")],
)  # fmt: skip
def test_gertzbein_robbins_by_the_breach(breach_mm, grade):
    assert grade_of(breach_mm) == grade


@pytest.mark.parametrize("x_mm", [0.0, 2.0, 3.0, 4.0, 5.8, 8.0])
def test_the_margin_is_the_wall_less_the_radius(x_mm):
    found = margins(line(x_mm)).planned("L3", "left", 0.0)
    least = 6.0 - x_mm - 0.5 * DIAMETER_MM
    if x_mm > 6.0:  # its axis stands beside the bone: nobody can say where it begins
        assert isinstance(found, Rejected) and "does not enter the bone" in found.reason
        return
    assert found.least_mm == pytest.approx(least, abs=0.05)
    np.testing.assert_allclose(found.margin_mm, least, atol=0.05)
    assert found.grade == grade_of(-least)
    assert found.tip_mm == pytest.approx(-min(6.0 - x_mm, 10.0), abs=1.0)


def test_the_entry_does_not_count_and_everything_behind_it_does():
    found = margins(line()).planned("L3", "left", 0.0)
    assert CAP_M <= found.s_m[0] <= CAP_M + 2e-3
    assert found.s_m[-1] == pytest.approx(0.050 - 0.5e-3 * DIAMETER_MM, abs=1e-3)


def test_a_screw_that_leaves_through_the_wall_is_graded_by_its_farthest_place():
    found = margins(line(0.0, "left", 9.0)).planned("L3", "left", 0.0)
    # its axis reaches x = 8.5 mm where the capsule's last circle is
    assert found.least_mm == pytest.approx(-(8.5 - 6.0 + 2.75), abs=0.25)
    assert found.grade == "D" and found.tip_mm > 2.0
    assert found.at_m > 0.04


@pytest.mark.parametrize(
    ("x_mm", "side", "frame", "word"),
    [(2, "left", "LPS", "lateral"), (-2, "left", "LPS", "medial"), (-2, "right", "LPS", "lateral")],
)
def test_it_is_told_which_way_the_cortex_is_nearest(x_mm, side, frame, word):
    assert margins(line(x_mm, side), frame=frame).planned("L3", side, 0.0).toward == word


def test_in_ras_the_other_way_is_lateral():
    plan = ScrewPlan("L3", "left", np.array([-2e-3, -0.03, 0.0]), np.array([-2e-3, 0.02, 0.0]))
    assert margins(plan, frame="RAS").planned("L3", "left", 0.0).toward == "lateral"


@pytest.mark.parametrize("bound_mm", [2.0, 4.0, 8.0])
def test_as_many_drawn_poses_breach_as_a_gaussian_shift_makes(bound_mm):
    found = margins(line()).planned("L3", "left", bound_mm)
    sigma = bound_mm / 2.795
    room = 6.0 - 0.5 * DIAMETER_MM
    expected = 1.0 - erf(room / sigma / sqrt(2.0))
    spread = sqrt(max(expected * (1.0 - expected), 0.01) / DRAWS)
    assert found.draws.p_breach == pytest.approx(expected, abs=4.0 * spread)
    assert found.draws.shares.sum() == pytest.approx(1.0)
    assert found.least_mm == pytest.approx(room, abs=0.05), "the nominal margin knows no error"
    if bound_mm == 4.0:  # 95 % of the drawn shifts leave more than this
        assert found.draws.least95_mm == pytest.approx(room - 1.96 * sigma, abs=0.35)


def test_a_larger_error_never_makes_the_margin_look_better():
    m = margins(line(1.5))
    least = [m.planned("L3", "left", b).draws.least95_mm for b in (0.0, 0.4, 1.0, 2.0, 4.0)]
    assert least == sorted(least, reverse=True)
    assert m.planned("L3", "left", 1.01) is m.planned("L3", "left", 1.2), "kept, rounded up"
    assert m.planned("L3", "left", 1.01) is not m.planned("L3", "left", 1.0)


def test_where_there_is_no_time_the_margin_of_a_larger_error_is_told_or_none():
    m = margins(line(1.5))
    m.allow(1)
    four = m.planned("L3", "left", 4.0)
    assert m.planned("L3", "left", 3.0) is four
    larger = m.planned("L3", "left", 5.0)
    assert isinstance(larger, Rejected) and "being computed" in larger.reason
    m.allow(None)
    assert m.planned("L3", "left", 3.0).draws.least95_mm > four.draws.least95_mm


@pytest.mark.parametrize("bound", [None, float("nan"), float("inf")])
def test_without_a_predicted_error_no_margin_is_told(bound):
    found = margins(line()).planned("L3", "left", bound)
    assert isinstance(found, Rejected) and "predicted error" in found.reason


def test_a_plan_that_begins_inside_the_bone_or_is_too_short_is_not_graded():
    deep = ScrewPlan("L3", "left", np.array([0, 0.015, 0.0]), np.array([0, -0.025, 0.0]))
    short = ScrewPlan("L3", "left", np.array([0, 0.030, 0.0]), np.array([0, 0.024, 0.0]))
    for plan in (deep, short):
        assert isinstance(margins(plan).planned("L3", "left", 1.0), Rejected)
    assert isinstance(margins(line()).planned("L3", "right", 1.0), Rejected)
    assert isinstance(margins(line()).planned("L4", "left", 1.0), Rejected)


def placed(x_mm: float = 0.0, lean_deg: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Head 12 mm behind the entry on an axis that passes it x_mm to the left, leaning in x."""
    out = np.array([np.sin(np.radians(lean_deg)), np.cos(np.radians(lean_deg)), 0.0])
    return np.array([1e-3 * x_mm, 0.030, 0.0]) + 0.012 * out, out


def test_a_screw_as_planned_deviates_by_nothing():
    found = check_screw(margins(line()), line(), *placed(), SURE)
    assert isinstance(found, ScrewCheck)
    assert (found.entry_mm, found.tip_mm, found.angle_deg) == pytest.approx((0, 0, 0), abs=1e-6)
    assert found.entry95_mm == pytest.approx(0.0, abs=1e-6)
    assert found.grade == "A"


def test_entry_tip_angle_and_grade_of_a_deviating_screw():
    found = check_screw(margins(line()), line(), *placed(3.0, 0.0), SURE)
    assert (found.entry_mm, found.tip_mm, found.angle_deg) == pytest.approx((3.0, 3.0, 0.0))
    assert found.grade == "A" and found.shaft.least_mm == pytest.approx(0.25, abs=0.05)
    leaning = check_screw(margins(line()), line(), *placed(0.0, -10.0), SURE)
    assert leaning.angle_deg == pytest.approx(10.0)
    assert leaning.tip_mm == pytest.approx(2.0 * 50.0 * np.sin(np.radians(5.0)), abs=1e-3)
    assert leaning.grade == "D", "at 47 mm it stands 8.2 mm aside: 2.2 mm and the radius outside"


def test_the_stated_uncertainty_is_that_of_head_vertebra_and_axis():
    known = Known(2.795, 2.795, axis_sigma_deg=0.0, play_deg=0.0)  # 1 mm each way, twice
    found = check_screw(margins(line()), line(), *placed(), known)
    assert found.entry95_mm == pytest.approx(sqrt(2.0) * 2.4477, rel=0.1), "across the axis"
    turned = Known(0.0, 0.0, axis_sigma_deg=2.0, play_deg=0.0)
    found = check_screw(margins(line()), line(), *placed(), turned)
    assert found.angle95_deg == pytest.approx(2.0 * 2.4477, rel=0.1)
    assert found.tip95_mm > found.entry95_mm


def test_a_tulip_that_turns_on_its_shank_tells_no_grade():
    found = check_screw(margins(line()), line(), *placed(), Known(1.0, 1.0))
    assert isinstance(found, ScrewCheck) and isinstance(found.shaft, Rejected)
    assert "shank" in found.shaft.reason and found.grade == ""
    assert "grade not told" in grade_words(found.shaft) and found.words().endswith("–")
    assert found.angle95_deg > 20.0


def test_a_grade_that_the_drawn_poses_do_not_agree_on_is_not_told():
    known = Known(1.0, 1.0, axis_sigma_deg=3.5, play_deg=0.0)
    found = check_screw(margins(line()), line(), *placed(3.2), known)
    assert isinstance(found.shaft, Rejected) and "B" in found.shaft.reason
    sure = check_screw(margins(line()), line(), *placed(3.2), SURE)
    assert sure.grade == "A"


@pytest.mark.parametrize(
    ("head", "out", "word"),
    [
        (np.array([0.04, 0.04, 0.0]), np.array([0.0, 1.0, 0.0]), "beside"),
        (np.array([0.0, 0.04, 0.0]), np.array([1.0, 0.0, 0.0]), "stands"),
        (np.array([np.nan, 0.04, 0.0]), np.array([0.0, 1.0, 0.0]), "not known"),
        (np.array([0.0, 0.04, 0.0]), np.zeros(3), "not known"),
    ],
)
def test_a_screw_that_is_none_of_this_plan_is_refused(head, out, word):
    found = check_screw(margins(line()), line(), head, out, SURE)
    assert isinstance(found, Rejected) and word in found.reason
    unknown = Known(float("nan"), 1.0)
    assert isinstance(check_screw(margins(line()), line(), *placed(), unknown), Rejected)


STAMP = 5_000_000_000
T = trimesh.transformations.rotation_matrix(0.7, (1, 0, 0))
T[:3, 3] = (0.01, 0.02, 0.5)
RIG = trimesh.transformations.rotation_matrix(-0.3, (0, 1, 0))
RIG[:3, 3] = (0.06, 0.0, 0.01)
ESTIMATE = LevelEstimate("L3", Status.TRACKED, T, predicted_tre_mm=1.0)


def row(x_mm: float = 2.0) -> ScrewRow:
    """A screw as the stereo camera sees it."""
    head, out = placed(x_mm)
    T_stereo_ct = np.linalg.inv(RIG) @ T
    at = T_stereo_ct[:3, :3] @ head + T_stereo_ct[:3, 3]
    return ScrewRow(STAMP, 7, at, T_stereo_ct[:3, :3] @ out, 0.9, 1.0, "L3", "left", True)


def check(r=None, estimate=ESTIMATE, stamp=STAMP, rig=RIG, plan=None):
    plans = {("L3", "left"): plan or line()}
    return check_row(r or row(), margins(line()), plans, {"L3": estimate}, stamp, rig, play_deg=0.0)


def test_a_screw_of_the_other_camera_is_compared_through_the_rig():
    found = check()
    assert found.entry_mm == pytest.approx(2.0, abs=1e-6)
    assert found.angle_deg == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"r": replace(row(), level="")}, "which screw"),
        ({"r": replace(row(), side="right")}, "no screw is planned"),
        ({"estimate": replace(ESTIMATE, status=Status.OCCLUDED)}, "not tracked"),
        ({"estimate": LevelEstimate("L3", Status.LOST)}, "not tracked"),
        ({"estimate": replace(ESTIMATE, predicted_tre_mm=None)}, "predicted error"),
        ({"stamp": STAMP + 41_000_000}, "different moments"),
        ({"rig": Rejected("no transform joins the cameras")}, "no transform"),
    ],
)
def test_what_is_missing_is_said_and_nothing_is_compared(change, word):
    found = check(**change)
    assert isinstance(found, Rejected) and word in found.reason


def test_a_comparison_is_kept_for_half_a_second_and_its_refusal_is_not():
    case = Case("t", "LPS", {"L3": bone()}, ("L3",), (line(),), "")
    checks = ScrewChecks(case, play_deg=0.0)

    def at(ms, x_mm=2.0, estimate=ESTIMATE):
        r = replace(row(x_mm), stamp_ns=STAMP + ms * 1_000_000)
        return checks.check(r, {"L3": estimate}, STAMP + ms * 1_000_000, RIG)

    first = at(0)
    assert first.entry_mm == pytest.approx(2.0, abs=1e-6) and at(499, 3.0) is first
    assert isinstance(at(499, 3.0, LevelEstimate("L3", Status.LOST)), Rejected)
    assert at(500, 3.0).entry_mm == pytest.approx(3.0, abs=1e-6)
    assert at(-100, 1.0).entry_mm == pytest.approx(1.0, abs=1e-6), "a clock that was set back"
