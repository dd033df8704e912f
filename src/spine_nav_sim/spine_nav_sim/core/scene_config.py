# SPDX-License-Identifier: Apache-2.0
"""The ranges from which scenes of the virtual operation are drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SceneConfig:
    """What a scene may be; pairs are (low, high) of a random draw. Lengths by suffix."""

    exposed: tuple[str, ...] | None = None  # None: draw n_exposed neighbouring levels
    n_exposed: tuple[int, int] = (2, 6)
    hardness: float = 0.5  # 0 easy to 1 hard: covered bone, blood, noise, holes, exposure
    width: int = 640
    height: int = 480
    fps: float = 15.0
    seconds: float = 10.0
    camera: str = "random"  # or a key of sensor.CAMERAS
    camera_moves: bool = False
    camera_sway_mm: float = 12.0
    camera_sway_deg: float = 1.5
    distance_m: tuple[float, float] | None = None  # to the wound; None: where the camera is mounted
    pitch_deg: tuple[float, float] = (0.0, 25.0)
    # about the line of sight; 0: the image's rows run along the spine, 90: across it
    roll_deg: tuple[float, float] = (0.0, 360.0)
    off_centre: float = 0.25  # share of the half image by which the wound's middle may be off
    deviation_deg: float = 2.5
    deviation_mm: float = 1.0
    breathing_mm: tuple[float, float] = (0.5, 2.0)  # peak; (0, 0): none
    pushes: bool = True
    bump: bool = False  # half way through, one level jumps and stays
    bump_mm: tuple[float, float] = (2.0, 5.0)
    tool_passes: bool = True
    tool_busy: float = 0.35
    tissue_mm: float = 3.0  # most residual soft tissue on bone
    resect_share: float = 0.05  # probability per exposed level of a resection (costs a second)
    burr_share: float = 0.1  # probability per planned screw of a burr hole at its entry
    visible_area_mm2: tuple[float, float] = (700.0, 2400.0)  # bone per level, seen from posterior
    half_width_m: tuple[float, float] = (0.024, 0.048)  # of the opening
    shadows: float = 0.5  # probability
    depth: str = "model"  # or "stereo": render both images and match them
    depth_noise: bool = True
    wound_step_m: float = 0.0015
    threads: int = 0  # of the ray caster; 0: all
