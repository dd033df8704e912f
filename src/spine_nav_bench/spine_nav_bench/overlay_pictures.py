# SPDX-License-Identifier: Apache-2.0
"""The pictures of docs/overlay.md: a frame of a virtual operation with its true poses, and screws,
rods, a bend and a tool as in the overlay's bench. Whoever makes them looks at them.

python -m spine_nav_bench.overlay_pictures SCENE [--out docs/img]

SCENE as `spinenav simulate` writes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from rod_bending_ar.bulls_eye import bulls_eyes
from rod_bending_ar.core.cortex import Margins
from rod_bending_ar.overlay import draw_overlay
from spine_nav_common.core.case import load_case
from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.png import write_png
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.truth import load_truth
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status

from .bench_overlay import EXAMPLE_COVARIANCE, example_extras

_SEED, _SCALE, _QUALITY = 3, 2, 88
_BOUND_MM = 1.2
_STANDING = 4  # screws that are placed already, in the order of the plan


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description="pictures of the overlay for the documentation")
    parser.add_argument("scene", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    args = parser.parse_args(argv)
    full = load_case(args.scene / "case")
    case = replace(full, plan=tuple(p for p in full.plan if p.level in full.exposed_levels))
    truth = load_truth(args.scene / "truth.json")
    poses = {stamp: f.T_camera_ct for stamp, f in truth.frames.items()}
    frame = next(
        f for f in open_recording(args.scene / "recording").rgbd_frames() if f.stamp_ns in poses
    )
    levels = tuple(
        LevelEstimate(
            v,
            Status.TRACKED,
            poses[frame.stamp_ns][v],
            EXAMPLE_COVARIANCE,
            transform_points(poses[frame.stamp_ns][v], case.meshes[v].vertices_m.mean(axis=0)),
            _BOUND_MM + 0.3 * i,
        )
        for i, v in enumerate(case.exposed_levels)
    )
    result = NavigationResult(frame.stamp_ns, levels)
    margins = Margins(case)
    extras = example_extras(case, margins, np.random.default_rng(_SEED), frame.stamp_ns)
    extras = replace(extras, screws=extras.screws[:_STANDING], rods=())
    picture = draw_overlay(
        frame.colour, frame.intrinsics, case, result, frame.depth_m, age_ms=41.0, scale=_SCALE,
        extras=extras,
    )  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(args.out / "overlay.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    write_png(args.out / "bulls_eye.png", bulls_eyes(case, result, extras, age_ms=41.0))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
