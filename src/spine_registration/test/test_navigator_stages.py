# SPDX-License-Identifier: Apache-2.0
"""Segmenting ahead while a frame is solved: the same guidance, and nothing of a place left behind."""

from __future__ import annotations

import pytest
import registration_support as support

from spine_nav_common.core.types import Status
from spine_registration.core.navigator import Navigator


@pytest.fixture(scope="module")
def frames(stage, truth):
    return [stage.frame(i, truth) for i in range(1, 8)]


@pytest.fixture
def new_navigator(case, model, oracle):
    return lambda: Navigator(case, oracle, error_model=support.ERRORS, model=model)


def test_both_stages_in_turns_are_what_process_does(new_navigator, frames):
    one, two = new_navigator(), new_navigator()
    for frame in frames[:4]:
        whole, parts = one.process(frame), two.solve(two.segment(frame))
        for a, b in zip(whole.levels, parts.levels, strict=True):
            assert a.status is b.status
            assert a.T_camera_ct.tobytes() == b.T_camera_ct.tobytes()


def test_a_frame_segmented_ahead_is_tracked(new_navigator, frames):
    navigator = new_navigator()
    assert not navigator.following  # the node's mailbox asks this
    seen = navigator.segment(frames[0])
    for ahead in frames[1:5]:
        following = navigator.segment(ahead)  # before the frame that it follows is solved
        result = navigator.solve(seen)
        assert [e.status for e in result.levels] == [Status.TRACKED] * 4, result
        assert navigator.following
        seen = following


def test_a_place_that_was_lost_meanwhile_is_not_looked_at(new_navigator, frames, oracle):
    navigator = new_navigator()
    for frame in frames[:2]:
        navigator.process(frame)
    seen = navigator.segment(frames[2])
    assert oracle.hints[-1] is not None
    navigator.request_registration()  # as if lost: what was followed counts no longer
    result = navigator.solve(seen)
    assert oracle.hints[-1] is None
    assert "registration" in result.timings_ms


def test_frames_out_of_order_are_refused_by_both_stages(new_navigator, frames):
    navigator = new_navigator()
    old = navigator.segment(frames[0])
    navigator.process(frames[1])
    with pytest.raises(ValueError, match="not newer"):
        navigator.solve(old)
    with pytest.raises(ValueError, match="not newer"):
        navigator.segment(frames[0])
