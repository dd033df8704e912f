# SPDX-License-Identifier: Apache-2.0
"""Collect heads with their stated uncertainty and true error on the anatomies of `calibrate`.

    python -m training.calibration.stereo_calibrate --scenes 24 --out training/data/heads.npz

Runs the tracker over stereo scenes with screws of training designs, and writes one record per
reported head for `training/calibration/stereo_fit_bounds.py`. The bounds are judged on the list `judge`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from spine_nav_bench.bench_stereo_scenes import StereoFolder, calibrate_stereo, write_scenes
from spine_nav_common.core.progress import Progress
from spine_nav_common.core.truth import TruthScrew
from spine_nav_common.core.types import Rejected
from stereo_screw_tracker.core.config import StereoConfig
from stereo_screw_tracker.core.load import load_core
from stereo_screw_tracker.core.tracker import StereoTracker

NEAR_MM = 20.0
"""A row farther from every head is no head; it is counted, not fitted."""

Record = dict[str, "float | int | list"]


def matches(points_m: np.ndarray, screws: Sequence[TruthScrew]) -> dict[int, TruthScrew]:
    """True head per point (N, 3), one to one, at most NEAR_MM away."""
    if not len(points_m) or not screws:
        return {}
    heads = np.array([s.head_m for s in screws])
    apart_mm = 1e3 * np.linalg.norm(points_m[:, None] - heads, axis=2)
    cost = np.where(apart_mm <= NEAR_MM, apart_mm, 1e6)
    pairs = zip(*linear_sum_assignment(cost), strict=True)
    return {int(i): screws[j] for i, j in pairs if apart_mm[i, j] <= NEAR_MM}


def heads_of(scene: StereoFolder, tracker: StereoTracker) -> tuple[list[Record], int]:
    """Records of all pairs of one scene, and how many rows were no head."""
    tracker.reset()
    truth = scene.truth()
    records: list[Record] = []
    strangers = 0
    for frame in scene.pairs():
        tracker.trace = []
        result = tracker.process(frame)
        if isinstance(result, Rejected):
            continue
        traced = {track_id: (inputs, camera) for track_id, inputs, camera in tracker.trace}
        points = np.reshape([s.head.point_m for s in result.screws], (-1, 3))
        screws = [s for s in truth.screws if s.stamp_ns == frame.stamp_ns]
        best = max((s.visible_px for s in screws), default=0)
        found = matches(points, screws)
        strangers += len(result.screws) - len(found)
        for i, screw in found.items():
            track = result.screws[i]
            inputs, camera = traced[track.track_id]
            k = camera.intrinsics
            records.append(
                {
                    "seed": scene.seed or 0,
                    "stamp_ns": frame.stamp_ns,
                    "track_id": track.track_id,
                    "point_m": inputs.point_m.tolist(),
                    "covariance_m2": inputs.covariance_m2.tolist(),
                    "confidence": inputs.confidence,
                    "hidden_s": inputs.hidden_s,
                    "age": track.age,
                    "camera": [k.width, k.height, k.fx, k.fy, k.cx, k.cy, camera.baseline_m],
                    "truth_m": screw.head_m.tolist(),
                    "visible_share": screw.visible_px / max(best, 1),
                    "bound95_mm": track.bound95_mm,
                    "axis_sigma_deg": float(np.degrees(track.head.axis_sigma_rad)),
                    "axis_deg": float(
                        np.degrees(np.arccos(np.clip(track.head.axis @ screw.axis, -1.0, 1.0)))
                    ),
                    "error_mm": 1e3 * float(np.linalg.norm(inputs.point_m - screw.head_m)),
                }
            )
    tracker.trace = None
    return records, strangers


def write_records(file: Path, records: Sequence[Record], origin: dict[str, Any]) -> None:
    """One array per field of the records, and where they come from (JSON)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {key: np.array([r[key] for r in records]) for key in records[0]}
    np.savez_compressed(file, origin=np.array(json.dumps(origin)), **columns)


def main() -> int:
    """Render what is missing, run, write; 0 when done."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--scenes", type=int, default=24)
    p.add_argument("--first", type=int, default=0, help="place in the list of the first seed")
    p.add_argument("--cache", type=Path, default=Path("out/bench/calibrate"))
    p.add_argument("--models", type=Path, help="folder of the stereo networks, not the shipped")
    p.add_argument("--out", type=Path, required=True, metavar="NPZ")
    args = p.parse_args()
    progress = Progress("calibrate")
    scenes = write_scenes(args.cache, calibrate_stereo(args.scenes, args.first), progress=progress)
    core = load_core(StereoConfig(), args.models)
    if not isinstance(core.tracker, StereoTracker):
        raise TypeError(f"{type(core.tracker).__name__} keeps no trace of its bounds")
    records: list[Record] = []
    strangers = 0
    for done, scene in enumerate(scenes, start=1):
        own, more = heads_of(scene, core.tracker)
        records += own
        strangers += more
        progress(done, len(scenes), scene.name)
    progress.close()
    if not records:
        print("no head was found: nothing to fit", file=sys.stderr)
        return 1
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    origin = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit,
        "model_sha256": core.model_sha256,
        "seeds": [s.seed for s in scenes],
        "rows_that_are_no_head": strangers,
    }
    write_records(args.out, records, origin)
    error, bound = (np.array([r[key] for r in records]) for key in ("error_mm", "bound95_mm"))
    print(
        f"{len(records)} heads of {len(scenes)} scenes, {strangers} rows that are no head; error mm"
        f" median {np.median(error):.2f}, p95 {np.percentile(error, 95):.2f}; under the present"
        f" bound {100 * np.mean(error <= bound):.1f} %"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
