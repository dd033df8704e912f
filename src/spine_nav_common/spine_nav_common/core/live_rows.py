# SPDX-License-Identifier: Apache-2.0
"""The rows of a live run: in order of the stamps, and one for every frame that was not worked on too.

A frame that was dropped for a newer one has a row: its levels hold the pose of the frame before
(`occluded`, never `tracked`), or none.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from .types import LevelEstimate, NavigationResult, Status

NOT_PROCESSED = "frame not processed: a newer one came"
_WAITING = 30


class LiveRows:
    """Puts results and frames without one into order.

    Args:
        levels: exposed levels in the order of the case.
        write: takes a result and its delay in ms or None.

    Attributes:
        counts: `colour_frames`, `late_or_duplicated`, `results`, `frames_without_result`.
        last: the result that was written last, None before the first.
    """

    def __init__(
        self, levels: tuple[str, ...], write: Callable[[NavigationResult, float | None], None]
    ) -> None:
        self._levels, self._write_row = levels, write
        self._seen: deque[int] = deque()
        self._done: deque[tuple[NavigationResult, float | None]] = deque()
        self._newest_ns = -1
        self.last: NavigationResult | None = None
        self.counts: Counter[str] = Counter()
        self.on_result: Callable[[NavigationResult], None] = lambda result: None

    def frame(self, stamp_ns: int) -> None:
        """There was a colour frame with this stamp."""
        self.counts["colour_frames"] += 1
        if stamp_ns <= self._newest_ns:
            self.counts["late_or_duplicated"] += 1
            return
        self._newest_ns = stamp_ns
        self._seen.append(stamp_ns)
        self._write_ready()

    def result(self, result: NavigationResult, latency_ms: float | None = None) -> None:
        """A result, newer than those before.

        It is written once its frame and all before are known: a result may overtake the news of
        older frames. Where there is no news of frames at all, results wait for a while only.
        """
        self._done.append((result, latency_ms))
        self._write_ready()

    def close(self) -> None:
        """Write what is left."""
        while self._done:
            self._write(*self._done.popleft())
        self._fill_until(2**63)

    def _write_ready(self) -> None:
        while self._done:
            stamp_ns = self._done[0][0].stamp_ns
            if stamp_ns > self._newest_ns and len(self._done) <= _WAITING:
                return
            self._write(*self._done.popleft())

    def _write(self, result: NavigationResult, latency_ms: float | None) -> None:
        self._fill_until(result.stamp_ns)
        self._write_row(result, latency_ms)
        self.last = result
        self.counts["results"] += 1
        self.on_result(result)

    def _fill_until(self, stamp_ns: int) -> None:
        """Rows for the colour frames before this one that gave no result."""
        while self._seen and self._seen[0] <= stamp_ns:
            skipped = self._seen.popleft()
            if skipped < stamp_ns:
                self._write_row(self._skipped(skipped), None)
                self.counts["frames_without_result"] += 1

    def _skipped(self, stamp_ns: int) -> NavigationResult:
        if self.last is None:
            levels = tuple(
                LevelEstimate(level, Status.SEARCHING, reason=NOT_PROCESSED)
                for level in self._levels
            )
            return NavigationResult(stamp_ns, levels)
        held = tuple(
            LevelEstimate(
                e.level,
                Status.OCCLUDED if e.T_camera_ct is not None else e.status,
                e.T_camera_ct,
                predicted_tre_mm=e.predicted_tre_mm,
                reason=NOT_PROCESSED,
            )
            for e in self.last.levels
        )
        return NavigationResult(stamp_ns, held)
