# SPDX-License-Identifier: Apache-2.0
"""Parameters of the safety node."""

from __future__ import annotations

from dataclasses import dataclass

from rod_bending_ar.core.cortex import DIAMETER_MM
from spine_nav_common.core.clock import GUIDANCE_MS
from spine_nav_common.parameters import param
from spine_nav_common.ros import topics
from spine_planning.core.replan import Freedom
from spine_planning.core.safety import SIGMAS, Limits

_FREE, _LIMITS = Freedom(), Limits()


@dataclass(frozen=True)
class SafetyConfig:
    """Parameters of the safety node."""

    case: str = param("", "folder of the case")
    drill_diameter_mm: float = param(3.5, "of the hole that is drilled", "mm", 1.0, 12.0)
    screw_diameter_mm: float = param(
        DIAMETER_MM, "of the screws whose probability of a breach is told", "mm", 2.0, 12.0
    )
    speed_mm_s: float = param(
        5.0, "of a drill where nothing limits it", "mm/s", 0.1, 50.0
    )  # fmt: skip
    confidence: str = param(
        str(_LIMITS.confidence), "of the distance to the wall that is kept",
        choices=tuple(map(str, SIGMAS)),
    )  # fmt: skip
    max_age_ms: float = param(
        GUIDANCE_MS, "a pose of an older image stops everything", "ms", 50.0, 10000.0
    )
    max_tre_mm: float = param(
        _LIMITS.max_tre_mm, "a level known worse than this (95 %) is not drilled", "mm", 0.5, 10.0
    )
    tool_topic: str = param(
        topics.TOOL_POSE, "pose of the drill, its origin at the tip, z to its handle; empty: none"
    )
    tool_bound_mm: float = param(
        2.5, "a tool known worse than this (95 %) stops everything", "mm", 0.1, 50.0
    )
    lean_deg: float = param(
        _FREE.lean_deg, "how far a new trajectory may lean from the plan", "deg", 0.0, 30.0
    )
    shift_mm: float = param(
        _FREE.shift_mm, "how far its entry may shift, before the bone is entered", "mm", 0.0, 10.0
    )
    play_mm: float = param(
        _FREE.play_mm, "what a drill in its hole gives way", "mm", 0.0, 5.0
    )  # fmt: skip

    def limits(self) -> Limits:
        """What may be drilled by."""
        return Limits(self.max_age_ms, self.max_tre_mm, float(self.confidence))

    def freedom(self) -> Freedom:
        """What a new trajectory may be."""
        return Freedom(self.lean_deg, self.shift_mm, self.play_mm)
