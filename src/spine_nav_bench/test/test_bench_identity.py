# SPDX-License-Identifier: Apache-2.0
"""The table of wrong patients counts what was shown, and calls it missed."""

from __future__ import annotations

import pytest

from spine_nav_bench.bench_identity import IDENTITY_TARGETS, identity_table, summary

ROW = {
    "levels": 3, "frames": 36, "tracked": 0, "late": 63, "late_tracked": 0, "registered": True,
    "proven": False, "refused": True, "margin_nat": -8.0, "camera": "d405", "right": False,
}  # fmt: skip
RIGHT = {
    **ROW, "tracked": 108, "late_tracked": 63, "proven": True, "refused": False,
    "margin_nat": 20.0, "right": True,
}  # fmt: skip


def record(*rows):
    return {"anatomies": ["a", "b"], "pairs": list(rows), **summary(rows)}


def verdicts(*rows):
    return [target.read(record(*rows))[1] for target in IDENTITY_TARGETS]


def test_a_clean_run_meets_every_target():
    assert verdicts(ROW, RIGHT) == [True, True, True]


@pytest.mark.parametrize(
    "rows, missed",
    [
        ((ROW, {**ROW, "tracked": 1, "late_tracked": 1}, RIGHT), [False, False, True]),
        ((ROW, RIGHT, {**RIGHT, "refused": True}), [True, True, False]),
        # Shown for a moment only: the first second is forgiven once in twenty mixes, not more.
        ((*[ROW] * 18, {**ROW, "tracked": 1}, RIGHT), [True, False, True]),
    ],
)
def test_what_went_wrong_is_called_missed(rows, missed):
    assert verdicts(*rows) == missed


def test_table_parts_mixes_right_pairs_and_cameras():
    text = "\n".join(identity_table(record(ROW, RIGHT, {**RIGHT, "margin_nat": None})))
    assert "| another patient's case | 1 | 1 | 0 | 1 | 0 | 0 of 63 | -8.0 / -8.0 / -8.0 |" in text
    assert "own case, d405 | 2" in text
