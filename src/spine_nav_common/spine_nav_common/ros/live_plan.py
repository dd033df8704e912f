# SPDX-License-Identifier: Apache-2.0
"""The live plan for nodes that show it: what `plan/state` says takes the place of the case's plan."""

from __future__ import annotations

from rclpy.node import Node
from std_msgs.msg import String

from ..core.live_plan import PlanState, read_state


def plan_state(node: Node, message: String) -> PlanState | None:
    """What a message says; None, and a line in the log, where it cannot be read."""
    try:
        return read_state(message.data)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        node.get_logger().warn(f"the live plan cannot be read: {error!r}")
        return None
