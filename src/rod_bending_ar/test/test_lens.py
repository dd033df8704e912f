# SPDX-License-Identifier: Apache-2.0
"""Points through a lens, held against OpenCV; triangles into pixels, held against rays."""

from __future__ import annotations

import cv2
import numpy as np
import open3d as o3d
import pytest
import trimesh

from rod_bending_ar.core.lens import Lens, lens_of
from rod_bending_ar.core.silhouette import FACES, silhouette
from spine_nav_common.core.images import CameraModel
from spine_nav_common.core.types import Intrinsics, Mesh

K = Intrinsics(320, 240, 300.0, 310.0, 161.0, 118.5)
MATRIX = np.array([[300.0, 0, 161.0], [0, 310.0, 118.5], [0, 0, 1.0]])
LENSES = (
    [0.1, -0.2, 0.002, -0.003],
    [0.1, -0.2, 0.002, -0.003, 0.05],
    [0.1, -0.2, 0.002, -0.003, 0.05, 0.2, -0.1, 0.01],
    [0.1, -0.2, 0.002, -0.003, 0.05, 0.2, -0.1, 0.01, 0.001, -0.002, 0.003, 0.001],
    [0.1, -0.2, 0.002, -0.003, 0.05, 0.2, -0.1, 0.01, 0.001, -0.002, 0.003, 0.001, 0.01, 0.02],
)


def points(count: int = 200) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.column_stack([rng.uniform(-0.3, 0.3, (count, 2)), rng.uniform(0.4, 0.8, count)])


@pytest.mark.parametrize("D", LENSES, ids=len)
def test_a_lens_bends_as_opencv_says(D):
    seen = Lens(K, np.array(D)).project(points())
    expected = cv2.projectPoints(points(), np.zeros(3), np.zeros(3), MATRIX, np.array(D))[0]
    np.testing.assert_allclose(seen, expected.reshape(-1, 2), atol=1e-6)


def test_a_fisheye_bends_as_opencv_says():
    D = np.array([0.05, -0.01, 0.002, 0.0])
    seen = Lens(K, D, fisheye=True).project(points())
    expected = cv2.fisheye.projectPoints(
        points()[:, None], np.zeros(3), np.zeros(3), MATRIX, D
    )[0]  # fmt: skip
    np.testing.assert_allclose(seen, expected.reshape(-1, 2), atol=1e-6)


def test_what_no_lens_sees_has_no_pixel():
    far = np.array([[0.0, 0.0, -0.5], [0.0, 0.0, 0.0], [5.0, 0.0, 0.5], [0.0, 0.0, 0.5]])
    seen = Lens(K, np.array(LENSES[1])).project(far)
    assert np.isnan(seen[:3]).all() and np.isfinite(seen[3]).all()


def test_a_camera_info_without_distortion_is_a_pinhole():
    model = CameraModel(320, 240, MATRIX, np.zeros(5), np.eye(3), np.zeros((3, 4)))
    assert len(lens_of(model).distortion) == 0
    bent = CameraModel(320, 240, MATRIX, np.array(LENSES[1]), np.eye(3), np.zeros((3, 4)))
    assert len(lens_of(bent).distortion) == 5


def rough(faces: int = 5120) -> Mesh:
    """A ball with bumps, which hides parts of itself."""
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.02)
    v = np.asarray(ball.vertices)
    v = v * (1.0 + 0.3 * np.sin(200.0 * v[:, :1]) * np.cos(180.0 * v[:, 1:2]))
    assert len(ball.faces) == faces
    return Mesh(v, np.asarray(ball.faces, np.int32))


def pose() -> np.ndarray:
    T = trimesh.transformations.rotation_matrix(0.6, (1, 2, 3))
    T[:3, 3] = (0.02, -0.01, 0.4)
    return T


def test_depth_and_mask_are_those_of_a_ray_per_pixel():
    mesh, T = rough(), pose()
    seen = silhouette(mesh, T, K)
    scene = o3d.t.geometry.RaycastingScene()
    vertices = (mesh.vertices_m @ T[:3, :3].T + T[:3, 3]).astype(np.float32)
    scene.add_triangles(
        o3d.core.Tensor.from_numpy(vertices), o3d.core.Tensor.from_numpy(mesh.faces.astype("u4"))
    )
    h, w = seen.mask.shape
    x = (seen.x0 + np.arange(w) - K.cx) / K.fx
    y = (seen.y0 + np.arange(h) - K.cy) / K.fy
    rays = np.zeros((h, w, 6), np.float32)
    rays[..., 3], rays[..., 4], rays[..., 5] = x[None], y[:, None], 1.0
    depth = scene.cast_rays(o3d.core.Tensor.from_numpy(rays))["t_hit"].numpy()
    hit = np.isfinite(depth)
    assert (hit != seen.mask).mean() < 0.01, f"thinned from {len(mesh.faces)} to {FACES}"
    both = hit & seen.mask
    error = np.abs(depth[both] - seen.depth_m[both])
    assert np.median(error) < 1e-4 and np.quantile(error, 0.95) < 5e-4


def middle(seen) -> np.ndarray:
    """(2,) x and y."""
    return np.argwhere(seen.mask)[:, ::-1].mean(axis=0) + (seen.x0, seen.y0)


def test_through_a_lens_a_silhouette_lies_where_the_lens_puts_its_points():
    lens = Lens(K, np.array([0.3, 0.1, 0.01, -0.01, 0.0]))
    T = pose()
    T[:3, 3] = (0.15, 0.08, 0.4)
    seen, straight = silhouette(rough(), T, lens), silhouette(rough(), T, K)
    # the mean of its pixels is not the projected middle; both are moved alike
    moved = middle(seen) - middle(straight)
    expected = lens.project(T[None, :3, 3])[0] - Lens(K).project(T[None, :3, 3])[0]
    assert np.linalg.norm(expected) > 3.0
    assert np.linalg.norm(moved - expected) < 1.0


def test_an_open_surface_is_seen_from_behind_too():
    square = np.array([[-0.02, -0.02, 0], [0.02, -0.02, 0], [0.02, 0.02, 0], [-0.02, 0.02, 0.0]])
    for faces in ([[0, 1, 2], [0, 2, 3]], [[0, 2, 1], [0, 3, 2]]):
        T = np.eye(4)
        T[2, 3] = 0.5
        assert silhouette(Mesh(square, np.array(faces, np.int32)), T, K).mask.sum() > 500
