# SPDX-License-Identifier: Apache-2.0
"""Rods of a session against their plan: of each side the last pair in which the rod was seen in its
screws while a plan held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from scipy.spatial import cKDTree

from rod_bending_ar.core.guidance import SEATED_MM
from rod_bending_ar.core.text import draw_text
from spine_nav_common.core.implant_outputs import RodCurve
from spine_nav_common.core.shown import stamp_ns_of, status_fields
from spine_nav_common.core.shown_implants import implants_from_messages
from spine_nav_common.core.types import Rejected

from .session_reading import Session, read_topics

_MARKERS, _BENDING = "/guidance/bending", "/guidance/bending/status"
_SCREWS, _POSES = "/screws/status", "/screws/poses"
_TARGET = "/target"  # ends the namespace of the marker of a side's target curve
_ADD = 0
_STEP_MM = 0.5


@dataclass(frozen=True)
class RodLast:
    """A rod as it was found, beside its plan, in the left camera's frame at `stamp_ns`, mm.

    plan_mm (M, 3), found_mm (N, 3) cranial end first, seen (N,), sigma_mm (N,) one standard error of
    the centreline; off_mm (N,): of each point from the planned curve, NaN where the rod is not seen
    or reaches beyond the plan's end. words: what the guidance said.
    """

    side: str
    stamp_ns: int
    plan_mm: np.ndarray
    found_mm: np.ndarray
    seen: np.ndarray
    sigma_mm: np.ndarray
    off_mm: np.ndarray
    words: str

    @property
    def mean_mm(self) -> float:
        """Of the distances."""
        return float(np.nanmean(self.off_mm))

    @property
    def most_mm(self) -> float:
        """The largest of the distances."""
        return float(np.nanmax(self.off_mm))


def rods_against_plan(session: Session) -> dict[str, RodLast | Rejected]:
    """By side, where a rod was planned: the comparison, or why there is none."""
    pairs: dict[int, dict[str, Any]] = {}
    planned: set[str] = set()
    best: dict[str, RodLast | Rejected] = {}
    for topic, message in read_topics(session, _MARKERS, _BENDING, _SCREWS, _POSES):
        if topic.endswith(_MARKERS):
            if not message.markers:
                continue
            stamp_ns = stamp_ns_of(message.markers[0].header.stamp)
        else:
            stamp_ns = stamp_ns_of(message.header.stamp)
        of_pair = pairs.setdefault(stamp_ns, {})
        of_pair[next(s for s in (_BENDING, _MARKERS, _SCREWS, _POSES) if topic.endswith(s))] = (
            message
        )
    for stamp_ns in sorted(pairs):
        for side, found in _of_pair(stamp_ns, pairs[stamp_ns]).items():
            planned.add(side)
            if isinstance(found, RodLast) or not isinstance(best.get(side), RodLast):
                best[side] = found
    return {side: best[side] for side in sorted(planned)}


def _of_pair(stamp_ns: int, messages: dict[str, Any]) -> dict[str, RodLast | Rejected]:
    if _MARKERS not in messages or _SCREWS not in messages or _POSES not in messages:
        return {}
    curves = {
        m.ns.removesuffix(_TARGET): 1e3 * np.array([[p.x, p.y, p.z] for p in m.points])
        for m in messages[_MARKERS].markers
        if m.action == _ADD and m.ns.endswith(_TARGET) and len(m.points) > 1
    }
    implants = implants_from_messages(messages[_SCREWS], messages[_POSES])
    said = {}
    if _BENDING in messages:
        said = {f["side"]: f.get("text", "") for f in map(status_fields, messages[_BENDING].status)}
    return {
        side: _compared(side, stamp_ns, plan_mm, implants.rods, said.get(side, ""))
        for side, plan_mm in curves.items()
    }


def _compared(
    side: str, stamp_ns: int, plan_mm: np.ndarray, rods: Sequence[RodCurve], words: str
) -> RodLast | Rejected:
    dense = _resampled(plan_mm, _STEP_MM)
    tree, ends = cKDTree(dense), (0, len(dense) - 1)
    for rod in rods:
        if rod.side not in (side, ""):
            continue
        found = 1e3 * np.asarray(rod.centreline_m, float)
        seen = np.asarray(rod.seen, bool)
        away, at = tree.query(found)
        if away[len(found) // 2] > SEATED_MM:
            continue  # held over the wound
        # A rod is longer or shorter than planned: beyond its end there is nothing to compare with.
        off = np.where(seen & ~np.isin(at, ends), away, np.nan)
        if np.isfinite(off).any():
            sigma = np.asarray(rod.sigma_mm, float)
            return RodLast(side, stamp_ns, plan_mm, found, seen, sigma, off, words)
    return Rejected("no rod was seen in its screws while its plan held")


def _resampled(curve_mm: np.ndarray, step_mm: float) -> np.ndarray:
    arc = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(curve_mm, axis=0), axis=1))]
    places = np.arange(0.0, arc[-1] + step_mm, step_mm)
    return np.stack([np.interp(places, arc, curve_mm[:, k]) for k in range(3)], axis=1)


_SIZE, _EDGE = (900, 250), 40
_PLAN, _FOUND, _DARK, _PALE = (200, 60, 160), (20, 90, 200), (30, 30, 30), (225, 225, 225)


def draw_rod(rod: RodLast) -> np.ndarray:
    """(H, W, 3) uint8 RGB: plan and rod along the spine, as the camera sees them and from the side; a
    grid of 10 mm, one scale."""
    both = np.concatenate([rod.plan_mm, rod.found_mm])
    middle = both.mean(axis=0)
    along = rod.plan_mm[-1] - rod.plan_mm[0]
    along = along / np.linalg.norm(along)
    depth = np.array([0.0, 0.0, 1.0]) - along[2] * along
    depth /= np.linalg.norm(depth)
    beside = np.cross(depth, along)
    length = float(np.ptp((both - middle) @ along))
    zoom = (_SIZE[0] - 2 * _EDGE) / max(length, 1.0)
    panels = []
    for across, name in ((beside, "as the camera sees it"), (depth, "from the side")):
        image = np.full((_SIZE[1], _SIZE[0], 3), 255, np.uint8)

        def px(points: np.ndarray, across: np.ndarray = across) -> np.ndarray:
            p = points - middle
            flat = np.stack([p @ along, p @ across], axis=1) * zoom
            return (flat + (_SIZE[0] / 2, _SIZE[1] / 2)).round().astype(np.int32)

        step = 10.0 * zoom
        for k in range(-40, 41):
            x, y = round(_SIZE[0] / 2 + k * step), round(_SIZE[1] / 2 + k * step)
            cv2.line(image, (x, 0), (x, _SIZE[1]), _PALE, 1)
            cv2.line(image, (0, y), (_SIZE[0], y), _PALE, 1)
        cv2.polylines(image, [px(rod.plan_mm)], False, _PLAN, 3, cv2.LINE_AA)
        for a, b, seen in zip(px(rod.found_mm), px(rod.found_mm)[1:], rod.seen[1:], strict=False):
            if seen:
                cv2.line(image, tuple(map(int, a)), tuple(map(int, b)), _FOUND, 3, cv2.LINE_AA)
        draw_text(image, f"{rod.side} rod, {name}; grid 10 mm", 10, 8, 15, _DARK)
        draw_text(image, "planned", _SIZE[0] - 170, 8, 15, _PLAN, True)
        draw_text(image, "found", _SIZE[0] - 80, 8, 15, _FOUND, True)
        panels.append(image)
    return np.vstack(panels)
