# SPDX-License-Identifier: Apache-2.0
"""The distance grids against exact distances, and the surface seen from behind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import open3d as o3d
import pytest
import registration_support as support

from spine_nav_common.core.types import Mesh
from spine_registration.core.model import build_model

L3 = 2  # index in the fixture's model


@pytest.fixture(scope="module")
def exact(case):
    """Signed distance of mesh points to L3, from the triangles."""
    mesh = case.meshes["L3"]
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(
        o3d.core.Tensor(mesh.vertices_m.astype(np.float32)),
        o3d.core.Tensor(mesh.faces.astype(np.uint32)),
    )

    def distance(points):
        p = o3d.core.Tensor(points.astype(np.float32))
        inside = scene.compute_occupancy(p, nthreads=1).numpy() > 0.5
        return scene.compute_distance(p, nthreads=1).numpy() * np.where(inside, -1.0, 1.0)

    return distance


def near_surface(model, rng, reach_m=4e-3, n=4000):
    """Points off L3's dorsal samples along their normals."""
    i = rng.integers(0, model.dorsal_m.shape[1], n)
    off = rng.uniform(-reach_m, reach_m, (n, 1))
    return model.dorsal_m[L3][i] + off * model.dorsal_normal[L3][i]


def test_distance_is_exact_to_a_fraction_of_a_millimetre(model, exact):
    points = near_surface(model, np.random.default_rng(0))
    want = exact(points)
    band = np.abs(want) < 4e-3
    got, _ = model.surface(points.astype(np.float32), np.eye(4), L3)
    error = 1e3 * np.abs(got - want)
    assert np.mean(error[band]) < 0.08
    # Inside a thin lamina the distance has a crease halfway between its two faces, which no node
    # resolves; measured points lie outside or a little inside.
    used = band & (want > -1e-3)
    assert np.mean(error[used]) < 0.05
    assert np.percentile(error[used], 95) < 0.15


def test_sign_is_negative_in_bone_only(model, exact):
    points = near_surface(model, np.random.default_rng(1))
    want = exact(points)
    clear = np.abs(want) > 0.5e-3
    got, _ = model.surface(points.astype(np.float32), np.eye(4), L3)
    assert (np.sign(got) == np.sign(want))[clear].all()


def test_the_normal_points_out_of_the_bone(model, exact):
    points = model.dorsal_m[L3]
    _, normal = model.surface(points.astype(np.float32), np.eye(4), L3)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1.0, atol=1e-5)
    cosine = np.einsum("ij,ij->i", normal, model.dorsal_normal[L3])
    assert np.median(cosine) > 0.97
    step = exact(points + 1e-3 * normal) - exact(points - 1e-3 * normal)
    assert np.mean(step > 0) > 0.99


def test_no_answer_outside_the_grid(model):
    mesh_low = model.origin_m[L3]
    far = np.array([mesh_low - 5e-3, mesh_low + 0.5, model.anchor_m[L3]], np.float32)
    distance, _ = model.surface(far, np.eye(4), L3)
    assert np.isnan(distance[:2]).all()
    assert np.isfinite(distance[2])


def test_a_posed_level_gives_the_distance_in_its_own_frame(model):
    T = support.rigid_pose(model, 37.0, (10.0, -15.0))[L3]
    points = near_surface(model, np.random.default_rng(4), n=500)
    own, own_normal = model.surface(points.astype(np.float32), np.eye(4), L3)
    posed = points @ T[:3, :3].T + T[:3, 3]
    got, normal = model.surface(posed.astype(np.float32), T, L3)
    # A rounding error may look a point up at the next node: the median, not the largest.
    assert np.median(np.abs(got - own)) < 1e-6
    assert np.percentile(np.abs(got - own), 99) < 0.3e-3
    same = np.einsum("ij,ij->i", normal @ T[:3, :3], own_normal)
    assert np.median(same) > 0.9999


def test_dorsal_samples_lie_on_the_surface_and_face_the_surgeon(model, exact):
    assert 1e3 * np.abs(exact(model.dorsal_m[L3])).max() < 0.02
    normals = model.dorsal_normal
    np.testing.assert_allclose(np.linalg.norm(normals, axis=2), 1.0, atol=1e-4)
    # Facing (cosine > 0.25) a view at most 31 degrees off posterior.
    assert (normals @ model.axes[:, 1]).min() > np.cos(np.deg2rad(90 - 14.5 + 31)) - 1e-3
    assert (normals @ model.axes[:, 1]).mean() > 0.3
    for k in range(len(model.levels)):  # spread over the bone, not clustered
        assert np.ptp(model.dorsal_m[k] @ model.axes[:, 0]) > 0.05


@pytest.fixture(scope="module")
def ras_model(case):
    """L3 and L2, in this order, without a plan, in RAS, of which L3 is exposed."""
    flip = np.diag([-1.0, -1.0, 1.0])
    meshes = {v: Mesh(case.meshes[v].vertices_m @ flip, case.meshes[v].faces) for v in ("L3", "L2")}
    return build_model(replace(case, frame="RAS", meshes=meshes, exposed_levels=("L3",), plan=()))


def test_levels_are_ordered_from_the_head_whatever_the_file_says(ras_model):
    assert ras_model.levels == ("L2", "L3")
    assert ras_model.exposed.tolist() == [False, True]
    assert ras_model.centroid_m[0, 2] > ras_model.centroid_m[1, 2]


def test_a_case_without_plan_is_judged_over_its_vertices(ras_model, model):
    points = ras_model.plan_points_m[1]
    assert 64 <= len(points) <= 128
    np.testing.assert_allclose(points.mean(axis=0), ras_model.centroid_m[1], atol=5e-3)
    assert len(model.plan_points_m[L3]) == 4


def test_lps_and_ras_are_the_same_patient(ras_model, model):
    flip = np.diag([-1.0, -1.0, 1.0])
    np.testing.assert_allclose(ras_model.anchor_m[1] @ flip, model.anchor_m[L3], atol=1e-5)
    np.testing.assert_allclose(ras_model.centroid_m[1] @ flip, model.centroid_m[L3], atol=1e-9)
    assert (ras_model.dorsal_normal[1] @ ras_model.axes[:, 1]).mean() > 0.3
    assert ras_model.axes[1, 1] == -1.0  # posterior is -y in RAS
    points = near_surface(model, np.random.default_rng(5), n=1000)
    want, _ = model.surface(points.astype(np.float32), np.eye(4), L3)
    got, _ = ras_model.surface((points @ flip).astype(np.float32), np.eye(4), 1)
    used = want > -1e-3
    assert np.percentile(1e3 * np.abs(got - want)[used], 95) < 0.2
