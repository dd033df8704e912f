# SPDX-License-Identifier: Apache-2.0
"""Marks of guidance on the camera's picture: margins in colour, placed screws, rods, the tool's axis.

Colours are Okabe and Ito's, which people with any colour vision tell apart; a breach is dashed too,
and the number stands beside it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.types import LEVELS, Rejected, ScrewPlan

from .cortex import Shaft
from .extras import Extras, PlacedScrew, ShownRod, ToolAxis, ToolDeviation
from .lens import NEAR_M, Lens
from .paint import (
    TEXT,
    WHITE,
    Box,
    Colour,
    Ink,
    Stroke,
    covers,
    note,
    note_box,
    table,
    table_height,
)
from .text import text_size, wrapped

SAFE: Colour = (86, 180, 233)
NARROW: Colour = (240, 228, 66)
BREACH: Colour = (240, 110, 30)
UNKNOWN: Colour = (190, 190, 190)
PLACED: Colour = (230, 130, 190)
ROD: Colour = (90, 235, 255)
PLANNED_ROD: Colour = (255, 130, 220)
TOOL: Colour = (255, 255, 255)
WIDE_MM = 2.0
BANDS = (
    (f"≥ {WIDE_MM:.0f} mm", SAFE),
    (f"0 to {WIDE_MM:.0f}", NARROW),
    ("breach, and in how many poses", BREACH),
)
OCCLUDER_MARGIN_M = 0.012  # measured surface this much nearer than what is drawn hides it
_WORDS_SHARE, _WORDS_LINES = 0.44, 3  # of the width, for a note
_AXIS_M = 0.018
_TOOL_M = 0.06
_ROD_POINTS = 48  # of a curve: enough for its bends
_DASHED = np.linspace(0.0, 1.0, 12)[:, None]


def band(margin_mm: float) -> Colour:
    """The colour of a margin."""
    return SAFE if margin_mm >= WIDE_MM else NARROW if margin_mm >= 0.0 else BREACH


class Sheet:
    """A picture that is drawn on in metres of the camera's frame.

    image (H·scale, W·scale, 3) uint8 RGB; ink: strokes that wait for `ink.flush(image)`; text: size
    of text in pixels.
    """

    def __init__(
        self,
        image: np.ndarray,
        lens: Lens,
        scale: int,
        text_scale: int,
        keep: list[Stroke] | None = None,
    ) -> None:
        self.image, self.lens, self.scale, self.keep = image, lens, scale, keep
        self.ink = Ink(keep)
        self.text = 9 * text_scale
        self.text_scale = text_scale

    def px(self, points_m: np.ndarray) -> np.ndarray:
        """(N, 3) metres to (N, 2) pixels of the picture; NaN where nothing is drawn."""
        pixels = self.lens.project(points_m)
        if self.scale > 1:
            pixels = (pixels + 0.5) * self.scale - 0.5
        pixels[points_m[:, 2] < NEAR_M] = np.nan
        return pixels

    def widths_px(self, lengths_m: np.ndarray | float, points_m: np.ndarray) -> np.ndarray:
        """How long lengths (M,) are on the picture at places (M, 3)."""
        far_m = np.maximum(points_m[:, 2], NEAR_M)
        return np.asarray(self.lens.pinhole.fx * self.scale * lengths_m / far_m)


def placed(poses: np.ndarray, points_m: np.ndarray) -> np.ndarray:
    """Points (M, K, 3), each row of its own frame, by poses (M, 4, 4) in the camera's."""
    R, t = poses[:, :3, :3], poses[:, None, :3, 3]
    return np.asarray(points_m @ R.transpose(0, 2, 1) + t)


def paint_margins(
    sheet: Sheet,
    poses: np.ndarray,
    plans: Sequence[ScrewPlan],
    found: Sequence[Shaft | Rejected],
    plain: Colour,
    nearest_m: np.ndarray,
) -> None:
    """The axes in the bone, in the colour of the margin that 95 % of poses leave at each place."""
    ends: list[np.ndarray] = []
    colours: list[Colour] = []
    widths: list[float] = []
    counts = []
    for plan, shaft in zip(plans, found, strict=True):
        if isinstance(shaft, Rejected):
            pieces: _Pieces = np.array([[plan.entry_m, plan.target_m]]), [None], [1.0]
        else:
            pieces = _pieces(shaft, plan)
        own, inks, wide = pieces
        ends.append(own)
        colours += [ink or plain for ink in inks]
        widths += [w * sheet.scale for w in wide]
        counts.append(len(own))
    of_plan = np.repeat(np.arange(len(plans)), counts)
    points = placed(poses[of_plan], np.concatenate(ends))
    pixels = sheet.px(points.reshape(-1, 3)).reshape(-1, 2, 2)
    sheet.ink.lines(pixels, colours, widths, nearest_m=nearest_m[of_plan])


# Of shafts by identity; each is kept beside its pieces so that its id cannot be reused.
_Pieces = tuple[np.ndarray, list[Colour | None], list[float]]
_split: OrderedDict[int, tuple[Shaft, _Pieces]] = OrderedDict()
_KEPT = 256
_DASH = 2  # places of a margin


def _pieces(found: Shaft, plan: ScrewPlan) -> _Pieces:
    """Lines (M, 2, 3) along a planned axis in the mesh's frame, their colours and widths: where no
    margin is told (no colour), and the runs of one colour, dashed where they breach."""
    if id(found) not in _split:
        way = (plan.target_m - plan.entry_m) / np.linalg.norm(plan.target_m - plan.entry_m)
        length = float(np.linalg.norm(plan.target_m - plan.entry_m))
        places = plan.entry_m + np.concatenate([[0.0], found.s_m, [length]])[:, None] * way
        bands = [band(m) for m in found.draws.margin95_mm]
        ends, widths = [(0, 1)], [1.0]
        colours: list[Colour | None] = [None]
        first = 0
        for k in range(1, len(bands) + 1):
            if k == len(bands) or bands[k] != bands[first]:
                last = len(places) - 1 if k == len(bands) else k + 1
                own = [(first + 1, last)]
                if bands[first] == BREACH:
                    starts = range(first + 1, last, 2 * _DASH)
                    own = [(start, min(start + _DASH, last)) for start in starts]
                ends += own
                colours += [bands[first]] * len(own)
                widths += [3.0 if bands[first] == BREACH else 2.0] * len(own)
                first = k
        _split[id(found)] = found, (places[np.array(ends)], colours, widths)
        while len(_split) > _KEPT:
            _split.popitem(last=False)
    return _split[id(found)][1]


def margin_notes(
    sheet: Sheet,
    plans: Sequence[ScrewPlan],
    pixels: np.ndarray,
    found: Sequence[Shaft | Rejected],
    taken: list[Box],
) -> None:
    """The numbers, what 95 % of poses leave, beyond the outer ends of axes: pixels (M, 3, 2) of
    entry, target and outer end. Those of a level stand away from its middle, and from what is `taken`, which they join."""
    levels = [p.level for p in plans]
    for level in dict.fromkeys(levels):
        own = [i for i, v in enumerate(levels) if v == level]
        x, y = pixels[own, 1].mean(axis=0).tolist()
        for i in own:
            shaft = found[i]
            if isinstance(shaft, Rejected):
                continue
            least = shaft.draws.least95_mm
            text = f"{least:.1f}" if abs(least) >= 0.05 else "0.0"
            if least < 0.0:
                text += f" ({100 * shaft.draws.p_breach:.0f} %)"
            at_x, at_y = pixels[i, 2].tolist()
            _note_beyond(sheet, text, (at_x, at_y), (at_x - x, at_y - y), band(least), taken, _NEAR)


# Ways in degrees and steps that a text may go before it covers another after all: a number stays at
# its screw, and long words do not turn back over the bone.
_NEAR = (0, 35, -35, 70, -70, 110, -110, 180), 4
_ASIDE = (0, 35, -35), 24


def _note_beyond(
    sheet: Sheet,
    text: str,
    at: tuple[float, float],
    way: tuple[float, float],
    colour: Colour,
    taken: list[Box],
    reach: tuple[tuple[int, ...], int],
) -> None:
    """A text beside a pixel, as far along a way that it leaves the pixel free; another way, or
    farther, where it would lie on what is taken, which it joins."""
    length = max(math.hypot(*way), 1e-9)
    w, h = text_size(text, sheet.text, True)
    first: tuple[float, float] | None = None
    turns, steps = reach
    for step in range(steps):
        for turn in np.radians(turns).tolist():
            c, s = math.cos(turn) / length, math.sin(turn) / length
            x, y = c * way[0] - s * way[1], s * way[0] + c * way[1]
            far = 0.5 * (abs(x) * w + abs(y) * h) + (4 + 8 * step) * sheet.scale
            to = at[0] + far * x, at[1] + far * y
            first = first or to
            box = note_box(sheet.image.shape, text, to, sheet.text)
            if box is None:
                return
            if not any(covers(box, other) for other in taken):
                taken.append(box)
                note(sheet.image, text, to, sheet.text, colour)
                return
    note(sheet.image, text, first or at, sheet.text, colour)


def paint_screws(sheet: Sheet, poses: np.ndarray, screws: Sequence[PlacedScrew]) -> None:
    """Placed screws at the poses (M, 4, 4) of their levels: head within the 95 % bound, axis, and where it meets the plan."""
    heads = np.array([s.head_m for s in screws])
    tips = heads + _AXIS_M * np.array([s.out for s in screws])
    told = np.array([not isinstance(s.check, Rejected) for s in screws])
    entries = np.array([h if isinstance(s.check, Rejected) else s.check.entry_m
                        for h, s in zip(heads, screws, strict=True)])  # fmt: skip
    points = placed(poses, np.stack([heads, tips, entries], axis=1))
    near = points[:, 0, 2] - OCCLUDER_MARGIN_M
    pixels = sheet.px(points.reshape(-1, 3)).reshape(-1, 3, 2)
    bounds = np.array([1e-3 * s.bound95_mm for s in screws])
    radii = np.maximum(sheet.widths_px(bounds, points[:, 0]), 3.0 * sheet.scale)
    ink, scale = sheet.ink, sheet.scale
    ink.lines(pixels[:, :2], PLACED, 2 * scale, nearest_m=near)
    ink.rings(pixels[:, 0], radii, PLACED, scale, nearest_m=near)
    ink.lines(pixels[told][:, [0, 2]], PLACED, scale, nearest_m=near[told])
    ink.dots(pixels[told, 2], 2.0 * scale, PLACED, near[told])


def screw_lines(screws: Sequence[PlacedScrew]) -> list[tuple[str, Colour, bool]]:
    """A line per placed screw, against its plan."""
    lines: list[tuple[str, Colour, bool]] = []
    untold = ""
    for s in sorted(screws, key=lambda s: (LEVELS.index(s.level), s.side)):
        name = f"{s.level} {s.side}  "
        if isinstance(s.check, Rejected):
            lines.append((name + s.check.reason, UNKNOWN, False))
            continue
        c = s.check
        colour = TEXT
        if c.grade:
            colour = SAFE if c.grade == "A" else NARROW if c.grade == "B" else BREACH
        else:
            untold = "–: the shank's direction is not known well enough for a grade"
        lines.append((name + c.words(), colour, bool(c.grade)))
    if lines:
        lines.insert(0, ("screws: entry, angle, grade against the plan", PLACED, True))
    return [*lines, (untold, UNKNOWN, False)] if untold else lines


def paint_rod(sheet: Sheet, T: np.ndarray, rod: ShownRod) -> None:
    """A rod: as seen, or dashed as it shall lie."""
    curve = rod.curve_m
    step = max(len(curve) // _ROD_POINTS, 1)
    points = transform_points(T, np.concatenate([curve[:-1:step], curve[-1:]]))
    pixels, near = sheet.px(points), float(points[:, 2].mean()) - OCCLUDER_MARGIN_M
    if rod.planned:
        every = max(len(pixels) // 24, 1)
        sheet.ink.dashes(pixels, PLANNED_ROD, 2 * sheet.scale, every, near)
    else:
        sheet.ink.line(pixels, ROD, 2 * sheet.scale, nearest_m=near)


def paint_tool(
    sheet: Sheet,
    T: np.ndarray,
    tool: ToolAxis,
    deviation: ToolDeviation | None,
    taken: list[Box],
) -> None:
    """The tool's axis, its tip with the 95 % bound, and how far both are off, beside what is taken."""
    tip, out = transform_points(T, tool.tip_m), T[:3, :3] @ tool.out
    along = sheet.px(np.stack([tip - 0.03 * out, tip, tip + _TOOL_M * out]))
    sheet.ink.line(along[1:], TOOL, 2 * sheet.scale)
    sheet.ink.dashes(along[0] + _DASHED * (along[1] - along[0]), TOOL, sheet.scale, 1)
    radius = float(sheet.widths_px(1e-3 * tool.bound95_mm, tip[None])[0])
    sheet.ink.ring(along[1], radius, TOOL, sheet.scale)
    sheet.ink.flush(sheet.image)  # the number stands over it
    if deviation is not None:
        (tip_x, tip_y), (x, y) = along[1:].tolist()
        _note_beyond(
            sheet, tool_words(deviation), (x, y), (x - tip_x, y - tip_y), TOOL, taken, _ASIDE
        )


def tool_words(deviation: ToolDeviation) -> str:
    """Its deviation as it is read."""
    return f"tool {deviation.words()} off {deviation.plan.level} {deviation.plan.side}"


def paint_words(sheet: Sheet, extras: Extras, margins_shown: bool) -> None:
    """Screws and what is missing at the right edge; what the colours mean below."""
    size = sheet.text
    lines = screw_lines(extras.screws)
    lines += [(n, UNKNOWN, False) for n in extras.notes]
    # Beside the levels' own words, which begin at the left edge.
    width = _WORDS_SHARE * sheet.image.shape[1]
    parts = [(t, c, b) for text, c, b in lines for t in wrapped(text, size, width, _WORDS_LINES)]
    table(sheet.image, -1, 0, parts, size)
    if not margins_shown:
        return
    from .annotation import banner_height

    legend: list[tuple[str, Colour, bool]] = [
        ("least margin to the cortex in 95 % of poses, mm", WHITE, False)
    ]
    legend += [(f"■ {name}", colour, True) for name, colour in BANDS]
    height = sheet.image.shape[0] - banner_height(sheet.text_scale)
    top = height - table_height(len(legend), size)
    table(sheet.image, 0, top, legend, size)
