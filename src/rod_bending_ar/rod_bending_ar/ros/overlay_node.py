# SPDX-License-Identifier: Apache-2.0
"""Draws what is known over the RGB-D camera's image; see picture_node."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from rod_bending_ar.bulls_eye import bulls_eyes
from rod_bending_ar.core.extras import usable
from rod_bending_ar.core.lens import lens_of
from rod_bending_ar.core.paint import Stroke
from rod_bending_ar.core.placing import Heard, Placer
from rod_bending_ar.overlay import draw_overlay, prepare
from spine_nav_common.core.case import load_case
from spine_nav_common.core.images import decode_camera_info, decode_colour, decode_depth
from spine_nav_common.core.static_frames import load_calibration
from spine_nav_common.core.types import Case, NavigationResult
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import header, stamp_to_ns
from spine_nav_common.ros.frames import image_type
from spine_nav_common.ros.joined import Joined
from spine_nav_common.ros.live_plan import plan_state
from spine_nav_common.ros.results import result_from_messages
from spine_nav_common.ros.runtime import run_node, tf_message_type

from .overlay_config import OverlayConfig
from .overlay_inputs import OverlayInputs, PoseCovariances
from .overlay_marks import overlay_markers
from .overlay_output import Beside, BesideOutput
from .picture_node import Job, PictureNode, jpeg_of

_KEPT_DEPTHS = 8
_SAME_NS = 17_000_000  # a depth image this near belongs to the colour image


@dataclass(frozen=True)
class _More:
    """What belongs to a guided picture: depth on the colour's pixel grid, and everything that was
    heard of screws, rods, bends and tools."""

    depth: Image | CompressedImage | None
    heard: Heard


class OverlayNode(PictureNode):
    """Publishes overlay/image and what stands beside it (docs/contracts.md, section 6)."""

    config_type = OverlayConfig
    topic, compressed_topic = topics.OVERLAY, topics.OVERLAY_COMPRESSED
    source = "navigation"

    def __init__(
        self, values: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        super().__init__("overlay", values, namespace)

    def configure(self) -> None:
        self._beside = BesideOutput(self.advertise)
        files = filter(None, self.config.calibration.split(","))
        edges = [edge for file in files for edge in load_calibration(file.strip())]
        self._inputs = OverlayInputs(edges, self.config.tool_topic)
        self._case = load_case(self.config.case)
        super().configure()
        prepare(self._case)
        self._place_by(self._case)

    def activate(self) -> None:
        super().activate()
        self.listen(String, topics.PLAN_STATE, self._on_plan, qos.LATCHED)
        if (tf := tf_message_type()) is not None:
            self.listen(tf, "/tf_static", self._inputs.on_tf_static, qos.TF_STATIC)

    def _place_by(self, case: Case) -> None:
        """A placer of its own for every plan; a thread prepares it, guidance goes on meanwhile."""
        c = self.config
        self._placer = Placer(case, c.screw_diameter_mm, c.limits(), c.screw_play_deg)
        threading.Thread(target=self._placer.prepare, name="margins", daemon=True).start()

    def _on_plan(self, message: String) -> None:
        if (state := plan_state(self, message)) is not None:
            case = state.of(self._case) or self._case
            if case is not self._case:
                self._case = case
                self._place_by(case)

    def forget(self) -> None:
        super().forget()
        self._inputs.clear()
        self._depths: OrderedDict[int, Image | CompressedImage] = OrderedDict()
        self._info: CameraInfo | None = None
        self._covariances = PoseCovariances(self._case.exposed_levels)
        self._levels = Joined(result_from_messages, self._on_result, self._on_unreadable)

    def streams(self) -> Sequence[tuple[type, str, Callable[[Any], None], Any]]:
        c = self.config
        images = qos.images_in(c.image_reliability)
        depth = (image_type(c.depth_topic), c.depth_topic, self._on_depth, images)
        return (
            (image_type(c.colour_topic), c.colour_topic, self.on_image, images),
            (CameraInfo, c.info_topic, self._on_info, qos.SENSOR_IN),
            *((depth,) if c.depth_topic else ()),
            (PoseArray, topics.VERTEBRA_POSES, self._levels.poses, qos.POSE),
            (DiagnosticArray, topics.STATUS, self._on_status, qos.POSE),
            *self._covariances.streams(),
            *self._inputs.streams(),
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

    def more(self, stamp_ns: int) -> _More:
        return _More(self._depth_at(stamp_ns), self._inputs.heard())

    def _depth_at(self, stamp_ns: int) -> Image | CompressedImage | None:
        """Never waited for: without it the picture is drawn as if nothing covered anything."""
        nearest = min(self._depths, key=lambda s: abs(s - stamp_ns), default=None)
        if nearest is None or abs(nearest - stamp_ns) > _SAME_NS:
            return None
        return self._depths[nearest]

    def _on_status(self, message: DiagnosticArray) -> None:
        self.results.note(message.header.stamp)
        self._levels.status(message)

    def _on_unreadable(self, why: str, status: DiagnosticArray) -> None:
        self.trouble = f"a result cannot be read: {why}"
        self.show_nothing(None, self.trouble)

    def _on_result(self, result: NavigationResult, status: DiagnosticArray) -> None:
        """A picture, a wipe, or nothing any more."""
        result = self._covariances.joined(result)
        self._inputs.note(result, status.header.frame_id)
        if all(e.T_camera_ct is None for e in result.levels):
            self.show_nothing(result, "no level is tracked")
        else:
            self.show(result)

    def watched_beside(self) -> bool:
        return any(vars(self._beside.wanted()).values())

    def publish_beside(self, beside: Beside, stamp_ns: int, frame_id: str) -> None:
        self._beside.publish(beside, stamp_ns, frame_id)

    def draw_all(self, job: Job, age_ms: float | None) -> tuple[np.ndarray, Beside]:
        placer = self._placer  # taken once: a plan that is confirmed now is the next picture's
        wanted, case, extras, depth = self._beside.wanted(), placer.case, None, None
        colour = decode_colour(job.held.message)
        if job.guided:
            extras = usable(placer.place(job.more.heard), job.result)
            depth = None if job.more.depth is None else decode_depth(job.more.depth)
        if depth is not None and depth.shape != colour.shape[:2]:
            depth = None  # not on the colour's grid
        strokes: list[Stroke] | None = [] if wanted.strokes else None
        picture = draw_overlay(
            colour,
            lens_of(decode_camera_info(job.camera)),
            case,
            job.result,
            depth=depth,
            stamp_ns=job.stamp_ns if job.guided else None,
            note=job.note,
            age_ms=age_ms,
            extras=extras,
            strokes=strokes,
        )
        markers = eye = None
        if wanted.markers:
            top = header(job.stamp_ns, job.held.message.header.frame_id)
            markers = overlay_markers(case, job.result, extras, top)
        if wanted.eye or wanted.eye_jpeg:
            eye = bulls_eyes(case, job.result, extras, why=job.note, age_ms=age_ms)
        return picture, Beside(
            markers,
            tuple(strokes) if strokes is not None else None,
            eye if wanted.eye else None,
            jpeg_of(eye, self.config.jpeg_quality) if eye is not None and wanted.eye_jpeg else None,
        )


def main() -> int:
    """`ros2 run rod_bending_ar overlay`."""
    return run_node(OverlayNode)


if __name__ == "__main__":
    sys.exit(main())
