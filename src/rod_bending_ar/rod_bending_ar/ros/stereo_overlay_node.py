# SPDX-License-Identifier: Apache-2.0
"""Draws screws, rods and the next bend over the stereo camera's left image; see picture_node.

The planned rod comes from the rod guidance, a pair or two late: it belongs to heads, and is drawn
where those heads are in this very picture, or not at all.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from sensor_msgs.msg import CameraInfo
from visualization_msgs.msg import Marker, MarkerArray

from rod_bending_ar.core.planned import PlannedRod, motion_of_heads
from rod_bending_ar.stereo_overlay import View, draw_stereo, prepare, result_of, steady_view
from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.images import decode_image
from spine_nav_common.core.types import Rejected, StereoFrame, StereoResult
from spine_nav_common.parameters import param
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import stamp_to_ns
from spine_nav_common.ros.frames import image_type
from spine_nav_common.ros.implants import Implants, implants_from_messages
from spine_nav_common.ros.joined import Joined
from spine_nav_common.ros.runtime import run_node
from spine_nav_common.ros.stereo_frames import RigCache

from .guidance_output import has_plan, planned_rods
from .picture_node import Job, PictureNode

_VIEW_NS = 2_000_000_000  # a view is kept for so long without heads, then all of the image is shown
_KEPT_HEADS = 32  # pairs whose heads a plan may have been placed by


@dataclass(frozen=True)
class StereoOverlayConfig:
    """Parameters of the stereo overlay node."""

    left_topic: str = param(topics.LEFT, "left image; a name with image_raw is rectified")
    left_info_topic: str = param(topics.LEFT_INFO, "camera_info of the left image")
    right_info_topic: str = param(topics.RIGHT_INFO, "camera_info of the right image")
    image_reliability: str = param(
        "best_effort", qos.IMAGE_RELIABILITY_DOC, choices=qos.IMAGE_RELIABILITIES
    )
    max_image_age_ms: float = param(
        400.0, "guidance computed from an older pair is wiped", "ms", 50.0, 10000.0
    )
    max_plan_age_ms: float = param(
        600.0, "a planned rod that the rod guidance has placed in an older pair is not drawn", "ms",
        50.0, 10000.0,
    )  # fmt: skip
    width_px: int = param(
        960, "of the image in the picture; the panel with words adds 46 %", "px", 320, 3840
    )
    jpeg_quality: int = param(85, "of the compressed overlay", "%", 10, 100)


@dataclass(frozen=True)
class _Bending:
    """What the rod guidance said last, of the pair of this stamp."""

    stamp_ns: int
    rods: tuple[PlannedRod, ...]


class StereoOverlayNode(PictureNode):
    """Publishes screws/overlay/image and screws/overlay/image/compressed."""

    config_type = StereoOverlayConfig
    topic, compressed_topic = topics.SCREW_OVERLAY, topics.SCREW_OVERLAY_COMPRESSED
    source = "stereo tracker"
    # Drawn and shown by a browser, 15 pictures a second take a core from the tracker that they wait
    # for: it then comes later still, and nothing is ever young enough to be drawn over them.
    bare_s = 0.2

    def __init__(
        self, values: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        super().__init__("stereo_overlay", values, namespace)

    def configure(self) -> None:
        super().configure()
        self._rigs = RigCache("image_raw" in self.config.left_topic)
        self._view: View | None = None
        self._viewed_ns = 0  # stamp of the last picture with heads
        prepare()

    def forget(self) -> None:
        super().forget()
        self._infos: dict[str, CameraInfo] = {}
        self._screws = Joined(implants_from_messages, self._on_implants, self._on_unreadable)
        self._heads: OrderedDict[int, Implants] = OrderedDict()
        self._bends: DiagnosticArray | None = None
        self._markers: MarkerArray | None = None
        self._bending: _Bending | None = None

    def streams(self) -> Sequence[tuple[type, str, Callable[[Any], None], Any]]:
        c = self.config
        return (
            (
                image_type(c.left_topic),
                c.left_topic,
                self.on_image,
                qos.images_in(c.image_reliability),
            ),
            (CameraInfo, c.left_info_topic, self._on_left_info, qos.SENSOR_IN),
            (CameraInfo, c.right_info_topic, self._on_right_info, qos.SENSOR_IN),
            (PoseArray, topics.SCREW_POSES, self._screws.poses, qos.POSE),
            (DiagnosticArray, topics.SCREW_STATUS, self._on_status, qos.POSE),
            (MarkerArray, topics.BENDING, self._on_markers, qos.LATCHED),
            (DiagnosticArray, topics.BENDING_STATUS, self._on_bends, qos.STATE),
        )

    def camera(self) -> tuple[CameraInfo, CameraInfo] | None:
        both = self._infos.get("left"), self._infos.get("right")
        return both if all(both) else None  # the right one tells the baseline, and may be swapped

    def _on_left_info(self, message: CameraInfo) -> None:
        self._note_info("left", message)

    def _on_right_info(self, message: CameraInfo) -> None:
        self._note_info("right", message)

    def _note_info(self, eye: str, message: CameraInfo) -> None:
        first, self._infos[eye] = eye not in self._infos, message
        if first and len(self._infos) == 2:
            self.on_camera()

    # Screws and rods.

    def _on_status(self, message: DiagnosticArray) -> None:
        self.results.note(message.header.stamp)
        self._screws.status(message)

    def _on_unreadable(self, why: str, status: DiagnosticArray) -> None:
        self.trouble = f"screws cannot be read: {why}"
        self.show_nothing(Rejected(self.trouble), self.trouble)

    def _on_implants(self, implants: Implants, status: DiagnosticArray) -> None:
        """A picture, or a wipe."""
        reason = implants.reason
        if not reason and not implants.screws and not implants.rods:
            reason = "no screw head is found"
        if reason:
            self.show_nothing(Rejected(reason), reason)
            return
        self._heads[implants.stamp_ns] = implants
        while len(self._heads) > _KEPT_HEADS:
            self._heads.popitem(last=False)
        self.show(implants)

    # The planned rods.

    def _on_markers(self, message: MarkerArray) -> None:
        self._markers = message
        if not any(m.action == Marker.ADD for m in message.markers):
            self._bending = None  # whoever deletes them, the plan goes now
        self._join_bending()

    def _on_bends(self, message: DiagnosticArray) -> None:
        self._bends = message
        self._join_bending()

    def _join_bending(self) -> None:
        status, markers = self._bends, self._markers
        if status is None:
            return
        if not has_plan(status):
            markers = MarkerArray()
        elif markers is None or not _of_one_stamp(status, markers):
            return
        self._bends = None
        stamp_ns = stamp_to_ns(status.header.stamp)
        try:
            self._bending = _Bending(stamp_ns, planned_rods(status, markers))
        except (ValueError, KeyError) as error:
            self._bending = None
            self.trouble = f"the rod guidance cannot be read: {error!r}"

    def more(self, stamp_ns: int) -> tuple[PlannedRod, ...]:
        """The planned rods where their heads are in the pair of this stamp."""
        bending = self._bending
        if bending is None:
            return ()
        moved = self._motion(bending.stamp_ns, stamp_ns)
        if isinstance(moved, Rejected):
            return tuple(_unplaced(rod, moved.reason) for rod in bending.rods)
        return tuple(
            rod
            if rod.curve_m is None
            else replace(rod, curve_m=transform_points(moved, rod.curve_m))
            for rod in bending.rods
        )

    def _motion(self, then_ns: int, now_ns: int) -> np.ndarray | Rejected:
        age_ms = abs(now_ns - then_ns) / 1e6
        if age_ms > self.config.max_plan_age_ms:
            return Rejected(f"the rod guidance is {age_ms:.0f} ms behind")
        then, now = self._heads.get(then_ns), self._heads.get(now_ns)
        if then is None or now is None:
            return Rejected("it is not known which heads the plan was placed by")
        return motion_of_heads(then.screws, now.screws)

    def draw(self, job: Job, age_ms: float | None) -> np.ndarray:
        rig = self._rigs(*job.camera)
        left = decode_image(job.held.message)
        if left.shape[:2] != (rig.intrinsics.height, rig.intrinsics.width):
            raise ValueError("the left image is of another size than its camera_info says")
        if rig.left_maps is not None:
            left = cv2.remap(left, *rig.left_maps, cv2.INTER_LINEAR)
        frame = StereoFrame(job.stamp_ns, left, left, rig.intrinsics, rig.baseline_m)
        result: Any = Rejected(job.note) if job.note else job.result
        if isinstance(result, Implants):
            result = result_of(result.stamp_ns, result.screws, result.rods, result.events)
        width_px = self.config.width_px
        found = result if isinstance(result, StereoResult) else None
        if found is None and abs(job.stamp_ns - self._viewed_ns) > _VIEW_NS:
            self._view = None  # the wound may be elsewhere by now
        view = self._view = steady_view(self._view, rig.intrinsics, found, width_px)
        if found is not None:
            self._viewed_ns = job.stamp_ns
        return draw_stereo(
            frame, result, job.more or (), width_px=width_px, view=view, age_ms=age_ms
        )


def _of_one_stamp(status: DiagnosticArray, markers: MarkerArray) -> bool:
    return bool(markers.markers) and markers.markers[0].header.stamp == status.header.stamp


def _unplaced(rod: PlannedRod, why: str) -> PlannedRod:
    """A plan that may not be drawn; its bend is not told either, it may be of another plan."""
    if rod.curve_m is None:
        return rod
    return PlannedRod(rod.side, "waiting", f"plan not shown: {why}")


def main() -> int:
    """`ros2 run rod_bending_ar stereo_overlay`."""
    return run_node(StereoOverlayNode)


if __name__ == "__main__":
    sys.exit(main())
