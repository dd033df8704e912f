# SPDX-License-Identifier: Apache-2.0
"""What is checked of a recording's images before they are used: size, unit of depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .errors import RecordingError
from .images import ImageError

_DEPTH_RANGE_M = (0.1, 3.0)  # the median depth of a scene on an operating table


def same_size(image: np.ndarray, shape: tuple[int, int], name: str) -> None:
    """Raises ImageError if an image (H, W, ...) is not of the size that camera_info gives."""
    if image.shape[:2] != shape:
        h, w = image.shape[:2]
        raise ImageError(f"{name} image is {w}x{h}, camera_info says {shape[1]}x{shape[0]}")


class UnitCheck:
    """Refuses depth in a wrong unit, on the first image that holds enough depth to tell."""

    def __init__(self, path: Path, topic: str) -> None:
        self._path, self._topic, self._decided = path, topic, False

    def check(self, depth_m: np.ndarray) -> None:
        """Raises RecordingError if the median depth is impossible on an operating table."""
        if self._decided:
            return
        valid = depth_m[np.isfinite(depth_m)]
        if valid.size < 0.01 * depth_m.size:
            return
        self._decided = True
        median_m = float(np.median(valid))
        if not _DEPTH_RANGE_M[0] <= median_m <= _DEPTH_RANGE_M[1]:
            raise RecordingError(
                self._path,
                self._topic,
                f"the median depth is {median_m:.3g} m, expected "
                f"{_DEPTH_RANGE_M[0]} to {_DEPTH_RANGE_M[1]} m: wrong unit",
                "record 16UC1 in millimetres or 32FC1 in metres",
            )
