# SPDX-License-Identifier: Apache-2.0
"""The journal of a screw tracker: what it holds comes back to the last bit, or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import screw_support as support

from spine_nav_common.core.geometry import exp_so3, transform
from spine_nav_common.core.journal import JournalError, entry_text, read_entry
from spine_nav_common.core.types import Rejected, StereoResult
from stereo_screw_tracker.core.journal import PairEntry, noted_vertebrae, pair_entry
from stereo_screw_tracker.core.named import NamedTracker

VERTEBRAE = {
    level: transform(exp_so3(np.array([0.1, 0.2 / 3.0, i])), np.array([0.1, 1.0 / 3.0, 0.5 + i]))
    for i, level in enumerate(("L3", "L2"))
}
ENTRY = PairEntry(7, 1, 8, 9, 10, noted_vertebrae(VERTEBRAE), "", False, "late", False, ("a", "b"))


def test_an_entry_comes_back_to_the_last_bit():
    read = pair_entry(read_entry(entry_text("pair", "life", 0, **asdict(ENTRY))))
    assert read == ENTRY
    transforms = read.transforms()
    assert list(transforms) == ["L3", "L2"]
    assert all(transforms[v].tobytes() == T.tobytes() for v, T in VERTEBRAE.items())
    none = PairEntry(7, 0, 7, 7, 7)
    assert (
        pair_entry(read_entry(entry_text("pair", "life", 0, **asdict(none)))).transforms() is None
    )


@pytest.mark.parametrize("field", [f for f in asdict(ENTRY) if f != "v"])
def test_an_entry_without_a_field_is_none(field):
    """Vertebrae above all: a pair without them is named otherwise."""
    values = asdict(ENTRY)
    del values[field]
    with pytest.raises(JournalError):
        pair_entry(read_entry(entry_text("pair", "life", 0, **values)))


@pytest.mark.parametrize(
    "rows", [[[1.0, 0.0], [0.0, 1.0]], "nothing", [[None] * 4] * 4, 4 * [4 * [1e999]]]
)
def test_a_transform_of_another_form_is_none(rows):
    values = {**asdict(ENTRY), "vertebrae": [["L3", rows]]}
    with pytest.raises(JournalError):
        pair_entry(json.loads(json.dumps(values)))


class Breaks:
    """A tracker that counts, and fails as it is told."""

    def __init__(self):
        self.resets, self.error = 0, None

    def process(self, frame, vertebrae=None, case=None):
        if self.error is not None:
            raise self.error
        return StereoResult(frame.stamp_ns, (), (), {})

    def reset(self):
        self.resets += 1


def test_a_pair_that_breaks_the_tracker_is_told_apart_from_a_bad_one():
    core = Breaks()
    tracker = NamedTracker(core, None)
    assert isinstance(tracker.tried(support.frame, None).result, StereoResult)
    core.error = ValueError("no\nbaseline")
    bad = tracker.tried(support.frame, None)
    assert bad.result == Rejected("no baseline") and not bad.fault
    core.error = RuntimeError("broken")
    assert tracker.tried(support.frame, None).fault and core.resets == 0
    tracker.reset()
    assert core.resets == 1
