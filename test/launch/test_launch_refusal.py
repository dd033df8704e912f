# SPDX-License-Identifier: Apache-2.0
"""launch/spinenav.launch.py with a case that is not there: named, exit code 1, all others end."""

import sys
import unittest
from pathlib import Path

import pytest

pytest.importorskip("launch_testing", reason="launch_testing comes with a full ROS 2 installation")
pytest.importorskip("launch_ros", reason="launch_ros comes with a full ROS 2 installation")

sys.path.insert(0, str(Path(__file__).parents[1]))

import launch_testing
import ros_support as support
from launch_support import REPOSITORY, description

from spine_nav_common.core.graph import SCENES


@pytest.mark.launch_test
def generate_test_description():
    support.own_domain()
    arguments = {
        "case": "/nowhere",
        "source": "ros",
        "params_file": str(REPOSITORY / "config" / "ros.yaml"),
    }
    return description("spinenav.launch.py", arguments)


class TestRefusal(unittest.TestCase):
    def test_the_reason_is_told_and_the_supervisor_gives_up(self, proc_output, proc_info):
        proc_output.assertWaitFor("cannot configure: /nowhere", timeout=120, stream="stderr")
        proc_info.assertWaitForShutdown("supervisor", timeout=120)


@launch_testing.post_shutdown_test()
class TestExitCodes(unittest.TestCase):
    def test_the_supervisor_ends_with_1_and_the_nodes_with_0(self, proc_info):
        codes = support.exit_codes(proc_info)
        self.assertEqual(codes.pop("supervisor"), 1)
        self.assertEqual(codes, dict.fromkeys((*SCENES["rgbd"], *SCENES["stereo"]), 0))
