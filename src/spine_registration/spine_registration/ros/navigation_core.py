# SPDX-License-Identifier: Apache-2.0
"""What the navigation node drives: its parameters, the loaded core, and results without a pose."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spine_nav_common.core.depth_calibration import DepthCalibration, load_depth_calibration
from spine_nav_common.core.types import Case
from spine_nav_common.parameters import param
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.worker_node import MAX_AGE_MS
from spine_perception.core.backends import AUTO, BACKEND_DOC, BACKENDS
from spine_registration.core.config import NavigatorConfig


@dataclass(frozen=True)
class NavigationConfig:
    """Parameters of the navigation node."""

    case: str = param("", "folder of the case")
    model: str = param("", "ONNX network; empty = the one that is shipped")
    backend: str = param(AUTO, BACKEND_DOC, choices=BACKENDS)
    depth_calibration: str = param(
        "", "file of `spinenav calibrate depth` for this camera; empty = what its class has"
    )
    colour_topic: str = param(topics.COLOUR, "colour image; compressed where the name ends so")
    depth_topic: str = param(topics.DEPTH, "depth image on the colour image's pixel grid")
    info_topic: str = param(topics.COLOUR_INFO, "camera_info of the colour image")
    image_reliability: str = param(
        "best_effort", qos.IMAGE_RELIABILITY_DOC, choices=qos.IMAGE_RELIABILITIES
    )
    frame_timeout_ms: float = param(
        500.0, "without a result for this long, guidance is withdrawn", "ms", 50.0, 10000.0
    )
    max_stamp_age_ms: float = param(
        MAX_AGE_MS, "a result whose image is older than this, by its own clock, is withdrawn",
        "ms", 50.0, 60000.0,
    )  # fmt: skip
    pair_tolerance_ms: float = param(
        5.0, "colour and depth whose stamps differ by more are no pair", "ms", 0.0, 50.0
    )
    confirm_hypothesis: str = param(
        "",
        "an answer that names its question: '<hypothesis_id> yes' or '<hypothesis_id> no', as "
        "registration/status gives the id; refused when another hypothesis is asked by now",
        runtime=True,
    )
    landmark_check: str = param(
        "",
        "a word of the surgeon's check of a level: 'begin LEVEL'; 'touch LEVEL NUMBER STAMP_NS U V' "
        "(the landmark that landmarks/status asks for, where it is in the camera's image of that stamp, with the "
        "lens distortion); 'skip LEVEL NUMBER', 'undo LEVEL', 'end LEVEL'",
        runtime=True,
    )
    click95_mm: float = param(
        4.0, "95 % of clicks on a landmark's picture lie nearer to it", "mm", 0.5, 20.0
    )
    pointer95_mm: float = param(
        2.5, "95 % of touches with a tracked pointer lie nearer to the landmark", "mm", 0.1, 20.0
    )
    keep_s: float = param(
        10.0,
        "after a restart, a level that was shown before is not asked again if no more time than "
        "this has passed, the camera stood still, and registration from scratch agrees; "
        "0 = always asked",
        "s", 0.0, 60.0,
    )  # fmt: skip
    publish_tf: bool = param(True, "publish /tf from the camera to each tracked vertebra")
    tf_prefix: str = param(
        "", "before 'vertebra_<level>' in the names of frames: two instances keep apart on /tf"
    )
    navigator: NavigatorConfig = field(default_factory=NavigatorConfig)


@dataclass(frozen=True)
class Core:
    """What the node drives: the case, the core Navigator, what computes (for diagnostics), and the depth
    camera's calibration."""

    case: Case
    navigator: Any
    provider: str = ""
    model_sha256: str = ""
    depth: DepthCalibration | None = None


def load_core(config: NavigationConfig) -> Core:
    """Load case and network and warm up. Raises with file, field and remedy."""
    from spine_nav_common.core.case import load_case
    from spine_perception.core.segmenter import Segmenter
    from spine_registration.core.navigator import Navigator
    from spine_registration.model_store import prepared

    case = load_case(config.case)
    segmenter = Segmenter.load(config.model or None, config.backend)
    segmenter.warm_up()
    depth, camera = None, None
    if config.depth_calibration:
        depth = load_depth_calibration(Path(config.depth_calibration))
        camera = depth.camera()
    navigator = Navigator(case, segmenter, config.navigator, model=prepared(case), camera=camera)
    return Core(case, navigator, segmenter.provider, segmenter.model_sha256, depth)
