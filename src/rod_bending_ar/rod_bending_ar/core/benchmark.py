# SPDX-License-Identifier: Apache-2.0
"""How well planned rods fit after a hand with noise has bent them, on random lumbar screw rows.

Geometry: centroid spacing of reference section 11.5, standing segmental lordosis of 11.6 (scaled:
patients lie prone), 2.5 degrees of scatter per level and axis (11.6). The offsets of the heads
are design choices: 27 mm behind the centroid, 22 mm beside it, with the scatter of entry points,
pedicles and screw depth.
"""

from __future__ import annotations

import numpy as np

from .forward import rotation
from .row import CLOSEST_MM, SaddleRow

LUMBAR = ("S1", "L5", "L4", "L3", "L2", "L1")
_SPACING_MM = {
    "L5": (34.0, 2.9),
    "L4": (33.6, 2.9),
    "L3": (34.7, 2.6),
    "L2": (35.6, 2.2),
    "L1": (34.6, 1.4),
}  # to the level below; L5-S1 is not published: a design choice
_LORDOSIS_DEG = {"L5": 32.4, "L4": 16.8, "L3": 11.7, "L2": 7.6, "L1": 4.1}
_SCATTER_DEG = 2.5
_SCATTER_MM = (2.0, 2.0, 2.5)  # lateral, along, depth


def random_row(rng: np.random.Generator, screws: int, side: str = "left") -> SaddleRow:
    """A row of 2 to 6 neighbouring lumbosacral screws; rows with heads that collide are redrawn."""
    if not 2 <= screws <= len(LUMBAR):
        raise ValueError(f"{screws} screws: 2 to {len(LUMBAR)} fit between S1 and L1")
    while True:
        lowest = int(rng.integers(0, len(LUMBAR) - screws + 1))
        levels = LUMBAR[lowest : lowest + screws]
        prone = rng.uniform(0.4, 1.0)
        frame, centre = np.eye(3), np.zeros(3)  # columns: left, posterior, cranial
        heads, axes = [], []
        for i, level in enumerate(levels):
            if i:
                mean, spread = _SPACING_MM[level]
                tilt = np.radians(
                    [prone * _LORDOSIS_DEG[level] + rng.normal(0.0, _SCATTER_DEG),
                     *rng.normal(0.0, _SCATTER_DEG, 2)]
                )  # fmt: skip
                half = rotation(tilt / 2.0)
                frame = frame @ half
                centre = centre + rng.normal(mean, spread) * frame[:, 2]
                frame = frame @ half
            lateral, along, depth = rng.normal(0.0, _SCATTER_MM)
            sign = 1.0 if side == "left" else -1.0
            heads.append(centre + frame @ (sign * (22.0 + lateral), 27.0 + depth, along))
            lean = np.radians([rng.normal(0.0, 8.0), 0.0, sign * rng.normal(15.0, 5.0)])
            axes.append(frame @ rotation(lean) @ np.array([0.0, 1.0, 0.0]))
        saddles = np.array(heads)
        if np.linalg.norm(np.diff(saddles, axis=0), axis=1).min() > 1.5 * CLOSEST_MM:
            return SaddleRow(
                side, saddles, np.array(axes), levels, tuple(range(screws)), "random row"
            )
