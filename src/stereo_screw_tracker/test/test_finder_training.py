# SPDX-License-Identifier: Apache-2.0
"""The finder's targets follow the augmentation; training resumes, and exports what inference runs.

Needs the `train` extra (pip install -e .[train]); skipped without it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

TRAINING = Path(__file__).resolve().parents[3] / "training"
if not (TRAINING / "screw_finder" / "pupil.py").is_file():
    pytest.skip("training/ is not part of this installation", allow_module_level=True)
torch = pytest.importorskip("torch", reason="training needs the `train` extra (torch)")
pytest.importorskip("onnx", reason="export needs the `train` extra (onnx)")
sys.path.insert(0, str(TRAINING.parent))

from stereo_screw_tracker.core.finder_grid import CELL_PX, SLOPE_SCALE, cell_centres
from training import shots
from training.course import Course
from training.screw_finder import dataset, network, pupil

F, BASELINE_M, WIDE, HIGH = 600.0, 0.08, 640, 480


def _project(points: np.ndarray, shift: float) -> np.ndarray:
    return np.stack(
        [
            F * (points[:, 0] - shift) / points[:, 2] + WIDE / 2 - 0.5,
            F * points[:, 1] / points[:, 2] + HIGH / 2 - 0.5,
        ],
        axis=1,
    )


def _arrays(seed: int) -> dict[str, np.ndarray]:
    """Bright discs for heads and a bar for a rod on noise, as training/screw_finder/generate.py labels."""
    rng = np.random.default_rng(seed)
    heads = np.column_stack(
        [rng.uniform(-0.05, 0.12, 3), [-0.1, 0.0, 0.1], rng.uniform(0.45, 0.55, 3)]
    )
    along = np.array([0.8, 0.5, 0.33]) / np.linalg.norm([0.8, 0.5, 0.33])
    rod = np.array([0.04, 0.05, 0.5]) + np.arange(-30, 31)[:, None] * 1e-3 * along
    arrays = {
        "K": np.array([F, F, WIDE / 2 - 0.5, HIGH / 2 - 0.5]),
        "baseline_m": np.array(BASELINE_M),
        "head_m": heads,
        "rod_id": np.zeros(len(rod), int),
    }
    texture = rng.uniform(40, 120, (HIGH // 8, WIDE // 8)).astype(np.float32)
    for name, shift in (("left", 0.0), ("right", BASELINE_M)):
        image = cv2.resize(texture, (WIDE, HIGH), interpolation=cv2.INTER_CUBIC)
        head_px, rod_px = _project(heads, shift), _project(rod, shift)
        cv2.polylines(image, [np.round(16 * rod_px).astype(int)], False, 170, 6, cv2.LINE_AA, 4)
        for u, v in head_px:
            cv2.circle(image, (round(16 * u), round(16 * v)), 16 * 9, 240, -1, cv2.LINE_AA, 4)
        arrays |= {
            name: np.clip(image, 0, 255).astype(np.uint8),
            f"head_{name}_px": head_px,
            f"head_seen_{name}": np.ones(3),
            f"rod_{name}_px": rod_px,
            f"rod_seen_{name}": np.ones(len(rod), bool),
        }
    return arrays


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for split, seeds in (("train", range(4)), ("validation", range(4, 6))):
        (folder / split).mkdir()
        for seed in seeds:
            np.savez(folder / split / f"{seed}.npz", **_arrays(seed))
    (folder / "train" / ".9.part.npz").write_bytes(b"being written")
    return folder


@pytest.fixture
def pair(data) -> dataset.Pair:
    return dataset.read_pair(data / "train" / "0.npz")


def _bright(sample: dataset.Sample, eye: int, uv: np.ndarray) -> float:
    """How much brighter a place is than the picture's usual."""
    u, v = np.round(uv).astype(int)
    return float(sample.x[eye, v - 2 : v + 3, u - 2 : u + 3].mean())


@pytest.mark.parametrize("seed", range(6))
def test_targets_point_at_the_heads_in_both_views_however_the_pair_is_turned(
    pair, seed, monkeypatch
):
    """Shape alone is augmented here; then the discs must lie where the targets say."""
    monkeypatch.setattr(dataset, "photometric", lambda view, *_: (view, None))
    sample = dataset.make_sample(pair, np.random.default_rng(seed))
    at = (sample.head_on > 0) & (sample.head_bin_on == 1)
    assert at.any()
    for row, column in np.argwhere(at):
        left = cell_centres()[row, column] + CELL_PX * sample.head_vector[:, row, column]
        right = left - (CELL_PX * sample.head_bin[row, column], 0)
        assert _bright(sample, 0, left) > 1.0
        if 3 < right[0] < WIDE - 3:
            assert _bright(sample, 1, right) > 1.0
        assert sample.heat[row, column] > 0


@pytest.mark.parametrize("seed", range(4))
def test_rod_targets_hold_for_the_next_cell_along_the_rod(pair, seed, monkeypatch):
    """Place, direction, slope and disparity of one cell predict what its neighbours say."""
    monkeypatch.setattr(dataset, "photometric", lambda view, *_: (view, None))
    sample = dataset.make_sample(pair, np.random.default_rng(seed))
    cells = np.argwhere((sample.rod_on > 0) & (sample.rod_bin_on > 0))
    assert len(cells) > 5
    place = np.array(
        [cell_centres()[r, c] + CELL_PX * sample.rod_vector[:2, r, c] for r, c in cells]
    )
    disparity = CELL_PX * np.array([sample.rod_bin[r, c] for r, c in cells])
    for n, (r, c) in enumerate(cells):
        cos2, sin2, slope_u, slope_v = sample.rod_vector[2:, r, c]
        angle = 0.5 * np.arctan2(sin2, cos2)
        way = np.array([np.cos(angle), np.sin(angle)])
        step = place - place[n]
        assert np.abs(step @ (-way[1], way[0])).max() < 0.7  # a straight rod
        slope = (slope_u * way[0] + slope_v * way[1]) / SLOPE_SCALE
        assert disparity == pytest.approx(disparity[n] + slope * (step @ way), abs=0.7)


def test_mirrored_twice_and_upside_down_twice_is_the_same(pair):
    for turned in (pair.mirrored().mirrored(), pair.upside_down().upside_down()):
        assert np.array_equal(turned.left, pair.left)
        assert turned.head_px == pytest.approx(pair.head_px)
        assert turned.rod_px == pytest.approx(pair.rod_px)
    flipped = pair.mirrored().head_px
    assert flipped[0, :, 0] - flipped[1, :, 0] == pytest.approx(
        pair.head_px[0, :, 0] - pair.head_px[1, :, 0]
    )


def test_a_covered_head_is_neither_to_be_found_nor_a_mistake(data):
    arrays = _arrays(0)
    arrays["head_seen_left"] = np.array([0.1, 1.0, 1.0])
    np.savez(data / "covered.npz", **arrays)
    sample = dataset.make_sample(dataset.read_pair(data / "covered.npz"), None)
    u, v = (int(c) for c in (arrays["head_left_px"][0] - 3.5) / CELL_PX + 0.5)
    assert sample.heat_weight[v, u] == 0
    assert sample.head_on[v, u] == 0
    assert (sample.heat == 1.0).sum() == 2
    assert (sample.heat_weight == 0).sum() < 30


@pytest.mark.parametrize("seed", range(8))
def test_augmentation_keeps_everything_finite(pair, seed):
    sample = dataset.make_sample(pair, np.random.default_rng(seed))
    for name in dataset.Sample.__dataclass_fields__:
        assert np.isfinite(getattr(sample, name)).all(), name
    assert (sample.rod <= sample.rod_weight).all()


@pytest.mark.parametrize("seed", range(6))
def test_a_band_has_the_discs_where_its_targets_say(pair, seed, monkeypatch):
    monkeypatch.setattr(dataset, "photometric", lambda view, *_: (view, None))
    band = dataset.make_sample(pair, np.random.default_rng(seed), 128)
    assert band.x.shape == (2, 128, WIDE)
    assert band.heat.shape == (16, WIDE // CELL_PX)
    places = [
        cell_centres()[row, column] + CELL_PX * band.head_vector[:, row, column]
        for row, column in np.argwhere(band.head_on > 0)
    ]
    inside = [uv for uv in places if 3 < uv[1] < 125]
    assert all(_bright(band, 0, uv) > 1.0 for uv in inside)


def test_a_shake_and_a_wet_lens_move_no_disc_and_keep_the_light():
    spot = np.zeros((41, 41), np.float32)
    spot[18:23, 18:23] = 200.0
    v, u = np.mgrid[:41, :41]
    for angle in (0.0, 0.7, 2.0):
        shot = shots.Shot(6.0, angle, (2.0, 0.0), (1.0, 0.0, 0.0), 60)
        for eye in (0, 1):
            seen = shots.lens(spot, shot, eye)
            assert seen.sum() == pytest.approx(spot.sum(), rel=1e-3)
            spread = ((u - 20) * np.cos(angle) + (v - 20) * np.sin(angle)) ** 2
            # Shaken by 6 px along the line in both eyes; the left one is wet besides.
            least = 2.0 + 2.0 + (3.5 if eye == 0 else 0.0)
            assert (spread * seen).sum() / seen.sum() > least
            for at in (u, v):
                assert (at * seen).sum() / seen.sum() == pytest.approx(20.0, abs=0.05)
            assert np.abs(shots.coded(seen, shot) - seen).max() < 30.0
    clean = shots.Shot(0.0, 0.0, (0.0, 0.0), (0.0, 0.0, 0.0), 0)
    assert np.array_equal(shots.coded(shots.lens(spot, clean, 0), clean), spot)


def test_a_broken_pair_is_named(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match=r"a\.npz.*generate it again"):
        dataset.read_pair(tmp_path / "a.npz")


def test_the_correlation_is_the_product_at_each_disparity():
    rng = torch.Generator().manual_seed(0)
    one, other = (torch.randn(2, 5, 3, 80, generator=rng) for _ in range(2))
    got = network.Correlation()(one, other)
    for d in (0, 1, 17, network.BINS - 1):
        expected = (one[..., d:] * other[..., : 80 - d]).sum(dim=1)
        assert torch.allclose(got[:, d, :, d:], expected, atol=1e-5)
        assert not got[:, d, :, :d].any()  # outside the other view


@pytest.mark.parametrize("pupil_", (pupil.PUPIL, pupil.MONO), ids=lambda p: p.name)
def test_training_resumes_and_the_export_agrees(data, tmp_path, pupil_):
    fast = replace(pupil_, rate=0.01)
    stream = pupil.Pairs(data / "train", np.random.default_rng(0), batch=2, rows=64)

    def course() -> Course:
        new = Course(fast, tmp_path, tmp_path / "none")
        new.mode = (False, True)
        return new

    first = course()
    first.learn(stream, 600.0, stop=lambda: first.step >= 3)
    second = course()
    assert second.step == 3
    second.learn(stream, 600.0, stop=lambda: second.step >= 45)
    second.learn(stream, 600.0, stop=lambda: second.step >= 48)
    assert all(second.losses[name] < first.losses[name] for name in ("head", "rod"))

    card = fast.publish(second.state(), data / "validation", tmp_path, "smoke test", "")
    path = tmp_path / f"{fast.name}.onnx"
    assert card["training"]["steps"] == 48
    assert (tmp_path / "SCREW_FINDER_CARD.md").exists() != (pupil_ is pupil.MONO)
    assert Course(fast, tmp_path / "elsewhere", tmp_path).step == 48
    report = fast.judge(path, data / "validation", 0)
    assert (report["pairs"], report["heads"]) == (2, 6)


def test_without_pairs_the_stream_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="screw_finder.generate"):
        pupil.Pairs(tmp_path, np.random.default_rng(0)).batch()
