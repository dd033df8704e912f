# SPDX-License-Identifier: Apache-2.0
"""The compiled loops against their NumPy twins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy_twins as twins
import pytest
import registration_support as support
from scipy.special import erfcx

from spine_registration.core import estimator as es
from spine_registration.core import frame_kernels, kernels
from spine_registration.core.chain import chain_prior
from spine_registration.core.config import NavigatorConfig
from spine_registration.core.visibility import view_levels
from spine_registration.core.warm import warm_up


@pytest.fixture(scope="module")
def situation(model):
    """A spine seen from a pose that is a little wrong; some pixels have no vote."""
    rng = np.random.default_rng(21)
    truth = support.bent(model, support.rigid_pose(model, 70.0, (20.0, -10.0)), rng)
    pixels = support.bone_pixels(model, truth, rng, tissue_m=1e-3)
    pixels.centre_vote_m[::7] = np.nan
    return support.bent(model, truth, rng, 2.0, 4.0), pixels


def test_erfcx_is_as_exact_as_it_says():
    x = np.r_[np.linspace(-4.0, 30.0, 2001), 1e3, 1e6]
    got = np.array([kernels.erfcx(v) for v in x])
    assert np.abs(got / erfcx(x) - 1.0).max() < 1.3e-7


def test_the_density_is_its_twin():
    rng = np.random.default_rng(1)
    s = rng.normal(0, 4e-3, 4000)
    args = (s, rng.uniform(0.2e-3, 4e-3, 4000), 1e-3, *rng.uniform(size=(2, 4000)))
    # erfcx differs by 1e-7; the score (1/m, some thousands) is a difference of two such numbers.
    np.testing.assert_allclose(kernels.densities(*args), twins.density(*args), rtol=2e-6, atol=1e-3)


def test_the_surface_is_its_twin(model, situation):
    T, pixels = situation
    for k in range(len(model.levels)):
        got = model.surface(pixels.points_m, T[k], k)
        want = twins.surface(model, pixels.points_m, T[k], k)
        assert np.isnan(got[0]).any()
        np.testing.assert_array_equal(np.isnan(got[0]), np.isnan(want[0]))
        np.testing.assert_allclose(got[0], want[0], atol=1e-8)
        inside = np.isfinite(want[0])
        np.testing.assert_allclose(got[1][inside], want[1][inside], atol=1e-5)


@pytest.mark.parametrize(("gate_m", "vote"), [(15e-3, 0.4), (4e-3, 0.0)])
def test_the_assignment_is_its_twin(model, situation, gate_m, vote):
    T, pixels = situation
    got = es.assign(model, T, pixels, gate_m, vote)
    np.testing.assert_array_equal(got, twins.assign(model, T, pixels, gate_m, vote))
    assert set(np.unique(got)) == {-1, *range(len(model.levels))}


def test_the_normal_equations_are_their_twin(model, situation, noise):
    T, pixels = situation
    level = es.assign(model, T, pixels, 6e-3)
    lin = es._linearise(model, T, pixels, level, noise)
    H, g, pixel = twins.linearise(model, T, pixels, level, noise)
    np.testing.assert_allclose(lin.H, H, rtol=1e-4, atol=1e-5 * np.abs(H).max())
    np.testing.assert_allclose(lin.g, g, rtol=1e-4, atol=1e-5 * np.abs(g).max())
    got = (lin.distance, lin.sigma, lin.log_density, lin.bone, lin.seen)
    np.testing.assert_allclose(got, pixel, rtol=1e-4, atol=1e-6)


def test_bone_that_faces_away_counts_as_an_outlier(model, situation, noise):
    """It explains nothing: not better than a pixel that no level claims."""
    T, pixels = situation
    level = es.assign(model, T, pixels, 6e-3)
    none = es._linearise(model, T, pixels, np.full_like(level, -1), noise)
    away = es._linearise(model, T, replace(pixels, ray=-pixels.ray), level, noise)
    hidden = (away.seen == 0) & (level >= 0)
    assert hidden.mean() > 0.5
    np.testing.assert_array_equal(away.log_density[hidden], none.log_density[hidden])
    assert (none.log_density != 0.0).all()


def test_any_memory_layout_gives_the_same(model, situation, noise):
    T, pixels = situation
    prior = es.Prior(T, 1e3 * np.eye(6 * len(T)))
    strided = replace(
        pixels,
        points_m=np.asfortranarray(pixels.points_m),
        bone=np.repeat(pixels.bone, 2)[::2],
        area_m2=pixels.area_m2.astype(float),
    )
    a, b = (es.estimate(model, p, prior, noise) for p in (pixels, strided))
    assert a.T_camera_ct.tobytes() == b.T_camera_ct.tobytes()


def test_mean_shifts_are_the_twin_s():
    rng = np.random.default_rng(8)
    twists, arms = rng.normal(size=(50, 6)), rng.normal(size=(4, 3))
    shift = twists[:, None, :3] + np.cross(twists[:, None, 3:], arms[None])
    np.testing.assert_allclose(
        frame_kernels.mean_shifts(twists, arms),
        np.linalg.norm(shift, axis=2).mean(axis=1),
        rtol=1e-12,
    )


def test_twists_are_their_twins(model, situation):
    T, _ = situation
    rng = np.random.default_rng(4)
    anchor = np.einsum("lij,lj->li", T[:, :3, :3], model.anchor_m) + T[:, :3, 3]
    np.testing.assert_allclose(es.anchors(model, T), anchor, atol=1e-15)
    for size in (1e-7, 1e-3, 1.0):
        xi = size * rng.normal(size=(len(T), 6))
        moved = T.copy()
        kernels.exp_about(xi, anchor, moved)
        np.testing.assert_allclose(moved, es.exp_about(xi, anchor) @ T, atol=1e-14)
        want = es.twist_between(moved, T, anchor)
        np.testing.assert_allclose(kernels.twist_between(moved, T, anchor), want, atol=1e-13)


def test_the_solver_solves():
    rng = np.random.default_rng(5)
    A = rng.normal(size=(42, 60)) * 10.0 ** rng.uniform(-3, 3, (42, 1))
    A, b = A @ A.T, rng.normal(size=42)
    x = kernels.solve_positive(A.copy(), b)
    np.testing.assert_allclose(A @ x, b, atol=1e-9)


def test_gauss_newton_is_its_twin(model, situation, noise):
    """Step by step the same poses; it ends as soon as a step no longer matters."""
    T, pixels = situation
    prior = chain_prior(model, T, 1.0, NavigatorConfig())
    noise = replace(noise, pose_area_m2=noise.correlation_area_m2, pose_tissue_m=1e-3)
    gates = (8e-3, 6e-3, 5e-3)
    got = es.estimate(model, pixels, prior, noise, T, gates, reassign_at=(0, 1, 2))
    want = twins.gauss_newton(model, T, pixels, prior, noise, gates)
    np.testing.assert_allclose(got.T_camera_ct, want, atol=2e-6)
    settled = es.estimate(model, pixels, prior, noise, T, gates, settle=30)
    assert settled.converged
    assert 3 < settled.iterations < 25
    again = es.estimate(model, pixels, prior, noise, settled.T_camera_ct, gates[-1:], settle=30)
    xi = es.twist_between(again.T_camera_ct, settled.T_camera_ct, settled.anchor_camera_m)
    assert np.abs(xi[:, :3]).max() < 2 * kernels.SETTLED_M


def test_what_is_in_view_is_its_twin(world_model):
    rng = np.random.default_rng(6)
    T = support.bent(world_model, support.rigid_pose(world_model, 60.0, (15.0, 5.0)), rng)
    depth = rng.uniform(0.47, 0.53, (150, 200)).astype(np.float32)
    depth[:40] = np.nan
    got = view_levels(world_model, T, depth, support.CAMERA)
    want = twins.view_levels(world_model, T, depth, support.CAMERA)
    np.testing.assert_allclose([tuple(vars(v).values()) for v in got], want, atol=1e-12)


def test_a_warm_navigator_compiles_nothing_more(world_model, situation, model, noise):
    """A frame that meets a kernel for the first time would stall for seconds."""
    warm_up(world_model)
    both = {**vars(kernels), **vars(frame_kernels)}.values()
    compiled = [f for f in both if hasattr(f, "nopython_signatures")]
    before = [len(f.nopython_signatures) for f in compiled]
    called = [f for f in compiled if f.py_func.__module__ == frame_kernels.__name__]
    assert min(len(f.nopython_signatures) for f in (kernels.gauss_newton, *called)) == 1
    T, pixels = situation
    prior = chain_prior(model, T, 1.0, NavigatorConfig())
    es.estimate(model, replace(pixels, bone=pixels.bone[::-1]), prior, noise)
    view_levels(model, T[:, ::-1][:, ::-1], np.ones((9, 9)).T, support.CAMERA)
    assert [len(f.nopython_signatures) for f in compiled] == before


def test_the_residuals_are_their_twins(model, situation):
    T, pixels = situation
    noise = es.Noise(0.8e-3, 1e-3, 1e-4)
    level = es.assign(model, T, pixels, 4e-3)
    distance, sigma, _, _, seen = twins.linearise(model, T, pixels, level, noise)[2]
    arguments = (pixels.points_m, pixels.area_m2, level, distance, sigma, seen, es.BLOCK_M)
    got, want = frame_kernels.block_correlation(*arguments), twins.block_correlation(*arguments)
    assert got[0] == want[0] > es.MIN_RESIDUALS
    np.testing.assert_allclose(got[1:], want[1:], rtol=1e-5)
    got = frame_kernels.sensor_noise(distance, sigma, 0.016)
    np.testing.assert_allclose(got, twins.sensor_noise(distance, sigma, 0.016))
    nothing = np.full(len(level), -1)
    count, correlation, _ = frame_kernels.block_correlation(*arguments[:2], nothing, *arguments[3:])
    assert count == 0 and np.isnan(correlation)


def test_the_gaps_of_the_votes_are_their_twin(model, situation):
    T, pixels = situation
    level, anchor = es.assign(model, T, pixels, 4e-3), es.anchors(model, T)
    level[level == 1] = -1  # a level without pixels
    got = frame_kernels.vote_gaps(pixels.centre_vote_m, level, anchor)
    np.testing.assert_allclose(got, twins.vote_gaps(pixels.centre_vote_m, level, anchor), rtol=1e-6)
    assert got[1] == 0.0


def test_the_bias_equations_are_their_twin(model, situation):
    T, pixels = situation
    level = es.assign(model, T, pixels, 6e-3)
    weight = 1e9 * pixels.area_m2.astype(float)
    centre = np.array([[0.0, 0.0], [0.1, -0.05], [-0.2, 0.1]])
    own = (pixels.points_m, weight, level, T, es.anchors(model, T), centre, 0.15, 4e-3)
    got, want = frame_kernels.bias_equations(*own, *model.grids), twins.bias_equations(model, *own)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
