# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from spine_nav_common.core import geometry as g
from spine_nav_common.core.types import Intrinsics

settings.register_profile("quick", max_examples=60, deadline=None)
settings.load_profile("quick")

vectors = arrays(np.float64, 3, elements=st.floats(-1.0, 1.0))
angles = st.one_of(st.floats(0.0, 3.14159), st.sampled_from([0.0, 1e-9, 1e-5, 1e-4, np.pi - 1e-7]))


@st.composite
def rotation_vectors(draw) -> np.ndarray:
    axis = draw(vectors.filter(lambda v: np.linalg.norm(v) > 1e-3))
    return axis / np.linalg.norm(axis) * draw(angles)


@st.composite
def twists(draw) -> np.ndarray:
    return np.concatenate([draw(vectors), draw(rotation_vectors())])


def hat(xi: np.ndarray) -> np.ndarray:
    M = np.zeros((4, 4))
    M[:3, :3] = g.skew(xi[3:])
    M[:3, 3] = xi[:3]
    return M


@given(twists())
def test_exp_is_the_matrix_exponential(xi):
    np.testing.assert_allclose(g.exp_se3(xi), expm(hat(xi)), atol=1e-10)


@given(rotation_vectors())
def test_rotation_agrees_with_scipy(w):
    R = Rotation.from_rotvec(w).as_matrix()
    np.testing.assert_allclose(g.exp_so3(w), R, atol=1e-12)
    np.testing.assert_allclose(g.exp_so3(g.log_so3(R)), R, atol=1e-9)
    assert g.rotation_angle(R) == pytest.approx(np.linalg.norm(w), abs=1e-7)
    q = g.q_xyzw_from_rotation(R)
    assert q[3] >= 0.0
    assert abs(q @ Rotation.from_matrix(R).as_quat()) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(g.rotation_from_q_xyzw(q), R, atol=1e-12)


@given(twists())
def test_log_inverts_exp(xi):
    T = g.exp_se3(xi)
    np.testing.assert_allclose(g.exp_se3(g.log_se3(T)), T, atol=1e-8)
    if np.linalg.norm(xi[3:]) < 3.0:  # at pi the axis may turn round
        np.testing.assert_allclose(g.log_se3(T), xi, atol=1e-7)


@given(twists(), twists())
def test_group_axioms(a, b):
    A, B = g.exp_se3(a), g.exp_se3(b)
    np.testing.assert_allclose(A @ g.invert(A), np.eye(4), atol=1e-12)
    np.testing.assert_allclose(g.invert(A @ B), g.invert(B) @ g.invert(A), atol=1e-12)
    g.check_transform(A @ B)


@given(twists(), twists())
def test_adjoint_moves_a_twist_to_the_other_side(t, xi):
    T = g.exp_se3(t)
    np.testing.assert_allclose(
        g.exp_se3(g.adjoint(T) @ xi), T @ g.exp_se3(xi) @ g.invert(T), atol=1e-8
    )


@given(twists(), twists(), vectors)
def test_perturbation_turns_about_its_anchor(t, xi, anchor):
    xi = np.concatenate([np.zeros(3), xi[3:]])
    T = g.exp_se3(t)
    moved = g.perturb_about(T, xi, anchor)
    fixed = g.transform_points(g.invert(T), anchor)  # the point of the body that is at the anchor
    np.testing.assert_allclose(g.transform_points(moved, fixed), anchor, atol=1e-9)
    np.testing.assert_allclose(moved[:3, :3], g.exp_so3(xi[3:]) @ T[:3, :3], atol=1e-9)


@given(twists(), st.integers(0, 2**32 - 1))
def test_kabsch_finds_the_motion_and_ignores_weightless_outliers(xi, seed):
    rng = np.random.default_rng(seed)
    T = g.exp_se3(xi)
    source = rng.normal(size=(8, 3))
    target = g.transform_points(T, source)
    np.testing.assert_allclose(g.kabsch(source, target), T, atol=1e-8)
    target[0] += 5.0
    weights = np.ones(8)
    weights[0] = 0.0
    np.testing.assert_allclose(g.kabsch(source, target, weights), T, atol=1e-8)


def test_kabsch_agrees_with_scipy_on_noise_and_never_mirrors():
    rng = np.random.default_rng(3)
    source = rng.normal(size=(20, 3))
    target = source * (1.0, 1.0, -1.0) + rng.normal(scale=0.1, size=(20, 3))
    T = g.kabsch(source, target)
    expected, _ = Rotation.align_vectors(target - target.mean(0), source - source.mean(0))
    np.testing.assert_allclose(T[:3, :3], expected.as_matrix(), atol=1e-9)
    assert np.linalg.det(T[:3, :3]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "points", [np.zeros((2, 3)), np.outer(np.arange(5.0), [1.0, 2.0, 3.0]), np.zeros((5, 3))]
)
def test_kabsch_refuses_points_without_a_rotation(points):
    with pytest.raises(ValueError, match="kabsch"):
        g.kabsch(points, points)


def _bad(change) -> np.ndarray:
    T = g.exp_se3(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    change(T)
    return T


@pytest.mark.parametrize(
    ("T", "words"),
    [
        (np.eye(3), "shape"),
        (_bad(lambda T: T.__setitem__((0, 3), np.nan)), "NaN"),
        (_bad(lambda T: T.__setitem__((0, 0), T[0, 0] + 1e-4)), "orthonormal"),
        (_bad(lambda T: T.__setitem__((slice(3), 0), -T[:3, 0])), "mirrors"),
        (_bad(lambda T: T.__setitem__((3, 0), 1.0)), "last row"),
    ],
)
def test_check_transform_refuses(T, words):
    with pytest.raises(ValueError, match=words):
        g.check_transform(T, "T_camera_ct")


@pytest.mark.parametrize("q", [np.zeros(4), np.full(4, np.nan), np.ones(3)])
def test_no_quaternion_is_refused(q):
    with pytest.raises(ValueError, match="quaternion"):
        g.rotation_from_q_xyzw(q)


CAMERA = Intrinsics(640, 480, 610.0, 605.0, 321.5, 238.25)


def test_projection_agrees_with_opencv_and_inverts():
    points = np.random.default_rng(0).uniform([-0.2, -0.2, 0.3], [0.2, 0.2, 0.8], (50, 3))
    K = np.array([[610.0, 0, 321.5], [0, 605.0, 238.25], [0, 0, 1]])
    expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, None)[0].reshape(-1, 2)
    uv = g.project(CAMERA, points)
    np.testing.assert_allclose(uv, expected, atol=1e-9)
    np.testing.assert_allclose(g.backproject(CAMERA, uv, points[:, 2]), points, atol=1e-12)


def test_nothing_behind_the_camera_has_a_pixel():
    uv = g.project(CAMERA, np.array([[0.0, 0.0, -0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.5]]))
    assert np.isnan(uv[:2]).all()
    np.testing.assert_allclose(uv[2], (321.5, 238.25))


def test_depth_image_becomes_points_and_holes_stay_holes():
    depth = np.full((480, 640), 0.5, np.float32)
    depth[10, 20] = np.nan
    points = g.backproject_depth(CAMERA, depth)
    assert points.shape == (480, 640, 3)
    assert points.dtype == np.float32
    assert np.isnan(points[10, 20]).all()
    np.testing.assert_allclose(g.project(CAMERA, points[7, 9]), (9, 7), atol=1e-3)
