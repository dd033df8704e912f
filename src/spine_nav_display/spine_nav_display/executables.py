# SPDX-License-Identifier: Apache-2.0
"""What `ros2 run`, the launch files and `spinenav live` start; see spine_nav_common.guardian."""

from spine_nav_common.guardian import guarded


def display() -> int:
    """The display node."""
    return guarded(
        "spine_nav_display.ros.display_node",
        ("aiohttp", "open3d", "spine_nav_common.core.case", "spine_nav_display.server"),
    )


def foxglove() -> int:
    """The Foxglove bridge."""
    return guarded(
        "spine_nav_display.ros.foxglove_node",
        ("spine_nav_common.core.case", "spine_nav_common.core.recording_writer"),
    )


def openigtlink() -> int:
    """The OpenIGTLink bridge."""
    return guarded(
        "spine_nav_display.ros.openigtlink_node",
        ("open3d", "spine_nav_common.core.case", "spine_nav_display.igtl_server"),
    )


def session_recorder() -> int:
    """The recorder of a session."""
    return guarded(
        "spine_nav_display.ros.session_recorder", ("spine_nav_display.core.session_stream",)
    )
