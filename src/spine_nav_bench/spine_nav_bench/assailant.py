# SPDX-License-Identifier: Apache-2.0
"""Kills and holds the nodes of a running graph, one after another, and notes how long what each has
shown stays up (withdrawn) and how long it takes until it is shown again (back).

python -m spine_nav_bench.assailant OUT.json PID REPEATS: PID, of the graph's owner, gets SIGTERM at
the end. A process of its own; the nodes' process ids stand in their heartbeats.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from sensor_msgs.msg import Image
from visualization_msgs.msg import Marker, MarkerArray

from spine_nav_common.core.tables import write_json
from spine_nav_common.core.types import Status
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.heartbeat import Beat, beat_from_message
from spine_nav_common.ros.results import status_fields
from spine_nav_common.ros.runtime import run_node

NODES = ("navigation", "overlay", "case_server", "camera_source")
KINDS = {"kill": signal.SIGKILL, "hang": signal.SIGSTOP}
_ACTIVE = 3
_STEADY_S = 2.0  # all is shown for this long before the next fault
_NEVER_S = 30.0
_ALL_S = 1200.0


class Assailant(Node):
    """One fault at a time; `rows` is what came of each."""

    def __init__(self, out: Path, repeats: int) -> None:
        super().__init__("assailant", namespace=topics.DEFAULT_NAMESPACE)
        self._out = out
        self._plan = [(n, k) for k in KINDS for _ in range(repeats) for n in NODES]
        self._started = self._unsteady = time.monotonic()
        self._beats: dict[str, Beat] = {}
        self._heard: dict[str, float] = {}
        self._shown: dict[str, float] = {}
        self.rows: list[dict[str, Any]] = []
        self.stale: Counter[str] = Counter()  # shown again before its process was another
        self._fault: tuple[str, str] | None = None
        self.done = False
        for kind, topic, callback, profile in (
            (DiagnosticStatus, topics.HEARTBEAT, self._on_beat, qos.RESULT),
            (DiagnosticArray, topics.STATUS, self._on_status, qos.RESULT),
            (Image, topics.OVERLAY, self._on_picture, qos.SENSOR_IN),
            (MarkerArray, topics.VERTEBRAE, self._on_markers, qos.LATCHED),
        ):
            self.create_subscription(kind, topic, callback, profile)
        self.create_timer(0.02, self._step)

    def _on_beat(self, message: DiagnosticStatus) -> None:
        beat = beat_from_message(message)
        self._beats[beat.name], self._heard[beat.name] = beat, time.monotonic()

    def _on_status(self, message: DiagnosticArray) -> None:
        states = [status_fields(s).get("status") for s in message.status]
        for name in ("navigation", "camera_source"):
            self._see(name, Status.TRACKED.value in states)

    def _on_picture(self, message: Image) -> None:
        # what is sent in the overlay's place names no camera
        self._see("overlay", bool(message.header.frame_id))

    def _on_markers(self, message: MarkerArray) -> None:
        self._see("case_server", any(m.action == Marker.ADD for m in message.markers))

    def _see(self, name: str, shown: bool) -> None:
        now = time.monotonic()
        if shown:
            self._shown[name] = now
        elif self._fault is None:
            self._unsteady = now
        if self._fault is None or self._fault[0] != name:
            return
        if not shown:
            self._withdrawn = self._withdrawn or now
        elif self._beats[name].born != self._born:
            if self._withdrawn is not None:
                self._end(now)
        elif self._withdrawn is not None:
            self.stale[name] += 1  # a result that was under way: it was not withdrawn yet
            self._withdrawn = None

    def _step(self) -> None:
        now = time.monotonic()
        if self._fault is not None:
            if now - self._hit > _NEVER_S:
                self._end(None)
        elif not self._plan or now - self._started > _ALL_S:
            self.done = True
        elif not self._is_steady(now):
            self._unsteady = max(self._unsteady, now - _STEADY_S + 0.1)
        elif now - self._unsteady > _STEADY_S:
            self._strike(*self._plan.pop(0))

    def _is_steady(self, now: float) -> bool:
        beating = all(
            n in self._beats and self._beats[n].state == _ACTIVE and now - self._heard[n] < 1.0
            for n in NODES
        )
        return beating and all(
            now - self._shown.get(n, 0.0) < 1.0 for n in ("navigation", "overlay")
        )

    def _strike(self, name: str, kind: str) -> None:
        self._fault, self._withdrawn = (name, kind), None
        self._born = self._beats[name].born
        self._hit = time.monotonic()
        os.kill(self._beats[name].pid, KINDS[kind])

    def _end(self, back: float | None) -> None:
        name, kind = self._fault
        gone = self._withdrawn
        row = {
            "node": name,
            "kind": kind,
            "withdrawn_s": None if gone is None else round(gone - self._hit, 3),
            "back_s": None if back is None else round(back - self._hit, 3),
        }
        self.rows.append(row)
        print(
            f"{kind} {name}: withdrawn {row['withdrawn_s']} s, back {row['back_s']} s", flush=True
        )
        self._fault, self._unsteady = None, time.monotonic()

    def destroy_node(self) -> None:
        write_json(self._out, {"faults": self.rows, "stale": self.stale, "left": len(self._plan)})
        super().destroy_node()


def main() -> int:
    """See the module."""
    out, owner, repeats = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    made: list[Assailant] = []

    def make() -> Assailant:
        made.append(Assailant(out, repeats))
        return made[0]

    code = 1
    try:
        code = run_node(make, argv=[], exit_code=lambda node: 0 if node.done else None)
    finally:
        if code or made[0].done:  # else it was told to end, since the graph has
            os.kill(owner, signal.SIGTERM)
    return code


if __name__ == "__main__":
    sys.exit(main())
