# SPDX-License-Identifier: Apache-2.0
"""The label image: which bone pixel belongs to which level."""

from __future__ import annotations

import cv2
import numpy as np

from spine_nav_common.core.types import BONE_OF_UNKNOWN_LEVEL, LEVEL_CODE, RgbdFrame
from spine_perception.core.segmentation import Segmentation

from .estimator import assign
from .model import SpineModel
from .observation import BonePixels

GATE_M = 6e-3


def label_image(
    frame: RgbdFrame, seg: Segmentation, model: SpineModel, T: np.ndarray | None
) -> np.ndarray:
    """(H, W) uint8 in the contract's codes: the level whose posed surface explains a bone cell,
    254 for bone that none explains (or before registration, T None), 0 elsewhere."""
    bone = (seg.bone > 0.5) & np.isfinite(seg.points_m).all(axis=2)
    codes = np.zeros(seg.bone.shape, np.uint8)
    codes[bone] = BONE_OF_UNKNOWN_LEVEL
    points = seg.points_m[bone]
    if T is not None and len(points):
        ones = np.ones(len(points), np.float32)
        ray = points / np.linalg.norm(points, axis=1, keepdims=True)
        pixels = BonePixels(points, ray, ones, ones, points, ones, len(points))
        level = assign(model, T, pixels, GATE_M)
        named = np.array([LEVEL_CODE[v] for v in model.levels] + [BONE_OF_UNKNOWN_LEVEL], np.uint8)
        codes[bone] = named[level]
    k = 1.0 / seg.grid.scale
    affine = np.array([[k, 0, -seg.grid.u0 * k], [0, k, -seg.grid.v0 * k]])
    height, width = frame.depth_m.shape
    return cv2.warpAffine(
        codes, affine, (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    )
