# SPDX-License-Identifier: Apache-2.0
"""What the supervisor knows of one node: alive, late or dead, and how often it was started."""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path

from spine_nav_common.guardian import has_guardian
from spine_nav_common.ros.heartbeat import GOODBYE, Beat, this_machine

ABSENT, ALIVE, LATE, DEAD, ENDED = "not there", "alive", "hangs", "died", "has ended"
_HELD_LOOKS = 3  # a process that is seen held so often in a row is not just being looked at
STARVED = 0.75  # of the time, at most, is forgiven to who waits for a core
BUSY_S = 600.0
"""Time that a transition may take: models load, kernels compile, on a machine with other work."""


class Watched:
    """One node by its heartbeats, and by its process where that runs on this machine.

    The end of a process is seen by its pidfd within the next look, without any heartbeat to miss.
    A process that hangs is known by the heartbeats that stay away, or by the system, which holds it.

    Args:
        name: of the node.
        required: whether the operation needs it.
    """

    def __init__(self, name: str, required: bool) -> None:
        self.name, self.required = name, required
        self.beat: Beat | None = None
        self.life = ABSENT
        self.restarts = -1  # the first start is none
        self.state = 0
        self._heard = self._since = time.monotonic()
        self._pidfd = -1
        self._held = 0
        self._killed = False
        self._waited_s: dict[int, float] = {}

    def note(self, beat: Beat) -> bool:
        """A heartbeat came; whether it is the first of a new start of the node."""
        if self.life in (DEAD, ENDED) and self.beat is not None and beat.born == self.beat.born:
            return False  # was under way when its process ended
        born = self.beat is None or beat.born != self.beat.born
        self._heard = time.monotonic()
        if born:
            self.restarts += 1
            self._open(beat)
        self.beat, self.life = beat, ENDED if beat.busy == GOODBYE else ALIVE
        return born

    def look(self, late_s: float) -> bool:
        """Judge the node anew; whether its life has changed."""
        before = self.life
        if self.life in (ALIVE, LATE):
            if self._ended():
                self.life = DEAD
                self._close()
            elif self._is_held() or (self.silent_s > late_s and self._may_not_be_silent()):
                self.life = LATE
        if self.life != before:
            self._since = time.monotonic()
            self._waited_s = self._waits_s() if self.life == LATE else {}
        return self.life != before

    def forgive(self, seconds: float) -> None:
        """Who watches was itself held up for so long: nobody is late by that time."""
        self._heard += seconds
        self._held = 0

    @property
    def silent_s(self) -> float:
        """Seconds since the last heartbeat, or since the watch began."""
        return time.monotonic() - self._heard

    @property
    def since_s(self) -> float:
        """Seconds since its life changed."""
        return time.monotonic() - self._since

    @property
    def hung_s(self) -> float:
        """Seconds since it became late in which it did not just wait for a core: on a machine that has
        too much to do, whoever is ended and started again only makes it worse."""
        now = self._waits_s()
        starved = max((s - self._waited_s.get(t, 0.0) for t, s in now.items()), default=0.0)
        return self.since_s - min(starved, STARVED * self.since_s)

    @property
    def changing(self) -> bool:
        """In the middle of a transition, where it cannot beat."""
        return self.beat is not None and bool(self.beat.busy)

    @property
    def stopped(self) -> bool:
        """Whether the system holds its process (SIGSTOP): it will not come back by itself."""
        if not self._mine():
            return False
        try:
            stat = Path(f"/proc/{self.beat.pid}/stat").read_text(encoding="ascii")
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] == "T"

    def kill(self) -> bool:
        """End a process that hangs, so that its guardian starts it again; False where it was ended
        before, cannot be, or is no node's that a guardian keeps."""
        if not self._mine() or self._pidfd < 0 or self._killed or not has_guardian(self.beat.pid):
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except OSError:
            return False
        self._killed = True
        return True

    def close(self) -> None:
        """Give the process handle back."""
        self._close()

    def _waits_s(self) -> dict[int, float]:
        """Thread to the seconds in which it was ready and had no core; empty where nobody counts."""
        if not self._mine():
            return {}
        out = {}
        try:
            for task in Path(f"/proc/{self.beat.pid}/task").iterdir():
                words = (task / "schedstat").read_text(encoding="ascii").split()
                out[int(task.name)] = 1e-9 * int(words[1])
        except (OSError, IndexError, ValueError):  # it ends, or a kernel without
            return {}
        return out

    def _is_held(self) -> bool:
        self._held = self._held + 1 if self.stopped else 0
        return self._held >= _HELD_LOOKS

    def _may_not_be_silent(self) -> bool:
        return not self.changing or self.silent_s > BUSY_S

    def _mine(self) -> bool:
        """Its process can be asked about and is not this one."""
        beat = self.beat
        return beat is not None and beat.machine == this_machine() and beat.pid != os.getpid()

    def _open(self, beat: Beat) -> None:
        self._close()
        self.beat, self._killed = beat, False
        if self._mine():
            try:
                self._pidfd = os.pidfd_open(beat.pid)
            except OSError:  # gone already, or a kernel without: heartbeats alone must tell
                self._pidfd = -1

    def _close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _ended(self) -> bool:
        return self._pidfd >= 0 and bool(select.select([self._pidfd], [], [], 0)[0])
