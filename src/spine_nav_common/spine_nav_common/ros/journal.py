# SPDX-License-Identifier: Apache-2.0
"""Publishes the journal of a node that computes: what a session's record replays by."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from std_msgs.msg import String

from ..core.cpu import cpu_name
from ..core.journal import code_sha256, entry_text
from ..core.run import versions
from . import qos
from .heartbeat import new_birth


class JournalTopic:
    """The journal of one life of a core. The worker's thread leaves entries in the order of its work
    (`note`, `worked`); every other method is called on the executor's thread, which publishes.

    An entry of work is a frozen dataclass with `shown` (why its result was not shown as it was, "" =
    it was) and `published` (whether it was published at all), which are known later only.

    Args:
        advertise: SpineNode.advertise of the node.
        topic: of the journal.
        cores: packages that results are computed by.
    """

    def __init__(self, advertise: Callable[..., Any], topic: str, cores: tuple[str, ...]) -> None:
        self._publisher = advertise(String, topic, qos.JOURNAL)
        self._cores = cores
        self._life, self._number = new_birth(), 0
        self._waiting: deque[tuple[str, Any]] = deque()  # (op, entry of work or values)

    def _write(self, op: str, **values: Any) -> None:
        text = entry_text(op, self._life, self._number, **values)
        self._number += 1
        self._publisher.publish(String(data=text))

    def begin(self, **values: Any) -> None:
        """A new core; values: what it was made of."""
        code = code_sha256(self._cores)
        self._write("begin", **values, versions=versions(), code=code, cpu=cpu_name())

    def asked(self, what: str, **values: Any) -> None:
        """Somebody called a service or set an answer."""
        self._write("asked", what=what, **values)

    # In the worker's thread, in the order of the work.

    def note(self, op: str, **values: Any) -> None:
        """Something was done between two pieces of work."""
        self._waiting.append((op, values))

    def worked(self, op: str, entry: Any) -> None:
        """A piece of work was done; what becomes of its result is told by `settle`."""
        self._waiting.append((op, entry))

    # On the executor's thread again.

    def settle(self, entry: Any, shown: str = "", published: bool = True) -> None:
        """What became of the result of a piece of work; see the class."""
        while self._waiting:
            op, waiting = self._waiting.popleft()
            if waiting is entry:
                self._write(op, **asdict(replace(entry, shown=shown, published=published)))
                return
            self._left(op, waiting, "its result was never delivered")

    def left_over(self, why: str) -> None:
        """The worker has stopped: what it did and nobody was told."""
        while self._waiting:
            self._left(*self._waiting.popleft(), why)

    def _left(self, op: str, waiting: Any, why: str) -> None:
        if not isinstance(waiting, dict):
            waiting = asdict(replace(waiting, shown=why, published=False))
        self._write(op, **waiting)
