# SPDX-License-Identifier: Apache-2.0
"""Progress on a terminal for anything longer than two seconds; silent where nobody watches."""

from __future__ import annotations

from typing import TextIO

from tqdm import tqdm

QUIET_S = 2.0
PERIOD_S = 0.2


class Progress:
    """tqdm's bar as a function of what is done: progress(done, total, note)."""

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        """stream: None is stderr; only a terminal is written to."""
        self._bar = tqdm(
            desc=label, file=stream, disable=None, leave=False, delay=QUIET_S, mininterval=PERIOD_S,
            miniters=1,
            dynamic_ncols=True,
        )  # fmt: skip

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        """Show `done` of `total` (None = unknown length) with a short note."""
        if self._bar.disable:
            return
        if done < self._bar.n:  # the next part of the work
            self._bar.reset()
        self._bar.total = total
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Clear the line, so that what follows starts at the margin."""
        self._bar.close()
