# SPDX-License-Identifier: Apache-2.0
"""`spinenav live` end to end on the pip-only machine: bring-up, replay to result, faults, clean end.

The scenarios of test/launch/, with the real nodes around a fake navigator.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support as support
from aiohttp import ClientSession
from mock_model import write_mock_model

from spine_nav_bringup import live
from spine_nav_bringup.live import run_live
from spine_nav_bringup.live_options import LiveOptions
from spine_nav_bringup.live_processes import Processes
from spine_nav_bringup.ros.bring_up import ACTIVE
from spine_nav_common.core.errors import CaseError, RecordingError
from spine_nav_common.core.outputs import read_poses, read_timings
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.tables import read_json
from spine_nav_common.core.types import Status
from spine_nav_common.parameters import ParameterError
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
    clock = {"domain": "recording", "steps": 0, "drift_ppm": None}
    assert summary["clocks"] == {"navigation": clock}
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
        ("stereo:/dev/video0", ParameterError, r"is no source; give realsense\[:SERIAL"),
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


def test_killed_and_held_processes_come_back_and_the_run_goes_on(case, tmp_path, monkeypatch):
    recording = support.write_small_recording(tmp_path / "rec", 900)
    model = write_mock_model(tmp_path / "model")
    made = []
    monkeypatch.setattr(live, "Processes", lambda *a: made.append(Processes(*a)) or made[0])
    faults = {  # of the node's process, or of its guardian
        "navigation": (signal.SIGKILL, lambda node, guardian: node),
        "case_server": (signal.SIGKILL, lambda node, guardian: guardian),
        "overlay": (signal.SIGSTOP, lambda node, guardian: node),
    }
    killed, back = {}, set()

    def progress(done, total, note):
        processes = made[0]
        for name, (number, whose) in faults.items():
            beat = processes.nodes[name].beat
            if name not in killed and beat is not None:
                killed[name] = whose(beat.pid, processes.pid(name))
                os.kill(killed[name], number)
        for name, node in processes.nodes.items():
            if node.lives > 1 and node.beat.state == ACTIVE:
                back.add(name)
        if back == set(faults):
            os.kill(os.getpid(), signal.SIGTERM)

    out = tmp_path / "out"
    slow = ("camera_source.rate=0.2",)  # five minutes: longer than any restart
    options = LiveOptions(case, f"replay:{recording}", out, model=model, assignments=slow)
    outcome = run_live(options, progress)
    assert back == set(faults)
    assert outcome.stopped == "stopped by SIGTERM"
    assert all(made[0].pid(name) is None for name in made[0].nodes), "no process is left behind"
    assert none_left(node.beat.pid for node in made[0].nodes.values())
    assert len(rows_by_frame(out)) > 1


def children_of(*pids):
    """Process ids whose parent is one of these."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) in pids:
                found.append(int(stat.parent.name))
    return found


def running_live(case, folder, *more):
    """The command in a session of its own, that has shown results, its guardians and its nodes."""
    recording = support.write_small_recording(folder / "rec", 900)
    model = write_mock_model(folder / "model")
    command = [sys.executable, "-m", "spine_nav_bringup.cli", "live", "--case", str(case)]
    command += [
        "--source",
        f"replay:{recording}",
        "--out",
        str(folder),
        "--model",
        str(model),
        *more,
    ]
    parent = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    poses = folder / "poses.csv"
    until(lambda: parent.poll() is None and poses.is_file() and len(read_poses(poses)) > 2)
    guardians = children_of(parent.pid)
    nodes = children_of(*guardians)
    assert len(guardians) == len(nodes) == (5 if more else 4)
    return parent, guardians + nodes


def until(condition):
    end = time.monotonic() + 120.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def none_left(pids):
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_display_serves_the_page_beside_the_run_and_ends_with_it(case, tmp_path):
    """The page hears of every level; the display is a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    parent, nodes = running_live(case, tmp_path, "--display", "--port", str(port))
    assert len(nodes) == 10, "guardian and node of four and of the display"
    heard = asyncio.run(asyncio.wait_for(levels_heard(f"http://127.0.0.1:{port}/"), 60.0))
    assert heard == dict.fromkeys(support.LEVELS, "searching")
    os.kill(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=60.0)
    assert "Traceback" not in errors and f"the page: http://127.0.0.1:{port}/" in errors
    assert none_left(nodes)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port)).close()


async def levels_heard(url):
    """Status per level, as a page hears it."""
    async with ClientSession() as session, session.ws_connect(f"{url}control") as control:
        async for message in control:
            told = message.json()
            if told["kind"] == "levels":
                return {e["level"]: e["status"] for e in told["levels"]}


def test_no_node_outlives_a_killed_parent(case, tmp_path):
    parent, nodes = running_live(case, tmp_path)
    parent.kill()
    parent.wait()
    until(lambda: none_left(nodes))


def test_ctrl_c_twice_ends_the_command_cleanly(case, tmp_path):
    """To the whole process group, as a terminal sends it."""
    parent, nodes = running_live(case, tmp_path)
    os.killpg(parent.pid, signal.SIGINT)
    os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=60.0)
    assert parent.returncode == 1, errors
    assert "Traceback" not in errors
    assert read_json(tmp_path / "summary.json")["stopped"] == "stopped by SIGINT"
    assert none_left(nodes)


def test_the_command_refuses_a_damaged_model_with_2_and_one_line(case, recording, tmp_path):
    model = write_mock_model(tmp_path / "model")
    model.write_bytes(model.read_bytes() + b"x")
    ended = spinenav_live(
        "--case", case, "--source", f"replay:{recording}", "--out", tmp_path, "--model", model
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("spinenav live: ")
    assert "the file is damaged or replaced" in ended.stderr.splitlines()[-1]
