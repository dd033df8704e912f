# SPDX-License-Identifier: Apache-2.0
"""Brings the lifecycle nodes up in order, watches their heartbeats, takes back what a dead or hung
one has shown, ends a hung one, brings a restarted one up again, and takes all down in reverse.

Whoever started the processes starts them again (the launch file, `spinenav live`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import header
from spine_nav_common.ros.heartbeat import Beat, beat_from_message
from spine_nav_common.ros.params import declare, frozen, overrides
from spine_nav_common.ros.runtime import run_node

from .bring_up import ACTIVE, FINALIZED, INACTIVE, BringUp
from .health import Concern, HealthBoard
from .supervisor_config import SupervisorConfig
from .watch import ALIVE, DEAD, ENDED, LATE, Watched
from .withdrawal import Withdrawal

_TICK_S, _HEALTH_S = 0.05, 1.0
# A recorder shows nothing; to end one that is only late would lose what it holds.
_PATIENCE = {"session_recorder": 8.0}
_REPEATS = (0.1, 0.3, 1.0)  # s after which a withdrawal is told again: results may be under way


class Supervisor(Node):
    """Lifecycle manager and health board. `reached` and `failure` tell how far it is."""

    def __init__(
        self, values: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        super().__init__(
            "supervisor", namespace=namespace, parameter_overrides=overrides(values or {})
        )
        declare(self, SupervisorConfig)
        self.config: SupervisorConfig = frozen(self, SupervisorConfig)
        names = self.config.nodes
        self.nodes = {name: Watched(name, self.config.is_required(name)) for name in names}
        self.bring_up = BringUp(self, self.nodes, self.config.timeout_s, self._listen_anew)
        self.on_beat: Callable[[Beat], None] = lambda beat: None
        self.board = HealthBoard(self.get_namespace())
        self._withdrawal = Withdrawal(self, names)
        self._again: list[tuple[float, str, str]] = []
        self._ticked = time.monotonic()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._health = self.create_publisher(DiagnosticArray, topics.HEALTH, qos.LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.STATE)
        self._gone = self.create_publisher(DiagnosticArray, topics.GONE, qos.LATCHED)
        self._publish_gone()  # takes the place of what a supervisor before this one has said
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.RESULT)
        self._beats = self._hear_beats()
        self.create_service(Trigger, "supervisor/start", self._on_start)
        self.create_service(SetBool, "supervisor/pause", self._on_pause)
        self.create_service(Trigger, "supervisor/shutdown", self._on_shutdown)
        self.create_timer(_TICK_S, self._tick, clock=steady)
        self.create_timer(_HEALTH_S, self._publish_health, clock=steady)
        if self.config.autostart:
            self.go(ACTIVE)

    def _hear_beats(self) -> Any:
        return self.create_subscription(
            DiagnosticStatus, topics.HEARTBEAT, self._on_beat, qos.RESULT
        )

    def _listen_anew(self) -> None:
        self.destroy_subscription(self._beats)
        self._beats = self._hear_beats()

    def go(self, target: int) -> None:
        """Bring every node to ACTIVE, INACTIVE or FINALIZED; forget what was done by hand."""
        self.bring_up.go(target)

    @property
    def reached(self) -> bool:
        """Whether all nodes are in the target state, or are done without."""
        return self.bring_up.reached

    @property
    def failure(self) -> str:
        """Why the operation cannot go on, or ""."""
        return self.bring_up.failure

    @property
    def states(self) -> dict[str, int]:
        """Lifecycle state per node; 0 where it is not there."""
        return {n: w.state if w.life in (ALIVE, LATE) else 0 for n, w in self.nodes.items()}

    # Heartbeats and the look at them.

    def _on_beat(self, message: DiagnosticStatus) -> None:
        node = self.nodes.get(message.name)
        if node is None:
            return
        try:
            beat = beat_from_message(message)
        except (KeyError, ValueError):
            return  # of a program that is not ours
        self.on_beat(beat)
        before = node.life
        if node.note(beat):
            self.bring_up.began(node)
            if node.restarts:
                self.get_logger().warn(f"{node.name} was started again ({node.restarts}.)")
                self._publish_gone()
        elif before == LATE:
            self.get_logger().warn(f"{node.name} is heard again")
            self._publish_gone()
        if not beat.busy:
            self.bring_up.note_state(node, beat.changes, beat.state)

    def _tick(self) -> None:
        now = time.monotonic()
        held_up, self._ticked = now - self._ticked - _TICK_S, now
        if held_up > 4 * _TICK_S:
            self._forgive(held_up)
        for node in self.nodes.values():
            if node.look(1e-3 * self.config.late_ms):
                self._on_life(node)
            if node.life == LATE:
                self._end_if_hung(node)
        for due in [a for a in self._again if a[0] <= now]:
            self._again.remove(due)
            if not self._is_back(due[1]):
                self._withdrawal.of(due[1], due[2])
        self.bring_up.advance(now)

    def _forgive(self, seconds: float) -> None:
        """Who watches was itself held up: nobody is late by that time."""
        self.bring_up.forgive(seconds)
        for node in self.nodes.values():
            node.forgive(seconds)

    def _is_back(self, name: str) -> bool:
        node = self.nodes.get(name)  # a graph need not have every node that shows something
        return node is not None and node.life == ALIVE and node.state == ACTIVE

    def _on_life(self, node: Watched) -> None:
        """A node died, hangs or has ended."""
        shown = node.state == ACTIVE
        self.bring_up.ended(node)
        if self.bring_up.target == FINALIZED or node.life == ENDED:
            return
        reason = f"{node.name} {node.life}"
        self._publish_gone()
        self.get_logger().error(f"{reason}: what it has shown is withdrawn")
        if shown:
            for name in _shown_by(node.name):
                self._withdraw(name, reason)
        self._publish_health()

    def _publish_gone(self) -> None:
        """Who computes from a dead node's output shows nothing of what is still under way."""
        gone = {n: f"{n} {w.life}" for n, w in self.nodes.items() if w.life in (DEAD, LATE)}
        status = [
            DiagnosticStatus(name=n, message=m, level=DiagnosticStatus.ERROR)
            for n, m in gone.items()
        ]
        self._gone.publish(DiagnosticArray(status=status))

    def _withdraw(self, name: str, reason: str) -> None:
        self._withdrawal.of(name, reason)
        now = time.monotonic()
        self._again += [(now + s, name, reason) for s in _REPEATS]

    def _end_if_hung(self, node: Watched) -> None:
        wait_s = self.config.hang_s * _PATIENCE.get(node.name, 1.0)
        if wait_s and (node.stopped or node.hung_s > wait_s) and node.kill():
            self.get_logger().error(f"{node.name} hangs: its process is ended")

    # Services.

    def _on_start(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        self.go(ACTIVE)
        answer.success, answer.message = True, "starting"
        return answer

    def _on_pause(self, request: SetBool.Request, answer: SetBool.Response) -> SetBool.Response:
        self.go(INACTIVE if request.data else ACTIVE)
        answer.success, answer.message = True, "pausing" if request.data else "resuming"
        return answer

    def _on_shutdown(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        self.go(FINALIZED)
        answer.success, answer.message = True, "shutting down in reverse order"
        return answer

    # Health.

    def _concerns(self) -> list[Concern]:
        """What is not as it should be, of the nodes themselves."""
        up, target = self.bring_up, self.bring_up.target
        if self.failure:
            return [Concern("failed", self.failure)]
        found = []
        for name, node in self.nodes.items():
            grave = "unsafe" if node.required else "degraded"
            without = up.without(node)
            if node.life in (DEAD, LATE, ENDED) and target == ACTIVE:
                found.append(Concern(grave, f"{name} {node.life}", name))
            elif without:
                found.append(Concern(grave, f"{name}: {without}", name))
            elif target == ACTIVE and not up.at_target(node):
                starting = f"{name} is starting"
                found.append(Concern(grave if up.brought_up else "degraded", starting, name))
        if target == INACTIVE:
            found.append(Concern("degraded", "paused: no guidance"))
        elif target != ACTIVE:
            found.append(Concern("degraded", "not started" if not target else "shut down"))
        return found

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        if self.board.note(message):
            self._publish_health()  # what went wrong is told at once

    def _publish_health(self) -> None:
        status = self.health()
        stamp_ns = self.get_clock().now().nanoseconds or time.time_ns()  # simulated time not begun
        message = DiagnosticArray(header=header(stamp_ns, ""), status=[status])
        self._health.publish(message)
        self._diagnostics.publish(message)

    def health(self) -> DiagnosticStatus:
        """The one traffic light, now."""
        restarts = {f"{n}: started again": w.restarts for n, w in self.nodes.items()}
        return self.board.summary(
            time.monotonic(), self._concerns(), {k: v for k, v in restarts.items() if v > 0}
        )

    def destroy_node(self) -> None:
        """Give the process handles back too."""
        for node in self.nodes.values():
            node.close()
        super().destroy_node()


def _shown_by(name: str) -> tuple[str, ...]:
    """Whose pictures are untrue once a node is gone."""
    return ("navigation", "stereo_tracker") if name == "camera_source" else (name,)


def main() -> int:
    """`ros2 run spine_nav_bringup supervisor`."""
    return run_node(
        Supervisor, exit_code=lambda s: 1 if s.failure and s.config.exit_on_failure else None
    )


if __name__ == "__main__":
    sys.exit(main())
