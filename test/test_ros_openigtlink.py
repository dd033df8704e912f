# SPDX-License-Identifier: Apache-2.0
"""The OpenIGTLink bridge in a small ROS graph. Slicer is played by pyigtl, which is other people's."""

import socket
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")
pyigtl = pytest.importorskip("pyigtl", reason="pyigtl is not installed; run make setup")

import ros_support as support
from rclpy.lifecycle import TransitionCallbackReturn
from ros_world import NAMESPACE, CameraWorld, navigation
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String
from test_ros_plan import planning  # noqa: F401 - a fixture
from test_ros_viewers import publish_status, result_publishers  # noqa: F401 - a fixture

from spine_nav_bringup.live_options import LiveOptions, configure
from spine_nav_bringup.ros.case_server import CaseServer
from spine_nav_common.core.case import load_case
from spine_nav_common.core.live_plan import line_of, same_line
from spine_nav_common.core.types import Status
from spine_nav_common.parameters import ParameterError
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import jpeg_message
from spine_nav_display.core import igtl_scene as scene
from spine_nav_display.ros.openigtlink_node import OpenIgtLink

pytestmark = pytest.mark.ros
WORLD = CameraWorld
BOTH = (Status.TRACKED, Status.TRACKED)


class PolyData(pyigtl.messages.MessageBase):
    """Only how many points it has: pyigtl writes POLYDATA and does not read it."""

    def _unpack_content(self, content):
        self.count = int.from_bytes(content[:4], "big")


pyigtl.messages.message_type_to_class_constructor["POLYDATA"] = PolyData


class StatusMessage(pyigtl.messages.MessageBase):
    def _unpack_content(self, content):
        self.code = int.from_bytes(content[:2], "big")
        self.text = content[30:].decode().rstrip("\0")


pyigtl.messages.message_type_to_class_constructor["STATUS"] = StatusMessage


class Slicer(pyigtl.OpenIGTLinkClient):
    """Keeps, as Slicer does, the newest message of each device; `count`s them."""

    def __init__(self, port):
        self.kept, self.count = {}, {}
        super().__init__("127.0.0.1", port)

    def _receive_message_from_socket(self, source):
        try:  # pyigtl forgets the half of a header that has come when the other half is late
            if len(source.recv(58, socket.MSG_PEEK)) < 58:
                return False
        except TimeoutError:
            return False
        done = super()._receive_message_from_socket(source)
        with self.lock_incoming_messages:
            for name, message in self.incoming_messages.items():
                self.kept[name] = message
                self.count[name] = self.count.get(name, 0) + 1
            self.incoming_messages.clear()
        return done

    def text(self, device):
        return self.kept[device].string if device in self.kept else ""

    def points(self, device):
        return self.kept[device].count if device in self.kept else None

    def draws(self, level, side="left"):
        """Whether a vertebra and its planned screw are to be seen."""
        return bool(self.points(f"Vertebra{level}")) and bool(self.points(f"Plan{level}_{side}"))


@pytest.fixture
def bridge(world, case):
    node = world.add(
        OpenIgtLink(
            {"case": case, "port": 0, "image_port": 0, "silence_ms": 500.0, "edit_ms": 50.0},
            NAMESPACE,
        )
    )
    opened = []

    def slicer(server=None):
        opened.append(Slicer((server or node.server).port))
        world.until(lambda: (server or node.server).clients)
        return opened[-1]

    node.slicer = slicer
    yield node
    for each in opened:
        each.stop()


@pytest.fixture
def poses(world, bridge, result_publishers):  # noqa: F811
    world.until(lambda: all(p.get_subscription_count() for p in result_publishers))
    index = iter(range(10_000))
    return lambda *states: publish_status(world, result_publishers, next(index), states)


def test_a_tracked_level_is_where_the_camera_sees_it_and_a_lost_one_is_gone(world, bridge, poses):
    client = bridge.slicer()
    world.until(lambda: client.text("VertebraL3Status") == "nothing is known yet")
    assert client.points("VertebraL2") == 0 and "VertebraL2ToCamera" not in client.kept
    poses(*BOTH)
    world.until(lambda: client.draws("L2") and client.draws("L3"))
    matrix = client.kept["VertebraL2ToCamera"].matrix
    np.testing.assert_allclose(matrix, np.diag([-1, -1, 1, 1]) + np.eye(4, k=1)[[3, 3, 2, 3]] * 500)
    assert client.kept["VertebraL2ToCamera"].timestamp == pytest.approx(support.START_NS * 1e-9)
    assert client.text("VertebraL2Status") == "tracked: 95 % within 1.0 mm"
    poses(Status.TRACKED, Status.LOST)
    world.until(lambda: client.text("VertebraL3Status").startswith("lost"))
    world.until(lambda: client.points("VertebraL3") == 0 and client.points("PlanL3_left") == 0)
    assert client.draws("L2")
    count = client.count["VertebraL3ToCamera"]
    before = client.count["VertebraL2ToCamera"]
    poses(Status.TRACKED, Status.OCCLUDED)
    world.until(lambda: client.count["VertebraL2ToCamera"] > before)
    assert client.count["VertebraL3ToCamera"] == count, "held is not live"
    poses(*BOTH)
    world.until(lambda: client.draws("L3"))


def test_a_navigation_that_falls_silent_leaves_nothing_to_be_seen(world, bridge, poses):
    client = bridge.slicer()
    poses(*BOTH)
    world.until(lambda: client.draws("L2"))
    world.until(lambda: "silent" in client.text("VertebraL2Status"))
    world.until(lambda: not client.draws("L2") and not client.draws("L3"))


def test_a_slicer_that_vanishes_and_returns_sees_what_holds_now(world, bridge, poses):
    first = bridge.slicer()
    poses(*BOTH)
    world.until(lambda: first.draws("L2"))
    first.stop()
    world.until(lambda: not bridge.server.clients)
    poses(Status.LOST, Status.TRACKED)
    world.until(lambda: bridge._tracked == {"L2": False, "L3": True})
    again = bridge.slicer()
    world.until(lambda: again.draws("L3"))
    world.until(lambda: again.text("VertebraL2Status").startswith("lost"))
    assert not again.draws("L2") and "VertebraL2ToCamera" not in again.kept


def test_the_bridge_that_is_deactivated_withdraws_everything(world, bridge, poses):
    client = bridge.slicer()
    poses(*BOTH)
    world.until(lambda: client.draws("L2"))
    bridge.trigger_deactivate()
    world.until(lambda: client.text("VertebraL2Status") == "the bridge is not active")
    world.until(lambda: not client.draws("L2"))


def edit(client, plan, by_mm, frame="LPS", device=None):
    """Slicer moves the tip of a planned screw towards the head."""
    ends = scene.to_ras_mm(np.array([plan.entry_m, plan.target_m]), frame)
    ends[1, 2] += by_mm
    client.send_message(
        pyigtl.PointMessage(
            ends, names=["entry", "target"], device_name=device or scene.line_name(plan)
        ),
        wait=False,
    )
    return ends


def test_an_edit_in_slicer_becomes_the_plan_after_the_surgeon_has_confirmed(
    world, case, bridge, planning, poses  # noqa: F811
):  # fmt: skip
    client = bridge.slicer()
    world.until(lambda: "L2_left" in client.kept)
    for by_mm in (1.0, 2.0, 3.0):  # dragged: only where it comes to rest is asked about
        edit(client, line_of(load_case(case).plan, "L2", "left"), by_mm)
    id_ = planning.asked(3.0)
    assert planning.now.version == 0
    world.until(lambda: "waits for the surgeon" in client.text("PlanStatus"))
    client.kept.pop("L2_left")
    assert planning.answer(f"{id_} yes").successful
    world.until(lambda: "confirmed" in client.text("PlanStatus"))
    world.until(lambda: "L2_left" in client.kept)
    assert client.kept["L2_left"].positions[1][2] == pytest.approx(3.0, abs=1e-4)
    assert same_line(line_of(planning.now.plan, "L2", "left"), planning.edited(3.0))
    edit(client, line_of(load_case(case).plan, "L2", "left"), 3.0)  # a viewer's echo asks nothing
    edit(client, line_of(load_case(case).plan, "L3", "left"), 1.0)
    world.until(lambda: planning.now.question and planning.now.question[2].level == "L3")


def test_an_edit_that_the_surgeon_rejects_goes_back_to_what_holds(
    world, case, bridge, planning  # noqa: F811
):  # fmt: skip
    client = bridge.slicer()
    edit(client, line_of(load_case(case).plan, "L2", "left"), 2.0)
    id_ = planning.asked(2.0)
    client.kept.pop("L2_left", None)
    assert planning.answer(f"{id_} no").successful
    world.until(lambda: "L2_left" in client.kept)
    assert client.kept["L2_left"].positions[1][2] == pytest.approx(0.0, abs=1e-4)
    world.until(lambda: client.kept["SpineNav"].code == 5)
    assert "rejected" in client.kept["SpineNav"].text


@pytest.mark.parametrize(
    ("by_mm", "device", "words"),
    [
        (30.0, None, "leaves the bone|outside of the bone"),
        (0.0, "L5_left", "L5 is not in this case"),
        (0.0, "F", "names no planned screw"),
    ],
)
def test_an_edit_that_cannot_be_right_is_refused_in_slicer_and_asked_nowhere(
    world, case, bridge, planning, by_mm, device, words  # noqa: F811
):  # fmt: skip
    import re

    client = bridge.slicer()
    edit(client, line_of(load_case(case).plan, "L2", "left"), by_mm, device=device)
    world.until(lambda: "SpineNav" in client.kept)
    assert client.kept["SpineNav"].code == 5
    assert re.search(words, client.kept["SpineNav"].text), client.kept["SpineNav"].text
    assert planning.now.question is None


def test_an_edit_waits_for_a_case_server_that_is_not_there(world, case, bridge):
    client = bridge.slicer()
    edit(client, line_of(load_case(case).plan, "L2", "left"), 2.0)
    world.until(lambda: bridge._edits)
    world.spin(0.4)
    assert bridge._edits, "nobody has heard of it yet"
    states = world.listen(String, topics.PLAN_STATE, qos.LATCHED)
    world.add(CaseServer({"case": case}, NAMESPACE))
    world.until(lambda: states and "PLAN-" in states[-1].data)


def test_other_messages_are_passed_over_and_bad_ones_named_in_the_health(world, bridge):
    client = bridge.slicer()
    client.send_message(pyigtl.StringMessage("hello", device_name="x"), wait=False)
    world.until(lambda: "SpineNav" in client.kept)
    assert client.kept["SpineNav"].code == 12
    with socket.create_connection(("127.0.0.1", bridge.server.port)) as bad:
        bad.sendall(b"GET / HTTP/1.1\r\nHost: nobody that we know of, at all, ever\r\n\r\n")
        world.until(lambda: bridge.server.counts["malformed"] == 1)
    world.until(lambda: "closed" in bridge.health()[1])


def test_pictures_have_a_connection_of_their_own_and_a_stopped_one_is_covered(world, bridge):
    import cv2

    overlay = world.node.create_publisher(
        CompressedImage, topics.OVERLAY_COMPRESSED, qos.SENSOR_OUT
    )
    words = bridge.slicer()
    world.spin(0.3)
    assert overlay.get_subscription_count() == 0, "nobody looks"
    client = bridge.slicer(bridge.pictures)
    world.until(overlay.get_subscription_count)
    shown = np.full((48, 64, 3), (10, 20, 200), np.uint8)  # BGR: red in RGB
    data = cv2.imencode(".jpg", shown)[1].tobytes()
    begun, sent = time.monotonic(), 0
    while time.monotonic() < begun + 1.2:
        sent += 1
        overlay.publish(jpeg_message(data, support.START_NS, "camera"))
        world.spin(0.02)
    world.until(lambda: "Overlay" in client.kept)
    assert client.kept["Overlay"].image.shape == (1, 48, 64, 3)
    assert client.kept["Overlay"].image[0, 20, 30].astype(int) == pytest.approx(
        [200, 20, 10], abs=6
    )
    most = 2 + 2 * (time.monotonic() - begun)
    assert client.count["Overlay"] <= most < sent, "two a second"
    assert "Overlay" not in words.kept
    world.until(lambda: client.kept["Overlay"].image.shape == (1, 480, 640, 3))


def test_a_bridge_that_would_be_open_to_others_refuses_to_start(world, case):
    node = world.add(OpenIgtLink({"case": case, "host": "0.0.0.0"}, NAMESPACE), active=False)
    assert node.trigger_configure() is TransitionCallbackReturn.FAILURE
    assert "authentication" in node.problem and "allow_network" in node.problem


def test_poses_come_from_the_real_navigation_too(world, case, bridge):
    navigation(world, case, register_after=0)
    client = bridge.slicer()
    world.send(0)
    world.until(lambda: client.draws("L3"))


def test_live_refuses_what_cannot_be_served_before_any_process_starts(tmp_path, case):
    def wanted(*assignments, source="virtual", **given):
        return configure(
            LiveOptions(case, source, tmp_path, assignments=assignments, openigtlink=True, **given)
        )

    assert "openigtlink" not in configure(LiveOptions(case, "virtual", tmp_path))[1]
    _, values = wanted(igtl_port=0)
    assert values["openigtlink"]["port"] == values["openigtlink"]["image_port"] == 0
    with pytest.raises(ParameterError, match="authentication"):
        wanted("openigtlink.host=0.0.0.0")
    with pytest.raises(ParameterError, match="no RGB-D camera"):
        wanted(source="stereo")
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(ParameterError, match="--igtl-port"):
        wanted(igtl_port=taken.getsockname()[1])


def test_health_that_was_due_when_the_node_was_cleaned_up_ends_nothing(world, bridge):
    """The events executor calls a timer that was due before it was destroyed."""
    bridge._publish_health()
    bridge.trigger_deactivate()
    bridge.trigger_cleanup()
    bridge._publish_health()
