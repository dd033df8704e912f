# SPDX-License-Identifier: Apache-2.0
"""Writes config/*.yaml, one per use case, from the parameters' own declarations.

python -m spine_nav_bringup.use_cases [CONFIG_DIR]
"""

from __future__ import annotations

import sys
from pathlib import Path

from rod_bending_ar.ros.guidance_config import RodGuidanceConfig
from rod_bending_ar.ros.overlay_node import OverlayConfig
from rod_bending_ar.ros.stereo_overlay_node import StereoOverlayConfig
from spine_nav_common.core.graph import EXTRAS, NODES, USE_CASES, use_case_values
from spine_nav_common.parameters import to_yaml
from spine_nav_display.ros.display_config import DisplayConfig
from spine_nav_display.ros.foxglove_config import FoxgloveConfig
from spine_nav_display.ros.openigtlink_config import OpenIgtLinkConfig
from spine_perception.ros.camera_source import CameraSourceConfig
from spine_perception.ros.depth_aligner import DepthAlignerConfig
from spine_planning.ros.safety_config import SafetyConfig
from spine_registration.ros.navigation_core import NavigationConfig
from stereo_screw_tracker.ros.stereo_config import StereoTrackerConfig

from .ros.case_server import CaseServerConfig

CONFIGS = {
    "navigation": NavigationConfig,
    "case_server": CaseServerConfig,
    "overlay": OverlayConfig,
    "stereo_tracker": StereoTrackerConfig,
    "rod_guidance": RodGuidanceConfig,
    "stereo_overlay": StereoOverlayConfig,
    "display": DisplayConfig,
    "openigtlink": OpenIgtLinkConfig,
    "foxglove": FoxgloveConfig,
    "safety": SafetyConfig,
    "camera_source": CameraSourceConfig,
    "depth_aligner": DepthAlignerConfig,
}
TITLES = {
    "virtual": "A virtual operation on the meshes of a case: no camera, no recording.",
    "replay": "A recording at its own pace.",
    "realsense": "A RealSense camera on this machine.",
    "pair": "A stereo pair through OpenCV: UVC cameras, videos or folders of images.",
    "ros": "Somebody else publishes the cameras' topics (realsense-ros, ros2 bag play).",
    "stereo": "Somebody else publishes a stereo pair's topics (image_pipeline).",
}
assert set(CONFIGS) == set(NODES) and set(TITLES) == set(USE_CASES)


def use_case_yaml(use_case: str) -> str:
    """The parameters file of one use case: every parameter of every node, with unit and meaning."""
    values = use_case_values(use_case, extras=EXTRAS)
    sections = {node: (CONFIGS[node], given) for node, given in values.items()}
    return to_yaml(sections, TITLES[use_case])


def main(folder: Path) -> int:
    """Rewrite the files in `folder`."""
    for use_case in USE_CASES:
        (folder / f"{use_case}.yaml").write_text(use_case_yaml(use_case), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "config")))
