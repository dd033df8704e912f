# SPDX-License-Identifier: Apache-2.0
"""Clustering of votes under noise and outliers, with the truth known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spine_perception.core.grid import Grid
from spine_perception.core.instances import assign_cells, find_instances
from spine_perception.core.segmentation import Segmentation

N, PITCH = 96, 0.0016
R = Rotation.from_euler("xyz", [95.0, -8.0, 20.0], degrees=True).as_matrix()


def _world(
    rng: np.random.Generator, n: int, noise_m: float, outliers: float, gap_m: float = 0.03
) -> tuple[Segmentation, np.ndarray]:
    """n vertebrae in a row along the cranial axis as the camera sees it, head first."""
    i, j = np.mgrid[:N, :N]
    points = np.dstack([(j - N / 2) * PITCH, (i - N / 2) * PITCH, np.full((N, N), 0.5)])
    along = R[:, 2] * gap_m
    centres = np.array([0, 0, 0.51]) + np.outer((n - 1) / 2 - np.arange(n), along)
    distance = np.linalg.norm((points[:, :, None] - centres)[..., :2], axis=3)
    nearest, bone = distance.argmin(axis=2), distance.min(axis=2) < 0.011
    votes = centres[nearest] + rng.normal(0, noise_m, (N, N, 3))
    stray = rng.random((N, N)) < outliers
    votes[stray] += rng.normal(0, 0.05, (int(stray.sum()), 3))

    def axis(column: int) -> np.ndarray:
        out = R[:, column] + rng.normal(0, 0.15, (N, N, 3))
        return out / np.linalg.norm(out, axis=2, keepdims=True)

    probability = np.where(bone, 0.95, 0.05).astype(np.float32)
    seg = Segmentation(
        probability,
        probability,
        votes.astype(np.float32),
        axis(2).astype(np.float32),
        axis(1).astype(np.float32),
        points.astype(np.float32),
        Grid(2.0, 10.0, 20.0),
    )
    return seg, centres


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize(("noise", "outliers"), [(0.0005, 0.0), (0.003, 0.25)])
def test_each_vertebra_is_found_once_from_head_to_foot(n, noise, outliers):
    seg, centres = _world(np.random.default_rng(1), n, noise, outliers)
    found = find_instances(seg)
    assert len(found) == n
    for instance, centre in zip(found, centres, strict=True):
        assert np.linalg.norm(instance.centre_m - centre) < 0.0015
        angle = Rotation.from_matrix(instance.R_camera_anatomy.T @ R).magnitude()
        assert np.degrees(angle) < 4.0
        assert instance.R_camera_anatomy.T @ instance.R_camera_anatomy == pytest.approx(np.eye(3))
        assert np.linalg.det(instance.R_camera_anatomy) == pytest.approx(1.0)
        assert instance.spread_m < 0.02
        assert 0.05 < instance.spread_rad < 0.4


def test_stray_votes_belong_to_nobody():
    seg, centres = _world(np.random.default_rng(2), 3, 0.001, 0.3)
    found = find_instances(seg)
    owner = assign_cells(seg, found)
    bone = seg.bone > 0.5
    far = np.linalg.norm(seg.centre_m[..., None, :] - centres, axis=3).min(axis=2) > 0.02
    assert (bone & far).sum() > 50
    assert (owner[bone & far] == -1).all()
    assert (owner[bone & ~far] >= 0).mean() > 0.95


def test_a_few_cells_make_no_vertebra():
    seg, _ = _world(np.random.default_rng(3), 2, 0.001, 0.0)
    few = np.zeros_like(seg.bone)
    few[:3, :3] = 0.9
    lonely = Segmentation(few, few, seg.centre_m, seg.cranial, seg.dorsal, seg.points_m, seg.grid)
    assert find_instances(lonely) == ()
    assert (assign_cells(lonely, ()) == -1).all()


def test_the_answer_does_not_depend_on_the_run():
    seg, _ = _world(np.random.default_rng(4), 4, 0.003, 0.2)
    first, second = find_instances(seg), find_instances(seg)
    assert [i.centre_m.tobytes() for i in first] == [i.centre_m.tobytes() for i in second]
