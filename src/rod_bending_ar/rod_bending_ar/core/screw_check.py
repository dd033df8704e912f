# SPDX-License-Identifier: Apache-2.0
"""A placed screw against its plan: entry, tip and angle, and the grade that is to be expected.

What two cameras see of a placed screw is its head: the saddle point and the tulip's axis. A tulip
that turns on its shank does not tell the shank's direction, and then no grade is told either.
How deep the screw goes is not seen: it is taken to be as long as its plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.geometry import invert, transform_points
from spine_nav_common.core.implant_outputs import ScrewRow
from spine_nav_common.core.statistics import SIGMAS_3D_95
from spine_nav_common.core.types import Case, LevelEstimate, Rejected, ScrewPlan, Status

from .cortex import DIAMETER_MM, GRADES, Margins, Shaft, normal_draws, shaft

TOGETHER_NS = 40_000_000
"""Pose and screw of pictures farther apart are of two moments: a hand moves the cameras by 0.8 mm in 10
ms, which no predicted error has in it."""
AXIS_SIGMA_DEG = 3.5
"""Of a measured tulip axis, each way: its median error is 4.1 degrees (docs/results.md)."""
PLAY_DEG = 25.0
"""How far the tulip of a polyaxial screw may lean from its shank."""
_LEAST_SHARE = 0.5  # of the drawn poses that must agree before a grade is told
_FARTHEST_M = 0.030  # a head farther from the planned axis is another screw's
_STEEPEST_DEG = 60.0  # so is an axis farther from the planned one


@dataclass(frozen=True)
class Known:
    """How well a placed screw is known: head95_mm, pose95_mm: 95 % bounds of its head and of its
    vertebra; axis_sigma_deg: of the measured axis; play_deg: how far the measured axis may be
    off the shank's by its joint (0: one piece)."""

    head95_mm: float
    pose95_mm: float
    axis_sigma_deg: float = AXIS_SIGMA_DEG
    play_deg: float = PLAY_DEG


@dataclass(frozen=True)
class ScrewCheck:
    """A placed screw beside its plan, both in the mesh's frame, metres.

    entry_mm: how far its axis passes the planned entry point; tip_mm: its tip from the planned
    target; angle_deg: between both axes. *95: 95 % of the poses that the predicted error allows
    lie within this of the number. entry_m (3,), into (3,): its axis, level with the planned entry.
    shaft: its margin and grade, or why none is told.
    """

    level: str
    side: str
    entry_mm: float
    tip_mm: float
    angle_deg: float
    entry95_mm: float
    tip95_mm: float
    angle95_deg: float
    entry_m: np.ndarray
    into: np.ndarray
    shaft: Shaft | Rejected

    @property
    def grade(self) -> str:
        """Gertzbein-Robbins A to E, or "" where none is told."""
        return "" if isinstance(self.shaft, Rejected) else self.shaft.grade

    def words(self) -> str:
        """Entry, angle and grade, as they are read in a row; "–" where no grade is told."""
        where = f"{self.entry_mm:.1f} ± {self.entry95_mm:.1f} mm"
        return f"{where}  {self.angle_deg:.0f} ± {self.angle95_deg:.0f}°  {self.grade or '–'}"


def grade_words(found: Shaft | Rejected) -> str:
    """A grade with what speaks against it."""
    if isinstance(found, Rejected):
        return f"grade not told: {found.reason}"
    share = 100.0 * float(found.draws.shares[GRADES.index(found.grade)])
    breach = 100.0 * found.draws.p_breach
    return f"grade {found.grade} ({share:.0f} % of poses), breach in {breach:.0f} %"


def check_screw(
    margins: Margins,
    plan: ScrewPlan,
    head_m: np.ndarray,
    axis_out: np.ndarray,
    known: Known,
) -> ScrewCheck | Rejected:
    """One screw against its plan.

    Args:
        head_m, axis_out: (3,) saddle point and axis out of the bone, in the mesh's frame.

    Rejected: the screw is none of this plan's, numbers are missing, or the mesh has no place there.
    """
    numbers = (*head_m, *axis_out, known.head95_mm, known.pose95_mm)
    if not np.isfinite(numbers).all() or not np.linalg.norm(axis_out) > 0.0:
        return Rejected("screw, or its predicted error, is not known")
    cortex = margins.cortices.get(plan.level)
    if cortex is None:
        return Rejected(f"no surface of {plan.level}")
    way = plan.target_m - plan.entry_m
    length = float(np.linalg.norm(way))
    way = way / length
    into = -np.asarray(axis_out, float) / np.linalg.norm(axis_out)
    head = np.asarray(head_m, float)
    beside = head - plan.entry_m
    aside_m = float(np.linalg.norm(beside - (beside @ way) * way))
    if aside_m > _FARTHEST_M:
        return Rejected(f"its head lies {1e3 * aside_m:.0f} mm beside the planned axis")
    angle = _angle_deg(into, way)
    if angle > _STEEPEST_DEG:
        return Rejected(f"its axis stands {angle:.0f}° from the planned one")
    heads, ways = _drawn(head, into, known)
    entry, entries = _level_with(plan.entry_m, head, into), _level_with(plan.entry_m, heads, ways)
    tip, tips = entry + length * into, entries + length * ways
    found: Shaft | Rejected
    if known.play_deg > 0.0:
        found = Rejected(
            f"a tulip that may lean {known.play_deg:.0f}° does not tell the shank's direction"
        )
    else:
        found = _settled(shaft(cortex, plan, entry, into, (entries, ways), margins.diameter_mm))
    return ScrewCheck(
        plan.level,
        plan.side,
        1e3 * float(np.linalg.norm(entry - plan.entry_m)),
        1e3 * float(np.linalg.norm(tip - plan.target_m)),
        angle,
        _within(1e3 * np.linalg.norm(entries - entry, axis=1)),
        _within(1e3 * np.linalg.norm(tips - tip, axis=1)),
        _within(np.degrees(np.arccos(np.clip(ways @ into, -1.0, 1.0)))),
        entry,
        into,
        found,
    )


def check_row(
    row: ScrewRow,
    margins: Margins,
    plans: Mapping[tuple[str, str], ScrewPlan],
    levels: Mapping[str, LevelEstimate],
    pose_stamp_ns: int,
    T_camera_stereo: np.ndarray | Rejected,
    play_deg: float = PLAY_DEG,
) -> ScrewCheck | Rejected:
    """A screw of the stereo camera against its plan, or why it cannot be compared.

    Args:
        row: in the stereo camera's left optical frame. plans: of the case, by level and side.
        levels: estimates by level in the RGB-D camera's frame, of pose_stamp_ns, in the same clock
            as the screw's. T_camera_stereo: (4, 4), or why it is not known.
    """
    seen = _in_bone(row, plans, levels, pose_stamp_ns, T_camera_stereo, play_deg)
    return seen if isinstance(seen, Rejected) else check_screw(margins, *seen)


def _in_bone(
    row: ScrewRow,
    plans: Mapping[tuple[str, str], ScrewPlan],
    levels: Mapping[str, LevelEstimate],
    pose_stamp_ns: int,
    T_camera_stereo: np.ndarray | Rejected,
    play_deg: float,
) -> tuple[ScrewPlan, np.ndarray, np.ndarray, Known] | Rejected:
    """The screw's plan, its head and axis in the mesh's frame, and how well they are known."""
    if not row.level or not row.side:
        return Rejected("no level and side tell which screw this is")
    plan = plans.get((row.level, row.side))
    if plan is None:
        return Rejected(f"no screw is planned for {row.level} {row.side}")
    estimate = levels.get(row.level)
    if estimate is None or estimate.status is not Status.TRACKED or estimate.T_camera_ct is None:
        return Rejected(f"{row.level} is not tracked")
    if abs(row.stamp_ns - pose_stamp_ns) > TOGETHER_NS:
        return Rejected("pose and screw are of different moments")
    if isinstance(T_camera_stereo, Rejected):
        return T_camera_stereo
    if estimate.predicted_tre_mm is None:
        return Rejected(f"the predicted error of {row.level} is not known")
    T_ct_stereo = invert(estimate.T_camera_ct) @ T_camera_stereo
    head = transform_points(T_ct_stereo, np.asarray(row.head_m, float))
    axis = T_ct_stereo[:3, :3] @ np.asarray(row.axis, float)
    return plan, head, axis, Known(row.bound95_mm, estimate.predicted_tre_mm, play_deg=play_deg)


def comparable(
    row: ScrewRow,
    plans: Mapping[tuple[str, str], ScrewPlan],
    levels: Mapping[str, LevelEstimate],
    pose_stamp_ns: int,
    T_camera_stereo: np.ndarray | Rejected,
) -> Rejected | None:
    """Why `check_row` would not compare a screw; costs nothing."""
    seen = _in_bone(row, plans, levels, pose_stamp_ns, T_camera_stereo, PLAY_DEG)
    return seen if isinstance(seen, Rejected) else None


class ScrewChecks:
    """Comparisons of the screws of a case; what can be compared is compared anew when its last
    comparison is AGAIN_NS old, since it costs milliseconds. What cannot be says so at once."""

    AGAIN_NS = 500_000_000

    def __init__(
        self, case: Case, play_deg: float = PLAY_DEG, diameter_mm: float = DIAMETER_MM
    ) -> None:
        self.case, self._play_deg = case, play_deg
        self._plans = {(p.level, p.side): p for p in case.plan}
        self._margins = Margins(case, diameter_mm)
        self.ready = False
        self._known: dict[tuple[str, str], tuple[int, ScrewCheck | Rejected]] = {}

    def prepare(self) -> None:
        """Compute what takes seconds, in another thread than who checks; `ready` then."""
        self._margins.prepare()
        self.ready = True

    def margins(
        self, levels: Mapping[str, LevelEstimate], anew: int
    ) -> dict[tuple[str, str], Shaft]:
        """Of every planned screw of these levels under their predicted errors, as far as they are
        known or among the `anew` that may be computed."""
        if not self.ready:
            return {}
        self._margins.allow(anew)
        found = {
            (level, side): self._margins.planned(level, side, levels[level].predicted_tre_mm)
            for level, side in self._plans
            if level in levels
        }
        self._margins.allow(None)
        return {key: value for key, value in found.items() if isinstance(value, Shaft)}

    def check(
        self,
        row: ScrewRow,
        levels: Mapping[str, LevelEstimate],
        pose_stamp_ns: int,
        T_camera_stereo: np.ndarray | Rejected,
    ) -> ScrewCheck | Rejected:
        """See check_row."""
        seen = _in_bone(row, self._plans, levels, pose_stamp_ns, T_camera_stereo, self._play_deg)
        if isinstance(seen, Rejected):
            return seen
        key = (row.level, row.side)
        at_ns, found = self._known.get(key, (-1, None))
        if found is None or not 0 <= row.stamp_ns - at_ns < self.AGAIN_NS:
            found = check_screw(self._margins, *seen)
            self._known[key] = row.stamp_ns, found
        return found


def _settled(found: Shaft | Rejected) -> Shaft | Rejected:
    """A grade that half of the drawn poses do not have is not told."""
    if isinstance(found, Rejected):
        return found
    shares = found.draws.shares
    if shares[GRADES.index(found.grade)] >= _LEAST_SHARE:
        return found
    seen = ", ".join(
        f"{g} {100.0 * s:.0f} %" for g, s in zip(GRADES, shares, strict=True) if s >= 0.005
    )
    return Rejected(f"the screw is not known well enough ({seen})")


def _drawn(head: np.ndarray, into: np.ndarray, known: Known) -> tuple[np.ndarray, np.ndarray]:
    """Heads (D, 3) and axes (D, 3) that the predicted error allows; the joint's play is a cone."""
    z = normal_draws()
    heads = head + 1e-3 / SIGMAS_3D_95 * (known.head95_mm * z[:, :3] + known.pose95_mm * z[:, 3:6])
    first = np.cross(np.eye(3)[int(np.abs(into).argmin())], into)
    across = np.array(
        [first / np.linalg.norm(first), np.cross(into, first / np.linalg.norm(first))]
    )
    lean = np.tan(np.radians(known.axis_sigma_deg)) * z[:, 6:8]
    turns = np.random.default_rng(0).uniform(size=(len(z), 2))
    cone = np.tan(np.arccos(1.0 - turns[:, 0] * (1.0 - np.cos(np.radians(known.play_deg)))))
    lean += cone[:, None] * np.stack(
        [np.cos(2.0 * np.pi * turns[:, 1]), np.sin(2.0 * np.pi * turns[:, 1])], axis=1
    )
    ways = into + lean @ across
    return heads, ways / np.linalg.norm(ways, axis=1, keepdims=True)


def _level_with(point: np.ndarray, on_axis: np.ndarray, way: np.ndarray) -> np.ndarray:
    """The place on axes (..., 3) that is nearest to a point (3,)."""
    return on_axis + ((point - on_axis) * way).sum(axis=-1, keepdims=True) * way


def _angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))


def _within(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.95))
