# SPDX-License-Identifier: Apache-2.0
"""The camera node in a small ROS graph."""

import mmap
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support as support
from diagnostic_msgs.msg import DiagnosticStatus
from ros_world import NAMESPACE, CameraWorld
from sensor_msgs.msg import CameraInfo, Image

from spine_nav_common import guardian
from spine_nav_common.core.static_frames import static_transform
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import (
    stamp_to_ns,
)
from spine_nav_common.ros.runtime import tf_message_type
from spine_perception.ros.camera_source import CameraSource

pytestmark = pytest.mark.ros
WORLD = CameraWorld


class ListSource:
    """Frames from a list; raises at the end if told to."""

    real_time = False
    scenes = ("rgbd",)

    def __init__(self, items, error=None):
        self.items, self.error, self.closed = items, error, False

    def frames(self):
        yield from self.items
        if self.error is not None:
            raise self.error

    def close(self):
        self.closed = True


def test_the_camera_waits_for_listeners_keeps_pace_and_says_when_it_is_over(world):
    source = ListSource([support.frame(i) for i in range(4)])
    node = world.add(CameraSource({"source": "replay"}, NAMESPACE, lambda config: source))
    world.spin(0.2)
    assert node.ages.count == 0, "nobody listens yet"
    start = time.monotonic()  # before the first listener: frames may come as soon as all are there
    colour = world.listen(Image, topics.COLOUR, qos.SENSOR_IN)
    depth = world.listen(Image, topics.DEPTH, qos.SENSOR_IN)
    info = world.listen(CameraInfo, topics.COLOUR_INFO, qos.SENSOR_IN)
    world.until(lambda: node.finished and all(len(m) == 4 for m in (colour, depth, info)))
    assert time.monotonic() - start >= 3 * support.PERIOD_NS * 1e-9
    assert [stamp_to_ns(m.header.stamp) for m in colour] == [f.stamp_ns for f in source.items]
    assert [stamp_to_ns(m.header.stamp) for m in info] == [f.stamp_ns for f in source.items]
    sent = np.frombuffer(depth[0].data, np.float32).reshape(48, 64)
    np.testing.assert_array_equal(sent, source.items[0].depth_m)
    assert node.failure == "" and node.health()[1] == "end of the recording"


@pytest.mark.skipif(tf_message_type() is None, reason="no tf2_msgs on this machine")
@pytest.mark.parametrize("known", [False, True])
def test_an_optical_frame_that_hangs_in_the_air_gets_a_camera_link(world, known):
    source = ListSource([support.frame(0)])
    optical = "camera_color_optical_frame"
    if known:
        source.static_transforms = (
            static_transform("tripod", optical, (0.0, 0.0, 0.1), (0.0, 0.0, 0.0, 1.0), "test"),
        )
    fixed = world.listen(tf_message_type(), "/tf_static", qos.TF_STATIC)
    world.add(CameraSource({"source": "replay"}, NAMESPACE, lambda config: source))
    world.until(lambda: fixed)
    (edge,) = fixed[0].transforms
    assert edge.header.frame_id == ("tripod" if known else "camera_link")
    assert edge.child_frame_id == optical
    if not known:
        r = edge.transform.rotation
        assert abs(np.dot((r.x, r.y, r.z, r.w), (-0.5, 0.5, -0.5, 0.5))) == pytest.approx(1.0)


def test_a_source_that_fails_is_told_in_health(world):
    source = ListSource([support.frame(0)], RuntimeError("cable torn"))
    values = {"source": "replay", "wait_for_subscriber": False}
    node = world.add(CameraSource(values, NAMESPACE, lambda config: source))
    world.until(lambda: node.finished)
    assert node.health()[:2] == (DiagnosticStatus.ERROR, "cable torn")


@pytest.mark.parametrize("guarded", [True, False])
def test_a_player_that_died_goes_on_where_its_recording_would_be(
    world, tmp_path, monkeypatch, guarded
):
    """Without what its guardian keeps it begins anew: that is what was broken."""
    folder = support.write_small_recording(tmp_path / "rec", 6)
    if guarded:
        monkeypatch.setattr(guardian, "_board", mmap.mmap(-1, 8192))
    values = {
        "source": "replay", "recording": str(folder), "loop": True, "wait_for_subscriber": False
    }  # fmt: skip
    first = world.add(CameraSource(values, NAMESPACE))
    world.until(lambda: first.frames_sent >= 8)
    first._stop.set()  # killed: nothing is put in order
    first._thread.join()
    last_ns, epoch = first.ages.stamp_ns, first.epoch
    world.executor.remove_node(first)
    world.spin(0.5)
    now_s = time.monotonic()
    second, stamps = CameraSource(values, NAMESPACE), []
    second._publish = lambda frame: stamps.append(frame.stamp_ns)
    world.add(second)
    world.until(lambda: stamps)
    assert (stamps[0] > last_ns) == guarded
    if not guarded:
        assert stamps[0] == support.START_NS
        return
    assert stamps[0] >= epoch[1] + (now_s - epoch[0]) * 1e9 - 2 * support.PERIOD_NS
    assert any("went on" in note for note in second.facts()["notes"])


def test_a_player_that_was_put_away_in_order_begins_anew(world, tmp_path, monkeypatch):
    """Its recording may be over: going on with it would play nothing."""
    monkeypatch.setattr(guardian, "_board", mmap.mmap(-1, 8192))
    folder = support.write_small_recording(tmp_path / "rec", 3)
    values = {"source": "replay", "recording": str(folder), "wait_for_subscriber": False}
    node = world.add(CameraSource(values, NAMESPACE))
    world.until(lambda: node.finished)
    assert node.frames_sent == 3
    node.trigger_deactivate()
    node.trigger_cleanup()
    node.trigger_configure()
    node.trigger_activate()
    world.until(lambda: node.finished)
    assert node.frames_sent == 6
    assert not any("went on" in note for note in node.facts()["notes"])


def test_a_player_that_cannot_catch_up_plays_on_all_the_same(world, monkeypatch):
    """Slower than the pace, every frame's time has passed, and the next one's even longer."""
    monkeypatch.setattr(guardian, "_board", mmap.mmap(-1, 8192))
    epoch = (time.monotonic() - 0.5, support.START_NS)
    guardian.leave("played", {"of": " at 20.0", "epoch": epoch, "lap_ns": 0})

    class Slow(ListSource):
        lap_ns = 0

        def go_on(self, first_ns, since_ns, lap_ns):
            assert first_ns == support.START_NS

        def frames(self):
            for frame in self.items:
                time.sleep(0.01)  # three times its share of the pace
                yield frame

    source = Slow([support.frame(i) for i in range(200)])
    values = {"source": "replay", "rate": 20.0, "wait_for_subscriber": False}
    node = world.add(CameraSource(values, NAMESPACE, lambda config: source))
    world.until(lambda: node.finished)
    assert node.frames_sent > 0
    assert node.facts()["failure"] == ""
