# SPDX-License-Identifier: Apache-2.0
"""The table of gaps counts every pose that is shown and wrong, and calls it missed."""

from __future__ import annotations

import numpy as np
import pytest

from spine_nav_bench.bench_gaps import CASES, GAPS_TARGETS, errors_mm, gaps_table, summary
from spine_nav_common.core.types import Case, LevelEstimate, NavigationResult, Status
from spine_nav_sim.core.anatomy import make_anatomy

ROW = {
    "kind": "gap", "break": "a gap", "frames": 10, "shown": 30, "silent": 0, "wrong": 0,
    "worst_mm": 1.0, "back_frames": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def case():
    anatomy = make_anatomy(np.random.default_rng(3), ("L2", "L3"), "virtual")
    return Case(anatomy.name, "LPS", anatomy.meshes, ("L2", "L3"), anatomy.plan, "")


def verdict(*rows):
    return GAPS_TARGETS[0].read({"all": summary(rows)})[1]


def test_only_what_is_shown_is_judged_and_by_how_far_it_is_off(case):
    truth = {"L2": np.eye(4), "L3": np.eye(4)}
    shifted = np.eye(4)
    shifted[:3, 3] = (0.012, 0.0, 0.0)
    levels = (
        LevelEstimate("L2", Status.TRACKED, shifted),
        LevelEstimate("L3", Status.OCCLUDED, shifted),
    )
    result = NavigationResult(1, levels, {}, ())
    assert errors_mm(case, result, truth) == pytest.approx([12.0])


def test_one_wrong_level_frame_misses_the_target_and_so_do_too_few_cases():
    clean = [ROW] * CASES
    assert verdict(*clean)
    assert not verdict(*clean[1:])
    wrong = {**ROW, "wrong": 1, "worst_mm": 34.0}
    assert not verdict(*clean, wrong)
    rows = "\n".join(gaps_table({"by_kind": {"gap": summary([wrong])}, "all": summary([wrong])}))
    assert "| 1 (1) |" in rows and "34.0" in rows
