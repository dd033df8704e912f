# SPDX-License-Identifier: Apache-2.0
"""Virtual CTs of a virtual patient's bones, with the truth beside. Arrays are (Z, Y, X), whose axes go
to S, P and L."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .ct_bones import FAR_MM, STEP_MM, UNIT_MM, Bones
from .ct_paint import Look, paint


@dataclass(frozen=True)
class Placed:
    """A grid laid into a unit. points (3, Z, Y, X) mm of the unit; turn (3, 3) and scale: unit =
    middle + scale * turn @ grid, both x y z; mirrored grids have a determinant of -1; step_mm of
    the grid."""

    points: np.ndarray
    turn: np.ndarray
    scale: float
    step_mm: float


def place(
    middle_mm: np.ndarray, shape: tuple[int, ...], turn: np.ndarray, scale: float, step_mm: float
) -> Placed:
    """A grid of `shape` (Z, Y, X) voxels about a point of the unit."""
    axes = [step_mm * (np.arange(n) - 0.5 * (n - 1)) for n in shape[::-1]]
    A = scale * turn
    x, y, z = axes[0][None, None, :], axes[1][None, :, None], axes[2][:, None, None]
    points = np.stack([
        (A[k, 0] * x + A[k, 1] * y + A[k, 2] * z + middle_mm[k]).astype(np.float32)
        for k in range(3)
    ])  # fmt: skip
    return Placed(points, turn, scale, step_mm)


def look(unit: Bones, placed: Placed) -> Look:
    """The unit's bones at the grid's voxels; distances in the grid's own, scaled millimetres."""
    index = (placed.points - unit.origin_mm.reshape(3, 1, 1, 1).astype(np.float32)) / STEP_MM
    at = index[::-1]
    d = ndimage.map_coordinates(unit.distance, at, np.float32, order=1, cval=FAR_MM / UNIT_MM)
    who = ndimage.map_coordinates(unit.who, at, order=0, cval=0)
    return Look(placed.points, d * UNIT_MM, who, placed.step_mm * placed.scale)


@dataclass(frozen=True)
class Whole:
    """A whole scan. hu, who (Z, Y, X): who is 1 + row of unit.levels in a
    vertebra, else 0; cut: rows that the border cuts off or that are not in it."""

    hu: np.ndarray
    who: np.ndarray
    unit: Bones
    cut: frozenset[int]


def make_whole(unit: Bones, rng: np.random.Generator, step_mm: float) -> Whole:
    """A scan of 160 to 320 mm height, 160 to 220 mm square, in which vertebrae may be cut; its sides
    have even numbers of voxels."""
    last = len(unit.levels) - 1
    low, high = unit.centres_mm[last, 2] - 75.0, unit.centres_mm[0, 2] + 25.0
    tall = min(float(rng.uniform(160.0, 320.0)), high - low)
    bottom = rng.uniform(low, high - tall)
    middle = unit.centres_mm.mean(axis=0) + [0.0, -22.0, 0.0]
    middle[2] = bottom + 0.5 * tall
    turn = Rotation.from_euler("xyz", rng.normal(0.0, [5.0, 3.0, 3.0]), degrees=True).as_matrix()
    if rng.random() < 0.5:
        turn = turn @ np.diag([-1.0, 1.0, 1.0])
    sides_mm = (tall, *(2.0 * rng.integers(80, 112, 2)).tolist())
    shape = tuple(2 * int(0.5 * side / step_mm) for side in sides_mm)
    placed = place(middle, shape, turn, float(np.exp(rng.normal(0.0, 0.05))), step_mm)
    seen = look(unit, placed)
    spine = (seen.distance_mm < 0.0) & (seen.who >= 1) & (seen.who <= len(unit.levels))
    who = np.where(spine, seen.who, 0).astype(np.uint8)
    cut = set()
    for row in range(len(unit.levels)):
        mine = np.argwhere(who == row + 1)
        if len(mine) == 0 or (mine.min(0) == 0).any() or (mine.max(0) == np.array(shape) - 1).any():
            cut.add(row)
    return Whole(paint(unit, seen, rng), who, unit, frozenset(cut))
