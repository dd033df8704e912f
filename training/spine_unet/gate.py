# SPDX-License-Identifier: Apache-2.0
"""What a new spine U-Net is worth to navigation: both models navigate the same virtual operations.

    python -m training.spine_unet.gate models/spine_unet.onnx OTHER.onnx

The operations are over anatomies at the far end of the training list, which no view was ever
rendered of; none of the judged ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spine_nav_common.core.types import Case, RgbdFrame, Status
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.scene import SceneConfig, make_scene
from spine_nav_sim.core.splits import anatomy_seeds
from spine_perception.core.backends import ONNX_FP32
from spine_perception.core.segmenter import Segmenter
from spine_registration.core.navigator import Navigator

LEVELS = ("T12", "L1", "L2", "L3", "L4", "L5", "S1")
SCENES, FRAMES = 12, 10
WRONG_MM = 10.0
ENOUGH = 30  # level-frames that the shipped model must show, for the comparison to tell anything
FEWER = 0.02  # share of the level-frames that may be lost
WORSE_MM = 0.05  # by which the median error may grow


@dataclass(frozen=True)
class Navigated:
    """Level-frames that were asked for, and the error (mm) of each that was shown as tracked."""

    asked: int
    error_mm: np.ndarray

    @property
    def tracked(self) -> float:
        """Share of the level-frames that were shown."""
        return len(self.error_mm) / max(1, self.asked)

    @property
    def wrong(self) -> int:
        """Level-frames shown far off, or as another level."""
        return int((self.error_mm > WRONG_MM).sum())

    @property
    def median_mm(self) -> float:
        """Of those shown; infinite if none was."""
        return float(np.median(self.error_mm)) if len(self.error_mm) else float("inf")

    def __str__(self) -> str:
        return (
            f"{100 * self.tracked:.1f} % of {self.asked} level-frames tracked, median error "
            f"{self.median_mm:.2f} mm, {self.wrong} wrong"
        )


def operations(scenes: int, frames: int) -> Iterator[tuple[Case, list[RgbdFrame], list[dict]]]:
    """Cases, frames and the true T_camera_ct per level of each frame."""
    for index, seed in enumerate(anatomy_seeds("train")[-scenes:]):
        rng = np.random.default_rng(seed)
        anatomy = make_anatomy(rng, LEVELS)
        scene = make_scene(anatomy, rng, SceneConfig(camera_moves=index % 2 == 0, threads=1))
        case = Case(anatomy.name, "LPS", anatomy.meshes, scene.exposed, anatomy.plan, "")
        rendered = [scene.render(k / scene.config.fps) for k in range(frames)]
        stamps = [1 + round(k * 1e9 / scene.config.fps) for k in range(frames)]
        yield (
            case,
            [r.to_frame(s) for r, s in zip(rendered, stamps, strict=True)],
            [r.T_camera_ct for r in rendered],
        )


def navigate(models: list[Path], scenes: int = SCENES, frames: int = FRAMES) -> list[Navigated]:
    """Every model on the same operations, from scratch."""
    segmenters = [Segmenter.load(m, ONNX_FP32, 1) for m in models]
    asked = 0
    errors: list[list[float]] = [[] for _ in models]
    for case, pictures, truth in operations(scenes, frames):
        asked += len(pictures) * len(case.exposed_levels)
        for mine, segmenter in zip(errors, segmenters, strict=True):
            navigator = Navigator(case, segmenter)
            for picture, poses in zip(pictures, truth, strict=True):
                for found in navigator.process(picture).levels:
                    if found.status is Status.TRACKED and found.T_camera_ct is not None:
                        points = case.plan_points_m(found.level)
                        R, true = found.T_camera_ct, poses[found.level]
                        miss = points @ (R[:3, :3] - true[:3, :3]).T + R[:3, 3] - true[:3, 3]
                        mine.append(1e3 * float(np.linalg.norm(miss, axis=1).mean()))
    return [Navigated(asked, np.array(mine)) for mine in errors]


def objections(shipped: Navigated, new: Navigated) -> list[str]:
    """Why the new model must not replace the shipped one; empty if it may."""
    out = []
    if len(shipped.error_mm) < ENOUGH:
        out.append("too few levels were shown to tell: more scenes or frames")
    if new.tracked < shipped.tracked - FEWER:
        out.append("fewer levels are tracked")
    if new.median_mm > shipped.median_mm + WORSE_MM:
        out.append("poses are worse")
    if new.wrong > shipped.wrong:
        out.append("more levels are shown wrongly")
    return out


def gate(shipped: Path, new: Path) -> list[str]:
    """Both models' numbers printed, and `objections`."""
    old_run, new_run = navigate([shipped, new])
    print(f"navigation, shipped: {old_run}\nnavigation, new:     {new_run}")
    return objections(old_run, new_run)


def main() -> None:
    """Compare two exported models."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("shipped", type=Path)
    p.add_argument("new", type=Path)
    args = p.parse_args()
    print("; ".join(gate(args.shipped, args.new)) or "no objection")


if __name__ == "__main__":
    main()
