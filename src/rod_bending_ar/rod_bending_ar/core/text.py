# SPDX-License-Identifier: Apache-2.0
"""Anti-aliased text on RGB images, cached: the Hershey fonts of OpenCV are not readable at 12 px."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .brush import blend_text, darken

Colour = tuple[int, int, int]


@lru_cache(maxsize=32)
def _font(size_px: int, bold: bool) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # matplotlib ships DejaVu; its path is read without the cost of importing matplotlib.
    spec = find_spec("matplotlib")
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / name
        if path.is_file():
            return ImageFont.truetype(str(path), size_px)
    return ImageFont.load_default()


@lru_cache(maxsize=2048)
def _mask(text: str, size_px: int, bold: bool) -> np.ndarray:
    font = _font(size_px, bold)
    left, top, right, bottom = font.getbbox(text)
    # A common line height keeps base lines equal from text to text.
    line = font.getbbox("Agl|")
    top, bottom = min(top, line[1]), max(bottom, line[3])
    image = Image.new("L", (max(1, int(right - left) + 1), max(1, int(bottom - top) + 1)), 0)
    ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=font)
    mask = np.asarray(image, dtype=np.uint8)
    mask.setflags(write=False)
    return mask


def text_size(text: str, size_px: int, bold: bool = False) -> tuple[int, int]:
    """Width and height in pixels of `text` set at `size_px`."""
    height, width = _mask(text, size_px, bold).shape
    return width, height


def draw_text(
    image: np.ndarray, text: str, x: int, y: int, size_px: int, colour: Colour, bold: bool = False
) -> None:
    """Blend `text` into image (H, W, 3) uint8 RGB, top-left corner at (x, y); clipped, in place."""
    blend_text(image, _mask(text, size_px, bold), x, y, ink(tuple(colour)))


@lru_cache(maxsize=64)
def ink(colour: Colour) -> np.ndarray:
    """(3,) uint8, not to be written to: a colour as compiled loops take it."""
    return np.array(colour, np.uint8)


def shade_box(image: np.ndarray, x: int, y: int, w: int, h: int, keep: float = 0.35) -> None:
    """Darken a rectangle of image (H, W, 3) uint8 to `keep` of its brightness; clipped, in place."""
    height, width = image.shape[:2]
    rows = image.reshape(height, -1)  # a view, of a part of a larger picture too
    darken(rows, max(x, 0), max(y, 0), min(x + w, width), min(y + h, height), keep)
