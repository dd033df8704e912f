# SPDX-License-Identifier: Apache-2.0
"""What a navigation writes into its journal (core/journal.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from spine_nav_common.parameters import digest, flatten
from spine_nav_common.ros import topics
from spine_nav_common.ros.conversions import stamp_to_ns
from spine_nav_common.ros.frames import RawFrame
from spine_nav_common.ros.journal import JournalTopic

from ..core.journal import CORES, FrameEntry
from ..core.memory import Memory, boot_id, to_json
from .navigation_core import Core, NavigationConfig


class NavigationJournal(JournalTopic):
    """The journal of one navigator."""

    def __init__(self, advertise: Callable[..., Any], core: Core, config: NavigationConfig) -> None:
        super().__init__(advertise, topics.JOURNAL, CORES)
        self.begin(
            case=core.case.sha256,
            levels=list(core.case.exposed_levels),
            model=core.model_sha256,
            provider=core.provider,
            navigator=flatten(config.navigator),
            depth_calibration=core.depth.sha256 if core.depth is not None else "",
            config=digest(config.navigator),
        )

    # In the worker's thread.

    def recalled(self, memory: Memory, within_s: float) -> None:
        """What the process before had known was handed on."""
        usable = memory if memory.boot == boot_id() else replace(memory, shown=None)
        self.note("recall", memory=to_json(usable), within_s=within_s)

    def frame(
        self, raw: RawFrame, seen: Any, navigator: Any, trouble: str, events: tuple[str, ...]
    ) -> FrameEntry:
        """A frame was worked on; its entry, to be settled."""
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
        self.worked("frame", entry)
        return entry
