# SPDX-License-Identifier: Apache-2.0
"""From the saddles of one side to the rod and the fewest bends that lay it into them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import chndtrix

from spine_nav_common.core.errors import RodError
from spine_nav_common.core.screw_rows import SaddleRow
from spine_nav_common.core.statistics import SIGMAS_3D_95

from .complete import check_complete
from .curve import RodCurve, energy_matrix, ideal_curve
from .forward import BendStep, Seating, arc_positions_mm, replay_steps, seat
from .lordosis import bend_to_lordosis
from .material import MATERIALS, Bender, Material, bend_set_deg, min_radius_mm, stiffness_n_mm2
from .polygon import Polygon, Polygons

# Design choices, docs/rod_bending.md.
POLYAXIAL_DEG = 25.0
MAX_MOVED_MM = 15.0
UNSURE_MM = 3.0  # a head known worse than this (95 %) is worth a second look


@dataclass(frozen=True)
class RodOrder:
    """What the surgeon asks for. length_mm: of the rod at hand (None: as short as it may be);
    overhang_mm: beyond either outer saddle; lordosis_deg: angle between the rod's ends in the
    sagittal plane, concave to posterior is positive (None: as the screws lie);
    gap_limit_mm: largest gap allowed after bending; plan_gap_mm: largest gap of the plan itself,
    the rest is kept for the hand's error; most_gap95_mm: largest gap that the heads' own
    uncertainty may leave (95 %), the limit at which any pose of this program counts as a failure;
    saddle_tolerance_mm: of the ideal curve; planned, without, as_they_stand: see check_complete."""

    material: str = "Ti6Al4V"
    diameter_mm: float = 5.5
    length_mm: float | None = None
    overhang_mm: float = 10.0
    lordosis_deg: float | None = None
    gap_limit_mm: float = 1.0
    plan_gap_mm: float = 0.3
    most_gap95_mm: float = 4.0
    saddle_tolerance_mm: float = 0.5
    bender: Bender = field(default_factory=Bender)
    planned: tuple[tuple[str, str], ...] = ()
    without: tuple[str, ...] = ()
    as_they_stand: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class RodPlan:
    """A rod and its bends. saddles_mm (N, 3): where the rod shall lie, caudal first, camera frame
    (moved if a lordosis was asked for); centreline_mm (M, 3): the bent rod laid into them;
    force_n (N,): spring force on each screw of a rod that keeps the planned gaps;
    warnings: what the surgeon should check; gaps95_mm (N,): 95 % bound of each gap, the heads' own
    uncertainty included (empty where it is not known)."""

    side: str
    order: RodOrder
    length_mm: float
    steps: tuple[BendStep, ...]
    saddles_mm: np.ndarray
    names: tuple[str, ...]
    curve: RodCurve
    centreline_mm: np.ndarray
    seating: Seating
    min_radius_mm: float
    force_n: np.ndarray
    warnings: tuple[str, ...]
    gaps95_mm: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def predicted_gap_mm(self) -> float:
        """Largest gap to expect: what the bends leave and, where known, what the heads' own
        uncertainty may add (95 %)."""
        return float(max(self.seating.max_mm, self.gaps95_mm.max(initial=0.0)))

    def gap_words(self) -> str:
        """The largest gap for a surgeon: never the bends' alone where the heads' is known."""
        measured = f"largest gap {self.seating.max_mm:.2f} mm as measured"
        if not len(self.gaps95_mm):
            return measured
        return f"{measured}, up to {self.predicted_gap_mm:.1f} mm as well as the heads are known (95 %)"

    def to_dict(self) -> dict[str, Any]:
        """bend_plan_<side>.json."""
        return {
            "version": 1,
            "side": self.side,
            "rod": {
                "diameter_mm": self.order.diameter_mm,
                "length_mm": self.length_mm,
                "material": self.order.material,
            },
            "steps": [
                {
                    "n": s.n,
                    "feed_mm": round(s.feed_mm, 1),
                    "rotate_deg": round(s.rotate_deg, 1),
                    "bend_deg": round(s.bend_deg, 1),
                    "bend_set_deg": round(s.bend_set_deg, 1),
                }
                for s in self.steps
            ],
            "predicted_gap_mm": {
                "max": round(self.seating.max_mm, 3),
                "rms": round(self.seating.rms_mm, 3),
                **({"bound95": round(self.predicted_gap_mm, 3)} if len(self.gaps95_mm) else {}),
            },
            "min_radius_mm": round(self.min_radius_mm, 1),
        }


def plan_rod(row: SaddleRow, order: RodOrder | None = None) -> RodPlan:
    """The rod for a SaddleRow: ideal curve, length, fewest bends, and the gaps that they leave.

    The steps are rounded as the file shows them (0.1 mm, 0.1 degree) before they are replayed.

    Raises RodError: a head that is only held or too little known, a screw that is missing from the
    row, unknown material, impossible diameter or die, rod shorter than the span, curve
    below the least radius, tulip out of its polyaxial range, no bends that reach the saddles.
    """
    order = order or RodOrder()
    material = _material(order, row.source)
    _check_order(order, row.source)
    saddles = _checked_saddles(row)
    _check_seen(row)
    check_complete(row, order.planned, order.without, order.as_they_stand)
    # a lordosis turns tulip and rod alike: their angle is judged as the screws lie now
    warnings = _check_tulips(row, ideal_curve(saddles, order.saddle_tolerance_mm))
    if order.lordosis_deg is not None:
        saddles = _with_lordosis(row, saddles, order, order.lordosis_deg)
    curve = _possible_curve(row, saddles, order, material)
    needed = curve.length_mm + 2.0 * order.overhang_mm
    if order.length_mm is not None and order.length_mm < needed:
        raise RodError(
            row.source,
            "rod length",
            f"{order.length_mm:.0f} mm is shorter than the {needed:.0f} mm that side {row.side}"
            f" needs (span {curve.length_mm:.0f} mm and {order.overhang_mm:.0f} mm at either end)",
            f"take a rod of {math.ceil(needed)} mm or more",
        )
    length, steps, seating, centreline = _fewest_bends(row, saddles, order, material)
    gaps95 = _gaps95_mm(row, seating, order)
    warnings += tuple(
        f"{name} is known within {bound:.1f} mm only: show it better to both cameras"
        for name, bound in zip(row.names, row.bounds_mm)
        if bound > UNSURE_MM
    )
    if seating.max_mm > order.plan_gap_mm:
        warnings += (
            f"the plan itself leaves {seating.max_mm:.1f} mm: little is left for the hand's error",
        )
    return RodPlan(
        row.side,
        order,
        length,
        steps,
        saddles,
        row.names,
        curve,
        centreline,
        seating,
        order.bender.die_radius_mm if steps else min_radius_mm(material, order.diameter_mm),
        _forces_n(saddles, seating, stiffness_n_mm2(material, order.diameter_mm)),
        warnings,
        gaps95,
    )


def _check_seen(row: SaddleRow) -> None:
    held = [name for name, seen in zip(row.names, row.seen) if not seen]
    if held:
        raise RodError(
            row.source,
            f"side {row.side}",
            f"{', '.join(held)} {'is' if len(held) == 1 else 'are'} held, not seen in this frame",
            "show all heads of the side to both cameras at once",
        )


def _gaps95_mm(row: SaddleRow, seating: Seating, order: RodOrder) -> np.ndarray:
    """95 % bound of every gap (N,): the bends' own, and heads that lie elsewhere than measured.

    Only the error across the rod opens a gap. Errors are taken as isotropic, and as each head's
    own; what all heads share moves the rod with them.

    Raises RodError where one is larger than the order allows.
    """
    if not row.bounds_mm:
        return np.empty(0)
    gaps = np.linalg.norm(seating.gap_vectors_mm, axis=1)
    sigma = np.maximum(np.asarray(row.bounds_mm, np.float64) / SIGMAS_3D_95, 1e-3)
    ratio = np.minimum(gaps / sigma, 30.0)  # beyond it the head's share no longer counts
    bounds = np.maximum(gaps, sigma * np.sqrt(chndtrix(0.95, 2.0, ratio**2)))
    worst = int(bounds.argmax())
    if not bounds[worst] <= order.most_gap95_mm:
        raise RodError(
            row.source,
            f"side {row.side}",
            f"the rod may miss {row.names[worst]} by {bounds[worst]:.1f} mm: it is known within"
            f" {row.bounds_mm[worst]:.1f} mm only",
            "show it better to both cameras",
        )
    return np.asarray(bounds)


def _material(order: RodOrder, source: str) -> Material:
    if order.material not in MATERIALS:
        raise RodError(
            source, "material", f"{order.material!r} is unknown", f"one of {', '.join(MATERIALS)}"
        )
    if not 3.0 <= order.diameter_mm <= 7.0:
        raise RodError(
            source, "diameter", f"{order.diameter_mm} mm is no spinal rod", "give 3 to 7 mm"
        )
    material = MATERIALS[order.material]
    least = min_radius_mm(material, order.diameter_mm)
    if order.bender.die_radius_mm < least:
        raise RodError(
            source,
            "die radius",
            f"{order.bender.die_radius_mm:.1f} mm is below the {least:.1f} mm that a"
            f" {order.diameter_mm} mm {material.name} rod allows",
            f"use a die of {math.ceil(least)} mm or more, or a thinner rod",
        )
    return material


def _check_order(order: RodOrder, source: str) -> None:
    numbers = {
        "rod length": order.length_mm,
        "lordosis": order.lordosis_deg,
        "overhang": order.overhang_mm,
        "gap limit": order.plan_gap_mm,
    }
    for name, value in numbers.items():
        if value is not None and not math.isfinite(value):
            raise RodError(source, name, f"is {value}", "give a finite number")


def _checked_saddles(row: SaddleRow) -> np.ndarray:
    saddles = np.asarray(row.saddles_mm, dtype=np.float64)
    where = f"side {row.side}"
    if saddles.ndim != 2 or saddles.shape[1:] != (3,) or len(saddles) < 2:
        raise RodError(row.source, where, "fewer than two saddles", "a rod joins two at least")
    if not (np.isfinite(saddles).all() and np.isfinite(row.axes).all()):
        raise RodError(row.source, where, "a number is not finite", "show the heads again")
    if not (np.diff(saddles, axis=0) @ (saddles[-1] - saddles[0]) > 0.0).all():
        raise RodError(
            row.source, where, "its heads are not in order", "sort them from caudal to cranial"
        )
    return saddles


def _possible_curve(
    row: SaddleRow, saddles: np.ndarray, order: RodOrder, material: Material
) -> RodCurve:
    """The ideal curve; where it bends too sharply, the one that uses the whole gap allowed."""
    least = min_radius_mm(material, order.diameter_mm)
    curve = ideal_curve(saddles, order.saddle_tolerance_mm)
    if curve.min_radius_mm < least:
        curve = ideal_curve(saddles, order.gap_limit_mm)
    if curve.min_radius_mm < least:
        raise RodError(
            row.source,
            f"side {row.side}",
            f"the curve needs a radius of {curve.min_radius_mm:.1f} mm near"
            f" {row.names[curve.tightest]}; a {order.diameter_mm} mm {material.name} rod allows"
            f" {least:.1f} mm",
            "check that head, or set its screw deeper or higher, or choose a thinner rod",
        )
    return curve


def _with_lordosis(
    row: SaddleRow, saddles: np.ndarray, order: RodOrder, target_deg: float
) -> np.ndarray:
    moved = bend_to_lordosis(saddles, row.axes, target_deg, order.saddle_tolerance_mm)
    far = float(np.linalg.norm(moved - saddles, axis=1).max())
    if far > MAX_MOVED_MM:
        raise RodError(
            row.source,
            "lordosis",
            f"{target_deg:.0f} degrees would move a screw of side {row.side} by {far:.0f}"
            f" mm; {MAX_MOVED_MM:.0f} mm is the limit",
            "choose a lordosis closer to the present one, or reposition the patient first",
        )
    return moved


def _check_tulips(row: SaddleRow, curve: RodCurve) -> tuple[str, ...]:
    """Tulip axes must be able to stand square to the rod.

    The shank is not seen. A tulip seen at an angle may already be tilted, so between the range and
    twice the range nobody can tell: that is a warning; beyond twice the range it cannot reach.
    """
    off = np.degrees(np.abs(np.arcsin(np.clip((curve.tangents * row.axes).sum(1), -1.0, 1.0))))
    for name, angle in zip(row.names, off, strict=True):
        if angle > 2.0 * POLYAXIAL_DEG:
            raise RodError(
                row.source,
                f"side {row.side}",
                f"the tulip of {name} would have to turn by {angle:.0f} degrees; its range is"
                f" +-{POLYAXIAL_DEG:.0f}",
                "check that head and its axis",
            )
    return tuple(
        f"tulip of {name} must turn by {angle:.0f} degrees: check that it reaches"
        for name, angle in zip(row.names, off, strict=True)
        if angle > POLYAXIAL_DEG
    )


_Bent = tuple[float, tuple[BendStep, ...], Seating, np.ndarray]


def _fewest_bends(
    row: SaddleRow, saddles: np.ndarray, order: RodOrder, material: Material
) -> _Bent:
    chains = Polygons(saddles, order.overhang_mm, order.bender)
    found: _Bent | None = None
    best: _Bent | None = None
    for polygon in chains.fewer():  # until one bend less misses a saddle
        trial = _bent(polygon, saddles, order, material)
        best = _better(best, trial)
        if trial is not None and trial[2].max_mm <= order.plan_gap_mm:
            found = trial
        elif found is not None:
            return found
    if found is not None:
        return found
    for polygon in chains.more():
        trial = _bent(polygon, saddles, order, material)
        best = _better(best, trial)
        if trial is not None and trial[2].max_mm <= order.plan_gap_mm:
            return trial
    if best is not None and best[2].max_mm <= order.gap_limit_mm:
        return best
    reason = (
        f"the best leaves a gap of {best[2].max_mm:.1f} mm"
        if best is not None
        else f"bends over {order.bender.max_bend_deg:.0f} degrees or too close to each other"
    )
    raise RodError(
        row.source,
        f"side {row.side}",
        f"no bends of a {order.bender.die_radius_mm:.0f} mm die reach all saddles: {reason}",
        "check the heads, set a screw deeper or higher, or use a smaller die",
    )


def _better(best: _Bent | None, trial: _Bent | None) -> _Bent | None:
    if trial is None or (best is not None and best[2].max_mm <= trial[2].max_mm):
        return best
    return trial


def _bent(
    polygon: Polygon | None, saddles: np.ndarray, order: RodOrder, material: Material
) -> _Bent | None:
    """Length, rounded steps, seating and centreline in the saddles' frame; None if not bendable."""
    if polygon is None:
        return None
    needed = polygon.length_mm
    length = order.length_mm if order.length_mm is not None else float(math.ceil(needed))
    if order.length_mm is not None and needed > order.length_mm:
        # the bent axis is a little longer than the ideal curve: the overhangs give way
        extra = 0.5 * (order.length_mm - needed)
    else:
        extra = 0.0 if order.length_mm is not None else 0.5 * (length - needed)
    steps = tuple(
        BendStep(
            i + 1,
            round(float(feed) + extra, 1),
            round(float(turn), 1),
            round(float(bend), 1),
            round(bend_set_deg(round(bend, 1), material, order.diameter_mm, order.bender), 1),
        )
        for i, (feed, turn, bend) in enumerate(polygon.bends)
    )
    if not _bendable(steps, length, order.bender):
        return None
    rod = replay_steps(steps, length, order.bender.die_radius_mm)
    seating = seat(rod, saddles, polygon.saddle_arc_mm + extra)
    T = seating.T_saddles_rod
    return length, steps, seating, rod @ T[:3, :3].T + T[:3, 3]


def _bendable(steps: tuple[BendStep, ...], length_mm: float, bender: Bender) -> bool:
    """Whether the bender can take hold: angles, straight rod between bends, ends under rollers."""
    done = 0.0
    for i, step in enumerate(steps):
        half = 0.5 * bender.die_radius_mm * math.radians(step.bend_deg)
        room = bender.straight_mm if i else 0.0
        if step.bend_deg > bender.max_bend_deg or step.feed_mm - half < done + room:
            return False
        if not bender.half_span_mm <= step.feed_mm <= length_mm - bender.half_span_mm:
            return False
        done = step.feed_mm + half
    return done <= length_mm


def _forces_n(saddles: np.ndarray, seating: Seating, stiffness: float) -> np.ndarray:
    """Force on each screw, N (N,): E I K g, the gaps g being pressed out of an elastic rod."""
    knots = arc_positions_mm(saddles)
    return np.linalg.norm(stiffness * energy_matrix(knots) @ seating.gap_vectors_mm, axis=1)
