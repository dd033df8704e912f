# SPDX-License-Identifier: Apache-2.0
"""The refiners' labels follow every change of the crops; training resumes and exports what runs.

Needs the `train` extra (pip install -e .[train]); skipped without it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spine_nav_common.core.types import Intrinsics
from spine_perception.core.backends import ONNX_FP32
from stereo_screw_tracker.core import refiner, rod_refiner
from stereo_screw_tracker.core.crops import head_crops, project, rod_crops
from stereo_screw_tracker.core.types import StereoCamera

TRAINING = Path(__file__).resolve().parents[3] / "training"
if not (TRAINING / "screw_refiner" / "pupil.py").is_file():
    pytest.skip("training/ is not part of this installation", allow_module_level=True)
torch = pytest.importorskip("torch", reason="training needs the `train` extra (torch)")
pytest.importorskip("onnx", reason="export needs the `train` extra (onnx)")
sys.path.insert(0, str(TRAINING.parent))

from training.course import Course
from training.screw_refiner import augment, dataset, network, pupil
from training.screw_refiner import evaluate as evaluation

CAMERA = StereoCamera(Intrinsics(320, 240, 320.0, 320.0, 160.0, 120.0), 0.08)


def _arrays(seed: int) -> dict[str, np.ndarray]:
    """Bright spots for heads, a bright stripe for a rod, rows that do not quite agree."""
    rng = np.random.default_rng(seed)
    heads = np.column_stack([[-0.06, 0.02, 0.11], [-0.08, -0.07, -0.09], rng.uniform(0.45, 0.5, 3)])
    along = np.array([0.9, 0.3, 0.2]) / np.linalg.norm([0.9, 0.3, 0.2])
    rod = np.array([0.04, 0.06, 0.48]) + np.arange(-40, 41)[:, None] * 1e-3 * along
    axis = rng.normal(0, 0.3, (3, 3)) - [0, 0, 1.0]
    head_px, rod_px = project(heads, CAMERA), project(rod, CAMERA)
    row = np.array([0.0, 0.6])
    head_px[1][:] += row
    rod_px[1][:] += row
    v, u = np.mgrid[:240, :320]
    images = []
    for spots, line in zip(head_px, rod_px, strict=True):
        image = np.full((240, 320), 30.0)
        for a, b in spots:
            image += 200 * np.exp(-0.5 * ((u - a) ** 2 + (v - b) ** 2) / 1.8**2)
        far = (line[None, None, ::2] - np.stack([u, v], axis=-1)[:, :, None]) ** 2
        image += 150 * np.exp(-0.5 * far.sum(axis=3).min(axis=2) / 1.2**2)
        images.append(np.clip(image, 0, 255).astype(np.uint8))
    k = CAMERA.intrinsics
    return {
        "left": images[0],
        "right": images[1],
        "K": np.array([k.fx, k.fy, k.cx, k.cy]),
        "baseline_m": np.array(CAMERA.baseline_m),
        "head_m": heads,
        "axis": axis / np.linalg.norm(axis, axis=1, keepdims=True),
        "head_left_px": head_px[0],
        "head_right_px": head_px[1],
        "head_seen_left": np.ones(3),
        "head_seen_right": np.ones(3),
        "rod_m": rod,
        "rod_tangent": np.tile(along, (81, 1)),
        "rod_id": np.zeros(81, int),
        "rod_left_px": rod_px[0],
        "rod_right_px": rod_px[1],
        "rod_seen_left": np.ones(81, bool),
        "rod_seen_right": np.ones(81, bool),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for split, seeds in (("train", range(2)), ("validation", range(2, 4))):
        (folder / split).mkdir()
        for seed in seeds:
            np.savez(folder / split / f"{seed}.npz", **_arrays(seed))
    (folder / "train" / ".9.part.npz").write_bytes(b"being written")
    return folder


@pytest.fixture
def pair(data) -> dataset.StereoPair:
    return dataset.load_pair(data / "train" / "0.npz")


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setattr(pupil, "photometric", lambda x, _: (x, np.zeros(len(x), bool)))


def _at(crop: np.ndarray, u: float, v: float) -> float:
    middle = (len(crop) - 1) / 2
    return float(crop[round(float(v) + middle), round(float(u) + middle)])


def test_the_spot_is_where_the_label_says_in_both_eyes_of_every_mirrored_crop(pair, plain):
    batch = pupil.head_batch([pair], 120, np.random.default_rng(0))
    x, target = batch.x.numpy(), batch.target.numpy()
    rows = np.flatnonzero(batch.present.numpy() == 1.0)
    assert len(rows) > 40
    for i in rows:
        eyes = refiner.EYES_FROM_PAIR @ target[i, :4]
        for eye in (0, 1):
            u, v = eyes[2 * eye : 2 * eye + 2]
            if max(abs(u), abs(v)) < 22:
                assert _at(x[i, eye], u, v) > 0.9 * x[i, eye].max()


def test_the_stripe_is_where_the_label_says_in_every_mirrored_rod_crop(pair, plain):
    batch = pupil.rod_batch([pair], 150, np.random.default_rng(0))
    x, target, present = batch.x.numpy(), batch.target.numpy(), batch.present.numpy()
    assert (present == 1.0).sum() > 80
    assert (present == 0.0).sum() > 20
    for i, eye in np.argwhere(present == 1.0):
        assert _at(x[i, eye], target[i, eye], 0.0) > 0.85 * x[i, eye, 15:17].max()


def test_labels_lead_back_to_the_true_pixels_and_axis(pair):
    rng = np.random.default_rng(1)
    rows = np.repeat(np.arange(3), 10)
    crops, rotation = head_crops(
        *dataset.finder_like(pair, rows, rng), pair.camera, refiner.PITCH_M
    )
    crops, rotation = dataset.vary_head_crops(crops, rotation, rng)
    labels = dataset.head_labels(pair, crops, rotation)
    eyes = labels.shift @ refiner.EYES_FROM_PAIR.T
    left = crops.left_px + np.einsum("nij,nj->ni", crops.left_from_crop, eyes[:, :2])
    right = crops.right_px + np.einsum("nij,nj->ni", crops.right_from_crop, eyes[:, 2:])
    assert left == pytest.approx(pair.head_left_px[labels.head], abs=1e-9)
    assert right == pytest.approx(pair.head_right_px[labels.head], abs=1e-9)
    assert np.einsum("nji,nj->ni", rotation, labels.axis) == pytest.approx(
        pair.axis[labels.head], abs=1e-9
    )
    # A roll of the crop turns the picture of a vector and the label's axis alike.
    tip = pair.head_m[labels.head] + 1e-5 * pair.axis[labels.head]
    moved = project(tip, pair.camera)[0] - project(pair.head_m[labels.head], pair.camera)[0]
    seen = np.einsum("nij,nj->ni", np.linalg.inv(crops.left_from_crop), moved)
    tilted = np.linalg.norm(labels.axis[:, :2], axis=1) > 0.3
    a, b = seen[tilted] @ [1, 1j], labels.axis[tilted, :2] @ [1, 1j]
    assert len(a) and np.abs(np.angle(a / b)).max() < 0.5  # the left ray is not quite the frame's


def test_presence_is_refused_to_eyes_that_do_not_match_and_left_open_where_unsure(pair):
    def present(pair, left, right) -> float:
        crops = head_crops(left[None], right[None], pair.camera, refiner.PITCH_M)
        return dataset.head_labels(pair, *crops).present[0]

    left, right = pair.head_left_px[0], pair.head_right_px[0]
    assert present(pair, left, right) == 1.0
    pixel = pair.camera.intrinsics.fx * refiner.PITCH_M / pair.head_m[0, 2]
    assert present(pair, left, right + [15 * pixel, 0]) == 0.0
    assert present(pair, left, right + [8.5 * pixel, 0]) == dataset.IGNORE
    assert present(pair, left + [0, 20 * pixel], right + [0, 20 * pixel]) == 0.0
    for seen, want in ((0.0, 0.0), (0.1, dataset.IGNORE), (0.5, 1.0)):
        hidden = replace(pair, head_seen=np.full((3, 2), seen))
        assert present(hidden, left, right) == want


def test_a_rod_is_absent_beside_it_beyond_its_end_and_where_it_is_covered(pair):
    along, middle = pair.rod_tangent[0], pair.rod_m[40]
    side = np.cross(along, [0, 0, 1.0])
    places = middle + np.array([0 * side, 0.01 * side, 0.005 * side, 0.06 * along, 0.0398 * along])
    crops = rod_crops(places, np.tile(along, (5, 1)), pair.camera, rod_refiner.PITCH_M)
    want = [1.0, 0.0, dataset.IGNORE, 0.0, dataset.IGNORE]
    assert dataset.rod_labels(pair, crops).present == pytest.approx(np.array([want, want]).T)
    covered = replace(pair, rod_seen=np.column_stack([np.zeros(81, bool), np.ones(81, bool)]))
    assert dataset.rod_labels(covered, crops).present[0] == pytest.approx([0.0, 1.0])


def test_a_pair_without_rods_or_heads_teaches_what_is_absent(pair):
    bare = replace(
        pair,
        head_m=np.zeros((0, 3)),
        axis=np.zeros((0, 3)),
        head_left_px=np.zeros((0, 2)),
        head_right_px=np.zeros((0, 2)),
        head_seen=np.zeros((0, 2)),
        rod_m=np.zeros((0, 3)),
        rod_left_px=np.zeros((0, 2)),
        rod_right_px=np.zeros((0, 2)),
    )
    rng = np.random.default_rng(0)
    assert np.all(dataset.head_samples(bare, 5, rng)[1].present == 0.0)
    assert np.all(dataset.rod_samples(bare, 5, rng)[1].present == 0.0)


def test_augmentation_stays_within_grey_levels_and_tells_what_it_covered():
    rng = np.random.default_rng(0)
    x = np.random.default_rng(1).uniform(0, 255, (2000, 2, 24, 24)).astype(np.float32)
    before = x.copy()
    y, covered = augment.photometric(x, rng)
    assert np.array_equal(x, before)
    assert y.dtype == np.float32 and y.min() >= 0 and y.max() <= 255
    assert 0 < covered.mean() < 0.12


def test_swapping_the_eyes_swaps_the_answers_of_the_rod_net():
    torch.manual_seed(0)
    net = network.RodNet().eval()
    x = torch.randn(3, 2, 32, 32)
    assert torch.allclose(net(x).flip(1), net(x.flip(1)), atol=1e-5)


def test_the_vote_moves_with_the_picture():
    """Before any training, a picture moved by one cell moves the vote of position by one cell."""
    torch.manual_seed(0)
    net = network.HeadNet().eval()
    assert net.place[0, 0, 0, 1] - net.place[0, 0, 0, 0] == pytest.approx(4 / network.UNIT_PX)
    assert net.place[0, 1, 1, 0] - net.place[0, 1, 0, 0] == pytest.approx(4 / network.UNIT_PX)
    assert float(net.place.sum()) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("shift", [-2, 0, 3])
def test_correlation_peaks_at_the_shift_between_the_eyes(shift):
    torch.manual_seed(1)
    block = network.Correlation(6, 24, 4).eval()
    right = torch.randn(2, 6, 5, 24)
    left = torch.roll(right, -shift, dims=3)  # left at x is right at x + shift
    got = block(left, right)[:, :, :, 6:18].mean(dim=(0, 2, 3))
    assert got.shape == (9,) and int(got.argmax()) == shift + 4


@pytest.mark.parametrize("kind", ["head", "rod"])
def test_training_resumes_and_the_export_runs_in_the_core(data, tmp_path, kind):
    core, taught = evaluation.CORE[kind], {"head": pupil.HEAD, "rod": pupil.ROD}[kind]
    stream = pupil.Crops(data / "train", np.random.default_rng(0), kind, batch=8)

    def course(home: str = "home") -> Course:
        new = Course(taught, tmp_path / home, tmp_path)
        new.mode = (False, True)
        return new

    first = course()
    first.learn(stream, 600.0, stop=lambda: first.step >= 3)
    assert first.step == 3 and all(np.isfinite(v) for v in first.losses.values())
    second = course()
    second.learn(stream, 600.0, stop=lambda: second.step >= 6)
    assert second.step == 6
    card = taught.publish(second.state(), data / "validation", tmp_path, "smoke test", "")
    assert card["training"]["steps"] == 6 and card["torch_difference"] < 1e-3
    assert all(0 < v for v in card["sigma_scale"].values())
    model = tmp_path / core.MODEL_NAME
    assert json.loads(model.with_suffix(".json").read_text()) == card
    assert "smoke test" in model.with_name(f"{model.stem.upper()}_CARD.md").read_text()
    loaded = {"head": refiner.HeadRefiner, "rod": rod_refiner.RodRefiner}[kind](model, ONNX_FP32)
    loaded.warm_up()
    # The half-precision weights begin the next machine's course where this one ended.
    other = course("elsewhere")
    assert (other.step, other.samples) == (6, 48)


def test_without_data_training_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="screw_finder.generate"):
        pupil.Crops(tmp_path, np.random.default_rng(0), "head").batch()


def test_the_calibration_factor_makes_95_percent_of_the_errors_fit():
    z = np.random.default_rng(0).normal(0, 3.0, (4000, 1))
    assert evaluation.factors(z, ("a",))["a"] == pytest.approx(3.0, rel=0.06)
    report = evaluation.detection(np.array([2.0, 3, -1, 0.5]), np.array([1.0, 1, 0, 0]))
    assert report["auc"] == 1.0 and report["false_at_98"] == 0.0
