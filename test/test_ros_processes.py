# SPDX-License-Identifier: Apache-2.0
"""Nodes that no pose depends on yield the CPU to those that compute poses."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from spine_nav_bringup import live_processes
from spine_nav_bringup.live_processes import Processes


@pytest.fixture
def processes(tmp_path, monkeypatch):
    monkeypatch.setattr(live_processes, "_MODULES", {
        name: ("http.server", config) for name, (_, config) in live_processes._MODULES.items()
    })  # fmt: skip
    started = Processes({"overlay": {}, "navigation": {}}, "/spine", tmp_path)
    assert started.look() == ""
    yield started
    started.stop()


def autogroup(pid: int | str) -> str:
    """Empty where the kernel does not group sessions, or knows how to but is told not to."""
    try:
        return Path(f"/proc/{pid}/autogroup").read_text()
    except OSError:
        return ""


def test_the_overlay_yields_to_the_navigation(processes):
    nice = {n: os.getpriority(os.PRIO_PROCESS, processes.pid(n)) for n in processes.nodes}
    assert nice["overlay"] > nice["navigation"] == os.getpriority(os.PRIO_PROCESS, 0)


@pytest.mark.skipif("nice" not in autogroup("self"), reason="this kernel does not group sessions")
def test_the_overlay_s_session_weighs_less_than_the_navigation_s(processes):
    texts = {name: autogroup(processes.pid(name)) for name in processes.nodes}
    assert len({text.split()[0] for text in texts.values()}) == 2
    nice = {name: int(re.search(r"nice (-?\d+)", text)[1]) for name, text in texts.items()}
    assert nice["overlay"] > nice["navigation"]
