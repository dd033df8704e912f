# SPDX-License-Identifier: Apache-2.0
"""The topics of a recording by their role, and the messages on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .errors import RecordingError
from .images import READABLE, CameraModel, ImageError, decode_camera_info
from .known_cameras import complete, named, recognise
from .recording_writer import TYPES
from .roles import ROLES, SCENE_ROLES
from .storage import StorageCut, open_storage
from .types import Rejected

_FIRST_NAMES = tuple(names[0] for names in ROLES.values())
_IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_PROBE_IMAGES = 3


def load_remap(path: str | Path) -> dict[str, str]:
    """Read a --remap file: YAML `canonical topic: topic in the recording`, one line per topic; or the
    name of a known driver, as `zed` or `zed:/prefix/of/its/topics`.

    Raises RecordingError: unreadable, or a name on the left that this program does not look for.
    """
    path = Path(path)
    if not path.is_file() and (ready := named(str(path))) is not None:
        return ready
    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecordingError(path, "", f"not readable ({error})", "write YAML") from error
    if not isinstance(mapping, dict) or not all(
        isinstance(k, str) and isinstance(v, str) for k, v in mapping.items()
    ):
        raise RecordingError(path, "", "it maps no topics", "write `/camera/…: /my/topic` lines")
    known = {name for names in ROLES.values() for name in names}
    remap: dict[str, str] = {}
    for name, other in mapping.items():
        if name not in known and other not in known:
            raise RecordingError(
                path,
                name,
                "nothing reads this topic",
                f"write a topic that is looked for on the left ({', '.join(_FIRST_NAMES)}), the"
                " recording's name for it on the right",
            )
        # which of the two is ours is never in doubt, so either order is understood
        remap.update({name: other} if name in known else {other: name})
    return remap


class RecordedMessages:
    """What one recording holds, read as often as asked.

    Attributes:
        topics: recorded topic names to their types.
        truncated: why the recording ended early, or None.
        reasons: how often each reason occurred why a message could not be read.
    """

    def __init__(self, path: Path, remap: dict[str, str]) -> None:
        self.path = path
        self._remap = remap
        self._storage = open_storage(path)
        self.topics = dict(self._storage.topics)
        self.recognised = ""  # the driver by whose names the topics are read, in words
        self.forget()
        if not self.topics:
            raise RecordingError(path, "", "the recording is empty", "record the camera's topics")
        if not remap and not any(complete(scene, self.topics) for scene in SCENE_ROLES):
            self._recognise()

    def _recognise(self) -> None:
        """Read the topics of a known driver by its names; refused where two cameras could be meant."""
        cameras = recognise(self.topics, SCENE_ROLES)
        if isinstance(cameras, Rejected):
            raise RecordingError(
                self.path, "", cameras.reason, "two of them together take a --remap file"
            )
        for camera in cameras:
            self._remap = {**camera.remap, **self._remap}
        self.recognised = "; ".join(camera.told() for camera in cameras)

    def forget(self) -> None:
        """Begin to count anew."""
        self.reasons: Counter[str] = Counter()
        self.truncated: str | None = None

    def find(self, role: str) -> str | None:
        """The recorded topic of a role, or None."""
        for name in ROLES[role]:
            topic = self._remap.get(name, name)
            if topic in self.topics:
                return topic
        return None

    def canonical(self, role: str) -> str:
        """The canonical name under which a role was found."""
        return next(n for n in ROLES[role] if self._remap.get(n, n) in self.topics)

    def topic(self, role: str) -> str:
        """The recorded topic of a role; refused where it is missing or holds no images."""
        topic = self.find(role)
        if topic is None:
            images = [name for name, kind in self.topics.items() if kind in _IMAGE_TYPES]
            found = ", ".join(sorted(images)) or "no image topic"
            raise RecordingError(
                self.path,
                self._remap.get(ROLES[role][0], ROLES[role][0]),
                f"this topic is not in the recording (it holds {found})",
                "record it, or name the recording's own topics with --remap",
            )
        if "info" not in role and self.topics[topic] not in _IMAGE_TYPES:
            raise RecordingError(
                self.path,
                topic,
                f"it holds {self.topics[topic]}, no images",
                "name another topic with --remap",
            )
        return topic

    def messages(self, *topics: str) -> Iterator[tuple[str, Any]]:
        """(topic, message) of these topics; what cannot be deserialised is None."""
        return ((topic, message) for topic, message, _ in self.received(*topics))

    def received(self, *topics: str) -> Iterator[tuple[str, Any, int]]:
        """(topic, message or None, receive time in ns) of these topics."""
        try:
            for raw in self._storage.messages(topics):
                try:
                    message = TYPES.deserialize_cdr(raw.data, self.topics[raw.topic])
                except Exception as error:  # noqa: BLE001 - rosbags raises what its decoder meets
                    self.reasons[f"{raw.topic}: message damaged ({type(error).__name__})"] += 1
                    message = None
                yield raw.topic, message, raw.log_ns
        except StorageCut as cut:
            self.truncated = str(cut)

    def frame_id(self, topic: str) -> str:
        """The frame that the topic's first message states; empty where it states none."""
        heads = (m.header.frame_id for _, m in self.messages(topic) if m is not None)
        return str(next(heads, ""))

    def camera_info(self, role: str) -> CameraModel:
        """The first usable camera_info, wherever it comes: its image may come before it."""
        topic = self.topic(role)
        problem = "there is no camera_info message"
        for _, message in self.messages(topic):
            try:
                if message is not None:
                    return decode_camera_info(message)
            except ImageError as error:
                problem = str(error)
        raise RecordingError(
            self.path, topic, self._with_cut(problem), "record camera_info of a calibrated camera"
        )

    def _with_cut(self, problem: str) -> str:
        return f"{problem} ({self.truncated})" if self.truncated else problem

    def probe(self, topic: str, decode: Callable[[Any], np.ndarray]) -> list[np.ndarray]:
        """The first images of a topic; refused if none of them decodes."""
        images, problem = [], "there is no image"
        for _, message in islice(self.messages(topic), _PROBE_IMAGES):
            try:
                if message is not None:
                    images.append(decode(message))
            except ImageError as error:
                problem = str(error)
        if not images:
            raise RecordingError(
                self.path,
                topic,
                self._with_cut(problem),
                f"record images that this program reads ({READABLE}, or compressed)",
            )
        return images
