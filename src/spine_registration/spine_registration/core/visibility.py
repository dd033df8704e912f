# SPDX-License-Identifier: Apache-2.0
"""What the depth image says where a pose expects to see a vertebra."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.types import Intrinsics

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
    height, width = depth_m.shape
    p = np.einsum("lij,lnj->lni", T[:, :3, :3], model.dorsal_m[:, ::stride])
    p += T[:, None, :3, 3]
    n = np.einsum("lij,lnj->lni", T[:, :3, :3], model.dorsal_normal[:, ::stride])
    z = np.maximum(p[..., 2], 1e-3)
    u = np.rint(p[..., 0] / z * intrinsics.fx + intrinsics.cx).astype(int)
    v = np.rint(p[..., 1] / z * intrinsics.fy + intrinsics.cy).astype(int)
    facing = np.einsum("lni,lni->ln", n, p) < -0.2 * np.linalg.norm(p, axis=2)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (p[..., 2] > 0.05)
    cols = width // CELL_PX + 1
    cell = np.where(inside, (v // CELL_PX) * cols + u // CELL_PX, 0)
    front = np.full((height // CELL_PX + 1) * cols, np.inf)
    np.minimum.at(front, cell[inside], z[inside])
    seen = facing & inside & (z < front[cell] + SELF_OCCLUSION_M)
    measured = depth_m[np.where(inside, v, 0), np.where(inside, u, 0)]
    with np.errstate(invalid="ignore"):
        gap = measured - z
        agree = seen & (np.abs(gap) < NEAR_M)
        covered = seen & (gap <= -NEAR_M)
        behind = seen & (gap >= NEAR_M)
    views = []
    for k in range(len(model.levels)):
        total = max(int(seen[k].sum()), 1)
        views.append(
            LevelView(
                in_view=float(inside[k].mean()),
                agree=float(agree[k].sum() / total),
                covered=float(covered[k].sum() / total),
                contradicted=float(behind[k].sum() / total),
            )
        )
    return tuple(views)
