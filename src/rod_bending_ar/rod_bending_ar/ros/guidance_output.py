# SPDX-License-Identifier: Apache-2.0
"""Bending guidance as messages: markers for the screen, statuses for whoever counts on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from rod_bending_ar.core.bender import step_text
from rod_bending_ar.core.forward import BendStep, arc_positions_mm, point_at
from rod_bending_ar.core.guidance import SideGuidance
from rod_bending_ar.core.planned import PlannedRod, planned_from_fields, rod_words
from spine_nav_common.core.geometry import transform_points
from spine_nav_common.ros.results import key_values, status_fields

_LIFETIME_S = 2  # markers vanish when this node dies
_LINE_M, _BEND_M, _TEXT_M, _SHAFT_M = 0.002, 0.006, 0.006, 0.0015
_TARGET = ColorRGBA(r=1.0, g=0.51, b=0.86, a=0.9)
_GOOD = ColorRGBA(r=0.25, g=0.88, b=0.47, a=1.0)
_OFF = ColorRGBA(r=1.0, g=0.38, b=0.31, a=1.0)
_NEXT = ColorRGBA(r=1.0, g=0.84, b=0.2, a=1.0)
_WHITE = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
_TARGET_NS = "/target"  # namespace of the marker of a side's target curve
_SEVERITY = {
    "waiting": DiagnosticStatus.WARN,
    "refused": DiagnosticStatus.ERROR,
    "planned": DiagnosticStatus.OK,
    "bending": DiagnosticStatus.WARN,
    "good": DiagnosticStatus.OK,
}


def guidance_status(
    guidance: Sequence[SideGuidance], top: Header, told: Mapping[str, str] | None = None
) -> DiagnosticArray:
    """One status per side: state, text, the plan's steps, how far the rod is off, the question that
    is open, and what was answered last (`told`, by side)."""
    told = told or {}
    return DiagnosticArray(
        header=top, status=[_side_status(g, told.get(g.side, "")) for g in guidance]
    )


def _side_status(g: SideGuidance, told: str) -> DiagnosticStatus:
    values: dict[str, object] = {"side": g.side, "state": g.state, "text": g.text}
    if g.plan is not None:
        values |= {
            "rod": rod_words(g.plan),
            "length_mm": f"{g.plan.length_mm:.1f}",
            "steps": len(g.plan.steps),
            "steps_done": g.steps_done,
            **{f"step {s.n}": step_text(s) for s in g.plan.steps},
            "warnings": "; ".join(g.plan.warnings),
        }
    if g.comparison is not None:
        values |= {"gap_mm": f"{g.comparison.gaps_mm.max():.2f}", "worst": g.comparison.worst}
        if g.comparison.next_bend is not None:
            values["next"] = step_text(g.comparison.next_bend)
    if g.question is not None:
        values |= {
            "question_id": g.question.id,
            "question": g.question.text,
            "question_levels": ",".join(g.question.levels),
        }
    if told:
        values["told"] = told
    return DiagnosticStatus(
        level=_SEVERITY[g.state], name=f"rod: {g.side}", message=g.text, values=key_values(values)
    )


def guidance_markers(guidance: Sequence[SideGuidance], top: Header) -> MarkerArray:
    """DELETEALL, then per side the target curve, its bends, the gaps, the next bend and a line.

    Only plans that hold now are drawn, moved with the heads that they belong to.
    """
    markers = [Marker(header=top, action=Marker.DELETEALL)]
    for g in guidance:
        if g.plan is not None and g.T_now_plan is not None:
            markers += _side_markers(g, top)
    return MarkerArray(markers=markers)


def _side_markers(g: SideGuidance, top: Header) -> list[Marker]:
    plan, T = g.plan, g.T_now_plan
    assert plan is not None and T is not None
    curve = transform_points(T, plan.centreline_mm) * 1e-3
    target = _marker(f"{g.side}{_TARGET_NS}", 0, Marker.LINE_STRIP, _TARGET, top)
    target.scale.x = _LINE_M
    target.points = [_point(p) for p in curve]
    markers = [target]
    arc = arc_positions_mm(plan.centreline_mm)
    for step in plan.steps:
        at = point_at(curve, arc, np.array([step.feed_mm]))[0]
        done = step.n <= g.steps_done
        colour = _GOOD if done else _TARGET
        markers += _named(f"{g.side}/bend", step.n, at, step_text(step), colour, top)
    if g.comparison is not None:
        saddles = transform_points(T, plan.saddles_mm) * 1e-3
        vectors = g.comparison.vectors_mm @ T[:3, :3].T * 1e-3
        for i, (saddle, vector) in enumerate(zip(saddles, vectors, strict=True)):
            markers += _gap(g.side, i, saddle, vector, plan.order.gap_limit_mm, top)
        if g.comparison.next_bend is not None and g.rod is not None:
            markers += _next(g.side, g.comparison.next_bend, g.rod.centreline_m, top)
    line = _marker(f"{g.side}/text", 0, Marker.TEXT_VIEW_FACING, _WHITE, top)
    line.color = _GOOD if g.state == "good" else _WHITE
    line.pose.position = _point(curve[-1] + 3.0 * _TEXT_M * _away(curve))
    line.scale.z = 1.3 * _TEXT_M
    line.text = f"{g.side}: {g.text}"
    return [*markers, line]


def has_plan(status: DiagnosticArray) -> bool:
    """Whether a side has a plan, whose curve stands in the markers of the same stamp."""
    return any("steps" in status_fields(item) for item in status.status)


def planned_rods(status: DiagnosticArray, markers: MarkerArray) -> tuple[PlannedRod, ...]:
    """What both messages of one stamp say, every side once; a curve where one is drawn.

    Raises ValueError, KeyError for messages of another form.
    """
    curves = {
        m.ns: np.array([[p.x, p.y, p.z] for p in m.points])
        for m in markers.markers
        if m.action == Marker.ADD and m.ns.endswith(_TARGET_NS) and len(m.points) > 1
    }
    sides = [status_fields(item) for item in status.status]
    return tuple(planned_from_fields(f, curves.get(f["side"] + _TARGET_NS)) for f in sides)


def _away(curve: np.ndarray) -> np.ndarray:
    way = curve[-1] - curve[0]
    return way / max(float(np.linalg.norm(way)), 1e-9)


def _gap(
    side: str, number: int, saddle: np.ndarray, vector: np.ndarray, limit_mm: float, top: Header
) -> list[Marker]:
    """From rod axis to saddle, with the distance where it is above the limit."""
    gap_mm = 1e3 * float(np.linalg.norm(vector))
    off = gap_mm > limit_mm
    line = _marker(f"{side}/gap", number, Marker.LINE_STRIP, _OFF if off else _GOOD, top)
    line.scale.x = _SHAFT_M
    line.points = [_point(saddle - vector), _point(saddle)]
    if not off:
        return [line]
    text = _marker(f"{side}/gap/text", number, Marker.TEXT_VIEW_FACING, _OFF, top)
    text.pose.position = _point(saddle)
    text.scale.z = _TEXT_M
    text.text = f"{gap_mm:.1f} mm off"
    return [line, text]


def _next(side: str, step: BendStep, centreline_m: np.ndarray, top: Header) -> list[Marker]:
    """Where on the real rod the next bend goes; the centreline begins at the cranial end."""
    caudal_first = centreline_m[::-1]
    arc = arc_positions_mm(caudal_first * 1e3)
    at = point_at(caudal_first, arc, np.array([step.feed_mm]))[0]
    return _named(f"{side}/next", 0, at, f"next: {step_text(step)}", _NEXT, top)


def _named(
    ns: str, number: int, at: np.ndarray, words: str, colour: ColorRGBA, top: Header
) -> list[Marker]:
    ball = _marker(ns, number, Marker.SPHERE, colour, top)
    ball.pose.position = _point(at)
    ball.scale.x = ball.scale.y = ball.scale.z = _BEND_M
    text = _marker(f"{ns}/text", number, Marker.TEXT_VIEW_FACING, _WHITE, top)
    text.pose.position = _point(at)
    text.scale.z = _TEXT_M
    text.text = words
    return [ball, text]


def _marker(ns: str, number: int, kind: int, colour: ColorRGBA, top: Header) -> Marker:
    marker = Marker(
        header=top,
        ns=ns,
        id=number,
        type=kind,
        action=Marker.ADD,
        color=colour,
        lifetime=Duration(sec=_LIFETIME_S),
    )
    marker.pose.orientation.w = 1.0
    return marker


def _point(xyz: np.ndarray) -> Point:
    return Point(x=float(xyz[0]), y=float(xyz[1]), z=float(xyz[2]))
