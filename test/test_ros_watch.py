# SPDX-License-Identifier: Apache-2.0
"""The supervisor's view of one process, and what it tells in place of a dead node."""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus

from spine_nav_bringup.ros import watch
from spine_nav_bringup.ros.health import Concern, HealthBoard
from spine_nav_bringup.ros.watch import ALIVE, DEAD, ENDED, LATE, Watched
from spine_nav_bringup.ros.withdrawal import blank_picture, lost
from spine_nav_common.core.restart import MOST_S, Backoff
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status
from spine_nav_common.ros.heartbeat import (
    GOODBYE,
    Beat,
    beat_from_message,
    beat_message,
    this_machine,
)
from spine_nav_common.ros.results import result_from_messages, result_messages, status_fields

pytestmark = pytest.mark.ros
LATE_S = 60.0  # so that only what a test does makes anything late


def asleep(program):
    child = subprocess.Popen([program, "600"])
    yield child
    child.kill()
    child.wait()


@pytest.fixture
def process(tmp_path):
    """Named as a guardian names a node's process; `stranger` is not."""
    program = tmp_path / "spinenav-node"
    shutil.copy(shutil.which("sleep"), program)
    yield from asleep(program)


@pytest.fixture
def stranger():
    yield from asleep("sleep")


def watched(child, **changes):
    node = Watched("navigation", True)
    beat = replace(Beat("navigation", this_machine(), child.pid, "1", 3), **changes)
    assert node.note(beat)
    return node, beat


def until(condition):
    end = time.monotonic() + 120.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_beat_survives_its_message():
    beat = Beat("overlay", "m", 7, "x", 3, 2, "configure", "no case", True, False)
    assert beat_from_message(beat_message(beat)) == beat


def test_a_killed_process_is_dead_at_once_whatever_its_heartbeats_say(process):
    node, beat = watched(process)
    assert not node.look(LATE_S) and node.life == ALIVE
    process.kill()
    until(lambda: node.look(LATE_S))
    assert node.life == DEAD
    node.note(beat)  # was under way
    assert node.life == DEAD
    assert node.note(replace(beat, born="2", pid=os.getpid()))
    assert node.life == ALIVE and node.restarts == 1


def test_a_process_that_is_held_is_late_and_can_be_ended(process):
    node, _ = watched(process)
    process.send_signal(signal.SIGSTOP)
    until(lambda: node.stopped)
    until(lambda: node.look(0.05))
    assert node.life == LATE
    assert node.kill()
    until(lambda: node.look(0.05))
    assert node.life == DEAD


def test_a_process_that_only_a_heartbeat_calls_a_node_is_never_ended(stranger):
    """Any publisher can send a heartbeat with the number of any process of this machine."""
    node, _ = watched(stranger)
    stranger.send_signal(signal.SIGSTOP)
    until(lambda: node.look(0.05))
    assert node.life == LATE and node.stopped
    assert not node.kill()
    stranger.send_signal(signal.SIGCONT)
    assert stranger.poll() is None


def test_who_waits_for_a_core_is_given_time_and_who_is_stuck_is_not(process, monkeypatch):
    node, _ = watched(process)
    (read,) = node._waits_s().values()  # as the system counts it
    assert read >= 0.0
    now, waits = time.monotonic(), {7: 1.0}
    monkeypatch.setattr(watch.time, "monotonic", lambda: now)
    monkeypatch.setattr(node, "_waits_s", lambda: dict(waits))
    now += 2 * LATE_S
    assert node.look(LATE_S) and node.life == LATE and node.hung_s == 0.0
    now += 4.0
    assert node.hung_s == pytest.approx(4.0)  # it had cores to run on
    waits = {7: 3.0, 8: 1.5}
    assert node.hung_s == pytest.approx(2.0)  # the thread that waited longest
    waits[7] += 100.0
    assert node.hung_s == pytest.approx(1.0)  # what only waits is ended too in the end
    assert node.kill() and not node.kill()


def test_a_transition_may_take_its_time_unless_the_process_is_held(process):
    node, _ = watched(process, busy="configure")
    time.sleep(0.1)
    assert not node.look(0.05) and node.life == ALIVE
    process.send_signal(signal.SIGSTOP)
    until(lambda: node.look(0.05))
    assert node.life == LATE


def test_a_goodbye_is_no_death_and_an_own_delay_is_nobodys_fault(process):
    node, beat = watched(process)
    time.sleep(0.1)
    node.forgive(10.0)
    assert not node.look(0.05)
    node.note(replace(beat, busy=GOODBYE))
    assert node.life == ENDED


def test_what_is_told_of_a_dead_navigation_shows_no_pose():
    T = np.eye(4)
    shown = LevelEstimate("L3", Status.TRACKED, T, np.eye(6), np.zeros(3), 1.0)
    held = LevelEstimate("L2", Status.OCCLUDED, T, predicted_tre_mm=2.0)
    refused = LevelEstimate("L1", Status.REJECTED, reason="confirm")
    last = result_messages(NavigationResult(5, (shown, held, refused)), "camera", "L1-L3?", "K7QX")
    told = lost(last.status, "navigation died")
    seen = result_from_messages(told, None)
    assert seen.stamp_ns == 5
    assert [e.status for e in seen.levels] == [Status.LOST, Status.LOST, Status.REJECTED]
    assert all(e.T_camera_ct is None and e.reason == "navigation died" for e in seen.levels)
    fields = status_fields(told.status[0])
    assert not fields["hypothesis"] and not fields["hypothesis_id"]  # nothing is asked any more


def test_the_picture_in_place_of_a_frozen_one_is_not_empty():
    picture = blank_picture("overlay hangs")
    assert picture.shape == (480, 640, 3) and picture.max() > 200


def test_health_keeps_to_its_namespace_and_names_the_worst():
    board = HealthBoard("/one")
    for name in ("one/overlay", "two/navigation"):
        status = DiagnosticStatus(level=DiagnosticStatus.WARN, name=f"{name}: health")
        status.message = "slow"
        board.note(type("Array", (), {"status": [status]}))
    assert board.summary(time.monotonic()).message == "overlay: slow"
    worst = board.summary(time.monotonic(), [Concern("unsafe", "navigation died", "navigation")])
    assert status_fields(worst)["state"] == "unsafe"
    assert worst.name == "one/spinenav: health"


def test_the_wait_for_the_next_start_doubles_and_is_forgotten():
    now = [0.0]
    backoff = Backoff(lambda: now[0])
    waits = [backoff.next_s() for _ in range(12)]
    assert waits[0] < 0.2 and waits[1] == 2 * waits[0] and waits[-1] == MOST_S
    now[0] = 100.0
    assert backoff.next_s() == waits[0]
