# SPDX-License-Identifier: Apache-2.0
"""Takes back, in place of a node that died or hangs, what that node has shown.

A dead node cannot delete its markers, a frozen one not its last picture. What it published goes to
whoever listens as it would have told it itself: lost with the reason, deleted, wiped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseArray
from nav_msgs.msg import Path
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image
from visualization_msgs.msg import Marker, MarkerArray

from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import image_message, jpeg_message, stamp_to_ns
from spine_nav_common.ros.implants import Implants, implant_messages
from spine_nav_common.ros.results import key_values, status_fields

_SIZE = (480, 640)
_KEPT = ("rejected", "searching", "lost")


class Withdrawal:
    """Publishers of everything that a supervised node may have left on a screen."""

    def __init__(self, node: Node, names: tuple[str, ...]) -> None:
        self._node = node
        self._last: dict[str, bytes] = {}
        self._ways: dict[str, Callable[[str], None]] = {}
        makers = {
            "navigation": self._for_navigation,
            "case_server": self._for_case_server,
            "overlay": self._for_overlay,
            "stereo_overlay": partial(
                self._for_pictures, topics.SCREW_OVERLAY, topics.SCREW_OVERLAY_COMPRESSED
            ),
            "stereo_tracker": self._for_stereo,
            "rod_guidance": self._for_guidance,
        }
        for name in names:
            if name in makers:
                self._ways[name] = makers[name]()

    def of(self, name: str, reason: str) -> None:
        """Take back what the node of that name has shown."""
        if name in self._ways:
            self._ways[name](reason)

    def _publisher(self, kind: type, topic: str, profile: Any) -> Any:
        return self._node.create_publisher(kind, topic, profile)

    def _remember(self, kind: type, topic: str) -> None:
        """The newest message as bytes; it is read only when it must be taken back."""
        self._node.create_subscription(
            kind, topic, lambda raw: self._last.__setitem__(topic, raw), qos.POSE, raw=True
        )

    def _for_navigation(self) -> Callable[[str], None]:
        self._remember(DiagnosticArray, topics.STATUS)
        array = self._publisher(PoseArray, topics.VERTEBRA_POSES, qos.RESULT)
        status = self._publisher(DiagnosticArray, topics.STATUS, qos.RESULT)

        def withdraw(reason: str) -> None:
            if topics.STATUS not in self._last:
                return  # nothing was ever shown
            message = lost(deserialize_message(self._last[topics.STATUS], DiagnosticArray), reason)
            array.publish(PoseArray(header=message.header))
            status.publish(message)

        return withdraw

    def _for_stereo(self) -> Callable[[str], None]:
        self._remember(DiagnosticArray, topics.SCREW_STATUS)
        status = self._publisher(DiagnosticArray, topics.SCREW_STATUS, qos.RESULT)
        poses = self._publisher(PoseArray, topics.SCREW_POSES, qos.RESULT)
        markers = self._publisher(MarkerArray, topics.SCREW_MARKERS, qos.POSE)
        paths = [
            self._publisher(Path, topic, qos.POSE)
            for topic in (*map(topics.rod_path_topic, ("left", "right")), topics.ROD_PATH)
        ]

        def withdraw(reason: str) -> None:
            if topics.SCREW_STATUS not in self._last:
                return
            top = deserialize_message(self._last[topics.SCREW_STATUS], DiagnosticArray).header
            empty = implant_messages(Implants(stamp_to_ns(top.stamp), reason=reason), top.frame_id)
            for path in paths:
                path.publish(Path(header=top))
            markers.publish(_delete_all())
            poses.publish(empty.poses)
            status.publish(empty.status)

        return withdraw

    def _for_case_server(self) -> Callable[[str], None]:
        out = [
            self._publisher(MarkerArray, topic, qos.LATCHED)
            for topic in (topics.TRAJECTORIES, topics.VERTEBRAE)
        ]
        return lambda reason: [p.publish(_delete_all()) for p in out] and None

    def _for_guidance(self) -> Callable[[str], None]:
        self._remember(DiagnosticArray, topics.BENDING_STATUS)
        markers = self._publisher(MarkerArray, topics.BENDING, qos.LATCHED)
        status = self._publisher(DiagnosticArray, topics.BENDING_STATUS, qos.STATE)

        def withdraw(reason: str) -> None:
            markers.publish(_delete_all())
            if topics.BENDING_STATUS in self._last:
                last = deserialize_message(self._last[topics.BENDING_STATUS], DiagnosticArray)
                status.publish(bending_withdrawn(last, reason))

        return withdraw

    def _for_overlay(self) -> Callable[[str], None]:
        """Strokes have no message that deletes all; they live a second."""
        ways = [
            self._for_pictures(topics.OVERLAY, topics.OVERLAY_COMPRESSED),
            self._for_pictures(topics.BULLS_EYE, topics.BULLS_EYE_COMPRESSED),
        ]
        markers = self._publisher(MarkerArray, topics.OVERLAY_MARKERS, qos.POSE)

        def withdraw(reason: str) -> None:
            markers.publish(_delete_all())
            for way in ways:
                way(reason)

        return withdraw

    def _for_pictures(self, topic: str, compressed: str) -> Callable[[str], None]:
        raw = self._publisher(Image, topic, qos.SENSOR_OUT)
        jpeg = self._publisher(CompressedImage, compressed, qos.SENSOR_OUT)

        def withdraw(reason: str) -> None:
            if not (raw.get_subscription_count() or jpeg.get_subscription_count()):
                return
            picture = blank_picture(reason)
            now_ns = self._node.get_clock().now().nanoseconds
            raw.publish(image_message(picture, "rgb8", now_ns, ""))
            jpeg.publish(jpeg_message(encoded(picture), now_ns, ""))

        return withdraw


def lost(last: DiagnosticArray, reason: str) -> DiagnosticArray:
    """The same stamp and levels, none with a pose, all with the reason."""
    out = DiagnosticArray(header=last.header)
    for item in last.status:
        fields = dict(status_fields(item))
        fields["status"] = fields["status"] if fields["status"] in _KEPT else "lost"
        fields |= {"reason": reason, "pose_index": "-1", "predicted_tre_mm": "", "held_pose": ""}
        fields |= {k: "" for k in ("hypothesis", "hypothesis_id") if k in fields}
        out.status.append(
            DiagnosticStatus(
                level=DiagnosticStatus.ERROR,
                name=item.name,
                message=reason,
                values=key_values(fields),
            )
        )
    return out


def bending_withdrawn(last: DiagnosticArray, reason: str) -> DiagnosticArray:
    """Every side waiting, without plan or step."""
    from rod_bending_ar.ros.rod_guidance import WITHDRAWN

    sides = [status_fields(item)["side"] for item in last.status]
    return DiagnosticArray(
        header=last.header,
        status=[
            DiagnosticStatus(
                level=DiagnosticStatus.WARN,
                name=f"rod: {side}",
                message=WITHDRAWN + reason,
                values=key_values({"side": side, "state": "waiting", "text": WITHDRAWN + reason}),
            )
            for side in sides
        ],
    )


def blank_picture(reason: str) -> np.ndarray:
    """A picture (H, W, 3) that shows nothing but the reason."""
    import cv2

    picture = np.full((*_SIZE, 3), 24, np.uint8)
    for i, line in enumerate(("NO GUIDANCE", reason)):
        scale = 0.9 - 0.35 * i
        at = (24, _SIZE[0] // 2 + 44 * i)
        cv2.putText(picture, line[:70], at, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 96, 80), 2, 16)
    return picture


def encoded(picture: np.ndarray) -> bytes:
    """JPEG of an RGB picture."""
    import cv2

    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return jpeg.tobytes()


def _delete_all() -> MarkerArray:
    return MarkerArray(markers=[Marker(action=Marker.DELETEALL)])
