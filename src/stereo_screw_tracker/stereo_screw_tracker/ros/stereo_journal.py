# SPDX-License-Identifier: Apache-2.0
"""What a stereo tracker writes into its journal (core/journal.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from spine_nav_common.parameters import digest, flatten
from spine_nav_common.ros import topics
from spine_nav_common.ros.conversions import stamp_to_ns
from spine_nav_common.ros.journal import JournalTopic
from spine_nav_common.ros.stereo_frames import RawPair

from ..core.journal import CORES, PairEntry, noted_vertebrae
from .stereo_config import NodeCore, StereoTrackerConfig


class StereoJournal(JournalTopic):
    """The journal of one tracker."""

    def __init__(
        self, advertise: Callable[..., Any], core: NodeCore, config: StereoTrackerConfig
    ) -> None:
        super().__init__(advertise, topics.SCREW_JOURNAL, CORES)
        self.begin(
            case=core.case.sha256 if core.case is not None else "",
            levels=list(core.case.exposed_levels) if core.case is not None else [],
            model=core.stereo.model_sha256,
            provider=core.stereo.provider,
            tracker=flatten(config.tracker),
            config=digest(config.tracker),
            raw=config.raw,
        )

    # In the worker's thread.

    def reset(self, why: str) -> None:
        """All tracks and names were forgotten."""
        self.note("reset", why=why)

    def pair(
        self,
        raw: RawPair,
        vertebrae: Mapping[str, np.ndarray] | None,
        trouble: str,
        fault: bool,
        events: tuple[str, ...],
    ) -> PairEntry:
        """A pair was worked on; its entry, to be settled."""
        right, left_info, right_info = (
            stamp_to_ns(m.header.stamp) for m in (raw.right, raw.left_info, raw.right_info)
        )
        entry = PairEntry(
            raw.stamp_ns, raw.epoch, right, left_info, right_info, noted_vertebrae(vertebrae),
            trouble, fault, events=events,
        )  # fmt: skip
        self.worked("pair", entry)
        return entry
