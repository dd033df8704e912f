# SPDX-License-Identifier: Apache-2.0
"""What `ros2 run`, the launch files and `spinenav live` start; see spine_nav_common.guardian."""

from spine_nav_common.guardian import guarded


def overlay() -> int:
    """The overlay node."""
    return guarded(
        "rod_bending_ar.ros.overlay_node",
        (
            "open3d",
            "rod_bending_ar.bulls_eye",
            "rod_bending_ar.core.placing",
            "spine_nav_common.core.case",
        ),
    )


def stereo_overlay() -> int:
    """The stereo overlay node."""
    return guarded("rod_bending_ar.ros.stereo_overlay_node", ("rod_bending_ar.stereo_overlay",))


def rod_guidance() -> int:
    """The rod guidance node."""
    return guarded("rod_bending_ar.ros.rod_guidance", ("open3d", "rod_bending_ar.core.guidance"))
