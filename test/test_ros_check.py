# SPDX-License-Identifier: Apache-2.0
"""The surgeon's landmark check through the graph: words, clicks and a pointer in; a verdict out."""

from __future__ import annotations

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PointStamped
from rcl_interfaces.msg import Parameter as RosParameter
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from ros_world import CameraWorld, navigation
from std_msgs.msg import String
from std_srvs.srv import Trigger

from spine_nav_common.core.case import load_case
from spine_nav_common.core.landmarks import landmarks
from spine_nav_common.core.types import (
    Intrinsics,
    LevelEstimate,
    NavigationResult,
    RgbdFrame,
    Status,
)
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import camera_info_message, header
from spine_nav_common.ros.results import status_fields
from spine_registration.ros.navigation_check import LandmarkChecks

pytestmark = pytest.mark.ros
WORLD = CameraWorld
FRAME = "camera_color_optical_frame"
SHIFT_M = np.array((0.01, 0.02, 0.5))  # the fake navigator's pose


@pytest.fixture
def graph(world, case):
    """A navigation that tracks L2 and L3, and what it says of its checks."""
    told = world.listen(DiagnosticArray, topics.CHECK, qos.LATCHED)
    status = world.listen(DiagnosticArray, topics.STATUS)
    _, navigator = navigation(world, case, register_after=0)
    return world, navigator, told, status


def say(world, text):
    value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=text)
    request = SetParameters.Request(parameters=[RosParameter(name="landmark_check", value=value)])
    return world.call(SetParameters, "navigation/set_parameters", request).results[0]


def shown(world, status, index):
    """Send a frame and wait for its result; its stamp."""
    before = len(status)
    stamp = world.send(index)
    world.until(lambda: len(status) > before)
    return stamp


def touch_with_a_pointer(world, told, stamp, point, frame=FRAME):
    publisher = world.node.create_publisher(PointStamped, topics.POINTER, qos.RESULT)
    world.until(lambda: publisher.get_subscription_count())
    message = PointStamped(header=header(stamp, frame))
    message.point.x, message.point.y, message.point.z = map(float, point)
    before = len(told)
    publisher.publish(message)
    return before


def newest(told):
    return {f["level"]: f for f in map(status_fields, told[-1].status)}


def test_a_pointer_on_the_landmarks_passes_the_level(graph, case):
    world, navigator, told, status = graph
    assert say(world, "begin L3").successful
    stamp = shown(world, status, 0)
    for i, landmark in enumerate(landmarks(load_case(case), "L3")):
        world.until(lambda n=i: told and newest(told)["L3"]["next"] == str(n + 1))
        assert newest(told)["L3"][f"landmark {i + 1}"] == landmark.name
        touch_with_a_pointer(world, told, stamp, landmark.point_m + SHIFT_M + (2e-3, 0, 0))
    world.until(lambda: newest(told)["L3"]["state"] == "passed")
    fields = newest(told)["L3"]
    assert float(fields["mean_mm"]) == pytest.approx(2.0, abs=1e-3)
    assert float(fields["limit_mm"]) == pytest.approx(np.hypot(2.5, 1.25), abs=1e-3)
    assert [fields[f"residual_mm {n}"] for n in (1, 2, 3)] == ["2.000"] * 3
    assert navigator.withheld == {}


def test_a_pointer_of_another_frame_or_time_does_not_count(graph, case):
    world, _, told, status = graph
    journal = world.listen(String, topics.JOURNAL, qos.JOURNAL)
    assert say(world, "begin L3").successful
    stamp = shown(world, status, 0)
    for when, frame, why in (
        (stamp, "pointer", "give it in"),
        (stamp + 10**9, FRAME, "no frame was solved"),
    ):
        touch_with_a_pointer(world, told, when, (0, 0, 0.5), frame)
        world.until(lambda w=why: any(w in json.loads(m.data).get("refused", "") for m in journal))
    assert newest(told)["L3"]["next"] == "1"


def test_clicks_beside_the_landmarks_take_the_level_from_view(graph):
    world, navigator, told, status = graph
    assert say(world, "begin L2").successful
    stamp = shown(world, status, 0)
    for number in (1, 2, 3):
        assert not say(world, f"touch L2 {number % 3 + 1} {stamp} 10 20").successful
        answer = say(world, f"touch L2 {number} {stamp} 10 20")
        assert answer.successful, answer.reason
    world.until(lambda: told and newest(told)["L2"]["state"] == "failed")
    assert list(navigator.withheld) == ["L2"]
    assert "landmark check of L2 failed" in navigator.withheld["L2"]


def test_words_out_of_place_are_refused_and_change_nothing(graph):
    world, navigator, told, status = graph
    for text in ("touch L2 1 5 1 1", "undo L2", "end L2", "skip L2 1"):
        assert "begin one" in say(world, text).reason
    assert "not navigated" in say(world, "begin L5").reason
    assert say(world, "begin L2").successful
    stamp = shown(world, status, 0)
    for text, why in (
        (f"touch L3 1 {stamp} 10 20", "begin one"),
        (f"touch L2 1 {stamp - 1} 10 20", "no poses of the picture"),
        (f"touch L2 1 {stamp} 10 1", "no depth"),
        (f"touch L2 1 {stamp} 9999 20", "outside"),
        (f"touch L2 1 {stamp} nan 20", "outside"),
        ("touch L2 one two three four", "no word"),
        ("touch", "begin one"),
        ("skip L2 1", "3 landmarks are needed"),
        ("undo L2", "nothing was touched"),
        ("sing L2", "no word"),
    ):
        answer = say(world, text)
        assert not answer.successful and why in answer.reason, (text, answer.reason)
    assert newest(told)["L2"]["next"] == "1" and navigator.withheld == {}


def test_what_was_touched_can_be_taken_back_and_a_check_given_up(graph):
    world, navigator, told, status = graph
    assert say(world, "begin L2").successful
    stamp = shown(world, status, 0)
    assert say(world, f"touch L2 1 {stamp} 10 20").successful
    assert say(world, "undo L2").successful
    world.until(lambda: told and newest(told)["L2"]["next"] == "1")
    assert say(world, "begin L3").successful
    world.until(lambda: newest(told).get("L3", {}).get("state") == "open")
    assert newest(told)["L2"]["state"] == "ended"
    assert say(world, "end L3").successful
    world.until(lambda: newest(told)["L3"]["state"] == "ended")
    assert navigator.withheld == {}


def pass_check(world, told, status, case, level, index=0):
    """Check a level with a pointer until it has passed; the stamp that was touched."""
    assert say(world, f"begin {level}").successful
    stamp = shown(world, status, index)
    for i, landmark in enumerate(landmarks(load_case(case), level)):
        world.until(lambda n=i: told and newest(told)[level]["next"] == str(n + 1))
        touch_with_a_pointer(world, told, stamp, landmark.point_m + SHIFT_M)
    world.until(lambda: newest(told)[level]["state"] == "passed")
    return stamp


def test_what_passed_or_was_touched_is_of_one_registration(graph, case):
    world, navigator, told, status = graph
    pass_check(world, told, status, case, "L3")
    assert say(world, "begin L2").successful
    stamp = shown(world, status, 1)
    assert say(world, f"touch L2 1 {stamp} 10 20").successful
    shown(world, status, 2)
    assert newest(told)["L3"]["state"] == "passed" and newest(told)["L2"]["state"] == "open"
    navigator.registrations += 1  # all levels were lost and found again, nobody asked for it
    shown(world, status, 3)
    world.until(lambda: newest(told)["L3"]["state"] == newest(told)["L2"]["state"] == "ended")
    assert "check again" in told[-1].status[0].message
    assert not {k for k, v in newest(told)["L3"].items() if v == "touched" or "residual" in k}
    assert "begin one" in say(world, f"touch L2 2 {stamp} 10 20").reason


def test_what_failed_stays_failed_when_the_pose_is_begun_anew(graph):
    world, navigator, told, status = graph
    assert say(world, "begin L2").successful
    stamp = shown(world, status, 0)
    for number in (1, 2, 3):
        assert say(world, f"touch L2 {number} {stamp} 10 20").successful
    assert say(world, "begin L3").successful  # nothing is touched yet: it goes on
    world.until(lambda: told and newest(told).get("L3", {}).get("state") == "open")
    navigator.registrations += 1
    before = len(told)
    shown(world, status, 1)
    world.until(lambda: len(told) > before)
    assert newest(told)["L2"]["state"] == "failed" and newest(told)["L3"]["state"] == "open"


def test_a_navigation_that_starts_takes_back_what_the_one_before_said(graph):
    world, _, told, _ = graph
    world.until(lambda: told)
    assert told[0].status == []


def test_a_click_on_the_picture_of_a_wide_lens_counts_where_the_lens_has_it(case):
    case, said = load_case(case), []
    publisher = SimpleNamespace(publish=lambda message: None)
    checks = LandmarkChecks(
        lambda *_: publisher, case, 4.0, 2.5, said.append, lambda: said.append("renewed")
    )
    camera = Intrinsics(640, 480, 450.0, 450.0, 320.0, 240.0)
    info = camera_info_message(camera, 7, FRAME)
    info.d = [-0.3, 0.08, 0.0, 0.0, 0.0]
    T = np.eye(4)
    T[:3, 3] = (0.14, 0.08, 0.5)  # well off the middle, where a lens bends
    marks = [x.point_m + T[:3, 3] for x in landmarks(case, "L3")]
    result = NavigationResult(
        7, (LevelEstimate("L3", Status.TRACKED, T, predicted_tre_mm=1.0),), {}
    )
    checks.command("begin L3")
    for number, (x, y, z) in enumerate(marks, 1):
        depth = np.full((480, 640), z, np.float32)
        frame = RgbdFrame(7, np.zeros((480, 640, 3), np.uint8), depth, camera, FRAME)
        checks.note(frame, result, info, 0)
        K, D = np.reshape(info.k, (3, 3)), np.array(info.d)
        seen = cv2.projectPoints(np.array([[x, y, z]]), np.zeros(3), np.zeros(3), K, D)[0].ravel()
        pinhole = 450.0 * np.array([x, y]) / z + (320.0, 240.0)
        assert np.linalg.norm(seen - pinhole) > 5.0
        answer = checks.command(f"touch L3 {number} 7 {seen[0]:.2f} {seen[1]:.2f}")
        checks._seen.clear()
        assert isinstance(answer, str), answer
    assert "passed: 0.0 mm" in answer and said == []


def test_a_new_registration_forgets_every_check(graph):
    world, _, told, status = graph
    assert say(world, "begin L2").successful
    stamp = shown(world, status, 0)
    assert say(world, f"touch L2 1 {stamp} 10 20").successful
    assert world.call(Trigger, "register", Trigger.Request()).success
    world.until(lambda: told and not told[-1].status)
    assert "begin one" in say(world, f"touch L2 2 {stamp} 10 20").reason
