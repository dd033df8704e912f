# SPDX-License-Identifier: Apache-2.0
"""RGB-D frames out of image messages: pairing as in a recording, decoding deferred to the worker."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from spine_nav_common.core.images import decode_camera_info, decode_colour, decode_depth
from spine_nav_common.core.pairing import Pairer
from spine_nav_common.core.rectify import RgbdRectifier
from spine_nav_common.core.types import RgbdFrame

from .conversions import stamp_to_ns

_PERIODS = 16
_FIRST_SLOP_NS = 16_666_667  # half a frame at 30 Hz, until the period is known
_FRAME_ID = "camera_color_optical_frame"


@dataclass(frozen=True)
class RawFrame:
    """Messages of one frame as they arrived; `depth` is None where none came; `arrived` is
    monotonic seconds."""

    stamp_ns: int
    colour: Image | CompressedImage
    depth: Image | CompressedImage | None
    info: CameraInfo
    arrived: float = field(default_factory=time.monotonic)

    @property
    def frame_id(self) -> str:
        """Optical frame of the colour image."""
        return self.colour.header.frame_id or _FRAME_ID

    def decode(self, rectify: RgbdRectifier) -> RgbdFrame:
        """The frame as arrays, without lens distortion; no depth image means all NaN.

        Raises ValueError: an image or camera_info that cannot be used, sizes that differ.
        """
        model = decode_camera_info(self.info)
        colour = decode_colour(self.colour)
        shape = (model.height, model.width)
        if colour.shape[:2] != shape:
            raise ValueError(
                f"colour is {_size(colour)} but its camera_info says {shape[1]}x{shape[0]}; "
                "send the camera_info of this stream"
            )
        depth_m = np.full(shape, np.nan, np.float32)
        if self.depth is not None:
            depth_m = decode_depth(self.depth)
        if depth_m.shape != shape:
            raise ValueError(
                f"depth is {_size(depth_m)} but colour is {_size(colour)}; align depth to colour"
            )
        if model.distorted:
            colour, depth_m = rectify(model, colour, depth_m)
        camera = model.raw_intrinsics()
        return RgbdFrame(self.stamp_ns, colour, depth_m, camera, self.frame_id)


def image_type(topic: str) -> type:
    """CompressedImage for image_transport's compressed topics, else Image."""
    last = topic.rsplit("/", 1)[-1]
    return CompressedImage if last in ("compressed", "compressedDepth") else Image


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


class FramePairer:
    """Joins colour and depth images as a recording's reader does and hands frames on in order.

    Late and doubled images are counted; a colour image whose depth does not come goes on without.
    """

    def __init__(self, on_frame: Callable[[RawFrame], None]) -> None:
        self._on_frame = on_frame
        self._pairer = Pairer(_FIRST_SLOP_NS)
        self._info: CameraInfo | None = None
        self._stamps: deque[int] = deque(maxlen=_PERIODS)
        self._ready: deque = deque(maxlen=2)
        self.colour_count = self.depth_count = self.without_depth = 0

    def info(self, message: CameraInfo) -> None:
        """A camera_info; the newest frame that waited for the first one goes on."""
        self._info = message
        self._release()

    def colour(self, message: Image | CompressedImage) -> None:
        """A colour image."""
        self.colour_count += 1
        stamp_ns = stamp_to_ns(message.header.stamp)
        self._stamps.append(stamp_ns)
        periods = np.diff(sorted(set(self._stamps)))
        if len(periods):
            self._pairer.slop_ns = int(np.median(periods)) // 2
        self._pairer.add_first(stamp_ns, message)
        self._release()

    def depth(self, message: Image | CompressedImage) -> None:
        """A depth image."""
        self.depth_count += 1
        self._pairer.add_second(stamp_to_ns(message.header.stamp), message)
        self._release()

    def missing(self) -> str:
        """What the frames lack, in words; empty if nothing is known to lack."""
        if self.colour_count and self._info is None:
            return "no camera_info"
        if self.colour_count and not self.depth_count:
            return "colour images but no depth images"
        if self.depth_count and not self.colour_count:
            return "depth images but no colour images"
        return ""

    def counts(self) -> dict[str, int]:
        """For diagnostics."""
        p = self._pairer
        return {
            "colour_images": self.colour_count,
            "depth_images": self.depth_count,
            "colour_without_depth": self.without_depth,
            "late": p.late,
            "duplicated": p.duplicated,
        }

    def _release(self) -> None:
        self._ready.extend(self._pairer.ready())
        while self._ready and self._info is not None:
            pair = self._ready.popleft()
            self.without_depth += pair.second is None
            self._on_frame(RawFrame(pair.stamp_ns, pair.first, pair.second, self._info))
