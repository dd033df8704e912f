# SPDX-License-Identifier: Apache-2.0
"""What an audit makes of the events of pages, and of results that differ in a bit."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import session_support as support

from spine_nav_common.core.journal import entry_text, read_entry
from spine_nav_common.core.recording_writer import TYPES
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status
from spine_nav_display.core import session_reading
from spine_nav_display.core.session_audit import differences, timeline
from spine_nav_display.core.session_pairs import Screw, Screws, screws_of
from spine_nav_display.core.session_private import (
    _scrub_fields,
    private_texts,
    scrub_text,
    scrub_values,
)
from spine_nav_display.core.session_reading import Session, _note_checks, open_session
from spine_nav_display.core.session_report import write_report
from spine_nav_display.core.session_stream import Item
from spine_nav_display.core.session_verify import Verified
from spine_registration.core.journal import FrameEntry, frame_entry


def result(**changes):
    T = np.eye(4)
    T[:3, 3] = (0.1, 0.2, 0.5)
    level = LevelEstimate("L3", Status.TRACKED, T, predicted_tre_mm=2.0)
    return NavigationResult(5, (replace(level, **changes),))


def moments(tmp_path, **values):
    session = Session(tmp_path, {"started_ns": 0})
    session.events.append((7, json.dumps(values)))
    (moment,) = timeline(session)
    return moment


def test_an_answer_of_a_page_says_who_said_what_to_which_question(tmp_path):
    said = moments(
        tmp_path, what="action", page="page 2", action="confirm", question="K7QF", ok=True,
        text="confirmed L2-L3",
    )  # fmt: skip
    assert (said.kind, said.text) == ("page", "page 2: confirm K7QF, done: confirmed L2-L3")
    said = moments(
        tmp_path, what="action", page="page 1", action="reject", ok=False, text="too late"
    )
    assert said.text == "page 1: reject, refused: too late"


def test_screws_and_bends_are_told_where_they_change(tmp_path):
    session = Session(tmp_path, {"started_ns": 0})
    left, right = Screw("L3 left", 2.0, False), Screw("head 4", 3.0, True)
    session.screws = [
        Screws(1, 10, (left,), ("left",)), Screws(2, 20, (left,), ("left",)),
        Screws(3, 30, (left, right)), Screws(4, 40, reason="no stereo images"),
    ]  # fmt: skip
    session.bending = [(5, 50, "bend 1 of 3: 12.5 mm"), (6, 60, "bend 1 of 3: 12.4 mm")]
    assert [(m.text, m.stamp_ns) for m in timeline(session)] == [
        ("screws L3 left; rods left", 10),
        ("screws L3 left, head 4 (held)", 30),
        ("no stereo images", 40),
        ("bending: bend 1 of 3: 12.5 mm", 50),
    ]
    assert len(timeline(session, every_frame=True)) == 6


def test_a_screw_left_out_is_told_once_when_it_is_asked_and_when_it_is_answered(tmp_path):
    from spine_nav_display.core.session_reading import _note_rods

    def status(**fields):
        values = [SimpleNamespace(key=k, value=v) for k, v in fields.items()]
        return SimpleNamespace(status=[SimpleNamespace(values=values)])

    asked = {"question_id": "ROD-1A", "question": "the planned screw L3 is not among its heads"}
    answered = {"told": "ROD-1A: no screw at L3 left on purpose"}
    session = Session(tmp_path, {})
    for at, fields in enumerate((asked, asked, answered, answered, {})):
        _note_rods(session, at, status(side="left", **fields))
    found = [(m.log_ns, m.kind, m.text) for m in timeline(session)]
    assert found == [
        (0, "asked", "left rod: ROD-1A: the planned screw L3 is not among its heads"),
        (2, "answer", "left rod: ROD-1A: no screw at L3 left on purpose"),
    ]


def test_verdicts_of_landmark_checks_are_told_once_and_reported(tmp_path):
    """By the code that writes them."""
    pytest.importorskip("rclpy")
    from spine_nav_common.core.landmarks import Landmark
    from spine_registration.core.check import Check, Touch, Verdict
    from spine_registration.ros.navigation_check import _status, _Told

    places = tuple(Landmark(name, np.zeros(3)) for name in ("tip", "facet & co"))
    check = Check("L3", places, {"tip": Touch(5, np.zeros(3), 4.0, 2.0, {})}, ("facet & co",))
    verdict = Verdict("L3", False, 7.9, 4.7, {"tip": 7.9}, np.zeros(3), "L4")
    statuses = [
        _status("L2", _Told("open", "touch the tip", replace(check, level="L2"))),
        _status("L3", _Told("failed", verdict.text, check, verdict)),
    ]
    session = Session(tmp_path, {"started_ns": 0, "session": "s"})
    for log_ns in (8, 9):
        _note_checks(session, log_ns, SimpleNamespace(status=statuses))
    (moment,) = timeline(session)
    assert (moment.log_ns, moment.kind) == (8, "check")
    assert moment.text.startswith("L3 failed: 7.9 mm off") and "those of L4" in moment.text
    page = write_report(session, Verified(1, 1, ()), ())
    for words in ("failed: 7.9 mm off", "tip 7.9 mm", "facet &amp; co skipped"):
        assert words in page
    assert "were not measured" in write_report(
        Session(tmp_path, session.manifest), Verified(1, 1, ()), ()
    )


def test_a_status_of_the_stereo_tracker_is_read_as_it_was_published(tmp_path):
    """By the code that writes it."""
    pytest.importorskip("rclpy")
    from spine_nav_common.core.implant_outputs import ScrewRow
    from spine_nav_common.ros.implants import Implants, implant_messages

    head, axis = np.array([0.0, 0.0, 0.5]), np.array([0.0, 0.0, -1.0])
    rows = (
        ScrewRow(9, 1, head, axis, 0.9, 2.5, "L3", "left", True),
        ScrewRow(9, 2, head, axis, 0.9, 3.5, "", "", False),
    )
    messages = implant_messages(Implants(9, rows, (), frozenset({2})), "stereo")
    read = screws_of(7, messages.status)
    assert read == Screws(7, 9, (Screw("L3 left", 2.5, False), Screw("head 2", 3.5, True)), (), "")


def test_what_a_page_showed_names_the_frame(tmp_path):
    said = moments(tmp_path, what="shown", page="page 1", levels=["L2"], picture="42", covered="")
    assert (said.text, said.stamp_ns) == ("page 1: shows L2", 42)
    said = moments(tmp_path, what="shown", page="page 1", levels=[], covered="no picture")
    assert said.text == "page 1: shows no level, covered: no picture"


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense", '{"what": "action"}'])
def test_an_event_that_nobody_knows_is_a_note(tmp_path, text):
    session = Session(tmp_path, {"started_ns": 0})
    session.events.append((7, text))
    assert len(timeline(session)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"status": Status.OCCLUDED},
        {"reason": "covered"},
        {"predicted_tre_mm": np.nextafter(2.0, 3.0)},
        {"T_camera_ct": None},
    ],
)
def test_any_difference_is_found(changes):
    assert len(differences(result(), result(**changes))) == 1


def test_one_bit_of_a_pose_is_a_difference():
    T = result().levels[0].T_camera_ct.copy()
    assert differences(result(), result(T_camera_ct=T)) == []
    T[0, 3] = np.nextafter(T[0, 3], 1.0)
    assert "its pose differs" in differences(result(), result(T_camera_ct=T))[0]


def test_folders_of_the_user_are_cut_out_and_our_words_stay():
    private = private_texts(["/data/Mueller_Hans/case", "/media/usb/Huber.mcap", "tracked/replay"])
    told = scrub_text("/data/Mueller_Hans/case/L3.ply: a hole was closed", private)
    assert told == "<hidden>/L3.ply: a hole was closed"
    assert (
        scrub_text("Huber.mcap is cut off, Mueller_Hans", private)
        == "<hidden> is cut off, <hidden>"
    )
    assert scrub_text("tracked; Hubertus stays", private) == "tracked; Hubertus stays"
    values = {"case": "/data/Mueller_Hans/case", "rate": 1.0, "names": ("Huber", 3)}
    assert scrub_values(values, private) == {
        "case": "<hidden>",
        "rate": 1.0,
        "names": ["<hidden>", 3],
    }


def test_a_name_that_json_escapes_is_cut_out_of_json_too():
    private = private_texts(["/data/op/Müller/case"], ["Anna Groß"])
    told = "cannot write /data/op/Müller/case/L3.ply; Müller, Anna Groß"
    for text in (told, json.dumps({"trouble": told}), json.dumps({"t": json.dumps(told)})):
        cut = scrub_text(text, private)
        assert "ller" not in cut and "Gro" not in cut and "L3.ply" in cut


def test_a_folder_that_is_called_like_a_field_does_not_break_the_journal():
    private = private_texts(["/data/took/frame", "/data/events"])
    entry = FrameEntry(7, None, 7, 0, events=("events: took",))
    text = scrub_text(entry_text("frame", "a", 0, **asdict(entry)), private)
    assert frame_entry(read_entry(text)).stamp_ns == 7
    pytest.importorskip("rclpy")
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

    array = DiagnosticArray(status=[DiagnosticStatus(values=[KeyValue(key="took", value="took")])])
    _scrub_fields(array, private)
    assert (array.status[0].values[0].key, array.status[0].values[0].value) == ("took", "<hidden>")


def test_a_result_that_was_shown_and_is_not_in_the_journal_is_told(tmp_path):
    """All others may come out the same: that one was shown too."""
    pytest.importorskip("rclpy")
    from rclpy.serialization import serialize_message

    from spine_nav_common.ros.results import result_messages

    def shown(stamp_ns):
        told = result_messages(NavigationResult(stamp_ns, result().levels), "camera")
        kind = "diagnostic_msgs/msg/DiagnosticArray"
        return Item("/spine/registration/status", kind, stamp_ns, serialize_message(told.status))

    entry = entry_text("frame", "a", 0, **asdict(FrameEntry(7, 0, None, 7)))
    data = TYPES.serialize_cdr(TYPES.types[support.TEXT](data=entry), support.TEXT)
    with support.Session(tmp_path / "session") as recorded:
        recorded.events.put(Item("/spine/registration/journal", support.TEXT, 7, bytes(data)))
        for stamp_ns in (7, 8):
            recorded.events.put(shown(stamp_ns))
    session = open_session(tmp_path / "session")
    assert set(session.shown) == {7, 8} and session.unexplained == [8]
    assert "1 results were shown" in session.notes[-1]


def test_what_a_terminal_obeys_and_no_file_holds_is_written_out(tmp_path):
    said = moments(tmp_path, what="action", page="1", action="\x1b[2J\ud800", ok=False, text="ä\nb")
    assert said.text == r"1: \x1b[2J\xd800, refused: ä\x0ab"
    said.text.encode("utf-8")


def test_results_of_hours_are_not_kept_as_messages(tmp_path, monkeypatch):
    """20 kB a frame, 4 GB in four hours; each is joined when both of its messages were read."""
    pytest.importorskip("rclpy")
    from rclpy.serialization import serialize_message

    from spine_nav_common.ros.results import result_messages

    with support.Session(tmp_path / "session") as recorded:
        for stamp_ns in range(1, 6):
            told = result_messages(NavigationResult(stamp_ns, result().levels), "camera")
            both = [
                ("/spine/registration/status", "diagnostic_msgs/msg/DiagnosticArray", told.status),
                ("/spine/vertebra_poses", "geometry_msgs/msg/PoseArray", told.vertebra_poses),
            ]
            for topic, kind, message in both[:: 1 if stamp_ns % 2 else -1]:
                recorded.events.put(Item(topic, kind, stamp_ns, serialize_message(message)))
    read, joined = [], []
    deserialise, join = session_reading.deserialise, session_reading.result_from_messages
    monkeypatch.setattr(
        session_reading, "deserialise", lambda raw: (read.append(raw), deserialise(raw))[1]
    )
    monkeypatch.setattr(
        session_reading,
        "result_from_messages",
        lambda *given: (joined.append(len(read)), join(*given))[1],
    )
    session = open_session(tmp_path / "session")
    assert joined == [2, 4, 6, 8, 10]
    assert all(r.levels[0].status is Status.TRACKED for _, r in session.shown.values())
