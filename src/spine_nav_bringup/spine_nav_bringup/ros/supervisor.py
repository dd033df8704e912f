# SPDX-License-Identifier: Apache-2.0
"""Brings the lifecycle nodes up in order, watches their heartbeats, takes back what a dead or hung
one has shown, ends a hung one, brings a restarted one up again, and takes all down in reverse.

Whoever started the processes starts them again (the launch file, `spinenav live`). Nothing here
waits: transitions are asked for asynchronously, and what came of one is told by the heartbeats.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from spine_nav_common.parameters import param
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import header
from spine_nav_common.ros.heartbeat import Beat, beat_from_message
from spine_nav_common.ros.params import declare, frozen, overrides
from spine_nav_common.ros.runtime import run_node

from .health import Concern, HealthBoard
from .watch import ABSENT, ALIVE, BUSY_S, DEAD, ENDED, LATE, Watched
from .withdrawal import Withdrawal

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
_REACHED = {
    Transition.TRANSITION_CONFIGURE: INACTIVE,
    Transition.TRANSITION_ACTIVATE: ACTIVE,
    Transition.TRANSITION_DEACTIVATE: INACTIVE,
}
_TICK_S, _HEALTH_S = 0.05, 1.0
_CALL_S = 0.7  # a transition that takes longer is told by a heartbeat that says busy
_OPTIONAL_S = 10.0  # the others do not wait longer for a node that they can do without
_UNSEEN_S = 0.3  # a node that is heard is asked although its service is not found
_RETRY_S = 5.0  # between two tries of a node that refuses
_RENEW_S, _RENEW_MOST_S = 5.0, 30.0  # without progress: the ways to a node are made anew
_REPEATS = (0.1, 0.3, 1.0)  # s after which a withdrawal is told again: results may be under way


@dataclass(frozen=True)
class SupervisorConfig:
    """Parameters of the supervisor."""

    nodes: tuple[str, ...] = param(
        ("navigation", "case_server", "overlay", "camera_source"), "nodes in order of start"
    )
    optional: tuple[str, ...] = param(
        ("case_server", "overlay", "stereo_tracker", "rod_guidance"),
        "nodes that the operation goes on without; a tracker that is alone is never one of them",
    )
    autostart: bool = param(True, "bring the nodes up at once")
    exit_on_failure: bool = param(False, "end with exit code 1 when a required node has failed")
    late_ms: float = param(
        700.0, "a node without heartbeat for this long hangs: what it shows is withdrawn", "ms",
        400.0, 10000.0,
    )  # fmt: skip
    hang_s: float = param(
        2.5, "a node that hangs for this long is ended, to be started again; 0 = never", "s",
        0.0, 600.0,
    )  # fmt: skip
    timeout_s: float = param(
        120.0,
        "when nothing moves for this long on the way up, a node has failed",
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
        names = self.config.nodes
        self.nodes = {name: Watched(name, self._is_required(name)) for name in names}
        self._calls = {n: _Calls(self._client(n)) for n in names}
        self.gate: Callable[[], bool] = lambda: True  # a further condition for the camera's start
        self.on_beat: Callable[[Beat], None] = lambda beat: None
        self.failure = ""
        self.input_error = False  # the failure is of something that the user gave
        self.target = 0
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

    def _client(self, name: str) -> Any:
        return self.create_client(ChangeState, f"{name}/change_state")

    def _hear_beats(self) -> Any:
        return self.create_subscription(
            DiagnosticStatus, topics.HEARTBEAT, self._on_beat, qos.RESULT
        )

    def _is_required(self, name: str) -> bool:
        alone = name == "stereo_tracker" and "navigation" not in self.config.nodes
        return alone or name not in self.config.optional

    def go(self, target: int) -> None:
        """Bring every node to ACTIVE, INACTIVE or FINALIZED; forget what was done by hand."""
        self.target, self.failure, self.input_error = target, "", False
        self._announced, self._brought_up = False, False
        self._began = self._moved = self._renewed = time.monotonic()
        self._renew_s = _RENEW_S
        for calls in self._calls.values():
            calls.begin()

    @property
    def reached(self) -> bool:
        """Whether all nodes are in the target state, or are done without."""
        return self.target != 0 and all(self._settled(n) for n in self.nodes.values())

    @property
    def states(self) -> dict[str, int]:
        """Lifecycle state per node; 0 where it is not there."""
        return {n: w.state if w.life in (ALIVE, LATE) else 0 for n, w in self.nodes.items()}

    def _at_target(self, node: Watched) -> bool:
        if self.target == FINALIZED and node.life in (ABSENT, DEAD, ENDED):
            return True
        return node.life in (ALIVE, LATE) and node.state == self.target

    def _settled(self, node: Watched) -> bool:
        return self._at_target(node) or bool(self._without(node))

    def _without(self, node: Watched) -> str:
        """Why the others go on without a node, or ''."""
        calls = self._calls[node.name]
        if calls.by_hand:
            return calls.by_hand
        if node.required:
            return ""
        if calls.refused:
            return calls.refused
        waited = time.monotonic() - self._began > _OPTIONAL_S
        return "does not start" if waited and node.life in (ABSENT, DEAD, ENDED) else ""

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
        calls, before = self._calls[node.name], node.life
        if node.note(beat):
            calls.begin(calls.by_hand)
            if node.restarts:
                self.get_logger().warn(f"{node.name} was started again ({node.restarts}.)")
                self._publish_gone()
        elif before == LATE:
            self.get_logger().warn(f"{node.name} is heard again")
            self._publish_gone()
        if beat.busy or beat.changes <= calls.stale_until:
            return
        self._see_state(node, beat.state)

    def _see_state(self, node: Watched, state: int) -> None:
        """A state that was not asked for was somebody's will."""
        calls = self._calls[node.name]
        if state != node.state:
            node.state, self._moved = state, time.monotonic()
            self._renew_s = _RENEW_S
        if state == self.target:
            calls.was_there, calls.by_hand = True, ""
        elif calls.was_there and calls.pending is None and not calls.by_hand:
            calls.by_hand = f"{_label(state)} by hand"
            self.get_logger().warn(f"{node.name} was made {calls.by_hand}")
            if state == FINALIZED and node.required:
                self._fail(f"{node.name} was shut down by hand; the operation cannot go on")

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
        if self.target and not self.failure:
            self._advance(now)

    def _forgive(self, seconds: float) -> None:
        """Who watches was itself held up: nobody is late by that time."""
        self._moved += seconds
        self._renewed += seconds
        for node in self.nodes.values():
            node.forgive(seconds)
            self._calls[node.name].asked += seconds

    def _is_back(self, name: str) -> bool:
        node = self.nodes.get(name)  # a graph need not have every node that shows something
        return node is not None and node.life == ALIVE and node.state == ACTIVE

    def _on_life(self, node: Watched) -> None:
        """A node died, hangs or has ended."""
        calls, shown = self._calls[node.name], node.state == ACTIVE
        if node.life in (DEAD, ENDED):
            calls.begin(calls.by_hand)
            node.state = 0
        self._moved, self._renew_s = time.monotonic(), _RENEW_S
        if self.target == FINALIZED or node.life == ENDED:
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
        wait_s = self.config.hang_s
        if wait_s and (node.stopped or node.since_s > wait_s) and node.kill():
            self.get_logger().error(f"{node.name} hangs: its process is ended")

    # Transitions.

    def _advance(self, now: float) -> None:
        names = list(self.nodes) if self.target == ACTIVE else list(self.nodes)[::-1]
        for name in names:
            node, calls = self.nodes[name], self._calls[name]
            if calls.pending is not None:
                if now - calls.asked > _CALL_S and node.life == ALIVE and not node.changing:
                    # Question or answer was lost on the way; the heartbeats tell what came of it.
                    calls.pending, calls.stale_until, calls.lost = None, -1, True
                elif now - calls.asked > self._patience_s(name):
                    waited_s = now - calls.asked
                    calls.begin()
                    self._give_up(node, f"{name} did not answer for {waited_s:.0f} s")
            elif not self._at_target(node) and not calls.by_hand:
                self._ask(node, now)
            if not self._settled(node) and not self._brought_up:
                break  # in order: who comes later waits
        if self.reached:
            self._brought_up = True
            if not self._announced:
                self._announced = True
                self.get_logger().info(f"all nodes are {_label(self.target)}")
            return
        late = [n for n in names if not self._settled(self.nodes[n])]
        patience_s = self._patience_s(late[0])
        if not self._brought_up and now - self._moved > patience_s:
            self._fail(
                f"{late[0]} is not {_label(self.target)} after {patience_s:g} s"
                f" ({self._state_of(late[0])})"
            )
        elif now - max(self._moved, self._renewed) > self._renew_s:
            self._renew(late if self._brought_up else late[:1])

    def _patience_s(self, name: str) -> float:
        """A node in a transition loads or compiles: on a busy machine for minutes."""
        return BUSY_S if self.nodes[name].changing else self.config.timeout_s

    def _renew(self, late: list[str]) -> None:
        """Nothing moves: whatever was lost on a way to a node, its way is made anew.

        A request, an answer or a heartbeat may be lost while processes find each other, and a
        service may never be found; later and later, so that it costs a slow machine nothing.
        """
        self._renewed = time.monotonic()
        self._renew_s = min(2 * self._renew_s, _RENEW_MOST_S)
        self.destroy_subscription(self._beats)
        self._beats = self._hear_beats()
        for name in late:
            node, calls = self.nodes[name], self._calls[name]
            if calls.by_hand or calls.refused or node.life not in (ALIVE, LATE) or node.changing:
                continue
            self.get_logger().warn(f"{name} does not get on ({self._state_of(name)}); asked anew")
            self.destroy_client(calls.client)
            calls.client = self._client(name)
            calls.pending, calls.stale_until, calls.not_before = None, -1, 0.0

    def _state_of(self, name: str) -> str:
        """What a node waits for, for who looks for the fault."""
        node, calls = self.nodes[name], self._calls[name]
        if node.beat is None:
            return "no heartbeat was ever heard"
        words = [f"{_label(node.state)}, {node.life}, last heard {node.silent_s:.1f} s ago"]
        words += [f"started again {node.restarts} times"] if node.restarts else []
        words += [f"busy with '{node.beat.busy}'"] if node.beat.busy else []
        if calls.pending is not None:
            words.append(f"asked {time.monotonic() - calls.asked:.1f} s ago")
        elif not calls.client.service_is_ready():
            words.append("its service is not found")
        elif name == "camera_source" and not self.gate():
            words.append("nobody is ready to take its images and note the results")
        return ", ".join(words)

    def _ask(self, node: Watched, now: float) -> None:
        calls = self._calls[node.name]
        step = _NEXT[self.target].get(node.state)
        if node.life != ALIVE or node.changing or step is None or now < calls.not_before:
            return
        # Where a dead process has left half of its service in DDS's books, a service is never
        # found, and yet hears what it is asked.
        if not calls.client.service_is_ready() and now - self._moved < _UNSEEN_S:
            return
        starts = step == Transition.TRANSITION_ACTIVATE and node.name == "camera_source"
        if starts and not self.gate():
            return
        future = calls.client.call_async(ChangeState.Request(transition=Transition(id=step)))
        calls.pending, calls.asked = future, now
        calls.stale_until = node.beat.changes if node.beat is not None else -1

        def answered(done: Any) -> None:
            if calls.pending is not done:
                return  # given up, or its process is another by now
            calls.pending = None
            if done.exception() is None and done.result() is not None:
                self._on_answer(node, step, done.result().success)

        future.add_done_callback(answered)

    def _on_answer(self, node: Watched, step: int, success: bool) -> None:
        calls = self._calls[node.name]
        if success:
            calls.refused, calls.lost = "", False
            self._see_state(node, _REACHED.get(step, FINALIZED))
            return
        if calls.lost:
            # An earlier request may have been heard after all: the next refusal counts.
            calls.lost, calls.not_before = False, time.monotonic() + _CALL_S
            return
        calls.not_before = time.monotonic() + _RETRY_S
        self._give_up(
            node, f"{node.name} refused to become {_label(self.target)}; its log says why"
        )

    def _give_up(self, node: Watched, reason: str) -> None:
        """A node refuses: without a required one there is nothing to start."""
        if node.required and not self._calls[node.name].ever_there:
            self.input_error = node.beat is not None and node.beat.input_error
            self._fail(reason)
        else:
            self._calls[node.name].refused = reason
            self.get_logger().error(reason)

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

    # Health.

    def _concerns(self) -> list[Concern]:
        """What is not as it should be, of the nodes themselves."""
        if self.failure:
            return [Concern("failed", self.failure)]
        found = []
        for name, node in self.nodes.items():
            grave = "unsafe" if node.required else "degraded"
            without = self._without(node)
            if node.life in (DEAD, LATE, ENDED) and self.target == ACTIVE:
                found.append(Concern(grave, f"{name} {node.life}", name))
            elif without:
                found.append(Concern(grave, f"{name}: {without}", name))
            elif self.target == ACTIVE and not self._at_target(node):
                starting = f"{name} is starting"
                found.append(Concern(grave if self._brought_up else "degraded", starting, name))
        if self.target == INACTIVE:
            found.append(Concern("degraded", "paused: no guidance"))
        elif self.target != ACTIVE:
            found.append(Concern("degraded", "not started" if not self.target else "shut down"))
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


class _Calls:
    """The transition of one node that is under way, and what the node did of itself."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.ever_there = False
        self.begin()

    def begin(self, by_hand: str = "") -> None:
        """A new process, or a new target; who was put aside by hand stays aside if told so."""
        self.pending: Any = None
        self.asked = self.not_before = 0.0
        self.stale_until = -1  # heartbeats with this many changes are older than the last answer
        self.lost = False  # an earlier request was never answered
        self.refused, self.by_hand = "", by_hand
        self._was_there = False

    @property
    def was_there(self) -> bool:
        """Whether this process has been where it should be."""
        return self._was_there

    @was_there.setter
    def was_there(self, value: bool) -> None:
        self._was_there = value
        self.ever_there = self.ever_there or value


def _shown_by(name: str) -> tuple[str, ...]:
    """Whose pictures are untrue once a node is gone."""
    return ("navigation", "stereo_tracker") if name == "camera_source" else (name,)


def _label(state: int) -> str:
    return {ACTIVE: "active", INACTIVE: "inactive", FINALIZED: "finalized"}.get(
        state, "unconfigured"
    )


def main() -> int:
    """`ros2 run spine_nav_bringup supervisor`."""
    return run_node(
        Supervisor, exit_code=lambda s: 1 if s.failure and s.config.exit_on_failure else None
    )


if __name__ == "__main__":
    sys.exit(main())
