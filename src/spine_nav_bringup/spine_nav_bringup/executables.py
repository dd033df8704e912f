# SPDX-License-Identifier: Apache-2.0
"""What `ros2 run`, the launch files and `spinenav live` start; see spine_nav_common.guardian."""

from spine_nav_common.guardian import guarded


def case_server() -> int:
    """The case server node."""
    return guarded("spine_nav_bringup.ros.case_server", ("open3d", "spine_nav_common.core.case"))


def supervisor() -> int:
    """The supervisor."""
    return guarded("spine_nav_bringup.ros.supervisor", ("cv2",))


def finish() -> int:
    """Waits until all that was received is computed."""
    return guarded("spine_nav_bringup.ros.finish", ("numpy",))
