# SPDX-License-Identifier: Apache-2.0
"""The page and the record in the bench: when a target is met, and what a run that failed says."""

from __future__ import annotations

import copy

import pytest

from spine_nav_bench.page import told_by
from spine_nav_bench.results_common import targets_table
from spine_nav_bench.results_display import DISPLAY_TARGETS, display_section
from spine_nav_common.core.errors import InputError

RECORD = {
    "command": "spinenav bench", "time": "2026-01-01T00:00:00+00:00", "commit": "a" * 40,
    "dirty": False, "model_sha256": None, "provider": None, "wall_s": 900.0,
    "machine": {"cpu": "TestCPU", "cores": 2, "load_1min": 0.1}, "part": "display",
    "cpu_cores": 1.1,
    "page": {"delay_ms": {"median": 119.0, "p99": 249.0, "count": 200}, "first_picture_s": 1.9,
             "pictures_per_s": [14.9], "browser_cores": 0.4},
    "faults": {"faults": 200, "gone_ms": {"median": 26.0, "p99": 149.0, "most": 300.0},
               "stale_frames_after_150_ms": 0},
    "night": {"hours": 8.0, "asked": 200, "answered": 200, "page_growth": 0.049,
              "display_growth": -0.01, "page_growth_8h": 0.05, "display_growth_8h": 0.0, "page_mb": [3.0, 3.1], "display_mb": [90.0, 89.0],
              "pictures_shown": 432_000, "wall_s": 7000.0},
    "record": {"streams": {"events": {"pictures_left_out": 0, "messages_lost": 0},
                           "pictures": {"pictures_left_out": 0, "messages_lost": 0}},
               "bytes": 170_000_000, "seconds": 20.0},
}  # fmt: skip


def verdicts(record):
    return ["missed" not in row for row in targets_table(DISPLAY_TARGETS, {"display": record})[2:]]


def test_all_targets_are_met_just_within_their_limits():
    assert verdicts(RECORD) == [True] * 4


@pytest.mark.parametrize(
    ("row", "place", "value"),
    [
        (0, ("page", "delay_ms", "median"), 121.0),
        (0, ("page", "delay_ms", "p99"), 251.0),
        (1, ("faults", "gone_ms", "p99"), 151.0),
        (1, ("faults", "stale_frames_after_150_ms"), 1),
        (2, ("page", "first_picture_s"), 2.1),
        (2, ("night", "answered"), 199),
        (2, ("night", "page_growth"), 0.06),
        (2, ("night", "display_growth"), 0.06),
        (2, ("night", "hours"), 0.4),
        (2, ("night", "page_growth_8h"), 0.06),
        (2, ("night", "display_growth_8h"), 0.06),
        (3, ("record", "streams", "pictures", "pictures_left_out"), 1),
        (3, ("record", "streams", "events", "messages_lost"), 1),
    ],
)
def test_each_number_alone_misses_its_row(row, place, value):
    record = copy.deepcopy(RECORD)
    inside = record
    for name in place[:-1]:
        inside = inside[name]
    inside[place[-1]] = value
    assert verdicts(record) == [i != row for i in range(4)]


def test_the_size_of_the_record_is_stated_per_minute():
    (row,) = [t for t in targets_table(DISPLAY_TARGETS, {"display": RECORD}) if "record" in t]
    assert "510 MB a minute" in row
    assert "432000 in 7000 s" in "\n".join(display_section(RECORD))


def test_a_measuring_program_that_fails_is_no_result():
    with pytest.raises(InputError, match="did not measure"):
        told_by("endurance", "--hours", "none")
