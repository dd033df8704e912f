# SPDX-License-Identifier: Apache-2.0
"""Fit the error model of predicted TRE on the anatomies of the list `calibrate`.

    python -m training.calibration.fit_error --scenes 24 --frames 16 --out src/spine_registration/...json

Navigates virtual operations, keeps what every prediction was made of beside the true TRE, and
finds the sizes whose 95 % bound loses least by the quantile (pinball) loss, which is the proper
score of a quantile: it punishes bounds that are too low and bounds that are uselessly high.
The bounds are judged on another list (`judge`), by `spinenav bench`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from spine_nav_common.core.types import Case
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.scene import SceneConfig, make_scene
from spine_nav_sim.core.splits import anatomy_seeds
from spine_perception.core.segmenter import Segmenter
from spine_registration.core.error import (
    ErrorInputs,
    ErrorModel,
    predicted_tre_mm,
    total_covariance,
)
from spine_registration.core.navigator import Navigator

LEVELS = ("T12", "L1", "L2", "L3", "L4", "L5", "S1")
QUANTILE = 0.95
FAILED_MM = 6.0
"""A pose this wrong sits in another minimum; the margin and the votes deal with it, no Gaussian."""
START = np.log([1.2, 0.8, 0.3, 0.6, 0.5])
PER_SCENE = 40


def samples_of(seed: int, frames: int, segmenter: Segmenter) -> list[tuple[ErrorInputs, float]]:
    """Prediction inputs and true TRE (mm) of the exposed levels of one virtual operation."""
    rng = np.random.default_rng(seed)
    anatomy = make_anatomy(rng, levels=LEVELS)
    scene = make_scene(anatomy, rng, SceneConfig(camera_moves=seed % 2 == 0, bump=True, threads=1))
    case = Case(anatomy.name, "LPS", anatomy.meshes, scene.exposed, anatomy.plan, "")
    navigator = Navigator(case, segmenter)
    navigator.trace = []
    truth = {}
    for k in range(frames):
        rendered = scene.render(k / scene.config.fps)
        stamp = 1 + round(k * 1e9 / scene.config.fps)
        truth[stamp] = rendered.T_camera_ct
        navigator.process(rendered.to_frame(stamp))
    out = []
    for stamp, level, inputs in navigator.trace:
        if level not in scene.exposed:
            continue
        T = truth[stamp][level]
        true_points = case.plan_points_m(level) @ T[:3, :3].T + T[:3, 3]
        tre = 1e3 * float(np.linalg.norm(inputs.points_m - true_points, axis=1).mean())
        out.append((inputs, tre))
    return out


def pinball(log_sizes: np.ndarray, inputs: list[ErrorInputs], tre_mm: np.ndarray) -> float:
    """Mean quantile loss in mm of the model with these sizes."""
    model = ErrorModel(*np.exp(log_sizes))
    bound = np.array([predicted(i, model) for i in inputs])
    miss = tre_mm - bound
    return float(np.mean(np.maximum(QUANTILE * miss, (QUANTILE - 1.0) * miss)))


def predicted(inputs: ErrorInputs, model: ErrorModel) -> float:
    """95 % bound of one sample, mm."""
    return predicted_tre_mm(total_covariance(inputs, model), inputs.anchor_m, inputs.points_m)


def main() -> int:
    """Collect, fit, write; 0 when done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    segmenter = Segmenter.load()
    segmenter.warm_up()
    inputs: list[ErrorInputs] = []
    tre: list[float] = []
    failed = 0
    seeds = anatomy_seeds("calibrate")[: options.scenes]
    for n, seed in enumerate(seeds):
        found = samples_of(seed, options.frames, segmenter)
        good = [s for s in found if s[1] < FAILED_MM]
        failed += len(found) - len(good)
        for i, e in good[:: max(1, len(good) // PER_SCENE)]:
            inputs.append(i)
            tre.append(e)
        print(f"{n + 1}/{len(seeds)} seed {seed}: {len(found)} level-frames", flush=True)
    if len(tre) < 200:
        print(f"only {len(tre)} level-frames: too few to fit; use more --scenes", file=sys.stderr)
        return 1
    target = np.array(tre)
    fit = minimize(
        pinball, START, args=(inputs, target), method="Nelder-Mead",
        options={"maxiter": 250, "xatol": 0.01, "fatol": 1e-4},
    )  # fmt: skip
    model = ErrorModel(*(float(v) for v in np.exp(fit.x)))
    bound = np.array([predicted(i, model) for i in inputs])
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    record = {
        **{k: max(round(v, 4), 1e-4) for k, v in asdict(model).items()},
        "fit": {
            "command": " ".join(["python", *sys.argv]),
            "commit": commit,
            "model_sha256": segmenter.model_sha256,
            "seeds": [seeds[0], seeds[-1]],
            "level_frames": len(target),
            "excluded_beyond_6_mm": failed,
            "share_under_bound": round(float(np.mean(target < bound)), 4),
            "median_bound_mm": round(float(np.median(bound)), 3),
            "median_tre_mm": round(float(np.median(target)), 3),
            "pinball_mm": round(float(fit.fun), 4),
        },
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
