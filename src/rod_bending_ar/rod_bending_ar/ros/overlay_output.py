# SPDX-License-Identifier: Apache-2.0
"""What the overlay publishes beside its picture: each form is made only while somebody listens to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from visualization_msgs.msg import ImageMarker, MarkerArray

from rod_bending_ar.core.paint import Stroke
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import header, image_message, jpeg_message

from .overlay_marks import stroke_messages


@dataclass(frozen=True)
class Wanted:
    """Which forms somebody listens to."""

    markers: bool
    strokes: bool
    eye: bool
    eye_jpeg: bool


@dataclass(frozen=True)
class Beside:
    """One moment in the forms that were wanted; None: nobody wanted it. eye (H, W, 3) uint8 RGB, and
    as JPEG."""

    markers: MarkerArray | None = None
    strokes: tuple[Stroke, ...] | None = None
    eye: np.ndarray | None = None
    eye_jpeg: bytes | None = None


class BesideOutput:
    """The publishers. Of the executor's thread, but `wanted`."""

    def __init__(self, advertise: Callable[..., Any]) -> None:
        self._markers = advertise(MarkerArray, topics.OVERLAY_MARKERS, qos.POSE)
        self._strokes = advertise(ImageMarker, topics.OVERLAY_STROKES, qos.RESULT)
        self._eye = advertise(Image, topics.BULLS_EYE, qos.SENSOR_OUT)
        self._eye_jpeg = advertise(CompressedImage, topics.BULLS_EYE_COMPRESSED, qos.SENSOR_OUT)
        self._before = 0

    def wanted(self) -> Wanted:
        """As of now."""
        publishers = (self._markers, self._strokes, self._eye, self._eye_jpeg)
        return Wanted(*(bool(p.get_subscription_count()) for p in publishers))

    def publish(self, beside: Beside, stamp_ns: int, frame_id: str) -> None:
        """All forms of one moment, stamped as its image."""
        if beside.markers is not None:
            self._markers.publish(beside.markers)
        if beside.eye is not None:
            self._eye.publish(image_message(beside.eye, "rgb8", stamp_ns, frame_id))
        if beside.eye_jpeg is not None:
            self._eye_jpeg.publish(jpeg_message(beside.eye_jpeg, stamp_ns, frame_id))
        if beside.strokes is not None:
            messages = stroke_messages(beside.strokes, header(stamp_ns, frame_id), self._before)
            self._before = sum(m.action == ImageMarker.ADD for m in messages)
            for message in messages:
                self._strokes.publish(message)
