# SPDX-License-Identifier: Apache-2.0
"""Whether all images that a camera sends arrive, from the stamps of those that do.

Best-effort messages are lost without a word: images of a sender whose shared memory is too small for
them, most of all. Their stamps then show gaps, and each small camera_info, which gets through, names
an image that did not.
"""

from __future__ import annotations

from collections import deque

import numpy as np

WINDOW_S = 2.0
LEAST_SENT = 8  # of what was sent in the window; fewer tell nothing
LOST_SHARE = 0.1  # of the images; fewer are a camera's own hiccup
LEAST_LOST = 3  # the last of them may be under way
_NEIGHBOURS = 12.0  # % of the steps between arrived images at least are of neighbours
_PAUSE_NS = 1_000_000_000  # a longer gap is a camera that stood still, or a clock that was set


class StreamLosses:
    """The images of one stream that arrived, against those that its stamps say were sent.

    Times of arrival are monotonic seconds; stamps are nanoseconds of any clock.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._images: deque[tuple[float, int]] = deque()
        self._named: deque[tuple[float, int]] = deque()
        self._begun = False

    def image(self, stamp_ns: int, now_s: float) -> None:
        """An image arrived."""
        self._begun = True
        self._images.append((now_s, stamp_ns))
        self._forget(now_s)

    def info(self, stamp_ns: int, now_s: float) -> None:
        """The camera_info of an image arrived; those from before the first image do not count."""
        if self._begun:
            self._named.append((now_s, stamp_ns))
            self._forget(now_s)

    def sent(self, now_s: float) -> tuple[int, int, float]:
        """Images that arrived in the last two seconds, images sent in that time, and their rate in
        Hz; the last two are 0 where the stamps do not tell."""
        self._forget(now_s)
        own = {stamp for _, stamp in self._images}
        stamps = np.array(sorted(own | {stamp for _, stamp in self._named}), dtype=np.int64)
        steps = np.diff(stamps)
        steps = steps[steps < _PAUSE_NS]
        if len(own) < 2 or not len(steps):
            return len(own), 0, 0.0
        # Even where most are lost, some neighbours arrive: their distance is the period.
        period_ns = float(np.percentile(steps, _NEIGHBOURS))
        pauses = len(stamps) - 1 - len(steps)
        # Stamps of a driver that stamps on arrival tremble: nearly two periods are still one.
        sent = 1 + pauses + int(np.maximum(1, np.floor(steps / period_ns + 0.2)).sum())
        return len(own), sent, 1e9 / period_ns

    def told(self, now_s: float) -> str:
        """The loss in words, or "" where there is none."""
        arrived, sent, rate_hz = self.sent(now_s)
        lost = sent - arrived
        if sent < LEAST_SENT or lost < max(LEAST_LOST, LOST_SHARE * sent):
            return ""
        return (
            f"{self.name} images are lost: the camera sends {rate_hz:.0f} Hz by its stamps, of the"
            f" last {sent} {arrived} arrived"
        )

    def _forget(self, now_s: float) -> None:
        for queue in (self._images, self._named):
            while queue and now_s - queue[0][0] > WINDOW_S:
                queue.popleft()
