# SPDX-License-Identifier: Apache-2.0
"""Training resumes where it stopped, learns, and exports what inference then runs.

Needs the `train` extra (pip install -e .[train]); skipped without it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from spine_nav_common.core.types import Intrinsics
from spine_perception.core.backends import ONNX_FP32
from spine_perception.core.inference import OnnxNetwork, read_card

TRAINING = Path(__file__).resolve().parents[3] / "training"
if not (TRAINING / "spine_unet" / "pupil.py").is_file():
    pytest.skip("training/ is not part of this installation", allow_module_level=True)
torch = pytest.importorskip("torch", reason="training needs the `train` extra (torch)")
pytest.importorskip("onnx", reason="export needs the `train` extra (onnx)")
sys.path.insert(0, str(TRAINING.parent))

from training.course import Course
from training.spine_unet import augment, dataset, gate, network, pupil

K = Intrinsics(160, 120, 400.0, 400.0, 79.5, 59.5)


def _view(seed: int) -> dataset.View:
    """Two bright discs 6 mm above a plane; cranial is +x of the camera, dorsal towards it."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[:120, :160]
    x, y = (u - K.cx) / K.fx, (v - K.cy) / K.fy
    depth = np.full((120, 160), 0.4, np.float32)
    instance = np.zeros((120, 160), np.uint8)
    centres = []
    for row, x0 in enumerate((-0.02, 0.02)):
        centre = np.array([x0, rng.uniform(-0.01, 0.01), 0.394])
        disc = np.hypot(x - centre[0] / 0.394, y - centre[1] / 0.394) < 0.012 / 0.394
        depth[disc], instance[disc] = 0.394, row + 1
        centres.append(centre)
    colour = np.where(instance[..., None] > 0, 220, 60).astype(np.uint8).repeat(3, axis=2)
    return dataset.View(
        colour,
        depth,
        depth,
        instance,
        np.where(instance > 0, 0.0, np.inf),
        np.array(centres),
        np.tile([1.0, 0, 0], (2, 1)),
        np.tile([0, 0, -1.0], (2, 1)),
        K,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    for split, seeds in (("train", range(4)), ("validation", range(4, 6))):
        (folder / split / "a").mkdir(parents=True)
        for seed in seeds:
            dataset.save_view(folder / split / "a" / f"{seed}.npz", _view(seed))
    return folder


def test_a_view_survives_the_disk(data):
    kept, made = dataset.load_view(data / "train" / "a" / "0.npz"), _view(0)
    assert np.array_equal(kept.instance, made.instance)
    assert np.abs(kept.depth_m - made.depth_m).max() <= dataset.DEPTH_UNIT_M
    assert kept.centre_m == pytest.approx(made.centre_m, abs=1e-6)
    assert kept.intrinsics == made.intrinsics


@pytest.mark.parametrize("seed", range(6))
def test_labels_follow_the_roll_pitch_and_place_of_the_grid(seed):
    """Decoded the way inference decodes, every bone cell's label gives the true centre and axes."""
    rng = np.random.default_rng(seed)
    view = _view(seed)
    for _ in range(20):
        affine = dataset.random_grid(rng, view, 64)
        sample = dataset.make_sample(view, affine, 64, rng, augment=False)
        if sample.holds.sum() > 5:
            break
    from spine_perception.core import features, grid

    depth = grid.sample_depth(view.depth_m, affine, 64)
    points, x, y = (a[::2, ::2] for a in grid.camera_points(depth, affine, K))
    row = sample.instance[::2, ::2].astype(int) - 1
    at = sample.holds > 0
    assert at.sum() > 5

    def decoded(part: slice) -> np.ndarray:
        vectors = sample.vectors[part].transpose(1, 2, 0)
        return features.from_ray_frame(features.turn(vectors, features.roll_of(affine)), x, y)

    centre = points + decoded(slice(0, 3)) * features.CENTRE_SCALE_M
    assert centre[at] == pytest.approx(view.centre_m[row[at]], abs=1e-4)
    assert decoded(slice(3, 6))[at] == pytest.approx(view.cranial[row[at]], abs=1e-4)
    assert decoded(slice(6, 9))[at] == pytest.approx(view.dorsal[row[at]], abs=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_augmentation_keeps_the_input_finite_and_labels_only_what_is_seen(seed):
    rng = np.random.default_rng(seed)
    view = _view(seed)
    sample = dataset.make_sample(view, dataset.random_grid(rng, view, 64), 64, rng, augment=True)
    assert np.isfinite(sample.x).all()
    assert (sample.bone <= sample.weight).all()
    assert (sample.clean <= sample.bone).all()
    assert np.isfinite(sample.vectors).all()


@pytest.mark.parametrize("name", ["add_implants", "add_blood", "add_glints"])
def test_what_covers_bone_is_no_longer_bone_and_never_farther(name):
    """Metal and blood lie before the bone; glints take its depth away. None of them adds bone."""
    changed = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        depth = np.full((64, 64), 0.5) + 0.002 * rng.standard_normal((64, 64))
        depth[20:44, 20:44] += np.linspace(0.0, 0.03, 24)  # deeper towards one side
        label = np.zeros((64, 64), np.uint8)
        label[20:44, 20:44] = 3
        colour = np.full((64, 64, 3), 0.5, np.float32)
        was, kept = depth.copy(), label.copy()
        more = (0.002,) if name == "add_implants" else ()
        getattr(augment, name)(rng, depth, colour, label, *more)
        touched = label != kept
        assert not label[touched].any() and np.isfinite(colour).all()
        assert 0.0 <= colour.min() and colour.max() <= 1.0
        near = np.isfinite(depth) & touched
        assert (depth[near] < was[near] + 0.006).all()
        changed += not np.array_equal(was, depth, equal_nan=True)
    assert 3 < changed < 27


def _course(tmp_path: Path) -> Course:
    course = Course(pupil.PUPIL, tmp_path / "home", tmp_path / "none")
    course.mode = (False, True)
    return course


def test_training_resumes_and_the_export_agrees(data, tmp_path):
    first = _course(tmp_path)
    stream = pupil.Views(data / "train", np.random.default_rng(0), sizes=((64, 4),), shares=(1.0,))
    first.learn(stream, 600.0, stop=lambda: first.step >= 4)
    second = _course(tmp_path)
    assert (second.step, second.samples, second.views) == (4, 16, 4)
    second.learn(stream, 600.0, stop=lambda: second.step >= 12)
    assert second.step == 12
    assert sum(second.losses.values()) < sum(first.losses.values())

    models = tmp_path / "models"
    models.mkdir()
    card = pupil.PUPIL.publish(second.state(), data / "validation", models, "smoke test", "")
    assert card["training"]["steps"] == 12 and card["validation"]["views"] == 2
    model = models / "spine_unet.onnx"
    assert read_card(model) == card
    onnx_network = OnnxNetwork(model, ONNX_FP32)
    net = network.SpineUNet()
    net.load_state_dict(torch.load(second.checkpoint, weights_only=True)["ema"])
    net.eval()
    x = np.random.default_rng(0).normal(size=(1, 11, 224, 224)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(x))
    for got, wanted in zip(onnx_network(x), expected, strict=True):
        assert got == pytest.approx(wanted[0].numpy(), abs=1e-3)
    # What is committed begins the next machine's course where this one ended.
    other = Course(pupil.PUPIL, tmp_path / "elsewhere", models)
    assert (other.step, other.samples, other.views_before) == (12, 48, 4)
    kept = other.net.state_dict()["mask_head.0.weight"]
    assert torch.allclose(kept, second.net.state_dict()["mask_head.0.weight"], atol=1e-3)


def test_without_views_the_stream_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="spine_unet.generate"):
        pupil.Views(tmp_path, np.random.default_rng(0)).batch()


def test_a_model_that_navigates_worse_is_objected_to():
    def navigated(tracked: int, error_mm: float, wrong: int = 0) -> gate.Navigated:
        errors = np.r_[np.full(tracked - wrong, error_mm), np.full(wrong, 17.0)]
        return gate.Navigated(100, errors)

    shipped = navigated(80, 0.6)
    assert gate.objections(shipped, navigated(85, 0.5)) == []
    assert "fewer" in gate.objections(shipped, navigated(70, 0.5))[0]
    assert "worse" in gate.objections(shipped, navigated(85, 0.7))[0]
    assert "wrongly" in gate.objections(shipped, navigated(85, 0.5, 1))[0]
    assert gate.objections(shipped, navigated(0, 0.0))  # nothing shown at all
    few = navigated(20, 0.6)
    assert "too few" in gate.objections(few, few)[0]
