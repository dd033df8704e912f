# SPDX-License-Identifier: Apache-2.0
"""The base of every node: parameters in the constructor, reasons for refused transitions, health.

A subclass names its config dataclass and implements `configure`, `activate`, `deactivate` and
`cleanup`; an exception there becomes FAILURE with its reason in the log and in /diagnostics (an
exception that leaves a transition callback would kill an rclpy node).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy._rclpy_pybind11 import RCLError
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.exceptions import InvalidHandle
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription

from ..guardian import yield_cpu
from . import qos, topics
from .conversions import header, stamp_to_ns
from .heartbeat import GOODBYE, PERIOD_S, Beat, beat_message, new_birth, this_machine
from .params import declare, frozen, overrides
from .results import key_values

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
_DIAGNOSTICS_S = 1.0


class SpineNode(LifecycleNode):
    """A lifecycle node with a frozen config, 1 Hz diagnostics and reasons instead of crashes."""

    config_type: type
    yields = False  # whether its process yields the CPU to those that compute poses, once active

    def __init__(
        self, name: str, values: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        super().__init__(name, namespace=namespace, parameter_overrides=overrides(values or {}))
        self._service_change_state.callback = self._refusing(self._service_change_state.callback)
        declare(self, self.config_type)
        self.config: Any = None
        self.active = self._destroyed = False
        self.problem = ""  # why the last transition was refused, or what keeps data away
        self.error: Exception | None = None
        self.notes: tuple[str, ...] = ()  # what was mended in the input; see `tell`
        self._configured: list[Callable[[], bool]] = []
        self._activated: list[Callable[[], bool]] = []
        # Timers that watch for silence must run when simulated time stands still.
        self.steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._born, self._changes = new_birth(), 0
        self._machine = this_machine()
        self._beats = self.create_publisher(DiagnosticStatus, topics.HEARTBEAT, qos.RESULT)
        self.create_timer(PERIOD_S, self._beat, clock=self.steady)

    def _refusing(self, change: Callable) -> Callable:
        """A transition that its state does not have is refused; in rclpy it ends the process."""

        def change_or_refuse(request: Any, answer: Any) -> Any:
            try:
                return change(request, answer)
            except RCLError as error:
                text = str(error).partition(", at ")[0]
                self.get_logger().warn(f"transition {request.transition.id} is refused: {text}")
                answer.success = False
                return answer

        return change_or_refuse

    def configure(self) -> None:
        """`advertise` and `serve`, load what is slow. Raise to refuse."""

    def activate(self) -> None:
        """`listen` and `every`, start threads. Raise to refuse."""

    def deactivate(self) -> None:
        """Stop threads, withdraw, forget buffers; subscriptions and timers are gone already."""

    def cleanup(self) -> None:
        """Free what `configure` loaded; publishers and services are gone already."""

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        """Severity, one line and values for /diagnostics."""
        return OK, "running", {}

    def facts(self) -> dict[str, Any]:
        """What whoever records the run wants to know; it must fit into JSON."""
        return {"notes": list(self.notes)}

    def tell(self, notes: Iterable[str]) -> None:
        """What was mended or guessed in the input: into the log now, into /diagnostics always."""
        self.notes = tuple(notes)
        for note in self.notes:
            self.get_logger().warn(note)

    @property
    def ready(self) -> bool:
        """Whether whoever produces may begin; a recorder of the run waits for it."""
        return True

    def now_ns(self) -> int:
        """ROS time in ns (simulated where use_sim_time is set)."""
        return self.get_clock().now().nanoseconds

    def real_ns(self) -> int:
        """ROS time, or the system's while nobody publishes simulated time: for diagnostics."""
        return self.now_ns() or time.time_ns()

    def advertise(self, kind: type, topic: str, profile: QoSProfile) -> Publisher:
        """A publisher that lives until clean-up."""
        events = PublisherEventCallbacks(incompatible_qos=lambda e: self._mismatch(topic, e))
        publisher = self.create_publisher(kind, topic, profile, event_callbacks=events)
        self._configured.append(lambda: self.destroy_publisher(publisher))
        return publisher

    def serve(self, kind: type, name: str, callback: Callable) -> None:
        """A service that lives until clean-up. `callback` may return a Future of its answer, which
        must end on the executor's thread: timers and topics go on meanwhile.

        The events executor takes no coroutines, so the answer is put off where it is sent.
        """
        service = self.create_service(kind, name, callback)
        send = service.send_response

        def send_when_known(answer: Any, request_id: Any) -> None:
            if not isinstance(answer, Future):
                send(answer, request_id)
                return

            def known(done: Future) -> None:
                with suppress(InvalidHandle):  # the service has gone meanwhile
                    send(done.result(), request_id)

            answer.add_done_callback(known)

        service.send_response = send_when_known
        self._configured.append(lambda: self.destroy_service(service))

    def listen(
        self, kind: type, topic: str, callback: Callable, profile: QoSProfile, raw: bool = False
    ) -> Subscription:
        """A subscription that lives until deactivation; raw: of the serialised messages."""

        def heard(message: Any) -> None:
            if self.active:  # else it was under way, and what it works with is gone
                callback(message)

        events = SubscriptionEventCallbacks(incompatible_qos=lambda e: self._mismatch(topic, e))
        subscription = self.create_subscription(
            kind, topic, heard, profile, event_callbacks=events, raw=raw
        )
        self._activated.append(lambda: self.destroy_subscription(subscription))
        return subscription

    def every(self, period_s: float, callback: Callable) -> None:
        """A timer on the steady clock that lives until deactivation."""

        def due() -> None:
            if self.active:  # else it was due before, and what it works with is gone
                callback()

        timer = self.create_timer(period_s, due, clock=self.steady)
        self._activated.append(lambda: self.destroy_timer(timer))

    def _mismatch(self, topic: str, event: Any) -> None:
        policy = getattr(event.last_policy_kind, "name", event.last_policy_kind)
        self.problem = f"topic {topic}: somebody asks for another QoS ({policy}); nothing arrives"
        self.get_logger().error(self.problem)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._guarded("configure", self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._guarded("activate", self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._guarded("deactivate", self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._guarded("clean up", self._release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._guarded("shut down", self._release)

    def destroy_node(self) -> None:
        """Stop threads and free resources also when no transition asked for it."""
        self._guarded(GOODBYE, self._release)
        self._destroyed = True
        super().destroy_node()

    def _configure(self) -> None:
        self.config = frozen(self, self.config_type)
        try:
            self._diagnostics = self.advertise(DiagnosticArray, "/diagnostics", qos.STATE)
            timer = self.create_timer(_DIAGNOSTICS_S, self._publish_health, clock=self.steady)
            self._configured.append(lambda: self.destroy_timer(timer))
            self.configure()
        except Exception:
            self._undo(self._configured)
            raise

    def _activate(self) -> None:
        try:
            self.activate()
        except Exception:
            self._undo(self._activated)
            raise
        self.active = True
        if self.yields:  # not before: whoever is started again shall be back soon
            yield_cpu()

    def _deactivate(self) -> None:
        if not self.active:
            return
        self.active = False
        self._undo(self._activated)
        self.deactivate()

    def _release(self) -> None:
        self._deactivate()
        if self._configured:
            self._undo(self._configured)
            self.cleanup()

    @staticmethod
    def _undo(entities: list[Callable[[], bool]]) -> None:
        while entities:
            entities.pop()()

    def _guarded(self, verb: str, run: Callable[[], None]) -> TransitionCallbackReturn:
        start = time.monotonic()
        self._beat(verb)  # the executor is busy from now on, and does not hang
        try:
            run()
        except Exception as error:  # noqa: BLE001 - it would kill the node (ros2/rclpy#1209)
            self._changes += 1
            self.error = error
            self.problem = f"cannot {verb}: {' '.join(str(error).split()) or type(error).__name__}"
            self.get_logger().error(self.problem)
            return TransitionCallbackReturn.FAILURE
        self._changes += 1
        self.problem, self.error = "", None
        self.get_logger().debug(f"{verb}: {(time.monotonic() - start) * 1e3:.0f} ms")
        return TransitionCallbackReturn.SUCCESS

    def _beat(self, busy: str = "") -> None:
        if self._destroyed or not self.context.ok():
            return  # it was due before
        beat = Beat(
            self.get_name(),
            self._machine,
            os.getpid(),
            self._born,
            self._state_machine.current_state[0],
            self._changes,
            busy,
            self.problem,
            isinstance(self.error, ValueError),
            self.ready,
            {} if busy == GOODBYE else self.facts(),
        )
        self._beats.publish(beat_message(beat))

    def _publish_health(self) -> None:
        if not self._configured:
            return  # it was due before, and its publisher is gone
        severity, message, values = self.health()
        if self.problem:
            severity, message = ERROR, self.problem
        notes = {f"note {i}": note for i, note in enumerate(self.notes, 1)}
        name = self.get_fully_qualified_name().lstrip("/")
        status = DiagnosticStatus(
            level=severity,
            name=f"{name}: health",
            message=message,
            values=key_values({**values, **notes}),
        )
        self._diagnostics.publish(
            DiagnosticArray(header=header(self.real_ns(), ""), status=[status])
        )


class StampAge:
    """Ages of a stream for diagnostics and withdrawal: since arrival, and of the stamp itself."""

    def __init__(self) -> None:
        self.count = 0
        self.stamp_ns = 0
        self._arrived = float("-inf")

    def note(self, stamp) -> None:
        """A message with this header stamp has arrived."""
        self.count += 1
        self.stamp_ns = stamp_to_ns(stamp) if hasattr(stamp, "nanosec") else int(stamp)
        self._arrived = time.monotonic()

    def silent_ms(self) -> float:
        """Milliseconds since the last arrival, by the monotonic clock; inf before the first."""
        return (time.monotonic() - self._arrived) * 1e3

    def age_ms(self, now_ns: int) -> float:
        """Milliseconds from the last stamp to `now_ns` (same clock); inf before the first."""
        return (now_ns - self.stamp_ns) / 1e6 if self.count else float("inf")
