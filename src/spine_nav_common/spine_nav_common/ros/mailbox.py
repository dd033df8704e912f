# SPDX-License-Identifier: Apache-2.0
"""One worker thread behind a one-slot mailbox: the newest item wins, what it replaced is told.

Questions of services are put to the same thread, between two items."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from rclpy.node import Node


class NewestWins:
    """Runs `work(item)` in a thread and `done(output)` on the node's executor thread.

    rclpy publishers and timers stay on the executor thread; a guard condition wakes it up.
    `work` handles its own exceptions; one that escapes ends the process's thread loudly.
    """

    def __init__(
        self, node: Node, work: Callable[[Any], Any], done: Callable[[Any], None], name: str
    ) -> None:
        self._node, self._work, self._done = node, work, done
        self._item: Any = None
        self._full = False
        self._stop = False
        self._busy = False
        self._outputs: deque[Any] = deque()
        self._questions: deque[tuple[Future, Callable[[], Any]]] = deque()
        self._change = threading.Condition()
        self._guard = node.create_guard_condition(self._deliver)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Any) -> Any | None:
        """Leave an item; returns the one that it replaced, which will never be worked on."""
        with self._change:
            replaced = self._item if self._full else None
            self._item, self._full = item, True
            self._change.notify()
        return replaced

    def ask(self, question: Callable[[], Any]) -> Future:
        """Have a question answered in the thread before the next item; cancelled by `close`.

        The executor is woken when the answer is there.
        """
        future: Future = Future()
        with self._change:
            if self._stop or not self.alive:
                future.cancel()
                return future
            self._questions.append((future, question))
            self._change.notify()
        return future

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing is worked on, nothing is undelivered."""
        with self._change:
            return not (self._full or self._busy or self._outputs)

    @property
    def alive(self) -> bool:
        """Whether the thread runs; it ends early only by a fault in `work`."""
        return self._thread.is_alive()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Forget what waits and stop the thread; False if it still worked after `timeout_s`."""
        with self._change:
            self._stop, self._full, self._item = True, False, None
            self._forget_questions()
            self._change.notify()
        self._thread.join(timeout_s)
        self._node.destroy_guard_condition(self._guard)
        return not self._thread.is_alive()

    def _forget_questions(self) -> None:
        while self._questions:
            self._questions.popleft()[0].cancel()

    def _run(self) -> None:
        try:
            self._work_on()
        finally:  # also after a fault in `work`: nobody waits for an answer that will not come
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
                self._guard.trigger()

    def _work_on(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._full or self._questions or self._stop)
                if self._stop:
                    return
                asked = self._questions.popleft() if self._questions else None
            if asked is not None:
                self._answer(*asked)
                continue
            with self._change:
                if not self._full or self._stop:
                    continue
                item, self._item, self._full, self._busy = self._item, None, False, True
            output = self._work(item)
            with self._change:
                self._busy = False
                if self._stop:
                    return
                self._outputs.append(output)
            self._guard.trigger()

    def _deliver(self) -> None:
        while True:
            with self._change:
                if not self._outputs:
                    return
                output = self._outputs.popleft()
            self._done(output)
