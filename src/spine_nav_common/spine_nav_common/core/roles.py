# SPDX-License-Identifier: Apache-2.0
"""What a camera's topics are for, and the names under which each is looked for."""

from __future__ import annotations

TRANSPORTS = ("", "/compressed", "/compressedDepth")
_DEPTH_TRANSPORTS = ("", "/compressedDepth", "/compressed")
_COLOUR = ("/camera/camera/color/image_raw", "/camera/camera/color/image_rect_raw")
# role: the names under which a topic is looked for, in this order; the first is canonical
ROLES = {
    "colour": (*_COLOUR, *(f"{name}/compressed" for name in _COLOUR)),
    "colour info": ("/camera/camera/color/camera_info",),
    "depth": tuple(
        f"/camera/camera/aligned_depth_to_color/image_raw{t}" for t in _DEPTH_TRANSPORTS
    ),
    "depth info": ("/camera/camera/aligned_depth_to_color/camera_info",),
    # looked for where there is no aligned depth: it is aligned here
    "own depth": tuple(f"/camera/camera/depth/image_rect_raw{t}" for t in _DEPTH_TRANSPORTS),
    "own depth info": ("/camera/camera/depth/camera_info",),
    **{
        eye: tuple(
            f"/stereo/{eye}/{name}{transport}"
            for name in ("image_rect", "image_rect_color", "image_raw")
            for transport in ("", "/compressed")
        )
        for eye in ("left", "right")
    },
    "left info": ("/stereo/left/camera_info",),
    "right info": ("/stereo/right/camera_info",),
}
# scene: what it takes, each with what does as well
SCENE_ROLES: dict[str, tuple[tuple[str, ...], ...]] = {
    "rgbd": (("colour",), ("colour info",), ("depth", "own depth")),
    "stereo": (("left",), ("left info",), ("right",), ("right info",)),
}
