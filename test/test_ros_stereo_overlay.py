# SPDX-License-Identifier: Apache-2.0
"""The stereo camera's picture in a small graph: the test plays camera, trackers and viewer."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import stereo_support as support
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from ros_world import NAMESPACE, StereoWorld
from sensor_msgs.msg import CompressedImage, Image
from visualization_msgs.msg import Marker, MarkerArray

from rod_bending_ar.ros import stereo_overlay_node
from rod_bending_ar.ros.rod_guidance import RodGuidance
from rod_bending_ar.ros.stereo_overlay_node import StereoOverlayNode
from spine_nav_bringup.ros.supervisor import Supervisor
from spine_nav_common.core.types import Rejected, StereoResult
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import stamp_to_ns
from spine_nav_common.ros.implants import Implants, implant_messages
from stereo_screw_tracker.core.output import rod_curves, screw_rows

pytestmark = pytest.mark.ros
WORLD = StereoWorld
GUIDED, BARE = 250, 5


class Tracker:
    """Publishes the fake scene's heads and rods for any pair, moved along x."""

    def __init__(self, world):
        self.poses = world.node.create_publisher(PoseArray, topics.SCREW_POSES, qos.RESULT)
        self.status = world.node.create_publisher(DiagnosticArray, topics.SCREW_STATUS, qos.RESULT)

    def tell(self, index, reason="", shift_m=0.0, screws=None):
        screws = support.tracks(shift_m=shift_m) if screws is None else screws
        stamp_ns = support.frame(index).stamp_ns
        result = StereoResult(stamp_ns, screws, (support.rod("left"),), {})
        implants = Implants(stamp_ns, tuple(screw_rows(result)), tuple(rod_curves(result)))
        messages = implant_messages(
            Implants(stamp_ns, reason=reason) if reason else implants, "stereo_left_optical_frame"
        )
        self.poses.publish(messages.poses)
        self.status.publish(messages.status)


@pytest.fixture
def screen(world, monkeypatch):
    """The node, watched; pictures are flat: GUIDED where heads were drawn, else BARE. `drawn`: what
    each was drawn with."""
    drawn = []

    def flat(frame, result, rods, *, width_px, view, age_ms):
        guided = isinstance(result, StereoResult)
        assert not guided or result.stamp_ns == frame.stamp_ns, "heads of another pair"
        why = result.reason if isinstance(result, Rejected) else ""
        drawn.append(SimpleNamespace(rods={r.side: r for r in rods}, why=why, left=frame.left))
        return np.full((*frame.left.shape[:2], 3), GUIDED if guided else BARE, np.uint8)

    monkeypatch.setattr(stereo_overlay_node, "draw_stereo", flat)
    monkeypatch.setattr(
        StereoOverlayNode, "bare_s", 0.0
    )  # every picture that is sent is waited for
    node = world.add(StereoOverlayNode({"max_image_age_ms": 10_000.0}, NAMESPACE))
    pictures = world.listen(Image, topics.SCREW_OVERLAY, qos.SENSOR_IN)
    for eye in ("left", "left_info", "right_info"):
        world.until(lambda e=eye: world.camera[e].get_subscription_count() == 1)

    def shows(kind, index=None):
        if not pictures or pictures[-1].data[0] != kind:
            return False
        stamp_ns = stamp_to_ns(pictures[-1].header.stamp)
        return index is None or stamp_ns == support.frame(index).stamp_ns

    return SimpleNamespace(node=node, pictures=pictures, shows=shows, drawn=drawn)


@pytest.fixture
def tracker(world, screen):
    told = Tracker(world)
    world.until(told.poses.get_subscription_count)
    world.until(told.status.get_subscription_count)
    return told


def show(world, screen, tracker, index, **how):
    world.send(index)
    tracker.tell(index, **how)
    world.until(lambda: screen.shows(GUIDED, index))
    return screen.drawn[-1]


def test_it_works_only_while_somebody_looks(world):
    node = world.add(StereoOverlayNode({}, NAMESPACE))
    world.spin(0.6)
    assert world.camera["left"].get_subscription_count() == 0 and not node.counts["pictures"]
    world.listen(CompressedImage, topics.SCREW_OVERLAY_COMPRESSED, qos.SENSOR_IN)
    world.until(lambda: world.camera["left"].get_subscription_count() == 1)
    assert node.health()[1] == "running"


def test_the_camera_is_shown_and_then_heads_of_that_very_pair(world, screen, tracker):
    world.send(0)
    world.until(lambda: screen.shows(BARE, 0))
    np.testing.assert_array_equal(screen.drawn[-1].left, support.frame(0).left)
    tracker.tell(0)
    world.until(lambda: screen.shows(GUIDED, 0))
    world.send(1)  # not yet computed: what is shown stays, and no heads move to another pair
    world.spin(0.2)
    assert screen.shows(GUIDED, 0)


def test_pictures_without_heads_are_few_so_that_the_tracker_has_the_machine(world, screen, tracker):
    screen.node.bare_s = 3600.0
    world.send(0)
    world.until(lambda: screen.shows(BARE, 0))
    world.send(1)
    world.send(2)
    tracker.tell(2)  # but with heads every one is drawn
    world.until(lambda: screen.shows(GUIDED, 2))
    assert screen.node.counts["pictures"] == 2


@pytest.mark.parametrize("reason", ["pair refused: the left image is black", "no stereo pairs"])
def test_heads_go_with_the_reason_that_the_tracker_gives(world, screen, tracker, reason):
    show(world, screen, tracker, 0)
    tracker.tell(0, reason)  # a withdrawal repeats the stamp
    world.until(lambda: screen.shows(BARE))
    assert screen.drawn[-1].why == f"guidance withdrawn: {reason}"
    world.send(1)
    world.until(lambda: screen.shows(BARE, 1))
    assert screen.drawn[-1].why == reason


def test_a_pair_without_any_head_shows_none(world, screen, tracker):
    show(world, screen, tracker, 0)
    world.send(1)
    stamp_ns = support.frame(1).stamp_ns
    messages = implant_messages(Implants(stamp_ns), "stereo_left_optical_frame")
    tracker.poses.publish(messages.poses)
    tracker.status.publish(messages.status)
    world.until(lambda: screen.shows(BARE, 1))
    assert "no screw head is found" in screen.drawn[-1].why


def test_heads_are_wiped_when_their_pair_is_old_though_nothing_else_comes(world, screen, tracker):
    show(world, screen, tracker, 0)
    screen.node.config = replace(screen.node.config, max_image_age_ms=100.0)
    world.until(lambda: screen.shows(BARE))
    assert "ms old" in screen.drawn[-1].why


# The planned rod.


@pytest.fixture
def guidance(world, screen, tracker):
    """A real rod guidance with a plan for both sides, which the picture shows."""
    node = world.add(RodGuidance({"steady_frames": 2, "silence_ms": 10_000.0}, NAMESPACE))
    world.until(lambda: tracker.status.get_subscription_count() == 2)
    world.until(lambda: tracker.poses.get_subscription_count() == 2)
    index = 0
    while not screen.drawn or screen.drawn[-1].rods.get("right", PLANLESS).curve_m is None:
        index += 1
        show(world, screen, tracker, index)
        stamp_ns = support.frame(index).stamp_ns
        world.until(lambda now=stamp_ns: node.results.stamp_ns == now and node.idle)
        assert index < 40, "no plan came"
    return SimpleNamespace(node=node, index=index)


PLANLESS = SimpleNamespace(curve_m=None)


def test_the_planned_rod_and_its_next_bend_stand_in_the_picture(world, screen, guidance):
    rod, lies = (screen.drawn[-1].rods[side] for side in ("right", "left"))
    assert rod.state == "planned" and rod.next_bend == rod.steps[0]
    assert lies.state == "good" and lies.next_bend is None, "a rod that fits is not bent"
    saddles = np.array([p for (_, side), p in support.heads_m().items() if side == "right"])
    far = np.linalg.norm(rod.curve_m[:, None] - saddles, axis=2).min(axis=0)
    assert far.max() < 1.5e-3, "through its saddles"


def test_a_plan_is_drawn_where_its_heads_are_now(world, screen, tracker, guidance):
    world.executor.remove_node(guidance.node)  # it says nothing of the pairs that come
    before = screen.drawn[-1].rods["right"].curve_m
    drawn = show(world, screen, tracker, guidance.index + 1, shift_m=0.005)
    np.testing.assert_allclose(drawn.rods["right"].curve_m, before + (0.005, 0.0, 0.0), atol=1e-4)


@pytest.mark.parametrize("fault", ["moved", "gone", "late"])
def test_a_plan_whose_heads_are_not_as_they_were_is_not_drawn(
    world, screen, tracker, guidance, fault
):
    world.executor.remove_node(guidance.node)
    screws, index = support.tracks(), guidance.index + 1
    if fault == "moved":
        head = replace(screws[0].head, point_m=screws[0].head.point_m + (0.02, 0.0, 0.0))
        screws = (replace(screws[0], head=head), *screws[1:])
    elif fault == "gone":
        screws = screws[:2]
    else:
        index += 10
    rod = show(world, screen, tracker, index, screws=screws).rods["right"]
    word = {"moved": "against each other", "gone": "in view", "late": "ms behind"}[fault]
    assert rod.curve_m is None and rod.next_bend is None and word in rod.text


def test_a_rod_guidance_that_is_gone_takes_its_plan_from_the_next_picture(
    world, screen, tracker, guidance
):
    """What the supervisor says in its place: markers deleted, sides waiting; see withdrawal.py."""
    from spine_nav_bringup.ros.withdrawal import Withdrawal

    withdrawal = Withdrawal(world.node, ("rod_guidance",))
    index = guidance.index
    while topics.BENDING_STATUS not in withdrawal._last:  # it hears what is told from now on
        index += 1
        assert index < 100, "the guidance tells nothing"
        show(world, screen, tracker, index)
        stamp_ns = support.frame(index).stamp_ns
        world.until(lambda now=stamp_ns: guidance.node.results.stamp_ns == now)
    world.until(lambda: guidance.node.idle)  # a dead one does not speak after its withdrawal
    world.executor.remove_node(guidance.node)
    markers = world.listen(MarkerArray, topics.BENDING, qos.LATCHED)
    withdrawal.of("rod_guidance", "rod_guidance was ended")
    world.until(lambda: any(m.markers[0].action == Marker.DELETEALL for m in markers))
    shown_ns = support.frame(index).stamp_ns  # its plan is drawn here while it stands
    world.until(lambda: all(r.curve_m is None for r in screen.node.more(shown_ns)))
    rod = show(world, screen, tracker, index + 1).rods["right"]
    assert rod.curve_m is None and "rod_guidance was ended" in rod.text


# A process that dies.

CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import stereo_support as support
from spine_nav_common.ros.runtime import run_node
from stereo_screw_tracker.core.load import StereoCore
from stereo_screw_tracker.ros.stereo_config import NodeCore
from stereo_screw_tracker.ros.stereo_tracker import StereoTrackerNode
core = NodeCore(StereoCore(support.FakeTracker(), "fake", "0" * 64))
given = {"max_stamp_age_ms": 60_000.0, "frame_timeout_ms": 10_000.0}
sys.exit(run_node(lambda: StereoTrackerNode(given, "/spine", lambda _: core), []))
"""


def test_a_killed_stereo_tracker_leaves_a_wiped_picture_with_its_reason(world, screen):
    """No pair comes after the kill, and the age limit is far: only who watches the process can
    have wiped the picture."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(Path(__file__).parent)])
    try:
        supervisor = Supervisor({"nodes": ("stereo_tracker",), "hang_s": 0.0}, NAMESPACE)
        world.add(supervisor, active=False)
        world.until(lambda: supervisor.reached, timeout_s=120.0)
        world.until(lambda: world.camera["right"].get_subscription_count())
        index = 0
        while not screen.shows(GUIDED):
            index += 1
            world.send(index)
            world.spin(0.1)
            assert index < 300
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        world.until(lambda: screen.shows(BARE))
        assert "stereo_tracker" in screen.drawn[-1].why, screen.drawn[-1].why
        world.send(index + 1)
        world.until(lambda: screen.shows(BARE, index + 1))
    finally:
        child.kill()
        child.wait()
