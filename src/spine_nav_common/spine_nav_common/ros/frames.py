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
from spine_nav_common.core.pairing import Pair, Pairer
from spine_nav_common.core.recorded_clock import lacks_clock
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


class ImagePairs:
    """Two image streams joined by their stamps, within half a period of the first.

    Args:
        names: of the streams, for counts.
        most_slop_ns: largest difference of stamps within a pair, however slow the stream.
    """

    def __init__(self, names: tuple[str, str], most_slop_ns: int | None = None) -> None:
        self._most_slop_ns = most_slop_ns
        self.pairer = Pairer(self._limited(_FIRST_SLOP_NS), names)
        self._stamps: deque[int] = deque(maxlen=_PERIODS)
        self.first_count = self.second_count = 0

    def _limited(self, slop_ns: int) -> int:
        return slop_ns if self._most_slop_ns is None else min(slop_ns, self._most_slop_ns)

    def first(self, message: Image | CompressedImage) -> None:
        """An image of the stream whose stamps rule."""
        self.first_count += 1
        stamp_ns = stamp_to_ns(message.header.stamp)
        self._stamps.append(stamp_ns)
        periods = np.diff(sorted(set(self._stamps)))
        if len(periods):
            self.pairer.slop_ns = self._limited(int(np.median(periods)) // 2)
        self.pairer.add_first(stamp_ns, message)

    def second(self, message: Image | CompressedImage) -> None:
        """An image of the other stream."""
        self.second_count += 1
        self.pairer.add_second(stamp_to_ns(message.header.stamp), message)

    def missing(self) -> str:
        """Which of the two streams lacks, or lacks a clock, in words; empty if none or both."""
        first, second = self.pairer.names
        if len(self._stamps) > 2 and lacks_clock(list(self._stamps)):
            return (
                f"every {first} image has the stamp {self._stamps[-1]}: let the camera's driver"
                " stamp its images with the time of exposure; no new ones"
            )
        if self.first_count and not self.second_count:
            return f"{first} images but no {second} images"
        if self.second_count and not self.first_count:
            return f"{second} images but no {first} images"
        return ""

    def counts(self) -> dict[str, int]:
        """For diagnostics."""
        first, second = self.pairer.names
        return {
            f"{first}_images": self.first_count,
            f"{second}_images": self.second_count,
            "late": self.pairer.late,
            "duplicated": self.pairer.duplicated,
        }


class FramePairer:
    """Joins colour and depth images as a recording's reader does and hands frames on in order.

    Late and doubled images are counted; a colour image whose depth does not come goes on without.
    """

    def __init__(self, on_frame: Callable[[RawFrame], None]) -> None:
        self._on_frame = on_frame
        self._pairs = ImagePairs(("colour", "depth"))
        self._info: CameraInfo | None = None
        self._ready: deque[Pair] = deque(maxlen=2)
        self.without_depth = 0

    def info(self, message: CameraInfo) -> None:
        """A camera_info; the newest frame that waited for the first one goes on."""
        self._info = message
        self._release()

    def colour(self, message: Image | CompressedImage) -> None:
        """A colour image."""
        self._pairs.first(message)
        self._release()

    def depth(self, message: Image | CompressedImage) -> None:
        """A depth image."""
        self._pairs.second(message)
        self._release()

    def missing(self) -> str:
        """What the frames lack, in words; empty if nothing is known to lack."""
        if self._pairs.first_count and self._info is None:
            return "no camera_info"
        return self._pairs.missing()

    def counts(self) -> dict[str, int]:
        """For diagnostics."""
        return {**self._pairs.counts(), "colour_without_depth": self.without_depth}

    def _release(self) -> None:
        self._ready.extend(self._pairs.pairer.ready())
        while self._ready and self._info is not None:
            pair = self._ready.popleft()
            self.without_depth += pair.second is None
            self._on_frame(RawFrame(pair.stamp_ns, pair.first, pair.second, self._info))
