# SPDX-License-Identifier: Apache-2.0
"""Rods looked for where two heads stand beside each other: a rod that the finder does not see.

The finder judges the whole picture at a scale that suits most of it; the rod refiner sees a stretch
of a rod at its own. A seated rod runs from saddle to saddle, so its place is known before anything
of it is seen, and one close look between the heads tells whether it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from spine_nav_common.core.types import ScrewTrack

from .config import RodConfig
from .rod_group import SeedCurve
from .types import RodMeasurements, StereoCamera

Measure = Callable[[np.ndarray, np.ndarray], RodMeasurements]

_NEAREST_MM, _FARTHEST_MM = 14.0, 65.0  # between neighbours of a row, one level left out
_SLANT = (
    0.6  # cosine between a tulip's axis and the rod through it; polyaxial heads turn 30 degrees
)
_BESIDE_MM = 8.0  # a third head this near to the line between two stands in their row
_LOOKS = 7
_FREE_MM = 7.0  # about a saddle the tulip hides the rod
_SHOWN = 0.7  # share of the looks that must see it
_TURN = 0.3  # cosine: what one head holds goes on, it does not turn back


def rods_between_heads(
    camera: StereoCamera,
    screws: Sequence[ScrewTrack],
    known: Sequence[np.ndarray],
    measure: Measure,
    sees: Callable[[RodMeasurements], np.ndarray],
    config: RodConfig,
) -> list[SeedCurve]:
    """Rough curves from saddle to saddle where the refiner sees a rod between the heads.

    Args:
        known: curves (K, 3) that are measured anyway; what lies along one of them is left to it.
        measure: what is seen at places (K, 3) with tangents (K, 3); asked once, for all pairs.
        sees: (K,) confidence of both eyes together.
    """
    points = np.array([s.head.point_m for s in screws]).reshape(-1, 3)
    axes = np.array([s.head.axis for s in screws]).reshape(-1, 3)
    pairs = [p for p in _neighbours(points, axes) if not _explained(points[list(p)], known, config)]
    if not pairs:
        return []
    places, ways = [], []
    for i, j in pairs:
        way = points[j] - points[i]
        length = float(np.linalg.norm(way))
        margin = min(1e-3 * _FREE_MM / length, 0.3)
        share = np.linspace(margin, 1.0 - margin, _LOOKS)[:, None]
        places.append(points[i] + share * way)
        ways.append(np.tile(way / length, (_LOOKS, 1)))
    measured = measure(np.concatenate(places), np.concatenate(ways))
    seen = np.where(_on_the_line(measured, camera, config), sees(measured), 0.0)
    seen = seen.reshape(len(pairs), _LOOKS)
    share = (seen >= config.presence).mean(axis=1)
    rated = [
        (float(v.mean()), p) for v, p, s in zip(seen, pairs, share, strict=True) if s >= _SHOWN
    ]
    return [_curve(points[row], weight, config) for row, weight in _rows(points, rated)]


def _on_the_line(measured: RodMeasurements, camera: StereoCamera, config: RodConfig) -> np.ndarray:
    """(K,) bool: what either eye sees there passes the place, and does not merely cross its view."""
    reach_px = 1e-3 * config.across_mm * camera.intrinsics.fx / measured.point_m[:, 2]
    on = np.ones(len(reach_px), bool)
    for offset, confidence in (
        (measured.offset_left_px, measured.confidence_left),
        (measured.offset_right_px, measured.confidence_right),
    ):
        on &= ~(confidence >= config.presence) | (np.abs(offset) <= reach_px)
    return on


def _neighbours(points: np.ndarray, axes: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of heads that a rod may join without passing a third."""
    pairs = []
    for i in range(len(points)):
        for j in range(i + 1, len(points)):
            way = points[j] - points[i]
            length = float(np.linalg.norm(way))
            if not _NEAREST_MM < 1e3 * length < _FARTHEST_MM:
                continue
            way = way / length
            if max(abs(float(axes[i] @ way)), abs(float(axes[j] @ way))) > _SLANT:
                continue
            off = points - points[i]
            along = off @ way
            beside = np.linalg.norm(off - along[:, None] * way, axis=1)
            between = (along > 0.0) & (along < length) & (1e3 * beside < _BESIDE_MM)
            between[[i, j]] = False
            if not between.any():
                pairs.append((i, j))
    return pairs


def _explained(ends: np.ndarray, known: Sequence[np.ndarray], config: RodConfig) -> bool:
    """Whether the middle between two heads lies on a known curve as the camera sees it; its depth
    is what the measurement is for."""
    middle = ends.mean(axis=0)
    view = middle / np.linalg.norm(middle)
    for curve in known:
        way = curve - middle
        depth = way @ view
        across = np.linalg.norm(way - depth[:, None] * view, axis=1)
        k = int(across.argmin())
        if 1e3 * across[k] < config.across_mm and 1e3 * abs(depth[k]) < config.depth_mm:
            return True
    return False


def _rows(
    points: np.ndarray, rated: Sequence[tuple[float, tuple[int, int]]]
) -> list[tuple[list[int], float]]:
    """Heads in order along each rod, and its weight, from the pairs that a rod joins; the surest
    pair first, and a pair that would make a rod turn back or fork left out."""
    links: dict[int, list[int]] = {}
    weight: dict[int, float] = {}
    for rate, (i, j) in sorted(rated, reverse=True):
        if all(_goes_on(points, a, b, links.get(a, [])) for a, b in ((i, j), (j, i))) and (
            j not in _reach(i, links)
        ):
            links.setdefault(i, []).append(j)
            links.setdefault(j, []).append(i)
            weight[i] = weight.get(i, 0.0) + rate
    rows = []
    for end in [k for k, near in links.items() if len(near) == 1]:
        row = _reach(end, links)
        if row[0] < row[-1]:  # each rod from one of its ends only
            rows.append((row, sum(weight.get(k, 0.0) for k in row)))
    return rows


def _goes_on(points: np.ndarray, at: int, to: int, linked: Sequence[int]) -> bool:
    if len(linked) > 1:
        return False
    way = points[to] - points[at]
    for other in linked:
        back = points[other] - points[at]
        if way @ back > -_TURN * np.linalg.norm(way) * np.linalg.norm(back):
            return False
    return True


def _reach(start: int, links: dict[int, list[int]]) -> list[int]:
    """What is linked to `start`, in order if that is an end."""
    row, todo = [start], list(links.get(start, []))
    while todo:
        k = todo.pop()
        if k not in row:
            row.append(k)
            todo += links.get(k, [])
    return row


def _curve(saddles: np.ndarray, weight: float, config: RodConfig) -> SeedCurve:
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(saddles, axis=0), axis=1))])
    count = max(4, int(np.ceil(1e3 * arc[-1] / config.spacing_mm)) + 1)
    even = np.linspace(0.0, arc[-1], count)
    return SeedCurve(np.stack([np.interp(even, arc, saddles[:, k]) for k in range(3)], 1), weight)
