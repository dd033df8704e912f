# SPDX-License-Identifier: Apache-2.0
"""Results that show nothing: of images that cannot be used, and of answers that came too late."""

from __future__ import annotations

from collections.abc import Iterable

from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status


def refused(stamp_ns: int, levels: Iterable[str], reason: str) -> NavigationResult:
    """The result of an image that cannot be used: every level lost, with the reason."""
    estimates = tuple(LevelEstimate(level, Status.LOST, reason=reason) for level in levels)
    return NavigationResult(stamp_ns, estimates, events=(reason,))


def withdrawn(result: NavigationResult, reason: str) -> NavigationResult:
    """The same stamp with nothing shown: every level without pose. What had none keeps its state."""
    keep = (Status.REJECTED, Status.SEARCHING, Status.LOST)
    levels = tuple(
        LevelEstimate(e.level, e.status if e.status in keep else Status.LOST, reason=reason)
        for e in result.levels
    )
    return NavigationResult(result.stamp_ns, levels, events=(f"withdrawn: {reason}",))
