# SPDX-License-Identifier: Apache-2.0
"""The depth aligner on a graph: aligned with the driver's extrinsics, silent and telling without them."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

from ros_world import NAMESPACE
from sensor_msgs.msg import CameraInfo, Image

from spine_nav_common.core import align
from spine_nav_common.core.geometry import transform
from spine_nav_common.core.images import decode_image
from spine_nav_common.core.types import Intrinsics
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import camera_info_message, image_message, transform_message
from spine_nav_common.ros.runtime import tf_message_type
from spine_perception.ros.depth_aligner import DepthAligner

pytestmark = pytest.mark.ros
DEPTH, COLOUR = (
    Intrinsics(60, 44, 52.0, 53.0, 29.3, 21.8),
    Intrinsics(88, 66, 79.0, 80.0, 43.1, 33.4),
)
T = transform(np.eye(3), np.array([0.015, 0.0, 0.0]))
FRAMES = "camera_color_optical_frame", "camera_depth_optical_frame"


def depth_mm(i=0):
    image = np.full((DEPTH.height, DEPTH.width), 500, np.uint16)
    image[10:20, 15:30] = 400 - i
    image[30:34] = 0
    return image


class Driver:
    """A camera that does not align."""

    def __init__(self, world):
        node = world.node
        self.colour = node.create_publisher(CameraInfo, topics.COLOUR_INFO, qos.SENSOR_OUT)
        self.info = node.create_publisher(CameraInfo, topics.OWN_DEPTH_INFO, qos.SENSOR_OUT)
        self.depth = node.create_publisher(Image, topics.OWN_DEPTH, qos.SENSOR_OUT)
        self.tf = node.create_publisher(tf_message_type(), "/tf_static", qos.TF_STATIC)
        self.stamp = 0

    def extrinsics(self):
        self.tf.publish(tf_message_type()(transforms=[transform_message(T, 0, *FRAMES)]))

    def send(self, size=None, infos=True):
        self.stamp += 33_000_000
        if infos:
            self.colour.publish(camera_info_message(COLOUR, self.stamp, FRAMES[0]))
            self.info.publish(camera_info_message(DEPTH, self.stamp, FRAMES[1]))
        mm = depth_mm() if size is None else np.full(size, 500, np.uint16)
        self.depth.publish(image_message(mm, "16UC1", self.stamp, FRAMES[1]))


def started(world):
    got = world.listen(Image, topics.DEPTH, qos.SENSOR_IN)
    driver = Driver(world)
    node = world.add(DepthAligner(namespace=NAMESPACE))
    world.until(
        lambda: driver.depth.get_subscription_count() and driver.tf.get_subscription_count()
    )
    return got, driver, node


def sending(world, driver, want, **more):
    def step():
        driver.send(**more)
        world.spin(0.05)  # as a camera does: three messages for each event would starve its results
        return want()

    world.until(step)


def test_depth_is_aligned_with_tf_and_the_way_is_told(world):
    got, driver, node = started(world)
    driver.extrinsics()
    sending(world, driver, lambda: got)
    metres = np.where(depth_mm() == 0, np.nan, depth_mm() * 1e-3).astype(np.float32)
    expected = align.DepthAligner(DEPTH, COLOUR, T)(metres)
    np.testing.assert_allclose(decode_image(got[-1]), expected, atol=1e-5)
    assert np.isfinite(expected).mean() > 0.3
    assert got[-1].header.frame_id == FRAMES[0]
    assert "aligned to colour with the driver's extrinsics (15.0" in node.notes[0]
    assert node.health()[1] == "running"


def test_without_extrinsics_nothing_is_published_and_the_remedy_is_told_until_they_come(world):
    got, driver, node = started(world)
    sending(world, driver, lambda: "no transform joins" in node.health()[1])
    assert not got and not node.sent
    driver.extrinsics()
    sending(world, driver, lambda: got)
    assert node.health()[1] == "running"


def test_images_that_do_not_fit_their_camera_info_are_told_and_the_next_good_one_counts(world):
    got, driver, node = started(world)
    driver.extrinsics()
    sending(world, driver, lambda: "30x22" in node.health()[1], size=(22, 30))
    assert not got
    sending(world, driver, lambda: got)


def test_without_a_camera_info_it_says_which(world):
    _, driver, node = started(world)
    sending(world, driver, lambda: "no camera_info of colour" in node.health()[1], infos=False)
