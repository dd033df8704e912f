# SPDX-License-Identifier: Apache-2.0
"""Planning anew while the drill is in the bone: the trajectory that is safest around the newest pose,
of those that what is drilled already leaves; where none is safe, a refusal, and that means stop.

Before the bone is entered, the entry may shift and the axis lean within the limits of `Freedom`. In the
bone the tip stays where it is, and a drill leans about it no more than its hole gives way: `play_mm`
over the depth. Every candidate is walked on the grid of distances of `Cortex`, and the best one again
by exact distances.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rod_bending_ar.core.cortex import Cortex
from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.types import Rejected, ScrewPlan

from .clearance import Reach, across_of, reach, walked
from .safety import Belief, Drill, Limits, on_plan

_PER_DEG, _PER_MM = 0.03, 0.15  # mm of slack that a degree of leaning and a mm of shift must gain
_PER_REACH = 100.0  # mm of slack per mm of depth: depth that is safe comes first
_RINGS, _SHIFTS = 2, 1
_ROUNDS, _LOOKED_AT = 7, 3


@dataclass(frozen=True)
class Freedom:
    """What a new trajectory may be. lean_deg: about the planned axis, or about the hole's; shift_mm: of
    the entry, before the bone is entered; play_mm: what a drill in its hole gives way. least_mm: a
    trajectory that is not safe for so much more is none. whole: before the bone is entered, one that
    is not safe down to the planned depth is none either. enough_mm: of margin beyond what the error
    asks for; more is no better."""

    lean_deg: float = 8.0
    shift_mm: float = 3.0
    play_mm: float = 0.6
    least_mm: float = 1.0
    whole: bool = True
    enough_mm: float = 1.0


@dataclass(frozen=True)
class Replanned:
    """plan: in the mesh, from the level of the entry to where the tip may go. entry_camera_m,
    target_camera_m (3,): the same in the camera's frame. complete: whether that is the planned depth.
    margin_mm, needed_mm: as of `Advance`. lean_deg, shift_mm: off the planned axis, or the hole's."""

    plan: ScrewPlan
    entry_camera_m: np.ndarray
    target_camera_m: np.ndarray
    complete: bool
    margin_mm: float
    needed_mm: float
    lean_deg: float
    shift_mm: float


def replan(
    cortex: Cortex,
    plan: ScrewPlan,
    belief: Belief,
    drill: Drill | None,
    diameter_mm: float,
    limits: Limits,
    freedom: Freedom | None = None,
) -> Replanned | Rejected:
    """The safest trajectory about the planned axis or, where `drill` is in the bone, about its hole."""
    freedom = freedom or Freedom()
    length = float(np.linalg.norm(plan.target_m - plan.entry_m))
    start, way, depth = plan.entry_m, (plan.target_m - plan.entry_m) / max(length, 1e-9), 0.0
    lean, shift = np.radians(freedom.lean_deg), 1e-3 * freedom.shift_mm
    begun = False
    if drill is not None:
        placed = on_plan(plan, belief, drill)
        if isinstance(placed, Rejected):
            return placed
        tip = placed[0] + placed[2] * placed[1]
        if placed[2] > 0.0 or float(cortex.exact_m(tip[None])[0]) < 0.0:
            begun, (start, way, depth) = True, placed
            held = max(depth, 1e-3 * freedom.least_mm)
            lean, shift = min(lean, np.arctan(1e-3 * freedom.play_mm / held)), 0.0
    if length - depth < 1e-3 * freedom.least_mm:
        return Rejected(f"{plan.level} {plan.side}: the planned depth is reached")
    found = _searched(
        cortex, belief, (start, way, depth), length, 0.5e-3 * diameter_mm, limits.sigmas,
        float(lean), shift, 1e-3 * freedom.enough_mm,
    )  # fmt: skip
    if isinstance(found, Rejected):
        return Rejected(f"{plan.level} {plan.side}: {found.reason}")
    origin, into, safe = found
    least = 1e-3 * freedom.least_mm if begun or not freedom.whole else length
    if safe.end_m - depth < least - 1e-9:
        return Rejected(
            f"{plan.level} {plan.side}: no trajectory is safe for {1e3 * least:.0f} mm more; the"
            f" best leaves {1e3 * safe.margin_m:.1f} mm to the wall and needs"
            f" {1e3 * safe.needed_m:.1f} mm"
        )
    target = origin + safe.end_m * into
    turned = float(np.degrees(np.arccos(np.clip(into @ way, -1.0, 1.0))))
    off = 0.0 if depth > 0.0 else float(np.linalg.norm(origin - start))
    return Replanned(
        ScrewPlan(plan.level, plan.side, origin, target),
        transform_points(belief.T_camera_ct, origin), transform_points(belief.T_camera_ct, target),
        safe.end_m >= length - 1e-9, 1e3 * safe.margin_m, 1e3 * safe.needed_m, turned, 1e3 * off,
    )  # fmt: skip


def _searched(
    cortex: Cortex,
    belief: Belief,
    now: tuple[np.ndarray, np.ndarray, float],
    length: float,
    radius: float,
    sigmas: float,
    lean: float,
    shift: float,
    enough: float,
) -> tuple[np.ndarray, np.ndarray, Reach] | Rejected:
    """The best start and direction, and how far they reach: a coarse look at all that is free, then
    ever smaller steps about the best; the grid proposes, exact distances choose."""
    start, way, depth = now
    across, tip = across_of(way), start + depth * way

    def placed(free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ways = way + np.tan(free[:, :2]) @ across
        ways /= np.linalg.norm(ways, axis=1, keepdims=True)
        return tip + free[:, 2:] @ across - depth * ways, ways

    def worth(end: np.ndarray, slack: np.ndarray, free: np.ndarray) -> np.ndarray:
        cost = _PER_DEG * np.degrees(np.hypot(free[:, 0], free[:, 1]))
        cost += 1e3 * _PER_MM * np.hypot(free[:, 2], free[:, 3])
        gain = _PER_REACH * np.maximum(end - depth, 0.0) + np.minimum(slack, enough)
        return np.asarray(1e3 * gain - cost)

    def scored(free: np.ndarray) -> np.ndarray:
        found = walked(cortex, belief.covariance, belief.anchor_m, *placed(free), depth, length,
                       radius, sigmas, enough)  # fmt: skip
        return worth(found[:, 0], found[:, 1], free)

    leans = lean * _disc(_RINGS)
    shifts = shift * _disc(_SHIFTS) if shift > 0.0 else np.zeros((1, 2))
    free = np.concatenate(
        [np.repeat(leans, len(shifts), axis=0), np.tile(shifts, (len(leans), 1))], axis=1
    )
    score = scored(free)
    order = np.argsort(-score, kind="stable")[:_LOOKED_AT]
    best, kept = float(score[order[0]]), free[order[0]]
    step = np.array([lean / _RINGS] * 2 + [shift / _SHIFTS] * 2)
    moves = np.concatenate([np.eye(4), -np.eye(4)])[[0, 1, 4, 5] if shift == 0.0 else slice(None)]
    for _ in range(_ROUNDS):
        step = 0.6 * step
        tried = _within(kept + moves * step, lean, shift)
        score = scored(tried)
        if score.max() > best:
            best, kept = float(score.max()), tried[int(score.argmax())]
    proposed = np.concatenate([np.zeros((1, 4)), kept[None], free[order]])
    chosen: tuple[np.ndarray, np.ndarray, Reach] | Rejected
    chosen, most = Rejected("no axis that is left enters the bone near the planned entry"), -np.inf
    for free_one, origin, into in zip(proposed, *placed(proposed), strict=True):
        found = reach(cortex, belief.covariance, belief.anchor_m, origin, into, depth, length, radius,
                      sigmas)  # fmt: skip
        if isinstance(found, Rejected):
            continue
        value = float(worth(np.array(found.end_m), np.array(found.slack_m), free_one[None])[0])
        if value > most:
            chosen, most = (origin, into, found), value
    return chosen


def _disc(rings: int) -> np.ndarray:
    """(N, 2) places over the unit disc: the middle, and 6 k on ring k."""
    places = [np.zeros((1, 2))]
    for k in range(1, rings + 1):
        turn = 2.0 * np.pi * np.arange(6 * k) / (6 * k)
        places.append(k / rings * np.stack([np.cos(turn), np.sin(turn)], axis=1))
    return np.concatenate(places)


def _within(free: np.ndarray, lean: float, shift: float) -> np.ndarray:
    out = free.copy()
    for part, most in ((slice(0, 2), lean), (slice(2, 4), shift)):
        long = np.linalg.norm(out[:, part], axis=1, keepdims=True)
        out[:, part] *= np.minimum(1.0, most / np.maximum(long, 1e-12))
    return out
