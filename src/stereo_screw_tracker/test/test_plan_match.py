# SPDX-License-Identifier: Apache-2.0
"""Heads are named by the plan's pattern where it leaves one reading, and not at all where it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spine_nav_common.core.types import Case, Head3D, Mesh, Rejected, ScrewPlan
from stereo_screw_tracker.core.assign import assign
from stereo_screw_tracker.core.config import AssignConfig
from stereo_screw_tracker.core.plan_match import PlanMatch, match_plan

LEVELS = ("L1", "L2", "L3", "L4", "L5")
UP = np.array([0.0, 0.0, 1.0])  # cranial in LPS
MESH = Mesh(np.eye(3), np.array([[0, 1, 2]], np.int32))


def case(spread_mm=(0.0, 1.5, 3.5, 6.0, 10.0), exposed=LEVELS) -> Case:
    """Screws of a lumbar spine: rows diverge caudally and the spine is lordotic."""
    plan = []
    for i, level in enumerate(LEVELS):
        height, depth = -0.034 * i, 0.008 * np.sin(0.8 * i)
        for side, sign in (("left", 1.0), ("right", -1.0)):
            entry = np.array([sign * (0.020 + 1e-3 * spread_mm[i]), 0.03 + depth, height])
            way = np.array([sign * -0.25, -1.0, 0.05])  # into the body, converging
            plan.append(ScrewPlan(level, side, entry, entry + 0.045 * way / np.linalg.norm(way)))
    return Case("pattern", "LPS", dict.fromkeys(LEVELS, MESH), tuple(exposed), tuple(plan), "")


def heads_of(
    whole: Case, levels=LEVELS, sides=("left", "right"), noise_mm=0.8, seed=0, turn_deg=20.0
) -> tuple[list[Head3D], list[tuple[str, str]], np.ndarray]:
    """Heads over the plan as a camera sees them (posterior towards it), and what they are."""
    rng = np.random.default_rng(seed)
    a = np.radians(turn_deg)
    # patient prone: posterior (+y) towards the camera (-z), cranial up, then turned in the image
    turn = np.array([[np.cos(a), -np.sin(a), 0.0], [np.sin(a), np.cos(a), 0.0], [0.0, 0.0, 1.0]])
    R = turn @ np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]])
    assert np.linalg.det(R) == pytest.approx(1.0)
    out, names = [], []
    for p in whole.plan:
        if p.level in levels and p.side in sides:
            way = (p.entry_m - p.target_m) / np.linalg.norm(p.entry_m - p.target_m)
            place = R @ (p.entry_m + 0.012 * way) + [0.01, 0.02, 0.5]
            place = place + rng.normal(0.0, 1e-3 * noise_mm, 3)
            axis = R @ way + rng.normal(0.0, 0.1, 3)
            out.append(Head3D(place, 1e-6 * np.eye(3), axis / np.linalg.norm(axis), 0.1, 0.9, 0.0))
            names.append((p.level, p.side))
    order = rng.permutation(len(out))
    return [out[i] for i in order], [names[i] for i in order], R @ UP


@pytest.mark.parametrize("turn_deg", [0.0, 90.0, 180.0, 250.0])
def test_all_screws_are_named_whichever_way_the_patient_lies(turn_deg):
    heads, names, cranial = heads_of(case(), turn_deg=turn_deg)
    match = match_plan(heads, case(), UP, AssignConfig())
    assert isinstance(match, PlanMatch)
    assert [(p.level, p.side) for p in match.planned] == names
    assert match.cranial @ cranial > 0.99


def test_a_missing_screw_does_not_move_the_names():
    heads, names, _ = heads_of(case(), seed=3)
    match = match_plan(heads[1:], case(), UP, AssignConfig())
    assert isinstance(match, PlanMatch)
    assert [(p.level, p.side) for p in match.planned] == names[1:]


def test_a_pattern_that_reads_both_ways_names_nothing():
    """Parallel rows, even spacing, no curve: head up and head down fit alike."""
    even = case(spread_mm=(0.0,) * 5)
    flat = Case(even.name, "LPS", even.meshes, even.exposed_levels, tuple(
        ScrewPlan(p.level, p.side, p.entry_m * [1, 0, 1], p.entry_m * [1, 0, 1] - [0, 0.045, 0])
        for p in even.plan), "")  # fmt: skip
    heads, _, _ = heads_of(flat, noise_mm=0.5)
    match = match_plan(heads, flat, UP, AssignConfig())
    assert isinstance(match, Rejected)
    assert "--cranial" in match.reason


def test_some_of_many_levels_that_fit_at_several_heights_name_nothing():
    even = case(spread_mm=(0.0,) * 5)
    heads, _, _ = heads_of(even, levels=("L2", "L3"))
    assert isinstance(match_plan(heads, even, UP, AssignConfig()), Rejected)


def test_another_patients_heads_are_not_named():
    heads, _, _ = heads_of(case())
    stretched = [
        Head3D(h.point_m * [1.4, 1.4, 1.0], h.covariance_m2, h.axis, 0.1, 0.9, 0.0) for h in heads
    ]
    assert isinstance(match_plan(stretched, case(), UP, AssignConfig()), Rejected)


def test_a_spine_that_lies_otherwise_than_in_the_ct_gets_no_wrong_level():
    """Some levels of many, each a few mm from its planned place: a reading one level off may fit
    best, and by more than a millimetre."""
    whole, named = case(), 0
    for seed in range(60):
        rng = np.random.default_rng([5, seed])
        first = int(rng.integers(0, 3))
        heads, names, _ = heads_of(whole, LEVELS[first : first + 3], seed=seed)
        moved = {v: rng.normal(0.0, 3e-3, 3) for v in LEVELS}
        heads = [replace(h, point_m=h.point_m + moved[v]) for h, (v, _) in zip(heads, names)]
        match = match_plan(heads, whole, UP, AssignConfig())
        if isinstance(match, PlanMatch):
            named += 1
            for p, name in zip(match.planned, names):
                assert p is None or (p.level, p.side) == name, f"seed {seed}"
    assert named > 0  # a rule that never names would pass


def test_three_heads_are_too_few():
    heads, _, _ = heads_of(case(), levels=("L1", "L2"))
    answer = match_plan(heads[:3], case(), UP, AssignConfig())
    assert isinstance(answer, Rejected)
    assert "too few" in answer.reason


def test_assign_uses_the_pattern_where_nothing_else_tells():
    heads, names, _ = heads_of(case(), seed=5)
    labels = assign(heads, None, case(), "", AssignConfig())
    assert list(zip(labels.levels, labels.sides, strict=True)) == names
    unknown = assign(heads[:3], None, case(), "", AssignConfig())
    assert unknown.levels == ("", "", "")
    assert unknown.cranial is None
