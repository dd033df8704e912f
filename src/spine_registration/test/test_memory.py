# SPDX-License-Identifier: Apache-2.0
"""What comes back after a restart, and every way in which it must not."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import registration_support as support

from spine_nav_common.core.types import Status
from spine_registration.core import memory as memory_module
from spine_registration.core import navigator as navigator_module
from spine_registration.core.config import NavigatorConfig
from spine_registration.core.memory import SAME_FRAMES, from_json, to_json
from spine_registration.core.navigator import Navigator
from spine_registration.core.picture import stood_still

TWO = ("L2", "L3")
ASKS = NavigatorConfig(level_margin=1e9)  # no lead is enough: the surgeon is always asked
KEEP_S = 10.0
DEAD = 30  # frames of 15 Hz until the next process sees its first one


@pytest.fixture(scope="module")
def later(stage, truth):
    """Frames of the same still spine, two seconds on."""
    return [stage.frame(DEAD + i, truth) for i in range(6)]


@pytest.fixture
def process(case, model, stage):
    """A new navigator of L2 and L3, as a started process makes it."""

    def make(config=ASKS, **changes):
        own = replace(support.part(case, TWO), **changes)
        oracle = support.Oracle(stage)
        return Navigator(own, oracle, config, support.ERRORS, support.part_model(model, TWO))

    return make


@pytest.fixture(scope="module")
def confirmed(world, world_model, stage, truth):
    """What a process knew when it died: L2 and L3 were confirmed by the surgeon and tracked."""
    model = support.part_model(world_model, TWO)
    first = Navigator(support.part(world, TWO), support.Oracle(stage), ASKS, support.ERRORS, model)
    frames = [stage.frame(i, truth) for i in range(1, 5)]
    first.process(frames[0])
    assert first.confirm(True).startswith("accepted")
    for frame in frames[1:]:
        result = first.process(frame)
    assert [e.status for e in result.levels] == [Status.TRACKED] * 2
    return from_json(to_json(first.memory(frames[-1], "system")), len(TWO))


@pytest.fixture(autouse=True)
def two_seconds_later(confirmed, monkeypatch):
    """However long the tests take."""
    monkeypatch.setattr(memory_module, "uptime_s", lambda: confirmed.shown.uptime_s + 2.0)


def shown(navigator, frames):
    """Whether any level got a pose, and the last result."""
    results = [navigator.process(f) for f in frames]
    posed = any(e.T_camera_ct is not None for r in results for e in r.levels)
    return posed, results[-1]


def asked(navigator, frames):
    """After one frame more than would have to agree."""
    assert len(frames) > SAME_FRAMES
    posed, result = shown(navigator, frames[: SAME_FRAMES + 1])
    return not posed and all("confirm level" in e.reason for e in result.levels)


def one_vertebra(world_model, truth):
    anchor = np.einsum("lij,lj->li", truth[:, :3, :3], world_model.anchor_m) + truth[:, :3, 3]
    return np.diff(anchor, axis=0).mean(axis=0)


def moved_frames(stage, T):
    """Other stamps than `later`: the stage knows one truth for each."""
    return [stage.frame(DEAD + 10 + i, T) for i in range(4)]


def test_a_confirmed_level_comes_back_without_a_hand(process, confirmed, later, model, truth):
    navigator = process()
    navigator.recall(confirmed, KEEP_S)
    for frame in later[: SAME_FRAMES - 1]:
        result = navigator.process(frame)
        assert [e.status for e in result.levels] == [Status.REJECTED] * 2, "one is not enough"
    begun = navigator.process(later[SAME_FRAMES - 1])
    assert any("before the restart" in e for e in begun.events)
    posed, result = shown(navigator, later[SAME_FRAMES:])
    assert posed and [e.status for e in result.levels] == [Status.TRACKED] * 2
    T = np.array([e.T_camera_ct for e in result.levels])
    names = ("L1", "L2", "L3", "L4", "L5")
    of_two = [names.index(v) for v in TWO]
    assert support.tre_mm(support.part_model(model, TWO), T, truth[of_two]).max() < 2.0


def test_the_proof_of_the_patient_comes_back_with_the_place_alone(
    process, confirmed, later, stage, truth, monkeypatch
):
    """A clear answer begins at once; whose spine it is must not be proven anew if nothing moved."""
    # as with a noisy camera: frames prove nothing yet
    monkeypatch.setattr(navigator_module, "compare", lambda identity, *a: identity)
    clear = NavigatorConfig()
    second = process(clear)
    second.recall(confirmed, KEEP_S)
    result = second.process(later[0])
    assert second.identity.proven and any("proven before" in e for e in result.events)
    assert shown(second, later[1:3])[0]
    elsewhere = stage.frame(DEAD + 30, support.moved(truth, (0.0, 0.0, 6e-3)))
    for memory, frame in ((None, later[0]), (confirmed, elsewhere)):
        other = process(clear)
        if memory is not None:
            other.recall(memory, KEEP_S)
        result = other.process(frame)
        assert other.following and not other.identity.proven
        assert all(e.T_camera_ct is None for e in result.levels)


def test_without_a_memory_the_surgeon_is_asked_again(process, later):
    assert asked(process(), later)


@pytest.mark.parametrize("way", [-1, 1])
def test_a_camera_moved_by_one_vertebra_is_asked_again(
    process, confirmed, stage, world_model, truth, way
):
    navigator = process()
    navigator.recall(confirmed, KEEP_S)
    after = support.moved(truth, tuple(way * one_vertebra(world_model, truth)))
    assert asked(navigator, moved_frames(stage, after))


@pytest.mark.parametrize("way", [-1, 1])
def test_nor_does_bone_at_the_old_place_deceive_it(
    process, confirmed, stage, world_model, truth, way, monkeypatch
):
    """The neighbours lie where L2 and L3 lay, and registration takes them for L2 and L3."""
    after = support.moved(truth, tuple(way * one_vertebra(world_model, truth)))
    first, *frames = [*moved_frames(stage, after), stage.frame(DEAD + 20, after)]
    navigator = process()
    navigator.recall(confirmed, KEEP_S)
    navigator.process(first)
    real = navigator._answers.open.found
    place = memory_module.anchors(navigator.model, confirmed.shown.T_camera_ct)
    there = replace(
        real.best.estimate, T_camera_ct=confirmed.shown.T_camera_ct, anchor_camera_m=place
    )
    slipped = replace(real, best=replace(real.best, estimate=there))
    monkeypatch.setattr(navigator_module, "register", lambda *a: slipped)
    assert asked(navigator, frames)


def test_poses_that_lie_elsewhere_are_asked_again(process, confirmed, stage, truth):
    navigator = process()
    navigator.recall(confirmed, KEEP_S)
    after = support.moved(truth, (0.0, 0.0, 6e-3))
    assert asked(navigator, moved_frames(stage, after))


@pytest.mark.parametrize(
    "changes",
    [{"case": "another"}, {"boot": "another"}, {"boot": ""}, {"camera": "another"}],
    ids=["case", "start of the machine", "unknown start", "camera"],
)
def test_of_another(process, confirmed, later, changes):
    navigator = process()
    of_shown = {"shown": replace(confirmed.shown, **changes)} if "camera" in changes else changes
    navigator.recall(replace(confirmed, **of_shown), KEEP_S)
    assert asked(navigator, later)


def test_another_case_s_files_are_refused(process, confirmed, later):
    for changes in ({"sha256": "f" * 64}, {"exposed_levels": ("L3", "L2")}):
        navigator = process(**changes)
        navigator.recall(confirmed, KEEP_S)
        assert asked(navigator, later)


@pytest.mark.parametrize("by", ["stamps", "time", "stamps that went back"])
def test_a_stale_memory_is_refused(process, confirmed, later, by):
    old = {
        "stamps": {"stamp_ns": later[0].stamp_ns - round(1.1e9 * KEEP_S)},
        "time": {"uptime_s": confirmed.shown.uptime_s - 1.1 * KEEP_S},
        "stamps that went back": {"stamp_ns": later[-1].stamp_ns + 1},
    }[by]
    navigator = process()
    navigator.recall(replace(confirmed, shown=replace(confirmed.shown, **old)), KEEP_S)
    assert asked(navigator, later)


def test_a_clear_answer_one_level_off_is_asked_about(process, confirmed, later, world_model, truth):
    """The camera stood still, and the case is found one level away: one of the two is wrong."""
    step = one_vertebra(world_model, truth)
    T = support.moved(confirmed.shown.T_camera_ct, tuple(step))
    navigator = process(NavigatorConfig())
    navigator.recall(replace(confirmed, shown=replace(confirmed.shown, T_camera_ct=T)), KEEP_S)
    posed, result = shown(navigator, later)
    assert not posed
    assert all("before the restart" in e.reason for e in result.levels)
    assert shown(process(NavigatorConfig()), later)[0], "without the memory it is clear"


def test_a_process_that_dies_before_it_registers_passes_on_what_it_got(process, confirmed, later):
    second, third = process(), process()
    second.recall(confirmed, KEEP_S)
    second.process(later[0])
    third.recall(second.memory(later[0], "system"), KEEP_S)
    assert shown(third, later[1:])[0]
    assert third.memory(later[-1]).shown.stamp_ns == later[-1].stamp_ns


def test_what_was_rejected_stays_rejected(process, stage, truth, later):
    first = process()
    frames = [stage.frame(i, truth) for i in (1, 2)]
    first.process(frames[0])
    assert first.confirm(False).startswith("rejected")
    first.process(frames[1])
    kept = from_json(to_json(first.memory(frames[1])), len(TWO))
    assert kept.shown is None and len(kept.rejections) == 1 and kept.contradicted
    second = process(NavigatorConfig())  # clear by itself
    second.recall(kept, KEEP_S)
    posed, result = shown(second, later)
    assert not posed and "rejected by the surgeon" in result.levels[0].reason
    other = process(NavigatorConfig(), sha256="f" * 64)
    other.recall(kept, KEEP_S)
    assert shown(other, later)[0], "of another case nothing is known"


def test_a_new_registration_forgets_the_memory(process, confirmed, later):
    navigator = process()
    navigator.recall(confirmed, KEEP_S)
    navigator.request_registration()
    assert asked(navigator, later)


def test_nothing_that_is_not_shown_is_remembered(process, stage, truth):
    navigator = process()
    frame = stage.frame(1, truth)
    navigator.process(frame)
    assert navigator.memory(frame).shown is None


def test_a_damaged_memory_is_an_error(confirmed):
    text = to_json(confirmed)
    values = json.loads(text)
    values["shown"]["T_camera_ct"][0][0][0] = float("nan")
    for broken in (text[:-20], "[]", "{}", text.replace('"version": 1', '"version": 9')):
        with pytest.raises((ValueError, KeyError, TypeError)):
            from_json(broken, len(TWO))
    with pytest.raises(ValueError, match="finite"):
        from_json(json.dumps(values), len(TWO))
    with pytest.raises(ValueError, match="shape|levels"):
        from_json(text, 3)


ALONG = np.array([0.0, 20.0])
WOUND = np.array([[80.0, 40.0], [80.0, 60.0]])


def texture(seed, shape=(120, 160)):
    """A random picture without anything finer than three pixels."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3.0), None, 0, 255, cv2.NORM_MINMAX)


def test_a_camera_that_stood_still_is_known_by_its_picture():
    before = texture(1).astype(np.uint8)
    now = np.clip(0.7 * texture(1) + 30.0 + 0.1 * texture(2), 0, 255).astype(np.uint8)
    assert stood_still(before, now, WOUND, ALONG)
    assert not stood_still(before, np.roll(now, 20, axis=0), WOUND, ALONG)
    assert not stood_still(before, texture(3).astype(np.uint8), WOUND, ALONG)


def test_surroundings_that_stood_still_are_no_proof_for_the_wound():
    before = texture(1).astype(np.uint8)
    now = before.copy()
    now[15:95, 45:115] = np.roll(before, 20, axis=0)[15:95, 45:115]
    assert np.mean(now == before) > 0.7
    assert not stood_still(before, now, WOUND, ALONG)


def test_pictures_that_do_not_tell_are_no_proof():
    picture = texture(1).astype(np.uint8)
    assert not stood_still(np.full_like(picture, 90), np.full_like(picture, 90), WOUND, ALONG)
    rows = 127 + 100 * np.sin(np.arange(len(picture)) * 2 * np.pi / 20)
    stripes = np.broadcast_to(rows[:, None], picture.shape).astype(np.uint8)
    assert not stood_still(stripes, stripes, WOUND, ALONG), "every vertebra looks the same"
    assert not stood_still(picture, picture[:-2], WOUND, ALONG)
    assert not stood_still(picture, picture, WOUND, np.zeros(2)), "a case of one level"
    edge = WOUND + (0.0, 110.0 - WOUND[0, 1])
    assert not stood_still(picture, picture, edge, ALONG), "no room to see a vertebra's shift"
    for far in (-500.0, -110.0, 500.0):
        assert not stood_still(picture, picture, WOUND + far, ALONG), "out of view"
