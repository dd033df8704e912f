# SPDX-License-Identifier: Apache-2.0
"""The guidance from frame to frame: when it plans, when a plan no longer holds, when a rod is good."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rod_support import screw_rows

from rod_bending_ar.core.forward import replay_steps, rotation
from rod_bending_ar.core.guidance import GuidanceOrder, RodGuide, SideGuidance, steps_behind
from rod_bending_ar.core.plan import RodOrder, RodPlan
from spine_nav_common.core.errors import RodError
from spine_nav_common.core.implant_outputs import RodCurve, ScrewRow

ORDER = GuidanceOrder(RodOrder(), sides=("left",), steady_frames=3)


def rows(shift_m=(0.0, 0.0, 0.0), turn: np.ndarray | None = None) -> list[ScrewRow]:
    """Both sides, as a camera sees them that has moved."""
    R = np.eye(3) if turn is None else turn
    return [replace(r, head_m=R @ r.head_m + shift_m, axis=R @ r.axis) for r in screw_rows()]


def moved_head(index: int, shift_m) -> list[ScrewRow]:
    changed = rows()
    changed[index] = replace(changed[index], head_m=changed[index].head_m + shift_m)
    return changed


def planned_guide() -> tuple[RodGuide, RodPlan]:
    guide = RodGuide(ORDER)
    guide.request(rows())
    (side,) = guide.observe(rows(), [])
    assert side.plan is not None
    return guide, side.plan


def bent_rod(plan: RodPlan, steps: int, side: str = "left", seen: float = 1.0) -> RodCurve:
    """The plan's rod after some steps, held anywhere, cranial end first."""
    curve = replay_steps(plan.steps[:steps], plan.length_mm, plan.order.bender.die_radius_mm)
    held = curve @ rotation(np.array([0.3, -0.2, 0.5])).T * 1e-3 + (0.1, 0.0, 0.5)
    mask = np.arange(len(held)) < round(seen * len(held))
    return RodCurve(side, held[::-1], np.full(len(held), 0.3), mask)


def observe(guide: RodGuide, heads: list[ScrewRow], rods=()) -> SideGuidance:
    (side,) = guide.observe(heads, list(rods))
    return side


def test_steady_heads_are_planned_for_without_being_asked():
    guide = RodGuide(ORDER)
    states = [observe(guide, rows()).state for _ in range(4)]
    assert states == ["waiting", "waiting", "planned", "planned"]


def test_a_moving_camera_does_not_make_heads_unsteady():
    guide = RodGuide(ORDER)
    for i in range(3):
        turn = rotation(np.array([0.05 * i, 0.02 * i, 0.0]))
        last = observe(guide, rows((0.01 * i, 0.0, 0.0), turn))
    assert last.state == "planned"


def test_heads_that_move_against_each_other_are_waited_for():
    guide = RodGuide(ORDER)
    for i in range(6):
        last = observe(guide, moved_head(2, (0.004 * (i % 2), 0.0, 0.0)))
    assert last.state == "waiting" and last.plan is None


def test_with_zero_frames_it_plans_only_when_asked():
    guide = RodGuide(replace(ORDER, steady_frames=0))
    assert [observe(guide, rows()).plan for _ in range(20)] == [None] * 20
    assert "bends" in guide.request(rows())[0]
    assert observe(guide, rows()).state == "planned"


def test_the_plan_moves_with_the_heads():
    guide, plan = planned_guide()
    turn = rotation(np.array([0.0, 0.0, 0.4]))
    side = observe(guide, rows((0.02, 0.0, 0.01), turn))
    own = [r for r in rows((0.02, 0.0, 0.01), turn) if r.side == "left"]
    T = side.T_now_plan
    np.testing.assert_allclose(
        plan.saddles_mm @ T[:3, :3].T + T[:3, 3], [r.head_m * 1e3 for r in own], atol=1e-6
    )


def test_a_head_that_moved_withdraws_the_plan_with_the_reason():
    guide, _ = planned_guide()
    side = observe(guide, moved_head(2, (0.008, 0.0, 0.0)))
    assert side.state == "refused" and side.plan is None
    assert "moved by" in side.text and "hold still" in side.text


def test_a_small_wobble_keeps_the_plan():
    guide, plan = planned_guide()
    assert observe(guide, moved_head(2, (0.001, 0.0, 0.0))).plan is plan


def test_a_missing_or_a_new_head_withdraws_the_plan():
    guide, _ = planned_guide()
    assert "head 4 is gone" in observe(guide, [r for r in rows() if r.track_id != 4]).text
    guide, _ = planned_guide()
    other = [replace(r, track_id=77) if r.track_id == 4 else r for r in rows()]
    side = observe(guide, other)
    assert side.plan is None and "head 77 is new" in side.text


def test_after_a_withdrawal_steady_heads_are_planned_for_anew():
    guide, plan = planned_guide()
    heads = moved_head(2, (0.008, 0.0, 0.0))
    last = [observe(guide, heads) for _ in range(4)][-1]
    assert last.plan is not None and last.plan is not plan


def test_no_heads_show_no_plan_and_the_same_heads_bring_it_back():
    guide, plan = planned_guide()
    gone = observe(guide, [])
    assert gone.plan is None and gone.state == "refused"
    assert gone.text == "no screw heads in view: show them to both cameras"
    assert observe(guide, rows()).plan is plan


def test_a_request_that_fails_leaves_no_old_plan():
    guide, _ = planned_guide()
    sharp = moved_head(2, (0.0, 0.0, 0.02))
    with pytest.raises(RodError, match="no plan"):
        guide.request(sharp)
    side = observe(guide, sharp)
    assert side.plan is None and side.state == "refused" and "no plan" in side.text


def test_both_sides_merged_are_refused_with_the_remedy():
    guide = RodGuide(replace(ORDER, cranial="up"))
    merged = [replace(r, side="left", level="") for r in rows()]
    for _ in range(4):
        side = observe(guide, merged)
    assert side.plan is None and "merged" in side.text
    with pytest.raises(RodError, match="merged"):
        guide.request(merged)


def test_a_head_that_is_hardly_known_is_not_planned_for():
    guide = RodGuide(ORDER)
    vague = [replace(r, bound95_mm=9.0) if r.track_id == 2 else r for r in rows()]
    side = [observe(guide, vague) for _ in range(4)][-1]
    assert side.plan is None and "known within 9.0 mm only; show it better" in side.text


def test_one_screw_is_no_row():
    side = observe(RodGuide(ORDER), rows()[:1])
    assert side.plan is None and side.state == "waiting"


@pytest.mark.parametrize("done", [0, 1, 2])
def test_steps_behind_a_rod_are_told_from_its_shape(done):
    _, plan = planned_guide()
    assert len(plan.steps) > 2
    assert steps_behind(bent_rod(plan, done).centreline_m, plan) == done


def test_an_unbent_rod_is_told_its_first_bend():
    guide, plan = planned_guide()
    side = observe(guide, rows(), [bent_rod(plan, 0)])
    assert side.state == "bending" and side.steps_done == 0
    assert side.comparison.next_bend.feed_mm == pytest.approx(plan.steps[0].feed_mm, abs=1.0)
    assert side.text.startswith(f"0 of {len(plan.steps)} bends done; ")


def test_the_finished_rod_is_good():
    guide, plan = planned_guide()
    side = observe(guide, rows(), [bent_rod(plan, len(plan.steps))])
    assert side.state == "good" and "rod is good" in side.text


def test_a_rod_half_seen_is_never_called_good():
    guide, plan = planned_guide()
    side = observe(guide, rows(), [bent_rod(plan, len(plan.steps), seen=0.5)])
    assert side.state == "bending" and "show the rest" in side.text


def test_a_vaguely_known_rod_is_never_called_good():
    guide, plan = planned_guide()
    rod = bent_rod(plan, len(plan.steps))
    vague = RodCurve(rod.side, rod.centreline_m, np.full(len(rod.sigma_mm), 1.9), rod.seen)
    side = observe(guide, rows(), [vague])
    assert side.state == "bending" and "known to 1.9 mm only" in side.text


def pulled_rod(plan: RodPlan, steps: int, free_sigma_mm: float = 0.3) -> RodCurve:
    """A rod after some steps whose shown curve the heads have pulled into the plan's shape."""
    free, shown = bent_rod(plan, steps), bent_rod(plan, len(plan.steps))
    n = len(shown.centreline_m)
    own = np.linspace(0, len(free.centreline_m) - 1, n)
    free_m = np.stack(
        [np.interp(own, np.arange(len(free.centreline_m)), c) for c in free.centreline_m.T], 1
    )
    return replace(shown, free_m=free_m, free_sigma_mm=np.full(n, free_sigma_mm))


def test_heads_that_pull_the_curve_do_not_make_the_rod_good():
    """The heads' say in the curve would find them in it whatever the rod is bent like."""
    guide, plan = planned_guide()
    for done in (0, len(plan.steps) - 1):
        side = observe(guide, rows(), [pulled_rod(plan, done)])
        assert side.state == "bending" and side.steps_done == done
    assert observe(guide, rows(), [pulled_rod(plan, len(plan.steps))]).state == "good"


def test_the_free_curve_says_how_well_the_rod_is_known():
    guide, plan = planned_guide()
    side = observe(guide, rows(), [pulled_rod(plan, len(plan.steps), free_sigma_mm=1.7)])
    assert side.state == "bending" and "known to 1.7 mm only" in side.text


def test_another_rod_is_refused_and_the_plan_stays():
    guide, plan = planned_guide()
    rod = bent_rod(plan, 0)
    short = RodCurve("left", rod.centreline_m[:150], rod.sigma_mm[:150], rod.seen[:150])
    side = observe(guide, rows(), [short])
    assert side.state == "planned" and "show the whole rod" in side.text and side.plan is plan


def test_a_seated_rod_is_read_from_either_end():
    guide, plan = planned_guide()
    seated = plan.centreline_mm * 1e-3
    n = len(seated)
    lists = np.full(n, 0.3), np.ones(n, bool)
    for points in (seated, seated[::-1]):
        rod = RodCurve("left", points, *lists, free_m=points, free_sigma_mm=lists[0])
        assert observe(guide, rows(), [rod]).state == "good"


def test_a_rod_of_unknown_side_counts_only_with_one_plan():
    guide, plan = planned_guide()
    loose = bent_rod(plan, len(plan.steps), side="")
    assert observe(guide, rows(), [loose]).state == "good"
    both = RodGuide(replace(ORDER, sides=("left", "right")))
    both.request(rows())
    assert [g.rod for g in both.observe(rows(), [loose])] == [None, None]


def test_between_comparisons_the_last_one_stays_only_while_the_rod_is_in_view():
    guide, plan = planned_guide()
    rod = bent_rod(plan, len(plan.steps))
    assert guide.observe(rows(), [rod], compare=True)[0].state == "good"
    assert guide.observe(rows(), [rod], compare=False)[0].state == "good"
    assert guide.observe(rows(), [], compare=False)[0].comparison is None
