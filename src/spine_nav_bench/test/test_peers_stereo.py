# SPDX-License-Identifier: Apache-2.0
"""The stereo peers on pairs whose depth is known, and the search that gives them their settings."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from spine_nav_bench import peers_stereo as peers
from spine_nav_bench import peers_stereo_search as tuning
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.truth import Truth, TruthFrame, TruthScrew
from spine_nav_common.core.types import Intrinsics, StereoFrame
from spine_perception.core.inference import ModelError
from stereo_screw_tracker.core.finder import HeadPeaks
from stereo_screw_tracker.core.finder_grid import CELL_PX, MAPS, letterbox, network_input
from stereo_screw_tracker.core.finder_look import Look, whole

CAMERA = Intrinsics(640, 480, 600.0, 600.0, 319.5, 239.5)
BASELINE_M = 0.06
DEPTH_M = 0.5
DISPARITY = CAMERA.fx * BASELINE_M / DEPTH_M  # 72 px
PLACES = np.array([[40.0, 100.0], [200.0, 100.0], [330.0, 250.0], [500.0, 400.0]])
"""Heads in the left view; the first is not in the right one."""
UP = np.array([0.0, 0.0, -1.0])


def frame(disparity: float = DISPARITY) -> StereoFrame:
    """A textured plane straight ahead."""
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.uniform(0, 255, (480, 900)), (0, 0), 1.5)
    wide = np.clip((wide - wide.mean()) * 5 + 128, 0, 255)
    move = np.array([[1.0, 0.0, -130.0], [0.0, 1.0, 0.0]])
    left = cv2.warpAffine(wide, move, (640, 480), flags=cv2.INTER_CUBIC)
    move[0, 2] -= disparity
    right = cv2.warpAffine(wide, move, (640, 480), flags=cv2.INTER_CUBIC)
    left, right = (np.clip(i, 0, 255).astype(np.uint8) for i in (left, right))
    return StereoFrame(7, left, right, CAMERA, BASELINE_M)


def peaks(uv: np.ndarray) -> HeadPeaks:
    return HeadPeaks(uv.astype(float), np.full(len(uv), np.nan), np.full(len(uv), 0.9))


class FakeDetector:
    """Sees the heads where they are; the right view to a pixel only."""

    name = model_sha256 = "fake"

    def detect(self, pair: StereoFrame) -> peers.Detections:
        x = network_input(pair.left, pair.right, letterbox(640, 480))[0]
        right = PLACES[1:] - (DISPARITY, 0.0) + (1.0, 0.4)
        return peers.Detections(peaks(PLACES), peaks(right), whole(pair), x)


def truth_at(places: np.ndarray, depth_m: float = DEPTH_M) -> np.ndarray:
    """(N, 3) points of left pixels on the plane."""
    x = (places[:, 0] - CAMERA.cx) / CAMERA.fx
    y = (places[:, 1] - CAMERA.cy) / CAMERA.fy
    return depth_m * np.stack([x, y, np.ones(len(places))], axis=1)


@pytest.mark.parametrize("three_way", [True, False])
def test_sgbm_gives_the_plane_to_the_left_edge(three_way):
    p = peers.PeerParameters(three_way=three_way)
    depth = peers.sgbm_depth(frame(), p)
    seen = depth[:, 90:]
    assert np.isfinite(seen).mean() > 0.9
    assert np.nanmedian(seen) == pytest.approx(DEPTH_M, abs=0.003)
    points = peers.SgbmPeer(FakeDetector(), p).heads(frame())
    np.testing.assert_allclose(points[-3:], truth_at(PLACES[1:]), atol=0.003)


def test_a_reduced_image_gives_the_same_places():
    p = peers.PeerParameters(max_width=320)
    points = peers.SgbmPeer(FakeDetector(), p).heads(frame())
    np.testing.assert_allclose(points[-3:], truth_at(PLACES[1:]), atol=0.006)


def test_the_offset_goes_along_the_line_of_sight():
    p = peers.PeerParameters()
    near = peers.SgbmPeer(FakeDetector(), p).heads(frame())
    far = peers.SgbmPeer(FakeDetector(), replace(p, offset_mm=5.0)).heads(frame())
    np.testing.assert_allclose(np.linalg.norm(far - near, axis=1), 0.005, atol=1e-9)
    np.testing.assert_allclose(np.cross(far, near), 0.0, atol=1e-9)
    np.testing.assert_allclose(tuning.moved(near, 5.0), far, atol=1e-9)


def test_a_detection_without_depth_about_it_is_no_head():
    pair = frame()
    blank = replace(pair, left=np.full_like(pair.left, 90), right=np.full_like(pair.right, 90))
    assert peers.SgbmPeer(FakeDetector(), peers.PeerParameters()).heads(blank).shape == (0, 3)


def test_matching_pairs_the_views_and_leaves_out_what_one_view_alone_shows():
    points = peers.MatchPeer(FakeDetector(), peers.PeerParameters()).heads(frame())
    assert len(points) == 3
    by_height = points[np.argsort(points[:, 1])]
    # a pixel of disparity is seven millimetres here
    np.testing.assert_allclose(by_height[:, 2], DEPTH_M * 72 / 71, atol=1e-6)


def test_the_sub_pixel_match_mends_the_detector():
    p = peers.PeerParameters(patch_px=8)
    points = peers.MatchPeer(FakeDetector(), p).heads(frame(DISPARITY + 0.3))
    np.testing.assert_allclose(points[:, 2], DEPTH_M * 72.0 / 72.3, atol=0.0007)


def test_places_at_the_edge_keep_their_disparity():
    assert peers.fine_disparity(frame(), np.array([3.0, 3.0]), 50.0, 8) == 50.0


@pytest.mark.parametrize("peer", [peers.SgbmPeer, peers.MatchPeer])
def test_weak_detections_are_left_out(peer):
    points = peer(FakeDetector(), peers.PeerParameters(threshold=0.95)).heads(frame())
    assert points.shape == (0, 3)


class BrightDots:
    """A network of one view that calls every bright dot a head."""

    provider = model_sha256 = "fake"

    def __init__(self) -> None:
        self.runs = 0

    def run(self, x):
        self.runs += 1
        maps = np.zeros((2, len(MAPS), 60, 80), np.float32)
        maps[:, MAPS.index("head")] = -9.0
        for k in (0, 1):
            for v, u in np.argwhere(x[k, 0] > 2.0):
                row, column = v // CELL_PX, u // CELL_PX
                maps[k, MAPS.index("head"), row, column] = 3.0
                centre = np.array([column, row]) * CELL_PX + (CELL_PX - 1) / 2
                du, dv = (np.array([u, v]) - centre) / CELL_PX
                maps[k, MAPS.index("head_du"), row, column] = du
                maps[k, MAPS.index("head_dv"), row, column] = dv
        return [maps]


def test_the_network_of_one_view_looks_closer_and_gives_image_pixels():
    left, right = (np.full((480, 640), 90, np.uint8) for _ in range(2))
    places = np.array([[300, 200], [340, 200], [300, 260], [340, 260]])
    for u, v in places:
        left[v - 1 : v + 2, u - 1 : u + 2] = 250
        right[v - 1 : v + 2, u - 73 : u - 70] = 250
    network = BrightDots()
    found = peers.NetworkDetector(network, peers.ONE_VIEW).detect(
        StereoFrame(0, left, right, CAMERA, BASELINE_M)
    )
    assert network.runs == 2
    assert found.look != Look(0, 0, 640, 480)
    for given, wanted in (
        (found.left_px(slice(None)), places), (found.right_px(slice(None)), places - (72, 0)),
    ):  # fmt: skip
        apart = np.linalg.norm(given[:, None] - wanted, axis=2)
        assert apart.min(axis=0).max() < 2.5


def test_our_finder_stands_in_where_the_network_of_one_view_is_missing_and_only_there(
    tmp_path, monkeypatch
):
    class Loaded:
        network = BrightDots()

    monkeypatch.setattr(peers.Finder, "load", lambda *_, **__: Loaded)
    assert peers.load_detector(tmp_path).name == peers.OUR_PLACES
    (tmp_path / "screw_finder_mono.onnx").write_bytes(b"damaged")
    with pytest.raises(ModelError):
        peers.load_detector(tmp_path)


# -- search -----------------------------------------------------------------------------------


def sample(offset_mm: float = 0.0) -> tuning.Sample:
    """A pair whose saddle points lie `offset_mm` behind the plane that is seen."""
    heads = tuning.moved(truth_at(PLACES[1:]), offset_mm)
    screws = tuple(TruthScrew(7, i, "L1", "left", h, UP, 100) for i, h in enumerate(heads))
    truth = Truth(("L1",), ("L1",), (), {7: TruthFrame(7, {})}, screws)
    return tuning.Sample(frame(), FakeDetector().detect(frame()), truth)


def test_the_offset_is_fitted_on_the_pairs():
    samples = [sample(offset_mm=4.0)]
    p = peers.PeerParameters()
    depths = [peers.sgbm_depth(s.frame, p) for s in samples]
    found = tuning.answers(peers.SGBM, samples, p, depths)
    assert tuning.fitted_offset_mm(found, samples) == pytest.approx(4.0, abs=1.0)


def test_a_method_that_finds_more_or_less_wrongly_wins():
    s = [sample()]
    right = [truth_at(PLACES[1:])]
    fewer = [truth_at(PLACES[1:3])]
    ghost = [np.concatenate([right[0], [[0.0, 0.1, 0.5]]])]
    ranks = [tuning.rank(tuning.score(found, s)) for found in (right, fewer, ghost)]
    assert ranks[0] < ranks[1]
    assert ranks[0] < ranks[2]
    assert tuning.rank(tuning.score([np.zeros((0, 3))], s))[1] == np.inf


@pytest.mark.parametrize("name", list(peers.PEERS))
def test_the_search_writes_settings_that_the_bench_reads(tmp_path, name):
    found = tuning.search(
        name, [sample(3.0)], np.random.default_rng(0), 2, lambda done, total, note: None
    )
    assert found["reached"]["found"] == 3
    file = tmp_path / "p.json"
    file.write_text(json.dumps({"detectors": {"fake": {"peers": {name: found}}}}))
    read = peers.load_parameters("fake", file)[name]
    assert read.offset_mm == found["parameters"]["offset_mm"]
    assert set(peers.settings_of(name, read)) == set(peers.SETTINGS[name])
    assert peers.load_parameters("other", file)[name] == peers.PeerParameters()
    assert peers.search_origin("other", file) is None


def test_pairs_of_the_generator_become_samples(tmp_path):
    with pytest.raises(InputError, match="screw_finder.generate"):
        tuning.load_samples(FakeDetector(), tmp_path, 2)
    pair, heads = frame(), truth_at(PLACES[1:])
    for name in "abc":
        np.savez(
            tmp_path / f"{name}.npz",
            left=pair.left, right=pair.right, K=(600.0, 600.0, 319.5, 239.5),
            baseline_m=BASELINE_M, head_m=heads, axis=np.tile(UP, (3, 1)),
            head_visible_px=(100, 90, 80),
        )  # fmt: skip
    samples = tuning.load_samples(FakeDetector(), tmp_path, 2)
    assert [s.frame.stamp_ns for s in samples] == [0, 1]
    assert samples[0].frame.intrinsics == CAMERA
    assert tuning.score([heads, heads], samples)["found"] == 6
