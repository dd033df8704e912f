# SPDX-License-Identifier: Apache-2.0
"""Every number that the navigation may be asked to change, with unit and reason.

The metadata of each field (`doc`, `unit`, `low`, `high`) is the one source of the ROS parameter
descriptors, the YAML files and the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spine_nav_common.core.depth_camera import DEPTH_CAMERAS


def _p(default: float, unit: str, low: float, high: float, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc, "unit": unit, "low": low, "high": high})


@dataclass(frozen=True)
class NavigatorConfig:
    """Settings of registration, tracking and withdrawal."""

    camera: str = field(
        default="generic",
        metadata={
            "doc": "model of the depth camera; its stated bias goes into the predicted error",
            "unit": "1",
            "choices": tuple(DEPTH_CAMERAS),
        },
    )
    max_points: int = _p(1000, "1", 200, 20000, "bone pixels used per frame, all levels together")
    registration_points: int = _p(2800, "1", 200, 20000, "bone pixels used by a registration")
    bone_threshold: float = _p(0.5, "1", 0.05, 0.95, "least bone probability of a used pixel")
    noise_floor_mm: float = _p(0.45, "mm", 0.05, 5.0, "least standard deviation of bone depth")
    tissue_scale_mm: float = _p(
        1.0, "mm", 0.1, 10.0, "mean thickness of residual soft tissue on bone"
    )
    correlation_area_mm2: float = _p(
        100.0, "mm2", 1.0, 1000.0, "bone surface that counts as one independent depth sample"
    )
    spring_rotation_deg: float = _p(
        3.5, "deg", 0.1, 30.0, "1 sigma of the turn between neighbours, CT to operation"
    )
    spring_translation_mm: float = _p(
        1.5, "mm", 0.1, 20.0, "1 sigma of the shift between neighbours, CT to operation"
    )
    level_margin: float = _p(
        8.0, "nat", 0.0, 1000.0, "least log-likelihood lead over the next level hypothesis"
    )
    max_predicted_tre_mm: float = _p(
        3.6,
        "mm",
        0.5,
        20.0,
        "a pose whose 95 % bound exceeds this is withdrawn; it returns below 92 % of it",
    )
    hold_s: float = _p(3.0, "s", 0.0, 60.0, "an occluded pose is held this long, then lost")
    memory_s: float = _p(
        0.4, "s", 0.01, 10.0, "time constant with which measurements of a vertebra are forgotten"
    )
    common_noise_mm: float = _p(
        3.0, "mm", 0.01, 50.0, "motion of the camera against the spine per frame, 1 sigma"
    )
    common_noise_deg: float = _p(
        1.0, "deg", 0.01, 20.0, "rotation of the camera against the spine per frame, 1 sigma"
    )
