# SPDX-License-Identifier: Apache-2.0
"""How fast a camera's clock runs against this machine's, by its stamps and when its images arrive.

An image arrives late by a delay that is never less than the transport's best: the least delay of each
second lies on a line whose slope is the drift.
"""

from __future__ import annotations

from collections import deque

import numpy as np

_BUCKET_S = 1.0
_BUCKETS = 600  # ten minutes
_LEAST_S = 20.0
_OUTLIER = 3.0


class ClockDrift:
    """Watches one stream."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: the clock was set, or the stream was off."""
        self._least: deque[tuple[float, float]] = deque(maxlen=_BUCKETS)  # (s, least delay s)
        self._first: tuple[int, float] | None = None

    def note(self, stamp_ns: int, monotonic_s: float) -> None:
        """An image of this stamp has arrived."""
        if self._first is None:
            self._first = stamp_ns, monotonic_s
        at = monotonic_s - self._first[1]
        delay = at - (stamp_ns - self._first[0]) * 1e-9
        if self._least and at - self._least[-1][0] < _BUCKET_S:
            self._least[-1] = self._least[-1][0], min(self._least[-1][1], delay)
        else:
            self._least.append((at, delay))

    @property
    def ppm(self) -> float | None:
        """By how much the camera's clock is fast against this machine's, in 1e-6; None before 20 s."""
        if not self._least or self._least[-1][0] - self._least[0][0] < _LEAST_S:
            return None
        at, delay = np.array(self._least).T
        keep = np.ones(len(at), bool)
        slope = 0.0
        for _ in range(3):  # a second in which every image was late
            slope, level = np.polyfit(at[keep], delay[keep], 1)
            off = delay - (level + slope * at)
            spread = 1.4826 * float(np.median(np.abs(off[keep] - np.median(off[keep]))))
            keep = off <= np.median(off[keep]) + _OUTLIER * max(spread, 1e-6)
        return -1e6 * float(slope)
