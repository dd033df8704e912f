# SPDX-License-Identifier: Apache-2.0
"""What two messages of equal stamp say together: a status and its poses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray

T = TypeVar("T")


class Joined(Generic[T]):
    """Waits for both messages of a stamp, in either order; each status counts once.

    Args:
        read: result_from_messages or implants_from_messages.
        on_value: hears what was read, and the status that it was read from.
        on_unreadable: hears why two messages that belong together cannot be read, and the status.
    """

    def __init__(
        self,
        read: Callable[[DiagnosticArray, PoseArray], T],
        on_value: Callable[[T, DiagnosticArray], None],
        on_unreadable: Callable[[str, DiagnosticArray], None],
    ) -> None:
        self._read, self._on_value, self._on_unreadable = read, on_value, on_unreadable
        self._status: DiagnosticArray | None = None
        self._poses: PoseArray | None = None

    def status(self, message: DiagnosticArray) -> None:
        """A status came."""
        self._status = message
        self._join()

    def poses(self, message: PoseArray) -> None:
        """Poses came."""
        self._poses = message
        self._join()

    def _join(self) -> None:
        status, poses = self._status, self._poses
        if status is None or poses is None or status.header.stamp != poses.header.stamp:
            return
        self._status = None
        try:
            value = self._read(status, poses)
        except (ValueError, KeyError, IndexError) as error:
            self._on_unreadable(repr(error), status)
            return
        self._on_value(value, status)
