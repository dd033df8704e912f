# SPDX-License-Identifier: Apache-2.0
"""A live run computed again from its journal: the same bits, whatever the threads did meanwhile."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import registration_support as support
from navigator_support import CONFIG, dark

from spine_nav_common.core.journal import JournalError, entry_text, read_entry
from spine_nav_common.core.types import Status
from spine_registration.core import memory as memory_module
from spine_registration.core.answers import Answer
from spine_registration.core.journal import FrameEntry, Took, frame_entry
from spine_registration.core.navigator import Navigator


def same_bits(a, b):
    """Whether two results are the same in everything but their timings."""
    assert (a.stamp_ns, a.events, a.identity) == (b.stamp_ns, b.events, b.identity)
    for x, y in zip(a.levels, b.levels, strict=True):
        assert (x.level, x.status, x.reason) == (y.level, y.status, y.reason)
        assert x.predicted_tre_mm == y.predicted_tre_mm
        assert (x.T_camera_ct is None) == (y.T_camera_ct is None)
        if x.T_camera_ct is not None:
            assert x.T_camera_ct.tobytes() == y.T_camera_ct.tobytes()
    return True


def through_json(took, stamp_ns):
    """As the record keeps it."""
    entry = FrameEntry(stamp_ns, 0, stamp_ns, stamp_ns, took)
    return frame_entry(read_entry(entry_text("frame", "life", 0, **asdict(entry)))).took


def again(navigator, frames, tooks):
    """The results of a second navigator that follows the journal."""
    questions, results = {}, []
    for frame, took in zip(frames, tooks, strict=True):
        took = through_json(took, frame.stamp_ns)
        answer = None
        if took.answer is not None:
            answer = Answer(questions[took.answer.asked_ns], took.answer.accept)
        results.append(navigator.again(frame, took, answer=answer))
        if navigator.question is not None:
            questions[navigator.question.stamp_ns] = navigator.question
    return results


class Hinted:
    """The oracle, noting where it was told to look."""

    def __init__(self, oracle):
        self._oracle, self.hints = oracle, []

    def run(self, frame, hint=None):
        self.hints.append((frame.stamp_ns, hint))
        return self._oracle.run(frame, hint)


@pytest.fixture
def make(case, model, oracle):
    def made(segmenter=oracle, **config):
        settings = replace(CONFIG, **config)
        return Navigator(case, segmenter, settings, support.ERRORS, model)

    return made


def test_frames_that_were_segmented_while_the_one_before_was_solved(make, frames, oracle):
    """Each by the poses of the frame before the last, as in two threads; one of them in the dark."""
    shown = [dark(f) if i == 5 else f for i, f in enumerate(frames[:9])]
    told, told_again = Hinted(oracle), Hinted(oracle)
    live, results, tooks = make(told), [], []
    seen = live.segment(shown[0])
    for i in range(len(shown)):
        ahead = live.segment(shown[i + 1]) if i + 1 < len(shown) else None
        results.append(live.solve(seen))
        tooks.append(live.took)
        seen = ahead
    # The case is worth nothing if the order did not matter.
    assert tooks[3].looked_ns == frames[1].stamp_ns
    assert any(e.status is Status.TRACKED for e in results[-1].levels)
    assert all(map(same_bits, results, again(make(told_again), shown, tooks)))
    assert told_again.hints == sorted(told.hints, key=lambda h: h[0])
    assert any(hint is not None for _, hint in told.hints)


def test_an_answer_to_an_older_question_and_a_new_registration(make, frames):
    """The answer comes while the next frame is being solved, so that the one after honours it."""
    live = make(level_margin=1e9)
    results, tooks = [], []

    def do(frame):
        results.append(live.process(frame))
        tooks.append(live.took)

    do(frames[0])
    do(frames[1])
    question = live.question
    live.confirm(False)
    do(frames[2])
    do(frames[3])
    live.request_registration()
    do(frames[4])
    live.confirm(True)
    do(frames[5])
    do(frames[6])
    assert tooks[2].answer.id == question.id and not tooks[2].answer.accept
    assert tooks[4].renewed and tooks[5].answer.accept
    assert any(e.status is Status.TRACKED for e in results[-1].levels)
    assert all(map(same_bits, results, again(make(level_margin=1e9), frames[:7], tooks)))


def test_a_memory_is_compared_at_the_time_that_it_was_then(make, frames, monkeypatch):
    """The same memory, much later and on another machine."""
    first = make()
    for frame in frames[:4]:
        first.process(frame)
    kept = first.memory(frames[3], "system")
    live, results, tooks = make(level_margin=1e9), [], []
    live.recall(kept, 10.0)
    for frame in frames[4:9]:
        results.append(live.process(frame))
        tooks.append(live.took)
    assert any("same as before" in e for r in results for e in r.events)
    monkeypatch.setattr(memory_module, "uptime_s", lambda: 1e9)
    monkeypatch.setattr(memory_module, "boot_id", lambda: "another machine")
    late = make(level_margin=1e9)
    late.recall(
        memory_module.from_json(memory_module.to_json(kept), len(first.model.levels)),
        10.0,
        kept.boot,
    )
    assert all(map(same_bits, results, again(late, frames[4:9], tooks)))


def test_poses_of_another_run_are_not_made_up(make, frames):
    navigator = make()
    with pytest.raises(JournalError, match="another run"):
        navigator.again(frames[1], Took(looked_ns=frames[0].stamp_ns))


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"v": 1}', '{"v": 2, "op": "frame", "life": "", "n": 0}']
)
def test_a_damaged_entry_is_refused(text):
    with pytest.raises(JournalError):
        read_entry(text)


def test_an_entry_keeps_its_numbers():
    took = Took(5, True, None, np.nextafter(1.0, 2.0))
    assert through_json(took, 7) == took
