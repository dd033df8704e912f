# SPDX-License-Identifier: Apache-2.0
"""Known heads and rods from one pair to the next: where they should be, before anything is measured.

The whole picture is searched in turns only; between two searches known things are looked at where
they are. A hand-held camera moves by more than the refiner reaches, so the shift of the whole picture
is measured first.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.spatial import cKDTree

from spine_nav_common.core.types import RodFit, StereoFrame

from .finder_grid import grey
from .rod_group import SeedCurve
from .triangulate import project_pair
from .types import StereoCamera

_SMALL = (160, 120)
_LEAST_RESPONSE = 0.05  # of the phase correlation; below it the pictures have nothing in common
_STEP_MM = 3.0
_ENDS_MM = 9.0


def thumbnail(frame: StereoFrame) -> np.ndarray:
    """(120, 160) float32 of the left picture."""
    return cv2.resize(grey(frame.left), _SMALL, interpolation=cv2.INTER_AREA).astype(np.float32)


def picture_shift(before: np.ndarray, now: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(2,) pixels of the full picture of `size` (width, height) by which the scene moved between
    two thumbnails; zero where they have nothing in common."""
    window = cv2.createHanningWindow(_SMALL, cv2.CV_32F)
    shift, response = cv2.phaseCorrelate(before, now, window)
    if response < _LEAST_RESPONSE:
        return np.zeros(2)
    return np.array(shift) * size / np.array(_SMALL)


def rough_curve(rod: RodFit) -> np.ndarray:
    """(K, 3) places about 3 mm apart on a reported rod: where the next pair begins to measure.

    Without its ends, where it is long enough: those are looked for anew, so that an end that went
    too far once does not stay.
    """
    line = rod.centreline_m
    step_mm = 1e3 * np.linalg.norm(np.diff(line, axis=0), axis=1)
    length_mm = float(step_mm.sum())
    cut = round(min(_ENDS_MM, 0.25 * length_mm) / max(float(np.median(step_mm)), 1e-3))
    line = line[cut : len(line) - cut]
    length_mm = 1e3 * float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())
    count = max(4, round(length_mm / _STEP_MM))
    return line[np.linspace(0, len(line) - 1, count).astype(int)]


def unknown(
    known: Sequence[np.ndarray],
    seen: Sequence[SeedCurve],
    camera: StereoCamera,
    across_mm: float,
) -> list[SeedCurve]:
    """What the finder sees besides the known curves (K, 3)."""
    return [s for s in seen if not any(_same(k, s.points_m, camera, across_mm) for k in known)]


def _same(a: np.ndarray, b: np.ndarray, camera: StereoCamera, across_mm: float) -> bool:
    """Whether most of one curve lies on the other in the left picture."""
    pixels = [project_pair(camera, curve)[0] for curve in (a, b)]
    if not all(np.isfinite(p).all() for p in pixels):
        return False
    mm = 1e3 * float(np.median(a[:, 2])) / camera.intrinsics.fx
    away = [cKDTree(pixels[1 - i]).query(pixels[i])[0] * mm for i in (0, 1)]
    return min(float(np.median(d)) for d in away) < across_mm
