# SPDX-License-Identifier: Apache-2.0
"""From a voxelised virtual spine to a case: the plan holds on the true bone, and what is wrong or
not certain writes nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from scan_support import voxelised

from spine_nav_common.core.case import load_case
from spine_nav_common.core.errors import InputError, PlanError, ScanError
from spine_nav_common.core.surface import signed_distance_m
from spine_nav_common.core.types import LEVEL_CODE, Mesh, ScrewPlan
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.anatomy_frame import find_frame
from spine_planning.core.case_plan import Wanted, plan_case
from spine_planning.core.graded import grade_case, measure_case
from spine_planning.core.grades import grade_screw
from spine_planning.core.implants import Implants, load_implants
from spine_planning.core.labels import load_labels
from spine_planning.core.planner import plan_vertebra
from spine_planning.core.scan import load_scan

STEP_MM = 1.5


@pytest.fixture(scope="module")
def spine():
    return make_anatomy(np.random.default_rng(4), ("L3", "L4"))


@pytest.fixture(scope="module")
def files(spine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    ct, mask = voxelised(spine.meshes, STEP_MM)
    sitk.WriteImage(ct, str(folder / "Secret_Patient.nii.gz"))
    sitk.WriteImage(mask, str(folder / "mask.nii.gz"))
    return folder


@pytest.fixture(scope="module")
def planned(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "case"
    plan_case(Wanted(files / "Secret_Patient.nii.gz", out, files / "mask.nii.gz", names="spinenav"))
    return out


def test_the_plan_holds_on_the_true_bone(planned, spine):
    document = json.loads((planned / "plan_report.json").read_text())
    names = [s["name"] for s in document["screws"]]
    assert names == ["L3_left", "L3_right", "L4_left", "L4_right"] and not document["refused"]
    for s in document["screws"]:
        level, side = s["name"].split("_")
        mesh = spine.meshes[level]
        plan = ScrewPlan(level, side, *(1e-3 * np.array(s[k]) for k in ("entry_mm", "target_mm")))
        found = grade_screw(mesh, find_frame(mesh), plan, s["diameter_mm"])
        assert found.shaft.grade == s["grade"]["gertzbein_robbins"] == "A"
        assert found.shaft.least_mm == pytest.approx(s["least_margin_mm"], abs=1.0)
        assert np.linalg.norm(plan.target_m - plan.entry_m) == pytest.approx(
            1e-3 * s["length_mm"], abs=1e-5
        )
        assert (s["name"] == "L3_left") == (names[0] == s["name"])


def test_the_case_is_what_replay_takes_and_names_nobody(planned, files):
    case = load_case(planned)
    assert case.frame == "LPS" and list(case.meshes) == ["L3", "L4"] and len(case.plan) == 4
    written = sitk.ReadImage(str(planned / "labels.nii.gz"))
    mask = sitk.ReadImage(str(files / "mask.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(mask))
    for file in planned.iterdir():
        assert b"Secret" not in file.read_bytes()


def test_surfaces_are_the_bone_within_half_a_voxel(planned, spine):
    case = load_case(planned)
    for level, mesh in case.meshes.items():
        off = 1e3 * np.abs(signed_distance_m(spine.meshes[level], mesh.vertices_m))
        assert off.mean() < 0.5 * STEP_MM and np.quantile(off, 0.95) < 1.5
        here, there = (
            0.5 * (m.vertices_m.min(axis=0) + m.vertices_m.max(axis=0))
            for m in (mesh, spine.meshes[level])
        )
        assert here == pytest.approx(there, abs=1e-3 * STEP_MM)


def test_grade_and_measures_agree_with_the_plan(planned):
    again = grade_case(planned, planned / "plan_report.json")
    document = json.loads((planned / "plan_report.json").read_text())
    for a, b in zip(again["screws"], document["screws"], strict=True):
        assert a["grade"]["gertzbein_robbins"] == b["grade"]["gertzbein_robbins"]
        assert a["least_margin_mm"] == pytest.approx(b["least_margin_mm"], abs=0.05)
    markups = grade_case(planned, planned / "plan.mrk.json", diameter_mm=4.0)
    assert [s["name"] for s in markups["screws"]] == [s["name"] for s in document["screws"]]
    found = measure_case(planned)["measures"]
    for level, values in found.items():
        for name, value in values.items():
            assert value == pytest.approx(document["measures"][level][name], abs=0.6)
    with pytest.raises(PlanError, match="camera's frame"):
        grade_case(planned, planned / "screws.csv")


def test_the_plan_of_another_scan_is_not_graded(planned, tmp_path):
    document = json.loads((planned / "plan_report.json").read_text())
    document["scan"]["sha256"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(document))
    with pytest.raises(PlanError, match="scan-00000000"):
        grade_case(planned, tmp_path / "other.json")


def test_a_plan_that_is_stopped_while_it_writes_leaves_nothing(files, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("spine_planning.core.case_plan.write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        plan_case(wanted(files, tmp_path, levels=("L3",)))
    assert not list(tmp_path.iterdir())


def test_a_screw_that_is_moved_into_the_canal_breaches_medially(planned, spine):
    """The promise behind every A: the same screw, put wrong, is none."""
    mesh = spine.meshes["L3"]
    frame = find_frame(mesh)
    plan = next(p for p in load_case(planned).plan if (p.level, p.side) == ("L3", "left"))
    left = frame.T_mesh_vertebra[:3, 0]
    grades = []
    for shift_mm in (0.0, 6.0):
        off = -1e-3 * shift_mm * left
        moved = replace(plan, entry_m=plan.entry_m + off, target_m=plan.target_m + off)
        found = grade_screw(mesh, frame, moved, 6.0)
        grades.append((found.shaft.grade, found.toward, found.heary, found.ravi > 1))
    assert grades[0][0] == "A" and grades[0][2:] == (1, False)
    assert grades[1][0] in "BCDE" and grades[1][1] == "medial" and grades[1][2:] == (4, True)


def test_a_tray_without_a_thin_screw_is_refused_with_the_reason(spine):
    found = plan_vertebra("L3", spine.meshes["L3"], Implants((11.5,), (40.0,)))
    for pedicle in found.pedicles.values():
        assert "the thinnest screw" in pedicle.plans.reason


def wanted(files, tmp_path, **given):
    standard = {"scan": files / "Secret_Patient.nii.gz", "out": tmp_path / "case",
                "labels": files / "mask.nii.gz", "names": "spinenav"}  # fmt: skip
    return Wanted(**{**standard, **given})


def mask_of(files, change):
    image = sitk.ReadImage(str(files / "mask.nii.gz"))
    values = sitk.GetArrayFromImage(image)
    made = sitk.GetImageFromArray(change(values))
    made.CopyInformation(image)
    return made


def relabelled(table):
    def change(values):
        out = np.zeros_like(values)
        for level, number in table.items():
            out[values == LEVEL_CODE[level]] = number
        return out

    return change


@pytest.mark.parametrize(
    ("change", "names", "word"),
    [
        (relabelled({"L3": 16, "L4": 15}), "spinenav", "lies caudal"),
        (relabelled({"L3": 13, "L4": 16}), "spinenav", "between them is missing"),
        (relabelled({"L3": 99, "L4": 98}), None, "not certain"),
        (relabelled({"L3": 8, "L4": 9}), None, "not certain"),  # VerSe's T1, T2 or our T8, T9
        (relabelled({}), "spinenav", "not certain"),
        (lambda v: np.roll(v, 12, axis=0), "spinenav", "no vertebra lies whole|falls into"),
    ],
)
def test_masks_that_are_wrong_or_not_certain_write_nothing(files, tmp_path, change, names, word):
    path = tmp_path / "m.nii.gz"
    sitk.WriteImage(mask_of(files, change), str(path))
    with pytest.raises(ScanError, match=word):
        plan_case(wanted(files, tmp_path, labels=path, names=names))
    assert not (tmp_path / "case").exists()


@pytest.mark.parametrize(
    ("table", "scheme"),
    [({"L3": 29, "L4": 28}, "totalsegmentator"), ({"L3": 22, "L4": 23}, "verse")],
)
def test_numberings_of_others_that_only_one_reading_fits(files, tmp_path, table, scheme):
    path = tmp_path / "m.nii.gz"
    sitk.WriteImage(mask_of(files, relabelled(table)), str(path))
    found = load_labels(path, load_scan(files / "Secret_Patient.nii.gz"))
    assert found.levels == ("L3", "L4") and scheme in found.notes[0]


def test_a_folder_of_masks_and_a_file_of_names(files, tmp_path):
    scan = load_scan(files / "Secret_Patient.nii.gz")
    folder = tmp_path / "masks"
    folder.mkdir()
    for level in ("L3", "L4"):
        single = mask_of(files, lambda v, level=level: (v == LEVEL_CODE[level]).astype(np.uint8))
        sitk.WriteImage(single, str(folder / f"vertebrae_{level}.nii.gz"))
    assert load_labels(folder, scan).levels == ("L3", "L4")
    names = tmp_path / "names.yaml"
    names.write_text("3: C7\n15: L3\n16: L4\n")
    assert load_labels(files / "mask.nii.gz", scan, names).levels == ("L3", "L4")
    names.write_text("15: L3\n16: L3\n")
    with pytest.raises(ScanError, match="twice"):
        load_labels(files / "mask.nii.gz", scan, names)


def test_loose_voxels_are_left_out_and_do_not_cut_a_vertebra_off(files, tmp_path):
    def change(values):
        values = values.copy()
        values[0, 0, 0] = LEVEL_CODE["L3"]
        return values

    path = tmp_path / "m.nii.gz"
    sitk.WriteImage(mask_of(files, change), str(path))
    found = load_labels(path, load_scan(files / "Secret_Patient.nii.gz"), "spinenav")
    assert found.levels == ("L3", "L4") and not found.cut and "1 loose voxels" in found.notes[0]
    assert found.codes[0, 0, 0] == 0


def test_a_mask_of_another_grid_is_refused(files, tmp_path):
    image = sitk.ReadImage(str(files / "mask.nii.gz"))
    image.SetOrigin([v + 2.0 for v in image.GetOrigin()])
    sitk.WriteImage(image, str(tmp_path / "m.nii.gz"))
    with pytest.raises(ScanError, match="another scan"):
        plan_case(wanted(files, tmp_path, labels=tmp_path / "m.nii.gz"))


def test_a_flipped_scan_is_no_case(spine, files, tmp_path):
    """Front for back: the backs of the vertebrae tell, and nothing is written."""
    for name in ("Secret_Patient.nii.gz", "mask.nii.gz"):
        image = sitk.ReadImage(str(files / name))
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        sitk.WriteImage(image, str(tmp_path / name))
    with pytest.raises(InputError):
        plan_case(wanted(tmp_path, tmp_path))
    assert not (tmp_path / "case").exists() and not (tmp_path / "case.part").exists()


def test_without_labels_the_shipped_network_looks_and_asks_for_levels(files, tmp_path):
    """The whole scan holds two lumbar vertebrae: nothing in it tells which."""
    with pytest.raises(ScanError, match="the sacrum is not in view.*name all 2 from head to foot"):
        plan_case(wanted(files, tmp_path, labels=None))
    case = plan_case(wanted(files, tmp_path, labels=None, found=("L3", "L4")))
    assert case is not None and (tmp_path / "case" / "L3.ply").is_file()


def test_levels_that_are_not_there_and_a_folder_in_use(files, tmp_path):
    with pytest.raises(PlanError, match="is not in the mask"):
        plan_case(wanted(files, tmp_path, levels=("L1",)))
    with pytest.raises(PlanError, match="is unknown"):
        plan_case(wanted(files, tmp_path, levels=("Q9",)))
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "mine.txt").write_text("keep")
    with pytest.raises(PlanError, match="something else"):
        plan_case(wanted(files, tmp_path))
    (tmp_path / "case" / "plan_report.json").write_text(
        "{}"
    )  # an earlier plan, and a file beside it
    with pytest.raises(PlanError, match="something else"):
        plan_case(wanted(files, tmp_path))
    assert (tmp_path / "case" / "mine.txt").read_text() == "keep"


def test_a_wrong_rescale_is_seen_in_the_bone(files, tmp_path):
    from spine_planning.core.sampling import hounsfield

    scan = load_scan(files / "Secret_Patient.nii.gz")
    labels = load_labels(files / "mask.nii.gz", scan, "spinenav")
    assert hounsfield(scan, labels.codes) == (True, "")
    wrong = replace(scan, image=scan.image + 1024)
    assert hounsfield(wrong, labels.codes)[0] is False
    with pytest.raises(ScanError, match="wrong rescale"):
        hounsfield(replace(wrong, modality="CT"), labels.codes)


@pytest.mark.parametrize(
    "text", ["diameters_mm: [6.5]", "diameters_mm: []\nlengths_mm: [40]", "diameters_mm: [0.0065]\nlengths_mm: [40]",
             "diameters_mm: {from: 5, to: 4, step: 1}\nlengths_mm: [40]", "- 5"],
)  # fmt: skip
def test_trays_that_are_none(tmp_path, text):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(PlanError):
        load_implants(tmp_path / "t.yaml")


def test_a_tray_with_steps(tmp_path):
    (tmp_path / "t.yaml").write_text(
        "diameters_mm: {from: 5, to: 6, step: 0.5}\nlengths_mm: [45, 40]\n"
    )
    assert load_implants(tmp_path / "t.yaml") == Implants((5.0, 5.5, 6.0), (40.0, 45.0))


def test_a_body_is_needed():
    ball = Mesh(np.array([[0, 0, 0], [0.03, 0, 0], [0, 0.03, 0], [0, 0, 0.03]], float),
                np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32))  # fmt: skip
    found = plan_vertebra("L3", ball, Implants())
    assert "body" in found.reason or "endplates" in found.reason
