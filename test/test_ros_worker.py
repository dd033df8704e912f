# SPDX-License-Identifier: Apache-2.0
"""Nothing that computes holds up an executor: safety timers fire while services are answered."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import stereo_support
from diagnostic_msgs.msg import DiagnosticStatus
from ros_world import NAMESPACE
from std_srvs.srv import Trigger

from rod_bending_ar.ros.rod_guidance import RodGuidance
from spine_nav_bringup.ros.finish import Finish
from spine_nav_common.core.errors import InputError
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.heartbeat import Beat, beat_message
from spine_nav_common.ros.implants import Implants
from spine_nav_common.ros.worker_node import WorkerNode
from stereo_screw_tracker.core.output import screw_rows

pytestmark = pytest.mark.ros
LONG_S = 30.0


@dataclass(frozen=True)
class Config:
    """No parameters."""


@dataclass(frozen=True)
class Item:
    """Something to work on."""

    stamp_ns: int


class Slow(WorkerNode):
    """Works on each item until `go` is set; the service says how many it has worked on."""

    config_type = Config
    timeout_ms = 50.0
    watch_s = 0.01

    def __init__(self):
        super().__init__("slow", {}, NAMESPACE)
        self.began, self.go = threading.Event(), threading.Event()
        self.worked = self.asked = 0
        self.withdrawals: list[str] = []
        self.fault: Exception | None = None

    def configure(self):
        super().configure()
        self.serve(Trigger, "how_many", lambda _, answer: self.ask(answer, self._count))

    def _count(self) -> str:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        assert threading.current_thread() is not threading.main_thread()
        return str(self.worked)

    def work(self, item):
        self.began.set()
        assert self.go.wait(LONG_S)
        self.worked += 1
        return item

    def done(self, output):
        self.results.note(output.stamp_ns)
        self.withdrawn = ""

    def silence(self):
        return "no items"

    def withdraw(self, reason):
        self.withdrawn = reason
        self.withdrawals.append(reason)


def ask(world, name="how_many"):
    client = world.node.create_client(Trigger, name)
    world.until(client.service_is_ready)
    return client.call_async(Trigger.Request())


def busy(world) -> Slow:
    """A node whose worker is at work, after one item that was shown."""
    node = world.add(Slow())
    node.go.set()
    node.take(Item(1))
    world.until(lambda: node.results.count == 1)
    node.go.clear()
    node.began.clear()
    node.take(Item(2))
    assert node.began.wait(LONG_S)
    return node


def test_the_watch_withdraws_while_a_question_waits_for_the_worker(world):
    node = busy(world)
    node.busy_s = LONG_S
    future = ask(world)
    world.until(lambda: node.withdrawals)  # on a blocked executor it would come after the answer
    assert not future.done() and node.withdrawals[0].startswith("still computing")
    node.go.set()
    world.until(future.done)
    assert future.result().success and future.result().message == "2"


def test_an_answer_that_comes_too_late_is_not_acted_on(world):
    node = busy(world)
    node.busy_s = 0.05
    future = ask(world)
    world.until(future.done)
    assert not future.result().success and "busy for 0.05 s; ask again" in future.result().message
    node.go.set()
    world.until(lambda: node.worked == 2 and node.idle)
    assert node.asked == 0


def test_a_stop_answers_whoever_waits(world):
    node = busy(world)
    node.busy_s = LONG_S
    future = ask(world)
    world.until(lambda: node._worker._questions)
    threading.Timer(0.05, node.go.set).start()  # deactivation waits for the item in work
    node.trigger_deactivate()
    world.until(future.done)
    assert not future.result().success and "slow has stopped" in future.result().message
    assert node.asked == 0


def test_a_refusal_in_the_worker_is_the_answer(world):
    node = world.add(Slow())
    node.fault = InputError("file", "field", "it is broken", "mend it")
    future = ask(world)
    world.until(future.done)
    assert not future.result().success and future.result().message == "it is broken; mend it"


def test_a_dead_worker_answers_at_once(world):
    node = world.add(Slow())
    node._worker._work = lambda item: 1 / 0
    threading.excepthook, hook = lambda args: None, threading.excepthook
    try:
        node.take(Item(1))
        world.until(lambda: not node.alive)
    finally:
        threading.excepthook = hook
    future = ask(world)
    world.until(future.done)
    assert not future.result().success and node.asked == 0


def test_planning_a_rod_stalls_no_timer_of_another_node(world):
    """It takes up to two seconds; all nodes of `spinenav live` share one executor."""
    node = world.add(RodGuidance({"steady_frames": 0}, NAMESPACE))
    result = stereo_support.FakeTracker().process(stereo_support.frame(0))
    node._newest = Implants(result.stamp_ns, tuple(screw_rows(result)))
    began, go, real = threading.Event(), threading.Event(), node._guide.request

    def slow(rows):
        began.set()
        assert go.wait(LONG_S)
        return real(rows)

    node._guide.request = slow
    ticks = []
    world.node.create_timer(0.01, lambda: ticks.append(began.is_set() and not go.is_set()))
    future = ask(world, "plan_rod")
    world.until(lambda: sum(ticks) > 5)  # while it plans
    assert not future.done()
    go.set()
    world.until(future.done)
    assert future.result().success and "bends" in future.result().message


def test_a_launch_waits_for_what_is_still_worked_on(world):
    beats = world.node.create_publisher(DiagnosticStatus, topics.HEARTBEAT, qos.RESULT)
    waiting = world.add(Finish({"quiet_s": 0.5}, NAMESPACE), active=False)
    world.until(beats.get_subscription_count)

    def beat(idle, processed):
        facts = {"idle": idle, "counts": {"processed": processed}}
        beats.publish(beat_message(Beat("navigation", "m", 1, "b", 3, facts=facts)))
        beats.publish(beat_message(Beat("overlay", "m", 2, "b", 3, facts={"idle": False})))
        world.spin(0.1)

    for i in range(10):  # twice as long as it must be quiet
        beat(i % 2 == 0, i // 2)
        assert not waiting.done
    world.until(lambda: beat(True, 5) or waiting.done)
    patient = Finish({"most_s": 1.0}, NAMESPACE)
    world.add(patient, active=False)
    world.until(lambda: beat(False, 5) or patient.done)
