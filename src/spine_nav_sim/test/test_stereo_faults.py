# SPDX-License-Identifier: Apache-2.0
"""The faults of stereo recordings do to the right image what their names say, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest

from spine_nav_common.core.types import Intrinsics, StereoFrame
from spine_nav_sim.core.stereo_faults import (
    FAULTS,
    bumped,
    darker,
    defocused,
    drifting,
    half_rate,
    interlaced,
    rolling,
    sheared,
    turned,
    wet,
)

K = Intrinsics(640, 480, 600.0, 600.0, 320.0, 240.0)


def picture(seed: int, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """(480, 640) uint8 of soft blobs, moved right and down."""
    noise = np.random.default_rng(seed).normal(0, 1, (600, 800)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 4)
    soft = np.clip(128 + 45 * soft / soft.std(), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(soft[60 - shift[1] :, 80 - shift[0] :][:480, :640])


def pairs(count: int = 6, step: tuple[int, int] = (4, 2)) -> list[StereoFrame]:
    return [
        StereoFrame(k, picture(1, (k * step[0], k * step[1])), picture(2, (k * step[0], k * step[1])),
                    K, 0.06)
        for k in range(count)
    ]  # fmt: skip


def displaced(before: np.ndarray, after: np.ndarray, at: tuple[int, int]) -> np.ndarray:
    """(2,) px by which the picture moved, right and down, about a place (u, v)."""
    u, v = at
    there, ok, _ = cv2.calcOpticalFlowPyrLK(
        before, after, np.array([[[u, v]]], np.float32), None, winSize=(41, 41)
    )
    assert ok[0, 0]
    return there[0, 0] - at


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_the_left_image_stays_and_the_right_one_is_spoiled(name: str) -> None:
    before = pairs()
    after = FAULTS[name](before)
    assert len(after) == len(before)
    for a, b in zip(before, after, strict=True):
        assert b.left is a.left and b.stamp_ns == a.stamp_ns
        assert b.right.shape == a.right.shape and b.right.dtype == np.uint8
    assert not np.array_equal(after[-1].right, before[-1].right)


def test_a_turned_camera_moves_the_picture_by_the_stated_pixels() -> None:
    (one,) = pairs(1)
    moved = turned(one, 2.0, -1.5, 0.0)
    for at in ((320, 240), (200, 150)):
        assert displaced(one.right, moved.right, at) == pytest.approx((2.0, -1.5), abs=0.25)
    rolled = turned(one, 0.0, 0.0, 1.0)
    arm = np.radians(1.0) * 200
    assert displaced(one.right, rolled.right, (520, 240)) == pytest.approx((0, arm), abs=0.3)
    wide = replace(one, left=np.repeat(one.left, 2, 1), right=np.repeat(one.right, 2, 1))
    shift = displaced(wide.right, turned(wide, 2.0, 0.0, 0.0).right, (320, 240))
    assert shift[0] == pytest.approx(4.0, abs=0.4)  # a wider image, more pixels


def test_a_shear_leaves_the_middle_row() -> None:
    (one,) = pairs(1)
    after = sheared(one, 6.0).right
    for v, across in ((240, 0.0), (400, 2.0), (80, -2.0)):
        assert displaced(one.right, after, (320, v)) == pytest.approx((across, 0.0), abs=0.3)


def test_a_rolling_shutter_skews_by_the_share_of_the_motion() -> None:
    moving = rolling(0.5)(pairs(3, (8, 0)))
    for k in (1, 2):  # 4 px from the first row to the last
        was = pairs(3, (8, 0))[k].right
        top, bottom = (displaced(was, moving[k].right, (320, v))[0] for v in (120, 360))
        assert bottom - top == pytest.approx(4.0 * 240 / 480, abs=0.4)
    still = [replace(pairs(1)[0], stamp_ns=k) for k in range(3)]
    for before, after in zip(still, rolling(0.5)(still), strict=True):
        assert np.array_equal(before.right, after.right)


def test_a_bump_comes_at_its_pair_and_a_drift_little_by_little() -> None:
    before = pairs(5)
    after = bumped(3, 2.0)(before)
    same = [np.array_equal(a.right, b.right) for a, b in zip(before, after, strict=True)]
    assert same == [True, True, True, False, False]
    shifts = [displaced(a.right, b.right, (320, 240))[0]
              for a, b in zip(before, drifting(2.0)(before), strict=True)]  # fmt: skip
    assert shifts == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0], abs=0.25)


def test_blur_takes_edges_and_a_stop_half_of_the_light() -> None:
    (one,) = pairs(1)
    steep = [float(np.abs(cv2.Laplacian(cv2.GaussianBlur(i, (0, 0), 1.5), cv2.CV_32F)).mean())
             for i in (one.right, defocused(6.0)([one])[0].right)]  # fmt: skip
    assert steep[1] < 0.5 * steep[0]
    dark = darker(1.0)([one])[0].right
    assert np.mean((dark / 255.0) ** 2.2) == pytest.approx(
        0.5 * np.mean((one.right / 255.0) ** 2.2), rel=0.02
    )


def test_drops_bend_the_picture_where_they_lie_and_nowhere_else() -> None:
    (one,) = pairs(1)
    after = wet(1, radius_px=60.0)([one])[0].right
    changed = np.abs(after.astype(int) - one.right) > 6
    assert 0.005 < changed.mean() < 0.1


def test_fields_and_frames_come_late() -> None:
    before = pairs()
    for (was, _), (_, now) in zip(pairwise(before), pairwise(interlaced(before)), strict=True):
        assert np.array_equal(now.right[1::2], was.right[1::2])
    for k, now in enumerate(half_rate(before)):
        assert np.array_equal(now.right, before[k - k % 2].right)
