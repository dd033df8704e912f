# SPDX-License-Identifier: Apache-2.0
"""Motion of vertebrae and camera."""

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spine_nav_common.core.geometry import check_transform, invert, rotation_angle
from spine_nav_sim.core import motion as mo

CENTROIDS = {f"L{i + 1}": np.array([0.0, 0.01 * i, -0.035 * i]) for i in range(5)}


def test_rigid_turns_about_its_pivot():
    pivot = np.array([0.1, -0.2, 0.3])
    T = mo.rigid(np.array([0.0, 0.0, 0.4]), pivot, np.array([0.0, 0.01, 0.0]))
    check_transform(T)
    np.testing.assert_allclose(T[:3, :3] @ pivot + T[:3, 3], pivot + [0.0, 0.01, 0.0], atol=1e-12)


def test_operating_pose_has_the_asked_spread_between_neighbours():
    turns, shifts = [], []
    for seed in range(300):
        poses = mo.operating_pose(CENTROIDS, np.random.default_rng(seed), 2.5, 1.0)
        np.testing.assert_array_equal(poses["L3"], np.eye(4))
        assert list(poses) == list(CENTROIDS)
        relative = invert(poses["L3"]) @ poses["L4"]
        turns.append(Rotation.from_matrix(relative[:3, :3]).as_rotvec())
        pivot = 0.5 * (CENTROIDS["L3"] + CENTROIDS["L4"])
        shifts.append(relative[:3, :3] @ pivot + relative[:3, 3] - pivot)
    assert np.degrees(np.std(turns, axis=0)) == pytest.approx(2.5, rel=0.15)
    assert 1e3 * np.std(shifts, axis=0) == pytest.approx(1.0, rel=0.15)


def test_operating_pose_is_clipped():
    for seed in range(20):
        poses = mo.operating_pose(CENTROIDS, np.random.default_rng(seed), 30.0, 0.0)
        relative = invert(poses["L1"]) @ poses["L2"]
        assert rotation_angle(relative[:3, :3]) <= np.radians(8.0) * np.sqrt(3.0) + 1e-9


def spine(breathing=None, pushes=()):
    rest = {level: np.eye(4) for level in CENTROIDS}
    return mo.SpineMotion(rest, CENTROIDS, breathing, pushes)


def test_breathing_has_amplitude_frequency_and_phase_per_level():
    up = np.array([0.0, 1.0, 0.0])
    breathing = mo.Breathing(
        0.25,
        {level: (1 + i) * 2e-4 * up for i, level in enumerate(CENTROIDS)},
        dict.fromkeys(CENTROIDS, 0.0),
        {level: 0.3 * i for i, level in enumerate(CENTROIDS)},
    )
    moving = spine(breathing)
    t = np.linspace(0.0, 4.0, 401)
    for i, level in enumerate(CENTROIDS):
        y = np.array([moving.T_world_ct(level, s)[1, 3] for s in t])
        assert np.max(np.abs(y)) == pytest.approx((1 + i) * 2e-4, rel=1e-3)
        np.testing.assert_allclose(y[0], y[-1], atol=1e-12)  # one period is 4 s
        np.testing.assert_allclose(y, (1 + i) * 2e-4 * np.sin(0.5 * np.pi * t + 0.3 * i))


def test_push_moves_one_level_and_lets_go_and_a_bump_stays():
    shift, turn = np.array([0.0, -0.003, 0.0]), np.array([0.02, 0.0, 0.0])
    press = mo.Push("L2", 1.0, 1.0, turn, shift)
    bump = mo.Push("L4", 3.0, 0.1, np.zeros(3), shift, lasting=True)
    moving = spine(pushes=(press, bump))
    np.testing.assert_array_equal(moving.T_world_ct("L2", 0.9), np.eye(4))
    T = moving.T_world_ct("L2", 1.5)
    np.testing.assert_allclose(T[:3, :3] @ CENTROIDS["L2"] + T[:3, 3] - CENTROIDS["L2"], shift)
    assert rotation_angle(T[:3, :3]) == pytest.approx(0.02)
    np.testing.assert_array_equal(moving.T_world_ct("L2", 2.1), np.eye(4))
    np.testing.assert_array_equal(moving.T_world_ct("L3", 1.5), np.eye(4))
    np.testing.assert_array_equal(moving.T_world_ct("L4", 2.99), np.eye(4))
    np.testing.assert_allclose(moving.T_world_ct("L4", 3.2)[:3, 3], shift)
    np.testing.assert_allclose(moving.T_world_ct("L4", 60.0)[:3, 3], shift)


def test_hand_held_camera_is_smooth_and_stays_near_its_mean():
    mean = mo.rigid(np.array([0.3, 0.2, 0.1]), np.zeros(3), np.array([0.0, 0.1, 0.5]))
    path = mo.hand_held(mean, np.random.default_rng(3), 12.0, 1.5)
    poses = [path.T_camera_world(t) for t in np.arange(0.0, 10.0, 1 / 30)]
    for T in poses:
        check_transform(T)
        away = T @ invert(mean)
        assert np.linalg.norm(away[:3, 3]) < 0.030
        assert rotation_angle(away[:3, :3]) < np.radians(4.0)
    steps = [np.linalg.norm(b[:3, 3] - a[:3, 3]) for a, b in itertools.pairwise(poses)]
    assert 0.0 < max(steps) < 0.003  # under 9 cm/s
    assert path.moves
    assert not mo.still(mean).moves
    np.testing.assert_array_equal(mo.still(mean).T_camera_world(5.0), mean)
