# SPDX-License-Identifier: Apache-2.0
"""The compiled loops against their NumPy twins, on turned grids with holes, steps and borders."""

from __future__ import annotations

import numpy as np
import numpy_grid as twin
import pytest

from spine_nav_common.core.types import Intrinsics
from spine_perception.core import features, grid, segmenter
from spine_perception.core.grid import GRID_SIZE, Grid, centred_grid

K = Intrinsics(640, 480, 610.0, 606.0, 318.0, 243.0)
N = GRID_SIZE


@pytest.fixture(scope="module")
def scene():
    """Depth (480, 640) with waves, noise, holes, a step and nonsense; colour."""
    rng = np.random.default_rng(3)
    v, u = np.mgrid[:480, :640].astype(np.float32)
    depth = 0.5 + 0.02 * np.sin(u / 23) * np.cos(v / 31) + rng.normal(0, 4e-4, u.shape)
    depth[:, 400:] += 0.05
    depth[rng.random(u.shape) < 0.05] = np.nan
    depth[100:130, 200:260] = np.nan
    depth[300:305] = np.inf
    depth[310:312], depth[320:322] = 0.0, -1.0
    return depth.astype(np.float32), rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)


# around a place, turned; a coarse one over the border; one finer than the pixels
GRIDS = [
    (centred_grid(K, (300.0, 200.0), 0.5), 0.4),
    (centred_grid(K, (20.0, 460.0), 0.45, 0.0026), -2.6),
    (Grid(0.8, 150.0, 90.0), 0.0),
]


@pytest.fixture(params=GRIDS, ids=["turned", "border", "fine"])
def sampled(request, scene):
    """Grid, its turn, affine, depth, points, slopes x, y."""
    plain, angle = request.param
    affine = plain.turned(angle)
    depth = grid.sample_depth(scene[0], affine, N)
    return plain, angle, affine, depth, *grid.camera_points(depth, affine, K)


def test_depth_on_the_grid(scene, sampled):
    affine, ours = sampled[2:4]
    theirs = twin.sample_depth(scene[0], affine, N)
    # OpenCV rounds coordinates to 1/1024 pixel, so a cell in the middle of two may take the other.
    same = np.isclose(ours, theirs, rtol=0, atol=1e-6, equal_nan=True)
    assert same.mean() > 0.995
    assert 0.1 < np.isfinite(ours).mean() < 1.0


def test_points_and_slopes(sampled):
    _, _, affine, depth, *ours = sampled
    for a, b in zip(ours, twin.camera_points(depth, affine, K), strict=True):
        assert a == pytest.approx(b, abs=2e-6, nan_ok=True)


def test_features(scene, sampled):
    _, _, affine, depth, _, x, y = sampled
    colour = grid.sample_colour(scene[1], affine, N)
    colour[3, 4] = np.nan
    ours = features.features(depth, colour, x, y, affine, (K.fx, K.fy))
    theirs = twin.features(depth, colour, x, y, affine, (K.fx, K.fy))
    assert ours.dtype == theirs.dtype
    assert np.isfinite(ours).all()
    for name, a, b in zip(features.CHANNELS, ours, theirs, strict=True):
        assert a == pytest.approx(b, abs=2e-4), name


def test_features_of_a_grid_without_depth():
    nothing = np.full((N, N), np.nan, np.float32)
    affine = GRIDS[0][0].turned(0.4)
    _, x, y = grid.camera_points(nothing, affine, K)
    colour = np.zeros((N, N, 3), np.float32)
    ours = features.features(nothing, colour, x, y, affine, (K.fx, K.fy))
    assert np.array_equal(ours, twin.features(nothing, colour, x, y, affine, (K.fx, K.fy)))


def test_votes_and_their_lay_out(scene, sampled):
    plain, angle, affine, _, points, x, y = sampled
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(9, N // 2, N // 2)).astype(np.float32)
    # smooth, as a network's are: OpenCV interpolates in steps of 1/32 cell
    rows, columns = np.mgrid[:N, :N]
    masks = np.stack([20 * np.sin(rows / 40), 50 * np.cos(columns / 60)]).astype(np.float32)
    votes = segmenter._decode(vectors, points, x, y, features.roll_of(affine))
    half = (points[::2, ::2], x[::2, ::2], y[::2, ::2])
    expected = twin._decode(vectors, *half, features.roll_of(affine))
    assert votes == pytest.approx(expected, abs=1e-5, nan_ok=True)
    upright, _, _ = grid.camera_points(
        grid.sample_depth(scene[0], plain.affine(), N), plain.affine(), K
    )
    ours = segmenter._lay_out(masks, votes, upright, plain, angle)
    theirs = twin._lay_out(masks, votes, upright, plain, angle)
    for name in ("bone", "clean"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=0.02), name
    for name in ("centre_m", "cranial", "dorsal"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert np.isclose(a, b, atol=1e-6, equal_nan=True).mean() > 0.99, name
    assert np.array_equal(ours.points_m, theirs.points_m, equal_nan=True)
