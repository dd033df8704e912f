# SPDX-License-Identifier: Apache-2.0
"""The overlay for viewers that draw themselves: markers in space, and strokes on the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import ImageMarker, Marker, MarkerArray

from rod_bending_ar.core.cortex import Shaft
from rod_bending_ar.core.extras import Extras, tool_deviation, tracked
from rod_bending_ar.core.marks import (
    PLACED,
    PLANNED_ROD,
    ROD,
    TOOL,
    UNKNOWN,
    band,
    tool_words,
)
from rod_bending_ar.core.paint import Colour, Stroke
from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.types import Case, NavigationResult, Rejected

LIFETIME_S = 1  # markers vanish when this node dies
_LINE_M, _TEXT_M, _AXIS_M = 0.0015, 0.006, 0.025


def overlay_markers(
    case: Case, result: NavigationResult | None, extras: Extras | None, top: Header
) -> MarkerArray:
    """DELETEALL, then margins along planned trajectories, placed screws with their deviation, rods
    and the tool, in the camera's frame. extras: as `usable` left them; None: nothing holds."""
    markers = [Marker(header=top, action=Marker.DELETEALL)]
    if result is None or extras is None:
        return MarkerArray(markers=markers)
    for level, estimate in tracked(result).items():
        T = estimate.T_camera_ct
        assert T is not None
        for plan in (p for p in case.plan if p.level == level):
            if extras.margins is None:
                continue
            found = extras.margins.planned(level, plan.side, estimate.predicted_tre_mm)
            if isinstance(found, Shaft):
                name = f"margin/{level}/{plan.side}"
                way = (plan.target_m - plan.entry_m) / np.linalg.norm(plan.target_m - plan.entry_m)
                points = plan.entry_m + found.s_m[:, None] * way
                line = _line(name, transform_points(T, points), UNKNOWN, top)
                line.colors = [_rgba(band(m)) for m in found.draws.margin95_mm]
                markers.append(line)
        for rod in (r for r in extras.rods if r.level == level):
            colour = PLANNED_ROD if rod.planned else ROD
            name = "rod/planned" if rod.planned else "rod/seen"
            markers.append(_line(name, transform_points(T, rod.curve_m), colour, top))
        for s in (s for s in extras.screws if s.level == level):
            head = transform_points(T, s.head_m)
            arrow = _arrow(f"screw/{level}/{s.side}", head, T[:3, :3] @ s.out, PLACED, top)
            words = s.check.reason if isinstance(s.check, Rejected) else s.check.words()
            at = head + 1.2 * _AXIS_M * (T[:3, :3] @ s.out)
            markers += [arrow, _text(f"screw/{level}/{s.side}/text", at, words, PLACED, top)]
        tool = extras.tool
        if tool is not None and tool.level == level:
            tip, out = transform_points(T, tool.tip_m), T[:3, :3] @ tool.out
            markers.append(_arrow("tool", tip, 2.0 * out, TOOL, top))
            off = tool_deviation(tool, case.plan)
            if off is not None:
                at = tip + 2.2 * _AXIS_M * out
                markers.append(_text("tool/text", at, tool_words(off), TOOL, top))
    for number, marker in enumerate(markers):
        marker.id = number
    return MarkerArray(markers=markers)


def stroke_messages(strokes: Sequence[Stroke], top: Header, before: int) -> list[ImageMarker]:
    """One message per colour, as lines between pairs of pixels; what `before` messages have left is
    removed."""
    by_colour: dict[Colour, list[np.ndarray]] = {}
    for stroke in strokes:
        pairs = np.repeat(stroke.points, 2, axis=0)[1:-1]
        by_colour.setdefault(stroke.colour, []).append(pairs)
    messages = []
    for number, (colour, pieces) in enumerate(by_colour.items()):
        joined = np.concatenate(pieces)
        joined = joined[: len(joined) // 2 * 2]
        marker = _image_marker(number, top)
        marker.type, marker.scale = ImageMarker.LINE_LIST, 1.0
        marker.outline_color = _rgba(colour)
        marker.points = [Point(x=float(x), y=float(y)) for x, y in joined]
        messages.append(marker)
    for number in range(len(messages), before):
        marker = _image_marker(number, top)
        marker.action = ImageMarker.REMOVE
        messages.append(marker)
    return messages


def _image_marker(number: int, top: Header) -> ImageMarker:
    return ImageMarker(
        header=top, ns="overlay", id=number, action=ImageMarker.ADD, lifetime=Duration(sec=LIFETIME_S)
    )  # fmt: skip


def _rgba(colour: Colour) -> ColorRGBA:
    r, g, b = (v / 255.0 for v in colour)
    return ColorRGBA(r=r, g=g, b=b, a=1.0)


def _marker(ns: str, kind: int, colour: Colour, top: Header) -> Marker:
    marker = Marker(
        header=top, ns=ns, type=kind, action=Marker.ADD, color=_rgba(colour),
        lifetime=Duration(sec=LIFETIME_S),
    )  # fmt: skip
    marker.pose.orientation.w = 1.0
    return marker


def _line(ns: str, points: np.ndarray, colour: Colour, top: Header) -> Marker:
    line = _marker(ns, Marker.LINE_STRIP, colour, top)
    line.scale.x = _LINE_M
    line.points = [_point(p) for p in points]
    return line


def _arrow(ns: str, at: np.ndarray, out: np.ndarray, colour: Colour, top: Header) -> Marker:
    arrow = _marker(ns, Marker.ARROW, colour, top)
    arrow.points = [_point(at), _point(at + _AXIS_M * out)]
    arrow.scale.x, arrow.scale.y, arrow.scale.z = _LINE_M, 2.0 * _LINE_M, 3.0 * _LINE_M
    return arrow


def _text(ns: str, at: np.ndarray, words: str, colour: Colour, top: Header) -> Marker:
    text = _marker(ns, Marker.TEXT_VIEW_FACING, colour, top)
    text.pose.position = _point(at)
    text.scale.z = _TEXT_M
    text.text = words
    return text


def _point(xyz: np.ndarray) -> Point:
    return Point(x=float(xyz[0]), y=float(xyz[1]), z=float(xyz[2]))
