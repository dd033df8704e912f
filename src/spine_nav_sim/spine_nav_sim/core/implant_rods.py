# SPDX-License-Identifier: Apache-2.0
"""Rods: centrelines through saddles or anywhere, and tubes along them. Any frame, metres."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.interpolate import CubicSpline

from spine_nav_common.core.types import Mesh
from spine_nav_sim.core.implant_shapes import loft, polygon_radius, split_creases
from spine_nav_sim.core.implants import MM

_STEP_M = 0.8 * MM


def random_rod_curve(
    rng: np.random.Generator,
    saddles_m: np.ndarray,
    seated: bool,
    overhang_m: tuple[float, float] = (0.003, 0.015),
) -> np.ndarray:
    """A rod's centreline (M, 3), neighbours at most 1 mm apart, in the order of the saddles.

    saddles_m (K, 3), K >= 2, in order along the rod. Seated: smooth through every saddle exactly,
    with an overhang in the given range at either end. Not seated: a straight or pre-bent rod of
    about that length, held somewhere near them.
    """
    saddles = np.asarray(saddles_m, float)
    if saddles.ndim != 2 or saddles.shape[1] != 3 or len(saddles) < 2:
        raise ValueError("saddles_m: needs (K, 3) with K >= 2")
    if (
        not np.isfinite(saddles).all()
        or np.linalg.norm(np.diff(saddles, axis=0), axis=1).min() < MM
    ):
        raise ValueError("saddles_m: needs finite points at least 1 mm apart, in order")
    if seated:
        return _seated(rng, saddles, overhang_m)
    span = float(np.linalg.norm(saddles[-1] - saddles[0])) + rng.uniform(*overhang_m) * 2
    along = (saddles[-1] - saddles[0]) / np.linalg.norm(saddles[-1] - saddles[0])
    line = _free(rng, span * rng.uniform(0.7, 1.5))
    axis = along + rng.normal(0.0, 0.35, 3)
    x = np.cross(axis, rng.normal(size=3))
    basis = np.column_stack([axis, x, np.cross(axis, x)])
    basis /= np.linalg.norm(basis, axis=0)
    shift = rng.normal(size=3)
    shift *= rng.uniform(0.004, 0.05) / np.linalg.norm(shift)
    return line @ basis.T + saddles.mean(axis=0) + shift


def _seated(
    rng: np.random.Generator, saddles: np.ndarray, overhang_m: tuple[float, float]
) -> np.ndarray:
    knots = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(saddles, axis=0), axis=1))])
    ends = []
    if len(saddles) == 2:  # a bow, else two saddles would always make a straight rod
        chord = (saddles[1] - saddles[0]) / knots[1]
        bow = np.cross(chord, rng.normal(size=3))
        bow *= rng.normal(0.0, 0.12) / np.linalg.norm(bow)
        curve = CubicSpline(knots, saddles, bc_type=((1, chord + bow), (1, chord - bow)))
    else:
        curve = CubicSpline(knots, saddles, bc_type="natural")
    for end, sign in ((0.0, -1.0), (knots[-1], 1.0)):
        length = rng.uniform(*overhang_m)
        tangent = sign * curve(end, 1)
        tangent /= np.linalg.norm(tangent)
        s = np.linspace(0.0, length, int(np.ceil(length / _STEP_M)) + 1)[1:, None]
        ends.append(curve(end) + tangent * s)
    inside = []
    for a, b in pairwise(knots):
        # arc length exceeds the chord, so take enough points and check by the true spacing
        count = int(np.ceil((b - a) / _STEP_M)) + 1
        points = curve(np.linspace(a, b, count))
        widest = np.linalg.norm(np.diff(points, axis=0), axis=1).max()
        points = curve(np.linspace(a, b, int(np.ceil(count * max(widest / _STEP_M, 1.0))) + 1))
        inside.append(points[:-1])
    return np.vstack([ends[0][::-1], *inside, saddles[-1:], ends[1]])


def _free(rng: np.random.Generator, length_m: float) -> np.ndarray:
    """Centred rod along +x: straight, one arc, or an S."""
    count = int(np.ceil(length_m / _STEP_M)) + 1
    s = np.linspace(0.0, 1.0, count)
    kind = rng.choice(["straight", "arc", "s"], p=[0.4, 0.4, 0.2])
    bend = {"straight": 0.0, "arc": rng.normal(0.0, 0.35), "s": rng.normal(0.0, 0.5)}[str(kind)]
    heading = bend * (2 * s - 1) if kind != "s" else bend * np.sin(2 * np.pi * s)
    step = length_m / (count - 1)
    middle = 0.5 * (heading[1:] + heading[:-1])
    steps = np.column_stack([np.cos(middle), np.sin(middle), np.zeros(count - 1)]) * step
    line = np.vstack([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    return line - line.mean(axis=0)


def frames_along(centreline_m: np.ndarray) -> np.ndarray:
    """Rotation-minimising frames (M, 3, 3): columns normal, binormal, tangent."""
    p = np.asarray(centreline_m, float)
    tangent = np.gradient(p, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    normal = np.eye(3)[np.argmin(np.abs(tangent[0]))]
    frames = np.empty((len(p), 3, 3))
    for k, t in enumerate(tangent):
        # the former normal, made square to the new tangent: turns as little as possible
        normal = normal - t * (normal @ t)
        normal /= np.linalg.norm(normal)
        frames[k] = np.column_stack([normal, np.cross(t, normal), t])
    return frames


def tube_mesh(
    centreline_m: np.ndarray, radius_m: float, sides: int = 24, end: str = "round"
) -> Mesh:
    """A closed tube along (M, 3), at least 1 um between neighbours.

    end: 'round' (domes, which stand half a radius beyond the centreline's ends), 'flat', or 'hex'
    (flat, and the last 5 mm hexagonal for the rotation key, as on real rods).
    """
    p = np.asarray(centreline_m, float)
    if p.ndim != 2 or p.shape[1] != 3 or len(p) < 3 or not np.isfinite(p).all():
        raise ValueError("centreline_m: needs finite (M, 3) with M >= 3")
    step = np.linalg.norm(np.diff(p, axis=0), axis=1)
    if step.min() < 1e-6:
        raise ValueError("centreline_m: neighbours coincide; drop repeated points")
    if end not in ("round", "flat", "hex"):
        raise ValueError(f"end: {end!r} is unknown; use 'round', 'hex' or 'flat'")
    if end == "hex":
        sides += -sides % 6  # a point on every corner
    frames = frames_along(p)
    angle = np.arange(sides) * (2 * np.pi / sides)
    circle = np.column_stack([np.cos(angle), np.sin(angle), np.zeros(sides)])
    full = np.full(sides, radius_m)
    rows: list[tuple[int, np.ndarray, float]] = [(k, full, 0.0) for k in range(len(p))]
    if end == "round":
        for a in np.linspace(0.0, 0.5 * np.pi, 6)[1:-1]:
            rows.append((len(p) - 1, full * np.cos(a), radius_m * np.sin(a) * 0.5))
            rows.insert(0, (0, full * np.cos(a), -radius_m * np.sin(a) * 0.5))
    elif end == "hex":
        to_go = step.sum() - np.concatenate([[0.0], np.cumsum(step)])
        first = int(np.argmax(to_go < 5 * MM))
        hexagon = polygon_radius(1.6 * radius_m, 6)(angle)
        stub = [(k, hexagon, 0.0) for k in range(first, len(p))]
        rows = [*rows[: first + 1], (first, hexagon, 1e-6), *stub[1:]]
    rings = np.array(
        [p[k] + (circle * rho[:, None] + [0.0, 0.0, z]) @ frames[k].T for k, rho, z in rows]
    )
    return split_creases(loft(rings))
