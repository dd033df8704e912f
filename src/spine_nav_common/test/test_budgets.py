# SPDX-License-Identifier: Apache-2.0
"""Stage budgets: what was measured is told beside what is allowed, the newest frames only."""

from __future__ import annotations

import subprocess
import sys

from spine_nav_common.core.budgets import KEPT, Budget, StageTimes, budgets, stage_time
from spine_nav_common.core.cpu import CoresUsed


def test_median_and_p99_of_the_newest_frames():
    times = StageTimes()
    for ms in [1000.0] * KEPT + [float(i) for i in range(KEPT)]:
        times.note({"update": ms})
    took = times.times()["update"]
    assert took.count == KEPT
    assert took.median_ms == (KEPT - 1) / 2
    assert KEPT * 0.98 < took.p99_ms < KEPT


def test_a_stage_is_over_its_budget_by_its_median_or_by_its_tail():
    limit = Budget(5.0, 8.0)
    assert stage_time([4.0] * 100).within(limit)
    assert not stage_time([6.0] * 100).within(limit)
    assert not stage_time([4.0] * 95 + [9.0] * 5).within(limit)


def test_health_names_the_budget_and_whether_it_is_kept():
    times = StageTimes()
    times.note({"update": 4.0, "network": 50.0, "work": 9.0})
    values = times.health(budgets("OpenVINO bf16"))
    assert values["ms update"] == "4.0 / 4.0 (within 5 / 8)"
    assert values["ms network"].startswith("50.0 / 50.0 (over ")
    assert values["ms work"] == "9.0 / 9.0"


def test_stamps_of_another_clock_are_no_duration():
    times = StageTimes()
    times.note({"stamp_to_publish": 9.5e10, "update": 4.0})
    times.note({"stamp_to_publish": -3.0})
    assert list(times.times()) == ["update"]


def test_full_precision_has_longer_budgets_for_the_network_and_the_whole_alone():
    reduced, full = budgets("OpenVINO bf16"), budgets("CPUExecutionProvider fp32")
    assert reduced.keys() == full.keys()
    longer = {stage for stage in full if full[stage].median_ms > reduced[stage].median_ms}
    assert longer == {"network", "stamp_to_publish", "arrival_to_publish"}


def test_cores_count_this_process_and_the_named_ones_and_survive_one_that_is_gone():
    alone, with_child = CoresUsed(), CoresUsed()
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        while not with_child.cores([child.pid]) > alone.cores():
            pass  # until the child has used a tick of the clock
    finally:
        child.kill()
        child.wait()
    assert CoresUsed([child.pid]).cores([child.pid]) >= 0.0
