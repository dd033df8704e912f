# SPDX-License-Identifier: Apache-2.0
"""Rows of screws for the tests of this package, in the patient's axes and in a camera's."""

from __future__ import annotations

import numpy as np

from spine_nav_common.core.implant_outputs import ScrewRow
from spine_nav_common.core.screw_rows import SaddleRow

# x_camera = -left, y = -cranial, z = -posterior: the head lies up in the image
R_CAMERA_PATIENT = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]])
LEVELS = ("S1", "L5", "L4", "L3", "L2")


def heads_mm(side: str = "left") -> np.ndarray:
    """(5, 3) saddles, caudal first: left, posterior, cranial; a lordosis with some zigzag."""
    sign = 1.0 if side == "left" else -1.0
    return np.array(
        [
            [sign * 24.0, 8.0, 0.0],
            [sign * 22.0, 0.0, 33.0],
            [sign * 20.0, -2.0, 66.0],
            [sign * 21.0, 0.0, 99.0],
            [sign * 19.0, 8.0, 132.0],
        ]
    )


def saddle_row(saddles_mm: np.ndarray | None = None) -> SaddleRow:
    """A SaddleRow of the left side in the patient's axes."""
    points = heads_mm() if saddles_mm is None else np.asarray(saddles_mm, dtype=np.float64)
    count = len(points)
    return SaddleRow(
        "left",
        points,
        np.tile([0.0, 1.0, 0.0], (count, 1)),
        tuple(f"head {i}" for i in range(count)),
        tuple(range(count)),
        "screws.csv",
    )


def screw_rows(
    sides: tuple[str, ...] = ("left", "right"),
    levels: bool = True,
    labelled: bool = True,
    stamp_ns: int = 100,
) -> list[ScrewRow]:
    """Rows as spinenav screws writes them, in the camera's axes, half a metre away."""
    rows = []
    for side in sides:
        for level, head in zip(LEVELS, heads_mm(side), strict=True):
            rows.append(
                ScrewRow(
                    stamp_ns,
                    len(rows),
                    R_CAMERA_PATIENT @ head / 1e3 + (0.0, 0.0, 0.5),
                    R_CAMERA_PATIENT @ (0.0, 1.0, 0.0),
                    0.9,
                    1.0,
                    level if levels else "",
                    side if labelled else "",
                )
            )
    return rows
