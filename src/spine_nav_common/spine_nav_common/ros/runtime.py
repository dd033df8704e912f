# SPDX-License-Identifier: Apache-2.0
"""Start and stop of ROS 2 in a process: environment before `rclpy.init`, one executor, exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spine_nav_common.parameters import ParameterError

_LOOK_S = 0.5  # how often an exit code is asked for
PROFILE = Path(__file__).with_name("fastdds_shm32M.xml")


class RosMissing(RuntimeError):
    """rclpy cannot be imported on this machine."""


def prepare_environment() -> None:
    """Set what Fast DDS and ament read at start, where the user has not set it. Before rclpy."""
    # Jazzy reads the first name, Kilted the second.
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        os.environ.setdefault(name, str(PROFILE))
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)


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
        stderr). Other exceptions are faults of the program and pass through.
    """
    prepare_environment()
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

    rclpy.init(args=list(argv) if argv is not None else None)
    node = None
    try:
        node = make()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while (code := exit_code(node)) is None:
            executor.spin_once(timeout_sec=_LOOK_S)
        return code
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except ParameterError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
