# SPDX-License-Identifier: Apache-2.0
"""`spinenav screws` from recording to files: rows, determinism, what it refuses, what it keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import ros_support
import stereo_support as support

from spine_nav_bringup import cli, screws
from spine_nav_common.core.errors import RecordingError
from spine_nav_common.core.implant_outputs import read_rods, read_screws
from spine_nav_common.core.outputs import read_timings
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.tables import read_json
from spine_nav_common.core.truth import Truth, TruthFrame, TruthRod, TruthScrew, write_truth
from spine_nav_common.parameters import ParameterError
from stereo_screw_tracker.core.load import StereoCore

STAMPS = [support.START_NS + i * support.PERIOD_NS for i in range(6)]


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    return support.write_stereo_recording(tmp_path_factory.mktemp("stereo") / "rec")


def run(recording: Path, out: Path, **modes) -> screws.ScrewsOutcome:
    options = {k: modes.pop(k) for k in ("cranial", "case", "remap", "assignments") if k in modes}
    tracker = support.FakeTracker(**modes)
    return screws.find_screws(recording, out, core=StereoCore(tracker, "fake", "f" * 64), **options)


def command(monkeypatch, recording: Path, out: Path, *more: str, **modes) -> int:
    """The command line around a fake tracker."""
    tracker = support.FakeTracker(**modes)
    monkeypatch.setattr(screws, "load_core", lambda *_: StereoCore(tracker, "fake", "f" * 64))
    return cli.main(["screws", str(recording), "--out", str(out), *more])


def write_pairs(folder: Path, pairs) -> Path:
    with RecordingWriter(folder, compress=False) as writer:
        for pair in pairs:
            writer.write_stereo(pair)
    return folder


def test_every_pair_gives_a_row_per_head_and_the_last_one_its_rods(recording, tmp_path):
    outcome = run(recording, tmp_path)
    rows = read_screws(tmp_path / "screws.csv")
    assert [r.stamp_ns for r in rows] == [s for s in STAMPS for _ in range(8)]
    assert {(r.level, r.side) for r in rows} == set(support.heads_m())
    stamp_ns, rods = read_rods(tmp_path / "rods.json")
    assert (stamp_ns, [r.side for r in rods]) == (STAMPS[-1], ["left", "right"])
    assert not rods[0].seen.all()
    assert list(read_timings(tmp_path / "timings.csv")) == ["finder", "refine"]
    assert outcome.exit_code == 0


def test_a_second_run_gives_the_same_bytes_that_depend_on_the_pixels(recording, tmp_path):
    run(recording, tmp_path / "a")
    run(recording, tmp_path / "b")
    for name in ("screws.csv", "rods.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    rows = read_screws(tmp_path / "a" / "screws.csv")
    assert len({r.head_m[0] for r in rows if r.track_id == 0}) == len(STAMPS)


def test_the_table_names_heads_rods_and_the_next_step(recording, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, recording, tmp_path) == 0
    text = capsys.readouterr().out
    for word in ("L3 left", "rod left", "1.1 mm", "81 % seen", "next: spinenav rod plan --screws"):
        assert word in text
    assert cli.main(["rod", "plan", "--screws", str(tmp_path / "screws.csv"), "--out",
                     str(tmp_path)]) == 0  # fmt: skip
    assert (tmp_path / "bend_plan_left.json").is_file()


def test_the_picture_shows_what_was_found(recording, tmp_path):
    run(recording, tmp_path)
    picture = cv2.imread(str(tmp_path / "overlay.png"))
    assert picture.shape[0] >= 2 * support.CAMERA.height
    assert picture.shape[1] >= 2 * support.CAMERA.width
    green = (picture.astype(int) - (120, 224, 64))[..., :]
    assert (np.abs(green).max(axis=2) < 10).sum() > 20


def test_summary_says_what_ran(recording, tmp_path):
    run(recording, tmp_path, reject_at=2)
    summary = read_json(tmp_path / "summary.json")
    assert summary["hashes"]["model"] == "f" * 64 and len(summary["hashes"]["recording"]) == 64
    assert summary["frames"] == 6 and summary["drops"]["read"] == 6
    assert summary["refused"] == {"the left image is black: check exposure and lens cap": 1}
    assert summary["timings_ms"]["refine"]["count"] == 5
    assert "status_counts" not in summary


def test_a_refused_pair_has_no_rows_and_leaves_no_rod(recording, tmp_path):
    run(recording, tmp_path, reject_at=6)
    assert {r.stamp_ns for r in read_screws(tmp_path / "screws.csv")} == set(STAMPS[:-1])
    assert read_rods(tmp_path / "rods.json") == (STAMPS[-1], [])


def test_a_held_head_is_marked_and_not_counted_as_seen(recording, tmp_path):
    outcome = run(recording, tmp_path, hidden=3)
    assert outcome.seen[3] == 0 and outcome.seen[2] == 6
    assert "held, not seen now" in outcome.text()


def test_evaluate_scores_an_output_without_poses(recording, tmp_path, capsys):
    run(recording, tmp_path)
    found = [
        TruthScrew(s, i, level, side, p, np.array([0.0, 0.0, -1.0]), 90)
        for s in STAMPS
        for i, ((level, side), p) in enumerate(support.heads_m().items())
    ]
    rods = [TruthRod(STAMPS[-1], s, support.rod(s).centreline_m) for s in ("left", "right")]
    frames = {s: TruthFrame(s, {}) for s in STAMPS}
    write_truth(
        tmp_path / "truth.json",
        Truth(support.LEVELS, support.LEVELS, (), frames, tuple(found), tuple(rods)),
    )
    case = ros_support.write_small_case(tmp_path / "case")
    assert cli.main(["evaluate", str(tmp_path), "--truth", str(tmp_path / "truth.json"),
                     "--case", str(case), "--json"]) == 0  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert (report["screws"]["recall"], report["screws"]["precision"]) == (1.0, 1.0)
    assert report["screws"]["level_wrong"] == report["screws"]["side_wrong"] == 0
    assert report["rods"]["found"] == 2 and report["rods"]["distance_mm"]["mean"] < 0.01


# -- bad input, through the command


def refused(monkeypatch, capsys, recording, tmp_path, *more) -> str:
    """One line on stderr, exit code 2, nothing written."""
    assert command(monkeypatch, recording, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("spinenav screws: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    return error


def test_an_rgbd_recording_is_sent_to_replay(tmp_path, monkeypatch, capsys):
    recording = ros_support.write_small_recording(tmp_path / "rec", 2)
    assert "use spinenav replay" in refused(monkeypatch, capsys, recording, tmp_path)


def test_no_recording(tmp_path, monkeypatch, capsys):
    assert "no such" in refused(monkeypatch, capsys, tmp_path / "none", tmp_path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"baseline_m": 0.0}, "no baseline"),
        ({"baseline_m": -0.06}, "left and right are swapped"),
        ({"baseline_m": 60.0}, "in metres"),
        ({"right": np.zeros((60, 80), np.uint8)}, "do not fit camera_info"),
    ],
    ids=["none", "negative", "millimetres", "size"],
)
def test_a_pair_that_cannot_be_measured_is_refused(tmp_path, monkeypatch, capsys, change, text):
    recording = write_pairs(tmp_path / "rec", [replace(support.frame(i), **change) for i in (0, 1)])
    assert text in refused(monkeypatch, capsys, recording, tmp_path)


def test_a_missing_right_camera_is_refused(tmp_path, monkeypatch, capsys):
    with RecordingWriter(tmp_path / "rec") as writer:
        pair = support.frame(0)
        writer._image("/stereo/left/image_rect", pair, pair.left, "mono8")
        writer.write_camera_info("/stereo/left/camera_info", pair)
    error = refused(monkeypatch, capsys, tmp_path / "rec", tmp_path)
    assert "/stereo/right/image_rect" in error and "--remap" in error


def test_images_of_other_times_are_no_pairs(tmp_path, monkeypatch, capsys):
    """20 ms apart: less than half a frame, but a hand-held camera has moved by then."""
    with RecordingWriter(tmp_path / "rec") as writer:
        for i in range(3):
            pair, later = support.frame(i), support.frame(i)
            later = replace(later, stamp_ns=later.stamp_ns + 20_000_000)
            writer._image("/stereo/left/image_rect", pair, pair.left, "mono8")
            writer.write_camera_info("/stereo/left/camera_info", pair)
            writer._image("/stereo/right/image_rect", later, later.right, "mono8")
            writer.write_camera_info("/stereo/right/camera_info", later, support.BASELINE_M)
    assert command(monkeypatch, tmp_path / "rec", tmp_path / "out") == 1
    assert "no left image has a right one of its time" in capsys.readouterr().out
    assert read_screws(tmp_path / "out" / "screws.csv") == []


def test_a_truncated_file_keeps_what_reads_and_ends_with_1(tmp_path, monkeypatch, capsys):
    whole = support.write_stereo_recording(tmp_path / "rec", 12, sqlite3=True)
    data = next(whole.glob("*.db3")).read_bytes()
    cut = tmp_path / "cut.db3"
    cut.write_bytes(data[: int(len(data) * 0.6)])
    assert command(monkeypatch, cut, tmp_path / "out") == 1
    stamps = {r.stamp_ns for r in read_screws(tmp_path / "out" / "screws.csv")}
    assert 2 <= len(stamps) < 12
    assert "INCOMPLETE" in capsys.readouterr().out


def test_nothing_usable_ends_with_1_and_the_reason(tmp_path, monkeypatch, capsys):
    recording = support.write_stereo_recording(tmp_path / "rec", 1)
    assert command(monkeypatch, recording, tmp_path / "out", reject_at=1) == 1
    assert "no pair could be used: the left image is black" in capsys.readouterr().out


def test_no_screw_is_said_with_a_remedy(recording, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, recording, tmp_path / "out", empty=True) == 0
    text = capsys.readouterr().out
    assert "no screw head was found" in text and "next: spinenav rod plan" not in text


def test_a_fault_keeps_the_rows_before_it(recording, tmp_path):
    with pytest.raises(RuntimeError, match="on purpose"):
        run(recording, tmp_path, error_at=4)
    assert len({r.stamp_ns for r in read_screws(tmp_path / "screws.csv")}) == 3
    assert read_json(tmp_path / "summary.json")["stopped"] == "stopped by an error"


def test_heads_without_sides_ask_for_the_direction(recording, tmp_path):
    outcome = run(recording, tmp_path, labelled=False)
    assert "give --cranial left, right, up or down" in outcome.text()
    assert "next: spinenav rod plan" not in outcome.text()
    told = run(recording, tmp_path, labelled=False, cranial="up")
    assert "next: spinenav rod plan" in told.text()


@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        ("stereo_tracker.tracker.tracks.hold=3", "did you mean 'tracks.hold_s'"),
        ("stereo_tracker.tracker.tracks.hold_s=-3", "at least"),
        ("stereo_tracker.left_topic=/a", "belongs to live"),
    ],
)
def test_wrong_settings_are_refused(recording, tmp_path, assignment, text):
    with pytest.raises(ParameterError, match=text):
        run(recording, tmp_path / "out", assignments=[assignment])


def test_other_topic_names_come_in_by_remap(tmp_path):
    with RecordingWriter(tmp_path / "rec") as writer:
        pair = support.frame(0)
        for eye, image, baseline in (("l", pair.left, 0.0), ("r", pair.right, pair.baseline_m)):
            writer._image(f"/zed/{eye}/rgb", pair, image, "mono8")
            writer.write_camera_info(f"/zed/{eye}/info", pair, baseline)
    with pytest.raises(RecordingError, match="--remap"):
        run(tmp_path / "rec", tmp_path / "out")
    remap = tmp_path / "remap.yaml"
    remap.write_text(
        "/stereo/left/image_rect: /zed/l/rgb\n/stereo/right/image_rect: /zed/r/rgb\n"
        "/stereo/left/camera_info: /zed/l/info\n/stereo/right/camera_info: /zed/r/info\n"
    )
    run(tmp_path / "rec", tmp_path / "out", remap=remap)
    assert len(read_screws(tmp_path / "out" / "screws.csv")) == 8
