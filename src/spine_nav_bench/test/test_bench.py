# SPDX-License-Identifier: Apache-2.0
"""What the bench counts: occlusion, success, and result lines that say where a number is from."""

from __future__ import annotations

import numpy as np
import pytest

from spine_nav_bench.bench_accuracy import Attempts, judge, occlusion, start_frames
from spine_nav_bench.bench_scenes import foreign_scenes, judged_scenes
from spine_nav_bench.bench_timing import growth_exponent, percentiles, sub_case
from spine_nav_common.core import jsonl
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.outputs import PoseRow
from spine_nav_common.core.truth import Truth, TruthFrame
from spine_nav_common.core.types import Case, Mesh, ScrewPlan, Status

PERIOD_NS = 100_000_000


def truth_of(pixels: list[int], level: str = "L3") -> Truth:
    frames = {
        i * PERIOD_NS: TruthFrame(i * PERIOD_NS, {level: np.eye(4)}, {level: n})
        for i, n in enumerate(pixels)
    }
    return Truth((level,), (level,), (), frames)


def rows_of(tracked: str, level: str = "L3") -> list[PoseRow]:
    """'t' tracked, '-' occluded."""
    return [
        PoseRow(
            i * PERIOD_NS,
            level,
            Status.TRACKED if c == "t" else Status.OCCLUDED,
            np.eye(4),
            1.0,
            None,
        )
        for i, c in enumerate(tracked)
    ]


def test_recovery_counts_from_the_frame_in_which_the_bone_is_in_view_again():
    seen = occlusion(rows_of("tt----tt"), truth_of([100, 100, 0, 0, 100, 100, 100, 100]), ["L3"])
    assert seen.recovery_s == (pytest.approx(0.2),)
    assert seen.not_recovered == 0


def test_partial_cover_is_no_full_occlusion():
    seen = occlusion(rows_of("tt--tt"), truth_of([100, 100, 20, 20, 100, 100]), ["L3"])
    assert seen.recovery_s == ()
    assert (seen.covered_frames, seen.covered_tracked) == (2, 0)


def test_a_level_that_never_comes_back_is_counted():
    pixels = [100, 0, *[100] * 13]
    seen = occlusion(rows_of("t" + "-" * 14), truth_of(pixels), ["L3"])
    assert seen.recovery_s == ()
    assert seen.not_recovered == 1


def test_a_level_that_is_hidden_again_before_it_was_found_starts_anew():
    pixels = [100, 0, 100, 0, 100, 100]
    seen = occlusion(rows_of("t----t"), truth_of(pixels), ["L3"])
    assert seen.recovery_s == (pytest.approx(0.1),)


def mesh(z: float) -> Mesh:
    rng = np.random.default_rng(0)
    return Mesh(rng.normal(size=(50, 3)) * 0.01 + (0, 0, z), np.array([[0, 1, 2]]))


CASE = Case(
    "c", "LPS", {"L3": mesh(0.0), "L4": mesh(-0.035)}, ("L3", "L4"),
    (ScrewPlan("L4", "left", np.zeros(3), np.array([0, -0.04, 0])),), "",
)  # fmt: skip


def both(T: np.ndarray) -> Truth:
    frame = TruthFrame(0, {"L3": np.eye(4), "L4": np.eye(4)})
    return Truth(("L3", "L4"), ("L3", "L4"), CASE.plan, {0: frame})


def test_a_shift_by_one_level_is_a_failure_and_a_wrong_level():
    shifted = np.eye(4)
    shifted[2, 3] = -0.035
    errors = judge({"L3": shifted, "L4": np.eye(4)}, 0, both(shifted), CASE)
    table = Attempts()
    table.add("scene", 2, errors, 10.0, 5.0, 1, False)
    found = table.document()
    assert (found["levels_right"], found["levels"], found["wrong_level"]) == (1, 2, 1)
    assert found["success"] == 0.5
    assert found["right"]["tre_mm"]["median"] == pytest.approx(0.0)
    assert found["all_given"]["tre_mm"]["p95"] > 30
    assert found["with_network_ms"]["median"] == 15.0


def test_a_refused_attempt_counts_its_levels_as_failures():
    table = Attempts()
    table.add("scene", 5, [], 1.0, 1.0, 1, True)
    found = table.document()
    assert (found["success"], found["refused_attempts"]) == (0.0, 1)
    assert found["right"]["tre_mm"] is None


def test_every_method_starts_on_the_same_frames():
    assert start_frames(range(60), (0.0, 0.5)) == [0, 30]
    assert start_frames(range(1)) == [0]


def test_sub_case_keeps_the_first_levels_alone():
    small = sub_case(CASE, 1)
    assert list(small.meshes) == ["L3"]
    assert small.exposed_levels == ("L3",)
    assert small.plan == ()


def test_growth_exponent_is_one_for_linear_growth():
    assert growth_exponent([1, 2, 4], [3.0, 6.0, 12.0]) == pytest.approx(1.0)
    assert growth_exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2.0)


def test_percentiles_of_nothing_are_nothing():
    assert percentiles([]) is None
    assert percentiles([1.0, 3.0])["median"] == 2.0


def test_foreign_scenes_need_truth_and_case(tmp_path):
    with pytest.raises(InputError, match="truth.json"):
        foreign_scenes(tmp_path)


def test_an_anatomy_that_is_no_folder_is_refused_before_anything_is_rendered(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        judged_scenes(tmp_path / "cache", [tmp_path / "none"], count=0)
    assert not (tmp_path / "cache").exists()


def test_a_line_says_commit_and_machine_and_is_read_back(tmp_path):
    record = {"part": "timing", **jsonl.commit_state(), "machine": jsonl.machine()}
    jsonl.append(tmp_path / "r" / "timing.jsonl", record)
    jsonl.append(tmp_path / "r" / "timing.jsonl", record)
    assert jsonl.load(tmp_path / "r" / "timing.jsonl") == [record, record]
    assert {"commit", "dirty"} <= set(record)
    assert record["machine"]["cores"] >= 1
    assert jsonl.load(tmp_path / "absent.jsonl") == []


def test_the_hash_of_a_folder_changes_with_names_and_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "L1.ply").write_bytes(b"1")
    assert jsonl.sha256_of(tmp_path / "a") == jsonl.sha256_of(tmp_path / "b")
    (tmp_path / "b" / "L1.ply").rename(tmp_path / "b" / "L2.ply")
    assert jsonl.sha256_of(tmp_path / "a") != jsonl.sha256_of(tmp_path / "b")
