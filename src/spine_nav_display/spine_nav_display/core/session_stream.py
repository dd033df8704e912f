# SPDX-License-Identifier: Apache-2.0
"""A stream of a session's record: a queue that never blocks who fills it, and a thread that writes.

What comes within `CLOSE_S` makes one chunk of an MCAP file, compressed and brought to the disk
(fsync) before it counts. Where the disk is slower than the pictures come, pictures are left out and
counted, and all else is kept; where it takes nothing, what is no picture waits for it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcap.writer import CompressionType, Writer

from spine_nav_common.core.recording_writer import TYPES

from .session_folder import ChunkLine, SessionFolder

CLOSE_S = 0.4
MOST_BYTES = 64_000_000
"""What may wait for the disk: some two seconds of 640x480 RGB-D at 15 Hz."""
FILE_BYTES = 2_000_000_000
_AGAIN_S = 1.0  # between two tries of a disk that takes nothing
_ALL = 1 << 40
_WHOLE = 1 << 40  # no chunk is closed but by us
_NICE = 10
_FORGET = 256  # stamps of pictures that were left out, so that their partners are too


@dataclass(frozen=True)
class Item:
    """A serialised (CDR) message. log_ns: when it was received, by the system's clock. picture: stamp
    of an image, which may be left out; None = it may not."""

    topic: str
    msgtype: str
    log_ns: int
    data: bytes
    picture: int | None = None


class _Out:
    """What an MCAP writer needs of a file; counts what was written and hashes it: the `whole`, and the
    `part` since somebody began one."""

    def __init__(self, fd: int) -> None:
        self.fd, self.size = fd, 0
        self.whole, self.part = hashlib.sha256(), hashlib.sha256()

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            done = os.write(self.fd, view)
            self.whole.update(view[:done])
            self.part.update(view[:done])
            self.size += done
            view = view[done:]
        return len(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Nothing waits here."""


class ChunkFile:
    """An MCAP file that grows by chunks. After an OSError it takes no more: what counts is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._out = _Out(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        # A stream of mcap's kind; it asks for write, tell and flush.
        out: Any = self._out
        self._writer: Any = Writer(out, chunk_size=_WHOLE, compression=CompressionType.ZSTD)
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._counts: Counter[str] = Counter()
        self.good = 0  # bytes on the disk
        try:
            self._writer.start(profile="ros2", library="spinenav")
        except OSError:
            self.abandon()
            raise

    @property
    def sha256(self) -> str:
        """Of all that was written."""
        return self._out.whole.hexdigest()

    def write(self, items: list[Item]) -> ChunkLine:
        """One chunk, on the disk when this returns. Raises OSError: nothing of it is left there."""
        try:
            for item in items:
                channel = self._channel(item)
                self._writer.add_message(
                    channel, item.log_ns, item.data, item.log_ns, self._counts[item.topic]
                )
                self._counts[item.topic] += 1
            self._writer.flush()
            os.fsync(self._out.fd)
        except OSError:
            self.abandon()
            raise
        times = [item.log_ns for item in items]
        line = ChunkLine(
            self.path.name, self.good, self._out.size - self.good, self._out.part.hexdigest(),
            min(times), max(times), len(items),
        )  # fmt: skip
        self.good = self._out.size
        self._out.part = hashlib.sha256()
        return line

    def _channel(self, item: Item) -> int:
        if item.topic not in self._channels:
            if item.msgtype not in self._schemas:
                text, _ = TYPES.generate_msgdef(item.msgtype, ros_version=2)
                self._schemas[item.msgtype] = self._writer.register_schema(
                    item.msgtype, "ros2msg", text.encode()
                )
            self._channels[item.topic] = self._writer.register_channel(
                item.topic, "cdr", self._schemas[item.msgtype], {"offered_qos_profiles": ""}
            )
        return self._channels[item.topic]

    def finish(self) -> None:
        """Write the index and close. Raises OSError: there is no index, and all chunks."""
        try:
            self._writer.finish()
            os.fsync(self._out.fd)
            self.good = self._out.size
        except OSError:
            self.abandon()
            raise
        os.close(self._out.fd)

    def abandon(self) -> None:
        """Close without what did not get as far as the disk."""
        with suppress(OSError):  # a reader stops at a half chunk
            os.ftruncate(self._out.fd, self.good)
        os.close(self._out.fd)
        if not self.good:
            self.path.unlink(missing_ok=True)


class Stream:
    """Messages on their way into the files of one stream.

    `put` may be called by any thread and never waits. A thread of its own writes.

    Args:
        folder: of the session.
        name: of the stream and its files.
        most_bytes: of what may wait for the disk.
        make_file: opens a file (tests hand in disks that are slow or full).

    Attributes:
        counts: `messages` on the disk, `bytes` of them; `pictures_left_out`, `messages_lost` for want
            of room; `chunks`.
        problem: why nothing is written at present, "" = it is.
    """

    def __init__(
        self,
        folder: SessionFolder,
        name: str,
        most_bytes: int = MOST_BYTES,
        make_file: Callable[[Path], ChunkFile] = ChunkFile,
    ) -> None:
        self._folder, self.name = folder, name
        self._most_bytes, self._make_file = most_bytes, make_file
        self._change = threading.Condition()
        self._queue: list[Item] = []
        self._since: float | None = None  # when the first of the queue came
        self._waiting_bytes = 0  # of the queue and of what is being written
        self._left_out: deque[int] = deque(maxlen=_FORGET)
        self._stop = False
        self._at_most = _ALL  # so many messages are tried at once
        self._file: ChunkFile | None = None
        self.counts: Counter[str] = Counter(
            dict.fromkeys(("messages", "bytes", "chunks", "pictures_left_out", "messages_lost"), 0)
        )
        self.problem = ""
        self._thread = threading.Thread(target=self._run, name=f"record {name}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread that writes lives."""
        return self._thread.is_alive()

    @property
    def waiting_bytes(self) -> int:
        """What is not on the disk yet."""
        return self._waiting_bytes

    def put(self, item: Item) -> bool:
        """Leave a message for the disk; False: a picture that there is no room for."""
        with self._change:
            full = self._waiting_bytes + len(item.data) > self._most_bytes
            if item.picture is not None and (full or item.picture in self._left_out):
                self._left_out.append(item.picture)
                self.counts["pictures_left_out"] += 1
                return False
            if full and not self._make_room(len(item.data)):
                self.counts["messages_lost"] += 1
                return True
            if self._since is None:
                self._since = time.monotonic()
            self._queue.append(item)
            self._waiting_bytes += len(item.data)
            self._change.notify_all()
        return True

    def _make_room(self, size: int) -> bool:
        """Pictures that wait give way to what is no picture. With the lock."""
        while self._waiting_bytes + size > self._most_bytes:
            at = next((i for i, x in enumerate(self._queue) if x.picture is not None), None)
            if at is None:
                return False
            picture = self._queue.pop(at)
            self._waiting_bytes -= len(picture.data)
            self._left_out.append(picture.picture or 0)
            self.counts["pictures_left_out"] += 1
        return True

    def close(self, timeout_s: float = 10.0) -> bool:
        """Write what waits and the index; False if the disk did not take it in time."""
        with self._change:
            self._stop = True
            self._change.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # In the thread.

    def _run(self) -> None:
        with suppress(OSError):  # of this thread alone
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while True:
            with self._change:
                while not self._stop and (
                    self._since is None or time.monotonic() - self._since < CLOSE_S
                ):
                    left = None
                    if self._since is not None:
                        left = max(0.0, self._since + CLOSE_S - time.monotonic())
                    self._change.wait(left)
                items, self._queue = self._queue[: self._at_most], self._queue[self._at_most :]
                self._since = self._since if self._queue else None
                stop = self._stop
            if items:
                self._write(items, last=stop)
            if stop and not self._queue:
                self._finish()
                return

    def _write(self, items: list[Item], last: bool) -> None:
        try:
            if self._file is not None and self._file.good > FILE_BYTES:
                self._finish()
            if self._file is None:
                self._file = self._make_file(self._folder.new_file(self.name))
            line = self._file.write(items)
        except OSError as error:
            self._on_error(error, items, last)
            return
        size = sum(len(item.data) for item in items)
        with self._change:
            self._waiting_bytes -= size
        after = dict(self.counts)
        for name, more in (("messages", len(items)), ("bytes", size), ("chunks", 1)):
            after[name] += more
        self._at_most = min(_ALL, 2 * self._at_most)
        try:
            self._folder.note_chunk(line, self._file.sha256, after)
            self.problem = ""
        except OSError as error:
            self.problem = f"the manifest cannot be written ({error.strerror or error})"
        self.counts.update(messages=len(items), bytes=size, chunks=1)

    def _on_error(self, error: OSError, items: list[Item], last: bool) -> None:
        """The disk takes nothing: pictures go, the rest waits, and another file is begun later."""
        self.problem = f"nothing can be written ({error.strerror or error})"
        self._file = None
        self._at_most = max(1, len(items) // 2)  # a little may fit
        kept = [item for item in items if item.picture is None]
        pictures = [item for item in items if item.picture is not None]
        with self._change:
            self._waiting_bytes -= sum(len(item.data) for item in pictures)
            self.counts["pictures_left_out"] += len(pictures)
            if last and len(items) == 1:  # not even one: the rest will not fit either
                kept, self._queue = kept + self._queue, []
                self._waiting_bytes -= sum(len(item.data) for item in kept)
                self.counts["messages_lost"] += len(kept)
                return
            self._queue = kept + self._queue
            if self._queue:  # at the end there is no time to wait
                self._since = time.monotonic() - CLOSE_S + (0.0 if last else _AGAIN_S)

    def _finish(self) -> None:
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            file.finish()
            self._folder.finish(file.path.name, file.good, file.sha256)
        except OSError as error:
            self.problem = f"no index was written ({error.strerror or error})"
