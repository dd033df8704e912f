# SPDX-License-Identifier: Apache-2.0
"""The accuracy gate: a changed TRE and a lost level each fail it; absent back-ends are told."""

from __future__ import annotations

import pytest

from spine_nav_bench.bench_precision import compare
from spine_nav_bench.results_precision import precision_table
from spine_nav_common.core.metrics import LevelOutcome, PoseError


def outcome(level="L1", tre_mm=(1.0, 1.0, 1.0), rotation_deg=1.0, first=0):
    errors = tuple(
        PoseError(first + i, level, mm, (0.5,), (0.5,), 1.0, rotation_deg, 1.0, 2.0, level)
        for i, mm in enumerate(tre_mm)
    )
    return LevelOutcome(level, len(errors), {"tracked": len(errors)}, errors)


def test_the_same_errors_pass():
    found = compare([outcome()], [outcome()])
    assert found["passes"]
    assert (found["compared"], found["tre_change_mean_mm"]) == (3, 0.0)


@pytest.mark.parametrize("change", [0.06, -0.06])
def test_a_tre_that_changes_fails_in_either_sense(change):
    other = outcome(tre_mm=[1.0 + change] * 3)
    assert not compare([outcome()], [other])["passes"]


def test_a_lost_level_fails_and_is_named():
    found = compare([outcome(), outcome("L2")], [outcome(), outcome("L2", rotation_deg=6.0)])
    assert found["levels_lost"] == ["L2"]
    assert not found["passes"]


def test_frames_that_only_one_tracks_are_not_compared_and_none_at_all_is_no_pass():
    assert compare([outcome()], [outcome(tre_mm=(9.0, 1.0), first=-1)])["compared"] == 1
    assert not compare([outcome()], [outcome(tre_mm=())])["passes"]


def test_outcomes_of_other_scenes_are_refused():
    with pytest.raises(ValueError, match="different scenes"):
        compare([outcome()], [outcome("L2")])


def test_the_table_names_what_fails_and_what_is_absent():
    stat = {"mean": 1.0, "median": 0.9}
    row = {
        "network_ms": 7.0, "levels": 2, "tracked": 3, "level_frames": 3, "tre_mm": stat,
        "tre_change_mean_mm": 0.2, "compared": 3, "tre_change_abs_p95_mm": 0.3,
    }  # fmt: skip
    good = {**row, "levels_registered": 2, "levels_lost": [], "passes": True}
    bad = {**row, "levels_registered": 1, "levels_lost": ["L2"], "passes": False}
    text = "\n".join(
        precision_table(
            {
                "reference": "a", "backends": {"a": good, "b": good, "c": bad},
                "absent": {"d": "this CPU has no bf16 units"},
            }
        )
    )  # fmt: skip
    lines = text.splitlines()
    assert "reference" in lines[2]
    assert "passes" in lines[3]
    assert "**fails**" in lines[4] and "lost L2" in lines[4]
    assert "absent" in lines[5] and "no bf16 units" in lines[5]
