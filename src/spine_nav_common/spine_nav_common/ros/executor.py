# SPDX-License-Identifier: Apache-2.0
"""The one executor of a process, and how another thread gets something done on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def new_executor() -> Any:
    """rclpy's events executor, which takes a third of the time that one built on wait sets takes
    per message; the single-threaded one where this rclpy has none."""
    from rclpy.executors import SingleThreadedExecutor

    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:  # before rclpy 7.1.4
        return SingleThreadedExecutor()
    return EventsExecutor()


def call_soon(node: Any, function: Callable[[], None]) -> None:
    """Have `function` called on the thread of the node's executor; from any thread.

    Nothing happens where the node has no executor. A guard condition would do the same, but the
    events executor takes none.
    """
    executor = node.executor
    if executor is not None:
        executor.create_task(function)
