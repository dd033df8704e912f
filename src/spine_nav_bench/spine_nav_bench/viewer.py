# SPDX-License-Identifier: Apache-2.0
"""A screen that is watched: how long after the camera's image its picture with guidance arrives.

python -m spine_nav_bench.viewer OUT.json, until SIGINT or SIGTERM; a process of its own, as RViz is.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from sensor_msgs.msg import Image

from spine_nav_common.core.tables import write_json
from spine_nav_common.core.types import Status
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import stamp_to_ns
from spine_nav_common.ros.results import status_fields
from spine_nav_common.ros.runtime import run_node

OVERLAY_HEALTH = "overlay: health"


class Viewer(Node):
    """Notes when images, results and pictures of each stamp arrive."""

    def __init__(self, out: Path) -> None:
        super().__init__("viewer", namespace=topics.DEFAULT_NAMESPACE)
        self._out = out
        self._images: dict[int, float] = {}
        self._tracked: set[int] = set()
        self.latency_ms: dict[int, float] = {}
        self.pictures = 0
        self.health: dict[str, str] = {}
        for kind, topic, callback, profile in (
            (Image, topics.COLOUR, self._on_image, qos.SENSOR_IN),
            (Image, topics.OVERLAY, self._on_picture, qos.SENSOR_IN),
            (DiagnosticArray, topics.STATUS, self._on_status, qos.POSE),
            (DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.RESULT),
        ):
            self.create_subscription(kind, topic, callback, profile)

    def _on_image(self, message: Image) -> None:
        self._images.setdefault(stamp_to_ns(message.header.stamp), time.monotonic())

    def _on_status(self, message: DiagnosticArray) -> None:
        states = [status_fields(s).get("status") for s in message.status]
        if Status.TRACKED.value in states:
            self._tracked.add(stamp_to_ns(message.header.stamp))

    def _on_picture(self, message: Image) -> None:
        self.pictures += 1
        stamp_ns = stamp_to_ns(message.header.stamp)
        # before its result came, a picture of this stamp was the camera's image alone
        if stamp_ns in self._images and stamp_ns in self._tracked:
            arrived = self._images[stamp_ns]
            self.latency_ms.setdefault(stamp_ns, (time.monotonic() - arrived) * 1e3)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.endswith(OVERLAY_HEALTH):
                self.health = status_fields(status)

    def destroy_node(self) -> None:
        document: dict[str, Any] = {
            "images": len(self._images),
            "tracked": len(self._tracked),
            "pictures": self.pictures,
            "latency_ms": list(self.latency_ms.values()),
            "overlay": self.health,
        }
        write_json(self._out, document)
        super().destroy_node()


if __name__ == "__main__":
    sys.exit(run_node(lambda: Viewer(Path(sys.argv[1])), argv=[]))
