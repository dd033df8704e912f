# SPDX-License-Identifier: Apache-2.0
"""Strokes on a picture, with smooth edges and a dark rim that stands out of metal and
tissue alike. Points in pixels (N, 2); pixel centres lie at integers; NaN is not drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .brush import draw_strokes
from .text import draw_text, rows_of, shade_box, text_size

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
TEXT: Colour = (235, 235, 235)
NO_DEPTH = np.zeros((0, 0), np.float32)
_FARTHEST_PX = 20_000.0  # nobody has a use for strokes beyond
_SOFT_PX = (
    0.25  # a line is this much wider either way: between two rows of pixels one of a pixel fades
)
_CHORD_PX = 0.2  # a circle's chords stay this near to it


def usable_px(points: np.ndarray) -> bool:
    """Whether points can be drawn at all."""
    return bool(np.abs(points).max(initial=0.0) < _FARTHEST_PX)  # NaN is not


@dataclass(frozen=True)
class Stroke:
    """A line through points (N, 2) as it stands on the picture."""

    points: np.ndarray
    colour: Colour


@lru_cache(maxsize=64)
def _circle(sides: int) -> np.ndarray:
    turn = np.linspace(0.0, 2.0 * np.pi, sides + 1)
    turn[-1] = 0.0  # the last point is the first
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)


def circle_for(radius_px: float) -> np.ndarray:
    """(N, 2) a closed unit circle of as many sides as a radius needs; more only cost time."""
    return _circle(max(8, 4 * math.ceil(0.25 * math.pi / math.sqrt(2.0 * _CHORD_PX / radius_px))))


class Ink:
    """Strokes that are collected and put on a picture together: one call per stroke would cost more
    than all of the drawing. The rims of all lie below the colours of all."""

    def __init__(self, keep: list[Stroke] | None = None) -> None:
        """keep: what is drawn is put there too."""
        self._keep = keep
        self._clear()

    def _clear(self) -> None:
        self._points: list[np.ndarray] = []
        self._counts: list[int] = []
        self._widths: list[float] = []
        self._rims: list[float] = []
        self._colours: list[Colour] = []
        self._nearest: list[float] = []

    def lines(
        self, points: np.ndarray, colour: Colour | list[Colour], width: float | list[float],
        rim: float = 1.0, nearest_m: np.ndarray | float = 0.0,
    ) -> None:  # fmt: skip
        """Lines (M, N, 2) of N points each, of one colour and width or of a list of them. nearest_m,
        of all or (M,): what is nearer than this to the camera covers them; 0: nothing does."""
        count, length = points.shape[:2]
        if not count or not length:
            return
        colours = colour if isinstance(colour, list) else [colour] * count
        widths = width if isinstance(width, list) else [width] * count
        self._points.append(points.reshape(-1, 2))
        self._counts += [length] * count
        self._widths += widths
        self._rims += [rim] * count
        self._colours += colours
        if isinstance(nearest_m, float):
            self._nearest += [nearest_m] * count
        else:
            self._nearest += nearest_m.tolist()
        if self._keep is not None and length > 1:
            each = zip(points, colours, strict=True)
            self._keep += [Stroke(line, c) for line, c in each if usable_px(line)]

    def line(
        self, points: np.ndarray, colour: Colour, width: float, rim: float = 1.0,
        nearest_m: float = 0.0,
    ) -> None:  # fmt: skip
        """A line through points (N, 2)."""
        self.lines(points[None], colour, width, rim, nearest_m)

    def dashes(
        self,
        points: np.ndarray,
        colour: Colour,
        width: float,
        every: int,
        nearest_m: float = 0.0,
    ) -> None:
        """A dashed line through many points, `every` of them a dash."""
        count = max((len(points) + 2 * every - 2) // (2 * every), 0)
        if not count:
            return
        whole = [k for k in range(count) if 2 * every * k + every < len(points)]
        places = 2 * every * np.array(whole, int)[:, None] + np.arange(every + 1)
        self.lines(points[places], colour, width, nearest_m=nearest_m)
        if len(whole) < count:
            self.line(points[2 * every * (count - 1) :], colour, width, nearest_m=nearest_m)

    def rings(
        self, middles: np.ndarray, radii: np.ndarray, colour: Colour, width: float,
        rim: float = 1.0, nearest_m: np.ndarray | float = 0.0,
    ) -> None:  # fmt: skip
        """Circles about (M, 2) of radii (M,), at least a pixel each."""
        radii = np.maximum(radii, 1.0)
        turn = circle_for(float(radii.max(initial=1.0)))
        circles = middles[:, None] + radii[:, None, None] * turn
        self.lines(circles, colour, width, rim, nearest_m)

    def ring(
        self,
        middle: np.ndarray,
        radius: float,
        colour: Colour,
        width: float,
        rim: float = 1.0,
    ) -> None:
        """A circle."""
        self.rings(middle[None], np.array([radius]), colour, width, rim)

    def ovals(
        self, middles: np.ndarray, shapes: np.ndarray, colour: Colour, width: float,
        nearest_m: np.ndarray | float = 0.0,
    ) -> None:  # fmt: skip
        """Ellipses about (M, 2): the columns of shapes (M, 2, 2) are the semi-axes of each, which
        is drawn as wide as a pixel either way at least."""
        axes = np.sqrt((shapes**2).sum(axis=1))
        wide = shapes * (np.maximum(axes, 1.0) / np.maximum(axes, 1e-9))[:, None]
        turn = circle_for(float(axes.max(initial=1.0)))
        ovals = middles[:, None] + turn @ wide.transpose(0, 2, 1)
        self.lines(ovals, colour, width, nearest_m=nearest_m)

    def dots(
        self, middles: np.ndarray, radius: float, colour: Colour,
        nearest_m: np.ndarray | float = 0.0,
    ) -> None:  # fmt: skip
        """Filled circles about (M, 2), without a rim."""
        self.lines(middles[:, None], colour, 2.0 * (radius - _SOFT_PX), 0.0, nearest_m)
        if self._keep is not None:
            circles = middles[:, None] + radius * circle_for(radius)
            self._keep += [Stroke(line, colour) for line in circles if usable_px(line)]

    def dot(self, middle: np.ndarray, radius: float, colour: Colour) -> None:
        """A filled circle, without a rim."""
        self.dots(middle[None], radius, colour)

    def flush(self, image: np.ndarray, depth: np.ndarray | None = None, scale: int = 1) -> None:
        """Draw everything, and forget it. depth (h, w) float32 metres of the image before it was
        enlarged by `scale`: what covers lines; none: nothing does."""
        if not self._points:
            return
        draw_strokes(
            rows_of(image),
            np.concatenate(self._points).astype(float, copy=False),
            np.cumsum(self._counts),
            0.5 * np.array(self._widths, float) + _SOFT_PX,
            np.array(self._rims, float),
            np.array(self._colours, np.uint8),
            np.array(self._nearest, float) if depth is not None else np.zeros(len(self._counts)),
            NO_DEPTH if depth is None else depth,
            scale,
        )
        self._clear()


Box = tuple[int, int, int, int]  # x, y, width, height in pixels


def note_box(shape: tuple[int, ...], text: str, at: tuple[float, float], size: int) -> Box | None:
    """Where `note` writes: about a pixel, pushed into a picture of this shape; None far beside it."""
    if not max(abs(at[0]), abs(at[1])) < _FARTHEST_PX:  # NaN too
        return None
    w, h = text_size(text, size, True)
    x = min(max(int(at[0]) - w // 2 - 3, 0), max(shape[1] - w - 6, 0))
    y = min(max(int(at[1]) - h // 2 - 2, 0), max(shape[0] - h - 4, 0))
    return x, y, w + 6, h + 4


def covers(a: Box, b: Box) -> bool:
    """Whether two boxes lie on each other."""
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def note(image: np.ndarray, text: str, at: tuple[float, float], size: int, colour: Colour) -> None:
    """A line of text on a darkened box about a pixel, pushed into the picture."""
    box = note_box(image.shape, text, at, size)
    if box is None:
        return
    x, y, w, h = box[0], box[1], box[2] - 6, box[3] - 4
    shade_box(image, x, y, w + 6, h + 4, 0.35)
    draw_text(image, text, x + 3, y + 2, size, colour, True)


def table_height(lines: int, size: int) -> int:
    """Of a table, in pixels."""
    return (text_size("Agl|", size)[1] + size // 4) * lines + size // 2


def table(
    image: np.ndarray,
    x: int,
    y: int,
    lines: Sequence[tuple[str, Colour, bool]],
    size: int,
) -> None:
    """Lines of text on a darkened box with its corner at (x, y); x < 0: at the right edge."""
    if not lines:
        return
    step = text_size("Agl|", size)[1] + size // 4
    width = max(text_size(t, size, b)[0] for t, _, b in lines) + size
    if x < 0:
        x = image.shape[1] - width
    shade_box(image, x, y, width, table_height(len(lines), size), 0.3)
    for row, (text, colour, bold) in enumerate(lines):
        draw_text(image, text, x + size // 2, y + size // 4 + row * step, size, colour, bold)
