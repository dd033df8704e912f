# SPDX-License-Identifier: Apache-2.0
"""The navigator's promises, each broken on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import registration_support as support
from navigator_support import (
    CONFIG,
    HOLD_FRAMES,
    POSED,
    blind,
    dark,
    statuses,
    worst_tre_mm,
    zero_depth,
)

from spine_nav_common.core.types import LEVEL_CODE, Rejected, Status


def test_registers_and_tracks_within_two_frames(new_navigator, frames, world_model, truth):
    navigator = new_navigator()
    first, second = (navigator.process(f) for f in frames[:2])
    assert any(e.startswith("registered L1-L4") for e in first.events)
    assert statuses(second) == [Status.TRACKED] * 4
    assert worst_tre_mm(world_model, second, truth) < 1.5
    for e in second.levels:
        assert 0 < e.predicted_tre_mm < CONFIG.max_predicted_tre_mm
        assert np.linalg.eigvalsh(e.covariance).min() > 0
        np.testing.assert_allclose(e.T_camera_ct[3], [0, 0, 0, 1])


def test_rows_only_for_exposed_levels_in_the_order_of_the_case(new_navigator, frames):
    navigator = new_navigator(exposed=("L3", "L2"))
    for frame in [dark(frames[0]), *frames[1:3], dark(frames[3])]:
        assert [e.level for e in navigator.process(frame).levels] == ["L3", "L2"]


def test_a_pose_goes_with_its_status(tracking, frames):
    for frame in [*frames[2:4], *map(dark, frames[4:14]), *frames[14:18]]:
        for e in tracking.process(frame).levels:
            filled = (e.T_camera_ct, e.covariance, e.anchor_camera_m, e.predicted_tre_mm)
            if e.status in POSED:
                assert all(v is not None and np.isfinite(v).all() for v in filled)
            else:
                assert all(v is None for v in filled)


@pytest.mark.parametrize("judges", [True, False], ids=["network refuses", "network goes on"])
@pytest.mark.parametrize("fault", [dark, blind, zero_depth])
def test_a_useless_frame_withdraws_guidance_and_holds_the_pose(
    tracking, oracle, frames, fault, judges
):
    oracle.judges_frames = judges
    before = {e.level: e.T_camera_ct for e in tracking.process(frames[2]).levels}
    result = tracking.process(fault(frames[3]))
    assert statuses(result) == [Status.OCCLUDED] * 4
    for e in result.levels:
        np.testing.assert_array_equal(e.T_camera_ct, before[e.level])
        assert e.reason


def test_a_held_pose_is_lost_in_time(tracking, frames):
    seen = [statuses(tracking.process(dark(f))) for f in frames[2 : 5 + HOLD_FRAMES]]
    assert seen[0] == [Status.OCCLUDED] * 4
    assert not any(Status.TRACKED in s for s in seen)
    assert seen[HOLD_FRAMES] == [Status.LOST] * 4
    assert not any(s in POSED for s in seen[-1])
    assert tracking.label_image(frames[4 + HOLD_FRAMES]) is None


def test_a_dark_start_never_shows_a_pose(new_navigator, frames):
    navigator = new_navigator()
    for fault, frame in zip((dark, blind, zero_depth) * 2, frames):
        result = navigator.process(fault(frame))
        assert statuses(result) == [Status.SEARCHING] * 4
        assert all(e.reason and e.T_camera_ct is None for e in result.levels)


def test_hands_over_everything_and_back(tracking, frames, world_model, truth):
    for frame in frames[2:5]:
        result = tracking.process(support.covered_by_hand(frame))
        assert statuses(result) == [Status.OCCLUDED] * 4
    seen = [tracking.process(f) for f in frames[5:20]]
    assert statuses(seen[-1]) == [Status.TRACKED] * 4
    assert worst_tre_mm(world_model, seen[-1], truth) < 1.5


def test_recovers_after_it_was_lost(tracking, frames, world_model, truth):
    gone = 3 + HOLD_FRAMES
    for frame in frames[2:gone]:
        result = tracking.process(support.covered_by_hand(frame))
    assert statuses(result) == [Status.LOST] * 4
    for frame in frames[gone : gone + 6]:
        result = tracking.process(frame)
    assert statuses(result) == [Status.TRACKED] * 4
    assert worst_tre_mm(world_model, result, truth) < 1.5


def test_a_hand_over_one_end_hides_that_end_only(tracking, frames, world_model, truth):
    """Roll 90: the head is on one side of the image. L1 is covered, the others go on."""
    anchor = truth[0, :3, :3] @ world_model.anchor_m[0] + truth[0, :3, 3]
    u = anchor[0] / anchor[2] * support.CAMERA.fx + support.CAMERA.cx
    columns = slice(0, int(u) + 20) if u < 100 else slice(int(u) - 20, None)
    for frame in frames[2:5]:
        result = tracking.process(support.covered_by_hand(frame, columns))
    assert statuses(result)[0] is Status.OCCLUDED
    assert statuses(result)[2:] == [Status.TRACKED] * 2
    assert worst_tre_mm(world_model, result, truth) < 1.5


@pytest.mark.parametrize("back_ns", [0, 1, support.FRAME_NS])
def test_an_old_or_repeated_stamp_is_refused(tracking, frames, back_ns):
    with pytest.raises(ValueError, match="not newer"):
        tracking.process(replace(frames[1], stamp_ns=frames[1].stamp_ns - back_ns))
    assert statuses(tracking.process(frames[2])) == [Status.TRACKED] * 4


def test_a_clock_that_was_set_back_begins_anew_and_shows_nothing_stale(
    tracking, stage, frames, world_model, truth
):
    """The camera moved by a vertebra while its clock was set: no pose of before is of now."""
    anchor = np.einsum("lij,lj->li", truth[:, :3, :3], world_model.anchor_m) + truth[:, :3, 3]
    after = support.moved(truth, tuple(np.diff(anchor[:4], axis=0).mean(axis=0)))
    for i in (200, 201):
        tracking.process(stage.frame(i, truth))
    old = tracking.segment(stage.frame(202, truth))  # in the other thread when the clock was set
    for k in range(4):
        frame = stage.frame(100 + k, after)
        result = tracking.solve(tracking.segment(frame, epoch=1))
        if Status.TRACKED in statuses(result):
            assert worst_tre_mm(world_model, result, after) < 4.0
        if k == 0:
            assert any("clock was set back" in e for e in result.events)
    assert statuses(result) == [Status.TRACKED] * 4
    with pytest.raises(
        ValueError, match="set back"
    ):  # a frame of before that comes late is none of now
        tracking.solve(old)


def test_depth_of_another_size_is_refused(tracking, frames):
    with pytest.raises(ValueError, match="differ in size"):
        tracking.process(replace(frames[2], depth_m=frames[2].depth_m[::2, ::2]))


def test_an_uncertain_pose_is_never_tracked(new_navigator, frames):
    navigator = new_navigator(replace(CONFIG, max_predicted_tre_mm=0.5))
    for frame in frames[:10]:
        for e in navigator.process(frame).levels:
            assert e.status is not Status.TRACKED


def test_two_runs_are_equal_bit_for_bit(new_navigator, frames):
    runs = []
    for _ in range(2):
        navigator = new_navigator()
        sequence = [*frames[:3], dark(frames[3]), *frames[4:6]]
        runs.append([navigator.process(f).levels for f in sequence])
    for one, two in zip(*runs):
        for a, b in zip(one, two):
            assert (a.status, a.reason) == (b.status, b.reason)
            assert a.predicted_tre_mm == b.predicted_tre_mm
            assert a.T_camera_ct.tobytes() == b.T_camera_ct.tobytes()
            assert a.covariance.tobytes() == b.covariance.tobytes()


def test_reset_forgets_everything(tracking, frames):
    tracking.reset()
    result = tracking.process(dark(frames[0]))  # an older stamp is welcome again
    assert statuses(result) == [Status.SEARCHING] * 4


def test_a_requested_registration_starts_from_scratch(tracking, frames):
    before = tracking.registrations
    tracking.request_registration()
    assert statuses(tracking.process(dark(frames[2]))) == [Status.SEARCHING] * 4
    result = tracking.process(frames[3])
    assert tracking.registrations == before + 1
    assert any(e.startswith("registered") for e in result.events)


def test_the_network_is_told_where_to_look(tracking, oracle, frames, world_model, truth):
    assert oracle.hints[0] is None
    tracking.process(frames[2])
    anchor = truth[:4, :3, :3] @ world_model.anchor_m[:4, :, None]
    centre = (anchor[..., 0] + truth[:4, :3, 3]).mean(axis=0)
    hint = oracle.hints[-1]
    assert hint.depth_m == pytest.approx(centre[2], abs=2e-3)
    assert hint.u == pytest.approx(centre[0] / centre[2] * 400.0 + 99.5, abs=3.0)


# -- labels -------------------------------------------------------------------------------------


def test_labels_name_the_bone(tracking, stage, frames):
    tracking.process(frames[2])
    labels = tracking.label_image(frames[2])
    instance, _ = stage.truth[frames[2].stamp_ns]
    assert labels.shape == instance.shape
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 254, *(LEVEL_CODE[v] for v in tracking.model.levels)}
    for level in tracking.model.levels:
        mine = instance == LEVEL_CODE[level]
        assert (labels[mine] == LEVEL_CODE[level]).mean() > 0.75
    beyond = instance == LEVEL_CODE["L5"]  # bone, but of no level of the case
    assert (labels[beyond] == 254).mean() > 0.6
    assert (labels[instance == 0] > 0).mean() < 0.1


def test_before_registration_bone_has_no_name(new_navigator, frames, oracle):
    navigator = new_navigator(replace(CONFIG, bone_threshold=0.5))
    navigator.process(frames[0])
    navigator._belief = None
    assert set(np.unique(navigator.label_image(frames[0]))) == {0, 254}


def test_there_are_no_labels_of_another_frame_or_of_a_refused_one(tracking, frames):
    tracking.process(frames[2])
    assert tracking.label_image(frames[1]) is None
    assert isinstance(tracking._segmenter.run(dark(frames[3])), Rejected)
    tracking.process(dark(frames[3]))
    assert tracking.label_image(frames[3]) is None
