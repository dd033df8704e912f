# SPDX-License-Identifier: Apache-2.0
"""Where a rod is seen: measured along a rough curve, and on beyond its ends until it stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.types import Rejected

from .config import RodConfig
from .types import RodMeasurements

Measure = Callable[[np.ndarray, np.ndarray], RodMeasurements]
"""(points (K, 3) metres, tangents (K, 3) unit) -> what is seen there."""

_MOST_WALKS = 5
_WALK_GAP_MM = 18.0  # beyond the rough curve's ends, a longer gap is the end
_BENT_PLACES = 9  # of an end, from which its bend is taken
_SURE = 3.0  # log odds beyond which an eye is not surer


@dataclass(frozen=True)
class Sampled:
    """A hypothesis s_mm (K,) rising, points (K, 3), tangents (K, 3), and what was measured there."""

    s_mm: np.ndarray
    measured: RodMeasurements

    def seen(self, config: RodConfig) -> np.ndarray:
        """(K,) bool, lone answers smoothed away."""
        p = seen_by_both(self.measured)
        if len(p) >= 3:
            padded = np.concatenate([p[:1], p, p[-1:]])
            p = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
        return p >= config.presence


def seen_by_both(measured: RodMeasurements) -> np.ndarray:
    """(K,) confidence of a rod from that of either eye: the sum of both log odds.

    A sure eye outweighs one that sees nothing, for it may be hidden there; an unsure one does not:
    what only one eye takes for a rod, beyond its end, is mostly none. An eye that cannot look (0 or
    NaN) has no say.
    """
    both = np.stack([measured.confidence_left, measured.confidence_right])
    both = np.nan_to_num(both, nan=0.0)
    p = np.clip(both, 1e-6, 1.0 - 1e-6)
    odds = np.clip(np.log(p / (1.0 - p)), -_SURE + 0.1, _SURE).sum(axis=0)
    looks = (both > 0.0).all(axis=0)
    return np.asarray(np.where(looks, 1.0 / (1.0 + np.exp(-odds)), both.max(axis=0)))


def arc_mm(points: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], 1e3 * np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])


def even(first: float, last: float, step: float) -> np.ndarray:
    return np.linspace(first, last, max(4, int(np.ceil((last - first) / step)) + 1))


def walked(
    s: np.ndarray, points: np.ndarray, measure: Measure, config: RodConfig
) -> Sampled | Rejected:
    """Measure along the curve and outwards until the rod is seen no more; cut to what is seen."""
    grid = even(s[0], s[-1], config.spacing_mm)
    inner = np.stack([np.interp(grid, s, points[:, k]) for k in range(3)], axis=1)
    steps = np.arange(1, int(config.walk_mm / config.spacing_mm) + 1) * config.spacing_mm
    before, after = _beyond(inner[::-1], steps)[::-1], _beyond(inner, steps)
    sampled = _measured(
        np.concatenate([grid[0] - steps[::-1], grid, grid[-1] + steps]),
        np.concatenate([before, inner, after]),
        measure,
    )
    for _ in range(_MOST_WALKS):
        seen = np.flatnonzero(sampled.seen(config))
        if not len(seen):
            break
        last = len(sampled.s_mm) - 1
        margin = int(_WALK_GAP_MM / config.spacing_mm)
        if seen[-1] + margin > last:
            sampled = _extended(sampled, steps, measure, at_end=True)
        elif seen[0] < margin:
            sampled = _extended(sampled, steps, measure, at_end=False)
        else:
            break
    seen = sampled.seen(config)
    seen_mm = float(seen.sum()) * config.spacing_mm
    if seen_mm < config.least_seen_mm:
        return Rejected(f"only {seen_mm:.0f} mm of it are seen; uncover the rod")
    return _cut(sampled, grid[0], grid[-1], config)


def _beyond(points: np.ndarray, steps_mm: np.ndarray) -> np.ndarray:
    """On from the end of a curve: bent as its last stretch is across the view, straight in depth,
    whose curvature two eyes hardly tell."""
    last = points[-max(4, _BENT_PLACES) :]
    s = -arc_mm(last[::-1])[::-1]
    view = last[-1] / np.linalg.norm(last[-1])
    way = last - last[-1]
    depth = way @ view
    flat = way - depth[:, None] * view
    bent = np.linalg.lstsq(np.stack([s, s**2], axis=1), flat, rcond=None)[0]
    slope = s[-5:] @ depth[-5:] / max(float(s[-5:] @ s[-5:]), 1e-9)
    on = np.stack([steps_mm, steps_mm**2], axis=1) @ bent
    return np.asarray(points[-1] + on + (steps_mm * slope)[:, None] * view)


def _measured(s: np.ndarray, points: np.ndarray, measure: Measure) -> Sampled:
    tangents = np.gradient(points, s, axis=0)
    tangents /= np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-12)
    measured = measure(points, tangents)
    if len(measured.point_m) != len(points):
        raise ValueError(
            f"rod refiner: asked for {len(points)} places, answered {len(measured.point_m)}"
        )
    return Sampled(s, measured)


def _extended(sampled: Sampled, steps: np.ndarray, measure: Measure, at_end: bool) -> Sampled:
    old = sampled.measured
    if at_end:
        s = sampled.s_mm[-1] + steps
        new = _measured(s, _beyond(old.point_m, steps), measure)
        return Sampled(np.concatenate([sampled.s_mm, s]), joined(old, new.measured))
    s = (sampled.s_mm[0] - steps)[::-1]
    new = _measured(s, _beyond(old.point_m[::-1], steps)[::-1], measure)
    return Sampled(np.concatenate([s, sampled.s_mm]), joined(new.measured, old))


def joined(a: RodMeasurements, b: RodMeasurements) -> RodMeasurements:
    return RodMeasurements(
        *(np.concatenate([getattr(a, f), getattr(b, f)]) for f in RodMeasurements.__annotations__)
    )


def _cut(sampled: Sampled, first: float, last: float, config: RodConfig) -> Sampled:
    """The stretch from end to end: seen places, hidden ones between them bridged.

    Within the rough curve (first to last, mm) gaps up to bridge_mm are hidden rod; beyond it a
    gap of _WALK_GAP_MM ends it, because what follows may be another piece of metal.
    """
    seen = np.flatnonzero(sampled.seen(config))
    s = sampled.s_mm
    middle = seen[np.abs(s[seen] - 0.5 * (first + last)).argmin()]
    start = end = int(np.flatnonzero(seen == middle)[0])

    def continues(a: int, b: int) -> bool:
        inside = first <= s[a] <= last and first <= s[b] <= last
        return bool(s[b] - s[a] <= (config.bridge_mm if inside else _WALK_GAP_MM))

    while start > 0 and continues(seen[start - 1], seen[start]):
        start -= 1
    while end < len(seen) - 1 and continues(seen[end], seen[end + 1]):
        end += 1
    keep = slice(int(seen[start]), int(seen[end]) + 1)
    measured = RodMeasurements(
        *(getattr(sampled.measured, f)[keep] for f in RodMeasurements.__annotations__)
    )
    return Sampled(s[keep], measured)
