# SPDX-License-Identifier: Apache-2.0
"""What a depth image says of a pose: agrees, covered, contradicted."""

from __future__ import annotations

import numpy as np
import pytest
import registration_support as support

from spine_registration.core.visibility import view_levels


@pytest.fixture(scope="module")
def stage(world, world_model):
    return support.Stage(world, world_model, noise_m=0.3e-3)


@pytest.fixture(scope="module")
def shot(stage, world_model):
    """Truth and depth of bare bone: no bed hides anything."""
    T = support.rigid_pose(world_model)
    return T, stage.frame(1, T).depth_m


def shares(model, T, depth):
    views = view_levels(model, T, depth, support.CAMERA)
    return [np.array([getattr(v, name) for v in views])
            for name in ("agree", "covered", "contradicted")]  # fmt: skip


def test_at_the_true_pose_the_depth_agrees_or_is_covered_by_the_bed(world_model, shot):
    agree, covered, contradicted = shares(world_model, *shot)
    assert agree.min() > 0.5
    assert contradicted.max() < 0.05
    assert (agree + covered + contradicted > 0.97).all()


def test_a_hand_covers_and_does_not_contradict(world_model, shot):
    T, depth = shot
    agree, covered, contradicted = shares(world_model, T, np.full_like(depth, 0.4))
    assert covered.min() > 0.99
    assert agree.max() == 0.0
    assert contradicted.max() == 0.0


def test_a_camera_that_looks_through_contradicts(world_model, shot):
    T, depth = shot
    _, covered, contradicted = shares(world_model, T, np.full_like(depth, 0.8))
    assert contradicted.min() > 0.99
    assert covered.max() == 0.0


def test_one_level_pulled_out_of_the_bone_contradicts_alone(world_model, shot):
    T, depth = shot
    wrong = T.copy()
    wrong[2, :3, 3] += [0.0, 0.0, -15e-3]
    _, _, contradicted = shares(world_model, wrong, depth)
    assert contradicted[2] > 0.6
    assert np.delete(contradicted, 2).max() < 0.1


def test_no_depth_says_nothing(world_model, shot):
    T, depth = shot
    for share in shares(world_model, T, np.full_like(depth, np.nan)):
        assert share.max() == 0.0


def test_a_level_outside_the_image_is_not_in_view(world_model, shot):
    T, depth = shot
    away = support.moved(T, (1.0, 0.0, 0.0))
    views = view_levels(world_model, away, depth, support.CAMERA)
    assert max(v.in_view for v in views) == 0.0
    assert max(v.contradicted for v in views) == 0.0
    behind = support.moved(T, (0.0, 0.0, -1.0))
    assert max(v.in_view for v in view_levels(world_model, behind, depth, support.CAMERA)) == 0.0
    here = view_levels(world_model, T, depth, support.CAMERA)
    assert min(v.in_view for v in here[1:4]) > 0.95
