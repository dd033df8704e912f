# SPDX-License-Identifier: Apache-2.0
"""Start and stop of ROS 2 in a process: environment before `rclpy.init`, one executor, exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from spine_nav_common.core.restart import WORKER_DIED, WRONG_INPUT
from spine_nav_common.guardian import is_restart, note_signals, tell_began
from spine_nav_common.parameters import ParameterError
from spine_nav_common.ros.executor import new_executor
from spine_nav_common.ros.fresh_ports import fresh_ports

_LOOK_S = 0.2  # how soon a signal or an exit code is noticed
PROFILE = Path(__file__).with_name("fastdds_shm32M.xml")


class RosMissing(RuntimeError):
    """rclpy cannot be imported on this machine."""


def prepare_environment() -> None:
    """Set what Fast DDS and ament read at start, where the user has not set it. Before rclpy."""
    os.environ.update(dds_environment())
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)


def dds_environment() -> dict[str, str]:
    """What a process needs so that it can send or receive images whole, the user's own first."""
    # Jazzy reads the first name, Kilted the second.
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    return {name: os.environ.get(name, str(PROFILE)) for name in names}


def require_ros() -> None:
    """Raise RosMissing with the remedy where rclpy cannot be imported."""
    prepare_environment()
    try:
        import rclpy  # noqa: F401
    except ImportError as error:
        raise RosMissing(
            f"ROS 2 is missing ({error}); run 'make setup', or source /opt/ros/<distro>/setup.sh"
        ) from error


def tf_message_type() -> type | None:
    """tf2_msgs.msg.TFMessage, or None where tf2_msgs is not installed (then there is no /tf)."""
    try:
        from tf2_msgs.msg import TFMessage
    except ImportError:
        return None
    return TFMessage


def run_node(
    make: Callable[[], Any],
    argv: Sequence[str] | None = None,
    exit_code: Callable[[Any], int | None] = lambda node: None,
) -> int:
    """Spin one node until it is told to stop; the exit code of its process.

    Args:
        make: makes the node.
        argv: ROS arguments; None = those of the process.
        exit_code: asked between callbacks; a number ends the process with it.

    Returns:
        0 after SIGINT, SIGTERM or an own shutdown; 2 where a parameter is wrong (one line on
        stderr), 3 where the node's worker thread died. Other exceptions are faults of the program
        and pass through.
    """
    prepare_environment()
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    # Own handlers: rclpy's would end the context before the node could withdraw what it shows.
    # They stay until the process has ended, so that a second ctrl-C cannot break the clean end.
    stopped = note_signals()
    rclpy.init(
        args=list(argv) if argv is not None else None,
        signal_handler_options=SignalHandlerOptions.NO,
    )
    node = executor = None
    try:
        with fresh_ports():
            node = make()
        tell_began()
        if is_restart() and hasattr(node, "trigger_configure"):
            # Loads while DDS still finds the others; it shows nothing before it is activated.
            node.trigger_configure()
        executor = new_executor()
        executor.add_node(node)
        while rclpy.ok() and not stopped:
            if (code := exit_code(node)) is not None:
                return code
            if not getattr(node, "alive", True):
                return WORKER_DIED
            executor.spin_once(timeout_sec=_LOOK_S)
        return 0
    except ParameterError as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    finally:
        if executor is not None:
            executor.shutdown()  # before what its callbacks in the middleware belong to is gone
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


@contextmanager
def stop_on_signal() -> Iterator[list[str]]:
    """SIGINT and SIGTERM put their name into the list; the former handlers come back at the end."""
    stopped: list[str] = []

    def note(number: int, _: FrameType | None) -> None:
        stopped.append(signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
