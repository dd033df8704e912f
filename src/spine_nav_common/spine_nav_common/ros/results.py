# SPDX-License-Identifier: Apache-2.0
"""A NavigationResult as messages and back (docs/contracts.md, section 6). Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Pose, PoseArray, PoseWithCovarianceStamped
from std_msgs.msg import Header

from spine_nav_common.core.shown import result_from_messages, status_fields
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status

from .conversions import header, pose_covariance, pose_message

__all__ = [
    "ResultMessages",
    "key_values",
    "result_from_messages",
    "result_messages",
    "status_fields",
]
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
