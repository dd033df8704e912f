# SPDX-License-Identifier: Apache-2.0
"""The network's input, and the ray frame that its vectors live in.

Every vector that goes into or comes out of the network is expressed in the *ray frame* of its
cell: the camera frame turned, the shortest way, until z runs along the cell's viewing ray. A
vertebra then looks the same wherever it stands in the image, so the network need not learn it.
"""

from __future__ import annotations

import cv2
import numpy as np

CHANNELS: tuple[str, ...] = (
    "depth", "valid", "normal_x", "normal_y", "normal_z", "height_fine", "height_coarse",
    "red", "green", "blue",
)
N_CHANNELS = len(CHANNELS)
CENTRE_SCALE_M = 0.05  # the network's unit of length for centre offsets
_DEPTH_SCALE_M, _HEIGHT_SCALE_M, _CLIP = 0.05, 0.008, 2.0
_SMOOTH, _FINE, _COARSE = 5, 11, 41  # windows in cells


def reference_depth(depth_m: np.ndarray) -> float:
    """Median depth of the middle of a grid, metres; of all of it if the middle is empty; or NaN."""
    n = depth_m.shape[0]
    for part in (depth_m[n // 4 : -(n // 4), n // 4 : -(n // 4)], depth_m):
        valid = part[np.isfinite(part)]
        if valid.size >= 32:
            return float(np.median(valid))
    return float("nan")


def features(
    depth_m: np.ndarray, colour: np.ndarray, x: np.ndarray, y: np.ndarray, affine: np.ndarray,
    focal: tuple[float, float],
) -> np.ndarray:
    """The input (C, h, w) float32, finite whatever comes in.

    depth_m: (h, w) metres on the grid, NaN = none. colour: (h, w, 3) in 0..1. x, y: (h, w) slopes
    of the cells' rays, x/z and y/z. affine: (2, 3) cell to pixel. focal: (fx, fy) pixels.
    """
    valid = np.isfinite(depth_m)
    reference = reference_depth(depth_m)
    mask = valid.astype(np.float32)
    depth = np.where(valid, depth_m, 0.0).astype(np.float32)
    if not np.isfinite(reference):
        reference = 0.0
    smooth = _masked_blur(_masked_blur(depth, mask, _SMOOTH), mask, _SMOOTH)
    normals = ray_normals(np.where(valid, smooth, 0.0), x, y, affine, focal)
    # Range instead of z: a surface across the ray is then level wherever it stands in the image.
    depth *= np.sqrt(1.0 + x * x + y * y)
    out = np.empty((N_CHANNELS, *depth.shape), np.float32)
    out[0] = (depth - reference) / _DEPTH_SCALE_M
    out[1] = mask
    out[2:5] = normals.transpose(2, 0, 1)
    for channel, window in ((5, _FINE), (6, _COARSE)):
        out[channel] = (_masked_blur(depth, mask, window) - depth) / _HEIGHT_SCALE_M
    out[[0, 2, 3, 4, 5, 6]] *= mask
    out[:7] = np.clip(out[:7], -_CLIP, _CLIP)
    out[7:] = np.clip(np.nan_to_num(colour), 0.0, 1.0).transpose(2, 0, 1) * 2.0 - 1.0
    return out


def ray_normals(
    depth_m: np.ndarray, x: np.ndarray, y: np.ndarray, affine: np.ndarray,
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


def to_ray_frame(vectors: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Camera-frame vectors (h, w, 3) in the ray frames of their cells."""
    return _tilt(vectors, -x, -y)


def from_ray_frame(vectors: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Ray-frame vectors (h, w, 3) in the camera frame: the inverse of `to_ray_frame`."""
    return _tilt(vectors, x, y)


def roll_of(affine: np.ndarray) -> float:
    """Angle in radians by which an affine grid is turned in the image (x towards y)."""
    return float(np.arctan2(affine[1, 0], affine[0, 0]))


def turn(vectors: np.ndarray, angle: float) -> np.ndarray:
    """Vectors (..., 3) turned about z by `angle` radians."""
    if angle == 0.0:
        return vectors
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    out = vectors.copy()
    out[..., 0] = c * vectors[..., 0] - s * vectors[..., 1]
    out[..., 1] = s * vectors[..., 0] + c * vectors[..., 1]
    return out


def _tilt(vectors: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Turn by the shortest rotation that takes (0, 0, 1) to the direction (x, y, 1)."""
    length = np.sqrt(1.0 + x * x + y * y)
    rx, ry, rz = x / length, y / length, 1.0 / length
    vx, vy, vz = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    k = (rx * vx + ry * vy) / (1.0 + rz)
    return np.stack(
        [vx + rx * (vz - k), vy + ry * (vz - k), rz * vz - rx * vx - ry * vy], axis=-1
    )


def _masked_blur(image: np.ndarray, mask: np.ndarray, window: int) -> np.ndarray:
    """Mean over the valid cells of a window; image is 0 where the mask is."""
    size = (window, window)
    weight = cv2.blur(mask, size)
    return cv2.blur(image * mask, size) / np.maximum(weight, 1e-6)
