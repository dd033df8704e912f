# SPDX-License-Identifier: Apache-2.0
"""How a smooth bias of the depth camera turns and shifts the poses that are fitted to its points.

The bias is a Gaussian random field over the lines of sight, times the distance. A small basis spans
it; each function's effect on the poses follows from the same least squares that fitted them, so the
lie of the pixels, the angle of view and the springs are all in it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from spine_nav_common.core.depth_camera import DepthCamera

from . import frame_kernels
from .model import SpineModel
from .observation import BonePixels

MAX_CENTRES = 24
"""Of the basis: more would only resolve bumps that one vertebra averages out."""

ENOUGH_PIXELS = 400
NEAR_M = 4e-3  # pixels beyond are of something else
EDGE = 0.05
"""The basis spans the view out to multiples of this slope, so that it need not be made every frame."""


def bias_basis(slope: np.ndarray, camera: DepthCamera) -> np.ndarray:
    """(M, B) values of a basis of the relative depth bias at lines of sight `slope` (M, 2), x/z and
    y/z: unit normal coefficients give a field of the camera's shares. The first is the scale."""
    centre, mix = _field(slope, camera)
    return np.column_stack(
        [np.full(len(slope), camera.scale_share), _kernel(slope, centre, camera) @ mix]
    )


def _field(slope: np.ndarray, camera: DepthCamera) -> tuple[np.ndarray, np.ndarray]:
    """Centres (C, 2) of Gaussians over lines of sight, and (C, C) the mixtures of them that span
    the camera's field."""
    low, high = np.floor(slope.min(axis=0) / EDGE), np.ceil(slope.max(axis=0) / EDGE)
    return _field_over(tuple((EDGE * low).tolist()), tuple((EDGE * high).tolist()), camera)


@lru_cache(maxsize=8)
def _field_over(
    low: tuple[float, ...], high: tuple[float, ...], camera: DepthCamera
) -> tuple[np.ndarray, np.ndarray]:
    spacing = camera.field_width
    size = np.subtract(high, low)
    count = np.maximum(2, np.ceil(size / spacing).astype(int) + 1)
    while count.prod() > MAX_CENTRES:
        spacing *= 1.15
        count = np.maximum(2, np.ceil(size / spacing).astype(int) + 1)
    half = 0.5 * (count - 1) * spacing
    middle = 0.5 * np.add(low, high)
    x, y = (np.linspace(m - h, m + h, n) for m, h, n in zip(middle, half, count, strict=True))
    centre = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(float)
    root = np.linalg.cholesky(_kernel(centre, centre, camera) + 1e-6 * np.eye(len(centre)))
    return centre, camera.field_share * np.linalg.inv(root).T


def _kernel(a: np.ndarray, b: np.ndarray, camera: DepthCamera) -> np.ndarray:
    square = ((a[:, None] - b[None]) ** 2).sum(axis=-1)
    return np.exp(-0.5 * square / camera.field_width**2)


def bias_response(
    model: SpineModel,
    T_camera_ct: np.ndarray,
    pixels: BonePixels,
    level_of_pixel: np.ndarray,
    anchor_camera_m: np.ndarray,
    springs: np.ndarray,
    weight_per_m2: float,
    camera: DepthCamera,
) -> np.ndarray:
    """(L, 6, B) twist of each level per unit of each basis function of the bias, translation first,
    about `anchor_camera_m` (L, 3).

    Args:
        T_camera_ct: (L, 4, 4) poses. level_of_pixel: (M,) index of the level, -1 for none.
        springs: (6L, 6L) information that holds neighbours together.
        weight_per_m2: information of one square metre of bone about its distance, 1/m^2 per m^2.
    """
    L = len(T_camera_ct)
    few = slice(None, None, max(1, len(pixels.points_m) // ENOUGH_PIXELS))  # the field is smooth
    points_m, area_m2 = np.ascontiguousarray(pixels.points_m[few]), pixels.area_m2[few]
    weight = weight_per_m2 * (pixels.area_m2.sum() / area_m2.sum()) * area_m2
    centre, mix = _field(points_m[:, :2] / points_m[:, 2:], camera)
    H, drive = frame_kernels.bias_equations(
        points_m, weight.astype(float), np.ascontiguousarray(level_of_pixel[few]),
        np.ascontiguousarray(T_camera_ct), np.ascontiguousarray(anchor_camera_m), centre,
        camera.field_width, NEAR_M, *model.grids,
    )  # fmt: skip
    total = springs + 1e-3 * np.trace(springs) / len(springs) * np.eye(6 * L)
    for k in range(L):
        total[6 * k : 6 * k + 6, 6 * k : 6 * k + 6] += H[k]
    drive = np.column_stack([camera.scale_share * drive[:, 0], drive[:, 1:] @ mix])
    return np.linalg.solve(total, drive).reshape(L, 6, -1)
