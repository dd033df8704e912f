# SPDX-License-Identifier: Apache-2.0
"""Plans and meshes as people really save them: mended with a notice, or refused, never in between."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh

from spine_nav_common.core.case import load_case
from spine_nav_common.core.errors import CaseError
from spine_nav_common.core.holes import MOST_AREA_MM2, MOST_EXTENT_MM, Closed, close_holes
from spine_nav_common.core.screw_names import read_screw_name
from spine_nav_common.core.surface import _merged, load_surface, signed_distance_m
from spine_nav_common.core.types import Case, Rejected

SHARED = Path(__file__).resolve().parents[4] / "shared"


def edit_plan(case_dir: Path, change: Callable[[list], object]) -> None:
    file = case_dir / "plan.mrk.json"
    document = json.loads(file.read_text())
    change(document["markups"])
    file.write_text(json.dumps(document))


def same_plan(a: Case, b: Case) -> None:
    assert len(a.plan) == len(b.plan) > 0
    for p, q in zip(a.plan, b.plan, strict=True):
        assert (p.level, p.side) == (q.level, q.side)
        np.testing.assert_allclose(p.entry_m, q.entry_m, atol=1e-9)
        np.testing.assert_allclose(p.target_m, q.target_m, atol=1e-9)


def refused(case_dir: Path, *words: str) -> None:
    with pytest.raises(CaseError) as caught:
        load_case(case_dir)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_nothing_mended_nothing_said(case_dir):
    assert load_case(case_dir).notes == ()


# -- entry and target exchanged


@pytest.mark.parametrize("which", [slice(0, 1), slice(None)])
def test_reversed_lines_are_turned_round_and_told(case_dir, case, which):
    edit_plan(case_dir, lambda m: [x["controlPoints"].reverse() for x in m[which]])
    loaded = load_case(case_dir)
    same_plan(loaded, case)
    (note,) = loaded.notes
    for line in case.plan:
        told = f"{line.level}_{line.side}" in note
        assert told == (line in case.plan[which])


def _move(markup: dict, entry: tuple, target: tuple) -> None:
    """Both points moved by mm along left, posterior, superior (the fixture is LPS)."""
    for point, by in zip(markup["controlPoints"], (entry, target), strict=True):
        point["position"] = [p + d for p, d in zip(point["position"], by, strict=True)]


@pytest.mark.parametrize("backwards", [False, True])
def test_a_line_beside_the_bone_is_refused(case_dir, backwards):
    def change(markups: list) -> None:
        _move(markups[0], (30, 0, 0), (40, 0, 0))
        if backwards:
            markups[0]["controlPoints"].reverse()

    edit_plan(case_dir, change)
    refused(case_dir, "plan/L1_left", "both ends lie outside the bone of L1", "mm from it")


@pytest.mark.parametrize(
    ("entry", "target"),
    [
        ((0, -20, 0), (0, 15, 0)),  # both deep in the bone
        ((0, -30, 0), (0, 6, 0)),  # across: neither in front of nor behind the other clearly
        ((0, -37, 0), (0, 26, 0)),  # entry in front of the body, target behind: outside at both
    ],
)
def test_a_backward_line_in_doubt_is_refused(case_dir, entry, target):
    edit_plan(case_dir, lambda m: _move(m[0], entry, target))
    refused(case_dir, "plan/L1_left")


def test_an_entry_at_the_skin_is_no_fault(case_dir, case):
    edit_plan(case_dir, lambda m: _move(m[0], (0, 25, 0), (0, 0, 0)))
    assert load_case(case_dir).notes == ()


def test_signed_distance_is_positive_outside(case):
    mesh = case.meshes["L1"]
    centre = mesh.vertices_m.mean(axis=0)
    far = centre + (0.2, 0.0, 0.0)
    inside, outside = signed_distance_m(mesh, np.array([centre, far]))
    assert inside < -0.005
    assert outside == pytest.approx(0.16, abs=0.002)  # the half axis is 40 mm


# -- names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("L1_left", "L1 left"), ("L1 Left", "L1 left"), ("L1R", "L1 right"), ("l1-left", "L1 left"),
        ("Screw_L1_R", "L1 right"), ("Left L1", "L1 left"), ("LeftL1", "L1 left"),
        ("L1Left", "L1 left"), ("RL1", "L1 right"), ("T12_right", "T12 right"),
        ("Th7 R", "T7 right"), ("L05 r", "L5 right"), ("S1.L", "S1 left"), ("L1 left 2", "L1 left"),
        ("01_L1_left", "L1 left"), ("L1_left_6.5x45", "L1 left"), ("Trajectory L3 (right)", "L3 right"),
        ("L1 L", "L1 left"), ("L L1", "L1 left"), ("L1 left 45 mm", "L1 left"),
    ],
)  # fmt: skip
def test_free_names_that_leave_no_doubt(name, meant):
    assert read_screw_name(name) == tuple(meant.split())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "no level and no side"), ("L", "no level"), ("L1", "no side"), ("left", "no level"),
        ("L1_middle", "no side"), ("L1 left right", "left and right"), ("L1 L2 left", "L1 and L2"),
        ("L4-5 left", "5"), ("L4/5 right", "5"), ("L1 L 2", "2"), ("L 1 left", "1"), ("L1 R L", "right and left"),
        ("L1L2 left", "l1l2"), ("S2AI left", "s2ai"), ("L7 left", "L7"), ("T13R", "T13"),
        ("L1²R", "no level"), ("L١ left", "no level"), ("C7 left", "c7"), ("L12 left", "L12"),
    ],
)  # fmt: skip
def test_names_in_doubt_are_refused_with_the_reason(name, why):
    read = read_screw_name(name)
    assert isinstance(read, Rejected), read
    assert why in read.reason


def test_free_names_in_a_plan_are_read_and_told(case_dir, case):
    def rename(markups: list) -> None:
        markups[0]["name"], markups[1]["name"] = "L1 Left", "L1R"

    edit_plan(case_dir, rename)
    loaded = load_case(case_dir)
    same_plan(loaded, case)
    (note,) = loaded.notes
    assert "'L1 Left' as L1 left" in note
    assert "'L1R' as L1 right" in note
    assert "L2" not in note


def test_a_name_in_doubt_is_refused_with_what_was_understood(case_dir):
    edit_plan(case_dir, lambda m: (m[0].update(name="L1 Left"), m[1].update(name="L1-2 right")))
    refused(case_dir, "plan/L1-2 right", "'L1 Left' as L1 left", "'L2_left' as L2 left", "number 2")


def test_two_names_of_one_screw_are_refused(case_dir):
    edit_plan(case_dir, lambda m: m[1].update(name="Left L1"))
    refused(case_dir, "plan/Left L1", "twice", "L1 left")


# -- points that Slicer has not placed


@pytest.mark.parametrize("status", ["undefined", "preview", "missing"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_points_that_are_not_defined_are_passed_over(case_dir, case, status, at):
    point = {"label": "x", "position": [0, 0, 0], "positionStatus": status}
    edit_plan(case_dir, lambda m: m[0]["controlPoints"].insert(at, point))
    loaded = load_case(case_dir)
    same_plan(loaded, case)
    (note,) = loaded.notes
    assert "L1_left: 1 point" in note


def test_three_defined_points_are_refused(case_dir):
    point = {"label": "x", "position": [0, 0, 0], "positionStatus": "defined"}
    edit_plan(case_dir, lambda m: m[0]["controlPoints"].append(point))
    refused(case_dir, "plan/L1_left", "3 control points, not two")


def test_other_markups_and_measurements_are_passed_over(case_dir, case):
    def change(markups: list) -> None:
        markups[0]["measurements"] = [{"name": "length", "value": 40.0, "units": "mm"}]
        markups.append({"type": "ROI", "name": "R", "center": [0, 0, 0], "size": [1, 2, 3]})
        markups.append(
            {"type": "Fiducial", "name": "F", "controlPoints": [{"position": [1, 2, 3]}]}
        )

    edit_plan(case_dir, change)
    loaded = load_case(case_dir)
    same_plan(loaded, case)
    assert loaded.notes == ()


# -- holes


def fine_sphere(radius_mm: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    sphere = trimesh.creation.icosphere(subdivisions=4)
    return sphere.vertices * 1e-3 * radius_mm, np.array(sphere.faces)


def without(
    vertices: np.ndarray, faces: np.ndarray, *holes: tuple[np.ndarray, float]
) -> np.ndarray:
    """Faces left when those whose middle lies within radius_mm of a direction's point are gone."""
    middles = 1e3 * vertices[faces].mean(axis=1)
    keep = np.ones(len(faces), bool)
    for direction, radius_mm in holes:
        point = 20.0 * np.asarray(direction, float) / np.linalg.norm(direction)
        keep &= np.linalg.norm(middles - point, axis=1) > radius_mm
    return faces[keep]


def test_small_holes_are_closed_flat_and_measured():
    vertices, faces = fine_sphere()
    closed = close_holes(vertices, without(vertices, faces, ([1, 2, 3], 2.0), ([-1, 0, 1], 1.0)))
    assert isinstance(closed, Closed), closed
    mesh = trimesh.Trimesh(closed.vertices_m, closed.faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.02**3, rel=0.01)
    assert len(closed.extents_mm) == 2
    assert 3.0 < max(closed.extents_mm) < 6.0
    assert "2 small holes" in closed.text()
    assert f"{max(closed.extents_mm):.1f} mm" in closed.text()


def test_holes_that_touch_at_a_corner_are_closed():
    vertices, faces = fine_sphere()
    corner = faces[0][0]
    around = np.flatnonzero((faces == corner).any(axis=1))
    left = np.delete(faces, around[[0, np.argmax(~np.isin(faces[around], faces[around[0]][1:]).any(axis=1))]], axis=0)  # fmt: skip
    closed = close_holes(vertices, left)
    assert isinstance(closed, Closed), closed
    assert trimesh.Trimesh(closed.vertices_m, closed.faces, process=False).is_watertight


@pytest.mark.parametrize(
    ("holes", "why"),
    [
        ([([0, 0, 1], 6.0)], f"{MOST_EXTENT_MM:.0f} mm"),  # wide
        ([([0, 0, 1], 4.0)], f"{MOST_AREA_MM2:.0f} mm^2"),  # 50 mm^2 at 8 mm across
        ([([x, y, z], 2.2) for x in (-1, 1) for y in (-1, 1) for z in (-1, 0, 1)], "% of the surface"),
    ],
)  # fmt: skip
def test_large_or_many_holes_are_not_closed(holes, why):
    vertices, faces = fine_sphere()
    left = without(vertices, faces, *((np.array(d), r) for d, r in holes))
    closed = close_holes(vertices, left)
    assert isinstance(closed, Rejected)
    assert why in closed.reason


def _puncture(case_dir: Path, radius_mm: float) -> None:
    file = case_dir / "L2.ply"
    mesh = trimesh.load(file, process=False)
    mesh = mesh.subdivide().subdivide()
    middles = mesh.triangles_center
    top = middles[np.argmax(middles[:, 2])]
    mesh.update_faces(np.linalg.norm(middles - top, axis=1) > radius_mm)
    mesh.export(file)


def test_a_small_hole_in_a_case_is_closed_and_told(case_dir):
    _puncture(case_dir, 2.0)
    loaded = load_case(case_dir)
    (note,) = loaded.notes
    assert "L2.ply" in note
    assert "mm across" in note
    mesh = loaded.meshes["L2"]
    assert trimesh.Trimesh(mesh.vertices_m, mesh.faces, process=False).is_watertight


def test_a_large_hole_in_a_case_is_refused_with_its_size(case_dir):
    _puncture(case_dir, 9.0)
    refused(case_dir, "L2.ply", "not closed", "mm across", "close the holes")


# -- the shared cases, where they are (outside of the repository: not everywhere)


@pytest.fixture
def shared_case(tmp_path) -> Callable[[str], Path]:
    """A copy of the shared five-level case with one of its files replaced by a shared input's."""
    scene = SHARED / "data/scenes/rgbd_p001_five_levels/case"
    if not scene.is_dir():
        pytest.skip("the shared data are not here")

    def build(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(scene, folder)
        for file in (SHARED / "cases/inputs" / name).iterdir():
            shutil.copy(file, folder)
        return folder

    return build


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("entry_target_swapped", ["turned round", "L1_left", "L5_right"]),
        ("names_free", ["'L1 Left' as L1 left", "'L5R' as L5 right"]),
        ("undefined_point", ["L1_left: 1 point"]),
        ("measurements_extra", []),
        ("open_holes", ["12 small holes were closed", "8.8 mm across"]),
    ],
)
def test_shared_inputs(shared_case, name, notes):
    loaded = load_case(shared_case(name))
    same_plan(loaded, load_case(SHARED / "data/scenes/rgbd_p001_five_levels/case"))
    assert len(loaded.notes) == bool(notes)
    for words in notes:
        assert words in loaded.notes[0]


def test_an_fcsv_plan_is_refused_with_the_menu_of_slicer(case_dir):
    (case_dir / "plan.mrk.json").rename(case_dir / "plan.fcsv")
    document = (case_dir / "case.yaml").read_text()
    (case_dir / "case.yaml").write_text(document.replace("plan.mrk.json", "plan.fcsv"))
    refused(case_dir, "plan.fcsv", "Create > Line", "File > Save Data", ".mrk.json")
    (case_dir / "plans").mkdir()
    (case_dir / "plan.fcsv").rename(case_dir / "plans/plan.fcsv")
    (case_dir / "case.yaml").write_text(document.replace("plan.mrk.json", "plans"))
    refused(case_dir, "Create > Line")


def test_repeated_points_are_merged_as_numpy_would():
    rng = np.random.default_rng(2)
    corners = rng.integers(-2, 3, (50, 3)).astype(float)
    corners[0] = (-0.0, 0.0, 0.0)
    corners[7] = (0.0, -0.0, 0.0)
    faces = np.arange(48).reshape(-1, 3)
    _, first, inverse = np.unique(corners[:48], axis=0, return_index=True, return_inverse=True)
    expected = inverse.reshape(-1)[faces]
    expected = expected[~(expected == np.roll(expected, 1, axis=1)).any(axis=1)]
    vertices, merged = _merged(corners, faces)
    np.testing.assert_array_equal(vertices, corners[first])
    np.testing.assert_array_equal(merged, expected)


@pytest.mark.parametrize("suffix", ["stl", "ply", "obj"])
def test_every_format_gives_the_same_bone(case_dir, tmp_path, suffix):
    mesh = load_surface(case_dir / "L3.ply", "L3", 1e-3).mesh
    file = tmp_path / f"L3.{suffix}"
    trimesh.Trimesh(1e3 * mesh.vertices_m, mesh.faces, process=False).export(file)
    read = load_surface(file, "L3", 1e-3).mesh
    assert (len(read.vertices_m), len(read.faces)) == (len(mesh.vertices_m), len(mesh.faces))
    assert read.vertices_m.dtype == np.float64 and read.faces.dtype == np.int32

    def volume(m):
        a, b, c = (m.vertices_m[m.faces[:, i]] for i in range(3))
        return float(np.einsum("ij,ij->", a, np.cross(b, c)))

    assert volume(read) == pytest.approx(volume(mesh), rel=1e-5)


def test_reading_a_case_tells_how_far_it_is(case_dir):
    told = []
    case = load_case(case_dir, lambda *given: told.append(given))
    assert told == [(i, len(case.meshes), level) for i, level in enumerate(case.meshes, 1)]
