# SPDX-License-Identifier: Apache-2.0
"""A textured plane as a wound, seen by a pair of eyes, with a hand before it."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from screw_support import CAMERA

from spine_nav_common.core.geometry import exp_so3, transform
from spine_nav_common.core.types import StereoFrame

_M_PER_PX = 4e-4
SIZE = 1200
_K = np.array([[600.0, 0, 320.0], [0, 600.0, 240.0], [0, 0, 1]])


@cache
def texture(seed: int) -> np.ndarray:
    """(1200, 1200) uint8, blobs of some millimetres."""
    noise = np.random.default_rng(seed).normal(0, 1, (SIZE, SIZE)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    return np.clip(128 + 45 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def plane(T: np.ndarray, eye_m: float, image: np.ndarray) -> np.ndarray:
    """(480, 640) picture of a textured plane whose middle is T's origin, from an eye at +x eye_m."""
    scale = np.array(
        [[_M_PER_PX, 0, -_M_PER_PX * SIZE / 2], [0, _M_PER_PX, -_M_PER_PX * SIZE / 2], [0, 0, 1]]
    )
    P = np.c_[T[:3, 0], T[:3, 1], T[:3, 3] - (eye_m, 0, 0)]
    return cv2.warpPerspective(image, _K @ P @ scale, (640, 480), flags=cv2.INTER_LINEAR)


def pair(
    T: np.ndarray, hand: np.ndarray | None = None, wound: np.ndarray | None = None, stamp: int = 0
) -> StereoFrame:
    """The wound moved by T, and a hand (T of its middle) before it."""
    eyes = []
    for eye in (0.0, CAMERA.baseline_m):
        seen = plane(
            T @ transform(np.eye(3), np.array([0, 0, 0.5])),
            eye,
            texture(1) if wound is None else wound,
        )
        if hand is not None:
            mask = np.zeros((SIZE, SIZE), np.uint8)
            mask[300:900, 450:] = 255
            over = plane(hand, eye, mask) > 128
            seen = np.where(over, plane(hand, eye, texture(2)), seen)
        eyes.append(seen)
    return StereoFrame(stamp, *eyes, CAMERA.intrinsics, CAMERA.baseline_m)


def moved(shift_mm: tuple[float, float, float], turn_deg: tuple[float, float, float]) -> np.ndarray:
    """About the wound's middle."""
    middle = np.array([0, 0, 0.5])
    R = exp_so3(np.radians(turn_deg))
    return transform(R, middle - R @ middle + 1e-3 * np.array(shift_mm))
