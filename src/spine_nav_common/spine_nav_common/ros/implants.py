# SPDX-License-Identifier: Apache-2.0
"""Screws and rods of one frame as messages and back (docs/contracts.md, section 6). Pure functions.

`screws/poses` holds the heads; `screws/status`, of equal stamp, says which head each pose is and
how well it is known, and carries the rods with their standard error, which a Path cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point, Pose, PoseArray, PoseStamped, Quaternion
from nav_msgs.msg import Path
from std_msgs.msg import Header

from spine_nav_common.core.implant_outputs import RodCurve, ScrewRow
from spine_nav_common.core.shown_implants import (
    ROD,
    SCREW,
    SUMMARY,
    Implants,
    events_text,
    implants_from_messages,
    rod_values,
    screw_pose,
    screw_values,
)

from .conversions import header, pose_message
from .results import key_values

__all__ = [
    "ImplantMessages",
    "Implants",
    "implant_messages",
    "implants_from_messages",
    "rod_path",
]


@dataclass(frozen=True)
class ImplantMessages:
    """Heads and rods of one frame; markers and paths are for viewers alone."""

    status: DiagnosticArray
    poses: PoseArray


def implant_messages(implants: Implants, frame_id: str) -> ImplantMessages:
    """Messages of a frame; a screw's pose has its z axis along the screw, out of the bone."""
    top = header(implants.stamp_ns, frame_id)
    status, poses = DiagnosticArray(header=top), PoseArray(header=top)
    status.status.append(_summary(implants))
    for row in implants.screws:
        status.status.append(_screw_status(row, len(poses.poses), row.track_id in implants.hidden))
        poses.poses.append(pose_message(screw_pose(row)))
    for i, rod in enumerate(implants.rods):
        status.status.append(_rod_status(rod, i))
    return ImplantMessages(status, poses)


def _summary(implants: Implants) -> DiagnosticStatus:
    text = f"{len(implants.screws)} heads, {len(implants.rods)} rods"
    values = {
        "heads": len(implants.screws),
        "rods": len(implants.rods),
        "reason": implants.reason,
        "events": events_text(implants.events),
    }
    return DiagnosticStatus(
        level=DiagnosticStatus.ERROR if implants.reason else DiagnosticStatus.OK,
        name=SUMMARY,
        message=implants.reason or text,
        values=key_values(values),
    )


def _screw_status(row: ScrewRow, index: int, hidden: bool) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=DiagnosticStatus.WARN if hidden else DiagnosticStatus.OK,
        name=f"{SCREW}{row.track_id}",
        message="held, not seen now" if hidden else "measured",
        values=key_values(screw_values(row, index, hidden)),
    )


def _rod_status(rod: RodCurve, index: int) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=DiagnosticStatus.OK,
        name=f"{ROD}{rod.side or index}",
        message=f"{len(rod.sigma_mm)} points, {100 * float(np.mean(rod.seen)):.0f} % seen",
        values=key_values(rod_values(rod)),
    )


def rod_path(rod: RodCurve, top: Header) -> Path:
    """The centreline as a Path; each pose's x axis lies along the rod."""
    points = np.asarray(rod.centreline_m)
    along = np.gradient(points, axis=0) if len(points) > 1 else np.tile([1.0, 0.0, 0.0], (1, 1))
    turns = _turns_of_x(
        along
    )  # all at once: a rod has a hundred points, and fifteen pairs a second
    return Path(
        header=top,
        poses=[
            PoseStamped(header=top, pose=Pose(position=Point(x=x, y=y, z=z), orientation=turn))
            for (x, y, z), turn in zip(
                points.tolist(),
                (Quaternion(x=a, y=b, z=c, w=d) for a, b, c, d in turns.tolist()),
                strict=True,
            )
        ],
    )


def _turns_of_x(directions: np.ndarray) -> np.ndarray:
    """Unit quaternions (N, 4) x, y, z, w that turn the x axis into directions (N, 3).

    Raises ValueError for a direction without length.
    """
    length = np.linalg.norm(directions, axis=1, keepdims=True)
    if not (length > 0.0).all():
        raise ValueError("a direction has no length")
    way = directions / length
    turn = np.stack([np.zeros(len(way)), -way[:, 2], way[:, 1], 1.0 + way[:, 0]], axis=1)
    turn[turn[:, 3] < 1e-9] = (0.0, 0.0, 1.0, 0.0)  # half a turn, about any axis across
    return turn / np.linalg.norm(turn, axis=1, keepdims=True)
