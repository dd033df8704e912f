# SPDX-License-Identifier: Apache-2.0
"""Ends when the nodes that compute have worked off all that they received; a launch file waits for it
after a recording's last frame."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node

from spine_nav_common.parameters import param
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.heartbeat import beat_from_message
from spine_nav_common.ros.params import declare, frozen, overrides
from spine_nav_common.ros.runtime import run_node

_UNHEARD_S = 10.0
COMPUTING = ("navigation", "stereo_tracker")


@dataclass(frozen=True)
class FinishConfig:
    """Parameters of the wait."""

    quiet_s: float = param(1.5, "nothing is received or worked on for this long", "s", 0.5, 60.0)
    most_s: float = param(60.0, "the wait ends after this time in any case", "s", 1.0, 3600.0)


class Finish(Node):
    """`done` says when the wait is over."""

    def __init__(
        self, values: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        super().__init__("finish", namespace=namespace, parameter_overrides=overrides(values or {}))
        declare(self, FinishConfig)
        self.config: FinishConfig = frozen(self, FinishConfig)
        self._begun = self._moved = time.monotonic()
        self._seen: dict[str, tuple[bool, Any]] = {}
        self.create_subscription(DiagnosticStatus, topics.HEARTBEAT, self._on_beat, qos.RESULT)

    def _on_beat(self, message: DiagnosticStatus) -> None:
        if message.name not in COMPUTING:
            return
        facts = beat_from_message(message).facts
        now = bool(facts.get("idle", True)), facts.get("counts")
        if now != self._seen.get(message.name) or not now[0]:
            self._moved = time.monotonic()
        self._seen[message.name] = now

    @property
    def done(self) -> bool:
        """Whether all is quiet, or has taken too long."""
        waited_s = time.monotonic() - self._begun
        if not self._seen:  # they may still be found
            return waited_s > min(_UNHEARD_S, self.config.most_s)
        quiet_s = time.monotonic() - self._moved
        return quiet_s > self.config.quiet_s or waited_s > self.config.most_s


def main() -> int:
    """`ros2 run spine_nav_bringup finish`."""
    return run_node(Finish, exit_code=lambda node: 0 if node.done else None)


if __name__ == "__main__":
    sys.exit(main())
