# SPDX-License-Identifier: Apache-2.0
"""The finder's answers from a network that is told what to see, and the model file's checks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from spine_nav_common.core.types import Intrinsics, StereoFrame
from spine_perception.core.inference import ModelError
from stereo_screw_tracker.core import finder, finder_mono
from stereo_screw_tracker.core.finder import Finder, Found, bin_disparity
from stereo_screw_tracker.core.finder_grid import (
    BINS,
    CELL_PX,
    CELLS_HIGH,
    CELLS_WIDE,
    HEIGHT,
    MAPS,
    SLOPE_SCALE,
    WIDTH,
    cell_centres,
    letterbox,
)
from stereo_screw_tracker.core.finder_look import LARGEST_TULIP_PX, TULIP_M, close_look, whole

CELLS = (CELLS_HIGH, CELLS_WIDE)
BASELINE_M = 0.08


def _frame(width: int = 640, height: int = 480) -> StereoFrame:
    rng = np.random.default_rng(0)
    left, right = (rng.integers(0, 255, (height, width)).astype(np.uint8) for _ in range(2))
    k = Intrinsics(width, height, width, width, width / 2 - 0.5, height / 2 - 0.5)
    return StereoFrame(5, left, right, k, BASELINE_M)


def _logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


class Told:
    """A network whose answer is painted: what each reference view sees, in grid pixels."""

    provider, model_sha256 = "told", ""

    def __init__(self) -> None:
        self.maps = np.zeros((2, len(MAPS), *CELLS), np.float32)
        self.maps[:, [MAPS.index("head"), MAPS.index("rod")]] = -12.0
        self.head_volume = np.zeros((2, BINS, *CELLS), np.float32)
        self.rod_volume = np.zeros((2, BINS, *CELLS), np.float32)

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        assert x.shape == (2, 2, HEIGHT, WIDTH)
        return [self.maps, self.head_volume, self.rod_volume]

    def cell(self, uv: np.ndarray) -> tuple[int, int, np.ndarray]:
        column, row = np.round((uv - (CELL_PX - 1) / 2) / CELL_PX).astype(int)
        return row, column, (uv - cell_centres()[row, column]) / CELL_PX

    def head(self, reference: int, uv, disparity: float, p: float) -> None:
        """uv in the reference view's own, for the right one unmirrored, grid pixels."""
        uv = np.array(uv, float)
        if reference == 1:
            uv[0] = WIDTH - 1 - uv[0]
        row, column, offset = self.cell(uv)
        # As the real network does, the cells around know the place too, but are less sure.
        for dr in (-1, 0, 1):
            for dc in (-1, 0, 1):
                at = (reference, slice(None), row + dr, column + dc)
                self.maps[at][:3] = (
                    _logit(p) - 1.5 * (abs(dr) + abs(dc)), offset[0] - dc, offset[1] - dr,
                )  # fmt: skip
                _paint_bins(self.head_volume[at], disparity)


def _paint_bins(volume: np.ndarray, disparity: float) -> None:
    """Logits over the bins (BINS,) whose local mean is the disparity."""
    volume[:] = -6.0
    lower = int(disparity // CELL_PX)
    share = disparity / CELL_PX - lower
    volume[lower] = np.log(max(1 - share, 1e-6)) + 10
    volume[lower + 1] = np.log(max(share, 1e-6)) + 10


def _once(told: Told, frame: StereoFrame) -> Found:
    """One pass over the whole pair; the network says the same whatever it sees."""
    return Finder(told, 0.35, 0.5).find(frame, whole(frame))


def _both(told: Told, uv, disparity: float, p_left: float, p_right: float) -> None:
    told.head(0, uv, disparity, p_left)
    told.head(1, (uv[0] - disparity, uv[1]), disparity, p_right)


@pytest.mark.parametrize(("width", "height"), ((640, 480), (1280, 720), (1920, 1080)))
def test_a_head_is_reported_in_image_pixels_and_confirmed_by_the_right_view(width, height):
    told = Told()
    _both(told, (301.3, 217.8), 91.7, 0.8, 0.7)
    found = _once(told, _frame(width, height))
    (head,) = found.heads
    box = letterbox(width, height)
    assert head.confirmed
    assert head.left_px == pytest.approx(box.to_image(np.array([301.3, 217.8])), abs=0.05)
    assert head.right_px == pytest.approx(box.to_image(np.array([209.6, 217.8])), abs=0.05)
    assert head.disparity_px == pytest.approx(91.7 * width / WIDTH, abs=0.2)
    assert head.score == pytest.approx(0.75, abs=1e-3)


def test_the_right_place_is_measured_in_the_right_view():
    told = Told()
    told.head(0, (300, 200), 90, 0.8)
    told.head(1, (207.5, 201.5), 90, 0.8)  # 2.5 px further left and lower than the disparity says
    (head,) = _once(told, _frame()).heads
    assert head.right_px == pytest.approx((207.5, 201.5), abs=0.05)
    assert head.disparity_px == pytest.approx(90, abs=0.2)


@pytest.mark.parametrize("reference", (0, 1))
def test_a_head_of_one_reference_alone_has_half_the_score(reference):
    told = Told()
    told.head(reference, (300, 200), 90, 0.9)
    (head,) = _once(told, _frame()).heads
    assert not head.confirmed
    assert head.score == pytest.approx(0.45, abs=1e-3)
    assert head.left_px[0] - head.right_px[0] == pytest.approx(90, abs=0.2)
    assert (head.left_px if reference == 0 else head.right_px) == pytest.approx((300, 200), abs=0.1)


def test_two_weak_answers_that_agree_are_a_head_and_a_stronger_one_alone_is_none():
    told = Told()
    _both(told, (300, 200), 90, 0.4, 0.4)
    told.head(0, (400, 300), 90, 0.6)
    (head,) = _once(told, _frame()).heads
    assert head.left_px == pytest.approx((300, 200), abs=0.1)


def test_one_place_with_two_disparities_is_one_head():
    told = Told()
    told.head(0, (300, 200), 90, 0.7)
    told.head(1, (250, 200), 50, 0.9)  # the same place in the left view
    (head,) = _once(told, _frame()).heads
    assert head.score == pytest.approx(0.45, abs=1e-3)


def test_neighbours_three_cells_apart_stay_two_heads_in_order_of_score():
    told = Told()
    _both(told, (300, 200), 90, 0.6, 0.6)
    _both(told, (300, 224), 90, 0.8, 0.8)
    heads = _once(told, _frame()).heads
    assert [round(float(h.left_px[1])) for h in heads] == [224, 200]


def test_a_head_that_the_other_camera_has_not_in_view_is_no_candidate():
    told = Told()
    told.head(0, (60, 200), 90, 0.9)  # 30 px left of the right image
    assert _once(told, _frame()).heads == ()


def test_a_head_without_disparity_is_no_candidate():
    told = Told()
    told.head(0, (300, 200), 0.0, 0.9)
    assert _once(told, _frame()).heads == ()


def test_nothing_seen_gives_nothing():
    found = Finder(Told()).find(_frame())
    assert found.heads == ()
    assert found.rod_seeds.point_m.shape == (0, 3)
    assert found.rod_seeds.tangent.shape == (0, 3)


def test_pairs_of_different_sizes_are_refused():
    frame = _frame()
    wrong = StereoFrame(5, frame.left, frame.right[:-2], frame.intrinsics, BASELINE_M)
    with pytest.raises(ValueError, match=r"left image \(480, 640\).*equal sizes"):
        Finder(Told()).find(wrong)


@pytest.mark.parametrize("bins", (0.0, 0.4, 1.5, 20.25, BINS - 2.5, BINS - 1.0))
def test_the_disparity_is_the_mean_about_the_best_bin_up_to_both_ends(bins):
    logits = np.full((1, BINS), -9.0)
    lower = min(int(bins), BINS - 2)
    logits[0, lower] = np.log(max(lower + 1 - bins, 1e-9))
    logits[0, lower + 1] = np.log(max(bins - lower, 1e-9))
    assert bin_disparity(logits)[0] == pytest.approx(bins * CELL_PX, abs=0.02)


def test_a_second_peak_far_away_does_not_pull_the_disparity():
    logits = np.full((1, BINS), -9.0)
    logits[0, 10], logits[0, 30] = 1.0, 0.9
    assert bin_disparity(logits)[0] == pytest.approx(10 * CELL_PX, abs=0.05)


@pytest.mark.parametrize("reference", (0, 1))
@pytest.mark.parametrize("size", ((640, 480), (1280, 720)))
def test_rod_cells_lie_on_the_rod_with_its_tangent_in_space(reference, size):
    """A slanted rod is projected, painted as the maps define it, and must come back in metres."""
    frame, box = _frame(*size), letterbox(*size)
    k = frame.intrinsics
    way = np.array([0.6, 0.5, 0.4]) / np.linalg.norm([0.6, 0.5, 0.4])
    rod = np.array([0.03, -0.02, 0.5]) + np.linspace(-0.03, 0.03, 61)[:, None] * way

    def seen(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = points[:, 2]
        uv = np.stack([points[:, 0] / z * k.fx + k.cx, points[:, 1] / z * k.fy + k.cy], axis=1)
        disparity = k.fx * BASELINE_M / z * box.scale[0]
        uv = box.to_grid(uv)
        if reference == 1:  # the mirrored right view
            uv[:, 0] = WIDTH - 1 - (uv[:, 0] - disparity)
        return uv, disparity

    told = Told()
    uv, disparity = seen(rod)
    ahead, disparity_ahead = seen(rod + 1e-5 * way)
    for n in range(0, len(rod), 6):
        step = ahead[n] - uv[n]
        length = np.hypot(*step)
        c, s = step / length
        slope = (disparity_ahead[n] - disparity[n]) / length * SLOPE_SCALE
        row, column, offset = told.cell(uv[n])
        told.maps[reference, MAPS.index("rod") :, row, column] = (
            _logit(0.9), *offset, c * c - s * s, 2 * c * s, slope * c, slope * s,
        )  # fmt: skip
        _paint_bins(told.rod_volume[reference, :, row, column], disparity[n])
    seeds = _once(told, frame).rod_seeds
    assert len(seeds.point_m) >= 8
    away = np.linalg.norm(seeds.point_m[:, None] - rod, axis=2).min(axis=1)
    assert away.max() < 1.2e-3  # points lie 1 mm apart
    assert np.abs(seeds.tangent @ way) == pytest.approx(1.0, abs=1e-3)
    assert seeds.confidence == pytest.approx(0.9, abs=0.01)


def test_a_rod_whose_disparity_is_anybodys_guess_has_little_confidence():
    told = Told()
    told.maps[0, MAPS.index("rod"), 20, 40] = 5.0
    told.maps[0, MAPS.index("rod_cos2"), 20, 40] = 1.0
    told.rod_volume[0, 9, 20, 40] = 0.1  # all other bins nearly as likely
    seeds = _once(told, _frame()).rod_seeds
    assert seeds.confidence == pytest.approx(5 / BINS, abs=0.02)


# ---------------------------------------------------------------------------------- closer looks


class Spots:
    """A network that sees bright spots, and remembers how large they were."""

    provider, model_sha256 = "spots", ""

    def __init__(self, p: float = 0.9) -> None:
        self.p = p
        self.widths_px: list[float] = []

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        told = Told()
        for reference in (0, 1):
            here, there = (self._spots(view) for view in x[reference])
            for u, v, wide in here:
                self.widths_px.append(wide)
                match = [u - other for other, row, _ in there if abs(row - v) < 3 and other < u + 1]
                told.head(reference, (u if reference == 0 else WIDTH - 1 - u, v), match[0], self.p)
        return told.run(x)

    @staticmethod
    def _spots(view: np.ndarray) -> list[tuple[float, float, float]]:
        n, _, stats, centre = cv2.connectedComponentsWithStats((view > 2.0).astype(np.uint8))
        return [(*centre[i], float(stats[i, cv2.CC_STAT_WIDTH])) for i in range(1, n)]


def _spotted(width: int, height: int, heads: np.ndarray) -> tuple[StereoFrame, np.ndarray]:
    """Tulips of 12 mm as bright discs at heads (N, 3) metres; the frame and (2, N, 2) places."""
    k = Intrinsics(width, height, width, width, width / 2 - 0.5, height / 2 - 0.5)
    images, places = [], []
    for shift in (0.0, BASELINE_M):
        z = heads[:, 2]
        uv = np.stack([(heads[:, 0] - shift) * k.fx / z + k.cx, heads[:, 1] * k.fy / z + k.cy], 1)
        image = np.full((height, width), 40, np.uint8)
        for (u, v), depth in zip(uv, z, strict=True):
            radius = round(16 * TULIP_M / 2 * k.fx / depth)
            cv2.circle(image, (round(16 * u), round(16 * v)), radius, 255, -1, cv2.LINE_AA, 4)
        images.append(image)
        places.append(uv)
    return StereoFrame(0, *images, k, BASELINE_M), np.array(places)


HEADS = np.array([[0.05, -0.05, 0.62], [0.09, 0.0, 0.66], [0.06, 0.05, 0.6]])


@pytest.mark.parametrize(("width", "height"), ((640, 480), (1280, 720)))
def test_small_heads_are_looked_at_again_from_nearer(width, height):
    frame, places = _spotted(width, height, HEADS)
    network = Spots()
    found = Finder(network, 0.5).find(frame)
    first, second = np.split(np.array(network.widths_px), 2)
    assert second.min() > 1.3 * first.max()
    assert second.max() < LARGEST_TULIP_PX + 4
    got = sorted(found.heads, key=lambda head: head.left_px[1])
    for head, left, right in zip(got, *places, strict=True):
        assert head.confirmed
        assert head.left_px == pytest.approx(left, abs=0.7)
        assert head.right_px == pytest.approx(right, abs=0.7)
        assert head.disparity_px == pytest.approx(left[0] - right[0], abs=0.7)


def test_a_weak_head_is_worth_a_closer_look_but_not_an_answer():
    frame, _ = _spotted(640, 480, HEADS)
    network = Spots(0.3)  # over the look's limit, under the answer's
    assert Finder(network, 0.5).find(frame).heads == ()
    assert len(network.widths_px) == 12


def test_a_known_place_needs_one_pass():
    frame, places = _spotted(640, 480, HEADS)
    look = close_look(frame, places[0], (places[0] - places[1])[:, 0])
    network = Spots()
    found = Finder(network, 0.5).find(frame, look)
    assert len(found.heads) == 3
    assert len(network.widths_px) == 6


def test_large_heads_are_looked_at_once():
    frame, places = _spotted(640, 480, HEADS * (0.5, 0.5, 0.38))
    assert close_look(frame, places[0], (places[0] - places[1])[:, 0]) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_look_stays_in_both_images_and_holds_every_head_in_both(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9))
    depth = rng.uniform(0.35, 0.7)
    heads = np.column_stack([
        rng.uniform(-0.05, 0.05, n), rng.uniform(-0.06, 0.06, n), depth + rng.uniform(-0.02, 0.02, n)
    ]) + (rng.uniform(0, 0.08), rng.uniform(-0.05, 0.05), 0)  # fmt: skip
    frame, places = _spotted(int(rng.choice((640, 1280))), 480, heads)
    size = np.array([frame.left.shape[1], frame.left.shape[0]])
    seen = ((places >= 0) & (places < size)).all(axis=(0, 2))
    if not seen.any():
        pytest.skip("nothing in view of both cameras")
    places = places[:, seen]
    look = close_look(frame, places[0], (places[0] - places[1])[:, 0])
    if look is None:
        return
    left, right = look.crop(frame)
    assert left.shape == right.shape == (look.high, look.wide)
    scale = letterbox(look.wide, look.high).scale.max()
    assert scale * TULIP_M * size[0] / heads[:, 2].mean() < 1.2 * LARGEST_TULIP_PX
    for eye, shift in enumerate((0, look.shift)):
        corner = np.array([look.left - shift, look.top])
        assert (corner >= 0).all()
        assert (corner + (look.wide, look.high) <= size).all()
        assert (places[eye] >= corner - 0.5).all()
        assert (places[eye] <= corner + (look.wide, look.high)).all()


def test_one_candidate_at_another_depth_does_not_spoil_the_look():
    frame, places = _spotted(640, 480, HEADS)
    disparity = (places[0] - places[1])[:, 0]
    wanted = close_look(frame, places[0], disparity)
    far = close_look(
        frame, np.append(places[0], [[20.0, 470.0]], axis=0), np.append(disparity, 3 * disparity[0])
    )
    assert (far.wide, far.high) == pytest.approx((wanted.wide, wanted.high), rel=0.1)


def test_no_candidates_no_closer_look():
    frame, _ = _spotted(640, 480, HEADS)
    assert close_look(frame, np.zeros((0, 2)), np.zeros(0)) is None


# ---------------------------------------------------------------------------------- the peer


def _mono(told: Told) -> tuple:
    class One:
        provider, model_sha256 = "told", ""

        def run(self, x: np.ndarray) -> list[np.ndarray]:
            return [told.maps]

    texture = np.random.default_rng(4).integers(0, 255, (480, 900)).astype(np.uint8)
    frame = _frame()
    # The right camera sees the same plane 90 px further left.
    pair = StereoFrame(0, texture[:, :640], texture[:, 90:730], frame.intrinsics, BASELINE_M)
    return finder_mono.MonoFinder(One(), 0.5).find(pair)


def test_the_peer_matches_along_the_row_by_what_the_patches_look_like():
    told = Told()
    for u in (300, 350, 400):  # in one row: only the texture tells which is which
        _both(told, (u, 200), 90, 0.8, 0.8)
    heads = _mono(told)
    assert len(heads) == 3
    assert [h.disparity_px for h in heads] == pytest.approx([90] * 3, abs=0.2)


def test_the_peer_refuses_rows_that_differ_and_negative_disparities():
    told = Told()
    told.head(0, (300, 200), 90, 0.8)
    told.head(1, (210, 220), 90, 0.8)
    told.head(0, (100, 400), 90, 0.8)
    told.head(1, (300, 400), 90, 0.8)
    assert _mono(told) == ()


# ---------------------------------------------------------------------------------- model file

MOCKS = Path(__file__).resolve().parents[3] / "test"


@pytest.fixture
def model(tmp_path) -> Path:
    if not (MOCKS / "mock_model.py").is_file():
        pytest.skip("test/mock_model.py is not part of this installation")
    sys.path.insert(0, str(MOCKS))
    from mock_model import write_constant_model

    sys.path.remove(str(MOCKS))
    volume = ((2, BINS, *CELLS), 0.0)
    return write_constant_model(
        tmp_path / finder.MODEL_NAME,
        (2, 2, HEIGHT, WIDTH),
        {"maps": ((2, len(MAPS), *CELLS), -9.0), "head_volume": volume, "rod_volume": volume},
        {"input": finder.EXPECTED_INPUT, "thresholds": {"head": 0.4, "rod": 0.3}},
    )


def _edit(model: Path, **fields) -> None:
    card = model.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | fields))


def test_a_model_with_the_right_bindings_runs_with_the_thresholds_of_its_card(model):
    loaded = Finder.load(model, threads=1)
    assert (loaded.head_threshold, loaded.rod_threshold) == (0.4, 0.3)
    assert loaded.find(_frame()).heads == ()


def test_a_missing_model_is_refused(model):
    with pytest.raises(ModelError, match=r"gone\.onnx"):
        Finder.load(model.with_name("gone.onnx"))


def test_a_damaged_model_is_refused(model):
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    with pytest.raises(ModelError, match="is not the card's"):
        Finder.load(model)


def test_a_model_for_another_grid_is_refused(model):
    _edit(model, input=finder.EXPECTED_INPUT | {"width": 320})
    with pytest.raises(ModelError, match="field input"):
        Finder.load(model)


def test_the_peers_model_is_not_taken_for_the_finders(model):
    _edit(model, input=finder_mono.EXPECTED_INPUT)
    with pytest.raises(ModelError, match="field input"):
        Finder.load(model)


@pytest.mark.parametrize("thresholds", (None, {}, {"head": 0.4}, {"head": 1.4, "rod": 0.3}, [1]))
def test_a_card_without_usable_thresholds_is_refused(model, thresholds):
    _edit(model, thresholds=thresholds)
    with pytest.raises(ModelError, match="field thresholds"):
        Finder.load(model)


def test_the_environment_names_another_model(monkeypatch, model):
    monkeypatch.setenv(finder.MODEL_VARIABLE, str(model))
    assert Finder.load(threads=1).head_threshold == 0.4
