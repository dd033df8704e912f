# SPDX-License-Identifier: Apache-2.0
"""`spinenav live` end to end on the pip-only machine: bring-up, replay to result, faults, clean end.

The scenarios of test/launch/, with the real nodes around a fake navigator.
"""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import rclpy
import ros_support as support
from mock_model import write_mock_model

from spine_nav_bringup import live
from spine_nav_bringup.live import LiveOptions, run_live
from spine_nav_common.core.errors import CaseError, RecordingError
from spine_nav_common.core.outputs import read_json, read_poses, read_timings
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.types import Status
from spine_nav_common.parameters import ParameterError
from spine_nav_common.ros.runtime import run_node, stop_on_signal
from spine_registration.ros.navigation import NavigationNode

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module", autouse=True)
def _domain():
    support.own_domain()


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return support.write_small_case(tmp_path_factory.mktemp("live") / "case")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return support.write_small_recording(tmp_path_factory.mktemp("live") / "rec", 12)


def nodes_with(navigators, **modes):
    """The real nodes, but for the navigator inside the navigation node."""

    def make(values, namespace):
        given = dict(values)
        navigation = NavigationNode(
            given.pop("navigation"), namespace, support.fake_loader(navigators, **modes)
        )
        return {"navigation": navigation, **live.default_nodes(given, namespace)}

    return make


def run(case, source, out, make, progress=None, **options):
    # On a busy machine frames come out late, and would be withdrawn for it.
    patient = ("navigation.max_stamp_age_ms=60000",)
    options["assignments"] = (*patient, *options.get("assignments", ()))
    return run_live(LiveOptions(case, source, out, **options), progress, make)


def rows_by_frame(out):
    rows = {}
    for row in read_poses(out / "poses.csv"):
        rows.setdefault(row.stamp_ns, []).append(row)
    return rows


def test_a_recording_runs_to_its_end_with_a_row_per_level_and_frame(case, recording, tmp_path):
    navigators = []
    make = nodes_with(navigators, register_after=0)
    outcome = run(case, f"replay:{recording}", tmp_path, make)
    assert outcome.exit_code == 0
    rows = rows_by_frame(tmp_path)
    assert list(rows) == [support.START_NS + i * support.PERIOD_NS for i in range(12)]
    assert all([r.level for r in frame] == list(support.LEVELS) for frame in rows.values())
    processed = [rows[stamp] for stamp in navigators[0].stamps]
    assert {r.status for r in processed[-1]} == {Status.TRACKED}
    np.testing.assert_allclose(processed[-1][0].T_camera_ct[:3, 3], (0.01, 0.02, 0.5))
    assert all(r.latency_ms > 0 for frame in processed for r in frame)
    summary = read_json(tmp_path / "summary.json")
    assert summary["results"] == len(navigators[0].stamps)
    assert summary["hashes"]["model"] == "0" * 64
    timings = read_timings(tmp_path / "timings.csv")
    assert "update" in timings
    # In the recording's own clock: stamps of the year 2023, seen with an age of milliseconds.
    assert summary["clocks"] == {"navigation": {"domain": "recording", "steps": 0}}
    assert 0 < np.median(timings["stamp_to_publish"]) < 60_000


def test_pixels_reach_the_core_unchanged_and_in_order(case, recording, tmp_path):
    navigators = []
    run(case, f"replay:{recording}", tmp_path, nodes_with(navigators))
    stamps, pixels = navigators[0].stamps, navigators[0].first_pixels
    assert stamps == sorted(set(stamps))
    assert pixels == [(s - support.START_NS) // support.PERIOD_NS for s in stamps]


def test_newest_frame_wins_and_a_dropped_frame_is_never_shown_as_tracked(case, recording, tmp_path):
    navigators = []
    make = nodes_with(navigators, slow_s=0.12, register_after=1)
    run(case, f"replay:{recording}", tmp_path, make)
    done = set(navigators[0].stamps)
    rows = rows_by_frame(tmp_path)
    skipped = [stamp for stamp in rows if stamp not in done]
    assert len(rows) == 12 and skipped
    assert read_json(tmp_path / "summary.json")["drops"]["dropped"] == len(skipped)
    assert all(r.status is not Status.TRACKED for stamp in skipped for r in rows[stamp])
    assert max(rows) in done, "the newest frame is the one that must be processed"


def test_a_fault_in_the_core_loses_one_frame_and_starts_the_navigation_anew(
    case, recording, tmp_path
):
    navigators = []
    make = nodes_with(navigators, error_at=2)
    outcome = run(case, f"replay:{recording}", tmp_path, make)
    assert outcome.exit_code == 0
    broken = rows_by_frame(tmp_path)[navigators[0].stamps[1]]
    assert {r.status for r in broken} == {Status.LOST}
    assert navigators[0].resets == 1
    assert read_json(tmp_path / "summary.json")["drops"]["faults"] == 1


def test_a_node_that_dies_ends_the_run_with_1_and_keeps_the_rows(case, recording, tmp_path):
    def make(values, namespace):
        nodes = nodes_with([])(values, namespace)

        def die(_):
            raise RuntimeError("died on purpose")

        nodes["case_server"]._on_status = die
        return nodes

    outcome = run(case, f"replay:{recording}", tmp_path, make)
    assert outcome.exit_code == 1
    assert "died on purpose" in read_json(tmp_path / "summary.json")["stopped"]
    assert (tmp_path / "poses.csv").is_file()


def test_a_gap_in_the_stream_withdraws_what_was_shown(case, tmp_path):
    with RecordingWriter(tmp_path / "rec") as writer:
        for index in (0, 1, 2, 3, 4, 40, 41):
            writer.write_rgbd(support.frame(index))
    outcome = run(case, f"replay:{tmp_path / 'rec'}", tmp_path, nodes_with([]))
    withdrawn = {w["stamp_ns"]: w["reason"] for w in outcome.summary["withdrawals"]}
    before_the_gap = support.START_NS + 4 * support.PERIOD_NS
    assert withdrawn[before_the_gap].startswith("no camera frames for ")


def test_a_truncated_recording_ends_with_1_after_what_reads(case, tmp_path):
    whole = support.write_small_recording(tmp_path / "rec", 12, sqlite3=True)
    whole = next(whole.glob("*.db3")).read_bytes()
    cut = tmp_path / "cut.db3"
    cut.write_bytes(whole[: int(len(whole) * 0.6)])
    outcome = run(case, f"replay:{cut}", tmp_path, nodes_with([]))
    assert outcome.exit_code == 1
    assert 4 <= len(rows_by_frame(tmp_path)) < 12


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_cleanly_and_keeps_the_rows(case, tmp_path, number):
    recording = support.write_small_recording(tmp_path / "rec", 150)  # 10 s

    def progress(done, _total, _note):
        if done == 2:
            os.kill(os.getpid(), number)

    outcome = run(case, f"replay:{recording}", tmp_path, nodes_with([]), progress)
    assert outcome.exit_code == 1
    assert 2 <= len(rows_by_frame(tmp_path)) < 150
    assert signal.Signals(number).name in read_json(tmp_path / "summary.json")["stopped"]


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ("stereo:/dev/video0", ParameterError, "is no source; give realsense, stereo"),
        ("webcam", ParameterError, "is no source; give realsense"),
        ("replay:", ParameterError, "is no source"),
        ("replay:/nowhere", RecordingError, "no such recording"),
    ],
)
def test_wrong_sources_are_refused_before_anything_starts(case, tmp_path, source, error, text):
    with pytest.raises(error, match=text):
        run(case, source, tmp_path / "out", nodes_with([]))
    assert not (tmp_path / "out").exists()


def test_a_wrong_case_is_refused(recording, tmp_path):
    with pytest.raises(CaseError):
        run(tmp_path / "none", f"replay:{recording}", tmp_path / "out", nodes_with([]))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("navigation.navigator.level_margn=3", "did you mean 'navigator.level_margin'"),
        ("navigation.frame_timeout_ms=soon", "give a float"),
        ("navigator.level_margin=3", "give NODE.NAME=VALUE"),
        ("camera_source.rate=-1", "at least 0.05"),
    ],
)
def test_wrong_parameters_are_start_up_errors_with_remedy(case, recording, tmp_path, text, match):
    with pytest.raises(ParameterError, match=match):
        run(case, f"replay:{recording}", tmp_path, nodes_with([]), assignments=(text,))


def spinenav_live(*arguments):
    """The installed command in a process of its own, without a terminal."""
    command = [sys.executable, "-m", "spine_nav_bringup.cli", "live", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, check=False
    )


def test_the_command_runs_the_real_nodes_to_the_end(case, recording, tmp_path):
    """A mock network sees no bone, so that every level stays `searching`."""
    model = write_mock_model(tmp_path / "model")
    ended = spinenav_live(
        "--case", case, "--source", f"replay:{recording}", "--out", tmp_path, "--model", model
    )
    assert ended.returncode == 0, ended.stderr
    rows = rows_by_frame(tmp_path)
    assert len(rows) == 12
    assert {r.status for frame in rows.values() for r in frame} == {Status.SEARCHING}
    assert read_json(tmp_path / "summary.json")["results"] >= 1
    assert "12 frames" in ended.stdout and "Traceback" not in ended.stderr


def test_a_dead_overlay_is_started_again_and_the_navigation_goes_on(case, tmp_path):
    """The overlay of `live` is a process: killed, it comes back and is configured again."""
    recording = support.write_small_recording(tmp_path / "rec", 60)
    seen = SimpleNamespace(child=None, killed=0, back=False)

    def make(values, namespace):
        given = dict(values)
        navigation = NavigationNode(
            given.pop("navigation"), namespace, support.fake_loader([], register_after=0)
        )
        nodes = {"navigation": navigation, **live.live_nodes(given, namespace)}
        seen.child = nodes["overlay"]
        assert seen.child.process.pid != os.getpid()
        return nodes

    def progress(done, total, note):
        if not seen.killed:
            seen.killed = seen.child.process.pid
            seen.child.process.kill()
        seen.back |= seen.child.process.pid != seen.killed and seen.child.process.poll() is None

    outcome = run(case, f"replay:{recording}", tmp_path / "out", make, progress)
    assert seen.back and seen.child.restarts == 1
    assert outcome.exit_code == 0, outcome.stopped
    assert len(rows_by_frame(tmp_path / "out")) == 60
    assert seen.child.process.poll() is not None, "no process is left behind"


def test_an_orphaned_child_ends_by_itself(case, monkeypatch):
    monkeypatch.setenv("SPINENAV_PARENT_PID", "1" if os.getppid() != 1 else "2")
    with stop_on_signal():  # puts pytest's handlers back
        assert run_node(lambda: rclpy.create_node("orphan")) == 0


def test_the_command_refuses_a_damaged_model_with_2_and_one_line(case, recording, tmp_path):
    model = write_mock_model(tmp_path / "model")
    model.write_bytes(model.read_bytes() + b"x")
    ended = spinenav_live(
        "--case", case, "--source", f"replay:{recording}", "--out", tmp_path, "--model", model
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("spinenav live: ")
    assert "the file is damaged or replaced" in ended.stderr.splitlines()[-1]
