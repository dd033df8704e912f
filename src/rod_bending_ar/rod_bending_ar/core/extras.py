# SPDX-License-Identifier: Apache-2.0
"""What stands on the picture beside vertebrae and plan: placed screws, rods, the next bend, a tool.

Everything but a bend is known in the frame of a vertebra, at the moment of its own picture, and moves
with that vertebra: cameras are held by hand. `usable` decides what may be drawn with a result, and
says why the rest may not; nothing is drawn that did not pass it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from spine_nav_common.core.geometry import invert, transform_points
from spine_nav_common.core.implant_outputs import ScrewRow
from spine_nav_common.core.types import (
    LevelEstimate,
    NavigationResult,
    Rejected,
    ScrewPlan,
    Status,
)

from .cortex import Margins
from .error_shape import direction95_deg, pose_turn, usable_covariance
from .forward import BendStep
from .screw_check import PLAY_DEG, ScrewCheck, check_row

SAME_NS = 40_000_000
"""Pose and picture this near are of one moment: a hand moves 0.8 mm in 10 ms."""
_KEPT = 64


@dataclass(frozen=True)
class Limits:
    """Older or worse known than this is not drawn. Ages are against the picture's stamp."""

    screw_age_ms: float = 1000.0
    rod_age_ms: float = 1000.0
    bend_age_ms: float = 3000.0
    tool_age_ms: float = 150.0
    head95_mm: float = 5.0
    tool95_mm: float = 2.5


@dataclass(frozen=True)
class PlacedScrew:
    """A head in its vertebra's mesh frame: head_m, out (3,) axis out of the bone."""

    level: str
    side: str
    head_m: np.ndarray
    out: np.ndarray
    bound95_mm: float
    stamp_ns: int
    check: ScrewCheck | Rejected


@dataclass(frozen=True)
class ShownRod:
    """A rod's axis (N, 3) in the mesh frame of the vertebra that carries it; planned: as it shall
    lie, else as it was seen."""

    level: str
    curve_m: np.ndarray
    planned: bool
    stamp_ns: int


@dataclass(frozen=True)
class NextBend:
    """What the rod guidance says of one side; step: the bend that comes next, of `steps`."""

    side: str
    state: str
    text: str
    step: BendStep | None
    steps: int
    stamp_ns: int


@dataclass(frozen=True)
class ToolAxis:
    """A tracked tool or drill guide in a vertebra's mesh frame: tip_m (3,), out (3,) from the tip
    to the handle; bound95_mm: of the tip, pose95_mm: of the vertebra that it is told against,
    turn95_deg: of the angle between both."""

    level: str
    tip_m: np.ndarray
    out: np.ndarray
    bound95_mm: float
    stamp_ns: int
    pose95_mm: float
    turn95_deg: float


@dataclass(frozen=True)
class Extras:
    """Everything that is known beside a result. notes: what is missing, in words."""

    margins: Margins | None = None
    screws: tuple[PlacedScrew, ...] = ()
    rods: tuple[ShownRod, ...] = ()
    bends: tuple[NextBend, ...] = ()
    tool: ToolAxis | None = None
    notes: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


def usable(extras: Extras, result: NavigationResult) -> Extras:
    """What of `extras` may be drawn with a result; the reasons of the rest are in its notes."""
    held = {e.level: e for e in result.levels}
    limits, notes = extras.limits, dict.fromkeys(extras.notes)

    def passes(what: str, level: str, stamp_ns: int, most_ms: float) -> bool:
        estimate = held.get(level)
        age_ms = abs(result.stamp_ns - stamp_ns) * 1e-6
        if level and (
            estimate is None
            or estimate.status is not Status.TRACKED
            or estimate.T_camera_ct is None
        ):
            notes[f"{what}: {level} is not tracked"] = None
        elif age_ms > most_ms:
            notes[f"{what}: seen {age_ms:.0f} ms before"] = None
        else:
            return True
        return False

    screws = []
    for s in extras.screws:
        if not s.bound95_mm <= limits.head95_mm:
            notes[f"screw {s.level} {s.side}: known within {s.bound95_mm:.1f} mm only"] = None
        elif passes(f"screw {s.level} {s.side}", s.level, s.stamp_ns, limits.screw_age_ms):
            screws.append(s)
    rods = [r for r in extras.rods if passes("rod", r.level, r.stamp_ns, limits.rod_age_ms)]
    bends = [b for b in extras.bends if passes(f"{b.side} rod", "", b.stamp_ns, limits.bend_age_ms)]
    tool = extras.tool
    if tool is not None:
        if not tool.bound95_mm <= limits.tool95_mm:
            notes[f"tool: known within {tool.bound95_mm:.1f} mm only"] = None
            tool = None
        elif not passes("tool", tool.level, tool.stamp_ns, limits.tool_age_ms):
            tool = None
    return Extras(
        extras.margins, tuple(screws), tuple(rods), tuple(bends), tool, tuple(notes), limits
    )


class Moments:
    """The last results by stamp. Not thread-safe."""

    def __init__(self) -> None:
        self._kept: deque[NavigationResult] = deque(maxlen=_KEPT)

    def note(self, result: NavigationResult) -> None:
        """Keep a result; one of another clock throws out what was kept."""
        if self._kept and result.stamp_ns < self._kept[-1].stamp_ns:
            self._kept.clear()
        self._kept.append(result)

    def clear(self) -> None:
        self._kept.clear()

    def at(self, stamp_ns: int) -> NavigationResult | Rejected:
        """The result of that moment."""
        nearest = min(self._kept, key=lambda r: abs(r.stamp_ns - stamp_ns), default=None)
        if nearest is None or abs(nearest.stamp_ns - stamp_ns) > SAME_NS:
            return Rejected("no pose of the same moment")
        return nearest


def tracked(result: NavigationResult) -> dict[str, LevelEstimate]:
    """The levels that may carry guidance."""
    return {
        e.level: e
        for e in result.levels
        if e.status is Status.TRACKED and e.T_camera_ct is not None
    }


def place_screws(
    rows: Sequence[ScrewRow],
    moment: NavigationResult | Rejected,
    T_camera_stereo: np.ndarray | Rejected,
    plans: Mapping[tuple[str, str], ScrewPlan],
    margins: Margins | None,
    play_deg: float = PLAY_DEG,
) -> tuple[tuple[PlacedScrew, ...], tuple[str, ...]]:
    """Screws of one stereo pair in their vertebrae, and why the others are not; without margins
    none is compared with its plan."""
    if not rows:
        return (), ()
    for lacking in (moment, T_camera_stereo):
        if isinstance(lacking, Rejected):
            return (), (f"screws: {lacking.reason}",)
    assert isinstance(moment, NavigationResult) and isinstance(T_camera_stereo, np.ndarray)
    levels, placed, notes = tracked(moment), [], []
    for row in rows:
        if row.level not in levels or not row.side:
            why = f"{row.level} is not tracked" if row.level else "no level and side are known"
            notes.append(f"head {row.track_id}: {why}")
            continue
        T_ct_camera = invert(levels[row.level].T_camera_ct)  # type: ignore[arg-type]
        T = T_ct_camera @ T_camera_stereo
        check: ScrewCheck | Rejected = Rejected("not compared")
        if margins is not None:
            check = check_row(
                row, margins, plans, levels, moment.stamp_ns, T_camera_stereo, play_deg
            )
        head = transform_points(T, np.asarray(row.head_m, float))
        out = T[:3, :3] @ np.asarray(row.axis, float)
        placed.append(
            PlacedScrew(row.level, row.side, head, out, row.bound95_mm, row.stamp_ns, check)
        )
    return tuple(placed), tuple(notes)


def place_curve(
    curve_stereo_m: np.ndarray,
    planned: bool,
    stamp_ns: int,
    moment: NavigationResult | Rejected,
    T_camera_stereo: np.ndarray | Rejected,
    centres_m: Mapping[str, np.ndarray],
) -> ShownRod | Rejected:
    """A rod (N, 3) of the stereo camera in the vertebra nearest to its middle; centres_m (3,): of
    the vertebrae, in the mesh's frame."""
    for lacking in (moment, T_camera_stereo):
        if isinstance(lacking, Rejected):
            return lacking
    assert isinstance(moment, NavigationResult) and isinstance(T_camera_stereo, np.ndarray)
    levels = {v: e for v, e in tracked(moment).items() if v in centres_m}
    if not levels:
        return Rejected("no level is tracked")
    curve = transform_points(T_camera_stereo, np.asarray(curve_stereo_m, float))
    middle = curve[len(curve) // 2]

    def away(level: str) -> float:
        at = transform_points(levels[level].T_camera_ct, centres_m[level])  # type: ignore[arg-type]
        return float(np.linalg.norm(at - middle))

    nearest = min(levels, key=away)
    T_ct_camera = invert(levels[nearest].T_camera_ct)  # type: ignore[arg-type]
    return ShownRod(nearest, transform_points(T_ct_camera, curve), planned, stamp_ns)


_TOOL_NEAR_M = 0.015  # neighbouring vertebrae lie 25 to 40 mm apart


def place_tool(
    T_camera_tool: np.ndarray,
    bound95_mm: float,
    turn_rad2: np.ndarray,
    stamp_ns: int,
    moment: NavigationResult | Rejected,
    plans: Sequence[ScrewPlan],
) -> ToolAxis | Rejected:
    """A tool whose origin is its tip and whose z axis runs to its handle, in the vertebra whose
    planned entry is nearest to the tip. turn_rad2 (3, 3): covariance of its turn about the camera's
    axes. One that is farther from that plan's axis than half a vertebra is
    refused: its own level may be the one that is not tracked."""
    if isinstance(moment, Rejected):
        return moment
    if not (np.isfinite(bound95_mm) and bound95_mm > 0.0):
        return Rejected("its pose states no uncertainty")
    turn = usable_covariance(turn_rad2)
    if turn is None:
        return Rejected("its pose states no uncertainty of its direction")
    levels = tracked(moment)
    tip, out = T_camera_tool[:3, 3], T_camera_tool[:3, 2]
    best: tuple[float, float, ToolAxis] | None = None
    for plan in plans:
        estimate = levels.get(plan.level)
        if estimate is None or estimate.T_camera_ct is None or estimate.predicted_tre_mm is None:
            continue
        T = invert(estimate.T_camera_ct)
        at = transform_points(T, tip)
        away = float(np.linalg.norm(at - plan.entry_m))
        if best is None or away < best[0]:
            line = estimate.T_camera_ct[:3, :3] @ (plan.target_m - plan.entry_m)
            length = float(np.linalg.norm(line))
            own = line / length, pose_turn(estimate, length)
            axis = ToolAxis(
                plan.level, at, T[:3, :3] @ out, bound95_mm, stamp_ns, estimate.predicted_tre_mm,
                direction95_deg((out, turn), own),
            )  # fmt: skip
            best = away, _beside_m(plan, at), axis
    if best is None:
        return Rejected("no level with a plan is tracked")
    _, beside_m, axis = best
    if beside_m > _TOOL_NEAR_M:
        return Rejected(
            f"no tracked plan is near it: the next, of {axis.level}, is {1e3 * beside_m:.0f} mm away"
        )
    return axis


def _beside_m(plan: ScrewPlan, point_m: np.ndarray) -> float:
    """How far a point lies from a planned axis."""
    way = (plan.target_m - plan.entry_m) / np.linalg.norm(plan.target_m - plan.entry_m)
    return float(np.linalg.norm(np.cross(point_m - plan.entry_m, way)))


@dataclass(frozen=True)
class ToolDeviation:
    """A tool against the planned trajectory that it is nearest to: axis past the entry, tip from
    the planned axis, angle, and how deep the tip is behind the entry (negative: before it). entry95_mm,
    angle95_deg: 95 % of what the numbers may err, tool and vertebra together."""

    plan: ScrewPlan
    entry_mm: float
    tip_mm: float
    angle_deg: float
    depth_mm: float
    entry95_mm: float
    angle95_deg: float

    def words(self) -> str:
        """Entry and angle, as they are read in a row."""
        where = f"{self.entry_mm:.1f} ± {self.entry95_mm:.1f} mm"
        return f"{where}, {self.angle_deg:.1f} ± {self.angle95_deg:.1f}°"


def tool_deviation(tool: ToolAxis, plans: Sequence[ScrewPlan]) -> ToolDeviation | None:
    """Against the plan of its level whose entry is nearest to its tip; None: there is none."""
    own = [p for p in plans if p.level == tool.level]
    if not own:
        return None
    plan = min(own, key=lambda p: float(np.linalg.norm(p.entry_m - tool.tip_m)))
    way = (plan.target_m - plan.entry_m) / np.linalg.norm(plan.target_m - plan.entry_m)
    into = -tool.out / np.linalg.norm(tool.out)
    past = plan.entry_m - tool.tip_m
    ahead = float(past @ into)
    past = past - ahead * into
    # what its direction errs moves the axis where the entry is, far from the tip
    swing_mm = 1e3 * abs(ahead) * float(np.tan(np.radians(min(tool.turn95_deg, 80.0))))
    tip = tool.tip_m - plan.entry_m
    depth = float(tip @ way)
    turn = float(np.arctan2(np.linalg.norm(np.cross(into, way)), into @ way))
    return ToolDeviation(
        plan, 1e3 * float(np.linalg.norm(past)), 1e3 * float(np.linalg.norm(tip - depth * way)),
        float(np.degrees(turn)), 1e3 * depth,
        float(np.linalg.norm([tool.bound95_mm, tool.pose95_mm, swing_mm])), tool.turn95_deg,
    )  # fmt: skip
