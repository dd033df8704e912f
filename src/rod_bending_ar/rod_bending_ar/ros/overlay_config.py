# SPDX-License-Identifier: Apache-2.0
"""Parameters of the overlay node."""

from __future__ import annotations

from dataclasses import dataclass

from rod_bending_ar.core.cortex import DIAMETER_MM
from rod_bending_ar.core.extras import Limits
from rod_bending_ar.core.screw_check import PLAY_DEG
from spine_nav_common.core.clock import GUIDANCE_MS
from spine_nav_common.parameters import param
from spine_nav_common.ros import qos, topics

_DRAWN = Limits()


@dataclass(frozen=True)
class OverlayConfig:
    """Parameters of the overlay node."""

    case: str = param("", "folder of the case")
    colour_topic: str = param(topics.COLOUR, "colour image")
    info_topic: str = param(topics.COLOUR_INFO, "camera_info of the colour image")
    depth_topic: str = param(
        topics.DEPTH, "depth image on the colour image's pixel grid: a hand stays before what it"
        " covers; empty: nothing is covered",
    )  # fmt: skip
    image_reliability: str = param(
        "best_effort", qos.IMAGE_RELIABILITY_DOC, choices=qos.IMAGE_RELIABILITIES
    )
    max_image_age_ms: float = param(
        GUIDANCE_MS, "guidance computed from an older image is wiped", "ms", 50.0, 10000.0
    )
    jpeg_quality: int = param(85, "of the compressed overlay", "%", 10, 100)
    calibration: str = param(
        "", "files with the transform between the cameras, comma-separated, beside /tf_static:"
        " without it no screws and rods are shown",
    )  # fmt: skip
    tool_topic: str = param(
        topics.TOOL_POSE, "pose of a tracked tool, its origin at the tip; empty: none is shown"
    )
    screw_diameter_mm: float = param(
        DIAMETER_MM, "of the screws whose margin is shown", "mm", 2.0, 12.0
    )
    screw_play_deg: float = param(
        PLAY_DEG, "how far a tulip may lean from its shank; 0: screws of one piece, whose head"
        " tells their direction and thereby their grade", "deg", 0.0, 60.0,
    )  # fmt: skip
    screw_age_ms: float = param(
        _DRAWN.screw_age_ms, "placed screws and rods seen longer ago are not shown", "ms", 0.0, 1e4
    )
    screw_bound_mm: float = param(
        _DRAWN.head95_mm, "heads known worse than this (95 %) are not shown", "mm", 0.1, 50.0
    )
    bend_age_ms: float = param(
        _DRAWN.bend_age_ms, "a next bend that was told longer ago is not shown", "ms", 0.0, 6e4
    )
    tool_age_ms: float = param(
        _DRAWN.tool_age_ms, "a tool's pose of longer ago is not shown", "ms", 0.0, 1e4
    )
    tool_bound_mm: float = param(
        _DRAWN.tool95_mm, "a tool known worse than this (95 %) is not shown", "mm", 0.1, 50.0
    )

    def limits(self) -> Limits:
        """What may be drawn."""
        return Limits(
            self.screw_age_ms, self.screw_age_ms, self.bend_age_ms, self.tool_age_ms,
            self.screw_bound_mm, self.tool_bound_mm,
        )  # fmt: skip
