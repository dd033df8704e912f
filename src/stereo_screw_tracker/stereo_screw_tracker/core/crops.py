# SPDX-License-Identifier: Apache-2.0
"""Paired crops at a fixed metric scale around a place in space, for the refiners.

Crop coordinates are crop pixels from the crop's centre, x right, y down. A crop is given by the
image place of its centre and a 2x2 matrix `image_from_crop` (image px per crop px), so a crop
place q lies at centre + image_from_crop @ q. Pixel centres are at integer image coordinates; a
crop of n pixels has its pixel centres at -(n-1)/2 ... (n-1)/2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.compiled import compiled

from .types import StereoCamera

SHARPEST_SHRINK = 1.25  # above it, single bilinear samples begin to skip image pixels
MIN_CONTRAST = 4.0  # grey levels; a flat crop must not become amplified noise
CLIP = 4.0


@dataclass(frozen=True)
class CropPair:
    """N paired crops: centres (N, 2) px and image_from_crop (N, 2, 2) of either eye."""

    left_px: np.ndarray
    right_px: np.ndarray
    left_from_crop: np.ndarray
    right_from_crop: np.ndarray


def triangulate_rough(
    left_px: np.ndarray, right_px: np.ndarray, camera: StereoCamera
) -> np.ndarray:
    """(N, 3) metres in the left frame from the columns' difference; rows are averaged.

    Raises ValueError where a number is not finite or the disparity not positive.
    """
    k = camera.intrinsics
    disparity = left_px[:, 0] - right_px[:, 0]
    good = (disparity > 0.0) & np.isfinite(left_px).all(axis=1) & np.isfinite(right_px).all(axis=1)
    if not good.all():
        raise ValueError(
            f"candidate {int(np.argmin(good))}: needs finite pixels with a disparity above 0 px; "
            "give the pair as (left_px, right_px)"
        )
    z = k.fx * camera.baseline_m / disparity
    row = 0.5 * (left_px[:, 1] + right_px[:, 1])
    return np.column_stack([(left_px[:, 0] - k.cx) * z / k.fx, (row - k.cy) * z / k.fy, z])


def ray_rotation(points_m: np.ndarray, baseline_m: float) -> np.ndarray:
    """(N, 3, 3) R_ray_camera: the smallest turn that brings the viewing ray onto +z.

    The ray starts half-way between the cameras, so that mirroring and swapping the pair mirrors
    this frame too.
    """
    ray = points_m - np.array([0.5 * baseline_m, 0.0, 0.0])
    ray = ray / np.linalg.norm(ray, axis=1, keepdims=True)
    x, y, z = ray.T
    h = 1.0 / (1.0 + z)
    rows = [[1 - h * x * x, -h * x * y, -x], [-h * x * y, 1 - h * y * y, -y], [x, y, z]]
    return np.moveaxis(np.array(rows), 2, 0)


def head_crops(
    left_px: np.ndarray, right_px: np.ndarray, camera: StereoCamera, pitch_m: float
) -> tuple[CropPair, np.ndarray]:
    """Crops (N) of the plane through each place that stands upright on its ray; R_ray_camera.

    What lies in this plane falls on the same crop pixel in both eyes, wherever in the image it is
    seen; what lies before or behind it shows as disparity between the crops.
    """
    points = triangulate_rough(left_px, right_px, camera)
    rotation = ray_rotation(points, camera.baseline_m)
    in_plane = pitch_m * np.moveaxis(rotation[:, :2], 1, 2)  # (N, 3, 2): a crop px in the camera
    shift = np.array([camera.baseline_m, 0.0, 0.0])
    pair = CropPair(
        left_px,
        right_px,
        _image_jacobian(points, camera) @ in_plane,
        _image_jacobian(points - shift, camera) @ in_plane,
    )
    return pair, rotation


def _image_jacobian(points_m: np.ndarray, camera: StereoCamera) -> np.ndarray:
    """(N, 2, 3): change of the image place (px) per metre of the point."""
    k = camera.intrinsics
    x, y, z = points_m.T
    zero = np.zeros_like(z)
    rows = [[k.fx / z, zero, -k.fx * x / z**2], [zero, k.fy / z, -k.fy * y / z**2]]
    return np.moveaxis(np.array(rows), 2, 0)


def project(points_m: np.ndarray, camera: StereoCamera) -> tuple[np.ndarray, np.ndarray]:
    """Image places (N, 2) of points (N, 3), z > 0, in the left and in the right image."""
    k = camera.intrinsics
    x, y, z = points_m.T
    v = k.cy + k.fy * y / z
    left = np.column_stack([k.cx + k.fx * x / z, v])
    return left, np.column_stack([left[:, 0] - k.fx * camera.baseline_m / z, v])


def rod_crops(
    points_m: np.ndarray, tangents: np.ndarray, camera: StereoCamera, pitch_m: float
) -> CropPair:
    """Crops (N) turned so that the projected tangent runs along +y; +x is the rod's normal.

    points_m (N, 3) with z > 0, tangents (N, 3).
    """
    left, right = project(points_m, camera)
    shift = np.array([camera.baseline_m, 0.0, 0.0])
    matrices = []
    for points in (points_m, points_m - shift):
        along = np.einsum("nij,nj->ni", _image_jacobian(points, camera), tangents)
        along = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        across = np.column_stack([along[:, 1], -along[:, 0]])
        scale = pitch_m * camera.intrinsics.fx / points_m[:, 2]
        matrices.append(scale[:, None, None] * np.stack([across, along], axis=2))
    return CropPair(left, right, *matrices)


def sample_crops(
    image: np.ndarray, centre_px: np.ndarray, image_from_crop: np.ndarray, size: int
) -> np.ndarray:
    """(N, size, size) float32 grey levels; outside the image its border continues.

    Bilinear at exact coordinates: cv2's tables round them to 1/32 px, which is a third of the
    disparity error that matters here. Shrinking averages several samples per crop pixel.
    """
    shrink = np.sqrt(np.abs(np.linalg.det(image_from_crop)))
    samples = np.ceil(np.maximum(shrink / SHARPEST_SHRINK, 1.0)).astype(np.int64)
    return _sampled(
        np.ascontiguousarray(image),
        np.ascontiguousarray(centre_px, np.float32),
        np.ascontiguousarray(image_from_crop, np.float32),
        samples,
        size,
    )


@compiled
def _sampled(
    image: np.ndarray, centre: np.ndarray, matrix: np.ndarray, samples: np.ndarray, size: int
) -> np.ndarray:  # pragma: no cover - compiled
    height, width = image.shape
    out = np.empty((len(centre), size, size), np.float32)
    for crop in range(len(centre)):
        k = samples[crop]
        half = np.float32(0.5 * (size * k - 1))
        share = np.float32(1.0 / (k * k))
        per = np.float32(1.0 / k)
        for row in range(size):
            for column in range(size):
                total = np.float32(0.0)
                for sub in range(k * k):
                    x = (np.float32(column * k + sub % k) - half) * per
                    y = (np.float32(row * k + sub // k) - half) * per
                    u = centre[crop, 0] + matrix[crop, 0, 0] * x + matrix[crop, 0, 1] * y
                    v = centre[crop, 1] + matrix[crop, 1, 0] * x + matrix[crop, 1, 1] * y
                    u = min(max(u, np.float32(0.0)), np.float32(width - 1))
                    v = min(max(v, np.float32(0.0)), np.float32(height - 1))
                    i, j = min(int(u), width - 2), min(int(v), height - 2)
                    fx, fy = u - np.float32(i), v - np.float32(j)
                    top = np.float32(image[j, i])
                    low = np.float32(image[j + 1, i])
                    top += fx * (np.float32(image[j, i + 1]) - top)
                    low += fx * (np.float32(image[j + 1, i + 1]) - low)
                    total += top + fy * (low - top)
                out[crop, row, column] = total * share
    return out


def normalise(crops: np.ndarray) -> np.ndarray:
    """Each crop (..., n, n) by itself to mean 0 and spread 1, clipped: gain and offset vanish."""
    mean = crops.mean(axis=(-2, -1), keepdims=True)
    spread = crops.std(axis=(-2, -1), keepdims=True)
    scaled = np.clip((crops - mean) / np.maximum(spread, MIN_CONTRAST), -CLIP, CLIP)
    return np.asarray(scaled, np.float32)


def paired_crops(left: np.ndarray, right: np.ndarray, pair: CropPair, size: int) -> np.ndarray:
    """(N, 2, size, size) float32 grey levels of both eyes from two grey images, not normalised."""
    return np.stack(
        [
            sample_crops(left, pair.left_px, pair.left_from_crop, size),
            sample_crops(right, pair.right_px, pair.right_from_crop, size),
        ],
        axis=1,
    )
