# SPDX-License-Identifier: Apache-2.0
"""The rows of `spinenav calibrate` beside OpenCV, without the real sets."""

from __future__ import annotations

from pathlib import Path

from spine_nav_bench.bench_calibrate import calibrate_record
from spine_nav_bench.results_calibrate import calibrate_tables


def test_made_motions_alone_make_a_table(tmp_path: Path) -> None:
    record = calibrate_record(tmp_path, smoke=True)
    assert record["lenses"] == [] and record["pivot"] is None
    ours = record["handeye"][0]
    assert ours["method"] == "SpineNav" and ours["mm"]["count"] == 3
    assert ours["mm"]["mean"] < 1.0 and ours["deg"]["mean"] < 0.2
    text = "\n".join(calibrate_tables({"calibrate": record}))
    assert "| SpineNav |" in text and "seeds 440000 to 440002" in text
    ours["mm"]["mean"] = 0.6  # a row that is missed says so
    assert "**missed**" in "\n".join(calibrate_tables({"calibrate": record}))
