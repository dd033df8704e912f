# SPDX-License-Identifier: Apache-2.0
"""Which planned screw each head is, from the pattern that the heads form: no registered vertebra.

Planned screws stand in a pattern of their own: rows diverge caudally, spacings differ, the spine
curves. The heads' pattern is laid over it head up and head down, and at every level that fits; a
reading counts only if it is clearly better than the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from spine_nav_common.core.types import LEVEL_CODE, Case, Head3D, Rejected, ScrewPlan

from .config import AssignConfig

_ABOVE_ENTRY_M = 0.011  # saddle over entry point: stand-off of a few mm, ball and half a rod
_FEWEST = 4
_ROUNDS = 5
_LONG = 1.6  # a constellation this much longer than wide shows which way the spine runs


@dataclass(frozen=True)
class PlanMatch:
    """Parallel to the heads: planned screw or None; cranial (3,) unit, camera frame; rms_mm of the
    pattern's fit; lead_mm2 by how much less the squared distances of all heads sum up to than in
    the next reading."""

    planned: tuple[ScrewPlan | None, ...]
    cranial: np.ndarray
    rms_mm: float
    lead_mm2: float


@dataclass(frozen=True)
class _Reading:
    pairs: tuple[int, ...]  # per head: row of the plan or -1
    R_camera_ct: np.ndarray
    rms_mm: float


def match_plan(
    heads: Sequence[Head3D], case: Case, cranial_axis: np.ndarray, config: AssignConfig
) -> PlanMatch | Rejected:
    """Match the heads to the planned screws of the exposed levels.

    cranial_axis (3,): cranial direction in the case's frame. Rejected: too few heads or planned
    screws, no reading fits, or two readings fit about equally well.
    """
    plan = [p for p in case.plan if p.level in case.exposed_levels]
    if len(heads) < _FEWEST or len(plan) < _FEWEST:
        return Rejected(f"{len(heads)} heads and {len(plan)} planned screws: too few to compare")
    ways = np.array([p.entry_m - p.target_m for p in plan])
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    places = np.array([p.entry_m for p in plan]) + _ABOVE_ENTRY_M * ways
    points = np.array([h.point_m for h in heads])
    axes = np.array([h.axis for h in heads])
    readings: dict[tuple[int, ...], _Reading] = {}
    for rotation in _rotations(points, axes, ways, cranial_axis):
        for window in _windows(plan, len(heads)):
            reading = _settled(points, places, rotation, places[window].mean(axis=0), config)
            if reading is None:
                continue
            known = readings.get(reading.pairs)
            if known is None or reading.rms_mm < known.rms_mm:
                readings[reading.pairs] = reading
    ranked = sorted(readings.values(), key=lambda r: r.rms_mm)
    if not ranked or ranked[0].rms_mm > config.pattern_mm:
        fit = f"{ranked[0].rms_mm:.1f} mm" if ranked else "none"
        return Rejected(f"the heads do not form the plan's pattern (best fit: {fit})")
    squares = [len(heads) * r.rms_mm**2 for r in ranked[:2]]
    lead = squares[1] - squares[0] if len(squares) > 1 else float("inf")
    if lead < config.pattern_lead_mm2:
        return Rejected(
            f"two readings of the heads fit the plan about equally well ({lead:.0f} mm2 apart): "
            "say where the patient's head lies (--cranial)"
        )
    best = ranked[0]
    return PlanMatch(
        tuple(plan[j] if j >= 0 else None for j in best.pairs),
        best.R_camera_ct @ cranial_axis,
        best.rms_mm,
        lead,
    )


def _rotations(
    points: np.ndarray, axes: np.ndarray, ways: np.ndarray, cranial_axis: np.ndarray
) -> list[np.ndarray]:
    """R_camera_ct that lay posterior on the tulips' mean axis and cranial along the rows, both
    ways; every way where the pattern is about as wide as long."""
    up = axes.mean(axis=0)
    up /= np.linalg.norm(up)
    flat = points - points.mean(axis=0)
    flat = flat - np.outer(flat @ up, up)
    _, size, vt = np.linalg.svd(flat, full_matrices=False)
    directions = [vt[0], -vt[0]]
    if size[0] < _LONG * max(size[1], 1e-9):  # nearly square: its axes mean nothing
        turns = np.radians(np.arange(0, 360, 30))
        directions = [np.cos(a) * vt[0] + np.sin(a) * np.cross(up, vt[0]) for a in turns]
    source = _basis(ways.mean(axis=0), cranial_axis)
    return [_basis(up, d) @ source.T for d in directions]


def _basis(up: np.ndarray, along: np.ndarray) -> np.ndarray:
    """(3, 3) columns: across, up, along; orthonormal, `up` kept."""
    up = up / np.linalg.norm(up)
    along = along - (along @ up) * up
    along = along / np.linalg.norm(along)
    return np.column_stack([np.cross(up, along), up, along])


def _windows(plan: Sequence[ScrewPlan], heads: int) -> list[np.ndarray]:
    """Rows of the plan's neighbouring levels that would hold about as many screws as are seen."""
    levels = sorted({p.level for p in plan}, key=LEVEL_CODE.__getitem__)
    codes = np.array([levels.index(p.level) for p in plan])
    size = min(len(levels), max(1, round(0.5 * heads)))
    return [
        np.flatnonzero((codes >= first) & (codes < first + size))
        for first in range(len(levels) - size + 1)
    ]


def _settled(
    points: np.ndarray,
    places: np.ndarray,
    R_camera_ct: np.ndarray,
    centre: np.ndarray,
    config: AssignConfig,
) -> _Reading | None:
    """Match and align in turns from a first guess; None where fewer than four heads match."""
    R, t = R_camera_ct, points.mean(axis=0) - R_camera_ct @ centre
    gate = 1e-3 * config.gate_mm
    pairs: tuple[int, ...] = ()
    for _ in range(_ROUNDS):
        off = np.linalg.norm(points[:, None] - (places @ R.T + t), axis=2)
        # a head may match nothing, at the price of the gate
        cost = np.hstack([off**2, np.full((len(points), len(points)), gate**2)])
        _, columns = linear_sum_assignment(cost)
        new = tuple(int(c) if c < len(places) else -1 for c in columns)
        matched = np.array(new) >= 0
        if matched.sum() < _FEWEST:
            return None
        if new == pairs:
            break
        pairs = new
        R, t = _aligned(places[np.array(new)[matched]], points[matched])
    off = np.linalg.norm(points[matched] - (places[np.array(pairs)[matched]] @ R.T + t), axis=1)
    total = (off**2).sum() + (~matched).sum() * gate**2
    return _Reading(pairs, R, 1e3 * float(np.sqrt(total / len(points))))


def _aligned(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R (3, 3), t (3,) that bring source (N, 3) onto target in the least-squares sense."""
    a, b = source.mean(axis=0), target.mean(axis=0)
    u, _, vt = np.linalg.svd((target - b).T @ (source - a))
    R = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
    return R, b - R @ a
