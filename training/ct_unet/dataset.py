# SPDX-License-Identifier: Apache-2.0
"""Samples of a unit, on the network's grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from spine_nav_sim.core.ct_bones import RIB, Bones
from spine_nav_sim.core.ct_bones import STEP_MM as UNIT_STEP_MM
from spine_nav_sim.core.ct_paint import Look, paint
from spine_nav_sim.core.ct_scan import Placed, look, place
from spine_planning.core.ct_network import CENTRE_SCALE_MM, STEP_MM, ct_features

SIZE = 64  # voxels per side of a training sample
PADS_HU = (-1024.0, -1000.0, -2000.0, -3024.0, 0.0)


@dataclass(frozen=True)
class Sample:
    """x (3, n, n, n); masks (3, n, n, n) as `ct_network.MASKS`; weight (n, n, n); vectors
    (3, n/2, n/2, n/2) and where they hold (n/2, n/2, n/2)."""

    x: np.ndarray
    masks: np.ndarray
    weight: np.ndarray
    vectors: np.ndarray
    holds: np.ndarray


def targets(unit: Bones, placed: Placed, seen: Look) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """masks (3, ...) bool, vectors (3, half) and holds (half) bool."""
    bone = seen.distance_mm < 0.0
    rows = len(unit.levels)
    spine = bone & (seen.who >= 1) & (seen.who <= rows)
    sacrum = np.zeros(256, bool)
    for row, level in enumerate(unit.levels):
        sacrum[row + 1] = level == "S1"
    masks = np.stack([spine, spine & sacrum[seen.who], bone & (seen.who == RIB)])
    # A cell's owner and share, at half the grid.
    corner = [(k, j, i) for k in (0, 1) for j in (0, 1) for i in (0, 1)]
    stack = np.stack([spine[k::2, j::2, i::2] for k, j, i in corner])
    owners = np.stack([seen.who[k::2, j::2, i::2] for k, j, i in corner])
    first = stack.argmax(axis=0)
    owner = np.take_along_axis(owners, first[None], 0)[0]
    holds = stack.sum(axis=0) >= 3
    middle = 0.5 * (placed.points[:, ::2, ::2, ::2] + placed.points[:, 1::2, 1::2, 1::2])
    row = np.clip(owner.astype(int) - 1, 0, rows - 1)
    offset = unit.centres_mm[row].astype(np.float32).transpose(3, 0, 1, 2) - middle
    vectors = np.einsum("ji,jzyx->izyx", placed.turn, offset) / (placed.scale * CENTRE_SCALE_MM)
    return masks, (vectors * holds).astype(np.float32), holds


def random_placed(unit: Bones, rng: np.random.Generator, size: int = SIZE) -> Placed:
    """Mostly near a vertebra, else anywhere: hips and ribs have to be told from vertebrae; turned as
    patients lie, scaled, mirrored in half of the cases."""
    centre = unit.centres_mm[rng.integers(len(unit.levels))]
    draw = rng.random()
    middle = centre + rng.normal(0.0, 18.0 if draw < 0.65 else 70.0, 3) + [0.0, -8.0, 0.0]
    if draw > 0.85:
        middle = unit.origin_mm + UNIT_STEP_MM * rng.uniform(0.0, unit.who.shape[::-1])
    turn = Rotation.from_euler("xyz", rng.normal(0.0, [14.0, 7.0, 8.0]), degrees=True).as_matrix()
    if rng.random() < 0.5:
        turn = turn @ np.diag([-1.0, 1.0, 1.0])
    return place(middle, (size,) * 3, turn, float(np.exp(rng.normal(0.0, 0.09))), STEP_MM)


def field_of_view(hu: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut by the scan's border, or by its circle; HU and where the scan is, bool."""
    hu = hu.copy()
    valid = np.ones(hu.shape, bool)
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 3)):
            axis, n = rng.choice(3, p=[0.6, 0.2, 0.2]), 0
            n = int(rng.integers(1, int(0.45 * hu.shape[axis])))
            side = slice(0, n) if rng.random() < 0.5 else slice(-n, None)
            valid[tuple(side if k == axis else slice(None) for k in range(3))] = False
    if rng.random() < 0.12:
        high, wide = hu.shape[1:]
        y, x = np.mgrid[:high, :wide]
        centre = rng.uniform(0.35, 0.65, 2) * (high, wide)
        outside = np.hypot(y - centre[0], x - centre[1]) > rng.uniform(0.35, 0.6) * high
        hu[:, outside] = rng.choice(PADS_HU)
    hu[~valid] = 0.0
    return hu, valid


def make_sample(unit: Bones, rng: np.random.Generator, size: int = SIZE) -> Sample:
    """One patch of a patient and scanner of its own."""
    placed = random_placed(unit, rng, size)
    seen = look(unit, placed)
    masks, vectors, holds = targets(unit, placed, seen)
    hu, valid = field_of_view(paint(unit, seen, rng), rng)
    half = valid[::2, ::2, ::2] & valid[1::2, 1::2, 1::2]
    return Sample(
        ct_features(hu, valid), masks.astype(np.float32), valid.astype(np.float32), vectors,
        (holds & half).astype(np.float32),
    )  # fmt: skip
