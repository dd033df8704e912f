# SPDX-License-Identifier: Apache-2.0
"""Parameters of the stereo tracker node, and the core that they name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from spine_nav_common.core.types import Case
from spine_nav_common.parameters import param
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.worker_node import MAX_AGE_MS
from spine_perception.core.backends import AUTO, BACKEND_DOC, BACKENDS
from stereo_screw_tracker.core.config import StereoConfig
from stereo_screw_tracker.core.load import StereoCore, load_core


@dataclass(frozen=True)
class StereoTrackerConfig:
    """Parameters of the stereo tracker node."""

    case: str = param("", "folder of the case, which names the levels; empty = no levels")
    models: str = param("", "folder of the three networks; empty = those that are shipped")
    backend: str = param(AUTO, BACKEND_DOC, choices=BACKENDS)
    left_topic: str = param(topics.LEFT, "left image; a name with image_raw is rectified")
    right_topic: str = param(topics.RIGHT, "right image")
    left_info_topic: str = param(topics.LEFT_INFO, "camera_info of the left image")
    right_info_topic: str = param(topics.RIGHT_INFO, "camera_info of the right image")
    image_reliability: str = param(
        "best_effort", qos.IMAGE_RELIABILITY_DOC, choices=qos.IMAGE_RELIABILITIES
    )
    frame_timeout_ms: float = param(
        500.0, "without a result for this long, screws and rods are withdrawn", "ms", 50.0, 10000.0
    )
    max_stamp_age_ms: float = param(
        MAX_AGE_MS, "a result whose pair is older than this, by its own clock, is withdrawn",
        "ms", 50.0, 60000.0,
    )  # fmt: skip
    calibration: str = param(
        "", "files with the transform between the cameras, comma-separated, beside /tf_static"
    )
    pose_age_ms: float = param(
        150.0, "registered vertebrae older than this name no level", "ms", 0.0, 10000.0
    )
    rod_side: str = param(
        "", "whose rod stands on rod/path; empty = the first", choices=("", "left", "right")
    )
    tracker: StereoConfig = field(default_factory=StereoConfig)

    @property
    def raw(self) -> bool:
        """Whether the images are distorted still, and rectified here."""
        return "image_raw" in self.left_topic


@dataclass(frozen=True)
class NodeCore:
    """What the node drives: the tracker, and the case if there is one."""

    stereo: StereoCore
    case: Case | None = None


def load_node_core(config: StereoTrackerConfig) -> NodeCore:
    """Load case and networks and warm up. Raises with file, field and remedy."""
    from spine_nav_common.core.case import load_case

    case = load_case(config.case) if config.case else None
    models = Path(config.models) if config.models else None
    return NodeCore(load_core(config.tracker, models, config.backend), case)
