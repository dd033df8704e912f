# SPDX-License-Identifier: Apache-2.0
"""Plays the navigation and the overlay for a bridge under measurement, and brings the bridge up.

python -m spine_nav_bench.bridge_feed CASE SECONDS; a process of its own. Results have the time of
their publication as stamp, so that whoever gets one knows its age.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage

from spine_nav_common.core.case import load_case
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import jpeg_message
from spine_nav_common.ros.results import result_messages
from spine_nav_common.ros.runtime import prepare_environment

RATE_HZ = 15.0
_UP_S = 30.0
_FRAME = "camera_color_optical_frame"


def feed(case_folder: str, seconds: float) -> int:
    """Publish until `seconds` are over; the exit code: 1 where no bridge came up."""
    prepare_environment()
    rclpy.init(args=[])
    node = rclpy.create_node("feed", namespace=topics.DEFAULT_NAMESPACE)
    levels = load_case(case_folder).exposed_levels
    poses = node.create_publisher(PoseArray, topics.VERTEBRA_POSES, qos.RESULT)
    status = node.create_publisher(DiagnosticArray, topics.STATUS, qos.RESULT)
    overlay = node.create_publisher(CompressedImage, topics.OVERLAY_COMPRESSED, qos.SENSOR_OUT)
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".jpg", cv2.GaussianBlur(noise, (0, 0), 3.0))[1].tobytes()
    up = all(
        _transition(node, id_)
        for id_ in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    )
    begun = time.monotonic()
    next_s = begun
    while up and time.monotonic() - begun < seconds:
        stamp_ns, T = time.time_ns(), np.eye(4)
        T[:3, 3] = (0.0, 0.0, 0.5)
        estimates = tuple(
            LevelEstimate(level, Status.TRACKED, T, predicted_tre_mm=1.2) for level in levels
        )
        messages = result_messages(NavigationResult(stamp_ns, estimates), _FRAME)
        poses.publish(messages.vertebra_poses)
        status.publish(messages.status)
        overlay.publish(jpeg_message(jpeg, stamp_ns, _FRAME))
        next_s += 1.0 / RATE_HZ
        while (left := next_s - time.monotonic()) > 0.0:
            rclpy.spin_once(node, timeout_sec=left)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0 if up else 1


def _transition(node: Node, id_: int) -> bool:
    client = node.create_client(ChangeState, "openigtlink/change_state")
    if not client.wait_for_service(timeout_sec=_UP_S):
        return False
    asked = client.call_async(ChangeState.Request(transition=Transition(id=id_)))
    rclpy.spin_until_future_complete(node, asked, timeout_sec=_UP_S)
    answer = asked.result()
    return answer is not None and answer.success


if __name__ == "__main__":
    with suppress(ExternalShutdownException, RCLError):
        sys.exit(feed(sys.argv[1], float(sys.argv[2])))
