# SPDX-License-Identifier: Apache-2.0
"""Many diagnostics and the supervisor's own concerns to one traffic light with reasons."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.results import key_values

_SILENT_S = 3.0  # three missed reports at 1 Hz
STATES = ("ready", "degraded", "unsafe", "failed")
_LEVELS = {
    "ready": DiagnosticStatus.OK,
    "degraded": DiagnosticStatus.WARN,
    "unsafe": DiagnosticStatus.ERROR,
    "failed": DiagnosticStatus.ERROR,
}
EXIT_CODES = {"ready": 0, "degraded": 0, "unsafe": 1, "failed": 1}


def newest_health(namespace: str, seconds: float) -> DiagnosticStatus | None:
    """What the supervisor of a namespace says within `seconds`; None where none is heard."""
    import rclpy

    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    heard: list[DiagnosticArray] = []
    node = rclpy.create_node("doctor", namespace=namespace, context=context)
    try:
        node.create_subscription(DiagnosticArray, topics.HEALTH, heard.append, qos.LATCHED)
        executor = rclpy.executors.SingleThreadedExecutor(context=context)
        executor.add_node(node)
        end = time.monotonic() + seconds
        while not heard and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    return heard[-1].status[0] if heard else None


@dataclass(frozen=True)
class Concern:
    """What keeps the whole from being ready. node: whose own report it replaces."""

    state: str
    reason: str
    node: str = ""


class HealthBoard:
    """Keeps the newest status of every node of a namespace and gives the worst of them."""

    def __init__(self, namespace: str = "/") -> None:
        self._prefix = namespace.strip("/")
        self._newest: dict[str, tuple[float, DiagnosticStatus]] = {}

    def note(self, message: DiagnosticArray) -> bool:
        """A message of /diagnostics; what another namespace says of itself is not ours. Whether a
        node of ours is better or worse than it was."""
        changed = False
        for status in message.status:
            path, _, what = status.name.partition(": ")
            namespace, _, node = path.rpartition("/")
            if what == "health" and node != "spinenav" and namespace == self._prefix:
                before = self._newest.get(node)
                changed |= before is not None and before[1].level != status.level
                self._newest[node] = (time.monotonic(), status)
        return changed

    @property
    def name(self) -> str:
        """Of the status that this board gives."""
        return f"{self._prefix}/spinenav: health" if self._prefix else "spinenav: health"

    def summary(
        self,
        now_s: float,
        concerns: Sequence[Concern] = (),
        more: Mapping[str, object] | None = None,
    ) -> DiagnosticStatus:
        """The worst state, with the reasons of all that are not well.

        Args:
            now_s: monotonic seconds; a node that is silent for three reports is told.
            concerns: of the caller; a node that is named there is not asked for itself.
            more: further values.

        Returns:
            Its values begin with `state`: ready, degraded, unsafe (no guidance may be relied on)
            or failed (will not mend itself).
        """
        found = list(concerns)
        told = {c.node for c in concerns}
        values: dict[str, object] = {}
        for node, (heard_s, status) in sorted(self._newest.items()):
            level, message = status.level, status.message
            if now_s - heard_s > _SILENT_S:
                level, message = DiagnosticStatus.WARN, f"silent for {now_s - heard_s:.0f} s"
            values[node] = message
            if level != DiagnosticStatus.OK and node not in told:
                state = "degraded" if level == DiagnosticStatus.WARN else "unsafe"
                found.append(Concern(state, f"{node}: {message}", node))
        state = max((c.state for c in found), key=STATES.index, default="ready")
        return DiagnosticStatus(
            level=_LEVELS[state],
            name=self.name,
            message="; ".join(c.reason for c in found) or "all well",
            values=key_values({"state": state, **values, **(more or {})}),
        )
