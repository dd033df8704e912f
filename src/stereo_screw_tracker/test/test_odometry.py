# SPDX-License-Identifier: Apache-2.0
"""The wound's own motion from its texture: right, whatever the hand does, or refused."""

from __future__ import annotations

import numpy as np
import pytest
from screw_support import heads_m
from texture_support import SIZE, moved, pair, texture

from spine_nav_common.core.geometry import transform, transform_points
from spine_nav_common.core.types import Rejected, StereoFrame
from stereo_screw_tracker.core.odometry import Wound

MOTION = moved((6.0, -4.0, 3.0), (1.5, -1.0, 2.0))


def off_mm(T: np.ndarray, truth: np.ndarray) -> float:
    """Largest distance that two motions put a head apart."""
    heads = heads_m()
    apart = transform_points(T, heads) - transform_points(truth, heads)
    return 1e3 * float(np.linalg.norm(apart, axis=1).max())


def test_the_motion_is_that_of_the_wound() -> None:
    wound = Wound()
    wound.seen(pair(np.eye(4)), heads_m())
    T = wound.motion(pair(MOTION))
    assert not isinstance(T, Rejected), T.reason
    assert off_mm(T, MOTION) < 0.4


def test_a_hand_that_comes_between_does_not_take_the_wound_along() -> None:
    wound = Wound()
    wound.seen(pair(np.eye(4)), heads_m())
    hand = transform(np.eye(3), np.array([0.06, 0.0, 0.42]))
    T = wound.motion(pair(MOTION, hand))
    assert not isinstance(T, Rejected), T.reason
    assert off_mm(T, MOTION) < 0.5


def test_motions_follow_each_other_without_adding_up_their_errors() -> None:
    wound = Wound()
    wound.seen(pair(np.eye(4)), heads_m())
    whole, before = np.eye(4), np.eye(4)
    for k in range(1, 9):
        truth = moved((1.5 * k, -k, 0.5 * k), (0.3 * k, 0.1 * k, -0.4 * k))
        T = wound.motion(pair(truth))
        assert not isinstance(T, Rejected), T.reason
        assert off_mm(T, truth @ np.linalg.inv(before)) < 0.6
        wound.passed(T)
        whole, before = T @ whole, truth
    assert off_mm(whole, before) < 0.5


@pytest.mark.parametrize("what", ["another", "blank", "dark"])
def test_what_is_not_that_wound_gives_no_motion(what: str) -> None:
    wound = Wound()
    wound.seen(pair(np.eye(4)), heads_m())
    other = {
        "another": texture(7),
        "blank": np.full((SIZE, SIZE), 120, np.uint8),
        "dark": np.zeros((SIZE, SIZE), np.uint8),
    }
    assert isinstance(wound.motion(pair(MOTION, wound=other[what])), Rejected)


def test_nothing_is_said_before_a_pair_has_shown_all_heads() -> None:
    answer = Wound().motion(pair(MOTION))
    assert isinstance(answer, Rejected) and "yet" in answer.reason
    blind = Wound()
    blind.seen(pair(np.eye(4)), np.zeros((0, 3)))
    assert isinstance(blind.motion(pair(MOTION)), Rejected)


def test_a_picture_of_another_size_is_refused() -> None:
    wound = Wound()
    wound.seen(pair(np.eye(4)), heads_m())
    frame = pair(MOTION)
    half = StereoFrame(
        0, frame.left[::2, ::2], frame.right[::2, ::2], frame.intrinsics, frame.baseline_m
    )
    assert isinstance(wound.motion(half), Rejected)
