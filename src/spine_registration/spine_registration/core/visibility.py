# SPDX-License-Identifier: Apache-2.0
"""What the depth image says where a pose expects to see a vertebra."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.types import Intrinsics

from . import frame_kernels
from .model import SpineModel

CELL_PX = 6
"""Cell of the self-occlusion buffer: a little coarser than the samples' spacing in the image."""
SELF_OCCLUSION_M = 6e-3
NEAR_M = 3.5e-3


@dataclass(frozen=True)
class LevelView:
    """Shares of a level's samples that face the camera unhidden by the spine itself.

    in_view: of all samples, inside the image. agree: measured depth lies at the surface.
    covered: something lies in front. contradicted: the camera looks through where bone should be.
    The last three are shares of the samples in view; the rest has no depth.
    """

    in_view: float
    agree: float
    covered: float
    contradicted: float


def view_levels(
    model: SpineModel,
    T: np.ndarray,
    depth_m: np.ndarray,
    intrinsics: Intrinsics,
    stride: int = 3,
) -> tuple[LevelView, ...]:
    """Compare the posed surface samples of every level with a depth image (H, W), metres."""
    c = intrinsics
    shares = frame_kernels.view_share(
        model.dorsal_m, model.dorsal_normal, np.ascontiguousarray(T),
        np.require(depth_m, np.float32, ("C", "W")), float(c.fx), float(c.fy), float(c.cx), float(c.cy), CELL_PX, SELF_OCCLUSION_M, NEAR_M,
        stride,
    )  # fmt: skip
    return tuple(LevelView(*row) for row in shares.tolist())
