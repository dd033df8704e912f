# SPDX-License-Identifier: Apache-2.0
"""The depth aligner: depth of a camera of its own onto the colour camera's pixels, as the driver would
with align_depth; everything that works on depth hears this node's topic."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from spine_nav_common.core.align import OwnDepth, own_depth
from spine_nav_common.core.calibrations import calibrations
from spine_nav_common.core.images import ImageError, decode_camera_info, decode_depth
from spine_nav_common.core.static_frames import StaticFrames
from spine_nav_common.core.types import Rejected
from spine_nav_common.parameters import param
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import camera_info_message, image_message, stamp_to_ns
from spine_nav_common.ros.frames import image_type
from spine_nav_common.ros.lifecycle import ERROR, OK, WARN, SpineNode, StampAge
from spine_nav_common.ros.mailbox import NewestWins
from spine_nav_common.ros.runtime import run_node, tf_message_type
from spine_nav_common.ros.static_edges import static_edges


@dataclass(frozen=True)
class DepthAlignerConfig:
    """Parameters of the depth aligner."""

    depth_topic: str = param(topics.OWN_DEPTH, "depth image of a camera of its own")
    depth_info_topic: str = param(topics.OWN_DEPTH_INFO, "camera_info of that depth image")
    info_topic: str = param(topics.COLOUR_INFO, "camera_info of the colour image")
    aligned_topic: str = param(topics.DEPTH, "where the aligned depth is published")
    calibration: str = param(
        "", "files with the transform between the two cameras, comma-separated, beside /tf_static"
    )
    image_reliability: str = param(
        "best_effort", qos.IMAGE_RELIABILITY_DOC, choices=qos.IMAGE_RELIABILITIES
    )


@dataclass(frozen=True)
class _Aligned:
    image: Image | None
    info: CameraInfo | None
    problem: str
    ms: float


class DepthAligner(SpineNode):
    """A worker thread aligns the newest image, the executor's thread publishes."""

    config_type = DepthAlignerConfig

    def __init__(
        self, values: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        super().__init__("depth_aligner", values, namespace)
        self._worker: NewestWins | None = None
        self.sent = 0

    def configure(self) -> None:
        c = self.config
        files = [Path(f) for f in c.calibration.split(",") if f]
        self._frames = StaticFrames(calibrations(files)[1])
        self._image_out = self.advertise(Image, c.aligned_topic, qos.SENSOR_OUT)
        info_topic = f"{c.aligned_topic.rsplit('/', 1)[0]}/camera_info"
        self._info_out = self.advertise(CameraInfo, info_topic, qos.SENSOR_OUT)

    def activate(self) -> None:
        self._colour: CameraInfo | None = None
        self._depth: CameraInfo | None = None
        self._own: tuple[tuple[Any, ...], OwnDepth | Rejected] | None = None
        self._waits_for = "no depth images"
        self.sent, self.dropped, self._ms, self._age = 0, 0, 0.0, StampAge()
        self._worker = NewestWins(self, (self._align,), self._publish, self._drop, "depth_aligner")
        c = self.config
        self.listen(CameraInfo, c.info_topic, self._on_colour_info, qos.SENSOR_IN)
        self.listen(CameraInfo, c.depth_info_topic, self._on_depth_info, qos.SENSOR_IN)
        if (tf := tf_message_type()) is not None:
            self.listen(tf, "/tf_static", self._on_tf_static, qos.TF_STATIC)
        images = qos.images_in(c.image_reliability)
        self.listen(image_type(c.depth_topic), c.depth_topic, self._on_depth, images)

    def deactivate(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _on_colour_info(self, message: CameraInfo) -> None:
        self._colour = message

    def _on_depth_info(self, message: CameraInfo) -> None:
        self._depth = message

    def _on_tf_static(self, message: Any) -> None:
        for edge in static_edges(message):
            self._frames.add(edge)
        self._own = None

    def _drop(self) -> None:
        self.dropped += 1

    def _on_depth(self, message: Image | CompressedImage) -> None:
        if self._colour is None or self._depth is None:
            self._waits_for = "no camera_info of " + ("colour" if self._colour is None else "depth")
            return
        own = self._way(message.header.frame_id)
        if isinstance(own, Rejected):
            self._waits_for = own.reason
            return
        self._waits_for = ""
        assert self._worker is not None
        self._worker.put((message, self._colour, own))

    def _way(self, depth_frame: str) -> OwnDepth | Rejected:
        """How this depth is aligned; found again whenever one of the cameras or /tf_static changes."""
        colour, depth = self._colour, self._depth
        assert colour is not None and depth is not None
        cameras = (depth_frame, colour.header.frame_id, *(
            (m.width, m.height, tuple(m.k), tuple(m.d)) for m in (colour, depth)
        ))  # fmt: skip
        if self._own is None or self._own[0] != cameras:
            frames = depth_frame, colour.header.frame_id
            try:
                models = decode_camera_info(depth), decode_camera_info(colour)
                T = self._frames.lookup(frames[1], frames[0])
                own = own_depth(*models, frames, T)
            except ImageError as error:
                own = Rejected(str(error))
            self._own = cameras, own
            if isinstance(own, OwnDepth):
                self.tell([own.told()])
        return self._own[1]

    # In the worker's thread.

    def _align(self, item: tuple[Image | CompressedImage, CameraInfo, OwnDepth]) -> _Aligned:
        message, info, own = item
        start = time.monotonic()
        try:
            colour = decode_camera_info(info)
            depth_m = own(colour, decode_depth(message))
        except Exception as error:  # noqa: BLE001 - one bad image must not end the node
            return _Aligned(None, None, str(error), 0.0)
        if colour.distorted:  # who takes it expects depth on the lens' pixels, as a driver sends it
            return _Aligned(None, None, _LENS, 0.0)
        stamp_ns, frame_id = stamp_to_ns(message.header.stamp), info.header.frame_id
        image = image_message(np.ascontiguousarray(depth_m), "32FC1", stamp_ns, frame_id)
        told = camera_info_message(colour.raw_intrinsics(), stamp_ns, frame_id)
        return _Aligned(image, told, "", (time.monotonic() - start) * 1e3)

    # On the executor's thread.

    def _publish(self, aligned: _Aligned) -> None:
        if aligned.image is None or aligned.info is None:
            self._waits_for = aligned.problem
            return
        self._info_out.publish(aligned.info)
        self._image_out.publish(aligned.image)
        self._ms = aligned.ms
        self.sent += 1
        self._age.note(aligned.image.header.stamp)

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        if not self.active:
            return OK, "not active", {}
        values: dict[str, object] = {"aligned": self.sent, "dropped": self.dropped}
        values["align_ms"] = round(self._ms, 1)
        if self._waits_for:
            return (ERROR if self.sent or "transform" in self._waits_for else WARN,
                    f"depth is not aligned: {self._waits_for}", values)  # fmt: skip
        return OK, "running", values


_LENS = (
    "the colour camera states distortion: send rectified colour, or let the driver align depth to"
    " colour (align_depth)"
)


def main() -> int:
    """`ros2 run spine_perception depth_aligner`."""
    return run_node(DepthAligner)


if __name__ == "__main__":
    sys.exit(main())
