# SPDX-License-Identifier: Apache-2.0
"""All planned screws of a case against the newest poses: what each may do now, or why it must stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from rod_bending_ar.core.cortex import Cortex
from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.types import Case, LevelEstimate, NavigationResult, Rejected, ScrewPlan

from .clearance import spreads
from .replan import Freedom, Replanned, replan
from .safety import (
    Advance,
    Belief,
    Breach,
    Drill,
    Limits,
    allowed_advance,
    breach,
    on_plan,
    usable_pose,
)

_OFF_M, _OFF_DEG = 0.015, 30.0  # a tool farther off a planned axis is not on that screw
_BEFORE_M = 0.05
_MORE, _FEWER = 1.2, 0.4  # a covariance is taken so many times; anew where it is so much smaller


@dataclass(frozen=True)
class Tool:
    """A drill at the moment of the result; covariance (3, 3) of its tip in the camera's axes, m^2."""

    drill: Drill
    covariance: np.ndarray


@dataclass(frozen=True)
class ScrewSafety:
    """One planned screw now. line_camera_m (2, 3): entry and target, in the camera's frame. advance: of
    the tool, where it is on this screw. stop: why nothing may move, "" otherwise; then all else is None."""

    level: str
    side: str
    line_camera_m: np.ndarray | None = None
    breach: Breach | None = None
    advance: Advance | None = None
    stop: str = ""

    @property
    def name(self) -> str:
        """As in the plan."""
        return f"{self.level}_{self.side}"


class ScrewGuard:
    """Of one case and plan; belongs to one thread.

    Args:
        drill_mm, screw_mm: of the hole that is drilled, and of the screw whose breach is told.
        wanted_mm_s: how fast a drill would go where nothing limits it.
    """

    def __init__(
        self,
        case: Case,
        drill_mm: float,
        screw_mm: float,
        limits: Limits,
        freedom: Freedom,
        wanted_mm_s: float,
    ) -> None:
        self.case = case
        self._drill_mm, self._screw_mm = drill_mm, screw_mm
        self._limits, self._freedom, self._wanted = limits, freedom, wanted_mm_s
        self._plans = [p for p in case.plan if p.level in case.exposed_levels]
        self._cortices = {
            v: Cortex(
                case.meshes[v], tuple(p for p in self._plans if p.level == v), case.orientation
            )
            for v in {p.level for p in self._plans}
        }
        self._anew: dict[tuple[str, str], Replanned | Rejected] = {}
        self._known: dict[tuple[str, str], _Known] = {}

    def prepare(self) -> None:
        """Compute what takes long, compiled loops included."""
        covariance = np.diag([1e-8] * 6)
        for plan in self._plans:
            belief = Belief(np.eye(4), covariance, plan.entry_m)
            cortex = self._cortices[plan.level]
            breach(cortex, plan, belief, self._screw_mm)
            replan(cortex, plan, belief, None, self._drill_mm, self._limits, self._freedom)

    def judge(
        self, result: NavigationResult, age_ms: float, tool: Tool | Rejected | None
    ) -> tuple[ScrewSafety, ...]:
        """Every planned screw of the opened levels. tool: None where there never was one."""
        estimates = {e.level: e for e in result.levels}
        return tuple(self._judge(p, estimates.get(p.level), age_ms, tool) for p in self._plans)

    def stopped(self, reason: str) -> tuple[ScrewSafety, ...]:
        """Nothing may move."""
        return tuple(ScrewSafety(p.level, p.side, stop=reason) for p in self._plans)

    def replan(
        self, result: NavigationResult, age_ms: float, tool: Tool | Rejected | None
    ) -> Mapping[str, Replanned | Rejected]:
        """Every screw anew about the newest pose and its hole; what is refused stops until it is not."""
        estimates = {e.level: e for e in result.levels}
        for plan in self._plans:
            key = plan.level, plan.side
            self._anew[key] = self._replan(plan, estimates.get(plan.level), age_ms, tool)
        return {f"{level}_{side}": found for (level, side), found in self._anew.items()}

    def _replan(
        self,
        plan: ScrewPlan,
        estimate: LevelEstimate | None,
        age_ms: float,
        tool: Tool | Rejected | None,
    ) -> Replanned | Rejected:
        belief = self._belief(plan, estimate, age_ms)
        if isinstance(belief, Rejected):
            return belief
        if isinstance(tool, Rejected):
            return tool
        on = tool if tool is not None and _is_on(plan, belief, tool.drill) else None
        return replan(
            self._cortices[plan.level], plan, belief if on is None else _with(belief, on),
            None if on is None else on.drill, self._drill_mm, self._limits, self._freedom,
        )  # fmt: skip

    def _belief(
        self, plan: ScrewPlan, estimate: LevelEstimate | None, age_ms: float
    ) -> Belief | Rejected:
        if estimate is None:
            return Rejected(f"nothing is known of {plan.level}")
        return usable_pose(estimate, age_ms, plan, self._limits)

    def _judge(
        self,
        plan: ScrewPlan,
        estimate: LevelEstimate | None,
        age_ms: float,
        tool: Tool | Rejected | None,
    ) -> ScrewSafety:
        now = ScrewSafety(plan.level, plan.side)
        belief = self._belief(plan, estimate, age_ms)
        if isinstance(belief, Rejected):
            return replace(now, stop=belief.reason)
        if isinstance(tool, Rejected):
            return replace(now, stop=tool.reason)
        anew = self._anew.get((plan.level, plan.side))
        if isinstance(anew, Rejected):
            return replace(now, stop=f"planned anew: {anew.reason}")
        plan = plan if anew is None else anew.plan
        cortex = self._cortices[plan.level]
        found = self._breach(cortex, plan, belief)
        if isinstance(found, Rejected):
            return replace(now, stop=found.reason)
        if tool is not None and _is_on(plan, belief, tool.drill):
            advance = allowed_advance(
                cortex, plan, _with(belief, tool), tool.drill, self._drill_mm, self._limits,
                self._wanted,
            )  # fmt: skip
            if isinstance(advance, Rejected):
                return replace(now, stop=advance.reason)
            now = replace(now, advance=advance)
        line = transform_points(belief.T_camera_ct, np.array([plan.entry_m, plan.target_m]))
        return replace(now, line_camera_m=line, breach=found)

    def _breach(self, cortex: Cortex, plan: ScrewPlan, belief: Belief) -> Breach | Rejected:
        """Of a covariance a little larger, and kept while that holds and says not much too much: draws
        take milliseconds, and in a calm operation a pose's covariance hardly changes."""
        places = np.array([plan.entry_m, 0.5 * (plan.entry_m + plan.target_m), plan.target_m])
        spread = spreads(places, belief.covariance, belief.anchor_m)
        known = self._known.get((plan.level, plan.side))
        if known is not None and known.plan is plan:
            left = known.spread - spread
            near = np.trace(left, axis1=1, axis2=2) <= _FEWER * np.trace(
                known.spread, axis1=1, axis2=2
            )
            if near.all() and np.linalg.eigvalsh(left).min() >= 0.0:
                return known.found
        more = replace(belief, covariance=_MORE * belief.covariance)
        found = breach(cortex, plan, more, self._screw_mm)
        self._known[plan.level, plan.side] = _Known(plan, _MORE * spread, found)
        return found


@dataclass(frozen=True)
class _Known:
    """spread (3, 3, 3): covariances of entry, middle and target that `found` holds for."""

    plan: ScrewPlan
    spread: np.ndarray
    found: Breach | Rejected


def _with(belief: Belief, tool: Tool) -> Belief:
    """The tool's own error beside the pose's: a shift of the bone against the tip."""
    R = belief.T_camera_ct[:3, :3]
    covariance = belief.covariance.copy()
    covariance[:3, :3] += R.T @ tool.covariance @ R
    return replace(belief, covariance=covariance)


def _is_on(plan: ScrewPlan, belief: Belief, drill: Drill) -> bool:
    placed = on_plan(plan, belief, drill)
    if isinstance(placed, Rejected):
        return False
    start, way, depth = placed
    along = plan.target_m - plan.entry_m
    length = float(np.linalg.norm(along))
    angle = np.degrees(np.arccos(np.clip(way @ along / length, -1.0, 1.0)))
    near = -_BEFORE_M < depth < length + _BEFORE_M
    return bool(near and angle < _OFF_DEG and np.linalg.norm(start - plan.entry_m) < _OFF_M)
