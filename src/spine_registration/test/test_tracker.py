# SPDX-License-Identifier: Apache-2.0
"""Tracking over frames: noise averages, motion is followed, a vertebra that moves alone is seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import registration_support as support

from spine_registration.core.config import NavigatorConfig
from spine_registration.core.estimator import Prior, estimate
from spine_registration.core.tracker import predict, start, step

CONFIG = NavigatorConfig()
NS = support.FRAME_NS


@pytest.fixture(scope="module")
def truth(model):
    rng = np.random.default_rng(1)
    return support.bent(model, support.rigid_pose(model), rng, 0.7, 1.0)


def begin(model, truth, noise, seed=0, **kw):
    """A track that starts from one frame's estimate."""
    rng = np.random.default_rng([100, seed])
    pixels = support.bone_pixels(model, truth, rng, **kw)
    prior = Prior(truth, 1e3 * np.eye(6 * len(truth)))
    first = estimate(model, pixels, prior, noise, truth, (5e-3,) * 4)
    return start(first, NS, CONFIG), rng


def follow(model, track, rng, noise, poses, **kw):
    """Step through frames at `poses`; yields (truth, TrackStep)."""
    for T in poses:
        pixels = support.bone_pixels(model, T, rng, **kw)
        result = step(model, track, pixels, track.stamp_ns + NS, noise, CONFIG)
        track = result.state
        yield T, result


def test_noise_averages_out_on_a_still_spine(model, truth, noise):
    """RMS over seeds after 10 frames, against that of the first frame alone."""
    single, fused = [], []
    for seed in range(5):
        track, rng = begin(model, truth, noise, seed, noise_m=1.0e-3)
        single.append(support.tre_mm(model, track.T_camera_ct, truth))
        *_, (_, last) = follow(model, track, rng, noise, [truth] * 10, noise_m=1.0e-3)
        fused.append(support.tre_mm(model, last.state.T_camera_ct, truth))
    rms = [np.sqrt(np.mean(np.square(e))) for e in (single, fused)]
    assert rms[1] < 0.85 * rms[0], rms


def test_a_sweep_of_the_camera_is_followed_without_lag(model, truth, noise):
    """3 mm per frame; a lag would be an error along the motion that grows with it."""
    track, rng = begin(model, truth, noise)
    poses = [support.moved(truth, (3e-3 * k, -1e-3 * k, 5e-4 * k)) for k in range(1, 9)]
    worst, along = 0.0, []
    for T, result in follow(model, track, rng, noise, poses):
        worst = max(worst, support.tre_mm(model, result.state.T_camera_ct, T).max())
        gap = result.state.T_camera_ct[:, :3, 3] - T[:, :3, 3]
        along.append(1e3 * gap[:, 0].mean())
        assert result.moved == ()
    assert worst < 1.0
    assert abs(np.mean(along)) < 0.15


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("direction", [(1.0, 0.0, 0.0), (0.0, 0.6, -0.8)])
def test_a_level_that_jumps_alone_is_followed_and_reported(model, truth, noise, level, direction):
    track, rng = begin(model, truth, noise)
    *_, (_, settled) = follow(model, track, rng, noise, [truth] * 5)
    assert settled.moved == ()
    after = truth.copy()
    after[level, :3, 3] += 4e-3 * np.array(direction)
    results = [r for _, r in follow(model, settled.state, rng, noise, [after] * 3)]
    assert level in results[0].moved
    assert set(results[0].moved) <= {level, level - 1, level + 1}
    assert support.tre_mm(model, results[0].state.T_camera_ct, after)[level] < 1.5
    assert support.tre_mm(model, results[2].state.T_camera_ct, after).max() < 1.0
    assert 1.0 < results[0].moved_mm[results[0].moved.index(level)] < 8.0


def test_breathing_is_followed(model, truth, noise):
    """The trunk rises and sinks by 5 mm, each level a little later than its neighbour."""
    track, rng = begin(model, truth, noise)
    poses = []
    for k in range(1, 31):
        T = truth.copy()
        phase = 2 * np.pi * k / 15 / 4.0 - 0.25 * np.arange(len(T))
        T[:, 2, 3] += 2.5e-3 * (np.sin(phase) - np.sin(-0.25 * np.arange(len(T))))
        poses.append(T)
    errors = [
        support.tre_mm(model, r.state.T_camera_ct, T)
        for T, r in follow(model, track, rng, noise, poses)
    ]
    assert np.mean(errors) < 0.6
    assert np.max(errors) < 1.5


def test_a_level_without_pixels_keeps_its_place_between_its_neighbours(model, truth, noise):
    track, rng = begin(model, truth, noise)
    *_, (_, settled) = follow(model, track, rng, noise, [truth] * 5)
    hidden = 1
    share = {v: 1.0 for k, v in enumerate(model.levels) if k != hidden}
    poses = [support.moved(truth, (2e-3 * k, 0.0, 1e-3 * k)) for k in range(1, 9)]
    spread = [np.sqrt(np.trace(settled.state.covariance[6:9, 6:9]))]
    for T, result in follow(model, settled.state, rng, noise, poses, share=share):
        spread.append(np.sqrt(np.trace(result.state.covariance[6:9, 6:9])))
        error = support.tre_mm(model, result.state.T_camera_ct, T)
        assert error[hidden] < 2.0
        assert result.moved == ()
    assert spread[-1] > 1.5 * spread[0]
    assert (np.diff(spread) > -1e-5).all()
    # The springs bound it: the CT still says where a vertebra is between its neighbours.
    assert spread[-1] < 5e-3


def test_a_gap_in_time_costs_certainty(model, truth, noise):
    track, _ = begin(model, truth, noise)
    sizes = []
    for frames in (1, 5, 30):
        prior, covariance = predict(model, track, track.stamp_ns + frames * NS, CONFIG)
        sizes.append(np.trace(covariance))
        np.testing.assert_allclose(covariance @ prior.information, np.eye(len(covariance)),
                                   atol=1e-4)  # fmt: skip
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[0] > np.trace(track.covariance)


def test_a_camera_that_stood_still_may_have_moved_in_a_gap(model, truth, noise):
    """Two frames of stillness say much of the next one and nothing of the next half second."""
    track, _ = begin(model, truth, noise)
    still = replace(track, common_mm=0.15, common_deg=0.05)
    for frames, least_mm, most_mm in ((1, 0.0, 3.0), (6, 6 * CONFIG.common_noise_mm, 100.0)):
        _, covariance = predict(model, still, still.stamp_ns + frames * NS, CONFIG)
        assert least_mm < 1e3 * np.sqrt(covariance[0, 0]) < most_mm


def test_motion_is_remembered_per_time_not_per_frame(model, truth, noise):
    """The same speed at half the frame rate leaves the same memory of it."""
    speeds = []
    for stride in (1, 2):
        track, rng = begin(model, truth, noise)
        for k in range(stride, 13, stride):
            T = support.moved(truth, (2e-3 * k, 0.0, 0.0))
            pixels = support.bone_pixels(model, T, rng)
            track = step(model, track, pixels, (1 + k) * NS, noise, CONFIG).state
        speeds.append(track.common_mm)
    assert speeds[1] == pytest.approx(speeds[0], rel=0.15)
    assert speeds[0] == pytest.approx(1.5 * 2.0, rel=0.15)


def test_the_belief_stays_a_pose(model, truth, noise):
    track, rng = begin(model, truth, noise)
    *_, (_, last) = follow(model, track, rng, noise, [truth] * 20)
    R = last.state.T_camera_ct[:, :3, :3]
    np.testing.assert_allclose(R @ R.transpose(0, 2, 1), np.broadcast_to(np.eye(3), R.shape),
                               atol=1e-9)  # fmt: skip
    np.testing.assert_allclose(np.linalg.det(R), 1.0, atol=1e-9)
    assert np.linalg.eigvalsh(last.state.covariance).min() > 0
