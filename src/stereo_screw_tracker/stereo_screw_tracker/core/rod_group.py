# SPDX-License-Identifier: Apache-2.0
"""From scattered rod cells to one rough curve per rod."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from .config import RodConfig
from .types import RodSeeds

_DEPTHS_M = (0.15, 1.5)
_MOST_SEEDS = 600  # pairs are compared: more would cost time and say nothing new
_GAP_ACROSS = 0.15  # a bridged gap may miss the straight continuation by this share of its length
_STEP_MM = 3.0


@dataclass(frozen=True)
class SeedCurve:
    """A rough rod: points_m (N, 3) in order, evenly spaced; weight: confidence in sum."""

    points_m: np.ndarray
    weight: float


@dataclass(frozen=True)
class _Piece:
    members: np.ndarray
    curve: np.ndarray


def group_rods(seeds: RodSeeds, config: RodConfig) -> tuple[SeedCurve, ...]:
    """The rods that the finder's cells belong to, heaviest first; none is an empty tuple.

    Cells are joined along their tangents, so that a shaft that crosses a rod, or a second rod
    beside it, stays apart; pieces are joined across hidden stretches where one continues the other;
    what stays shorter than `least_length_mm` is dropped.
    """
    point, tangent, confidence = _usable(seeds, config)
    if len(point) < 3:
        return ()
    label = connected_components(csr_matrix(_linked(point, tangent, config)), directed=False)[1]
    pieces = []
    for k in range(int(label.max()) + 1):
        members = np.flatnonzero(label == k)
        if len(members) >= 3:
            pieces.append(_Piece(members, _curve(point[members], confidence[members])))
    pieces = _bridged(pieces, point, confidence, config)
    rods = [
        SeedCurve(p.curve, float(confidence[p.members].sum()))
        for p in pieces
        if 1e3 * _length(p.curve) >= config.least_length_mm
    ]
    rods.sort(key=lambda r: -r.weight)
    return tuple(rods[: config.most_rods])


def _usable(seeds: RodSeeds, config: RodConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    point = np.asarray(seeds.point_m, dtype=np.float64).reshape(-1, 3)
    tangent = np.asarray(seeds.tangent, dtype=np.float64).reshape(-1, 3)
    confidence = np.asarray(seeds.confidence, dtype=np.float64).reshape(-1)
    length = np.linalg.norm(tangent, axis=1)
    ok = np.isfinite(point).all(axis=1) & np.isfinite(length) & np.isfinite(confidence)
    with np.errstate(invalid="ignore"):
        ok &= (length > 0.5) & (confidence >= config.least_seed_confidence)
        ok &= (point[:, 2] > _DEPTHS_M[0]) & (point[:, 2] < _DEPTHS_M[1])
    keep = np.flatnonzero(ok)
    if len(keep) > _MOST_SEEDS:
        keep = keep[np.argsort(-confidence[keep], kind="stable")[:_MOST_SEEDS]]
    return point[keep], tangent[keep] / length[keep, None], confidence[keep]


def _linked(point: np.ndarray, tangent: np.ndarray, config: RodConfig) -> np.ndarray:
    """(K, K) bool: both lie on one line as seen from the camera, and not far in depth.

    The finder's depth is several times worse than its place in the image: lines are compared
    across the view, depth has a wide gate of its own.
    """
    view = point / np.linalg.norm(point, axis=1, keepdims=True)
    flat = tangent - (tangent * view).sum(axis=1, keepdims=True) * view
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    # of the way from i to j, without holding (K, K, 3): its parts along the view and the tangent of i
    depth = np.abs(view @ point.T - (view * point).sum(axis=1)[:, None])
    along = np.abs(flat @ point.T - (flat * point).sum(axis=1)[:, None])
    length = (point**2).sum(axis=1)
    apart = length[:, None] + length - 2.0 * point @ point.T
    across = np.sqrt(np.maximum(apart - depth**2 - along**2, 0.0))
    near = (1e3 * along < config.link_mm) & (1e3 * across < config.across_mm)
    near &= 1e3 * depth < config.depth_mm
    near &= np.abs(flat @ flat.T) > np.cos(np.radians(config.bend_deg))
    return near & near.T


def _curve(point: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(N, 3) robust polynomial through scattered points of one gently bent rod."""
    centre = np.average(point, axis=0, weights=weight)
    _, _, vt = np.linalg.svd((point - centre) * np.sqrt(weight)[:, None], full_matrices=False)
    s = (point - centre) @ vt[0]
    length = float(np.ptp(s))
    degree = min(1 if length < 0.03 else 2 if length < 0.06 else 3, len(point) - 1)
    unit = 2.0 * (s - s.min()) / max(length, 1e-9) - 1.0
    design = np.polynomial.legendre.legvander(unit, degree)
    # high orders cost: depth noise of the cells must not bend the rod
    ridge = np.diag([0.0, 0.0, 0.05, 0.5][: degree + 1]) * weight.sum()
    robust = weight.copy()
    for _ in range(5):
        lhs = design.T @ (robust[:, None] * design) + ridge * 0.1 + 1e-9 * np.eye(degree + 1)
        fit = np.linalg.solve(lhs, design.T @ (robust[:, None] * point))
        off = np.linalg.norm(point - design @ fit, axis=1)
        robust = weight / (1.0 + (off / max(2.0 * float(np.median(off)), 1e-3)) ** 2)
    count = max(2, int(np.ceil(1e3 * length / _STEP_MM)) + 1)
    return np.polynomial.legendre.legvander(np.linspace(-1.0, 1.0, count), degree) @ fit


def _bridged(
    pieces: list[_Piece], point: np.ndarray, confidence: np.ndarray, config: RodConfig
) -> list[_Piece]:
    """Join pieces of which one continues the other, the shortest gap first."""
    pieces = list(pieces)
    while True:
        best: tuple[float, int, int] | None = None
        for i in range(len(pieces)):
            for j in range(i + 1, len(pieces)):
                gap = _gap_mm(pieces[i].curve, pieces[j].curve, config)
                if gap is not None and (best is None or gap < best[0]):
                    best = (gap, i, j)
        if best is None:
            return pieces
        _, i, j = best
        members = np.concatenate([pieces[i].members, pieces[j].members])
        joined = _Piece(members, _curve(point[members], confidence[members]))
        pieces = [p for k, p in enumerate(pieces) if k not in (i, j)] + [joined]


def _gap_mm(a: np.ndarray, b: np.ndarray, config: RodConfig) -> float | None:
    """Length of the gap where b continues a (either end), or None."""
    best: float | None = None
    for one in (a, a[::-1]):
        for other in (b, b[::-1]):  # end of one to start of other
            out, back = _end_direction(one), -_end_direction(other[::-1])
            view = one[-1] / np.linalg.norm(one[-1])
            way = other[0] - one[-1]
            depth = abs(float(way @ view))
            way = way - (way @ view) * view
            out, back = _flat(out, view), _flat(back, view)
            along = float(way @ out)
            across = float(np.linalg.norm(way - along * out))
            reach = 1e-3 * config.across_mm + _GAP_ACROSS * max(along, 0.0)
            if (
                -0.01 < along < 1e-3 * config.bridge_mm
                and across < reach
                and depth < 2e-3 * config.depth_mm
                and out @ back > np.cos(np.radians(config.bend_deg))
                and (best is None or along < best)
            ):
                best = along
    return None if best is None else 1e3 * best


def _end_direction(curve: np.ndarray) -> np.ndarray:
    """Unit direction (3,) out of the end of a curve, over its last centimetre."""
    first = max(0, len(curve) - 5)
    way = curve[-1] - curve[first]
    return way / max(float(np.linalg.norm(way)), 1e-9)


def _flat(direction: np.ndarray, view: np.ndarray) -> np.ndarray:
    flat = direction - (direction @ view) * view
    return flat / max(float(np.linalg.norm(flat)), 1e-9)


def _length(curve: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(curve, axis=0), axis=1).sum())
