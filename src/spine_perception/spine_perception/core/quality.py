# SPDX-License-Identifier: Apache-2.0
"""Is a frame fit to be looked at? Each refusal names what is wrong and what to do."""

from __future__ import annotations

import numpy as np

from spine_nav_common.core.types import Rejected, RgbdFrame

from . import kernels

NEAR_M, FAR_M = 0.15, 1.5
_BLACK, _LIT_SHARE, _SATURATED_VALUE, _SATURATED_SHARE = 16, 0.01, 250, 0.9
_MIN_DEPTH_SHARE = 0.02
_STEP = 4  # every fourth pixel judges a frame as well as all of them


def usable_depth(depth_m: np.ndarray) -> np.ndarray:
    """Mask, same shape, of depths that are finite and inside the working range."""
    with np.errstate(invalid="ignore"):
        return (depth_m > NEAR_M) & (depth_m < FAR_M)


def check_frame(frame: RgbdFrame) -> Rejected | None:
    """None if the frame can be segmented, else the refusal."""
    colour, depth, k = frame.colour, frame.depth_m, frame.intrinsics
    if colour.ndim != 3 or colour.shape[2] != 3:
        return Rejected(f"colour image has shape {colour.shape}; RGB (H, W, 3) is needed")
    if colour.shape[:2] != depth.shape:
        return Rejected(
            f"colour {colour.shape[1]}x{colour.shape[0]} and depth {depth.shape[1]}x"
            f"{depth.shape[0]} differ in size; record depth aligned to colour"
        )
    if (k.height, k.width) != depth.shape:
        return Rejected(
            f"camera_info is for {k.width}x{k.height}, the image is "
            f"{depth.shape[1]}x{depth.shape[0]}"
        )
    if not (np.isfinite([k.fx, k.fy, k.cx, k.cy]).all() and k.fx > 0 and k.fy > 0):
        return Rejected("camera_info has no focal length; calibrate the camera")
    few = np.ascontiguousarray(colour[::_STEP, ::_STEP])
    lit, saturated = kernels.exposure(few, _BLACK, _SATURATED_VALUE)
    if lit < _LIT_SHARE * few[..., 0].size:
        return Rejected("colour image is black; check light, lens cap and exposure")
    if saturated > _SATURATED_SHARE * few[..., 0].size:
        return Rejected("colour image is saturated; lower exposure or light")
    few_depth = depth[::_STEP, ::_STEP]
    if usable_depth(few_depth).mean() < _MIN_DEPTH_SHARE:
        given = few_depth[np.isfinite(few_depth) & (few_depth > 0)]
        if given.size and np.median(given) > 50.0:
            return Rejected(
                f"median depth is {np.median(given):.0f} m; it looks like millimetres sent as metres"
            )
        return Rejected(f"no depth between {NEAR_M} and {FAR_M} m; check the camera's distance")
    return None
