# SPDX-License-Identifier: Apache-2.0
"""How long each stage of a frame's way may take on two cores, and how long it took of late."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

KEPT = 300  # frames: 20 s at 15 Hz
FP32 = "fp32"
LONGEST_MS = 60e3


@dataclass(frozen=True)
class Budget:
    """Median and 99th percentile that a stage may take, ms."""

    median_ms: float
    p99_ms: float


_REDUCED = {
    "network": Budget(15.0, 30.0),  # the segmentation of a frame while tracking
    "update": Budget(5.0, 8.0),
    "registration": Budget(190.0, 300.0),  # without its network
    "stamp_to_publish": Budget(50.0, 90.0),
    "arrival_to_publish": Budget(45.0, 80.0),
}
_FULL = {
    **_REDUCED,
    "network": Budget(40.0, 60.0),
    "stamp_to_publish": Budget(80.0, 130.0),
    "arrival_to_publish": Budget(75.0, 120.0),
}


def budgets(provider: str) -> Mapping[str, Budget]:
    """Budget per stage for what computes the network (see `spine_perception.core.backends`)."""
    return _FULL if FP32 in provider else _REDUCED


@dataclass(frozen=True)
class StageTime:
    """Median and 99th percentile of a stage over `count` frames, ms."""

    median_ms: float
    p99_ms: float
    count: int

    def within(self, budget: Budget) -> bool:
        """Whether both are within the budget."""
        return self.median_ms <= budget.median_ms and self.p99_ms <= budget.p99_ms


def stage_time(values_ms: Iterable[float]) -> StageTime:
    """Of at least one duration."""
    values = np.fromiter(values_ms, float)
    median, p99 = np.percentile(values, [50, 99])
    return StageTime(float(median), float(p99), len(values))


class StageTimes:
    """The durations of the last KEPT frames, by stage. One thread notes, any may ask."""

    def __init__(self) -> None:
        self._ms: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))

    def note(self, stages_ms: Mapping[str, float]) -> None:
        """One frame's stages; what cannot be a duration (stamps of another clock) is left out."""
        for stage, ms in stages_ms.items():
            if 0.0 <= ms < LONGEST_MS:
                self._ms[stage].append(ms)

    def times(self) -> dict[str, StageTime]:
        """What was noted, by stage."""
        return {stage: stage_time(list(ms)) for stage, ms in list(self._ms.items())}

    def health(self, limits: Mapping[str, Budget]) -> dict[str, str]:
        """For /diagnostics: `ms STAGE` = median / p99, beside its budget where it has one."""
        values = {}
        for stage, took in self.times().items():
            text = f"{took.median_ms:.1f} / {took.p99_ms:.1f}"
            if (limit := limits.get(stage)) is not None:
                verdict = "within" if took.within(limit) else "over"
                text += f" ({verdict} {limit.median_ms:g} / {limit.p99_ms:g})"
            values[f"ms {stage}"] = text
        return values
