# SPDX-License-Identifier: Apache-2.0
"""Safety of planned screws as messages: `planning/safety` and `planning/trajectories`. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from spine_nav_common.ros.results import key_values
from spine_planning.core.screw_guard import ScrewSafety

LIKELY = 0.05  # a screw that breaches with this probability is warned of
_LIFETIME_S = 1  # markers vanish when this node dies
_LINE_M = 0.002
_SAFE, _UNSAFE = ColorRGBA(r=0.2, g=0.9, b=0.4, a=1.0), ColorRGBA(r=1.0, g=0.7, b=0.1, a=1.0)


def safety_message(screws: Sequence[ScrewSafety], top: Header) -> DiagnosticArray:
    """A status per screw; what is not known is an empty text, and ERROR says stop."""
    return DiagnosticArray(header=top, status=[_status(s) for s in screws])


def _status(s: ScrewSafety) -> DiagnosticStatus:
    b, a = s.breach, s.advance
    values: dict[str, object] = {
        "level": s.level,
        "side": s.side,
        "stop": s.stop,
        "p_breach": None if b is None else f"{b.p:.2g}",
        "margin_mm": None if b is None else f"{b.margin_mm:.2f}",
        "sigma_mm": None if b is None else f"{b.sigma_mm:.2f}",
        "toward": None if b is None else b.toward,
        "allowed_advance_mm": "0.00" if s.stop else None if a is None else f"{a.advance_mm:.2f}",
        "allowed_speed_mm_s": "0.00" if s.stop else None if a is None else f"{a.speed_mm_s:.2f}",
        "limit": "stop" if s.stop else None if a is None else a.limit,
        "wall_mm": None if a is None else f"{a.margin_mm:.2f}",
        "needed_mm": None if a is None else f"{a.needed_mm:.2f}",
    }
    words, level = f"stop: {s.stop}", DiagnosticStatus.ERROR
    if not s.stop and b is not None:
        level = DiagnosticStatus.WARN if b.p >= LIKELY else DiagnosticStatus.OK
        words = f"breaches with {100 * b.p:.2g} %, {b.margin_mm:.1f} mm to {b.toward}"
        if a is not None:
            words += f"; the tip may go {a.advance_mm:.1f} mm"
            if a.advance_mm <= 0.0:
                level = DiagnosticStatus.WARN
    return DiagnosticStatus(
        level=level, name=f"planning: {s.name}", message=words, values=key_values(values)
    )


def trajectories_message(screws: Sequence[ScrewSafety], top: Header) -> MarkerArray:
    """DELETEALL, then a line from entry to target of every screw that is not stopped, in the camera's
    frame."""
    markers = [Marker(header=top, action=Marker.DELETEALL)]
    for i, s in enumerate(screws):
        if s.line_camera_m is None or s.breach is None:
            continue
        line = Marker(header=top, ns=f"planning/{s.name}", id=i, type=Marker.LINE_STRIP,
                      action=Marker.ADD, lifetime=Duration(sec=_LIFETIME_S))  # fmt: skip
        line.pose.orientation.w = 1.0
        line.scale.x = _LINE_M
        line.color = _UNSAFE if s.breach.p >= LIKELY else _SAFE
        line.points = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in s.line_camera_m]
        markers.append(line)
    return MarkerArray(markers=markers)
