# SPDX-License-Identifier: Apache-2.0
"""The nodes of the graph and what sets each use case apart; without ROS, for CLI and YAML alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .clock import GUIDANCE_MS

# Scene (what a camera can show) to its nodes, in order of start: who consumes comes first.
SCENES = {
    "rgbd": ("navigation", "case_server", "overlay"),
    "stereo": ("stereo_tracker", "rod_guidance", "stereo_overlay"),
}
EXTRAS = (
    "depth_aligner",
    "display",
    "openigtlink",
    "foxglove",
    "safety",
)  # of any scene, where they are asked for
NODES = (*SCENES["rgbd"], *SCENES["stereo"], *EXTRAS, "camera_source")

USE_CASES: dict[str, dict[str, dict[str, Any]]] = {
    "virtual": {
        "camera_source": {"source": "virtual"},
    },
    "replay": {
        "camera_source": {"source": "replay"},
    },
    "realsense": {
        "navigation": {"max_stamp_age_ms": 500.0},
        "camera_source": {"source": "realsense"},
    },
    "pair": {
        "camera_source": {"source": "pair"},
    },
    # Somebody else publishes the camera's topics: there is no camera_source node.
    "ros": {},
    "stereo": {},
}
# What a use case can show; a recording may hold less (live starts what it holds).
USE_CASE_SCENES = {
    "virtual": ("rgbd",),
    "replay": ("rgbd", "stereo"),
    "realsense": ("rgbd",),
    "pair": ("stereo",),
    "ros": ("rgbd", "stereo"),
    "stereo": ("stereo",),
}

# Limits of age at a camera's own pace, ms.
_PACED_MS = {
    "navigation.frame_timeout_ms": 500.0,
    "stereo_tracker.frame_timeout_ms": 500.0,
    "rod_guidance.silence_ms": 1000.0,
    "overlay.max_image_age_ms": GUIDANCE_MS,
    "stereo_overlay.max_image_age_ms": 400.0,
    "safety.max_age_ms": GUIDANCE_MS,
    "display.max_picture_age_ms": GUIDANCE_MS,
    "display.max_stereo_age_ms": 500.0,
}


def paced(rate: float) -> tuple[str, ...]:
    """Assignments for a recording that is played at `rate` (0.05 to 1) of its cameras' own pace: what
    comes slower on purpose is no camera that fell silent, and no picture of before."""
    slow = [f"{name}={min(10_000.0, ms / rate):.1f}" for name, ms in _PACED_MS.items()]
    return (f"camera_source.rate={rate:.3f}", *slow)


def use_case_values(
    use_case: str,
    *layers: Mapping[str, Mapping[str, Any]],
    scenes: Sequence[str] | None = None,
    extras: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Dotted values per node: the use case's own, then each layer over the ones before.

    scenes: `rgbd`, `stereo` or both, whose nodes there shall be; None: all that the use case has.
    extras: nodes beside those, of EXTRAS.
    """
    nodes = [n for scene in scenes or USE_CASE_SCENES[use_case] for n in SCENES[scene]]
    nodes += extras
    if use_case not in ("ros", "stereo"):
        nodes.append("camera_source")
    values: dict[str, dict[str, Any]] = {node: {} for node in nodes}
    for layer in (USE_CASES[use_case], *layers):
        for node, given in layer.items():
            if node in values:
                values[node].update(given)
    return values
