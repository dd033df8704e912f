# SPDX-License-Identifier: Apache-2.0
"""What the heads that hold a rod tell of it, and it of them: it goes on to their saddles and past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from spine_nav_common.core.types import Head3D, RodFit, ScrewTrack

from .config import RodConfig
from .rod_spline import SplineFit
from .rod_walk import Sampled, even, joined
from .types import RodMeasurements

SAMPLE_MM = 0.8
"""Distance between two places of a reported rod, and of a curve that is searched."""
_SEATED_SIGMAS = 3.5
_HOVER_SIGMAS = 2.5  # of the mean over all heads
_HIDES_MM = 18.0  # a tulip with its arms hides the rod so far from the saddle, seen aslant
_DRIFT = (
    0.2  # the straight continuation of a rod's end may miss the saddle by this share of its way
)
_UPRIGHT = 0.6  # cosine between a tulip's axis and the rod through it
_LEAST_ACROSS = 0.3  # a rod that runs towards the camera points nowhere in the image
_OVERHANG_MM = 3.0  # a seated rod stands out of its last tulip by at least so much


def to_saddles(
    fit: SplineFit,
    sampled: Sampled,
    screws: Sequence[ScrewTrack],
    config: RodConfig,
) -> Sampled | None:
    """The stretch prolonged to a head that stands where an end points to; None without one.

    A rod is hidden by the arms that hold it, so what is seen of it ends before the saddle.
    """
    added = [_reached(fit, sampled, screws, config, at_end) for at_end in (False, True)]
    if added[0] is None and added[1] is None:
        return None
    before, after = added
    out = sampled
    if before is not None:
        s, points = before
        out = Sampled(
            np.concatenate([s, out.s_mm]),
            joined(_unseen(points, out.measured, 0), out.measured),
        )
    if after is not None:
        s, points = after
        out = Sampled(
            np.concatenate([out.s_mm, s]),
            joined(out.measured, _unseen(points, out.measured, -1)),
        )
    return out


def _reached(
    fit: SplineFit,
    sampled: Sampled,
    screws: Sequence[ScrewTrack],
    config: RodConfig,
    at_end: bool,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Arc positions (K,) rising and places (K, 3) from an end past the nearest saddle it points to."""
    last = sampled.s_mm[-1 if at_end else 0]
    ends = np.array([last, last - 10.0 if at_end else last + 10.0])
    end, inner = fit.points(np.clip(ends, sampled.s_mm[0], sampled.s_mm[-1]))
    way = (end - inner) / max(float(np.linalg.norm(end - inner)), 1e-9)
    view = end / np.linalg.norm(end)
    sigma_rod = float(np.sqrt(view @ fit.covariance_across(np.array([last]))[0] @ view))
    seen_way = way - (way @ view) * view
    length = float(np.linalg.norm(seen_way))
    if length < _LEAST_ACROSS:
        return None
    seen_way /= length
    best: tuple[float, np.ndarray] | None = None
    for screw in screws:
        head = screw.head
        to = head.point_m - end
        flat = to - (to @ view) * view
        ahead_mm = 1e3 * float(flat @ seen_way)
        beside_mm = 1e3 * float(np.linalg.norm(flat - 1e-3 * ahead_mm * seen_way))
        depth = float(to @ view) - 1e-3 * ahead_mm / length * float(way @ view)
        own = float(view @ head.covariance_m2 @ view)
        sigma = float(np.sqrt(own + sigma_rod**2 + (1e-3 * config.seat_mm) ** 2))
        if (
            0.0 < ahead_mm / length <= _HIDES_MM
            and abs(float(head.axis @ way)) <= _UPRIGHT
            and beside_mm <= config.anchor_mm + _DRIFT * ahead_mm
            and abs(depth) <= max(1e-3 * config.anchor_mm, _SEATED_SIGMAS * sigma)
            and (best is None or ahead_mm < best[0])
        ):
            best = (ahead_mm, head.point_m - depth * view)
    if best is None:
        return None
    saddle = best[1]
    reach = 1e3 * float(np.linalg.norm(saddle - end))
    towards = (saddle - end) / max(1e-3 * reach, 1e-9)
    steps = np.arange(config.spacing_mm, reach + _OVERHANG_MM, config.spacing_mm)
    steps = np.append(steps[steps < reach + _OVERHANG_MM - 0.5], reach + _OVERHANG_MM)
    points = end + 1e-3 * steps[:, None] * towards
    return (last + steps, points) if at_end else ((last - steps)[::-1], points[::-1])


def _unseen(points: np.ndarray, near: RodMeasurements, at: int) -> RodMeasurements:
    """Places (K, 3) of which no eye sees anything; normals as at place `at` of `near`."""
    nothing, count = np.zeros(len(points)), len(points)
    wide = np.full(count, np.inf)
    return RodMeasurements(
        points,
        np.tile(near.normal_left[at], (count, 1)),
        np.tile(near.normal_right[at], (count, 1)),
        nothing, nothing, wide, wide, nothing, nothing,
    )  # fmt: skip


def seated(
    fit: SplineFit, s_mm: np.ndarray, screws: Sequence[ScrewTrack], config: RodConfig
) -> list[tuple[ScrewTrack, float]]:
    """The heads that hold the rod, with their arc positions in mm.

    Across the view a head must lie within anchor_mm of the curve, in depth within what both know of
    it. All together must not lie before or behind it: then the rod hovers over the heads, or runs
    past them, and none of them holds it.
    """
    fine = even(s_mm[0], s_mm[-1], SAMPLE_MM)
    curve = fit.points(fine)
    near: list[tuple[ScrewTrack, float]] = []
    gap, head_var, curve_var = [], [], []
    for screw in screws:
        head = screw.head
        view = head.point_m / np.linalg.norm(head.point_m)
        way = curve - head.point_m
        depth = way @ view
        across = np.linalg.norm(way - depth[:, None] * view, axis=1)
        k = int(across.argmin())
        if across[k] > 1e-3 * config.anchor_mm:
            continue
        own = float(view @ head.covariance_m2 @ view)
        rod = float(view @ fit.covariance_across(fine[k : k + 1])[0] @ view)
        sigma = float(np.sqrt(own + rod + (1e-3 * config.seat_mm) ** 2))
        reach = max(1e-3 * config.anchor_mm, _SEATED_SIGMAS * sigma)
        if abs(depth[k]) <= reach:
            near.append((screw, float(fine[k])))
            gap.append(float(depth[k]))
            head_var.append(own + (1e-3 * config.seat_mm) ** 2)
            curve_var.append(rod)
    if not near:
        return []
    weight = 1.0 / np.array(head_var)
    mean = float(weight @ gap / weight.sum())
    sigma = float(np.sqrt(1.0 / weight.sum() + np.mean(curve_var)))  # the curve errs as one
    return near if abs(mean) <= _HOVER_SIGMAS * sigma else []


@dataclass(frozen=True)
class Saddle:
    """Where a rod crosses a head's axis: point_m (3,), tangent (3,) unit, and the covariance of the
    rod's place there, covariance_m2 (3, 3)."""

    point_m: np.ndarray
    tangent: np.ndarray
    covariance_m2: np.ndarray


def saddle_of(fit: SplineFit, s_mm: float) -> Saddle:
    """Of a curve that knows nothing of the head, at arc s_mm."""
    s = np.array([s_mm])
    return Saddle(fit.points(s)[0], fit.tangents(s)[0], fit.covariance_across(s)[0])


def pulled(head: Head3D, saddle: Saddle, config: RodConfig) -> Head3D:
    """The head with the rod's place across itself as one more measurement."""
    U = np.linalg.svd(saddle.tangent[None])[2][1:]  # two directions across the rod
    noise = U @ saddle.covariance_m2 @ U.T + (1e-3 * config.seat_mm) ** 2 * np.eye(2)
    gain = np.linalg.solve(U @ head.covariance_m2 @ U.T + noise, U @ head.covariance_m2).T
    keep = np.eye(3) - gain @ U
    covariance = keep @ head.covariance_m2 @ keep.T + gain @ noise @ gain.T
    return replace(
        head,
        point_m=head.point_m + gain @ (U @ (saddle.point_m - head.point_m)),
        covariance_m2=0.5 * (covariance + covariance.T),
    )


def past_saddles(rod: RodFit, saddles_m: Sequence[np.ndarray]) -> RodFit:
    """The rod with both ends at least _OVERHANG_MM past the saddles that hold it: a saddle that
    moved the curve in depth may have moved it on along itself too."""
    for at in (0, -1):
        line = rod.centreline_m
        way = line[at] - line[4 if at == 0 else -5]
        way /= max(float(np.linalg.norm(way)), 1e-12)
        ahead = [1e3 * float((saddle - line[at]) @ way) for saddle in saddles_m]
        near = [a for a in ahead if -_OVERHANG_MM < a < _HIDES_MM]
        if not near:
            continue
        steps = 1e-3 * np.arange(SAMPLE_MM, max(near) + _OVERHANG_MM, SAMPLE_MM)
        rod = _longer(rod, at, steps, way)
    return rod


def _longer(rod: RodFit, at: int, steps_m: np.ndarray, way: np.ndarray) -> RodFit:
    """The rod with unseen places straight on from its end `at` (0 or -1)."""

    def on(values: np.ndarray, more: np.ndarray) -> np.ndarray:
        return np.concatenate([more[::-1], values] if at == 0 else [values, more])

    count = len(steps_m)
    free, free_sigma = rod.free_m, rod.free_sigma_mm
    return replace(
        rod,
        centreline_m=on(rod.centreline_m, rod.centreline_m[at] + steps_m[:, None] * way),
        sigma_mm=on(rod.sigma_mm, np.full(count, rod.sigma_mm[at])),
        seen=on(rod.seen, np.zeros(count, bool)),
        free_m=None if free is None else on(free, free[at] + steps_m[:, None] * way),
        free_sigma_mm=(
            None if free_sigma is None else on(free_sigma, np.full(count, free_sigma[at]))
        ),
    )
