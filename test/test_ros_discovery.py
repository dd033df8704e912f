# SPDX-License-Identifier: Apache-2.0
"""A live graph with a known driver's topics is found without a remap; two cameras are asked about."""

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

from sensor_msgs.msg import CameraInfo, Image

from spine_nav_bringup.live_options import LiveOptions, configure
from spine_nav_bringup.ros.discovery import find_cameras, judge, with_cameras
from spine_nav_common.core.known_cameras import named
from spine_nav_common.core.types import Rejected
from spine_nav_common.parameters import ParameterError
from spine_nav_common.ros import qos, topics

pytestmark = pytest.mark.ros
SCENES = ("rgbd", "stereo")


def publish(world, names):
    return [
        world.node.create_publisher(CameraInfo if "info" in t else Image, t, qos.SENSOR_OUT)
        for t in names
    ]


def test_a_zed_on_the_graph_is_found_and_told(world):
    publish(world, named("zed:/zed2i/zed_node").values())
    found = find_cameras(SCENES, 60.0)
    assert found.names[topics.COLOUR] == "/zed2i/zed_node/rgb/color/rect/image"
    assert found.names[topics.LEFT] == "/zed2i/zed_node/left/color/rect/image"
    assert "zed" in found.told[0] and not found.align


def test_topics_that_somebody_only_listens_to_are_no_camera(world):
    for topic in named("zed").values():
        world.node.create_subscription(Image, topic, lambda m: None, 1)
    found = find_cameras(SCENES, 2.0)
    assert not found.names and not found.told


def test_a_camera_without_aligned_depth_gets_the_aligner():
    own = {topics.COLOUR, topics.COLOUR_INFO, topics.OWN_DEPTH, topics.OWN_DEPTH_INFO}
    assert judge(own, SCENES).align
    assert not judge({*own, topics.DEPTH}, SCENES).align
    old = [t for k, t in named("realsense_ros").items() if "aligned" not in k]
    found = judge(old, SCENES)
    assert found.align and found.names[topics.OWN_DEPTH] == "/camera/depth/image_rect_raw"


def test_two_cameras_are_asked_about():
    both = [*named("orbbec:/a").values(), *named("orbbec:/b").values()]
    found = judge(both, SCENES)
    assert isinstance(found, Rejected) and "--remap orbbec:/a" in found.reason
    assert judge(["/tf"], SCENES) is None


def test_who_works_on_the_rgbd_camera_hears_the_drivers_topics(tmp_path):
    options = LiveOptions(tmp_path, "ros", tmp_path / "out", names=named("zed"), display=True)
    _, values = configure(options)
    for node in ("navigation", "overlay"):
        assert values[node]["colour_topic"] == "/zed/zed_node/rgb/color/rect/image"
        assert values[node]["depth_topic"] == "/zed/zed_node/depth/depth_registered"
    assert values["display"]["info_topic"] == "/zed/zed_node/rgb/color/rect/camera_info"
    assert values["stereo_tracker"]["left_topic"] == "/zed/zed_node/left/color/rect/image"
    assert "depth_aligner" not in values


def test_with_the_aligner_they_hear_its_topic(tmp_path):
    options = LiveOptions(
        tmp_path, "ros", tmp_path / "out", names=named("realsense_ros"), depth_aligner=True
    )
    _, values = configure(options)
    assert values["depth_aligner"]["depth_topic"] == "/camera/depth/image_rect_raw"
    for node in ("navigation", "overlay"):
        assert values[node].get("depth_topic", topics.DEPTH) == topics.DEPTH
        assert values[node]["colour_topic"] == "/camera/color/image_raw"


def test_two_cameras_on_the_graph_refuse_the_run_with_the_answer_to_give(world, tmp_path):
    for prefix in ("/a", "/b"):
        publish(world, named(f"orbbec:{prefix}").values())
    options = LiveOptions(tmp_path, "ros", tmp_path / "out")
    with pytest.raises(ParameterError, match="--remap orbbec:/a"):
        with_cameras(options, SCENES)
