# SPDX-License-Identifier: Apache-2.0
"""`live --session` beside disks that are full, slow or read-only, and a recorder that dies: the guidance
goes on, and what is lost is said."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support as support
from mock_model import write_mock_model

from spine_nav_bringup import live
from spine_nav_bringup.live import run_live
from spine_nav_bringup.live_options import LiveOptions
from spine_nav_bringup.live_processes import Processes
from spine_nav_common.core.outputs import read_poses
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.storage import StorageCut, open_storage
from spine_nav_common.core.tables import read_json
from spine_nav_common.core.types import Intrinsics, RgbdFrame
from spine_nav_display.core.session_folder import SessionError
from spine_nav_display.core.session_reading import open_session
from spine_nav_display.core.session_stream import ChunkFile
from spine_nav_display.core.session_verify import verify
from spine_registration.ros.navigation import NavigationNode

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module", autouse=True)
def _domain():
    support.own_domain()


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return support.write_small_case(tmp_path_factory.mktemp("session") / "case")


NOISY = Intrinsics(160, 120, 150.0, 150.0, 79.5, 59.5)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Two seconds of pictures that nothing compresses: 77 kB each."""
    folder = tmp_path_factory.mktemp("noise") / "rec"
    rng = np.random.default_rng(0)
    with RecordingWriter(folder, compress=False) as writer:
        for index in range(30):
            colour = rng.integers(0, 255, (120, 160, 3), np.uint8)
            depth = rng.uniform(0.4, 0.6, (120, 160)).astype(np.float32)
            stamp_ns = support.START_NS + index * support.PERIOD_NS
            writer.write_rgbd(RgbdFrame(stamp_ns, colour, depth, NOISY))
    return folder


def run(case, recording, out, session, progress=None, **modes):
    """`live` with a fake navigator inside the real nodes."""

    def make(values, namespace):
        given = dict(values)
        navigation = NavigationNode(
            given.pop("navigation"), namespace, support.fake_loader([], register_after=1, **modes)
        )
        return {"navigation": navigation, **live.default_nodes(given, namespace)}

    patient = ("navigation.max_stamp_age_ms=60000",)
    options = LiveOptions(case, f"replay:{recording}", out, assignments=patient, session=session)
    return run_live(options, progress, make)


@pytest.fixture
def small_disk(tmp_path):
    """Makes small file systems in memory; needs the right to mount."""
    mounted = []

    def mount(options):
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(path)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount a file system")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_does_not_stop_the_guidance_and_is_told(case, noise, tmp_path, small_disk):
    session = small_disk("size=600k") / "session"
    outcome = run(case, noise, tmp_path / "out", session)
    assert outcome.exit_code == 0
    told = read_json(tmp_path / "out" / "summary.json")["session"]
    assert "No space left" in told["problem"] and told["pictures_left_out"] > 0
    stamps = {r.stamp_ns for r in read_poses(tmp_path / "out" / "poses.csv")}
    assert len(stamps) == 30
    assert open_session(session).manifest["session"]


def test_a_disk_that_blocks_does_not_hold_up_the_guidance(case, noise, tmp_path, monkeypatch):
    """It takes nothing before most of the results are there."""
    gate, blocked, results = threading.Event(), threading.Event(), []
    real = ChunkFile.write

    def slow(self, items):
        blocked.set()
        assert gate.wait(60.0)
        return real(self, items)

    def progress(done, total, note):
        results.append((done, blocked.is_set() and not gate.is_set()))
        if done >= 20:
            gate.set()

    monkeypatch.setattr(ChunkFile, "write", slow)
    session = tmp_path / "session"
    outcome = run(case, noise, tmp_path / "out", session, progress)
    assert outcome.exit_code == 0
    assert sum(while_blocked for _, while_blocked in results) >= 10
    assert len(open_session(session).shown) == len(results)


def test_a_read_only_disk_is_refused_before_anything_starts(case, noise, tmp_path, small_disk):
    session = small_disk("ro,size=1m") / "session"
    with pytest.raises(SessionError, match="cannot be written .*; name a folder on a disk"):
        run(case, noise, tmp_path / "out", session)
    assert not (tmp_path / "out").exists()


def test_a_second_session_in_one_folder_is_refused_with_2(case, noise, tmp_path):
    session = tmp_path / "session"
    run(case, noise, tmp_path / "out", session)
    ended = support.spinenav(
        "live", "--case", case, "--source", f"replay:{noise}", "--out", tmp_path / "other",
        "--session", session,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "a session is recorded there already; name a folder" in ended.stderr
    assert not verify(session).findings


def test_a_killed_recorder_comes_back_and_the_guidance_goes_on(case, tmp_path, monkeypatch):
    recording = support.write_small_recording(tmp_path / "rec", 900)
    model = write_mock_model(tmp_path / "model")
    session, out = tmp_path / "session", tmp_path / "out"
    made, killed, results_then = [], [], []
    monkeypatch.setattr(live, "Processes", lambda *a: made.append(Processes(*a)) or made[0])

    def progress(done, total, note):
        recorder = made[0].nodes["session_recorder"]
        written = recorder.fact("record", {}).get("messages", 0)
        if not killed and written > 20:
            os.kill(recorder.beat.pid, signal.SIGKILL)
            killed.append(recorder.beat.pid)
        if recorder.lives > 1 and written > 20:
            results_then.append(done)
            if len(results_then) == 20:
                os.kill(os.getpid(), signal.SIGTERM)

    options = LiveOptions(case, f"replay:{recording}", out, model=model, session=session)
    outcome = run_live(options, progress)
    assert outcome.stopped == "stopped by SIGTERM" and killed
    assert sorted(p.name for p in session.glob("events_*")) == [
        "events_0001.mcap",
        "events_0002.mcap",
    ]
    assert not verify(session).damaged
    # The journal, of which late listeners get the last minute, has no hole.
    (life,) = open_session(session).lives
    assert [n.values["n"] for n in life] == list(range(len(life)))


def test_answers_and_requests_are_in_the_record(case, noise, tmp_path):
    """Whoever asked, and what became of it."""

    def make(values, namespace):
        given = dict(values)
        navigation = NavigationNode(
            given.pop("navigation"), namespace, support.fake_loader([], ask=True)
        )
        asked = []

        class Asking(type(navigation)):
            def done(self, output):
                super().done(output)
                if self.counts["processed"] == 3 and not asked:
                    asked.append(self._confirm(False, "ZZZZ"))
                    asked.append(self._confirm(True, "AAAA"))

        navigation.__class__ = Asking
        return {"navigation": navigation, **live.default_nodes(given, namespace)}

    session = tmp_path / "session"
    options = LiveOptions(
        case, f"replay:{noise}", tmp_path / "out", session=session,
        assignments=("navigation.max_stamp_age_ms=60000",),
    )  # fmt: skip
    run_live(options, None, make)
    # More than one where a busy machine lets the navigation begin anew.
    asked = [n.values for life in open_session(session).lives for n in life if n.op == "asked"]
    assert [(a["what"], a["accept"], a["id"]) for a in asked] == [
        ("confirm", False, "ZZZZ"),
        ("confirm", True, "AAAA"),
    ]
    assert "the hypothesis changed" in asked[0]["refused"] and asked[1]["refused"] == ""


def test_a_record_that_was_cut_reads_as_far_as_it_goes(case, noise, tmp_path):
    session = tmp_path / "session"
    run(case, noise, tmp_path / "out", session)
    path = session / "events_0001.mcap"
    os.truncate(path, int(path.stat().st_size * 0.6))
    read = open_session(session)
    assert "cut off" in read.cut and read.shown
    with pytest.raises(StorageCut):
        list(open_storage(session).messages(["/spine/registration/status"]))
