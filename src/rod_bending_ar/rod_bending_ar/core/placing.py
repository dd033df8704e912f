# SPDX-License-Identifier: Apache-2.0
"""From what was heard of screws, rods, bends and a tool to what may stand on a picture of its own
moment. Comparisons cost milliseconds each, so only some are made anew with every picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from spine_nav_common.core.implant_outputs import RodCurve, ScrewRow
from spine_nav_common.core.types import Case, NavigationResult, Rejected

from .cortex import Margins
from .extras import (
    Extras,
    Limits,
    NextBend,
    PlacedScrew,
    ShownRod,
    ToolAxis,
    place_curve,
    place_screws,
    place_tool,
)
from .screw_check import PLAY_DEG, ScrewCheck

ANEW = 2  # comparisons, and margins, that one picture waits for
_BEING_COMPARED = Rejected("being compared")


@dataclass(frozen=True)
class Implanted:
    """Screws and rods of one stereo pair in its left optical frame, that frame's T_camera_stereo
    (4, 4), and the result of the same moment. reason: why nothing is shown of them."""

    stamp_ns: int
    moment: NavigationResult | Rejected
    T_camera_stereo: np.ndarray | Rejected
    rows: tuple[ScrewRow, ...] = ()
    rods: tuple[RodCurve, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class PlannedRods:
    """Curves (N, 3) of planned rods by side, otherwise as Implanted."""

    stamp_ns: int
    moment: NavigationResult | Rejected
    T_camera_stereo: np.ndarray | Rejected
    curves: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Tool:
    """A tracked tool in the camera's frame: origin at its tip, z to its handle. turn_rad2 (3, 3):
    covariance of its turn about that frame's axes."""

    stamp_ns: int
    moment: NavigationResult | Rejected
    T_camera_tool: np.ndarray | Rejected
    bound95_mm: float
    turn_rad2: np.ndarray


@dataclass(frozen=True)
class Heard:
    """Everything that was heard beside the registration, when a picture was begun."""

    implanted: Implanted | None = None
    planned: PlannedRods | None = None
    bends: tuple[NextBend, ...] = ()
    tool: Tool | None = None


class Placer:
    """Of one case and plan. `place` belongs to one thread; `prepare` may run in another before."""

    def __init__(
        self,
        case: Case,
        diameter_mm: float,
        limits: Limits | None = None,
        play_deg: float = PLAY_DEG,
    ) -> None:
        self.case, self.ready = case, False
        self._limits, self._play_deg = limits or Limits(), play_deg
        self._plans = {(p.level, p.side): p for p in case.plan}
        self._centres = {v: case.plan_points_m(v).mean(axis=0) for v in case.exposed_levels}
        self._margins = Margins(case, diameter_mm)
        self._checks: dict[tuple[str, str], tuple[int, ScrewCheck | Rejected]] = {}

    def prepare(self) -> None:
        """Compute what takes long; until then no margin and no comparison is shown."""
        self._margins.prepare()
        self.ready = True

    def place(self, heard: Heard) -> Extras:
        """What may be drawn, and what is missing."""
        notes: list[str] = []
        screws: tuple[PlacedScrew, ...] = ()
        rods: tuple[ShownRod, ...] = ()
        self._margins.allow(ANEW)
        if not self.ready:
            notes.append("margins to the cortex: being computed")
        if (now := heard.implanted) is not None:
            screws, rods, said = self._implants(now)
            notes += said
        if (plan := heard.planned) is not None:
            for curve in plan.curves.values():
                found = place_curve(
                    curve, True, plan.stamp_ns, plan.moment, plan.T_camera_stereo, self._centres
                )
                rods += (found,) if isinstance(found, ShownRod) else ()
        for bend in heard.bends:
            if bend.state == "refused":
                notes.append(f"{bend.side} rod: {bend.text}")
        tool = None
        if heard.tool is not None:
            placed = self._tool(heard.tool)
            if isinstance(placed, Rejected):
                notes.append(f"tool: {placed.reason}")
            else:
                tool = placed
        margins = self._margins if self.ready else None
        return Extras(margins, screws, rods, heard.bends, tool, tuple(notes), self._limits)

    def _implants(
        self, now: Implanted
    ) -> tuple[tuple[PlacedScrew, ...], tuple[ShownRod, ...], list[str]]:
        if now.reason:
            return (), (), [f"screws: {now.reason}"]
        screws, notes = place_screws(
            now.rows, now.moment, now.T_camera_stereo, self._plans, None, self._play_deg
        )
        rods = tuple(
            found
            for rod in now.rods
            if isinstance(
                found := place_curve(
                    rod.centreline_m, False, now.stamp_ns, now.moment, now.T_camera_stereo,
                    self._centres,
                ),
                ShownRod,
            )
        )  # fmt: skip
        return self._compared(now, screws), rods, list(notes)

    def _compared(self, now: Implanted, screws: tuple[PlacedScrew, ...]) -> tuple[PlacedScrew, ...]:
        """With the last comparison of each; the oldest are made anew."""
        if not self.ready:
            return tuple(replace(s, check=_BEING_COMPARED) for s in screws)
        known = {k: v for k, v in self._checks.items() if v[0] <= now.stamp_ns}
        stale = sorted(screws, key=lambda s: known.get((s.level, s.side), (-1, None))[0])
        rows = {(r.level, r.side): r for r in now.rows}
        for s in stale[:ANEW]:
            key = s.level, s.side
            if known.get(key, (-1, None))[0] == now.stamp_ns:
                continue
            again, _ = place_screws(
                (rows[key],), now.moment, now.T_camera_stereo, self._plans, self._margins,
                self._play_deg,
            )  # fmt: skip
            known[key] = now.stamp_ns, again[0].check
        self._checks = known
        return tuple(replace(s, check=self._check(s, now.stamp_ns)) for s in screws)

    def _check(self, screw: PlacedScrew, now_ns: int) -> ScrewCheck | Rejected:
        at_ns, check = self._checks.get((screw.level, screw.side), (-1, _BEING_COMPARED))
        return check if now_ns - at_ns <= self._limits.screw_age_ms * 1e6 else _BEING_COMPARED

    def _tool(self, tool: Tool) -> ToolAxis | Rejected:
        if isinstance(tool.T_camera_tool, Rejected):
            return tool.T_camera_tool
        return place_tool(
            tool.T_camera_tool, tool.bound95_mm, tool.turn_rad2, tool.stamp_ns, tool.moment,
            self.case.plan,
        )  # fmt: skip
