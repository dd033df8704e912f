# SPDX-License-Identifier: Apache-2.0
"""The next bend as it is set at the bender: a small picture, and the step in words and back."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

import numpy as np

from .forward import BendStep, replay_steps
from .paint import TEXT, WHITE, Colour, Ink
from .text import draw_text, shade_box, text_size

ROD: Colour = (200, 205, 215)
MARK: Colour = (240, 228, 66)
_DIE: Colour = (86, 180, 233)
_SHOWN_MM = 60.0  # of rod, to either side of the bend
_UNKNOWN = float("nan")  # one of its own: only then are equal steps equal, and cached
_NUMBER = r"(-?[0-9.]+)"
_STEP = re.compile(
    rf"(\d+): feed {_NUMBER} mm, rotate {_NUMBER} deg, bend to {_NUMBER} deg", re.ASCII
)


def step_text(step: BendStep) -> str:
    """One bend as it is read at the bender."""
    return (
        f"{step.n}: feed {step.feed_mm:.1f} mm, rotate {step.rotate_deg:.1f} deg,"
        f" bend to {step.bend_set_deg:.1f} deg"
    )


def parse_step(text: str) -> BendStep:
    """The bend of `step_text`; the angle that must remain is not in it and is NaN.

    Raises ValueError for any other text.
    """
    found = _STEP.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no bend")
    feed, rotate, bend = (float(v) for v in found.groups()[1:])
    return BendStep(int(found.group(1)), feed, rotate, _UNKNOWN, bend)


@lru_cache(maxsize=8)
def bender_picture(
    step: BendStep, side: str, steps: int, size: tuple[int, int], scale: int, die_mm: float = 30.0
) -> np.ndarray:
    """The bender set for a step: the rod against its stop, the die where it bends, the handle's
    angle, and the turn of the rod on a dial as seen from the caudal end.

    size: (width, height) px; scale: of text and lines. Returns (height, width, 3) uint8 RGB, the
    same array for the same question: not to be written to.
    """
    w, h = size
    image = np.full((h, w, 3), (24, 28, 34), np.uint8)
    text, pad = 9 * scale, 5 * scale
    title = f"{side} rod, bend {step.n} of {max(steps, step.n)}"
    draw_text(image, title, pad, pad, text + scale, WHITE, True)
    line = text_size("Agl|", text)[1] + scale
    top = pad + line + 3 * scale
    words = (
        (f"feed {step.feed_mm:.1f} mm", ROD),
        (f"rotate {step.rotate_deg:+.0f}°", MARK),
        (f"bend to {step.bend_set_deg:.1f}°", _DIE),
    )
    right = w - pad - max(text_size(word, text, True)[0] for word, _ in words)
    for row, (word, colour) in enumerate(words):
        draw_text(image, word, right, h - pad - (3 - row) * line, text, colour, True)
    dial = 0.45 * (h - pad - 3 * line - top)
    _paint_dial(
        image, step.rotate_deg, np.array([0.5 * (right + w - pad), top + dial]), dial, scale
    )
    _paint_rod(image, step, die_mm, (pad, top, right - 2 * pad, h - pad), scale)
    image.setflags(write=False)
    return image


def _paint_rod(
    image: np.ndarray, step: BendStep, die_mm: float, box: tuple[int, int, int, int], scale: int
) -> None:
    """Straight on the left (the caudal end at the stop), bent on the right."""
    angle = float(np.clip(step.bend_set_deg, 0.0, 120.0))
    half = 0.5 * die_mm * np.radians(angle)
    reach = max(_SHOWN_MM, half + 20.0)
    bent = replace(step, n=1, feed_mm=reach, rotate_deg=0.0, bend_deg=angle)
    axis = replay_steps([bent], 2.0 * reach, die_mm)[:, :2]
    x0, y0, x1, y1 = box
    span = np.array([2.0 * reach, max(float(axis[:, 1].max()) + die_mm * 0.5, 40.0)])
    zoom = float(min((x1 - x0) / span[0], (y1 - y0) / span[1]))
    corner = np.array([x0, y1 - 3 * scale], float)

    def px(points: np.ndarray) -> np.ndarray:
        return corner + points * zoom * np.array([1.0, -1.0])

    centre = np.array([reach - half, die_mm])
    ink = Ink()
    ink.ring(px(centre), die_mm * zoom * 0.92, _DIE, scale)
    ink.line(px(np.array([[reach - half, 0.0], [2.0 * reach, 0.0]])), (90, 95, 105), scale, 0)
    ink.line(px(axis[::4]), ROD, 3 * scale)
    ink.line(px(np.array([[0.0, -3.0], [0.0, 6.0]])), MARK, 2 * scale)
    ink.line(px(np.array([[reach, -2.5], [reach, 2.5]])), WHITE, scale)
    start = px(np.array([reach, 0.0]))
    ink.line(_arc(start, 0.45 * reach * zoom, -angle, 0.0), _DIE, scale, 0)
    ink.flush(image)


def _arc(middle: np.ndarray, radius: float, from_deg: float, to_deg: float) -> np.ndarray:
    """(N, 2) points about a pixel; angles from x to y."""
    turn = np.radians(np.linspace(from_deg, to_deg, 25))
    return middle + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def _paint_dial(
    image: np.ndarray, rotate_deg: float, middle: np.ndarray, radius: float, scale: int
) -> None:
    """The rod's end with a mark that begins on top and is turned to where it must go."""
    ink = Ink()
    ink.ring(middle, radius, ROD, scale)
    up = np.array([0.0, -1.0])
    a = np.radians(rotate_deg)
    to = np.array([np.sin(a), -np.cos(a)])
    ink.line(np.stack([middle + 0.55 * radius * up, middle + radius * up]), TEXT, scale, 0)
    ink.line(np.stack([middle, middle + 0.95 * radius * to]), MARK, 2 * scale)
    if abs(rotate_deg) >= 1.0:
        to_deg = -90.0 + float(np.clip(rotate_deg, -359.0, 359.0))
        ink.line(_arc(middle, 0.6 * radius, -90.0, to_deg), MARK, scale, 0)
    ink.flush(image)


def paste(image: np.ndarray, inset: np.ndarray, x: int, y: int) -> None:
    """Lay a small picture with a rim on a picture; it must fit."""
    h, w = inset.shape[:2]
    shade_box(image, x - 2, y - 2, w + 4, h + 4, 0.0)
    image[y : y + h, x : x + w] = inset
