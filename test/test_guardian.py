# SPDX-License-Identifier: Apache-2.0
"""A node that died is started anew from a process that has its libraries already."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from spine_nav_common import guardian
from spine_nav_common.core.restart import FELL_OVER, GIVEN_UP, WORKER_DIED, WRONG_INPUT

PACKAGES = {
    "spine_registration": ("navigation",),
    "rod_bending_ar": ("overlay", "rod_guidance", "stereo_overlay"),
    "spine_nav_bringup": ("case_server", "finish", "supervisor"),
    "spine_perception": ("camera_source", "depth_aligner"),
    "stereo_screw_tracker": ("stereo_tracker",),
}
# A node that tells its process id, and ends as its turn says: "code", "-signal", "fall" or "stay".
NODE = """
import os, signal, sys, time
from pathlib import Path
from spine_nav_common import guardian
turns = sys.argv[2:]
def main():
    lives = Path(sys.argv[1])
    turn = turns[len(lives.read_text().splitlines()) if lives.exists() else 0]
    if turn != "early":
        guardian.tell_began()
    print("left", guardian.left(), file=sys.stderr, flush=True)
    guardian.leave("turn", turn)
    print("restart" if guardian.is_restart() else "start", file=sys.stderr, flush=True)
    with lives.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    if turn == "fall":
        raise RuntimeError("fell over on purpose")
    if turn == "early" or turn.startswith("-"):
        os.kill(os.getpid(), int(turn) * -1 if turn != "early" else signal.SIGKILL)
    if turn == "stay":
        stopped = guardian.note_signals()
        while not stopped:
            time.sleep(0.01)
        return 0
    return int(turn)
sys.exit(guardian.keep(main, "node"))
"""


class Guarded:
    """A guardian with the lives of its node."""

    def __init__(self, folder, *turns, **environment):
        self.file = folder / "lives"
        self.process = subprocess.Popen(
            [sys.executable, "-c", NODE, self.file, *turns],
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )

    def lives(self):
        return [int(p) for p in self.file.read_text().split()] if self.file.exists() else []

    def wait_for(self, lives):
        until(lambda: len(self.lives()) >= lives)
        return self.lives()[-1]

    def end(self):
        _, errors = self.process.communicate(timeout=60.0)
        return self.process.returncode, errors


def until(condition):
    end = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("code", [0, GIVEN_UP, WRONG_INPUT])
def test_the_last_word_of_a_node_is_its_guardian_s(tmp_path, code):
    node = Guarded(tmp_path, str(code))
    assert node.end()[0] == code
    assert len(node.lives()) == 1


@pytest.mark.parametrize("fault", ["-9", "-11", "fall", str(WORKER_DIED)])
def test_a_node_that_dies_is_started_again(tmp_path, fault):
    node = Guarded(tmp_path, fault, "0")
    code, errors = node.end()
    assert code == 0 and "started again" in errors
    told = [line for line in errors.splitlines() if line in ("start", "restart")]
    assert told == ["start", "restart"]
    assert len(set(node.lives())) == 2


def test_what_a_node_leaves_is_there_for_the_one_after_it(tmp_path):
    code, errors = Guarded(tmp_path, "-9", "fall", "0").end()
    told = [line for line in errors.splitlines() if line.startswith("left ")]
    assert code == 0
    assert told == ["left {}", "left {'turn': '-9'}", "left {'turn': 'fall'}"]


def test_half_a_word_is_not_understood(monkeypatch):
    assert guardian.left() == {}, "there is no guardian here"
    guardian.leave("epoch", 1)  # to nobody
    board = mmap.mmap(-1, 8192)
    monkeypatch.setattr(guardian, "_board", board)
    guardian.leave("epoch", [3.25, 17])
    guardian.leave("lap", 4)
    assert guardian.left() == {"epoch": [3.25, 17], "lap": 4}
    guardian.leave("lap", None)
    assert guardian.left() == {"epoch": [3.25, 17]}
    board[14:16] = b"99"  # its process was killed while it wrote
    assert guardian.left() == {}
    with pytest.raises(ValueError, match="bytes to leave"):
        guardian.leave("story", "x" * 9000)


def test_a_node_that_never_began_is_not_tried_again(tmp_path):
    node = Guarded(tmp_path, "early")
    assert node.end()[0] == 128 + signal.SIGKILL
    assert len(node.lives()) == 1


def test_a_node_killed_again_while_it_starts_keeps_what_was_left(tmp_path):
    code, errors = Guarded(tmp_path, "-9", "early", "0").end()
    told = [line for line in errors.splitlines() if line.startswith("left ")]
    assert code == 0
    assert told[-1] == "left {'turn': 'early'}"
    assert len(told) == 3


def test_a_killed_node_is_started_again_and_a_told_one_is_not(tmp_path):
    node = Guarded(tmp_path, "stay", "stay")
    os.kill(node.wait_for(1), signal.SIGKILL)
    second = node.wait_for(2)
    node.process.send_signal(signal.SIGINT)
    assert node.end()[0] == 0
    assert gone(second) and len(node.lives()) == 2


@pytest.mark.parametrize("held", [False, True], ids=["running", "held"])
def test_no_node_outlives_its_guardian(tmp_path, held):
    node = Guarded(tmp_path, "stay")
    pid = node.wait_for(1)
    if held:
        os.kill(pid, signal.SIGSTOP)
    node.process.kill()
    until(lambda: gone(pid))


def test_an_orphaned_guardian_ends_with_its_node(tmp_path):
    node = Guarded(tmp_path, "stay", SPINENAV_PARENT_PID="1")
    assert node.end()[0] == 0
    assert gone(node.lives()[0])


def test_an_exception_has_a_code_of_its_own(tmp_path):
    assert FELL_OVER not in (0, GIVEN_UP, WRONG_INPUT, WORKER_DIED)
    node = Guarded(tmp_path, "fall", "0")
    assert "fell over on purpose" in node.end()[1]


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_imported_before_the_fork_starts_no_thread_and_no_ros(package):
    """In a process of its own, since this one has threads, and ROS, already; and without the thread
    counts that an earlier test, make or the user may have set."""
    code = f"""
import os, sys
from spine_nav_common import guardian
from {package} import executables
guardian.keep = lambda main, name: (len(os.listdir("/proc/self/task")), "rclpy" in sys.modules)
for name in {PACKAGES[package]!r}:
    assert getattr(executables, name)() == (1, False), name
"""
    bare = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    subprocess.run([sys.executable, "-c", code], check=True, env=bare)


def test_every_node_of_a_guardian_is_there(monkeypatch):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")
    for package, names in PACKAGES.items():
        executables = import_module(f"{package}.executables")
        monkeypatch.setattr(executables, "guarded", lambda module, _: import_module(module).main)
        for name in names:
            assert callable(getattr(executables, name)())


def test_only_a_node_s_own_process_yields_the_cpu():
    before = os.getpriority(os.PRIO_PROCESS, 0)
    guardian.yield_cpu()
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
