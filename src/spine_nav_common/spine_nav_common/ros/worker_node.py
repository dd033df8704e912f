# SPDX-License-Identifier: Apache-2.0
"""The base of the nodes that compute: a worker thread behind a mailbox, and a watch on what it shows.

A worker thread runs `work`, the executor's thread runs everything else: nothing that computes may
hold up the timer that withdraws what became stale.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import TimeReference
from std_srvs.srv import SetBool

from ..core.budgets import StageTimes
from ..core.clock import StreamClock
from ..core.errors import InputError
from ..core.types import Rejected
from . import qos, topics
from .conversions import announced
from .executor import call_soon
from .lifecycle import ERROR, OK, WARN, SpineNode, StampAge
from .mailbox import NewestWins
from .runtime import PROFILE

Health = tuple[bytes, str, dict[str, object]]
MAX_AGE_MS = 1000.0  # default of the nodes: a picture older than this is no picture of now
_FRESH_S = 0.5  # frames that came within this time say that the camera is not what is missing
_PAUSED = "paused by the user"
_LOSSES_S = 0.25
_REMEDY = {
    "best_effort": f"start its driver with FASTRTPS_DEFAULT_PROFILES_FILE={PROFILE}, or set"
    " image_reliability to reliable",
    "reliable": "start its driver with the nodes' DDS profile too, or let it send less",
}


def _answered(answer: Any, question: Callable[[], str]) -> Any:
    try:
        answer.message, answer.success = question(), True
    except InputError as error:
        answer.success, answer.message = False, f"{error.problem}; {error.remedy}"
    return answer


class WorkerNode(SpineNode):
    """Takes items (`take`), works on the newest in a thread, shows the outputs, withdraws in silence.

    Subclasses implement `work`, `done`, `withdraw`, `silence` and `timeout_ms`; their `configure`,
    `activate` and `deactivate` call those of this class first.

    Attributes: withdrawn: why nothing is shown ("" = it is). trouble: what is wrong with the last
    item. results: arrival and stamps of the outputs. received_ns: stamp of the newest item. clock:
    of the items' stamps.
    """

    watch_s = 0.05
    busy_s = 5.0  # how long a service waits for the item in work
    shows = "guidance"  # what is withdrawn, for messages

    def __init__(
        self, name: str, values: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        super().__init__(name, values, namespace)
        self.counts: Counter[str] = Counter()
        self.received_ns = -1
        self._worker: NewestWins | None = None
        self._questions: dict[Future, float] = {}  # questions under way, and when they are too late
        self.clock = StreamClock(False)  # its owner may ask before, or without, a configure
        self._forget()

    def _forget(self) -> None:
        self.paused = False
        self.results = StampAge()
        self.stage_times = StageTimes()
        self.frame_id = self.withdrawn = self.trouble = ""
        self.camera_gone, self._camera_went = "", float("-inf")
        self.losing = ""  # which images do not arrive although they are sent

    # What a subclass says.

    def work(self, item: Any) -> Any:
        """In the worker thread: from an item to an output. Handles its own exceptions."""
        raise NotImplementedError

    def done(self, output: Any) -> None:
        """On the executor's thread: publish an output, and `note` its stamp."""
        raise NotImplementedError

    def withdraw(self, reason: str) -> None:
        """Take what is shown off every screen and set `withdrawn`."""
        raise NotImplementedError

    def silence(self) -> str:
        """What is missing when no output comes."""
        raise NotImplementedError

    @property
    def timeout_ms(self) -> float:
        """Without an output for this long, what is shown is withdrawn."""
        raise NotImplementedError

    def stages_of_work(self) -> Sequence[Callable[[Any], Any]]:
        """The work in stages of a thread each (see NewestWins); the last is `work`."""
        return (self.work,)

    def follows(self) -> bool:
        """Whether the last output is something that the next item continues (see NewestWins)."""
        return True

    # Life.

    def configure(self) -> None:
        self._forget()

    def activate(self) -> None:
        self.clock = StreamClock(bool(self.get_parameter("use_sim_time").value))
        self._worker = NewestWins(
            self,
            self.stages_of_work(),
            self.done,
            self._on_dropped,
            self.get_name(),
            self.follows,
        )
        self.every(self.watch_s, self._on_watch)

    def deactivate(self) -> None:
        self.withdraw(f"{self.get_name().replace('_', ' ')} is not active")
        if self._worker is not None:
            self._worker.close()
        self._worker = None

    def take(self, item: Any) -> None:
        """Leave an item with a `stamp_ns` for the worker; the newest wins, the others are counted."""
        self.counts["received"] += 1
        if self.camera_gone:
            self.counts["after_the_camera"] += 1
            return
        self.received_ns = item.stamp_ns
        self._taken = time.monotonic()
        if self.paused:
            self.counts["paused"] += 1
        elif self._worker is not None:
            self._worker.put(item)

    def watch_losses(self, lost: Callable[[], str]) -> None:
        """In `activate`: tell at once when images are lost on their way. lost: says which, or ""."""

        def look() -> None:
            before, said = self.losing, lost()
            remedy = _REMEDY[getattr(self.config, "image_reliability", "")]
            self.losing = f"{said}; {remedy}" if said else ""
            if bool(before) != bool(said):
                if said:
                    self.get_logger().warn(self.losing, throttle_duration_sec=10.0)
                self._publish_health()

        self.every(_LOSSES_S, look)

    def take_image(self, item: Any) -> None:
        """`take` what came from a camera, `arrived` by time.monotonic, and watch its clock."""
        if told := self.clock.note(item.stamp_ns, self.now_ns(), item.arrived):
            self.counts["clock_steps"] += 1
            self.get_logger().warn(told)
        self.take(item)

    def follow_camera(self) -> None:
        """In `activate`: hear how the camera node's recording runs, and when the node is gone."""
        self.listen(TimeReference, topics.CAMERA_CLOCK, self._on_camera_clock, qos.LATCHED)
        self.listen(DiagnosticArray, topics.GONE, self._on_gone, qos.LATCHED)

    def _on_gone(self, message: DiagnosticArray) -> None:
        """A dead camera's images are shown no more, however many results are still under way."""
        said = {status.name: status.message for status in message.status}.get("camera_source", "")
        if said and not self.camera_gone:
            self._camera_went = time.monotonic()
            self.withdraw(said)
        self.camera_gone = said

    def _on_dropped(self) -> None:
        self.counts["dropped"] += 1

    def note(self, stamp_ns: int, arrived: float) -> str:
        """Note the stamp of an output; why it must not be shown any more, or "".

        arrived: of its item, by time.monotonic.
        """
        self.results.note(stamp_ns)
        if arrived <= self._camera_went:
            return self.camera_gone or "its camera was lost meanwhile"
        age_ms = self.age_ms(stamp_ns)
        if age_ms <= self.config.max_stamp_age_ms:
            return ""
        if age_ms == float("inf"):
            return "simulated time stands still: nobody publishes /clock"
        return f"the image was {age_ms:.0f} ms old ({self.clock.domain} clock)"

    def age_ms(self, stamp_ns: int) -> float:
        """Age of an image now, in ms of its own clock; see StreamClock."""
        # A recording's clock is announced against the system's, and followed without /clock.
        return self.clock.age_ms(stamp_ns, self.now_ns())

    def _on_camera_clock(self, message: TimeReference) -> None:
        """The camera node says how the stamps of its recording run."""
        said = announced(message)
        if isinstance(said, Rejected):
            self.get_logger().warn(said.reason, throttle_duration_sec=10.0)
        else:
            self.clock.announced = said

    def stages(
        self, timings_ms: Mapping[str, float], work_ms: float, arrived: float
    ) -> dict[str, float]:
        """Durations in ms of one output's way; arrived: of its item, by time.monotonic."""
        stages = {
            **timings_ms,
            "work": work_ms,
            "arrival_to_publish": (time.monotonic() - arrived) * 1e3,
            "stamp_to_publish": self.age_ms(self.results.stamp_ns),
        }
        self.stage_times.note(stages)
        return stages

    def _on_watch(self) -> None:
        self._end_late_questions()
        # By the monotonic clock: simulated time may stand still.
        silent_ms = self.results.silent_ms()
        if self.results.count and not self.withdrawn and silent_ms > self.timeout_ms:
            self.withdraw(f"{self.cause()} for {silent_ms:.0f} ms")

    def cause(self) -> str:
        """Why no output comes, in words: the item in work takes long, or items are missing."""
        if not self.idle and time.monotonic() - self._taken < _FRESH_S:
            return "still computing; images come, the last one is being worked on"
        return self.silence()

    # Services.

    def on_pause(self, request: SetBool.Request, answer: SetBool.Response) -> SetBool.Response:
        """Body of a pause service: nothing is shown or worked on while it lasts."""
        self.paused = request.data
        if self.paused and self.active:
            self.withdraw(_PAUSED)
        answer.success, answer.message = True, "paused" if self.paused else "running"
        return answer

    def ask(self, answer: Any, question: Callable[[], str]) -> Any:
        """Put a question to the worker between two items, so that the answer is true when given.

        The executor goes on meanwhile. An answer that came too late for `busy_s` is never given
        nor acted on later: what was asked for is then not done. Returns the answer, or a Future of
        it that ends on the executor's thread (see `serve`).
        """
        if self._worker is None:  # nothing works, nothing can be in its way
            return _answered(answer, question)
        later: Future = Future()
        asked = self._worker.ask(question)
        self._questions[asked] = time.monotonic() + self.busy_s
        reply = partial(self._reply, asked, answer, later)
        asked.add_done_callback(lambda _: call_soon(self, reply))
        return later

    def _reply(self, asked: Future, answer: Any, later: Future) -> None:
        end = self._questions.pop(asked)
        if asked.cancelled():
            name = self.get_name().replace("_", " ")
            late = (
                f"busy for {self.busy_s:g} s" if time.monotonic() > end else f"{name} has stopped"
            )
            answer.success, answer.message = False, f"{late}; ask again"
        else:
            _answered(answer, asked.result)
        later.set_result(answer)

    def _end_late_questions(self) -> None:
        now = time.monotonic()
        for asked in [a for a, end in self._questions.items() if now > end]:
            asked.cancel()  # in vain where it is being answered

    def facts(self) -> dict[str, Any]:
        return {
            **super().facts(),
            "counts": dict(self.counts),
            "idle": self.idle,
            "clock": {
                "domain": self.clock.domain,
                "steps": self.clock.steps,
                "drift_ppm": self.clock.drift_ppm,
            },
            "received_ns": self.received_ns,
            **{k: getattr(self, k, "") for k in ("provider", "model_sha256", "unnamed")},
        }

    # Health.

    def clock_values(self) -> dict[str, object]:
        """Whose clock the stamps are of, when it was set and how fast it runs, for /diagnostics."""
        drift = self.clock.drift_ppm
        return {
            "clock": self.clock.domain,
            "clock_step": self.clock.step or None,
            "clock_drift_ppm": None if drift is None else round(drift, 1),
        }

    @property
    def alive(self) -> bool:
        """Whether the worker thread lives, or is not there to live."""
        return self._worker is None or self._worker.alive

    @property
    def idle(self) -> bool:
        """Whether every item that was taken has been published."""
        return self._worker is None or self._worker.idle

    def ailing(self, values: dict[str, object]) -> Health | None:
        """Why nothing is computed or shown, for /diagnostics; None while all is well."""
        if not self.active:
            return OK, "not active", values
        if not self.alive:
            return ERROR, "the worker thread died", values
        if self.paused:
            return WARN, _PAUSED, values
        if self.withdrawn:
            said = f"{self.shows} withdrawn: {self.withdrawn}"
            return ERROR, "; ".join(filter(None, (said, self.losing))), values
        if self.losing:
            return WARN, self.losing, values
        return None
