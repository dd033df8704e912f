# SPDX-License-Identifier: Apache-2.0
"""A camera driver that knows nothing of this project: plain rclpy, DDS as it comes. Sends 1280x720
at 30 Hz until it is ended."""

import os
import sys
import time
from array import array

for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
    os.environ.pop(name, None)
os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)

import rclpy
from sensor_msgs.msg import CameraInfo, Image

WIDTH, HEIGHT, PERIOD_S = 1280, 720, 1 / 30
CAMERA = "/camera/camera"

rclpy.init()
node = rclpy.create_node("driver")
topics = {
    f"{CAMERA}/color/camera_info": CameraInfo,
    f"{CAMERA}/color/image_raw": Image,
    f"{CAMERA}/aligned_depth_to_color/image_raw": Image,
}
info_out, colour_out, depth_out = (node.create_publisher(k, t, 5) for t, k in topics.items())
info = CameraInfo(
    width=WIDTH, height=HEIGHT, distortion_model="plumb_bob", d=[0.0] * 5,
    k=[900.0, 0.0, 640.0, 0.0, 900.0, 360.0, 0.0, 0.0, 1.0],
    p=[900.0, 0.0, 640.0, 0.0, 0.0, 900.0, 360.0, 0.0, 0.0, 0.0, 1.0, 0.0],
)  # fmt: skip
info.header.frame_id = "camera_color_optical_frame"
size = {"height": HEIGHT, "width": WIDTH, "header": info.header}
pixels = WIDTH * HEIGHT
colour = Image(encoding="rgb8", step=3 * WIDTH, data=array("B", bytes(3 * pixels)), **size)
depth = Image(encoding="16UC1", step=2 * WIDTH, data=array("B", bytes(2 * pixels)), **size)
start, sent = time.monotonic(), 0
while True:
    stamp = info.header.stamp
    stamp.sec, stamp.nanosec = divmod(time.time_ns(), 10**9)
    colour.header.stamp = depth.header.stamp = stamp
    info_out.publish(info)
    colour_out.publish(colour)
    depth_out.publish(depth)
    sent += 1
    time.sleep(max(0.0, start + sent * PERIOD_S - time.monotonic()))
