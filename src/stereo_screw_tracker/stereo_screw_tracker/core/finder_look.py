# SPDX-License-Identifier: Apache-2.0
"""Which part of a pair the network looks at: first all of it, then closely at what it found.

The wound is often a quarter of the image and a tulip a dozen pixels wide; a close look shows the
same heads twice as large and costs one more pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.types import StereoFrame

from .finder_grid import HEIGHT, WIDTH

TULIP_M = 0.012
LARGEST_TULIP_PX = 32.0  # grid pixels: a closer look would show heads as training never did
MARGIN_M = 0.022  # about what was found: the next head, the end of a rod
KEPT_DISPARITY = 0.28  # share of the median disparity that stays after the right view is shifted
SAME_DEPTH = 0.25  # a candidate whose disparity is further from the median one does not count
LEAST_GAIN = 1.15  # a look that is hardly closer is not worth its time


@dataclass(frozen=True)
class Look:
    """A rectangle of the left image, in whole pixels, and the same one `shift` further left in
    the right image: disparities inside it are smaller by `shift`."""

    left: int
    top: int
    wide: int
    high: int
    shift: int = 0

    def crop(self, frame: StereoFrame) -> tuple[np.ndarray, np.ndarray]:
        """Views (no copies) of both images."""
        rows = slice(self.top, self.top + self.high)
        start = self.left - self.shift
        return (
            frame.left[rows, self.left : self.left + self.wide],
            frame.right[rows, start : start + self.wide],
        )


def whole(frame: StereoFrame) -> Look:
    """All of both images; ValueError if their sizes differ."""
    if frame.left.shape[:2] != frame.right.shape[:2]:
        raise ValueError(
            f"left image {frame.left.shape[:2]}, right image {frame.right.shape[:2]} (H, W): "
            "a pair needs equal sizes; rectify both to one"
        )
    high, wide = frame.left.shape[:2]
    return Look(0, 0, wide, high)


def close_look(frame: StereoFrame, left_px: np.ndarray, disparity_px: np.ndarray) -> Look | None:
    """The closest look at heads (N, 2) with disparities (N,); None if it would gain little."""
    if not len(left_px):
        return None
    all_of_it = whole(frame)
    size = np.array([all_of_it.wide, all_of_it.high])
    median = float(np.median(disparity_px))
    near = np.abs(disparity_px / median - 1.0) <= SAME_DEPTH
    left_px, disparity_px = left_px[near], disparity_px[near]
    if not len(left_px):
        return None
    shift = int((1.0 - KEPT_DISPARITY) * median)
    px_per_m = median / frame.baseline_m  # f / z
    # Both images' places of every head, as the shifted rectangles hold them.
    places = np.concatenate(
        [left_px, left_px - np.stack([disparity_px - shift, 0 * disparity_px], 1)]
    )
    low = places.min(axis=0) - MARGIN_M * px_per_m
    top = places.max(axis=0) + MARGIN_M * px_per_m
    # As large as the grid's shape and the largest tulip demand, about the same middle.
    grid = np.array([WIDTH, HEIGHT])
    scale = min((grid / (top - low)).min(), LARGEST_TULIP_PX / (TULIP_M * px_per_m))
    middle, wanted = (low + top) / 2, grid / scale
    # What lies left of `shift` has no counterpart in the right image; moved, not cut, because a
    # smaller rectangle would be a closer look than was asked for.
    edge = np.array([shift, 0])
    begin = np.clip(middle - wanted / 2, edge, np.maximum(edge, size - wanted))
    first = np.ceil(begin).astype(int)
    last = np.floor(np.minimum(begin + wanted, size)).astype(int)
    wide, high = (int(n) for n in last - first)
    if min(wide, high) < 2 or scale < LEAST_GAIN * (grid / size).min():
        return None
    return Look(int(first[0]), int(first[1]), wide, high, shift)
