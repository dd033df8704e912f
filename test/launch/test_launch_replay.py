# SPDX-License-Identifier: Apache-2.0
"""launch/spinenav.launch.py on a full ROS 2 machine: bring-up, replay to result, clean shutdown.

How to run it: README.md beside this file. `test/test_ros_live.py` holds the same scenarios for
machines without launch_testing. The network is a mock that sees no bone, so a result is `searching`.
"""

import os
import re
import tempfile
import unittest
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("launch_testing", reason="launch_testing comes with a full ROS 2 installation")
pytest.importorskip("launch_ros", reason="launch_ros comes with a full ROS 2 installation")

import sys

sys.path.insert(0, str(Path(__file__).parents[1]))

import launch_testing
import launch_testing.asserts
import ros_support as support
from diagnostic_msgs.msg import DiagnosticArray
from launch_support import REPOSITORY, Watching, description
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from mock_model import write_mock_model

from spine_nav_common.core.graph import SCENES
from spine_nav_common.ros import qos
from spine_nav_common.ros.conversions import stamp_to_ns
from spine_nav_common.ros.results import status_fields
from spine_nav_display.core.session_reading import open_session
from spine_nav_display.core.session_verify import verify

NODES = ("session_recorder", *SCENES["rgbd"], *SCENES["stereo"], "display", "camera_source")
SESSION = Path(tempfile.mkdtemp(prefix="spinenav_launch_")) / "session"
FRAMES = 600  # 40 s: longer than any bring-up
FORBIDDEN = ("Traceback", "Segmentation fault", "context is invalid")


@pytest.mark.launch_test
def generate_test_description():
    support.own_domain()
    folder = Path(tempfile.mkdtemp(prefix="spinenav_launch_"))
    config = (REPOSITORY / "config" / "replay.yaml").read_text()
    config, count = re.subn(r"port: 8760", "port: 0", config)  # any that is free
    assert count == 1
    (folder / "replay.yaml").write_text(config)
    arguments = {
        "case": str(support.write_small_case(folder / "case")),
        "source": "replay",
        "recording": str(support.write_small_recording(folder / "recording", FRAMES)),
        "model": str(write_mock_model(folder / "model")),
        "params_file": str(folder / "replay.yaml"),
        "display": "true",
        "session": str(SESSION),
    }
    return description("spinenav.launch.py", arguments)


class TestReplay(Watching, unittest.TestCase):
    def test_every_node_becomes_active_and_every_status_names_a_recorded_frame(self, proc_output):
        got = []
        self.node.create_subscription(
            DiagnosticArray, "registration/status", got.append, qos.RESULT
        )
        proc_output.assertWaitFor("all nodes are active", timeout=120, stream="stderr")
        for name in NODES:
            client = self.node.create_client(GetState, f"{name}/get_state")
            self.until(client.service_is_ready)
            future = client.call_async(GetState.Request())
            self.until(future.done)
            self.assertEqual(
                future.result().current_state.id, State.PRIMARY_STATE_ACTIVE, f"{name} not active"
            )
        self.until(lambda: len(got) >= 3)
        recorded = {support.START_NS + i * support.PERIOD_NS for i in range(FRAMES)}
        for message in got:
            self.assertIn(stamp_to_ns(message.header.stamp), recorded)
            fields = [status_fields(status) for status in message.status]
            self.assertEqual([f["level"] for f in fields], list(support.LEVELS))
            self.assertEqual({f["status"] for f in fields}, {"searching"})

    def test_the_page_is_served_where_the_log_says(self, proc_output):
        proc_output.assertWaitFor("the page: http", timeout=120, stream="stderr")
        said = "".join(o.text.decode(errors="replace") for o in proc_output)
        url = re.search(r"the page: (http\S+)", said)[1]
        with urllib.request.urlopen(url, timeout=20.0) as answer:
            self.assertEqual(answer.status, 200)


@launch_testing.post_shutdown_test()
class TestShutdown(unittest.TestCase):
    def test_every_process_ends_with_0(self, proc_info):
        self.assertEqual(set(support.exit_codes(proc_info)), {*NODES, "supervisor"})
        launch_testing.asserts.assertExitCodes(proc_info, allowable_exit_codes=[0])

    def test_the_session_is_recorded_whole(self):
        checked = verify(SESSION)
        self.assertEqual((checked.damaged, checked.findings), (False, ()))
        lives = open_session(SESSION).lives
        self.assertTrue(any(len(life) >= 3 for life in lives))

    def test_no_log_holds_a_forbidden_phrase(self, proc_output):
        for output in proc_output:
            text = output.text.decode(errors="replace")
            for phrase in FORBIDDEN:
                self.assertNotIn(phrase, text)


os.environ.setdefault("OMP_NUM_THREADS", "1")
