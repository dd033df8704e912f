# SPDX-License-Identifier: Apache-2.0
"""The finder's pixel grid: a stereo pair to network input, cells back to image pixels.

The network always sees 640 x 480 grey pixels: the image is scaled, keeps its aspect ratio and
stands in the middle; the rest is zero. Cells are CELL_PX grid pixels wide.
"Grid pixels" and "image pixels" count from the centre of the first pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from spine_nav_common.core.compiled import compiled

WIDTH, HEIGHT, CELL_PX = 640, 480, 8
CELLS_WIDE, CELLS_HIGH = WIDTH // CELL_PX, HEIGHT // CELL_PX
BINS = 48
"""Bins of disparity, CELL_PX grid pixels apart from 0 on: up to 376 of 640."""

MAPS = (
    "head", "head_du", "head_dv",
    "rod", "rod_du", "rod_dv", "rod_cos2", "rod_sin2", "rod_slope_u", "rod_slope_v",
)  # fmt: skip
"""Channels of the first output. head, rod: logits. du, dv: from the cell's centre to the saddle
point or the nearest point of the rod's axis, in cells. cos2, sin2: of twice the rod's angle in the
image. slope: d disparity / d arc length, times the rod's image direction and SLOPE_SCALE; like
cos2 and sin2 it does not depend on which way along the rod one looks."""
SLOPE_SCALE = 20.0

CONTRAST_PX = 81  # window of the local normalisation
NOISE_FLOOR = 3.0  # grey levels: flat regions must not become pure noise


@dataclass(frozen=True)
class Letterbox:
    """Where an image lies in the grid. left, top, wide, high: whole grid pixels.

    scale (2,): grid pixels per image pixel along u and v; they differ only by the rounding.
    """

    left: int
    top: int
    wide: int
    high: int
    scale: np.ndarray

    def to_image(self, uv: np.ndarray) -> np.ndarray:
        """(..., 2) grid pixels to image pixels."""
        return (np.asarray(uv, float) + 0.5 - (self.left, self.top)) / self.scale - 0.5

    def to_grid(self, uv: np.ndarray) -> np.ndarray:
        """(..., 2) image pixels to grid pixels."""
        return (np.asarray(uv, float) + 0.5) * self.scale - 0.5 + (self.left, self.top)

    def holds(self, uv: np.ndarray) -> bool:
        """Whether the grid pixel (u, v) is one of the image."""
        u, v = uv[0] + 0.5 - self.left, uv[1] + 0.5 - self.top
        return bool(0 <= u <= self.wide and 0 <= v <= self.high)


def letterbox(width: int, height: int) -> Letterbox:
    """The largest place in the grid that keeps the aspect ratio to a pixel."""
    scale = min(WIDTH / width, HEIGHT / height)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    return Letterbox(
        (WIDTH - wide) // 2,
        (HEIGHT - high) // 2,
        wide,
        high,
        np.array([wide / width, high / height]),
    )


def grey(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 of a grey or RGB image."""
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def normalise(image: np.ndarray) -> np.ndarray:
    """(H, W) grey to float32 with local mean 0 and local deviation about 1.

    Exposure, gain and slow shading of the two cameras drop out.
    """
    values = np.ascontiguousarray(image, np.float32)
    window = (CONTRAST_PX, CONTRAST_PX)
    border = cv2.BORDER_REFLECT
    mean = cv2.blur(values, window, borderType=border)
    square = cv2.sqrBoxFilter(values, cv2.CV_32F, window, borderType=border)
    return _contrast(values, mean, square)


@compiled
def _contrast(values: np.ndarray, mean: np.ndarray, square: np.ndarray) -> np.ndarray:
    out = np.empty(values.shape, np.float32)
    floor, most = np.float32(NOISE_FLOOR), np.float32(4.0)
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            m = mean[i, j]
            deviation = np.sqrt(max(square[i, j] - m * m, np.float32(0.0)))
            out[i, j] = min(max((values[i, j] - m) / (deviation + floor), -most), most)
    return out


def place(image: np.ndarray, box: Letterbox) -> np.ndarray:
    """(HEIGHT, WIDTH) float32 network channel of one (H, W) or (H, W, 3) uint8 image."""
    # Averages where the image shrinks; enlarged, area scaling would only repeat pixels.
    way = cv2.INTER_AREA if box.scale.max() <= 1 else cv2.INTER_LINEAR
    small = cv2.resize(grey(image), (box.wide, box.high), interpolation=way)
    out = np.zeros((HEIGHT, WIDTH), np.float32)
    out[box.top : box.top + box.high, box.left : box.left + box.wide] = normalise(small)
    return out


def network_input(left: np.ndarray, right: np.ndarray, box: Letterbox) -> np.ndarray:
    """(2, 2, HEIGHT, WIDTH) float32: (left, right), then the mirrored pair (right, left)."""
    a, b = place(left, box), place(right, box)
    return np.stack([np.stack([a, b]), np.stack([b[:, ::-1], a[:, ::-1]])])


def cell_centres() -> np.ndarray:
    """(CELLS_HIGH, CELLS_WIDE, 2) grid pixels (u, v)."""
    v, u = np.mgrid[:CELLS_HIGH, :CELLS_WIDE].astype(float)
    return np.stack([u, v], axis=-1) * CELL_PX + (CELL_PX - 1) / 2
