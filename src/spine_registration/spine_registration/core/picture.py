# SPDX-License-Identifier: Apache-2.0
"""Whether the camera stood still between two pictures, or moved along the spine by a vertebra.

Vertebrae are much alike: a camera that moved by one of them sees bone where bone was before, and no
pose tells. What else is in and about the wound does: its ends, edges, retractors.
"""

from __future__ import annotations

import cv2
import numpy as np

WIDTH = 160
"""Of a thumbnail: a vertebra is some ten of its pixels."""
STILL, LEAD = 0.75, 0.2
"""Least correlation of two pictures of a camera that stood still, and its lead over every shift by
half a vertebra to two and a half. On 40 rendered scenes of the list train, three seconds apart, 32
cameras that stood still are known to have (in the others a hand or an instrument came), and none of
160 that had moved by one or two vertebrae (`training/calibration/stood_still.py`)."""
_AROUND = 1.5
"""Vertebrae around the wound that count: what lies farther may stand still when the patient moves."""
_LEAST_PX = 12
_SHIFTS = np.linspace(0.5, 2.5, 11)
_SLACK_PX = (-2, 0, 2)
_LEAST_OVERLAP = 0.3
_LONGEST = 1.5  # vertebrae that the camera may have moved by at least, and be found out


def thumbnail(colour: np.ndarray) -> np.ndarray:
    """(h, WIDTH) uint8 grey picture of a colour image (H, W, 3) uint8."""
    height, width = colour.shape[:2]
    size = (WIDTH, max(1, round(WIDTH * height / width)))
    return cv2.resize(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)


def stood_still(
    before: np.ndarray, now: np.ndarray, levels_px: np.ndarray, vertebra_px: np.ndarray
) -> bool:
    """Whether two thumbnails speak for a camera that did not move by a vertebra.

    Args:
        before, now: (h, w) uint8.
        levels_px: (N, 2) u, v of the levels that were seen before, in pixels of the thumbnail.
        vertebra_px: (2,) from one vertebra to the next.

    Returns:
        False too where the pictures do not tell: much has changed, or everything is alike.
    """
    still, moved = correlations(before, now, levels_px, vertebra_px)
    return still >= STILL and still >= moved + LEAD


def correlations(
    before: np.ndarray, now: np.ndarray, levels_px: np.ndarray, vertebra_px: np.ndarray
) -> tuple[float, float]:
    """Correlation of the wound in two thumbnails in place, and the highest of all shifts along the
    spine; -1, 1 where they cannot be compared."""
    step = np.asarray(vertebra_px, float)
    length = float(np.linalg.norm(step))
    if before.shape != now.shape or not 1.0 <= length < max(before.shape):
        return -1.0, 1.0
    low = np.floor(levels_px.min(axis=0) - _AROUND * length).astype(int).clip(0)
    high = np.ceil(levels_px.max(axis=0) + _AROUND * length).astype(int).clip(0)
    # Light changes slowly over a picture: what is finer than a vertebra counts.
    a, b = (_fine(p, length)[low[1] : high[1], low[0] : high[0]] for p in (before, now))
    if min(a.shape) < _LEAST_PX:
        return -1.0, 1.0
    # A shift that leaves too little of the two to compare would speak for standing still.
    if _overlap(a.shape, *np.abs(_LONGEST * step)) < _LEAST_OVERLAP:
        return -1.0, 1.0
    across = np.array([-step[1], step[0]]) / length
    moved = max(
        _correlation(a, b, *np.rint(sign * s * step + slack * across).astype(int))
        for s in _SHIFTS
        for sign in (-1, 1)
        for slack in _SLACK_PX
    )
    return _correlation(a, b, 0, 0), moved


def _fine(picture: np.ndarray, sigma_px: float) -> np.ndarray:
    grey = picture.astype(np.float32)
    return grey - cv2.GaussianBlur(grey, (0, 0), sigma_px)


def _overlap(shape: tuple[int, ...], du: float, dv: float) -> float:
    """Share of a picture that a shifted one covers."""
    return max(0.0, 1.0 - dv / shape[0]) * max(0.0, 1.0 - du / shape[1])


def _correlation(a: np.ndarray, b: np.ndarray, du: int, dv: int) -> float:
    """Of a with b, where what stood at (u, v) of a stands at (u + du, v + dv) of b."""
    h, w = a.shape
    if _overlap(a.shape, abs(du), abs(dv)) < _LEAST_OVERLAP:
        return -1.0
    p = a[max(0, -dv) : h - max(0, dv), max(0, -du) : w - max(0, du)]
    q = b[max(0, dv) : h - max(0, -dv), max(0, du) : w - max(0, -du)]
    p, q = p - p.mean(), q - q.mean()
    scale = float(np.sqrt((p * p).sum() * (q * q).sum()))
    return float((p * q).sum()) / scale if scale > 0.0 else -1.0
