# SPDX-License-Identifier: Apache-2.0
"""Progress on a terminal for anything longer than two seconds; silent where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

QUIET_S = 2.0
PERIOD_S = 0.2


class Progress:
    """One line on a terminal, redrawn in place; callable as progress(done, total, note)."""

    def __init__(
        self,
        label: str,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._start = clock()
        self._last = self._start + QUIET_S - PERIOD_S
        self._width = 0

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        """Show `done` of `total` (None = unknown length) with a short note."""
        now = self._clock()
        if not self._stream.isatty() or now - self._last < PERIOD_S:
            return
        self._last = now
        elapsed = now - self._start
        share = f"{done}/{total}" if total else f"{done}"
        left = ""
        if total and 0 < done < total:
            left = f", {elapsed * (total - done) / done:.0f} s left"
        line = f"{self._label}: {share} after {elapsed:.0f} s{left}{'  ' + note if note else ''}"
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)

    def close(self) -> None:
        """Clear the line, so that what follows starts at the margin."""
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0
