# SPDX-License-Identifier: Apache-2.0
"""Whether one eye is less sharp than the other: out of focus, or its lens is wet or smeared.

Heads are then found less often, and with wider bounds; nothing wrong is shown, but the user should
know why, since in the picture of the other eye all is well.
"""

from __future__ import annotations

import cv2
import numpy as np

from spine_nav_common.core.types import StereoFrame

from .finder_grid import grey

LOOK_NS = 500_000_000
"""Stamps between two looks."""
# Of the strongest edges, over a hand near the cameras too, eyes differed by a factor of 0.89 to 1.12
# in 12 scenes of `calibrate`; a blur of 3 px at 640 gave 1.29 to 1.82, of 2 px 1.17 to 1.52.
_BLURRED = 1.25
_LOOKS = 2  # that agree
_WIDTH_PX = 640
_FINE_PX, _COARSE_PX = 1.0, 4.0


def sharpness(image: np.ndarray) -> float:
    """How steep the strongest edges of (H, W) or (H, W, 3) are in fine over in coarse detail: what
    is in the picture, its exposure and its grain drop out."""
    one = grey(image)
    scale = _WIDTH_PX / one.shape[1]
    if scale < 1.0:
        one = cv2.resize(one, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    fine, coarse = (_steep(one, sigma) for sigma in (_FINE_PX, _COARSE_PX))
    return fine / max(coarse, 1e-3)


def _steep(image: np.ndarray, sigma_px: float) -> float:
    soft = cv2.GaussianBlur(image, (0, 0), sigma_px).astype(np.float32)
    slope = cv2.magnitude(cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1))
    return float(np.percentile(slope[::2, ::2], 98))


class FocusWatch:
    """Compares the eyes now and then; one instance per operation."""

    def __init__(self) -> None:
        self._looked_ns: int | None = None
        self._blurred = [0, 0]

    def look(self, frame: StereoFrame) -> str | None:
        """What is to be told of this pair: which eye is blurred, and what to do."""
        if self._looked_ns is None or not 0 <= frame.stamp_ns - self._looked_ns < LOOK_NS:
            self._looked_ns = frame.stamp_ns
            left, right = sharpness(frame.left), sharpness(frame.right)
            for eye, ratio in enumerate((right / left, left / right)):
                self._blurred[eye] = self._blurred[eye] + 1 if ratio > _BLURRED else 0
        for name, count in zip(("left", "right"), self._blurred, strict=True):
            if count >= _LOOKS:
                return (
                    f"the {name} image is less sharp than the other: clean and dry that lens, or"
                    " focus it; screws may be missed"
                )
        return None
