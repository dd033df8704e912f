# SPDX-License-Identifier: Apache-2.0
"""A node that was started again does not take the DDS ports of the process that died."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support as support

from spine_nav_common.ros import fresh_ports

pytestmark = pytest.mark.ros
# A node that notes the ports of its process, and is killed until it has lived three times.
NODE = """
import json, os, signal, sys
from pathlib import Path
from spine_nav_common import guardian
if sys.argv[2] == "forgets":
    guardian.leave = lambda name, value: None
def main():
    from rclpy.node import Node
    from spine_nav_common.ros.fresh_ports import own_ports
    from spine_nav_common.ros.runtime import run_node
    lives = Path(sys.argv[1])
    def note(node):
        with lives.open("a") as file:
            file.write(json.dumps(own_ports()) + "\\n")
        if len(lives.read_text().splitlines()) < 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0
    return run_node(lambda: Node("victim"), argv=[], exit_code=note)
sys.exit(guardian.keep(main, "victim"))
"""


@pytest.mark.parametrize("forgets", [False, True])
def test_every_life_has_ports_of_its_own(tmp_path, forgets):
    """Where the guardian forgets them they are the dead one's: that is what was broken."""
    support.own_domain()
    file = tmp_path / "lives"
    command = [sys.executable, "-c", NODE, str(file), "forgets" if forgets else "keeps"]
    subprocess.run(command, check=True, timeout=120.0)
    lives = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lives) == 3
    if not any(lives):
        pytest.skip("this DDS numbers no shared memory by ports")
    assert all(len(ports) == 1 for ports in lives)
    assert len({ports[0] for ports in lives}) == (1 if forgets else 3)


def test_a_port_that_somebody_else_took_is_left_to_him(monkeypatch):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as somebody:
        somebody.bind(("", 0))
        taken = somebody.getsockname()[1]
        left = {"ports": [taken]}
        monkeypatch.setattr(fresh_ports.guardian, "left", lambda: left)
        monkeypatch.setattr(fresh_ports.guardian, "leave", left.__setitem__)
        with fresh_ports.fresh_ports():
            pass
        assert taken in left["ports"]


def test_ports_are_held_while_the_node_is_made_and_no_longer(monkeypatch):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("", 0))
        port = s.getsockname()[1]
    monkeypatch.setattr(fresh_ports.guardian, "left", lambda: {"ports": [port]})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        with fresh_ports.fresh_ports(), pytest.raises(OSError):
            s.bind(("", port))
        s.bind(("", port))
