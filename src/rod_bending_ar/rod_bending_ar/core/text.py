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


def fitted(text: str, size_px: int, width: float) -> str:
    """The text, or what of it fits into `width` pixels, with an ellipsis."""
    if text_size(text, size_px)[0] <= width:
        return text
    while text and text_size(text + "…", size_px)[0] > width:
        text = text[:-1]
    return text.rstrip() + "…"


def wrapped(text: str, size_px: int, width: float, most: int) -> list[str]:
    """The text in lines of at most `width` pixels; what is longer than `most` lines is cut."""
    lines: list[str] = []
    words = text.split(" ")
    while words and len(lines) < most - 1:
        n = 1
        while n < len(words) and text_size(" ".join(words[: n + 1]), size_px)[0] <= width:
            n += 1
        lines.append(fitted(" ".join(words[:n]), size_px, width))
        words = words[n:]
    return [*lines, fitted(" ".join(words), size_px, width)] if words else lines


def draw_text(
    image: np.ndarray,
    text: str,
    x: int,
    y: int,
    size_px: int,
    colour: Colour,
    bold: bool = False,
) -> None:
    """Blend `text` into image (H, W, 3) uint8 RGB, top-left corner at (x, y); clipped, in place."""
    inked = _inked(text, size_px, bold)
    blend_text(rows_of(image), inked, x, y, colour[0], colour[1], colour[2])


def rows_of(image: np.ndarray) -> np.ndarray:
    """(H, 3·W): a view of (H, W, 3), of a part of a larger picture too; compiled loops take it."""
    return image.reshape(len(image), -1)


@lru_cache(maxsize=2048)
def _inked(text: str, size_px: int, bold: bool) -> np.ndarray:
    """(N, 3) int32: row, column and 1 to 255 of the pixels that have ink, a fifth of all."""
    mask = _mask(text, size_px, bold)
    rows, columns = np.nonzero(mask)
    return np.stack([rows, columns, mask[rows, columns]], axis=1).astype(np.int32)


def shade_box(image: np.ndarray, x: int, y: int, w: int, h: int, keep: float = 0.35) -> None:
    """Darken a rectangle of image (H, W, 3) uint8 to `keep` of its brightness; clipped, in place."""
    height, width = image.shape[:2]
    darken(rows_of(image), max(x, 0), max(y, 0), min(x + w, width), min(y + h, height), keep)
