# SPDX-License-Identifier: Apache-2.0
"""Automatic plans: against the generator's known pedicles, under rotation, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from spine_nav_common.core.types import Mesh, Rejected
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.anatomy_frame import find_frame, inside, raycasting_scene
from spine_nav_sim.core.planning import plan_level, plan_screws, screw_on_axis

LEVELS = ("L1", "L3", "L5")


@pytest.fixture(scope="module")
def spine():
    return make_anatomy(np.random.default_rng(4), LEVELS)


def test_finds_the_pedicles_that_the_generator_built(spine):
    known = {(p.level, p.side): p for p in spine.plan}
    plan = plan_screws(spine.meshes)
    assert {(p.level, p.side) for p in plan} == set(known)
    for screw in plan:
        truth = known[screw.level, screw.side]
        assert np.linalg.norm(screw.entry_m - truth.entry_m) < 0.008
        a, b = screw.target_m - screw.entry_m, truth.target_m - truth.entry_m
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert np.degrees(np.arccos(cosine)) < 15.0
        path = screw.entry_m + np.linspace(0.05, 1, 40)[:, None] * a
        assert inside(raycasting_scene(spine.meshes[screw.level]), path).all()


def test_frame_follows_a_turned_and_moved_vertebra(spine):
    mesh = spine.meshes["L3"]
    base = find_frame(mesh)
    R = Rotation.from_euler("xyz", [18, -12, 20], degrees=True).as_matrix()
    turned = find_frame(Mesh(mesh.vertices_m @ R.T + [0.1, 0.2, -0.3], mesh.faces))
    error = turned.T_mesh_vertebra[:3, :3] @ (R @ base.T_mesh_vertebra[:3, :3]).T
    assert np.degrees(np.arccos((np.trace(error) - 1) / 2)) < 5.0
    assert turned.body_depth == pytest.approx(base.body_depth, abs=0.004)
    origin = R @ base.T_mesh_vertebra[:3, 3] + [0.1, 0.2, -0.3]
    assert np.linalg.norm(turned.T_mesh_vertebra[:3, 3] - origin) < 0.004


def test_mirroring_the_mesh_swaps_the_sides(spine):
    mesh = spine.meshes["L3"]
    flip = np.array([-1.0, 1.0, 1.0])
    left, right = plan_level(Mesh(mesh.vertices_m * flip, mesh.faces[:, ::-1].copy()), "L3")
    assert left.entry_m[0] > right.entry_m[0]
    truth = next(p for p in spine.plan if p.level == "L3" and p.side == "right")
    assert np.linalg.norm(left.entry_m * flip - truth.entry_m) < 0.008


def test_what_is_no_vertebra_is_refused_with_the_reason():
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.02)
    mesh = Mesh(np.asarray(ball.vertices), np.asarray(ball.faces, np.int32))
    refused = plan_level(mesh, "L3")
    assert isinstance(refused, Rejected) and "L3" in refused.reason
    sacrum = plan_level(mesh, "S1")
    assert isinstance(sacrum, Rejected) and "S1" in sacrum.reason
    assert plan_screws({"L3": mesh}) == ()


def test_axis_outside_the_bone_is_refused(spine):
    scene = raycasting_scene(spine.meshes["L3"])
    outside = spine.meshes["L3"].vertices_m.max(0) + 0.05
    refused = screw_on_axis(scene, "L3", "left", outside, np.array([0.0, -1.0, 0.0]))
    assert isinstance(refused, Rejected) and "not inside" in refused.reason
