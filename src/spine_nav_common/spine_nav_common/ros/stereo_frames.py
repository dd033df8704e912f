# SPDX-License-Identifier: Apache-2.0
"""Stereo pairs out of image messages: pairing as in a recording, decoding left to the worker."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from spine_nav_common.core.frames import STEREO_FRAME_ID, RigCache, stereo_frame
from spine_nav_common.core.pairing import STEREO_SLOP_NS, Pair
from spine_nav_common.core.types import StereoFrame

from .frames import ImagePairs


@dataclass(frozen=True)
class RawPair:
    """Messages of one pair as they arrived; `arrived` is monotonic seconds; `epoch`: how often
    the stamps had gone back before."""

    stamp_ns: int
    left: Image | CompressedImage
    right: Image | CompressedImage
    left_info: CameraInfo
    right_info: CameraInfo
    arrived: float = field(default_factory=time.monotonic)
    epoch: int = 0

    @property
    def frame_id(self) -> str:
        """Optical frame of the left image."""
        return self.left.header.frame_id or STEREO_FRAME_ID

    def decode(self, rigs: RigCache) -> StereoFrame:
        """The pair as arrays, rectified. Raises ImageError: images or camera_info are unusable."""
        infos = self.left_info, self.right_info
        return stereo_frame(self.stamp_ns, self.left, self.right, infos, rigs)


class StereoPairer:
    """Joins left and right images and hands pairs on in order; a single image is only counted."""

    def __init__(self, on_pair: Callable[[RawPair], None]) -> None:
        self._on_pair = on_pair
        self._pairs = ImagePairs(("left", "right"), STEREO_SLOP_NS, "synchronise the cameras")
        self._infos: dict[str, CameraInfo] = {}
        self._ready: deque[Pair] = deque(maxlen=2)
        self.pairs = self.unpaired = 0

    def left_info(self, message: CameraInfo) -> None:
        """The left camera_info."""
        self._infos["left"] = message
        self._pairs.info(0, message)
        self._release()

    def right_info(self, message: CameraInfo) -> None:
        """The right camera_info."""
        self._infos["right"] = message
        self._pairs.info(1, message)
        self._release()

    def left(self, message: Image | CompressedImage) -> None:
        """A left image."""
        self._pairs.first(message)
        self._release()

    def right(self, message: Image | CompressedImage) -> None:
        """A right image."""
        self._pairs.second(message)
        self._release()

    @property
    def heard(self) -> bool:
        """Whether any image has come."""
        return bool(self._pairs.first_count or self._pairs.second_count)

    def missing(self) -> str:
        """What the pairs lack, in words; empty if nothing is known to lack."""
        images = self._pairs
        if images.first_count and images.second_count:
            lacking = [eye for eye in ("left", "right") if eye not in self._infos]
            if lacking:
                return f"no camera_info of the {' and '.join(lacking)} camera"
            if self.unpaired > 1 and not self.pairs:
                return "left and right images differ in stamp: synchronise the cameras"
        return images.missing()

    def lost(self) -> str:
        """Which images are lost on the way, in words; empty if none are."""
        return self._pairs.lost()

    def counts(self) -> dict[str, object]:
        """For diagnostics."""
        return {**self._pairs.counts(), "left_without_right": self.unpaired}

    def _release(self) -> None:
        for pair in self._pairs.pairer.ready():
            if pair.second is None:
                self.unpaired += 1
            else:
                self._ready.append(pair)
        while self._ready and len(self._infos) == 2:
            pair = self._ready.popleft()
            self.pairs += 1
            self._on_pair(
                RawPair(
                    pair.stamp_ns,
                    pair.first,
                    pair.second,
                    self._infos["left"],
                    self._infos["right"],
                    epoch=pair.epoch,
                )
            )
