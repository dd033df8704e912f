# SPDX-License-Identifier: Apache-2.0
"""Writes recordings as docs/contracts.md, section 2 lays them out (rosbag2, MCAP)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from .closing import Closing
from .geometry import q_xyzw_from_rotation
from .images import encode_image
from .static_frames import StaticTransform
from .types import Intrinsics, RgbdFrame, StereoFrame

COLOUR = "/camera/camera/color"
DEPTH = "/camera/camera/aligned_depth_to_color"
STEREO = {"left": "/stereo/left", "right": "/stereo/right"}
# The layout of the camera messages is the same in every ROS 2 distribution, so one store serves
# all bags, those without type definitions too.
TYPES = get_typestore(Stores.ROS2_JAZZY)
_IMAGE, _INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"


class RecordingWriter(Closing):
    """A new recording folder; use as a context manager, which closes it.

    Args:
        path: folder to make; it must not exist (FileExistsError).
        compress: zstd chunks inside the MCAP file.
        depth_encoding: '16UC1' (mm, as a RealSense gives it) or '32FC1' (m).
        sqlite3: write a .db3 storage instead of MCAP (then never compressed).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        compress: bool = True,
        depth_encoding: str = "16UC1",
        sqlite3: bool = False,
    ) -> None:
        if depth_encoding not in ("16UC1", "32FC1"):
            raise ValueError(f"depth_encoding {depth_encoding!r}: use 16UC1 or 32FC1")
        path = Path(path)
        if path.exists():
            raise FileExistsError(f"{path} is already there; name another folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        plugin = StoragePlugin.SQLITE3 if sqlite3 else StoragePlugin.MCAP
        self._writer = Writer(path, version=9, storage_plugin=plugin)
        if compress and not sqlite3:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._depth_encoding = depth_encoding
        self._connections: dict[str, Connection] = {}
        self._writer.open()

    def close(self) -> None:
        """Finish the files."""
        self._writer.close()

    def message(self, msgtype: str, **fields: Any) -> Any:
        """A message object of rosbags' Jazzy types, for `write`."""
        return TYPES.types[msgtype](**fields)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        """A std_msgs/Header."""
        sec, nanosec = divmod(stamp_ns, 1_000_000_000)
        stamp = self.message("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
        return self.message("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)

    def write(self, topic: str, msgtype: str, msg: Any, stamp_ns: int) -> None:
        """Append any message; stamp_ns is the time of recording."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, msgtype, typestore=TYPES)
        data = TYPES.serialize_cdr(msg, msgtype)
        self._writer.write(self._connections[topic], stamp_ns, data)

    def write_rgbd(self, frame: RgbdFrame) -> None:
        """Append colour, depth and both camera_info; NaN depth becomes 0 in 16UC1."""
        depth = frame.depth_m.astype(np.float32)
        if self._depth_encoding == "16UC1":
            mm = np.rint(1e3 * np.nan_to_num(depth, nan=0.0, posinf=0.0, neginf=0.0))
            depth = np.where(mm > 65535, 0, np.clip(mm, 0, 65535)).astype(np.uint16)
        self._image(f"{COLOUR}/image_raw", frame, frame.colour, "rgb8")
        self.write_camera_info(f"{COLOUR}/camera_info", frame)
        self._image(f"{DEPTH}/image_raw", frame, depth, self._depth_encoding)
        self.write_camera_info(f"{DEPTH}/camera_info", frame)

    def write_stereo(self, frame: StereoFrame) -> None:
        """Append the rectified pair and both camera_info."""
        for eye, image, baseline_m in (
            ("left", frame.left, 0.0),
            ("right", frame.right, frame.baseline_m),
        ):
            encoding = "mono8" if image.ndim == 2 else "rgb8"
            self._image(f"{STEREO[eye]}/image_rect", frame, image, encoding)
            self.write_camera_info(f"{STEREO[eye]}/camera_info", frame, baseline_m)

    def _image(
        self, topic: str, frame: RgbdFrame | StereoFrame, image: np.ndarray, encoding: str
    ) -> None:
        header = self.header(frame.stamp_ns, frame.frame_id)
        msg = self.message(_IMAGE, header=header, **encode_image(image, encoding))
        self.write(topic, _IMAGE, msg, frame.stamp_ns)

    def write_camera_info(
        self, topic: str, frame: RgbdFrame | StereoFrame, baseline_m: float = 0.0
    ) -> None:
        """Append a camera_info of the frame's intrinsics to a topic."""
        header = self.header(frame.stamp_ns, frame.frame_id)
        msg = self.message(_INFO, header=header, **self._camera(frame.intrinsics, baseline_m))
        self.write(topic, _INFO, msg, frame.stamp_ns)

    def write_static(self, transforms: Iterable[StaticTransform], stamp_ns: int) -> None:
        """Append fixed transforms between frames, on /tf_static; all of them in one call."""
        stamped = []
        for item in transforms:
            x, y, z = (float(v) for v in item.T_parent_child[:3, 3])
            qx, qy, qz, qw = (float(v) for v in q_xyzw_from_rotation(item.T_parent_child[:3, :3]))
            transform = self.message(
                "geometry_msgs/msg/Transform",
                translation=self.message("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
                rotation=self.message("geometry_msgs/msg/Quaternion", x=qx, y=qy, z=qz, w=qw),
            )
            kind = "geometry_msgs/msg/TransformStamped"
            top = self.header(0, item.parent)
            stamped.append(
                self.message(kind, header=top, child_frame_id=item.child, transform=transform)
            )
        kind = "tf2_msgs/msg/TFMessage"
        self.write("/tf_static", kind, self.message(kind, transforms=stamped), stamp_ns)

    def _camera(self, camera: Intrinsics, baseline_m: float) -> dict[str, Any]:
        fx, fy, cx, cy = camera.fx, camera.fy, camera.cx, camera.cy
        return {
            "height": camera.height,
            "width": camera.width,
            "distortion_model": "plumb_bob",
            "d": np.zeros(5),
            "k": np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1], dtype=np.float64),
            "r": np.eye(3).ravel(),
            "p": np.array([fx, 0, cx, -fx * baseline_m, 0, fy, cy, 0, 0, 0, 1, 0], np.float64),
            "binning_x": 0,
            "binning_y": 0,
            "roi": self.message(
                "sensor_msgs/msg/RegionOfInterest",
                x_offset=0,
                y_offset=0,
                height=0,
                width=0,
                do_rectify=False,
            ),
        }
