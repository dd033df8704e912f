# SPDX-License-Identifier: Apache-2.0
"""What the overlay says in words: labels beside the bones, the legend and the banner.

`scale` is the size of text and lines here; 1 suits an image 640 pixels wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.types import LevelEstimate, Status

from .paint import Box, Ink
from .text import draw_text, fitted, shade_box, text_size

BANNER = "RESEARCH SOFTWARE · not a medical device"
STATUS_COLOUR: dict[Status, tuple[int, int, int]] = {
    Status.TRACKED: (64, 224, 120),
    Status.OCCLUDED: (255, 176, 32),
    Status.REGISTERING: (120, 180, 255),
    Status.SEARCHING: (190, 190, 190),
    Status.LOST: (255, 96, 80),
    Status.REJECTED: (255, 96, 80),
}


@dataclass(frozen=True)
class Label:
    """A label of two lines (level, bound), centred at `at_px`, led to `anchor_px` on the bone."""

    lines: tuple[str, ...]
    at_px: np.ndarray
    anchor_px: np.ndarray
    colour: tuple[int, int, int]
    size_px: tuple[int, int]

    @property
    def box(self) -> Box:
        """Where it is painted."""
        w, h = self.size_px
        return round(self.at_px[0] - w / 2), round(self.at_px[1] - h / 2), w, h


def label_layout(
    shown: list[LevelEstimate], pixels: np.ndarray, scale: int, shape: tuple[int, ...]
) -> list[Label]:
    """Labels in a row beside the spine, pushed apart along it until none covers another.

    Args:
        shown: levels that have a pose. pixels: (L, N, 2) x and y of points of their bones in the
            image, NaN where the lens sees none. shape: of the image; labels stay above the banner.
    """
    if not np.isfinite(pixels).all():
        middle = np.nanmean(pixels, axis=1, keepdims=True)
        pixels = np.where(np.isfinite(pixels), pixels, middle)
    chain = pixels.mean(axis=1)
    away = chain - chain.mean(axis=0)
    axis = np.array([0.0, 1.0])
    if len(chain) > 1:
        axis = np.linalg.eigh(away.T @ away)[1][:, 1]
    aside = np.array([axis[1], -axis[0]])
    if (aside[1] if abs(aside[1]) > abs(aside[0]) else -aside[0]) > 0:
        aside = -aside  # above a horizontal spine, right of an upright one
    reach = float(((pixels - chain[:, None]) @ aside).max()) + 34 * scale
    # All labels at one distance from the line of centres: a tidy row.
    places = chain + (reach - away @ aside)[:, None] * aside
    placed: list[Label] = []
    for i in np.argsort(places @ axis).tolist():
        estimate = shown[i]
        lines: tuple[str, ...] = (estimate.level,)
        if estimate.status is Status.TRACKED and estimate.predicted_tre_mm is not None:
            lines += (f"{estimate.predicted_tre_mm:.1f} mm",)
        sizes = [text_size(t, (13 if k == 0 else 10) * scale, k == 0) for k, t in enumerate(lines)]
        w, h = max(w for w, _ in sizes) + 8 * scale, sum(h for _, h in sizes) + 6 * scale
        x, y = places[i].tolist()
        if placed:
            last, (last_x, last_y) = placed[-1], placed[-1].at_px.tolist()
            need_x = 0.5 * (last.size_px[0] + w) + 3 * scale
            need_y = 0.5 * (last.size_px[1] + h) + 3 * scale
            # how far past the last one along the row: that may have been pushed itself
            past_x = (x - last_x) * math.copysign(1.0, axis[0])
            past_y = (y - last_y) * math.copysign(1.0, axis[1])
            if past_x < need_x and past_y < need_y:
                ways = (need_x - past_x, axis[0]), (need_y - past_y, axis[1])
                step = min(float(lacks / (abs(a) + 1e-9)) for lacks, a in ways)
                x, y = x + step * float(axis[0]), y + step * float(axis[1])
        half_x, half_y = 0.5 * w + 2 * scale, 0.5 * h + 2 * scale
        floor = shape[0] - banner_height(scale)
        at = np.array([max(min(x, shape[1] - half_x), half_x), max(min(y, floor - half_y), half_y)])
        placed.append(Label(lines, at, chain[i], STATUS_COLOUR[estimate.status], (w, h)))
    return placed


def paint_labels(image: np.ndarray, labels: Sequence[Label], scale: int) -> None:
    """Draw labels with their leaders; in place."""
    ink = Ink()
    for label in labels:
        ink.line(np.stack([label.anchor_px, label.at_px]), label.colour, scale, 0)
        ink.dot(label.anchor_px, 2.0 * scale, label.colour)
    ink.flush(image)
    for label in labels:
        x, y, width, height = label.box
        shade_box(image, x, y, width, height, 0.25)
        y += 2 * scale
        for i, text in enumerate(label.lines):
            size = (13 if i == 0 else 10) * scale
            text_width, text_height = text_size(text, size, i == 0)
            colour = label.colour if i == 0 else (235, 235, 235)
            draw_text(image, text, x + (width - text_width) // 2, y, size, colour, i == 0)
            y += text_height + 2 * scale


def _legend_line(estimate: LevelEstimate) -> str:
    if estimate.status is Status.TRACKED:
        bound = estimate.predicted_tre_mm
        return "tracked" + (f", 95 % within {bound:.1f} mm" if bound is not None else "")
    text = estimate.status.value
    if estimate.status is Status.OCCLUDED:
        text += ", pose held, not live"
    return f"{text}: {estimate.reason}" if estimate.reason else text


def paint_legend(
    image: np.ndarray, levels: tuple[LevelEstimate, ...], headline: str, scale: int
) -> None:
    """Name every level with its status and reason, top left, under a headline if any; in place."""
    size, pad = 11 * scale, 6 * scale
    room = int(image.shape[1] * 0.55)
    name_width = max([text_size(e.level, size, True)[0] for e in levels], default=0) + 8 * scale
    lines = [(e, fitted(_legend_line(e), size, room - name_width - 16 * scale)) for e in levels]
    step = text_size("Agl|", size)[1] + 4 * scale
    widths = [name_width + 16 * scale + text_size(t, size)[0] for _, t in lines]
    if headline:
        widths.append(text_size(headline, size, True)[0])
    if not widths:
        return
    count = len(lines) + bool(headline)
    shade_box(image, 0, 0, max(widths) + 2 * pad, count * step + 2 * pad - 4 * scale, 0.3)
    y = pad
    if headline:
        draw_text(image, headline, pad, y, size, STATUS_COLOUR[Status.LOST], True)
        y += step
    ink = Ink()
    for estimate, text in lines:
        colour = STATUS_COLOUR[estimate.status]
        ink.dot(np.array([pad + 4.0 * scale, y + step // 2 - 2.0 * scale]), 4.0 * scale, colour)
        draw_text(image, estimate.level, pad + 14 * scale, y, size, colour, True)
        draw_text(image, text, pad + 14 * scale + name_width, y, size, (235, 235, 235))
        y += step
    ink.flush(image)


def banner_height(scale: int) -> int:
    """Height of the banner in pixels."""
    return text_size(BANNER, 11 * scale, True)[1] + 8 * scale


def paint_age(image: np.ndarray, age_ms: float, scale: int) -> None:
    """How old the camera's image was when this picture was drawn, at the right edge above the
    banner; in place."""
    size, text = 11 * scale, f"{max(age_ms, 0.0):.0f} ms old"
    width, _ = text_size(text, size, True)
    height = 15 * scale
    x, top = image.shape[1] - width - 10 * scale, image.shape[0] - banner_height(scale) - height
    shade_box(image, x, top, width + 10 * scale, height, 0.3)
    draw_text(image, text, x + 5 * scale, top + 2 * scale, size, (235, 235, 235), True)


def paint_banner(image: np.ndarray, scale: int) -> None:
    """Say over the whole width what this software is not; in place."""
    size = 11 * scale
    width, _ = text_size(BANNER, size, True)
    top = image.shape[0] - banner_height(scale)
    shade_box(image, 0, top, image.shape[1], image.shape[0] - top, 0.3)
    x = (image.shape[1] - width) // 2
    draw_text(image, BANNER, x, top + 4 * scale, size, (255, 214, 90), True)
