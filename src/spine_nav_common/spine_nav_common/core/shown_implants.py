# SPDX-License-Identifier: Apache-2.0
"""Screws and rods of a pair as they are published: as fields of `screws/status` and poses of
`screws/poses` (docs/contracts.md, section 6), and back, whichever library made the message objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .geometry import check_transform, q_xyzw_from_rotation, rotation_from_q_xyzw, transform
from .implant_outputs import RodCurve, ScrewRow
from .shown import pose_of, stamp_ns_of, status_fields

SUMMARY, SCREW, ROD = "screws", "screw: ", "rod: "
"""How the statuses of screws/status are named; the last two are followed by which it is."""


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


def screw_pose(row: ScrewRow) -> np.ndarray:
    """(4, 4) of a screw's pose: its z axis along the screw, out of the bone."""
    return transform(rotation_to(row.axis, 2), row.head_m)


def screw_values(row: ScrewRow, index: int, hidden: bool) -> dict[str, object]:
    """The fields of a screw's status; index: of its pose."""
    return {
        "track_id": row.track_id,
        "level": row.level,
        "side": row.side,
        "confidence": f"{row.confidence:.4f}",
        "bound95_mm": f"{row.bound95_mm:.4f}",
        "hidden": hidden,
        "pose_index": index,
    }


def rod_values(rod: RodCurve) -> dict[str, str]:
    """The fields of a rod's status."""
    values = {
        "side": rod.side,
        "points_m": _numbers(np.asarray(rod.centreline_m).ravel(), 7),
        "sigma_mm": _numbers(rod.sigma_mm, 4),
        "seen": "".join("1" if s else "0" for s in rod.seen),
    }
    if rod.free_m is not None and rod.free_sigma_mm is not None:
        values["free_m"] = _numbers(np.asarray(rod.free_m).ravel(), 7)
        values["free_sigma_mm"] = _numbers(rod.free_sigma_mm, 4)
    return values


def events_text(events: Sequence[str]) -> str:
    """Events as one field."""
    return "; ".join(events)


def _numbers(values: Sequence[float] | np.ndarray, decimals: int) -> str:
    return " ".join(f"{float(v):.{decimals}f}" for v in values)


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


def implants_from_messages(status: Any, poses: Any | None) -> Implants:
    """The frame that a subscriber sees, joined by equal stamp and `pose_index`.

    Heads whose pose is not there (no array of that stamp) are left out, never given an older one.
    Raises ValueError for messages of another form.
    """
    stamp_ns = stamp_ns_of(status.header.stamp)
    joined = poses is not None and stamp_ns_of(poses.header.stamp) == stamp_ns
    screws: list[ScrewRow] = []
    rods: list[RodCurve] = []
    reason, events = "", _events("")
    for item in status.status:
        fields = status_fields(item)
        if item.name == SUMMARY:
            reason, events = fields["reason"], _events(fields["events"])
        elif item.name.startswith(ROD):
            rods.append(_rod(fields))
        elif joined and poses is not None:
            screws.append(_screw(stamp_ns, fields, pose_of(poses.poses[int(fields["pose_index"])])))
    hidden = frozenset(s.track_id for s in screws if not s.seen)
    return Implants(stamp_ns, tuple(screws), tuple(rods), hidden, reason, events)


def implants_as_shown(implants: Implants) -> Implants:
    """Screws and rods as whoever listens to their messages has them: an axis as that of a unit
    quaternion, and numbers with as many decimals as are sent (see `implants_from_messages`)."""
    screws = []
    for i, row in enumerate(implants.screws):
        T = check_transform(screw_pose(row), "pose to publish")
        q_xyzw = np.array([float(v) for v in q_xyzw_from_rotation(T[:3, :3])])
        T = transform(rotation_from_q_xyzw(q_xyzw), T[:3, 3])
        values = screw_values(row, i, row.track_id in implants.hidden)
        fields = {k: str(v) for k, v in values.items()}
        screws.append(_screw(implants.stamp_ns, fields, T))
    return replace(
        implants,
        screws=tuple(screws),
        rods=tuple(_rod(rod_values(rod)) for rod in implants.rods),
        events=_events(events_text(implants.events)),
    )


def _events(text: str) -> tuple[str, ...]:
    return tuple(e for e in text.split("; ") if e)


def _screw(stamp_ns: int, fields: dict[str, str], T: np.ndarray) -> ScrewRow:
    return ScrewRow(
        stamp_ns, int(fields["track_id"]), T[:3, 3], T[:3, 2], float(fields["confidence"]),
        float(fields["bound95_mm"]), fields["level"], fields["side"], fields["hidden"] != "True",
    )  # fmt: skip


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
