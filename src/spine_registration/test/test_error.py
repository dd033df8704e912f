# SPDX-License-Identifier: Apache-2.0
"""The predicted error: a bound that covers what it says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spine_registration.core.error import (
    ErrorInputs,
    ErrorModel,
    load_error_model,
    predicted_tre_mm,
    total_covariance,
)

ANCHOR = np.array([0.02, -0.01, 0.5])
POINTS = ANCHOR + 1e-3 * np.array([[20, 5, 10], [10, 8, 50], [-20, 5, 10], [-10, 8, 50.0]])
MODEL = ErrorModel(
    filter_gain=1.2, static_gain=0.8, bias_gain=1.5, lateral_mm=0.3, axial_mm=0.7, rotation_deg=0.5
)
NO_BIAS = np.zeros((6, 3))


def covariance(seed):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(6, 6)) * np.r_[[6e-4] * 3, [8e-3] * 3][:, None]
    return A @ A.T / 3 + np.diag(np.r_[[1e-8] * 3, [1e-6] * 3])


def draws_mm(C, points, n=20000):
    xi = np.random.default_rng(5).multivariate_normal(np.zeros(6), C, n)
    shift = xi[:, None, :3] + np.cross(xi[:, None, 3:], (points - ANCHOR)[None])
    return 1e3 * np.linalg.norm(shift, axis=2).mean(axis=1)


@pytest.mark.parametrize("seed", range(6))
def test_the_bound_covers_95_of_100_draws(seed):
    C = covariance(seed)
    covered = np.mean(draws_mm(C, POINTS) < predicted_tre_mm(C, ANCHOR, POINTS))
    assert 0.93 < covered < 0.97


def test_the_bound_grows_with_the_lever_arm_of_a_turn():
    C = np.diag(np.r_[[1e-10] * 3, [np.deg2rad(1.0) ** 2] * 3])
    bounds = [predicted_tre_mm(C, ANCHOR, ANCHOR + s * (POINTS - ANCHOR)) for s in (0.5, 1, 2)]
    np.testing.assert_allclose(bounds[1] / bounds[0], 2.0, rtol=0.02)
    np.testing.assert_allclose(bounds[2] / bounds[1], 2.0, rtol=0.02)


def test_the_same_input_gives_the_same_bound_bit_for_bit():
    C = covariance(1)
    assert predicted_tre_mm(C, ANCHOR, POINTS) == predicted_tre_mm(C.copy(), ANCHOR, POINTS)


def test_the_whole_covariance_is_never_smaller_than_its_parts():
    filter_, frame = covariance(1), covariance(2)
    total = total_covariance(ErrorInputs(filter_, frame, ANCHOR, POINTS, NO_BIAS), MODEL)
    for part in (1.2**2 * filter_, 0.8**2 * frame):
        assert np.linalg.eigvalsh(total - part).min() > 0
    np.testing.assert_allclose(total, total.T, atol=1e-15)


def test_the_bias_of_the_depth_lies_along_the_view():
    anchor = np.array([0.3, 0.0, 0.4])
    none = np.zeros((6, 6))
    total = total_covariance(ErrorInputs(none, none, anchor, POINTS, NO_BIAS), MODEL)
    view, across = anchor / 0.5, np.array([0.0, 1.0, 0.0])
    assert view @ total[:3, :3] @ view == pytest.approx(0.7e-3**2)
    assert across @ total[:3, :3] @ across == pytest.approx(0.3e-3**2)


def test_the_camera_s_bias_widens_the_bound_as_its_gain_says():
    none, bias = np.zeros((6, 6)), np.random.default_rng(4).normal(size=(6, 3)) * 1e-3
    without, with_ = (
        total_covariance(ErrorInputs(none, none, ANCHOR, POINTS, b), MODEL) for b in (NO_BIAS, bias)
    )
    np.testing.assert_allclose(with_ - without, 1.5**2 * bias @ bias.T, atol=1e-12)


def test_no_number_of_frames_makes_the_bound_vanish():
    tiny = 1e-12 * np.eye(6)
    C = total_covariance(ErrorInputs(tiny, tiny, ANCHOR, POINTS, NO_BIAS), load_error_model())
    assert predicted_tre_mm(C, ANCHOR, POINTS) > 0.3


def test_the_shipped_model_loads():
    model = load_error_model()
    assert min(vars(model).values()) > 0


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), None])
def test_a_fit_with_a_bad_size_is_refused_with_the_remedy(tmp_path, value):
    content = dict(vars(MODEL))
    if value is None:
        del content["axial_mm"]
    else:
        content["axial_mm"] = value
    file = tmp_path / "fit.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="axial_mm must be positive.*fit_error") as caught:
        load_error_model(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"filter_gain": "much"}'])
def test_a_file_that_is_no_fit_is_refused(tmp_path, text):
    file = tmp_path / "fit.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="fit.json"):
        load_error_model(file)
