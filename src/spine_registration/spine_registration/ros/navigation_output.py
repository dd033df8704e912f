# SPDX-License-Identifier: Apache-2.0
"""What the navigation node publishes (docs/contracts.md, section 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from sensor_msgs.msg import Image

from spine_nav_common.core.types import NavigationResult, Status
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import header, image_message, transform_message
from spine_nav_common.ros.results import key_values, result_messages
from spine_nav_common.ros.runtime import tf_message_type


class NavigationOutput:
    """The publishers, and results as messages on them.

    Args:
        advertise: SpineNode.advertise of the node that owns the publishers.
        levels: exposed levels.
        publish_tf: whether /tf is wanted; it is there only where tf2_msgs is installed.
        tf_prefix: before the names of the vertebrae's frames.
    """

    def __init__(
        self,
        advertise: Callable[..., Any],
        levels: Iterable[str],
        publish_tf: bool,
        tf_prefix: str = "",
    ) -> None:
        self._tf_prefix = tf_prefix
        self._status = advertise(DiagnosticArray, topics.STATUS, qos.RESULT)
        self._array = advertise(PoseArray, topics.VERTEBRA_POSES, qos.RESULT)
        self._stages = advertise(DiagnosticArray, topics.LATENCY, qos.RESULT)
        self._labels = advertise(Image, topics.LABELS, qos.SENSOR_OUT)
        self._poses = {
            level: advertise(PoseWithCovarianceStamped, topics.pose_topic(level), qos.POSE)
            for level in levels
        }
        self._tf_type = tf_message_type()
        self._tf = (
            advertise(self._tf_type, "/tf", qos.RESULT) if publish_tf and self._tf_type else None
        )

    @property
    def tf_state(self) -> str:
        """For diagnostics."""
        if self._tf is not None:
            return "published"
        return "switched off" if self._tf_type else "no tf2_msgs on this machine"

    @property
    def labels_wanted(self) -> bool:
        """Whether somebody listens to the segmentation."""
        return bool(self._labels.get_subscription_count())

    @property
    def listened_to(self) -> bool:
        """Whether somebody is matched to every topic that a record of the run needs."""
        publishers = (self._status, self._array, self._stages)
        return all(p.get_subscription_count() for p in publishers)

    def publish(
        self,
        result: NavigationResult,
        frame_id: str,
        hypothesis: str | None = None,
        hypothesis_id: str | None = None,
        clock: str | None = None,
    ) -> None:
        """Poses and /tf of `tracked` levels, the array, the labels if there are any, the status."""
        messages = result_messages(result, frame_id, hypothesis, hypothesis_id, clock)
        for level, pose in messages.poses.items():
            self._poses[level].publish(pose)
        if self._tf is not None and messages.poses:
            transforms = [
                transform_message(
                    e.T_camera_ct,
                    result.stamp_ns,
                    frame_id,
                    topics.vertebra_frame(e.level, self._tf_prefix),
                )
                for e in result.levels
                if e.status is Status.TRACKED
            ]
            self._tf.publish(self._tf_type(transforms=transforms))
        self._array.publish(messages.vertebra_poses)
        self._status.publish(messages.status)  # after the others: subscribers join them to it
        if result.labels is not None:
            self._labels.publish(image_message(result.labels, "mono8", result.stamp_ns, frame_id))

    def publish_stages(self, stamp_ns: int, frame_id: str, stages_ms: Mapping[str, float]) -> None:
        """Durations of one frame's stages in ms."""
        values = {stage: f"{ms:.3f}" for stage, ms in stages_ms.items()}
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK, name="navigation: stages in ms", values=key_values(values)
        )
        self._stages.publish(DiagnosticArray(header=header(stamp_ns, frame_id), status=[status]))
