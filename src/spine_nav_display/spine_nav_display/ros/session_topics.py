# SPDX-License-Identifier: Apache-2.0
"""Which topics a session's record holds, and as what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from nav_msgs.msg import Path
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, TimeReference
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from spine_nav_common.parameters import param
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.frames import image_type
from spine_nav_common.ros.runtime import tf_message_type


@dataclass(frozen=True)
class Recorded:
    """A topic of the record. name: in the record; picture: it may be left out, see Stream."""

    kind: type
    topic: str
    name: str
    profile: QoSProfile
    picture: bool = False
    of_camera: bool = False


@dataclass(frozen=True)
class Cameras:
    """Where the pictures come from; an empty name is a camera that is not there."""

    colour_topic: str = param("", "colour image; empty = no RGB-D camera")
    depth_topic: str = param(topics.DEPTH, "depth image on the colour image's pixel grid")
    info_topic: str = param(topics.COLOUR_INFO, "camera_info of the colour image")
    depth_info_topic: str = param(topics.DEPTH_INFO, "camera_info of the depth image")
    left_topic: str = param("", "left image; empty = no stereo camera")
    right_topic: str = param(topics.RIGHT, "right image")
    left_info_topic: str = param(topics.LEFT_INFO, "camera_info of the left image")
    right_info_topic: str = param(topics.RIGHT_INFO, "camera_info of the right image")


@dataclass(frozen=True)
class SessionRecorderConfig:
    """Parameters of the recorder."""

    session: str = param("", "folder of the session, as `live --session` has made it")
    levels: tuple[str, ...] = param(("",), "exposed levels, whose poses are recorded")
    image_reliability: str = param(
        "best_effort", qos.IMAGE_RELIABILITY_DOC, choices=qos.IMAGE_RELIABILITIES
    )
    private: tuple[str, ...] = param(
        ("",), "texts that must not get into the record, such as the user's folders"
    )
    cameras: Cameras = field(default_factory=Cameras)


def pictures(config: SessionRecorderConfig) -> list[Recorded]:
    """Images and camera_infos, under the names of docs/contracts.md, section 2."""
    c, profile = config.cameras, qos.images_kept(config.image_reliability)
    found: list[Recorded] = []

    def camera(images: Sequence[tuple[str, str]], infos: Sequence[tuple[str, str]]) -> None:
        for topic, name in images:
            packed = topic.rsplit("/", 1)[-1]
            full = f"{name}/{packed}" if packed in ("compressed", "compressedDepth") else name
            found.append(Recorded(image_type(topic), topic, full, profile, True, True))
        for topic, name in infos:
            found.append(Recorded(CameraInfo, topic, name, qos.RESULT, of_camera=True))

    if c.colour_topic:
        camera(
            ((c.colour_topic, topics.COLOUR), (c.depth_topic, topics.DEPTH)),
            ((c.info_topic, topics.COLOUR_INFO), (c.depth_info_topic, topics.DEPTH_INFO)),
        )
    if c.left_topic:
        # A raw image keeps its name: it is rectified by whoever reads it.
        last = c.left_topic.removesuffix("/compressed").rsplit("/", 1)[-1]
        left = topics.LEFT if last != "image_raw" else "/stereo/left/image_raw"
        camera(
            ((c.left_topic, left), (c.right_topic, left.replace("left", "right"))),
            ((c.left_info_topic, topics.LEFT_INFO), (c.right_info_topic, topics.RIGHT_INFO)),
        )
    return found


def events(namespace: str, levels: Sequence[str]) -> list[Recorded]:
    """All else. What is relative stands under the namespace of the nodes in the record too."""
    given = [
        (String, topics.JOURNAL, qos.JOURNAL),
        (String, topics.SCREW_JOURNAL, qos.JOURNAL),
        (String, topics.DISPLAY_EVENTS, qos.RESULT),
        (String, topics.PLAN_STATE, qos.LATCHED),
        (String, topics.PLAN_PROPOSAL, qos.RESULT),
        (DiagnosticArray, topics.STATUS, qos.RESULT),
        (PoseArray, topics.VERTEBRA_POSES, qos.RESULT),
        (DiagnosticArray, topics.LATENCY, qos.RESULT),
        (DiagnosticArray, topics.CHECK, qos.LATCHED),
        *((PoseWithCovarianceStamped, topics.pose_topic(v), qos.RESULT) for v in levels if v),
        (PoseArray, topics.SCREW_POSES, qos.RESULT),
        (DiagnosticArray, topics.SCREW_STATUS, qos.RESULT),
        (DiagnosticArray, topics.SCREW_LATENCY, qos.RESULT),
        (Path, topics.ROD_PATH, qos.RESULT),
        *((Path, topics.rod_path_topic(side), qos.RESULT) for side in ("left", "right")),
        (MarkerArray, topics.BENDING, qos.RESULT),
        (DiagnosticArray, topics.BENDING_STATUS, qos.RESULT),
        (MarkerArray, topics.TRAJECTORIES, qos.LATCHED),
        (TimeReference, topics.CAMERA_CLOCK, qos.LATCHED),
        (DiagnosticArray, topics.HEALTH, qos.LATCHED),
        (DiagnosticArray, topics.GONE, qos.LATCHED),
        (DiagnosticArray, "/diagnostics", qos.RESULT),
    ]
    tf = tf_message_type()
    if tf is not None:
        given += [(tf, "/tf", qos.RESULT), (tf, "/tf_static", qos.TF_STATIC)]
    prefix = namespace.rstrip("/")
    return [
        Recorded(kind, topic, topic if topic.startswith("/") else f"{prefix}/{topic}", profile)
        for kind, topic, profile in given
    ]
