# SPDX-License-Identifier: Apache-2.0
"""The joint estimate: twists, gradient, springs, convergence, covariance, tissue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import registration_support as support
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from spine_registration.core import estimator as es
from spine_registration.core.chain import chain_prior
from spine_registration.core.config import NavigatorConfig
from spine_registration.core.likelihood import point_likelihood

VAGUE = 1e-3  # information of a prior that hardly says anything
GATES = (15e-3, 10e-3, 8e-3, 6e-3, 4e-3, 4e-3, 4e-3, 4e-3)
numbers = st.floats(-1.0, 1.0, allow_nan=False, width=32)


@settings(max_examples=60, deadline=None)
@given(arrays(float, (3, 6), elements=numbers), arrays(float, (3, 3), elements=numbers))
def test_a_twist_survives_the_round_trip(xi, anchor):
    xi = xi * np.r_[[0.05] * 3, [1.5] * 3]  # up to 149 degrees
    reference = np.broadcast_to(np.eye(4), (3, 4, 4)).copy()
    reference[:, :3, :3] = Rotation.from_euler("xyz", [20.0, -40.0, 130.0], True).as_matrix()
    reference[:, :3, 3] = [0.01, 0.02, 0.5]
    T = es.exp_about(xi, anchor) @ reference
    np.testing.assert_allclose(es.twist_between(T, reference, anchor), xi, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(T[:, :3, :3]), 1.0, atol=1e-9)


def test_a_twist_turns_about_its_anchor():
    anchor = np.array([[0.1, -0.2, 0.5]])
    T = es.exp_about(np.array([[0.001, 0.002, 0.003, 0.3, -0.2, 0.1]]), anchor)[0]
    np.testing.assert_allclose(
        T[:3, :3] @ anchor[0] + T[:3, 3], anchor[0] + [0.001, 0.002, 0.003], atol=1e-12
    )
    np.testing.assert_allclose(
        T[:3, :3], Rotation.from_rotvec([0.3, -0.2, 0.1]).as_matrix(), atol=1e-12
    )


def test_the_gradient_is_that_of_the_log_likelihood(model, noise):
    """Against finite differences, the noise per point held; the grid's steps cost some per cent."""
    rng = np.random.default_rng(0)
    truth = support.bent(model, support.rigid_pose(model), rng)
    pixels = support.bone_pixels(model, truth, rng, noise_m=0.5e-3)
    T = support.bent(model, truth, rng, 0.7, 1.0)
    L = len(T)
    level = es.assign(model, T, pixels, 4e-3)
    here = es._linearise(model, T, pixels, level, noise)
    weight = pixels.area_m2 / noise.correlation_area_m2 * here.seen
    anchor = es.anchors(model, T)

    def log_likelihood(xi):
        moved = es.exp_about(xi.reshape(L, 6), anchor) @ T
        lin = es._linearise(model, moved, pixels, level, noise)
        lik = point_likelihood(
            lin.distance, here.sigma, noise.tissue_scale_m, pixels.clean, pixels.bone
        )
        return float((weight * lik.log_density).sum(dtype=float))

    gradient = here.g.ravel()  # of the energy, which is minus the log likelihood
    steps = np.tile([3e-4] * 3 + [9e-3] * 3, L)
    numeric = np.empty(6 * L)
    for i, h in enumerate(steps):
        xi = np.zeros(6 * L)
        xi[i] = h
        numeric[i] = (log_likelihood(-xi) - log_likelihood(xi)) / (2 * h)
    # In nat per step, so that metres and radians weigh alike.
    assert np.linalg.norm((gradient - numeric) * steps) < 0.15 * np.linalg.norm(numeric * steps)


def test_springs_do_not_feel_a_common_motion(model):
    T = support.rigid_pose(model, 30.0)
    information = es.springs(model, T, np.deg2rad(4.0), 2e-3)
    anchor = es.anchors(model, T)
    common = np.empty((len(T), 6))
    v, w, about = np.array([2e-3, -1e-3, 3e-3]), np.array([0.02, 0.05, -0.03]), anchor.mean(axis=0)
    common[:, 3:] = w
    common[:, :3] = v + np.cross(w, anchor - about)
    energy = 0.5 * common.ravel() @ information @ common.ravel()
    assert energy < 1e-9
    np.testing.assert_allclose(information, information.T, atol=1e-6)
    assert np.linalg.matrix_rank(information, tol=1.0) == 6 * (len(T) - 1)


@pytest.mark.parametrize(
    ("axis", "amount", "nat"), [(0, 2e-3, 0.5), (2, 2e-3, 0.5), (5, np.deg2rad(4.0), 0.5)]
)
def test_springs_resist_a_relative_motion(model, axis, amount, nat):
    """One sigma at an end of the chain, which has a single neighbour, costs half a nat at least."""
    T = support.rigid_pose(model)
    information = es.springs(model, T, np.deg2rad(4.0), 2e-3)
    xi = np.zeros((len(T), 6))
    xi[0, axis] = amount
    assert 0.5 * xi.ravel() @ information @ xi.ravel() >= nat * (1 - 1e-9)
    xi = np.zeros((len(T), 6))
    xi[1, axis] = amount
    assert 0.5 * xi.ravel() @ information @ xi.ravel() >= 2 * nat * (1 - 1e-9)


def test_a_joint_that_is_bent_holds_less(model):
    """Another posture than in the CT bends one joint most: the springs must not straighten it."""
    sigmas = np.deg2rad(4.0), 2e-3
    straight = support.rigid_pose(model)
    bent = straight.copy()
    turn = es.exp_about(
        np.array([[0.0, 0, 0, 0, 0, np.deg2rad(20.0)]]), es.anchors(model, bent)[-1:]
    )
    bent[-1:] = turn @ bent[-1:]
    xi = np.zeros((len(bent), 6))
    xi[-1, 5] = np.deg2rad(1.0)

    def energy(T, **kw):
        return xi.ravel() @ es.springs(model, T, *sigmas, **kw) @ xi.ravel()

    assert energy(straight, tail=4.0) == pytest.approx(energy(straight))
    assert energy(bent, tail=4.0) < 0.45 * energy(bent)
    first = np.zeros_like(xi)
    first[0, 5] = np.deg2rad(1.0)
    loose, firm = (es.springs(model, bent, *sigmas, tail=t) for t in (4.0, np.inf))
    assert first.ravel() @ loose @ first.ravel() == pytest.approx(
        first.ravel() @ firm @ first.ravel()
    )


def solve(model, pixels, noise, T_start, T_prior=None, information=None, **kw):
    prior = es.Prior(
        T_start if T_prior is None else T_prior,
        VAGUE * np.eye(6 * len(T_start)) if information is None else information,
    )
    kw = {"gates_m": GATES, "reassign_at": tuple(range(len(GATES)))} | kw
    return es.estimate(model, pixels, prior, noise, T_start, **kw)


@pytest.mark.parametrize("seed", range(3))
def test_recovers_poses_from_afar_on_noiseless_pixels(model, noise, seed):
    rng = np.random.default_rng(seed)
    truth = support.bent(model, support.rigid_pose(model, 120.0 * seed), rng)
    pixels = support.bone_pixels(model, truth, rng, noise_m=0.0)
    sign = rng.choice([-1.0, 1.0], size=(len(truth), 6))
    xi = sign * np.r_[[5e-3 / np.sqrt(3)] * 3, [np.deg2rad(5.0) / np.sqrt(3)] * 3]
    start = es.exp_about(xi, es.anchors(model, truth)) @ truth
    assert support.tre_mm(model, start, truth).min() > 3.0
    result = solve(model, pixels, noise, start)
    assert support.tre_mm(model, result.T_camera_ct, truth).max() < 0.2
    assert result.converged
    assert min(f.inlier_share for f in result.fits) > 0.9
    assert max(f.rms_mm for f in result.fits) < 0.15


def test_a_level_without_pixels_follows_its_neighbours(model, noise):
    rng = np.random.default_rng(4)
    truth = support.rigid_pose(model)
    start = support.moved(truth, (2e-3, -1e-3, 1e-3))
    share = {v: 1.0 for v in model.levels if v != "L3"}
    pixels = support.bone_pixels(model, truth, rng, noise_m=0.2e-3, share=share)
    prior = chain_prior(model, start, 1.0, NavigatorConfig())
    result = solve(model, pixels, noise, start, prior.T_camera_ct, prior.information)
    k = model.levels.index("L3")
    assert (result.level_of_pixel != k).all()
    assert support.tre_mm(model, result.T_camera_ct, truth)[k] < 0.5
    sd = np.sqrt(np.diag(result.covariance)).reshape(-1, 6)
    assert sd[k, :3].min() > 2 * np.delete(sd, k, axis=0)[:, :3].max()


def test_the_covariance_is_the_scatter(model):
    """Independent noise of known size, each point worth one sample."""
    area, sigma = 5e-6, 0.8e-3
    noise = es.Noise(sigma, 1e-3, area, pose_area_m2=area, pose_tissue_m=1e-3)
    truth = support.rigid_pose(model)
    errors, predicted = [], []
    for seed in range(24):
        rng = np.random.default_rng([7, seed])
        pixels = support.bone_pixels(model, truth, rng, noise_m=sigma, tissue_m=1e-3, area_m2=area)
        result = solve(model, pixels, noise, truth, gates_m=(5e-3,) * 4, reassign_at=(0, 2))
        xi = es.twist_between(result.T_camera_ct, truth, es.anchors(model, truth))
        errors.append(xi.ravel())
        predicted.append(np.diag(result.covariance))
    L = len(truth)
    scatter = np.std(errors, axis=0, ddof=1).reshape(L, 6)
    bias = np.mean(errors, axis=0).reshape(L, 6)
    assert np.abs(bias[:, :3]).max() < 0.25e-3
    sd = np.sqrt(np.mean(predicted, axis=0)).reshape(L, 6)
    ratio = np.sqrt((sd**2 / scatter**2).mean(axis=0))
    assert (ratio > 0.5).all(), ratio
    assert (ratio < 2.0).all(), ratio


def test_tissue_does_not_lift_the_bone(model, noise):
    rng = np.random.default_rng(9)
    truth = support.rigid_pose(model)
    pixels = support.bone_pixels(model, truth, rng, tissue_m=1e-3, tissue_share=0.5)
    lift = {}
    for name, scale in (("one-sided", noise.pose_tissue_m), ("blind", 1e-5)):
        result = solve(
            model, pixels, replace(noise, pose_tissue_m=scale), truth, gates_m=(5e-3,) * 5
        )
        shift = es.anchors(model, result.T_camera_ct) - es.anchors(model, truth)
        lift[name] = -1e3 * shift[:, 2].mean()  # towards the camera
    assert abs(lift["one-sided"]) < 0.2
    assert lift["blind"] > abs(lift["one-sided"]) + 0.1


def test_the_noise_is_read_off_the_inner_half(model, noise):
    rng = np.random.default_rng(10)
    truth = support.rigid_pose(model)
    for sigma in (0.5e-3, 1.2e-3):
        pixels = support.bone_pixels(model, truth, rng, noise_m=sigma, tissue_m=1e-3)
        result = solve(model, pixels, replace(noise, sigma_m=sigma), truth, gates_m=(6e-3,) * 3)
        assert 0.5 * sigma < result.sigma_m < 1.6 * sigma


def test_pixels_far_from_all_bone_belong_to_no_level(model, noise):
    rng = np.random.default_rng(11)
    truth = support.rigid_pose(model)
    pixels = support.bone_pixels(model, truth, rng)
    away = replace(pixels, points_m=pixels.points_m + np.float32([0.0, 0.0, -0.05]))
    assert (es.assign(model, truth, pixels, 4e-3) >= 0).mean() > 0.9
    assert (es.assign(model, truth, away, 4e-3) < 0).mean() > 0.9
    fine, lost = (solve(model, p, noise, truth, gates_m=(4e-3,)) for p in (pixels, away))
    assert fine.log_likelihood > lost.log_likelihood + 50.0


def test_bone_facing_away_from_the_camera_is_not_matched(model, noise):
    """A point on a hidden side is on the other side's surface, not on this one."""
    rng = np.random.default_rng(12)
    truth = support.rigid_pose(model)
    pixels = support.bone_pixels(model, truth, rng, noise_m=0.0)
    behind = replace(pixels, ray=-pixels.ray)
    assert (es.assign(model, truth, behind, 4e-3) >= 0).mean() < 0.2
