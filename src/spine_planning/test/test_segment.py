# SPDX-License-Identifier: Apache-2.0
"""Segmentation with networks that know the truth, or lie: what comes out is the bone, and what is
unsure, turned round, no spine or not certain to be that level is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from scan_support import voxelised

from spine_nav_common.core.errors import InputError, OutputError, PlanError, ScanError
from spine_nav_common.core.types import LEVEL_CODE
from spine_nav_sim.core.anatomy import make_anatomy
from spine_planning.core import case_plan
from spine_planning.core.case_plan import Wanted, plan_case
from spine_planning.core.classical import classical_vertebrae
from spine_planning.core.ct_network import BLOCK, BONE_HU, CENTRE_SCALE_MM, STEP_MM
from spine_planning.core.labels import load_labels
from spine_planning.core.level_names import Asked, Named, check_names, name_levels
from spine_planning.core.scan import Scan, load_scan
from spine_planning.core.segment import (
    draw,
    on_network_grid,
    segment_scan,
    write_labels,
)
from spine_planning.core.vertebrae import (
    Vertebra,
    ask,
    assembled,
    find_vertebrae,
    in_column,
)

LEVELS = ("L3", "L4")
BONE = 260.0 / BONE_HU


class Oracle:
    """Knows every vertebra's centre, mm from voxel 0; bone is what is bright. One block alone."""

    provider, model_sha256 = "oracle", "0" * 64

    def __init__(self, centres_mm, certainty: float = 1.0, sacrum: int | None = None) -> None:
        self._centres, self._sacrum = np.array(centres_mm, float), sacrum
        p = 0.5 + 0.5 * certainty
        self._logit = float(np.log(p / (1.0 - p))) if certainty < 1.0 else 20.0

    def __call__(self, x):
        bone = (x[0, 1] > 0.5 * BONE) & (x[0, 2] > 0)
        z, y, w = (STEP_MM * a for a in np.indices(bone.shape))
        points = np.stack([w, y, z], axis=-1)
        far = np.linalg.norm(points[..., None, :] - self._centres, axis=-1)
        owner = far.argmin(axis=-1)
        masks = np.full((3, *bone.shape), -self._logit, np.float32)
        masks[0][bone] = self._logit
        if self._sacrum is not None:
            masks[1][bone & (owner == self._sacrum)] = self._logit
        half = np.s_[::2, ::2, ::2]
        way = self._centres[owner[half]] - points[half] - 0.5 * STEP_MM
        return masks, (way / CENTRE_SCALE_MM).transpose(3, 0, 1, 2).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    spine = make_anatomy(np.random.default_rng(4), LEVELS)
    ct, mask = voxelised(spine.meshes, 1.5)
    sitk.WriteImage(ct, str(folder / "ct.nii.gz"))
    sitk.WriteImage(mask, str(folder / "mask.nii.gz"))
    origin = np.array(ct.GetOrigin())
    centres = []
    values = sitk.GetArrayFromImage(mask)
    for level in LEVELS:
        index = np.argwhere(values == LEVEL_CODE[level]).mean(axis=0)[::-1]
        centres.append(1.5 * index)
    return SimpleNamespace(ct=folder / "ct.nii.gz", mask=values, centres=centres, origin=origin)


def dice(a, b) -> float:
    return 2.0 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_each_vertebra_is_its_bone_in_the_scan_s_own_voxels(files):
    scan = load_scan(files.ct)
    made = segment_scan(scan, Oracle(files.centres), LEVELS)
    assert made.labels.levels == LEVELS and made.because == "as you named them"
    for level in LEVELS:
        code = LEVEL_CODE[level]
        assert dice(made.labels.codes == code, files.mask == code) > 0.93


def test_what_is_written_is_read_as_the_same_labels_and_nothing_is_overwritten(files, tmp_path):
    scan = load_scan(files.ct)
    made = segment_scan(scan, Oracle(files.centres), LEVELS)
    out = tmp_path / "out.nii.gz"
    write_labels(out, made.labels, scan)
    read = load_labels(out, scan, "spinenav")
    assert np.array_equal(read.codes, made.labels.codes)
    with pytest.raises(OutputError, match="is there already"):
        write_labels(out, made.labels, scan)


def test_levels_are_asked_for_where_nothing_tells_them(files):
    with pytest.raises(ScanError, match="--found.*not certain.*sacrum is not in view") as refused:
        segment_scan(load_scan(files.ct), Oracle(files.centres))
    assert "name all 2 from head to foot" in str(refused.value)
    for wrong in (("L3",), ("L4", "L3"), ("L2", "L4"), ("L5", "S1"), ("L3", "X4")):
        with pytest.raises(ScanError, match="--found"):
            segment_scan(load_scan(files.ct), Oracle(files.centres), wrong)


def test_an_unsure_network_is_refused_by_place(files):
    with pytest.raises(ScanError, match="not sure of vertebra 1 of 2"):
        segment_scan(load_scan(files.ct), Oracle(files.centres, certainty=0.4), LEVELS)


def test_another_part_of_the_body_an_mri_and_wrong_values_are_refused(files):
    scan = load_scan(files.ct)
    nothing = Oracle(files.centres)
    nothing._logit = -20.0
    air = scan.image * 0 - 1000
    with pytest.raises(ScanError, match="nothing in it looks like a spine"):
        segment_scan(replace(scan, image=air), nothing, LEVELS)
    with pytest.raises(ScanError, match="knows CT alone"):
        segment_scan(replace(scan, modality="MR"), nothing, LEVELS)
    with pytest.raises(ScanError, match="no CT in Hounsfield units"):
        segment_scan(replace(scan, image=scan.image + 1100), nothing, LEVELS)


def test_front_and_back_exchanged_are_refused(files):
    scan = load_scan(files.ct)
    turned = sitk.GetImageFromArray(sitk.GetArrayFromImage(scan.image)[:, ::-1].copy())
    turned.CopyInformation(scan.image)
    wide = STEP_MM * (on_network_grid(scan).shape[1] - 1)
    size = 1.5 * (scan.image.GetSize()[1] - 1)
    assert abs(wide - size) < 2 * STEP_MM
    centres = [[c[0], size - c[1], c[2]] for c in files.centres]
    with pytest.raises(ScanError, match="front and back"):
        segment_scan(replace(scan, image=turned), Oracle(centres), LEVELS)


def test_head_and_feet_exchanged_are_refused(files):
    scan = load_scan(files.ct)
    with pytest.raises(ScanError, match="sacrum lies above"):
        segment_scan(scan, Oracle(files.centres, sacrum=0), None)


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.8), (0.9, 0.9, 3.0), (2.0, 2.0, 2.0)])
def test_the_network_s_grid_lies_where_the_scan_lies(spacing):
    size = [int(60 / s) for s in spacing]
    z, y, x = np.indices(size[::-1])
    ramp = (7.0 * x * spacing[0] + 3.0 * y * spacing[1] - 5.0 * z * spacing[2]).astype(np.float32)
    image = sitk.GetImageFromArray(ramp)
    image.SetSpacing(spacing)
    image.SetOrigin((11.0, -7.0, 3.0))
    hu = on_network_grid(Scan(image, ""))
    k, j, i = (STEP_MM * a for a in np.indices(hu.shape))
    inner = np.isfinite(hu)
    inner[[0, -1]] = inner[:, [0, -1]] = inner[:, :, [0, -1]] = False
    assert inner.sum() > 10000
    assert np.abs(hu - (7.0 * i + 3.0 * j - 5.0 * k))[inner].max() < 0.1
    assert all(n % 2 == 0 for n in hu.shape)


def ball(path, inside_hu: float, outside_hu: float, noise_hu: float) -> float:
    """Dice of a ball of 15 mm in a scan at 1 mm, which the network takes to be 1.5 mm wider."""
    z, y, x = np.mgrid[:64, :64, :64]
    far = np.sqrt((z - 32.0) ** 2 + (y - 32.0) ** 2 + (x - 32.0) ** 2) - 15.0
    hu = np.where(far < 0, inside_hu, outside_hu)
    hu = hu + np.random.default_rng(0).normal(0.0, noise_hu, hu.shape)
    image = sitk.GetImageFromArray(hu.astype(np.int16))
    sitk.WriteImage(image, str(path))
    scan = load_scan(path)
    grid = on_network_grid(scan)
    place = np.mgrid[tuple(slice(n) for n in grid.shape)] * STEP_MM - 32.0
    bone = 1.0 / (1.0 + np.exp((np.sqrt((place**2).sum(axis=0)) - 16.5) / 0.8))
    found = assembled([(bone > 0.5, False)], bone, np.zeros(bone.shape, bool))
    codes = np.zeros(hu.shape, np.uint8)
    draw(found, ("L3",), scan, grid, codes)
    return dice(codes > 0, far < 0)


def test_the_scan_s_own_values_move_the_border_where_they_tell_and_only_there(tmp_path):
    clear = ball(tmp_path / "a.nii.gz", 400.0, 40.0, 30.0)
    dark = ball(tmp_path / "b.nii.gz", 40.0, 400.0, 30.0)  # bone is never darker: no use of it
    same = ball(tmp_path / "c.nii.gz", 60.0, 60.0, 80.0)
    assert clear > 0.98
    assert same < 0.92
    assert dark == pytest.approx(same, abs=0.01)


def test_joined_blocks_say_what_each_says():
    """A network that looks at single voxels gives the same in blocks of any place."""
    rng = np.random.default_rng(0)
    hu = rng.uniform(0, 500, (BLOCK + 38, 60, BLOCK + 8)).astype(np.float32)
    hu[-9:] = np.nan

    def network(x):
        at = x[0, 1]
        vectors = np.repeat(at[None, ::2, ::2, ::2], 3, axis=0)
        return np.stack([4 * at - 1, at, -at]), vectors

    answer = ask(hu, network)
    inside = np.isfinite(hu)
    expected = 1.0 / (1.0 + np.exp(1.0 - 4.0 * np.nan_to_num(hu) / BONE_HU))
    assert np.allclose(answer.masks[0][inside], expected[inside], atol=1e-4)
    assert not answer.masks[:, ~inside].any()
    half = np.nan_to_num(hu)[::2, ::2, ::2] / BONE_HU * CENTRE_SCALE_MM
    assert np.allclose(answer.votes[1], half, atol=1e-2)
    with pytest.raises(ValueError, match="even"):
        ask(hu[1:], network)


def test_touching_bones_are_told_apart_by_their_votes_alone():
    hu = np.full((90, 50, 50), -100.0, np.float32)
    hu[6:84, 15:35, 15:35] = 260.0  # three in one block of bone, 52 mm each
    centres = [[49.0, 49.0, 12.0 + 52.0 * (k + 0.5)] for k in range(3)]
    found = find_vertebrae(hu, Oracle(centres))
    assert len(found.vertebrae) == 3
    tops = [v.centre_mm[2] for v in found.vertebrae]
    assert tops == sorted(tops, reverse=True)
    for v, c in zip(found.vertebrae, reversed(centres), strict=True):
        # a cell of 4 mm that two share belongs to one of them
        assert np.linalg.norm(v.centre_mm - c) < 5.0
        assert v.volume_ml == pytest.approx(83.2, rel=0.1)


def test_the_classical_peer_parts_what_dark_discs_part():
    hu = np.full((90, 60, 60), 40.0, np.float32)
    for k in range(3):
        hu[6 + 26 * k : 26 + 26 * k, 20:38, 20:40] = 300.0
    hu[6:84, 42:46, 28:32] = 300.0  # an arch that joins them
    hu[6:84, 36:44, 26:34] = 300.0
    assert len(classical_vertebrae(hu).vertebrae) == 3
    assert not classical_vertebrae(np.full((60, 60, 60), 40.0, np.float32)).vertebrae


def column(count: int, ribs: int, sacrum: bool = True, gap: int | None = None):
    made, z = [], 400.0
    for k in range(count):
        z -= 70.0 if gap == k else 34.0
        made.append(Vertebra(np.array([0.0, 0.0, z]), 60.0, 0.95, False, k < ribs, False))
    if sacrum:
        made.append(Vertebra(np.array([0.0, 20.0, z - 50.0]), 200.0, 0.95, True, False, True))
    return tuple(made)


def at(x, y, z, ml=60.0, sacrum=False, border=False):
    return Vertebra(np.array([x, y, z], float), ml, 0.9, sacrum, False, border)


def test_hips_and_crumbs_are_no_vertebrae_and_a_lost_one_leaves_its_gap():
    spine = [at(0, 3 * k, 34.0 * (5 - k)) for k in range(5)]
    sacrum = at(0, 40, -5, 170.0, sacrum=True)
    hips = [at(side * 85, 10, z, ml) for side in (-1, 1) for z, ml in ((-40, 100), (-75, 90))]
    rib, crumb = at(120, 20, 100, 6.0), at(20, 45, 0, 3.0)
    kept = in_column((*spine, sacrum, *hips, rib, crumb))
    assert kept.tolist() == [True] * 6 + [False] * 6
    top = at(0, 0, 195, 6.0, border=True)  # what the border leaves of one
    assert in_column((top, *spine, sacrum)).all()
    gap = (*spine[:2], *spine[3:], sacrum)
    assert in_column(gap).all() and isinstance(name_levels(gap), Asked)
    wide = (
        *spine[:1],
        *spine[3:],
        sacrum,
    )  # two lost: the upper part is another chain, and is kept
    assert in_column(wide).all() and "may be overlooked" in name_levels(wide).reason


def test_a_rib_is_its_own_vertebra_s_though_it_passes_the_one_below():
    upper, lower, ribs = (np.zeros((60, 40, 60), bool) for _ in range(3))
    upper[36:48, 10:25, 20:40] = True
    lower[14:28, 10:25, 20:40] = True
    ribs[34:40, 12:16, 41:44] = True
    ribs[24:36, 12:16, 43:46] = True  # and down beside the lower one
    found = assembled([(upper, False), (lower, False)], np.zeros(upper.shape), ribs)
    assert [v.has_ribs for v in found.vertebrae] == [True, False]


def test_levels_are_named_only_where_sacrum_and_ribs_agree():
    named = name_levels(column(7, 2))
    assert isinstance(named, Named)
    assert named.levels == ("T11", "T12", "L1", "L2", "L3", "L4", "L5", "S1")


@pytest.mark.parametrize(
    ("vertebrae", "reason", "proposal"),
    [
        (column(4, 0), "no rib is in view", "L2,L3,L4,L5,S1"),
        (column(8, 2), "6 vertebrae lie between", ""),
        (column(6, 2), "4 vertebrae lie between", ""),
        (column(7, 2, sacrum=False), "the sacrum is not in view", "T11,T12,L1,L2,L3,L4,L5"),
        (column(7, 2, gap=4), "lie 70 mm apart", None),
    ],
)
def test_otherwise_they_are_asked(vertebrae, reason, proposal):
    asked = name_levels(vertebrae)
    assert isinstance(asked, Asked) and reason in asked.reason
    assert proposal is None or asked.proposal == proposal


def test_ribs_below_a_vertebra_without_them_are_no_evidence():
    made = list(column(7, 3))
    made[1] = replace(made[1], has_ribs=False)
    assert isinstance(name_levels(tuple(made)), Asked)


def test_names_by_the_user_fit_or_are_refused():
    assert check_names(column(2, 0), ("L4", "L5", "S1")) == ""
    assert check_names(column(2, 0), ("L5", "L6", "S1")) == ""
    assert "does not follow" in check_names(column(2, 0), ("L3", "L4", "S1"))
    assert "70 mm apart" in check_names(column(6, 0, gap=3), ("T12", "L1", "L2", "L3", "L4", "L5", "S1"))  # fmt: skip


def test_a_plan_without_a_mask_uses_the_network_and_says_so(files, tmp_path, monkeypatch):
    monkeypatch.setattr(case_plan, "load_network", lambda: Oracle(files.centres))
    out = tmp_path / "case"
    with pytest.raises(InputError, match="--found"):
        plan_case(Wanted(files.ct, out, None))
    assert not out.exists()
    plan_case(Wanted(files.ct, out, None, found=LEVELS))
    document = json.loads((out / "plan_report.json").read_text())
    assert document["segmentation"]["network_sha256"] == "0" * 64
    assert set(document["segmentation"]["certainty"]) == set(LEVELS)
    assert document["screws"]
    assert "learned from virtual CTs alone" in (tmp_path / "case" / "report.html").read_text()


def test_without_a_network_a_mask_is_asked_for(files, tmp_path, monkeypatch):
    monkeypatch.setattr(case_plan, "load_network", lambda: None)
    with pytest.raises(PlanError, match="--labels MASK"):
        plan_case(Wanted(files.ct, tmp_path / "case", None))
