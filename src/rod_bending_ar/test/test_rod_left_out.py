# SPDX-License-Identifier: Apache-2.0
"""A screw that is not there: one question, one answer, and what ends either."""

from dataclasses import replace

import numpy as np
import pytest
from rod_support import LEVELS, screw_rows

from rod_bending_ar.core.guidance import GuidanceOrder, RodGuide, SideGuidance
from rod_bending_ar.core.plan import RodOrder
from spine_nav_common.core.implant_outputs import ScrewRow

PLANNED = tuple((level, "left") for level in LEVELS)
STEADY = 3


def guide(planned=PLANNED) -> RodGuide:
    order = GuidanceOrder(RodOrder(planned=planned), sides=("left",), steady_frames=STEADY)
    return RodGuide(order)


def heads(*gone: str, named: bool = True) -> list[ScrewRow]:
    rows = [r for r in screw_rows(("left",)) if r.level not in gone]
    if not named:
        rows = [replace(r, level="") for r in rows] + screw_rows(("right",))
        return [replace(r, track_id=i) for i, r in enumerate(rows)]
    return rows


def seen(own: RodGuide, rows: list[ScrewRow], times: int = STEADY + 1) -> SideGuidance:
    return [own.observe(rows, [])[0] for _ in range(times)][-1]


def test_yes_plans_without_the_screw_and_the_question_goes():
    own = guide()
    side = seen(own, heads("L4"))
    assert side.state == "refused" and side.question.levels == ("L4",)
    assert "L4" in side.question.text and "--" not in side.text
    own.answer(side.question, True)
    states = [own.observe(heads("L4"), [])[0] for _ in range(STEADY + 1)]
    assert [s.state for s in states[-2:]] == ["planned", "planned"]
    assert all(s.question is None for s in states)


def test_no_keeps_asking_for_the_screw_and_puts_the_question_no_more_until_it_changes():
    own = guide()
    side = seen(own, heads("L4"))
    own.answer(side.question, False)
    later = seen(own, heads("L4"), 3 * STEADY)
    assert later.question is None and later.state == "refused" and "L4" in later.text
    shaken = [replace(r, head_m=r.head_m * (1.0 + 0.02 * i)) for i, r in enumerate(heads("L4"))]
    seen(own, shaken, 1)
    assert seen(own, heads("L4"), 2 * STEADY).question is None, "refused anew, and nothing new"
    other = seen(own, heads("L4", "L3"), 2 * STEADY)
    assert set(other.question.levels) == {"L4", "L3"}
    again = seen(own, heads("L4"), 2 * STEADY)
    assert again.question is not None and again.question.id != side.question.id


def test_a_yes_for_one_level_does_not_cover_another_nor_the_other_side():
    order = GuidanceOrder(
        RodOrder(planned=tuple((v, s) for s in ("left", "right") for v in LEVELS)),
        steady_frames=STEADY,
    )
    own = RodGuide(order)
    rows = [r for r in screw_rows() if r.level != "L4"]
    left, right = [own.observe(rows, []) for _ in range(STEADY + 1)][-1]
    assert left.question.id != right.question.id
    own.answer(left.question, True)
    left, right = [own.observe(rows, []) for _ in range(STEADY + 1)][-1]
    assert left.state == "planned" and right.state == "refused" and right.question is not None
    less = [r for r in rows if (r.level, r.side) != ("L3", "left")]
    left, _ = [own.observe(less, []) for _ in range(2 * STEADY)][-1]
    assert left.state == "refused" and left.question.levels == ("L3",)


def test_a_screw_that_is_seen_after_all_ends_question_and_answer():
    own = guide()
    question = seen(own, heads("L4")).question
    assert seen(own, heads(), 1).question is None, "there it is"
    own = guide()
    own.answer(seen(own, heads("L4")).question, True)
    assert seen(own, heads("L4")).state == "planned"
    assert seen(own, heads(), 2 * STEADY).state == "planned"
    side = seen(own, heads("L4"), 2 * STEADY)
    assert side.state == "refused" and side.question.levels == ("L4",)
    assert side.question.id != question.id


def test_an_answer_about_heads_without_names_is_of_these_heads_alone():
    own = guide(planned=())
    gap = heads("L4", named=False)
    side = seen(own, gap)
    assert side.question.levels == () and side.question.heads == (1, 2)
    own.answer(side.question, True)
    assert seen(own, gap).state == "planned"
    moved = [
        replace(r, head_m=r.head_m + np.array([0.0, -0.008, 0.0])) if r.track_id == 3 else r
        for r in gap
    ]
    side = seen(own, moved, 2 * STEADY)
    assert side.state == "refused" and side.question is not None, "another arrangement"
    other = [replace(r, track_id=r.track_id + 40) for r in gap]
    assert seen(own, other, 2 * STEADY).question is not None, "other heads"


def test_where_names_do_not_tell_which_screw_is_missing_the_row_is_asked_about():
    own = guide()
    rows = [replace(r, level="") if r.level == "S1" else r for r in heads("L4", "L3")]
    side = seen(own, rows)
    assert side.question.levels == () and side.question.heads == (0, 1, 4)
    own.answer(side.question, True)
    assert seen(own, rows).state == "planned"


@pytest.mark.parametrize("accept", (True, False))
def test_heads_that_are_not_in_view_are_not_asked_about(accept):
    own = guide()
    side = seen(own, heads("L4"))
    (nothing,) = own.observe([], [])
    assert nothing.question is None
    own.answer(side.question, accept)  # said a moment before: it counts
    assert seen(own, heads("L4"), 2 * STEADY).state == ("planned" if accept else "refused")
