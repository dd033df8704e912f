# SPDX-License-Identifier: Apache-2.0
"""Parameters of the display."""

from __future__ import annotations

from dataclasses import dataclass

from rod_bending_ar.core.cortex import DIAMETER_MM
from rod_bending_ar.core.extras import Limits
from rod_bending_ar.core.screw_check import PLAY_DEG
from spine_nav_common.core.clock import GUIDANCE_MS
from spine_nav_common.parameters import param
from spine_nav_common.ros import topics
from spine_nav_display.core.binding import DEFAULT_HOST, DEFAULT_PORT
from spine_nav_display.server import STEREO_MS


@dataclass(frozen=True)
class DisplayConfig:
    """Parameters of the display node."""

    case: str = param("", "folder of the case")
    host: str = param(
        DEFAULT_HOST, "address to serve at; any but this machine's own needs a token and TLS"
    )
    port: int = param(DEFAULT_PORT, "port to serve at; 0 = any that is free", low=0, high=65535)
    token_file: str = param("", "file with the token that a browser must show")
    tls_certificate: str = param("", "file with the certificate (PEM)")
    tls_key: str = param("", "file with its key (PEM)")
    info_topic: str = param(topics.COLOUR_INFO, "camera_info of the RGB-D camera's colour image")
    calibration: str = param(
        "", "files with the transform between the cameras, comma-separated, beside /tf_static"
    )
    max_picture_age_ms: float = param(
        GUIDANCE_MS, "the page covers the RGB-D camera's picture, and shows nothing of vertebrae,"
        " where they are older", "ms", 50.0, 10000.0,
    )  # fmt: skip
    max_stereo_age_ms: float = param(
        STEREO_MS, "the page covers a picture of the stereo camera that is older", "ms",
        50.0, 10000.0,
    )  # fmt: skip
    silence_ms: float = param(
        700.0, "without anything new for this long, the page says so", "ms", 300.0, 900.0
    )
    snapshots: str = param("", "folder for snapshots; none: they are refused")
    faces: int = param(2500, "triangles drawn per vertebra", low=100, high=100000)
    tool_topic: str = param(
        topics.TOOL_POSE, "pose of a tracked tool, its origin at the tip; empty: none is told"
    )
    tool_age_ms: float = param(
        Limits().tool_age_ms, "a tool's pose of longer ago is not told", "ms", 0.0, 1e4
    )
    tool_bound_mm: float = param(
        Limits().tool95_mm, "a tool whose tip is known worse than this (95 %) is not told", "mm",
        0.1, 50.0,
    )  # fmt: skip
    screw_diameter_mm: float = param(DIAMETER_MM, "of the screws that are graded", "mm", 2.0, 12.0)
    screw_play_deg: float = param(
        PLAY_DEG, "how far a tulip may lean from its shank; 0: screws of one piece, whose head"
        " tells their direction and thereby their grade", "deg", 0.0, 60.0,
    )  # fmt: skip
