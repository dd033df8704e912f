# SPDX-License-Identifier: Apache-2.0
"""What the launch tests share: a launch file as a test's description, a node that watches it."""

import time
from pathlib import Path

import launch_testing.actions
import rclpy
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

REPOSITORY = Path(__file__).parents[1]


def description(launch_file, arguments, *before):
    """The test's description: what comes before it, and a file of launch/ with its arguments."""
    source = PythonLaunchDescriptionSource(str(REPOSITORY / "launch" / launch_file))
    include = IncludeLaunchDescription(source, launch_arguments=arguments.items())
    return LaunchDescription([*before, include, launch_testing.actions.ReadyToTest()])


class Watching:
    """For a unittest.TestCase: `node`, which listens in the namespace of the nodes."""

    @classmethod
    def setUpClass(cls):
        rclpy.init()
        cls.node = rclpy.create_node("watcher", namespace="/spine")

    @classmethod
    def tearDownClass(cls):
        cls.node.destroy_node()
        rclpy.try_shutdown()

    def until(self, condition, heard=(), timeout_s=120.0):
        end = time.monotonic() + timeout_s
        while not condition():
            self.assertLess(time.monotonic(), end, f"the condition did not come true: {heard}")
            rclpy.spin_once(self.node, timeout_sec=0.1)
