# SPDX-License-Identifier: Apache-2.0
"""Case markers and overlay in a small ROS graph: the test plays camera, navigation and viewer."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support as support
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from rcl_interfaces.msg import Log
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_world import NAMESPACE, CameraWorld, navigation
from sensor_msgs.msg import Image, TimeReference
from visualization_msgs.msg import Marker, MarkerArray

from rod_bending_ar.ros import overlay_node
from rod_bending_ar.ros.overlay_node import OverlayNode
from spine_nav_bringup.ros.case_server import CaseServer
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import stamp_from_ns, stamp_to_ns
from spine_nav_common.ros.results import result_messages
from spine_nav_common.ros.runtime import tf_message_type

pytestmark = pytest.mark.ros
# what was said before the test listened comes too
ROSOUT = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
WORLD = CameraWorld


def publish_status(world, publishers, index, states):
    T = np.eye(4)
    T[2, 3] = 0.5
    shown = (Status.TRACKED, Status.OCCLUDED)
    levels = tuple(
        LevelEstimate(v, s, T if s in shown else None, predicted_tre_mm=1.0 if s in shown else None)
        for v, s in zip(support.LEVELS, states, strict=True)
    )
    result = NavigationResult(support.frame(index).stamp_ns, levels)
    messages = result_messages(result, "camera_color_optical_frame")
    publishers[0].publish(messages.vertebra_poses)
    publishers[1].publish(messages.status)


@pytest.fixture
def result_publishers(world):
    return (
        world.node.create_publisher(PoseArray, topics.VERTEBRA_POSES, qos.RESULT),
        world.node.create_publisher(DiagnosticArray, topics.STATUS, qos.RESULT),
    )


def drawn(message, prefix=""):
    """Levels with a marker to add, from a MarkerArray that must not leave any level open."""
    frames = {m.header.frame_id for m in message.markers if m.action == Marker.ADD}
    gone = {m.header.frame_id for m in message.markers if m.action == Marker.DELETE}
    assert not frames & gone
    assert frames | gone == {f"{prefix}vertebra_{level}" for level in support.LEVELS}
    return frames


def test_only_tracked_levels_have_trajectories(world, case, result_publishers):
    markers = world.listen(MarkerArray, topics.TRAJECTORIES, qos.LATCHED)
    world.add(CaseServer({"case": case}, NAMESPACE))
    world.until(lambda: markers and result_publishers[1].get_subscription_count())
    assert drawn(markers[-1]) == set()
    publish_status(world, result_publishers, 0, (Status.TRACKED, Status.OCCLUDED))
    world.until(lambda: drawn(markers[-1]) == {"vertebra_L2"})
    arrow = next(m for m in markers[-1].markers if m.type == Marker.ARROW and m.action == m.ADD)
    assert arrow.lifetime.sec > 0 and len(arrow.points) == 2
    assert arrow.points[0].y == pytest.approx(0.030), "entry first, in mesh coordinates"
    publish_status(world, result_publishers, 1, (Status.LOST, Status.LOST))
    world.until(lambda: drawn(markers[-1]) == set())


def test_guidance_is_deleted_when_the_navigation_falls_silent(world, case, result_publishers):
    markers = world.listen(MarkerArray, topics.TRAJECTORIES, qos.LATCHED)
    world.add(CaseServer({"case": case, "silence_ms": 150.0}, NAMESPACE))
    world.until(lambda: markers and result_publishers[1].get_subscription_count())
    publish_status(world, result_publishers, 0, (Status.TRACKED, Status.TRACKED))
    world.until(lambda: len(drawn(markers[-1])) == 2)
    world.until(lambda: drawn(markers[-1]) == set())


GUIDED, BARE = 250, 5


@pytest.fixture
def screen(world, case, result_publishers, monkeypatch):
    """The overlay, watched; pictures are flat: GUIDED where a pose was drawn, else BARE."""

    depths, ages = [], []

    def flat(colour, lens, case, result, depth=None, *, stamp_ns, note, age_ms, extras, strokes):
        depths.append(depth)
        ages.append(age_ms)
        guided = result is not None and any(e.T_camera_ct is not None for e in result.levels)
        assert not guided or result.stamp_ns == stamp_ns, "poses of another image"
        return np.full_like(colour, GUIDED if guided else BARE)

    monkeypatch.setattr(overlay_node, "draw_overlay", flat)
    node = world.add(OverlayNode({"case": case, "max_image_age_ms": 10_000.0}, NAMESPACE))
    pictures = world.listen(Image, topics.OVERLAY, qos.SENSOR_IN)
    world.until(lambda: world.camera["colour"].get_subscription_count() == 1)
    world.until(lambda: world.camera["info"].get_subscription_count() == 1)
    world.until(lambda: all(p.get_subscription_count() for p in result_publishers))

    def shows(kind, index=None):
        """Whether the picture on the screen is of this kind (and of this frame)."""
        if not pictures or pictures[-1].data[0] != kind:
            return False
        return index is None or stamp_to_ns(pictures[-1].header.stamp) == support.frame(index).stamp_ns  # fmt: skip

    return SimpleNamespace(node=node, pictures=pictures, shows=shows, depths=depths, ages=ages)


TRACKED = (Status.TRACKED, Status.LOST)


def show_guidance(world, screen, publishers, index):
    world.send(index)
    publish_status(world, publishers, index, TRACKED)
    world.until(lambda: screen.shows(GUIDED, index))


def test_the_overlay_works_only_while_somebody_looks(world, case):
    node = world.add(OverlayNode({"case": case}, NAMESPACE))
    world.until(lambda: node.active)
    world.spin(0.6)
    assert world.camera["colour"].get_subscription_count() == 0
    world.listen(Image, topics.OVERLAY, qos.SENSOR_IN)
    world.until(lambda: world.camera["colour"].get_subscription_count() == 1)
    assert node.health()[1] == "running"


def test_the_overlay_shows_the_camera_and_then_poses_of_that_very_image(
    world, screen, result_publishers
):
    world.send(0)
    world.until(lambda: screen.shows(BARE, 0))
    publish_status(world, result_publishers, 0, TRACKED)
    world.until(lambda: screen.shows(GUIDED, 0))
    assert screen.pictures[-1].encoding == "rgb8"


def test_the_depth_of_that_very_image_tells_what_is_covered(world, screen, result_publishers):
    world.until(lambda: world.camera["depth"].get_subscription_count() == 1)
    stamp = world.send(0)
    world.until(lambda: screen.node.more(stamp).depth is not None)  # it is never waited for
    publish_status(world, result_publishers, 0, TRACKED)
    world.until(lambda: screen.shows(GUIDED, 0))
    given = screen.depths[-1]
    assert given is not None
    np.testing.assert_allclose(given, support.frame(0).depth_m, atol=1e-3)


def test_the_age_in_the_picture_is_that_of_the_frames_own_clock(world, screen):
    world.send(0)  # stamps of 2023, of which nobody has told how they run
    world.until(lambda: screen.ages)
    assert set(screen.ages) == {None}, "no age is better than one of three years"
    clock = world.node.create_publisher(TimeReference, topics.CAMERA_CLOCK, qos.LATCHED)
    message = TimeReference(
        time_ref=stamp_from_ns(support.frame(1).stamp_ns), source="replay at 1.0"
    )
    message.header.stamp = stamp_from_ns(time.time_ns() - 250_000_000)
    clock.publish(message)
    world.until(lambda: screen.node.clock.announced is not None)
    world.send(1)
    world.until(lambda: screen.ages[-1] is not None)
    assert 250.0 <= screen.ages[-1] < 60_000.0


def test_guidance_is_wiped_when_its_image_is_old_though_nothing_else_comes(
    world, screen, result_publishers
):
    show_guidance(world, screen, result_publishers, 0)
    limit(screen.node, 100.0)
    world.until(lambda: screen.shows(BARE))


def test_late_results_never_keep_the_last_tracked_picture_on_the_screen(
    world, screen, result_publishers
):
    show_guidance(world, screen, result_publishers, 0)
    limit(screen.node, 4.5 * support.PERIOD_NS / 1e6)
    for index in range(1, 20):  # faster than they are stamped: the frames' own clock must tell
        world.send(index)
        if index > 9:
            publish_status(world, result_publishers, index - 9, TRACKED)
        world.spin(0.01)
    world.until(lambda: screen.shows(BARE, 19) and screen.node.counts["late"])
    assert screen.node.counts["wiped"] == 1
    kinds = [p.data[0] for p in screen.pictures]
    assert GUIDED not in kinds[kinds.index(GUIDED) + 1 :], "a late result was drawn"


def test_guidance_goes_with_the_first_result_that_shows_no_level(world, screen, result_publishers):
    show_guidance(world, screen, result_publishers, 0)
    publish_status(world, result_publishers, 0, (Status.LOST, Status.LOST))  # a withdrawal
    world.until(lambda: screen.shows(BARE, 0))


def test_one_stamp_an_hour_ahead_wipes_once_and_guidance_comes_back(
    world, screen, result_publishers
):
    show_guidance(world, screen, result_publishers, 0)
    world.send(3600 * 1_000_000_000 // support.PERIOD_NS)
    world.until(lambda: screen.shows(BARE))
    show_guidance(world, screen, result_publishers, 1)


def test_guidance_is_wiped_while_the_next_picture_is_still_drawn(
    world, screen, result_publishers, monkeypatch
):
    show_guidance(world, screen, result_publishers, 0)
    flat, begun, go_on = overlay_node.draw_overlay, threading.Event(), threading.Event()

    def slow(colour, lens, case, result, **named):
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            go_on.wait(20.0)
        return flat(colour, lens, case, result, **named)

    monkeypatch.setattr(overlay_node, "draw_overlay", slow)
    world.send(1)
    publish_status(world, result_publishers, 1, TRACKED)
    world.until(begun.is_set)
    limit(screen.node, 100.0)
    world.until(lambda: screen.shows(BARE))
    go_on.set()
    world.until(lambda: screen.node.counts["outdated"] == 1)
    assert screen.shows(BARE), "what was drawn too slowly is not shown"


def limit(node, max_image_age_ms):
    node.config = replace(node.config, max_image_age_ms=max_image_age_ms)


def test_two_instances_keep_their_vertebrae_apart(world, case, result_publishers):
    markers = world.listen(MarkerArray, topics.TRAJECTORIES, qos.LATCHED)
    world.add(CaseServer({"case": case, "tf_prefix": "or2/"}, NAMESPACE))
    world.until(lambda: markers and result_publishers[1].get_subscription_count())
    publish_status(world, result_publishers, 0, (Status.TRACKED, Status.LOST))
    world.until(lambda: drawn(markers[-1], "or2/") == {"or2/vertebra_L2"})
    if tf_message_type() is not None:
        tf = world.listen(tf_message_type(), "/tf")
        navigation(world, case, {"tf_prefix": "or2/"}, register_after=0)
        world.send(0)
        world.until(lambda: tf)
        frames = [t.child_frame_id for t in tf[0].transforms]
        assert frames == ["or2/vertebra_L2", "or2/vertebra_L3"]


def test_what_was_mended_in_the_case_is_told_in_the_log_and_in_diagnostics(world, tmp_path):
    case = support.write_small_case(tmp_path / "case")
    plan = case / "plan.mrk.json"
    plan.write_text(plan.read_text().replace("L2_left", "Left L2"))
    health = world.listen(DiagnosticArray, "/diagnostics", qos.STATE)
    log = world.listen(Log, "/rosout", ROSOUT)
    node, _ = navigation(world, str(case))
    told = "'Left L2' as L2 left"
    world.until(lambda: any(told in m.msg and m.level >= 30 for m in log))

    def values() -> dict[str, str]:
        return {v.key: v.value for m in health for s in m.status for v in s.values}

    world.until(lambda: "note 1" in values())
    assert told in values()["note 1"]
    assert node.notes == (values()["note 1"],)
