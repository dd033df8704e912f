# SPDX-License-Identifier: Apache-2.0
"""Publishes the journal of a navigation (core/journal.py): what a session's record replays by."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from std_msgs.msg import String

from spine_nav_common.core.cpu import cpu_name
from spine_nav_common.core.run import versions
from spine_nav_common.parameters import digest, flatten
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import stamp_to_ns
from spine_nav_common.ros.frames import RawFrame
from spine_nav_common.ros.heartbeat import new_birth

from ..core.journal import FrameEntry, code_sha256, entry_text, frame_values
from ..core.memory import Memory, boot_id, to_json
from .navigation_core import Core, NavigationConfig


class JournalTopic:
    """The journal of one navigator. Every method but `worked` and `recalled` is called on the
    executor's thread, which publishes.

    advertise: SpineNode.advertise of the node.
    """

    def __init__(self, advertise: Callable[..., Any]) -> None:
        self._publisher = advertise(String, topics.JOURNAL, qos.JOURNAL)
        self._life, self._number = new_birth(), 0
        self._waiting: deque[FrameEntry | dict[str, Any]] = deque()  # by the worker, in order

    @property
    def listened_to(self) -> bool:
        """Whether somebody hears it."""
        return bool(self._publisher.get_subscription_count())

    def _write(self, op: str, **values: Any) -> None:
        text = entry_text(op, self._life, self._number, **values)
        self._number += 1
        self._publisher.publish(String(data=text))

    def begin(self, core: Core, config: NavigationConfig) -> None:
        """A new navigator."""
        self._write(
            "begin",
            case=core.case.sha256,
            levels=list(core.case.exposed_levels),
            model=core.model_sha256,
            provider=core.provider,
            navigator=flatten(config.navigator),
            config=digest(config.navigator),
            versions=versions(),
            code=code_sha256(),
            cpu=cpu_name(),
        )

    def asked(self, what: str, **values: Any) -> None:
        """Somebody called a service or set an answer: `register`, `confirm`, `pause`, `resume`."""
        self._write("asked", what=what, **values)

    # In the worker's thread, in the order of the work.

    def recalled(self, memory: Memory, within_s: float) -> None:
        """What the process before had known was handed on."""
        usable = memory if memory.boot == boot_id() else replace(memory, shown=None)
        self._waiting.append({"memory": to_json(usable), "within_s": within_s})

    def worked(
        self, raw: RawFrame, seen: Any, navigator: Any, trouble: str, events: tuple[str, ...]
    ) -> FrameEntry:
        """A frame was worked on; what becomes of its result is told by `frame`."""
        solved = not isinstance(seen, Exception)
        entry = FrameEntry(
            raw.stamp_ns,
            raw.epoch,
            None if raw.depth is None else stamp_to_ns(raw.depth.header.stamp),
            stamp_to_ns(raw.info.header.stamp),
            getattr(navigator, "took", None) if solved else None,
            trouble,
            trouble.startswith("fault"),
            events=events,
        )
        self._waiting.append(entry)
        return entry

    # On the executor's thread again.

    def frame(self, entry: FrameEntry, shown: str = "", published: bool = True) -> None:
        """What became of a frame's result; shown: why it is not shown as it was, "" = it is."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if isinstance(waiting, dict):
                self._write("recall", **waiting)
                continue
            if waiting is entry:
                self._write(
                    "frame", **frame_values(replace(entry, shown=shown, published=published))
                )
                return
            self._lost(waiting, "its result was never delivered")

    def left_over(self, why: str) -> None:
        """The worker has stopped: what it did and nobody was told."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if isinstance(waiting, dict):
                self._write("recall", **waiting)
            else:
                self._lost(waiting, why)

    def _lost(self, entry: FrameEntry, why: str) -> None:
        self._write("frame", **frame_values(replace(entry, shown=why, published=False)))
