# SPDX-License-Identifier: Apache-2.0
"""Screws and rods of a session computed again: the same bits from the same journal, and what is told
when it is not whole."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import session_support as support

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

from rclpy.serialization import serialize_message

from spine_nav_common.core.recording_writer import TYPES
from spine_nav_common.core.types import Head3D, Intrinsics, RodFit, ScrewTrack, StereoResult
from spine_nav_common.ros.conversions import camera_info_message, image_message
from spine_nav_common.ros.implants import Implants, implant_messages
from spine_nav_common.ros.stereo_frames import RawPair, RigCache
from spine_nav_display.core.session_audit import judge_pair, timeline
from spine_nav_display.core.session_reading import open_session
from spine_nav_display.core.session_replay_pairs import PairMeans, compute_pairs_again
from spine_nav_display.core.session_stream import Item
from stereo_screw_tracker.core.load import StereoCore
from stereo_screw_tracker.core.named import NamedTracker
from stereo_screw_tracker.core.output import implants_of
from stereo_screw_tracker.ros.stereo_config import NodeCore, StereoTrackerConfig
from stereo_screw_tracker.ros.stereo_journal import StereoJournal

CAMERA = Intrinsics(32, 24, 30.0, 30.0, 15.5, 11.5)
COUNT = 6
JOURNAL = "/spine/screws/journal"


class Counts:
    """A tracker whose result hangs on pixels, vertebrae and on how many pairs came since a reset."""

    def __init__(self):
        self.pairs = 0

    def process(self, frame, vertebrae=None, case=None):
        self.pairs += 1
        if self.pairs == 4:
            raise RuntimeError("broken on purpose")
        x = float(frame.left.mean()) * 1e-6 + self.pairs / 3.0
        if vertebrae:
            x += float(vertebrae["L3"][0, 3])
        axis = np.array([0.1, x, -1.0])
        head = Head3D(np.array([x, 0.0, 0.5]), np.eye(3) * 1e-8, axis, 0.03, 0.9, 0.2)
        points = np.stack([np.linspace(0.0, x, 9), np.zeros(9), np.full(9, 0.5)], axis=1)
        rod = RodFit(points, np.full(9, 1.0 / 3.0), np.ones(9, bool), "left")
        hidden = self.pairs == 3
        screw = ScrewTrack(0, head, 1.0 / 3.0, "L3" if vertebrae else "", "left", hidden)
        return StereoResult(frame.stamp_ns, (screw,), (rod,), {}, ("seen", "counted"))

    def reset(self):
        self.pairs = 0


def raw_pair(number):
    stamp_ns = 10**9 + number * 10**8
    pixels = np.random.default_rng(number).integers(0, 255, (24, 32)).astype(np.uint8)
    return RawPair(
        stamp_ns,
        image_message(pixels, "mono8", stamp_ns, "left"),
        image_message(pixels, "mono8", stamp_ns + 1, "right"),
        camera_info_message(CAMERA, 10**9, "left"),  # a driver that says it once
        camera_info_message(CAMERA, stamp_ns, "right", 0.06),
    )


def vertebrae(number):
    T = np.eye(4)
    T[0, 3] = number / 7.0
    return {"L3": T} if number % 2 else None


def record(folder, edit=lambda entries: entries, paused=None):
    """A session of a tracker, as the node keeps it; edit: of its journal's lines. The fourth pair since
    the reset breaks it; the last is withdrawn; paused: the pair that was in work when it was paused."""
    entries = []

    class Topic:
        def publish(self, message):
            entries.append(message.data)

    tracker = NamedTracker(Counts(), None)
    core = NodeCore(StereoCore(tracker, "fake", "0" * 64))
    journal = StereoJournal(lambda *_: Topic(), core, StereoTrackerConfig())
    rigs, published, pictures = RigCache(False), [], []
    for number in range(COUNT):
        raw = raw_pair(number)
        if number == 1:
            tracker.reset()
            journal.reset("as was asked for")
        tried = tracker.tried(lambda raw=raw: raw.decode(rigs), vertebrae(number))
        implants = implants_of(tried.result, raw.stamp_ns)
        entry = journal.pair(raw, vertebrae(number), implants.reason, tried.fault, implants.events)
        if tried.fault:
            tracker.reset()
            journal.reset("a fault in the tracker")
        pictures.append(raw)
        if number == paused:
            journal.settle(entry, "paused", published=False)
            continue
        late = "late" if number == COUNT - 1 else ""
        journal.settle(entry, late)
        published.append(Implants(raw.stamp_ns, reason=late) if late else implants)
    diagnostics = "diagnostic_msgs/msg/DiagnosticArray"
    with support.Session(folder) as recorded:
        for text in edit(entries):
            data = TYPES.serialize_cdr(TYPES.types[support.TEXT](data=text), support.TEXT)
            recorded.events.put(Item(JOURNAL, support.TEXT, 5, bytes(data)))
        for implants in published:
            told = implant_messages(implants, "left")
            poses = serialize_message(told.poses)
            status = serialize_message(told.status)
            recorded.events.put(
                Item("/spine/screws/poses", "geometry_msgs/msg/PoseArray", 6, poses)
            )
            recorded.events.put(Item("/spine/screws/status", diagnostics, 6, status))
            recorded.events.put(Item("/spine/screws/latency", diagnostics, 6, status))
        said = set()
        for raw in pictures:
            for eye, image, info in (
                ("left", raw.left, raw.left_info), ("right", raw.right, raw.right_info),
            ):  # fmt: skip
                for name, kind, message in (
                    ("image_rect", "Image", image), ("camera_info", "CameraInfo", info),
                ):  # fmt: skip
                    key = eye, kind, message.header.stamp.sec, message.header.stamp.nanosec
                    if key in said:
                        continue
                    said.add(key)
                    topic, data = f"/stereo/{eye}/{name}", serialize_message(message)
                    recorded.pictures.put(Item(topic, f"sensor_msgs/msg/{kind}", 4, data))
    return folder


def again(folder, make=Counts, model="0" * 64):
    session = open_session(folder)
    means = PairMeans(None, lambda _: StereoCore(make(), "fake", model))
    found = list(compute_pairs_again(session, means))
    return session, means, [judge_pair(session, a) for a in found], found


def verdicts(decisions):
    return [d.verdict for d in decisions]


def test_a_session_gives_the_same_bits_again(tmp_path):
    session, means, decisions, found = again(record(tmp_path / "session"))
    assert verdicts(decisions) == ["same"] * COUNT, decisions
    assert means.notes == [] and session.notes == [] and session.pairs_unexplained == []
    reasons = [a.published.reason for a in found]
    assert reasons[:4] == [""] * 4 and "fault in the screw tracker" in reasons[4]
    assert reasons[5] == "late"
    assert found[2].published.screws[0].level == "" and found[1].published.screws[0].level == "L3"
    assert not found[3].published.screws[0].seen
    told = [m.text for m in timeline(session)]
    assert "all screws were forgotten: a fault in the tracker" in told


@pytest.mark.parametrize("by", ["head", "axis", "rod", "event"])
def test_one_bit_is_a_difference(tmp_path, by):
    class Off(Counts):
        def process(self, *given):
            result = super().process(*given)
            (screw,), (rod,) = result.screws, result.rods
            head = screw.head
            if by == "head":
                point = np.nextafter(head.point_m, 1.0)
                head = replace(head, point_m=point)
            if by == "axis":
                head = replace(head, axis=head.axis + (0.0, 1e-9, 0.0))
            if by == "rod":
                rod = replace(rod, centreline_m=rod.centreline_m + 1e-7)
            events = ("seen",) if by == "event" else result.events
            return replace(result, screws=(replace(screw, head=head),), rods=(rod,), events=events)

    _, _, decisions, _ = again(record(tmp_path / "session"), Off)
    # the fault and what was withdrawn come out alike
    assert verdicts(decisions) == ["different"] * 4 + ["same"] * 2


def test_another_model_is_told_and_proves_nothing(tmp_path):
    class Off(Counts):
        def process(self, *given):
            self.pairs += self.pairs == 1  # one pair more
            return super().process(*given)

    folder = record(tmp_path / "session")
    _, means, decisions, _ = again(folder, model="1" * 64)
    assert verdicts(decisions) == ["same"] * COUNT, "the same bits are the same, whatever made them"
    assert "recorded with the model 000" in means.notes[0]
    _, _, decisions, _ = again(folder, Off, model="1" * 64)
    assert "different" not in verdicts(decisions) and "unknown" in verdicts(decisions)


def without(op, number=0):
    """An editor that loses an entry."""

    def edit(entries):
        lost = [e for e in entries if json.loads(e)["op"] == op][number]
        return [e for e in entries if e is not lost]

    return edit


def test_a_lost_pair_is_told_and_what_follows_proves_nothing(tmp_path):
    session, _, decisions, _ = again(record(tmp_path / "session", without("pair", 2)))
    assert "1 entries of the journal are missing" in session.notes
    assert len(session.pairs_unexplained) == 1 and "cannot be computed again" in session.notes[-1]
    assert verdicts(decisions)[:2] == ["same", "same"]
    assert "unknown" in verdicts(decisions)[2:] and "different" not in verdicts(decisions)


def test_a_lost_reset_is_told(tmp_path):
    session, _, decisions, _ = again(record(tmp_path / "session", without("reset")))
    assert "1 entries of the journal are missing" in session.notes
    assert verdicts(decisions)[:2] == ["same", "unknown"] and "different" not in verdicts(decisions)


def test_lost_vertebrae_are_told_and_not_guessed(tmp_path):
    def edit(entries):
        values = [json.loads(e) for e in entries]
        del next(v for v in values if v.get("vertebrae"))["vertebrae"]
        return [json.dumps(v) for v in values]

    session, _, decisions, _ = again(record(tmp_path / "session", edit))
    assert any("no pair entry" in note and "vertebrae" in note for note in session.notes)
    assert len(decisions) == COUNT - 1 and len(session.pairs_unexplained) == 1


def test_a_pair_in_work_when_it_was_paused_has_nothing_to_be_compared_with(tmp_path):
    _, _, decisions, _ = again(record(tmp_path / "session", paused=2))
    assert verdicts(decisions) == ["same", "same", "unshown", *["same"] * (COUNT - 3)]
    assert decisions[2].text == "paused"


def test_a_pair_that_was_shown_while_its_journal_denies_it_is_a_difference(tmp_path):
    def edit(entries):
        pairs = [e for e in entries if json.loads(e)["op"] == "pair"]
        denied = json.dumps({**json.loads(pairs[2]), "published": False, "shown": "paused"})
        return [denied if e is pairs[2] else e for e in entries]

    _, _, decisions, _ = again(record(tmp_path / "session", edit))
    assert verdicts(decisions) == ["same", "same", "different", *["same"] * (COUNT - 3)]


def test_other_vertebrae_than_noted_come_out_different(tmp_path):
    def edit(entries):
        return [e.replace("0.14285714285714285", "0.142857142857143") for e in entries]

    _, _, decisions, _ = again(record(tmp_path / "session", edit))
    assert verdicts(decisions) == ["same", "different", *["same"] * (COUNT - 2)]


def test_a_session_without_a_journal_says_so(tmp_path):
    session, _, decisions, _ = again(record(tmp_path / "session", lambda entries: []))
    assert decisions == [] and "have no journal" in session.notes[-1]
