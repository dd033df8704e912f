# SPDX-License-Identifier: Apache-2.0
"""Nodes that no pose depends on yield the CPU to those that compute poses, once they are active."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

from rod_bending_ar.ros.overlay_node import OverlayNode
from rod_bending_ar.ros.rod_guidance import RodGuidance
from spine_nav_bringup.ros.case_server import CaseServer
from spine_nav_common.guardian import PARENT_PID
from spine_registration.ros.navigation import NavigationNode
from stereo_screw_tracker.ros.stereo_tracker import StereoTrackerNode

YIELDING = """
import os, sys
from pathlib import Path
from threading import Event, Thread
from spine_nav_common import guardian
def main():
    Thread(target=Event().wait, daemon=True).start()
    if sys.argv[1] == "True":
        guardian.yield_cpu()
    nice = {os.getpriority(os.PRIO_PROCESS, int(t)) for t in os.listdir("/proc/self/task")}
    print(*nice, flush=True)
    print(Path("/proc/self/autogroup").read_text() if "autogroup" in os.listdir("/proc/self") else "")
    return 0
sys.exit(guardian.keep(main, "node"))
"""


def weight(yields):
    environment = {k: v for k, v in os.environ.items() if k != PARENT_PID}
    done = subprocess.run(
        [sys.executable, "-c", YIELDING, str(yields)],
        capture_output=True, text=True, env=environment, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_what_shows_yields_to_what_computes():
    assert OverlayNode.yields and RodGuidance.yields and CaseServer.yields
    assert not NavigationNode.yields and not StereoTrackerNode.yields
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert weight(False)[0] == str(own)
    assert weight(True)[0] == str(max(own, 5)), "every thread of it"


@pytest.mark.skipif(
    not Path("/proc/self/autogroup").exists() or "nice" not in Path("/proc/self/autogroup").read_text(),
    reason="this kernel does not group sessions",
)  # fmt: skip
def test_its_session_weighs_less_too():
    texts = [weight(yields)[1] for yields in (False, True)]
    assert texts[0].split()[0] != texts[1].split()[0]
    nice = [int(re.search(r"nice (-?\d+)", text)[1]) for text in texts]
    assert nice[1] > nice[0]
