# SPDX-License-Identifier: Apache-2.0
"""The folder of a session's record: what lies in it, and the manifest that vouches for it.

`events_*.mcap` and `pictures_*.mcap` grow by chunks; a chunk counts once it is on the disk. Then its
line is appended to `chunks.csv`, and `manifest.json` is replaced in one step. What a killed process
has written last may so lie there without a line; it is never in the manifest by half.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spine_nav_common.core.errors import InputError

VERSION = 1
MANIFEST, CHUNKS, LOCK, INPUTS = "manifest.json", "chunks.csv", ".lock", "inputs"
EVENTS, PICTURES = "events", "pictures"
CHUNK_COLUMNS = ("file", "offset", "bytes", "sha256", "first_ns", "last_ns", "messages")
_SHAPES = (
    ("session", (str,)), ("started_ns", (int,)), ("ended_ns", (int, type(None))),
    ("files", (dict,)), ("streams", (dict,)), ("chunks", (dict, type(None))),
)  # fmt: skip
_ANOTHER = "name a folder that does not exist yet with --session"


class SessionError(InputError):
    """A session's folder cannot be written, or cannot be used."""


@dataclass(frozen=True)
class ChunkLine:
    """A piece of a file that was brought to the disk at once. sha256: of its bytes; first_ns, last_ns:
    when its messages were received."""

    file: str
    offset: int
    bytes: int
    sha256: str
    first_ns: int
    last_ns: int
    messages: int

    def text(self) -> str:
        """A line of chunks.csv."""
        return ",".join(str(getattr(self, name)) for name in CHUNK_COLUMNS) + "\n"


def chunk_line(text: str) -> ChunkLine:
    """A line of chunks.csv, without its end. Raises ValueError."""
    file, offset, size, sha256, first, last, messages = text.split(",")
    return ChunkLine(file, int(offset), int(size), sha256, int(first), int(last), int(messages))


def sha256_of(path: str | Path) -> str:
    """Of a file's bytes. Raises OSError."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_session(path: str | Path) -> bool:
    """Whether this is a folder of a session's record."""
    return (Path(path) / MANIFEST).is_file()


def manifest_sha256(manifest: Mapping[str, Any]) -> str:
    """Hash of a manifest's content but for its own field `sha256`."""
    rest = {k: v for k, v in manifest.items() if k != "sha256"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a session. Raises SessionError: none, damaged, or of a version not known."""
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SessionError(
            path, "", f"not readable ({error})", "give the folder that `live --session` wrote"
        ) from error
    if version != VERSION:
        raise SessionError(
            path, "version", f"{version}, known is {VERSION}", "use the program that wrote it"
        )
    for name, kinds in _SHAPES:
        if not isinstance(manifest.get(name, ...), kinds):
            raise SessionError(path, name, "missing or of another kind", "restore the manifest")
    return dict(manifest)


def create_session(folder: str | Path, about: Mapping[str, Any]) -> None:
    """A new session: its folder and the first manifest.

    Args:
        folder: that does not exist yet, or is empty.
        about: what is known before the start, for the manifest; no names, no paths.

    Raises SessionError: it is in use, or nothing can be written there.
    """
    folder = Path(folder)
    if is_session(folder):
        raise SessionError(folder, "", "a session is recorded there already", _ANOTHER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise SessionError(folder, "", "the folder is not empty", _ANOTHER)
        first = {"version": VERSION, "session": uuid.uuid4().hex, "started_ns": time.time_ns()}
        first |= {"ended_ns": None, **about, "streams": {}, "files": {}, "chunks": None}
        # Exclusive: of two that begin at once one is refused.
        with (folder / MANIFEST).open("x", encoding="utf-8") as file:
            file.write(_manifest_text(first))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise SessionError(folder, "", "a session is recorded there already", _ANOTHER) from error
    except OSError as error:
        raise SessionError(
            folder,
            "",
            f"cannot be written ({error.strerror or error})",
            "name a folder on a disk that can be written and has room, with --session",
        ) from error


def _manifest_text(manifest: Mapping[str, Any]) -> str:
    whole = {**manifest, "sha256": manifest_sha256(manifest)}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


class SessionFolder:
    """A session that is being recorded, by this process alone; safe for the threads of its streams.

    Raises SessionError: no session, or another process records into it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder)
        self._manifest = read_manifest(self.path)
        self._guard = threading.Lock()
        try:
            self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._chunks = os.open(self.path / CHUNKS, flags, 0o644)
            self._unnoted = b""
            self._take_up_chunks()
        except BlockingIOError as error:
            raise SessionError(
                self.path, "", "another process records into this session", _ANOTHER
            ) from error
        except OSError as error:
            raise SessionError(
                self.path, "", f"cannot be written ({error})", "give it room, or name another"
            ) from error

    def _take_up_chunks(self) -> None:
        """What a process before this one has written; a line that it could not finish goes."""
        before = (self.path / CHUNKS).read_bytes()
        whole = before[: before.rfind(b"\n") + 1]
        if len(whole) < len(before):
            os.ftruncate(self._chunks, len(whole))
        self._digest = hashlib.sha256(whole)
        self._size = len(whole)

    @property
    def session(self) -> str:
        """Its id."""
        return str(self._manifest["session"])

    def new_file(self, stream: str) -> Path:
        """The next file of a stream; it does not exist yet."""
        taken = [int(p.stem.rpartition("_")[2]) for p in self.path.glob(f"{stream}_*.mcap")]
        return self.path / f"{stream}_{max(taken, default=0) + 1:04d}.mcap"

    def note_chunk(self, line: ChunkLine, file_sha256: str, counts: Mapping[str, int]) -> None:
        """A chunk is on the disk.

        Args:
            file_sha256: of its file up to the chunk's end.
            counts: of its stream so far.

        Raises OSError: the note could not be written; the chunk stays.
        """
        with self._guard:
            stream = line.file.rpartition("_")[0]
            files = self._manifest["files"]
            files[line.file] = {"bytes": line.offset + line.bytes, "sha256": file_sha256}
            self._manifest["streams"][stream] = dict(counts)
            self._unnoted += line.text().encode()
            self._replace()

    def _note_lines(self) -> None:
        """Bring the lines of chunks to the disk; those of before too, where it took none."""
        if not self._unnoted:
            return
        try:
            view = memoryview(self._unnoted)
            while view:
                view = view[os.write(self._chunks, view) :]
            os.fsync(self._chunks)
        except OSError:
            os.ftruncate(self._chunks, self._size)  # no half a line
            raise
        self._digest.update(self._unnoted)
        self._size += len(self._unnoted)
        self._unnoted = b""

    def finish(self, name: str, size: int, sha256: str) -> None:
        """A file was closed in order, with its index."""
        with self._guard:
            self._manifest["files"][name] = {"bytes": size, "sha256": sha256, "finished": True}
            self._replace()

    def close(self, ended_ns: int | None, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Let the folder go; ended_ns: when the session was over, None = it is not. Raises OSError."""
        with self._guard:
            try:
                self._manifest["streams"] |= {k: dict(v) for k, v in counts.items()}
                if ended_ns is not None:
                    self._manifest["ended_ns"] = ended_ns
                self._replace()
            finally:
                os.close(self._chunks)
                os.close(self._lock)

    def _replace(self) -> None:
        """A reader, and a power cut, meet the old manifest or the new one."""
        self._note_lines()
        self._manifest["chunks"] = {"bytes": self._size, "sha256": self._digest.hexdigest()}
        path = self.path / MANIFEST
        part = path.with_name(path.name + ".part")
        with part.open("w", encoding="utf-8") as file:
            file.write(_manifest_text(self._manifest))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        folder = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
