# SPDX-License-Identifier: Apache-2.0
"""The ranges from which stereo scenes of the virtual operation are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from spine_nav_sim.core.scene_config import SceneConfig


@dataclass(frozen=True)
class StereoConfig:
    """What a stereo scene may be; pairs are (low, high) of a random draw. Pixels are those of a
    640 px wide image."""

    scene: SceneConfig = field(
        default_factory=lambda: SceneConfig(
            n_exposed=(2, 5),
            fps=10.0,
            camera_moves=True,
            distance_m=(0.35, 0.7),
            visible_area_mm2=(1200.0, 3200.0),
            tissue_mm=2.5,
            burr_share=0.0,
            resect_share=0.0,
            breathing_mm=(0.2, 1.0),
            pushes=False,
            tool_busy=0.2,
        )
    )
    sizes: tuple[tuple[int, int], ...] = ((640, 480), (848, 480), (960, 720), (1280, 720))
    filled: tuple[float, float] = (0.4, 0.8)  # share of the image's width that the wound takes
    hfov_deg: tuple[float, float] = (35.0, 75.0)
    beside_entry_mm: tuple[float, float] = (8.0, 20.0)  # opening beyond the lateral entry points
    baseline_m: tuple[float, float] = (0.05, 0.12)
    row_error_px: float = 0.15  # deviation of the row difference left by calibration
    vergence_error_px: float = 0.04  # deviation of the disparity offset left by calibration
    mono_share: float = 0.4
    screws: tuple[int, int] = (4, 10)
    missing_share: float = 0.08  # of planned screws that are not placed (yet)
    standoff_mm: tuple[float, float] = (2.0, 6.0)  # ball centre above the entry point
    placed_mm: float = 1.0  # deviation of the entry
    placed_deg: float = 3.0
    families: tuple[str, ...] | None = None  # None: the training families
    screw_files: tuple[Path, ...] = ()  # real screws instead of designs: for testing alone
    rods: str = "random"  # none, seated, held, random, or alone: a mirror over a closed wound
    overhang_m: tuple[float, float] = (0.003, 0.015)  # of a seated rod beyond the outer saddles
    one_rod_share: float = 0.35  # of the operations with seated rods that have one side only
    covered_share: float = 0.25  # of the heads that have tissue around them
    towers_share: float = 0.06
    pooled_share: float = 0.0  # of the heads without a rod that are full of blood
    cross_link_share: float = 0.0  # of the operations with rods on both sides that link them
    tray_screws: int = 0  # that lie or stand in a tray beside the wound
    supersample: int = 2  # rays per pixel and axis on metal
