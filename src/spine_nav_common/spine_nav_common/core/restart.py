# SPDX-License-Identifier: Apache-2.0
"""When a node's process that ended is started again; for launch files and `spinenav live` alike."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_S, MOST_S = 0.1, 10.0
FORGOTTEN_S = 60.0
WRONG_INPUT = 2
"""Exit code of a process whose parameters or files are wrong: it would end the same way again."""
GIVEN_UP = 1
"""Exit code of a supervisor that has lost a required node."""
WORKER_DIED = 3
"""Exit code of a process whose worker thread died."""
FELL_OVER = 70
"""Exit code of a process that an exception ended."""


class Backoff:
    """The wait before the next start: at once at first, doubled with every end in a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: list[float] = []

    def next_s(self) -> float:
        """Note that the process has ended; seconds until it shall be started again."""
        now = self._clock()
        self._ends = [t for t in self._ends if now - t < FORGOTTEN_S] + [now]
        return min(FIRST_S * 2.0 ** (len(self._ends) - 1), MOST_S)
