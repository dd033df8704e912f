# SPDX-License-Identifier: Apache-2.0
"""The view along every planned trajectory, from the surgeon into the bone: a tile per screw.

In the middle stands the planned axis, entry and target on each other; around it the screw, the room
that it has to the cortex, the bone where that is least, the 95 % of the predicted error, and where
a placed screw's or a tool's axis passes. Up is the patient's head.
"""

from __future__ import annotations

from collections import OrderedDict

import cv2
import numpy as np

from spine_nav_common.core.case import anatomical_axes
from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.statistics import SIGMAS_3D_95
from spine_nav_common.core.types import (
    Case,
    LevelEstimate,
    NavigationResult,
    Rejected,
    ScrewPlan,
    Status,
)

from .core.annotation import STATUS_COLOUR, banner_height, paint_age, paint_banner
from .core.cortex import Margins, Shaft
from .core.error_shape import CHI_2D_95, error_shapes
from .core.extras import Extras, ToolDeviation, tool_deviation, usable
from .core.marks import PLACED, TOOL, UNKNOWN, band
from .core.paint import TEXT, WHITE, Colour, Ink, note
from .core.text import draw_text, fitted, text_size

TILE_PX = 240
WORDS_PX = 23  # the page shows a tile 170 px wide at 1280x800: 2 % of its height
REACH_M = 0.012  # from the middle to the edge of a tile
RINGS_MM = (2.0, 4.0, 8.0)  # the largest is named
_PAPER: Colour = (24, 28, 34)
_BONE: Colour = (92, 84, 70)
_GRID: Colour = (70, 76, 86)
_CELL_M = 0.4e-3
_SIDES = ("left", "right")

# Sections by case, level and side: they depend on the plan alone.
_sections: OrderedDict[tuple[int, str, str], tuple[Margins, np.ndarray]] = OrderedDict()
_KEPT = 64


def bulls_eyes(
    case: Case,
    result: NavigationResult | None,
    extras: Extras | None = None,
    *,
    why: str = "",
    age_ms: float | None = None,
) -> np.ndarray:
    """A row per planned level, the left screw left and the right screw right.

    result: of this very moment; a level that is not tracked in it has an empty tile with its
    reason. extras: as for the overlay; only what `usable` lets through. why: there is no result. age_ms: of the picture that the poses are of. Returns (H, 2·TILE_PX, 3) uint8 RGB.
    """
    left = usable(extras, result) if extras is not None and result is not None else None
    states = {e.level: e for e in result.levels} if result is not None else {}
    plans = {(p.level, p.side): p for p in case.plan}
    rows = []
    for level in [v for v in case.exposed_levels if any((v, s) in plans for s in _SIDES)]:
        estimate = states.get(level)
        tiles = [
            _tile(plans.get((level, side)), level, side, estimate, left, case, why)
            for side in _SIDES
        ]
        rows.append(np.hstack(tiles))
    height = banner_height(1) + 20
    foot = np.full((height, 2 * TILE_PX, 3), _PAPER, np.uint8)
    paint_banner(foot, 1)
    if age_ms is not None:
        paint_age(foot, age_ms, 1)
    return np.vstack([*rows, foot])


def _tile(
    plan: ScrewPlan | None,
    level: str,
    side: str,
    estimate: LevelEstimate | None,
    extras: Extras | None,
    case: Case,
    note_text: str,
) -> np.ndarray:
    tile = np.full((TILE_PX, TILE_PX, 3), _PAPER, np.uint8)
    tracked = estimate is not None and estimate.status is Status.TRACKED
    colour = STATUS_COLOUR[estimate.status] if estimate is not None else UNKNOWN
    if plan is None or not tracked or estimate is None or estimate.T_camera_ct is None:
        why = "no screw is planned" if plan is None else note_text or "no result"
        if plan is not None and estimate is not None:
            why = estimate.status.value + (f": {estimate.reason}" if estimate.reason else "")
        _lines(tile, why)
    else:
        _Target(tile, plan, case).paint(estimate, extras)
    draw_text(tile, f"{level} {side}", 6, 5, WORDS_PX, colour, True)
    tile[-1:] = tile[:, -1:] = _GRID
    return tile


def _lines(tile: np.ndarray, text: str) -> None:
    """As many as fit; the last one ends with an ellipsis where there are more."""
    room, step = TILE_PX - 16, WORDS_PX + 3
    lines, rest = [""], text.split(" ")
    while rest:
        trial = f"{lines[-1]} {rest[0]}".strip()
        if lines[-1] and text_size(trial, WORDS_PX)[0] > room:
            if step * (len(lines) + 1) > TILE_PX - 50:
                lines[-1] += " …"
                break
            lines.append("")
        else:
            lines[-1], rest = trial, rest[1:]
    for i, line in enumerate(lines):
        draw_text(tile, fitted(line, WORDS_PX, room), 8, 44 + step * i, WORDS_PX, UNKNOWN)


class _Target:
    """One tile: metres across the planned axis to pixels."""

    def __init__(self, tile: np.ndarray, plan: ScrewPlan, case: Case) -> None:
        self._tile, self._plan, self._case, self._ink = tile, plan, case, Ink()
        way = plan.target_m - plan.entry_m
        self._length = float(np.linalg.norm(way))
        self._into = way / self._length
        cranial = anatomical_axes(case.orientation)[:, 2]
        up = cranial - (cranial @ self._into) * self._into
        if np.linalg.norm(up) < 1e-6:
            up = np.cross(np.eye(3)[0], self._into)
        self._up = up / np.linalg.norm(up)
        self._right = np.cross(self._into, self._up)
        self._zoom = 0.5 * TILE_PX / REACH_M
        self._middle = np.full(2, 0.5 * TILE_PX)

    def paint(self, estimate: LevelEstimate, extras: Extras | None) -> None:
        margins = extras.margins if extras is not None else None
        found = (
            margins.planned(self._plan.level, self._plan.side, estimate.predicted_tre_mm)
            if margins is not None
            else None
        )
        if isinstance(found, Shaft) and margins is not None:
            self._bone(margins, found)
        self._rings(found, margins.diameter_mm if margins is not None else None)
        if estimate.predicted_tre_mm is not None and estimate.T_camera_ct is not None:
            self._error(estimate, estimate.T_camera_ct, estimate.predicted_tre_mm)
        if extras is not None:
            self._screws(extras)
            self._tool(extras)
        self._ink.flush(self._tile)
        self._words(found, extras)

    def _error(self, estimate: LevelEstimate, T: np.ndarray, bound_mm: float) -> None:
        """95 % of the pose's error across the axis, at entry and target."""
        points = transform_points(T, np.stack([self._plan.entry_m, self._plan.target_m]))
        across = self._zoom * np.stack([self._right, -self._up]) @ T[:3, :3].T
        radius = self._zoom * 1e-3 * bound_mm * CHI_2D_95 / SIGMAS_3D_95
        shapes = error_shapes([estimate] * 2, points, np.stack([across] * 2), np.full(2, radius))
        green = STATUS_COLOUR[Status.TRACKED]
        self._ink.ovals(np.stack([self._middle] * 2), shapes, green, 1)

    def _px(self, points_m: np.ndarray) -> np.ndarray:
        """(N, 3) of the mesh's frame, seen along the axis."""
        off = points_m - self._plan.entry_m
        across = np.stack([off @ self._right, -(off @ self._up)], axis=1)
        return self._middle + self._zoom * across

    def _bone(self, margins: Margins, found: Shaft) -> None:
        """The bone in the plane across the axis where the screw has least room."""
        key = (id(margins), self._plan.level, self._plan.side)
        if key not in _sections or _sections[key][0] is not margins:
            steps = np.arange(-REACH_M, REACH_M + _CELL_M, _CELL_M)
            x, y = np.meshgrid(steps, -steps)
            at = self._plan.entry_m + found.at_m * self._into
            points = at + x[..., None] * self._right + y[..., None] * self._up
            inside = margins.cortices[self._plan.level].near_m(points) < 0.0
            size = (TILE_PX, TILE_PX)
            small = inside.astype(np.uint8) * 255
            _sections[key] = margins, cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)
            while len(_sections) > _KEPT:
                _sections.popitem(last=False)
        self._tile[_sections[key][1] > 127] = _BONE

    def _rings(self, found: Shaft | Rejected | None, diameter_mm: float | None) -> None:
        ink, middle = self._ink, self._middle
        for mm in RINGS_MM:
            ink.ring(middle, 1e-3 * mm * self._zoom, _GRID, 1, 0)
        arm = 0.5 * TILE_PX
        for way in (np.array([1.0, 0.0]), np.array([0.0, 1.0])):
            ink.line(np.stack([middle - arm * way, middle + arm * way]), _GRID, 1, 0)
        ink.dot(middle, 2.5, WHITE)
        if diameter_mm is None:
            return
        ink.ring(middle, 0.5e-3 * diameter_mm * self._zoom, WHITE, 1)
        if isinstance(found, Shaft):
            room = max(0.5 * diameter_mm + found.least_mm, 0.0)
            ink.ring(middle, 1e-3 * room * self._zoom, band(found.draws.least95_mm), 2)

    def _axis(self, point: np.ndarray, into: np.ndarray, colour: Colour, width: int) -> None:
        """From where an axis passes the planned entry's plane (ring) to the target's (dot)."""
        rate = float(into @ self._into)
        if rate <= 0.1:
            return
        level = point + into * ((self._plan.entry_m - point) @ self._into / rate)
        ends = self._px(np.stack([level, level + into * (self._length / rate)]))
        self._ink.line(ends, colour, width)
        self._ink.ring(ends[0], 5.0, colour, width)
        self._ink.dot(ends[1], 3.0, colour)

    def _screws(self, extras: Extras) -> None:
        for screw in extras.screws:
            if (screw.level, screw.side) == (self._plan.level, self._plan.side):
                self._axis(screw.head_m, -screw.out, PLACED, 2)

    def _tool(self, extras: Extras) -> None:
        tool = extras.tool
        if tool is None or self._aimed(extras) is None:
            return
        self._axis(tool.tip_m, -tool.out / np.linalg.norm(tool.out), TOOL, 2)
        tip = self._px(tool.tip_m[None])[0]
        self._ink.ring(tip, 1e-3 * tool.bound95_mm * self._zoom, TOOL, 1)

    def _aimed(self, extras: Extras) -> ToolDeviation | None:
        """The tool's deviation where it is aimed at this screw."""
        if extras.tool is None:
            return None
        off = tool_deviation(extras.tool, self._case.plan)
        return off if off is not None and off.plan is self._plan else None

    def _words(self, found: Shaft | Rejected | None, extras: Extras | None) -> None:
        tile = self._tile
        ring = f"{RINGS_MM[-1]:.0f}"
        at = self._middle + 1e-3 * RINGS_MM[-1] * self._zoom * np.array([0.71, 0.71])
        draw_text(tile, ring, int(at[0]) + 4, int(at[1]) - 10, WORDS_PX, TEXT)
        outward = "lateral" if self._plan.side == "left" else "medial"
        inward = "medial" if self._plan.side == "left" else "lateral"
        if self._right @ anatomical_axes(self._case.orientation)[:, 0] > 0.0:
            outward, inward = inward, outward
        # By their first letters: the words would lie on the rings.
        draw_text(tile, outward[:3], 4, TILE_PX // 2 + 4, WORDS_PX, TEXT)
        width = text_size(inward[:3], WORDS_PX)[0]
        draw_text(tile, inward[:3], TILE_PX - width - 4, TILE_PX // 2 + 4, WORDS_PX, TEXT)
        if isinstance(found, Shaft):
            least = found.draws.least95_mm
            text = f"≥ {least if abs(least) >= 0.05 else 0.0:.1f} mm {found.toward}"
            draw_text(tile, text, 6, TILE_PX - WORDS_PX - 6, WORDS_PX, band(least), True)
        elif isinstance(found, Rejected):
            draw_text(tile, "margin not told", 6, TILE_PX - WORDS_PX - 6, WORDS_PX, UNKNOWN)
        off = self._aimed(extras) if extras is not None else None
        if off is not None:
            for i, words in enumerate(off.words().split(", ")):
                note(tile, words, (float(TILE_PX), 44.0 + i * (WORDS_PX + 5)), WORDS_PX, WHITE)
            depth = f"{round(off.depth_mm)} mm deep"
            note(tile, depth, (0.0, TILE_PX - 2.0 * WORDS_PX - 4.0), WORDS_PX, WHITE)
