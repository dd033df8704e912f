# SPDX-License-Identifier: Apache-2.0
"""RGB-D frames out of image messages: pairing as in a recording, decoding deferred to the worker."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from spine_nav_common.core.frames import FRAME_ID, rgbd_frame
from spine_nav_common.core.losses import StreamLosses
from spine_nav_common.core.pairing import Pair, Pairer
from spine_nav_common.core.recorded_clock import lacks_clock
from spine_nav_common.core.rectify import RgbdRectifier
from spine_nav_common.core.types import RgbdFrame

from .conversions import stamp_to_ns

_PERIODS = 16
_FIRST_SLOP_NS = 16_666_667  # half a frame at 30 Hz, until the period is known
_REMEDY = (
    "synchronise the camera's streams, or raise pair_tolerance_ms knowing that a hand-held camera"
    " moves 0.8 mm in 10 ms"
)


@dataclass(frozen=True)
class RawFrame:
    """Messages of one frame as they arrived; `depth` is None where none came; `arrived` is
    monotonic seconds; `epoch`: how often the stamps had gone back before."""

    stamp_ns: int
    colour: Image | CompressedImage
    depth: Image | CompressedImage | None
    info: CameraInfo
    arrived: float = field(default_factory=time.monotonic)
    epoch: int = 0

    @property
    def frame_id(self) -> str:
        """Optical frame of the colour image."""
        return self.colour.header.frame_id or FRAME_ID

    def decode(self, rectify: RgbdRectifier) -> RgbdFrame:
        """See core.frames.rgbd_frame."""
        return rgbd_frame(self.stamp_ns, self.colour, self.depth, self.info, rectify)


def image_type(topic: str) -> type:
    """CompressedImage for image_transport's compressed topics, else Image."""
    last = topic.rsplit("/", 1)[-1]
    return CompressedImage if last in ("compressed", "compressedDepth") else Image


class ImagePairs:
    """Two image streams joined by their stamps, within half a period of the first.

    Args:
        names: of the streams, for counts.
        tolerance_ns: largest difference of stamps within a pair.
        remedy: what to do about images that lie farther apart.
    """

    def __init__(self, names: tuple[str, str], tolerance_ns: int, remedy: str) -> None:
        self._tolerance_ns, self._remedy = tolerance_ns, remedy
        slop_ns = min(_FIRST_SLOP_NS, tolerance_ns)
        self.pairer = Pairer(slop_ns, names, follow_back=True)
        self._stamps: deque[int] = deque(maxlen=_PERIODS)
        self.first_count = self.second_count = 0
        self.losses = tuple(StreamLosses(name) for name in names)

    @property
    def apart_ms(self) -> float:
        """Median distance in ms of the newest first images to the second that is nearest."""
        apart = self.pairer.apart_ns
        return float(np.median(apart)) * 1e-6 if apart else 0.0

    def first(self, message: Image | CompressedImage) -> None:
        """An image of the stream whose stamps rule."""
        self.first_count += 1
        stamp_ns = stamp_to_ns(message.header.stamp)
        self.losses[0].image(stamp_ns, time.monotonic())
        self._stamps.append(stamp_ns)
        periods = np.diff(sorted(set(self._stamps)))
        if len(periods):
            self.pairer.slop_ns = min(int(np.median(periods)) // 2, self._tolerance_ns)
        self.pairer.add_first(stamp_ns, message)

    def second(self, message: Image | CompressedImage) -> None:
        """An image of the other stream."""
        self.second_count += 1
        stamp_ns = stamp_to_ns(message.header.stamp)
        self.losses[1].image(stamp_ns, time.monotonic())
        self.pairer.add_second(stamp_ns, message)

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
        if self.apart_ms * 1e6 > self._tolerance_ns:
            return (
                f"{first} and {second} images lie {self.apart_ms:.1f} ms apart, more than"
                f" {self._tolerance_ns * 1e-6:g} ms: {self._remedy}"
            )
        return ""

    def info(self, stream: int, message: CameraInfo) -> None:
        """The camera_info of the first (0) or second (1) stream."""
        self.losses[stream].info(stamp_to_ns(message.header.stamp), time.monotonic())

    def lost(self) -> str:
        """Which images are lost on the way, in words; empty if none are."""
        now = time.monotonic()
        return "; ".join(filter(None, (stream.told(now) for stream in self.losses)))

    def counts(self) -> dict[str, object]:
        """For diagnostics."""
        first, second = self.pairer.names
        return {
            f"{first}_images": self.first_count,
            f"{second}_images": self.second_count,
            "late": self.pairer.late,
            "duplicated": self.pairer.duplicated,
            "broken_stamps": self.pairer.broken,
            "pair_apart_ms": round(self.apart_ms, 1),
        }


class FramePairer:
    """Joins colour and depth images as a recording's reader does and hands frames on in order.

    Late and doubled images are counted; a colour image whose depth does not come goes on without.

    Args:
        on_frame: takes a frame.
        tolerance_ms: largest difference of stamps between colour and depth.
    """

    def __init__(self, on_frame: Callable[[RawFrame], None], tolerance_ms: float) -> None:
        self._on_frame = on_frame
        tolerance_ns = round(tolerance_ms * 1e6)
        self._pairs = ImagePairs(("colour", "depth"), tolerance_ns, _REMEDY)
        self._info: CameraInfo | None = None
        self._ready: deque[Pair] = deque(maxlen=2)
        self.without_depth = 0

    def info(self, message: CameraInfo) -> None:
        """A camera_info; the newest frame that waited for the first one goes on."""
        self._info = message
        self._pairs.info(0, message)
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

    def lost(self) -> str:
        """Which images are lost on the way, in words; empty if none are."""
        return self._pairs.lost()

    def counts(self) -> dict[str, object]:
        """For diagnostics."""
        return {**self._pairs.counts(), "colour_without_depth": self.without_depth}

    def _release(self) -> None:
        self._ready.extend(self._pairs.pairer.ready())
        while self._ready and self._info is not None:
            pair = self._ready.popleft()
            self.without_depth += pair.second is None
            self._on_frame(
                RawFrame(pair.stamp_ns, pair.first, pair.second, self._info, epoch=pair.epoch)
            )
