# SPDX-License-Identifier: Apache-2.0
"""An RGB-D frame or a stereo pair out of the messages of one moment, whichever library made them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .images import CameraModel, ImageError, decode_camera_info, decode_colour, decode_depth
from .rectify import RgbdRectifier, StereoRig, stereo_rig
from .types import RgbdFrame, StereoFrame

FRAME_ID = "camera_color_optical_frame"
STEREO_FRAME_ID = "stereo_left_optical_frame"


def rgbd_frame(
    stamp_ns: int, colour: Any, depth: Any | None, info: Any, rectify: RgbdRectifier
) -> RgbdFrame:
    """The frame as arrays, without lens distortion and measured bias; no depth image means all NaN.

    Args:
        stamp_ns: of the frame. colour, depth: Image or CompressedImage messages. info: CameraInfo.
        rectify: keeps its tables from one frame to the next.

    Raises ValueError: an image or camera_info that cannot be used, sizes that differ.
    """
    model = decode_camera_info(info)
    pixels = decode_colour(colour)
    shape = (model.height, model.width)
    if pixels.shape[:2] != shape:
        raise ValueError(
            f"colour is {_size(pixels)} but its camera_info says {shape[1]}x{shape[0]}; "
            "send the camera_info of this stream"
        )
    depth_m = np.full(shape, np.nan, np.float32)
    if depth is not None:
        depth_m = decode_depth(depth)
    if depth_m.shape != shape:
        raise ValueError(
            f"depth is {_size(depth_m)} but colour is {_size(pixels)}; align depth to colour"
        )
    pixels, depth_m = rectify(model, pixels, depth_m)
    frame_id = colour.header.frame_id or FRAME_ID
    return RgbdFrame(stamp_ns, pixels, depth_m, model.raw_intrinsics(), frame_id)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


class RigCache:
    """The rig of the camera_info that comes with every pair, computed again only when it changes.

    raw: images are still distorted and the rig rectifies them.
    """

    def __init__(self, raw: bool) -> None:
        self._raw = raw
        self._models: tuple[CameraModel, CameraModel] | None = None
        self._rig: StereoRig | None = None

    def __call__(self, left: Any, right: Any) -> StereoRig:
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


def stereo_frame(
    stamp_ns: int, left: Any, right: Any, infos: tuple[Any, Any], rigs: RigCache
) -> StereoFrame:
    """The pair as arrays, rectified.

    Args:
        stamp_ns: of the pair. left, right: Image or CompressedImage messages.
        infos: CameraInfo of the left and the right camera.
        rigs: keeps its tables from one pair to the next.

    Raises ImageError: images or camera_info are unusable.
    """
    rig = rigs(*infos)
    pixels = rig.decode(left, right)
    frame_id = left.header.frame_id or STEREO_FRAME_ID
    return StereoFrame(stamp_ns, *pixels, rig.intrinsics, rig.baseline_m, frame_id)
