# SPDX-License-Identifier: Apache-2.0
"""Brings the lifecycle nodes up in order, watches them, and takes them down in reverse order.

Everything is asynchronous: one call at a time, its outcome always verified by asking for the state
(a call that timed out may have succeeded, ros-navigation/navigation2#6556).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from spine_nav_common.parameters import param
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import header
from spine_nav_common.ros.params import declare, frozen, overrides
from spine_nav_common.ros.runtime import run_node

from .health import HealthBoard

ACTIVE, INACTIVE, FINALIZED = (
    State.PRIMARY_STATE_ACTIVE,
    State.PRIMARY_STATE_INACTIVE,
    State.PRIMARY_STATE_FINALIZED,
)
_UNCONFIGURED = State.PRIMARY_STATE_UNCONFIGURED
_NEXT = {
    ACTIVE: {
        _UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
        INACTIVE: Transition.TRANSITION_ACTIVATE,
    },
    INACTIVE: {
        _UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
        ACTIVE: Transition.TRANSITION_DEACTIVATE,
    },
    FINALIZED: {
        _UNCONFIGURED: Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
        INACTIVE: Transition.TRANSITION_INACTIVE_SHUTDOWN,
        ACTIVE: Transition.TRANSITION_ACTIVE_SHUTDOWN,
    },
}
_TICK_S, _WATCH_S, _CALL_S = 0.02, 1.0, 5.0


@dataclass(frozen=True)
class SupervisorConfig:
    """Parameters of the supervisor."""

    nodes: tuple[str, ...] = param(
        ("navigation", "case_server", "overlay", "camera_source"), "nodes in order of start"
    )
    autostart: bool = param(True, "bring the nodes up at once")
    exit_on_failure: bool = param(False, "end with exit code 1 when a node cannot be brought up")
    timeout_s: float = param(
        120.0,
        "a node that is not there or not in its state after this has failed",
        "s",
        1.0,
        3600.0,
    )


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
        self.states: dict[str, int] = dict.fromkeys(self.config.nodes, 0)
        self.failure = ""
        self._calls = {
            name: (
                self.create_client(GetState, f"{name}/get_state"),
                self.create_client(ChangeState, f"{name}/change_state"),
            )
            for name in self.config.nodes
        }
        self._call: Any = None
        self._call_started = 0.0
        self.target = 0
        self.board = HealthBoard()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._health = self.create_publisher(DiagnosticArray, topics.HEALTH, qos.LATCHED)
        self.create_subscription(DiagnosticArray, "/diagnostics", self.board.note, qos.RESULT)
        self.create_service(Trigger, "supervisor/start", self._on_start)
        self.create_service(SetBool, "supervisor/pause", self._on_pause)
        self.create_service(Trigger, "supervisor/shutdown", self._on_shutdown)
        self.create_timer(_TICK_S, self._tick, clock=steady)
        self.create_timer(_WATCH_S, self._publish_health, clock=steady)
        if self.config.autostart:
            self.go(ACTIVE)

    def go(self, target: int) -> None:
        """Bring every node to ACTIVE, INACTIVE or FINALIZED."""
        self.target, self.failure, self._announced = target, "", False
        self._deadline = time.monotonic() + self.config.timeout_s
        self._asked = dict.fromkeys(self.config.nodes, 0.0)

    @property
    def reached(self) -> bool:
        """Whether all nodes were in the target state when they were last asked."""
        return self.target != 0 and all(s == self.target for s in self.states.values())

    def _tick(self) -> None:
        now = time.monotonic()
        if self._call is not None:
            if not self._call.done() and now - self._call_started > _CALL_S:
                self._call.cancel()
                self._call = None  # what came of it is asked for next
            return
        if self.target == 0 or self.failure:
            return
        name = self._next_node(now)
        if name is None:
            if not self._announced:
                self._announced = True
                self.get_logger().info(f"all nodes are {_label(self.target)}")
            self._deadline = now + self.config.timeout_s
            return
        if now > self._deadline:
            self._fail(f"{name} is not {_label(self.target)} after {self.config.timeout_s:g} s")
            return
        self._ask(name)

    def _next_node(self, now: float) -> str | None:
        """The first node that is not where it should be, else one that was not asked for long."""
        names = self.config.nodes if self.target == ACTIVE else self.config.nodes[::-1]
        for name in names:
            if self.states[name] != self.target:
                return name
        stale = [n for n in names if now - self._asked[n] > _WATCH_S]
        return stale[0] if stale and self.target == ACTIVE else None

    def _ask(self, name: str) -> None:
        get_state, _ = self._calls[name]
        if not get_state.service_is_ready():
            self.states[name] = 0
            return
        self._asked[name] = time.monotonic()
        self._start(get_state.call_async(GetState.Request()), name, self._on_state)

    def _on_state(self, name: str, answer: GetState.Response) -> None:
        self.states[name] = answer.current_state.id
        step = _NEXT[self.target].get(answer.current_state.id)
        if step is None:
            if answer.current_state.id == FINALIZED and self.target != FINALIZED:
                self._fail(f"{name} has shut down; start it again")
            return  # there already, or on its way between two states
        _, change = self._calls[name]
        request = ChangeState.Request(transition=Transition(id=step))
        self._start(change.call_async(request), name, self._on_changed)

    def _on_changed(self, name: str, answer: ChangeState.Response) -> None:
        if not answer.success:
            self._fail(f"{name} refused to become {_label(self.target)}; its log says why")

    def _start(self, call: Any, name: str, done: Any) -> None:
        self._call, self._call_started = call, time.monotonic()

        def finished(future: Any) -> None:
            if self._call is not future:
                return  # timed out before; the state is being asked for
            self._call = None
            if future.exception() is None and future.result() is not None:
                done(name, future.result())

        call.add_done_callback(finished)

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self.get_logger().error(reason)

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

    def _publish_health(self) -> None:
        down = [n for n, s in self.states.items() if self.target == ACTIVE and s != ACTIVE]
        problem = self.failure or (f"not active: {', '.join(down)}" if down else "")
        status = self.board.summary(time.monotonic(), problem)
        stamp_ns = self.get_clock().now().nanoseconds
        self._health.publish(DiagnosticArray(header=header(stamp_ns, ""), status=[status]))

    def health(self) -> DiagnosticStatus:
        """The one traffic light, now."""
        return self.board.summary(time.monotonic(), self.failure)


def _label(state: int) -> str:
    return {ACTIVE: "active", INACTIVE: "inactive", FINALIZED: "finalized"}[state]


def main() -> int:
    """`ros2 run spine_nav_bringup supervisor`."""
    return run_node(
        Supervisor, exit_code=lambda s: 1 if s.failure and s.config.exit_on_failure else None
    )


if __name__ == "__main__":
    sys.exit(main())
