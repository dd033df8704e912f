# SPDX-License-Identifier: Apache-2.0
"""Worker threads behind mailboxes: the newest item wins, what it replaced is told.

Questions of services are put to the thread of the last stage, between two items."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from rclpy.node import Node

from .executor import call_soon


class NewestWins:
    """Runs the stages of the work in a thread each and `done(output)` on the node's executor thread.

    While one item is in the second stage, the next is in the first; outputs come in order. An item
    that waits is dropped for a newer one, but for one case: where `follows()` is false, an item may
    keep the last stage for long (a search), and nothing else is begun. If it then ends with something
    to follow, what came meanwhile is worked off in order, up to `backlog` items, so that there is no
    gap to follow over. With each of them there is less room to wait in, so that what comes out does
    not stay late: after `backlog` items the newest wins again.

    rclpy publishers and timers stay on the executor thread. Stages
    handle their own exceptions; one that escapes ends its thread loudly.

    Args:
        stages: one or more, each from the item before it to the next.
        done: called with each output.
        dropped: called once for each item that will never come out, by the thread that replaced it.
    """

    def __init__(
        self,
        node: Node,
        stages: Sequence[Callable[[Any], Any]],
        done: Callable[[Any], None],
        dropped: Callable[[], None],
        name: str,
        follows: Callable[[], bool] = lambda: True,
        backlog: int = 8,
    ) -> None:
        self._node, self._done, self._dropped = node, done, dropped
        self._stages, self._follows, self._backlog = tuple(stages), follows, backlog
        self._queues: list[deque[Any]] = [deque() for _ in stages]
        self._room = 1  # of the first queue; one item at most waits between two stages
        self._busy = [False] * len(self._queues)
        self._stop = False
        self._outputs: deque[Any] = deque()
        self._questions: deque[tuple[Future, Callable[[], Any]]] = deque()
        self._change = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run, args=(i,), name=f"{name} {i}", daemon=True)
            for i in range(len(self._stages))
        ]
        for thread in self._threads:
            thread.start()

    def put(self, item: Any) -> None:
        """Leave an item; one that still waits for the first stage is dropped for it."""
        with self._change:
            self._queues[0].append(item)
            self._shorten(self._room)
            self._change.notify_all()

    def ask(self, question: Callable[[], Any]) -> Future:
        """Have a question answered in the last stage's thread before its next item; cancelled by
        `close`. The executor is woken when the answer is there.
        """
        future: Future = Future()
        with self._change:
            if self._stop or not self.alive:
                future.cancel()
                return future
            self._questions.append((future, question))
            self._change.notify_all()
        return future

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing is worked on, nothing is undelivered."""
        with self._change:
            return not (any(self._queues) or any(self._busy) or self._outputs)

    @property
    def alive(self) -> bool:
        """Whether all threads run; one ends early only by a fault in its stage."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Forget what waits and stop the threads; False if one still worked after `timeout_s`."""
        with self._change:
            self._stop = True
            for queue in self._queues:
                queue.clear()
            self._forget_questions()
            self._change.notify_all()
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    # With the lock.

    def _forget_questions(self) -> None:
        while self._questions:
            self._questions.popleft()[0].cancel()

    def _shorten(self, room: int) -> None:
        while len(self._queues[0]) > room:
            self._queues[0].popleft()
            self._dropped()

    def _ready(self, i: int) -> bool:
        """Whether a stage may begin its next item."""
        if not self._queues[i]:
            return False
        if i + 1 == len(self._stages):
            return True
        return not self._queues[i + 1] and (self._follows() or not any(self._busy[i + 1 :]))

    def _take(self, i: int) -> Callable[[], Any] | None:
        """What a stage's thread does next; None where nothing is to come."""
        queue, last = self._queues[i], i + 1 == len(self._stages)
        self._change.wait_for(lambda: self._stop or (last and self._questions) or self._ready(i))
        if self._stop:
            return None
        if last and self._questions:
            return partial(self._answer, *self._questions.popleft())
        if i == 0 and not last:
            follows = self._follows()
            if not follows:
                self._shorten(1)  # what is stale is not searched
            self._room = max(1, self._room - 1) if follows else self._backlog
        self._busy[i] = True
        item = queue.popleft()
        self._change.notify_all()  # the stage before may go on
        return partial(self._work, i, item)

    # In the threads of the stages.

    def _run(self, i: int) -> None:
        try:
            while True:
                with self._change:
                    task = self._take(i)
                if task is None:
                    return
                task()
        finally:  # also after a fault in a stage: nobody waits for an answer that will not come
            with self._change:
                self._forget_questions()

    def _answer(self, future: Future, question: Callable[[], Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return  # nobody waits any more: what was asked for is not done either
        try:
            future.set_result(question())
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            future.set_exception(error)
        with self._change:
            if not self._stop:
                call_soon(self._node, self._deliver)

    def _work(self, i: int, item: Any) -> None:
        result = self._stages[i](item)
        with self._change:
            self._busy[i] = False
            if self._stop:
                return
            last = i + 1 == len(self._stages)
            (self._outputs if last else self._queues[i + 1]).append(result)
            self._change.notify_all()
        if last:
            call_soon(self._node, self._deliver)

    # On the executor's thread.

    def _deliver(self) -> None:
        while True:
            with self._change:
                if not self._outputs:
                    return
                output = self._outputs.popleft()
            self._done(output)
