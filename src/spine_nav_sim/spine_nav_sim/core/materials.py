# SPDX-License-Identifier: Apache-2.0
"""Colours and textures of the virtual operation: random, in linear RGB, one Palette per scene."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

TILE_PX = 512


@lru_cache(maxsize=1)
def noise_tiles() -> np.ndarray:
    """(6, 512, 512) float32 periodic noise, mean 0, deviation 1; 1/f^b with b from 0.6 to 2.2.

    Fixed content; scenes draw offsets and scales, so that no scene pays for the synthesis.
    """
    rng = np.random.default_rng(20240611)
    frequency = np.hypot(np.fft.fftfreq(TILE_PX)[:, None], np.fft.rfftfreq(TILE_PX)[None, :])
    frequency[0, 0] = np.inf
    tiles = []
    for slope in np.linspace(0.6, 2.2, 6):
        spectrum = np.fft.rfft2(rng.standard_normal((TILE_PX, TILE_PX))) / frequency**slope
        tile = np.fft.irfft2(spectrum, (TILE_PX, TILE_PX))
        tiles.append((tile - tile.mean()) / tile.std())
    return np.array(tiles, np.float32)


def as_square(values: np.ndarray) -> np.ndarray:
    """(K,) values as a padded square image: cv2.remap refuses rows longer than 32766."""
    side = int(np.ceil(np.sqrt(len(values))))
    return np.pad(values, (0, side * side - len(values))).reshape(side, side)


@dataclass(frozen=True)
class Texture:
    """A tile laid over a plane: `period_m` is the length of one repetition."""

    tile: int
    period_m: float
    offset: tuple[float, float]
    squeeze: float = 1.0  # below 1: fibres along the first coordinate

    def sample(self, u_m: np.ndarray, v_m: np.ndarray) -> np.ndarray:
        """Noise at plane coordinates (H, W) metres -> (H, W) float32, deviation about 1."""
        scale = TILE_PX / self.period_m
        u = np.mod(u_m * (scale * self.squeeze) + self.offset[0], TILE_PX).astype(np.float32)
        v = np.mod(v_m * scale + self.offset[1], TILE_PX).astype(np.float32)
        return cv2.remap(noise_tiles()[self.tile], u, v, cv2.INTER_LINEAR, None, cv2.BORDER_WRAP)


def random_texture(
    rng: np.random.Generator, period_m: tuple[float, float], squeeze: float = 1.0
) -> Texture:
    """A tile with random roughness, offset and period."""
    offset = rng.uniform(0.0, TILE_PX, 2)
    return Texture(
        int(rng.integers(6)), rng.uniform(*period_m), (float(offset[0]), float(offset[1])), squeeze
    )


def linear_rgb(r: int, g: int, b: int) -> np.ndarray:
    """sRGB bytes to linear float32 RGB."""
    return (np.array([r, g, b], np.float32) / 255.0) ** 2.2


# Anchors in sRGB: a scene draws a random point between neighbouring anchors and jitters it.
_ANCHORS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "bone": ((238, 226, 200), (226, 200, 160), (222, 180, 160), (206, 160, 140), (240, 236, 226)),
    "film": ((176, 84, 74), (198, 120, 100), (150, 50, 46), (206, 150, 130)),
    "muscle": ((150, 40, 38), (120, 26, 26), (172, 66, 58), (100, 30, 30)),
    "fat": ((226, 190, 110), (232, 206, 150), (214, 160, 100)),
    "ligament": ((214, 190, 170), (226, 206, 180), (190, 130, 114)),
    "skin": ((224, 172, 140), (200, 140, 104), (150, 96, 66), (92, 58, 42), (190, 124, 60)),
    "drape": ((40, 96, 150), (60, 140, 130), (30, 110, 90), (220, 226, 232), (90, 150, 190)),
    "blood": ((110, 8, 10), (140, 16, 16), (70, 4, 8)),
    "gauze": ((232, 228, 220), (220, 200, 190), (210, 228, 220)),
    "glove": ((232, 220, 200), (200, 190, 150), (90, 130, 90), (120, 150, 200), (240, 240, 236)),
    "sleeve": ((60, 110, 160), (70, 150, 140), (130, 170, 200), (40, 90, 80)),
    "metal": ((176, 178, 182), (140, 142, 146), (200, 198, 190)),
    "plastic": ((24, 24, 26), (190, 60, 40), (40, 70, 130), (210, 210, 205)),
}


@dataclass(frozen=True)
class Palette:
    """Linear RGB albedo per material, (3,) float32; (wetness) 0 to 1 scales highlights."""

    colours: dict[str, np.ndarray]
    wetness: float

    def __getitem__(self, name: str) -> np.ndarray:
        return self.colours[name]


def random_palette(rng: np.random.Generator, jitter: float = 0.10) -> Palette:
    """Colours between two random anchors of each material, jittered in brightness and tint."""
    colours = {}
    for name, anchors in _ANCHORS.items():
        i, j = rng.integers(len(anchors), size=2)
        mix = rng.uniform()
        colour = mix * linear_rgb(*anchors[i]) + (1.0 - mix) * linear_rgb(*anchors[j])
        tint = np.exp(rng.normal(0.0, jitter, 3) + rng.normal(0.0, 1.5 * jitter))
        colours[name] = np.clip(colour * tint, 0.003, 0.95).astype(np.float32)
    return Palette(colours, float(rng.uniform(0.1, 1.0)))


def mix(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """a*(1-w) + b*w; colours (..., 3) or (3,), weight (...)."""
    w = weight[..., None]
    return a * (1.0 - w) + b * w
