# SPDX-License-Identifier: Apache-2.0
"""What may be drilled along a pose that is known only so well: the probability that a screw breaches,
and how far and how fast a tip may go. Whatever is not known is a `Rejected`, and that means stop.

The wall, the shaft and the exempt entry are `rod_bending_ar.core.cortex`'s. Across the axis a place is
safe where the distance to the wall leaves k sigma of the pose's error there, in its worst direction
across; along the axis the advance ends k sigma before the first place that is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, sqrt

import numpy as np

from rod_bending_ar.core.cortex import (
    BEFORE_M,
    BEHIND_M,
    CAP_M,
    DIAMETER_MM,
    Cortex,
    normal_draws,
    shaft,
)
from rod_bending_ar.core.error_shape import usable_covariance
from spine_nav_common.core.clock import GUIDANCE_MS
from spine_nav_common.core.compiled import compiled
from spine_nav_common.core.geometry import invert, transform_points
from spine_nav_common.core.statistics import SIGMAS_3D_95
from spine_nav_common.core.types import LevelEstimate, Rejected, ScrewPlan, Status

SIGMAS = {0.95: 1.645, 0.995: 2.576}  # one wall, one side
STEP_M = 0.5e-3
_LEAST_SIGMA_M = 1e-6  # no pose is known better: a direction without error is none that is known


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
        x, y, z = point_m - self.anchor_m
        moves = np.zeros((3, 6))  # a point moves by d + w x arm
        moves[:, :3] = np.eye(3)
        moves[:, 3:] = [[0.0, z, -y], [-z, 0.0, x], [y, -x, 0.0]]
        return np.asarray(moves @ self.covariance @ moves.T)


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
    """How far and fast the tip may go. margin_mm: nominal, of the drill to the wall, where distance over
    uncertainty is least on that way; sigma_mm: there. limit: "plan" or "wall"."""

    advance_mm: float
    speed_mm_s: float
    margin_mm: float
    sigma_mm: float
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
    sigmas_mm = 1e3 * sigmas_across(
        plan.entry_m + found.s_m[:, None] * way, way, belief.covariance, belief.anchor_m
    )
    k = int((found.margin_mm / sigmas_mm).argmin())
    # Draws count all walls at once, but their share is 0 where one in thousand breaches.
    alone = 0.5 * erfc(float(found.margin_mm[k] / sigmas_mm[k]) / sqrt(2.0))
    return Breach(
        max(found.draws.p_breach, alone), float(found.margin_mm[k]), float(sigmas_mm[k]),
        found.toward,
    )  # fmt: skip


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
    is too old, and falls to nothing as the margin falls from twice k sigma to k sigma.
    """
    placed = on_plan(plan, belief, drill)
    if isinstance(placed, Rejected):
        return placed
    start, way, depth = placed
    length = float(np.linalg.norm(plan.target_m - plan.entry_m))
    left = length - depth
    if left <= 0.0:
        return Advance(0.0, 0.0, *_here(cortex, belief, drill, diameter_mm), "plan")
    found = exact_reach(cortex, belief, start, way, depth, length, diameter_mm, limits.sigmas)
    if isinstance(found, Rejected):
        return found
    reach, margin, sigma = found
    advance = float(np.clip(reach - depth, 0.0, left))
    room = float(np.clip(margin / (limits.sigmas * sigma) - 1.0, 0.0, 1.0))
    speed = min(wanted_mm_s * room if room > 0.0 else 0.0, 1e6 * advance / limits.max_age_ms)
    limit = "plan" if reach >= length else "wall"
    return Advance(1e3 * advance, speed, 1e3 * margin, 1e3 * sigma, limit)


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


def exact_reach(
    cortex: Cortex,
    belief: Belief,
    start: np.ndarray,
    way: np.ndarray,
    depth: float,
    length: float,
    diameter_mm: float,
    sigmas: float,
) -> tuple[float, float, float] | Rejected:
    """How far past `start` the tip may go (metres, `length` at most), and margin and sigma (metres)
    where distance over uncertainty is least up to there."""
    radius = 0.5e-3 * diameter_mm
    spread = belief.spread(start + min(max(depth, 0.0), length) * way)
    ahead = sigmas * sqrt(max(float(way @ spread @ way), _LEAST_SIGMA_M**2))
    s = np.arange(-BEFORE_M, length + ahead + STEP_M, STEP_M)
    points = start + s[:, None] * way
    phi = cortex.exact_m(points).astype(float)
    into = (phi[:-1] >= 0.0) & (phi[1:] < 0.0) & (s[1:] <= BEHIND_M)
    if not into.any():
        return Rejected("the drill's axis does not enter the bone near the planned entry")
    first = s[int(into.argmax())] + CAP_M
    asked = (s >= max(first, depth - radius)) & (s <= length + ahead - radius + STEP_M)
    if not asked.any():
        return Rejected("the screw ends where its shaft would begin")
    margin = -(phi[asked] + radius)
    sigma = sigmas_across(points[asked], way, belief.covariance, belief.anchor_m)
    bad = np.flatnonzero(margin < sigmas * sigma)
    end = float(s[asked][bad[0]] - STEP_M + radius - ahead) if len(bad) else length
    passed = slice(0, max(int(bad[0]), 1) if len(bad) else None)
    k = int((margin[passed] / sigma[passed]).argmin())
    return min(end, length), float(margin[passed][k]), float(sigma[passed][k])


def _here(cortex: Cortex, belief: Belief, drill: Drill, diameter_mm: float) -> tuple[float, float]:
    """Margin and sigma at the tip's end, mm."""
    T = invert(belief.T_camera_ct)
    radius, way = 0.5e-3 * diameter_mm, T[:3, :3] @ drill.into
    centre = transform_points(T, drill.tip_m) - radius * way
    sigma = sigmas_across(centre[None], way, belief.covariance, belief.anchor_m)[0]
    return -1e3 * (float(cortex.exact_m(centre[None])[0]) + radius), 1e3 * float(sigma)


@compiled
def sigmas_across(
    points: np.ndarray, way: np.ndarray, covariance: np.ndarray, anchor: np.ndarray
) -> np.ndarray:
    """(N,) standard deviation of points (N, 3) in the worst direction across `way` (3,), metres."""
    across = np.zeros((2, 3))
    flat = int(np.abs(way).argmin())
    helper = np.zeros(3)
    helper[flat] = 1.0
    across[0] = np.cross(way, helper)
    across[0] /= np.sqrt((across[0] ** 2).sum())
    across[1] = np.cross(way, across[0])
    out = np.empty(len(points))
    h = np.empty((2, 6))
    for i in range(len(points)):
        x, y, z = points[i, 0] - anchor[0], points[i, 1] - anchor[1], points[i, 2] - anchor[2]
        for k in range(2):
            u, v, w = across[k, 0], across[k, 1], across[k, 2]
            h[k, 0], h[k, 1], h[k, 2] = u, v, w
            h[k, 3], h[k, 4], h[k, 5] = y * w - z * v, z * u - x * w, x * v - y * u
        aa = bb = ab = 0.0
        for m in range(6):
            for n in range(6):
                c = covariance[m, n]
                aa += h[0, m] * c * h[0, n]
                bb += h[1, m] * c * h[1, n]
                ab += h[0, m] * c * h[1, n]
        largest = 0.5 * (aa + bb) + np.sqrt((0.5 * (aa - bb)) ** 2 + ab * ab)
        out[i] = np.sqrt(max(largest, _LEAST_SIGMA_M**2))
    return out
