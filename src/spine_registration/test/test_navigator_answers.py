# SPDX-License-Identifier: Apache-2.0
"""The surgeon's word: what is asked, and what an answer holds for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import registration_support as support
from navigator_support import (
    CONFIG,
    POSED,
    dark,
    statuses,
    worst_tre_mm,
)

from spine_nav_common.core.types import Rejected, Status
from spine_registration.core import navigator as navigator_module
from spine_registration.core.navigator import AGREE_FRAMES, Navigator


@pytest.fixture
def doubtful(case, model, oracle):
    """L2 and L3 of five vertebrae in view, with a margin that no lead reaches."""
    two = ("L2", "L3")
    return Navigator(
        support.part(case, two), oracle, replace(CONFIG, level_margin=1e9), support.ERRORS,
        support.part_model(model, two),
    )  # fmt: skip


def test_a_narrow_lead_asks_the_surgeon_and_shows_nothing(doubtful, frames):
    for frame in frames[:4]:
        result = doubtful.process(frame)
        assert statuses(result) == [Status.REJECTED] * 2
        assert all("confirm level L2-L3" in e.reason for e in result.levels)
        assert all(e.T_camera_ct is None for e in result.levels)
    assert "L2-L3" in doubtful.pending


def test_the_surgeon_confirms(doubtful, frames, world_model, truth):
    doubtful.process(frames[0])
    assert doubtful.confirm(True).startswith("accepted")
    result = doubtful.process(frames[1])
    assert any("confirmed by the surgeon" in e for e in result.events)
    result = doubtful.process(frames[2])
    assert statuses(result) == [Status.TRACKED] * 2
    assert worst_tre_mm(world_model, result, truth) < 2.0
    assert doubtful.pending is None


def test_the_surgeon_rejects(doubtful, frames):
    doubtful.process(frames[0])
    assert doubtful.confirm(False).startswith("rejected")
    for frame in frames[1:6]:
        assert statuses(doubtful.process(frame)) == [Status.REJECTED] * 2


def test_a_rejected_hypothesis_is_not_shown_even_when_clear(doubtful, frames):
    doubtful.process(frames[0])
    doubtful.confirm(False)
    doubtful.process(frames[1])
    doubtful.config = CONFIG  # from now on the lead suffices
    for frame in frames[2:8]:
        result = doubtful.process(frame)
        assert statuses(result) == [Status.REJECTED] * 2
        assert "rejected by the surgeon" in result.levels[0].reason
        assert doubtful.pending is None, "what was rejected is not asked for again"
    doubtful.request_registration()
    for frame in frames[8:14]:
        result = doubtful.process(frame)
    assert statuses(result) == [Status.TRACKED] * 2


def by_script(monkeypatch, navigator, found, names):
    """Let `register` answer with the hypothesis `found` under other names and places.

    names: per frame (name, level steps away, clear).
    """
    anchors = found.best.estimate.anchor_camera_m
    one = np.diff(anchors, axis=0).mean(axis=0)
    script = [
        replace(
            found,
            best=replace(
                found.best,
                name=name,
                estimate=replace(found.best.estimate, anchor_camera_m=anchors + steps * one),
            ),
            clear=clear,
        )
        for name, steps, clear in names
    ]
    monkeypatch.setattr(navigator_module, "register", lambda *a: script.pop(0))
    begun = []

    def begin(frame, found, pixels, events):
        begun.append(found.best.name)
        return navigator._all(Status.REGISTERING, "begun")

    monkeypatch.setattr(navigator, "_begin", begin)
    return begun


@pytest.fixture
def found(doubtful, frames):
    doubtful.process(frames[0])
    question = doubtful._answers.open
    doubtful.request_registration()
    doubtful.process(dark(frames[1]))
    doubtful._answers.forget()
    return question.found


def test_an_answer_binds_to_what_was_read(monkeypatch, doubtful, found, frames):
    """The hypothesis flips between the screen and the button: the answer names what was read."""
    names = [("L2-L3", 0, False), ("L1-L2", 0, False), ("L1-L2", 0, False)]
    begun = by_script(monkeypatch, doubtful, found, names)
    doubtful.process(frames[2])
    read = doubtful.pending_id
    doubtful.process(frames[3])
    assert doubtful.pending_id != read
    assert isinstance(doubtful.confirm(True, read), Rejected)
    doubtful.process(frames[4])
    assert begun == []


@pytest.mark.parametrize("after", [("L1-L2", 0, False), ("L2-L3", 1, False)], ids=str)
def test_a_yes_holds_for_the_same_name_at_the_same_place_only(
    monkeypatch, doubtful, found, frames, after
):
    begun = by_script(monkeypatch, doubtful, found, [("L2-L3", 0, False), after, after])
    doubtful.process(frames[2])
    doubtful.confirm(True, doubtful.pending_id)
    first = doubtful.pending_id
    doubtful.process(frames[3])
    assert begun == [] and doubtful.pending_id not in (None, first)


def test_a_yes_lapses(monkeypatch, doubtful, found, frames, stage, truth):
    names = [("L2-L3", 0, False)] * 2
    begun = by_script(monkeypatch, doubtful, found, names)
    doubtful.process(frames[2])
    doubtful.confirm(True, doubtful.pending_id)
    doubtful.process(stage.frame(3 + 60, truth))  # four seconds later
    assert begun == []


def test_every_rejection_is_remembered(monkeypatch, doubtful, found, frames):
    """A and B are rejected; A comes back clear, and the same name at another place."""
    A, B = ("A", 0, False), ("B", 1, False)
    names = [A, A, B, B, ("A", 0, True), ("A", 0, True), ("A", 2, True), ("A", 0, True)]
    begun = by_script(monkeypatch, doubtful, found, names)
    for i in (2, 4):
        doubtful.process(frames[i])
        assert not isinstance(doubtful.confirm(False, doubtful.pending_id), Rejected)
        doubtful.process(frames[i + 1])
    for i in (6, 7):
        assert statuses(doubtful.process(frames[i])) == [Status.REJECTED] * 2
        assert doubtful.pending is None
    doubtful.process(frames[8])
    assert doubtful.pending is not None, "another place is another question, and is asked"
    doubtful.reset()  # a fault in the core forgets no answer
    assert statuses(doubtful.process(frames[9])) == [Status.REJECTED] * 2
    assert begun == []


def test_after_a_refusal_clear_frames_must_agree(doubtful, frames):
    doubtful.process(frames[0])
    doubtful.config = CONFIG
    for k in range(1, AGREE_FRAMES):
        assert statuses(doubtful.process(frames[k])) == [Status.REGISTERING] * 2
    result = doubtful.process(frames[AGREE_FRAMES])
    assert any(e.startswith("registered") for e in result.events)


def test_nothing_to_confirm(tracking):
    assert tracking.pending is None
    assert tracking.confirm(True) == Rejected("no hypothesis waits for a confirmation")


def test_an_answer_does_not_outlive_its_question(doubtful, frames):
    """Confirmed, but then the camera goes dark: it holds for the same hypothesis only."""
    doubtful.process(frames[0])
    doubtful.confirm(True)
    assert not any(s in POSED for s in statuses(doubtful.process(dark(frames[1]))))
    result = doubtful.process(frames[2])
    confirmed = any("confirmed by the surgeon: L2-L3" in e for e in result.events)
    assert confirmed or Status.TRACKED not in statuses(result)
