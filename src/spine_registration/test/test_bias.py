# SPDX-License-Identifier: Apache-2.0
"""The bias of a depth camera, as the poses answer to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import registration_support as support

from spine_nav_common.core.depth_camera import DEPTH_CAMERAS, DepthCamera
from spine_registration.core.bias import MAX_CENTRES, bias_basis, bias_response
from spine_registration.core.chain import chain_prior
from spine_registration.core.config import NavigatorConfig
from spine_registration.core.estimator import Noise, anchors, estimate, gate_m, twist_between

CAMERA = DepthCamera("test", 1e-3, 2e-3, 0.15, "a test")
CONFIG = NavigatorConfig()
SIGMA_M = 0.45e-3


@pytest.fixture(scope="module")
def scene(world_model):
    rng = np.random.default_rng(5)
    T = support.bent(world_model, support.rigid_pose(world_model), rng, 0.5, 1.0)
    pixels = support.bone_pixels(world_model, T, rng, noise_m=1e-5)
    noise = Noise(SIGMA_M, 1e-3, 1e-6 * CONFIG.correlation_area_mm2)
    return T, pixels, noise


def fit(model, pixels, T, noise):
    prior = chain_prior(model, T, 1.0, CONFIG)
    return estimate(model, pixels, prior, noise, T, (gate_m(SIGMA_M),) * 6)


def response(model, pixels, T, level, camera=CAMERA):
    prior = chain_prior(model, T, 1.0, CONFIG)
    weight = 1.0 / (1e-6 * CONFIG.correlation_area_mm2 * SIGMA_M**2)
    anchor = anchors(model, T)
    return bias_response(model, T, pixels, level, anchor, prior.information, weight, camera)


def test_the_basis_spans_a_field_of_the_stated_size_and_width():
    slope = np.random.default_rng(1).uniform([-0.4, -0.25], [0.4, 0.25], (400, 2))
    basis = bias_basis(slope, CAMERA)
    field = basis[:, 1:]
    assert field.shape[1] <= MAX_CENTRES
    np.testing.assert_allclose(basis[:, 0], CAMERA.scale_share)
    np.testing.assert_allclose(np.sqrt((field**2).sum(axis=1)), CAMERA.field_share, rtol=0.1)
    near = np.linalg.norm(slope[:, None] - slope[None], axis=2)
    correlation = field @ field.T / CAMERA.field_share**2
    one_width = np.abs(near - CAMERA.field_width) < 0.005
    assert np.median(correlation[one_width]) == pytest.approx(np.exp(-0.5), abs=0.08)


def test_a_wrong_scale_moves_every_level_along_its_line_of_sight(world_model, scene):
    T, pixels, noise = scene
    found = fit(world_model, pixels, T, noise)
    scale = response(world_model, pixels, T, found.level_of_pixel)[:, :, 0]
    anchor = anchors(world_model, T)
    view = anchor / np.linalg.norm(anchor, axis=1, keepdims=True)
    along = np.einsum("li,li->l", scale[:, :3], view)
    np.testing.assert_allclose(along, 1e-3 * np.linalg.norm(anchor, axis=1), rtol=0.25)


@pytest.mark.parametrize("seed", range(3))
def test_the_response_is_what_the_estimator_does_with_biased_pixels(world_model, scene, seed):
    T, pixels, noise = scene
    straight = fit(world_model, pixels, T, noise)
    rows = response(world_model, pixels, T, straight.level_of_pixel)
    slope = pixels.points_m[:, :2] / pixels.points_m[:, 2:]
    draw = np.random.default_rng(seed).normal(size=rows.shape[2])
    field = bias_basis(slope, CAMERA) @ draw
    biased = replace(pixels, points_m=(pixels.points_m * (1.0 + field[:, None])).astype(np.float32))
    moved = fit(world_model, biased, T, noise)
    seen = twist_between(moved.T_camera_ct, straight.T_camera_ct, anchors(world_model, T))
    told = rows @ draw
    size = np.abs(told[:, :3]).max()
    assert size > 3e-4  # a bias that nobody would notice proves nothing
    assert np.abs(seen[:, :3] - told[:, :3]).max() < 0.4 * size
    assert np.corrcoef(seen.ravel(), told.ravel())[0, 1] > 0.8


def test_a_level_without_pixels_follows_its_neighbours_and_stays_finite(world_model, scene):
    T, pixels, noise = scene
    level = fit(world_model, pixels, T, noise).level_of_pixel.copy()
    level[level == 2] = -1
    rows = response(world_model, pixels, T, level)
    assert np.isfinite(rows).all()
    assert np.linalg.norm(rows[2, :3, 0]) > 0.3 * np.linalg.norm(rows[1, :3, 0])


def test_a_camera_without_bias_does_not_exist():
    with pytest.raises(ValueError, match="must be positive"):
        replace(CAMERA, field_share=0.0)
    assert "generic" in DEPTH_CAMERAS and all(c.source for c in DEPTH_CAMERAS.values())
