# SPDX-License-Identifier: Apache-2.0
"""The picture of what the two cameras see: screw heads with their bounds, rods, bending steps.

Everything stands on the left image; the text stands beside it, or beneath a live one, so that
nothing covers metal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from rod_bending_ar.core.forward import arc_positions_mm, point_at
from spine_nav_common.core.implant_outputs import RodCurve, ScrewRow
from spine_nav_common.core.types import (
    Head3D,
    Intrinsics,
    Rejected,
    RodFit,
    ScrewTrack,
    StereoFrame,
    StereoResult,
)

from .core.annotation import Label, banner_height, paint_age, paint_banner, paint_labels
from .core.bender import bender_picture
from .core.lens import NEAR_M, project_px
from .core.planned import PlannedRod
from .core.text import draw_text, text_size
from .overlay import REFERENCE_WIDTH_PX

Colour = tuple[int, int, int]
MEASURED: Colour = (64, 224, 120)
HELD: Colour = (255, 176, 32)
ROD: Colour = (90, 235, 255)
PLAN: Colour = (255, 130, 220)
TEXT: Colour = (235, 235, 235)
REFUSED: Colour = (255, 96, 80)
PAPER: Colour = (24, 28, 34)
AXIS_M = 0.018  # length of a drawn axis
LABEL_M = 0.016  # from head to label
ROOM_M = 0.045  # around heads and rods, for labels
SLACK = 0.08  # of a steady view, that may lie in the room for labels
CLOSER = 0.75  # a view that could be smaller than this share of it closes up
LEAST_SHAPE = 4.0 / 3.0  # width over height of the picture
PANEL_SHARE = 0.46  # of the image's width, beside it
BELOW_SHARE = 0.225  # the same beneath it: a 4:3 pane shows the image larger so
SETTING_HEIGHT = 92  # of the bender's picture, at text scale 1
DASH_MM = 3.0
LINE_STEP_M = 0.002  # between two points of a line


@dataclass(frozen=True)
class View:
    """The part of the image that is shown: corner (2,) and size (w, h) px, and its enlargement."""

    corner: np.ndarray
    size: tuple[int, int]
    zoom: float


def draw_stereo(
    frame: StereoFrame,
    result: StereoResult | Rejected | None,
    rods: Sequence[PlannedRod] = (),
    *,
    width_px: int = 1280,
    view: View | None = None,
    age_ms: float | None = None,
) -> np.ndarray:
    """The left image around what was found in this very pair, and a panel that says it in words:
    beside a single picture, beneath one of many.

    Args:
        frame: the pair; only its left image is drawn. result: of this frame; a result of another
            stamp is named and not drawn.
        rods: planned from this result's heads, their curves in this left optical frame.
        width_px: of the image part; the panel adds PANEL_SHARE of it to the width, or BELOW_SHARE to
            the height.
        view: what is shown of the image, of a picture that is one of many (`steady_view`): the panel
            then tells the next bends first, and no head by its name. None: around what was found.
        age_ms: of the image, where it is known.

    Returns:
        (H', W', 3) uint8 RGB; the input is not changed.
    """
    left = frame.left if frame.left.ndim == 3 else cv2.cvtColor(frame.left, cv2.COLOR_GRAY2RGB)
    drawn = result if isinstance(result, StereoResult) else None
    if drawn is not None and drawn.stamp_ns != frame.stamp_ns:
        drawn = None
    close_up = view is None
    if view is None:
        view = _view(frame.intrinsics, drawn, width_px)
    (x, y), (w, h) = np.round(view.corner).astype(int).tolist(), view.size
    size = (width_px, round(h * view.zoom))
    way = cv2.INTER_CUBIC if close_up else cv2.INTER_LINEAR
    beside = (round(width_px * PANEL_SHARE), size[1])
    below = (width_px, round(width_px * BELOW_SHARE))
    if close_up:
        picture = np.empty((size[1], width_px + beside[0], 3), np.uint8)
        image, panel = picture[:, :width_px], picture[:, width_px:]
    else:
        picture = np.empty((size[1] + below[1], width_px, 3), np.uint8)
        image, panel = picture[: size[1]], picture[size[1] :]
    image[...] = cv2.resize(left[y : y + h, x : x + w], size, interpolation=way)
    panel[...] = _paper(panel.shape[0], panel.shape[1])
    text_scale = max(1, round(width_px / REFERENCE_WIDTH_PX))
    rods = rods if drawn else ()
    if drawn is not None:
        canvas = _Canvas(image, frame.intrinsics, view, text_scale)
        for rod in drawn.rods:
            canvas.rod(rod)
        for planned in rods:
            canvas.plan(planned)
        canvas.labels(drawn.screws)
        for screw in drawn.screws:
            canvas.head(screw)
    paint_banner(image, text_scale)
    if age_ms is not None:
        paint_age(image, age_ms, text_scale)
    lines = _lines(frame, result, close_up)
    if close_up:
        planned_lines = [line for rod in rods for line in _planned_lines(rod)]
        _write_panel(panel, [*planned_lines, *lines], text_scale)
        return picture
    # A column for what was found and one for each rod.
    at_hand = [(f"{r.side}: {_rod_words(r)}", TEXT, False) for r in rods if _rod_words(r)]
    columns = [[*lines[:1], *at_hand, *lines[1:]], *(_next_lines(rod) for rod in rods)]
    edges = np.linspace(0, width_px, len(columns) + 1).astype(int)
    for left_px, right_px, column in zip(edges, edges[1:], columns):
        _write_panel(panel[:, left_px:right_px], column, text_scale)
    return picture


@lru_cache(maxsize=2)
def _paper(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, np.uint8)


def result_of(
    stamp_ns: int,
    rows: Sequence[ScrewRow],
    rods: Sequence[RodCurve],
    events: tuple[str, ...] = (),
) -> StereoResult:
    """Rows and curves, as files and messages hold them, as a result that can be drawn."""
    return StereoResult(
        stamp_ns, tuple(_track(r) for r in rows), tuple(_fit(r) for r in rods), {}, events
    )


def _track(row: ScrewRow) -> ScrewTrack:
    """A row as a track; a row holds no covariance, so it stands for the bound."""
    sigma_m = 1e-3 * row.bound95_mm / 2.8  # 95 % of an isotropic 3D Gaussian
    head = Head3D(
        row.head_m, np.eye(3) * sigma_m**2, row.axis, float("nan"), row.confidence, float("nan")
    )
    return ScrewTrack(row.track_id, head, row.bound95_mm, row.level, row.side, not row.seen)


def _fit(rod: RodCurve) -> RodFit:
    return RodFit(rod.centreline_m, rod.sigma_mm, rod.seen, rod.side, rod.free_m, rod.free_sigma_mm)


def prepare() -> None:
    """Load what is compiled, so that the first picture does not wait for it."""
    blank, side = np.zeros((128, 128, 3), np.uint8), 128
    eye = Intrinsics(side, side, 100.0, 100.0, side / 2, side / 2)
    head = ScrewRow(0, 1, np.array([0.0, 0.0, 0.5]), np.array([0.0, 0.0, -1.0]), 1.0, 1.0)
    draw_stereo(StereoFrame(0, blank, blank, eye, 0.06), result_of(0, (head,), ()), age_ms=0.0)


def steady_view(
    before: View | None, intrinsics: Intrinsics, result: StereoResult | None, width_px: int
) -> View:
    """What the next picture shows: what the one before did, as long as heads and rods have room in
    it and would not fill much more of a closer one; else around them. Without them as before, or
    the whole image."""
    if result is None:
        return before or _view(intrinsics, None, width_px)
    wanted = _view(intrinsics, result, width_px)
    if before is None or before.zoom * before.size[0] != width_px:
        return wanted
    size, least = np.array(before.size), np.array(wanted.size) * (1.0 - SLACK)
    inside = (before.corner <= wanted.corner + SLACK * size).all()
    inside &= (before.corner + size >= wanted.corner + wanted.size - SLACK * size).all()
    return (
        before if inside and (least <= size).all() and wanted.size[0] > CLOSER * size[0] else wanted
    )


def _view(intrinsics: Intrinsics, result: StereoResult | None, width_px: int) -> View:
    """Around heads and rods with room for labels; the whole image where nothing is shown."""
    full = np.array([intrinsics.width, intrinsics.height])
    points = [s.head.point_m[None] for s in result.screws] if result else []
    points += [r.centreline_m for r in result.rods] if result else []
    shown = np.concatenate(points) if points else np.zeros((0, 3))
    shown = shown[shown[:, 2] > NEAR_M]
    if not len(shown):
        return View(np.zeros(2), (int(full[0]), int(full[1])), width_px / full[0])
    pixels = project_px(shown, intrinsics)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    room = intrinsics.fx * ROOM_M / np.median(shown[:, 2])
    width = max(high[0] - low[0] + 2 * room, LEAST_SHAPE * (high[1] - low[1] + room))
    size = np.minimum(np.array([width, max(width / LEAST_SHAPE, high[1] - low[1] + room)]), full)
    size = np.round(size).astype(int)
    corner = np.clip(np.round(0.5 * (low + high - size)), 0, full - size)
    return View(corner, (int(size[0]), int(size[1])), width_px / size[0])


class _Canvas:
    """Drawing in metres of the left optical frame on the enlarged image."""

    def __init__(
        self, image: np.ndarray, intrinsics: Intrinsics, view: View, text_scale: int
    ) -> None:
        self._image, self._intrinsics, self._view = image, intrinsics, view
        self._text_scale = text_scale

    def _px(self, points_m: np.ndarray) -> np.ndarray:
        pixels = project_px(np.atleast_2d(points_m), self._intrinsics) - self._view.corner
        return (pixels + 0.5) * self._view.zoom - 0.5

    def _long_px(self, length_m: float, point_m: np.ndarray) -> float:
        return float(self._intrinsics.fx * length_m / point_m[2] * self._view.zoom)

    def _line(self, points_m: np.ndarray, colour: Colour, width: int) -> None:
        if len(points_m) < 2 or points_m[:, 2].min() < NEAR_M:
            return
        # a point every 2 mm is a curve to the eye, and short pieces are dear
        apart_m = float(np.linalg.norm(points_m[1] - points_m[0]))
        every = max(1, round(LINE_STEP_M / max(apart_m, 1e-6)))
        chosen = np.append(np.arange(0, len(points_m) - 1, every), len(points_m) - 1)
        fixed = np.round(self._px(points_m[chosen]) * 16).astype(np.int32)[:, None]
        cv2.polylines(self._image, [fixed], False, (0, 0, 0), width + 2, cv2.LINE_AA, 4)
        cv2.polylines(self._image, [fixed], False, colour, width, cv2.LINE_AA, 4)

    def rod(self, rod: RodFit) -> None:
        """The centreline: drawn through where it was seen, dashed where it was bridged."""
        arc_mm = arc_positions_mm(rod.centreline_m * 1e3)
        on = rod.seen | (np.floor(arc_mm / DASH_MM) % 2 == 0)
        for first, last in _runs(on):
            colour = ROD if rod.seen[first:last].mean() > 0.5 else HELD
            self._line(rod.centreline_m[first : last + 1], colour, 2 * self._text_scale)

    def plan(self, plan: PlannedRod) -> None:
        """The target curve, thin, with a numbered mark towards the midline at every bend; the next
        one's is filled."""
        curve = plan.curve_m
        if curve is None:
            return
        self._line(curve, PLAN, self._text_scale)
        if curve[:, 2].min() < NEAR_M:
            return
        arc = arc_positions_mm(curve * 1e3)
        for step in plan.steps:
            ends = np.clip([step.feed_mm - 2.0, step.feed_mm, step.feed_mm + 2.0], 0.0, arc[-1])
            before, at, after = self._px(point_at(curve, arc, ends))
            way = (after - before) / max(float(np.linalg.norm(after - before)), 1e-9)
            across = np.array([way[1], -way[0]]) * (-1.0 if plan.side == "left" else 1.0)
            size = 10 * self._text_scale
            mark = at + 2.0 * size * across
            tick = [tuple(np.round(p * 16).astype(int).tolist()) for p in (at, mark)]
            cv2.line(self._image, *tick, PLAN, self._text_scale, cv2.LINE_AA, 4)
            x, y = np.round(mark).astype(int).tolist()
            is_next = plan.next_bend is not None and step.n == plan.next_bend.n
            ground, ink = (PLAN, (0, 0, 0)) if is_next else ((0, 0, 0), PLAN)
            cv2.circle(self._image, (x, y), round(0.75 * size), ground, cv2.FILLED, cv2.LINE_AA)
            cv2.circle(self._image, (x, y), round(0.75 * size), PLAN, self._text_scale, cv2.LINE_AA)
            w, h = text_size(str(step.n), size, True)
            draw_text(self._image, str(step.n), x - w // 2, y - h // 2, size, ink, True)

    def head(self, screw: ScrewTrack) -> None:
        """The 95 % bound as a circle around the saddle point, and the axis as an arrow."""
        point = screw.head.point_m
        if point[2] < NEAR_M:
            return
        colour = HELD if screw.hidden else MEASURED
        tip = point + AXIS_M * screw.head.axis
        if tip[2] > NEAR_M:
            start, end = (tuple(p) for p in np.round(self._px(np.stack([point, tip]))).astype(int))
            for ink, width in (((0, 0, 0), self._text_scale + 2), (colour, self._text_scale)):
                cv2.arrowedLine(self._image, start, end, ink, width, cv2.LINE_AA, tipLength=0.25)
        centre = tuple(np.round(self._px(point)[0] * 16).astype(int).tolist())
        radius = round(max(self._long_px(1e-3 * screw.bound95_mm, point), 2.0) * 16)
        for ink, width in (((0, 0, 0), self._text_scale + 2), (colour, self._text_scale)):
            cv2.circle(self._image, centre, radius, ink, width, cv2.LINE_AA, 4)

    def labels(self, screws: Sequence[ScrewTrack]) -> None:
        """Name and bound of every head, outside of the rows, pushed apart."""
        screws = [s for s in screws if s.head.point_m[2] > NEAR_M]
        if not screws:
            return
        heads = self._px(np.array([s.head.point_m for s in screws]))
        middle = heads.mean(axis=0)
        along = np.linalg.svd(heads - middle)[2][0] if len(heads) > 1 else np.array([0.0, 1.0])
        across = np.array([along[1], -along[0]])
        placed: list[Label] = []
        order = np.argsort((heads - middle) @ along)
        for screw, head in ((screws[i], heads[i]) for i in order):
            reach = self._long_px(LABEL_M, screw.head.point_m)
            side = 1.0 if (head - middle) @ across >= 0.0 else -1.0
            lines = (head_name(screw), f"± {screw.bound95_mm:.1f} mm")
            s = self._text_scale
            sizes = [text_size(t, (13 if i == 0 else 10) * s, i == 0) for i, t in enumerate(lines)]
            box = (max(w for w, _ in sizes) + 8 * s, sum(h for _, h in sizes) + 6 * s)
            at = head + side * across * (reach + 0.5 * abs(across @ np.array(box)))
            at = self._free(at, along, box, placed)
            colour = HELD if screw.hidden else MEASURED
            # the leader ends beside the head: the circle of the bound is small
            placed.append(Label(lines, at, head + 0.4 * side * reach * across, colour, box))
        paint_labels(self._image, placed, self._text_scale)

    def _free(
        self, at: np.ndarray, along: np.ndarray, box: tuple[int, int], placed: list[Label]
    ) -> np.ndarray:
        """The nearest place further along that no label covers, inside the image."""
        half = np.array(box) / 2 + 2
        floor = self._image.shape[0] - banner_height(self._text_scale)
        for _ in range(200):
            near = [
                p for p in placed if np.all(np.abs(at - p.at_px) < half + np.array(p.size_px) / 2)
            ]
            if not near:
                break
            at = at + 4.0 * along
        return np.clip(at, half, np.array([self._image.shape[1], floor]) - half)


def head_name(screw: ScrewTrack) -> str:
    """How a head is called: level and side where known, else its track."""
    return " ".join(t for t in (screw.level, screw.side) if t) or f"head {screw.track_id}"


def _runs(on: np.ndarray) -> list[tuple[int, int]]:
    """(first, last + 1) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], on.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


_Line = tuple[str | PlannedRod, Colour, bool]  # a rod stands for the picture of its next bend


def _lines(
    frame: StereoFrame, result: StereoResult | Rejected | None, by_head: bool
) -> list[_Line]:
    if result is None:
        return [("no result", REFUSED, True)]
    if isinstance(result, Rejected):
        return [("NO GUIDANCE", REFUSED, True), (result.reason, TEXT, False)]
    if result.stamp_ns != frame.stamp_ns:
        age_ms = (frame.stamp_ns - result.stamp_ns) / 1e6
        return [(f"STALE: the result is {age_ms:.0f} ms old, not shown", REFUSED, True)]
    lines: list[_Line] = [(f"{len(result.screws)} screw heads, 95 % within", MEASURED, True)]
    if not by_head and result.screws:
        most_mm = max(s.bound95_mm for s in result.screws)
        lines = [(f"{len(result.screws)} heads, 95 % within {most_mm:.1f} mm", MEASURED, True)]
        held = sum(s.hidden for s in result.screws)
        lines += [(f"{held} held, not seen now", HELD, False)] * bool(held)
    for screw in result.screws if by_head else ():
        text = f"{head_name(screw)}: {screw.bound95_mm:.1f} mm"
        told = ", held, not seen now" if screw.hidden else ""
        lines.append((text + told, HELD if screw.hidden else TEXT, False))
    for rod in result.rods:
        length = float(arc_positions_mm(rod.centreline_m * 1e3)[-1])
        name = f"{rod.side or 'unknown side'} rod: {length:.0f} mm"
        text = f"± {np.median(rod.sigma_mm):.1f} mm, {100 * rod.seen.mean():.0f} % seen"
        lines += [("", TEXT, False), (name, ROD, True), (text, TEXT, False)]
    lines += [("", TEXT, False)] * bool(result.events)
    return lines + [(event, HELD, False) for event in result.events]


_STATE_COLOUR = {"good": MEASURED, "planned": PLAN, "bending": PLAN, "waiting": HELD}


def _rod_words(rod: PlannedRod) -> str:
    return f"{rod.length_mm:.0f} mm {rod.rod}" if rod.steps or rod.rod else ""


def _planned_lines(rod: PlannedRod) -> list[_Line]:
    """A rod to be bent: state, every step, the next one with its picture, and what to check."""
    colour = _STATE_COLOUR.get(rod.state, REFUSED)
    about = f": {_rod_words(rod)}" if _rod_words(rod) else ""
    lines: list[_Line] = [("", TEXT, False), (f"{rod.side} rod {rod.state}{about}", colour, True)]
    for n in rod.steps:
        step = f"{n.n}  feed {n.feed_mm:.1f} mm  turn {n.rotate_deg:.0f}°"
        lines.append((f"{step}  bend to {n.bend_set_deg:.1f}°", TEXT, False))
    if rod.next_bend is not None:
        lines.append((rod, colour, False))
    lines.append((rod.text, TEXT, False))
    return lines + [(f"check: {w}", HELD, False) for w in rod.warnings]


def _next_lines(rod: PlannedRod) -> list[_Line]:
    """A rod to be bent, in short: the next bend's picture, which names the rod, or why there is
    none."""
    colour = _STATE_COLOUR.get(rod.state, REFUSED)
    if rod.next_bend is not None:
        return [(rod, colour, False)]
    return [(f"{rod.side} rod {rod.state}", colour, True), (rod.text, TEXT, False)]


def _write_panel(panel: np.ndarray, lines: Sequence[_Line], scale: int) -> None:
    """Lines from the top down; what has no room is counted, and said where it began."""
    size, pad = 10 * scale, 7 * scale
    room = panel.shape[1] - 2 * pad
    step = text_size("Agl|", size)[1] + 3 * scale
    parts: list[tuple[str | PlannedRod, Colour, bool, int]] = []
    for what, colour, bold in lines:
        if isinstance(what, PlannedRod):
            parts.append((what, colour, bold, SETTING_HEIGHT * scale))
        else:
            parts += [
                (t, colour, bold, step if t else step // 2) for t in _wrap(what, size, bold, room)
            ]
    ends = np.cumsum([p[3] for p in parts])
    fits = int(np.count_nonzero(ends <= panel.shape[0] - 2 * pad))
    if fits < len(parts):
        fits = max(0, int(np.count_nonzero(ends <= panel.shape[0] - 2 * pad - step)))
        rest = sum(1 for p in parts[fits:] if p[0])
        parts = [*parts[:fits], (f"… {rest} more lines", TEXT, False, step)]
    y = pad
    for what, colour, bold, height in parts:
        if isinstance(what, PlannedRod):
            assert what.next_bend is not None
            low = height - 2 * scale
            panel[y : y + low, pad : pad + room] = bender_picture(
                what.next_bend, what.side, len(what.steps), (room, low), scale
            )
        elif what:
            draw_text(panel, what, pad, y, size, colour, bold)
        y += height


def _wrap(text: str, size: int, bold: bool, room: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        trial = f"{lines[-1]} {word}".strip() if lines[-1] else word
        if lines[-1] and text_size(trial, size, bold)[0] > room:
            lines.append(f"   {word}")
        else:
            lines[-1] = trial
    return lines
