# SPDX-License-Identifier: Apache-2.0
"""A measured rod beside its plan: where it misses, by how much, and the bend that mends it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from spine_nav_common.core.types import Rejected

from .explain import explained
from .forward import (
    BendStep,
    Seating,
    arc_positions_mm,
    fit_rigid,
    point_at,
    replay_steps,
    rotation,
    seat,
)
from .material import MATERIALS, bend_set_deg
from .plan import RodPlan

# Design choices.
SHORTER_MM, LONGER_MM = 6.0, 9.0
LEAST_BEND_DEG = 0.5  # a hand cannot make less
_STEP_MM = 1.0
_SMOOTH_MM = 2.0  # stereo centrelines wobble from point to point; a rod does not
_GRID_MM = 7.0
_DOUBT = 2.0  # standard errors that a gap of the raw measurement may lie above the limit


@dataclass(frozen=True)
class RodComparison:
    """good: all steps are done and no gap is above the plan's limit. gaps_mm (N,) and vectors_mm
    (N, 3) rod axis to saddle, the rod laid into the saddles; worst: name of the saddle with the
    largest gap, at worst_arc_mm from the rod's caudal end. next_bend: None if good, or if no single
    bend would help; predicted_mm: largest gap after it (after all remaining bends, if steps
    remain)."""

    good: bool
    gaps_mm: np.ndarray
    vectors_mm: np.ndarray
    worst: str
    worst_arc_mm: float
    next_bend: BendStep | None
    predicted_mm: float

    def text(self) -> str:
        """One line for the surgeon."""
        if self.good:
            return f"rod is good: largest gap {self.gaps_mm.max():.1f} mm as measured"
        miss = (
            f"{self.gaps_mm.max():.1f} mm off {self.worst}, {self.worst_arc_mm:.0f} mm from the"
            " caudal end"
        )
        if self.next_bend is None:
            return f"{miss}; no single bend mends it: take a new rod or plan again"
        b = self.next_bend
        return (
            f"{miss}; next: feed {b.feed_mm:.1f} mm, rotate {b.rotate_deg:.1f} deg, bend to"
            f" {b.bend_set_deg:.1f} deg ({b.bend_deg:.1f} deg remain)"
        )


def wrong_length(length_mm: float, plan: RodPlan) -> Rejected | None:
    """Why a rod that was measured this long is not the planned one as a whole; None where it is.

    The refiner sees a rod on past its end now and then: 5 % of seated rods were measured more than
    9 mm too long (60 `calibrate` scenes, 173 rods, 65a7ed1).
    """
    if -SHORTER_MM <= length_mm - plan.length_mm <= LONGER_MM:
        return None
    return Rejected(
        f"the rod in view is {length_mm:.0f} mm long, the planned one {plan.length_mm:.0f} mm:"
        " show the whole rod, or take the right one"
    )


def compare_rod(
    measured_centreline_m: np.ndarray,
    plan: RodPlan,
    steps_done: int | None = None,
    sigma_mm: float = 0.3,
) -> RodComparison | Rejected:
    """Compare a rod with its plan, wherever it is held.

    Args:
        measured_centreline_m: (M, 3) metres, whole rod, cranial end first (as in rods.json).
        plan: what it shall become.
        steps_done: steps of the plan that are behind it; None: all.
        sigma_mm: standard error of the centreline (rods.json gives it along the rod: its median).

    With steps left, the next bend is the plan's next, corrected for what was bent so far. With none
    left it is the one bend that brings the largest gap down most.
    """
    done = len(plan.steps) if steps_done is None else steps_done
    if not 0 <= done <= len(plan.steps):
        raise ValueError(f"steps_done is {steps_done}; the plan has {len(plan.steps)} steps")
    points = np.asarray(measured_centreline_m, dtype=np.float64) * 1e3
    if points.ndim != 2 or points.shape[1:] != (3,) or len(points) < 10:
        return Rejected("the measured rod has fewer than 10 points: show the whole rod")
    if not np.isfinite(points).all():
        return Rejected("the measured rod has a point that is not finite: measure again")
    curve = _smooth(points[::-1])
    length = float(arc_positions_mm(curve)[-1])
    wrong = wrong_length(length, plan)
    if wrong is not None:
        return wrong
    guess = plan.seating.arc_mm * length / plan.length_mm
    limit = plan.order.gap_limit_mm
    raw = seat(curve, plan.saddles_mm, guess)
    model = explained(curve, plan.steps[:done], plan.order.bender.die_radius_mm, sigma_mm)
    seating = seat(model, plan.saddles_mm, guess)
    if seating.max_mm <= limit and raw.max_mm > limit + _DOUBT * sigma_mm:
        seating = raw  # never call a rod good that was seen to miss by more than its error
    else:
        curve = model
    finished = done == len(plan.steps)
    if finished and seating.max_mm > limit:
        other = seat(curve[::-1], plan.saddles_mm, guess)
        if other.max_mm < min(limit, 0.5 * seating.max_mm):
            return Rejected("the rod fits the other way round: turn it end for end")
    worst = int(seating.gaps_mm.argmax())
    next_bend, predicted = None, seating.max_mm
    good = finished and seating.max_mm <= limit
    if not good:
        fix = _remaining(curve, plan, guess, done) if not finished else _rebend(curve, plan, guess)
        if fix is not None:
            next_bend, predicted = _as_step(fix, curve, plan, done), fix.seating.max_mm
    return RodComparison(
        good,
        seating.gaps_mm,
        seating.gap_vectors_mm,
        plan.names[worst],
        float(seating.arc_mm[worst]),
        next_bend,
        predicted,
    )


def _smooth(points_mm: np.ndarray) -> np.ndarray:
    """The polyline every millimetre, without wobble from point to point; the ends stay."""
    arc = arc_positions_mm(points_mm)
    count = max(2, round(arc[-1] / _STEP_MM) + 1)
    even = point_at(points_mm, arc, np.linspace(0.0, arc[-1], count))
    pad = min(int(4 * _SMOOTH_MM / _STEP_MM), count - 1)
    front = 2.0 * even[0] - even[1 : pad + 1][::-1]
    back = 2.0 * even[-1] - even[-pad - 1 : -1][::-1]
    wide = gaussian_filter1d(np.concatenate([front, even, back]), _SMOOTH_MM / _STEP_MM, axis=0)
    return wide[pad:-pad]


def bend_curve(
    curve_mm: np.ndarray, feed_mm: float, vector: np.ndarray, die_mm: float
) -> np.ndarray:
    """The polyline (M, 3) after one more bend about arc position feed_mm; the caudal end stays.

    vector: (3,) rotation of what lies beyond, radians, square to the rod there.
    """
    angle = float(np.linalg.norm(vector))
    if angle < 1e-9:
        return curve_mm
    arc = arc_positions_mm(curve_mm)
    middle = 0.5 * (arc[1:] + arc[:-1])
    half = 0.5 * die_mm * angle
    share = np.clip((middle - feed_mm + half) / (2.0 * half), 0.0, 1.0)[:, None] * angle
    axis = vector / angle
    pieces = np.diff(curve_mm, axis=0)
    across = np.cross(axis, pieces)
    along = (pieces @ axis)[:, None] * axis
    turned = along + np.cos(share) * (pieces - along) + np.sin(share) * across
    return np.concatenate([curve_mm[:1], curve_mm[0] + np.cumsum(turned, axis=0)])


@dataclass(frozen=True)
class _Fix:
    feed_mm: float
    vector: np.ndarray
    seating: Seating


def _tangent(curve: np.ndarray, feed_mm: float) -> np.ndarray:
    arc = arc_positions_mm(curve)
    ends = point_at(curve, arc, np.array([feed_mm - _STEP_MM, feed_mm + _STEP_MM]))
    way = ends[1] - ends[0]
    return way / np.linalg.norm(way)


def _plane(tangent: np.ndarray) -> np.ndarray:
    """(2, 3) unit vectors square to a tangent."""
    helper = np.eye(3)[int(np.abs(tangent).argmin())]
    first = np.cross(tangent, helper)
    first = first / np.linalg.norm(first)
    return np.stack([first, np.cross(tangent, first)])


def _bend_all(curve: np.ndarray, feeds: np.ndarray, vectors: np.ndarray, die: float) -> np.ndarray:
    # cranial first: each vector is then meant on the rod as measured
    for feed, vector in zip(feeds[::-1], vectors[::-1], strict=True):
        curve = bend_curve(curve, float(feed), vector, die)
    return curve


def _solve(
    curve: np.ndarray, saddles: np.ndarray, guess: np.ndarray, feeds: np.ndarray, die: float,
    rounds: int,
) -> tuple[np.ndarray, Seating]:  # fmt: skip
    """Rotation vectors (K, 3) of bends at the feeds that leave the least gaps (Gauss-Newton)."""
    planes = [_plane(_tangent(curve, float(f))) for f in feeds]
    amounts = np.zeros((len(feeds), 2))
    best = (math.inf, np.zeros((len(feeds), 3)), seat(curve, saddles, guess))
    for _ in range(rounds + 1):
        vectors = np.stack([a @ p for a, p in zip(amounts, planes, strict=True)])
        bent = _bend_all(curve, feeds, vectors, die)
        seating = seat(bent, saddles, guess)
        if seating.rms_mm < best[0]:
            best = (seating.rms_mm, vectors, seating)
        back = np.linalg.inv(seating.T_saddles_rod)[:3, :3]
        arc = arc_positions_mm(bent)
        feet = point_at(bent, arc, seating.arc_mm)
        along = seating.tangents @ back.T
        project = np.eye(3) - along[:, :, None] * along[:, None, :]
        residual = seating.gap_vectors_mm @ back.T
        columns = [project[:, :, c] for c in range(3)]
        centred = feet - feet.mean(axis=0)
        for axis in np.eye(3):
            columns.append(np.einsum("nij,nj->ni", project, np.cross(axis, centred)))
        turned = np.eye(3)
        for feed, plane, vector in zip(feeds, planes, vectors, strict=True):
            pivot = point_at(bent, arc, np.array([feed]))[0]
            beyond = (seating.arc_mm > feed)[:, None]
            for axis in plane @ turned.T:
                push = np.einsum("nij,nj->ni", project, np.cross(axis, feet - pivot) * beyond)
                columns.append(-push)
            turned = turned @ rotation(vector)
        jacobian = np.stack([c.ravel() for c in columns], axis=1)
        ridge = np.array([1e-6] * 3 + [1e-2] * 3 + [1.0] * (2 * len(feeds)))
        normal = jacobian.T @ jacobian + np.diag(ridge)
        change = -np.linalg.solve(normal, jacobian.T @ residual.ravel())
        amounts = amounts + change[6:].reshape(-1, 2)
        if np.abs(change[6:]).max() < 1e-4:
            break
    return best[1], best[2]


def _remaining(curve: np.ndarray, plan: RodPlan, guess: np.ndarray, done: int) -> _Fix | None:
    """The next of the remaining steps, all of them corrected together at their planned feeds."""
    feeds = np.array([s.feed_mm for s in plan.steps[done:]])
    vectors, seating = _solve(
        curve, plan.saddles_mm, guess, feeds, plan.order.bender.die_radius_mm, rounds=12
    )
    if np.degrees(np.linalg.norm(vectors, axis=1)).max() > plan.order.bender.max_bend_deg:
        return None
    return _Fix(float(feeds[0]), vectors[0], seating)


def _rebend(curve: np.ndarray, plan: RodPlan, guess: np.ndarray) -> _Fix | None:
    """The one bend that brings the largest gap down most; None if none helps."""
    bender = plan.order.bender
    end = float(arc_positions_mm(curve)[-1]) - bender.half_span_mm
    feeds = np.arange(bender.half_span_mm, end, _GRID_MM)

    def bent(feed: float, rounds: int) -> _Fix:
        vectors, seating = _solve(
            curve, plan.saddles_mm, guess, np.array([feed]), bender.die_radius_mm, rounds
        )
        return _Fix(feed, vectors[0], seating)

    rough = sorted((bent(float(f), 1) for f in feeds), key=lambda fix: fix.seating.max_mm)
    tries = [bent(fix.feed_mm, 3) for fix in rough[:3]]
    before = seat(curve, plan.saddles_mm, guess).max_mm
    useful = [
        t
        for t in tries
        if LEAST_BEND_DEG <= np.degrees(np.linalg.norm(t.vector)) <= bender.max_bend_deg
        and t.seating.max_mm < before
    ]
    return min(useful, key=lambda t: t.seating.max_mm) if useful else None


def _as_step(fix: _Fix, curve: np.ndarray, plan: RodPlan, done: int) -> BendStep:
    """The bend in the bender's terms: turn counted from the last bend's direction."""
    tangent = _tangent(curve, fix.feed_mm)
    angle = float(np.linalg.norm(fix.vector))
    direction = np.cross(fix.vector / angle, tangent) if angle > 1e-9 else None
    turn = 0.0
    if done and direction is not None:
        last = carried_direction(
            curve, plan.steps[:done], plan.order.bender.die_radius_mm, fix.feed_mm
        )
        turn = math.degrees(math.atan2(np.cross(last, direction) @ tangent, last @ direction))
    bend = round(math.degrees(angle), 1)
    order = plan.order
    return BendStep(
        done + 1,
        round(fix.feed_mm, 1),
        round(turn, 1),
        bend,
        round(bend_set_deg(bend, MATERIALS[order.material], order.diameter_mm, order.bender), 1),
    )


def carried_direction(
    curve: np.ndarray, steps: Sequence[BendStep], die: float, feed_mm: float
) -> np.ndarray:
    """Where the last of the steps points on a rod bent by them, carried without twist to feed_mm."""
    ideal = replay_steps(steps, float(arc_positions_mm(curve)[-1]), die)
    arc, arc_ideal = arc_positions_mm(curve), arc_positions_mm(ideal)
    share = np.linspace(0.0, 1.0, 60)
    T = fit_rigid(
        point_at(ideal, arc_ideal, share * arc_ideal[-1]), point_at(curve, arc, share * arc[-1])
    )
    last = steps[-1]
    before, after = (
        _tangent(ideal, last.feed_mm + sign * (0.5 * die * math.radians(last.bend_deg) + 2.0))
        for sign in (-1.0, 1.0)
    )
    direction = T[:3, :3] @ (after - before)
    path = np.linspace(last.feed_mm, feed_mm, max(2, int(abs(feed_mm - last.feed_mm) / 2.0) + 1))
    here = _tangent(curve, float(path[0]))
    direction = direction - (direction @ here) * here
    for s in path[1:]:
        ahead = _tangent(curve, float(s))
        axis = np.cross(here, ahead)
        sine = float(np.linalg.norm(axis))
        if sine > 1e-12:
            angle = math.atan2(sine, float(here @ ahead))
            direction = rotation(axis / sine * angle) @ direction
        here = ahead
    return direction / np.linalg.norm(direction)


def apply_bend(
    curve_mm: np.ndarray, step: BendStep, last_direction: np.ndarray, die: float
) -> np.ndarray:
    """The rod (M, 3), caudal first, after one more step whose turn counts from last_direction."""
    tangent = _tangent(curve_mm, step.feed_mm)
    start = last_direction - (last_direction @ tangent) * tangent
    start = start / np.linalg.norm(start)
    turn = math.radians(step.rotate_deg)
    direction = math.cos(turn) * start + math.sin(turn) * np.cross(tangent, start)
    vector = np.cross(tangent, direction) * math.radians(step.bend_deg)
    return bend_curve(curve_mm, step.feed_mm, vector, die)
