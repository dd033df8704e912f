# SPDX-License-Identifier: Apache-2.0
"""What the stereo bench counts, on whom, and what its tables say."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stereo_bench_support import (
    BASE,
    HEADS,
    FakeScene,
    FakeTracker,
    pairs,
    truth,
)

from spine_nav_bench import bench_stereo_scenes, results_stereo, targets_stereo
from spine_nav_bench.bench import Loaded, _parts
from spine_nav_bench.bench_stereo import (
    ALL,
    FIRST,
    at_half_metre_mm,
    failures,
    heads_document,
    only,
    ours,
    peer_answer,
    rods_document,
    settled_record,
    stereo_record,
    wilson,
)
from spine_nav_bench.bench_stereo_scenes import (
    JUDGED,
    calibrate_stereo,
    foreign_stereo,
    implant_files,
    judged_stereo,
    timed_stereo,
    write_scenes,
)
from spine_nav_bench.results import render, table_text
from spine_nav_bench.results_common import OURS, targets_table
from spine_nav_bringup.cli import build_parser
from spine_nav_common.core import jsonl
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.implant_metrics import HeadError, RodError, RodScore, ScrewScore
from spine_nav_common.core.truth import TruthFrame
from spine_nav_common.core.types import (
    Rejected,
)
from spine_nav_sim.core.implants import FAMILIES_JUDGE, FAMILIES_TRAIN
from spine_nav_sim.core.splits import anatomy_seeds


class FakePeer:
    def heads(self, frame):
        return Rejected("no texture") if frame.stamp_ns == 200 else HEADS[:1] + (0, 0, 0.003)


def scene(kind: str = "generated screws") -> FakeScene:
    return FakeScene("s", kind, Path("nowhere"), "virtual-1", 1)


def record(tracker=None, kinds=("generated screws",)) -> dict:
    tracker = tracker or FakeTracker(HEADS[:3])
    return stereo_record(
        [scene(k) for k in kinds], lambda _, frames: ours(tracker, frames), {"peer": FakePeer()}
    )


# -- who is judged ----------------------------------------------------------------------------


def test_judged_scenes_show_nothing_that_was_trained_or_tuned_on():
    scenes = judged_stereo([], [])
    assert len(scenes) == JUDGED >= 30
    assert {s.config.families for s in scenes} == {FAMILIES_JUDGE}
    assert not set(FAMILIES_JUDGE) & set(FAMILIES_TRAIN)
    judge = set(anatomy_seeds("judge"))
    assert {s.seed for s in scenes} <= judge
    timed = {s.seed for s in timed_stereo()}
    assert timed <= judge
    assert not timed & {s.seed for s in scenes}
    tuned = calibrate_stereo(5)
    assert {s.seed for s in tuned} <= set(anatomy_seeds("calibrate"))
    assert {s.config.families for s in tuned} == {FAMILIES_TRAIN}


def test_parts_of_the_calibrate_list_do_not_overlap():
    first, second = calibrate_stereo(4), calibrate_stereo(4, first=4)
    assert len({s.seed for s in first + second}) == 8
    assert first + second == calibrate_stereo(8)


def test_real_screws_and_anatomies_come_on_top_with_seeds_of_their_own(tmp_path):
    (tmp_path / "a.ply").write_text("")
    scenes = judged_stereo([tmp_path], [tmp_path])
    real = [s for s in scenes if s.kind == "real screws"]
    assert len(real) >= 10
    assert all(s.config.screw_files == (tmp_path / "a.ply",) for s in real)
    assert len([s for s in scenes if s.kind == "real anatomy"]) == 3
    assert len({s.seed for s in scenes}) == len(scenes)
    assert len({s.name for s in scenes}) == len(scenes)


def test_folders_that_hold_nothing_are_refused(tmp_path):
    with pytest.raises(InputError, match="--implants"):
        implant_files([tmp_path])
    with pytest.raises(InputError, match="--anatomy"):
        judged_stereo([], [tmp_path / "none"])
    with pytest.raises(InputError, match="--scenes"):
        foreign_stereo(tmp_path)


def test_scenes_are_written_once_per_configuration(tmp_path, monkeypatch):
    written = []

    def simulate(folder, anatomy, seed, seconds, scenes, stereo_config):
        assert scenes == ("stereo",)
        folder.mkdir(parents=True)  # fails where the old scene was not cleared away
        written.append((seed, stereo_config.families))

    monkeypatch.setattr(bench_stereo_scenes, "simulate", simulate)
    (one,) = calibrate_stereo(1)
    for _ in range(2):
        (folder,) = write_scenes(tmp_path, [one])
    assert folder.folder == tmp_path / one.name
    assert written == [(one.seed, FAMILIES_TRAIN)]
    write_scenes(tmp_path, [replace(one, config=replace(one.config, rods="held"))])
    write_scenes(tmp_path, [one], seconds=0.2)
    assert len(written) == 3


# -- what is counted --------------------------------------------------------------------------


def test_each_scene_starts_afresh_and_refused_pairs_lose_their_heads():
    tracker = FakeTracker(HEADS[:3], refused=(200,))
    answer = ours(tracker, pairs())
    assert tracker.resets == 1
    assert answer.refused == ("black image",)
    assert len(answer.ms) == 3
    r = record(FakeTracker(HEADS[:3], refused=(200,)))
    h = r["methods"][OURS]["heads"][ALL]
    assert (h["found"], h["visible_heads"]) == (6, 9)
    rods = r["methods"][OURS]["rods"][ALL]
    assert (rods["found"], rods["missed"]) == (2, 1)


def test_first_pair_alone_is_reported_apart():
    r = record(FakeTracker(HEADS[:3], refused=(100,)))["methods"][OURS]["heads"]
    assert (r[FIRST]["found"], r[FIRST]["visible_heads"]) == (0, 3)
    assert (r[ALL]["found"], r[ALL]["visible_heads"]) == (6, 9)


def test_a_false_row_is_counted_per_visible_head_and_told_in_words():
    ghost = np.concatenate([HEADS[:2], [[0.03, 0.05, 0.5]]])
    r = record(FakeTracker(ghost))
    h = r["methods"][OURS]["heads"][ALL]
    assert h["false"] == 3
    assert h["false_per_visible"] == pytest.approx(1 / 3)
    missed, false = r["scenes"][0]["failures"]
    assert missed.startswith("L3 left missed in pair 0 (70 of 90 px, nearest row")
    assert false.startswith("a row that is no head in pair 0 (50 mm from")


def test_hidden_heads_are_no_failure():
    lines = failures([], only(truth(), [100]))
    assert lines == [
        f"L{k} left missed in pair 0 ({px} of 90 px, no row)"
        for k, px in ((1, 90), (2, 80), (3, 70))
    ]


def test_what_fails_again_and_again_is_told_once():
    four = replace(truth(), frames={k: TruthFrame(k, {}) for k in (100, 200, 300, 400)})
    more = tuple(replace(s, stamp_ns=400) for s in four.screws if s.stamp_ns == 100)
    lines = failures([], replace(four, screws=four.screws + more))
    assert len(lines) == 3
    assert all(line.endswith("and 1 more") for line in lines)


def test_a_peer_reports_neither_axis_nor_bound_nor_rod():
    answer = peer_answer(FakePeer(), pairs())
    assert answer.rods is None
    m = record()["methods"]["peer"]
    assert m["rods"] is None
    h = m["heads"][ALL]
    assert h["axis_deg"] is None
    assert h["coverage95"] is None
    assert h["signed_depth_mm"]["mean"] == pytest.approx(3.0)
    assert m["refused"] == {"no texture": 1}


def error(lateral: float, depth: float, range_m: float) -> HeadError:
    d = float(np.hypot(lateral, depth))
    return HeadError(d, lateral, depth, 1.0, True, False, False, range_m)


def test_errors_at_half_a_metre_grow_with_distance_and_its_square():
    assert at_half_metre_mm(error(2.0, 0.0, 1.0)) == pytest.approx(1.0)
    assert at_half_metre_mm(error(0.0, -4.0, 1.0)) == pytest.approx(1.0)


def test_ranges_take_every_head_once():
    heads = tuple(error(1.0, 0.0, z) for z in (0.3, 0.45, 0.5, 0.55, 0.9))
    d = heads_document([ScrewScore(5, 5, 5, heads, 5, 0)])
    assert [row["distance_mm"]["count"] for row in d["by_range"]] == [1, 2, 2]


def test_wilson_interval_of_a_known_share():
    low, high = wilson(95, 100)
    assert (low, high) == (pytest.approx(0.888, abs=1e-3), pytest.approx(0.978, abs=1e-3))
    assert wilson(0, 0) is None


def test_a_rod_that_lies_elsewhere_is_missed_and_false():
    near = RodError("left", 0.5, False, 0.4, 1.0, 80.0)
    far = RodError("right", 8.0, False, 8.0, 9.0, 80.0)
    d = rods_document([RodScore((near, far), 0)])
    assert (d["found"], d["missed"], d["extra"]) == (1, 1, 1)
    assert d["worst_mm"] == 1.0


def test_timing_takes_both_stages_and_whole_pairs():
    m = record()["methods"][OURS]
    assert m["stages_ms"]["find"]["median"] == 3.0
    assert m["frame_ms"]["count"] == 3
    assert m["first_ms"]["count"] == 1  # of each scene


def test_kinds_are_pooled_apart():
    m = record(kinds=("generated screws", "real screws"))["methods"][OURS]["kinds"]
    assert {k: v["visible_heads"] for k, v in m.items()} == {
        "generated screws": 9,
        "real screws": 9,
    }


# -- command line -----------------------------------------------------------------------------


def parts(*arguments: str) -> tuple[str, ...]:
    return _parts(build_parser().parse_args(["bench", *arguments]))


def test_the_plain_bench_holds_all_parts_that_need_no_folder():
    assert parts() == (
        "accuracy", "timing", "precision", "identity", "gaps", "alive",
        "depth_calibration", "two_cameras", "stereo", "stereo_faults", "stereo_timing", "live_stereo",
        "rod", "bridges", "display", "overlay", "cameras", "planning", "segmentation",
        "replanning",
    )  # fmt: skip
    assert set(parts("--scenes", "x", "--data", "y")) == {
        *parts(), "foreign", "stereo_foreign", "calibration",
    }  # fmt: skip
    for only_part, missing in (("stereo_foreign", "--scenes"), ("calibration", "--data")):
        with pytest.raises(InputError, match=missing):
            parts("--only", only_part)
    with pytest.raises(InputError, match="stereo_timing"):
        parts("--only", "stereos")


def test_a_part_without_network_names_none():
    assert Loaded().provenance("rod")["model_sha256"] is None


# -- tables -----------------------------------------------------------------------------------


COUNT = {
    "planned": 98, "refused": ["x", "y"], "bends_median": 5.0, "planned_gap_p95_mm": 0.4,
    "within_1mm_without_rebend": 0.6, "gap_p95_without_rebend_mm": 2.1, "rebent": 0.5,
    "within_1mm": 0.99, "gap_p95_mm": 0.8, "planning_median_ms": 50.0, "planning_p95_ms": 80.0,
    "planning_max_ms": 120.0,
}  # fmt: skip
ROD_RECORD = {
    **BASE, "part": "rod", "model_sha256": None, "provider": None,
    "rods": {
        "seed": 1, "rods": 100, "4 screws": COUNT, "5 screws": COUNT,
        "hand": {"bend_deg": 1.0, "rotate_deg": 1.0, "feed_mm": 1.0, "measure_mm": 0.8},
    },
}  # fmt: skip
STAT = {"mean": 0.1, "median": 0.1, "p95": 0.3, "count": 10}
CALIBRATION = {
    **BASE, "part": "calibration", "model_sha256": None, "provider": None,
    "sets": [
        {"set": "stereo_opencv_chessboard", "corners": "chessboard", "pairs": 13, "unit": "squares",
         "baseline": 3.34, "rms_px": (0.4, 0.4, 0.4), "board": STAT, "reprojection_px": STAT,
         "row_px": STAT},
    ],
}  # fmt: skip


def stereo_line() -> dict:
    tracker = FakeTracker(HEADS[:3] + (0, 0, 0.0004), bound_mm=2.0)
    scored = record(tracker)
    m = scored["methods"][OURS]["heads"][ALL]
    m |= {"coverage95": 0.95, "coverage95_interval": (0.93, 0.97)}
    scored["methods"][OURS]["rods"][ALL]["covered"] = 0.95
    scored["methods"]["peer"]["heads"][ALL]["false_per_visible"] = 0.5
    settled = settled_record([scene()], tracker)
    assert settled["heads"]["rows"] == 0  # three pairs: no tenth
    settled = {**settled, "heads": {**m, "head_mm": STAT}, "named": m["rows"]}
    return {
        **BASE, "part": "stereo", **scored, "settled": settled, "peer_detector": "d", "peer_detector_sha256": "s",
        "peer_search": None,
        "peer_parameters": {"peer": {"threshold": 0.5}},
    }  # fmt: skip


MS = {"median": 60.0, "p95": 90.0, "p99": 95.0, "max": 99.0, "count": 20}
TIMING = {
    **BASE, "part": "stereo_timing", "size": [640, 480], "screws": [10, 8], "seeds": [1],
    "threads": {"onnxruntime": 2, "opencv": 1},
    "methods": {OURS: {"frame_ms": MS, "stages_ms": {"find": MS, "total": MS}},
                "peer": {"frame_ms": MS, "stages_ms": {}}},
}  # fmt: skip


def lines() -> dict:
    stages = dict.fromkeys(("stereo_stamp_to_publish", "stereo_work"))
    page = {"delay_ms": None, "pictures_per_s": [9.9], "browser_cores": 0.3}
    live = {**BASE, "part": "live_stereo", "pairs_per_s": 10.0, "processed": 80, "sent": 120,
            "fps": 15.0, "seconds": 8.0, "cpu_cores": None, "stages_ms": stages, "page": page}  # fmt: skip
    one = {"rod": ROD_RECORD, "stereo_timing": TIMING, "live_stereo": live}
    return {"stereo": stereo_line(), **one}


def rows(records) -> list[str]:
    table = targets_table(targets_stereo.TARGETS, records)
    return [row for row in table if row.startswith("| ")][1:]


def test_all_targets_met():
    found = rows(lines())
    assert len(found) == len(targets_stereo.TARGETS)
    assert all("| met |" in row for row in found), found


HEAD = ("stereo", "methods", OURS, "heads", ALL)
RODS = ("stereo", "methods", OURS, "rods", ALL)
SETTLED_HEADS = ("stereo", "settled", "heads")


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        ((*HEAD, "at_half_metre_mm"), {"mean": 1.1, "median": 0.6, "p95": 3.0}, "screw-head"),
        ((*HEAD, "at_half_metre_mm"), {"mean": 0.9, "median": 0.8, "p95": 3.0}, "screw-head"),
        ((*HEAD, "recall"), 0.97, "found"),
        ((*HEAD, "false_per_visible"), 0.02, "found"),
        ((*HEAD, "axis_deg"), {"mean": 4.0, "median": 2.6, "p95": 9.0}, "tulip axis"),
        ((*HEAD, "coverage95"), 0.91, "95 % bound"),
        ((*HEAD, "coverage95"), 0.99, "95 % bound"),
        (("stereo", "scenes", 0, "heads", "coverage95"), 0.79, "95 % bound"),
        ((*SETTLED_HEADS, "recall"), 0.98, "from the tenth pair of a track"),
        ((*SETTLED_HEADS, "false_per_visible"), 0.004, "from the tenth pair of a track"),
        ((*SETTLED_HEADS, "head_mm"), {**STAT, "median": 0.5}, "of a moving camera"),
        (("stereo", "settled", "named"), 8, "named"),
        (("stereo", "settled", "names_wrong"), 1, "named"),
        ((*RODS, "found"), 2, "rods found"),
        ((*RODS, "extra"), 1, "rods found"),
        ((*RODS, "visible_mm"), {"mean": 0.7, "median": 0.5, "p95": 1.5}, "rod centreline"),
        ((*RODS, "visible_max_mm"), {**STAT, "median": 0.5, "p95": 1.6}, "rod centreline"),
        ((*RODS, "covered"), 0.91, "stated sigma"),
        (("stereo", "methods", "peer", "heads", ALL, "head_mm"), {**STAT, "median": 0.0}, "peers"),
        (("rod", "rods", "4 screws", "within_1mm"), 0.85, "planned rod"),
        (("rod", "rods", "5 screws", "bends_median"), 7.0, "bends per rod"),
        (("rod", "rods", "4 screws", "planning_max_ms"), 501.0, "planning time"),
        (("stereo_timing", "methods", OURS, "frame_ms"), {**MS, "median": 101.0}, "stereo pair"),
        (("stereo_timing", "methods", OURS, "frame_ms"), {**MS, "p95": 141.0}, "stereo pair"),
    ],
)
def test_a_missed_target_is_marked_as_missed(path, value, what):
    records = copy.deepcopy(lines())
    at = records
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    missed = [row for row in rows(records) if "**missed**" in row]
    assert len(missed) == 1
    assert what in missed[0]


def test_the_document_holds_every_table_with_its_origin(tmp_path):
    for part, line in (*lines().items(), ("calibration", CALIBRATION)):
        jsonl.append(tmp_path / f"{part}.jsonl", line)
    for _ in range(2):
        jsonl.append(tmp_path / "stereo_foreign.jsonl", {**stereo_line(), "part": "stereo_foreign"})
    text = render(tmp_path)
    for title in (
        "## Screws", "## Rods", "## Rod planning", "## Stereo: recordings made elsewhere",
        "## Real stereo calibration images", "## Time of a stereo pair",
    ):  # fmt: skip
        assert f"\n{title}\n" in text
    assert "so far: 2." in text
    assert "model `bbbbbbbbbbbb`" in text
    assert "2 more rows refused" not in text  # two numbers of screws: four rows
    assert "4 more rows refused" in text


def test_a_run_that_found_nothing_still_has_its_tables(tmp_path):
    line = stereo_line() | record(FakeTracker(np.zeros((0, 3)), rods=()))
    assert "0 of 9 (0.0 %)" in table_text(line)
    jsonl.append(tmp_path / "stereo.jsonl", line)
    assert "missed" in render(tmp_path)


def test_calibration_says_where_the_stated_precision_is_missed():
    worse = copy.deepcopy(CALIBRATION)
    assert "| met |" in table_text(worse)
    worse["sets"][0]["rms_px"] = (0.4, 0.47, 0.4)
    assert "**missed**" in table_text(worse)
    given = {**worse["sets"][0], "set": "stereo_laparoscope_tracked_A", "rms_px": None}
    assert "| met |" in table_text({**worse, "sets": [given]})
    given["reprojection_px"] = {**STAT, "mean": 0.3}
    assert "**missed**" in table_text({**worse, "sets": [given]})


def test_the_table_says_how_the_peers_got_their_settings():
    line = stereo_line()
    assert "not searched" in results_stereo.settings_table(line)[0]
    line["peer_search"] = {
        "pairs": 24, "split": "validation", "command": "search", "model_sha256": "s",
    }  # fmt: skip
    assert "24 validation pairs: `search` |" in results_stereo.settings_table(line)[0]
    line["peer_detector_sha256"] = "newer"
    assert "earlier model" in results_stereo.settings_table(line)[0]


def test_long_lists_of_failures_end():
    line = stereo_line()
    line["scenes"][0]["failures"] = ["x"] * 100
    words = results_stereo.failures_list(line)
    assert len(words) < 50
    assert any("60 more" in w for w in words)
