# SPDX-License-Identifier: Apache-2.0
"""What the tests of the record share: messages, sessions, and disks that fail on purpose."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from spine_nav_common.core.recording_writer import TYPES
from spine_nav_common.core.storage import StorageCut, open_storage
from spine_nav_display.core.session_folder import EVENTS, PICTURES, SessionFolder, create_session
from spine_nav_display.core.session_stream import ChunkFile, Item, Stream

TEXT, IMAGE = "std_msgs/msg/String", "sensor_msgs/msg/Image"


def text(number: int, log_ns: int | None = None) -> Item:
    """A message that counts."""
    data = TYPES.serialize_cdr(TYPES.types[TEXT](data=f"message {number}"), TEXT)
    return Item("/spine/said", TEXT, log_ns or time.time_ns(), bytes(data))


def picture(number: int, size: int = 100_000) -> Item:
    """Bytes in place of an image; nothing here looks into them."""
    return Item("/camera/image", IMAGE, time.time_ns(), bytes([number % 256]) * size, number)


def said(folder: Path, topic: str = "/spine/said") -> list[int]:
    """The numbers of the messages that the record holds, as far as it reads."""
    storage, found = open_storage(folder), []
    try:
        for raw in storage.messages([topic]):
            found.append(int(TYPES.deserialize_cdr(raw.data, raw.msgtype).data.split()[-1]))
    except StorageCut:
        pass
    return found


def pictures(folder: Path) -> list[int]:
    """First bytes of the pictures in the record."""
    storage, found = open_storage(folder), []
    try:
        for raw in storage.messages(["/camera/image"]):
            found.append(raw.data[0])
    except StorageCut:
        pass
    return found


def until(condition, timeout_s=60.0):
    """Wait for an event of another thread."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.005)


def on_disk(stream: Stream, count: int) -> None:
    """Wait until so many messages of a stream count."""
    until(lambda: stream.counts["messages"] >= count)


class Session:
    """A new session with both streams; a context manager."""

    def __init__(self, path: Path, make_file=ChunkFile, **options) -> None:
        create_session(path, {"source": "test"})
        self.folder = SessionFolder(path)
        self.events = Stream(self.folder, EVENTS, make_file=make_file, **options)
        self.pictures = Stream(self.folder, PICTURES, make_file=make_file, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        counts = {s.name: s.counts for s in (self.events, self.pictures)}
        assert self.events.close() and self.pictures.close()
        self.folder.close(time.time_ns(), counts)


class Gate:
    """A disk that takes nothing while it is shut, and blocks whoever writes."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.blocked = threading.Event()

    def make(self, path: Path) -> ChunkFile:
        gate = self

        class Slow(ChunkFile):
            def write(self, items):
                if not gate.open.is_set():
                    gate.blocked.set()
                gate.open.wait()
                return super().write(items)

        return Slow(path)
