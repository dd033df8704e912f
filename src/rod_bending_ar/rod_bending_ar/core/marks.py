# SPDX-License-Identifier: Apache-2.0
"""Marks of guidance on the camera's picture: margins in colour, placed screws, rods, the tool's axis.

Colours are Okabe and Ito's, which people with any colour vision tell apart; a breach is dashed too,
and the number stands beside it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.types import LEVELS, Rejected, ScrewPlan

from .cortex import Shaft
from .extras import Extras, PlacedScrew, ShownRod, ToolAxis, ToolDeviation
from .lens import NEAR_M, Lens
from .paint import TEXT, WHITE, Colour, Ink, Stroke, note, table, table_height
from .text import text_size

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
_AXIS_M = 0.018
_TOOL_M = 0.06


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

    def width_px(self, length_m: float, point_m: np.ndarray) -> float:
        """How long a length is on the picture at a place."""
        return self.lens.pinhole.fx * length_m / max(float(point_m[2]), NEAR_M) * self.scale


def paint_margin(
    sheet: Sheet, T: np.ndarray, plan: ScrewPlan, found: Shaft | Rejected, plain: Colour
) -> None:
    """The axis in the bone, in the colour of the margin that 95 % of poses leave at each place."""
    width = sheet.scale
    if isinstance(found, Rejected):
        ends = transform_points(T, np.stack([plan.entry_m, plan.target_m]))
        sheet.ink.line(sheet.px(ends), plain, width)
        return
    points, pieces = _pieces(found, plan)
    pixels = sheet.px(transform_points(T, points))
    sheet.ink.line(pixels[:2], plain, width)
    for first, last, colour in pieces:
        if colour == BREACH:
            sheet.ink.dashes(pixels[first:last], BREACH, 3 * width, 2)
        else:
            sheet.ink.line(pixels[[first, last - 1]], colour, 2 * width)


# Of shafts by identity; each is kept beside its pieces so that its id cannot be reused.
_split: OrderedDict[int, tuple[Shaft, np.ndarray, list[tuple[int, int, Colour]]]] = OrderedDict()
_KEPT = 256


def _pieces(found: Shaft, plan: ScrewPlan) -> tuple[np.ndarray, list[tuple[int, int, Colour]]]:
    """Places (N, 3) along a planned axis in the mesh's frame, and the runs of them of one colour."""
    if id(found) not in _split:
        way = (plan.target_m - plan.entry_m) / np.linalg.norm(plan.target_m - plan.entry_m)
        length = float(np.linalg.norm(plan.target_m - plan.entry_m))
        places = np.concatenate([[0.0], found.s_m, [length]])
        colours = [band(m) for m in found.draws.margin95_mm]
        pieces, first = [], 0
        for k in range(1, len(colours) + 1):
            if k == len(colours) or colours[k] != colours[first]:
                last = len(places) if k == len(colours) else k + 2
                pieces.append((first + 1, last, colours[first]))
                first = k
        _split[id(found)] = found, plan.entry_m + places[:, None] * way, pieces
        while len(_split) > _KEPT:
            _split.popitem(last=False)
    return _split[id(found)][1:]


def margin_note(sheet: Sheet, at_px: np.ndarray, away: np.ndarray, found: Shaft | Rejected) -> None:
    """The number, what 95 % of poses leave, beside a place and away (2,) from what is there."""
    if isinstance(found, Rejected):
        return
    least = found.draws.least95_mm
    text = f"{least:.1f}" if abs(least) >= 0.05 else "0.0"
    if least < 0.0:
        text += f" ({100 * found.draws.p_breach:.0f} %)"
    reach = np.abs(away) @ (text_size(text, sheet.text, True)) * 0.5 + 4 * sheet.scale
    note(sheet.image, text, at_px + reach * away, sheet.text, band(least))


def paint_screw(sheet: Sheet, T: np.ndarray, screw: PlacedScrew) -> None:
    """A placed screw: its head within the 95 % bound, its axis, and where its axis meets the plan."""
    head = transform_points(T, screw.head_m)
    tip = head + _AXIS_M * (T[:3, :3] @ screw.out)
    sheet.ink.line(sheet.px(np.stack([head, tip])), PLACED, 2 * sheet.scale)
    radius = max(sheet.width_px(1e-3 * screw.bound95_mm, head), 3.0 * sheet.scale)
    sheet.ink.ring(sheet.px(head[None])[0], radius, PLACED, sheet.scale)
    if isinstance(screw.check, Rejected):
        return
    entry = transform_points(T, screw.check.entry_m)
    sheet.ink.line(sheet.px(np.stack([head, entry])), PLACED, sheet.scale)
    sheet.ink.ring(sheet.px(entry[None])[0], 2.0 * sheet.scale, PLACED, -1)


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
    pixels = sheet.px(transform_points(T, rod.curve_m))
    if rod.planned:
        sheet.ink.dashes(pixels, PLANNED_ROD, 2 * sheet.scale, max(len(pixels) // 24, 1))
    else:
        sheet.ink.line(pixels, ROD, 2 * sheet.scale)


def paint_tool(
    sheet: Sheet, T: np.ndarray, tool: ToolAxis, deviation: ToolDeviation | None
) -> None:
    """The tool's axis, its tip with the 95 % bound, and how far both are off."""
    tip, out = transform_points(T, tool.tip_m), T[:3, :3] @ tool.out
    along = sheet.px(np.stack([tip - 0.03 * out, tip, tip + _TOOL_M * out]))
    sheet.ink.line(along[1:], TOOL, 2 * sheet.scale)
    sheet.ink.dashes(np.linspace(along[0], along[1], 12), TOOL, sheet.scale, 1)
    sheet.ink.ring(along[1], sheet.width_px(1e-3 * tool.bound95_mm, tip), TOOL, sheet.scale)
    if deviation is not None:
        note(sheet.image, tool_words(tool, deviation), along[2], sheet.text, TOOL)


def tool_words(tool: ToolAxis, deviation: ToolDeviation) -> str:
    """Its deviation as it is read."""
    return (
        f"tool {deviation.entry_mm:.1f} ± {tool.off95_mm:.1f} mm, {deviation.angle_deg:.1f}°"
        f" off {deviation.plan.level} {deviation.plan.side}"
    )


def paint_words(sheet: Sheet, extras: Extras, margins_shown: bool) -> None:
    """Screws and what is missing at the right edge; what the colours mean below."""
    size = sheet.text
    lines = screw_lines(extras.screws)
    lines += [(n, UNKNOWN, False) for n in extras.notes]
    table(sheet.image, -1, 0, lines, size)
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
