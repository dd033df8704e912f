# SPDX-License-Identifier: Apache-2.0
"""Serves the graph's topics to Foxglove as they are: the same names, types and bytes as in a recording.

Two servers: one without pictures, whose messages never wait behind one, and one with them. A topic is
asked for only while somebody looks at it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sensor_msgs.msg import CompressedImage
from visualization_msgs.msg import ImageMarker, MarkerArray

from spine_nav_common.core.case import load_case
from spine_nav_common.core.recording_writer import TYPES
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.executor import call_soon
from spine_nav_common.ros.lifecycle import OK, WARN, SpineNode
from spine_nav_common.ros.runtime import run_node

from .foxglove_config import MISSING, FoxgloveConfig, check_foxglove
from .session_topics import Recorded, events

_LOOK_S = 0.25


def served(namespace: str, levels: tuple[str, ...]) -> list[Recorded]:
    """What a recording holds, and what is only drawn; pictures are marked as such."""
    prefix = namespace.rstrip("/")
    drawn = [
        (MarkerArray, topics.VERTEBRAE, qos.LATCHED, False),
        (MarkerArray, topics.SCREW_MARKERS, qos.POSE, False),
        (MarkerArray, topics.OVERLAY_MARKERS, qos.POSE, False),
        (ImageMarker, topics.OVERLAY_STROKES, qos.POSE, False),
        (CompressedImage, topics.OVERLAY_COMPRESSED, qos.SENSOR_IN, True),
        (CompressedImage, topics.SCREW_OVERLAY_COMPRESSED, qos.SENSOR_IN, True),
        (CompressedImage, topics.BULLS_EYE_COMPRESSED, qos.SENSOR_IN, True),
    ]
    return [
        *events(namespace, levels),
        *(
            Recorded(kind, topic, f"{prefix}/{topic}", how, look)
            for kind, topic, how, look in drawn
        ),
    ]


@dataclass
class _Topic:
    """A topic, its channels, and the newest message where who comes late gets it too."""

    what: Recorded
    channels: list[Any]
    subscription: Any = None
    last: bytes | None = None

    @property
    def latched(self) -> bool:
        return self.what.profile.durability == qos.LATCHED.durability


class FoxgloveBridge(SpineNode):
    """Serves Foxglove; publishes nothing."""

    config_type = FoxgloveConfig
    yields = True

    def __init__(
        self, values: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        super().__init__("foxglove", values, namespace)
        self.servers: list[Any] = []
        self._topics: list[_Topic] = []
        self._contexts: list[Any] = []

    def configure(self) -> None:
        c = self.config
        try:
            import foxglove
        except ImportError as error:
            raise ValueError(MISSING) from error
        check_foxglove(
            {"host": c.host, "allow_network": c.allow_network, "port": 0, "picture_port": 0}
        )
        levels = load_case(c.case).exposed_levels if c.case else ()
        # Kept: without them their servers tell of no channel.
        self._contexts = contexts = [foxglove.Context(), foxglove.Context()]
        self._topics = [
            _Topic(
                what, [_channel(foxglove, what, context) for context in contexts[what.picture :]]
            )
            for what in served(self.get_namespace(), levels)
        ]
        listener = _Listener(self._on_subscribed)
        for context, port in zip(contexts, (c.port, c.picture_port), strict=True):
            self.servers.append(
                foxglove.start_server(
                    name="SpineNav", host=c.host, port=port, context=context,
                    server_listener=listener, message_backlog_size=c.backlog,
                )
            )  # fmt: skip
        ports = [server.port for server in self.servers]
        self.get_logger().info(
            f"Foxglove: ws://{c.host}:{ports[0]}, with pictures ws://{c.host}:{ports[1]}"
        )

    def activate(self) -> None:
        self.every(_LOOK_S, self._on_look)

    def deactivate(self) -> None:
        for topic in self._topics:
            self._look_away(topic)

    def cleanup(self) -> None:
        for server in self.servers:
            server.stop()
        for topic in self._topics:
            for channel in topic.channels:
                channel.close()
        self.servers, self._topics, self._contexts = [], [], []

    def _on_look(self) -> None:
        for topic in self._topics:
            watched = any(channel.has_sinks() for channel in topic.channels)
            if watched and topic.subscription is None:
                topic.subscription = self.create_subscription(
                    topic.what.kind,
                    topic.what.topic,
                    lambda data, topic=topic: self._pass_on(topic, data),
                    topic.what.profile,
                    raw=True,
                )
            elif not watched:
                self._look_away(topic)

    def _look_away(self, topic: _Topic) -> None:
        if topic.subscription is not None:
            self.destroy_subscription(topic.subscription)
        topic.subscription = topic.last = None

    def _pass_on(self, topic: _Topic, data: bytes) -> None:
        topic.last = data if topic.latched else None
        now_ns = time.time_ns()
        for channel in topic.channels:
            channel.log(data, log_time=now_ns)

    def _on_subscribed(self, name: str) -> None:
        """From a server's thread: who comes late gets what is latched."""
        call_soon(self, lambda: self.active and self._repeat(name))

    def _repeat(self, name: str) -> None:
        for topic in self._topics:
            if topic.what.name == name and topic.last is not None:
                self._pass_on(topic, topic.last)

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "ports": [server.port for server in self.servers]}

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        if not self.servers:
            return WARN, "not configured", {}
        looked = sum(topic.subscription is not None for topic in self._topics)
        values: dict[str, object] = {"port": self.servers[0].port, "topics_watched": looked}
        return OK, "running" if self.active else "not active", values


class _Listener:
    """What a server tells of its clients."""

    def __init__(self, on_subscribed: Any) -> None:
        self._on_subscribed = on_subscribed

    def on_subscribe(self, client: Any, channel: Any) -> None:
        """A client looks at a channel."""
        self._on_subscribed(channel.topic)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda *_: None
        raise AttributeError(name)


def _channel(foxglove: Any, what: Recorded, context: Any) -> Any:
    kind = f"{what.kind.__module__.split('.')[0]}/msg/{what.kind.__name__}"
    text, _ = TYPES.generate_msgdef(kind, ros_version=2)
    schema = foxglove.Schema(name=kind, encoding="ros2msg", data=text.encode())
    return foxglove.Channel(what.name, schema=schema, message_encoding="cdr", context=context)


def main() -> int:
    """`ros2 run spine_nav_display foxglove`."""
    return run_node(FoxgloveBridge)


if __name__ == "__main__":
    sys.exit(main())
