# SPDX-License-Identifier: Apache-2.0
"""Serialised messages of a rosbag2 recording, streamed in order of arrival; cut-off files too."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import mcap.exceptions
import mcap.records
from mcap.stream_reader import StreamReader
from rosbags.rosbag2 import Reader

from .errors import RecordingError

SUFFIXES = (".mcap", ".db3")
# A page of sqlite3 holds fewer messages than this, so as many losses in a row are the end.
_LOST_ROWS = 500


@dataclass(frozen=True)
class RawMessage:
    """One serialised (CDR) message; log_ns is when it was recorded."""

    topic: str
    msgtype: str
    log_ns: int
    data: bytes


class StorageCut(Exception):
    """The rest of a storage cannot be read; what came before is good. The text says why."""


class Storage(Protocol):
    """Something that streams messages. `topics` maps names to types."""

    topics: dict[str, str]

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        """Messages of these topics. Raises StorageCut after the last one that reads."""


class _Indexed:
    """A whole bag (folder with metadata.yaml, or one file), through rosbags."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with Reader(path) as reader:
            self.topics = {c.topic: c.msgtype for c in reader.connections}

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        with Reader(self._path) as reader:
            wanted = [c for c in reader.connections if c.topic in topics]
            source = reader.messages(wanted) if wanted else iter(())
            while True:
                try:
                    connection, log_ns, data = next(source)
                except StopIteration:
                    return
                except Exception as error:
                    raise StorageCut(f"{self._path.name} is damaged ({error})") from error
                yield RawMessage(connection.topic, connection.msgtype, log_ns, bytes(data))


class _McapStream:
    """An MCAP file without its end: read from the front, record by record."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.topics: dict[str, str] = {}
        try:
            for message in self._scan():
                self.topics[message.topic] = message.msgtype
        except StorageCut:
            pass  # messages() meets the same end and reports it

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        return (m for m in self._scan() if m.topic in topics)

    def _scan(self) -> Iterator[RawMessage]:
        schemas: dict[int, str] = {}
        channels: dict[int, mcap.records.Channel] = {}
        with self._path.open("rb") as file:
            size = self._path.stat().st_size
            records = StreamReader(file, validate_crcs=True, record_size_limit=size).records
            while True:
                try:
                    record = next(records)
                except StopIteration:
                    return
                except mcap.exceptions.InvalidMagic as error:
                    raise StorageCut(f"{self._path.name} is no MCAP file") from error
                except Exception as error:
                    raise StorageCut(
                        f"{self._path.name} is cut off at byte {file.tell()} of {size}"
                        f" ({type(error).__name__})"
                    ) from error
                if isinstance(record, mcap.records.Schema):
                    schemas[record.id] = record.name
                elif isinstance(record, mcap.records.Channel):
                    channels[record.id] = record
                elif isinstance(record, mcap.records.Message) and record.channel_id in channels:
                    channel = channels[record.channel_id]
                    yield RawMessage(
                        channel.topic,
                        schemas.get(channel.schema_id, ""),
                        record.log_time,
                        record.data,
                    )


class _SqliteStream:
    """A cut-off sqlite3 storage: rows in the order in which they were written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        connection = self._connect()
        try:
            rows = connection.execute("SELECT id, name, type FROM topics").fetchall()
        finally:
            connection.close()
        self._by_id = {i: (name, msgtype) for i, name, msgtype in rows}
        self.topics = dict(self._by_id.values())

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(f"{self._path.absolute().as_uri()}?immutable=1", uri=True)
        # Without this SQLite refuses a file that is shorter than its header says.
        connection.execute("PRAGMA writable_schema=ON")
        return connection

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        connection = self._connect()
        try:
            for topic_id, log_ns, data in _surviving_rows(connection):
                name, msgtype = self._by_id.get(topic_id, ("", ""))
                if name in topics:
                    yield RawMessage(name, msgtype, log_ns, data)
        finally:
            connection.close()
        raise StorageCut(f"{self._path.name} is cut off (pages are missing)")


def _surviving_rows(connection: sqlite3.Connection) -> Iterator[tuple[int, int, bytes]]:
    """(topic_id, timestamp, data) of all messages whose pages are there, in order of writing."""
    last = failures = 0
    while failures < _LOST_ROWS:
        try:
            for row in connection.execute(
                "SELECT id, topic_id, timestamp, data FROM messages NOT INDEXED"
                " WHERE id > ? ORDER BY id",
                (last,),
            ):
                if row[0] <= last:  # a half-lost page can give any number: never go back
                    raise sqlite3.DatabaseError("rows out of order")
                last, failures = row[0], 0
                yield row[1:]
            return
        except sqlite3.Error:  # this row's page is lost: try the row after it
            last += 1
            failures += 1


def _sqlite_is_short(path: Path) -> bool:
    """Whether the file holds fewer pages than its header promises."""
    with path.open("rb") as file:
        head = file.read(32)
    if len(head) < 32 or not head.startswith(b"SQLite format 3\0"):
        raise StorageCut(f"{path.name} is no sqlite3 file")
    (page,) = struct.unpack(">H", head[16:18])
    (count,) = struct.unpack(">I", head[28:32])
    return bool(path.stat().st_size < count * (65536 if page == 1 else page))


class _Chain:
    """Several storages one after the other; a cut one does not hide those that follow."""

    def __init__(self, parts: list[Storage], complaints: list[str]) -> None:
        self._parts = parts
        self._complaints = complaints
        self.topics = {name: kind for part in parts for name, kind in part.topics.items()}

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        cuts = list(self._complaints)
        for part in self._parts:
            try:
                yield from part.messages(topics)
            except StorageCut as cut:
                cuts.append(str(cut))
        if cuts:
            raise StorageCut("; ".join(cuts))


def bag_files(path: Path) -> list[Path]:
    """The storage files of a recording in the order of recording.

    Raises RecordingError where there is none.
    """
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise RecordingError(
                path,
                "",
                f"{path.suffix or 'a file without suffix'} is no recording",
                "give a rosbag2 folder, a .mcap or a .db3 file",
            )
        return [path]
    if not path.is_dir():
        raise RecordingError(path, "", "there is no such recording", "check the path")

    def natural(file: Path) -> list[object]:  # bag_10 comes after bag_9
        return [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", file.name)]

    files = sorted((f for f in path.iterdir() if f.suffix in SUFFIXES), key=natural)
    if not files and not (path / "metadata.yaml").is_file():
        raise RecordingError(
            path,
            "",
            "the folder holds no .mcap or .db3 file",
            "give the folder that ros2 bag record wrote",
        )
    return files


def open_storage(path: Path) -> Storage:
    """The messages of a rosbag2 folder (with or without metadata.yaml) or of one storage file.

    Raises RecordingError: nothing there, or nothing in it that reads.
    """
    files = bag_files(path)
    complaints: list[str] = []
    described = path.is_dir() and (path / "metadata.yaml").is_file()
    if described and not any(f.suffix == ".db3" and _quietly_short(f) for f in files):
        try:
            return _Indexed(path)
        except Exception as error:  # noqa: BLE001 - any parser's error: try the files alone
            if "files are missing" in str(error):
                complaints.append(str(error))
    parts: list[Storage] = []
    for file in files:
        try:
            parts.append(_open_file(file))
        except StorageCut as cut:
            complaints.append(str(cut))
    if not parts:
        raise RecordingError(
            path,
            "",
            "; ".join(complaints) or "no storage file reads",
            "the recording is damaged: record again",
        )
    return _Chain(parts, complaints)


def _quietly_short(file: Path) -> bool:
    try:
        return _sqlite_is_short(file)
    except StorageCut:
        return True


def _open_file(file: Path) -> Storage:
    """One storage file, through its index or, where that is lost, from the front."""
    if file.stat().st_size == 0:
        raise StorageCut(f"{file.name} is empty")
    try:
        if file.suffix == ".db3" and _sqlite_is_short(file):
            return _SqliteStream(file)
        return _Indexed(file)
    except StorageCut:
        raise
    except sqlite3.Error as error:
        raise StorageCut(f"{file.name} is damaged ({error})") from error
    except Exception as error:
        if file.suffix == ".db3":
            raise StorageCut(f"{file.name} is damaged ({error})") from error
    stream = _McapStream(file)
    if not stream.topics:
        raise StorageCut(f"{file.name} holds no message that reads")
    return stream


def recording_sha256(path: str | Path) -> str:
    """SHA-256 over the storage files of a recording, in their order; metadata.yaml is left out."""
    digest = hashlib.sha256()
    for file in bag_files(Path(path)):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
