# SPDX-License-Identifier: Apache-2.0
"""Copies without pictures, and the page about a session."""

from __future__ import annotations

import hashlib
import json
import shutil

import cv2
import numpy as np
import pytest
import session_support as support
from session_support import Session, said, text

from spine_nav_common.core.images import decode_image, encode_image
from spine_nav_common.core.recording_writer import TYPES
from spine_nav_common.core.storage import open_storage
from spine_nav_display.core.session_export import BLUR, REMOVE, export
from spine_nav_display.core.session_folder import (
    CHUNKS,
    SessionError,
    create_session,
    read_manifest,
)
from spine_nav_display.core.session_stream import Item
from spine_nav_display.core.session_verify import verify

COLOUR, DEPTH = "/camera/camera/color/image_raw", "/camera/camera/aligned_depth_to_color/image_raw"
JOURNAL = "/spine/registration/journal"
SECRET = "c2VjcmV0IHRodW1ibmFpbA=="


def header():
    time = TYPES.types["builtin_interfaces/msg/Time"](sec=1, nanosec=0)
    return TYPES.types["std_msgs/msg/Header"](stamp=time, frame_id="camera")


def image(topic, pixels, encoding):
    message = TYPES.types[support.IMAGE](header=header(), **encode_image(pixels, encoding))
    return Item(topic, support.IMAGE, 5, bytes(TYPES.serialize_cdr(message, support.IMAGE)), 1)


def jpeg(pixels):
    kind = "sensor_msgs/msg/CompressedImage"
    data = cv2.imencode(".jpg", pixels)[1].reshape(-1)
    message = TYPES.types[kind](header=header(), format="rgb8; jpeg compressed bgr8", data=data)
    return Item(f"{COLOUR}/compressed", kind, 5, bytes(TYPES.serialize_cdr(message, kind)), 1)


def recall():
    memory = {"version": 1, "shown": {"picture": SECRET}, "rejections": []}
    values = {
        "v": 1,
        "op": "recall",
        "life": "a",
        "n": 0,
        "memory": json.dumps(memory),
        "within_s": 1,
    }
    data = TYPES.serialize_cdr(TYPES.types[support.TEXT](data=json.dumps(values)), support.TEXT)
    return Item(JOURNAL, support.TEXT, 5, bytes(data))


@pytest.fixture
def writing():
    """A picture with writing on it: what must not be read any more."""
    pixels = np.full((240, 320, 3), 40, np.uint8)
    cv2.putText(pixels, "MUELLER", (20, 140), cv2.FONT_HERSHEY_SIMPLEX, 2.0, (255, 255, 255), 3)
    return pixels


@pytest.fixture
def recorded(tmp_path, writing):
    with Session(tmp_path / "session") as session:
        for number in range(5):
            session.events.put(text(number, 1_000_000_000 * (number + 1)))
        session.events.put(recall())
        session.pictures.put(image(COLOUR, writing, "rgb8"))
        session.pictures.put(jpeg(writing))
        session.pictures.put(image(DEPTH, np.full((240, 320), 500, np.uint16), "16UC1"))
    return tmp_path / "session"


def everything(folder):
    storage = open_storage(folder)
    return list(storage.messages(storage.topics))


def test_pictures_are_removed_and_all_else_stays(recorded, tmp_path):
    counts = export(recorded, tmp_path / "copy", REMOVE)
    assert counts == {"messages": 6, "pictures_removed": 3, "pictures_blurred": 0}
    assert said(tmp_path / "copy") == [0, 1, 2, 3, 4]
    assert not any("mage" in raw.msgtype for raw in everything(tmp_path / "copy"))
    assert not verify(tmp_path / "copy").findings
    before, after = read_manifest(recorded), read_manifest(tmp_path / "copy")
    assert after["exported"] == REMOVE and after["session"] == before["session"]


def test_blurred_pictures_show_no_writing_and_depth_stays(recorded, tmp_path, writing):
    assert np.abs(np.diff(writing.astype(int), axis=1)).max() > 200
    counts = export(recorded, tmp_path / "copy", BLUR)
    assert counts["pictures_blurred"] == 2 and counts["pictures_removed"] == 0
    for raw in everything(tmp_path / "copy"):
        if raw.topic.startswith(COLOUR):
            pixels = decode_image(TYPES.deserialize_cdr(raw.data, raw.msgtype))
            assert pixels.shape == writing.shape
            assert np.abs(np.diff(pixels.astype(int), axis=1)).max() < 20
        if raw.topic == DEPTH:
            assert (decode_image(TYPES.deserialize_cdr(raw.data, raw.msgtype)) == 500).all()


@pytest.mark.parametrize("how", [REMOVE, BLUR])
def test_no_thumbnail_is_left(recorded, tmp_path, how):
    assert any(SECRET.encode() in raw.data for raw in everything(recorded))
    export(recorded, tmp_path / "copy", how)
    assert not any(SECRET.encode() in raw.data for raw in everything(tmp_path / "copy"))


def test_a_damaged_session_is_not_exported(recorded, tmp_path):
    path = recorded / "events_0001.mcap"
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(SessionError, match="nothing was exported"):
        export(recorded, tmp_path / "copy", REMOVE)
    assert not (tmp_path / "copy").exists()


def test_an_export_over_something_is_refused(recorded, tmp_path):
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "mine.txt").write_text("mine")
    with pytest.raises(SessionError, match="not empty"):
        export(recorded, tmp_path / "copy", REMOVE)


def test_a_copy_that_broke_off_does_not_look_whole(recorded, tmp_path):
    def stop(count):
        if count == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(recorded, tmp_path / "half", REMOVE, stop)
    assert read_manifest(tmp_path / "half")["ended_ns"] is None
    export(recorded, tmp_path / "copy", REMOVE)
    assert read_manifest(tmp_path / "copy")["ended_ns"] == read_manifest(recorded)["ended_ns"]


def test_a_copy_of_a_session_with_calibrations_is_whole(tmp_path):
    sha256 = hashlib.sha256(b"k: 1").hexdigest()
    create_session(tmp_path / "session", {"source": "test", "calibration": [sha256]})
    (tmp_path / "session" / "inputs").mkdir()
    (tmp_path / "session" / "inputs" / "calibration_1.yaml").write_bytes(b"k: 1")
    export(tmp_path / "session", tmp_path / "copy", REMOVE)
    assert verify(tmp_path / "copy").findings == ()
    (tmp_path / "session" / "inputs" / "calibration_1.yaml").write_bytes(b"k: 2")
    assert verify(tmp_path / "session").damaged


@pytest.mark.parametrize("name", ["zz.db3", "metadata.yaml"])
def test_what_a_reader_would_follow_and_no_recorder_wrote_is_told(recorded, name):
    (recorded / name).write_bytes(b"")
    (finding,) = verify(recorded).findings
    assert finding.file == name and finding.damage


def test_a_line_that_climbs_out_of_the_folder_is_not_followed(recorded, tmp_path):
    shutil.copy(recorded / "events_0001.mcap", tmp_path / "events_0001.mcap")
    lines = (recorded / CHUNKS).read_text()
    with (recorded / CHUNKS).open("a") as file:
        file.write(lines.replace("events_0001", "../events_0001"))
    found = [f for f in verify(recorded).findings if f.file == "../events_0001.mcap"]
    assert [f.text for f in found] == ["no file of a session is called so"]
