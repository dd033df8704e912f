# SPDX-License-Identifier: Apache-2.0
"""Stereo pairs out of image messages: pairing as in a recording, decoding left to the worker."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from spine_nav_common.core.images import CameraModel, ImageError, decode_camera_info
from spine_nav_common.core.pairing import STEREO_SLOP_NS, Pair
from spine_nav_common.core.rectify import StereoRig, stereo_rig
from spine_nav_common.core.types import StereoFrame

from .frames import ImagePairs

_FRAME_ID = "stereo_left_optical_frame"


class RigCache:
    """The rig of the camera_info that comes with every pair, computed again only when it changes.

    raw: images are still distorted and the rig rectifies them.
    """

    def __init__(self, raw: bool) -> None:
        self._raw = raw
        self._models: tuple[CameraModel, CameraModel] | None = None
        self._rig: StereoRig | None = None

    def __call__(self, left: CameraInfo, right: CameraInfo) -> StereoRig:
        """Raises ImageError: no usable pair of camera_info; says what to do."""
        models = decode_camera_info(left), decode_camera_info(right)
        known = self._models
        if (
            self._rig is None
            or known is None
            or not all(a.same_as(b) for a, b in zip(models, known, strict=True))
        ):
            try:
                self._rig, self._models = stereo_rig(*models, self._raw), models
            except ImageError as error:
                raise ImageError(
                    f"{error}; calibrate the pair and publish its camera_info"
                ) from error
        return self._rig


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
        return self.left.header.frame_id or _FRAME_ID

    def decode(self, rigs: RigCache) -> StereoFrame:
        """The pair as arrays, rectified. Raises ImageError: images or camera_info are unusable."""
        rig = rigs(self.left_info, self.right_info)
        left, right = rig.decode(self.left, self.right)
        return StereoFrame(
            self.stamp_ns, left, right, rig.intrinsics, rig.baseline_m, self.frame_id
        )


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
