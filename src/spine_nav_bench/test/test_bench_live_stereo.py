# SPDX-License-Identifier: Apache-2.0
"""The live stereo graph in the bench: what is counted, and whether its target is met."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from spine_nav_bench.bench_live_stereo import counted, live_operation
from spine_nav_bench.results_common import targets_table
from spine_nav_bench.results_live import LIVE_STEREO_TARGETS, live_stereo_section
from spine_nav_common.core.outputs import TimingWriter
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.types import Intrinsics, StereoFrame

MS = {"median": 90.0, "p95": 140.0, "p99": 200.0, "max": 210.0, "count": 80}
RECORD = {
    "command": "spinenav bench", "time": "2026-01-01T00:00:00+00:00", "commit": "a" * 40,
    "dirty": False, "model_sha256": "b" * 64, "provider": "CPU", "wall_s": 900.0,
    "machine": {"cpu": "TestCPU", "cores": 2, "load_1min": 0.1}, "part": "live_stereo",
    "fps": 15.0, "sent": 120, "processed": 81, "seconds": 8.0, "pairs_per_s": 10.1,
    "cpu_cores": 1.4, "stages_ms": {"stereo_stamp_to_publish": MS, "stereo_work": MS},
    "page": {"delay_ms": MS, "pictures_per_s": [9.8], "browser_cores": 0.3},
}  # fmt: skip


def stamp(index: int) -> int:
    return 1_700_000_000_000_000_000 + index * 100_000_000


@pytest.fixture
def run(tmp_path):
    """A recording of twenty pairs at 10 Hz, of which every other one was processed."""
    camera, image = Intrinsics(32, 24, 30.0, 30.0, 15.5, 11.5), np.zeros((24, 32), np.uint8)
    with RecordingWriter(tmp_path / "recording") as writer:
        for i in range(20):
            writer.write_stereo(StereoFrame(stamp(i), image, image, camera, 0.06))
    timings = TimingWriter(tmp_path)
    for i in range(0, 20, 2):
        timings.write(stamp(i), {"stereo_work": 10.0 + i, "stereo_stamp_to_publish": 100.0 + i})
    timings.close()
    return tmp_path


def test_only_what_lies_beside_the_page_is_counted(run) -> None:
    told = counted(run, run / "recording", stamp(4), stamp(14))
    assert (told["sent"], told["processed"], told["seconds"]) == (11, 6, 1.0)
    assert told["pairs_per_s"] == 6.0
    assert told["stages_ms"]["stereo_work"]["max"] == 24.0
    assert told["stages_ms"]["stereo_stamp_to_publish"]["count"] == 6
    assert told["stages_ms"]["stereo_arrival_to_publish"] is None


def test_the_operation_is_that_of_the_timed_pairs_at_the_cameras_rate() -> None:
    scene = live_operation()
    assert scene.config.scene.fps == 15.0 and scene.config.sizes == ((640, 480),)
    assert scene.config.screws == (10, 10) and scene.config.rods == "seated"


@pytest.mark.parametrize(("rate", "word"), [(10.0, "| met |"), (9.9, "**missed**")])
def test_the_target_is_ten_pairs_per_second(rate, word) -> None:
    record = {**copy.deepcopy(RECORD), "pairs_per_s": rate}
    (row,) = targets_table(LIVE_STEREO_TARGETS, {"live_stereo": record})[2:]
    assert word in row


def test_the_section_tells_what_was_dropped_and_what_it_cost() -> None:
    text = "\n".join(live_stereo_section(RECORD))
    assert "39 of 120" in text and "90 / 140" in text and "1.40" in text and "TestCPU" in text
