# SPDX-License-Identifier: Apache-2.0
"""`replay` of a recording with stereo topics: its screws and rods beside its poses, or alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ros_support
import stereo_support as support

from spine_nav_bringup import replay
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.implant_outputs import read_rods, read_screws
from spine_nav_common.core.outputs import read_poses, read_timings
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.tables import read_json
from spine_nav_common.parameters import ParameterError
from stereo_screw_tracker.core.load import StereoCore

COUNT = 3


class FakeSegmenter:
    provider = "fake"
    model_sha256 = "f" * 64


@pytest.fixture
def case(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(
        replay,
        "Navigator",
        lambda case, *_, camera=None: ros_support.FakeNavigator(case.exposed_levels, 0),
    )
    monkeypatch.setattr(replay, "load_segmenter", lambda *_: FakeSegmenter())
    return ros_support.write_small_case(tmp_path / "case")


def write(folder: Path, rgbd: bool = True, frame_id: str = "stereo_left_optical_frame") -> Path:
    with RecordingWriter(folder, compress=False) as writer:
        for index in range(COUNT):
            if rgbd:
                writer.write_rgbd(ros_support.frame(index))
            writer.write_stereo(replace(support.frame(index), frame_id=frame_id))
    return folder


def run(recording: Path, case: Path, out: Path, **options):
    tracker = support.FakeTracker(**options.pop("modes", {}))
    core = StereoCore(tracker, "fake", "e" * 64)
    return replay.replay(recording, case, out, stereo_core=core, **options), tracker


def test_both_cameras_give_all_files_byte_for_byte_again(case, tmp_path):
    recording = write(tmp_path / "rec")
    outcome, _ = run(recording, case, tmp_path / "a")
    run(recording, case, tmp_path / "b")
    for name in ("poses.csv", "screws.csv", "rods.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len(read_poses(tmp_path / "a" / "poses.csv")) == COUNT * 2
    assert len(read_screws(tmp_path / "a" / "screws.csv")) == COUNT * 8
    assert {"update", "stereo_refine"} == set(read_timings(tmp_path / "a" / "timings.csv")) - {
        "stereo_finder"
    }
    summary = read_json(tmp_path / "a" / "summary.json")
    assert summary["stereo"]["frames"] == COUNT and summary["hashes"]["stereo_model"] == "e" * 64
    assert outcome.exit_code == 0 and "8 screw heads and 2 rods" in outcome.text()


def test_a_stereo_recording_alone_gives_screws_and_no_pose(case, tmp_path):
    outcome, _ = run(write(tmp_path / "rec", rgbd=False), case, tmp_path / "out")
    assert read_poses(tmp_path / "out" / "poses.csv") == []
    assert len(read_screws(tmp_path / "out" / "screws.csv")) == COUNT * 8
    assert len(read_rods(tmp_path / "out" / "rods.json")[1]) == 2
    assert outcome.exit_code == 0


def test_vertebrae_name_levels_only_where_both_cameras_share_a_frame(case, tmp_path):
    _, apart = run(write(tmp_path / "apart"), case, tmp_path / "a")
    assert apart.vertebrae == [None] * COUNT
    shared = write(tmp_path / "shared", frame_id="camera_color_optical_frame")
    _, tracker = run(shared, case, tmp_path / "b")
    assert all(set(v) == set(ros_support.LEVELS) for v in tracker.vertebrae)
    np.testing.assert_allclose(tracker.vertebrae[0]["L2"][:3, 3], (0.01, 0.02, 0.5))


def test_settings_of_both_cores_are_told_apart(case, tmp_path):
    recording = write(tmp_path / "rec")
    outcome, _ = run(
        recording, case, tmp_path / "out",
        assignments=["navigation.navigator.hold_s=1.5", "stereo_tracker.tracker.cranial=up"],
    )  # fmt: skip
    assert outcome.summary["config"]["hold_s"] == 1.5
    assert outcome.summary["config"]["stereo"]["cranial"] == "up"
    with pytest.raises(ParameterError, match="did you mean 'tracks.hold_s'"):
        run(recording, case, tmp_path / "o", assignments=["stereo_tracker.tracker.tracks.hold=1"])


def test_nothing_usable_in_stereo_alone_ends_with_1(case, tmp_path):
    with RecordingWriter(tmp_path / "rec") as writer:
        writer.write_stereo(support.frame(0))
    outcome, _ = run(tmp_path / "rec", case, tmp_path / "out", modes={"reject_at": 1})
    assert outcome.exit_code == 1 and "no pair could be used" in outcome.stopped


def test_a_fault_in_the_stereo_part_keeps_the_poses(case, tmp_path):
    with pytest.raises(RuntimeError, match="on purpose"):
        run(write(tmp_path / "rec"), case, tmp_path / "out", modes={"error_at": 2})
    assert len(read_poses(tmp_path / "out" / "poses.csv")) == COUNT * 2
    assert len(read_screws(tmp_path / "out" / "screws.csv")) == 8
    assert read_json(tmp_path / "out" / "summary.json")["stopped"] == "stopped by an error"


def _broken(folder: Path, scene: str, mid_run: bool = False) -> Path:
    """A recording of both cameras, one of them of no use: no camera calibration, or wrong unit."""

    class Writer(RecordingWriter):
        def write(self, topic, msgtype, msg, stamp_ns):
            if scene == "stereo" and topic == "/stereo/right/camera_info":
                msg = replace(msg, p=np.zeros(12))
            if scene == "rgbd" and not mid_run and topic.endswith("color/camera_info"):
                msg = replace(msg, k=np.zeros(9))
            super().write(topic, msgtype, msg, stamp_ns)

    with Writer(folder, compress=False) as writer:
        for index in range(COUNT + 3):
            frame = ros_support.frame(index)
            if mid_run:  # no depth at first, then depth of another unit
                far = np.nan if index < COUNT else 12.0
                frame = replace(frame, depth_m=np.full_like(frame.depth_m, far))
            writer.write_rgbd(frame)
            writer.write_stereo(support.frame(index))
    return folder


@pytest.mark.parametrize("scene", ["rgbd", "stereo"])
def test_one_broken_camera_is_told_and_the_other_is_used(case, tmp_path, scene):
    recording = _broken(tmp_path / "rec", scene)
    outcome, _ = run(recording, case, tmp_path / "out")
    poses = read_poses(tmp_path / "out" / "poses.csv")
    assert len(poses) == (0 if scene == "rgbd" else (COUNT + 3) * 2)
    assert (tmp_path / "out" / "screws.csv").exists() == (scene == "rgbd")
    assert outcome.exit_code == 1
    part = {"rgbd": "the RGB-D part", "stereo": "the stereo part"}[scene]
    assert part in outcome.stopped and "calibrat" in outcome.stopped
    (note,) = read_json(tmp_path / "out" / "summary.json")["notes"]
    assert note in outcome.text() and "camera_info" in note


def test_a_camera_that_breaks_in_mid_run_leaves_the_other_one(case, tmp_path):
    outcome, _ = run(_broken(tmp_path / "rec", "rgbd", mid_run=True), case, tmp_path / "out")
    assert len(read_poses(tmp_path / "out" / "poses.csv")) >= 2
    assert len(read_screws(tmp_path / "out" / "screws.csv")) == (COUNT + 3) * 8
    assert outcome.exit_code == 1 and "wrong unit" in outcome.stopped


def test_both_cameras_broken_is_wrong_input(case, tmp_path):
    with RecordingWriter(tmp_path / "rec", compress=False) as writer:
        for index in range(COUNT):
            writer.write_rgbd(ros_support.frame(index, replace(ros_support.CAMERA, fx=0.0)))
            pair = support.frame(index)
            writer.write_stereo(replace(pair, intrinsics=replace(pair.intrinsics, fx=0.0)))
    with pytest.raises(InputError, match="camera_info"):
        run(tmp_path / "rec", case, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _with_tf(folder: Path) -> Path:
    with RecordingWriter(folder, compress=False) as writer:
        support.record_tf_static(writer)
        for index in range(COUNT):
            writer.write_rgbd(ros_support.frame(index))
            writer.write_stereo(support.frame(index))
    return folder


@pytest.mark.parametrize("by", ["file", "recording", "both"])
def test_vertebrae_name_levels_of_another_camera_by_its_extrinsic(case, tmp_path, by):
    recording = write(tmp_path / "rec") if by == "file" else _with_tf(tmp_path / "rec")
    files = [] if by == "recording" else [support.write_calibration(tmp_path / "rig.yaml")]
    outcome, tracker = run(recording, case, tmp_path / "out", calibration=files)
    at = support.T_LEFT_COLOUR @ (0.01, 0.02, 0.5, 1.0)  # where the fake navigator puts them
    for vertebrae in tracker.vertebrae:
        np.testing.assert_allclose(vertebrae["L2"][:3, 3], at[:3], atol=1e-6)
    assert outcome.summary["notes"] == []


def test_an_extrinsic_that_is_missing_or_contradicts_itself_is_told_and_not_guessed(case, tmp_path):
    outcome, tracker = run(write(tmp_path / "rec"), case, tmp_path / "out")
    assert tracker.vertebrae == [None] * COUNT and outcome.exit_code == 0
    (note,) = outcome.summary["notes"]
    assert "registered vertebrae name no screws: no transform joins" in note
    assert "--calibration FILE" in note and f"note: {note}" in outcome.text()
    wrong = [support.write_calibration(tmp_path / "wrong.yaml", shift_m=0.01)]
    outcome, tracker = run(_with_tf(tmp_path / "tf"), case, tmp_path / "o", calibration=wrong)
    assert tracker.vertebrae == [None] * COUNT
    (note,) = outcome.summary["notes"]
    assert "contradict each other by 10.0 mm" in note and "wrong.yaml" in note


def test_a_bad_calibration_is_refused_before_anything_is_written(case, tmp_path):
    (tmp_path / "bad.yaml").write_text("version: 1\ntransforms: []\n")
    with pytest.raises(InputError, match=r"bad\.yaml"):
        run(write(tmp_path / "rec"), case, tmp_path / "out", calibration=[tmp_path / "bad.yaml"])
    assert not (tmp_path / "out").exists()
