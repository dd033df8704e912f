# SPDX-License-Identifier: Apache-2.0
"""A plan that stays safe: every promise is broken on purpose once, and must be seen to break."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from rod_bending_ar.core.cortex import CAP_M, Cortex
from spine_nav_common.core.geometry import (
    exp_so3,
    invert,
    perturb_about,
    transform,
    transform_points,
)
from spine_nav_common.core.types import (
    Case,
    LevelEstimate,
    NavigationResult,
    Rejected,
    ScrewPlan,
    Status,
)
from spine_nav_sim.core.anatomy import make_anatomy
from spine_planning.core import screw_guard
from spine_planning.core.clearance import Reach, reach, walked
from spine_planning.core.implants import Implants
from spine_planning.core.planner import plan_vertebra
from spine_planning.core.replan import Freedom, Replanned, replan
from spine_planning.core.safety import (
    Advance,
    Belief,
    Drill,
    Limits,
    allowed_advance,
    breach,
    usable_pose,
)
from spine_planning.core.screw_guard import ScrewGuard

T = transform(exp_so3(np.array([1.9, 0.4, -0.3])), (0.02, -0.03, 0.55))
DRILL_MM = 3.5
LIMITS = Limits()


@pytest.fixture(scope="module")
def bone():
    mesh = make_anatomy(np.random.default_rng(4), ("L3",)).meshes["L3"]
    screw = plan_vertebra("L3", mesh, Implants()).pedicles["left"].plans[0]
    cortex = Cortex(mesh, (screw.plan,), "LPS")
    cortex.prepare()
    return cortex, screw.plan, screw.diameter_mm


def estimate(shift_mm=0.4, turn_deg=0.6, **values):
    anchor = transform_points(T, np.array([0.0, 0.015, 0.0]))
    covariance = np.diag([(1e-3 * shift_mm) ** 2] * 3 + [np.radians(turn_deg) ** 2] * 3)
    return replace(
        LevelEstimate("L3", Status.TRACKED, T, covariance, anchor, predicted_tre_mm=0.1), **values
    )


def belief(plan, **values) -> Belief:
    found = usable_pose(estimate(**values), 50.0, plan, LIMITS)
    assert isinstance(found, Belief)
    return found


def way_of(plan: ScrewPlan) -> np.ndarray:
    way = plan.target_m - plan.entry_m
    return way / np.linalg.norm(way)


def drill_at(plan: ScrewPlan, depth_m: float, way: np.ndarray | None = None, pose=T) -> Drill:
    """Drilled so deep from the planned entry on."""
    way = way_of(plan) if way is None else way
    return Drill(transform_points(pose, plan.entry_m + depth_m * way), pose[:3, :3] @ way)


def leaning(plan: ScrewPlan, degrees: float, toward: np.ndarray) -> np.ndarray:
    way = way_of(plan)
    side = toward - (toward @ way) * way
    a = np.radians(degrees)
    return np.cos(a) * way + np.sin(a) * side / np.linalg.norm(side)


def test_the_share_of_breaches_is_that_of_poses_drawn_by_the_project_s_convention(bone):
    """An independent judge: true poses by `perturb_about`, exact distances, no linearisation."""
    cortex, plan, diameter = bone
    given = estimate(shift_mm=0.9, turn_deg=1.5)
    found = breach(cortex, plan, belief(plan, shift_mm=0.9, turn_deg=1.5), diameter)
    rng, way, radius = np.random.default_rng(1), way_of(plan), 0.5e-3 * diameter
    s = np.arange(0.0, np.linalg.norm(plan.target_m - plan.entry_m) - radius, 1e-3)
    line = transform_points(T, plan.entry_m + s[:, None] * way)
    breaches = []
    for xi in rng.multivariate_normal(np.zeros(6), given.covariance, 1500):
        true = perturb_about(T, xi, given.anchor_camera_m)
        phi = cortex.exact_m(transform_points(invert(true), line))
        surface = s[np.flatnonzero(phi < 0.0)[0]]
        breaches.append((phi[s >= surface + CAP_M] + radius).max() > 0.0)
    assert 0.05 < found.p < 0.6
    assert found.p == pytest.approx(np.mean(breaches), abs=0.04)
    assert found.toward in ("medial", "lateral", "cranial", "caudal", "anterior", "posterior")


def test_a_probability_is_never_zero_and_grows_with_screw_and_error(bone):
    cortex, plan, diameter = bone
    p = [
        breach(cortex, plan, belief(plan, shift_mm=s), d).p
        for s, d in ((0.3, DRILL_MM), (0.3, diameter), (0.6, diameter), (1.2, diameter))
    ]
    assert 0.0 < p[0] < p[1] < p[2] < p[3]


def test_the_grid_proposes_what_exact_distances_say(bone):
    """The compiled walk against the exact function, on lines that lean every way."""
    cortex, plan, _ = bone
    b, length = belief(plan), float(np.linalg.norm(plan.target_m - plan.entry_m))
    rng = np.random.default_rng(5)
    ways = np.array([leaning(plan, a, rng.normal(size=3)) for a in rng.uniform(0.0, 20.0, 60)])
    starts = np.tile(plan.entry_m, (60, 1))
    quick = walked(
        cortex, b.covariance, b.anchor_m, starts, ways, 0.0, length, 1.75e-3, 2.576, 1e-3
    )
    ends = []
    for start, way in zip(starts, ways, strict=True):
        found = reach(cortex, b.covariance, b.anchor_m, start, way, 0.0, length, 1.75e-3, 2.576)
        assert isinstance(found, Reach)
        ends.append(found.end_m)
    off = np.abs(quick[:, 0] - ends)
    assert np.median(off) < 1e-3 and (off < 4e-3).mean() > 0.9
    assert min(ends) < 0.6 * length < max(ends)


@pytest.mark.parametrize(
    ("values", "age_ms", "why"),
    [
        ({"status": Status.OCCLUDED, "reason": "a hand"}, 10.0, "not tracked: a hand"),
        ({"status": Status.LOST, "T_camera_ct": None}, 10.0, "not tracked"),
        ({}, LIMITS.max_age_ms + 1.0, "old"),
        ({}, float("nan"), "old"),
        ({}, -5.0, "old"),
        ({"predicted_tre_mm": None}, 10.0, "not known"),
        ({"predicted_tre_mm": 4.5}, 10.0, "4.5 mm only"),
        ({"covariance": None}, 10.0, "no covariance"),
        ({"covariance": np.zeros((6, 6))}, 10.0, "no covariance"),
        ({"covariance": np.full((6, 6), np.nan)}, 10.0, "no covariance"),
        ({"anchor_camera_m": None}, 10.0, "no covariance"),
        ({"T_camera_ct": np.full((4, 4), np.nan)}, 10.0, "not finite"),
    ],
)
def test_a_pose_that_is_not_sure_means_stop(bone, values, age_ms, why):
    found = usable_pose(estimate(**values), age_ms, bone[1], LIMITS)
    assert isinstance(found, Rejected) and why in found.reason


def test_a_covariance_smaller_than_the_predicted_error_grows_to_it(bone):
    _, plan, _ = bone
    small, told = belief(plan), belief(plan, predicted_tre_mm=3.0)
    middle = 0.5 * (plan.entry_m + plan.target_m)
    assert 2.795e3 * np.sqrt(np.linalg.eigvalsh(told.spread(middle))[-1]) == pytest.approx(3.0)
    assert np.linalg.eigvalsh(small.spread(middle))[-1] < np.linalg.eigvalsh(told.spread(middle))[-1]  # fmt: skip


def to_the_wall(cortex, plan, toward, sure) -> tuple[Drill, Advance]:
    """A drill 10 mm deep that leans so far that a wall is on its way."""
    way = leaning(plan, 25.0, toward)
    drill = drill_at(plan, 0.010, way)
    found = allowed_advance(cortex, plan, sure, drill, DRILL_MM, LIMITS, 5.0)
    assert isinstance(found, Advance), found
    return drill, found


@pytest.mark.parametrize("toward", [[1.0, 0, 0], [-1.0, 0, 0], [0, 0, 1.0], [0, 0, -1.0]])
def test_the_tip_stays_in_the_bone_for_every_error_of_k_sigma(bone, toward):
    cortex, plan, _ = bone
    sure = belief(plan)
    drill, found = to_the_wall(cortex, plan, np.array(toward), sure)
    careless = replace(sure, covariance=1e-6 * sure.covariance)
    _, blind = to_the_wall(cortex, plan, np.array(toward), careless)
    assert found.limit == blind.limit == "wall"
    assert found.advance_mm < blind.advance_mm
    way = T[:3, :3].T @ drill.into
    radius = 0.5e-3 * DRILL_MM
    rng = np.random.default_rng(3)
    outside = {}
    for name, advance in (("ours", found), ("covariance ignored", blind)):
        end = transform_points(invert(T), drill.tip_m) + 1e-3 * advance.advance_mm * way
        spread = np.linalg.cholesky(sure.spread(end))
        errors = rng.normal(size=(400, 3))
        errors *= LIMITS.sigmas / np.linalg.norm(errors, axis=1, keepdims=True)
        phi = cortex.exact_m(end - radius * way + errors @ spread.T)
        outside[name] = float((phi + radius > 0.2e-3).mean())
    if found.advance_mm > 0.0:
        assert outside["ours"] == 0.0
    assert outside["covariance ignored"] > 0.2


def test_the_tip_comes_to_rest_before_the_pose_is_too_old(bone):
    cortex, plan, _ = bone
    sure = belief(plan)
    found = allowed_advance(cortex, plan, sure, drill_at(plan, 0.010), DRILL_MM, LIMITS, 1e4)
    assert found.limit == "plan" and found.advance_mm == pytest.approx(
        1e3 * (np.linalg.norm(plan.target_m - plan.entry_m) - 0.010), abs=1e-6
    )
    assert found.speed_mm_s * 1e-3 * LIMITS.max_age_ms <= found.advance_mm + 1e-9


def test_the_speed_falls_with_distance_over_uncertainty(bone):
    cortex, plan, _ = bone
    way, speeds = leaning(plan, 25.0, np.array([-1.0, 0.0, 0.0])), []
    for depth in (0.0, 0.005, 0.010, 0.014, 0.017, 0.018, 0.019, 0.022):
        found = allowed_advance(
            cortex, plan, belief(plan), drill_at(plan, depth, way), DRILL_MM, LIMITS, 2.0
        )
        assert found.limit == "wall"
        assert found.speed_mm_s <= 2.0 * found.advance_mm / found.needed_mm + 1e-9
        speeds.append(found.speed_mm_s)
    assert speeds[0] == 2.0 and speeds[-1] == 0.0 and speeds == sorted(speeds, reverse=True)


def test_at_the_planned_depth_nothing_is_left(bone):
    cortex, plan, _ = bone
    deep = drill_at(plan, float(np.linalg.norm(plan.target_m - plan.entry_m)) + 1e-4)
    found = allowed_advance(cortex, plan, belief(plan), deep, DRILL_MM, LIMITS, 5.0)
    assert (found.advance_mm, found.speed_mm_s, found.limit) == (0.0, 0.0, "plan")
    again = replan(cortex, plan, belief(plan), deep, DRILL_MM, LIMITS)
    assert isinstance(again, Rejected) and "depth is reached" in again.reason


def test_a_drill_beside_the_bone_or_without_a_direction_stops(bone):
    cortex, plan, _ = bone
    aside = Drill(transform_points(T, plan.entry_m + [0.2, 0.0, 0.0]), T[:3, :3] @ way_of(plan))
    none = Drill(transform_points(T, plan.entry_m), np.zeros(3))
    sure = belief(plan)
    assert isinstance(allowed_advance(cortex, plan, sure, aside, DRILL_MM, LIMITS), Rejected)
    for drill in (none, Drill(np.full(3, np.nan), way_of(plan))):
        for ask in (allowed_advance, replan):
            assert isinstance(ask(cortex, plan, sure, drill, DRILL_MM, LIMITS), Rejected)


def test_before_the_bone_is_entered_a_wide_screw_finds_its_better_place(bone):
    """A plan 2.5 mm off the middle of its pedicle is brought back; a good one stays where it is."""
    cortex, plan, diameter = bone
    good = replan(cortex, plan, belief(plan), None, DRILL_MM, LIMITS)
    assert isinstance(good, Replanned) and good.complete
    assert good.lean_deg < 1.0 and good.shift_mm < 1.0
    off = np.cross(way_of(plan), [0.0, 0.0, 1.0])
    off *= 2.5e-3 / np.linalg.norm(off)
    moved = ScrewPlan(plan.level, plan.side, plan.entry_m + off, plan.target_m + off)
    sure = belief(plan, shift_mm=0.3, turn_deg=0.3)
    before = breach(cortex, moved, sure, diameter)
    after = replan(cortex, moved, sure, None, diameter, LIMITS)
    assert isinstance(after, Replanned) and after.complete
    assert breach(cortex, after.plan, sure, diameter).p < 0.2 * before.p
    assert transform_points(T, after.plan.target_m) == pytest.approx(after.target_camera_m)


def test_in_the_bone_the_tip_stays_and_the_hole_holds_the_drill(bone):
    cortex, plan, _ = bone
    way = leaning(plan, 6.0, np.array([-1.0, 0.0, 0.0]))
    drill = drill_at(plan, 0.012, way)
    freedom = Freedom()
    found = replan(cortex, plan, belief(plan), drill, DRILL_MM, LIMITS, freedom)
    assert isinstance(found, Replanned)
    tip = transform_points(invert(T), drill.tip_m)
    new = way_of(found.plan)
    off = tip - found.plan.entry_m
    assert np.linalg.norm(off - (off @ new) * new) < 1e-9
    assert found.lean_deg <= np.degrees(np.arctan(freedom.play_mm / 12.0)) + 1e-6
    straight = allowed_advance(cortex, plan, belief(plan), drill, DRILL_MM, LIMITS)
    reach = 1e3 * float((found.plan.target_m - tip) @ new)
    assert reach >= straight.advance_mm - 1e-6
    assert found.margin_mm >= found.needed_mm > 0.0


def test_where_nothing_is_safe_there_is_no_trajectory(bone):
    cortex, plan, diameter = bone
    vague = belief(plan, shift_mm=1.3)
    for drill in (None, drill_at(plan, 0.018)):
        found = replan(cortex, plan, vague, drill, diameter, LIMITS)
        assert isinstance(found, Rejected) and "no trajectory is safe" in found.reason
        assert "mm to the wall" in found.reason
    part = replan(cortex, plan, vague, None, diameter, LIMITS, Freedom(whole=False))
    assert isinstance(part, Replanned) and not part.complete
    # the same is safe where the pose is known: it was the covariance that refused
    assert isinstance(replan(cortex, plan, belief(plan, shift_mm=0.2, turn_deg=0.2), None, diameter, LIMITS), Replanned)  # fmt: skip


def test_a_pose_that_shows_the_tip_at_the_wall_stops_it(bone):
    """The hole was drilled along an estimate that was 5 mm off: the new pose sees it."""
    cortex, plan, _ = bone
    way, sure = way_of(plan), belief(plan)
    off = 5e-3 * np.cross(way, [0.0, 0.0, 1.0])
    for sign in (1.0, -1.0):
        there = plan.entry_m + 0.016 * way + sign * off
        drill = Drill(transform_points(T, there), T[:3, :3] @ way)
        found = allowed_advance(cortex, plan, sure, drill, DRILL_MM, LIMITS, 5.0)
        if isinstance(found, Advance):
            assert found.advance_mm < 1.0
        assert isinstance(replan(cortex, plan, sure, drill, DRILL_MM, LIMITS), Rejected)


def test_a_new_pose_costs_milliseconds(bone):
    """Of one core's time, so that a loaded machine does not decide."""
    cortex, plan, _ = bone
    spent = []
    for drill in [None, drill_at(plan, 0.010)] * 6:
        started = time.thread_time()
        replan(cortex, plan, belief(plan), drill, DRILL_MM, LIMITS)
        spent.append(1e3 * (time.thread_time() - started))
    assert np.median(spent[2:]) < 10.0


def test_a_confidence_that_is_none_is_refused():
    with pytest.raises(ValueError, match="confidence"):
        Limits(confidence=0.9)


def test_a_probability_is_kept_while_the_pose_is_no_worse_and_never_beyond(bone, monkeypatch):
    cortex, plan, diameter = bone
    case = Case("c", "LPS", {"L3": cortex.mesh}, ("L3",), (plan,), "")
    guard = ScrewGuard(case, DRILL_MM, diameter, LIMITS, Freedom(), 5.0)
    counted = []

    def counting(*given):
        counted.append(given)
        return breach(*given)

    monkeypatch.setattr(screw_guard, "breach", counting)

    def judged(shift_mm):
        result = NavigationResult(0, (estimate(shift_mm=shift_mm),))
        (screw,) = guard.judge(result, 50.0, None)
        assert screw.stop == "" and screw.breach is not None
        true = breach(cortex, plan, belief(plan, shift_mm=shift_mm), diameter)
        assert screw.breach.p >= true.p and screw.breach.sigma_mm >= true.sigma_mm
        return screw.breach

    first = judged(0.5)
    assert judged(0.51) is first and judged(0.49) is first and len(counted) == 1
    worse = judged(0.8)
    assert worse.p > first.p and len(counted) == 2
    assert judged(0.3).p < worse.p and len(counted) == 3


def test_a_guard_stops_every_screw_for_what_it_does_not_know(bone):
    cortex, plan, diameter = bone
    case = Case("c", "LPS", {"L3": cortex.mesh}, ("L3",), (plan,), "")
    guard = ScrewGuard(case, DRILL_MM, diameter, LIMITS, Freedom(), 5.0)
    fine, empty = NavigationResult(0, (estimate(),)), NavigationResult(0, ())
    for result, age_ms, tool, why in (
        (empty, 10.0, None, "nothing is known of L3"),
        (fine, 900.0, None, "900 ms old"),
        (fine, 10.0, Rejected("the tool is gone"), "the tool is gone"),
    ):
        (screw,) = guard.judge(result, age_ms, tool)
        assert why in screw.stop and screw.line_camera_m is screw.breach is screw.advance is None
        assert isinstance(guard.replan(result, age_ms, tool)["L3_left"], Rejected)
    (held,) = guard.judge(fine, 10.0, None)
    assert "planned anew" in held.stop
    assert isinstance(guard.replan(fine, 10.0, None)["L3_left"], Replanned)
    assert guard.judge(fine, 10.0, None)[0].stop == ""
