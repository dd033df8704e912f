# SPDX-License-Identifier: Apache-2.0
"""Screw and rod metrics of docs/contracts.md, section 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from .implant_outputs import RodCurve, ScrewRow
from .statistics import percent, spread, statistics
from .truth import Truth, TruthRod, TruthScrew

RIGHT_MM = 5.0
VISIBLE_SHARE = 0.5
_STEP_M = 0.0005  # curves are compared at points half a millimetre apart


@dataclass(frozen=True)
class HeadError:
    """One reported head that lies within 5 mm of a true one.

    depth_mm is along the line of sight (signed, positive = too far), lateral_mm across it;
    range_m is how far the true head stands from the left camera.
    """

    distance_mm: float
    lateral_mm: float
    depth_mm: float
    axis_deg: float
    visible: bool
    level_wrong: bool
    side_wrong: bool
    range_m: float


@dataclass(frozen=True)
class ScrewScore:
    """Screws of one or several scenes.

    visible: true heads that count as visible, over all frames; found: of these, reported right.
    rows: reported heads in frames with truth; heads: those within 5 mm of a true one.
    bounded: rows whose bound95_mm holds the distance to the true head.
    """

    visible: int
    found: int
    rows: int
    heads: tuple[HeadError, ...]
    bounded: int
    rows_without_truth: int

    def to_dict(self) -> dict[str, Any]:
        """The metrics as JSON types."""
        return {
            "visible_heads": self.visible,
            "found": self.found,
            "recall": self.found / self.visible if self.visible else None,
            "rows": self.rows,
            "right": len(self.heads),
            "precision": len(self.heads) / self.rows if self.rows else None,
            "head_mm": statistics(h.distance_mm for h in self.heads),
            "visible_head_mm": statistics(h.distance_mm for h in self.heads if h.visible),
            "lateral_mm": statistics(h.lateral_mm for h in self.heads),
            "depth_mm": statistics(abs(h.depth_mm) for h in self.heads),
            "axis_deg": statistics(h.axis_deg for h in self.heads),
            "coverage95": self.bounded / self.rows if self.rows else None,
            "level_wrong": sum(h.level_wrong for h in self.heads),
            "side_wrong": sum(h.side_wrong for h in self.heads),
            "rows_without_truth": self.rows_without_truth,
        }

    def lines(self) -> list[str]:
        """The metrics as lines of text."""
        d = self.to_dict()
        return [
            (
                f"screws  found {self.found} of {self.visible} visible heads ({percent(d['recall'])}), "
                f"right {len(self.heads)} of {self.rows} rows ({percent(d['precision'])})"
            ),
            (
                f"        head mm mean/med/p95 {spread(d['head_mm'])}, axis deg {spread(d['axis_deg'])},"
                f" cover95 {percent(d['coverage95'])}, level wrong {d['level_wrong']}, "
                f"side wrong {d['side_wrong']}"
            ),
        ]

    @staticmethod
    def pool(scores: Sequence[ScrewScore]) -> ScrewScore:
        """One score over several scenes."""
        return ScrewScore(
            sum(s.visible for s in scores),
            sum(s.found for s in scores),
            sum(s.rows for s in scores),
            tuple(h for s in scores for h in s.heads),
            sum(s.bounded for s in scores),
            sum(s.rows_without_truth for s in scores),
        )


def score_screws(rows: Sequence[ScrewRow], truth: Truth) -> ScrewScore:
    """Match reported to true heads frame by frame, one to one, and at most 5 mm apart."""
    by_stamp: dict[int, list[TruthScrew]] = {stamp: [] for stamp in truth.frames}
    for screw in truth.screws:
        by_stamp.setdefault(screw.stamp_ns, []).append(screw)
    reported: dict[int, list[ScrewRow]] = {}
    for row in rows:
        reported.setdefault(row.stamp_ns, []).append(row)
    visible = found = judged = bounded = 0
    heads: list[HeadError] = []
    for stamp, screws in by_stamp.items():
        best = max((s.visible_px for s in screws), default=0)
        seen = [s.visible_px > VISIBLE_SHARE * best for s in screws]
        own = reported.get(stamp, [])
        visible += sum(seen)
        judged += len(own)
        if not own or not screws:
            continue
        distance_mm = 1e3 * np.linalg.norm(
            np.array([r.head_m for r in own])[:, None] - np.array([s.head_m for s in screws]),
            axis=2,
        )
        # a wrong pair costs more than any number of right ones: first many, then close pairs
        cost = np.where(distance_mm <= RIGHT_MM, distance_mm, 1e6)
        to_head = distance_mm.min(axis=1)
        for i, j in zip(*linear_sum_assignment(cost), strict=True):
            if distance_mm[i, j] <= RIGHT_MM:
                to_head[i] = distance_mm[i, j]
                heads.append(_head_error(own[i], screws[j], seen[j]))
                found += seen[j]
        bounded += int((to_head <= [r.bound95_mm for r in own]).sum())
    unjudged = sum(len(r) for stamp, r in reported.items() if stamp not in by_stamp)
    return ScrewScore(visible, found, judged, tuple(heads), bounded, unjudged)


def _head_error(row: ScrewRow, screw: TruthScrew, visible: bool) -> HeadError:
    error = row.head_m - screw.head_m
    sight = screw.head_m / np.linalg.norm(screw.head_m)
    depth = float(error @ sight)
    cosine = row.axis @ screw.axis / (np.linalg.norm(row.axis) * np.linalg.norm(screw.axis))
    return HeadError(
        distance_mm=1e3 * float(np.linalg.norm(error)),
        lateral_mm=1e3 * float(np.linalg.norm(error - depth * sight)),
        depth_mm=1e3 * depth,
        axis_deg=float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))),
        visible=visible,
        level_wrong=row.level not in ("", screw.level),
        side_wrong=row.side not in ("", screw.side),
        range_m=float(np.linalg.norm(screw.head_m)),
    )


@dataclass(frozen=True)
class RodError:
    """One true rod: side, and the symmetric mean distance of the rod found for it, or None.

    visible_mm, visible_max_mm: symmetric mean and largest distance over the stretch in view (all of
    it where the truth does not tell), None without one; seen_mm: how long that stretch is.
    """

    side: str
    distance_mm: float | None
    side_wrong: bool = False
    visible_mm: float | None = None
    visible_max_mm: float | None = None
    seen_mm: float = 0.0
    covered: float | None = None


@dataclass(frozen=True)
class RodScore:
    """Rods of the last frame: one error per true rod; extra: reported rods that are not there."""

    errors: tuple[RodError, ...]
    extra: int
    without_truth: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The metrics as JSON types."""
        distances = [e.distance_mm for e in self.errors if e.distance_mm is not None]
        return {
            "rods": len(self.errors),
            "found": len(distances),
            "extra": self.extra,
            "without_truth": self.without_truth,
            "side_wrong": sum(e.side_wrong for e in self.errors),
            "distance_mm": statistics(distances),
            "visible_mm": statistics(e.visible_mm for e in self.errors if e.visible_mm is not None),
            "visible_max_mm": statistics(
                e.visible_max_mm for e in self.errors if e.visible_max_mm is not None
            ),
            "each": [asdict(e) for e in self.errors],
        }

    def lines(self) -> list[str]:
        """The metrics as lines of text."""
        d = self.to_dict()
        return [
            (
                f"rods    found {d['found']} of {d['rods']}, extra {d['extra']}, side wrong "
                f"{d['side_wrong']}, distance mm mean/med/p95 {spread(d['distance_mm'])}"
            )
        ]

    @staticmethod
    def pool(scores: Sequence[RodScore]) -> RodScore:
        """One score over several scenes."""
        return RodScore(
            tuple(e for s in scores for e in s.errors),
            sum(s.extra for s in scores),
            sum(s.without_truth for s in scores),
        )


def score_rods(stamp_ns: int | None, rods: Sequence[RodCurve], truth: Truth) -> RodScore:
    """Match the reported rods of one frame to the true ones by distance and compare the curves."""
    if stamp_ns not in truth.frames and not any(r.stamp_ns == stamp_ns for r in truth.rods):
        return RodScore((), 0, without_truth=len(rods))
    true_rods = [r for r in truth.rods if r.stamp_ns == stamp_ns]
    rods = [r for r in rods if len(r.centreline_m) > 1]
    distance_mm = np.empty((len(true_rods), len(rods)))
    saddles = [
        np.array(
            [s.head_m for s in truth.screws if s.stamp_ns == stamp_ns and s.side == true_rod.side]
        ).reshape(-1, 3)
        for true_rod in true_rods
    ]
    for i, true_rod in enumerate(true_rods):
        for j, rod in enumerate(rods):
            distance_mm[i, j] = 1e3 * curve_distance(
                rod.centreline_m, true_rod.centreline_m, saddles[i]
            )
    errors = [
        RodError(r.side, None, seen_mm=_seen_length_mm(r, s))
        for r, s in zip(true_rods, saddles, strict=True)
    ]
    pairs = list(zip(*linear_sum_assignment(distance_mm), strict=True))
    for i, j in pairs:
        true_rod = true_rods[i]
        wrong = rods[j].side not in ("", true_rod.side)
        visible = visible_distance(
            rods[j].centreline_m, true_rod.centreline_m, true_rod.seen, saddles[i]
        )
        mean_mm, most_mm = (None, None) if visible is None else (1e3 * v for v in visible)
        errors[i] = replace(
            errors[i], distance_mm=float(distance_mm[i, j]), side_wrong=wrong,
            visible_mm=mean_mm, visible_max_mm=most_mm, covered=_covered(rods[j], true_rod),
        )  # fmt: skip
    return RodScore(tuple(errors), len(rods) - len(pairs))


def _covered(rod: RodCurve, true_rod: TruthRod) -> float | None:
    """Share of the seen places within 1.96 sigma of the true rod; None where none is seen."""
    seen = np.asarray(rod.seen, bool)
    if not seen.any():
        return None
    off_mm = 1e3 * _nearest_on(rod.centreline_m[seen], true_rod.centreline_m)[0]
    return float(np.mean(off_mm <= 1.96 * rod.sigma_mm[seen]))


def _seen_length_mm(rod: TruthRod, saddles: np.ndarray) -> float:
    curve, seen = _visible(rod.centreline_m, rod.seen, saddles)
    length = np.linalg.norm(np.diff(curve, axis=0), axis=1).sum()
    return 1e3 * float(length * seen.mean())


def _visible(
    true_curve: np.ndarray, seen: np.ndarray | None, saddles: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A true curve between the outermost saddles as even points (N, 3), and which are in view."""
    between = true_curve
    if len(saddles) > 1:
        between = _between(true_curve, _outermost(saddles, true_curve))
    points = _resample(between)
    if seen is None:
        return points, np.ones(len(points), bool)
    nearest = np.linalg.norm(points[:, None] - true_curve, axis=2).argmin(axis=1)
    return points, seen[nearest]


def visible_distance(
    curve: np.ndarray, true_curve: np.ndarray, seen: np.ndarray | None, saddles: np.ndarray
) -> tuple[float, float] | None:
    """Symmetric mean and largest distance of polylines (N, 3), (M, 3) over the stretch in view.

    seen (M,) bool; None: all of it. The stretch lies between the outermost saddles (K, 3), where
    there are two. A point of `curve` counts when the nearest true point is in view. In the unit of
    the input; None when nothing is in view.
    """
    points, in_view = _visible(true_curve, seen, saddles)
    if not in_view.any():
        return None
    there = _nearest_on(points[in_view], curve)[0]
    if len(saddles) > 1:
        curve = _between(curve, _outermost(saddles, true_curve))
    own = _resample(curve)
    apart = np.linalg.norm(own[:, None] - points, axis=2)
    back = _nearest_on(own[in_view[apart.argmin(axis=1)]], true_curve)[0]
    if not len(back):
        return float(there.mean()), float(there.max())
    return float(0.5 * (there.mean() + back.mean())), float(max(there.max(), back.max()))


def curve_distance(curve: np.ndarray, true_curve: np.ndarray, saddles: np.ndarray) -> float:
    """Symmetric mean distance of two polylines (N, 3), (M, 3) between the outermost saddles (K, 3).

    Fewer than two saddles: over the whole curves. Mean of both directed mean distances, in the
    unit of the input.
    """
    if len(saddles) > 1:
        ends = _outermost(saddles, true_curve)
        curve, true_curve = _between(curve, ends), _between(true_curve, ends)
    a, b = _resample(curve), _resample(true_curve)
    there = _nearest_on(a, true_curve)[0].mean()
    back = _nearest_on(b, curve)[0].mean()
    return float(0.5 * (there + back))


def _outermost(saddles: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """(2, 3) the saddles whose nearest points are first and last on the curve."""
    arc = _nearest_on(saddles, curve)[1]
    return saddles[[int(np.argmin(arc)), int(np.argmax(arc))]]


def _nearest_on(points: np.ndarray, curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance (N,) to a polyline and arc position (N,) of the nearest point on it."""
    start, step = curve[:-1], np.diff(curve, axis=0)
    length = np.linalg.norm(step, axis=1)
    start, step, length = start[length > 0], step[length > 0], length[length > 0]
    if not len(length):
        return np.linalg.norm(points - curve[0], axis=1), np.zeros(len(points))
    offset = points[:, None] - start
    t = np.clip(np.einsum("ijk,jk->ij", offset, step) / length**2, 0.0, 1.0)
    d = np.linalg.norm(offset - t[..., None] * step, axis=2)
    best = d.argmin(axis=1)
    rows = np.arange(len(points))
    before = np.concatenate([[0.0], np.cumsum(length)[:-1]])
    return d[rows, best], before[best] + t[rows, best] * length[best]


def _at(curve: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Points (K, 3) of a polyline at arc positions (K,)."""
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    return np.stack([np.interp(positions, arc, curve[:, k]) for k in range(3)], axis=1)


def _between(curve: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The part of a polyline between the points nearest to two ends (2, 3)."""
    low, high = np.sort(_nearest_on(ends, curve)[1])
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    inside = (arc > low) & (arc < high)
    first, last = _at(curve, np.array([low, high]))
    return np.concatenate([first[None], curve[inside], last[None]])


def _resample(curve: np.ndarray) -> np.ndarray:
    """Points of a polyline at even arc positions, so that dense stretches weigh no more."""
    length = float(np.linalg.norm(np.diff(curve, axis=0), axis=1).sum())
    return _at(curve, np.linspace(0.0, length, max(2, int(np.ceil(length / _STEP_M)) + 1)))
