# SPDX-License-Identifier: Apache-2.0
"""What the stereo tracker node publishes (docs/contracts.md, section 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point, PoseArray
from nav_msgs.msg import Path
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from spine_nav_common.core.implant_outputs import RodCurve, ScrewRow
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import header
from spine_nav_common.ros.implants import Implants, implant_messages, rod_path
from spine_nav_common.ros.results import key_values

_LIFETIME_S = 2  # markers vanish when this node dies
_AXIS_M, _SHAFT_M, _TEXT_M, _ROD_M = 0.025, 0.002, 0.007, 0.0055
_MEASURED = ColorRGBA(r=0.25, g=0.88, b=0.47, a=0.8)
_HELD = ColorRGBA(r=1.0, g=0.69, b=0.13, a=0.6)
_ROD = ColorRGBA(r=0.35, g=0.92, b=1.0, a=0.9)
_BRIDGED = ColorRGBA(r=1.0, g=0.69, b=0.13, a=0.9)
_WHITE = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)


class StereoOutput:
    """The publishers, and results as messages on them.

    Args:
        advertise: SpineNode.advertise of the node that owns the publishers.
        rod_side: whose rod stands on rod/path; "" = the first.
    """

    def __init__(self, advertise: Callable[..., Any], rod_side: str) -> None:
        self._rod_side = rod_side
        self._status = advertise(DiagnosticArray, topics.SCREW_STATUS, qos.RESULT)
        self._poses = advertise(PoseArray, topics.SCREW_POSES, qos.RESULT)
        self._stages = advertise(DiagnosticArray, topics.SCREW_LATENCY, qos.RESULT)
        self._markers = advertise(MarkerArray, topics.SCREW_MARKERS, qos.POSE)
        self._paths = {
            side: advertise(Path, topics.rod_path_topic(side), qos.POSE)
            for side in ("left", "right")
        }
        self._path = advertise(Path, topics.ROD_PATH, qos.POSE)

    @property
    def listened_to(self) -> bool:
        """Whether somebody is matched to every topic that a record of the run needs."""
        publishers = (self._status, self._poses, self._stages)
        return all(p.get_subscription_count() for p in publishers)

    def publish(self, implants: Implants, frame_id: str) -> None:
        """Heads, rods, markers, status. What is not there is published empty, so that it goes.

        Paths and markers take a third of a pair's time: only where somebody listens."""
        messages = implant_messages(implants, frame_id)
        top = messages.poses.header
        by_side = {rod.side: rod for rod in implants.rods}
        first = implants.rods[0] if implants.rods else None
        bent = by_side.get(self._rod_side) if self._rod_side else first
        for publisher, rod in (
            *((p, by_side.get(s)) for s, p in self._paths.items()),
            (self._path, bent),
        ):
            if publisher.get_subscription_count():
                publisher.publish(Path(header=top) if rod is None else rod_path(rod, top))
        if self._markers.get_subscription_count():
            self._markers.publish(implant_markers(implants, top))
        self._poses.publish(messages.poses)
        self._status.publish(messages.status)  # after the others: subscribers join them to it

    def publish_stages(self, stamp_ns: int, frame_id: str, stages_ms: Mapping[str, float]) -> None:
        """Durations of one frame's stages in ms."""
        values = {stage: f"{ms:.3f}" for stage, ms in stages_ms.items()}
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK, name="screws: stages in ms", values=key_values(values)
        )
        self._stages.publish(DiagnosticArray(header=header(stamp_ns, frame_id), status=[status]))


def implant_markers(implants: Implants, top: Header) -> MarkerArray:
    """DELETEALL, then per head its bound (sphere), axis (arrow) and name, and every rod."""
    markers = [Marker(header=top, action=Marker.DELETEALL)]
    for row in implants.screws:
        markers += _screw_markers(row, row.track_id in implants.hidden, top)
    for i, rod in enumerate(implants.rods):
        markers.append(_rod_marker(rod, i, top))
    return MarkerArray(markers=markers)


def _screw_markers(row: ScrewRow, hidden: bool, top: Header) -> list[Marker]:
    colour = _HELD if hidden else _MEASURED
    bound = _marker("screw/bound", row.track_id, Marker.SPHERE, colour, top)
    bound.pose.position = _point(row.head_m)
    bound.scale.x = bound.scale.y = bound.scale.z = 2e-3 * row.bound95_mm
    axis = _marker("screw/axis", row.track_id, Marker.ARROW, colour, top)
    axis.points = [_point(row.head_m), _point(row.head_m + _AXIS_M * row.axis)]
    axis.scale.x, axis.scale.y, axis.scale.z = _SHAFT_M, 2.0 * _SHAFT_M, 3.0 * _SHAFT_M
    text = _marker("screw/name", row.track_id, Marker.TEXT_VIEW_FACING, _WHITE, top)
    text.pose.position = _point(row.head_m + 1.3 * _AXIS_M * row.axis)
    text.scale.z = _TEXT_M
    name = " ".join(t for t in (row.level, row.side) if t) or f"head {row.track_id}"
    held = ", held" if hidden else ""
    text.text = f"{name}  95 % within {row.bound95_mm:.1f} mm{held}"
    return [bound, axis, text]


def _rod_marker(rod: RodCurve, index: int, top: Header) -> Marker:
    line = _marker(f"rod/{rod.side or 'unknown'}", index, Marker.LINE_STRIP, _ROD, top)
    line.scale.x = _ROD_M
    line.points = [_point(p) for p in rod.centreline_m]
    line.colors = [_ROD if seen else _BRIDGED for seen in rod.seen]
    return line


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
