# SPDX-License-Identifier: Apache-2.0
"""Whether a pair shows the same scene from left and right, row by row: asked when no head is found.

Swapped or unrectified images leave the network without heads, which reads like an empty wound.
Points of the tissue, matched without any assumption on the geometry, tell the two apart.
"""

from __future__ import annotations

import cv2
import numpy as np

from spine_nav_common.core.types import Rejected, StereoFrame

NEAREST_M = 0.15
ROWS_PX = 3.0  # median row difference that no rectified pair has
_WIDTH_PX = 480
_POINTS = 150
_LEAST_POINTS = 20
_PATCH_PX = 10  # half a side
_ROW_SHARE = 0.08  # of the height: how far rows of an unrectified pair may differ
_LEAST_SCORE = 0.8
_LEAST_LEAD = 0.05  # over the best match elsewhere
_MOST = 0.75  # share of the points that must agree


def check_geometry(frame: StereoFrame) -> Rejected | None:
    """Why the two images are no rectified left and right, with the remedy; None where they are, or
    where too few points can be matched to tell."""
    left, right, scale = _small(frame.left), _small(frame.right), _scale(frame.left)
    far_px = scale * frame.intrinsics.fx * frame.baseline_m / NEAREST_M
    reach = np.array([min(far_px, 0.5 * left.shape[1]), _ROW_SHARE * left.shape[0]])
    shifts = _matches(left, right, np.ceil(reach).astype(int)) / scale
    if len(shifts) < _LEAST_POINTS:
        return None
    # disparity u_left - u_right of a rectified pair is positive everywhere
    if float(np.mean(shifts[:, 0] < -1.0)) > _MOST:
        return Rejected(
            "left and right are swapped: the scene lies on the wrong side; exchange the two image"
            " topics"
        )
    row_px = float(np.median(np.abs(shifts[:, 1])))
    if row_px > ROWS_PX:
        return Rejected(
            f"left and right rows differ by {row_px:.0f} px (median of {len(shifts)} points): the"
            " pair is not rectified or its calibration is off; feed rectified images (image_rect)"
            " or calibrate again"
        )
    return None


def _scale(image: np.ndarray) -> float:
    return min(1.0, _WIDTH_PX / image.shape[1])


def _small(image: np.ndarray) -> np.ndarray:
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = _scale(image)
    if scale == 1.0:
        return grey
    return cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _matches(left: np.ndarray, right: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """(N, 2) left minus right place of points that match in one place only."""
    corners = cv2.goodFeaturesToTrack(left, _POINTS, 0.02, 8.0)
    shifts = []
    for u, v in [] if corners is None else np.round(corners.reshape(-1, 2)).astype(int):
        shift = _match(left, right, int(u), int(v), reach)
        if shift is not None:
            shifts.append(shift)
    return np.array(shifts, dtype=np.float64).reshape(-1, 2)


def _match(
    left: np.ndarray, right: np.ndarray, u: int, v: int, reach: np.ndarray
) -> tuple[int, int] | None:
    n, (height, width) = _PATCH_PX, left.shape
    if not (n <= u < width - n and n <= v < height - n):
        return None
    u0, u1 = max(u - reach[0], n), min(u + reach[0], width - n - 1)
    v0, v1 = max(v - reach[1], n), min(v + reach[1], height - n - 1)
    patch = left[v - n : v + n + 1, u - n : u + n + 1]
    band = right[v0 - n : v1 + n + 1, u0 - n : u1 + n + 1]
    score = cv2.matchTemplate(band, patch, cv2.TM_CCOEFF_NORMED)
    _, best, _, (x, y) = cv2.minMaxLoc(score)
    score[max(y - n, 0) : y + n + 1, max(x - n, 0) : x + n + 1] = -1.0
    if best < _LEAST_SCORE or best - float(score.max()) < _LEAST_LEAD:
        return None
    return int(u - (u0 + x)), int(v - (v0 + y))
