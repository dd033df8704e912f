# SPDX-License-Identifier: Apache-2.0
"""Rods of straight pieces and die arcs that pass the saddles with few bends.

For given bend positions along the row, the offsets of a chain of straight pieces that misses the
saddles least are a linear problem (hat functions). The positions start at the saddles, the least
useful is dropped again and again, and each of the rest is moved while that helps. The corners
are rounded by the die; what the rounding takes off is added back to the targets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .forward import BendStep, arc_positions_mm, nearest, replay_steps
from .material import Bender

_RIDGE = 1e-5  # of the corners' angles: decides only what the saddles leave open
_SHIFTS_MM = (-8.0, -3.0, -1.0, 1.0, 3.0, 8.0)
_SWEEPS = 6
_MORE = 2  # bends beyond one per inner saddle, for corners that one bend cannot make
_SPARE_MM, _SPARE_DEG = 1.0, 1.5  # rounding the corners changes angles a little


@dataclass(frozen=True)
class Polygon:
    """bends: (feed_mm, rotate_deg, bend_deg) each, rotate of the first is 0; length_mm with both
    overhangs; saddle_arc_mm (N,) arc position of each saddle."""

    bends: tuple[tuple[float, float, float], ...]
    length_mm: float
    saddle_arc_mm: np.ndarray


class _Row:
    """Saddles in a frame whose first axis runs from the first to the last."""

    def __init__(self, saddles_mm: np.ndarray) -> None:
        self.origin = saddles_mm.mean(axis=0)
        along = saddles_mm[-1] - saddles_mm[0]
        along = along / np.linalg.norm(along)
        helper = np.eye(3)[int(np.abs(along).argmin())]
        second = np.cross(along, helper)
        second = second / np.linalg.norm(second)
        self.axes = np.stack([along, second, np.cross(along, second)])
        local = (saddles_mm - self.origin) @ self.axes.T
        self.t, self.across = local[:, 0], local[:, 1:]


def _offsets(row: _Row, knots: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, float]:
    """Offsets (K + 2, 2) of the chain at first saddle, knots and last saddle, and the misfit."""
    nodes = np.concatenate([[row.t[0]], knots, [row.t[-1]]])
    hats = np.stack([np.interp(row.t, nodes, e) for e in np.eye(len(nodes))], axis=1)
    h = np.diff(nodes)
    corners = np.zeros((len(knots), len(nodes)))
    for j in range(len(knots)):
        corners[j, j : j + 3] = 1.0 / h[j], -1.0 / h[j] - 1.0 / h[j + 1], 1.0 / h[j + 1]
    # corners are angles; times 30 mm they are of the size of gaps
    normal = hats.T @ hats + _RIDGE * 900.0 * corners.T @ corners
    offsets = np.linalg.solve(normal, hats.T @ targets)
    miss = hats @ offsets - targets
    bent = 30.0 * corners @ offsets
    return offsets, float((miss**2).sum() + _RIDGE * (bent**2).sum())


def _cost(row: _Row, knots: np.ndarray, bender: Bender) -> float:
    """Misfit in mm^2, and what the bender cannot do in mm^2 and degrees^2."""
    offsets, cost = _offsets(row, knots, row.across)
    nodes = np.concatenate([[row.t[0]], knots, [row.t[-1]]])
    slopes = np.column_stack(
        [np.ones(len(nodes) - 1), np.diff(offsets, axis=0) / np.diff(nodes)[:, None]]
    )
    slopes /= np.linalg.norm(slopes, axis=1, keepdims=True)
    angles = np.arccos(np.clip((slopes[1:] * slopes[:-1]).sum(axis=1), -1.0, 1.0))
    arcs = angles * bender.die_radius_mm
    room = np.diff(knots) - 0.5 * (arcs[1:] + arcs[:-1]) - bender.straight_mm
    over = np.degrees(angles) - (bender.max_bend_deg - _SPARE_DEG)
    return cost + float(
        (np.minimum(room - _SPARE_MM, 0.0) ** 2).sum() + (np.maximum(over, 0.0) ** 2).sum()
    )


def _improved(row: _Row, knots: np.ndarray, ends_mm: float, bender: Bender) -> np.ndarray:
    """Knots moved one at a time while the misfit shrinks and the bender can follow."""
    low, high = row.t[0] + ends_mm, row.t[-1] - ends_mm
    knots = _spread(knots, low, high)
    cost = _cost(row, knots, bender)
    for _ in range(_SWEEPS):
        before = cost
        for j in range(len(knots)):
            left = knots[j - 1] + bender.straight_mm if j else low
            right = knots[j + 1] - bender.straight_mm if j + 1 < len(knots) else high
            for shift in _SHIFTS_MM:
                moved = knots[j] + shift
                if not left <= moved <= right:
                    continue
                trial = knots.copy()
                trial[j] = moved
                trial_cost = _cost(row, trial, bender)
                if trial_cost < cost:
                    knots, cost = trial, trial_cost
        if cost > 0.98 * before or cost < 0.003:
            break
    return knots


def _spread(knots: np.ndarray, low: float, high: float) -> np.ndarray:
    """Knots brought between the limits, evenly spread where they would come too close."""
    knots = np.clip(np.sort(knots), low, high)
    if len(knots) > 1 and np.diff(knots).min() < 1.0:
        knots = np.linspace(low, high, len(knots) + 2)[1:-1]
    return knots


class Polygons:
    """Chains for saddles (N, 3), caudal first; None where the bender cannot make one."""

    def __init__(self, saddles_mm: np.ndarray, overhang_mm: float, bender: Bender) -> None:
        self._row = _Row(saddles_mm)
        self._overhang_mm, self._bender = overhang_mm, bender
        self._ends_mm = max(bender.half_span_mm - overhang_mm, 0.0) + 1.0

    def fewer(self) -> Iterator[Polygon | None]:
        """One bend per inner saddle, then ever fewer, down to the straight rod."""
        row, knots = self._row, self._row.t[1:-1]
        while True:
            yield self._best(knots)
            if not len(knots):
                return
            costs = [_offsets(row, np.delete(knots, j), row.across)[1] for j in range(len(knots))]
            knots = np.delete(knots, int(np.argmin(costs)))

    def more(self) -> Iterator[Polygon | None]:
        """More bends than inner saddles, for corners that one bend cannot make."""
        knots = self._row.t[1:-1]
        for _ in range(_MORE):
            knots = _one_more(self._row, knots, self._bender)
            yield self._best(knots)

    def _best(self, knots: np.ndarray) -> Polygon | None:
        if len(knots):
            room = self._row.t[-1] - self._row.t[0] - 2.0 * self._ends_mm
            if room < self._bender.straight_mm * (len(knots) - 1) or room < 0.0:
                return None
            knots = _improved(self._row, knots, self._ends_mm, self._bender)
        return _rounded(self._row, knots, self._overhang_mm, self._bender)


def _one_more(row: _Row, knots: np.ndarray, bender: Bender) -> np.ndarray:
    """The sharpest corner shared by two bends; with none, a bend in the middle."""
    nodes = np.concatenate([[row.t[0]], knots, [row.t[-1]]])
    if not len(knots):
        return np.array([0.5 * (row.t[0] + row.t[-1])])
    offsets, _misfit = _offsets(row, knots, row.across)
    slopes = np.diff(offsets, axis=0) / np.diff(nodes)[:, None]
    turns = np.linalg.norm(np.diff(slopes, axis=0), axis=1)
    sharpest = int(turns.argmax())
    half = 0.5 * (0.5 * bender.die_radius_mm * turns[sharpest] + bender.straight_mm)
    apart = knots[sharpest] + np.array([-half, half])
    return np.sort(np.append(np.delete(knots, sharpest), apart))


def _rounded(row: _Row, knots: np.ndarray, overhang_mm: float, bender: Bender) -> Polygon | None:
    """The chain with arcs for corners; None where arcs would overlap."""
    targets = row.across.copy()
    nodes = np.concatenate([[row.t[0]], knots, [row.t[-1]]])
    points = np.column_stack([row.t, row.across])
    chain = None
    for _ in range(6):
        offsets, _misfit = _offsets(row, knots, targets)
        vertices = np.column_stack([nodes, offsets])
        chain = _chain(vertices, overhang_mm, bender.die_radius_mm)
        steps = [BendStep(i + 1, *bend, 0.0) for i, bend in enumerate(chain.bends)]
        try:
            curve = replay_steps(steps, chain.length_mm, bender.die_radius_mm, chain.start)
        except ValueError:
            return None
        feet = nearest(curve, arc_positions_mm(curve), points)
        targets = targets + (points - feet.points)[:, 1:]
    assert chain is not None
    return Polygon(chain.bends, float(chain.length_mm), feet.arc)


@dataclass(frozen=True)
class _Chain:
    bends: tuple[tuple[float, float, float], ...]
    length_mm: float
    start: np.ndarray


def _chain(vertices: np.ndarray, overhang_mm: float, radius_mm: float) -> _Chain:
    """Bends of a chain of straight pieces (K + 2, 3) whose corners become arcs."""
    pieces = np.diff(vertices, axis=0)
    lengths = np.linalg.norm(pieces, axis=1)
    lengths[0] += overhang_mm
    lengths[-1] += overhang_mm
    ways = pieces / np.linalg.norm(pieces, axis=1, keepdims=True)
    bends: list[tuple[float, float, float]] = []
    start = np.eye(4)
    helper = np.eye(3)[int(np.abs(ways[0]).argmin())]
    normal = np.cross(ways[0], helper)
    normal = normal / np.linalg.norm(normal)
    arc, cut = 0.0, 0.0  # length so far, and what the last corner's arc took of this piece
    for j in range(len(ways) - 1):
        here, ahead = ways[j], ways[j + 1]
        across = ahead - (ahead @ here) * here
        size = float(np.linalg.norm(across))
        angle = math.atan2(size, float(here @ ahead))
        direction = across / size if size > 1e-9 else normal
        turn = math.atan2(np.cross(normal, direction) @ here, normal @ direction)
        if j == 0:
            normal, turn = direction, 0.0
        tangent = radius_mm * math.tan(0.5 * angle)
        half = 0.5 * radius_mm * angle
        arc += lengths[j] - cut - tangent + half
        bends.append((arc, math.degrees(turn), math.degrees(angle)))
        arc += half
        cut = tangent
        if j == 0:
            start[:3, 1] = direction
        normal = math.cos(angle) * direction - math.sin(angle) * here
    if len(ways) == 1:
        start[:3, 1] = normal
    start[:3, 0] = ways[0]
    start[:3, 2] = np.cross(start[:3, 0], start[:3, 1])
    start[:3, 3] = vertices[0] - overhang_mm * ways[0]
    return _Chain(tuple(bends), arc + lengths[-1] - cut, start)
