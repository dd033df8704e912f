# SPDX-License-Identifier: Apache-2.0
"""The forward model: bending steps to rod axis, and the rod laid into the saddles.

The rod's frame: origin at the caudal end, x along the straight rod towards the cranial end. A
bend is an arc of the die's radius about the arc position `feed_mm`; the axis keeps its length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STEP_MM = 0.5
_LEVER_MM = 50.0  # makes radians and millimetres weigh alike over a rod


@dataclass(frozen=True)
class BendStep:
    """One bend. feed_mm: arc position of its middle from the caudal end. rotate_deg: turn of the
    bend's direction about the rod's axis (right-handed, axis towards cranial) since the last bend.
    bend_deg >= 0: angle that must remain. bend_set_deg: angle to set, with springback."""

    n: int
    feed_mm: float
    rotate_deg: float
    bend_deg: float
    bend_set_deg: float


@dataclass(frozen=True)
class Seating:
    """A rod laid into saddles by least squares. T_saddles_rod (4, 4), mm; gaps_mm (N,); arc_mm (N,)
    arc position of each saddle's nearest point; tangents (N, 3) in the saddles' frame, caudal to
    cranial; gap_vectors_mm (N, 3) rod axis to saddle."""

    T_saddles_rod: np.ndarray
    gaps_mm: np.ndarray
    arc_mm: np.ndarray
    tangents: np.ndarray
    gap_vectors_mm: np.ndarray

    @property
    def max_mm(self) -> float:
        return float(self.gaps_mm.max())

    @property
    def rms_mm(self) -> float:
        return float(np.sqrt(np.mean(self.gaps_mm**2)))


def arc_positions_mm(points_mm: np.ndarray) -> np.ndarray:
    """(M,) length along a polyline (M, 3)."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points_mm, axis=0), axis=1))])


def replay_steps(
    steps: Sequence[BendStep],
    length_mm: float,
    die_radius_mm: float,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Axis (M, 3) in mm, caudal end first, of a straight rod after the steps, every half millimetre.

    start: (4, 4) frame of the caudal end: x along the rod, y towards the first bend at rotation 0.
    Raises ValueError for a step off the rod, steps out of order, or bends that overlap.
    """
    frame = np.eye(4) if start is None else start
    point, tangent, normal = frame[:3, 3].copy(), frame[:3, 0].copy(), frame[:3, 1].copy()
    grid = np.linspace(0.0, length_mm, max(2, math.ceil(length_mm / STEP_MM) + 1))
    parts, done = [], 0.0
    for step in steps:
        angle = math.radians(step.bend_deg)
        half = 0.5 * die_radius_mm * angle
        begin, end = step.feed_mm - half, step.feed_mm + half
        if angle < 0.0 or begin < done or end > length_mm:
            raise ValueError(
                f"bend {step.n} at {step.feed_mm:.1f} mm overlaps the bend before it or the rod's end"
            )
        turn = math.radians(step.rotate_deg)
        normal = math.cos(turn) * normal + math.sin(turn) * np.cross(tangent, normal)
        s = grid[(grid >= done) & (grid < begin)] - done
        parts.append(point + s[:, None] * tangent)
        point = point + (begin - done) * tangent
        phi = (grid[(grid >= begin) & (grid < end)] - begin)[:, None] / die_radius_mm
        parts.append(point + die_radius_mm * (np.sin(phi) * tangent + (1 - np.cos(phi)) * normal))
        c, d = math.cos(angle), math.sin(angle)
        point = point + die_radius_mm * (d * tangent + (1.0 - c) * normal)
        tangent, normal = c * tangent + d * normal, c * normal - d * tangent
        done = end
    s = grid[grid >= done] - done
    parts.append(point + s[:, None] * tangent)
    return np.concatenate(parts)


@dataclass(frozen=True)
class Feet:
    """Nearest points (N, 3) of a polyline, its unit tangents (N, 3) and arc positions (N,) there;
    inside (N,): the point does not lie beyond an end."""

    points: np.ndarray
    tangents: np.ndarray
    arc: np.ndarray
    inside: np.ndarray


def nearest(curve: np.ndarray, arc: np.ndarray, points: np.ndarray) -> Feet:
    """Nearest points of a polyline (M, 3), whose arc positions are `arc` (M,), to points (N, 3)."""
    a, d = curve[:-1], np.diff(curve, axis=0)
    square = np.einsum("ij,ij->i", d, d)
    u = (points @ d.T - np.einsum("ij,ij->i", a, d)) / square
    clipped = np.clip(u, 0.0, 1.0)
    # |p - a|^2 - 2 u (p - a).d + u^2 |d|^2 without an (N, M, 3) array
    far = (
        (points**2).sum(1)[:, None] - 2.0 * points @ a.T + (a**2).sum(1)
        + square * (clipped**2 - 2.0 * clipped * u)
    )  # fmt: skip
    i = far.argmin(axis=1)
    rows = np.arange(len(points))
    k = clipped[rows, i][:, None]
    tangents = d[i] / np.sqrt(square[i])[:, None]
    inside = ~(((i == 0) & (u[rows, i] < 0)) | ((i == len(d) - 1) & (u[rows, i] > 1)))
    return Feet(a[i] + k * d[i], tangents, arc[i] + k[:, 0] * np.sqrt(square[i]), inside)


def fit_rigid(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """T_target_source (4, 4) that brings points (N, 3) onto points (N, 3) by least squares."""
    a, b = source.mean(axis=0), target.mean(axis=0)
    u, _, vt = np.linalg.svd((target - b).T @ (source - a))
    T = np.eye(4)
    T[:3, :3] = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    T[:3, 3] = b - T[:3, :3] @ a
    return T


def rotation(vector: np.ndarray) -> np.ndarray:
    """(3, 3) of a rotation vector (3,), radians."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    k = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + math.sin(angle) * k + (1.0 - math.cos(angle)) * k @ k


def point_at(curve: np.ndarray, arc: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Points (N, 3) of a polyline (M, 3) at arc positions (N,)."""
    return np.stack([np.interp(where, arc, curve[:, c]) for c in range(3)], axis=1)


def seat(curve_mm: np.ndarray, saddles_mm: np.ndarray, arc_guess_mm: np.ndarray) -> Seating:
    """Lay a rod (M, 3) into saddles (N, 3), both caudal first, so that the gaps' squares are least.

    The rod may slide and turn. arc_guess_mm: (N,) where each saddle meets the rod, roughly.
    """
    arc = arc_positions_mm(curve_mm)
    T = fit_rigid(saddles_mm, point_at(curve_mm, arc, np.clip(arc_guess_mm, 0.0, arc[-1])))
    points = saddles_mm @ T[:3, :3].T + T[:3, 3]
    feet = nearest(curve_mm, arc, points)
    damping = 1e-4  # a straight rod may roll and slide freely
    for _ in range(40):
        # off an end the whole vector counts; elsewhere the rod is free to slide
        along = feet.tangents * feet.inside[:, None]
        project = np.eye(3) - along[:, :, None] * along[:, None, :]
        residual = points - feet.points
        middle = points.mean(axis=0)
        x, y, z = ((points - middle) / _LEVER_MM).T
        o = np.zeros_like(x)
        spin = np.stack([o, z, -y, -z, o, x, y, -x, o], axis=1).reshape(-1, 3, 3)
        jacobian = np.concatenate([project @ spin, project], axis=2).reshape(-1, 6)
        normal = jacobian.T @ jacobian + damping * np.eye(6)
        change = -np.linalg.solve(normal, jacobian.T @ residual.ravel())
        turn = rotation(change[:3] / _LEVER_MM)
        moved = (points - middle) @ turn.T + middle + change[3:]
        trial = nearest(curve_mm, arc, moved)
        if ((moved - trial.points) ** 2).sum() < (residual**2).sum():
            points, feet, damping = moved, trial, damping / 3.0
        else:
            damping *= 10.0
        if np.abs(change).max() < 1e-4:
            break
    back = fit_rigid(points, saddles_mm)
    vectors = points - feet.points
    return Seating(
        back,
        np.linalg.norm(vectors, axis=1),
        feet.arc,
        feet.tangents @ back[:3, :3].T,
        vectors @ back[:3, :3].T,
    )
