# SPDX-License-Identifier: Apache-2.0
"""A plan that is edited during the operation: what may be asked about, and which answer counts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import trimesh

from spine_nav_common.core import live_plan
from spine_nav_common.core.live_plan import (
    PlanChange,
    PlanDesk,
    check_change,
    read_proposal,
    read_state,
)
from spine_nav_common.core.types import Case, Mesh, Rejected, ScrewPlan


def line(level: str = "L2", side: str = "left", entry: Any = None, target: Any = None) -> ScrewPlan:
    x, z = (0.012 if side == "left" else -0.012), (0.0 if level == "L2" else -0.035)
    entry = (x, 0.034, z) if entry is None else entry
    target = (x, -0.010, z) if target is None else target
    return ScrewPlan(level, side, np.array(entry, float), np.array(target, float))


@pytest.fixture(params=["LPS", "RAS"])
def case(request: pytest.FixtureRequest) -> Case:
    """Two blocks of 50 x 70 x 28 mm, 35 mm apart; lines are written in LPS and turned by `own`."""
    meshes = {}
    for level, z in (("L2", 0.0), ("L3", -0.035)):
        box = trimesh.creation.box(extents=(0.05, 0.07, 0.028)).subdivide()
        vertices = (np.asarray(box.vertices) + (0, 0, z)) * sign(request.param)
        meshes[level] = Mesh(vertices, np.asarray(box.faces, np.int32))
    plan = tuple(line(level, side) for level in ("L2", "L3") for side in ("left", "right"))
    made = Case("c", request.param, meshes, ("L2", "L3"), (), "5" * 64)
    return replace(made, plan=tuple(own(made, p) for p in plan))


def sign(frame: str) -> np.ndarray:
    return np.array((1.0, 1.0, 1.0) if frame == "LPS" else (-1.0, -1.0, 1.0))


def own(case: Case, p: ScrewPlan) -> ScrewPlan:
    return replace(p, entry_m=p.entry_m * sign(case.frame), target_m=p.target_m * sign(case.frame))


def checked(case: Case, p: ScrewPlan, margin_mm: float = 2.0) -> PlanChange | Rejected:
    return check_change(case, case.plan, own(case, p), margin_mm, "3D Slicer")


def test_an_edit_in_the_bone_is_asked_about_in_numbers(case: Case) -> None:
    change = checked(case, line(entry=(0.014, 0.034, 0.0), target=(0.012, -0.010, 0.003)))
    assert isinstance(change, PlanChange)
    assert "entry moved 2.0 mm, tip 3.0 mm, axis 4." in change.text
    assert "3D Slicer" in change.text and change.id.startswith("PLAN-")
    assert change.margin_mm == pytest.approx(11.0, abs=0.1), "3 mm from the middle of 28"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (line("L5"), "L5 is not in this case"),
        (line(entry=(np.nan, 0, 0)), "no finite points"),
        (line(target=(0.012, 0.031, 0.0)), "3.0 mm long"),
        (line(entry=(0.012, -0.034, 0), target=(0.012, 0.010, 0)), "out of the body"),
        (line(entry=(-0.013, 0.034, 0)), "other side"),
        (line(entry=(0.012, 0.050, 0)), "entry lies 15.0 mm from"),
        (line(entry=(0.012, 0.012, 0)), "entry lies 1[0-9].. mm inside"),
        (line(target=(0.012, -0.040, 0)), "tip lies 5.0 mm outside"),
        (line(target=(0.012, -0.034, 0)), "1.0 mm of bone around it; 2 mm"),
        (line(entry=(0.012, 0.034, 0.0), target=(0.012, 0.0, 0.013)), "1.0 mm of bone"),
    ],
)  # fmt: skip
def test_an_edit_that_cannot_be_right_is_refused_with_the_reason(
    case: Case, wrong: ScrewPlan, why: str
) -> None:
    refused = checked(case, wrong)
    assert isinstance(refused, Rejected), refused
    assert __import__("re").search(why, refused.reason), refused.reason


def test_an_axis_that_leaves_the_bone_between_its_ends_is_refused() -> None:
    """Two blocks joined by a thin plate: entry and tip are in bone, the way is not."""
    parts = [trimesh.creation.box(extents=(0.05, 0.015, 0.028)) for _ in range(2)]
    parts[0].apply_translation((0, 0.027, 0))
    parts[1].apply_translation((0, -0.020, 0))
    both = trimesh.util.concatenate(parts)
    mesh = Mesh(np.asarray(both.vertices), np.asarray(both.faces, np.int32))
    case = Case("c", "LPS", {"L2": mesh}, ("L2",), (), "5" * 64)
    refused = check_change(case, (), line(target=(0.012, -0.020, 0)), 2.0, "x")
    assert isinstance(refused, Rejected) and "leaves the bone by" in refused.reason


def test_a_level_that_is_not_exposed_is_refused(case: Case) -> None:
    hidden = replace(case, exposed_levels=("L2",))
    refused = check_change(hidden, case.plan, own(case, line("L3")), 2.0, "x")
    assert isinstance(refused, Rejected) and "not exposed" in refused.reason


def test_where_the_plan_itself_has_less_bone_the_edit_must_have_no_less(case: Case) -> None:
    tight = own(case, line(target=(0.012, 0.0, 0.013)))  # 1 mm left
    plan = live_plan.with_line(case.plan, tight)
    moved = own(case, line(target=(0.013, 0.0, 0.013)))
    change = check_change(case, plan, moved, 2.0, "x")
    assert isinstance(change, PlanChange) and "(planned: 1.0 mm" in change.text
    worse = own(case, line(target=(0.012, 0.0, 0.01385)))
    refused = check_change(case, plan, worse, 2.0, "x")
    assert isinstance(refused, Rejected) and "the plan's 1.0 mm" in refused.reason


def moved(case: Case, by_mm: float, level: str = "L2", side: str = "left") -> ScrewPlan:
    x, z = (0.012 if side == "left" else -0.012), (0.0 if level == "L2" else -0.035)
    return own(case, line(level, side, target=(x, -0.010, z + by_mm * 1e-3)))


def test_only_an_answer_to_what_is_asked_now_makes_the_plan(case: Case) -> None:
    desk = PlanDesk(case)
    first = desk.propose(moved(case, 1.0), "s")
    second = desk.propose(moved(case, 2.0), "s")  # the same screw is edited on
    assert isinstance(first, PlanChange) and isinstance(second, PlanChange)
    assert desk.question is not None and desk.question.id == second.id
    late = desk.answer(first.id, True)
    assert isinstance(late, Rejected) and second.id in late.reason
    assert desk.plan is case.plan and desk.version == 0
    assert not isinstance(desk.answer(second.id, True), Rejected)
    found = live_plan.line_of(desk.plan, "L2", "left")
    assert found is not None and live_plan.same_line(found, moved(case, 2.0))
    assert desk.version == 1 and desk.question is None
    again = desk.answer(second.id, True)
    assert isinstance(again, Rejected), "an answer counts once"


def test_a_rejected_edit_leaves_the_plan_and_the_next_question_comes(case: Case) -> None:
    desk = PlanDesk(case)
    one, two = (desk.propose(moved(case, 1.0, v), "s") for v in ("L2", "L3"))
    assert isinstance(one, PlanChange) and isinstance(two, PlanChange)
    desk.answer(one.id, False)
    assert desk.plan is case.plan
    assert desk.question is not None and desk.question.id == two.id


def test_an_edit_that_was_taken_back_or_leaves_the_bone_is_asked_no_more(case: Case) -> None:
    desk = PlanDesk(case)
    desk.propose(moved(case, 1.0), "s")
    assert desk.propose(moved(case, 0.0), "s") is None and desk.question is None
    desk.propose(moved(case, 1.0), "s")
    assert isinstance(desk.propose(moved(case, 30.0), "s"), Rejected)
    assert desk.question is None, "what was asked is not what they mean now"


def test_the_state_says_all_and_a_process_after_this_one_goes_on(case: Case) -> None:
    desk = PlanDesk(case)
    taken = desk.propose(moved(case, 1.0), "s")
    assert isinstance(taken, PlanChange)
    desk.answer(taken.id, True)
    open_ = desk.propose(moved(case, 1.0, "L3"), "s")
    assert isinstance(open_, PlanChange)
    after = PlanDesk(case)
    after.restore(json.loads(json.dumps(desk.kept())))
    for state in (read_state(desk.document()), read_state(after.document())):
        assert state.version == 1 and state.question is not None
        assert state.question[0] == open_.id
        live = state.of(case)
        assert live is not None
        found = live_plan.line_of(live.plan, "L2", "left")
        assert found is not None and live_plan.same_line(found, moved(case, 1.0))
        assert len(live.plan) == 4
        assert state.of(replace(case, sha256="6" * 64)) is None
    assert read_state(desk.document()).told["L2_left"]["what"] == "taken"
    other = PlanDesk(replace(case, sha256="6" * 64))
    other.restore(desk.kept())
    assert other.version == 0 and other.question is None


def test_a_question_alone_leaves_the_case_of_its_viewers_as_it_is(case: Case) -> None:
    """They compute for seconds from a new one; who drags a screw asks many times."""
    desk = PlanDesk(case)
    assert isinstance(desk.propose(own(case, line(target=(0.012, -0.010, 0.003))), "x"), PlanChange)
    asked = read_state(desk.document()).of(case)
    assert asked is case
    assert not isinstance(desk.answer(desk.question.id, True), Rejected)
    taken = read_state(desk.document()).of(case)
    assert taken is not case and taken.plan[0].target_m != pytest.approx(case.plan[0].target_m)
    assert read_state(desk.document()).of(taken) is taken


GOOD = {
    "v": 1,
    "source": "s",
    "level": "L2",
    "side": "left",
    "entry_m": [0, 0, 0],
    "target_m": [1, 1, 1],
}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({**GOOD, "entry_m": [10**400, 0, 0]}),
        json.dumps({**GOOD, "entry_m": [float("nan"), 0, 0]}),
        json.dumps({**GOOD, "level": "L2" * 10_000}),
        json.dumps({**GOOD, "level": ["L2"]}),
        "[" * 200_000,
        "\ud800",
    ],
    ids=["huge", "nan", "long", "list", "deep", "surrogate"],
)
def test_a_proposal_that_is_none_is_refused_in_few_words(text: str) -> None:
    said = read_proposal(text)
    assert isinstance(said, Rejected) and len(said.reason) < 300
    said.reason.encode()


def test_a_source_cannot_speak_for_the_program_nor_stop_it() -> None:
    read = read_proposal(json.dumps({**GOOD, "source": "a\n\ud800\u202e" + "b" * 100_000}))
    assert not isinstance(read, Rejected)
    assert read[1].startswith("a???bb") and len(read[1]) == 60
    assert read[1].isascii() and read[1].isprintable()


def test_what_is_kept_fits_where_a_node_leaves_it(case: Case) -> None:
    levels = [f"L{i}" for i in range(1, 6)] + [f"T{i}" for i in range(1, 13)]
    mesh = case.meshes["L2"]
    whole = replace(case, meshes={v: mesh for v in levels}, exposed_levels=tuple(levels), plan=())
    desk = PlanDesk(whole)
    for level in levels:
        for side in ("left", "right"):
            change = desk.propose(replace(moved(case, 0.0, "L2", side), level=level), "3D Slicer")
            assert isinstance(change, PlanChange)
            desk.answer(change.id, True)
    assert len(desk.plan) == 34
    assert len(json.dumps(desk.kept())) < 8000
