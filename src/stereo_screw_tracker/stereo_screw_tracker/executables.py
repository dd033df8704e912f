# SPDX-License-Identifier: Apache-2.0
"""What `ros2 run`, the launch files and `spinenav live` start; see spine_nav_common.guardian."""

from spine_nav_common.guardian import guarded


def stereo_tracker() -> int:
    """The stereo tracker node."""
    return guarded(
        "stereo_screw_tracker.ros.stereo_tracker", ("stereo_screw_tracker.core.tracker",)
    )
