# SPDX-License-Identifier: Apache-2.0
"""Start and stop of ROS 2 in a process: environment before `rclpy.init`, one executor, exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from spine_nav_common.parameters import ParameterError

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


def run_node(make: Callable[[], object], argv: Sequence[str] | None = None) -> int:
    """Spin one node until it is told to stop; the exit code of its process.

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
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except ParameterError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
