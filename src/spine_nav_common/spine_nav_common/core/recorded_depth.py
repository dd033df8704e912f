# SPDX-License-Identifier: Apache-2.0
"""A recording's depth topic: aligned to colour by the driver, or of a camera of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .align import OwnDepth, own_depth, same_lens
from .errors import RecordingError
from .images import CameraModel, decode_colour, decode_depth
from .recorded_messages import RecordedMessages
from .static_frames import StaticFrames, StaticTransform
from .types import Rejected

_SAME_PLACE_M = 1e-3
_REMEDY = (
    "record aligned_depth_to_color (realsense-ros: align_depth.enable:=true), or both camera_infos and"
    " /tf_static, or give the transform between the two cameras with --calibration FILE"
)


@dataclass(frozen=True)
class DepthSource:
    """topic: of the depth images. shape: (h, w) that they have. own: how they are brought to colour,
    None = they lie on the colour image's pixels."""

    topic: str
    shape: tuple[int, int]
    own: OwnDepth | None = None


def find_depth(
    held: RecordedMessages, model: CameraModel, colour: str, transforms: Iterable[StaticTransform]
) -> DepthSource:
    """The depth of a recording, checked by its first images.

    Args:
        model: of the colour camera. colour: topic of its images.
        transforms: between the cameras' frames, of the recording and of calibration files.

    Raises RecordingError: sizes that differ from camera_info's, or depth of another camera that cannot
    be aligned.
    """
    size = (model.height, model.width)
    shape = held.probe(colour, decode_colour)[0].shape[:2]
    if shape != size:
        raise RecordingError(
            held.path,
            colour,
            f"images are {shape[1]}x{shape[0]}, camera_info says {size[1]}x{size[0]}",
            "record image and camera_info of the same mode",
        )
    role = (
        "depth" if held.find("depth") is not None or held.find("own depth") is None else "own depth"
    )
    depth = held.topic(role)
    shape = held.probe(depth, decode_depth)[0].shape[:2]
    sizes = f"depth is {shape[1]}x{shape[0]} and colour {size[1]}x{size[0]}"
    frames = held.frame_id(depth), held.frame_id(colour)
    T = StaticFrames(transforms).lookup(frames[1], frames[0])
    if held.find(f"{role} info") is None:
        apart = not isinstance(T, Rejected) and np.linalg.norm(T[:3, 3]) > _SAME_PLACE_M
        if role == "own depth" or shape != size or apart:
            raise RecordingError(
                held.path,
                depth,
                f"{sizes}, and not aligned: its camera_info was not recorded",
                _REMEDY,
            )
        return DepthSource(depth, size)
    info = held.camera_info(f"{role} info")
    if role == "depth" and shape == size and same_lens(info, model):
        # depthai-ros aligns to the colour camera without its lens
        pinhole = model.distorted and not info.distorted
        return DepthSource(depth, size, OwnDepth(info, np.eye(4)) if pinhole else None)
    own = own_depth(info, model, frames, T)
    if isinstance(own, Rejected):
        raise RecordingError(
            held.path,
            depth,
            f"{sizes}, of a camera of its own: not aligned, and {own.reason}",
            _REMEDY,
        )
    if shape != (info.height, info.width):
        raise RecordingError(
            held.path,
            depth,
            f"depth is {shape[1]}x{shape[0]}, its camera_info says {info.width}x{info.height}",
            "record image and camera_info of the same mode",
        )
    return DepthSource(depth, (info.height, info.width), own)
