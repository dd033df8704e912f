# SPDX-License-Identifier: Apache-2.0
"""The base of the nodes that compute: a worker thread behind a mailbox, and a watch on what it shows.

A worker thread runs `work`, the executor's thread runs everything else: nothing that computes may
hold up the timer that withdraws what became stale.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from std_srvs.srv import SetBool

from ..core.budgets import StageTimes
from ..core.errors import InputError
from .lifecycle import ERROR, OK, WARN, SpineNode, StampAge
from .mailbox import NewestWins

Health = tuple[bytes, str, dict[str, object]]
_PAUSED = "paused by the user"


class _NextTurn:
    """Awaited by a service: go on when the executor has done what else there was to do."""

    def __await__(self) -> Generator[None, None, None]:
        yield


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
    item. results: arrival and stamps of the outputs. received_ns: stamp of the newest item.
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
        self._forget()

    def _forget(self) -> None:
        self.paused = False
        self.results = StampAge()
        self.stage_times = StageTimes()
        self.frame_id = self.withdrawn = self.trouble = ""

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
        self.received_ns = item.stamp_ns
        if self.paused:
            self.counts["paused"] += 1
        elif self._worker is not None:
            self._worker.put(item)

    def _on_dropped(self) -> None:
        self.counts["dropped"] += 1

    def note(self, stamp_ns: int) -> str:
        """Note the stamp of an output; why it must not be shown any more, or ""."""
        self.results.note(stamp_ns)
        age_ms = self.results.age_ms(self.now_ns())
        too_old = 0 < self.config.max_stamp_age_ms < age_ms
        return f"the image was {age_ms:.0f} ms old" if too_old else ""

    def stages(
        self, timings_ms: Mapping[str, float], work_ms: float, arrived: float
    ) -> dict[str, float]:
        """Durations in ms of one output's way; arrived: of its item, by time.monotonic."""
        stages = {
            **timings_ms,
            "work": work_ms,
            "arrival_to_publish": (time.monotonic() - arrived) * 1e3,
            "stamp_to_publish": self.results.age_ms(self.now_ns()),
        }
        self.stage_times.note(stages)
        return stages

    def _on_watch(self) -> None:
        # By the monotonic clock: simulated time may stand still.
        silent_ms = self.results.silent_ms()
        if self.results.count and not self.withdrawn and silent_ms > self.timeout_ms:
            self.withdraw(f"{self.silence()} for {silent_ms:.0f} ms")

    # Services.

    def on_pause(self, request: SetBool.Request, answer: SetBool.Response) -> SetBool.Response:
        """Body of a pause service: nothing is shown or worked on while it lasts."""
        self.paused = request.data
        if self.paused and self.active:
            self.withdraw(_PAUSED)
        answer.success, answer.message = True, "paused" if self.paused else "running"
        return answer

    async def ask(self, answer: Any, question: Callable[[], str]) -> Any:
        """Put a question to the worker between two items, so that the answer is true when given.

        The executor goes on meanwhile. An answer that came too late for `busy_s` is never given
        nor acted on later: what was asked for is then not done.
        """
        if self._worker is None:  # nothing works, nothing can be in its way
            return _answered(answer, question)
        future = self._worker.ask(question)
        end = time.monotonic() + self.busy_s
        while not future.done():
            if time.monotonic() > end and future.cancel():
                answer.success, answer.message = False, f"busy for {self.busy_s:g} s; ask again"
                return answer
            await _NextTurn()
        if future.cancelled():
            answer.success = False
            answer.message = f"{self.get_name().replace('_', ' ')} has stopped; ask again"
            return answer
        return _answered(answer, future.result)

    # Health.

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
            return ERROR, f"{self.shows} withdrawn: {self.withdrawn}", values
        return None
