# SPDX-License-Identifier: Apache-2.0
"""`live --session` end to end: what is recorded, that it replays to the same bytes, and that no disk
holds up the guidance."""

from __future__ import annotations

import os
import shutil

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support as support

from spine_nav_bringup import cli
from spine_nav_common.core.outputs import read_poses
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.storage import open_storage
from spine_nav_common.core.tables import read_json
from spine_nav_display.core.session_folder import read_manifest
from spine_nav_display.core.session_reading import open_session
from spine_nav_display.core.session_replay import compute_again, load_means
from spine_nav_display.core.session_verify import verify
from spine_nav_sim.core.operation import simulate
from spine_perception.core.segmenter import load_segmenter

pytestmark = pytest.mark.ros
NAME = "Mueller_Hans_1962"


@pytest.fixture(scope="module", autouse=True)
def _domain():
    support.own_domain()


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return support.write_small_case(tmp_path_factory.mktemp("session") / "case")


# -- the real core, recorded and computed again


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A virtual operation, navigated by the real nodes and recorded; its folders are named after a
    person, as people do."""
    folder = tmp_path_factory.mktemp(NAME)
    operation = folder / NAME
    simulate(operation, None, 400007, 2.0, ("rgbd",))
    frame = next(open_recording(operation / "recording").rgbd_frames())
    depth = support.depth_calibration(folder / "depth.yaml", frame.intrinsics)
    ended = support.spinenav(
        "live", "--case", operation / "case", "--source", f"replay:{operation / 'recording'}",
        "--out", folder / "out", "--session", folder / "session", "--calibration", depth.path,
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
    ended = support.spinenav("replay", session, "--case", operation / "case", "--out", tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert support.lines_without_latency(tmp_path) == support.lines_without_latency(out)


def test_a_session_without_its_depth_calibration_is_not_computed_again(recorded, tmp_path, capsys):
    operation, _, session = recorded
    bare = tmp_path / "session"
    shutil.copytree(session, bare)
    shutil.rmtree(bare / "inputs")
    out = tmp_path / "out"
    assert (
        cli.main(["replay", str(bare), "--case", str(operation / "case"), "--out", str(out)]) == 2
    )
    assert "depth calibration" in capsys.readouterr().err


def test_an_audit_tells_what_was_shown_and_computes_it_again(recorded, capsys):
    operation, _, session = recorded
    case = str(operation / "case")
    assert cli.main(["audit", str(session), "--case", case, "--recompute", "all"]) == 0
    told = capsys.readouterr().out
    assert "tracked, predicted error" in told and "shape of the case proven" in told
    frames = len(open_session(session).shown)  # a busy machine drops some
    assert "verified" in told and f"frames computed again: {frames} same" in told
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
    monkeypatch.setattr("spine_nav_display.core.session_life.code_sha256", lambda _: "other")
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
    ended = support.spinenav("replay", session, "--case", case, "--out", tmp_path)
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
    for path in (p for p in session.rglob("*") if p.is_file()):
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
    assert 1 <= told.count("<img ") == told.count("src='data:image/png;base64,")
    assert "://" not in told and NAME not in told


def test_poses_pictures_and_a_film_come_out_of_a_session(recorded, tmp_path, capsys):
    operation, out, session = recorded
    arguments = ["session", "export", str(session), "--out", str(tmp_path / "media")]
    case = ["--case", str(operation / "case")]
    assert cli.main([*arguments, "--csv", "--tum", "--mp4", "--screenshots", "2", *case]) == 0
    exported = support.lines_without_latency(tmp_path / "media")
    assert set(exported) <= set(support.lines_without_latency(out)), "as the live run wrote them"
    tracked = [line for line in exported if ",tracked," in line]
    tum = [line for f in (tmp_path / "media").glob("*.tum") for line in f.read_text().splitlines()]
    assert tracked and len([t for t in tum if not t.startswith("#")]) == len(tracked)
    assert len(list((tmp_path / "media").glob("*.png"))) == 2
    assert (tmp_path / "media/session.mp4").stat().st_size > 10_000
    for wrong, words in (
        ([], "nothing was asked for"),
        (["--mp4"], "give the operation's case"),
        (["--scrub", "--csv"], "undo each other"),
    ):
        capsys.readouterr()
        assert cli.main([*arguments, *wrong]) == 2
        assert words in capsys.readouterr().err
    inside = ["session", "export", str(session), "--out", str(session / "x"), "--csv"]
    assert cli.main(inside) == 2


def test_an_export_without_pictures_can_be_audited(recorded, tmp_path, capsys):
    _, _, session = recorded
    copy = tmp_path / "copy"
    assert cli.main(["session", "export", str(session), "--out", str(copy), "--scrub"]) == 0
    assert "60 pictures removed" in capsys.readouterr().out
    assert cli.main(["audit", str(copy)]) == 0
    assert "tracked, predicted error" in capsys.readouterr().out
    ended = support.spinenav(
        "replay", copy, "--case", recorded[0] / "case", "--out", tmp_path / "again"
    )
    assert ended.returncode == 2 and "no colour images" in ended.stderr


def test_a_missing_picture_is_told_and_what_follows_is_not_sure(recorded, tmp_path):
    operation, out, session = recorded
    cut = tmp_path / "session"
    shutil.copytree(session, cut)
    path = cut / "pictures_0001.mcap"
    os.truncate(path, path.stat().st_size // 2)
    ended = support.spinenav(
        "replay", cut, "--case", operation / "case", "--out", tmp_path / "again"
    )
    assert ended.returncode == 1
    assert "cut off" in ended.stdout and "not in the record" in ended.stdout
    again = support.lines_without_latency(tmp_path / "again")
    assert again == support.lines_without_latency(out)[: len(again)] and len(again) > 5
