# SPDX-License-Identifier: Apache-2.0
"""The rest of the world around nodes under test: publishes, listens, calls, waits."""

from __future__ import annotations

import gc
import time

import rclpy
import ros_support as support
import stereo_support
from rclpy.lifecycle import TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo, Image

from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import camera_info_message, image_message
from spine_nav_common.ros.executor import new_executor
from spine_nav_common.ros.results import status_fields
from spine_registration.ros.navigation import NavigationNode

NAMESPACE = "/spine"


class World:
    """One executor with a node of its own; `camera` maps a name to (message type, topic)."""

    def __init__(self, camera=None):
        self.executor = new_executor()
        self.node = rclpy.create_node("world", namespace=NAMESPACE)
        self.executor.add_node(self.node)
        self.mine = [self.node]
        self.got = {}
        self.camera = {
            name: self.node.create_publisher(kind, topic, qos.SENSOR_OUT)
            for name, (kind, topic) in (camera or {}).items()
        }

    def add(self, node, active=True):
        self.executor.add_node(node)
        self.mine.append(node)
        if active:
            assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS, node.problem
            assert node.trigger_activate() is TransitionCallbackReturn.SUCCESS, node.problem
        return node

    def remove(self, node):
        self.executor.remove_node(node)
        self.mine.remove(node)
        node.destroy_node()

    def listen(self, kind, topic, profile=qos.RESULT):
        self.got[topic] = []
        self.node.create_subscription(kind, topic, self.got[topic].append, profile)
        return self.got[topic]

    def until(self, condition, timeout_s=120.0):
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, "the condition did not come true"
            self.executor.spin_once(timeout_sec=0.02)

    def spin(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)

    def matched(self):
        self.until(lambda: all(p.get_subscription_count() for p in self.camera.values()))

    def call(self, kind, name, request):
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready)
        future = client.call_async(request)
        self.until(future.done)
        return future.result()

    def close(self):
        self.executor.shutdown()
        for node in reversed(self.mine):
            node.destroy_node()
        self.mine.clear()
        # A lifecycle node is part of a cycle: until it is collected its name and its rosout
        # publisher stay, and the next node of that name loses its log with it.
        gc.collect()


class CameraWorld(World):
    """A world with an RGB-D camera."""

    def __init__(self):
        super().__init__(
            {
                "colour": (Image, topics.COLOUR),
                "depth": (Image, topics.DEPTH),
                "info": (CameraInfo, topics.COLOUR_INFO),
            }
        )

    def send(self, index, depth_index=None, depth=None, encoding="32FC1"):
        f = support.frame(index)
        stamp = f.stamp_ns
        depth_stamp = stamp if depth_index is None else support.frame(depth_index).stamp_ns
        self.camera["info"].publish(camera_info_message(f.intrinsics, stamp, f.frame_id))
        self.camera["colour"].publish(image_message(f.colour, "rgb8", stamp, f.frame_id))
        depth = f.depth_m if depth is None else depth
        self.camera["depth"].publish(image_message(depth, encoding, depth_stamp, f.frame_id))
        return stamp


class StereoWorld(World):
    """A world with a stereo camera."""

    def __init__(self):
        super().__init__(
            {
                "left": (Image, topics.LEFT),
                "right": (Image, topics.RIGHT),
                "left_info": (CameraInfo, topics.LEFT_INFO),
                "right_info": (CameraInfo, topics.RIGHT_INFO),
            }
        )

    def send(self, index, right_shift_ns=0, baseline_m=stereo_support.BASELINE_M, right=None):
        f = stereo_support.frame(index)
        stamp, frame_id = f.stamp_ns, f.frame_id
        self.camera["left_info"].publish(camera_info_message(f.intrinsics, stamp, frame_id))
        info = camera_info_message(f.intrinsics, stamp, frame_id)
        info.p[3] = -f.intrinsics.fx * baseline_m
        self.camera["right_info"].publish(info)
        self.camera["left"].publish(image_message(f.left, "mono8", stamp, frame_id))
        right = f.right if right is None else right
        self.camera["right"].publish(
            image_message(right, "mono8", stamp + right_shift_ns, frame_id)
        )
        return stamp


def navigation(world, case, values=None, **modes):
    """A navigation node with a fake navigator, active and matched with the camera."""
    navigators = []
    loader = support.fake_loader(navigators, **modes)
    # A test sends when the last result is there, later than its stamps say.
    given = {"case": case, "max_stamp_age_ms": 60_000.0, **(values or {})}
    node = world.add(NavigationNode(given, NAMESPACE, loader))
    world.matched()
    return node, navigators[0]


def statuses(message):
    """Status per level of a registration/status."""
    return {f["level"]: f["status"] for f in map(status_fields, message.status)}
