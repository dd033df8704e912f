# SPDX-License-Identifier: Apache-2.0
"""What `ros2 run`, the launch files and `spinenav live` start; see spine_nav_common.guardian."""

from spine_nav_common.guardian import guarded


def depth_aligner() -> int:
    """The depth aligner."""
    return guarded("spine_perception.ros.depth_aligner", ("spine_nav_common.core.align",))


def camera_source() -> int:
    """The camera node."""
    return guarded("spine_perception.ros.camera_source", ("spine_nav_common.core.recording",))
