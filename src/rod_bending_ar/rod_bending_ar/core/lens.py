# SPDX-License-Identifier: Apache-2.0
"""Where points of the camera's frame lie in its own picture, lens distortion included."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np

from spine_nav_common.core.compiled import compiled
from spine_nav_common.core.images import CameraModel
from spine_nav_common.core.types import Intrinsics

NEAR_M = 0.05  # nothing nearer to the camera is drawn
_BEYOND = 1.5  # of the picture's half size: farther out the polynomial of a lens means nothing


@dataclass(frozen=True)
class Lens:
    """A pinhole, and the distortion of OpenCV's models (N,), or of its fisheye (4,); none: empty."""

    pinhole: Intrinsics
    distortion: np.ndarray = field(default_factory=lambda: np.empty(0))
    fisheye: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pinhole.width, self.pinhole.height

    @cached_property
    def _numbers(self) -> tuple[np.ndarray, np.ndarray] | None:
        """fx, fy, cx, cy and reach; distortion (12,). None: OpenCV must bend."""
        if self.fisheye or len(self.distortion) > 12:
            return None
        k, n = self.pinhole, len(self.distortion)
        reach = _BEYOND * max(k.width / k.fx, k.height / k.fy) if n else np.inf
        return (
            np.array([k.fx, k.fy, k.cx, k.cy, reach]),
            np.concatenate([self.distortion, np.zeros(12 - n)]),
        )

    def project(self, points_m: np.ndarray) -> np.ndarray:
        """(N, 3) metres in the optical frame to (N, 2) pixels of the picture as it is recorded.

        NaN: not in front of the camera, or so far outside that the lens is not known there.
        """
        if self._numbers is not None:
            return _project(np.ascontiguousarray(points_m, np.float64), *self._numbers)
        k = self.pinhole
        z = np.where(points_m[:, 2] > 0.0, points_m[:, 2], np.nan)
        x, y = points_m[:, 0] / z, points_m[:, 1] / z
        reach = _BEYOND * max(k.width / k.fx, k.height / k.fy)
        far = ~(x**2 + y**2 < reach**2)
        x, y = self._bent(np.where(far, np.nan, x), np.where(far, np.nan, y))
        return np.stack([k.fx * x + k.cx, k.fy * y + k.cy], axis=1)

    def _bent(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rays = np.stack([x, y, np.ones_like(x)], axis=1)[:, None]
        good = np.isfinite(x)
        out = np.full((len(x), 2), np.nan)
        if good.any():
            project = cv2.fisheye.projectPoints if self.fisheye else cv2.projectPoints
            none = np.zeros(3)
            seen = project(rays[good], none, none, np.eye(3), self.distortion)[0]
            out[good] = seen.reshape(-1, 2)
        return out[:, 0], out[:, 1]


@compiled
def _project(points: np.ndarray, k: np.ndarray, D: np.ndarray) -> np.ndarray:
    """OpenCV's polynomial, compiled: cv2.projectPoints derives it too, which takes most of its
    time. k (5,): fx, fy, cx, cy, reach; D (12,)."""
    out = np.empty((len(points), 2))
    for i in range(len(points)):
        z = points[i, 2]
        x, y = points[i, 0] / z, points[i, 1] / z
        r2 = x * x + y * y
        if not (z > 0.0 and r2 < k[4] * k[4]):
            out[i, 0] = out[i, 1] = np.nan
            continue
        radial = 1.0 + r2 * (D[0] + r2 * (D[1] + r2 * D[4]))
        radial /= 1.0 + r2 * (D[5] + r2 * (D[6] + r2 * D[7]))
        bent_x = x * radial + 2.0 * D[2] * x * y + D[3] * (r2 + 2.0 * x * x)
        bent_y = y * radial + D[2] * (r2 + 2.0 * y * y) + 2.0 * D[3] * x * y
        out[i, 0] = k[0] * (bent_x + r2 * (D[8] + r2 * D[9])) + k[2]
        out[i, 1] = k[1] * (bent_y + r2 * (D[10] + r2 * D[11])) + k[3]
    return out


def lens_of(model: CameraModel) -> Lens:
    """The lens of the raw picture that a camera_info describes."""
    none = np.empty(0)
    return Lens(model.raw_intrinsics(), model.D if model.distorted else none, model.fisheye)


def as_lens(camera: Lens | Intrinsics) -> Lens:
    """A rectified picture's pinhole is a lens without distortion."""
    return camera if isinstance(camera, Lens) else Lens(camera)


def project_px(points_m: np.ndarray, camera: Lens | Intrinsics) -> np.ndarray:
    """`Lens.project` of either."""
    return as_lens(camera).project(points_m)
