# SPDX-License-Identifier: Apache-2.0
"""The recorder of a session: hears what was seen, shown, asked and answered, and keeps it.

It is a process of its own, hears messages as bytes, and hands them to streams that never make it wait
(core/session_stream.py): a slow or full disk costs pictures of the record, and never guidance. What
compresses and writes has a lower priority; what hears has not, else messages were lost on a busy
machine before anybody could count them.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.serialization import deserialize_message, serialize_message

from spine_nav_common.ros import topics
from spine_nav_common.ros.lifecycle import ERROR, OK, WARN, SpineNode
from spine_nav_common.ros.runtime import run_node

from ..core.session_folder import EVENTS, PICTURES, SessionFolder
from ..core.session_private import scrub
from ..core.session_stream import Item, Stream
from .session_topics import Recorded, SessionRecorderConfig, events, pictures

_RATE_S, _SOON_S = 5.0, 900.0  # a rate is known after so long; a full disk is told so long before
_STAMP = slice(4, 12)  # of a serialised message that begins with a header


class SessionRecorder(SpineNode):
    """Records into a session's folder while it is active; see docs/record.md."""

    config_type = SessionRecorderConfig

    def __init__(self, values: Any = None, namespace: str | None = None) -> None:
        super().__init__("session_recorder", values, namespace)
        self.streams: dict[str, Stream] = {}
        self._folder: SessionFolder | None = None
        self._heard: list[Recorded] = []
        self._cause = ""
        self._said = ""
        self.last_counts: dict[str, int] = {}
        self._came: Counter[str] = Counter()  # messages of the cameras by topic
        self._lacking = self._not_received = 0

    def configure(self) -> None:
        self._folder = SessionFolder(self.config.session)
        self.streams = {name: Stream(self._folder, name) for name in (EVENTS, PICTURES)}
        self._private = tuple(text for text in self.config.private if text)

    def activate(self) -> None:
        of_camera = pictures(self.config)
        self._began = time.monotonic()
        self._heard = [*events(self.get_namespace(), self.config.levels), *of_camera]
        for topic in self._heard:
            take = self._take_picture if topic.picture else self._take
            stream = self.streams[PICTURES if topic.of_camera else EVENTS]
            self._hear(topic, partial(take, topic, stream))
        self.every(0.5, self._tell)

    def _hear(self, topic: Recorded, callback: Callable[[bytes], None]) -> None:
        self.listen(topic.kind, topic.topic, callback, topic.profile, raw=True)

    def deactivate(self) -> None:
        for _ in range(2):  # nothing is under way any more
            self._look_for_losses()
        self._heard = []

    def cleanup(self) -> None:
        for stream in self.streams.values():
            if not stream.close():
                self.get_logger().error(f"{stream.name}: the disk did not take the end in time")
        self.counts()
        if self._folder is not None:
            try:
                self._folder.close(time.time_ns(), {n: s.counts for n, s in self.streams.items()})
            except OSError as error:
                self.get_logger().error(f"the manifest could not be finished: {error}")
        self.streams, self._folder = {}, None

    # On the executor's thread; the streams take it from there.

    def _take(self, topic: Recorded, stream: Stream, data: bytes) -> None:
        self._came[topic.name] += topic.of_camera
        data = scrub(data, self._private, partial(self._parse, topic.kind))
        stream.put(Item(topic.name, _type_name(topic.kind), time.time_ns(), data))

    def _take_picture(self, topic: Recorded, stream: Stream, data: bytes) -> None:
        self._came[topic.name] += 1
        sec, nanosec = memoryview(data)[_STAMP].cast("I")
        stamp_ns = sec * 1_000_000_000 + nanosec
        stream.put(Item(topic.name, _type_name(topic.kind), time.time_ns(), data, stamp_ns))

    @staticmethod
    def _parse(kind: type, data: bytes) -> tuple[Any, Callable[[Any], bytes]]:
        return deserialize_message(data, kind), serialize_message

    @property
    def ready(self) -> bool:
        """Whether it hears what a replay of the session needs."""
        if not self.active:
            return False
        cameras = self.config.cameras
        journals = {topics.JOURNAL} if cameras.colour_topic else set()
        journals |= {topics.SCREW_JOURNAL} if cameras.left_topic else set()
        needed = [t for t in self._heard if t.of_camera or t.topic in journals]
        return all(self.count_publishers(t.topic) for t in needed)

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "record": self.counts(), "record_problem": self.trouble()}

    def counts(self) -> dict[str, int]:
        """Of both streams together, and pictures that never came; they stay what they were at the end."""
        total: Counter[str] = Counter()
        for stream in self.streams.values():
            total.update(stream.counts)
        if total:
            self.last_counts = {**total, "pictures_not_received": self._not_received}
        return self.last_counts

    @property
    def facts_of_record(self) -> dict[str, Any]:
        """For the summary of the run; what pictures were left out for, though it be over."""
        cause = self._cause if self._said and self._cause not in self._said else ""
        problem = "; ".join(filter(None, (self._said, cause)))
        return {**self.last_counts, "problem": problem}

    def trouble(self) -> str:
        """What keeps the record from being whole now, "" = nothing."""
        told = [f"{n}: {s.problem}" for n, s in self.streams.items() if s.problem]
        told += [f"{n}: its writer died" for n, s in self.streams.items() if not s.alive]
        return "; ".join(told)

    def _tell(self) -> None:
        """At once when it changes whether all is written."""
        self._look_for_losses()
        said = self._state()
        self._cause = self.trouble() or self._cause
        if said != self._said:
            if said:
                self.get_logger().warn(said, throttle_duration_sec=5.0)
            self._said = said
            self._publish_health()

    def _look_for_losses(self) -> None:
        """Every camera_info, small enough to get through, names an image; one may be under way yet."""
        lacking = 0
        for info in (t.name for t in self._heard if t.of_camera and not t.picture):
            camera = info.removesuffix("camera_info")
            images = [t.name for t in self._heard if t.picture and t.name.startswith(camera)]
            lacking += sum(max(0, self._came[info] - self._came[image]) for image in images)
        self._lacking, self._not_received = (
            lacking,
            max(self._not_received, min(lacking, self._lacking)),
        )

    def _room(self) -> str:
        """That the disk will be full soon, at the rate so far."""
        written = sum(f.stat().st_size for f in Path(self.config.session).glob("*.mcap"))
        spent_s = time.monotonic() - self._began
        if spent_s < _RATE_S or not written:
            return ""
        left_s = shutil.disk_usage(self.config.session).free / written * spent_s
        return f"the disk is full in {left_s / 60:.0f} min" if left_s < _SOON_S else ""

    def _state(self) -> str:
        left_out = sum(s.counts["pictures_left_out"] for s in self.streams.values())
        lost = sum(s.counts["messages_lost"] for s in self.streams.values())
        told = [self.trouble()]
        told += [self._room()]
        told += [f"{left_out} pictures left out of the record"] if left_out else []
        missed = self._not_received
        told += [f"{missed} pictures did not reach the recorder"] if missed else []
        told += [f"{lost} messages lost to the record"] if lost else []
        return "; ".join(filter(None, told))

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        if not self.active:
            return OK, "not active", {}
        said = self._state()
        lost = any(s.counts["messages_lost"] for s in self.streams.values())
        severity = ERROR if lost else WARN if said else OK
        return severity, said or "recording", dict(self.counts())


def _type_name(kind: type) -> str:
    package = kind.__module__.partition(".")[0]
    return f"{package}/msg/{kind.__name__}"


def main() -> int:
    """`ros2 run spine_nav_display session_recorder`."""
    return run_node(SessionRecorder)


if __name__ == "__main__":
    sys.exit(main())
