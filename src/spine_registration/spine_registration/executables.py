# SPDX-License-Identifier: Apache-2.0
"""What `ros2 run`, the launch files and `spinenav live` start; see spine_nav_common.guardian."""

from spine_nav_common.guardian import guarded


def navigation() -> int:
    """The navigation node."""
    return guarded(
        "spine_registration.ros.navigation",
        ("spine_registration.core.navigator", "spine_registration.model_store"),
    )
