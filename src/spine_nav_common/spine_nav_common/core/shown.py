# SPDX-License-Identifier: Apache-2.0
"""A result as it was published: out of `registration/status` and `vertebra_poses` (docs/contracts.md,
section 6), whichever library made the message objects, and what publishing makes of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .geometry import check_transform, q_xyzw_from_rotation, rotation_from_q_xyzw, transform
from .types import LevelEstimate, NavigationResult, Status


def stamp_ns_of(stamp: Any) -> int:
    """Nanoseconds of a message's stamp."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def as_shown(result: NavigationResult) -> NavigationResult:
    """A result as whoever listens to its messages has it: poses as a unit quaternion and back, and
    the bound with four decimals (see `result_from_messages`)."""
    return replace(result, levels=tuple(_as_shown(e) for e in result.levels))


def _as_shown(e: LevelEstimate) -> LevelEstimate:
    T, bound = e.T_camera_ct, e.predicted_tre_mm
    if T is not None:
        T = check_transform(T, f"pose of {e.level}")
        q_xyzw = np.array([float(v) for v in q_xyzw_from_rotation(T[:3, :3])])
        T = transform(rotation_from_q_xyzw(q_xyzw), T[:3, 3])
    if bound is not None:
        bound = float(repr(round(float(bound), 4))) if T is not None else None
    return LevelEstimate(e.level, e.status, T, predicted_tre_mm=bound, reason=e.reason)


def _pose_from_text(text: str) -> np.ndarray:
    values = np.array([float(v) for v in text.split()])
    return transform(rotation_from_q_xyzw(values[3:]), values[:3])


def pose_of(pose: Any) -> np.ndarray:
    """(4, 4) of a pose message. Raises ValueError for a quaternion without length."""
    o, p = pose.orientation, pose.position
    return transform(
        rotation_from_q_xyzw(np.array([o.x, o.y, o.z, o.w])), np.array([p.x, p.y, p.z])
    )


def status_fields(status: Any) -> dict[str, str]:
    """The key-value pairs of one level's status."""
    return {pair.key: pair.value for pair in status.values}


def result_from_messages(status: Any, poses: Any | None) -> NavigationResult:
    """The result that a subscriber sees, joined by equal stamp and `pose_index`.

    A `tracked` level whose pose is not there (no array of that stamp, or index -1) is given as
    `lost`, never with an older pose.
    """
    stamp_ns = stamp_ns_of(status.header.stamp)
    joined = poses is not None and stamp_ns_of(poses.header.stamp) == stamp_ns
    levels = []
    for item in status.status:
        fields = status_fields(item)
        index = int(fields["pose_index"])
        state, reason = Status(fields["status"]), fields["reason"]
        T = None
        if state is Status.OCCLUDED and fields.get("held_pose"):
            T = _pose_from_text(fields["held_pose"])
        elif state is Status.TRACKED:
            if joined and poses is not None and 0 <= index < len(poses.poses):
                T = pose_of(poses.poses[index])
            else:
                state, reason = Status.LOST, "no pose with this stamp"
        tre = fields["predicted_tre_mm"]
        levels.append(
            LevelEstimate(
                level=fields["level"],
                status=state,
                T_camera_ct=T,
                predicted_tre_mm=float(tre) if tre and T is not None else None,
                reason=reason,
            )
        )
    first = status_fields(status.status[0]) if status.status else {}
    margin = first.get("identity_margin_nat")
    return NavigationResult(
        stamp_ns, tuple(levels), identity=first.get("identity", "unknown"),
        identity_margin_nat=float(margin) if margin else None,
    )  # fmt: skip
