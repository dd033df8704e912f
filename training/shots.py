# SPDX-License-Identifier: Apache-2.0
"""How one exposure of two cameras spoils both pictures: shake, depth of field, a wet lens, JPEG."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Shot:
    """motion_px, motion_rad: a straight shake, the same in both eyes. defocus_px (2,): blur of each
    eye where it is worst; slope (3,): where that is, over (1, x, y) of the picture in -1..1; a
    value of one or more is out of focus, none or less sharp. jpeg: quality, 0 for none."""

    motion_px: float
    motion_rad: float
    defocus_px: tuple[float, float]
    slope: tuple[float, float, float]
    jpeg: int


def random_shot(rng: np.random.Generator) -> Shot:
    """Mostly a clean one."""
    motion = rng.uniform(2.0, 9.0) if rng.random() < 0.12 else 0.0
    defocus = (0.0, 0.0)
    slope = (rng.normal(0.0, 0.6), rng.normal(0.0, 1.0), rng.normal(0.0, 1.0))
    draw = rng.random()
    if draw < 0.15:  # depth of field: the far or near side of the wound
        sigma = rng.uniform(0.8, 3.0)
        defocus = (sigma, sigma * np.exp(rng.normal(0.0, 0.2)))
    elif draw < 0.20:  # one eye alone, all over: badly focused, or wet
        sigma, slope = rng.uniform(0.8, 4.0), (1.0, 0.0, 0.0)
        defocus = (sigma, 0.0) if rng.random() < 0.5 else (0.0, sigma)
    jpeg = int(rng.integers(25, 95)) if rng.random() < 0.2 else 0
    return Shot(motion, rng.uniform(0.0, np.pi), defocus, slope, jpeg)


def lens(image: np.ndarray, shot: Shot, eye: int) -> np.ndarray:
    """Blur of a grey picture (H, W) float32 before it meets the sensor's noise."""
    sigma = shot.defocus_px[eye]
    if sigma > 0.0:
        high, wide = image.shape
        y, x = np.linspace(-1, 1, high)[:, None], np.linspace(-1, 1, wide)[None]
        much = np.clip(shot.slope[0] + shot.slope[1] * x + shot.slope[2] * y, 0.0, 1.0)
        blurred = cv2.GaussianBlur(image, (0, 0), sigma)
        image = image + much.astype(np.float32) * (blurred - image)
    if shot.motion_px > 0.0:
        image = cv2.filter2D(image, -1, _line(shot.motion_px, shot.motion_rad))
    return image


def coded(image: np.ndarray, shot: Shot) -> np.ndarray:
    """A picture (H, W) of 0 to 255 as JPEG gives it back, float32."""
    if not shot.jpeg:
        return image
    whole = np.clip(np.round(image), 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", whole, [cv2.IMWRITE_JPEG_QUALITY, shot.jpeg])
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE).astype(np.float32)


def _line(length_px: float, angle_rad: float) -> np.ndarray:
    """A kernel that is a line through its middle, of sum one."""
    reach = int(np.ceil(0.5 * length_px))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along = x * np.cos(angle_rad) + y * np.sin(angle_rad)
    across = np.abs(y * np.cos(angle_rad) - x * np.sin(angle_rad))
    kernel = np.clip(1.0 - across, 0.0, 1.0)
    kernel *= np.clip(0.5 * length_px + 0.5 - np.abs(along), 0.0, 1.0)
    return (kernel / kernel.sum()).astype(np.float32)
