# SPDX-License-Identifier: Apache-2.0
"""The CT network's school: bones on a grid, scans of them with the truth beside, and who may ship."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
if not (ROOT / "training" / "school.py").is_file():
    pytest.skip("training/ is not part of this installation", allow_module_level=True)
torch = pytest.importorskip("torch", reason="training needs the `train` extra (torch)")
pytest.importorskip("onnx", reason="export needs the `train` extra (onnx)")
sys.path.insert(0, str(ROOT))

from spine_nav_common.core.surface import signed_distance_m
from spine_nav_common.core.types import LEVELS
from spine_nav_sim.core import ct_bones
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.ct_paint import paint
from spine_nav_sim.core.ct_scan import look, make_whole, place
from spine_nav_sim.core.splits import anatomy_seeds
from spine_planning.core.ct_network import CENTRE_SCALE_MM, STEP_MM, OnnxCtNetwork
from spine_planning.core.vertebrae import assembled
from training.ct_unet import generate
from training.ct_unet.dataset import make_sample, targets
from training.ct_unet.evaluate import compare
from training.ct_unet.network import CtUNet, fold, unfold
from training.ct_unet.pupil import LIMITS, PUPIL, errors, gate, losses
from training.onnx_export import export


@pytest.fixture(scope="module")
def spine():
    return make_anatomy(np.random.default_rng(4), ("L4", "L5", "S1")).meshes


@pytest.fixture(scope="module")
def unit(spine):
    return ct_bones.make_bones(spine, np.random.default_rng(1))


def test_the_grid_holds_each_bone_to_a_tenth_of_a_millimetre(unit, spine):
    rng = np.random.default_rng(0)
    rows = {level: unit.levels.index(level) for level in spine}
    assert list(unit.levels) == sorted(unit.levels, key=LEVELS.index)
    for level, mesh in spine.items():
        own = np.argwhere((unit.who == rows[level] + 1) & (np.abs(unit.distance) < 100))
        at = own[rng.integers(len(own), size=300)]
        points = unit.origin_mm + ct_bones.STEP_MM * at[:, ::-1]
        truth = 1e3 * signed_distance_m(mesh, 1e-3 * points)
        told = ct_bones.UNIT_MM * unit.distance[tuple(at.T)]
        assert np.percentile(np.abs(truth - told), 98) < 0.1


def test_votes_point_to_the_centre_and_masks_are_the_bone(unit, spine):
    """Also in a grid that is turned, scaled and mirrored."""
    turn = np.diag([-1.0, 1.0, 1.0]) @ np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    row = unit.levels.index("L4")
    placed = place(unit.centres_mm[row], (48, 48, 48), turn, 1.1, STEP_MM)
    seen = look(unit, placed)
    masks, vectors, holds = targets(unit, placed, seen)
    cell = np.argwhere(holds)
    middle = STEP_MM * (2.0 * cell[:, ::-1] + 0.5 - 23.5)  # about the grid's own middle
    ends = middle + CENTRE_SCALE_MM * vectors[:, holds].T
    centres = (unit.centres_mm - unit.centres_mm[row]) @ turn / 1.1
    far = np.linalg.norm(ends[:, None] - centres[None], axis=2)
    assert far.min(axis=1).max() < 0.1
    assert (far.argmin(axis=1) == row).any()
    for level, mesh in spine.items():  # what stands above L4 is a stand-in
        own = masks[0] & (seen.who == unit.levels.index(level) + 1)
        if own.any():
            told = 1e3 * signed_distance_m(mesh, 1e-3 * placed.points[:, own].T)
            assert np.percentile(told, 98) < 0.5


def test_a_scan_looks_like_one_and_another_patient_each_time(unit):
    placed = place(unit.centres_mm[0], (32, 64, 64), np.eye(3), 1.0, STEP_MM)
    seen = look(unit, placed)
    looks = [paint(unit, seen, np.random.default_rng(k)) for k in range(6)]
    bone = (seen.distance_mm < -1.5) & (seen.who <= len(unit.levels))
    for hu in looks:
        assert np.isfinite(hu).all() and hu.min() >= -1024 and hu.max() <= 3071
    assert np.ptp([hu[bone].mean() for hu in looks]) > 50


def test_samples_are_what_the_losses_take_and_a_step_teaches(unit):
    rng = np.random.default_rng(0)
    samples = [make_sample(unit, rng, 32) for _ in range(2)]
    batch = {
        k: torch.from_numpy(np.stack([getattr(s, k) for s in samples]))
        for k in ("x", "masks", "weight", "vectors", "holds")
    }
    torch.manual_seed(0)
    net = CtUNet()
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    totals = []
    for _ in range(6):
        terms = losses(net(batch["x"]), batch)
        total = torch.stack(list(terms.values())).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.9 * totals[0]


def test_folding_is_undone_and_the_export_agrees(tmp_path):
    x = torch.arange(2 * 3 * 4 * 6 * 8, dtype=torch.float32).reshape(2, 3, 4, 6, 8)
    assert torch.equal(unfold(fold(x)), x)
    worst = export(CtUNet(), tmp_path / "n.onnx", (1, 3, 32, 32, 32), ["masks", "vectors"])
    assert worst < 1e-3


def test_the_card_must_be_of_this_input(tmp_path):
    (tmp_path / "n.onnx").write_bytes(b"x")
    (tmp_path / "n.json").write_text(json.dumps({"input": {"block": 1}}))
    with pytest.raises(ValueError, match="field input"):
        OnnxCtNetwork(tmp_path / "n.onnx")


def test_truth_itself_is_without_error_and_a_lost_vertebra_is_not(unit):
    whole = make_whole(unit, np.random.default_rng(3), STEP_MM)
    rows = [r for r in range(len(unit.levels)) if (whole.who == r + 1).any()]
    kept = [(whole.who == r + 1, unit.levels[r] == "S1") for r in rows]
    bone = (whole.who > 0).astype(float)
    nothing = np.zeros(whole.who.shape, bool)
    row, each = compare(whole, assembled(kept, bone, nothing))
    assert min(each) == 1.0 and row["false"] == row["disorder"] == row["sacrum_wrong"] == 0
    row, each = compare(whole, assembled(kept[1:], bone, nothing))
    assert min(each) < 0.5 or rows[0] in whole.cut
    joined = [(kept[0][0] | kept[1][0], False), *kept[2:]]
    row, each = compare(whole, assembled(joined, bone, nothing))
    assert row["sacrum_wrong"] or min(each) < 0.9 or {rows[0], rows[1]} & whole.cut


def test_a_network_that_is_no_good_is_not_shipped_however_bad_the_peer_is(tmp_path):
    report = {
        "dice": 0.9, "dice_found": 0.93, "recall": 0.97, "precision": 0.95, "order_wrong": 0.0,
        "sacrum_wrong": 0.0, "wrongly_named": 0.0, "asked_needlessly": 0.2,
    }  # fmt: skip
    card = tmp_path / "ct_unet.json"
    card.write_text(json.dumps({"validation": report}))
    assert gate(tmp_path / "old.onnx", tmp_path / "ct_unet.onnx") == []
    for name, worse in {"dice": 0.8, "recall": 0.9, "wrongly_named": 0.01}.items():
        card.write_text(json.dumps({"validation": {**report, name: worse}}))
        assert len(gate(tmp_path / "old.onnx", tmp_path / "ct_unet.onnx")) == 1
    assert set(LIMITS) <= set(errors(report)) and set(PUPIL.targets) <= set(errors(report))


def test_training_and_validation_keep_to_their_seeds_and_off_the_real_cts():
    train, validation = generate.own_split("train"), generate.own_split("validation")
    allowed = anatomy_seeds("train")
    for listed in (train, validation):
        first, last = listed["seeds"]
        assert first in allowed and last - 1 in allowed
    assert train["seeds"][1] <= validation["seeds"][0]
    assert train["seeds"][0] + PUPIL.material.training_units <= train["seeds"][1]
    assert train["meshes"] and not [m for m in train["meshes"] if "ct_" in m["path"]]
