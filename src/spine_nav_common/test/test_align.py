# SPDX-License-Identifier: Apache-2.0
"""Depth of another camera on the colour camera's pixels: against a reference that asks every depth
pixel for every colour pixel, and against a scene whose surfaces are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spine_nav_common.core.align import DepthAligner
from spine_nav_common.core.geometry import exp_so3, transform, transform_points
from spine_nav_common.core.types import Intrinsics

DEPTH = Intrinsics(60, 44, 52.0, 53.0, 29.3, 21.8)
COLOUR = Intrinsics(88, 66, 79.0, 80.0, 43.1, 33.4)
T = transform(exp_so3(np.array([0.01, -0.02, 0.03])), np.array([0.02, -0.004, 0.003]))


def surfaces(seed: int) -> np.ndarray:
    """A slope with noise, a nearer block and holes."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[: DEPTH.height, : DEPTH.width]
    z = 0.5 + 0.002 * u + 0.001 * v + rng.normal(0.0, 0.001, u.shape)
    z[10:25, 20:35] -= 0.15
    z[rng.random(z.shape) < 0.05] = np.nan
    z[30:36, 8:16] = np.nan
    return z.astype(np.float32)


def project(i: float, j: float, z: float) -> tuple[float, float, float]:
    """(u, v, distance) of a place of the depth image in the colour image, as geometry has it."""
    ray = np.array([(i - DEPTH.cx) / DEPTH.fx, (j - DEPTH.cy) / DEPTH.fy, 1.0])
    x, y, w = transform_points(T, z * ray)
    return COLOUR.fx * x / w + COLOUR.cx, COLOUR.fy * y / w + COLOUR.cy, w


def reference(depth_m: np.ndarray, grow: float) -> np.ndarray:
    """Every depth pixel's square, grown by `grow` colour pixels, asked of every colour pixel."""
    out = np.full((COLOUR.height, COLOUR.width), np.inf)
    v, u = np.mgrid[: COLOUR.height, : COLOUR.width]

    def sides(j: int, i: int) -> tuple[float, float, float, float]:
        z = depth_m[j, i]
        return (project(i - 0.5, j, z)[0], project(i + 0.5, j, z)[0],
                project(i, j - 0.5, z)[1], project(i, j + 0.5, z)[1])  # fmt: skip

    def one_surface(a: float, b: float) -> bool:
        return bool(abs(a - b) < 0.01 * b)

    for j, i in np.argwhere(np.isfinite(depth_m)):
        left, right, top, bottom = sides(j, i)
        if i and one_surface(depth_m[j, i - 1], depth_m[j, i]):
            left = min(left, sides(j, i - 1)[1])
        if j and one_surface(depth_m[j - 1, i], depth_m[j, i]):
            top = min(top, sides(j - 1, i)[3])
        inside = (u >= left - grow) & (u < right + grow) & (v >= top - grow) & (v < bottom + grow)
        out[inside] = np.minimum(out[inside], project(i, j, depth_m[j, i])[2])
    out[np.isinf(out)] = np.nan
    return out


@pytest.mark.parametrize("seed", range(3))
def test_every_colour_pixel_has_the_nearest_square_that_covers_it(seed):
    depth_m = surfaces(seed)
    got = DepthAligner(DEPTH, COLOUR, T)(depth_m)
    assert got.dtype == np.float32 and got.shape == (COLOUR.height, COLOUR.width)
    less, more = reference(depth_m, -2e-3), reference(depth_m, 2e-3)
    sure = np.isclose(less, more, atol=1e-6, equal_nan=True)  # a side on a centre may go either way
    assert sure.mean() > 0.95
    np.testing.assert_allclose(got[sure], less[sure], atol=1e-5)
    assert 0.4 < np.isfinite(got).mean() < 0.95


# A wall at 0.6 m and a block at 0.4 m before it, seen by two cameras side by side.
SIDE = transform(np.eye(3), np.array([0.03, 0.0, 0.0]))
WALL_M, BLOCK_M, BLOCK_X_M, BLOCK_Y_M = 0.6, 0.4, (-0.05, 0.03), (-0.04, 0.05)
D848, C1280 = Intrinsics(848, 480, 610, 610, 424, 240), Intrinsics(1280, 720, 920, 920, 640, 360)


def wall_and_block(k: Intrinsics, x_m: float) -> np.ndarray:
    """Exact depth of a camera that stands at x_m, (h, w)."""
    v, u = np.mgrid[: k.height, : k.width]
    x, y = (u - k.cx) / k.fx * BLOCK_M + x_m, (v - k.cy) / k.fy * BLOCK_M
    on = (x > BLOCK_X_M[0]) & (x < BLOCK_X_M[1]) & (y > BLOCK_Y_M[0]) & (y < BLOCK_Y_M[1])
    return np.where(on, BLOCK_M, WALL_M).astype(np.float32)


def test_a_block_hides_the_wall_and_what_one_camera_alone_sees_stays_empty():
    # a depth point at x is at x + 0.03 for the colour camera: that one stands 0.03 to the left
    depth_m = wall_and_block(D848, 0.0)
    got = DepthAligner(D848, C1280, SIDE)(depth_m)
    truth = wall_and_block(C1280, -0.03)
    v, u = np.mgrid[: C1280.height, : C1280.width]
    x_wall = (u - C1280.cx) / C1280.fx * WALL_M - 0.03
    # the wall is hidden from the depth camera behind the block's shadow, and outside of its image
    reach = x_wall * BLOCK_M / WALL_M
    y = (v - C1280.cy) / C1280.fy * BLOCK_M
    shadow = (
        (reach > BLOCK_X_M[0]) & (reach < BLOCK_X_M[1]) & (y > BLOCK_Y_M[0]) & (y < BLOCK_Y_M[1])
    )
    i = x_wall / WALL_M * D848.fx + D848.cx
    j = (v - C1280.cy) / C1280.fy * D848.fy + D848.cy
    outside = (i < -0.5) | (i > D848.width - 0.5) | (j < -0.5) | (j > D848.height - 0.5)
    expected = np.where((truth == WALL_M) & (shadow | outside), np.nan, truth)
    wrong = ~np.isclose(got, expected, atol=1e-5, equal_nan=True)
    # half a depth pixel on either side of an edge: 0.75 colour pixels, twice (edge and shadow)
    kinds, around = np.nan_to_num(expected), np.ones((5, 5), np.uint8)
    border = cv2.dilate(kinds, around) != cv2.erode(kinds, around)
    border[:, [0, -1]] = border[[0, -1]] = True
    assert np.isnan(expected).mean() > 0.03 and (expected == BLOCK_M).mean() > 0.03
    assert not (wrong & ~border).any()


def test_the_distance_is_the_colour_cameras():
    back = transform(np.eye(3), np.array([0.0, 0.0, 0.01]))
    got = DepthAligner(D848, D848, back)(np.full((480, 848), 0.5, np.float32))
    assert got[240, 424] == pytest.approx(0.51)


def test_a_hole_of_one_pixel_stays_a_hole():
    depth_m = np.full((480, 848), 0.5, np.float32)
    depth_m[200, 300] = np.nan
    got = DepthAligner(D848, D848, np.eye(4))(depth_m)
    assert np.isnan(got[200, 300]) and np.isnan(got).sum() == 1


def test_the_same_camera_changes_nothing():
    rng = np.random.default_rng(0)
    depth_m = rng.uniform(0.3, 0.9, (480, 848)).astype(np.float32)
    depth_m[rng.random(depth_m.shape) < 0.1] = np.nan
    got = DepthAligner(D848, D848, np.eye(4))(depth_m)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(depth_m))
    np.testing.assert_allclose(got, depth_m, rtol=1e-6)


def test_a_slope_has_no_gaps_through_which_the_wall_would_show():
    _, u = np.mgrid[:480, :848]
    slope = np.where((u > 100) & (u < 700), 0.4 + 0.0004 * (700 - u), 0.9).astype(np.float32)
    T_far = transform(np.eye(3), np.array([0.05, 0.0, 0.0]))
    got = DepthAligner(D848, C1280, T_far)(slope)
    row = got[360]
    columns = np.flatnonzero(row < 0.7)
    inside = row[columns[0] : columns[-1] + 1]
    assert np.isfinite(inside).all() and (inside < 0.7).all()


@pytest.mark.parametrize(
    ("T_colour_depth", "words"),
    [
        (transform(exp_so3(np.array([0.0, 0.0, np.pi / 2])), np.zeros(3)), "turned by 90"),
        (transform(exp_so3(np.array([0.0, np.pi, 0.0])), np.zeros(3)), "turned"),
        (transform(np.eye(3), np.array([15.0, 0.0, 0.0])), "metres"),
        (2.0 * np.eye(4), "rigid|rotation|extrinsics"),
        (np.full((4, 4), np.nan), "extrinsics"),
    ],
)
def test_extrinsics_of_no_rgbd_camera_are_refused(T_colour_depth, words):
    with pytest.raises(ValueError, match=words):
        DepthAligner(D848, C1280, T_colour_depth)


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="640x480.*848x480"):
        DepthAligner(D848, C1280, np.eye(4))(np.zeros((480, 640), np.float32))
