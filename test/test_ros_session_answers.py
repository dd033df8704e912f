# SPDX-License-Identifier: Apache-2.0
"""A session with everything that threads, people and faults add to the pixels: rejected and confirmed
levels, a new registration, a pause, a navigation that was killed. It replays to the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import rclpy
import ros_support as support
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from std_srvs.srv import SetBool, Trigger

from spine_nav_bringup import cli
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.heartbeat import beat_from_message
from spine_nav_common.ros.results import status_fields
from spine_nav_common.ros.runtime import prepare_environment
from spine_nav_display.core.session_reading import open_session
from spine_nav_display.core.session_verify import verify
from spine_nav_sim.core.operation import simulate

pytestmark = pytest.mark.ros


class Surgeon:
    """Hears what is asked and shown, and answers, in a ROS context of its own."""

    def __init__(self) -> None:
        support.own_domain()
        prepare_environment()
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self.node = rclpy.create_node("surgeon", namespace="/spine", context=self._context)
        self._executor = rclpy.executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.asked, self.statuses, self.pid, self.heard = "", set(), 0, 0
        self.node.create_subscription(DiagnosticArray, topics.STATUS, self._on_status, qos.RESULT)
        self.node.create_subscription(DiagnosticStatus, topics.HEARTBEAT, self._on_beat, qos.RESULT)

    def _on_status(self, message):
        fields = [status_fields(s) for s in message.status]
        self.asked = fields[0].get("hypothesis_id", "")
        self.statuses = {f["status"] for f in fields}
        self.heard += 1

    def _on_beat(self, message):
        beat = beat_from_message(message)
        if beat.name == "navigation":
            self.pid = beat.pid

    def until(self, condition):
        end = time.monotonic() + 120.0
        while not condition():
            assert time.monotonic() < end, f"asked {self.asked!r}, shown {self.statuses}"
            self._executor.spin_once(timeout_sec=0.02)

    def frames(self, count):
        """Go on until so many more results were heard."""
        last = self.heard + count
        self.until(lambda: self.heard >= last)

    def call(self, kind, name, **request):
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready)
        future = client.call_async(kind.Request(**request))
        self.until(future.done)
        return future.result()

    def answer(self, accept):
        """Say yes or no to what is asked, until it is understood: it may have changed just now."""

        def understood():
            self.until(lambda: self.asked)
            return self.call(SetBool, "confirm_level", data=accept).success

        self.until(understood)

    def confirm_until_tracked(self):
        """Say yes to whatever is asked until something is shown."""
        while "tracked" not in self.statuses:
            self.until(lambda: self.asked or "tracked" in self.statuses)
            if self.asked:
                self.call(SetBool, "confirm_level", data=True)
            self.frames(1)

    def close(self):
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    operation = folder / "operation"
    simulate(operation, None, 400007, 4.0, ("rgbd",))
    settings = (
        "camera_source.rate=0.3", "camera_source.loop=true", "navigation.navigator.level_margin=1000",
        "navigation.max_stamp_age_ms=60000", "navigation.keep_s=60",
    )  # fmt: skip
    surgeon = Surgeon()
    command = [sys.executable, "-m", "spine_nav_bringup.cli", "live", "--case", operation / "case"]
    command += ["--source", f"replay:{operation / 'recording'}", "--out", folder / "out"]
    command += ["--session", folder / "session", *(x for s in settings for x in ("--set", s))]
    live = subprocess.Popen(
        list(map(str, command)), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        surgeon.answer(False)
        surgeon.frames(3)
        surgeon.call(Trigger, "register")
        surgeon.confirm_until_tracked()
        surgeon.call(SetBool, "pause", data=True)
        surgeon.call(SetBool, "pause", data=False)
        surgeon.frames(6)
        before = surgeon.pid
        os.kill(before, signal.SIGKILL)
        surgeon.until(lambda: surgeon.pid != before)
        surgeon.statuses = set()
        surgeon.confirm_until_tracked()
        surgeon.frames(4)
    finally:
        live.send_signal(signal.SIGINT)
        errors = live.communicate(timeout=60)[1]
        surgeon.close()
    assert live.returncode == 1, errors  # a recording that was stopped by hand
    return operation, folder / "out", folder / "session"


def test_the_scenario_holds_what_it_is_for(recorded):
    lives = open_session(recorded[2]).lives
    assert len(lives) == 2, "one navigation before the kill, one after"
    ops = [n.op for life in lives for n in life]
    frames = [n.frame for life in lives for n in life if n.frame is not None]
    answers = [f.took.answer.accept for f in frames if f.took is not None and f.took.answer]
    assert "recall" in ops and answers[:2] == [False, True]
    assert any(f.took.renewed for f in frames if f.took is not None)
    asked = [n.values["what"] for life in lives for n in life if n.op == "asked"]
    assert {"register", "confirm", "pause", "resume"} <= set(asked)


def test_it_replays_to_the_same_bytes(recorded, tmp_path, capsys):
    operation, out, session = recorded
    assert not verify(session).damaged
    arguments = ["replay", str(session), "--case", str(operation / "case"), "--out", str(tmp_path)]
    assert cli.main(arguments) == 0, capsys.readouterr().out
    for folder in (tmp_path, out):
        assert "tracked" in (folder / "poses.csv").read_text()
    assert support.lines_without_latency(tmp_path) == support.lines_without_latency(out)


def test_the_audit_names_who_said_what_and_finds_every_decision_the_same(recorded, capsys):
    operation, _, session = recorded
    case = str(operation / "case")
    code = cli.main(["audit", str(session), "--case", case, "--recompute", "all"])
    told = capsys.readouterr().out
    # what was in work when it was paused was not shown; what it was just computing when it was killed
    # was never published
    unshown = [line for line in told.splitlines() if ": unshown: " in line]
    assert all(line.endswith(": unshown: paused") for line in unshown), unshown
    unknown = [line for line in told.splitlines() if ": unknown: " in line]
    assert all(line.endswith("nothing was published of it") for line in unknown), unknown
    assert len(unknown) <= 1 and code == bool(unknown)
    assert "rejected by the surgeon: " in told and "confirmed by the surgeon: " in told
    assert "registered anew, as was asked for" in told and "asked     pause" in told
    assert "it took over what the navigation before it had known" in told
    (last,) = [line for line in told.splitlines() if line.startswith("frames computed again: ")]
    assert last.partition(": ")[2].split(", ")[0].endswith(" same")
    assert "different" not in last
