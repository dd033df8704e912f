# SPDX-License-Identifier: Apache-2.0
"""What one view of a flat board says of a depth camera: where the colour image says that the board is,
and where depth says it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from spine_nav_common.core.types import Intrinsics, Rejected, RgbdFrame

from .boards import BoardFinder, BoardPose, board_pose

CELLS = 40  # over the image's width: a cell is wider than the noise of a matching window
_LEAST_PIXELS = 0.6  # of a cell's: with fewer an edge may lie in it
_INSIDE_PX = 3  # of a 640 px wide image: so far from the rim of the corners


@dataclass(frozen=True)
class DepthView:
    """What one view of the board says; N cells of the image.

    Attributes:
        stamp_ns: of the frame.
        uv: (N, 2) middles of the cells, 0 to 1 over the image.
        depth_m, plane_m: (N,) as measured, and of the board.
        lever_m: (N, 6) how plane_m moves with the standard deviations of the board's pose.
        board: (N, 2) places on the board, -1 to 1 over the corners' extent.
        spread_m: (N,) deviation of the pixels of a cell. cosine: (N,) of the angle of view.
        valid: share of the board's pixels that have depth. rms_px: of the corners.
    """

    stamp_ns: int
    uv: np.ndarray
    depth_m: np.ndarray
    plane_m: np.ndarray
    lever_m: np.ndarray
    board: np.ndarray
    spread_m: np.ndarray
    cosine: np.ndarray
    valid: float
    rms_px: float

    @property
    def distance_m(self) -> float:
        """Of the board's middle."""
        return float(np.median(self.plane_m))


def look(frame: RgbdFrame, finder: BoardFinder) -> DepthView | Rejected:
    """What a frame says of the depth's bias; Rejected with what is wrong with the view."""
    found = finder.find(cv2.cvtColor(frame.colour, cv2.COLOR_RGB2GRAY))
    if isinstance(found, Rejected):
        return found
    pose = board_pose(found, frame.intrinsics)
    if isinstance(pose, Rejected):
        return pose
    k = frame.intrinsics
    side = k.width / CELLS
    mask = np.zeros((k.height, k.width), np.uint8)
    hull = cv2.convexHull(found.corners_px.astype(np.float32))
    cv2.fillConvexPoly(mask, np.round(hull).astype(np.int32), 1)
    reach = max(1, round(_INSIDE_PX * k.width / 640))
    inside = cv2.erode(mask, np.ones((2 * reach + 1,) * 2, np.uint8)) > 0
    v, u = np.nonzero(inside)
    z = frame.depth_m[v, u]
    known = np.isfinite(z) & (z > 0.0)
    if known.mean() < 0.2:
        return Rejected(
            f"depth has {100 * known.mean():.0f} % of the board's pixels: it is too near, too far, or"
            " shines"
        )
    plane = plane_depth(pose.vector, k, u + 0.0, v + 0.0)
    off = np.where(known, z - plane, np.nan)
    cell = (v // side).astype(int) * CELLS + (u // side).astype(int)
    order = np.argsort(cell, kind="stable")
    rows = []
    for of in np.split(order, np.flatnonzero(np.diff(cell[order])) + 1):
        good = of[known[of]]
        if len(good) < max(_LEAST_PIXELS * len(of), 0.5 * side**2):
            continue
        middle = np.median(off[good])
        spread = 1.4826 * np.median(np.abs(off[good] - middle))
        rows.append((u[good].mean(), v[good].mean(), middle, spread))
    if len(rows) < 12:
        return Rejected("depth has holes nearly everywhere on the board")
    cu, cv_, middle, spread = np.array(rows).T
    at = plane_depth(pose.vector, k, cu, cv_)
    points = np.column_stack([(cu - k.cx) / k.fx * at, (cv_ - k.cy) / k.fy * at, at])
    on = (points - pose.T_camera_board[:3, 3]) @ pose.T_camera_board[:3, :3]
    low, high = finder.spec.corners_m[:, :2].min(axis=0), finder.spec.corners_m[:, :2].max(axis=0)
    normal = pose.T_camera_board[:3, 2]
    cosine = np.abs(points @ normal) / np.linalg.norm(points, axis=1)
    return DepthView(
        frame.stamp_ns,
        np.column_stack([(cu + 0.5) / k.width, (cv_ + 0.5) / k.height]),
        at + middle, at, _lever(pose, k, cu, cv_),
        2.0 * (on[:, :2] - low) / (high - low) - 1.0,
        spread, cosine, float(known.mean()), pose.rms_px,
    )  # fmt: skip


def plane_depth(vector: np.ndarray, k: Intrinsics, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(N,) depth in metres of a board of pose `vector` (6,) at pixels."""
    R = cv2.Rodrigues(vector[:3])[0]
    ray = np.column_stack([(u - k.cx) / k.fx, (v - k.cy) / k.fy, np.ones_like(u)])
    found: np.ndarray = (R[:, 2] @ vector[3:]) / (ray @ R[:, 2])
    return found


def _lever(pose: BoardPose, k: Intrinsics, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    root = np.linalg.cholesky(pose.covariance)
    step = 1e-3
    return np.column_stack(
        [
            (
                plane_depth(pose.vector + step * column, k, u, v)
                - plane_depth(pose.vector - step * column, k, u, v)
            )
            / (2 * step)
            for column in root.T
        ]
    )
