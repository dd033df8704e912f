# SPDX-License-Identifier: Apache-2.0
"""Draws what is known over the camera image, for the screen; works only while somebody looks.

When the navigation or the camera falls silent, the last image is shown again without guidance.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from rod_bending_ar.overlay import draw_overlay
from spine_nav_common.core.case import load_case
from spine_nav_common.core.images import ImageError, decode_camera_info, decode_colour
from spine_nav_common.core.types import NavigationResult
from spine_nav_common.parameters import param
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import image_message, jpeg_message, stamp_to_ns
from spine_nav_common.ros.frames import image_type
from spine_nav_common.ros.lifecycle import OK, WARN, SpineNode, StampAge
from spine_nav_common.ros.results import result_from_messages
from spine_nav_common.ros.runtime import run_node

_LOOK_S = 0.25
_KEPT = 8


@dataclass(frozen=True)
class OverlayConfig:
    """Parameters of the overlay node."""

    case: str = param("", "folder of the case")
    colour_topic: str = param(topics.COLOUR, "colour image")
    info_topic: str = param(topics.COLOUR_INFO, "camera_info of the colour image")
    silence_ms: float = param(
        1000.0, "without a status for this long, guidance is wiped", "ms", 50.0, 10000.0
    )
    jpeg_quality: int = param(85, "of the compressed overlay", "%", 10, 100)


class OverlayNode(SpineNode):
    """See contracts.md, section 6: overlay/image and overlay/image/compressed."""

    config_type = OverlayConfig

    def __init__(
        self, values: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        super().__init__("overlay", values, namespace)

    def configure(self) -> None:
        self._case = load_case(self.config.case)
        self._raw = self.advertise(Image, topics.OVERLAY, qos.SENSOR_OUT)
        self._jpeg = self.advertise(CompressedImage, topics.OVERLAY_COMPRESSED, qos.SENSOR_OUT)
        self._looking: list[Any] = []
        self._age, self._trouble = StampAge(), ""
        self._forget()

    def activate(self) -> None:
        self.every(_LOOK_S, self._on_look)

    def deactivate(self) -> None:
        self._look_away()

    def _forget(self) -> None:
        self._images: OrderedDict[int, Any] = OrderedDict()
        self._info: CameraInfo | None = None
        self._status: DiagnosticArray | None = None
        self._poses: PoseArray | None = None
        self._wiped = True

    def _watched(self) -> bool:
        return bool(self._raw.get_subscription_count() or self._jpeg.get_subscription_count())

    def _on_look(self) -> None:
        """Subscribe while somebody looks; wipe what is stale."""
        if self._watched() and not self._looking:
            c = self.config
            self._looking = [
                self.create_subscription(kind, topic, callback, profile)
                for kind, topic, callback, profile in (
                    (image_type(c.colour_topic), c.colour_topic, self._on_image, qos.SENSOR_IN),
                    (CameraInfo, c.info_topic, self._on_info, qos.SENSOR_IN),
                    (PoseArray, topics.VERTEBRA_POSES, self._on_poses, qos.POSE),
                    (DiagnosticArray, topics.STATUS, self._on_status, qos.POSE),
                )
            ]
        elif not self._watched():
            self._look_away()
        if not self._wiped and self._age.silent_ms() > self.config.silence_ms:
            self._wiped = True
            self._draw(next(reversed(self._images)), None)

    def _look_away(self) -> None:
        for subscription in self._looking:
            self.destroy_subscription(subscription)
        self._looking = []
        self._forget()

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._images[stamp_to_ns(message.header.stamp)] = message
        while len(self._images) > _KEPT:
            self._images.popitem(last=False)
        self._join()

    def _on_poses(self, message: PoseArray) -> None:
        self._poses = message
        self._join()

    def _on_status(self, message: DiagnosticArray) -> None:
        self._status = message
        self._age.note(message.header.stamp)
        self._join()

    def _join(self) -> None:
        """Draw once image, status and poses of one stamp are there."""
        if self._status is None or self._poses is None or self._info is None:
            return
        stamp_ns = stamp_to_ns(self._status.header.stamp)
        if stamp_to_ns(self._poses.header.stamp) != stamp_ns or stamp_ns not in self._images:
            return
        result = result_from_messages(self._status, self._poses)
        self._status, self._wiped = None, False
        self._draw(stamp_ns, result)

    def _draw(self, stamp_ns: int, result: NavigationResult | None) -> None:
        message = self._images[stamp_ns]
        try:
            camera = decode_camera_info(self._info).raw_intrinsics()
            colour = decode_colour(message)
            picture = draw_overlay(colour, camera, self._case, result, stamp_ns=stamp_ns)
        except (ImageError, ValueError) as error:
            self._trouble = str(error)
            return
        self._trouble = ""
        frame_id = message.header.frame_id
        if self._raw.get_subscription_count():
            self._raw.publish(image_message(picture, "rgb8", stamp_ns, frame_id))
        if self._jpeg.get_subscription_count():
            quality = [cv2.IMWRITE_JPEG_QUALITY, self.config.jpeg_quality]
            done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)
            if done:
                self._jpeg.publish(jpeg_message(jpeg.tobytes(), stamp_ns, frame_id))

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        values = {"watched": bool(self._looking)}
        if self._trouble:
            return WARN, self._trouble, values
        return OK, "running" if self.active else "not active", values


def main() -> int:
    """`ros2 run rod_bending_ar overlay`."""
    return run_node(OverlayNode)


if __name__ == "__main__":
    sys.exit(main())
