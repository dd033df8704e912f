# SPDX-License-Identifier: Apache-2.0
"""Screws of the virtual operation: frames, measures, tilt, surfaces that a renderer can trust."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from spine_nav_common.core.types import Mesh
from spine_nav_sim.core.implant_screws import blood_mesh, build_screw
from spine_nav_sim.core.implant_shapes import CREASE_RAD, join, split_creases, volume, weld
from spine_nav_sim.core.implants import (
    FAMILIES_JUDGE,
    FAMILIES_SCHOOL,
    FAMILIES_TRAIN,
    MM,
    random_screw_design,
    screw_pose,
)
from spine_nav_sim.core.render import vertex_normals

FAMILIES = FAMILIES_SCHOOL + FAMILIES_JUDGE
WITH_TULIP = [f for f in FAMILIES if f != "modular"]


def draw(family, seed=0, rod=None):
    rng = np.random.default_rng(seed)
    design = random_screw_design(rng, [family], rod)
    return design, build_screw(design, rng)


def surface_points(mesh: Mesh, per_edge=4):
    """Points all over the triangles, corners included."""
    i, j = np.meshgrid(np.arange(per_edge + 1), np.arange(per_edge + 1), indexing="ij")
    keep = i + j <= per_edge
    weights = np.column_stack([i[keep], j[keep], per_edge - i[keep] - j[keep]]) / per_edge
    return np.einsum("pk,fkc->fpc", weights, mesh.vertices_m[mesh.faces]).reshape(-1, 3)


def angle(a, b):
    return np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))


def test_judges_families_are_none_of_the_training_ones():
    assert set(FAMILIES_JUDGE).isdisjoint(FAMILIES_SCHOOL)
    assert set(FAMILIES_TRAIN) < set(FAMILIES_SCHOOL)
    assert len(FAMILIES_JUDGE) >= 2
    rng = np.random.default_rng(1)
    drawn = {random_screw_design(rng, FAMILIES_TRAIN).family for _ in range(200)}
    assert drawn == set(FAMILIES_TRAIN)


def test_unknown_family_and_absurd_rod_are_refused():
    with pytest.raises(ValueError, match="no screw family 'nail'"):
        random_screw_design(np.random.default_rng(0), ["nail"])
    with pytest.raises(ValueError, match="no spinal rod"):
        random_screw_design(np.random.default_rng(0), ["round"], 5.5)


@pytest.mark.parametrize("family", WITH_TULIP)
def test_measures_lie_in_the_range_of_real_screws(family):
    for seed in range(40):
        d = random_screw_design(np.random.default_rng(seed), [family])
        assert 11 * MM <= d.tulip_diameter_m <= (17 if family == "mixed" else 15) * MM
        assert 13 * MM - 1e-9 <= d.tulip_height_m <= 19 * MM + 1e-9
        assert 4.5 * MM <= d.shank_diameter_m <= 8.5 * MM
        assert 30 * MM <= d.shank_length_m <= 60 * MM
        assert 0 < d.channel_m - d.rod_diameter_m < 0.5 * MM
        bore = 0.5 * d.tulip_diameter_m - d.wall_m
        assert bore > 0.5 * d.channel_m + 0.3 * MM  # the set screw's thread bites into the arms
        assert d.wall_m - d.notch_m > 0.2 * MM
        # the ball stays under the rod
        assert d.saddle_to_ball_m - d.ball_radius_m > 0.5 * d.rod_diameter_m
        assert d.bottom_m > d.saddle_to_ball_m
        if family != "mixed":  # it draws these for itself
            assert (d.tabs_m > 0) == (family in ("reduction", "winged"))
            assert (d.max_tilt_rad == 0) == (family == "monoaxial")


@pytest.mark.parametrize("family", WITH_TULIP)
@pytest.mark.parametrize("seed", range(2))
def test_its_rod_runs_free_through_the_channel_and_rests_on_the_floor(family, seed):
    design, parts = draw(family, seed)
    p = surface_points(parts.tulip)
    gap = np.hypot(p[:, 1], p[:, 2]) - 0.5 * design.rod_diameter_m  # of the rod's surface
    assert gap.min() > 0.0
    below = gap[(p[:, 2] < 0)]
    assert below.min() < 0.05 * MM  # it is the saddle: the floor is right under the rod
    level = np.abs(p[:, 2]) < 0.3 * MM
    assert p[level & (p[:, 1] > 0), 1].min() == pytest.approx(0.5 * design.channel_m, abs=0.05 * MM)
    assert p[level & (p[:, 1] < 0), 1].max() == pytest.approx(
        -0.5 * design.channel_m, abs=0.05 * MM
    )
    thick = surface_points(parts.set_screw)
    assert thick[:, 2].min() > 0.5 * design.rod_diameter_m
    assert thick[:, 2].min() < 0.5 * design.rod_diameter_m + 0.05 * MM


@pytest.mark.parametrize("family", WITH_TULIP)
def test_blood_stands_in_the_bore_below_the_rim(family):
    design, _ = draw(family)
    for seed in range(5):
        v = blood_mesh(design, np.random.default_rng(seed)).vertices_m
        assert np.hypot(v[:, 0], v[:, 1]).max() < 0.5 * design.tulip_diameter_m
        assert -0.5 * design.rod_diameter_m < v[:, 2].min()
        assert v[:, 2].max() <= design.top_m - design.tabs_m


@pytest.mark.parametrize("family", WITH_TULIP)
def test_tulip_has_the_designs_extent(family):
    for seed in range(2):
        design, parts = draw(family, seed)
        v = parts.tulip.vertices_m
        assert v[:, 2].max() == pytest.approx(design.top_m, abs=1e-6)
        assert v[:, 2].min() == pytest.approx(-design.bottom_m, abs=1e-6)
        widest = np.hypot(v[:, 0], v[:, 1]).max()
        assert widest <= 0.5 * design.tulip_diameter_m + 0.02 * MM
        assert widest > 0.4 * design.tulip_diameter_m
        assert len(parts.tulip.faces) <= 4000


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_are_closed_with_outward_winding(family):
    for seed in range(2):
        _, parts = draw(family, seed)
        for mesh in (parts.tulip, parts.shank, parts.set_screw):
            if mesh is None:
                assert family == "modular"
                continue
            whole = weld(mesh.vertices_m, mesh.faces)
            body = trimesh.Trimesh(whole.vertices_m, whole.faces, process=False)
            assert body.is_watertight
            assert body.is_winding_consistent
            assert volume(mesh) > 0
            assert len(mesh.faces) == len(whole.faces)


@pytest.mark.parametrize("family", FAMILIES)
def test_vertex_normals_stay_near_those_of_the_faces(family):
    _, parts = draw(family, 3)
    for mesh in (parts.tulip, parts.set_screw):
        if mesh is None:
            continue
        n = vertex_normals(mesh.vertices_m, mesh.faces)
        a, b, c = (mesh.vertices_m[mesh.faces[:, i]] for i in range(3))
        cross = np.cross(b - a, c - a)
        area = np.linalg.norm(cross, axis=1)
        cosine = np.einsum("fkc,fc->fk", n[mesh.faces], cross / np.maximum(area, 1e-20)[:, None])
        bad = (cosine < np.cos(np.deg2rad(40))).any(axis=1)
        assert area[bad].sum() < 0.03 * area.sum()


def test_creases_are_split_and_smooth_edges_are_not():
    box = trimesh.creation.box()
    faces = box.faces.astype(np.int32)
    assert len(split_creases(Mesh(np.asarray(box.vertices), faces)).vertices_m) == 24
    smooth = trimesh.creation.icosphere(3)
    mesh = Mesh(np.asarray(smooth.vertices), smooth.faces.astype(np.int32))
    assert len(split_creases(mesh).vertices_m) == len(mesh.vertices_m)
    assert len(split_creases(mesh, np.deg2rad(1)).vertices_m) > len(mesh.vertices_m)
    assert pytest.approx(np.deg2rad(35)) == CREASE_RAD
    both = join([mesh, mesh])
    assert volume(both) == pytest.approx(2 * volume(mesh))


def test_thread_is_a_helix_with_the_designs_pitch_and_depth():
    design, _ = draw("round", 0)
    design = replace(design, thread_starts=1, shank_length_m=40 * MM)
    shank = build_screw(design, np.random.default_rng(0)).shank
    v = shank.vertices_m
    outer = 0.5 * design.shank_diameter_m
    middle = (v[:, 2] < -20 * MM) & (v[:, 2] > -32 * MM)
    r = np.hypot(v[middle, 0], v[middle, 1])
    assert r.max() == pytest.approx(outer, rel=1e-6)
    assert r.min() == pytest.approx(outer - design.thread_depth_m, rel=1e-6)
    crest = middle.copy()
    crest[middle] = r > outer - 0.02 * MM
    turn = np.arctan2(v[crest, 1], v[crest, 0]) / (2 * np.pi)
    lead = v[crest, 2] / design.thread_pitch_m
    # its flat crests follow one right-handed helix and no left-handed one
    assert abs(np.exp(2j * np.pi * (lead - turn)).mean()) > 0.6
    assert abs(np.exp(2j * np.pi * (lead + turn)).mean()) < 0.1
    assert v[:, 2].min() == pytest.approx(-design.ball_radius_m - 40 * MM)


def test_modular_screw_is_a_ball_whose_centre_is_the_saddle():
    for seed in range(20):
        design, parts = draw("modular", seed)
        assert design.ball_only
        assert parts.set_screw is None
        assert design.saddle_to_ball_m == 0
        assert 6 * MM <= 2 * design.ball_radius_m <= 10 * MM
        r = np.linalg.norm(parts.tulip.vertices_m, axis=1)
        assert r.max() == pytest.approx(design.ball_radius_m, rel=1e-6)
    pose = screw_pose(design, np.zeros(3), np.array([0, 0, 1.0]), np.array([1.0, 0, 0]))
    np.testing.assert_allclose(pose.T_world_tulip, pose.T_world_shank)


def test_drive_recess_is_seen_from_above():
    design, parts = draw("round", 2)
    v = parts.set_screw.vertices_m
    top = v[:, 2].max()
    inside = np.hypot(v[:, 0], v[:, 1]) < 0.6 * design.drive_m
    assert v[inside & (v[:, 2] < top - 1.5 * MM)].size
    corners = {}
    for drive in ("hex", "torx"):
        one = build_screw(replace(design, drive=drive), np.random.default_rng(0)).set_screw
        z = one.vertices_m[:, 2]
        rim = one.vertices_m[(z > z.max() - 1e-9)]
        r = np.hypot(rim[:, 0], rim[:, 1])
        corners[drive] = np.ptp(r[r < 0.65 * design.drive_m])
    assert corners["hex"] > 0.1 * MM
    assert corners["torx"] > corners["hex"]


def test_same_seed_same_screw_and_another_seed_another():
    one, two, three = draw("flats", 7), draw("flats", 7), draw("flats", 8)
    assert one[0] == two[0] != three[0]
    np.testing.assert_array_equal(one[1].tulip.vertices_m, two[1].tulip.vertices_m)
    np.testing.assert_array_equal(one[1].set_screw.vertices_m, two[1].set_screw.vertices_m)


def test_pose_puts_ball_on_the_trajectory_and_saddle_on_the_tulips_axis():
    rng = np.random.default_rng(5)
    for seed in range(30):
        design, _ = (random_screw_design(np.random.default_rng(seed), FAMILIES_TRAIN), None)
        entry, out, hint, to = rng.normal(size=(4, 3))
        wanted = rng.uniform(0, 1.2)
        pose = screw_pose(design, entry, out, hint, wanted, to, 0.006)
        out = out / np.linalg.norm(out)
        ball = pose.T_world_shank[:3, 3]
        np.testing.assert_allclose(ball, entry + 0.006 * out)
        np.testing.assert_allclose(pose.T_world_shank[:3, 2], out, atol=1e-12)
        tilt = angle(pose.axis, out)
        assert tilt == pytest.approx(min(wanted, design.max_tilt_rad), abs=1e-6)
        if tilt > 1e-6:  # it leans to the side asked for
            assert np.linalg.det([pose.axis, out, to]) == pytest.approx(0, abs=1e-9)
            assert pose.axis @ (to - out * (to @ out)) > 0
        np.testing.assert_allclose(pose.saddle_m, ball + design.saddle_to_ball_m * pose.axis)
        R = pose.T_world_tulip[:3, :3]
        np.testing.assert_allclose(pose.T_world_tulip[:3, 3], pose.saddle_m)
        np.testing.assert_allclose(R[:, 2], pose.axis, atol=1e-12)
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(R) == pytest.approx(1)
        # no other turn about the axis brings +x nearer to the hint
        assert R[:, 1] @ hint == pytest.approx(0, abs=1e-9)
        assert R[:, 0] @ hint > 0


def test_spin_turns_the_shank_alone():
    design, _ = draw("round")
    z, x = np.array([0, 0, 1.0]), np.array([1.0, 0, 0])
    still = screw_pose(design, np.zeros(3), z, x)
    spun = screw_pose(design, np.zeros(3), z, x, spin_rad=0.5)
    np.testing.assert_allclose(spun.T_world_tulip, still.T_world_tulip)
    assert angle(spun.T_world_shank[:3, 0], x) == pytest.approx(0.5)


def test_pose_refuses_what_has_no_direction():
    design, _ = draw("round")
    z, x = np.array([0, 0, 1.0]), np.array([1.0, 0, 0])
    with pytest.raises(ValueError, match="direction_out"):
        screw_pose(design, np.zeros(3), np.zeros(3), x)
    with pytest.raises(ValueError, match="channel_hint"):
        screw_pose(design, np.zeros(3), z, np.array([np.nan, 0, 0]))
    with pytest.raises(ValueError, match="tilt_towards"):
        screw_pose(design, np.zeros(3), z, x, tilt_rad=0.2)
    with pytest.raises(ValueError, match="tilt_towards"):
        screw_pose(design, np.zeros(3), z, x, tilt_rad=0.2, tilt_towards=2 * z)
    along = screw_pose(design, np.zeros(3), z, z)  # a hint along the axis leaves any turn
    assert np.linalg.det(along.T_world_tulip[:3, :3]) == pytest.approx(1)
