# SPDX-License-Identifier: Apache-2.0
"""Where in the image a board was shown, and where it is to be shown next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from .boards import BoardView

_REACH_M = 0.1  # of the points on the board that are watched
_STILL = 3e-3  # of the image's width between two frames: two pixels of 640
_ELSEWHERE = 0.05
_MOST_VIEWS = 80


@dataclass(frozen=True)
class Trouble:
    """A view that was left out (a stamp in ns, or a file's name), and why."""

    view: int | str
    why: str

    def __str__(self) -> str:
        return f"{self.view}: {self.why}"


def covered(views: Iterable[np.ndarray]) -> np.ndarray:
    """(6, 8) how many views showed the board in each part of the image; per view (N, 2) places, 0 to 1."""
    count = np.zeros((6, 8), int)
    for uv in views:
        column, row = (uv * [8, 6]).astype(int).clip(0, [7, 5]).T
        cells = np.unique(row * 8 + column)
        count[cells // 8, cells % 8] += 1
    return count


def missing(seen: np.ndarray) -> str:
    """Where the board was shown least, in words: the view to take next."""
    parts = {
        "left": seen[:, :2], "right": seen[:, -2:], "upper edge": seen[:2], "lower edge": seen[-2:],
        "middle": seen[2:4, 2:6],
    }  # fmt: skip
    return min(parts, key=lambda name: float(parts[name].mean()))


class Stream:
    """Which frames of a stream are views of their own: the board rests, and is where it was not yet.

    Frames that differ by little say the same again, and would count as many.
    """

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._taken: list[np.ndarray] = []

    def takes(self, board: BoardView, width: int) -> bool:
        """Whether this frame is to be used; boards of every frame that shows one, in order."""
        H, _ = cv2.findHomography(board.board_m[:, :2], board.corners_px)
        if H is None:
            return False
        corners = np.array([[0.0, 0.0], [_REACH_M, 0.0], [0.0, _REACH_M], [_REACH_M, _REACH_M]])
        at = cv2.perspectiveTransform(corners.reshape(-1, 1, 2), H).reshape(-1, 2) / width
        last, self._last = self._last, at
        if last is None or np.abs(at - last).max() > _STILL or len(self._taken) >= _MOST_VIEWS:
            return False
        if any(np.abs(at - other).max() < _ELSEWHERE for other in self._taken):
            return False
        self._taken.append(at)
        return True
