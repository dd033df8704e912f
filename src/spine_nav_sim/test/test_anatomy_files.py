# SPDX-License-Identifier: Apache-2.0
"""Anatomies from mesh folders, by variation, stacking and resection."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from spine_nav_common.core.errors import InputError
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.anatomy_files import FRAMES, load_anatomy
from spine_nav_sim.core.anatomy_frame import depth_inside, inside, raycasting_scene
from spine_nav_sim.core.anatomy_vary import RESECTIONS, resect, stack_vertebra, vary_anatomy


@pytest.fixture(scope="module")
def spine():
    return make_anatomy(np.random.default_rng(5), ("L2", "L3", "L4"))


def write(folder, spine, frame="LPS", scale=1e3, name="{}.ply"):
    R = FRAMES[frame]
    for level, mesh in spine.meshes.items():
        trimesh.Trimesh(scale * mesh.vertices_m @ R, mesh.faces, process=False).export(
            folder / name.format(level)
        )


@pytest.mark.parametrize(
    ("frame", "scale", "name"),
    [
        ("LPS", 1e3, "sub-verse010_{}.ply"),
        ("RAS", 1.0, "{}.stl"),
        ("x_anterior", 1e3, "case-7 {} smooth.obj"),
    ],
)
def test_loads_any_frame_unit_and_name(tmp_path, spine, frame, scale, name):
    write(tmp_path, spine, frame, scale, name)
    (tmp_path / "SOURCE.md").write_text("ignored")
    loaded = load_anatomy(tmp_path)
    assert loaded.traits["frame"] == frame
    for level, mesh in spine.meshes.items():
        assert np.allclose(
            sorted(loaded.meshes[level].vertices_m[:, 1]), sorted(mesh.vertices_m[:, 1]), atol=1e-6
        )
        assert np.allclose(
            loaded.meshes[level].vertices_m.max(0), mesh.vertices_m.max(0), atol=1e-6
        )
    assert {p.side for p in loaded.plan} == {"left", "right"}
    for screw in loaded.plan:
        middle = loaded.meshes[screw.level].vertices_m[:, 0].mean()
        assert (screw.entry_m[0] > middle) == (screw.side == "left")


def test_bad_folders_are_refused_with_file_and_remedy(tmp_path, spine):
    with pytest.raises(InputError, match="name a folder of meshes"):
        load_anatomy(tmp_path)
    write(tmp_path, spine)
    with pytest.raises(InputError, match="unknown"):
        load_anatomy(tmp_path, frame="XYZ")
    (tmp_path / "a_L2.ply").write_bytes((tmp_path / "L2.ply").read_bytes())
    with pytest.raises(InputError, match="twice"):
        load_anatomy(tmp_path)
    (tmp_path / "a_L2.ply").rename(tmp_path / "vertebra.ply")
    with pytest.raises(InputError, match="0 levels in the name"):
        load_anatomy(tmp_path)
    (tmp_path / "vertebra.ply").write_bytes(b"ply\nnonsense")
    (tmp_path / "vertebra.ply").rename(tmp_path / "L5.ply")
    with pytest.raises(InputError, match=r"L5\.ply"):
        load_anatomy(tmp_path)


def test_upside_down_levels_and_a_shapeless_mesh_are_refused(tmp_path, spine):
    for level, other in (("L2", "L4"), ("L3", "L3"), ("L4", "L2")):
        mesh = spine.meshes[other]
        trimesh.Trimesh(1e3 * mesh.vertices_m, mesh.faces).export(tmp_path / f"{level}.ply")
    with pytest.raises(InputError, match="does not lie below"):
        load_anatomy(tmp_path)
    for file in tmp_path.iterdir():
        file.unlink()
    trimesh.creation.icosphere(radius=40.0).export(tmp_path / "L3.ply")
    with pytest.raises(InputError, match="say the frame"):
        load_anatomy(tmp_path)


def test_variations_stay_closed_differ_and_swap_sides_when_mirrored(spine):
    seen = set()
    for seed in range(6):
        new = vary_anatomy(spine, np.random.default_rng(seed))
        seen.add(new.traits["mirrored"])
        assert len(new.plan) == len(spine.plan)
        for level, mesh in new.meshes.items():
            body = trimesh.Trimesh(mesh.vertices_m, mesh.faces, process=False)
            assert body.is_watertight and body.volume > 0, level
            middle = mesh.vertices_m[:, 0].mean()
            scene = raycasting_scene(mesh)
            for screw in (p for p in new.plan if p.level == level):
                assert (screw.entry_m[0] > middle) == (screw.side == "left")
                assert abs(depth_inside(scene, screw.entry_m[None])[0]) < 2e-4
                assert inside(scene, screw.target_m[None])[0]
        old = spine.meshes["L3"].vertices_m
        centred = new.meshes["L3"].vertices_m * ([-1, 1, 1] if new.traits["mirrored"] else [1] * 3)
        shift = (centred - centred.mean(0)) - (old - old.mean(0))
        assert 0.001 < np.linalg.norm(shift, axis=1).mean() < 0.012
    assert seen == {True, False}


def test_one_vertebra_becomes_a_spine(spine):
    stack = stack_vertebra(spine.meshes["L3"], np.random.default_rng(0), ("L1", "L2", "L3"))
    centres = np.array([m.vertices_m.mean(0) for m in stack.meshes.values()])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    assert (np.diff(centres[:, 2]) < 0).all() and (steps > 0.024).all() and (steps < 0.048).all()
    with pytest.raises(ValueError, match="whole vertebra"):
        ball = trimesh.creation.icosphere(radius=0.002)
        stack_vertebra(
            spine.meshes["L3"].__class__(ball.vertices, ball.faces), np.random.default_rng(0)
        )


def test_resections_take_bone_only_where_they_should(spine):
    mesh = spine.meshes["L3"]
    before = trimesh.Trimesh(mesh.vertices_m, mesh.faces, process=False)
    middle = mesh.vertices_m[:, 0].mean()
    for kind in ("laminectomy", "facetectomy_left", "facetectomy_right", "spinous"):
        cut = resect(mesh, np.random.default_rng(1), kind)
        after = trimesh.Trimesh(cut.vertices_m, cut.faces, process=False)
        assert after.is_watertight and after.volume > 0
        assert 0.4e-6 < before.volume - after.volume < 0.35 * before.volume
        gone = mesh.vertices_m[depth_inside(raycasting_scene(cut), mesh.vertices_m) < -0.002]
        assert gone[:, 1].min() > before.center_mass[1], kind  # the body is untouched
        if kind.startswith("facetectomy"):
            sign = 1.0 if kind.endswith("left") else -1.0
            assert (sign * (gone[:, 0] - middle) > 0).all()
        if kind == "spinous":
            assert gone[:, 1].max() > cut.vertices_m[:, 1].max() + 0.01
    with pytest.raises(ValueError, match=RESECTIONS[0]):
        resect(mesh, np.random.default_rng(0), "everything")
