# SPDX-License-Identifier: Apache-2.0
"""A node's child process yields the CPU to the process that computes poses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from rod_bending_ar.ros import overlay_node
from spine_nav_bringup.ros.child import ChildNode

SELF = Path("/proc/self/autogroup")


def own_group() -> str:
    """Empty where the kernel does not group sessions, or knows how to but is told not to."""
    try:
        return SELF.read_text()
    except OSError:
        return ""


@pytest.mark.skipif("nice" not in own_group(), reason="this kernel does not group sessions")
def test_the_overlay_s_session_weighs_less_than_ours():
    child = ChildNode("overlay", overlay_node.__name__, overlay_node.OverlayConfig, {}, "/spine")
    try:
        text = Path(f"/proc/{child.process.pid}/autogroup").read_text()
        assert text.split()[0] != SELF.read_text().split()[0]
        theirs, ours = (int(re.search(r"nice (-?\d+)", t)[1]) for t in (text, SELF.read_text()))
        assert theirs > ours
    finally:
        child.destroy_node()
