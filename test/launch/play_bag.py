# SPDX-License-Identifier: Apache-2.0
"""Stands in for `ros2 bag play RECORDING --clock HZ --rate R` where ros2bag is not installed: the
recording's images once, at their own pace, and its clock."""

import sys
import time
from pathlib import Path

from spine_nav_common.ros.runtime import prepare_environment

prepare_environment()
sys.path.insert(0, str(Path(__file__).parents[1]))

import rclpy
from ros_world import CameraWorld
from rosgraph_msgs.msg import Clock

from spine_nav_common.core.recording import open_recording
from spine_nav_common.ros import qos
from spine_nav_common.ros.conversions import stamp_from_ns

assert sys.argv[1:3] == ["bag", "play"], sys.argv
rclpy.init()
world = CameraWorld()
clock = world.node.create_publisher(Clock, "/clock", qos.POSE)
world.matched()
before = None
for index, frame in enumerate(open_recording(sys.argv[3]).rgbd_frames()):
    time.sleep((frame.stamp_ns - (before or frame.stamp_ns)) * 1e-9)
    before = frame.stamp_ns
    clock.publish(Clock(clock=stamp_from_ns(frame.stamp_ns)))
    assert world.send(index) == frame.stamp_ns
world.spin(0.2)  # what is on the way shall leave
world.close()
rclpy.try_shutdown()
