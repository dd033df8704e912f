# SPDX-License-Identifier: Apache-2.0
"""Lenses of one camera and of two, from corners whose truth is known; every way to take them wrongly."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from board_points import BOARD, LENSES, SIZE, pairs, rig, views

from spine_nav_common.core.geometry import invert, rotation_angle
from spine_nav_common.core.types import Rejected
from spine_perception.core.boards import BoardView
from spine_perception.core.calibrate_camera import calibrate_camera
from spine_perception.core.calibrate_stereo import NamedPair, calibrate_stereo
from spine_perception.core.coverage import Stream, Trouble
from spine_perception.core.lens import NamedView

TODAY = date(2026, 11, 28)
PLAIN = LENSES["plumb_bob"]
NEAR = {"fisheye": {"near": 0.12, "far": 0.3}}


def one(given, dropped=(), **more):
    return calibrate_camera(given, dropped, SIZE, BOARD, today=TODAY, **more)


def two(given, dropped=(), **more):
    return calibrate_stereo(given, dropped, SIZE, BOARD, today=TODAY, **more)


def refused(found, *words):
    assert isinstance(found, Rejected), found
    for word in words:
        assert word in found.reason, found.reason


@pytest.mark.parametrize("model", LENSES)
def test_every_lens_is_found_and_its_error_told(model):
    true = LENSES[model]
    found = one(views(true, 24, **NEAR.get(model, {})), model=model)
    assert not isinstance(found, Rejected), found
    told = found.calibration.told
    assert abs(found.lens.K[0, 0] / true.K[0, 0] - 1.0) < 2e-3
    assert np.abs(found.lens.K[:2, 2] - true.K[:2, 2]).max() < 2.0
    # 0.1 px in either direction; the pose takes 6 of 108 numbers
    assert 0.12 < told["held_out_px"]["rms"] < 0.16 and told["held_out_mm"]["rms"] < 0.2
    assert told["model"] == model and (found.calibration.expires - TODAY).days == 180
    assert 0.02 < told["sigma_px"]["fx"] < 2.0


def test_the_plainer_lens_is_taken_where_the_richer_says_nothing_more():
    assert one(views(PLAIN, 20)).lens.kind.model == "plumb_bob"


def test_a_lens_that_plumb_bob_cannot_have_is_told_by_views_that_took_no_part():
    wide = views(LENSES["fisheye"], 24, near=0.12, far=0.3, noise_px=0.05)
    found = one(wide)
    assert found.lens.kind.model in ("fisheye", "rational")
    plain = one(wide, model="plumb_bob")
    assert isinstance(plain, Rejected) or (
        plain.calibration.told["held_out_px"]["rms"] >= found.calibration.told["held_out_px"]["rms"]
    )


def moved(view, px):
    board = view.board
    return NamedView(view.name, BoardView(board.corners_px + px, board.board_m))


def test_a_view_that_fits_no_lens_is_dropped_by_name():
    given = views(PLAIN, 16)
    rng = np.random.default_rng(3)
    given[5] = moved(given[5], rng.normal(0.0, 3.0, (54, 2)))
    found = one(given)
    assert [t.view for t in found.dropped] == ["05.png"] and "px off" in found.dropped[0].why
    assert found.calibration.told["held_out_px"]["rms"] < 0.16
    assert any(x.startswith("05.png") for x in found.calibration.told["left out"])


def test_too_few_views_say_why_the_others_were_left_out():
    refused(one(views(PLAIN, 7), [Trouble("a.png", "blurred")]), "8 are needed", "blurred")


def test_one_distance_alone_is_refused():
    refused(one(views(PLAIN, 12, near=0.4, far=0.41)), "nearer and farther")


def test_a_board_that_is_never_tilted_is_refused():
    refused(one(views(PLAIN, 12, tilt_deg=1.0, noise_px=0.3)), "tilt it by")


def test_a_part_of_the_image_alone_is_refused_with_where_to_show_it():
    left = [v for v in views(PLAIN, 90) if v.board.corners_px[:, 0].max() < 370]
    refused(one(left), "show it at the right too")


def test_views_of_two_cameras_are_refused():
    other = replace(PLAIN, K=PLAIN.K * [[1.4], [1.4], [1.0]])
    mixed = [replace(v, name=f"b{v.name}") for v in views(other, 9, seed=4)]
    refused(one(views(PLAIN, 10) + mixed), "one camera")


def test_a_pair_is_found_and_what_it_measures_is_told():
    true = rig()
    found = two(pairs(true, 14))
    assert not isinstance(found, Rejected), found
    apart = invert(found.rig.T_right_left) @ true.T_right_left
    assert np.linalg.norm(apart[:3, 3]) < 3e-4 and np.degrees(rotation_angle(apart[:3, :3])) < 0.2
    told = found.calibration.told
    assert abs(told["baseline_mm"] - 60.0) < 0.2 and told["baseline_sigma_mm"] < 0.3
    assert 0.1 < told["held_out_px"]["rms"] < 0.17 and told["held_out_rows_px"]["rms"] < 0.25
    assert told["held_out_mm"]["rms"] < 2.0  # 1.6 mm at 0.6 m per 0.1 px
    assert found.calibration.kind == "stereo"


def test_left_and_right_swapped_is_told():
    given = [NamedPair(p.name, p.right, p.left) for p in pairs(rig(), 12)]
    refused(two(given), "swapped", "60.0 mm to the left")


def mirrored(view):
    px = [SIZE[0] - 1, 0] + view.board.corners_px * [-1, 1]
    return NamedView(view.name, BoardView(px, view.board.board_m))


def test_mirrored_images_are_told():
    both = [NamedPair(p.name, mirrored(p.left), mirrored(p.right)) for p in pairs(rig(), 12)]
    refused(two(both), "mirrored")
    single = [NamedPair(p.name, p.left, mirrored(p.right)) for p in pairs(rig(), 12)]
    refused(two(single), "mirrored")


def test_another_square_size_is_told_by_the_baseline():
    given = pairs(rig(), 12)
    assert not isinstance(two(given, baseline_mm=60.0), Rejected)
    refused(two(given, baseline_mm=64.0), "squares are 1.067 times", "Measure ten squares")


def test_cameras_that_stand_one_above_the_other_are_told():
    true = rig()
    T = true.T_right_left.copy()
    T[:3, 3] = [0.0, -0.03, 0.0]
    refused(two(pairs(replace(true, T_right_left=T), 12)), "side by side")


def test_a_pair_of_two_moments_is_dropped_by_name():
    given = pairs(rig(), 14)
    given[4] = replace(given[4], right=moved(given[4].right, [6.0, 4.0]))
    found = two(given)
    assert [t.view for t in found.dropped] == ["04.png"]


def test_pairs_that_share_no_corners_are_left_out():
    given = pairs(rig(), 9)
    board = given[0].right.board
    given[0] = replace(
        given[0], right=NamedView("00.png", BoardView(board.corners_px[:9], board.board_m[:9]))
    )
    given[1] = replace(
        given[1], right=NamedView("01.png", BoardView(board.corners_px[:9], board.board_m[:9]))
    )
    refused(two(given), "8 are needed", "corners in both eyes")


def test_a_stream_gives_a_view_only_where_the_board_rests_elsewhere():
    a, b = (v.board for v in views(PLAIN, 2))
    stream = Stream()
    assert not stream.takes(a, 640)  # nothing tells yet whether it rests
    assert stream.takes(a, 640) and not stream.takes(a, 640)
    assert not stream.takes(b, 640)  # it came a moment ago
    assert stream.takes(b, 640)
    near = BoardView(a.corners_px + 1.0, a.board_m)
    assert not stream.takes(near, 640) and not stream.takes(near, 640)
