# SPDX-License-Identifier: Apache-2.0
"""Two cameras' frames by their stamps, and two navigations that help each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import registration_support as support
from navigator_support import CONFIG, worst_tre_mm

from spine_nav_common.core.geometry import exp_so3, invert, transform
from spine_nav_common.core.types import Intrinsics, LevelEstimate, RgbdFrame, Status
from spine_registration.core.between import Between
from spine_registration.core.navigator import Navigator
from spine_registration.core.put_together import CHECK_TICKS
from spine_registration.core.two_cameras import STILL, Moment, TwoCameras, moments

MS = 1_000_000
EMPTY = np.zeros((2, 2, 3), np.uint8)
X = transform(exp_so3(np.array([0.0, 0.08, 0.0])), np.array([-0.04, 0.0, 0.0]))  # T_first_second


def stamps_of(first_ms, second_ms):
    def frames(ms):
        camera = Intrinsics(2, 2, 1.0, 1.0, 0.0, 0.0)
        return (RgbdFrame(t * MS, EMPTY, np.ones((2, 2)), camera) for t in ms)

    return [
        tuple(None if f is None else f.stamp_ns // MS for f in (m.first, m.second)) + (m.told,)
        for m in moments(frames(first_ms), frames(second_ms))
    ]


def test_frames_of_one_moment_go_together_and_each_is_taken_once():
    assert stamps_of([0, 66, 133], [5, 70, 120]) == [
        (0, 5, True), (66, 70, True), (133, 120, True),
    ]  # fmt: skip
    # Twice as fast, either of them: the nearest; the others give no rows of the second camera's own.
    assert stamps_of([0, 66], [0, 33, 66]) == [(0, 0, True), (None, 33, False), (66, 66, True)]
    assert stamps_of([0, 33, 66], [0, 66]) == [(0, 0, True), (33, None, True), (66, 66, True)]


def test_where_one_camera_has_no_frames_the_other_goes_on():
    assert stamps_of([0, 300], [0, 100, 200, 300]) == [
        (0, 0, True), (None, 100, True), (None, 200, True), (300, 300, True),
    ]  # fmt: skip
    assert stamps_of([0, 100], []) == [(0, None, True), (100, None, True)]
    assert stamps_of([], [0, 100]) == [(None, 0, True), (None, 100, True)]


@pytest.fixture
def pair(case, model, world, world_model, truth):
    """Two navigations, and a function that shows both cameras the spine."""
    stages = [support.Stage(world, world_model) for _ in range(2)]
    navigators = [
        Navigator(case, support.Oracle(stage, 11 + n), CONFIG, support.ERRORS, model)
        for n, stage in enumerate(stages)
    ]
    two = TwoCameras(*navigators, Between(X, 1e-10 * np.eye(6), "between.yaml"))

    def shown(i):
        return stages[0].frame(i, truth), stages[1].frame(i, invert(X) @ truth)

    return two, shown


def test_both_track_one_spine_in_the_first_cameras_frame(pair, model, truth):
    two, shown = pair
    for i in range(1, 12):
        told = two.process(Moment(*shown(i)))
    assert set(told.cameras.values()) == {("first", "second")}, [
        (e.status.value, e.reason) for e in two.alone["second"].levels
    ]
    assert worst_tre_mm(model, told.result, truth) < 2.0
    assert two.ever_together


def test_a_camera_that_shows_the_same_picture_again_takes_no_part(pair):
    two, shown = pair
    for i in range(1, 10):
        first, second = shown(i)
        two.process(Moment(first, second))
    first, _ = shown(10)
    told = two.process(Moment(first, replace(second, stamp_ns=first.stamp_ns)))
    assert told.out["second"] == STILL and set(told.cameras.values()) == {("first",)}
    later = first.stamp_ns + 66 * MS
    told = two.process(Moment(replace(first, stamp_ns=later), replace(second, stamp_ns=later)))
    assert {e.status for e in told.result.levels} == {Status.LOST}
    assert all(e.T_camera_ct is None and e.reason == STILL for e in told.result.levels)


def test_what_moved_between_two_cameras_stamps_widens_the_second_ones_noise(pair):
    two, shown = pair
    for i in range(1, CHECK_TICKS + 4):
        two.process(Moment(*shown(i)))
    result = two.alone["second"]
    e: LevelEstimate = result.levels[1]
    T = e.T_camera_ct.copy()
    T[0, 3] += 3e-3  # in a frame
    moved = replace(
        result, stamp_ns=result.stamp_ns + 60 * MS,
        levels=tuple(replace(e, T_camera_ct=T) if v.level == e.level else v for v in result.levels),
    )  # fmt: skip
    wide = two._at(moved, 0.02).levels[1]
    assert np.sqrt(wide.noise[0, 0] - e.noise[0, 0]) == pytest.approx(1e-3, rel=1e-3)
    assert wide.covariance[0, 0] > e.covariance[0, 0]
    assert two._at(moved, 0.0) is moved


def test_an_unclear_search_is_clear_where_a_registered_camera_follows_the_levels(
    new_navigator, frames, truth, model, monkeypatch
):
    from spine_registration.core import navigator as module

    register = module.register
    unclear = lambda *a: replace(register(*a), clear=False, reason="leads by 2 nat only")
    monkeypatch.setattr(module, "register", unclear)
    alone = new_navigator()
    assert {e.status for e in alone.process(frames[0]).levels} == {Status.REJECTED}
    assert alone.pending is not None

    helped = new_navigator()
    helped.suggest(truth[: len(model.levels)])
    result = helped.process(frames[0])
    assert helped.following and helped.pending is None
    assert any("where the other camera follows it" in e for e in result.events)

    shifted = new_navigator()  # the other camera names them one level off: no help, and it is asked
    off = truth[: len(model.levels)].copy()
    step = truth[1, :3, :3] @ (model.anchor_m[1] - model.anchor_m[0])
    off[:, :3, 3] += step
    shifted.suggest(off)
    assert {e.status for e in shifted.process(frames[0]).levels} == {Status.REJECTED}
    assert shifted.pending is not None


def test_what_was_suggested_holds_for_one_frame(new_navigator, frames, truth, model):
    navigator = new_navigator()
    navigator.suggest(truth[: len(model.levels)])
    navigator.process(frames[0])
    assert navigator._suggested is None
