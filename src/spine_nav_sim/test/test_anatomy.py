# SPDX-License-Identifier: Apache-2.0
"""Generated anatomies: closed, deterministic, left is left, published measures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import trimesh

from spine_nav_common.core.landmarks import dorsal_centre
from spine_nav_common.core.types import Mesh
from spine_nav_sim.core import anatomy as generator
from spine_nav_sim.core import morphometry as mm
from spine_nav_sim.core import vertebra as vb
from spine_nav_sim.core.anatomy import is_closed, make_anatomy
from spine_nav_sim.core.anatomy_field import Field, Tube, surface_nets
from spine_nav_sim.core.anatomy_frame import depth_inside, first_hits, inside, raycasting_scene
from spine_nav_sim.core.splits import SPLITS_FILE, anatomy_seeds

ALL = mm.MODEL_LEVELS
SEEDS = (0, 7)


@pytest.fixture(scope="module")
def spines():
    return [make_anatomy(np.random.default_rng(seed), ALL) for seed in SEEDS]


def test_every_mesh_is_watertight_with_outward_normals(spines):
    for spine in spines:
        for level, mesh in spine.meshes.items():
            body = trimesh.Trimesh(mesh.vertices_m, mesh.faces, process=False)
            assert body.is_watertight and body.is_winding_consistent, level
            assert 20e-6 < body.volume < 450e-6, level
            assert body.body_count == 1, level
            assert 4000 < len(mesh.faces) < 15000, level


def test_same_seed_same_anatomy_and_another_seed_another(spines):
    again = make_anatomy(np.random.default_rng(SEEDS[0]), ("L3",))
    mesh = spines[0].meshes["L3"]
    # the choice of levels changes nothing either
    assert np.array_equal(again.meshes["L3"].vertices_m, mesh.vertices_m)
    assert np.array_equal(again.meshes["L3"].faces, mesh.faces)
    other = spines[1].meshes["L3"].vertices_m
    assert abs(np.ptp(other, axis=0) - np.ptp(mesh.vertices_m, axis=0)).max() > 1e-3


def test_levels_descend_and_processes_point_backwards(spines):
    for spine in spines:
        centres = np.array([m.vertices_m.mean(0) for m in spine.meshes.values()])
        assert (np.diff(centres[:, 2]) < -0.015).all()
        for level, mesh in spine.meshes.items():
            box = (mesh.vertices_m.min(0) + mesh.vertices_m.max(0)) / 2
            body = trimesh.Trimesh(mesh.vertices_m, mesh.faces, process=False)
            if level != "S1":
                assert box[1] > body.center_mass[1] + 0.003, level


def test_plan_lies_on_its_own_side_and_inside_the_bone(spines):
    for spine in spines:
        assert {(p.level, p.side) for p in spine.plan} == {
            (level, side) for level in ALL for side in ("left", "right")
        }
        for level, mesh in spine.meshes.items():
            scene = raycasting_scene(mesh)
            left, right = sorted((p for p in spine.plan if p.level == level), key=lambda p: p.side)
            assert left.entry_m[0] > right.entry_m[0] + 0.02  # LPS: +x is left
            for screw in (left, right):
                axis = screw.target_m - screw.entry_m
                length = np.linalg.norm(axis)
                assert 0.02 < length <= 0.0501
                assert axis[1] < -(0.35 if level == "S1" else 0.7) * length  # towards anterior
                assert abs(depth_inside(scene, screw.entry_m[None])[0]) < 2e-4
                path = screw.entry_m + np.linspace(0.05, 1, 30)[:, None] * axis
                assert inside(scene, path).all(), (level, screw.side)


def test_neighbours_hardly_overlap(spines):
    for spine in spines:
        names = list(spine.meshes)
        for upper, lower in itertools.pairwise(names):
            scene = raycasting_scene(spine.meshes[lower])
            deep = depth_inside(scene, spine.meshes[upper].vertices_m)
            assert (deep > 0.0015).mean() < 0.01, (upper, lower)
            near = np.abs(deep).min()
            assert near < 0.003, "facets of neighbours must nearly touch"


def test_population_means_follow_the_published_tables():
    rng = np.random.default_rng(3)
    subjects = [mm.sample_subject(rng) for _ in range(400)]
    for level in ALL[:-1]:
        for sex in ("male", "female"):
            shapes = [mm.sample_shape(rng, s, level) for s in subjects if s.sex == sex]
            for table, values in (
                (mm.ENDPLATE_WIDTH[sex][level], [s.body_width for s in shapes]),
                (mm.ANTERIOR_HEIGHT[sex][level], [s.anterior_height for s in shapes]),
                (mm.CANAL_WIDTH[sex][level], [s.canal_width for s in shapes]),
                (mm.PROCESS_SPAN[sex][level], [s.process_reach.sum() for s in shapes]),
            ):
                mean, sd = table
                assert np.mean(values) == pytest.approx(mean, abs=0.3 * sd), (level, sex)
                assert 0.7 * sd < np.std(values) < 1.3 * sd, (level, sex)
        both = [mm.sample_shape(rng, s, level) for s in subjects]
        widths = [s.pedicle_width.mean() for s in both]
        assert np.mean(widths) == pytest.approx(mm.PEDICLE_WIDTH[level][0], rel=0.05)
    # 87 patients, L2 to L5 (section 11.2): length 51.6, height 23.5, canal 16.7 deep
    lumbar = [
        mm.sample_shape(rng, s, level) for s in subjects for level in ("L2", "L3", "L4", "L5")
    ]
    assert np.mean([s.spinous_length for s in lumbar]) == pytest.approx(51.6, abs=1.5)
    assert np.mean([s.spinous_height for s in lumbar]) == pytest.approx(23.5, abs=1.5)
    assert np.mean([s.canal_depth for s in lumbar]) == pytest.approx(16.7, abs=0.5)


def test_spacing_and_bend_of_the_population():
    """Against SpineDepth (34.6, 35.6, 34.7, 33.6 mm; bend 16.5) and the 87 patients (33.7, 33.1,
    29.9 mm for L2-3 to L4-5)."""
    steps, bends = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        bones = generator._stack(rng, mm.sample_subject(rng), {})
        centre = np.array([b.pose[:3, :3] @ [0, 5, -4] + b.pose[:3, 3] for b in bones[1:6]])
        d = np.diff(centre, axis=0)
        steps.append(np.linalg.norm(d, axis=1))
        bends.append(np.degrees(np.arccos(d[0] @ d[3] / (steps[-1][0] * steps[-1][3]))))
    assert np.mean(steps, axis=0) == pytest.approx([34.6, 34.7, 33.9, 31.8], abs=1.5)
    assert 14.0 < np.mean(bends) < 26.0


@pytest.mark.parametrize("level", ["L1", "L3", "L5"])
def test_meshes_measure_what_was_sampled(level):
    """The surface keeps the sampled sizes: ray casting and extents in the vertebra's own frame."""
    rng = np.random.default_rng(11)
    bones = generator._stack(rng, mm.sample_subject(rng), {})
    i = ALL.index(level)
    shape = bones[i].shape
    v, faces = generator._field(bones, i, np.random.default_rng(0)).surface()
    scene = raycasting_scene(Mesh(v, faces))
    z = vb.pedicle_axes(shape)[0][0, 2]

    def across(origin, axis):
        return float(first_hits(scene, np.array([origin] * 2), np.array([axis, -axis])).sum())

    x = np.array([1.0, 0.0, 0.0])
    slices = np.arange(2.0, 9.0)
    canal = max(across(np.array([0.0, y, z]), x) for y in slices)
    assert canal == pytest.approx(shape.canal_width, rel=0.08)
    assert np.ptp(v[:, 0]) == pytest.approx(shape.process_reach.sum(), rel=0.06)
    assert v[:, 1].max() == pytest.approx(shape.spinous_length, rel=0.06)
    assert -v[:, 1].min() == pytest.approx(shape.body_depth, rel=0.08)
    if level != "L5":  # at L5 the transverse process springs from the pedicle itself
        centre = vb.pedicle_axes(shape)[0][0]
        width = min(across(np.array([centre[0], y, z]), x) for y in slices)
        assert width == pytest.approx(shape.pedicle_width[0], rel=0.15)


def test_shape_differs_by_level_as_in_reality(spines):
    for spine in spines:
        width = {}
        for level, mesh in spine.meshes.items():
            local = mesh.vertices_m - mesh.vertices_m.mean(0)
            low = local[(local[:, 1] > 0) & (np.abs(local[:, 0]) < 0.035)]
            low = low[low[:, 2] < np.quantile(low[:, 2], 0.06)]
            width[level] = np.ptp(low[:, 0])  # spread of the inferior articular processes
        assert width["L5"] > width["L2"] + 0.006
        span = {k: np.ptp(m.vertices_m[:, 0]) for k, m in spine.meshes.items()}
        assert span["T12"] + 0.008 < min(span[k] for k in ("L2", "L3", "L4"))


def test_unknown_level_is_refused_with_the_choice():
    with pytest.raises(ValueError, match="L9.*choose from T12"):
        make_anatomy(np.random.default_rng(0), ("L9",))
    with pytest.raises(ValueError, match="choose from"):
        make_anatomy(np.random.default_rng(0), ())


def test_variants_appear_with_their_traits():
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        traits: dict = {}
        generator._stack(rng, mm.sample_subject(rng), traits)
        seen |= {key for key, value in traits.items() if value}
    assert {"narrow_discs", "scoliosis_cobb_deg", "spondylolisthesis", "osteophytes_mm"} <= seen


def test_surface_nets_close_a_noisy_field_and_keep_one_body():
    field = Field(np.full(3, -12.0), np.full(3, 12.0), 0.8)
    field.add(Tube.of([[0, 0, 0]], 7.0, 7.0, [1, 0, 0], blend=1.0))
    field.add(Tube.of([[9.5, 9.5, 9.5]], 1.2, 1.2, [1, 0, 0], blend=0.5))  # a speck apart
    field.roughen(np.random.default_rng(0), 1.5, 0.9)
    vertices, faces = field.surface()
    assert is_closed(faces)
    body = trimesh.Trimesh(vertices, faces, process=False)
    assert body.body_count == 1
    assert body.volume == pytest.approx(4 / 3 * np.pi * 7**3, rel=0.25)
    assert not is_closed(faces[1:])


def test_surface_nets_of_a_sphere_are_exact_enough():
    g = np.linspace(-1.5, 1.5, 41)
    x, y, z = np.meshgrid(g, g, g, indexing="ij")
    vertices, faces = surface_nets(np.sqrt(x**2 + y**2 + z**2) - 1.0)
    radius = np.linalg.norm(vertices * (g[1] - g[0]) - 1.5, axis=1)
    assert abs(radius - 1.0).max() < 0.02
    assert trimesh.Trimesh(vertices, faces, process=False).volume > 0


def test_dorsal_centre_ignores_tessellation_and_follows_the_frame(spines):
    for level in ("L1", "L5", "S1"):
        mesh = spines[0].meshes[level]
        centre = dorsal_centre(mesh)
        assert centre[1] > mesh.vertices_m[:, 1].mean()
        fine = trimesh.Trimesh(mesh.vertices_m, mesh.faces, process=False).subdivide()
        same = dorsal_centre(Mesh(np.asarray(fine.vertices), np.asarray(fine.faces)))
        assert np.abs(same - centre).max() < 1e-4
        flip = np.array([-1.0, -1.0, 1.0])
        ras = dorsal_centre(Mesh(mesh.vertices_m * flip, mesh.faces), "RAS")
        assert np.abs(ras * flip - centre).max() < 1e-4
        moved = dorsal_centre(Mesh(mesh.vertices_m + [0.1, -0.2, 0.3], mesh.faces))
        assert np.abs(moved - centre - [0.1, -0.2, 0.3]).max() < 5e-4
    with pytest.raises(ValueError, match="LPS or RAS"):
        dorsal_centre(mesh, "x_anterior")


def test_seed_lists_are_disjoint_and_large_enough(tmp_path):
    lists = {name: set(anatomy_seeds(name)) for name in ("train", "calibrate", "judge")}
    assert len(lists["judge"]) >= 20
    assert len(set.union(*lists.values())) == sum(map(len, lists.values()))
    with pytest.raises(ValueError, match="choose from train"):
        anatomy_seeds("test")
    broken = tmp_path / "splits.yaml"
    broken.write_text(SPLITS_FILE.read_text().replace("[300000, 300100]", "[200100, 300100]"))
    with pytest.raises(ValueError, match="overlap"):
        anatomy_seeds("judge", broken)
    broken.write_text("judge: [5, 5]\n")
    with pytest.raises(ValueError, match="judge"):
        anatomy_seeds("judge", broken)
