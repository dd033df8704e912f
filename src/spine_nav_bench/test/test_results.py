# SPDX-License-Identifier: Apache-2.0
"""docs/results.md: numbers from lines alone, missed targets named as missed."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from spine_nav_bench import targets_stereo
from spine_nav_bench.results import LABEL_NOISE, SHOWN_TARGETS, TARGETS, render, table_text
from spine_nav_bench.results_bridges import BRIDGES_TARGETS
from spine_nav_bench.results_common import NOT_MEASURED, targets_table
from spine_nav_common.core import jsonl

STAT = {"mean": 0.9, "median": 0.8, "p95": 1.7, "count": 100}
MS = {"median": 7.0, "p95": 9.0, "p99": 12.0, "max": 15.0, "count": 60}
POOLED = {
    "levels": 100, "levels_registered": 99, "levels_failed": 1, "level_frames": 6000,
    "tracked": 5700, "availability": 0.95, "tre_mm": STAT, "trer_deg": {**STAT, "median": 0.7},
    "eper_mm": STAT, "add_mm": STAT, "silent_failures": 0, "silent_failure_rate": 0.0,
    "wrong_level": 0, "coverage95": 0.95, "bound_mm": {**STAT, "median": 1.9},
    "statuses": {},
}  # fmt: skip
METHOD = {
    "levels": 10, "levels_right": 9, "success": 0.9, "given": 10, "wrong_level": 1,
    "refused_attempts": 0, "attempts": 2, "frames_used": STAT,
    "right": {"tre_mm": STAT, "trer_deg": STAT, "eper_mm": STAT, "add_mm": STAT},
    "all_given": {"tre_mm": STAT, "trer_deg": STAT}, "registration_ms": STAT, "with_network_ms": STAT,
    "per_scene": {},
}  # fmt: skip
WORSE = {**METHOD, "all_given": {k: {**STAT, "median": 0.9} for k in ("tre_mm", "trer_deg")}}
CAMERA = {**POOLED, "floor_tre_mm": STAT}
BASE = {
    "command": "spinenav bench", "time": "2026-01-01T00:00:00+00:00", "commit": "a" * 40,
    "dirty": False, "model_sha256": "b" * 64, "provider": "CPU", "wall_s": 900.0,
    "machine": {"cpu": "TestCPU", "cores": 2, "load_1min": 0.1}, "smoke": False,
}  # fmt: skip
ACCURACY = {
    **BASE, "part": "accuracy", "scene_names": ["judge-1"], "anatomies": ["virtual-1"],
    "run": {
        "pooled": POOLED, "recovery_s": STAT, "recovery_max_s": 0.9, "not_recovered": 0,
        "covered_availability": 0.85,
        "scenes": [{**POOLED, "scene": "judge-1", "exposed": ["L1", "L5"], "camera": "d415"}],
        "cameras": {"d415": CAMERA, "d435": {**CAMERA, "tre_mm": {**STAT, "median": 1.5}}},
    },
    "scratch": {"SpineNav": METHOD, "multi-start ICP": WORSE},
    "peer_parameters": {"multi-start ICP": {"voxel_mm": 3.0}},
}  # fmt: skip
LIVE = {
    "latency_ms": MS, "overlay_ms": MS, "published": 100, "processed": 99, "tracked": 490,
    "cpu_cores": 0.9, "provider": "OpenVINO bf16", "fps": 15.0,
}  # fmt: skip
TIMING = {
    **BASE, "part": "timing",
    "registration": {"levels": 5, "total_ms": {**MS, "median": 240.0}, "network_ms": MS},
    "update_five": {"update_ms": {**MS, "median": 4.0, "p99": 7.0}, "network_ms": MS},
    "update_by_levels": [{"levels": 1, "update_ms": MS}, {"levels": 7, "update_ms": MS}],
    "growth_exponent": 0.6, "nodes": LIVE, "nodes_30": {**LIVE, "fps": 30.0},
    "replay_tracked": 500,
}  # fmt: skip

PAIRS = {"pairs": 20, "level_frames_late": 60, "tracked_late": 0, "shown_ever": 1, "refused": 0}
IDENTITY = {**BASE, "part": "identity", "mixes": PAIRS, "right": PAIRS}
GAPS = {**BASE, "part": "gaps", "all": {"cases": 500, "wrong_cases": 0, "wrong_level_frames": 0}}
ALIVE = {
    **BASE, "part": "alive", "left": 0,
    "faults": [
        {"node": "overlay", "kind": "kill", "withdrawn_s": 0.1, "back_s": 4.0},
        {"node": "overlay", "kind": "hang", "withdrawn_s": 0.8, "back_s": 6.0},
    ],
}  # fmt: skip
BRIDGE = {"poses": 1125, "sent": 1125, "pictures_shown": 0, "delay_ms": {**MS, "median": 6.0, "p99": 20.0}}  # fmt: skip
BRIDGES = {
    **BASE, "part": "bridges", "levels": 5, "rate_hz": 15.0,
    "runs": [{**BRIDGE, "pictures": False}, {**BRIDGE, "pictures": True}],
}  # fmt: skip
RECORDS = {
    "accuracy": ACCURACY, "foreign": ACCURACY, "timing": TIMING, "identity": IDENTITY,
    "gaps": GAPS,
    "alive": ALIVE,
    "bridges": BRIDGES,
}  # fmt: skip


def lines(records) -> list[str]:
    return [
        row for row in targets_table((*TARGETS, *BRIDGES_TARGETS), records) if row.startswith("| ")
    ][1:]


def test_all_targets_met():
    rows = lines(RECORDS)
    assert len(rows) == len(TARGETS) + len(BRIDGES_TARGETS)
    assert all("| met |" in row for row in rows), rows


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (("accuracy", "run", "pooled", "levels_registered"), 97, "levels registered"),
        (("accuracy", "run", "pooled", "tre_mm"), {**STAT, "mean": 1.4}, "TRE at entry"),
        (("accuracy", "run", "pooled", "tre_mm"), {**STAT, "median": 1.1}, "TRE at entry"),
        (("accuracy", "run", "pooled", "trer_deg"), {**STAT, "median": 0.9}, "trajectory angle"),
        (("accuracy", "run", "pooled", "add_mm"), {**STAT, "median": 1.1}, "entry-point error"),
        (("accuracy", "run", "pooled", "silent_failure_rate"), 0.002, "TRE > 4 mm"),
        (("accuracy", "run", "pooled", "wrong_level"), 1, "wrong level"),
        (("accuracy", "run", "pooled", "availability"), 0.89, "shown as tracked"),
        (("accuracy", "run", "covered_availability"), 0.79, "shown as tracked"),
        (("accuracy", "run", "pooled", "coverage95"), 0.91, "95 % bound"),
        (("accuracy", "run", "pooled", "coverage95"), 0.99, "95 % bound"),
        (("accuracy", "run", "scenes", 0, "coverage95"), 0.79, "worst scene"),
        (("accuracy", "run", "pooled", "bound_mm"), {**STAT, "median": 2.1}, "bound over median"),
        (("accuracy", "run", "cameras", "d415"), {**CAMERA, "levels_registered": 97}, "per camera"),
        (("accuracy", "run", "cameras", "d435"), {**CAMERA, "availability": 0.89}, "per camera"),
        (
            ("accuracy", "run", "cameras", "d415"),
            {**CAMERA, "tre_mm": {**STAT, "median": 1.1}},
            "per camera",
        ),
        (
            ("accuracy", "scratch", "multi-start ICP"),
            METHOD | {"all_given": {"tre_mm": {**STAT, "median": 0.7}, "trer_deg": STAT}},
            "first pose",
        ),
        (
            ("foreign", "scratch", "multi-start ICP"),
            METHOD | {"all_given": {"tre_mm": STAT, "trer_deg": {**STAT, "median": 0.5}}},
            "the same on recordings",
        ),
        (("accuracy", "run", "recovery_max_s"), 1.2, "recovery"),
        (("accuracy", "run", "not_recovered"), 1, "recovery"),
        (("timing", "registration", "total_ms"), {**MS, "median": 251.0}, "5 levels from scratch"),
        (("timing", "update_five", "update_ms"), {**MS, "median": 4.0, "p99": 8.5}, "pose update"),
        (("timing", "nodes", "latency_ms"), {**MS, "median": 51.0}, "published pose"),
        (("timing", "nodes", "latency_ms"), {**MS, "p99": 91.0}, "published pose"),
        (("timing", "nodes", "processed"), 98, "frames processed; level-frames"),
        (("timing", "nodes", "tracked"), 489, "frames processed; level-frames"),
        (("timing", "nodes", "cpu_cores"), 1.31, "CPU cores"),
        (("timing", "nodes_30", "processed"), 98, "30 Hz"),
        (("timing", "nodes", "overlay_ms"), {**MS, "p99": 161.0}, "overlay picture"),
        (("timing", "growth_exponent"), 1.1, "growth"),
        (("identity", "mixes", "tracked_late"), 1, "another patient's level-frames"),
        (("identity", "mixes", "shown_ever"), 2, "nothing was ever shown"),
        (("identity", "right", "refused"), 1, "right patient refused"),
        (("gaps", "all", "wrong_cases"), 1, "wrong level or more than 10 mm off"),
        (("alive", "faults", 0, "withdrawn_s"), 0.31, "kill -9 of a node"),
        (("alive", "faults", 0, "back_s"), None, "kill -9 of a node"),
        (("alive", "faults", 1, "back_s"), 8.1, "a node that hangs"),
        (("bridges", "runs", 1, "delay_ms"), {**MS, "median": 31.0}, "OpenIGTLink client"),
    ],
)
def test_a_missed_target_is_marked_as_missed(path, value, what):
    records = {part: copy.deepcopy(record) for part, record in RECORDS.items()}
    at = records
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    missed = [row for row in lines(records) if "**missed**" in row]
    assert len(missed) == 1
    assert what in missed[0]


def test_without_lines_nothing_has_a_number(tmp_path):
    text = render(tmp_path)
    assert text.count(NOT_MEASURED) == sum(
        map(len, (TARGETS, targets_stereo.TARGETS, SHOWN_TARGETS))
    )
    assert "## Time" not in text
    assert "## Accuracy" not in text


def test_the_document_names_its_origin_and_the_label_noise(tmp_path):
    jsonl.append(tmp_path / "accuracy.jsonl", {**ACCURACY, "commit": "0" * 40})
    jsonl.append(tmp_path / "accuracy.jsonl", {**ACCURACY, "dirty": True})
    jsonl.append(tmp_path / "timing.jsonl", TIMING)
    text = render(tmp_path)
    assert LABEL_NOISE in text
    assert "`aaaaaaaaaaaa`, with uncommitted changes" in text
    assert "000000000000" not in text  # the newest line rules
    assert "TestCPU, 2 cores" in text
    assert "voxel_mm 3.0" in text
    assert "img/update_time.png" in text
    assert "Recordings made elsewhere" not in text


def test_foreign_runs_are_counted(tmp_path):
    for _ in range(3):
        jsonl.append(tmp_path / "foreign.jsonl", {**ACCURACY, "part": "foreign"})
    assert "so far: 3." in render(tmp_path)


LINES = sorted((Path(__file__).parents[3] / "docs" / "results").glob("*.jsonl"))


@pytest.mark.skipif(not LINES, reason="docs/ is not part of this installation")
@pytest.mark.parametrize("file", LINES, ids=lambda f: f.stem)
def test_each_part_has_a_table_for_the_terminal(file):
    """After a long measurement an error instead of the table is too late."""
    line = json.loads(file.read_text(encoding="utf-8").splitlines()[-1])
    assert table_text(line).startswith(f"{line['part']}:\n|")
