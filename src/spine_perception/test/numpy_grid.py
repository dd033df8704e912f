# SPDX-License-Identifier: Apache-2.0
"""NumPy twins of `spine_perception.core.kernels`: slow, plain, and what the compiled loops must give."""

from __future__ import annotations

import cv2
import numpy as np

from spine_nav_common.core.types import Intrinsics
from spine_perception.core.features import (
    _CLIP,
    _COARSE,
    _DEPTH_SCALE_M,
    _FINE,
    _HEIGHT_SCALE_M,
    _SMOOTH,
    CENTRE_SCALE_M,
    N_CHANNELS,
    from_ray_frame,
    reference_range,
    roll_of,
    to_ray_frame,
    turn,
)
from spine_perception.core.grid import _BLEND_LIMIT_M, GRID_SIZE, PITCH_M, Grid, _warp, pixel_maps
from spine_perception.core.quality import usable_depth
from spine_perception.core.segmentation import Segmentation
from spine_perception.core.segmenter import _cell_turn


def sample_depth(depth_m: np.ndarray, affine: np.ndarray, size: int) -> np.ndarray:
    """(size, size) float32 metres on the grid, NaN where none.

    Cells coarser than pixels average the pixels they cover (less noise), except at depth steps.
    """
    valid = usable_depth(depth_m)
    clean = np.where(valid, depth_m, 0.0).astype(np.float32)
    mask = valid.astype(np.float32)
    nearest = _warp(clean, affine, size, cv2.INTER_NEAREST)
    k = round(float(np.sqrt(abs(np.linalg.det(affine[:, :2])))))
    if k >= 2:
        total = _warp(cv2.blur(clean, (k, k)), affine, size, cv2.INTER_NEAREST)
        weight = _warp(cv2.blur(mask, (k, k)), affine, size, cv2.INTER_NEAREST)
        mean = total / np.maximum(weight, 1e-6)
        smooth = (nearest > 0) & (np.abs(mean - nearest) < _BLEND_LIMIT_M)
        nearest = np.where(smooth, mean, nearest)
    nearest[nearest <= 0] = np.nan
    return nearest


def camera_points(
    depth_m: np.ndarray, affine: np.ndarray, intrinsics: Intrinsics
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (h, w, 3) float32 in the camera frame, and the rays' slopes x/z and y/z (h, w)."""
    u, v = pixel_maps(affine, depth_m.shape[0])
    x = (u - np.float32(intrinsics.cx)) / np.float32(intrinsics.fx)
    y = (v - np.float32(intrinsics.cy)) / np.float32(intrinsics.fy)
    return np.dstack([x * depth_m, y * depth_m, depth_m]), x, y


def features(
    depth_m: np.ndarray,
    colour: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    affine: np.ndarray,
    focal: tuple[float, float],
) -> np.ndarray:
    """The input (C, h, w) float32, finite whatever comes in.

    depth_m: (h, w) metres on the grid, NaN = none. colour: (h, w, 3) in 0..1. x, y: (h, w) slopes
    of the cells' rays, x/z and y/z. affine: (2, 3) cell to pixel. focal: (fx, fy) pixels.
    """
    valid = np.isfinite(depth_m)
    mask = valid.astype(np.float32)
    depth = np.where(valid, depth_m, 0.0).astype(np.float32)
    # Range instead of z: a surface across the ray is then level wherever it stands in the image.
    stretch = np.sqrt(1.0 + x * x + y * y)
    depth *= stretch
    reference = reference_range(depth, valid)
    coarse = _masked_blur(depth, mask, _COARSE, reference)
    smooth = cv2.blur(_masked_blur(depth, mask, _SMOOTH, coarse), (_SMOOTH, _SMOOTH))
    normals = ray_normals(smooth / stretch, x, y, affine, focal)
    fine = _masked_blur(depth, mask, _FINE, coarse)
    out = np.empty((N_CHANNELS, *depth.shape), np.float32)
    out[0] = (depth - reference) / _DEPTH_SCALE_M
    out[1] = 1.0
    out[2:5] = normals.transpose(2, 0, 1)
    out[5] = (fine - depth) / _HEIGHT_SCALE_M
    out[6] = (coarse - depth) / _HEIGHT_SCALE_M
    out[:7] *= mask
    pitch = reference * np.sqrt(abs(np.linalg.det(affine[:, :2]))) / np.sqrt(focal[0] * focal[1])
    out[7] = np.log2(pitch / PITCH_M) if pitch > 0 else 0.0
    np.clip(out[:8], -_CLIP, _CLIP, out=out[:8])
    out[8:] = np.clip(np.nan_to_num(colour), 0.0, 1.0).transpose(2, 0, 1) * 2.0 - 1.0
    return out


def ray_normals(
    depth_m: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    affine: np.ndarray,
    focal: tuple[float, float],
) -> np.ndarray:
    """Unit normals (h, w, 3) towards the camera, in each cell's ray frame turned by the grid's roll.

    n ~ (-dZ/dx, -dZ/dy, Z + x dZ/dx + y dZ/dy) for Z over the slopes x, y; negated to face us.
    """
    dz_dj = cv2.Sobel(depth_m, cv2.CV_32F, 1, 0, ksize=3, scale=0.125)
    dz_di = cv2.Sobel(depth_m, cv2.CV_32F, 0, 1, ksize=3, scale=0.125)
    slopes_from_cells = np.diag(1.0 / np.array(focal)) @ affine[:, :2]
    inverse = np.linalg.inv(slopes_from_cells).astype(np.float32)
    dz_dx = dz_dj * inverse[0, 0] + dz_di * inverse[1, 0]
    dz_dy = dz_dj * inverse[0, 1] + dz_di * inverse[1, 1]
    normals = np.dstack([dz_dx, dz_dy, -(depth_m + x * dz_dx + y * dz_dy)])
    normals /= np.maximum(np.linalg.norm(normals, axis=2, keepdims=True), 1e-9)
    return turn(to_ray_frame(normals, x, y), -roll_of(affine))


def _masked_blur(
    image: np.ndarray, mask: np.ndarray, window: int, otherwise: np.ndarray | float
) -> np.ndarray:
    """Mean over the valid cells of a window, `otherwise` where there are none; image is 0 there."""
    weight = cv2.blur(mask, (window, window))
    enough = weight > 0.5 / window**2
    mean = cv2.blur(image, (window, window)) / np.maximum(weight, 1e-6)
    return np.where(enough, mean, np.float32(1.0) * otherwise).astype(np.float32, copy=False)


def _decode(
    vectors: np.ndarray, points: np.ndarray, x: np.ndarray, y: np.ndarray, roll: float
) -> np.ndarray:
    """Network vectors (9, h, w) in ray frames to (h, w, 9) centre (m), cranial, dorsal (unit) in
    the camera frame, for cells with these points and ray slopes on a grid of this roll."""
    v = turn(vectors.transpose(1, 2, 0).reshape(*x.shape, 3, 3), roll)
    offset, cranial, dorsal = (from_ray_frame(v[:, :, part], x, y) for part in range(3))
    axes = [
        a / np.maximum(np.linalg.norm(a, axis=2, keepdims=True), 1e-6) for a in (cranial, dorsal)
    ]
    centre = points + offset * np.float32(CENTRE_SCALE_M)
    return np.concatenate([centre, *axes], axis=2).astype(np.float32, copy=False)


def _lay_out(
    masks: np.ndarray, votes: np.ndarray, points: np.ndarray, grid: Grid, angle: float
) -> Segmentation:
    """Logits (2, n, n) and votes (n/2, n/2, 9) of the turned grid, on the grid itself."""
    n = GRID_SIZE
    turned_from_grid = _cell_turn(-angle)
    # Full cells 0 and 1 belong to vote cell 0.
    vote_from_grid = 0.5 * turned_from_grid
    vote_from_grid[:, 2] -= 0.25
    flags = cv2.WARP_INVERSE_MAP
    logits = [
        m
        if angle == 0.0
        else cv2.warpAffine(
            m, turned_from_grid, (n, n), flags=cv2.INTER_LINEAR | flags, borderValue=-30.0
        )
        for m in masks
    ]
    centre, cranial, dorsal = (
        cv2.warpAffine(
            np.ascontiguousarray(votes[..., k : k + 3]),
            vote_from_grid,
            (n, n),
            flags=cv2.INTER_NEAREST | flags,
            borderValue=(np.nan, np.nan, np.nan),
        )
        for k in (0, 3, 6)
    )
    bone, clean = (1.0 / (1.0 + np.exp(-np.clip(m, -30.0, 30.0))) for m in logits)
    # Without depth there is no point to be bone.
    bone = np.where(np.isfinite(points[..., 2]), bone, 0.0).astype(np.float32, copy=False)
    return Segmentation(
        bone=bone,
        # Clean bone is bone: the two heads must not contradict each other.
        clean=np.minimum(bone, clean).astype(np.float32, copy=False),
        centre_m=centre,
        cranial=cranial,
        dorsal=dorsal,
        points_m=points,
        grid=grid,
    )
