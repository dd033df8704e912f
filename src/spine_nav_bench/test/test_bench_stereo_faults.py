# SPDX-License-Identifier: Apache-2.0
"""What the bench counts of bad stereo input, on whom, and what its table says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from stereo_bench_support import BASE, HEADS, FakeScene, FakeTracker, pairs, truth

from spine_nav_bench.bench_stereo_faults import (
    MIRROR,
    ODD_SCENES,
    SCENES,
    TRAY,
    Collected,
    collect,
    faulty_scenes,
    plain,
)
from spine_nav_bench.bench_stereo_scenes import judged_stereo, timed_stereo
from spine_nav_bench.results import table_text
from spine_nav_common.core.truth import TruthFrame
from spine_nav_sim.core.implants import FAMILIES_JUDGE
from spine_nav_sim.core.splits import anatomy_seeds
from spine_nav_sim.core.stereo_faults import BUMPED_AT

PAIRS = 8


class LongScene(FakeScene):
    """Eight pairs of the same heads."""

    def pairs(self, count=None):
        return [replace(pairs()[0], stamp_ns=100 * (k + 1)) for k in range(PAIRS)]

    def truth(self):
        one = truth()
        stamps = [f.stamp_ns for f in self.pairs()]
        return replace(
            one,
            frames={s: TruthFrame(s, {}) for s in stamps},
            screws=tuple(
                replace(x, stamp_ns=s) for s in stamps for x in one.screws if x.stamp_ns == 100
            ),
            rods=tuple(replace(x, stamp_ns=s) for s in stamps for x in one.rods[:1]),
        )


@dataclass
class Telling(FakeTracker):
    """Tells something of every pair."""

    said: tuple[str, ...] = ()

    def process(self, frame, vertebrae=None, case=None):
        result = super().process(frame, vertebrae, case)
        return replace(result, events=self.said) if hasattr(result, "events") else result


def collected(tracker: FakeTracker) -> Collected:
    scene = LongScene("s", "generated screws", Path("nowhere"), "virtual-1", 1)
    into = Collected()
    collect(into, tracker, scene, scene.pairs())
    return into


def test_faults_are_judged_on_scenes_that_no_other_part_uses():
    scenes, odd = faulty_scenes(SCENES, ODD_SCENES)
    mine = [*scenes, *odd[MIRROR], *odd[TRAY]]
    assert {s.config.families for s in mine} == {FAMILIES_JUDGE}
    seeds = {s.seed for s in mine}
    assert seeds <= set(anatomy_seeds("judge"))
    # a folder each of real screws and three of real anatomies
    reserved = set(anatomy_seeds("judge")[40:52]) | set(anatomy_seeds("judge")[60:])
    others = {s.seed for s in (*judged_stereo([], []), *timed_stereo())} | reserved
    assert not seeds & others
    assert len({s.name for s in mine}) == len(mine)
    assert all(s.config.tray_screws == 10 for s in odd[TRAY])
    assert all(s.config.rods == "alone" for s in odd[MIRROR])


def test_pairs_count_from_the_bump_on():
    c = collected(FakeTracker(HEADS[:3], refused=(100, 700, 800)))
    assert (c.pairs, c.refused, c.told, c.scenes_told) == (PAIRS - BUMPED_AT, 2, 0, 1)
    d = c.document()
    assert (d["heads"]["found"], d["heads"]["visible_heads"], d["heads"]["rows"]) == (6, 12, 6)
    assert (d["rods"]["found"], d["rods"]["missed"]) == (2, 2)
    assert d["words"] == {"black image": 2}


def test_events_about_the_fault_are_told_and_others_are_not():
    c = collected(Telling(HEADS, said=("screw 3 withdrawn: hidden for over 1.5 s",)))
    assert (c.refused, c.told, c.scenes_told) == (0, 0, 0)
    said = "the right image is less sharp than the other: clean it"
    c = collected(Telling(HEADS, said=("screw 3 withdrawn", said)))
    assert (c.told, c.scenes_told) == (PAIRS - BUMPED_AT, 1)
    assert dict(c.words) == {said: PAIRS - BUMPED_AT}


def test_equal_words_are_counted_together():
    assert plain("wrong by +1.4 % (+7 mm at 0.5 m)") == "wrong by … % (… mm at … m)"


def test_the_table_says_what_was_shown_all_the_same():
    ghost = np.concatenate([HEADS[:2], [[0.03, 0.05, 0.5]]])
    record = {
        **BASE, "part": "stereo_faults", "seeds": [1],
        "faults": {"none": collected(FakeTracker(HEADS[:3])).document(),
                   "a ghost": collected(FakeTracker(ghost, refused=(800,))).document()},
    }  # fmt: skip
    rows = [line for line in table_text(record).splitlines() if line.startswith("| ")]
    assert len(rows) == 3
    cells = [c.strip() for c in rows[2].strip("|").split("|")]
    assert cells[:3] == ["a ghost", "1 / 1", "1 + 0 / 4"]
    assert cells[3:6] == ["6 / 12", "3", "6 / 9 (66.7 %)"]
    assert cells[-1] == "black image"
