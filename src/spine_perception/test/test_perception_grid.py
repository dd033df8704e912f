# SPDX-License-Identifier: Apache-2.0
"""The metric grid and the features on it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from spine_nav_common.core.types import Intrinsics
from spine_perception.core import features as ft
from spine_perception.core.grid import (
    GRID_SIZE,
    PITCH_M,
    camera_points,
    centred_grid,
    covering_grid,
    pixel_maps,
    sample_colour,
    sample_depth,
)

K = Intrinsics(640, 480, 610.0, 606.0, 318.0, 243.0)
N = GRID_SIZE


def test_a_centred_grid_has_its_pitch_at_its_depth_and_its_middle_at_the_centre():
    grid = centred_grid(K, (300.0, 200.0), 0.5)
    depth = np.full((480, 640), 0.5, np.float32)
    sampled = sample_depth(depth, grid.affine(), N)
    points, _, _ = camera_points(sampled, grid.affine(), K)
    steps = np.diff(points[N // 2, :, 0])
    assert np.nanmedian(steps) == pytest.approx(PITCH_M, rel=0.01)
    u, v = pixel_maps(grid.affine(), N)
    assert (u[0, 0] + u[-1, -1]) / 2 == pytest.approx(300.0, abs=1e-3)
    assert (v[0, 0] + v[-1, -1]) / 2 == pytest.approx(200.0, abs=1e-3)


def test_the_covering_grid_covers_the_image():
    u, v = pixel_maps(covering_grid(K).affine(), N)
    assert u.min() <= 0.0
    assert u.max() >= 639.0
    assert v.min() <= 0.0
    assert v.max() >= 479.0


def test_depth_outside_the_range_and_the_image_is_none():
    depth = np.full((480, 640), 0.5, np.float32)
    depth[200:210] = np.nan
    depth[210:220] = np.inf
    depth[220:230] = 0.0
    depth[230:240] = -1.0
    sampled = sample_depth(depth, covering_grid(K).affine(), N)
    _, v = pixel_maps(covering_grid(K).affine(), N)
    assert np.isnan(sampled[(v > 203) & (v < 236)]).all()
    assert np.isnan(sampled[(v < -3) | (v > 483)]).all()
    assert np.allclose(sampled[np.isfinite(sampled)], 0.5)


def test_averaging_lowers_noise_but_invents_no_points_at_a_step():
    rng = np.random.default_rng(0)
    depth = np.full((480, 640), 0.5, np.float32)
    depth[:, 320:] = 0.55
    noisy = depth + rng.normal(0, 0.001, depth.shape).astype(np.float32)
    sampled = sample_depth(noisy, centred_grid(K, (320, 240), 0.5).affine(), N)
    near = sampled[sampled < 0.525]
    assert near.std() < 0.0007
    assert not ((sampled > 0.51) & (sampled < 0.54)).any()


def test_colour_is_sampled_where_the_grid_says():
    colour = np.zeros((480, 640, 3), np.uint8)
    colour[200:240, 300:340, 1] = 255
    grid = centred_grid(K, (320.0, 220.0), 0.5)
    sampled = sample_colour(colour, grid.affine(), N)
    assert sampled[N // 2, N // 2].tolist() == pytest.approx([0.0, 1.0, 0.0])
    assert sampled[..., 1].sum() * grid.scale**2 == pytest.approx(1600, rel=0.05)


@settings(deadline=None, max_examples=40)
@given(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.integers(0, 9999))
def test_the_ray_frame_is_the_shortest_turn_onto_the_ray(x, y, seed):
    vector = np.random.default_rng(seed).normal(size=(1, 1, 3))
    ray = np.array([x, y, 1.0]) / np.linalg.norm([x, y, 1.0])
    axis = np.cross([0, 0, 1.0], ray)
    length = np.linalg.norm(axis)
    turn = Rotation.from_rotvec(axis / max(length, 1e-12) * np.arcsin(length))
    xs, ys = np.array([[x]]), np.array([[y]])
    assert ft.from_ray_frame(vector, xs, ys)[0, 0] == pytest.approx(turn.apply(vector[0, 0]))
    back = ft.to_ray_frame(ft.from_ray_frame(vector, xs, ys), xs, ys)
    assert back == pytest.approx(vector)


@pytest.mark.parametrize("roll", [0.0, 1.1, -2.5])
def test_normals_of_a_tilted_plane_are_exact(roll):
    normal = np.array([0.3, -0.2, -0.9]) / np.linalg.norm([0.3, -0.2, -0.9])
    linear = 1.5 * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    affine = np.column_stack([linear, [310.0, 230.0] - linear @ np.full(2, N / 2)])
    u, v = pixel_maps(affine, N)
    x, y = (u - K.cx) / K.fx, (v - K.cy) / K.fy
    depth = (normal[2] * 0.5 / (normal[0] * x + normal[1] * y + normal[2])).astype(np.float32)
    found = ft.ray_normals(depth, x, y, affine, (K.fx, K.fy))
    in_camera = ft.from_ray_frame(ft.turn(found, ft.roll_of(affine)), x, y)
    assert np.abs(in_camera[3:-3, 3:-3] - normal).max() < 1e-3


@pytest.mark.parametrize("fault", ["none", "all_nan", "few", "inf_colour", "far_step"])
def test_features_are_finite_and_bounded_whatever_comes(fault):
    depth = np.full((N, N), 0.5, np.float32)
    colour = np.full((N, N, 3), 0.5, np.float32)
    if fault == "all_nan":
        depth[:] = np.nan
    elif fault == "few":
        depth[:] = np.nan
        depth[3, 4] = 0.5
    elif fault == "inf_colour":
        colour[5] = np.inf
        colour[6] = np.nan
    elif fault == "far_step":
        depth[::2] = 1.4
    affine = centred_grid(K, (320, 240), 0.5).affine()
    _, x, y = camera_points(depth, affine, K)
    out = ft.features(depth, colour, x, y, affine, (K.fx, K.fy))
    assert out.shape == (ft.N_CHANNELS, N, N)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert np.abs(out).max() <= 2.0


def test_features_do_not_change_when_the_camera_is_turned_about_its_centre():
    """The promise of the ray frame: a turned camera sees the same vertebra in the same features."""

    def seen(turn: Rotation) -> np.ndarray:
        # A bumpy wall in the world, seen by a camera turned by `turn`; the grid follows the wall.
        middle = turn.inv().apply([0.0, 0.0, 0.5])
        centre = (K.cx + K.fx * middle[0] / middle[2], K.cy + K.fy * middle[1] / middle[2])
        affine = centred_grid(K, centre, float(middle[2])).affine()
        u, v = pixel_maps(affine, N)
        rays = np.dstack([(u - K.cx) / K.fx, (v - K.cy) / K.fy, np.ones_like(u)])
        world = turn.apply(rays.reshape(-1, 3)).reshape(rays.shape)
        depth = 0.5 / world[..., 2]
        for _ in range(20):
            point = world * depth[..., None]
            wall = 0.5 + 0.004 * np.sin(point[..., 0] / 0.008) * np.cos(point[..., 1] / 0.011)
            depth = wall / world[..., 2]
        depth = depth.astype(np.float32)
        return ft.features(
            depth, np.zeros((N, N, 3)), rays[..., 0], rays[..., 1], affine, (K.fx, K.fy)
        )[:, N // 2 - 15 : N // 2 + 15, N // 2 - 15 : N // 2 + 15]

    straight, turned = seen(Rotation.identity()), seen(Rotation.from_euler("y", 12, degrees=True))
    # An oblique ray stretches the image by some per cent; without the ray frame the normals alone
    # would be off by sin(12 deg) = 0.2.
    assert np.abs(straight[2:5] - turned[2:5]).mean() < 0.04
    assert np.abs(straight[0] - turned[0]).mean() < 0.02
