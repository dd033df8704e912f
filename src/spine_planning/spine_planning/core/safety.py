# SPDX-License-Identifier: Apache-2.0
"""What may be drilled along a pose that is known only so well: the probability that a screw breaches,
and how far and how fast a tip may go. Whatever is not known is a `Rejected`, and that means stop.

The wall, the shaft and the exempt entry are `rod_bending_ar.core.cortex`'s; how far is safe, `clearance`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, sqrt

import numpy as np

from rod_bending_ar.core.cortex import (
    DIAMETER_MM,
    Cortex,
    normal_draws,
    shaft,
)
from rod_bending_ar.core.error_shape import usable_covariance
from spine_nav_common.core.clock import GUIDANCE_MS
from spine_nav_common.core.geometry import invert, transform_points
from spine_nav_common.core.statistics import SIGMAS_3D_95
from spine_nav_common.core.types import LevelEstimate, Rejected, ScrewPlan, Status

from .clearance import across_of, reach, spreads

SIGMAS = {0.95: 1.645, 0.995: 2.576}  # one wall, one side


@dataclass(frozen=True)
class Limits:
    """max_age_ms: of a pose, from its image on. max_tre_mm: predicted error (95 %) above which nothing
    is drilled. confidence: of the distance to the wall, one of SIGMAS."""

    max_age_ms: float = GUIDANCE_MS
    max_tre_mm: float = 4.0
    confidence: float = 0.995

    def __post_init__(self) -> None:
        if self.confidence not in SIGMAS:
            raise ValueError(f"confidence: {self.confidence}; use one of {sorted(SIGMAS)}")

    @property
    def sigmas(self) -> float:
        """k."""
        return SIGMAS[self.confidence]


@dataclass(frozen=True)
class Belief:
    """A pose that may be drilled by. T_camera_ct (4, 4); covariance (6, 6) of the error in the axes of
    the mesh about anchor_m (3,), a point of the mesh, translation first, metres and radians."""

    T_camera_ct: np.ndarray
    covariance: np.ndarray
    anchor_m: np.ndarray

    def spread(self, point_m: np.ndarray) -> np.ndarray:
        """Covariance (3, 3) of a point of the mesh, m^2."""
        return np.asarray(spreads(point_m[None], self.covariance, self.anchor_m)[0])


@dataclass(frozen=True)
class Drill:
    """A drill's or robot's tip: tip_m (3,) in the camera's frame, into (3,) its unit direction there,
    at the moment of the pose."""

    tip_m: np.ndarray
    into: np.ndarray


@dataclass(frozen=True)
class Breach:
    """p: probability that the shaft breaches, never 0. margin_mm: nominal, where it is least beside the
    error; sigma_mm: of the error there; toward: where the cortex is nearest."""

    p: float
    margin_mm: float
    sigma_mm: float
    toward: str


@dataclass(frozen=True)
class Advance:
    """How far and fast the tip may go. margin_mm: nominal, of the drill to the wall, where least is left
    of it beside needed_mm, what the error asks for there. limit: "plan" or "wall"."""

    advance_mm: float
    speed_mm_s: float
    margin_mm: float
    needed_mm: float
    limit: str


def usable_pose(
    estimate: LevelEstimate, age_ms: float, plan: ScrewPlan, limits: Limits
) -> Belief | Rejected:
    """The pose of an estimate, if a tip may move by it.

    Its covariance grows to what `predicted_tre_mm` says about the screw, where it says less.
    """
    level = estimate.level
    if estimate.status is not Status.TRACKED or estimate.T_camera_ct is None:
        return Rejected(f"{level} is not tracked: {estimate.reason or estimate.status.value}")
    if not 0.0 <= age_ms <= limits.max_age_ms:
        return Rejected(f"the pose of {level} is {age_ms:.0f} ms old")
    bound_mm = estimate.predicted_tre_mm
    if bound_mm is None or not np.isfinite(bound_mm):
        return Rejected(f"the predicted error of {level} is not known")
    if bound_mm > limits.max_tre_mm:
        return Rejected(
            f"{level} is known within {bound_mm:.1f} mm only, {limits.max_tre_mm:g} mm are asked for"
        )
    covariance = usable_covariance(estimate.covariance)
    if covariance is None or estimate.anchor_camera_m is None:
        return Rejected(f"the pose of {level} has no covariance")
    T = estimate.T_camera_ct
    if not (np.isfinite(T).all() and np.isfinite(estimate.anchor_camera_m).all()):
        return Rejected(f"the pose of {level} is not finite")
    turn = np.kron(np.eye(2), T[:3, :3].T)
    anchor = transform_points(invert(T), estimate.anchor_camera_m)
    belief = Belief(T, turn @ covariance @ turn.T, anchor)
    widest = sqrt(np.linalg.eigvalsh(belief.spread(0.5 * (plan.entry_m + plan.target_m)))[-1])
    grown = max(1.0, 1e-3 * bound_mm / (SIGMAS_3D_95 * widest))
    return Belief(T, grown**2 * belief.covariance, anchor)


def breach(
    cortex: Cortex, plan: ScrewPlan, belief: Belief, diameter_mm: float = DIAMETER_MM
) -> Breach | Rejected:
    """A screw that is drilled along the estimated pose, against where the bone may really be."""
    length = float(np.linalg.norm(plan.target_m - plan.entry_m))
    way = (plan.target_m - plan.entry_m) / max(length, 1e-9)
    values, axes = np.linalg.eigh(belief.covariance)
    errors = normal_draws()[:, :6] @ (axes * np.sqrt(np.maximum(values, 0.0))).T
    starts = plan.entry_m + errors[:, :3] + np.cross(errors[:, 3:], plan.entry_m - belief.anchor_m)
    ways = way + np.cross(errors[:, 3:], way)
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    found = shaft(cortex, plan, plan.entry_m, way, (starts, ways), diameter_mm)
    if isinstance(found, Rejected):
        return found
    points = plan.entry_m + found.s_m[:, None] * way
    sigmas_mm = 1e3 * _toward_wall(cortex, points, way, belief)
    k = int((found.margin_mm / sigmas_mm).argmin())
    # Draws count all walls at once, but their share is 0 where one in thousand breaches.
    alone = 0.5 * erfc(float(found.margin_mm[k] / sigmas_mm[k]) / sqrt(2.0))
    return Breach(
        max(found.draws.p_breach, alone), float(found.margin_mm[k]), float(sigmas_mm[k]),
        found.toward,
    )  # fmt: skip


def _toward_wall(cortex: Cortex, points: np.ndarray, way: np.ndarray, belief: Belief) -> np.ndarray:
    """(N,) sigma of points (N, 3) of a shaft toward their nearest wall, metres."""
    across = across_of(way)
    step = 0.25e-3 * np.concatenate([across, -across])
    d = cortex.exact_m((points[:, None] + step).reshape(-1, 3)).reshape(-1, 4)
    slope = (d[:, :2] - d[:, 2:]).astype(float) @ across
    long = np.linalg.norm(slope, axis=1, keepdims=True)
    # on a ridge between walls, or with the wall ahead, no direction across is nearest
    slope = np.where(long > 1e-9, slope / np.maximum(long, 1e-9), across[0])
    squares = np.einsum(
        "ni,nij,nj->n", slope, spreads(points, belief.covariance, belief.anchor_m), slope
    )
    return np.sqrt(np.maximum(squares, 1e-12))


def allowed_advance(
    cortex: Cortex,
    plan: ScrewPlan,
    belief: Belief,
    drill: Drill,
    diameter_mm: float,
    limits: Limits,
    wanted_mm_s: float = np.inf,
) -> Advance | Rejected:
    """How far the tip may go straight on, to the planned depth at most, by exact distances.

    The speed lets the tip come to rest within that way even if no further pose comes before this one
    is too old, and falls with it over what the error asks for.
    """
    placed = on_plan(plan, belief, drill)
    if isinstance(placed, Rejected):
        return placed
    start, way, depth = placed
    length = float(np.linalg.norm(plan.target_m - plan.entry_m))
    radius = 0.5e-3 * diameter_mm
    found = reach(
        cortex, belief.covariance, belief.anchor_m, start, way, depth, length, radius, limits.sigmas
    )
    if isinstance(found, Rejected):
        return Rejected(f"{plan.level} {plan.side}: {found.reason}")
    advance = float(np.clip(found.end_m - depth, 0.0, max(length - depth, 0.0)))
    speed = 0.0
    if advance > 0.0:
        room = min(advance / max(found.needed_m, 1e-9), 1.0)
        speed = min(wanted_mm_s * room, 1e6 * advance / limits.max_age_ms)
    limit = "plan" if found.end_m >= length else "wall"
    return Advance(1e3 * advance, speed, 1e3 * found.margin_m, 1e3 * found.needed_m, limit)


def on_plan(
    plan: ScrewPlan, belief: Belief, drill: Drill
) -> tuple[np.ndarray, np.ndarray, float] | Rejected:
    """A drill in the bone: the place (3,) on its axis level with the planned entry, its unit vector
    (3,) in the mesh, and how far the tip is past that place, metres."""
    n = float(np.linalg.norm(drill.into))
    if not (np.isfinite(drill.tip_m).all() and np.isfinite(n) and abs(n - 1.0) < 1e-3):
        return Rejected("the drill has no usable place or direction")
    tip = transform_points(invert(belief.T_camera_ct), drill.tip_m)
    way = belief.T_camera_ct[:3, :3].T @ drill.into / n
    depth = float((tip - plan.entry_m) @ way)
    return tip - depth * way, way, depth
