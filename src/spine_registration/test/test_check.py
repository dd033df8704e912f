# SPDX-License-Identifier: Apache-2.0
"""The surgeon's landmark check: what passes, what fails, and that a failure takes the level from view."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from navigator_support import statuses
from test_navigator_again import again, same_bits

from spine_nav_common.core.landmarks import landmarks
from spine_nav_common.core.types import (
    Intrinsics,
    LevelEstimate,
    NavigationResult,
    Rejected,
    Status,
)
from spine_registration.core import check as core
from spine_registration.core.memory import from_json, to_json

CLICK95_MM, BOUND_MM = 4.0, 2.5
LIMIT_MM = np.hypot(CLICK95_MM, BOUND_MM)


def shown(truth, levels, status=Status.TRACKED, moved_m=(0.0, 0.0, 0.0)):
    """A result with these poses, each moved against the truth."""
    estimates = []
    for k, level in enumerate(levels):
        T = truth[k].copy()
        T[:3, 3] += moved_m
        estimates.append(LevelEstimate(level, status, T, predicted_tre_mm=BOUND_MM))
    return NavigationResult(7, tuple(estimates))


def points(case, truth, level, k):
    """Where the true landmarks are, in the camera's frame."""
    return [truth[k, :3, :3] @ x.point_m + truth[k, :3, 3] for x in landmarks(case, level)]


def checked(case, result, level, touched):
    """A check of a level whose landmarks were touched at these points."""
    found = core.begin(case, level)
    for point in touched:
        found = core.touch(found, point, CLICK95_MM, result)
        assert not isinstance(found, Rejected)
    return core.judge(found, case)


def test_a_right_pose_passes_and_says_how_far_off_it_is(case, truth):
    right = shown(truth, case.exposed_levels)
    touched = points(case, truth, "L2", 1)
    verdict = checked(case, right, "L2", touched)
    assert verdict.passed and verdict.mean_mm < 1e-9 and verdict.resembles == ""
    assert verdict.limit_mm == pytest.approx(LIMIT_MM)
    off = checked(case, shown(truth, case.exposed_levels, moved_m=(0, 0, 3e-3)), "L2", touched)
    assert off.passed and off.mean_mm == pytest.approx(3.0)
    np.testing.assert_allclose(off.offset_mm, (0, 0, 3.0), atol=1e-9)
    assert core.withheld(off, case) == {}


@pytest.mark.parametrize("over", [0.99, 1.01])
def test_the_limit_is_that_of_pose_and_touch_together(case, truth, over):
    off = (over * LIMIT_MM * 1e-3, 0.0, 0.0)
    moved = shown(truth, case.exposed_levels, moved_m=off)
    verdict = checked(case, moved, "L3", points(case, truth, "L3", 2))
    assert verdict.passed == (over < 1.0)
    assert list(core.withheld(verdict, case)) == ([] if over < 1.0 else ["L3"])


def test_one_landmark_far_off_fails_whatever_the_mean(case, truth):
    touched = points(case, truth, "L3", 2)
    right = shown(truth, case.exposed_levels)
    for off_mm, passed in ((1.5 * LIMIT_MM, True), (1.7 * LIMIT_MM, False)):
        one = [touched[0], touched[1], touched[2] + (0.0, 1e-3 * off_mm, 0.0)]
        verdict = checked(case, right, "L3", one)
        assert verdict.mean_mm < LIMIT_MM and verdict.passed is passed
    assert f"{off_mm:.1f} mm off" in verdict.text and "right transverse" in verdict.text


def test_a_touch_that_is_worse_than_pointers_are_widens_the_limit(case, truth):
    found = core.begin(case, "L3")
    right = shown(truth, case.exposed_levels)
    for point, own in zip(points(case, truth, "L3", 2), (2.0, 9.0, 2.0)):
        found = core.touch(found, point, own, right)
    assert core.judge(found, case).limit_mm == pytest.approx(np.hypot(9.0, BOUND_MM))


def test_the_points_of_a_neighbour_take_every_level_from_view(case, truth):
    """The surgeon touches L3 where L2 is asked for: the count is one off, on every level."""
    verdict = checked(case, shown(truth, case.exposed_levels), "L2", points(case, truth, "L3", 2))
    assert not verdict.passed and verdict.resembles == "L3" and verdict.mean_mm > 20.0
    assert "those of L3" in verdict.text
    assert list(core.withheld(verdict, case)) == list(case.exposed_levels)


def test_fewer_than_three_landmarks_tell_nothing(case, truth):
    found = core.begin(case, "L2")
    assert isinstance(core.skip(found), Rejected)  # three are there, three are needed
    for point in points(case, truth, "L2", 1)[:2]:
        found = core.touch(found, point, CLICK95_MM, shown(truth, case.exposed_levels))
    assert "3 are needed" in core.judge(found, case).reason
    back = core.undo(core.undo(found))
    assert back.next == 0 and isinstance(core.undo(back), Rejected)


def test_what_was_not_tracked_cannot_be_checked(case, truth):
    found = core.begin(case, "L2")
    for status in (Status.OCCLUDED, Status.LOST, Status.REJECTED):
        hidden = shown(truth, case.exposed_levels, status)
        assert "not tracked" in core.touch(found, np.zeros(3), CLICK95_MM, hidden).reason


def test_levels_without_landmarks_are_refused_with_the_remedy(case):
    assert "not navigated" in core.begin(case, "T12").reason
    sacral = replace(case, meshes={**case.meshes, "S1": case.meshes["L4"]}, exposed_levels=("S1",))
    assert "case.yaml" in core.begin(sacral, "S1").reason
    named = {"S1": {"a": np.zeros(3), "b": np.ones(3), "c": np.full(3, 2.0), "d": np.full(3, 3.0)}}
    found = core.begin(replace(sacral, landmarks=named), "S1")
    assert [x.name for x in found.landmarks] == ["a", "b", "c", "d"]
    assert core.skip(found).next == 1


CAMERA = Intrinsics(64, 48, 60.0, 60.0, 32.0, 24.0)


def test_a_click_on_an_edge_takes_the_nearer_surface():
    depth = np.full((48, 64), 0.60, np.float32)
    depth[:, :33] = 0.50
    for u in (30.5, 33.5):
        point = core.clicked(depth, CAMERA, u, 24.0)
        assert point[2] == pytest.approx(0.50)
        np.testing.assert_allclose(point[:2] / point[2] * 60.0 + (32.0, 24.0), (u, 24.0))


def test_a_click_without_depth_or_outside_is_refused():
    depth = np.full((48, 64), np.nan, np.float32)
    depth[20, 30:36] = 0.5
    assert "no depth" in core.clicked(depth, CAMERA, 32.0, 20.0).reason
    for u, v in ((-1.0, 20.0), (64.0, 20.0), (3.0, 48.5), (float("nan"), 3.0)):
        assert "outside" in core.clicked(depth, CAMERA, u, v).reason


def test_clicks_on_the_true_tips_measure_the_pose_that_is_shown(stage, case, truth, model):
    """Through the picture: pixels and their depth, no coordinates of the model."""
    frame = stage.frame(3, truth)
    c = frame.intrinsics
    found = core.begin(case, "L3")
    seen = 0
    for point in points(case, truth, "L3", 2):
        u, v = point[:2] / point[2] * (c.fx, c.fy) + (c.cx, c.cy)
        at = core.clicked(frame.depth_m, c, u, v)
        assert not isinstance(at, Rejected)
        seen += np.linalg.norm(at - point) < 4e-3
        found = core.touch(found, at, CLICK95_MM, shown(truth, case.exposed_levels))
    assert seen == 3
    assert core.judge(found, case).passed


# -- what a failed check does to the navigation


@pytest.fixture
def failed(new_navigator, frames):
    """A navigator that tracked all levels, whose check of L2 has failed."""
    navigator = new_navigator()
    for frame in frames[:3]:
        result = navigator.process(frame)
    assert statuses(result) == [Status.TRACKED] * 4
    navigator.withhold({"L2": "the landmark check of L2 failed"})
    return navigator


def test_a_failed_level_is_not_shown_until_a_new_registration(failed, frames):
    for frame in frames[3:5]:
        result = failed.process(frame)
        assert statuses(result) == [
            Status.TRACKED, Status.REJECTED, Status.TRACKED, Status.TRACKED,
        ]  # fmt: skip
        assert result.levels[1].T_camera_ct is None
        assert "check of L2 failed" in result.levels[1].reason
    failed.reset()  # a fault does not bring it back
    assert failed.process(frames[5]).levels[1].status is Status.REJECTED
    failed.request_registration()
    after = [failed.process(frame) for frame in frames[6:9]]
    assert after[-1].levels[1].status is Status.TRACKED


def test_a_request_to_register_takes_a_check_that_failed_just_before_with_it(failed, frames):
    failed.request_registration()
    after = [failed.process(frame) for frame in frames[3:6]]
    assert after[-1].levels[1].status is Status.TRACKED


def test_a_process_that_takes_over_does_not_show_it_either(failed, frames, new_navigator):
    failed.process(frames[3])
    memory = from_json(to_json(failed.memory(frames[3], "system")), 4)
    heir = new_navigator()
    heir.recall(memory, 10.0)
    after = [heir.process(frame) for frame in frames[4:7]]
    assert statuses(after[-1]) == [
        Status.TRACKED, Status.REJECTED, Status.TRACKED, Status.TRACKED,
    ]  # fmt: skip


def test_the_journal_computes_it_again(new_navigator, frames):
    live, results, tooks = new_navigator(), [], []
    for i, frame in enumerate(frames[:7]):
        if i == 3:
            live.withhold({"L3": "the check failed"})
        if i == 5:
            live.request_registration()
        results.append(live.process(frame))
        tooks.append(live.took)
    assert results[4].levels[2].status is Status.REJECTED
    for was, now in zip(results, again(new_navigator(), frames[:7], tooks), strict=True):
        assert same_bits(was, now)
    lost = [replace(t, withheld=()) for t in tooks]
    assert again(new_navigator(), frames[:7], lost)[4].levels[2].status is Status.TRACKED
