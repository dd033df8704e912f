# SPDX-License-Identifier: Apache-2.0
"""A copy of a session for others: without its pictures, or with blurred ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spine_nav_common.core.images import ImageError, decode_colour, encode_image
from spine_nav_common.core.recording_writer import TYPES
from spine_nav_common.core.storage import RawMessage, StorageCut, open_storage

from .session_folder import (
    EVENTS,
    PICTURES,
    SessionError,
    SessionFolder,
    create_session,
    read_manifest,
)
from .session_stream import CLOSE_S, ChunkFile, Item
from .session_verify import verify

REMOVE, BLUR = "remove", "blur"
_IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_BLUR_SHARE = 0.05  # of the image's width: no face, no writing, no wound is made out
_KEPT = (
    "source", "case", "parameters", "calibration", "versions", "started_ns", "session",
)  # fmt: skip


def export(
    folder: Path, out: Path, how: str, progress: Callable[[int], None] = lambda count: None
) -> dict[str, int]:
    """Write a copy of a session whose pictures are removed or blurred; counts of both.

    Removed are all images, depth too; blurred are those with colour or grey, while depth, which shows
    a surface and no face, stays. The thumbnail in what a navigation leaves for the next one goes in
    both. Such a copy can be audited, and not computed again.

    Raises SessionError: no session, damaged, or `out` cannot be written.
    """
    checked = verify(folder)
    if checked.damaged:
        damage = next(str(f) for f in checked.findings if f.damage)
        raise SessionError(folder, "", damage, "`spinenav audit` names all; nothing was exported")
    before = read_manifest(folder)
    about = {name: before[name] for name in _KEPT if name in before}
    create_session(out, {**about, "exported": how})
    counts = {"messages": 0, "pictures_removed": 0, "pictures_blurred": 0}
    target = SessionFolder(out)
    done = False
    try:
        streams = {name: _Copy(target, name) for name in (EVENTS, PICTURES)}
        for name, raw in _messages(folder):
            item = _scrubbed(raw, how, counts)
            if item is not None:
                streams[name].put(item)
                counts["messages"] += 1
            progress(counts["messages"])
        for copy in streams.values():
            copy.close()
        done = True
    except OSError as error:
        raise SessionError(out, "", f"cannot be written ({error})", "give it room") from error
    finally:
        with suppress(OSError):
            # A copy that broke off in the middle has no end, and says so.
            target.close(before.get("ended_ns") if done else None, {EVENTS: counts} if done else {})
    return counts


def _messages(folder: Path) -> Iterator[tuple[str, RawMessage]]:
    """(stream, message), file by file in their order, as far as they read."""
    for stream in (EVENTS, PICTURES):
        for path in sorted(folder.glob(f"{stream}_*.mcap")):
            storage = open_storage(path)
            with suppress(StorageCut):
                for raw in storage.messages(storage.topics):
                    yield stream, raw


class _Copy:
    """One stream of the copy, in chunks as long as those of the original."""

    def __init__(self, folder: SessionFolder, name: str) -> None:
        self._folder, self._name = folder, name
        self._file: ChunkFile | None = None
        self._items: list[Item] = []
        self._counts = {"messages": 0, "bytes": 0, "chunks": 0}

    def put(self, item: Item) -> None:
        if self._items and item.log_ns - self._items[0].log_ns > CLOSE_S * 1e9:
            self._write()
        self._items.append(item)

    def _write(self) -> None:
        if not self._items:
            return
        self._file = self._file or ChunkFile(self._folder.new_file(self._name))
        line = self._file.write(self._items)
        self._counts["messages"] += len(self._items)
        self._counts["bytes"] += sum(len(item.data) for item in self._items)
        self._counts["chunks"] += 1
        self._folder.note_chunk(line, self._file.sha256, self._counts)
        self._items = []

    def close(self) -> None:
        self._write()
        if self._file is not None:
            self._file.finish()
            self._folder.finish(self._file.path.name, self._file.good, self._file.sha256)


def _scrubbed(raw: RawMessage, how: str, counts: dict[str, int]) -> Item | None:
    data = raw.data
    if raw.msgtype in _IMAGES:
        message = TYPES.deserialize_cdr(data, raw.msgtype)
        if how == BLUR and _is_depth(raw.topic, message):
            return Item(raw.topic, raw.msgtype, raw.log_ns, data)
        blurred = _blurred(message, raw.msgtype) if how == BLUR else None
        if blurred is None:
            counts["pictures_removed"] += 1
            return None
        counts["pictures_blurred"] += 1
        data = bytes(TYPES.serialize_cdr(blurred, raw.msgtype))
    elif raw.topic.endswith("/registration/journal"):
        data = _without_thumbnail(raw)
    return Item(raw.topic, raw.msgtype, raw.log_ns, data)


def _is_depth(topic: str, message: Any) -> bool:
    return "depth" in topic or getattr(message, "encoding", "") in ("16UC1", "32FC1")


def _blurred(message: Any, msgtype: str) -> Any | None:
    """The message with a picture in which nothing is made out; None where it cannot be read."""
    try:
        image = decode_colour(message)
    except ImageError:
        return None
    sigma = _BLUR_SHARE * image.shape[1]
    soft = cv2.GaussianBlur(image, (0, 0), sigma)
    if msgtype == _IMAGES[0]:
        fields = {**encode_image(soft, "rgb8"), "header": message.header}
        return TYPES.types[msgtype](**fields)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(soft, cv2.COLOR_RGB2BGR))
    if not done:
        return None
    return TYPES.types[msgtype](
        header=message.header,
        format="rgb8; jpeg compressed bgr8",
        data=np.asarray(data).reshape(-1),
    )


def _without_thumbnail(raw: RawMessage) -> bytes:
    message: Any = TYPES.deserialize_cdr(raw.data, raw.msgtype)
    try:
        values = json.loads(message.data)
    except ValueError:
        return raw.data
    if values.get("op") != "recall":
        return raw.data
    memory = json.loads(values["memory"])
    if memory.get("shown"):
        memory["shown"] = None
    values["memory"] = json.dumps(memory)
    copy = TYPES.types[raw.msgtype](data=json.dumps(values))
    return bytes(TYPES.serialize_cdr(copy, raw.msgtype))
