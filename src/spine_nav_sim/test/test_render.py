# SPDX-License-Identifier: Apache-2.0
"""Ray casting against closed forms and OpenCV's projection; shading."""

import cv2
import numpy as np
import trimesh

from spine_nav_common.core.geometry import backproject_depth, invert
from spine_nav_common.core.types import Intrinsics
from spine_nav_sim.core import render as re
from spine_nav_sim.core.motion import rigid

K = Intrinsics(160, 120, 150.0, 152.0, 77.3, 60.9)
RAYS = re.pixel_rays(K)
POSE = rigid(np.array([0.3, -0.8, 1.9]), np.zeros(3), np.array([0.02, -0.01, 0.5]))


def ball(radius=0.05):
    mesh = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    height = np.asarray(mesh.vertices[:, 2], np.float32)
    return re.make_solid(np.asarray(mesh.vertices), np.asarray(mesh.faces, np.int32), height)


def sphere_depth(centre, radius):
    """(H, W) analytic depth of a sphere in the camera frame, inf where missed."""
    a = np.einsum("hwk,hwk->hw", RAYS, RAYS)
    b = RAYS @ centre
    root = b**2 - a * (centre @ centre - radius**2)
    return np.where(root > 0, (b - np.sqrt(np.maximum(root, 0.0))) / a, np.inf)


def test_depth_of_a_sphere_is_the_closed_form():
    hits = re.cast(ball(), POSE, RAYS, K, 1)
    expected = sphere_depth(POSE[:3, 3], 0.05).ravel()
    assert abs(len(hits.pixels) - np.isfinite(expected).sum()) < 25
    both = hits.pixels[np.isfinite(expected[hits.pixels])]
    inner = expected[both] < 0.48  # the rim of a polyhedron is not the sphere's
    got = dict(zip(hits.pixels.tolist(), hits.depth.tolist(), strict=True))
    measured = np.array([got[p] for p in both[inner]])
    np.testing.assert_allclose(measured, expected[both[inner]], atol=5e-5)


def test_hits_project_back_onto_their_pixels_by_opencv():
    hits = re.cast(ball(), POSE, RAYS, K, 1)
    matrix = np.array([[K.fx, 0, K.cx], [0, K.fy, K.cy], [0, 0, 1.0]])
    uv, _ = cv2.projectPoints(
        hits.points.astype(np.float64), cv2.Rodrigues(POSE[:3, :3])[0], POSE[:3, 3], matrix, None
    )
    rows, columns = np.divmod(hits.pixels, K.width)
    np.testing.assert_allclose(uv[:, 0], np.column_stack([columns, rows]), atol=2e-3)
    np.testing.assert_allclose(hits.values, hits.points[:, 2], atol=2e-4)
    radial = hits.points / np.linalg.norm(hits.points, axis=1, keepdims=True)
    normals = hits.normals / np.linalg.norm(hits.normals, axis=1, keepdims=True)
    assert np.einsum("kj,kj->k", normals, radial).min() > 0.999


def test_the_window_loses_nothing(monkeypatch):
    solid = ball(0.12)
    near = rigid(np.zeros(3), np.zeros(3), np.array([0.1, 0.05, 0.4]))
    cropped = re.cast(solid, near, RAYS, K, 1)
    monkeypatch.setattr(re, "_window", lambda *_: (slice(0, K.height), slice(0, K.width)))
    full = re.cast(solid, near, RAYS, K, 1)
    np.testing.assert_array_equal(cropped.pixels, full.pixels)
    np.testing.assert_array_equal(cropped.depth, full.depth)


def test_out_of_view_is_none():
    behind = rigid(np.zeros(3), np.zeros(3), np.array([0.0, 0.0, -0.5]))
    aside = rigid(np.zeros(3), np.zeros(3), np.array([2.0, 0.0, 0.5]))
    assert re.cast(ball(), behind, RAYS, K, 1) is None
    assert re.cast(ball(), aside, RAYS, K, 1) is None


def test_the_nearest_solid_wins_and_takes_its_label_along():
    buffer = re.GBuffer.empty(K.height, K.width, np.zeros(3))
    far = rigid(np.zeros(3), np.zeros(3), np.array([0.0, 0.0, 0.7]))
    near = rigid(np.zeros(3), np.zeros(3), np.array([0.0, 0.0, 0.5]))
    for pose, code in ((near, 15), (far, 16)):
        hits = buffer.nearer(re.cast(ball(0.1 if code == 16 else 0.03), pose, RAYS, K, 1))
        buffer.paint(hits, np.ones(3), 0.0, 20.0, code)
    middle = (round(K.cy), round(K.cx))
    assert buffer.instance[middle] == 15
    assert buffer.depth[middle] < 0.48
    assert (buffer.instance == 16).any()
    front = backproject_depth(K, buffer.depth)[buffer.instance == 15]
    np.testing.assert_allclose(np.linalg.norm(front - near[:3, 3], axis=1), 0.03, atol=1e-4)


def floor_buffer(z=0.5):
    buffer = re.GBuffer.empty(K.height, K.width, np.zeros(3))
    buffer.depth[:] = z
    buffer.albedo[:] = 0.5
    buffer.normal[:] = [0.0, 0.0, -1.0]
    return buffer, (RAYS * z).astype(np.float32)


def test_light_from_behind_does_not_reach_a_surface():
    buffer, points = floor_buffer()
    eye, dark = np.zeros(3), np.zeros(3, np.float32)
    for z, seen in ((-0.5, True), (1.5, False)):
        lamp = re.Lamp(np.array([0.1, 0.0, z]), np.array([0, 0, 0.5]), 0.3, np.ones(3, np.float32))
        light, _ = re.shade(buffer, points, eye, (lamp,), None, dark, np.ones(points.shape[:2]))
        assert (light.max() > 0.1) == seen


def test_an_occluder_throws_a_shadow_where_the_line_to_the_lamp_meets_it():
    buffer, points = floor_buffer()
    lamp = re.Lamp(np.array([0.0, 0.0, -0.5]), np.array([0, 0, 0.5]), 0.3, np.ones(3, np.float32))
    T_world_ball = rigid(np.zeros(3), np.zeros(3), np.array([0.05, 0.0, 0.3]))
    lit = re.shadows([(ball(0.02), T_world_ball)], points, buffer.normal, (lamp,), 1, 0.4)[0]
    # From z -0.5 a ball at (0.05, 0.3) falls on x = 0.05 * 1.0 / 0.8 of the floor.
    column = round(K.cx + K.fx * 0.0625 / 0.5)
    assert lit[round(K.cy), column] < 0.1
    assert lit[round(K.cy), round(K.cx - 20)] > 0.9


def test_vertex_normals_point_outward():
    mesh = trimesh.creation.box(extents=[1, 1, 1])
    normals = re.vertex_normals(np.asarray(mesh.vertices), np.asarray(mesh.faces))
    assert (np.einsum("ij,ij->i", normals, mesh.vertices) > 0.5).all()
    assert np.allclose(invert(invert(POSE)), POSE)
