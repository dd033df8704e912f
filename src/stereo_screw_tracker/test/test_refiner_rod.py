# SPDX-License-Identifier: Apache-2.0
"""The rod refiner's geometry with networks that answer by rule, and its model file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spine_nav_common.core.types import Intrinsics, StereoFrame
from spine_perception.core.inference import ModelError
from stereo_screw_tracker.core import rod_refiner
from stereo_screw_tracker.core.crops import project
from stereo_screw_tracker.core.types import StereoCamera

MOCKS = Path(__file__).resolve().parents[3] / "test"
K = Intrinsics(640, 480, 600.0, 600.0, 320.0, 240.0)
CAMERA = StereoCamera(K, 0.06)
ONE = np.ones(1)


class SeesStripes:
    """Says where across each crop the bright stripe runs."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        self.batches.append(x.shape)
        rows = x[:, :, 12:20].astype(float)
        w = np.maximum(rows - rows.min(axis=(2, 3), keepdims=True) - 0.8, 0.0) + 1e-9
        g = np.arange(x.shape[-1]) - 0.5 * (x.shape[-1] - 1)
        offset = (w * g).sum(axis=(2, 3)) / w.sum(axis=(2, 3))
        return [np.stack([offset, np.full_like(offset, np.log(0.2)), 3 + 0 * offset], axis=2)]


@pytest.fixture(scope="module")
def stripe():
    """A straight rod through both images: frame, a point on it, its direction."""
    point, direction = np.array([0.02, 0.01, 0.5]), np.array([0.85, 0.5, 0.1])
    direction /= np.linalg.norm(direction)
    v, u = np.mgrid[:480, :640]
    images = []
    for a, b in zip(
        project(point[None], CAMERA), project((point + 0.01 * direction)[None], CAMERA), strict=True
    ):
        along = (b - a)[0] / np.linalg.norm(b - a)
        across = (u - a[0, 0]) * along[1] - (v - a[0, 1]) * along[0]
        images.append(np.round(30 + 190 * np.exp(-0.5 * (across / 2.5) ** 2)).astype(np.uint8))
    return StereoFrame(0, *images, K, 0.06), point, direction


def test_offset_times_normal_leads_onto_the_rod_in_both_images(stripe):
    frame, point, direction = stripe
    rng = np.random.default_rng(0)
    t = np.linspace(-0.08, 0.08, 75)
    on_rod = point + t[:, None] * direction
    asked = on_rod + rng.normal(0, 0.0012, (75, 3))
    tangents = direction + rng.normal(0, 0.03, (75, 3))
    tangents *= rng.choice([-1, 1], (75, 1))
    net = SeesStripes()
    got = rod_refiner.measure_rod(net, ONE, frame, asked, tangents)
    assert set(net.batches) == {(rod_refiner.BATCH, 2, 32, 32)} and len(net.batches) == 4
    ends = project(point[None], CAMERA), project((point + 0.1 * direction)[None], CAMERA)
    for eye, (normal, offset, sigma) in enumerate(
        (
            (got.normal_left, got.offset_left_px, got.sigma_left_px),
            (got.normal_right, got.offset_right_px, got.sigma_right_px),
        )
    ):
        assert np.linalg.norm(normal, axis=1) == pytest.approx(np.ones(75))
        place = project(asked, CAMERA)[eye] + offset[:, None] * normal
        along = (ends[1][eye] - ends[0][eye])[0]
        along /= np.linalg.norm(along)
        miss = (place - ends[0][eye]) @ np.array([along[1], -along[0]])
        assert np.abs(miss).max() < 0.06
        assert np.abs(offset).max() > 1.0  # there was something to find
        pixel = K.fx * rod_refiner.PITCH_M / asked[:, 2]
        assert sigma == pytest.approx(np.sqrt(2) * 0.2 * pixel, rel=1e-6)
    assert got.point_m is not asked and np.array_equal(got.point_m, asked)
    assert got.confidence_left == pytest.approx(np.full(75, 1 / (1 + np.exp(-3.0))))


def test_a_place_outside_an_image_or_seen_end_on_is_not_measured(stripe):
    frame, point, direction = stripe
    beyond_right_eye = np.array([-0.24, 0.0, 0.5])  # u 32 in the left image, -40 in the right
    end_on = point / np.linalg.norm(point)
    got = rod_refiner.measure_rod(
        SeesStripes(),
        ONE,
        frame,
        np.array([point, beyond_right_eye, point]),
        np.array([direction, direction, end_on]),
    )
    assert got.confidence_left[:2].min() > 0.9 and got.confidence_left[2] == 0.0
    assert got.confidence_right[0] > 0.9 and got.confidence_right[1] == 0.0
    assert np.isfinite(got.normal_left).all() and np.isfinite(got.offset_left_px).all()


def test_no_places_give_no_measurements(stripe):
    got = rod_refiner.measure_rod(SeesStripes(), ONE, stripe[0], np.zeros((0, 3)), np.zeros((0, 3)))
    assert got.offset_left_px.shape == (0,) and got.normal_right.shape == (0, 2)


@pytest.mark.parametrize(
    ("points", "tangents"),
    [
        ([[0, 0, -0.5]], [[1, 0, 0]]),
        ([[0, 0, np.nan]], [[1, 0, 0]]),
        ([[0, 0, 0.5]], [[np.inf, 0, 0]]),
        ([[0, 0, 0.5], [0, 0, 0.6]], [[1, 0, 0]]),
    ],
)
def test_places_that_no_camera_sees_are_refused(stripe, points, tangents):
    with pytest.raises(ValueError, match="rod places must be finite"):
        rod_refiner.measure_rod(SeesStripes(), ONE, stripe[0], np.array(points), np.array(tangents))


def test_a_model_with_equal_bindings_runs_through_onnx_runtime(stripe, tmp_path, monkeypatch):
    if not (MOCKS / "mock_model.py").is_file():
        pytest.skip("test/ is not part of this installation")
    monkeypatch.syspath_prepend(str(MOCKS))
    from mock_model import constant_model, write_model

    data = constant_model((rod_refiner.BATCH, 2, 32, 32), {"y": (rod_refiner.BATCH, 2, 3)}, -1.0)
    card = {"input": rod_refiner.MODEL_INPUT, "sigma_scale": {"offset": 2.0}}
    model = write_model(tmp_path / rod_refiner.MODEL_NAME, data, card)
    rods = rod_refiner.RodRefiner(model, threads=1)
    rods.warm_up()
    frame, point, direction = stripe
    got = rods.measure(frame, point[None], direction[None])
    pixel = K.fx * rod_refiner.PITCH_M / point[2]
    assert got.offset_left_px == pytest.approx([-pixel])
    assert got.sigma_right_px == pytest.approx([2 * np.sqrt(2) * np.exp(-1) * pixel])
    assert got.confidence_right == pytest.approx([1 / (1 + np.e)])
    write_model(model, data, {**card, "sigma_scale": {}})
    with pytest.raises(ModelError, match="field sigma_scale"):
        rod_refiner.RodRefiner(model)


def test_the_shipped_model_is_the_one_that_its_card_describes():
    try:
        rods = rod_refiner.RodRefiner(threads=1)
    except ModelError as error:
        if "not found" in str(error):
            pytest.skip(str(error))
        raise
    rods.warm_up()
