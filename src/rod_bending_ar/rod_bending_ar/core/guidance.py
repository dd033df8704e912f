# SPDX-License-Identifier: Apache-2.0
"""From heads and rods, frame by frame, to a plan that holds and what is left to bend.

A plan belongs to the heads that it was made for. It is shown only as long as the same heads are in
view in the same arrangement; anything else withdraws it with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spine_nav_common.core.errors import RodError
from spine_nav_common.core.implant_outputs import RodCurve, ScrewRow
from spine_nav_common.core.screw_rows import SIDES, SaddleRow, saddle_rows
from spine_nav_common.core.types import Rejected

from .compare import RodComparison, compare_rod, wrong_length
from .complete import MissingScrew
from .forward import arc_positions_mm, fit_rigid, point_at, replay_steps
from .left_out import LeftOut, ScrewQuestion, changed_mm
from .plan import RodOrder, RodPlan, plan_rod

# Design choices.
LEAST_SEEN = 0.7  # share of a rod that must be seen before it is called good
# A gap of 1 mm cannot be ruled out on a rod whose shape is known worse than that.
MOST_SIGMA_MM = 1.0
SEATED_MM = 15.0  # a rod whose middle is this near to its saddles lies in them
_POINTS = 60
_SOURCE = "heads in view"


@dataclass(frozen=True)
class GuidanceOrder:
    """What the guidance is asked for.

    sides: those to plan; cranial: where the head lies in the image ("" = from levels or sides);
    steady_frames, steady_mm: heads that kept their distances this long are planned for by
    themselves (0 frames = never); moved_mm: largest change of a head against the others before a
    plan no longer holds.
    """

    rod: RodOrder
    sides: tuple[str, ...] = SIDES
    cranial: str = ""
    steady_frames: int = 15
    steady_mm: float = 1.5
    moved_mm: float = 3.0


@dataclass(frozen=True)
class SideGuidance:
    """What is known of one side now.

    state: waiting (no plan yet), refused (no plan possible, or it no longer holds), planned (no rod
    in view), bending (rod in view, not good), good. text: one line for the surgeon. plan and
    T_now_plan (4, 4; mm, from the plan's camera frame to the present one) only where it holds.
    question: that the refusal waits for.
    """

    side: str
    state: str
    text: str
    plan: RodPlan | None = None
    T_now_plan: np.ndarray | None = None
    rod: RodCurve | None = None
    steps_done: int = 0
    comparison: RodComparison | None = None
    question: ScrewQuestion | None = None


@dataclass(frozen=True)
class _Planned:
    plan: RodPlan
    row: SaddleRow


class RodGuide:
    """Plans and compares, one frame after the other. Not thread-safe."""

    def __init__(self, order: GuidanceOrder) -> None:
        self._order = order
        self._planned: dict[str, _Planned] = {}
        self._refused: dict[str, str] = {}
        self._steady: dict[str, tuple[SaddleRow, int]] = {}
        self._last: dict[str, SideGuidance] = {}
        self._left_out = LeftOut(order.moved_mm)

    def request(self, rows: Sequence[ScrewRow]) -> tuple[str, ...]:
        """Plan for these heads now; one line per side says what came of it.

        Raises RodError where no side of them can be planned.
        """
        self._heed()
        found = self._rows(rows)
        texts = [self._plan(row) for row in found.values()]
        if not any(side in self._planned for side in found):
            raise RodError(_SOURCE, "plan", "; ".join(texts) or "no row of heads", "see the reason")
        return tuple(texts)

    def observe(
        self, rows: Sequence[ScrewRow], rods: Sequence[RodCurve], compare: bool = True
    ) -> tuple[SideGuidance, ...]:
        """What is known of every side in this frame.

        Args:
            rows: heads of this frame; rods: curves of this frame, cranial end first.
            compare: whether to measure rods against their plans anew (some 100 ms per rod); else the
                last comparison stays while its rod is in view.
        """
        self._heed()
        try:
            found = self._rows(rows) if rows else {}
            reason = "" if rows else "no screw heads in view: show them to both cameras"
        except RodError as error:
            found, reason = {}, f"{error.problem}; {error.remedy}"
        return tuple(self._side(side, found, reason, rods, compare) for side in self._order.sides)

    def answer(self, question: ScrewQuestion, accept: bool) -> None:
        """The surgeon's word, heeded with the next frame; by any thread. See LeftOut.answer."""
        self._left_out.answer(question, accept)

    def _heed(self) -> None:
        for side in self._left_out.take():  # as if these heads were seen for the first time
            self._refused.pop(side, None)
            self._steady.pop(side, None)

    def _rows(self, rows: Sequence[ScrewRow]) -> dict[str, SaddleRow]:
        wanted = self._order.sides[0] if len(self._order.sides) == 1 else None
        return {r.side: r for r in saddle_rows(rows, _SOURCE, wanted, self._order.cranial or None)}

    def _side(
        self,
        side: str,
        found: Mapping[str, SaddleRow],
        reason: str,
        rods: Sequence[RodCurve],
        compare: bool,
    ) -> SideGuidance:
        row = found.get(side)
        if row is None:
            self._steady.pop(side, None)
            text = reason or "no two heads of this side in view"
            return SideGuidance(side, "refused" if side in self._planned else "waiting", text)
        self._left_out.see(row)
        steady = self._is_steady(row)
        known = self._planned.get(side)
        moved = "" if known is None else self._broken(known, row)
        if moved:
            del self._planned[side]
            self._refused[side] = moved
            self._left_out.close(side)
            known = None
        if known is None and steady and self._order.steady_frames:
            self._plan(row)
            known = self._planned.get(side)
        if known is None:
            refusal = self._refused.get(side, "")
            held = [name for name, seen in zip(row.names, row.seen, strict=True) if not seen]
            wait = f"{', '.join(held)} not seen: show it"
            text = refusal or f"{len(row.ids)} heads; {wait if held else self._again}"
            state, question = "refused" if refusal else "waiting", self._left_out.question(row)
            return SideGuidance(side, state, text, question=question)
        return self._compared(known, row, rods, compare)

    def _is_steady(self, row: SaddleRow) -> bool:
        """Whether the same heads have kept their distances for long enough; counts this frame."""
        first, count = self._steady.get(row.side, (row, 0))
        # a head that is only held keeps its distances because nobody looks
        same = all(row.seen) and first.ids == row.ids
        same = same and changed_mm(first, row) <= self._order.steady_mm
        first, count = (first, count + 1) if same else (row, int(all(row.seen)))
        self._steady[row.side] = first, count
        # asked again only after the next steady run: a refusal stays as long as nothing changes
        return count == self._order.steady_frames

    @property
    def _again(self) -> str:
        """What brings a plan."""
        return "hold still" if self._order.steady_frames else "ask for a plan"

    def _broken(self, known: _Planned, row: SaddleRow) -> str:
        if known.row.ids != row.ids:
            gone = sorted(set(known.row.ids) - set(row.ids))
            new = sorted(set(row.ids) - set(known.row.ids))
            parts = [f"head {i} is gone" for i in gone] + [f"head {i} is new" for i in new]
            return f"the plan no longer holds: {', '.join(parts)}; {self._again}"
        moved = changed_mm(known.row, row)
        if moved > self._order.moved_mm:
            return (
                f"the plan no longer holds: heads have moved by {moved:.1f} mm against each other;"
                f" {self._again}"
            )
        return ""

    def _plan(self, row: SaddleRow) -> str:
        self._planned.pop(row.side, None)  # never an old plan beside a failed new one
        self._refused.pop(row.side, None)
        self._left_out.close(row.side)
        try:
            plan = plan_rod(row, self._left_out.order(row, self._order.rod))
        except RodError as error:
            if isinstance(error, MissingScrew):
                self._left_out.ask(row, error)
            text = f"no plan: {error.problem}; {error.remedy}"
            self._refused[row.side] = text
            return f"{row.side}: {text}"
        self._planned[row.side] = _Planned(plan, row)
        return f"{row.side}: {plan_text(plan)}"

    def _compared(
        self, known: _Planned, row: SaddleRow, rods: Sequence[RodCurve], compare: bool
    ) -> SideGuidance:
        plan = known.plan
        T = fit_rigid(known.row.saddles_mm, row.saddles_mm)
        rod = self._rod_of(plan.side, rods)
        last = self._last.pop(plan.side, None)
        if rod is None:
            return SideGuidance(plan.side, "planned", plan_text(plan), plan, T)
        rod = oriented(rod, row)
        if not compare and last is not None and last.plan is plan:
            self._last[plan.side] = last
            return replace(last, T_now_plan=T, rod=rod)
        self._last[plan.side] = judged(plan, T, rod)
        return self._last[plan.side]

    def _rod_of(self, side: str, rods: Sequence[RodCurve]) -> RodCurve | None:
        own = [r for r in rods if r.side == side]
        if own:
            return own[0]
        loose = [r for r in rods if not r.side]
        # a rod in the hand belongs to no side; with one plan only there is no doubt
        return loose[0] if len(loose) == 1 and list(self._planned) == [side] else None


def judged(plan: RodPlan, T_now_plan: np.ndarray, rod: RodCurve) -> SideGuidance:
    """A rod in view beside its plan. Good only if enough of it is seen, and known well enough; by
    the curve that no head has pulled, since the pulled one runs through the heads whatever the rod.
    """
    curve_m, sigmas_mm = rod.without_heads()
    done = steps_behind(curve_m, plan)
    if isinstance(done, Rejected):
        return SideGuidance(plan.side, "planned", done.reason, plan, T_now_plan, rod)
    sigma_mm = float(np.median(sigmas_mm))
    result = compare_rod(curve_m, plan, None, sigma_mm)
    if isinstance(result, RodComparison) and result.good:
        done = len(plan.steps)  # a last bend of a degree or two cannot be told from none
    elif done < len(plan.steps):
        result = compare_rod(curve_m, plan, done, sigma_mm)
    if isinstance(result, Rejected):
        return SideGuidance(plan.side, "planned", result.reason, plan, T_now_plan, rod, done)
    state, text = "bending", result.text()
    seen = float(np.mean(rod.seen))
    if result.good and seen < LEAST_SEEN:
        text = f"fits as far as it is seen ({100 * seen:.0f} %): show the rest of the rod"
    elif result.good and sigma_mm > MOST_SIGMA_MM:
        text = (
            f"fits, but the rod's shape is known to {sigma_mm:.1f} mm only: turn or bring the camera"
            " nearer"
        )
    elif result.good:
        state = "good"
    elif done < len(plan.steps):
        text = f"{done} of {len(plan.steps)} bends done; {text}"
    return SideGuidance(plan.side, state, text, plan, T_now_plan, rod, done, result)


def plan_text(plan: RodPlan) -> str:
    """One line: rod, number of bends, first bend."""
    head = f"{plan.length_mm:.0f} mm rod, {len(plan.steps)} bends, gap up to {plan.predicted_gap_mm:.1f} mm"
    if not plan.steps:
        return f"{head}; it stays straight"
    s = plan.steps[0]
    return f"{head}; first: feed {s.feed_mm:.1f} mm, bend to {s.bend_set_deg:.1f} deg"


def steps_behind(centreline_m: np.ndarray, plan: RodPlan) -> int | Rejected:
    """How many of the plan's steps a measured rod has behind it: those whose replay fits it best.

    centreline_m: (M, 3) metres, cranial end first. Rejected: not the whole rod, or another one.
    """
    curve = np.asarray(centreline_m, dtype=np.float64)[::-1] * 1e3
    if len(curve) < 2 or not np.isfinite(curve).all():
        return Rejected("the rod in view has no usable curve: show the whole rod")
    arc = arc_positions_mm(curve)
    other = wrong_length(float(arc[-1]), plan)
    if other is not None:
        return other
    share = np.linspace(0.0, 1.0, _POINTS)
    seen = point_at(curve, arc, share * arc[-1])
    misfit = []
    for done in range(len(plan.steps) + 1):
        model = replay_steps(plan.steps[:done], plan.length_mm, plan.order.bender.die_radius_mm)
        own = arc_positions_mm(model)
        at = point_at(model, own, share * own[-1])
        T = fit_rigid(at, seen)
        misfit.append(float(np.linalg.norm(at @ T[:3, :3].T + T[:3, 3] - seen, axis=1).mean()))
    return int(np.argmin(misfit))


def oriented(rod: RodCurve, row: SaddleRow) -> RodCurve:
    """The rod cranial end first where it lies in the saddles; a rod elsewhere is left as it is."""
    points = rod.centreline_m * 1e3
    far = np.linalg.norm(points[:, None] - row.saddles_mm, axis=2).min(axis=0).mean()
    cranial = row.saddles_mm[-1] - row.saddles_mm[0]
    if far > SEATED_MM or (points[0] - points[-1]) @ cranial > 0.0:
        return rod
    return rod.turned()
