# SPDX-License-Identifier: Apache-2.0
"""The network's input, and the ray frame that its vectors live in.

Every vector that goes into or comes out of the network is expressed in the *ray frame* of its
cell: the camera frame turned, the shortest way, until z runs along the cell's viewing ray. A
vertebra then looks the same wherever it stands in the image, so the network need not learn it.
"""

from __future__ import annotations

import cv2
import numpy as np

from . import kernels
from .grid import PITCH_M

CHANNELS: tuple[str, ...] = (
    "depth",
    "valid",
    "normal_x",
    "normal_y",
    "normal_z",
    "height_fine",
    "height_coarse",
    "pitch",
    "red",
    "green",
    "blue",
)
N_CHANNELS = len(CHANNELS)
CENTRE_SCALE_M = 0.05  # the network's unit of length for centre offsets
_DEPTH_SCALE_M, _HEIGHT_SCALE_M, _CLIP = 0.05, 0.008, 2.0
_SMOOTH, _FINE, _COARSE = 5, 11, 41  # windows in cells


def reference_range(range_m: np.ndarray, valid: np.ndarray) -> float:
    """Median of the valid middle of a grid, metres; of all of it if the middle is empty; or 0."""
    n = range_m.shape[0]
    middle = np.s_[n // 4 : -(n // 4), n // 4 : -(n // 4)]
    for part in (range_m[middle][valid[middle]], range_m[valid]):
        if part.size >= 32:
            return float(np.median(part))
    return 0.0


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
    # Range instead of z: a surface across the ray is then level wherever it stands in the image.
    range_m, stretch, mask = kernels.ranges(depth_m, x, y)
    reference = reference_range(range_m, mask > 0)
    blurred = [cv2.blur(a, (w, w)) for w in (_SMOOTH, _FINE, _COARSE) for a in (range_m, mask)]
    out = np.empty((N_CHANNELS, *depth_m.shape), np.float32)
    smooth = kernels.heights(
        out,
        range_m,
        mask,
        tuple(blurred),
        (_SMOOTH, _FINE, _COARSE),
        reference,
        (_DEPTH_SCALE_M, _HEIGHT_SCALE_M, _CLIP),
    )
    smooth = cv2.blur(smooth, (_SMOOTH, _SMOOTH))
    np.divide(smooth, stretch, out=smooth)
    _ray_normals(out[2:5], smooth, x, y, mask, affine, focal)
    pitch = reference * np.sqrt(abs(np.linalg.det(affine[:, :2]))) / np.sqrt(focal[0] * focal[1])
    out[7] = np.clip(np.log2(pitch / PITCH_M), -_CLIP, _CLIP) if pitch > 0 else 0.0
    kernels.colours(out[8:], colour)
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
    out = np.empty((3, *depth_m.shape), np.float32)
    _ray_normals(out, depth_m, x, y, np.ones_like(depth_m), affine, focal)
    return out.transpose(1, 2, 0)


def _ray_normals(
    out: np.ndarray,
    depth_m: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    mask: np.ndarray,
    affine: np.ndarray,
    focal: tuple[float, float],
) -> None:
    dj = cv2.Sobel(depth_m, cv2.CV_32F, 1, 0, ksize=3, scale=0.125)
    di = cv2.Sobel(depth_m, cv2.CV_32F, 0, 1, ksize=3, scale=0.125)
    inverse = np.linalg.inv(np.diag(1.0 / np.array(focal)) @ affine[:, :2]).astype(np.float32)
    turn = np.array([np.cos(roll_of(affine)), np.sin(roll_of(affine))], np.float32)
    kernels.normals(out, depth_m, dj, di, x, y, mask, inverse, turn)


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
    return np.stack([vx + rx * (vz - k), vy + ry * (vz - k), rz * vz - rx * vx - ry * vy], axis=-1)
