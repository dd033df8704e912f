# SPDX-License-Identifier: Apache-2.0
"""The peers are no straw men: with the right pixels they find a spine that has one answer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spine_nav_bench import peers
from spine_nav_common.core.types import Case, Rejected
from spine_nav_sim.core.anatomy import make_anatomy

LEVELS = ("L2", "L3", "L4", "L5")
ANATOMY = make_anatomy(np.random.default_rng(4), LEVELS, "train-4")  # a seed of the list `train`
CASE = Case("virtual", "LPS", ANATOMY.meshes, LEVELS, (), "")


@pytest.fixture(scope="module")
def view():
    """A camera behind the patient, rolled and tilted: scene of the visible surface and the truth."""
    R_camera_ct = (
        Rotation.from_euler("z", 35, degrees=True) * Rotation.from_euler("x", -80, degrees=True)
    ).as_matrix()
    T = np.eye(4)
    T[:3, :3] = R_camera_ct
    T[:3, 3] = (0.02, 0.01, 0.5) - R_camera_ct @ ANATOMY.meshes["L3"].vertices_m.mean(axis=0)
    model = peers.prepare(CASE)
    other = peers.prepare(CASE, seed=3)  # other samples of the same surface than the model's
    parts = []
    for surface in other.levels.values():  # what a wound lays open: dorsal, 56 mm wide
        _, dorsal, left = (surface.points_m @ other.R_ct_anatomy).T
        opened = (dorsal > dorsal.max() - 0.045) & (np.abs(left - left.mean()) < 0.028)
        parts.append((surface.points_m[opened], surface.normals[opened]))
    points, normals = (np.concatenate(both) for both in zip(*parts, strict=True))
    points, normals = points @ T[:3, :3].T + T[:3, 3], normals @ T[:3, :3].T
    seen = np.einsum("ij,ij->i", normals, points) < -0.1 * np.linalg.norm(points, axis=1)
    rng = np.random.default_rng(0)
    noisy = points[seen] + rng.normal(0, 3e-4, (int(seen.sum()), 3))
    votes = np.ones((int(seen.sum()), 1))
    scene = peers.Scene(noisy, normals[seen], votes * R_camera_ct[:, 2], votes * R_camera_ct[:, 1])
    return scene, model, T


@pytest.mark.parametrize("name", peers.PEERS)
def test_every_peer_finds_a_clear_view(view, name):
    scene, model, T = view
    found = peers.PEERS[name](scene, model, peers.PeerParameters(), 0)
    assert not isinstance(found, Rejected)
    assert tuple(found) == LEVELS
    for level, T_found in found.items():
        points = CASE.meshes[level].vertices_m
        moved = points @ (T_found - T)[:3, :3].T + (T_found - T)[:3, 3]
        assert np.linalg.norm(moved, axis=1).mean() < 2.5e-3, level


def test_equal_seeds_give_equal_poses(view):
    scene, model, _ = view
    first, second = (
        peers.multi_start_icp(scene, model, peers.PeerParameters(shifts=1), 0) for _ in range(2)
    )
    assert all((first[level] == second[level]).all() for level in first)


@pytest.mark.parametrize("name", peers.PEERS)
def test_too_little_bone_is_refused_not_guessed(view, name):
    scene, model, _ = view
    few = peers.Scene(
        *(a[:20] for a in (scene.points_m, scene.normals, scene.cranial, scene.dorsal))
    )
    assert isinstance(peers.PEERS[name](few, model, peers.PeerParameters(), 0), Rejected)


def test_without_votes_the_oriented_peer_refuses(view):
    scene, model, _ = view
    blind = peers.Scene(scene.points_m, scene.normals, scene.cranial * np.nan, scene.dorsal)
    found = peers.segment_orient_icp(blind, model, peers.PeerParameters(), 0)
    assert isinstance(found, Rejected)
    assert "votes" in found.reason


def test_the_sampled_surface_faces_the_camera_behind_the_patient():
    model = peers.prepare(CASE)
    assert (model.spine.normals @ model.R_ct_anatomy[:, 1] > -0.31).all()
    mirrored = Case("ras", "RAS", CASE.meshes, CASE.exposed_levels, (), "")
    assert peers.prepare(mirrored).R_ct_anatomy[1, 1] == -1.0


def test_every_peer_has_searched_parameters_and_names_its_settings():
    parameters = peers.load_parameters()
    assert set(parameters) == set(peers.PEERS) == set(peers.SETTINGS)
    for name, p in parameters.items():
        assert set(peers.settings_of(name, p)) == set(peers.SETTINGS[name])
