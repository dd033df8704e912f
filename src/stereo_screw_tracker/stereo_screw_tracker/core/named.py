# SPDX-License-Identifier: Apache-2.0
"""A tracker and the names that it has found for the heads, which are forgotten together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.types import Case, Rejected, StereoFrame, StereoResult

from .levels import LevelNames
from .load import TracksScrews


@dataclass(frozen=True)
class Tried:
    """What came of a pair. fault: it broke the tracker, which must be reset before the next one."""

    result: StereoResult | Rejected
    fault: bool = False


class NamedTracker:
    """Screws, rods and levels of pair after pair, for nodes, commands and whoever repeats them."""

    def __init__(self, tracker: TracksScrews, case: Case | None) -> None:
        self._tracker, self._case = tracker, case
        self._forget()

    def _forget(self) -> None:
        case = self._case
        self._names = LevelNames(case.exposed_levels if case else (), case)

    def process(
        self, frame: StereoFrame, vertebrae: Mapping[str, np.ndarray] | None = None
    ) -> StereoResult | Rejected:
        """See StereoTracker.process; heads without a level get one where the row tells it."""
        result = self._tracker.process(frame, vertebrae, self._case)
        return self._names.name(result) if isinstance(result, StereoResult) else result

    def tried(
        self, decode: Callable[[], StereoFrame], vertebrae: Mapping[str, np.ndarray] | None
    ) -> Tried:
        """`process` of what `decode` gives, where one bad pair must not end the tracking."""
        try:
            return Tried(self.process(decode(), vertebrae))
        except ValueError as error:
            return Tried(Rejected(" ".join(str(error).split())))
        except Exception as error:  # noqa: BLE001 - told, and the tracker is begun anew
            return Tried(Rejected(f"fault in the screw tracker, started anew: {error!r}"), True)

    def reset(self) -> None:
        """Forget tracks and names."""
        self._tracker.reset()
        self._forget()
