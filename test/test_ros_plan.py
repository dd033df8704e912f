# SPDX-License-Identifier: Apache-2.0
"""A plan that is changed during the operation: from a proposal over the surgeon's answer to what is
drawn. The test plays the camera, the page and whoever proposes."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from ros_world import NAMESPACE, CameraWorld, navigation
from std_msgs.msg import String
from test_ros_display import Page
from visualization_msgs.msg import Marker, MarkerArray

from rod_bending_ar.ros.overlay_node import OverlayNode
from spine_nav_bringup.ros import case_server
from spine_nav_bringup.ros.case_server import CaseServer
from spine_nav_common.core.case import load_case
from spine_nav_common.core.live_plan import line_of, proposal, read_state, same_line
from spine_nav_common.ros import qos, topics
from spine_nav_display.ros.display_node import DisplayNode

pytestmark = pytest.mark.ros
WORLD = CameraWorld


@pytest.fixture
def planning(world, case):
    """The case server, and what it says: `states`; `propose(by_mm)` moves the tip of L2 left."""

    class Planning:
        def __init__(self):
            self.states = world.listen(String, topics.PLAN_STATE, qos.LATCHED)
            self._out = world.node.create_publisher(String, topics.PLAN_PROPOSAL, qos.RESULT)
            self.server = world.add(CaseServer({"case": case}, NAMESPACE))
            world.until(lambda: self.states and self._out.get_subscription_count())

        def edited(self, by_mm):
            line = line_of(load_case(case).plan, "L2", "left")
            return replace(line, target_m=line.target_m + np.array([0.0, 0.0, by_mm * 1e-3]))

        def propose(self, by_mm):
            self._out.publish(String(data=proposal(self.edited(by_mm), "3D Slicer")))

        @property
        def now(self):
            return read_state(self.states[-1].data)

        def asked(self, by_mm):
            line = self.edited(by_mm)
            world.until(lambda: self.now.question and same_line(self.now.question[2], line))
            return self.now.question[0]

        def answer(self, text):
            value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=text)
            request = SetParameters.Request(
                parameters=[Parameter(name="confirm_plan", value=value)]
            )
            return world.call(SetParameters, "case_server/set_parameters", request).results[0]

    return Planning()


def tip(markers):
    """The tip of the arrow of L2 left, if it is drawn."""
    for marker in markers[-1].markers if markers else ():
        if marker.ns == "trajectory/left/L2" and marker.action == Marker.ADD:
            return round(marker.points[1].z, 6)
    return None


def test_a_change_is_drawn_everywhere_once_the_page_has_confirmed_it(world, case, planning):
    navigation(world, case, register_after=0)
    display = world.add(DisplayNode({"case": case, "port": 0}, NAMESPACE))
    overlay = world.add(OverlayNode({"case": case}, NAMESPACE))
    markers = world.listen(MarkerArray, topics.TRAJECTORIES, qos.LATCHED)
    page = Page(display.server.url)
    try:
        world.until(lambda: page.last("hello") and page.last("session"))
        world.send(0)
        world.until(lambda: tip(markers) == 0.0)
        planning.propose(3.0)
        id_ = planning.asked(3.0)
        for index in range(1, 200):  # the page is asked with the results of frames
            if (page.last("levels") or {}).get("question"):
                break
            world.send(index)
            world.spin(0.1)
        shown = page.last("levels")["question"]
        assert shown["id"] == id_ and "3D Slicer" in shown["text"] and shown["levels"] == ["L2"]
        assert shown["line"]["target"][2] == pytest.approx(0.003)
        assert tip(markers) in (None, 0.0) and planning.now.version == 0, "nothing changes before"
        page.act("confirm", question=id_, stamp_ns=page.last("levels")["stamp_ns"])
        world.until(lambda: page.last("outcome"))
        assert page.last("outcome")["ok"], page.last("outcome")
        world.until(lambda: planning.now.version == 1)
        for index in range(200, 400):
            if tip(markers) == 0.003:
                break
            world.send(index)
            world.spin(0.1)
        assert tip(markers) == 0.003
        world.until(lambda: page.last("plan")["plan"][0]["target"][2] == pytest.approx(0.003))
        line = planning.edited(3.0)
        world.until(lambda: same_line(line_of(overlay._case.plan, "L2", "left"), line))
    finally:
        page.close()


def test_an_answer_to_an_older_edit_is_refused(world, planning):
    planning.propose(1.0)
    old = planning.asked(1.0)
    planning.propose(2.0)
    new = planning.asked(2.0)
    said = planning.answer(f"{old} yes")
    assert not said.successful and new in said.reason
    assert planning.now.version == 0
    assert not planning.answer(f"{new} perhaps").successful
    assert planning.answer(f"{new} no").successful
    world.until(lambda: planning.now.question is None)
    assert planning.now.version == 0 and planning.now.told["L2_left"]["what"] == "rejected"


def test_what_leaves_the_bone_or_cannot_be_read_is_never_asked(world, planning):
    planning.propose(30.0)
    world.until(lambda: planning.now.told.get("L2_left", {}).get("what") == "refused")
    assert planning.now.question is None
    for nonsense in ("no JSON", "[]", json.dumps({"level": "L2", "side": "up"}), "[" * 100_000):
        planning._out.publish(String(data=nonsense))
    planning.propose(1.0)
    planning.asked(1.0)


def test_a_case_server_that_died_goes_on_with_the_plan_that_was_confirmed(
    world, case, planning, monkeypatch
):
    kept = {}
    monkeypatch.setattr(case_server, "leave", kept.__setitem__)
    monkeypatch.setattr(case_server, "left", lambda: kept)
    planning.propose(2.0)
    assert planning.answer(f"{planning.asked(2.0)} yes").successful
    planning.propose(1.0)
    open_ = planning.asked(1.0)
    world.remove(planning.server)
    heard = len(planning.states)
    world.add(CaseServer({"case": case}, NAMESPACE))
    world.until(lambda: len(planning.states) > heard)
    assert planning.now.version == 1 and planning.now.question[0] == open_
    line = line_of(planning.now.plan, "L2", "left")
    assert same_line(line, planning.edited(2.0))
