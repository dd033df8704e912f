# SPDX-License-Identifier: Apache-2.0
"""Screws and rods of one frame as messages and back (docs/contracts.md, section 6). Pure functions.

`screws/poses` holds the heads; `screws/status`, of equal stamp, says which head each pose is and
how well it is known, and carries the rods with their standard error, which a Path cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point, Pose, PoseArray, PoseStamped, Quaternion
from nav_msgs.msg import Path
from std_msgs.msg import Header

from spine_nav_common.core.geometry import transform
from spine_nav_common.core.implant_outputs import RodCurve, ScrewRow

from .conversions import header, pose_array, pose_message, stamp_to_ns
from .results import key_values, status_fields

_SUMMARY, _SCREW, _ROD = "screws", "screw: ", "rod: "


@dataclass(frozen=True)
class Implants:
    """Screws and rods of one frame. hidden: track ids that are held, not seen in this frame;
    reason: why nothing is shown ("" = it is); events in words."""

    stamp_ns: int
    screws: tuple[ScrewRow, ...] = ()
    rods: tuple[RodCurve, ...] = ()
    hidden: frozenset[int] = frozenset()
    reason: str = ""
    events: tuple[str, ...] = ()


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
        poses.poses.append(pose_message(transform(rotation_to(row.axis, 2), row.head_m)))
    for i, rod in enumerate(implants.rods):
        status.status.append(_rod_status(rod, i))
    return ImplantMessages(status, poses)


def _summary(implants: Implants) -> DiagnosticStatus:
    text = f"{len(implants.screws)} heads, {len(implants.rods)} rods"
    values = {
        "heads": len(implants.screws),
        "rods": len(implants.rods),
        "reason": implants.reason,
        "events": "; ".join(implants.events),
    }
    return DiagnosticStatus(
        level=DiagnosticStatus.ERROR if implants.reason else DiagnosticStatus.OK,
        name=_SUMMARY,
        message=implants.reason or text,
        values=key_values(values),
    )


def _screw_status(row: ScrewRow, index: int, hidden: bool) -> DiagnosticStatus:
    values = {
        "track_id": row.track_id,
        "level": row.level,
        "side": row.side,
        "confidence": f"{row.confidence:.4f}",
        "bound95_mm": f"{row.bound95_mm:.4f}",
        "hidden": hidden,
        "pose_index": index,
    }
    return DiagnosticStatus(
        level=DiagnosticStatus.WARN if hidden else DiagnosticStatus.OK,
        name=f"{_SCREW}{row.track_id}",
        message="held, not seen now" if hidden else "measured",
        values=key_values(values),
    )


def _rod_status(rod: RodCurve, index: int) -> DiagnosticStatus:
    values = {
        "side": rod.side,
        "points_m": _numbers(np.asarray(rod.centreline_m).ravel(), 7),
        "sigma_mm": _numbers(rod.sigma_mm, 4),
        "seen": "".join("1" if s else "0" for s in rod.seen),
    }
    if rod.free_m is not None and rod.free_sigma_mm is not None:
        values["free_m"] = _numbers(np.asarray(rod.free_m).ravel(), 7)
        values["free_sigma_mm"] = _numbers(rod.free_sigma_mm, 4)
    return DiagnosticStatus(
        level=DiagnosticStatus.OK,
        name=f"{_ROD}{rod.side or index}",
        message=f"{len(rod.sigma_mm)} points, {100 * float(np.mean(rod.seen)):.0f} % seen",
        values=key_values(values),
    )


def _numbers(values: Sequence[float] | np.ndarray, decimals: int) -> str:
    return " ".join(f"{float(v):.{decimals}f}" for v in values)


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


def rotation_to(direction: np.ndarray, axis: int) -> np.ndarray:
    """A rotation (3, 3) whose column `axis` points along direction (3,); the turn about it is free.

    Raises ValueError for a direction without length.
    """
    length = float(np.linalg.norm(direction))
    if not length > 0.0:
        raise ValueError("a direction has no length")
    first = np.asarray(direction, dtype=np.float64) / length
    second = np.cross(np.eye(3)[int(np.abs(first).argmin())], first)
    second = second / np.linalg.norm(second)
    columns = np.stack([first, second, np.cross(first, second)], axis=1)
    return np.roll(columns, axis, axis=1)


def implants_from_messages(status: DiagnosticArray, poses: PoseArray | None) -> Implants:
    """The frame that a subscriber sees, joined by equal stamp and `pose_index`.

    Heads whose pose is not there (no array of that stamp) are left out, never given an older one.
    Raises ValueError for messages of another form.
    """
    stamp_ns = stamp_to_ns(status.header.stamp)
    joined = poses is not None and stamp_to_ns(poses.header.stamp) == stamp_ns
    screws: list[ScrewRow] = []
    rods: list[RodCurve] = []
    hidden: set[int] = set()
    reason, events = "", ()
    for item in status.status:
        fields = status_fields(item)
        if item.name == _SUMMARY:
            reason = fields["reason"]
            events = tuple(e for e in fields["events"].split("; ") if e)
        elif item.name.startswith(_ROD):
            rods.append(_rod(fields))
        elif joined and poses is not None:
            T = pose_array(poses.poses[int(fields["pose_index"])])
            track_id, held = int(fields["track_id"]), fields["hidden"] == "True"
            hidden |= {track_id} if held else set()
            screws.append(
                ScrewRow(
                    stamp_ns, track_id, T[:3, 3], T[:3, 2], float(fields["confidence"]),
                    float(fields["bound95_mm"]), fields["level"], fields["side"], not held,
                )
            )  # fmt: skip
    return Implants(stamp_ns, tuple(screws), tuple(rods), frozenset(hidden), reason, events)


def _rod(fields: dict[str, str]) -> RodCurve:
    def numbers(name: str) -> np.ndarray:
        return np.array([float(v) for v in fields[name].split()])

    points, sigma = numbers("points_m").reshape(-1, 3), numbers("sigma_mm")
    seen = np.array([c == "1" for c in fields["seen"]], dtype=bool)
    free = numbers("free_m").reshape(-1, 3) if "free_m" in fields else None
    free_sigma = numbers("free_sigma_mm") if "free_sigma_mm" in fields else None
    rod = RodCurve(fields["side"], points, sigma, seen, free, free_sigma)
    rod.check()
    return rod
