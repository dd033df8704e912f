# SPDX-License-Identifier: Apache-2.0
"""What `ros2 run`, the launch files and `spinenav live` start; see spine_nav_common.guardian."""

from spine_nav_common.guardian import guarded


def safety() -> int:
    """The safety node."""
    return guarded(
        "spine_planning.ros.safety_node",
        ("open3d", "spine_nav_common.core.case", "spine_planning.core.screw_guard"),
    )
