# SPDX-License-Identifier: Apache-2.0
"""Status of one level over time: when a pose may be shown, is held, or is withdrawn, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from spine_nav_common.core.types import Status

from .config import NavigatorConfig

MIN_AREA_MM2 = 60.0
DROP_SHARE, RETURN_SHARE = 0.18, 0.28
"""Of the bone area seen at its best: below the first a level is occluded, above the second it may
return. Two thresholds, so that a tool's edge does not make the guidance flicker."""
RETURN_TRE = 0.92
"""A level that was withdrawn because its bound exceeded the limit returns below this share of it."""
MAX_CONTRADICTED = 0.45
MIN_INLIERS = 0.5
MAX_VOTE_GAP_M = 15e-3
"""Half a vertebra: the network sees another vertebra here than the pose claims."""
MAX_CHAIN_GAP_M = 14e-3
"""Prone against supine, breathing, a bump and a tool together stay below; a slip does not."""
PATIENCE = 3
"""Frames of contradiction before a pose is given up; one bad frame is noise."""


@dataclass(frozen=True)
class Evidence:
    """What one frame says of a level's pose."""

    area_mm2: float
    inlier_share: float
    contradicted: float
    vote_gap_m: float
    chain_gap_m: float
    predicted_tre_mm: float


@dataclass(frozen=True)
class LevelState:
    """Status with its memory. seen_ns: last frame in which the level could be tracked, or the
    registration, in ns of the frames' clock. reference_area_mm2: bone seen at best, slowly
    forgotten. uncertain: withdrawn because its bound exceeded the limit, and not back since. measured:
    the last frame placed it, and nothing but that bound keeps it from being shown."""

    status: Status
    reason: str
    reference_area_mm2: float
    seen_ns: int
    contradictions: int
    uncertain: bool = False
    measured: bool = False


def registered(stamp_ns: int) -> LevelState:
    """A level that a registration placed and no frame has judged yet."""
    return LevelState(Status.REGISTERING, "", 0.0, stamp_ns, 0)


def advance(
    state: LevelState, evidence: Evidence | None, stamp_ns: int, config: NavigatorConfig, why: str
) -> LevelState:
    """The next status of a level that has a pose.

    Args:
        evidence: None when the frame told nothing; `why` says what was wrong with it.
    """
    if evidence is None:
        return _without(state, stamp_ns, config, why)
    reference = max(0.98 * state.reference_area_mm2, evidence.area_mm2)
    wrong = _contradiction(evidence)
    contradictions = state.contradictions + 1 if wrong else max(0, state.contradictions - 1)
    state = replace(state, reference_area_mm2=reference, contradictions=contradictions)
    if wrong and contradictions >= PATIENCE:
        return LevelState(Status.LOST, wrong, 0.0, state.seen_ns, 0, state.uncertain)
    share = DROP_SHARE if state.status is Status.TRACKED else RETURN_SHARE
    if evidence.area_mm2 < max(MIN_AREA_MM2, share * reference):
        return _without(
            state, stamp_ns, config, f"covered: {evidence.area_mm2:.0f} mm2 of bone in view"
        )
    if wrong:
        return _without(state, stamp_ns, config, wrong)
    limit = config.max_predicted_tre_mm * (RETURN_TRE if state.uncertain else 1.0)
    if evidence.predicted_tre_mm > limit:
        why = (
            f"uncertain: predicted TRE {evidence.predicted_tre_mm:.1f} mm, shown below {limit:.1f}"
        )
        withdrawn = _without(replace(state, uncertain=True), stamp_ns, config, why)
        return replace(withdrawn, measured=withdrawn.status is Status.OCCLUDED)
    return LevelState(Status.TRACKED, "", reference, stamp_ns, contradictions)


def _contradiction(e: Evidence) -> str:
    all_ = e.area_mm2 + e.inlier_share + e.contradicted + e.vote_gap_m + e.chain_gap_m
    if math.isnan(all_ + e.predicted_tre_mm):  # no threshold stops a NaN
        return "evidence is not a number"
    if e.area_mm2 >= MIN_AREA_MM2 and e.inlier_share < MIN_INLIERS:
        return f"surface does not fit: {100 * e.inlier_share:.0f} % inliers"
    if e.contradicted > MAX_CONTRADICTED:
        return f"camera looks through {100 * e.contradicted:.0f} % of where bone should be"
    if e.chain_gap_m > MAX_CHAIN_GAP_M:
        return f"{1e3 * e.chain_gap_m:.0f} mm away from where its neighbours allow it"
    if e.vote_gap_m > MAX_VOTE_GAP_M:
        return f"network sees another vertebra {1e3 * e.vote_gap_m:.0f} mm away"
    return ""


def _without(state: LevelState, stamp_ns: int, config: NavigatorConfig, why: str) -> LevelState:
    """Nothing to show in this frame: hold a pose that was tracked, for a while."""
    if (stamp_ns - state.seen_ns) * 1e-9 > config.hold_s:
        return LevelState(Status.LOST, why, 0.0, state.seen_ns, 0, state.uncertain)
    held = state.status in (Status.TRACKED, Status.OCCLUDED)
    status = Status.OCCLUDED if held else Status.REGISTERING
    return replace(state, status=status, reason=why, measured=False)
