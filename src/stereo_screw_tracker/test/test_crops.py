# SPDX-License-Identifier: Apache-2.0
"""Crops show what lies where, to a hundredth of a pixel: a tenth is 0.7 mm of depth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spine_nav_common.core.types import Intrinsics
from stereo_screw_tracker.core.crops import (
    CropPair,
    head_crops,
    normalise,
    paired_crops,
    project,
    ray_rotation,
    rod_crops,
    sample_crops,
    triangulate_rough,
)
from stereo_screw_tracker.core.types import StereoCamera

CAMERA = StereoCamera(Intrinsics(640, 480, 610.0, 607.0, 322.3, 237.6), 0.06)
LIMIT_PX = 0.01


def _grid(size: int) -> np.ndarray:
    return np.arange(size) - 0.5 * (size - 1)


def _blob(shape: tuple[int, int], at: np.ndarray, sigma: float) -> np.ndarray:
    v, u = np.mgrid[: shape[0], : shape[1]]
    r2 = (u - at[0]) ** 2 + (v - at[1]) ** 2
    return np.round(20 + 220 * np.exp(-0.5 * r2 / sigma**2)).astype(np.uint8)


def _centroid(crop: np.ndarray) -> np.ndarray:
    w = np.maximum(crop.astype(float) - crop.min() - 10.0, 0.0)
    g = _grid(len(crop))
    return np.array([(w * g[None, :]).sum(), (w * g[:, None]).sum()]) / w.sum()


@pytest.mark.parametrize("scale", [0.37, 1.0, 1.6, 2.9])
@pytest.mark.parametrize("size", [31, 48])
def test_every_sample_lies_where_the_matrix_says(scale, size):
    v, u = np.mgrid[:200, :260].astype(np.float32)
    matrix = scale * np.array([[0.96, -0.2], [0.15, 1.03]])
    centre = np.array([121.3, 88.8])
    g = _grid(size)
    want = centre + np.stack(np.meshgrid(g, g), axis=-1) @ matrix.T
    for image, axis in ((u, 0), (v, 1)):
        got = sample_crops(image, centre[None], matrix[None], size)[0]
        assert np.abs(got - want[..., axis]).max() < 1e-3


@pytest.mark.parametrize("scale", [0.4, 0.5, 1.0, 2.0, 2.3])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.25, -0.25), (0.5, 0.5), (0.13, 0.71)])
def test_a_blob_in_the_middle_stays_in_the_middle(scale, shift):
    at = np.array([100.0, 80.0]) + shift
    crop = sample_crops(_blob((160, 200), at, 4.0 * scale), at[None], scale * np.eye(2)[None], 48)
    assert np.abs(_centroid(crop[0])).max() < LIMIT_PX


def test_shrinking_averages_instead_of_skipping():
    board = (np.indices((200, 200)).sum(axis=0) % 2 * 255).astype(np.uint8)
    crop = sample_crops(board, np.array([[100.2, 99.7]]), 2.0 * np.eye(2)[None], 32)
    assert crop.std() < 20  # single samples would keep most of the 127


def test_beyond_the_border_the_image_goes_on():
    image = np.full((20, 30), 7, np.uint8)
    image[:, -1] = 90
    crop = sample_crops(image, np.array([[40.0, 10.0]]), np.eye(2)[None], 8)
    assert np.all(crop == 90)


def test_what_lies_in_the_plane_of_the_crop_falls_on_the_same_pixel_in_both_eyes():
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-0.15, 0.15, (20, 2)), rng.uniform(0.35, 0.7, 20)])
    left, right = project(points, CAMERA)
    assert triangulate_rough(left, right, CAMERA) == pytest.approx(points, abs=1e-9)
    pair, rotation = head_crops(left, right, CAMERA, 0.0006)
    place = np.array([5.0, -7.0])  # crop px, 5 mm from the middle
    moved = points + 0.0006 * np.einsum("nij,i->nj", rotation[:, :2], place)
    for matrix, at, px in zip(
        (pair.left_from_crop, pair.right_from_crop),
        (left, right),
        project(moved, CAMERA),
        strict=True,
    ):
        seen = np.einsum("nij,nj->ni", np.linalg.inv(matrix), px - at)
        assert np.abs(seen - place).max() < 0.15  # perspective within the crop
    # Further away by 1 mm: the eyes see it apart, by pitch and geometry.
    k = CAMERA.intrinsics
    deeper = project(points + 0.001 * rotation[:, 2], CAMERA)
    apart = (deeper[0] - left)[:, 0] - (deeper[1] - right)[:, 0]
    z = points[:, 2]
    assert apart == pytest.approx(-k.fx * 0.06 / z**2 * 0.001 * rotation[:, 2, 2], rel=0.02)


def test_the_ray_frame_is_the_smallest_turn():
    points = np.array([[0.1, -0.2, 0.5], [0.03, 0.0, 0.4]])
    ray = points - [0.03, 0, 0]
    got = ray_rotation(points, 0.06)
    for r, v in zip(got, ray, strict=True):
        v = v / np.linalg.norm(v)
        turn = np.cross(v, [0, 0, 1.0])
        angle = np.arccos(v[2])
        axis = turn / max(np.linalg.norm(turn), 1e-12) * angle
        assert r == pytest.approx(Rotation.from_rotvec(axis).as_matrix(), abs=1e-9)
        assert r @ v == pytest.approx([0, 0, 1], abs=1e-12)


def test_mirroring_and_swapping_the_pair_mirrors_and_swaps_the_crops():
    rng = np.random.default_rng(1)
    left, right = (rng.integers(0, 255, (480, 640)).astype(np.uint8) for _ in range(2))
    k = CAMERA.intrinsics
    mirrored = StereoCamera(Intrinsics(640, 480, k.fx, k.fy, 639.0 - k.cx, k.cy), CAMERA.baseline_m)
    at = np.array([[301.4, 170.2]]), np.array([[225.9, 170.9]])
    turned = [np.array([[639.0 - p[0, 0], p[0, 1]]]) for p in at[::-1]]
    pair, rotation = head_crops(*at, CAMERA, 0.0006)
    other, other_rotation = head_crops(*turned, mirrored, 0.0006)
    plain = paired_crops(left, right, pair, 48)
    swapped = paired_crops(
        np.ascontiguousarray(right[:, ::-1]), np.ascontiguousarray(left[:, ::-1]), other, 48
    )
    assert np.abs(swapped[:, ::-1, :, ::-1] - plain).max() < 0.1
    flip = np.diag([-1.0, 1, 1])
    assert flip @ other_rotation[0] @ flip == pytest.approx(rotation[0], abs=1e-9)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ([300.0, 200.0], [300.0, 200.0]),
        ([200.0, 9.0], [300.0, 9.0]),
        ([np.nan, 9.0], [3.0, 9.0]),
        ([300.0, 9.0], [200.0, np.inf]),
    ],
)
def test_a_pair_that_stands_nowhere_before_the_camera_is_refused(left, right):
    good = np.array([[300.0, 200.0]]), np.array([[230.0, 200.0]])
    bad = np.array([left]), np.array([right])
    with pytest.raises(ValueError, match="candidate 1: needs finite pixels with a disparity"):
        head_crops(np.vstack([good[0], bad[0]]), np.vstack([good[1], bad[1]]), CAMERA, 0.0006)


def test_a_rod_stands_upright_in_its_crops():
    tangent = np.array([[0.8, 0.55, -0.2]]) / np.linalg.norm([0.8, 0.55, -0.2])
    point = np.array([[0.04, -0.03, 0.45]])
    pair = rod_crops(point, tangent, CAMERA, 0.00045)
    on_rod = point + np.linspace(-0.006, 0.006, 13)[:, None] * tangent
    for at, matrix, px in zip(
        (pair.left_px, pair.right_px),
        (pair.left_from_crop, pair.right_from_crop),
        project(on_rod, CAMERA),
        strict=True,
    ):
        inside = (px - at) @ np.linalg.inv(matrix[0]).T
        assert np.abs(inside[:, 0]).max() < 1e-6
        assert np.all(np.diff(inside[:, 1]) > 0.5)
        assert np.linalg.det(matrix[0]) > 0  # turned, not mirrored


def test_gain_and_offset_vanish_and_a_flat_crop_stays_flat():
    x = np.random.default_rng(2).uniform(40, 90, (3, 2, 16, 16)).astype(np.float32)
    assert normalise(1.7 * x + 20) == pytest.approx(normalise(x), abs=1e-3)
    flat = np.full((1, 2, 16, 16), 130.0, np.float32)
    flat[..., 0, 0] += 0.5
    assert np.abs(normalise(flat)).max() < 0.2
    with np.errstate(all="raise"):
        assert np.isfinite(normalise(np.zeros((1, 2, 4, 4), np.float32))).all()


def test_no_crops_of_no_places():
    none = CropPair(*(np.zeros((0, 2)) for _ in range(2)), *(np.zeros((0, 2, 2)) for _ in range(2)))
    image = np.zeros((10, 10), np.uint8)
    assert paired_crops(image, image, none, 8).shape == (0, 2, 8, 8)
