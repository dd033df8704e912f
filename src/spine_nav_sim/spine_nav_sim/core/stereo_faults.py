# SPDX-License-Identifier: Apache-2.0
"""What spoils a stereo recording: a bumped rig, one eye blurred or wet, fields and rows out of time.

Each fault takes the pairs of a recording, in order, and gives them back spoiled. Geometry is changed
in the right eye alone, so that the truth in the left optical frame stays true. Sizes in pixels are
those of a 640 px wide image; wider images are spoiled in proportion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType

import cv2
import numpy as np

from spine_nav_common.core.geometry import exp_so3
from spine_nav_common.core.types import Intrinsics, StereoFrame

Fault = Callable[[Sequence[StereoFrame]], list[StereoFrame]]

_WIDTH_PX = 640.0
_GAMMA = 2.2
BUMPED_AT = 4  # the pair from which on the rigs of FAULTS are bumped
_GRAIN = 2.0  # grey levels, 1 sigma


def _right(spoil: Callable[[np.ndarray, float], np.ndarray]) -> Fault:
    return lambda pairs: [replace(p, right=spoil(p.right, _scale(p))) for p in pairs]


def turned(frame: StereoFrame, yaw_px: float, pitch_px: float, roll_deg: float) -> StereoFrame:
    """The right camera turned against the left one: by so much the image's middle moves to the right
    and down, and so far it rolls."""
    k, s = frame.intrinsics, _scale(frame)
    turn = exp_so3(
        np.array([-s * pitch_px / k.fy, s * yaw_px / k.fx, np.radians(roll_deg)]),
    )
    K = _matrix(k)
    return _warped(frame, K @ turn @ np.linalg.inv(K))


def sheared(frame: StereoFrame, across_px: float, along_px: float = 0.0) -> StereoFrame:
    """The right image's last row moved against its first by (across, along) pixels: rows that were
    exposed one after the other while the camera moved."""
    s, high = _scale(frame), frame.right.shape[0]
    a, b = s * across_px / high, s * along_px / high
    middle = 0.5 * (high - 1)
    return _warped(
        frame, np.array([[1.0, a, -a * middle], [0.0, 1.0 + b, -b * middle], [0.0, 0.0, 1.0]])
    )


def bumped(at: int, yaw_px: float, pitch_px: float = 0.0, roll_deg: float = 0.0) -> Fault:
    """From pair `at` on the right camera stands turned."""
    return lambda pairs: [
        turned(p, yaw_px, pitch_px, roll_deg) if i >= at else p for i, p in enumerate(pairs)
    ]


def drifting(yaw_px: float, pitch_px: float = 0.0) -> Fault:
    """The right camera turns slowly: nothing in the first pair, all of it in the last."""

    def spoil(pairs: Sequence[StereoFrame]) -> list[StereoFrame]:
        share = np.linspace(0.0, 1.0, len(pairs))
        return [turned(p, yaw_px * t, pitch_px * t, 0.0) for p, t in zip(pairs, share, strict=True)]

    return spoil


def skewed(across_px: float) -> Fault:
    """The same shear in every pair."""
    return lambda pairs: [sheared(p, across_px) for p in pairs]


def rolling(readout_share: float) -> Fault:
    """The right eye reads its rows one after the other, which takes this share of the time between
    two pairs; the left one exposes all at once."""

    def spoil(pairs: Sequence[StereoFrame]) -> list[StereoFrame]:
        out = []
        for before, now in zip([pairs[0], *pairs], pairs, strict=False):
            across, along = _picture_motion(before.left, now.left) / _scale(now)
            out.append(sheared(now, readout_share * across, readout_share * along))
        return out

    return spoil


def defocused(sigma_px: float) -> Fault:
    """The right eye is out of focus; its sensor's grain stays as it is."""

    def spoil(image: np.ndarray, s: float) -> np.ndarray:
        blurred = cv2.GaussianBlur(image, (0, 0), s * sigma_px).astype(np.float32)
        grain = np.random.default_rng(int(image[::9, ::9].sum())).normal(0.0, _GRAIN, image.shape)
        return np.clip(np.rint(blurred + grain), 0, 255).astype(np.uint8)

    return _right(spoil)


def wet(drops: int = 4, radius_px: float = 70.0, bend_px: float = 8.0, seed: int = 0) -> Fault:
    """Drops on the right lens: each blurs what lies behind it and bends it outwards."""

    def spoil(image: np.ndarray, s: float) -> np.ndarray:
        rng = np.random.default_rng(seed)
        high, wide = image.shape[:2]
        y, x = np.mgrid[:high, :wide].astype(np.float32)
        u, v, much = x.copy(), y.copy(), np.zeros((high, wide), np.float32)
        for _ in range(drops):
            centre = rng.uniform(0.25, 0.75, 2) * (wide, high)
            dx, dy = (x - centre[0]) / (s * radius_px), (y - centre[1]) / (s * radius_px)
            within = np.clip(1.0 - dx**2 - dy**2, 0.0, 1.0)
            u -= s * bend_px * dx * within
            v -= s * bend_px * dy * within
            much = np.maximum(much, np.clip(3.0 * within, 0.0, 1.0))
        bent = cv2.remap(image, u, v, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)
        blurred = cv2.GaussianBlur(bent, (0, 0), 2.5 * s).astype(np.float32)
        share = much if image.ndim == 2 else much[..., None]
        return np.rint(bent + share * (blurred - bent)).astype(np.uint8)

    return _right(spoil)


def darker(stops: float) -> Fault:
    """The right eye gets 2^-stops of the light (plus: darker)."""
    table = np.arange(256) / 255.0
    table = np.rint(255.0 * np.clip(table**_GAMMA * 2.0**-stops, 0, 1) ** (1.0 / _GAMMA))
    return _right(lambda image, _: np.asarray(cv2.LUT(image, table.astype(np.uint8))))


def interlaced(pairs: Sequence[StereoFrame]) -> list[StereoFrame]:
    """Every other row of the right eye is that of the pair before."""
    out = [pairs[0]]
    for before, now in pairwise(pairs):
        right = now.right.copy()
        right[1::2] = before.right[1::2]
        out.append(replace(now, right=right))
    return out


def half_rate(pairs: Sequence[StereoFrame]) -> list[StereoFrame]:
    """The right eye gives a new image with every other pair only."""
    return [replace(p, right=pairs[i - i % 2].right) for i, p in enumerate(pairs)]


FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        "rig bumped, vergence by 2 px": bumped(BUMPED_AT, 2.0),
        "rig bumped, vergence by -2 px": bumped(BUMPED_AT, -2.0),
        "rig bumped, vergence by 1 px": bumped(BUMPED_AT, 1.0),
        "rig bumped, rows by 2 px": bumped(BUMPED_AT, 0.0, 2.0),
        "rig bumped, rolled by 0.5°": bumped(BUMPED_AT, 0.0, 0.0, 0.5),
        "rig drifts, vergence by 2 px": drifting(2.0),
        "rig drifts, rows by 2 px": drifting(0.0, 2.0),
        "one eye out of focus, 3 px": defocused(3.0),
        "one eye out of focus, 8 px": defocused(8.0),
        "one eye wet, drops": wet(),
        "one eye darker by a stop": darker(1.0),
        "one eye brighter by a stop": darker(-1.0),
        "rolling shutter in one eye, 30 ms at 5 pairs/s": rolling(0.15),
        "one eye sheared by 6 px from the first pair on": skewed(6.0),
        "one eye interlaced": interlaced,
        "one eye at half rate": half_rate,
    }
)
"""By the name under which the results report them."""


def _scale(frame: StereoFrame) -> float:
    return frame.left.shape[1] / _WIDTH_PX


def _matrix(k: Intrinsics) -> np.ndarray:
    return np.array([[k.fx, 0.0, k.cx], [0.0, k.fy, k.cy], [0.0, 0.0, 1.0]])


def _warped(frame: StereoFrame, H: np.ndarray) -> StereoFrame:
    high, wide = frame.right.shape[:2]
    right = cv2.warpPerspective(
        frame.right, H, (wide, high), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return replace(frame, right=np.asarray(right))


def _picture_motion(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """(2,) pixels by which the picture moved, right and down."""
    a, b = (
        np.asarray(i if i.ndim == 2 else cv2.cvtColor(i, cv2.COLOR_RGB2GRAY), np.float32)
        for i in (before, now)
    )
    window = cv2.createHanningWindow(a.shape[::-1], cv2.CV_32F)
    shift, _ = cv2.phaseCorrelate(a, b, window)
    return np.array(shift)
