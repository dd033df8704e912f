# SPDX-License-Identifier: Apache-2.0
"""A NavigationResult as messages and back (docs/contracts.md, section 6). Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Pose, PoseArray, PoseWithCovarianceStamped
from std_msgs.msg import Header

from spine_nav_common.core.geometry import rotation_from_q_xyzw, transform
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status

from .conversions import header, pose_array, pose_covariance, pose_message, stamp_to_ns

_SEVERITY = {
    Status.TRACKED: DiagnosticStatus.OK,
    Status.REGISTERING: DiagnosticStatus.WARN,
    Status.SEARCHING: DiagnosticStatus.WARN,
    Status.OCCLUDED: DiagnosticStatus.WARN,
    Status.LOST: DiagnosticStatus.ERROR,
    Status.REJECTED: DiagnosticStatus.ERROR,
}


@dataclass(frozen=True)
class ResultMessages:
    """Everything that one result publishes. Poses of `tracked` levels only."""

    status: DiagnosticArray
    vertebra_poses: PoseArray
    poses: dict[str, PoseWithCovarianceStamped]


def key_values(values: dict[str, object]) -> list[KeyValue]:
    """Diagnostic values; None becomes an empty text."""
    return [KeyValue(key=k, value="" if v is None else str(v)) for k, v in values.items()]


def result_messages(
    result: NavigationResult,
    frame_id: str,
    hypothesis: str | None = None,
    hypothesis_id: str | None = None,
    clock: str | None = None,
) -> ResultMessages:
    """Messages of a result. Poses, PoseArray and (by the node) TF hold `tracked` levels only, so
    that no viewer can draw a held pose as live; an `occluded` level's pose stands as text
    (`held_pose`: tx ty tz qx qy qz qw) in its status, for logs.

    Args:
        result: of one frame; its stamp is the image's.
        frame_id: optical frame of the camera.
        hypothesis: what `confirm_level` would accept or reject, named in every level's status.
        hypothesis_id: by which an answer names it.
        clock: whose clock the stamp is of (see StreamClock.domain).
    """
    top = header(result.stamp_ns, frame_id)
    status = DiagnosticArray(header=top)
    array = PoseArray(header=top)
    poses: dict[str, PoseWithCovarianceStamped] = {}
    for estimate in result.levels:
        index, held = -1, None
        if estimate.T_camera_ct is not None:
            pose = pose_message(estimate.T_camera_ct)
            if estimate.status is Status.TRACKED:
                index = len(array.poses)
                array.poses.append(pose)
                poses[estimate.level] = _pose_with_covariance(estimate, pose, top)
            else:
                held = _pose_text(pose)
        values = {
            "level": estimate.level,
            "status": estimate.status.value,
            "reason": estimate.reason,
            "predicted_tre_mm": _number(estimate.predicted_tre_mm),
            "pose_index": index,
            "held_pose": held,
            "hypothesis": hypothesis,
            "hypothesis_id": hypothesis_id,
            "clock": clock,
            "identity": result.identity,
            "identity_margin_nat": _number(result.identity_margin_nat),
        }
        status.status.append(
            DiagnosticStatus(
                level=_SEVERITY[estimate.status],
                name=f"registration: {estimate.level}",
                message=estimate.reason or estimate.status.value,
                hardware_id="",
                values=key_values(values),
            )
        )
    return ResultMessages(status, array, poses)


def _pose_text(pose: Pose) -> str:
    p, o = pose.position, pose.orientation
    return " ".join(repr(v) for v in (p.x, p.y, p.z, o.x, o.y, o.z, o.w))


def _pose_from_text(text: str) -> np.ndarray:
    values = np.array([float(v) for v in text.split()])
    return transform(rotation_from_q_xyzw(values[3:]), values[:3])


def _number(value: float | None) -> str | None:
    return None if value is None else repr(round(float(value), 4))


def _pose_with_covariance(
    estimate: LevelEstimate, pose: Pose, top: Header
) -> PoseWithCovarianceStamped:
    message = PoseWithCovarianceStamped(header=top)
    message.pose.pose = pose
    if estimate.covariance is not None:
        covariance = estimate.covariance
        if estimate.anchor_camera_m is not None:
            covariance = pose_covariance(covariance, estimate.T_camera_ct, estimate.anchor_camera_m)
        message.pose.covariance = np.asarray(covariance, dtype=np.float64).reshape(36)
    return message


def status_fields(status: DiagnosticStatus) -> dict[str, str]:
    """The key-value pairs of one level's status."""
    return {pair.key: pair.value for pair in status.values}


def result_from_messages(status: DiagnosticArray, poses: PoseArray | None) -> NavigationResult:
    """The result that a subscriber sees, joined by equal stamp and `pose_index`.

    A `tracked` level whose pose is not there (no array of that stamp, or index -1) is given as
    `lost`, never with an older pose.
    """
    stamp_ns = stamp_to_ns(status.header.stamp)
    joined = poses is not None and stamp_to_ns(poses.header.stamp) == stamp_ns
    levels = []
    for item in status.status:
        fields = status_fields(item)
        index = int(fields["pose_index"])
        state, reason = Status(fields["status"]), fields["reason"]
        T = None
        if state is Status.OCCLUDED and fields.get("held_pose"):
            T = _pose_from_text(fields["held_pose"])
        elif state is Status.TRACKED:
            if joined and 0 <= index < len(poses.poses):
                T = pose_array(poses.poses[index])
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
