# SPDX-License-Identifier: Apache-2.0
"""The supervisor with small nodes, and what it tells of a camera that is gone."""

import time

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.task import Future
from ros_world import NAMESPACE, CameraWorld, navigation, statuses
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from spine_nav_bringup.ros import bring_up
from spine_nav_bringup.ros.bring_up import ACTIVE, FINALIZED, INACTIVE
from spine_nav_bringup.ros.supervisor import Supervisor
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.lifecycle import SpineNode
from spine_nav_common.ros.results import status_fields

pytestmark = pytest.mark.ros


class Plain(SpineNode):
    """A node that notes its transitions, and refuses to configure if told to."""

    from spine_nav_bringup.ros.case_server import CaseServerConfig as config_type

    def __init__(self, name, log, refuse=False):
        super().__init__(name, {}, NAMESPACE)
        self.log, self.refuse = log, refuse

    def configure(self):
        if self.refuse:
            raise RuntimeError("refused on purpose")
        self.log.append((self.get_name(), "configure"))

    def activate(self):
        self.log.append((self.get_name(), "activate"))

    def deactivate(self):
        self.log.append((self.get_name(), "deactivate"))


def test_nodes_come_up_in_order_pause_and_go_down_in_reverse(world):
    log = []
    for name in ("one", "two"):
        world.add(Plain(name, log), active=False)
    supervisor = Supervisor({"nodes": ("one", "two")}, NAMESPACE)
    world.add(supervisor, active=False)
    world.until(lambda: supervisor.reached)
    up = [("one", "configure"), ("one", "activate"), ("two", "configure"), ("two", "activate")]
    assert log == up
    answer = world.call(SetBool, "supervisor/pause", SetBool.Request(data=True))
    assert answer.success
    world.until(lambda: supervisor.bring_up.target == INACTIVE and supervisor.reached)
    assert log[4:] == [("two", "deactivate"), ("one", "deactivate")]
    supervisor.go(ACTIVE)
    world.until(lambda: supervisor.reached)
    supervisor.go(FINALIZED)
    world.until(lambda: supervisor.reached)
    assert log[-2:] == [("two", "deactivate"), ("one", "deactivate")]


def test_a_transition_that_its_state_does_not_have_is_refused_and_survived(world):
    log = []
    node = world.add(Plain("one", log))
    configure = Transition(id=Transition.TRANSITION_CONFIGURE)
    for _ in range(2):
        answer = world.call(
            ChangeState, "one/change_state", ChangeState.Request(transition=configure)
        )
        assert not answer.success
    assert log == [("one", "configure"), ("one", "activate")]
    down = Transition(id=Transition.TRANSITION_DEACTIVATE)
    assert world.call(ChangeState, "one/change_state", ChangeState.Request(transition=down)).success
    assert not node.active


def test_a_message_that_was_under_way_when_its_node_was_stopped_is_not_taken(world):
    got = []

    class Listening(Plain):
        def activate(self):
            self.heard = self.listen(String, "words", got.append, qos.RESULT).callback

    node = world.add(Listening("listening", []))
    node.heard(String(data="before"))
    node.trigger_deactivate()
    node.heard(String(data="after"))
    assert [m.data for m in got] == ["before"]


def test_a_beat_that_was_due_when_its_node_was_destroyed_harms_nobody(world):
    """The events executor calls a timer that was in its queue."""
    node = world.add(Plain("quiet", []), active=False)
    world.remove(node)
    node._beat()


def test_a_node_that_refuses_is_named(world):
    world.add(Plain("bad", [], refuse=True), active=False)
    supervisor = Supervisor({"nodes": ("bad",)}, NAMESPACE)
    world.add(supervisor, active=False)
    world.until(lambda: supervisor.failure)
    assert supervisor.failure == "bad refused to become active; its log says why"
    assert supervisor.health().level == DiagnosticStatus.ERROR


def test_a_node_that_is_not_there_is_a_failure_after_the_time_out(world):
    supervisor = Supervisor({"nodes": ("ghost",), "timeout_s": 1.0}, NAMESPACE)
    world.add(supervisor, active=False)
    world.until(lambda: supervisor.failure)
    assert supervisor.failure == "ghost is not active after 1 s (no heartbeat was ever heard)"


def supervised(world, *names, **values):
    supervisor = Supervisor({"nodes": names, **values}, NAMESPACE)
    world.add(supervisor, active=False)
    return supervisor


class Deaf:
    """A client whose service is never found, or whose requests never arrive."""

    def __init__(self, ready):
        self.service_is_ready = lambda: ready
        self.asked = 0

    def call_async(self, request):
        self.asked += 1
        return Future()


@pytest.mark.parametrize("ready", [True, False])
def test_a_service_that_never_hears_is_asked_by_a_new_way(world, monkeypatch, ready):
    monkeypatch.setattr(bring_up, "_RENEW_S", 0.5)
    monkeypatch.setattr(bring_up, "_UNSEEN_S", 60.0)
    log = []
    supervisor = supervised(world, "one", autostart=False)
    supervisor.destroy_client(supervisor.bring_up.calls["one"].client)
    deaf = supervisor.bring_up.calls["one"].client = Deaf(ready)
    monkeypatch.setattr(supervisor, "destroy_client", lambda client: True)
    world.add(Plain("one", log), active=False)
    supervisor.go(ACTIVE)
    world.until(lambda: supervisor.reached)
    assert log == [("one", "configure"), ("one", "activate")]
    assert deaf.asked == ready


def test_heartbeats_that_never_come_are_listened_for_anew(world, monkeypatch):
    monkeypatch.setattr(bring_up, "_RENEW_S", 0.5)
    supervisor = supervised(world, "one")
    supervisor.destroy_subscription(supervisor._beats)
    supervisor._beats = supervisor.create_subscription(
        DiagnosticStatus, "somewhere_else", supervisor._on_beat, qos.RESULT
    )
    world.add(Plain("one", []), active=False)
    world.until(lambda: supervisor.reached)


def test_a_camera_s_death_in_a_graph_without_stereo_is_survived(world):
    camera = world.add(Plain("camera_source", []), active=False)
    supervisor = supervised(world, "camera_source")
    world.until(lambda: supervisor.reached)
    supervisor._withdraw("stereo_tracker", "camera_source died")  # as for every dead camera
    world.remove(camera)
    world.until(lambda: not supervisor._again)
    assert supervisor.failure == ""


def test_a_supervisor_that_was_held_up_blames_nobody(world):
    world.add(Plain("one", []), active=False)
    supervisor = supervised(world, "one", timeout_s=1.0, autostart=False)
    supervisor.go(ACTIVE)
    time.sleep(1.5)  # as on a machine that was paused: nothing could move
    world.until(lambda: supervisor.reached or supervisor.failure)
    assert supervisor.failure == ""


def test_a_node_that_was_restarted_is_brought_up_again(world):
    log = []
    node = world.add(Plain("one", log), active=False)
    supervisor = supervised(world, "one")
    world.until(lambda: supervisor.reached)
    world.remove(node)
    world.until(lambda: not supervisor.reached)
    world.add(Plain("one", log), active=False)
    world.until(lambda: log.count(("one", "activate")) == 2)
    world.until(lambda: supervisor.reached)
    assert supervisor.nodes["one"].restarts == 1


def test_what_was_deactivated_by_hand_stays_so_and_is_not_called_well(world):
    log = []
    node = world.add(Plain("one", log), active=False)
    supervisor = supervised(world, "one")
    world.until(lambda: supervisor.reached)
    node.trigger_deactivate()
    world.until(lambda: "inactive by hand" in supervisor.health().message)
    world.spin(0.5)
    assert log.count(("one", "activate")) == 1
    assert supervisor.health().level == DiagnosticStatus.ERROR
    assert status_fields(supervisor.health())["state"] == "unsafe"
    world.call(Trigger, "supervisor/start", Trigger.Request())
    world.until(lambda: log.count(("one", "activate")) == 2)


def test_a_paused_graph_is_not_well(world):
    world.add(Plain("one", []), active=False)
    supervisor = supervised(world, "one")
    world.until(lambda: supervisor.reached)
    assert supervisor.health().message == "all well"
    world.call(SetBool, "supervisor/pause", SetBool.Request(data=True))
    world.until(lambda: supervisor.reached)
    assert supervisor.health().message == "paused: no guidance"


@pytest.mark.parametrize("ending", ["refuses", "is shut down by hand", "is not there"])
def test_an_optional_node_never_ends_the_operation(world, ending, monkeypatch):
    monkeypatch.setattr(bring_up, "_OPTIONAL_S", 0.5)
    node = None
    if ending != "is not there":
        node = world.add(Plain("extra", [], refuse=ending == "refuses"), active=False)
    world.add(Plain("one", []), active=False)
    supervisor = supervised(world, "extra", "one", optional=("extra",), timeout_s=5.0)
    world.until(lambda: supervisor.reached)
    if ending == "is shut down by hand":
        node.trigger_shutdown()
    world.until(lambda: "extra: " in supervisor.health().message)
    assert status_fields(supervisor.health())["state"] == "degraded"
    assert supervisor.failure == "" and supervisor.states["one"] == ACTIVE


def test_a_required_node_that_is_shut_down_by_hand_ends_the_operation(world):
    node = world.add(Plain("one", []), active=False)
    supervisor = supervised(world, "one")
    world.until(lambda: supervisor.reached)
    node.trigger_shutdown()
    world.until(lambda: "shut down by hand" in supervisor.failure)


# --- a camera that is gone -------------------------------------------------------------------------


@pytest.fixture
def camera_world(ros):
    world = CameraWorld()
    yield world
    world.close()


def say_gone(world, *names):
    if not hasattr(world, "gone"):
        world.gone = world.node.create_publisher(DiagnosticArray, topics.GONE, qos.LATCHED)
    status = [DiagnosticStatus(name=n, message=f"{n} died") for n in names]
    world.gone.publish(DiagnosticArray(status=status))


def test_a_result_under_way_is_not_shown_after_its_camera_died(camera_world, case):
    world = camera_world
    status = world.listen(DiagnosticArray, topics.STATUS)
    node, navigator = navigation(world, case, register_after=0)
    world.send(0)
    world.until(lambda: status)
    assert set(statuses(status[-1]).values()) == {"tracked"}
    navigator.slow_s = 0.4
    world.send(1)
    world.until(lambda: len(navigator.stamps) == 2)  # it is being worked on
    say_gone(world, "overlay", "camera_source")
    world.until(lambda: set(statuses(status[-1]).values()) == {"lost"})
    assert status_fields(status[-1].status[0])["reason"] == "camera_source died"
    told = len(status)
    world.until(lambda: node.idle and len(status) > told)
    world.send(2)  # was still in the middleware
    world.until(lambda: node.counts["after_the_camera"] == 1)
    assert all(set(statuses(m).values()) == {"lost"} for m in status[told:])
    assert len(navigator.stamps) == 2


def test_a_result_under_way_is_not_shown_after_its_camera_came_back_either(camera_world, case):
    world = camera_world
    status = world.listen(DiagnosticArray, topics.STATUS)
    node, navigator = navigation(world, case, register_after=0, slow_s=0.4)
    world.send(0)
    world.until(lambda: navigator.stamps)
    say_gone(world, "camera_source")
    world.until(lambda: node.camera_gone)
    say_gone(world)
    world.until(lambda: not node.camera_gone)
    world.until(lambda: status)
    assert set(statuses(status[0]).values()) == {"lost"}
    world.send(1)
    world.until(lambda: len(status) > 1)
    assert set(statuses(status[-1]).values()) == {"tracked"}


def test_who_starts_while_the_camera_is_gone_hears_of_it(camera_world, case):
    world = camera_world
    say_gone(world, "camera_source")
    node, _ = navigation(world, case, register_after=0)
    world.until(lambda: node.camera_gone == "camera_source died")


def test_a_late_recorder_is_ended_later_than_what_shows_something(world, monkeypatch):
    nodes = [world.add(Plain(name, []), active=False) for name in ("overlay", "session_recorder")]
    supervisor = supervised(world, "overlay", "session_recorder", hang_s=0.3, late_ms=400.0)
    ended = []
    for name, watched in supervisor.nodes.items():
        monkeypatch.setattr(watched, "kill", lambda name=name: ended.append(name) or True)
    world.until(
        lambda: supervisor.reached and not any(w.changing for w in supervisor.nodes.values())
    )
    for node in nodes:
        nowhere = world.node.create_publisher(DiagnosticStatus, "nowhere", qos.RESULT)
        monkeypatch.setattr(node, "_beats", nowhere)
    world.until(lambda: len(ended) >= 3)
    assert set(ended) == {"overlay"}
    world.until(lambda: "session_recorder" in ended)


def test_the_supervisor_names_a_hung_camera_as_gone_until_it_is_heard_again(world, monkeypatch):
    gone = world.listen(DiagnosticArray, topics.GONE, qos.LATCHED)
    camera = world.add(Plain("camera_source", []), active=False)
    supervisor = supervised(world, "camera_source", hang_s=0.0, late_ms=400.0)
    watched = supervisor.nodes["camera_source"]
    world.until(lambda: supervisor.reached and gone and not watched.changing)
    assert gone[0].status == [], "what an earlier supervisor said is void"
    monkeypatch.setattr(camera, "_beats", world.node.create_publisher(
        DiagnosticStatus, "nowhere", qos.RESULT
    ))  # fmt: skip
    world.until(lambda: gone[-1].status)
    assert (gone[-1].status[0].name, gone[-1].status[0].message) == (
        "camera_source", "camera_source hangs",
    )  # fmt: skip
    monkeypatch.undo()
    world.until(lambda: not gone[-1].status)
