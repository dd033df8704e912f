# SPDX-License-Identifier: Apache-2.0
"""Stereo tracker and rod guidance as nodes: the test plays camera, surgeon and viewer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support
import stereo_support as support
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseArray
from nav_msgs.msg import Path
from ros_world import NAMESPACE, StereoWorld
from std_srvs.srv import SetBool, Trigger
from visualization_msgs.msg import Marker, MarkerArray

from rod_bending_ar.ros.rod_guidance import RodGuidance
from spine_nav_common.core.case import load_case
from spine_nav_common.core.implant_outputs import RodCurve
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import (
    pose_array,
    stamp_to_ns,
    transform_message,
)
from spine_nav_common.ros.implants import (
    Implants,
    implant_messages,
    implants_from_messages,
    rod_path,
)
from spine_nav_common.ros.results import result_messages
from spine_nav_common.ros.runtime import tf_message_type
from stereo_screw_tracker.core.load import StereoCore
from stereo_screw_tracker.core.output import rod_curves, screw_rows
from stereo_screw_tracker.ros.stereo_config import NodeCore
from stereo_screw_tracker.ros.stereo_tracker import StereoTrackerNode

pytestmark = pytest.mark.ros


WORLD = StereoWorld


def stereo(world, values=None, case=None, **modes):
    """A running stereo tracker node around a fake tracker, and that tracker."""
    tracker = support.FakeTracker(**modes)
    core = NodeCore(StereoCore(tracker, "fake", "0" * 64), load_case(case) if case else None)
    # A test sends when the last result is there, later than its stamps say.
    given = {"max_stamp_age_ms": 60_000.0, **(values or {})}
    node = world.add(StereoTrackerNode(given, NAMESPACE, lambda _: core))
    world.matched()
    return node, tracker


def fields(status: DiagnosticStatus) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


def listen_all(world):
    return {
        "status": world.listen(DiagnosticArray, topics.SCREW_STATUS),
        "poses": world.listen(PoseArray, topics.SCREW_POSES),
        "markers": world.listen(MarkerArray, topics.SCREW_MARKERS),
        "path": world.listen(Path, topics.ROD_PATH),
        "left": world.listen(Path, topics.rod_path_topic("left")),
        "right": world.listen(Path, topics.rod_path_topic("right")),
    }


def whole(got):
    """What carries a header of its own."""
    return [got[k] for k in ("status", "poses", "path", "left", "right")]


# -- messages


def fake_implants(**modes) -> Implants:
    result = support.FakeTracker(**modes).process(support.frame(0))
    return Implants(
        result.stamp_ns, tuple(screw_rows(result)), tuple(rod_curves(result)), frozenset({3}),
        events=("a ghost is gone",),
    )  # fmt: skip


def test_screws_and_rods_survive_the_messages():
    sent = fake_implants()
    left, right = sent.rods
    left = replace(left, free_m=left.centreline_m + 1e-3, free_sigma_mm=left.sigma_mm + 0.2)
    sent = replace(sent, rods=(left, right))
    messages = implant_messages(sent, "left_frame")
    got = implants_from_messages(messages.status, messages.poses)
    assert (got.stamp_ns, got.hidden, got.events) == (sent.stamp_ns, sent.hidden, sent.events)
    for a, b in zip(got.screws, sent.screws, strict=True):
        np.testing.assert_allclose(a.head_m, b.head_m, atol=1e-12)
        np.testing.assert_allclose(a.axis, b.axis, atol=1e-9)
        assert (a.track_id, a.level, a.side) == (b.track_id, b.level, b.side)
    for a, b in zip(got.rods, sent.rods, strict=True):
        np.testing.assert_allclose(a.centreline_m, b.centreline_m, atol=1e-7)
        assert a.side == b.side and (a.seen == b.seen).all()
        assert (a.free_m is None) == (b.free_m is None) == (a.side == "right")
        if b.free_m is not None:
            np.testing.assert_allclose(a.free_m, b.free_m, atol=1e-7)
            np.testing.assert_allclose(a.free_sigma_mm, b.free_sigma_mm, atol=1e-4)


def test_heads_of_another_stamp_are_not_joined():
    messages = implant_messages(fake_implants(), "f")
    later = implant_messages(replace(fake_implants(), stamp_ns=support.START_NS + 1), "f")
    assert implants_from_messages(messages.status, later.poses).screws == ()


@pytest.mark.parametrize("way", [(1, 0, 0), (-1, 0, 0), (0, 0.6, -0.8), (0.1, -0.9, 0.2)])
def test_the_poses_of_a_path_lie_along_the_rod(way):
    points = np.arange(5)[:, None] * 1e-3 * np.array(way, float)
    rod = RodCurve("left", points, np.full(5, 0.3), np.ones(5, bool))
    path = rod_path(rod, implant_messages(fake_implants(), "f").poses.header)
    for pose, point in zip(path.poses, points, strict=True):
        T = pose_array(pose.pose)
        np.testing.assert_allclose(T[:3, 0], np.array(way) / np.linalg.norm(way), atol=1e-9)
        np.testing.assert_allclose(T[:3, 3], point, atol=1e-12)


def test_a_head_points_out_of_the_bone():
    messages = implant_messages(fake_implants(), "f")
    o = messages.poses.poses[0].orientation
    z = np.array(
        [2 * (o.x * o.z + o.y * o.w), 2 * (o.y * o.z - o.x * o.w), 1 - 2 * (o.x**2 + o.y**2)]
    )
    np.testing.assert_allclose(z, (0, 0, -1), atol=1e-9)


# -- the stereo tracker


def test_a_pair_gives_heads_rods_markers_and_status_of_its_stamp(world):
    got = listen_all(world)
    stereo(world, hidden=3)
    stamp = world.send(0)
    world.until(lambda: all(got.values()))
    assert {stamp_to_ns(got[k][-1].header.stamp) for k in ("status", "poses", "path")} == {stamp}
    poses = got["poses"][-1].poses
    assert len(poses) == 8 and len(got["left"][-1].poses) > 100
    assert got["path"][-1].poses == got["left"][-1].poses
    states = {s.name: fields(s) for s in got["status"][-1].status}
    assert states["screw: 0"]["level"] == "L2" and states["screw: 3"]["hidden"] == "True"
    assert poses[int(states["screw: 2"]["pose_index"])].position.y == pytest.approx(
        -0.017, abs=1e-3
    )
    markers = got["markers"][-1].markers
    assert markers[0].action == Marker.DELETEALL
    spheres = [m for m in markers if m.ns == "screw/bound"]
    assert len(spheres) == 8 and spheres[0].scale.x == pytest.approx(2.2e-3)
    assert any("L2 left  95 % within 1.1 mm" in m.text for m in markers)


def test_the_newest_pair_wins_and_drops_are_counted(world):
    node, tracker = stereo(world, slow_s=0.2)
    for index in range(6):
        world.send(index)
        world.spin(0.03)
    world.until(lambda: node.idle and support.frame(5).stamp_ns in tracker.stamps)
    assert node.counts["dropped"] >= 1
    assert node.counts["received"] == node.counts["dropped"] + node.counts["processed"]


def test_silence_withdraws_everything_that_was_shown(world):
    got = listen_all(world)
    stereo(world, {"frame_timeout_ms": 150.0})
    world.send(0)
    world.until(lambda: got["poses"] and got["poses"][-1].poses)
    world.until(lambda: not got["poses"][-1].poses)
    world.until(lambda: not got["left"][-1].poses and not got["path"][-1].poses)
    assert len(got["markers"][-1].markers) == 1
    assert got["markers"][-1].markers[0].action == Marker.DELETEALL
    world.until(lambda: "no stereo pairs for" in got["status"][-1].status[0].message)
    assert got["status"][-1].status[0].level == DiagnosticStatus.ERROR


def test_a_refused_pair_shows_nothing_and_says_why(world):
    got = listen_all(world)
    node, _ = stereo(world, reject_at=2)
    world.send(0)
    world.until(lambda: got["poses"] and got["poses"][-1].poses)
    stamp = world.send(1)
    world.until(lambda: all(g and stamp_to_ns(g[-1].header.stamp) == stamp for g in whole(got)))
    assert not got["poses"][-1].poses and not got["path"][-1].poses
    assert "the left image is black" in got["status"][-1].status[0].message
    assert node.health()[0] == DiagnosticStatus.WARN


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ({"baseline_m": 0.0}, "no baseline"),
        ({"baseline_m": -0.06}, "left and right are swapped"),
        ({"baseline_m": 60.0}, "in metres"),
        ({"right": np.zeros((60, 80), np.uint8)}, "right image is 80x60"),
    ],
    ids=["zero", "swapped", "millimetres", "size"],
)
def test_a_pair_that_cannot_be_measured_is_refused_with_the_reason(world, fault, text):
    got = listen_all(world)
    _, tracker = stereo(world)
    world.send(0, **fault)
    world.until(lambda: all(got.values()))
    assert text in got["status"][-1].status[0].message
    assert tracker.stamps == [] and not got["poses"][-1].poses


def test_images_of_other_times_are_no_pair_and_health_says_so(world):
    node, tracker = stereo(world)
    for index in range(4):
        world.send(index, right_shift_ns=20_000_000)
        world.spin(0.02)
    world.until(lambda: node.pairer.unpaired >= 2)
    assert tracker.stamps == []
    assert "differ in stamp" in node.health()[1]


def test_a_fault_in_the_core_loses_one_pair_and_starts_the_tracker_anew(world):
    got = listen_all(world)
    node, tracker = stereo(world, error_at=1)
    world.send(0)
    world.until(lambda: all(got.values()))
    assert tracker.resets == 1 and node.counts["faults"] == 1
    world.send(1)
    world.until(lambda: got["poses"][-1].poses)


def test_pause_and_reset(world):
    got = listen_all(world)
    _, tracker = stereo(world)
    world.send(0)
    world.until(lambda: got["poses"] and got["poses"][-1].poses)
    assert world.call(SetBool, "screws/pause", SetBool.Request(data=True)).success
    world.until(lambda: not got["poses"][-1].poses)
    assert "paused by the user" in got["status"][-1].status[0].message
    assert world.call(Trigger, "screws/reset", Trigger.Request()).success
    assert tracker.resets == 1


def test_levels_come_from_vertebrae_of_the_same_camera_only(world, tmp_path):
    case = ros_support.write_small_case(tmp_path / "case")
    node, tracker = stereo(world, {"case": str(case)}, case=case)
    status = world.node.create_publisher(DiagnosticArray, topics.STATUS, qos.RESULT)
    poses = world.node.create_publisher(PoseArray, topics.VERTEBRA_POSES, qos.RESULT)
    world.until(lambda: status.get_subscription_count() and poses.get_subscription_count())

    def register_and_send(index, frame_id):
        T = np.eye(4)
        T[:3, 3] = (0.0, 0.0, 0.5)
        estimate = LevelEstimate("L2", Status.TRACKED, T, predicted_tre_mm=1.0)
        result = NavigationResult(support.frame(index).stamp_ns, (estimate,))
        sent = result_messages(result, frame_id)
        status.publish(sent.status)
        poses.publish(sent.vertebra_poses)
        world.until(lambda: node._registered is not None and node._registered.frame_id == frame_id)
        world.send(index)
        world.until(lambda: len(tracker.stamps) == index + 1)

    register_and_send(0, "camera_color_optical_frame")
    register_and_send(1, support.frame(0).frame_id)
    assert tracker.vertebrae[0] is None
    np.testing.assert_allclose(tracker.vertebrae[1]["L2"][:3, 3], (0.0, 0.0, 0.5))


@pytest.mark.parametrize("by", ["file", "tf", "contradiction"])
def test_levels_come_from_another_camera_whose_place_is_known(world, tmp_path, by):
    case = ros_support.write_small_case(tmp_path / "case")
    values = {"case": str(case)}
    if by != "tf":
        values["calibration"] = str(support.write_calibration(tmp_path / "rig.yaml"))
    node, tracker = stereo(world, values, case=case)
    if by != "file":
        kind = tf_message_type()
        if kind is None:
            pytest.skip("tf2_msgs is not installed")
        T = support.T_LEFT_COLOUR.copy()
        T[0, 3] += 0.01 * (by == "contradiction")
        fixed = world.node.create_publisher(kind, "/tf_static", qos.TF_STATIC)
        fixed.publish(kind(transforms=[transform_message(T, 0, support.LEFT, support.COLOUR)]))
        world.until(lambda: len(node._extrinsics) == 1 + (by == "contradiction"))
    estimate = LevelEstimate("L2", Status.TRACKED, np.eye(4), predicted_tre_mm=1.0)
    stamp_ns = support.frame(0).stamp_ns
    sent = result_messages(NavigationResult(stamp_ns, (estimate,)), support.COLOUR)
    node.registration.status(sent.status)
    node.registration.poses(sent.vertebra_poses)
    health = world.listen(DiagnosticArray, "/diagnostics", qos.STATE)
    world.send(0)
    world.until(lambda: tracker.stamps)
    if by == "contradiction":
        assert tracker.vertebrae == [None]
        world.until(lambda: any("contradict" in fields(s).get("levels", "")
                                for m in health for s in m.status))  # fmt: skip
    else:
        np.testing.assert_allclose(tracker.vertebrae[0]["L2"], support.T_LEFT_COLOUR, atol=1e-6)
        assert node.unnamed == ""


# -- the rod guidance


class Screws:
    """Plays the stereo tracker for the guidance."""

    def __init__(self, world):
        self.world = world
        self.status = world.node.create_publisher(DiagnosticArray, topics.SCREW_STATUS, qos.RESULT)
        self.poses = world.node.create_publisher(PoseArray, topics.SCREW_POSES, qos.RESULT)
        self.count = 0

    def send(self, times=1, rods=True, reason="", change=None):
        for _ in range(times):
            implants = fake_implants()
            stamp_ns = support.START_NS + self.count * support.PERIOD_NS
            rows = tuple(replace(r, stamp_ns=stamp_ns) for r in implants.screws)
            rows = change(rows) if change else rows
            implants = Implants(stamp_ns, rows, implants.rods if rods else ())
            if reason:
                implants = Implants(stamp_ns, reason=reason)
            messages = implant_messages(implants, "stereo_left_optical_frame")
            self.poses.publish(messages.poses)
            self.status.publish(messages.status)
            self.count += 1
            self.world.spin(0.03)


def guidance(world, values=None):
    markers = world.listen(MarkerArray, topics.BENDING, qos.LATCHED)
    statuses = world.listen(DiagnosticArray, topics.BENDING_STATUS, qos.STATE)
    node = world.add(RodGuidance(values or {}, NAMESPACE))
    screws = Screws(world)
    world.until(
        lambda: screws.status.get_subscription_count() and screws.poses.get_subscription_count()
    )
    return node, screws, markers, statuses


def names(message: MarkerArray) -> set[str]:
    return {m.ns for m in message.markers if m.action == Marker.ADD}


def state(statuses) -> dict[str, str]:
    return {fields(s)["side"]: fields(s)["state"] for s in statuses[-1].status}


def test_steady_heads_are_planned_and_a_good_rod_is_called_good(world):
    node, screws, markers, statuses = guidance(world, {"steady_frames": 3})
    screws.send(6, rods=False)
    world.until(lambda: statuses and state(statuses) == {"left": "planned", "right": "planned"})
    assert {"left/target", "left/bend", "left/bend/text"} <= names(markers[-1])
    assert any("feed" in m.text and "bend to" in m.text for m in markers[-1].markers)
    assert "step 1" in fields(statuses[-1].status[0])
    assert node.health()[0] == DiagnosticStatus.OK


def test_a_request_without_heads_is_refused_with_the_remedy(world):
    guidance(world)
    answer = world.call(Trigger, "plan_rod", Trigger.Request())
    assert not answer.success and "no screw heads in view" in answer.message


def test_a_request_plans_at_once(world):
    _, screws, _, statuses = guidance(world, {"steady_frames": 0, "side": "left"})
    screws.send(2)
    world.until(lambda: statuses and state(statuses) == {"left": "waiting"})
    answer = world.call(Trigger, "plan_rod", Trigger.Request())
    assert answer.success and "bends" in answer.message
    screws.send(2)
    world.until(lambda: state(statuses)["left"] in ("bending", "good", "planned"))


def test_a_plan_error_is_told_and_no_old_plan_stays(world):
    _, screws, markers, statuses = guidance(world, {"steady_frames": 3, "side": "left"})
    screws.send(6, rods=False)
    world.until(lambda: statuses and state(statuses) == {"left": "planned"})

    def sharp(rows):
        return tuple(
            replace(r, head_m=r.head_m - (0.0, 0.0, 0.03)) if r.track_id == 2 else r for r in rows
        )

    screws.send(6, rods=False, change=sharp)
    world.until(lambda: state(statuses) == {"left": "refused"})
    assert names(markers[-1]) == set()
    answer = world.call(Trigger, "plan_rod", Trigger.Request())
    assert not answer.success and "no plan" in answer.message


@pytest.mark.parametrize(
    ("reason", "silence_ms"), [("pair refused: the left image is black", 10000.0), ("", 400.0)]
)
def test_refusals_and_silence_of_the_tracker_withdraw_the_plan(world, reason, silence_ms):
    _, screws, markers, statuses = guidance(world, {"steady_frames": 3, "silence_ms": silence_ms})
    screws.send(6, rods=False)
    world.until(lambda: markers and "left/target" in names(markers[-1]))
    if reason:
        screws.send(1, reason=reason)
    world.until(lambda: names(markers[-1]) == set())
    world.until(lambda: statuses[-1].status[0].message.startswith("withdrawn: "))
    text = statuses[-1].status[0].message
    assert (reason or "no screws for") in text
