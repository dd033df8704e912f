# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest

from spine_nav_common.core.geometry import exp_se3
from spine_nav_common.core.implant_outputs import (
    RodCurve,
    ScrewRow,
    ScrewWriter,
    read_rods,
    read_screws,
    write_rods,
)
from spine_nav_common.core.outputs import (
    OutputError,
    ResultWriter,
    read_poses,
    read_timings,
    write_summary,
)
from spine_nav_common.core.tables import read_json, write_json
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status

POSE = exp_se3(np.array([0.1, -0.2, 0.5, 3.0, 0.2, -0.4]))
HEADER = "stamp_ns,level,tx,ty,tz,qx,qy,qz,qw,status,predicted_tre_mm,latency_ms\n"


def result(stamp_ns: int = 7) -> NavigationResult:
    levels = (
        LevelEstimate("L1", Status.TRACKED, POSE, predicted_tre_mm=1.25),
        LevelEstimate("L2", Status.OCCLUDED, POSE, predicted_tre_mm=3.0),
        *(
            # a pose inside the core that the status forbids to show
            LevelEstimate(f"L{i}", status, POSE, predicted_tre_mm=1.0)
            for i, status in enumerate(
                (Status.SEARCHING, Status.REGISTERING, Status.LOST, Status.REJECTED), start=3
            )
        ),
    )
    return NavigationResult(stamp_ns, levels, {"track": 3.21987, "network": 40.0})


def test_only_tracked_and_occluded_rows_have_a_pose(tmp_path):
    with ResultWriter(tmp_path) as writer:
        writer.write(result())
    lines = (tmp_path / "poses.csv").read_text().splitlines()
    assert lines[0] + "\n" == HEADER
    assert len(lines) == 7
    for line, status in zip(lines[3:], ("searching", "registering", "lost", "rejected")):
        assert line.split(",")[2:] == [""] * 7 + [status, "", ""]
    rows = read_poses(tmp_path / "poses.csv")
    assert [r.T_camera_ct is not None for r in rows] == [True, True] + [False] * 4
    np.testing.assert_allclose(rows[0].T_camera_ct, POSE, atol=2e-9)
    assert (rows[0].stamp_ns, rows[0].level, rows[0].status) == (7, "L1", Status.TRACKED)
    assert rows[0].predicted_tre_mm == 1.25
    assert rows[0].latency_ms is None
    assert "nan" not in (tmp_path / "poses.csv").read_text().lower()


def test_equal_results_are_equal_bytes_also_where_minus_zero_or_minus_q_comes_up(tmp_path):
    a, b = np.eye(4), np.eye(4)
    a[:3, 3] = (0.0, 1e-12, 0.5)
    b[:3, 3] = (-0.0, -1e-12, 0.5)
    b[0, 1] = -1e-17
    texts = []
    for name, T in (("a", a), ("b", b)):
        with ResultWriter(tmp_path / name) as writer:
            level = LevelEstimate("L1", Status.TRACKED, T, predicted_tre_mm=1.0)
            writer.write(NavigationResult(1, (level,)))
        texts.append((tmp_path / name / "poses.csv").read_bytes())
    assert texts[0] == texts[1]
    assert b"-0.000000000" not in texts[0]


def test_rows_are_on_disk_before_the_run_ends(tmp_path):
    writer = ResultWriter(tmp_path)
    writer.write(result(1), latency_ms=12.5)
    rows = read_poses(tmp_path / "poses.csv")  # neither closed nor exited: as after a crash
    assert len(rows) == 6
    assert rows[0].latency_ms == 12.5
    assert read_timings(tmp_path / "timings.csv")["track"].tolist() == [3.22]


@pytest.mark.parametrize(
    "level",
    [
        LevelEstimate("L1", Status.TRACKED, None, predicted_tre_mm=1.0),
        LevelEstimate("L1", Status.TRACKED, POSE, predicted_tre_mm=None),
        LevelEstimate("L1", Status.OCCLUDED, POSE, predicted_tre_mm=float("nan")),
        LevelEstimate("L1", Status.TRACKED, POSE * np.nan, predicted_tre_mm=1.0),
        LevelEstimate("L1", Status.TRACKED, 2 * POSE, predicted_tre_mm=1.0),
    ],
)
def test_a_tracked_row_without_a_sound_pose_is_never_written(tmp_path, level):
    with ResultWriter(tmp_path) as writer, pytest.raises(ValueError, match="L1"):
        writer.write(NavigationResult(1, (level,)))
    assert (tmp_path / "poses.csv").read_text() == HEADER


GOOD = "1,L1,0,0,0.5,0,0,0,1,tracked,1.0,\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "header"),
        ("a,b\n", "header"),
        (HEADER + GOOD + "1,L1,0,0\n", "line 3"),
        (HEADER + GOOD.replace("tracked", "fine"), "line 2"),
        (HEADER + GOOD.replace("0.5", "far"), "line 2"),
        (HEADER + GOOD.replace("0.5", "nan"), "line 2"),
        (HEADER + GOOD.replace("0,0,0,1,", "0,0,0,0,"), "line 2"),
        (HEADER + GOOD.replace("1.0,", ","), "line 2"),
        (HEADER + GOOD.replace("tracked", "lost"), "line 2"),
        (HEADER + GOOD.replace("1,L1", "1.5,L1"), "line 2"),
    ],
)
def test_damaged_poses_are_refused_with_the_line(tmp_path, text, words):
    (tmp_path / "poses.csv").write_text(text)
    with pytest.raises(OutputError, match=words) as caught:
        read_poses(tmp_path / "poses.csv")
    assert caught.value.remedy


def test_no_poses_at_all(tmp_path):
    with pytest.raises(OutputError, match=r"poses\.csv.*run replay"):
        read_poses(tmp_path / "poses.csv")


def test_screws_round_trip(tmp_path):
    rows = [
        ScrewRow(5, 0, np.array([0.01, -0.02, 0.4]), np.array([0, 0.6, -0.8]), 0.9, 1.5),
        ScrewRow(5, 1, np.array([0.03, -0.02, 0.4]), np.array([0, 0, -1.0]), 1.0, 2, "L3", "left"),
    ]
    with ScrewWriter(tmp_path) as writer:
        writer.write(rows)
        writer.write([])
        with pytest.raises(ValueError, match="screw head"):
            writer.write([ScrewRow(6, 0, np.full(3, np.nan), rows[0].axis, 1.0, 1.0)])
    back = read_screws(tmp_path / "screws.csv")
    assert len(back) == 2
    for a, b in zip(rows, back, strict=True):
        np.testing.assert_allclose(b.head_m, a.head_m, atol=1e-9)
        np.testing.assert_allclose(b.axis, a.axis, atol=1e-9)
        assert (a.track_id, a.level, a.side, a.bound95_mm) == (
            b.track_id, b.level, b.side, b.bound95_mm
        )  # fmt: skip
    text = (tmp_path / "screws.csv").read_text()
    (tmp_path / "screws.csv").write_text(text.replace("1.5000", "nan"))
    with pytest.raises(OutputError, match="line 2"):
        read_screws(tmp_path / "screws.csv")


def test_rods_round_trip_and_no_rod_is_an_empty_list(tmp_path):
    points = np.random.default_rng(0).normal(size=(4, 3))
    rod = RodCurve("left", points, np.arange(4.0), np.array([True, True, False, True]))
    write_rods(tmp_path, 9, [rod])
    stamp, (back,) = read_rods(tmp_path / "rods.json")
    assert (stamp, back.side, back.seen.tolist()) == (9, "left", [True, True, False, True])
    np.testing.assert_allclose(back.centreline_m, points, atol=1e-9)
    assert back.free_m is None and back.free_sigma_mm is None
    write_rods(tmp_path, 9, [])
    assert json.loads((tmp_path / "rods.json").read_text())["rods"] == []


def test_the_curve_without_heads_round_trips(tmp_path):
    points, free = np.random.default_rng(0).normal(size=(2, 4, 3))
    rod = RodCurve("left", points, np.arange(4.0), np.ones(4, bool), free, np.arange(4.0) + 1.0)
    write_rods(tmp_path, 9, [rod])
    _, (back,) = read_rods(tmp_path / "rods.json")
    curve, sigma = back.without_heads()
    np.testing.assert_allclose(curve, free, atol=1e-9)
    np.testing.assert_allclose(sigma, rod.free_sigma_mm)


@pytest.mark.parametrize(
    "rod",
    [
        RodCurve("left", np.zeros((3, 3)), np.zeros(2), np.ones(3, bool)),
        RodCurve("left", np.full((3, 3), np.nan), np.zeros(3), np.ones(3, bool)),
        RodCurve("left", np.zeros((3, 3)), np.zeros(3), np.ones(3, bool), np.zeros((3, 3))),
        RodCurve(
            "left", np.zeros((3, 3)), np.zeros(3), np.ones(3, bool), np.zeros((2, 3)), np.zeros(3)
        ),
    ],
)
def test_rod_that_is_no_curve_is_not_written(tmp_path, rod):
    with pytest.raises(ValueError, match="rod"):
        write_rods(tmp_path, 9, [rod])
    assert not (tmp_path / "rods.json").exists()


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"version": 2, "rods": [], "stamp_ns": 1},
        {"version": 1, "stamp_ns": 1, "rods": [{"side": "left"}]},
        {"version": 1, "stamp_ns": 1, "rods": [
            {"side": "left", "centreline_camera_m": [[0, 0, 0]], "sigma_mm": [], "seen": [True]}]},
    ],
)  # fmt: skip
def test_damaged_rods_are_refused(tmp_path, document):
    write_json(tmp_path / "rods.json", document)
    with pytest.raises(OutputError, match="rods"):
        read_rods(tmp_path / "rods.json")


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_summary_counts_what_was_written(tmp_path):
    with ResultWriter(tmp_path) as writer:
        for i in range(20):
            writer.write(result(i))
    summary = write_summary(
        tmp_path, versions={"spinenav": "0"}, hashes={"case": "ab"},
        drops={"late": 2}, confirmed=["L3"],
    )  # fmt: skip
    assert read_json(tmp_path / "summary.json") == summary
    assert summary["status_counts"]["tracked"] == 20
    assert summary["status_counts"]["lost"] == 20
    assert summary["timings_ms"]["network"] == {
        "median": 40.0, "p95": 40.0, "p99": 40.0, "count": 20
    }  # fmt: skip
    assert summary["drops"] == {"late": 2}
    assert summary["confirmed"] == ["L3"]
