# SPDX-License-Identifier: Apache-2.0
"""The bias of a simulated depth camera, measured on a board; and every way to hold a board wrongly."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import cv2
import numpy as np
import pytest

from spine_nav_common.core.depth_calibration import DepthCorrector
from spine_nav_common.core.types import Rejected
from spine_nav_common.parameters import ParameterError
from spine_nav_sim.core.board import BoardScene, bias_image, board_camera, board_frames
from spine_perception.core import calibrate_depth
from spine_perception.core.boards import BoardFinder, board_spec
from spine_perception.core.calibrate_depth import calibrate
from spine_perception.core.coverage import Trouble, covered, missing
from spine_perception.core.depth_process import Process
from spine_perception.core.depth_views import look

SPEC = board_spec("charuco:10x7:24:17:DICT_5X5_100")
SCENE = BoardScene(SPEC.board, SPEC.square_m, (10, 7), seed=1, views=18)
TODAY = date(2026, 11, 27)


def seen(scene, spec=SPEC):
    finder = BoardFinder(spec)
    return [look(frame, finder) for frame, _ in board_frames(scene)]


@pytest.fixture(scope="module")
def views():
    found = [v for v in seen(SCENE) if not isinstance(v, Rejected)]
    assert len(found) >= 15
    return found


def judged(views, dropped=()):
    return calibrate(views, dropped, board_camera(SCENE)[0], str(SPEC), today=TODAY)


@pytest.fixture(scope="module")
def calibrated(views):
    found = judged(views)
    assert not isinstance(found, Rejected), found
    return found


def test_the_bias_is_taken_out_and_what_is_left_is_told(calibrated):
    found = calibrated
    bias = bias_image(SCENE, 0.5)
    left = DepthCorrector(found)((0.5 + bias).astype(np.float32)) - 0.5
    # Where the board was: three corners of the image were hardly shown it.
    inside = (slice(40, -40), slice(40, -40))
    before, after = (1e3 * float(np.sqrt((x[inside] ** 2).mean())) for x in (bias, left))
    assert before > 0.5 and after < 0.2, (before, after)
    told = found.told["held_out_rms_mm_at_0_5_m"]
    assert told["bias"] < 0.15 and told["bias"] < 0.6 * told["scale alone"]
    assert after < 1.5 * found.told["left_mm_at_0_5_m"]
    assert found.field_share * 500.0 < 0.3 and 500.0 * found.scale_share > 0.05
    assert found.camera().field_share == found.field_share
    assert (found.expires - found.made).days == 180


def test_a_model_that_is_too_stiff_is_caught_by_views_that_were_left_out(views, monkeypatch):
    stiff = Process(1e-5, 0.3, 5e-4)
    monkeypatch.setattr(calibrate_depth, "likeliest", lambda *_: stiff)
    found = judged(views)
    left = DepthCorrector(found)((0.5 + bias_image(SCENE, 0.5)).astype(np.float32)) - 0.5
    truly = 1e3 * float(np.std(left[40:-40, 40:-40]))
    assert truly > 0.3 and 500.0 * found.field_share > 0.6 * truly


def test_pixels_without_depth_stay_without(calibrated):
    depth = np.full((480, 640), 0.5, np.float32)
    depth[10:20] = np.nan
    assert np.array_equal(np.isnan(DepthCorrector(calibrated)(depth)), np.isnan(depth))


def refused(found, *words):
    assert isinstance(found, Rejected)
    for word in words:
        assert word in found.reason, found.reason


def test_too_few_views_say_why_the_others_were_left_out(views):
    refused(judged(views[:5], [Trouble(7, "blurred")]), "10 are needed", "blurred")


def test_one_distance_alone_is_refused(views):
    refused(judged([views[0]] * 12), "nearest to the farthest")


def test_a_part_of_the_image_alone_is_refused_with_where_to_show_it(views):
    left = [
        replace(v, **{k: getattr(v, k)[v.uv[:, 0] < 0.5] for k in (
            "uv", "depth_m", "plane_m", "lever_m", "board", "spread_m", "cosine")})
        for v in views
    ]  # fmt: skip
    found = [v for v in left if len(v.uv)]
    assert missing(covered(v.uv for v in found)) == "right"
    refused(judged(found), "show it at the right too")


def test_a_bias_that_nothing_checks_is_not_given(views, monkeypatch):
    """Views that overlap nowhere: each place is told by one alone."""
    monkeypatch.setattr(calibrate_depth, "_PARTS", len(views))  # one view at a time is left out
    refused(judged(views), "take more views")


def test_a_board_of_another_square_size_is_told_by_the_depth(views):
    spec = board_spec("charuco:10x7:25:17.7:DICT_5X5_100")  # 24 mm in truth
    scene = replace(SCENE, views=12)
    found = [v for v in seen(scene, spec) if not isinstance(v, Rejected)]
    refused(judged(found), "another square size", "Measure ten squares")


def test_a_bent_board_is_refused():
    found = seen(replace(SCENE, views=11, bend_m=3e-3))
    usable = [v for v in found if not isinstance(v, Rejected)]
    dropped = [Trouble(0, v.reason) for v in found if isinstance(v, Rejected)]
    refused(judged(usable, dropped), "bent")


def test_views_that_show_no_usable_board_say_so():
    scene = replace(SCENE, views=1)
    ((frame, _),) = board_frames(scene)
    finder = BoardFinder(SPEC)
    assert not isinstance(look(frame, finder), Rejected)
    mirrored = replace(frame, colour=np.ascontiguousarray(frame.colour[:, ::-1]))
    refused(look(mirrored, BoardFinder(SPEC)), "mirrored")
    soft = replace(frame, colour=cv2.GaussianBlur(frame.colour, (0, 0), 3.5))
    assert isinstance(look(soft, BoardFinder(SPEC)), Rejected)
    blind = replace(frame, depth_m=np.full_like(frame.depth_m, np.nan))
    refused(look(blind, finder), "depth has 0 %")


@pytest.mark.parametrize(
    "text", ["", "charuco", "chess:10x7:24:17:DICT_5X5_100", "charuco:10x7:24:30:DICT_5X5_100",
             "charuco:10x7:24:17:DICT_9X9", "charuco:1x7:24:17:DICT_5X5_100", "charuco:axb:24:17:DICT_5X5_100"],
)  # fmt: skip
def test_a_board_that_is_none_says_how_to_write_it(text):
    with pytest.raises(ParameterError, match="charuco:COLSxROWS"):
        board_spec(text)
