# SPDX-License-Identifier: Apache-2.0
"""Every bad case that docs/contracts.md, section 1 names, broken on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
import yaml

from spine_nav_common.core.case import (
    CaseError,
    anatomical_axes,
    load_case,
    write_case,
)
from spine_nav_common.core.landmarks import dorsal_centre
from spine_nav_common.core.types import Mesh


def edit(case_dir: Path, change: Callable[[dict], object]) -> None:
    file = case_dir / "case.yaml"
    document = yaml.safe_load(file.read_text())
    change(document)
    file.write_text(yaml.safe_dump(document))


def edit_plan(case_dir: Path, change: Callable[[list], object]) -> None:
    file = case_dir / "plan.mrk.json"
    document = json.loads(file.read_text())
    change(document["markups"])
    file.write_text(json.dumps(document))


def edit_mesh(case_dir: Path, change: Callable[[trimesh.Trimesh], object], level="L2") -> None:
    file = case_dir / f"{level}.ply"
    mesh = trimesh.load(file, process=False)
    mesh = change(mesh) or mesh
    mesh.export(file)


def refused(case_dir: Path, *words: str) -> None:
    with pytest.raises(CaseError) as caught:
        load_case(case_dir)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.remedy
    for word in words:
        assert word in text, text


# -- what is accepted


@pytest.mark.parametrize("unit", ["mm", "m"])
@pytest.mark.parametrize("mesh_format", ["ply", "stl", "obj"])
@pytest.mark.parametrize("frame", ["LPS", "RAS"])
def test_round_trip(tmp_path, build_case, unit, mesh_format, frame):
    case = build_case(frame=frame)
    write_case(tmp_path, case, unit=unit, mesh_format=mesh_format)
    back = load_case(tmp_path)
    assert (back.name, back.frame, back.exposed_levels) == (case.name, frame, case.exposed_levels)
    assert list(back.meshes) == list(case.meshes)
    for level, mesh in case.meshes.items():
        a, b = (trimesh.Trimesh(m.vertices_m, m.faces) for m in (mesh, back.meshes[level]))
        assert b.volume == pytest.approx(a.volume, rel=1e-4)
        np.testing.assert_allclose(b.bounds, a.bounds, atol=1e-6)
    for a, b in zip(case.plan, back.plan, strict=True):
        assert (a.level, a.side) == (b.level, b.side)
        np.testing.assert_allclose(b.entry_m, a.entry_m, atol=1e-9)
        np.testing.assert_allclose(b.target_m, a.target_m, atol=1e-9)


def test_vertices_of_an_indexed_mesh_keep_their_number(case_dir, case):
    assert load_case(case_dir).meshes["L1"].vertices_m.shape == case.meshes["L1"].vertices_m.shape


def test_plan_in_another_frame_is_brought_into_the_mesh_frame(case_dir, case):
    def to_ras(markups: list) -> None:
        for markup in markups:
            markup["coordinateSystem"] = "RAS"
            for point in markup["controlPoints"]:
                x, y, z = point["position"]
                point["position"] = [-x, -y, z]

    edit_plan(case_dir, to_ras)
    for a, b in zip(case.plan, load_case(case_dir).plan, strict=True):
        np.testing.assert_allclose(b.entry_m, a.entry_m, atol=1e-9)


def test_plan_without_coordinate_system_is_in_the_mesh_frame_and_metres_are_read(case_dir, case):
    def strip(markups: list) -> None:
        for markup in markups:
            del markup["coordinateSystem"]
            markup["coordinateUnits"] = "m"
            for point in markup["controlPoints"]:
                point["position"] = [1e-3 * v for v in point["position"]]

    edit_plan(case_dir, strip)
    np.testing.assert_allclose(load_case(case_dir).plan[0].entry_m, case.plan[0].entry_m, atol=1e-9)


@pytest.mark.parametrize("as_folder", [True, False])
def test_plan_of_one_file_per_line(case_dir, as_folder):
    document = json.loads((case_dir / "plan.mrk.json").read_text())
    (case_dir / "lines").mkdir()
    names = []
    for markup in document["markups"]:
        names.append(f"lines/{markup['name']}.mrk.json")
        (case_dir / names[-1]).write_text(json.dumps({"markups": [markup]}))
    (case_dir / "lines" / "F.mrk.json").write_text(
        json.dumps({"markups": [{"type": "Fiducial", "name": "F", "controlPoints": []}]})
    )
    edit(case_dir, lambda d: d.update(plan="lines" if as_folder else names))
    assert len(load_case(case_dir).plan) == 6


def test_without_plan_and_exposed_levels_all_levels_are_exposed(case_dir):
    edit(case_dir, lambda d: (d.pop("plan"), d.pop("exposed_levels")))
    case = load_case(case_dir)
    assert case.plan == ()
    assert case.exposed_levels == ("L1", "L2", "L3")
    assert len(case.plan_points_m("L1")) == len(case.meshes["L1"].vertices_m)


def test_exposed_levels_keep_the_order_of_the_file(case_dir):
    edit(case_dir, lambda d: d.update(exposed_levels=["L3", "L1"]))
    assert load_case(case_dir).exposed_levels == ("L3", "L1")


def test_a_level_without_plan_lines_is_fine(case_dir):
    edit_plan(case_dir, lambda m: [m.remove(x) for x in list(m) if x["name"].startswith("L2")])
    assert {p.level for p in load_case(case_dir).plan} == {"L1", "L3"}


def test_hash_follows_every_file(case_dir):
    first = load_case(case_dir).sha256
    assert load_case(case_dir / "case.yaml").sha256 == first
    edit_plan(case_dir, lambda m: m[0]["controlPoints"][0]["position"].__setitem__(2, 201.0))
    second = load_case(case_dir).sha256
    edit_mesh(case_dir, lambda m: m.apply_translation([0, 0, 0.5]))
    assert len({first, second, load_case(case_dir).sha256}) == 3


def test_axes_are_proper_rotations_that_name_the_patient_s_sides():
    for frame, left_sign in (("LPS", 1.0), ("RAS", -1.0)):
        R = anatomical_axes(frame)
        assert np.linalg.det(R) == pytest.approx(1.0)
        np.testing.assert_allclose(R[:, 0], [left_sign, 0, 0])
        np.testing.assert_allclose(R[:, 1], [0, left_sign, 0])
        np.testing.assert_allclose(R[:, 2], [0, 0, 1])
    with pytest.raises(ValueError, match="LPS or RAS"):
        anatomical_axes("LAS")


# -- what is refused


def test_no_case(tmp_path):
    refused(tmp_path, "case.yaml", "folder")


@pytest.mark.parametrize("text", ["{", "- 1", "", "\xff"])
def test_no_mapping(case_dir, text):
    (case_dir / "case.yaml").write_bytes(text.encode("latin-1"))
    refused(case_dir, "case.yaml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(version=2), ["version", "1"]),
        (lambda d: d.pop("version"), ["version"]),
        (lambda d: d.update(frame="LAS"), ["frame", "LPS or RAS"]),
        (lambda d: d.update(frame=None), ["frame", "LPS or RAS"]),
        (lambda d: d.update(unit="cm"), ["unit", "mm or m"]),
        (lambda d: d.pop("unit"), ["unit", "missing"]),
        (lambda d: d.pop("vertebrae"), ["vertebrae"]),
        (lambda d: d.update(vertebrae=[]), ["vertebrae"]),
        (lambda d: d["vertebrae"][1].pop("mesh"), ["vertebrae[1]"]),
        (lambda d: d["vertebrae"][1].update(level="L7"), ["vertebrae[1]/level", "L7"]),
        (lambda d: d["vertebrae"][1].update(level="l2"), ["'l2'"]),
        (lambda d: d["vertebrae"][1].update(level=["L2"]), ["unknown"]),
        (lambda d: d["vertebrae"][1].update(level="L1"), ["L1", "twice"]),
        (lambda d: d["vertebrae"][1].update(mesh="L9.ply"), ["L9.ply", "missing"]),
        (lambda d: d["vertebrae"][1].update(mesh="case.yaml"), ["format", "PLY"]),
        (lambda d: d.update(exposed_levels=["L5"]), ["exposed_levels", "L5", "no mesh"]),
        (lambda d: d.update(exposed_levels=["L1", "L1"]), ["exposed_levels", "twice"]),
        (lambda d: d.update(exposed_levels=[]), ["exposed_levels"]),
        (lambda d: d.update(exposed_levels="L1"), ["exposed_levels"]),
        (lambda d: d.update(exposed_level=["L1"]), ["exposed_level", "exposed_levels"]),
        (lambda d: d.update(plan="nothing.mrk.json"), ["nothing.mrk.json", "missing"]),
        (lambda d: d.update(plan=[3]), ["plan"]),
    ],
)
def test_bad_case_yaml(case_dir, change, words):
    edit(case_dir, change)
    refused(case_dir, *words)


def _swap(case_dir: Path, a: str, b: str) -> None:
    pa, pb = (case_dir / f"{v}.ply" for v in (a, b))
    data = pa.read_bytes()
    pa.write_bytes(pb.read_bytes())
    pb.write_bytes(data)


@pytest.mark.parametrize(("unit", "size"), [("m", "e+04"), ("mm", "mm")])
def test_wrong_unit_is_seen_by_the_vertebra_s_size(tmp_path, case, unit, size):
    write_case(tmp_path, case, unit={"m": "mm", "mm": "m"}[unit])
    edit(tmp_path, lambda d: d.update(unit=unit))
    refused(tmp_path, "L1.ply", "measures", size, "unit")


def test_open_mesh(case_dir):
    edit_mesh(case_dir, lambda m: m.update_faces(np.arange(len(m.faces)) > 3))
    refused(case_dir, "L2.ply", "vertebrae/L2", "not closed")


def test_inconsistent_triangles(case_dir):
    edit_mesh(
        case_dir,
        lambda m: trimesh.Trimesh(
            m.vertices, np.vstack([m.faces[:1, ::-1], m.faces[1:]]), process=False
        ),
    )
    refused(case_dir, "L2.ply", "not closed")


def test_empty_mesh(case_dir):
    edit_mesh(case_dir, lambda m: m.update_faces(np.zeros(len(m.faces), bool)))
    refused(case_dir, "L2.ply", "triangles")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_a_mesh(case_dir, value):
    edit_mesh(case_dir, lambda m: m.vertices.__setitem__((5, 1), value))
    refused(case_dir, "L2.ply", "NaN")


@pytest.mark.parametrize("keep", [0, 5, 100, 3000])
def test_cut_off_mesh_file(case_dir, keep):
    file = case_dir / "L2.ply"
    file.write_bytes(file.read_bytes()[:keep])
    refused(case_dir, "L2.ply")


def test_inside_out_mesh(case_dir):
    edit_mesh(case_dir, lambda m: m.invert())
    refused(case_dir, "L2.ply", "inside out")


def test_mirrored_meshes_whose_triangles_were_not_turned(case_dir):
    for level in ("L1", "L2", "L3"):
        edit_mesh(
            case_dir,
            lambda m: trimesh.Trimesh(m.vertices * (-1, 1, 1), m.faces, process=False),
            level,
        )
    refused(case_dir, "inside out")


def test_whole_case_mirrored_is_seen_by_the_sides_of_the_plan(case_dir):
    """Meshes and plan agree with each other, but left lies on the right."""

    def mirror(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
        return trimesh.Trimesh(mesh.vertices * (-1, 1, 1), mesh.faces[:, ::-1], process=False)

    for level in ("L1", "L2", "L3"):
        edit_mesh(case_dir, mirror, level)
    edit_plan(
        case_dir,
        lambda markups: [
            p["position"].__setitem__(0, -p["position"][0])
            for m in markups
            for p in m["controlPoints"]
        ],
    )
    refused(case_dir, "plan", "left", "right", "mirrored")


def test_frame_word_that_contradicts_the_plan_s_sides(case_dir):
    edit(case_dir, lambda d: d.update(frame="RAS"))
    edit_plan(case_dir, lambda markups: [m.pop("coordinateSystem") for m in markups])
    refused(case_dir, "mirrored", "frame")


def vertebra_like(build_case, turn):
    """The invented patient with longer backs, so that the bones tell where these are; turned."""
    case = build_case()
    meshes = {}
    for level, mesh in case.meshes.items():
        v = mesh.vertices_m.copy()
        middle = v.mean(axis=0)
        tail = np.exp(-(((v[:, 0] - middle[0]) / 0.010) ** 2)) * (v[:, 1] > middle[1])
        v[:, 1] += 0.030 * tail
        meshes[level] = Mesh(v @ turn.T, mesh.faces)
    plan = tuple(
        replace(p, entry_m=turn @ p.entry_m, target_m=turn @ p.target_m) for p in case.plan
    )
    return replace(case, meshes=meshes, plan=plan)


QUARTER = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize(("quarters", "lies"), [(1, "ALS"), (3, "PRS")])
def test_bones_that_lie_on_their_side_in_the_frame_tell_left_and_right(
    tmp_path, build_case, quarters, lies
):
    turn = np.linalg.matrix_power(QUARTER, quarters)
    write_case(tmp_path, vertebra_like(build_case, turn))
    case = load_case(tmp_path)
    assert case.frame == "LPS" and case.orientation == lies
    assert np.allclose(anatomical_axes(case.orientation), turn)
    assert any("turned in it by a quarter" in note and lies in note for note in case.notes)
    upright = load_upright(build_case, tmp_path / "upright")
    for level in case.meshes:
        assert np.allclose(
            dorsal_centre(case.meshes[level], case.orientation),
            turn @ dorsal_centre(upright.meshes[level]), atol=1e-3,
        )  # fmt: skip


def load_upright(build_case, folder):
    write_case(folder, vertebra_like(build_case, np.eye(3)))
    case = load_case(folder)
    assert case.orientation == case.frame == "LPS" and not case.notes
    return case


def test_sides_that_the_bones_contradict_are_refused_on_their_side_too(tmp_path, build_case):
    case = vertebra_like(build_case, QUARTER)
    other = {"left": "right", "right": "left"}
    write_case(
        tmp_path, replace(case, plan=tuple(replace(p, side=other[p.side]) for p in case.plan))
    )
    refused(tmp_path, "mirrored", "frame")


def test_backs_that_point_forwards_are_the_other_frame(tmp_path, build_case):
    case = vertebra_like(build_case, QUARTER @ QUARTER)
    write_case(tmp_path, replace(case, plan=()))
    refused(tmp_path, "frame", "write frame: RAS")


def test_one_line_on_the_wrong_side(case_dir):
    def rename(markups: list) -> None:
        markups[:] = [m for m in markups if m["name"] != "L2_right"]
        next(m for m in markups if m["name"] == "L2_left")["name"] = "L2_right"

    edit_plan(case_dir, rename)
    refused(case_dir, "plan/L2_right", "other side")


def test_levels_in_reverse_order(case_dir):
    edit(case_dir, lambda d: d.pop("plan"))
    _swap(case_dir, "L1", "L3")
    refused(case_dir, "L1, L2", "L1 lies caudal of L2")


def test_meshes_that_each_have_their_own_origin(case_dir):
    edit(case_dir, lambda d: d.pop("plan"))
    (case_dir / "L2.ply").write_bytes((case_dir / "L1.ply").read_bytes())
    refused(case_dir, "L1, L2", "one CT frame")


def test_meshes_far_apart(case_dir):
    edit(case_dir, lambda d: d.pop("plan"))
    edit_mesh(case_dir, lambda m: m.apply_translation([0, 0, -400.0]), "L3")
    refused(case_dir, "L2, L3", "one CT frame")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m[0].update(name="screw"), ["plan/screw", "level"]),
        (lambda m: m[0].update(name="L1_middle"), ["plan/L1_middle"]),
        (lambda m: m[0].update(name=""), ["unnamed"]),
        (lambda m: m[0].update(name="L5_left"), ["plan/L5_left", "no mesh"]),
        (lambda m: m[1].update(name="L1_left"), ["plan/L1_left", "twice"]),
        (lambda m: m[0].update(coordinateSystem="XYZ"), ["plan/L1_left", "XYZ"]),
        (lambda m: m[0].update(coordinateUnits="in"), ["plan/L1_left", "'in'"]),
        (lambda m: m[0]["controlPoints"].pop(), ["plan/L1_left", "1 control points"]),
        (lambda m: m[0].pop("controlPoints"), ["plan/L1_left", "no control points"]),
        (lambda m: m[0]["controlPoints"][0].update(position=[1, 2]), ["L1_left/entry"]),
        (lambda m: m[0]["controlPoints"][1].update(position=[1, 2, float("nan")]), ["target"]),
        (lambda m: m[0]["controlPoints"][1].update(position=None), ["L1_left/target"]),
        (lambda m: m[0]["controlPoints"][1].update(positionStatus="undefined"), ["target"]),
        (lambda m: m[0]["controlPoints"][1].update(
            position=m[0]["controlPoints"][0]["position"]), ["0 mm apart"]),
        (lambda m: [p["position"].__setitem__(2, p["position"][2] + 300)
                    for p in m[0]["controlPoints"]], ["plan/L1_left", "away", "frame"]),
        (lambda m: [p["position"].__setitem__(2, p["position"][2] - 35)
                    for p in m[0]["controlPoints"]], ["plan/L1_left", "runs through L2"]),
        (lambda m: m.clear(), ["no Line"]),
        (lambda m: m.append(3), ["markups"]),
    ],
)  # fmt: skip
def test_bad_plan(case_dir, change, words):
    edit_plan(case_dir, change)
    refused(case_dir, "plan", *words)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"markups": 3}'])
def test_plan_that_is_no_markups_file(case_dir, text):
    (case_dir / "plan.mrk.json").write_text(text)
    refused(case_dir, "plan.mrk.json")


def test_empty_plan_folder(case_dir):
    (case_dir / "lines").mkdir()
    edit(case_dir, lambda d: d.update(plan="lines"))
    refused(case_dir, "lines", "no markups")


# -- landmarks


def named_points(case_dir: Path, points: list[dict], **markup: object) -> None:
    list_ = {"type": "Fiducial", "name": "F", "controlPoints": points, **markup}
    (case_dir / "points.mrk.json").write_text(json.dumps({"markups": [list_]}))
    edit(case_dir, lambda d: d.update(landmarks="points.mrk.json"))


def three_points(level: str = "L2") -> list[dict]:
    return [{"label": f"{level} place {i}", "position": [10.0 * i, 20.0, 30.0]} for i in (1, 2, 3)]


def test_landmarks_are_read_in_the_mesh_frame(case_dir):
    before = load_case(case_dir).sha256
    undefined = {"label": "L2 later", "position": [0, 0, 0], "positionStatus": "undefined"}
    named_points(case_dir, [*three_points(), undefined], coordinateSystem="RAS")
    case = load_case(case_dir)
    assert list(case.landmarks) == ["L2"] and list(case.landmarks["L2"]) == [
        "place 1", "place 2", "place 3",
    ]  # fmt: skip
    np.testing.assert_allclose(case.landmarks["L2"]["place 2"], (-0.02, -0.02, 0.03))
    assert case.sha256 != before


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([], ("no point",)),
        (three_points()[:2], ("2 points", "at least 3")),
        ([*three_points(), {"label": "F-1", "position": [0, 0, 0]}], ("F-1", "no level")),
        ([*three_points(), {"label": "L2", "position": [0, 0, 0]}], ("no level",)),
        (three_points("T3"), ("no level of the case",)),
        ([*three_points(), three_points()[0]], ("there twice",)),
        ([*three_points(), {"label": "L2 x", "position": [0, None, 0]}], ("no finite position",)),
    ],
)
def test_bad_landmarks_are_refused(case_dir, points, words):
    named_points(case_dir, points)
    refused(case_dir, "landmarks", *words)
