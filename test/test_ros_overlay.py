# SPDX-License-Identifier: Apache-2.0
"""Screws, bends and tools through the overlay node, seen as its markers: each goes with what it rests
on. The test plays camera, navigation, stereo tracker, rod guidance and tool tracker."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support as support
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from ros_world import NAMESPACE, CameraWorld
from sensor_msgs.msg import CompressedImage
from visualization_msgs.msg import ImageMarker, Marker, MarkerArray

from rod_bending_ar.core.bender import step_text
from rod_bending_ar.core.forward import BendStep
from rod_bending_ar.ros import overlay_node
from rod_bending_ar.ros.overlay_node import OverlayNode
from spine_nav_bringup.ros.withdrawal import Withdrawal
from spine_nav_common.core.implant_outputs import ScrewRow
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import header, pose_message, transform_message
from spine_nav_common.ros.implants import Implants, implant_messages
from spine_nav_common.ros.results import key_values, result_messages
from spine_nav_common.ros.runtime import tf_message_type

pytestmark = pytest.mark.ros
WORLD = CameraWorld
CAMERA, STEREO = "camera_color_optical_frame", "stereo_left_optical_frame"
T = np.eye(4)
T[2, 3] = 0.5
RIG = np.eye(4)
RIG[0, 3] = 0.06


def stamp(index: int) -> int:
    return support.frame(index).stamp_ns


@pytest.fixture
def graph(world, case):
    """The overlay, watched through its markers, its strokes and its bull's eye."""
    node = world.add(
        OverlayNode({"case": case, "max_image_age_ms": 10_000.0, "screw_play_deg": 0.0}, NAMESPACE)
    )
    make = world.node.create_publisher
    parts = SimpleNamespace(
        node=node,
        world=world,
        poses=make(PoseArray, topics.VERTEBRA_POSES, qos.RESULT),
        status=make(DiagnosticArray, topics.STATUS, qos.RESULT),
        screw_poses=make(PoseArray, topics.SCREW_POSES, qos.RESULT),
        screws=make(DiagnosticArray, topics.SCREW_STATUS, qos.RESULT),
        bends=make(DiagnosticArray, topics.BENDING_STATUS, qos.STATE),
        tool=make(PoseWithCovarianceStamped, topics.TOOL_POSE, qos.SENSOR_OUT),
        tf=make(tf_message_type(), "/tf_static", qos.TF_STATIC),
        markers=world.listen(MarkerArray, topics.OVERLAY_MARKERS, qos.POSE),
        strokes=world.listen(ImageMarker, topics.OVERLAY_STROKES, qos.RESULT),
        eyes=world.listen(CompressedImage, topics.BULLS_EYE_COMPRESSED, qos.SENSOR_IN),
    )
    told = ("poses", "status", "screw_poses", "screws", "bends", "tool", "tf")
    world.until(lambda: all(getattr(parts, p).get_subscription_count() for p in told))
    world.until(lambda: world.camera["colour"].get_subscription_count())
    world.until(lambda: world.camera["info"].get_subscription_count())
    world.until(lambda: node._placer.ready)
    return parts


def guide(graph, index, states=(Status.TRACKED, Status.TRACKED)):
    """A camera image and the poses of it."""
    graph.world.send(index)
    levels = tuple(
        LevelEstimate(
            v, s, T if s is Status.TRACKED else None,
            predicted_tre_mm=1.0 if s is Status.TRACKED else None,
        )
        for v, s in zip(support.LEVELS, states, strict=True)
    )  # fmt: skip
    messages = result_messages(NavigationResult(stamp(index), levels), CAMERA)
    graph.poses.publish(messages.vertebra_poses)
    graph.status.publish(messages.status)


def join(graph):
    """The calibration of the two cameras, on /tf_static."""
    message = tf_message_type()()
    message.transforms = [transform_message(RIG, 0, CAMERA, STEREO)]
    graph.tf.publish(message)
    graph.world.until(lambda: bool(graph.node._inputs._frames))


def screw(index, level="L2"):
    """The left screw of a level, 1 mm beside its plan, in the stereo camera's frame."""
    z = -0.035 * support.LEVELS.index(level)
    head = np.array([0.013, 0.042, z]) + T[:3, 3] - RIG[:3, 3]
    out = np.array([0.0, 1.0, 0.0])
    return ScrewRow(stamp(index), 4, head, out, 0.9, 1.0, level, "left", True)


def show_screw(graph, index, reason=""):
    rows = () if reason else (screw(index),)
    messages = implant_messages(Implants(stamp(index), rows, reason=reason), STEREO)
    graph.screw_poses.publish(messages.poses)
    graph.screws.publish(messages.status)
    known = graph.node._inputs
    graph.world.until(lambda: known._implants and known._implants[0].stamp_ns == stamp(index))


def names(graph):
    """What the newest markers show, but margins."""
    if not graph.markers:
        return None
    shown = {m.ns for m in graph.markers[-1].markers if m.action == Marker.ADD}
    return {n for n in shown if not n.startswith("margin")}


def text(graph, name):
    return next(m.text for m in graph.markers[-1].markers if m.ns == name)


def until_shown(graph, index, wanted, states=(Status.TRACKED, Status.TRACKED)):
    """Pictures go on until the markers show exactly this."""

    def shows():
        if names(graph) == wanted:
            return True
        guide(graph, index, states)
        graph.world.spin(0.1)
        return False

    graph.world.until(shows)


def test_a_screw_is_shown_against_its_plan_and_goes_with_its_level(graph):
    join(graph)
    guide(graph, 1)
    graph.world.until(lambda: graph.markers)
    show_screw(graph, 1)
    until_shown(graph, 1, {"screw/L2/left", "screw/L2/left/text"})
    graph.world.until(lambda: "1.0 ±" in text(graph, "screw/L2/left/text"))
    until_shown(graph, 2, set(), (Status.LOST, Status.TRACKED))


def test_without_a_known_rig_no_screw_is_shown(graph):
    guide(graph, 1)
    graph.world.until(lambda: graph.markers)
    show_screw(graph, 1)
    before = len(graph.markers)
    guide(graph, 1)
    graph.world.until(lambda: len(graph.markers) > before)
    assert names(graph) == set()
    join(graph)
    until_shown(graph, 1, {"screw/L2/left", "screw/L2/left/text"})


def test_a_screw_that_was_seen_too_long_ago_or_is_withdrawn_goes(graph):
    join(graph)
    guide(graph, 1)
    graph.world.until(lambda: graph.markers)
    show_screw(graph, 1)
    until_shown(graph, 1, {"screw/L2/left", "screw/L2/left/text"})
    until_shown(graph, 20, set())  # 1.27 s later by its stamps
    show_screw(graph, 20)
    until_shown(graph, 20, {"screw/L2/left", "screw/L2/left/text"})
    show_screw(graph, 20, reason="pair refused")
    until_shown(graph, 20, set())


def show_tool(graph, index, sigma_m=3e-4, turn_deg=1.0):
    pose = np.eye(4)
    pose[:3, :3] = np.array(
        [[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]
    )  # z, to the handle, is dorsal (+y)
    pose[:3, 3] = np.array([0.0125, 0.030, 0.0]) + T[:3, 3]
    message = PoseWithCovarianceStamped(header=header(stamp(index), CAMERA))
    message.pose.pose = pose_message(pose)
    message.pose.covariance = (
        np.diag([sigma_m**2] * 3 + [np.radians(turn_deg) ** 2] * 3).ravel().tolist()
    )
    graph.tool.publish(message)
    known = graph.node._inputs
    graph.world.until(lambda: known._tool is not None and known._tool == message)


def test_a_tool_is_shown_with_its_deviation_and_goes_when_it_is_late_or_vague(graph):
    guide(graph, 1)
    graph.world.until(lambda: graph.markers)
    show_tool(graph, 1)
    until_shown(graph, 1, {"tool", "tool/text"})
    assert "0.5 ± 1.3 mm, 0.0 ± 3.8° off L2 left" in text(graph, "tool/text")
    until_shown(graph, 4, set())  # 200 ms later
    show_tool(graph, 4)
    until_shown(graph, 4, {"tool", "tool/text"})
    show_tool(graph, 4, sigma_m=2e-3)
    until_shown(graph, 4, set())
    show_tool(graph, 4)
    until_shown(graph, 4, {"tool", "tool/text"})
    show_tool(graph, 4, turn_deg=0.0)  # states no uncertainty of its direction
    until_shown(graph, 4, set())
    show_tool(graph, 4, sigma_m=0.0)  # states no uncertainty
    until_shown(graph, 4, set())
    assert not any(m.ns == "tool" for m in graph.markers[-1].markers)


def test_margins_strokes_and_the_view_along_the_trajectory_go_with_the_poses(graph):
    guide(graph, 1)
    graph.world.until(lambda: graph.markers and graph.strokes and graph.eyes)
    margins = {m.ns for m in graph.markers[-1].markers if m.ns.startswith("margin")}
    assert margins == {f"margin/{v}/{s}" for v in support.LEVELS for s in ("left", "right")}
    assert all(m.lifetime.sec > 0 for m in graph.markers[-1].markers if m.action == Marker.ADD)
    added = [m for m in graph.strokes if m.action == ImageMarker.ADD]
    assert added and all(m.type == ImageMarker.LINE_LIST and len(m.points) % 2 == 0 for m in added)
    seen = len(graph.eyes)
    guide(graph, 2, (Status.LOST, Status.LOST))
    graph.world.until(lambda: graph.strokes[-1].action == ImageMarker.REMOVE)
    graph.world.until(lambda: len(graph.eyes) > seen and len(graph.markers[-1].markers) == 1)
    assert graph.markers[-1].markers[0].action == Marker.DELETEALL
    removed = {m.id for m in graph.strokes if m.action == ImageMarker.REMOVE}
    assert removed == {m.id for m in added}


def test_the_covariance_of_each_pose_is_drawn_and_none_of_another_pose(graph, monkeypatch):
    drawn, indices = {}, {stamp(k): k for k in (1, 2)}

    def note(colour, lens, case, result, **options):
        if result is not None:
            drawn[indices[result.stamp_ns]] = {e.level: e for e in result.levels}
        return colour.copy()

    monkeypatch.setattr(overlay_node, "draw_overlay", note)
    make = graph.world.node.create_publisher
    told = [make(PoseWithCovarianceStamped, topics.pose_topic(v), qos.POSE) for v in support.LEVELS]
    graph.world.until(lambda: all(t.get_subscription_count() for t in told))
    graph.world.listen(CompressedImage, topics.OVERLAY_COMPRESSED, qos.SENSOR_IN)
    covariance = np.diag([1e-7, 4e-7, 9e-7, 1e-4, 2e-4, 3e-4])
    beside = T.copy()
    beside[0, 3] += 1e-3

    def tell_covariances():
        for publisher, pose in zip(told, (T, beside), strict=True):
            message = PoseWithCovarianceStamped(header=header(stamp(1), CAMERA))
            message.pose.pose = pose_message(pose)
            message.pose.covariance = covariance.ravel().tolist()
            publisher.publish(message)

    def until_drawn(index, good):
        def is_drawn():
            if index in drawn and good(drawn[index]):
                return True
            guide(graph, index)
            graph.world.spin(0.1)
            return False

        graph.world.until(is_drawn)
        return drawn[index]

    first, second = support.LEVELS
    tell_covariances()
    levels = until_drawn(1, lambda levels: levels[first].covariance is not None)
    np.testing.assert_allclose(levels[first].covariance, covariance)
    np.testing.assert_allclose(levels[first].anchor_camera_m, T[:3, 3])
    assert levels[second].covariance is None, "it is of another pose"
    levels = until_drawn(2, lambda levels: True)
    assert levels[first].covariance is None, "of this picture none is heard"


def test_the_next_bend_is_heard(graph):
    steps = [BendStep(n, 30.0 * n + 1.5, -35.0, 18.0, 20.4) for n in (1, 2, 3)]
    values = {"side": "left", "state": "planned", "text": "", "steps": 3, "steps_done": 1}
    values |= {f"step {s.n}": step_text(s) for s in steps}
    message = DiagnosticArray(header=header(stamp(1), STEREO))
    message.status = [DiagnosticStatus(name="rod: left", values=key_values(values))]
    graph.bends.publish(message)
    graph.world.until(lambda: graph.node._inputs.heard().bends)
    (bend,) = graph.node._inputs.heard().bends
    assert (bend.side, bend.steps, bend.step.feed_mm, bend.stamp_ns) == ("left", 3, 61.5, stamp(1))


def test_a_dead_overlay_leaves_no_marker_and_no_view_behind(world):
    """What the supervisor does in its place."""
    withdrawal = Withdrawal(world.node, ("overlay",))
    markers = world.listen(MarkerArray, topics.OVERLAY_MARKERS, qos.POSE)
    pictures = [
        world.listen(CompressedImage, topic, qos.SENSOR_IN)
        for topic in (topics.OVERLAY_COMPRESSED, topics.BULLS_EYE_COMPRESSED)
    ]
    world.until(lambda: all(world.node.count_subscribers(t) for t in (topics.OVERLAY_MARKERS,)))

    def gone():
        withdrawal.of("overlay", "the overlay died")
        world.spin(0.1)
        return markers and all(pictures)

    world.until(gone)
    assert [m.action for m in markers[-1].markers] == [Marker.DELETEALL]
