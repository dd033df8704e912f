# SPDX-License-Identifier: Apache-2.0
"""Depth of a camera of its own brought to the colour camera's pixels.

A depth pixel is a small square that faces its camera: a colour pixel takes the nearest of the squares
that cover its centre. Squares of one surface that the parallax drew apart are joined, so that nothing
behind shows through; across an edge, or over a pixel without depth, nothing is filled in.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from .compiled import compiled
from .geometry import check_transform
from .images import CameraModel
from .types import Intrinsics, Rejected

_SAME_SURFACE = 0.01  # of the distance: 5 mm from pixel to pixel at 0.5 m is a slope of 80 degrees
_MOST_ROLL_DEG = 10.0  # squares are taken for upright in the colour image
_MOST_APART_M = 0.3  # more is another unit, or another camera
_SAME_PX = 2.0  # of focal length and centre: the same lens


def same_lens(depth: CameraModel, colour: CameraModel) -> bool:
    """Whether depth lies on the colour image's pixels, by its camera_info."""
    if (depth.width, depth.height) != (colour.width, colour.height):
        return False
    return bool(np.abs(depth.K - colour.K).max() <= _SAME_PX)


class OwnDepth:
    """Depth images of a camera of its own on a colour camera's pinhole; keeps its tables while the
    colour camera's model stays.

    Args:
        depth: the depth camera.
        T_colour_depth: (4, 4), metres.
    """

    def __init__(self, depth: CameraModel, T_colour_depth: np.ndarray) -> None:
        self.depth, self.T_colour_depth = depth, T_colour_depth
        pinhole = depth.raw_intrinsics()
        self._maps = depth.rectify_maps(pinhole) if depth.distorted else None
        self._align: DepthAligner | None = None

    def __call__(self, colour: CameraModel, depth_m: np.ndarray) -> np.ndarray:
        """(H, W) float32 metres on colour.raw_intrinsics(), NaN = none. Raises ValueError as
        `DepthAligner`."""
        to = colour.raw_intrinsics()
        if self._align is None or self._align.colour != to:
            self._align = DepthAligner(self.depth.raw_intrinsics(), to, self.T_colour_depth)
        if self._maps is not None and depth_m.shape == self._maps[0].shape:
            depth_m = cv2.remap(
                depth_m,
                *self._maps,
                cv2.INTER_NEAREST,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=float("nan"),
            )
        return self._align(depth_m)

    def told(self) -> str:
        """What is done, in words for the user."""
        if np.array_equal(self.T_colour_depth, np.eye(4)):
            return "depth lies on the colour camera's pixels without its lens, by its camera_info"
        x, y, z = 1e3 * self.T_colour_depth[:3, 3]
        return (
            f"depth ({self.depth.width}x{self.depth.height}) is of a camera of its own and is"
            f" aligned to colour with the driver's extrinsics ({x:.1f}, {y:.1f}, {z:.1f} mm)"
        )


def own_depth(
    depth: CameraModel,
    colour: CameraModel,
    frames: tuple[str, str],
    T_colour_depth: np.ndarray | Rejected,
) -> OwnDepth | Rejected:
    """How depth of a camera of its own is aligned, or why it cannot be.

    Args:
        depth, colour: of the two camera_infos. frames: frame_id of the depth and the colour image.
        T_colour_depth: (4, 4) between these frames, or why it is not known.
    """
    if isinstance(T_colour_depth, Rejected):
        return T_colour_depth
    if frames[0].lstrip("/") == frames[1].lstrip("/"):
        return Rejected(
            f"depth and colour state the same frame ({frames[0] or 'none'}) and differ in"
            " their camera_info: one of the two is wrong"
        )
    own = OwnDepth(depth, T_colour_depth)
    try:
        DepthAligner(depth.raw_intrinsics(), colour.raw_intrinsics(), T_colour_depth)
    except ValueError as error:
        return Rejected(str(error))
    return own


class DepthAligner:
    """Brings depth images of one camera to another's pixels.

    Args:
        depth, colour: pinhole cameras, without distortion.
        T_colour_depth: (4, 4), metres.

    Raises ValueError: the transform is not rigid, or none of two cameras that look the same way.
    """

    def __init__(self, depth: Intrinsics, colour: Intrinsics, T_colour_depth: np.ndarray) -> None:
        T = check_transform(T_colour_depth, "extrinsics of depth to colour")
        roll_deg = math.degrees(math.atan2(T[1, 0], T[0, 0]))
        if abs(roll_deg) > _MOST_ROLL_DEG or T[2, 2] < 0.5:
            raise ValueError(
                f"the depth camera is turned by {roll_deg:.0f} degrees against the colour camera:"
                " let the driver align depth to colour"
            )
        apart_m = float(np.linalg.norm(T[:3, 3]))
        if apart_m > _MOST_APART_M:
            raise ValueError(f"depth and colour camera are {apart_m:.3g} m apart: write metres")
        self.depth, self.colour = depth, colour
        K = np.array([[colour.fx, 0.0, colour.cx], [0.0, colour.fy, colour.cy], [0.0, 0.0, 1.0]])
        back = np.array(
            [
                [1.0 / depth.fx, 0.0, -depth.cx / depth.fx],
                [0.0, 1.0 / depth.fy, -depth.cy / depth.fy],
                [0.0, 0.0, 1.0],
            ]
        )
        # (u w, v w, w) = z H (i, j, 1) + t: the colour pixel of depth pixel (i, j) at z
        self._H = (K @ T[:3, :3] @ back).astype(np.float32)
        self._t = (K @ T[:3, 3]).astype(np.float32)

    def __call__(self, depth_m: np.ndarray) -> np.ndarray:
        """(H, W) float32 distance along the colour camera's axis, metres, NaN = none.

        Args:
            depth_m: (h, w) float32 metres along the depth camera's axis, NaN = none.

        Raises ValueError: the image is of another size than the depth camera's.
        """
        if depth_m.shape != (self.depth.height, self.depth.width):
            raise ValueError(
                f"depth image is {depth_m.shape[1]}x{depth_m.shape[0]}, its camera_info says"
                f" {self.depth.width}x{self.depth.height}"
            )
        out = np.full((self.colour.height, self.colour.width), np.inf, np.float32)
        _scatter(np.ascontiguousarray(depth_m, np.float32), self._H, self._t, out)
        _none_where_infinite(out)
        return out


@compiled
def _none_where_infinite(out: np.ndarray) -> None:
    flat = out.reshape(-1)
    for i in range(flat.size):
        flat[i] = np.float32(np.nan) if flat[i] == np.inf else flat[i]


@compiled
def _scatter(depth: np.ndarray, H: np.ndarray, t: np.ndarray, out: np.ndarray) -> None:
    """The nearest square for each pixel of `out`, which comes filled with infinity."""
    h, w = depth.shape
    height, width = out.shape
    left, right, far = np.empty(w, np.float32), np.empty(w, np.float32), np.empty(w, np.float32)
    top, bottom = np.empty(w, np.float32), np.full(w, np.nan, np.float32)
    columns, rows = np.empty((2, w), np.int32), np.empty((2, w), np.int32)
    for j in range(h):
        _squares(depth[j], depth[max(j - 1, 0)], j, H, t, left, right, top, bottom, far)
        _join(depth[j], left, right)
        _centres(left, far, width, columns[0])
        _centres(right, far, width, columns[1])
        _centres(top, far, height, rows[0])
        _centres(bottom, far, height, rows[1])
        for i in range(w):
            a, b = columns[0, i], columns[1, i]
            distance = far[i]
            if b - a == 1 or b - a == 2:  # without a loop, whose end nobody can foretell
                for row in range(rows[0, i], rows[1, i]):
                    first, last = out[row, a], out[row, b - 1]
                    out[row, a] = min(first, distance)
                    out[row, b - 1] = min(last, distance)
            else:
                for row in range(rows[0, i], rows[1, i]):
                    for column in range(a, b):
                        out[row, column] = min(out[row, column], distance)


@compiled
def _squares(
    depth: np.ndarray,
    above: np.ndarray,
    j: int,
    H: np.ndarray,
    t: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    top: np.ndarray,
    bottom: np.ndarray,
    far: np.ndarray,
) -> None:
    """Sides in pixels of colour of the squares of row j, and their distance; `bottom` comes as that of
    the row above, whose depth is `above`."""
    half, one, same = np.float32(0.5), np.float32(1.0), np.float32(_SAME_SURFACE)
    y = np.float32(j)
    h00, h10, h20, h11, h21 = H[0, 0], H[1, 0], H[2, 0], H[1, 1], H[2, 1]
    u0, v0, w0 = H[0, 1] * y + H[0, 2], h11 * y + H[1, 2], h21 * y + H[2, 2]
    tu, tv, tw = t[0], t[1], t[2]
    for i in range(depth.size):
        x, z = np.float32(i), depth[i]
        distance = (h20 * x + w0) * z + tw
        share = one / distance
        u = ((h00 * x + u0) * z + tu) * share
        v = ((h10 * x + v0) * z + tv) * share
        # half a pixel of depth
        part = half * z * share
        du, dv = (h00 - u * h20) * part, (h11 - v * h21) * part
        left[i], right[i] = u - du, u + du
        joined = abs(z - above[i]) < same * z and bottom[i] < v - dv
        top[i] = bottom[i] if joined else v - dv
        bottom[i], far[i] = v + dv, distance


@compiled
def _join(depth: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Left sides moved to where the square before, of the same surface, ends."""
    same = np.float32(_SAME_SURFACE)
    here, before, ends, begins = depth[1:], depth[:-1], right[:-1], left[1:]
    for i in range(here.size):
        z, end, begin = here[i], ends[i], begins[i]
        joined = (abs(z - before[i]) < same * z) & (end < begin)
        begins[i] = end if joined else begin


@compiled
def _centres(sides: np.ndarray, far: np.ndarray, size: int, out: np.ndarray) -> None:
    """The first pixel centre at or after each side, 0 to `size`; 0 where nothing is in front."""
    none, most = np.float32(0.0), np.float32(size)
    for i in range(sides.size):
        # clipped as a float: a number that is too large for an integer is no pixel
        side = sides[i] if (sides[i] > none) & (far[i] > none) else none
        side = min(most, side)
        whole = np.int32(side)
        out[i] = whole + np.int32(np.float32(whole) < side)
