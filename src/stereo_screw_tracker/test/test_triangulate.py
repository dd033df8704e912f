# SPDX-License-Identifier: Apache-2.0
"""Triangulation against OpenCV, against Monte Carlo, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from screw_support import CAMERA, heads_m, observe

from spine_nav_common.core.types import Rejected
from stereo_screw_tracker.core.triangulate import (
    pair_jacobians,
    project_pair,
    triangulate,
    triangulate_head,
    widened,
)

LIMITS = (0.15, 1.5)
# a head seen worse along the rows than across, and left and right not independent
COVARIANCE = np.array(
    [
        [0.09, 0.01, 0.03, 0.0],
        [0.01, 0.04, 0.0, 0.015],
        [0.03, 0.0, 0.12, -0.01],
        [0.0, 0.015, -0.01, 0.05],
    ]
)


@given(
    st.floats(-0.15, 0.15), st.floats(-0.12, 0.12), st.floats(0.2, 1.2),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_exact_places_give_the_exact_point(x: float, y: float, z: float) -> None:
    point = np.array([[x, y, z]])
    found = triangulate(CAMERA, *project_pair(CAMERA, point), COVARIANCE)
    assert np.allclose(found.point_m, point, atol=1e-12)
    assert abs(found.row_px[0]) < 1e-9


def test_agrees_with_opencv() -> None:
    """cv2.triangulatePoints minimises an algebraic error; on consistent pixels both are exact, on
    noisy ones they differ by a fraction of the standard error."""
    rng = np.random.default_rng(1)
    points = heads_m()
    left, right = (p + rng.normal(0.0, 0.2, p.shape) for p in project_pair(CAMERA, points))
    k, b = CAMERA.intrinsics, CAMERA.baseline_m
    K = np.array([[k.fx, 0, k.cx], [0, k.fy, k.cy], [0, 0, 1.0]])
    P_left = K @ np.eye(3, 4)
    P_right = K @ np.hstack([np.eye(3), [[-b], [0], [0]]])
    h = cv2.triangulatePoints(P_left, P_right, left.T, right.T)
    theirs = (h[:3] / h[3]).T
    found = triangulate(CAMERA, left, right, np.eye(4) * 0.04)
    sigma = np.sqrt(np.trace(found.covariance_m2, axis1=1, axis2=2))
    assert (np.linalg.norm(found.point_m - theirs, axis=1) < 0.1 * sigma).all()
    assert (np.linalg.norm(found.point_m - points, axis=1) < 4.0 * sigma).all()


def test_covariance_is_what_noise_does() -> None:
    rng = np.random.default_rng(2)
    point = np.array([[0.06, -0.04, 0.5]])
    left, right = project_pair(CAMERA, point)
    pixels = np.concatenate([left, right], axis=1)
    noisy = pixels + rng.multivariate_normal(np.zeros(4), COVARIANCE, 40000)
    found = triangulate(CAMERA, noisy[:, :2], noisy[:, 2:], COVARIANCE)
    sampled = np.cov(found.point_m.T)
    stated = triangulate(CAMERA, left, right, COVARIANCE).covariance_m2[0]
    assert np.allclose(sampled, stated, rtol=0.06, atol=0.02 * np.abs(stated).max())
    # at 0.5 m one pixel of disparity is 7 mm of depth: the error is nearly all depth
    assert np.sqrt(stated[2, 2]) > 5.0 * np.sqrt(stated[0, 0] - stated[0, 2] ** 2 / stated[2, 2])
    assert abs(np.std(found.row_px) - found.row_sigma_px[0]) < 0.01


def test_weights_count() -> None:
    """With correlated noise the weighted answer beats the plain one."""
    rng = np.random.default_rng(3)
    covariance = np.diag([0.04, 1.0, 0.04, 0.01])  # the right row is far better than the left
    point = np.array([[0.0, 0.05, 0.5]])
    pixels = np.concatenate(project_pair(CAMERA, point), axis=1)
    noisy = pixels + rng.multivariate_normal(np.zeros(4), covariance, 2000)
    weighted = triangulate(CAMERA, noisy[:, :2], noisy[:, 2:], covariance).point_m
    plain = triangulate(CAMERA, noisy[:, :2], noisy[:, 2:], np.eye(4)).point_m
    assert weighted[:, 1].std() < 0.7 * plain[:, 1].std()


def test_jacobians_are_the_derivative_of_the_projection() -> None:
    points = heads_m()
    for J, eye in zip(pair_jacobians(CAMERA, points), (0, 1), strict=True):
        for axis in range(3):
            step = np.zeros(3)
            step[axis] = 1e-6
            moved = (
                project_pair(CAMERA, points + step)[eye] - project_pair(CAMERA, points - step)[eye]
            )
            assert np.allclose(J[..., axis], moved / 2e-6, rtol=1e-5, atol=1e-4)


def test_row_error_of_calibration_goes_into_the_rows_alone() -> None:
    wide = widened(COVARIANCE, 0.5)
    assert wide[3, 3] == COVARIANCE[3, 3] + 0.25
    assert (wide - COVARIANCE)[:3, :3].max() == 0.0
    assert COVARIANCE[3, 3] == 0.05  # the input stays


def test_a_head_keeps_what_the_network_said_of_it() -> None:
    head = triangulate_head(CAMERA, observe(np.array([0.0, 0.0, 0.5]), confidence=0.7), LIMITS)
    assert not isinstance(head, Rejected)
    assert head.confidence == 0.7
    assert np.allclose(head.point_m, [0.0, 0.0, 0.5])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"right_px": np.array([400.0, 240.0])}, "behind the camera"),
        ({"right_px": np.array([320.0, 240.0])}, "behind the camera"),
        ({"right_px": np.array([319.0, 240.0])}, "depth"),
        ({"right_px": np.array([-200.0, 240.0])}, "depth"),
        ({"left_px": np.array([np.nan, 240.0])}, "not finite"),
        ({"covariance_px2": np.full((4, 4), np.inf)}, "not finite"),
        ({"covariance_px2": -np.eye(4)}, "positive definite"),
        ({"axis": np.zeros(3)}, "length 0"),
        ({"confidence": float("nan")}, "not finite"),
    ],
)
def test_what_is_no_head_is_refused_in_words(changes: dict, words: str) -> None:
    observation = replace(observe(np.array([0.0, 0.0, 0.5])), **changes)
    answer = triangulate_head(CAMERA, observation, LIMITS)
    assert isinstance(answer, Rejected)
    assert words in answer.reason


def test_shapes_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"\(N, 2\)"):
        triangulate(CAMERA, np.zeros((3, 2)), np.zeros((2, 2)), np.eye(4))
