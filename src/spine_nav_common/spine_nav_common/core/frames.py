# SPDX-License-Identifier: Apache-2.0
"""An RGB-D frame out of the messages of one moment, whichever library made them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .images import decode_camera_info, decode_colour, decode_depth
from .rectify import RgbdRectifier
from .types import RgbdFrame

FRAME_ID = "camera_color_optical_frame"


def rgbd_frame(
    stamp_ns: int, colour: Any, depth: Any | None, info: Any, rectify: RgbdRectifier
) -> RgbdFrame:
    """The frame as arrays, without lens distortion; no depth image means all NaN.

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
    if model.distorted:
        pixels, depth_m = rectify(model, pixels, depth_m)
    frame_id = colour.header.frame_id or FRAME_ID
    return RgbdFrame(stamp_ns, pixels, depth_m, model.raw_intrinsics(), frame_id)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
