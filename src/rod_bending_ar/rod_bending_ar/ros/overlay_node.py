# SPDX-License-Identifier: Apache-2.0
"""Draws what is known over the RGB-D camera's image; see picture_node."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from rod_bending_ar.core.silhouette import prepare
from rod_bending_ar.overlay import draw_overlay
from spine_nav_common.core.case import load_case
from spine_nav_common.core.images import decode_camera_info, decode_colour, decode_depth
from spine_nav_common.parameters import param
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import stamp_to_ns
from spine_nav_common.ros.frames import image_type
from spine_nav_common.ros.live_plan import plan_state
from spine_nav_common.ros.results import result_from_messages
from spine_nav_common.ros.runtime import run_node

from .picture_node import Job, PictureNode

_KEPT_DEPTHS = 8
_SAME_NS = 17_000_000  # a depth image this near belongs to the colour image


@dataclass(frozen=True)
class OverlayConfig:
    """Parameters of the overlay node."""

    case: str = param("", "folder of the case")
    colour_topic: str = param(topics.COLOUR, "colour image")
    info_topic: str = param(topics.COLOUR_INFO, "camera_info of the colour image")
    depth_topic: str = param(
        topics.DEPTH, "depth image on the colour image's pixel grid: a hand stays before what it"
        " covers; empty: nothing is covered",
    )  # fmt: skip
    image_reliability: str = param(
        "best_effort", qos.IMAGE_RELIABILITY_DOC, choices=qos.IMAGE_RELIABILITIES
    )
    max_image_age_ms: float = param(
        300.0, "guidance computed from an older image is wiped", "ms", 50.0, 10000.0
    )
    jpeg_quality: int = param(85, "of the compressed overlay", "%", 10, 100)


class OverlayNode(PictureNode):
    """Publishes overlay/image and overlay/image/compressed."""

    config_type = OverlayConfig
    topic, compressed_topic = topics.OVERLAY, topics.OVERLAY_COMPRESSED
    source = "navigation"

    def __init__(
        self, values: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        super().__init__("overlay", values, namespace)

    def configure(self) -> None:
        super().configure()
        self._case = load_case(self.config.case)
        for level in self._case.exposed_levels:
            prepare(self._case.meshes[level])

    def activate(self) -> None:
        super().activate()
        self.listen(String, topics.PLAN_STATE, self._on_plan, qos.LATCHED)

    def _on_plan(self, message: String) -> None:
        if (state := plan_state(self, message)) is not None:
            self._case = state.of(self._case) or self._case

    def forget(self) -> None:
        super().forget()
        self._depths: OrderedDict[int, Image | CompressedImage] = OrderedDict()
        self._info: CameraInfo | None = None
        self._status: DiagnosticArray | None = None
        self._poses: PoseArray | None = None

    def streams(self) -> Sequence[tuple[type, str, Callable[[Any], None], Any]]:
        c = self.config
        images = qos.images_in(c.image_reliability)
        depth = (image_type(c.depth_topic), c.depth_topic, self._on_depth, images)
        return (
            (image_type(c.colour_topic), c.colour_topic, self.on_image, images),
            (CameraInfo, c.info_topic, self._on_info, qos.SENSOR_IN),
            *((depth,) if c.depth_topic else ()),
            (PoseArray, topics.VERTEBRA_POSES, self._on_poses, qos.POSE),
            (DiagnosticArray, topics.STATUS, self._on_status, qos.POSE),
        )

    def camera(self) -> CameraInfo | None:
        return self._info

    def _on_info(self, message: CameraInfo) -> None:
        first, self._info = self._info is None, message
        if first:
            self.on_camera()

    def _on_depth(self, message: Image | CompressedImage) -> None:
        self._depths[stamp_to_ns(message.header.stamp)] = message
        while len(self._depths) > _KEPT_DEPTHS:
            self._depths.popitem(last=False)

    def more(self, stamp_ns: int) -> Image | CompressedImage | None:
        """The depth image. Never waited for: without it the picture is drawn as if nothing covered
        anything."""
        nearest = min(self._depths, key=lambda s: abs(s - stamp_ns), default=None)
        if nearest is None or abs(nearest - stamp_ns) > _SAME_NS:
            return None
        return self._depths[nearest]

    def _on_poses(self, message: PoseArray) -> None:
        self._poses = message
        self._join()

    def _on_status(self, message: DiagnosticArray) -> None:
        self._status = message
        self.results.note(message.header.stamp)
        self._join()

    def _join(self) -> None:
        """What status and poses of one stamp say: a picture, a wipe, or nothing any more."""
        status, poses = self._status, self._poses
        if status is None or poses is None or status.header.stamp != poses.header.stamp:
            return
        self._status = None
        try:
            result = result_from_messages(status, poses)
        except (ValueError, KeyError, IndexError) as error:
            self.trouble = f"a result cannot be read: {error!r}"
            self.show_nothing(None, self.trouble)
            return
        if all(e.T_camera_ct is None for e in result.levels):
            self.show_nothing(result, "no level is tracked")
        else:
            self.show(result)

    def draw(self, job: Job, age_ms: float | None) -> np.ndarray:
        colour = decode_colour(job.held.message)
        depth_m = None if job.more is None else decode_depth(job.more)
        if depth_m is not None and depth_m.shape != colour.shape[:2]:
            depth_m = None  # not on the colour's grid
        return draw_overlay(
            colour,
            decode_camera_info(job.camera).raw_intrinsics(),
            self._case,
            job.result,
            depth=depth_m,
            stamp_ns=job.stamp_ns if job.guided else None,
            note=job.note,
            age_ms=age_ms,
        )


def main() -> int:
    """`ros2 run rod_bending_ar overlay`."""
    return run_node(OverlayNode)


if __name__ == "__main__":
    sys.exit(main())
