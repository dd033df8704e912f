# SPDX-License-Identifier: Apache-2.0
"""Messages to arrays and back: stamps, images, camera models, poses. Pure functions.

Image data goes through `array('B')`: rclpy takes it by reference, while a numpy array or bytes is
checked byte by byte in Python (270 ms for one 720p image).
"""

from __future__ import annotations

from array import array

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, Transform, TransformStamped
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, TimeReference
from std_msgs.msg import Header

from spine_nav_common.core.clock import Announced
from spine_nav_common.core.geometry import (
    check_transform,
    q_xyzw_from_rotation,
    rotation_from_q_xyzw,
    skew,
    transform,
)
from spine_nav_common.core.images import encode_image
from spine_nav_common.core.types import Intrinsics, Rejected


def stamp_to_ns(stamp: Time) -> int:
    """Nanoseconds of a message stamp."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def stamp_from_ns(stamp_ns: int) -> Time:
    """Message stamp of nanoseconds."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def header(stamp_ns: int, frame_id: str) -> Header:
    """Header with the stamp of the image that the content was computed from."""
    return Header(stamp=stamp_from_ns(stamp_ns), frame_id=frame_id)


def _bytes(data: np.ndarray) -> array:
    buffer = array("B")
    buffer.frombytes(memoryview(data))
    return buffer


def image_message(image: np.ndarray, encoding: str, stamp_ns: int, frame_id: str) -> Image:
    """Image of (H, W) or (H, W, C). Raises ImageError where the array does not fit `encoding`."""
    fields = encode_image(image, encoding)
    fields["data"] = _bytes(fields["data"])
    return Image(header=header(stamp_ns, frame_id), **fields)


def jpeg_message(jpeg: bytes, stamp_ns: int, frame_id: str) -> CompressedImage:
    """Compressed image of an encoded JPEG."""
    return CompressedImage(
        header=header(stamp_ns, frame_id),
        format="rgb8; jpeg compressed bgr8",
        data=array("B", jpeg),
    )


def camera_info_message(
    camera: Intrinsics, stamp_ns: int, frame_id: str, baseline_m: float = 0.0
) -> CameraInfo:
    """CameraInfo of a rectified pinhole image; baseline_m of the right camera of a pair."""
    K = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
    P = [camera.fx, 0.0, camera.cx, -camera.fx * baseline_m]
    P += [0.0, camera.fy, camera.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return CameraInfo(
        header=header(stamp_ns, frame_id),
        height=camera.height,
        width=camera.width,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[float(v) for v in K],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[float(v) for v in P],
    )


def pose_message(T_parent_child: np.ndarray) -> Pose:
    """Pose of a rigid (4, 4), metres. Raises ValueError if it is not rigid or not finite."""
    T = check_transform(T_parent_child, "pose to publish")
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = (float(v) for v in T[:3, 3])
    q_xyzw = q_xyzw_from_rotation(T[:3, :3])
    o = pose.orientation
    o.x, o.y, o.z, o.w = (float(v) for v in q_xyzw)
    return pose


def pose_array(pose: Pose) -> np.ndarray:
    """(4, 4) T_parent_child of a Pose. Raises ValueError for a quaternion without length."""
    o, p = pose.orientation, pose.position
    return transform(
        rotation_from_q_xyzw(np.array([o.x, o.y, o.z, o.w])), np.array([p.x, p.y, p.z])
    )


def transform_message(
    T_parent_child: np.ndarray, stamp_ns: int, parent: str, child: str
) -> TransformStamped:
    """The /tf entry that places `child` in `parent`."""
    pose = pose_message(T_parent_child)
    message = Transform(rotation=pose.orientation)
    t, p = message.translation, pose.position
    t.x, t.y, t.z = p.x, p.y, p.z
    return TransformStamped(
        header=header(stamp_ns, parent), child_frame_id=child, transform=message
    )


def pose_covariance(
    covariance: np.ndarray, T_camera_ct: np.ndarray, anchor_camera_m: np.ndarray
) -> np.ndarray:
    """Covariance (6, 6) in ROS order and sense from the project's (see core.types).

    The project perturbs about an anchor near the bone. ROS means the position of the child's
    origin and a rotation about the header frame's fixed axes; the CT origin may lie decimetres
    from the bone, so the rotation's uncertainty moves it: d_origin = d_anchor + w x (origin - anchor).
    """
    J = np.eye(6)
    J[:3, 3:] = -skew(T_camera_ct[:3, 3] - anchor_camera_m)
    return J @ covariance @ J.T


def anchored_covariance(
    ros_covariance: np.ndarray, T_camera_ct: np.ndarray, anchor_camera_m: np.ndarray
) -> np.ndarray:
    """The inverse of `pose_covariance`: from the child's origin to an anchor point (3,)."""
    J = np.eye(6)
    J[:3, 3:] = skew(T_camera_ct[:3, 3] - anchor_camera_m)
    return J @ ros_covariance @ J.T


def announced(message: TimeReference) -> Announced | Rejected:
    """What a camera node says of its clock; its source ends with the rate."""
    try:
        rate = float(message.source.rpartition(" ")[2])
    except ValueError:
        rate = float("nan")
    if not 0.0 < rate < float("inf"):
        return Rejected(f"a camera's clock without a rate: {message.source[:60]!r}")
    return Announced(stamp_to_ns(message.header.stamp), stamp_to_ns(message.time_ref), rate)
