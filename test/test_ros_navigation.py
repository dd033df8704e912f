# SPDX-License-Identifier: Apache-2.0
"""The navigation node in a small ROS graph: the test plays camera and surgeon."""

import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support as support
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from rcl_interfaces.msg import Parameter as RosParameter
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from ros_world import NAMESPACE, CameraWorld, navigation, statuses
from sensor_msgs.msg import Image, TimeReference
from std_srvs.srv import SetBool, Trigger

from spine_nav_common.parameters import ParameterError
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import (
    camera_info_message,
    image_message,
    stamp_from_ns,
    stamp_to_ns,
)
from spine_nav_common.ros.results import status_fields
from spine_nav_common.ros.runtime import tf_message_type
from spine_registration.ros.navigation import NavigationNode

pytestmark = pytest.mark.ros
WORLD = CameraWorld


def test_stamps_join_pose_status_array_and_tf(world, case):
    status = world.listen(DiagnosticArray, topics.STATUS)
    array = world.listen(PoseArray, topics.VERTEBRA_POSES)
    pose = world.listen(PoseWithCovarianceStamped, topics.pose_topic("L3"))
    tf_type = tf_message_type()
    tf = world.listen(tf_type, "/tf") if tf_type else None
    navigation(world, case, register_after=0)
    stamp = world.send(0)
    world.until(lambda: status and array and pose)
    for message in (status[0], array[0], pose[0]):
        assert stamp_to_ns(message.header.stamp) == stamp
        assert message.header.frame_id == "camera_color_optical_frame"
    fields = {f["level"]: f for f in map(status_fields, status[0].status)}
    assert list(fields) == list(support.LEVELS)
    assert fields["L3"]["status"] == "tracked" and fields["L3"]["pose_index"] == "1"
    assert float(fields["L3"]["predicted_tre_mm"]) == 1.25
    assert array[0].poses[1].position.z == pose[0].pose.pose.position.z == 0.5
    if tf is not None:
        world.until(lambda: tf)
        children = [t.child_frame_id for t in tf[0].transforms]
        assert children == ["vertebra_L2", "vertebra_L3"]
        assert tf[0].transforms[0].header.frame_id == "camera_color_optical_frame"


def test_an_occluded_level_has_no_pose_topic_no_tf_and_index_minus_one(world, case):
    status = world.listen(DiagnosticArray, topics.STATUS)
    array = world.listen(PoseArray, topics.VERTEBRA_POSES)
    hidden = world.listen(PoseWithCovarianceStamped, topics.pose_topic("L2"))
    tf_type = tf_message_type()
    tf = world.listen(tf_type, "/tf") if tf_type else None
    navigation(world, case, register_after=0, occluded=("L2",))
    world.send(0)
    world.until(lambda: status and array)
    world.spin(0.1)
    fields = {f["level"]: f for f in map(status_fields, status[0].status)}
    assert fields["L2"]["status"] == "occluded" and fields["L2"]["pose_index"] == "-1"
    assert len(array[0].poses) == 1 and hidden == []
    if tf is not None:
        assert [t.child_frame_id for t in tf[0].transforms] == ["vertebra_L3"]


def test_silence_of_the_camera_withdraws_and_new_frames_bring_it_back(world, case):
    status = world.listen(DiagnosticArray, topics.STATUS)
    array = world.listen(PoseArray, topics.VERTEBRA_POSES)
    navigation(world, case, {"frame_timeout_ms": 100.0}, register_after=0)
    stamp = world.send(0)
    world.until(lambda: len(status) == 2 and len(array) == 2)
    assert statuses(status[0]) == {"L2": "tracked", "L3": "tracked"}
    assert statuses(status[1]) == {"L2": "lost", "L3": "lost"}
    assert stamp_to_ns(status[1].header.stamp) == stamp
    assert "no camera frames for 1" in status_fields(status[1].status[0])["reason"]
    assert array[1].poses == []
    world.send(1)
    world.until(lambda: len(status) == 3)
    assert statuses(status[2]) == {"L2": "tracked", "L3": "tracked"}


def with_depth(world, case, depth):
    """A navigation whose depth camera is calibrated; the frames that its core solves."""
    seen = []

    def load(config):
        core = support.fake_loader([], register_after=0)(config)
        solve = core.navigator.solve
        core.navigator.solve = lambda item: seen.append(item.frame) or solve(item)
        return replace(core, depth=depth)

    world.add(NavigationNode({"case": case, "max_stamp_age_ms": 60_000.0}, NAMESPACE, load))
    world.matched()
    return seen


def test_depth_is_corrected_before_the_core_sees_it(world, case, tmp_path):
    status = world.listen(DiagnosticArray, topics.STATUS)
    raw = support.frame(0)
    seen = with_depth(world, case, support.depth_calibration(tmp_path / "d.yaml", raw.intrinsics))
    world.send(0)
    world.until(lambda: status and seen)
    known = np.isfinite(raw.depth_m)
    ratio = seen[0].depth_m[known] / raw.depth_m[known]
    assert np.allclose(ratio, 0.999, atol=2e-3) and abs(np.mean(ratio) - 0.999) < 1e-4
    assert statuses(status[0]) == {"L2": "tracked", "L3": "tracked"}


def test_the_calibration_of_another_camera_shows_nothing_and_says_what_to_do(world, case, tmp_path):
    status = world.listen(DiagnosticArray, topics.STATUS)
    raw = support.frame(0)
    fx = 1.1 * raw.intrinsics.fx
    seen = with_depth(
        world, case, support.depth_calibration(tmp_path / "d.yaml", raw.intrinsics, fx=fx)
    )
    world.send(0)
    world.until(lambda: status)
    assert seen == [] and "tracked" not in statuses(status[0]).values()
    assert "calibrate this camera and profile" in status_fields(status[0].status[0])["reason"]


def test_an_image_that_is_too_old_is_never_shown(world, case):
    """Stamps of a recording: the images come ever later, and no switch turns the check off."""
    status = world.listen(DiagnosticArray, topics.STATUS)
    node, _ = navigation(world, case, {"max_stamp_age_ms": 1000.0}, register_after=0)
    world.send(0)
    world.until(lambda: status)
    fields = status_fields(status[0].status[0])
    assert fields["status"] == "tracked" and fields["clock"] == "recording"
    world.spin(1.3)
    world.send(1)  # stamped 67 ms after the first
    world.until(lambda: status[-1].header.stamp != status[0].header.stamp)
    assert set(statuses(status[-1]).values()) == {"lost"}
    assert "ms old (recording clock)" in status_fields(status[-1].status[0])["reason"]
    assert node.health()[2]["clock"] == "recording"
    with pytest.raises(ParameterError, match="max_stamp_age_ms"):
        NavigationNode({"case": case, "max_stamp_age_ms": 0.0}, NAMESPACE, support.fake_loader([]))


def test_a_recording_that_is_announced_has_its_age_in_its_own_clock(world, case):
    status = world.listen(DiagnosticArray, topics.STATUS)
    stages = world.listen(DiagnosticArray, topics.LATENCY)
    node, _ = navigation(world, case, {"max_stamp_age_ms": 2000.0}, register_after=0)
    clock = world.node.create_publisher(TimeReference, topics.CAMERA_CLOCK, qos.LATCHED)
    first = support.frame(0).stamp_ns
    message = TimeReference(time_ref=stamp_from_ns(first), source="replay at 0.5")
    message.header.stamp = stamp_from_ns(time.time_ns() - 1_000_000_000)
    clock.publish(message)
    world.until(lambda: node.clock.announced is not None)
    world.send(0)  # due a second ago, half a second of a recording at half its pace
    world.until(lambda: status and stages)
    assert statuses(status[0])["L2"] == "tracked"
    age_ms = float(status_fields(stages[0].status[0])["stamp_to_publish"])
    assert 500.0 <= age_ms < 2000.0


def test_simulated_time_that_stands_still_shows_nothing(world, case):
    status = world.listen(DiagnosticArray, topics.STATUS)
    node, _ = navigation(world, case, {"use_sim_time": True}, register_after=0)
    world.send(0)
    world.until(lambda: status)
    assert set(statuses(status[0]).values()) == {"lost"}
    assert "nobody publishes /clock" in status_fields(status[0].status[0])["reason"]
    assert node.now_ns() == 0 and node.real_ns() > 10**18


def test_a_camera_whose_clock_is_set_back_is_registered_anew(world, case):
    status = world.listen(DiagnosticArray, topics.STATUS)
    node, navigator = navigation(world, case, register_after=0)
    for n, index in enumerate((1000, 1001), start=1):
        world.send(index)
        world.until(lambda n=n: len(status) == n)
    for index in (0, 1):  # the first waits for the second: one broken stamp is no step
        world.send(index)
    world.until(lambda: len(status) >= 3)
    assert navigator.epochs[:2] == [0, 0] and set(navigator.epochs[2:]) == {1}
    assert statuses(status[2])["L2"] == "tracked"
    assert "set back" in node.health()[2]["clock_step"]


def test_colour_and_depth_that_lie_apart_are_no_pair_and_it_is_said(world, case):
    """10 ms are within half a period of 15 Hz, and 0.8 mm of a hand-held camera."""
    node, _ = navigation(world, case, register_after=0)
    f = support.frame(0)
    for i in range(6):
        stamp = f.stamp_ns + i * support.PERIOD_NS
        world.camera["info"].publish(camera_info_message(f.intrinsics, stamp, f.frame_id))
        world.camera["colour"].publish(image_message(f.colour, "rgb8", stamp, f.frame_id))
        late = image_message(f.depth_m, "32FC1", stamp + 10_000_000, f.frame_id)
        world.camera["depth"].publish(late)
        world.spin(0.05)
    world.until(lambda: node.pairer.counts()["colour_without_depth"] >= 4)
    assert "10.0 ms apart" in node.pairer.missing() and "pair_tolerance_ms" in node.pairer.missing()
    assert node.pairer.counts()["pair_apart_ms"] == 10.0


def test_a_long_computation_is_not_a_silent_camera(world, case):
    """Guidance is withdrawn while a frame is worked on for long, and the reason is true."""
    status = world.listen(DiagnosticArray, topics.STATUS)
    _, navigator = navigation(world, case, {"frame_timeout_ms": 100.0}, register_after=0)
    world.send(0)
    world.until(lambda: status)
    navigator.slow_s = 0.5
    index = 1
    while len(status) < 2:
        world.send(index)
        world.spin(0.05)
        index += 1
    assert "still computing" in status_fields(status[1].status[0])["reason"]


def test_depth_of_another_size_is_a_status_with_the_reason(world, case):
    status = world.listen(DiagnosticArray, topics.STATUS)
    _, navigator = navigation(world, case, register_after=0)
    world.send(0, depth=np.full((24, 32), 0.5, np.float32))
    world.until(lambda: status)
    assert set(statuses(status[0]).values()) == {"lost"}
    assert "depth is 32x24 but colour is 64x48" in status_fields(status[0].status[0])["reason"]
    assert navigator.stamps == []


def test_duplicated_and_late_frames_are_counted_not_processed(world, case):
    status = world.listen(DiagnosticArray, topics.STATUS)
    node, navigator = navigation(world, case)
    for n, index in enumerate((0, 1), start=1):
        world.send(index)
        world.until(lambda n=n: len(status) == n)
    world.send(1)
    world.send(0)
    world.send(2)
    world.until(lambda: len(status) == 3)
    assert navigator.stamps == [support.frame(i).stamp_ns for i in (0, 1, 2)]
    counts = node.pairer.counts()
    assert counts["duplicated"] == 2 and counts["colour_images"] == 5


def test_camera_info_may_come_after_its_image(world, case):
    status = world.listen(DiagnosticArray, topics.STATUS)
    node, _ = navigation(world, case)
    f = support.frame(0)
    colour, depth = world.camera["colour"], world.camera["depth"]
    colour.publish(image_message(f.colour, "rgb8", f.stamp_ns, f.frame_id))
    depth.publish(image_message(f.depth_m, "32FC1", f.stamp_ns, f.frame_id))
    world.until(lambda: node.pairer.missing() == "no camera_info")
    assert status == []
    world.camera["info"].publish(camera_info_message(f.intrinsics, f.stamp_ns, f.frame_id))
    world.until(lambda: status)


def test_services_reach_the_navigator_and_answer_in_words(world, case):
    status = world.listen(DiagnosticArray, topics.STATUS)
    _, navigator = navigation(world, case, ask=True)
    world.send(0)
    world.until(lambda: status)
    assert "L2 to L3" in status_fields(status[0].status[0])["hypothesis"]
    assert status_fields(status[0].status[0])["hypothesis_id"] == "AAAA"
    answer = world.call(SetBool, "confirm_level", SetBool.Request(data=True))
    assert answer.success and answer.message == "accepted L2 to L3"
    answer = world.call(SetBool, "confirm_level", SetBool.Request(data=True))
    assert not answer.success and "is asked now" in answer.message
    answer = world.call(Trigger, "register", Trigger.Request())
    assert answer.success and navigator.requests == 1


def test_an_answer_before_anything_was_published_is_refused(world, case):
    navigation(world, case, ask=True)
    answer = world.call(SetBool, "confirm_level", SetBool.Request(data=True))
    assert not answer.success and "no hypothesis" in answer.message


def test_an_answer_to_a_hypothesis_that_changed_is_refused(world, case):
    """Changed in the core and not yet published, and changed on the screen a moment ago."""
    status = world.listen(DiagnosticArray, topics.STATUS)
    _, navigator = navigation(world, case, ask=True)
    world.send(0)
    world.until(lambda: status)
    navigator.pending_id = "BBBB"
    answer = world.call(SetBool, "confirm_level", SetBool.Request(data=True))
    assert not answer.success and "changed" in answer.message
    world.send(1)
    world.until(lambda: len(status) == 2)
    answer = world.call(SetBool, "confirm_level", SetBool.Request(data=True))
    assert not answer.success and "look at it and answer again" in answer.message
    assert navigator.pending is not None


def answer_by_id(world, text):
    """`ros2 param set /spine/navigation confirm_hypothesis TEXT`."""
    value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=text)
    request = SetParameters.Request(
        parameters=[RosParameter(name="confirm_hypothesis", value=value)]
    )
    return world.call(SetParameters, "navigation/set_parameters", request).results[0]


def test_an_answer_may_name_its_hypothesis(world, case):
    status = world.listen(DiagnosticArray, topics.STATUS)
    _, navigator = navigation(world, case, ask=True)
    world.send(0)
    world.until(lambda: status)
    for text in ("AAAA", "AAAA maybe", "BBBB yes"):
        assert not answer_by_id(world, text).successful
        assert navigator.pending is not None
    assert answer_by_id(world, "aaaa no").successful
    assert navigator.pending is None


def test_pause_withdraws_at_once_and_resume_goes_on(world, case):
    status = world.listen(DiagnosticArray, topics.STATUS)
    navigation(world, case, register_after=0)
    world.send(0)
    world.until(lambda: status)
    assert world.call(SetBool, "pause", SetBool.Request(data=True)).message == "paused"
    world.until(lambda: len(status) == 2)
    assert status_fields(status[1].status[0])["reason"] == "paused by the user"
    world.send(1)
    world.spin(0.15)
    assert len(status) == 2, "a paused navigation publishes nothing"
    world.call(SetBool, "pause", SetBool.Request(data=False))
    world.send(2)
    world.until(lambda: len(status) == 3)
    assert statuses(status[2])["L2"] == "tracked"


def test_labels_are_published_only_to_those_who_listen(world, case):
    status = world.listen(DiagnosticArray, topics.STATUS)
    node, _ = navigation(world, case)
    world.send(0)
    world.until(lambda: status)
    labels = world.listen(Image, topics.LABELS, qos.SENSOR_IN)
    world.until(lambda: node.count_subscribers(f"{NAMESPACE}/{topics.LABELS}") == 1)
    world.send(1)
    world.until(lambda: labels)
    assert len(labels) == 1 and labels[0].encoding == "mono8" and labels[0].data[0] == 254


def test_deactivation_withdraws_and_cleanup_allows_a_new_start(world, case):
    status = world.listen(DiagnosticArray, topics.STATUS)
    node, _ = navigation(world, case, register_after=0)
    world.send(0)
    world.until(lambda: status)
    node.trigger_deactivate()
    world.until(lambda: len(status) == 2)
    assert set(statuses(status[1]).values()) == {"lost"}
    node.trigger_cleanup()
    assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() is TransitionCallbackReturn.SUCCESS
    world.matched()
    world.send(1)
    world.until(lambda: len(status) == 3)


def test_a_case_that_cannot_be_loaded_refuses_configure_with_its_reason(world, tmp_path):
    loader = support.fake_loader([])
    node = NavigationNode({"case": str(tmp_path)}, NAMESPACE, loader)
    world.add(node, active=False)
    assert node.trigger_configure() is TransitionCallbackReturn.FAILURE
    assert "case.yaml" in node.problem


def test_what_cannot_change_while_a_node_lives_is_described_as_read_only(world, case):
    node, _ = navigation(world, case)
    for name, fixed in (("frame_timeout_ms", True), ("confirm_hypothesis", False)):
        assert node.describe_parameter(name).read_only is fixed
    value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=100.0)
    request = SetParameters.Request(parameters=[RosParameter(name="frame_timeout_ms", value=value)])
    (answer,) = world.call(SetParameters, "navigation/set_parameters", request).results
    assert not answer.successful and "read-only" in answer.reason
    assert node.get_parameter("frame_timeout_ms").value == 500.0


def test_a_driver_without_a_clock_is_told(world, case):
    status = world.listen(DiagnosticArray, topics.STATUS)
    navigation(world, case, {"frame_timeout_ms": 100.0}, register_after=0)
    f = support.frame(0)
    for _ in range(4):
        world.camera["info"].publish(camera_info_message(f.intrinsics, 0, f.frame_id))
        world.camera["depth"].publish(image_message(f.depth_m, "32FC1", 0, f.frame_id))
        world.camera["colour"].publish(image_message(f.colour, "rgb8", 0, f.frame_id))
    told = "every colour image has the stamp 0: let the camera's driver stamp its images"
    world.until(
        lambda: any(told in f["reason"] for m in status for f in map(status_fields, m.status))
    )
    assert set(statuses(status[-1]).values()) == {"lost"}
