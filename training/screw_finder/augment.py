# SPDX-License-Identifier: Apache-2.0
"""What the finder's images suffer: other exposure, noise, blur, glare, blood and things before them.

Each eye gets its own draw, because two cameras do not agree on highlights, exposure and dirt.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stereo_screw_tracker.core.finder_grid import HEIGHT, WIDTH
from training.shots import Shot, coded, lens

# Drawing normal numbers anew would cost as much as all other steps together.
_NOISE = np.random.default_rng(0).normal(size=(2 * HEIGHT, 2 * WIDTH)).astype(np.float32)


@dataclass(frozen=True)
class Cover:
    """Things in front: (K, 2 + 2) ellipses u, v, a, b in grid pixels, angle, grey, which eyes."""

    ellipses: tuple[tuple[float, float, float, float, float], ...]
    grey: tuple[float, ...]
    shift: tuple[float, ...]  # disparity of the thing
    eyes: tuple[tuple[bool, bool], ...]


def random_cover(high: int, rng: np.random.Generator) -> Cover | None:
    """Mostly None, else one to three things within `high` rows, in one view or in both."""
    if rng.random() < 0.7:
        return None
    n = int(rng.integers(1, 4))
    return Cover(
        tuple(
            (
                rng.uniform(0, WIDTH),
                rng.uniform(0, high),
                rng.uniform(6, 56),
                rng.uniform(6, 56),
                rng.uniform(0, 180),
            )
            for _ in range(n)
        ),
        tuple(float(g) for g in rng.uniform(5, 250, n)),
        tuple(float(s) for s in rng.uniform(40, 240, n)),
        tuple(
            [(True, True), (True, False), (False, True)][rng.choice(3, p=(0.4, 0.3, 0.3))]
            for _ in range(n)
        ),
    )


def photometric(
    image: np.ndarray, cover: Cover | None, shot: Shot, eye: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W) uint8 to float32 grey levels of one eye, and what of it is covered (0 to 1)."""
    mask = None
    if cover is not None and any(eyes[eye] for eyes in cover.eyes):
        image = image.copy()
        mask = np.zeros(image.shape, np.float32)
        for (u, v, a, b, angle), level, shift, eyes in zip(
            cover.ellipses, cover.grey, cover.shift, cover.eyes, strict=True
        ):
            if eyes[eye]:
                shape = ((u - shift * eye, v), (2 * a, 2 * b), angle)
                cv2.ellipse(image, shape, level, -1, cv2.LINE_AA)
                cv2.ellipse(mask, shape, 1.0, -1)
    ramp = np.arange(256, dtype=np.float32) / 255
    gamma, gain = np.exp(rng.normal(0, 0.22)), np.exp(rng.normal(0, 0.2))
    curve = gain * ramp**gamma * 255 + rng.normal(0, 12)
    if rng.random() < 0.02:
        curve = 255 - curve
    out = cv2.LUT(image, np.clip(curve, 0, 255).astype(np.float32))
    if rng.random() < 0.4:
        out *= _blotches(image.shape, rng)
    if rng.random() < 0.2:
        out += _glare(image.shape, rng)
    if rng.random() < 0.25:
        sigma = rng.uniform(0.4, 1.8)
        out = cv2.GaussianBlur(out, (0, 0), sigma)
    out = lens(out, shot, eye)
    top, left = rng.integers(0, HEIGHT), rng.integers(0, WIDTH)
    noise = _NOISE[top:, left:][: image.shape[0], : image.shape[1]]
    out += noise * np.float32(abs(rng.normal(0, 3)))
    return coded(np.clip(out, 0, 255), shot), mask


def _blotches(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Smooth shading and dark patches, as of vignette, shadows and blood: a factor per pixel."""
    size = (shape[1] // 8, shape[0] // 8)
    coarse = np.exp(rng.normal(0, rng.uniform(0, 0.35), (6, 8))).astype(np.float32)
    factor = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(0, 4))):
        patch = np.zeros_like(factor)
        centre = (rng.uniform(0, size[0]), rng.uniform(0, size[1]))
        axes = (rng.uniform(1, 16), rng.uniform(1, 16))
        cv2.ellipse(patch, (centre, axes, rng.uniform(0, 180)), rng.uniform(0.2, 0.8), -1)
        factor *= 1.0 - cv2.GaussianBlur(patch, (0, 0), rng.uniform(0.3, 2.0))
    factor = np.maximum(factor, 0.05)
    return cv2.resize(factor, shape[::-1], interpolation=cv2.INTER_LINEAR)


def _glare(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Bright spots that the other eye does not see at the same place: grey levels to add."""
    size = (shape[1] // 4, shape[0] // 4)
    spots = np.zeros(size[::-1], np.float32)
    for _ in range(int(rng.integers(1, 7))):
        centre = (rng.uniform(0, size[0]), rng.uniform(0, size[1]))
        axes = (rng.uniform(0.5, 6), rng.uniform(0.5, 6))
        cv2.ellipse(spots, (centre, axes, rng.uniform(0, 180)), rng.uniform(50, 255), -1)
    spots = cv2.GaussianBlur(spots, (0, 0), rng.uniform(0.4, 2.0))
    return cv2.resize(spots, shape[::-1], interpolation=cv2.INTER_LINEAR)
