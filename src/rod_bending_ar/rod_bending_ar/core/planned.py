# SPDX-License-Identifier: Apache-2.0
"""A planned rod as pictures show it: where it lies in the image, and the next setting of the bender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.implant_outputs import ScrewRow
from spine_nav_common.core.types import Rejected

from .bender import parse_step
from .forward import BendStep, fit_rigid
from .plan import RodPlan

LEAST_HEADS = 3  # fewer leave a turn open
MOST_MOVED_MM = 3.0  # heads that moved further against each other hold no plan


@dataclass(frozen=True)
class PlannedRod:
    """A rod of one side, planned, waited for or refused.

    state: of the guidance, see SideGuidance; text: one line for the surgeon. curve_m (M, 3): the
    target in the frame of the picture, caudal end first; None where nothing may be drawn. rod:
    material and diameter; next_bend: None where there is none to do.
    """

    side: str
    state: str = "planned"
    text: str = ""
    curve_m: np.ndarray | None = None
    rod: str = ""
    length_mm: float = 0.0
    steps: tuple[BendStep, ...] = ()
    done: int = 0
    next_bend: BendStep | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, plan: RodPlan) -> PlannedRod:
        """A plan of which nothing is bent yet, in the frame that it was made in."""
        return cls(
            plan.side,
            "planned",
            plan.gap_words(),
            plan.centreline_mm * 1e-3,
            rod_words(plan),
            plan.length_mm,
            plan.steps,
            0,
            plan.steps[0] if plan.steps else None,
            plan.warnings,
        )


def rod_words(plan: RodPlan) -> str:
    """Material and diameter."""
    return f"{plan.order.material} {plan.order.diameter_mm:g} mm"


def planned_from_fields(fields: Mapping[str, str], curve_m: np.ndarray | None) -> PlannedRod:
    """From a side's values of guidance/bending/status. Raises ValueError, KeyError."""
    steps: list[BendStep] = []
    while (text := fields.get(f"step {len(steps) + 1}")) is not None:
        steps.append(parse_step(text))
    done = int(fields.get("steps_done") or 0)
    next_bend = steps[done] if done < len(steps) else None
    if fields.get("next"):
        next_bend = parse_step(fields["next"])
    if fields["state"] not in ("planned", "bending"):
        next_bend = None
    return PlannedRod(
        fields["side"],
        fields["state"],
        fields["text"],
        curve_m,
        fields.get("rod", ""),
        float(fields.get("length_mm") or 0.0),
        tuple(steps),
        done,
        next_bend,
        tuple(w for w in fields.get("warnings", "").split("; ") if w),
    )


def motion_of_heads(then: Sequence[ScrewRow], now: Sequence[ScrewRow]) -> np.ndarray | Rejected:
    """T_now_then (4, 4), metres: how the heads that are in both pairs have moved in the camera's
    frame. A plan belongs to its heads: it is drawn where they are in this very picture."""
    before = {row.track_id: row.head_m for row in then}
    both = [row for row in now if row.track_id in before]
    if len(both) < LEAST_HEADS:
        return Rejected(f"{len(both)} of the heads that it was planned for are in view")
    source = np.array([before[row.track_id] for row in both])
    target = np.array([row.head_m for row in both])
    T = fit_rigid(source, target)
    off_mm = 1e3 * np.linalg.norm(source @ T[:3, :3].T + T[:3, 3] - target, axis=1)
    if off_mm.max() > MOST_MOVED_MM:
        return Rejected(f"heads have moved by {off_mm.max():.1f} mm against each other")
    return T
