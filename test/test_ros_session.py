# SPDX-License-Identifier: Apache-2.0
"""`live --session` end to end: what is recorded, that it replays to the same bytes, and that no disk
holds up the guidance."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support as support
from mock_model import write_mock_model

from spine_nav_bringup import cli, live
from spine_nav_bringup.live import run_live
from spine_nav_bringup.live_options import LiveOptions
from spine_nav_bringup.live_processes import Processes
from spine_nav_common.core.outputs import read_poses
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.storage import StorageCut, open_storage
from spine_nav_common.core.tables import read_json
from spine_nav_common.core.types import Intrinsics, RgbdFrame
from spine_nav_display.core.session_folder import SessionError, read_manifest
from spine_nav_display.core.session_reading import open_session
from spine_nav_display.core.session_replay import compute_again, load_means
from spine_nav_display.core.session_verify import verify
from spine_nav_sim.core.operation import simulate
from spine_perception.core.segmenter import load_segmenter
from spine_registration.ros.navigation import NavigationNode

pytestmark = pytest.mark.ros
NAME = "Mueller_Hans_1962"


@pytest.fixture(scope="module", autouse=True)
def _domain():
    support.own_domain()


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return support.write_small_case(tmp_path_factory.mktemp("session") / "case")


def spinenav(*arguments):
    """The installed command in a process of its own, without a terminal."""
    command = [sys.executable, "-m", "spine_nav_bringup.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, check=False
    )


# -- the real core, recorded and computed again


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A virtual operation, navigated by the real nodes and recorded; its folders are named after a
    person, as people do."""
    folder = tmp_path_factory.mktemp(NAME)
    operation = folder / NAME
    simulate(operation, None, 400007, 2.0, ("rgbd",))
    ended = spinenav(
        "live", "--case", operation / "case", "--source", f"replay:{operation / 'recording'}",
        "--out", folder / "out", "--session", folder / "session",
        "--set", "camera_source.rate=0.2", "--set", "navigation.max_stamp_age_ms=60000",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return operation, folder / "out", folder / "session"


def test_the_record_holds_every_picture_and_is_whole(recorded):
    _, out, session = recorded
    summary = read_json(out / "summary.json")
    assert summary["session"]["problem"] == ""
    assert summary["session"]["pictures_left_out"] == 0
    assert summary["session"]["pictures_not_received"] == 0
    assert read_manifest(session)["streams"]["pictures"]["messages"] == 4 * 30
    checked = verify(session)
    assert checked.findings == ()
    assert read_manifest(session)["ended_ns"] is not None


def test_a_session_replays_to_the_same_bytes(recorded, tmp_path):
    operation, out, session = recorded
    assert any(r.status.value == "tracked" for r in read_poses(out / "poses.csv"))
    ended = spinenav("replay", session, "--case", operation / "case", "--out", tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert support.lines_without_latency(tmp_path) == support.lines_without_latency(out)


def test_an_audit_tells_what_was_shown_and_computes_it_again(recorded, capsys):
    operation, _, session = recorded
    case = str(operation / "case")
    assert cli.main(["audit", str(session), "--case", case, "--recompute", "all"]) == 0
    told = capsys.readouterr().out
    assert "tracked, predicted error" in told and "shape of the case proven" in told
    assert "verified" in told and "30 same" in told
    assert not any(word in told for word in ("DAMAGED", "different", "unknown"))


def test_a_flipped_byte_is_named_by_the_audit(recorded, tmp_path, capsys):
    _, _, session = recorded
    broken = tmp_path / "session"
    shutil.copytree(session, broken)
    path = broken / "pictures_0001.mcap"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))
    assert cli.main(["audit", str(broken)]) == 1
    assert "DAMAGED: pictures_0001.mcap: chunk" in capsys.readouterr().out


def move_poses(monkeypatch):
    """A core that is off by less than an atom."""
    from spine_registration.core import tracker

    real = tracker.step

    def other(*args):
        result = real(*args)
        T = result.state.T_camera_ct.copy()
        T[:, 0, 3] += 1e-12
        object.__setattr__(result.state, "T_camera_ct", T)
        return result

    monkeypatch.setattr("spine_registration.core.navigator.step", other)


def test_another_decision_than_the_recorded_one_is_called_different(recorded, capsys, monkeypatch):
    """The audit is worth nothing if it calls everything the same."""
    operation, _, session = recorded
    move_poses(monkeypatch)
    case = str(operation / "case")
    assert cli.main(["audit", str(session), "--case", case, "--recompute", "all"]) == 1
    assert "different: " in capsys.readouterr().out


def test_other_code_that_gives_other_bits_proves_nothing(recorded, tmp_path, capsys, monkeypatch):
    operation, _, session = recorded
    arguments = ["replay", str(session), "--case", str(operation / "case"), "--out", str(tmp_path)]
    monkeypatch.setattr("spine_nav_display.core.session_replay.code_sha256", lambda: "other")
    assert cli.main(arguments) == 0, "the same bits are the same, whatever made them"
    assert "recorded with the code" in capsys.readouterr().out
    move_poses(monkeypatch)
    assert cli.main(arguments) == 1
    told = capsys.readouterr().out
    assert "do not come out as they were shown" in told and "this proves nothing" in told


def test_a_last_frame_that_was_noted_and_not_published_has_no_row(recorded):
    """As when the navigation is killed between the two."""
    operation, _, folder = recorded
    session = open_session(folder)
    last = session.lives[-1][-1].frame.stamp_ns
    session.complete.remove(last)
    means = load_means(session, operation / "case", load_segmenter())
    published = [again.published for again in compute_again(session, means)]
    assert published[-1] is None and None not in published[:-1]


def test_another_case_is_refused(recorded, case, tmp_path):
    _, _, session = recorded
    ended = spinenav("replay", session, "--case", case, "--out", tmp_path)
    assert ended.returncode == 2
    assert (
        "recorded with the case" in ended.stderr
        and "give the case of the operation" in ended.stderr
    )


def test_no_name_of_a_person_gets_into_the_record(recorded):
    _, _, session = recorded
    storage = open_storage(session)
    for raw in storage.messages(storage.topics):
        assert NAME.encode() not in raw.data, raw.topic
    for path in session.iterdir():
        assert NAME.encode() not in path.read_bytes(), path.name


def test_a_session_is_a_recording_for_all_else(recorded):
    """Every frame of it, for those who ask nothing of the session."""
    operation, _, session = recorded
    originals = open_recording(operation / "recording").rgbd_frames()
    copies = list(open_recording(session).rgbd_frames())
    assert len(copies) == 30
    for a, b in zip(originals, copies, strict=True):
        assert a.colour.tobytes() == b.colour.tobytes()
        assert a.depth_m.tobytes() == b.depth_m.tobytes()


def test_a_report_is_one_page_that_needs_nothing_else(recorded, tmp_path):
    operation, _, session = recorded
    page = tmp_path / "page.html"
    case = str(operation / "case")
    assert cli.main(["report", str(session), "--case", case, "--out", str(page)]) == 0
    told = page.read_text()
    assert "every byte is as it was written" in told and "not a medical device" in told
    assert "<td>L1</td>" in told and "Nobody was asked." in told
    assert 1 <= told.count("<img ") == told.count("src='data:image/png;base64,") <= 3
    assert "://" not in told and NAME not in told


def test_an_export_without_pictures_can_be_audited(recorded, tmp_path, capsys):
    _, _, session = recorded
    copy = tmp_path / "copy"
    assert cli.main(["session", "export", str(session), "--out", str(copy), "--scrub"]) == 0
    assert "60 pictures removed" in capsys.readouterr().out
    assert cli.main(["audit", str(copy)]) == 0
    assert "tracked, predicted error" in capsys.readouterr().out
    ended = spinenav("replay", copy, "--case", recorded[0] / "case", "--out", tmp_path / "again")
    assert ended.returncode == 2 and "no colour images" in ended.stderr


def test_a_missing_picture_is_told_and_what_follows_is_not_sure(recorded, tmp_path):
    operation, out, session = recorded
    cut = tmp_path / "session"
    shutil.copytree(session, cut)
    path = cut / "pictures_0001.mcap"
    os.truncate(path, path.stat().st_size // 2)
    ended = spinenav("replay", cut, "--case", operation / "case", "--out", tmp_path / "again")
    assert ended.returncode == 1
    assert "cut off" in ended.stdout and "not in the record" in ended.stdout
    again = support.lines_without_latency(tmp_path / "again")
    assert again == support.lines_without_latency(out)[: len(again)] and len(again) > 5


# -- fake navigation: faults of the disk and of the recorder


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


def run(case, recording, out, session, **modes):
    """`live` with a fake navigator inside the real nodes."""

    def make(values, namespace):
        given = dict(values)
        navigation = NavigationNode(
            given.pop("navigation"), namespace, support.fake_loader([], register_after=1, **modes)
        )
        return {"navigation": navigation, **live.default_nodes(given, namespace)}

    patient = ("navigation.max_stamp_age_ms=60000",)
    options = LiveOptions(case, f"replay:{recording}", out, assignments=patient, session=session)
    return run_live(options, None, make)


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


def test_a_read_only_disk_is_refused_before_anything_starts(case, noise, tmp_path, small_disk):
    session = small_disk("ro,size=1m") / "session"
    with pytest.raises(SessionError, match="cannot be written .*; name a folder on a disk"):
        run(case, noise, tmp_path / "out", session)
    assert not (tmp_path / "out").exists()


def test_a_second_session_in_one_folder_is_refused_with_2(case, noise, tmp_path):
    session = tmp_path / "session"
    run(case, noise, tmp_path / "out", session)
    ended = spinenav(
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
    (life,) = open_session(session).lives
    asked = [n.values for n in life if n.op == "asked"]
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
