# SPDX-License-Identifier: Apache-2.0
"""The bone pixels of one frame, as the estimator wants them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np

from spine_nav_common.core.types import Rejected, RgbdFrame
from spine_perception.core.segmentation import Segmentation

EDGE_STEP_M = 4e-3
"""A depth step to a neighbour pixel above this marks a flying pixel or an occlusion edge."""
MIN_POINTS = 60


@dataclass(frozen=True)
class BonePixels:
    """M measured points on bone or on tissue that covers it thinly; float32.

    points_m (M, 3) camera frame; ray (M, 3) unit view directions; bone, clean (M,) probabilities;
    centre_vote_m (M, 3), NaN where the network voted nothing; area_m2 (M,) bone surface that one
    point stands for; count: bone pixels in the image before thinning out.
    """

    points_m: np.ndarray
    ray: np.ndarray
    bone: np.ndarray
    clean: np.ndarray
    centre_vote_m: np.ndarray
    area_m2: np.ndarray
    count: int


def observe(
    frame: RgbdFrame, seg: Segmentation, threshold: float, max_points: int
) -> BonePixels | Rejected:
    """Collect bone pixels at full resolution; deterministic thinning to `max_points`."""
    rows, cols = np.nonzero(seg.bone > threshold)
    if len(rows) == 0:
        return Rejected("no bone seen")
    k, height, width = seg.grid.scale, *frame.depth_m.shape
    u0 = max(0, int(seg.grid.u0 + k * (cols.min() - 1)))
    u1 = min(width, int(seg.grid.u0 + k * (cols.max() + 1)) + 2)
    v0 = max(0, int(seg.grid.v0 + k * (rows.min() - 1)))
    v1 = min(height, int(seg.grid.v0 + k * (rows.max() + 1)) + 2)
    if u1 - u0 < 3 or v1 - v0 < 3:
        return Rejected("bone only at the border of the image")
    depth = frame.depth_m[v0:v1, u0:u1]
    bone = _crop(seg.bone, seg, u0, v0, depth.shape)
    with np.errstate(invalid="ignore"):
        good = (bone > threshold) & (depth > 0.1) & (depth < 3.0)
    good &= ~_edges(depth)
    v, u = np.nonzero(good)
    count = len(v)
    if count < MIN_POINTS:
        return Rejected(f"only {count} bone pixels with depth")
    step = -(-count // max_points)
    v, u = v[::step], u[::step]
    clean = _crop(seg.clean, seg, u0, v0, depth.shape)[v, u]
    z = depth[v, u]
    cam = frame.intrinsics
    slope = np.column_stack(
        [(u + u0 - cam.cx) / cam.fx, (v + v0 - cam.cy) / cam.fy, np.ones(len(u))]
    ).astype(np.float32)
    j = np.clip(np.rint((u + u0 - seg.grid.u0) / k).astype(int), 0, seg.bone.shape[1] - 1)
    i = np.clip(np.rint((v + v0 - seg.grid.v0) / k).astype(int), 0, seg.bone.shape[0] - 1)
    return BonePixels(
        points_m=slope * z[:, None],
        ray=slope / np.linalg.norm(slope, axis=1, keepdims=True),
        bone=bone[v, u],
        clean=clean,
        centre_vote_m=seg.centre_m[i, j],
        area_m2=z * z * np.float32(step / (cam.fx * cam.fy)),
        count=count,
    )


def thin(pixels: BonePixels, max_points: int) -> BonePixels:
    """Fewer points that stand for the same bone surface."""
    step = -(-len(pixels.points_m) // max_points)
    arrays = {
        f.name: getattr(pixels, f.name)[::step] for f in fields(BonePixels) if f.name != "count"
    }
    arrays["area_m2"] = arrays["area_m2"] * np.float32(step)
    return BonePixels(**arrays, count=pixels.count)


def _crop(
    image: np.ndarray, seg: Segmentation, u0: int, v0: int, shape: tuple[int, int]
) -> np.ndarray:
    k = 1.0 / seg.grid.scale
    affine = np.array([[k, 0, (u0 - seg.grid.u0) * k], [0, k, (v0 - seg.grid.v0) * k]])
    return cv2.warpAffine(
        image, affine, (shape[1], shape[0]), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )


def _edges(depth: np.ndarray) -> np.ndarray:
    """True beside a depth step; holes are no step (a hole's rim is judged by its other sides)."""
    edge = np.zeros(depth.shape, bool)
    with np.errstate(invalid="ignore"):
        step = np.abs(np.diff(depth, axis=1)) > EDGE_STEP_M
        edge[:, 1:] |= step
        edge[:, :-1] |= step
        step = np.abs(np.diff(depth, axis=0)) > EDGE_STEP_M
        edge[1:] |= step
        edge[:-1] |= step
    return edge
