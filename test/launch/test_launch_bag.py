# SPDX-License-Identifier: Apache-2.0
"""launch/bag.launch.py: what was received of a bag is computed before the launch ends."""

import os
import sys
import tempfile
import unittest
from pathlib import Path

import pytest

pytest.importorskip("launch_testing", reason="launch_testing comes with a full ROS 2 installation")
pytest.importorskip("launch_ros", reason="launch_ros comes with a full ROS 2 installation")

sys.path.insert(0, str(Path(__file__).parents[1]))

import launch_testing
import ros_support as support
from diagnostic_msgs.msg import DiagnosticArray
from launch.actions import SetEnvironmentVariable
from launch_support import REPOSITORY, Watching, description
from mock_model import write_mock_model

from spine_nav_common.core.graph import SCENES
from spine_nav_common.ros import qos
from spine_nav_common.ros.conversions import stamp_to_ns

FRAMES = 8
PLAYER = """#!/bin/sh
exec "{python}" "{script}" "$@"
"""


@pytest.mark.launch_test
def generate_test_description():
    support.own_domain()
    folder = Path(tempfile.mkdtemp(prefix="spinenav_bag_"))
    ros2 = folder / "bin" / "ros2"
    ros2.parent.mkdir()
    script = Path(__file__).with_name("play_bag.py")
    ros2.write_text(PLAYER.format(python=sys.executable, script=script))
    ros2.chmod(0o755)
    parameters = folder / "ros.yaml"
    text = (REPOSITORY / "config" / "ros.yaml").read_text()
    model = write_mock_model(folder / "model")
    parameters.write_text(text.replace('model: ""', f'model: "{model}"'))
    arguments = {
        "case": str(support.write_small_case(folder / "case")),
        "recording": str(support.write_small_recording(folder / "recording", FRAMES)),
        "scene": "rgbd",
        "params_file": str(parameters),
    }
    path = SetEnvironmentVariable("PATH", f"{ros2.parent}:{os.environ['PATH']}")
    return description("bag.launch.py", arguments, path)


class TestBag(Watching, unittest.TestCase):
    def test_the_last_frame_of_the_bag_has_its_result_before_all_ends(self, proc_info):
        stamps = []
        self.node.create_subscription(
            DiagnosticArray,
            "registration/status",
            lambda m: stamps.append(stamp_to_ns(m.header.stamp)),
            qos.RESULT,
        )
        last = support.START_NS + (FRAMES - 1) * support.PERIOD_NS
        self.until(lambda: last in stamps, stamps)
        # No longer: a launch that has ended by itself before its test has is called a failure.
        proc_info.assertWaitForShutdown("finish", timeout=120)


@launch_testing.post_shutdown_test()
class TestOrder(unittest.TestCase):
    def test_every_process_ended_with_0(self, proc_info):
        codes = support.exit_codes(proc_info)
        self.assertEqual(codes, dict.fromkeys((*SCENES["rgbd"], "supervisor", "finish", "ros2"), 0))
