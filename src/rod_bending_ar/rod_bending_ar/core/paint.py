# SPDX-License-Identifier: Apache-2.0
"""Strokes on a picture, to a sixteenth of a pixel, with a dark rim that stands out of metal and
tissue alike. Points in pixels (N, 2); pixel centres lie at integers; NaN is not drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from .text import draw_text, shade_box, text_size

Colour = tuple[int, int, int]
DARK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
TEXT: Colour = (235, 235, 235)
SHIFT = 4
_FARTHEST_PX = 20_000.0  # OpenCV's fixed point overflows beyond
_CHORD_PX = 0.15  # a circle's chords stay this near to it


def fixed(points: np.ndarray) -> np.ndarray:
    """(N, 2) to what OpenCV takes with SHIFT."""
    return np.round(np.asarray(points) * (1 << SHIFT)).astype(np.int32)


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
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)


def circle_for(radius_px: float) -> np.ndarray:
    """(N, 2) a closed unit circle of as many sides as a radius needs; more only cost time."""
    return _circle(max(8, 4 * math.ceil(0.25 * math.pi / math.sqrt(2.0 * _CHORD_PX / radius_px))))


class Ink:
    """Strokes that are collected and put on a picture together: one call per stroke would cost more
    than all of the drawing. The rims of all lie below the colours of all."""

    def __init__(self, keep: list[Stroke] | None = None) -> None:
        """keep: what is drawn is put there too."""
        self._lines: dict[tuple[Colour, int, int], list[np.ndarray]] = {}
        self._keep = keep

    def line(self, points: np.ndarray, colour: Colour, width: int, rim: int = 1) -> None:
        """A line through points (N, 2); width -1: the polygon of them, filled."""
        if len(points) > 1:
            self._lines.setdefault((colour, width, rim), []).append(points)
            if self._keep is not None and usable_px(points):
                self._keep.append(Stroke(points, colour))

    def dashes(self, points: np.ndarray, colour: Colour, width: int, every: int) -> None:
        """A dashed line through many points, `every` of them a dash."""
        for k in range(0, len(points) - 1, 2 * every):
            self.line(points[k : k + every + 1], colour, width)

    def ring(
        self, middle: np.ndarray, radius: float, colour: Colour, width: int, rim: int = 1
    ) -> None:
        """A circle of at least a pixel's radius; width -1 fills it."""
        radius = max(radius, 1.0)
        self.line(middle + radius * circle_for(radius), colour, width, rim)

    def oval(
        self, middle: np.ndarray, axes: tuple[float, float], angle_deg: float, colour: Colour,
        width: int,
    ) -> None:  # fmt: skip
        """An ellipse by its semi-axes, each at least a pixel."""
        c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
        a, b = max(axes[0], 1.0), max(axes[1], 1.0)
        turned = np.array([[a * c, a * s], [-b * s, b * c]])
        self.line(middle + circle_for(max(a, b)) @ turned, colour, width)

    def flush(self, image: np.ndarray) -> None:
        """Draw everything, and forget it."""
        groups, self._lines = self._lines, {}
        if not groups:
            return
        every = [line for lines in groups.values() for line in lines]
        joined = np.concatenate(every)
        bad = ~(np.abs(joined).max(axis=1) < _FARTHEST_PX)
        joined[bad] = np.nan
        whole = np.where(bad[:, None], 0, np.round(joined * (1 << SHIFT))).astype(np.int32)
        ends = np.cumsum([len(line) for line in every])[:-1]
        pieces = np.split(whole[:, None], ends)
        if bad.any():
            holes = np.split(bad, ends)
            pieces = [p[:0] if h.any() else p for p, h in zip(pieces, holes, strict=True)]
        rims: dict[int, list[np.ndarray]] = {}
        inks: list[tuple[Colour, int, list[np.ndarray]]] = []
        k = 0
        for (colour, width, rim), lines in groups.items():
            own = [p for p in pieces[k : k + len(lines)] if len(p)]
            k += len(lines)
            if rim and width > 0:
                rims.setdefault(width + 2 * rim, []).extend(own)
            inks.append((colour, width, own))
        for width, own in rims.items():
            cv2.polylines(image, own, False, DARK, width, cv2.LINE_8, SHIFT)
        for colour, width, own in inks:
            if width > 0:
                cv2.polylines(image, own, False, colour, width, cv2.LINE_AA, SHIFT)
            else:
                for polygon in own:  # together they would cancel out where they overlap
                    cv2.fillPoly(image, [polygon], colour, cv2.LINE_AA, SHIFT)


def note(image: np.ndarray, text: str, at: np.ndarray, size: int, colour: Colour) -> None:
    """A line of text on a darkened box about a pixel, pushed into the picture."""
    if not usable_px(at):
        return
    w, h = text_size(text, size, True)
    x = int(np.clip(at[0] - w // 2 - 3, 0, max(image.shape[1] - w - 6, 0)))
    y = int(np.clip(at[1] - h // 2 - 2, 0, max(image.shape[0] - h - 4, 0)))
    shade_box(image, x, y, w + 6, h + 4, 0.35)
    draw_text(image, text, x + 3, y + 2, size, colour, True)


def table_height(lines: int, size: int) -> int:
    """Of a table, in pixels."""
    return (text_size("Agl|", size)[1] + size // 4) * lines + size // 2


def table(
    image: np.ndarray, x: int, y: int, lines: Sequence[tuple[str, Colour, bool]], size: int
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
