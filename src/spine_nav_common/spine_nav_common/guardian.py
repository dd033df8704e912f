# SPDX-License-Identifier: Apache-2.0
"""The process that a node's process is forked from, so that a node that died is back without the
seconds that its libraries take to import.

It has imported them, and nothing of ROS: a process with the threads of DDS cannot be forked. It waits
for its node, starts it anew when it was killed or fell over, hands signals on, and ends with it. What
a node says by an exit code of its own (runtime.run_node) is the guardian's too. What a node leaves
(`leave`) is there for the one after it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import mmap
import os
import select
import signal
import struct
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from .core.restart import FELL_OVER, WORKER_DIED, Backoff
from .core.runtime import fix_threads

PARENT_PID = "SPINENAV_PARENT_PID"  # the guardian and its node end when this process is gone
_ORPHAN_S = 10.0  # for a clean end without the parent
_LOOK_S = 1.0  # how soon a guardian notices that it is an orphan
_DIE_WITH_PARENT, _SET_NAME = 1, 15  # PR_SET_PDEATHSIG, PR_SET_NAME
_NODE = "spinenav-node"  # what the system calls a node's process, at most 15 letters
_NICE = 5
_STOPS = (signal.SIGINT, signal.SIGTERM)
_noted: list[str] = []
_began: int | None = None  # the node's end of the pipe to its guardian
_lives = 0
_board: mmap.mmap | None = None  # memory that a guardian shares with all its nodes
_BOARD_BYTES = 8192
_HEAD = struct.Struct("<II")  # length and checksum of what a node has left


def guarded(module: str, warm: Sequence[str]) -> int:
    """Run `main` of a module in a process that is forked from this one, again and again if need be.

    Args:
        module: of the node, with ROS.
        warm: modules without ROS that the node needs and that start no thread.

    Returns:
        The node's exit code, here and in the forked process.
    """
    note_signals()
    fix_threads()  # OpenBLAS starts its threads on import, and a fork would lose them
    for name in warm:
        import_module(name)
    gc.freeze()  # what is imported by now is shared with every node to come
    return keep(lambda: import_module(module).main(), module.rpartition(".")[2])


def keep(main: Callable[[], int], name: str) -> int:
    """Fork, run `main` in the child and wait for it; see `guarded`."""
    stopped, restart = note_signals(), Backoff()
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    global _lives, _board
    _board = mmap.mmap(-1, _BOARD_BYTES)
    while True:
        _lives += 1
        told, tell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        parent = os.getpid()
        sys.stdout.flush()
        # Python forgets, in the child, what came while it forked: the kernel keeps it instead.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        child = os.fork()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        if not child:
            for fd in (told, woken, wake):
                os.close(fd)
            return _as_child(main, parent, tell)
        os.close(tell)
        code = _wait(child, woken, stopped)
        with suppress(BlockingIOError):
            began = bool(os.read(told, 1))
        os.close(told)
        fell = code < 0 or code in (WORKER_DIED, FELL_OVER)
        # Killed twice in a row is no fault of the node's: what the first left would be lost.
        again = began or (_lives > 1 and code < 0)
        if stopped or _orphaned() or not (again and fell):
            return code if code >= 0 else 128 - code
        wait_s = restart.next_s()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        print(f"{name} ended ({how}); started again in {wait_s:g} s", file=sys.stderr, flush=True)
        end = time.monotonic() + wait_s
        while (left := end - time.monotonic()) > 0.0 and not stopped:
            _sleep(woken, left)
        if stopped:
            return 0


def tell_began() -> None:
    """The node is made: if its process ends now, another is worth a try."""
    if _began is not None:
        os.write(_began, b"1")


def is_restart() -> bool:
    """Whether a node of this guardian has died before this one."""
    return _lives > 1


def leave(name: str, value: Any) -> None:
    """Keep something that fits into JSON for the node's process after this one; None = no more. It
    outlives any death of the node, and not its guardian; without one nothing is kept."""
    if _board is None:
        return
    kept = {**left(), name: value}
    data = json.dumps({k: v for k, v in kept.items() if v is not None}).encode()
    if len(data) > _BOARD_BYTES - _HEAD.size:
        raise ValueError(f"{len(data)} bytes to leave, at most {_BOARD_BYTES - _HEAD.size}")
    _board[: _HEAD.size + len(data)] = _HEAD.pack(len(data), zlib.crc32(data)) + data


def left() -> dict[str, Any]:
    """What the processes of this node have left; nothing if the last died while it wrote."""
    if _board is None:
        return {}
    length, checksum = _HEAD.unpack(_board[: _HEAD.size])
    data = _board[_HEAD.size : _HEAD.size + length]
    if not length or zlib.crc32(data) != checksum:
        return {}
    return dict(json.loads(data))


def has_guardian(pid: int) -> bool:
    """Whether a process is a node's that a guardian starts again. A heartbeat alone does not tell: any
    publisher can put any process's number into one."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == _NODE
    except (OSError, ValueError):
        return False


def yield_cpu() -> None:
    """Lower the priority of this node's process, by both ways: where the kernel groups sessions, the
    group's value counts. Nothing happens in a process that is not a node's alone."""
    if _began is None:
        return
    for thread in os.listdir("/proc/self/task"):  # each has a priority of its own
        with suppress(OSError):
            now = os.getpriority(os.PRIO_PROCESS, int(thread))
            os.setpriority(os.PRIO_PROCESS, int(thread), max(now, _NICE))
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_NICE), encoding="ascii")


def note_signals() -> list[str]:
    """SIGINT and SIGTERM put their name into the list from now on; the same list every time, so that
    one that comes while a node still imports is not lost."""
    for number in _STOPS:
        signal.signal(number, lambda n, _: _noted.append(signal.Signals(n).name))
    return _noted


def _as_child(main: Callable[[], int], parent: int, tell: int) -> int:
    global _began
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()  # a session of its own has a share of the CPU of its own
    # Also a process that is held, or hangs, ends with its guardian.
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        ctypes.CDLL(None).prctl(_SET_NAME, _NODE.encode())
    if os.getppid() != parent:
        return 0
    _began = tell
    try:
        return main()
    except Exception:  # noqa: BLE001 - told, and the guardian starts another
        traceback.print_exc()
        return FELL_OVER


def _wait(child: int, woken: int, stopped: list[str]) -> int:
    """Exit code of the child, below 0 for a signal; what ends the guardian ends the child."""
    asked: float | None = None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if asked is None and (stopped or _orphaned()):
            os.kill(child, signal.SIGTERM)
            asked = time.monotonic()
        elif asked is not None and _orphaned() and time.monotonic() - asked > _ORPHAN_S:
            os.kill(child, signal.SIGKILL)
        _sleep(woken, _LOOK_S)


def _sleep(woken: int, seconds: float) -> None:
    """Until a signal comes, or `seconds` are over."""
    select.select([woken], [], [], seconds)
    with suppress(BlockingIOError):
        os.read(woken, 4096)


def _orphaned() -> bool:
    parent = os.environ.get(PARENT_PID)
    return parent is not None and os.getppid() != int(parent)
