# SPDX-License-Identifier: Apache-2.0
"""What perception says of one frame, and the interface of whatever says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from spine_nav_common.core.types import Rejected, RgbdFrame

from .grid import Grid


@dataclass(frozen=True)
class RoiHint:
    """Where the spine was last seen: image point in pixels and depth in metres.

    cranial_px: direction of the head in the image (du, dv), any length, where it is known.
    """

    u: float
    v: float
    depth_m: float
    cranial_px: tuple[float, float] | None = None


@dataclass(frozen=True)
class Segmentation:
    """Per cell of the grid, (h, w): `bone` and `clean` (bone under < 0.4 mm of tissue), float32
    probabilities; (h, w, 3) float32 in the camera frame: `points_m` (NaN without depth),
    `centre_m`, the voted dorsal centre of the cell's vertebra, and unit `cranial` and `dorsal`
    of that vertebra. The votes mean something on bone only; NaN where there are none."""

    bone: np.ndarray
    clean: np.ndarray
    centre_m: np.ndarray
    cranial: np.ndarray
    dorsal: np.ndarray
    points_m: np.ndarray
    grid: Grid

    def bone_at(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Bone probability at image pixels (any shape), float32, bilinear, 0 outside the grid."""
        return self._sample(self.bone, u, v)

    def clean_at(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Clean-bone probability at image pixels, as `bone_at`."""
        return self._sample(self.clean, u, v)

    def _sample(self, image: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        u, v = np.broadcast_arrays(np.asarray(u, np.float32), np.asarray(v, np.float32))
        j = (u.reshape(-1, 1) - np.float32(self.grid.u0)) / np.float32(self.grid.scale)
        i = (v.reshape(-1, 1) - np.float32(self.grid.v0)) / np.float32(self.grid.scale)
        # remap takes at most 32767 rows.
        parts = [
            cv2.remap(
                image,
                j[k : k + 32000],
                i[k : k + 32000],
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=0,
            )
            for k in range(0, len(j), 32000)
        ]
        return np.concatenate(parts).reshape(u.shape) if parts else np.zeros(u.shape, np.float32)


class SegmentsFrames(Protocol):
    """Anything that finds bone in a frame."""

    @property
    def provider(self) -> str: ...

    @property
    def model_sha256(self) -> str: ...

    @property
    def timings_ms(self) -> dict[str, float]: ...

    def warm_up(self) -> None: ...

    def run(self, frame: RgbdFrame, hint: RoiHint | None = None) -> Segmentation | Rejected: ...
