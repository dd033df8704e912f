# SPDX-License-Identifier: Apache-2.0
"""The baseline without a network: exposed bone is brighter and less saturated than muscle.

It casts no votes (centre, cranial and dorsal are NaN) and calls all bone clean.
"""

from __future__ import annotations

import time

import cv2
import numpy as np

from spine_nav_common.core.types import Rejected, RgbdFrame

from .grid import (
    GRID_SIZE,
    PITCH_M,
    Grid,
    camera_points,
    centred_grid,
    covering_grid,
    sample_colour,
    sample_depth,
)
from .quality import check_frame
from .segmentation import RoiHint, Segmentation

_MIN_VALUE, _MAX_SATURATION, _SOFTNESS = 0.45, 0.45, 0.06
_MIN_BONE_CELLS = 60


class ColourSegmenter:
    """Bone by brightness and saturation; see `Segmenter` for the interface."""

    provider = "colour threshold"
    model_sha256 = ""

    def __init__(self) -> None:
        self.timings_ms: dict[str, float] = {}

    def warm_up(self) -> None:
        """Nothing to warm."""

    def run(self, frame: RgbdFrame, hint: RoiHint | None = None) -> Segmentation | Rejected:
        """Segment one frame."""
        start = time.perf_counter()
        refused = check_frame(frame)
        if refused is not None:
            return refused
        grid: Grid = (
            covering_grid(frame.intrinsics)
            if hint is None
            else centred_grid(frame.intrinsics, (hint.u, hint.v), hint.depth_m, PITCH_M)
        )
        affine = grid.affine()
        colour = sample_colour(frame.colour, affine, GRID_SIZE)
        depth = sample_depth(frame.depth_m, affine, GRID_SIZE)
        points, _, _ = camera_points(depth, affine, frame.intrinsics)
        value = colour.max(axis=2)
        saturation = (value - colour.min(axis=2)) / np.maximum(value, 1e-3)
        margin = np.minimum(value - _MIN_VALUE, _MAX_SATURATION - saturation)
        bone = 1.0 / (1.0 + np.exp(-np.clip(margin / _SOFTNESS, -30, 30)))
        bone = cv2.medianBlur(np.where(np.isfinite(depth), bone, 0.0).astype(np.float32), 3)
        self.timings_ms = {"network": (time.perf_counter() - start) * 1e3}
        if (bone > 0.5).sum() < _MIN_BONE_CELLS:
            return Rejected("no bone in view")
        none = np.full((*bone.shape, 3), np.nan, np.float32)
        return Segmentation(bone, bone, none, none, none, points, grid)
