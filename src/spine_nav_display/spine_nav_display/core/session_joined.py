# SPDX-License-Identifier: Apache-2.0
"""Two messages of one stamp that are one result, read one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spine_nav_common.core.shown import stamp_ns_of


class Joined:
    """Joins status and poses as soon as both were read: kept as messages, those of an operation of
    hours would fill the memory.

    Args:
        first: takes stamp, receipt, status and poses (None: there are none) of what was shown.
        again: takes stamp, receipt and each later status of that stamp, which takes it back.
    """

    def __init__(
        self,
        first: Callable[[int, int, Any, Any | None], None],
        again: Callable[[int, int, Any], None] = lambda *_: None,
    ) -> None:
        self._first, self._again = first, again
        self._statuses: dict[int, tuple[int, Any]] = {}  # without poses yet
        self._arrays: dict[int, Any] = {}  # without a status yet
        self._stamps: tuple[set[int], set[int]] = (set(), set())  # of statuses, of poses

    def status(self, log_ns: int, message: Any) -> None:
        """The first of a stamp is what was shown; those after it take it back."""
        stamp_ns = stamp_ns_of(message.header.stamp)
        if stamp_ns in self._stamps[0]:
            self._again(stamp_ns, log_ns, message)
            return
        self._stamps[0].add(stamp_ns)
        self._statuses[stamp_ns] = log_ns, message
        self._join(stamp_ns)

    def poses(self, message: Any) -> None:
        """The first of a stamp counts."""
        stamp_ns = stamp_ns_of(message.header.stamp)
        if stamp_ns not in self._stamps[1]:
            self._stamps[1].add(stamp_ns)
            self._arrays[stamp_ns] = message
            self._join(stamp_ns)

    def _join(self, stamp_ns: int, alone: bool = False) -> None:
        if stamp_ns in self._statuses and (alone or stamp_ns in self._arrays):
            log_ns, status = self._statuses.pop(stamp_ns)
            self._first(stamp_ns, log_ns, status, self._arrays.pop(stamp_ns, None))

    def end(self) -> set[int]:
        """Nothing more comes; stamps of which both were there."""
        for stamp_ns in list(self._statuses):
            self._join(stamp_ns, alone=True)
        return self._stamps[0] & self._stamps[1]
