# SPDX-License-Identifier: Apache-2.0
"""Level and side of every head: from registered vertebrae, the plan's pattern, or the two rows.

Left and right are the patient's. A name that is not clearly better than the next one is not given:
an empty field is asked about, a wrong one is acted upon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from spine_nav_common.core.case import anatomical_axes
from spine_nav_common.core.errors import RodError
from spine_nav_common.core.geometry import check_transform, transform_points
from spine_nav_common.core.implant_outputs import ScrewRow
from spine_nav_common.core.screw_rows import CRANIAL, sided_rows
from spine_nav_common.core.types import Case, Head3D, Rejected

from .config import AssignConfig
from .plan_match import match_plan

# Where a head stands without a plan: pedicles lie about this far from the middle (morphometry of
# lumbar vertebrae: 24 to 40 mm between pedicle centres).
_PEDICLE_MM = 18.0
_ALONG_MM = (-15.0, 70.0)  # saddle before (-) or beyond the bone's entry, along the way out


@dataclass(frozen=True)
class Labels:
    """Parallel to the heads: levels and sides, empty where nothing tells. cranial (3,): unit vector
    towards the patient's head in the camera frame, or None."""

    levels: tuple[str, ...]
    sides: tuple[str, ...]
    cranial: np.ndarray | None


@dataclass(frozen=True)
class _Place:
    """Where a screw should stand: a line from origin_m (3,) outwards along direction (3,)."""

    level: str
    side: str
    origin_m: np.ndarray
    direction: np.ndarray


def assign(
    heads: Sequence[Head3D],
    vertebrae: Mapping[str, np.ndarray] | None,
    case: Case | None,
    cranial: str,
    config: AssignConfig,
) -> Labels:
    """Name the heads of one frame.

    Args:
        vertebrae: T_camera_ct (4, 4) of the registered levels, mesh frame of `case`; may be empty.
        cranial: where the patient's head lies in the image (left, right, up, down), or ''.

    Raises:
        ValueError: a pose that is no rigid transform, or a level that the case does not have.
    """
    if vertebrae and case is not None:
        return _by_vertebrae(heads, vertebrae, case, config)
    if case is not None and not cranial:
        return _by_pattern(heads, case, config)
    return _by_rows(heads, cranial)


def _by_pattern(heads: Sequence[Head3D], case: Case, config: AssignConfig) -> Labels:
    """Names from the plan's pattern; all empty where it does not tell."""
    match = match_plan(heads, case, anatomical_axes(case.orientation)[:, 2], config)
    if isinstance(match, Rejected):
        return Labels(("",) * len(heads), ("",) * len(heads), None)
    return Labels(
        tuple(p.level if p else "" for p in match.planned),
        tuple(p.side if p else "" for p in match.planned),
        match.cranial,
    )


def _by_vertebrae(
    heads: Sequence[Head3D], vertebrae: Mapping[str, np.ndarray], case: Case, config: AssignConfig
) -> Labels:
    places: list[_Place] = []
    up = np.zeros(3)
    axes = anatomical_axes(case.orientation)
    for level, pose in vertebrae.items():
        if level not in case.meshes:
            raise ValueError(f"vertebrae: level {level} is not in the case {case.name}")
        T = check_transform(pose, f"vertebrae[{level}]")
        places += _places_of(level, T, case, axes)
        up += T[:3, :3] @ axes[:, 2]
    pairs = _one_to_one(heads, places, config)
    return Labels(
        tuple(level for level, _ in pairs),
        tuple(side for _, side in pairs),
        up / np.linalg.norm(up),
    )


def _places_of(level: str, T: np.ndarray, case: Case, axes: np.ndarray) -> list[_Place]:
    planned = [p for p in case.plan if p.level == level]
    if planned:
        out = []
        for p in planned:
            way = p.entry_m - p.target_m
            way = way / np.linalg.norm(way)
            out.append(_Place(level, p.side, transform_points(T, p.entry_m), T[:3, :3] @ way))
        return out
    centre = case.meshes[level].vertices_m.mean(axis=0)
    left, posterior = axes[:, 0], axes[:, 1]
    return [
        _Place(
            level, side, transform_points(T, centre + sign * 1e-3 * _PEDICLE_MM * left),
            T[:3, :3] @ posterior,
        )
        for side, sign in (("left", 1.0), ("right", -1.0))
    ]  # fmt: skip


def _one_to_one(
    heads: Sequence[Head3D], places: Sequence[_Place], config: AssignConfig
) -> list[tuple[str, str]]:
    """(level, side) per head; '' where the next best reading of all heads is nearly as good."""
    cost = np.array([[_off_line_mm(h, p) for p in places] for h in heads])
    cost = np.where(cost <= config.gate_mm, cost, 1e4).reshape(len(heads), len(places))
    # a head may also be none of the places, at the price of the gate
    cost = np.hstack([cost, np.where(np.eye(len(heads)) > 0, config.gate_mm, 1e4)])
    chosen, best = _solve(cost)
    out = []
    for i, j in enumerate(chosen):
        if j >= len(places):
            out.append(("", ""))
            continue
        without = cost.copy()
        without[i, j] = 1e4
        others, total = _solve(without)
        place = places[j]
        if total - best >= config.margin_mm:
            out.append((place.level, place.side))
            continue
        other = others[i]
        same_side = other < len(places) and places[other].side == place.side
        same_level = other < len(places) and places[other].level == place.level
        out.append((place.level if same_level else "", place.side if same_side else ""))
    return out


def _solve(cost: np.ndarray) -> tuple[list[int], float]:
    rows, columns = linear_sum_assignment(cost)
    return [int(j) for j in columns], float(cost[rows, columns].sum())


def _off_line_mm(head: Head3D, place: _Place) -> float:
    """Distance from the line that the screw should stand on; infinite where it is not along it.

    The head, not the tulip's axis, is asked: a polyaxial tulip tilts away from its screw.
    """
    way = head.point_m - place.origin_m
    along = float(way @ place.direction)
    if not _ALONG_MM[0] <= 1e3 * along <= _ALONG_MM[1]:
        return float("inf")
    return 1e3 * float(np.linalg.norm(way - along * place.direction))


def _by_rows(heads: Sequence[Head3D], cranial: str) -> Labels:
    """Sides from the two rows, by the same rules as `spinenav rod plan` reads screws.csv."""
    empty = ("",) * len(heads)
    if not cranial:
        return Labels(empty, empty, None)
    rows = [ScrewRow(0, i, h.point_m, h.axis, h.confidence, 0.0) for i, h in enumerate(heads)]
    try:
        sided, direction = sided_rows(rows, "heads", cranial)
    except RodError:  # one row alone, or heads that form none: nothing tells the sides
        return Labels(empty, empty, np.array([*CRANIAL[cranial], 0.0]))
    return Labels(empty, tuple(r.side for r in sided), direction)
