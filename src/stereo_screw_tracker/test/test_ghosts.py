# SPDX-License-Identifier: Apache-2.0
"""Ghosts go, heads stay, and a bad pair is told from a bad head."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from screw_support import CAMERA, LEFT, RIGHT, frame, heads_m, observe

from spine_nav_common.core.types import Rejected
from spine_nav_sim.core.stereo_faults import darker
from stereo_screw_tracker.core.config import GhostConfig
from stereo_screw_tracker.core.ghosts import Screened, screen
from stereo_screw_tracker.core.rectification import RigCheck, check_rig
from stereo_screw_tracker.core.types import HeadObservation

CONFIG = GhostConfig()


def observed(points: np.ndarray, seed: int = 0, sigma_px: float = 0.2) -> list[HeadObservation]:
    rng = np.random.default_rng(seed)
    return [observe(p, rng, sigma_px) for p in points]


def kept(observations: list[HeadObservation], config: GhostConfig = CONFIG) -> Screened:
    answer = screen(CAMERA, observations, config)
    assert isinstance(answer, Screened), answer.reason
    return answer


@pytest.mark.parametrize("seed", range(8))
def test_true_heads_stay(seed: int) -> None:
    answer = kept(observed(heads_m(), seed))
    assert len(answer.heads) == 10
    assert answer.dropped == ()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_few_heads_are_enough(count: int) -> None:
    assert len(kept(observed(heads_m()[:count])).heads) == count


def test_steep_and_oblique_rows_are_no_ghosts() -> None:
    """A camera held at 40 degrees sees one end of the spine 80 mm behind the other."""
    c, s = np.cos(np.radians(40.0)), np.sin(np.radians(40.0))
    middle = np.array([0.0, 0.0, 0.5])
    tilt = np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
    assert len(kept(observed((heads_m() - middle) @ tilt.T + middle)).heads) == 10


def test_a_head_paired_across_rows_is_dropped_and_named() -> None:
    o = observed(heads_m())
    o[4] = replace(o[4], right_px=o[4].right_px + (0.0, 4.0))
    answer = kept(o)
    assert len(answer.heads) == 9
    assert "rows differ by" in answer.dropped[0]


def test_a_head_paired_with_its_neighbour_is_dropped() -> None:
    """The right place of the screw on the other side: 40 mm away, same row."""
    heads = heads_m()
    o = observed(heads)
    o[2] = replace(o[2], right_px=o[7].right_px + (0.0, o[2].right_px[1] - o[7].right_px[1]))
    answer = kept(o)
    assert len(answer.heads) == 9
    assert len(answer.dropped) == 1


@pytest.mark.parametrize("depth_mm", [-120.0, -60.0, 60.0, 120.0])
def test_a_lone_head_far_off_the_others_is_dropped(depth_mm: float) -> None:
    heads = heads_m()
    ghost = np.array([0.0, 0.03, 0.5]) * (1.0 + depth_mm / 500.0)
    answer = kept(observed(np.vstack([heads, ghost])))
    assert len(answer.heads) == 10
    assert "off the depth" in answer.dropped[0]


def test_a_screw_set_deep_is_no_ghost() -> None:
    heads = heads_m()
    heads[3, 2] += 0.02
    assert len(kept(observed(heads)).heads) == 10


def test_of_two_claims_on_one_screw_the_more_certain_stays() -> None:
    o = observed(heads_m())
    worse = replace(observe(heads_m()[6] + (2e-3, 0.0, 3e-3), confidence=0.5),
                    covariance_px2=np.eye(4))  # fmt: skip
    for order in ([*o, worse], [worse, *o]):
        answer = kept(order)
        assert len(answer.heads) == 10
        assert min(h.confidence for h in answer.heads) > 0.9
        assert "duplicate" in answer.dropped[0]


def test_two_depths_at_one_place_of_the_image_are_one_head() -> None:
    o = observed(heads_m())
    behind = heads_m()[1] * 1.06  # 30 mm further along the same ray
    assert len(kept([*o, observe(behind, confidence=0.4)]).heads) == 10


def test_neighbours_as_close_as_screws_stand_both_stay() -> None:
    """15 mm apart, the closest that two screws stand, seen at 45 degrees."""
    pair = np.array([[0.0, 0.0, 0.5], [0.0106, 0.0, 0.5106]])
    assert len(kept(observed(pair)).heads) == 2


def test_swapped_images_are_refused_with_the_remedy() -> None:
    swapped = [replace(o, left_px=o.right_px, right_px=o.left_px) for o in observed(heads_m())]
    answer = screen(CAMERA, swapped, CONFIG)
    assert isinstance(answer, Rejected)
    assert "left and right are swapped" in answer.reason and "exchange" in answer.reason


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_a_baseline_in_the_wrong_unit_is_named(scale: float) -> None:
    """0.6 m or 6 mm instead of 60 mm: every head lands far out of reach."""
    wrong = replace(CAMERA, baseline_m=scale * CAMERA.baseline_m)
    answer = screen(wrong, observed(heads_m()), CONFIG)
    assert isinstance(answer, Rejected)
    assert "baseline is wrong" in answer.reason


def test_one_head_with_wrong_disparity_does_not_accuse_the_pair() -> None:
    o = observed(heads_m())
    o[0] = replace(o[0], left_px=o[0].right_px, right_px=o[0].left_px)
    assert len(kept(o).heads) == 9


@pytest.mark.parametrize("rows_px", [1.6, -3.0, 10.0])
def test_rows_that_differ_everywhere_refuse_the_pair(rows_px: float) -> None:
    off = [replace(o, right_px=o.right_px + (0.0, rows_px)) for o in observed(heads_m())]
    answer = screen(CAMERA, off, CONFIG)
    assert isinstance(answer, Rejected)
    assert "not rectified" in answer.reason and "calibrate again" in answer.reason


def test_a_turned_camera_is_noticed_though_its_mean_row_difference_is_zero() -> None:
    off = [
        replace(o, right_px=o.right_px + (0.0, 0.03 * (o.right_px[0] - 280.0) + 0.03 *
                (o.right_px[1] - 240.0)))
        for o in observed(heads_m())
    ]  # fmt: skip
    assert isinstance(screen(CAMERA, off, CONFIG), Rejected)


def test_the_row_error_of_a_good_calibration_is_accepted() -> None:
    off = [replace(o, right_px=o.right_px + (0.0, 0.5)) for o in observed(heads_m())]
    assert len(kept(off).heads) == 10


def test_noisy_heads_do_not_accuse_the_calibration() -> None:
    """Rows that differ by what the network itself says they may."""
    noisy = observed(heads_m(), sigma_px=1.5)
    assert isinstance(screen(CAMERA, noisy, CONFIG), Screened)


def test_numbers_that_are_none_take_no_other_head_along() -> None:
    o = observed(heads_m())
    o[0] = replace(o[0], left_px=np.array([np.nan, np.nan]))
    o[1] = replace(o[1], covariance_px2=np.zeros((4, 4)) * np.nan)
    answer = kept(o)
    assert len(answer.heads) == 8
    assert len(answer.dropped) == 2


class TestRig:
    """The same told from the images, before any network."""

    def scene(self) -> np.ndarray:
        rng = np.random.default_rng(5)
        coarse = rng.integers(20, 235, (60, 96)).astype(np.uint8)
        return np.kron(coarse, np.ones((8, 8), np.uint8))

    def pair(self, disparity: int = 60, rows: int = 0) -> tuple[np.ndarray, np.ndarray]:
        wide = np.roll(self.scene(), 0, axis=0)
        left = wide[:, 40 : 40 + 640]
        right = np.roll(wide, -rows, axis=0)[:, 40 + disparity : 40 + disparity + 640]
        return np.ascontiguousarray(left), np.ascontiguousarray(right)

    def test_a_good_pair_passes(self) -> None:
        left, right = self.pair()
        check = check_rig(frame(left=left, right=right), 1.0)
        assert check.wrong is None
        assert check.row_px is not None and check.row_px < 0.2

    def test_swapped_images_are_refused(self) -> None:
        left, right = self.pair()
        wrong = check_rig(frame(left=right, right=left), 1.0).wrong
        assert wrong is not None and "swapped" in wrong.reason

    @pytest.mark.parametrize("rows", [2, -6, 15])
    def test_unrectified_images_are_refused(self, rows: int) -> None:
        left, right = self.pair(rows=rows)
        wrong = check_rig(frame(left=left, right=right), 1.0).wrong
        assert wrong is not None and "not rectified" in wrong.reason

    def test_fractions_of_a_pixel_are_measured(self) -> None:
        left, right = self.pair()
        shift = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.6]])
        check = check_rig(frame(left=left, right=cv2.warpAffine(right, shift, (640, 480))), 1.0)
        assert check.row_px == pytest.approx(0.6, abs=0.15)

    @pytest.mark.parametrize("stops", [1.0, -1.0, 2.0])
    def test_an_eye_that_is_a_stop_darker_or_brighter_changes_nothing(self, stops: float) -> None:
        """The scene is matched and swapped or crooked pairs are told as in good light."""

        def check(left: np.ndarray, right: np.ndarray) -> RigCheck:
            return check_rig(darker(stops)([frame(left=left, right=right)])[0], 1.0)

        left, right = self.pair()
        good = check(left, right)
        assert good.wrong is None and good.row_px is not None and good.row_px < 0.3
        swapped = check(right, left).wrong
        assert swapped is not None and "swapped" in swapped.reason
        crooked = check(*self.pair(rows=6)).wrong
        assert crooked is not None and "not rectified" in crooked.reason

    def test_images_that_share_nothing_say_nothing(self) -> None:
        for right in (RIGHT, np.full((480, 640), 90, np.uint8)):
            check = check_rig(frame(left=LEFT, right=right), 1.0)
            assert check.wrong is None and check.row_px is None

    def test_colour_is_read_too(self) -> None:
        left, right = (np.repeat(i[..., None], 3, axis=2) for i in self.pair())
        wrong = check_rig(frame(left=right, right=left), 1.0).wrong
        assert wrong is not None and "swapped" in wrong.reason


def test_when_the_images_rows_agree_the_network_is_to_blame_not_the_pair() -> None:
    off = [replace(o, right_px=o.right_px + (0.0, 1.2)) for o in observed(heads_m())]
    assert isinstance(screen(CAMERA, off, CONFIG), Rejected)
    assert isinstance(screen(CAMERA, off, CONFIG, rows_agree=True), Screened)
