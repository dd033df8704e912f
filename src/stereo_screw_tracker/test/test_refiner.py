# SPDX-License-Identifier: Apache-2.0
"""The head refiner's geometry with networks that answer by rule, and its model file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spine_nav_common.core.types import Intrinsics, StereoFrame
from spine_perception.core.inference import ModelError
from stereo_screw_tracker.core import refiner
from stereo_screw_tracker.core.crops import project
from stereo_screw_tracker.core.types import StereoCamera

MOCKS = Path(__file__).resolve().parents[3] / "test"
K = Intrinsics(640, 480, 600.0, 600.0, 320.0, 240.0)
BASELINE_M = 0.06
ONES = np.ones(5)


class Answers:
    """A network with one answer for every crop."""

    def __init__(self, **values: float) -> None:
        self.row = np.zeros(len(refiner.OUTPUTS), np.float32)
        self.row[refiner.OUTPUTS.index("axis_z")] = -1.0
        for name, value in values.items():
            self.row[refiner.OUTPUTS.index(name)] = value
        self.batches: list[np.ndarray] = []

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        self.batches.append(x)
        return [np.tile(self.row, (len(x), 1))]


class SeesBlobs(Answers):
    """Says where the bright blob lies in each eye's crop."""

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        out = super().run(x)[0]
        g = np.arange(x.shape[-1]) - 0.5 * (x.shape[-1] - 1)
        w = np.maximum(x - x.min(axis=(2, 3), keepdims=True) - 0.5, 0.0).astype(float) + 1e-12
        total = w.sum(axis=(2, 3))
        u, v = (w * g).sum(axis=(2, 3)) / total, (w * g[:, None]).sum(axis=(2, 3)) / total
        out[:, :4] = np.stack(
            [u.mean(axis=1), v.mean(axis=1), u[:, 0] - u[:, 1], v[:, 0] - v[:, 1]], axis=1
        )
        return [out]


def _pictures(left_px: np.ndarray, right_px: np.ndarray) -> StereoFrame:
    v, u = np.mgrid[:480, :640]
    images = []
    for places in (left_px, right_px):
        image = np.full((480, 640), 20.0)
        for a, b in places:
            image += 200 * np.exp(-0.5 * ((u - a) ** 2 + (v - b) ** 2) / 3.0**2)
        images.append(np.round(image).astype(np.uint8))
    return StereoFrame(0, *images, K, BASELINE_M)


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(3)
    u, v = np.meshgrid(np.linspace(-0.11, 0.15, 6), np.linspace(-0.12, 0.12, 3))
    points = np.column_stack([u.ravel(), v.ravel(), rng.uniform(0.45, 0.6, 18)])
    left, right = project(points, StereoCamera(K, BASELINE_M))
    right[:, 1] += rng.normal(0, 0.4, 18)  # rows never agree quite
    return _pictures(left, right), left, right


def test_two_looks_find_the_true_place_in_both_images_for_more_heads_than_a_batch(scene):
    frame, left, right = scene
    rng = np.random.default_rng(4)
    net = SeesBlobs()
    candidates = [
        (a + rng.normal(0, 1.5, 2), b + rng.normal(0, 1.5, 2))
        for a, b in zip(left, right, strict=True)
    ]
    got = refiner.refine_heads(net, ONES, frame, candidates)
    assert len(got) == 18 > refiner.BATCH  # in order: compared one by one
    assert np.abs([o.left_px for o in got] - left).max() < 0.03
    assert np.abs([o.right_px for o in got] - right).max() < 0.03
    assert {b.shape for b in net.batches} == {(refiner.BATCH, 2, 48, 48)}
    mirrored = -(-18 * len(refiner.MIRRORS) // refiner.BATCH)
    assert len(net.batches) == -(-18 // refiner.BATCH) * 2 + mirrored  # the second look was at rest


def test_a_network_that_goes_part_of_the_way_is_followed_until_it_rests(scene):
    class GoesHalfWay(SeesBlobs):
        def run(self, x: np.ndarray) -> list[np.ndarray]:
            out = super().run(x)[0]
            out[:, :4] *= 0.6
            return [out]

    frame, left, right = scene
    off = np.array([[5.0, 2.0], [1.0, 2.0]])
    start = [(left[0] + off[0], right[0] + off[1])]
    errors = []
    for looks in (1, 2, refiner.LOOKS):
        got = refiner.refine_heads(GoesHalfWay(), ONES, frame, start, looks)[0]
        errors.append(np.abs(got.left_px - left[0]).max())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < refiner.AT_REST_PX  # at this distance a crop pixel is about an image pixel


def test_colour_gives_what_grey_gives(scene):
    frame, left, right = scene
    colour = StereoFrame(
        0, *(np.repeat(i[..., None], 3, axis=2) for i in (frame.left, frame.right)), K, BASELINE_M
    )
    both = [
        refiner.refine_heads(SeesBlobs(), ONES, f, [(left[0], right[0])])[0]
        for f in (frame, colour)
    ]
    assert both[0].left_px == pytest.approx(both[1].left_px, abs=0.01)


def test_the_covariance_is_that_of_the_crops_scaled_to_the_image():
    left, right = np.array([320.0, 240.0]), np.array([250.0, 240.0])
    frame = StereoFrame(0, *np.full((2, 480, 640), 80, np.uint8), K, BASELINE_M)
    widths = {"log_u": 0.1, "log_v": 0.2, "log_disparity": 0.05, "log_row_difference": 0.3}
    net = Answers(**{k: np.log(v) for k, v in widths.items()})
    scale = np.array([1.0, 2.0, 3.0, 4.0, 1.0])
    got = refiner.refine_heads(net, scale, frame, [(left, right)])[0].covariance_px2
    z = K.fx * BASELINE_M / 70.0
    pixel = K.fx * refiner.PITCH_M / z
    su, sv, sd, se = np.sqrt(2) * np.array(list(widths.values())) * scale[:4] * pixel
    # Left and right share the shift and take half of the difference each.
    assert got[0, 0] == pytest.approx(su**2 + sd**2 / 4, rel=0.02)
    assert got[0, 2] == pytest.approx(su**2 - sd**2 / 4, rel=0.02)
    assert got[1, 1] == pytest.approx(sv**2 + se**2 / 4, rel=0.02)
    apart = np.array([1.0, 0, -1, 0])
    assert apart @ got @ apart == pytest.approx(sd**2, rel=0.02)
    assert got == pytest.approx(got.T)
    assert np.linalg.eigvalsh(got).min() > 0


def test_axis_and_confidence_leave_the_ray_frame_and_the_logit():
    left, right = np.array([560.0, 60.0]), np.array([480.0, 60.0])
    frame = StereoFrame(0, *np.full((2, 480, 640), 80, np.uint8), K, BASELINE_M)
    net = Answers(axis_z=-1.0, log_axis=np.log(0.05), confidence=2.0)
    got = refiner.refine_heads(net, np.array([1, 1, 1, 1, 2.0]), frame, [(left, right)])[0]
    z = K.fx * BASELINE_M / 80.0
    ray = np.array([240.0 * z / 600 - 0.03, -180.0 * z / 600, z])  # from between the cameras
    assert got.axis == pytest.approx(-ray / np.linalg.norm(ray), abs=1e-9)
    assert got.axis_sigma_rad == pytest.approx(np.sqrt(3) * 0.05 * 2)
    assert got.confidence == pytest.approx(1 / (1 + np.exp(-2.0)))


@pytest.mark.parametrize("logits", [(-3.0, 4.0, 4.0, 4.0), (4.0, -3.0, -3.0, -3.0)])
def test_neither_a_place_that_was_disowned_nor_one_that_is_now_counts_as_sure(logits):
    class Wavers(Answers):
        def run(self, x: np.ndarray) -> list[np.ndarray]:
            out = super().run(x)[0]
            out[:, 0] = 2.0  # never at rest
            out[:, -1] = logits[len(self.batches) - 1]
            return [out]

    frame = StereoFrame(0, *np.zeros((2, 480, 640), np.uint8), K, BASELINE_M)
    at = [(np.array([320.0, 240]), np.array([250.0, 240]))]
    got = refiner.refine_heads(Wavers(), ONES, frame, at)[0]
    assert got.confidence == pytest.approx(1 / (1 + np.exp(3.0)))


def test_what_a_network_answers_alike_in_every_mirror_is_its_own_and_cancels(scene):
    """A head moves with the mirror; a lean to one side does not, and counts as noise."""

    class Leans(SeesBlobs):
        def run(self, x: np.ndarray) -> list[np.ndarray]:
            out = super().run(x)[0]
            out[:, :2] += (0.7, -0.7)
            out[:, 8:10] = (0.3, 0.2)
            return [out]

    frame, left, right = scene
    fair, leaning = (
        refiner.refine_heads(network, ONES, frame, [(left[0], right[0])])[0]
        for network in (SeesBlobs(), Leans())
    )
    assert leaning.left_px == pytest.approx(left[0], abs=0.05)
    assert leaning.right_px == pytest.approx(right[0], abs=0.05)
    assert leaning.axis == pytest.approx(fair.axis, abs=1e-3)
    more = np.diag(leaning.covariance_px2 - fair.covariance_px2)
    assert (more > 0.4**2).all()


def test_an_axis_that_the_picture_shows_is_the_same_in_every_mirror(scene):
    class LooksAtTheBlob(SeesBlobs):
        def run(self, x: np.ndarray) -> list[np.ndarray]:
            out = super().run(x)[0]
            out[:, 8:10] = 0.1 * out[:, :2]
            out[:, :2] = 0.0  # rests beside the blob
            out[:, 2:4] = 0.0
            return [out]

    frame, left, right = scene
    start = [(left[0] + (3.0, 2.0), right[0] + (3.0, 2.0))]
    got = refiner.refine_heads(LooksAtTheBlob(), ONES, frame, start)[0]
    camera = StereoCamera(K, BASELINE_M)
    crop, rotation = refiner.head_crops(got.left_px[None], got.right_px[None], camera, 0.0006)
    away = np.linalg.solve(crop.left_from_crop[0], left[0] - got.left_px)
    axis = rotation[0] @ got.axis
    assert axis[:2] / -axis[2] == pytest.approx(0.1 * away, abs=0.03)
    assert np.linalg.norm(away) > 2.0


def test_what_the_plain_looks_leave_of_disparity_and_rows_the_mirrors_correct(scene):
    class Halves(SeesBlobs):
        def run(self, x: np.ndarray) -> list[np.ndarray]:
            out = super().run(x)[0]
            out[:, 2:4] *= 0.5
            return [out]

    frame, left, right = scene
    off = np.array([1.8, 1.8])  # px: one look leaves half, and is at rest
    got = refiner.refine_heads(Halves(), ONES, frame, [(left[0] + 0.5 * off, right[0] - 0.5 * off)])
    left_off = np.abs(got[0].left_px - got[0].right_px - (left[0] - right[0]))
    assert (left_off < 0.7).all() and (left_off > 0.2).all()


def test_one_mirror_alone_makes_no_head():
    class SureWhenPlain(Answers):
        def run(self, x: np.ndarray) -> list[np.ndarray]:
            out = super().run(x)[0]
            out[:, -1] = 4.0 if len(self.batches) == 1 else -4.0
            return [out]

    frame = StereoFrame(0, *np.zeros((2, 480, 640), np.uint8), K, BASELINE_M)
    at = [(np.array([320.0, 240]), np.array([250.0, 240]))]
    got = refiner.refine_heads(SureWhenPlain(), ONES, frame, at)[0]
    assert got.confidence == pytest.approx(1 / (1 + np.exp(2.0)))


def test_nothing_is_dropped_and_nothing_is_invented():
    frame = StereoFrame(0, *np.zeros((2, 480, 640), np.uint8), K, BASELINE_M)
    assert refiner.refine_heads(Answers(), ONES, frame, []) == ()
    out_of_view = [(np.array([900.0, -50.0]), np.array([820.0, -50.0]))]
    got = refiner.refine_heads(Answers(confidence=-8.0), ONES, frame, out_of_view)
    assert len(got) == 1 and got[0].confidence < 0.001
    with pytest.raises(ValueError, match="candidate 0: .* disparity above 0"):
        refiner.refine_heads(Answers(), ONES, frame, [(np.array([5.0, 5]), np.array([50.0, 5]))])


# The model file ---------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    if not (MOCKS / "mock_model.py").is_file():
        pytest.skip("test/ is not part of this installation")
    monkeypatch.syspath_prepend(str(MOCKS))
    from mock_model import constant_model, write_model

    shape = (refiner.BATCH, 2, refiner.CROP_SIZE, refiner.CROP_SIZE)
    data = constant_model(shape, {"y": (refiner.BATCH, len(refiner.OUTPUTS))}, -1.0)
    card = {"input": refiner.MODEL_INPUT, "sigma_scale": dict.fromkeys(refiner.SCALED, 1.5)}
    return write_model(tmp_path / refiner.MODEL_NAME, data, card)


def test_a_model_with_equal_bindings_runs_through_onnx_runtime(model, monkeypatch):
    frame = StereoFrame(0, *np.zeros((2, 480, 640), np.uint8), K, BASELINE_M)
    heads = refiner.HeadRefiner(model, threads=1)
    heads.warm_up()
    got = heads.refine(frame, [(np.array([320.0, 240]), np.array([250.0, 240]))])[0]
    assert got.confidence == pytest.approx(1 / (1 + np.e))
    assert got.axis_sigma_rad == pytest.approx(np.sqrt(3) * np.exp(-1) * 1.5)
    monkeypatch.setenv(refiner.MODEL_VARIABLE, str(model))
    assert refiner.HeadRefiner(threads=1).model_sha256 == heads.model_sha256


def test_a_model_for_other_crops_or_without_calibration_is_refused(model):
    card = json.loads(model.with_suffix(".json").read_text())

    def write(**changes) -> None:
        model.with_suffix(".json").write_text(json.dumps({**card, **changes}))

    write(input={**card["input"], "pitch_mm": 0.5})
    with pytest.raises(ModelError, match="field input"):
        refiner.HeadRefiner(model)
    for scale in (
        None,
        {},
        {**card["sigma_scale"], "disparity": 0.0},
        {**card["sigma_scale"], "axis": float("nan")},
    ):
        write(sigma_scale=scale)
        with pytest.raises(ModelError, match="field sigma_scale"):
            refiner.HeadRefiner(model)


def test_the_shipped_model_is_the_one_that_its_card_describes():
    try:
        heads = refiner.HeadRefiner(threads=1)
    except ModelError as error:
        if "not found" in str(error):
            pytest.skip(str(error))
        raise
    heads.warm_up()
