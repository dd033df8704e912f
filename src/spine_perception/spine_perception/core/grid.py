# SPDX-License-Identifier: Apache-2.0
"""The square metric grid that the network sees, and sampling of frames onto it.

A grid of constant pitch (millimetres per cell at the depth of the region) gives the network
vertebrae of true physical size whatever the camera, so size itself tells levels apart from noise.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from spine_nav_common.core.types import Intrinsics

from . import kernels
from .quality import FAR_M, NEAR_M

GRID_SIZE = 224
PITCH_M = 0.0014
_BLEND_LIMIT_M = 0.003  # averaging across a larger step would invent points in mid-air


class Grid(NamedTuple):
    """Where cells lie in the image: u = u0 + scale * j, v = v0 + scale * i (pixels)."""

    scale: float
    u0: float
    v0: float

    def affine(self) -> np.ndarray:
        """(2, 3) float64: image pixel = A @ (j, i, 1)."""
        return np.array([[self.scale, 0.0, self.u0], [0.0, self.scale, self.v0]])

    def turned(self, angle: float, size: int = GRID_SIZE) -> np.ndarray:
        """(2, 3) affine of this grid turned by `angle` radians (u towards v) about its middle."""
        c, s = self.scale * np.cos(angle), self.scale * np.sin(angle)
        linear = np.array([[c, -s], [s, c]])
        half = np.full(2, 0.5 * (size - 1))
        middle = np.array([self.u0, self.v0]) + self.scale * half
        return np.column_stack([linear, middle - linear @ half])


def centred_grid(
    intrinsics: Intrinsics,
    centre_px: tuple[float, float],
    depth_m: float,
    pitch_m: float = PITCH_M,
    size: int = GRID_SIZE,
) -> Grid:
    """The grid of `size` cells around an image point, `pitch_m` per cell at `depth_m`."""
    scale = pitch_m * 0.5 * (intrinsics.fx + intrinsics.fy) / depth_m
    half = 0.5 * (size - 1) * scale
    return Grid(scale, centre_px[0] - half, centre_px[1] - half)


def covering_grid(intrinsics: Intrinsics, size: int = GRID_SIZE) -> Grid:
    """The grid that covers the whole image."""
    scale = (max(intrinsics.width, intrinsics.height) - 1) / (size - 1)
    half = 0.5 * (size - 1) * scale
    return Grid(scale, 0.5 * (intrinsics.width - 1) - half, 0.5 * (intrinsics.height - 1) - half)


def upright_angle(direction_px: np.ndarray) -> float:
    """The turn of a grid that makes an image direction (du, dv) point up in it (-i), radians."""
    return float(np.arctan2(direction_px[0], -direction_px[1]))


def pixel_maps(affine: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Image coordinates u, v, each (size, size) float32, of the cells of an affine grid."""
    j = np.arange(size, dtype=np.float32)
    a = affine.astype(np.float32)
    u = a[0, 0] * j[None, :] + a[0, 1] * j[:, None] + a[0, 2]
    v = a[1, 0] * j[None, :] + a[1, 1] * j[:, None] + a[1, 2]
    return u, v


def sample_depth(depth_m: np.ndarray, affine: np.ndarray, size: int) -> np.ndarray:
    """(size, size) float32 metres on the grid, NaN where none.

    Cells coarser than pixels average the pixels they cover (less noise), except at depth steps.
    """
    depth = np.ascontiguousarray(depth_m, np.float32)
    box = round(float(np.sqrt(abs(np.linalg.det(affine[:, :2])))))
    return kernels.sample_depth(depth, affine, size, box, NEAR_M, FAR_M, _BLEND_LIMIT_M)


def sample_colour(colour: np.ndarray, affine: np.ndarray, size: int) -> np.ndarray:
    """(size, size, 3) float32 in 0..1, black outside the image."""
    k = round(float(np.sqrt(abs(np.linalg.det(affine[:, :2])))))
    smooth = cv2.blur(colour, (k, k)) if k >= 2 else colour
    return _warp(smooth, affine, size, cv2.INTER_LINEAR).astype(np.float32) / 255.0


def camera_points(
    depth_m: np.ndarray, affine: np.ndarray, intrinsics: Intrinsics
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (h, w, 3) float32 in the camera frame, and the rays' slopes x/z and y/z (h, w)."""
    c = intrinsics
    return kernels.camera_points(depth_m, affine, c.fx, c.fy, c.cx, c.cy)


def _warp(image: np.ndarray, affine: np.ndarray, size: int, interpolation: int) -> np.ndarray:
    return cv2.warpAffine(
        image,
        affine,
        (size, size),
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
