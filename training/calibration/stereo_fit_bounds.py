# SPDX-License-Identifier: Apache-2.0
"""Fit the 95 % bound of screw heads on the records of anatomies of the list `calibrate`.

    python -m training.calibration.stereo_calibrate --scenes 24 --out training/data/heads.npz
    python -m training.calibration.stereo_fit_bounds training/data/heads.npz \
        --out src/stereo_screw_tracker/stereo_screw_tracker/bounds.json

Finds the sizes whose bound loses least by the quantile (pinball) loss, which punishes bounds that
are too low and bounds that are uselessly high; a common factor then covers exactly 95 % of the
records. Heads of one scene are of one design and err alike, so a second factor, never below one,
covers 80 % of the heads in 39 of 40 scenes that were not fitted on. The bounds are judged on another
list (`judge`), by `spinenav bench`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from stereo_screw_tracker.core.bounds import BoundModel, radius_quantile, total_covariance

QUANTILE = 0.95
GHOST_MM = 10.0
"""A row this far from its head is something else; no Gaussian speaks of those, and a bound that
tried to would be useless for all others. Rows beyond 5 mm count as false but are fitted: what they
are made of says that they are uncertain."""
LEAST = 200
START = BoundModel(gain=1.0, lateral_mm=0.2, disparity_px=0.1, doubt=1.5, hidden_mm_per_s=1.0)
SCENE_SHARE, SCENES = 0.8, 0.975  # of a scene's heads, in this share of the scenes
# What no rig is better than, whatever the records say: calibration leaves this much.
LEAST_SIZE = BoundModel(
    gain=1e-3, lateral_mm=0.05, disparity_px=0.05, doubt=1.0, hidden_mm_per_s=1e-3
)


@dataclass(frozen=True)
class Records:
    """N reported heads: what total_covariance takes of each, and error_mm (N,), true distance."""

    point_m: np.ndarray
    covariance_m2: np.ndarray
    confidence: np.ndarray
    hidden_s: np.ndarray
    metre_px: np.ndarray
    error_mm: np.ndarray
    scene: np.ndarray

    def __len__(self) -> int:
        return len(self.error_mm)

    def bounds_mm(self, model: BoundModel) -> np.ndarray:
        """(N,) bound of every head."""
        total = total_covariance(
            self.point_m, self.covariance_m2, self.confidence, self.hidden_s, self.metre_px, model
        )
        return 1e3 * radius_quantile(total, QUANTILE)

    def where(self, keep: np.ndarray) -> Records:
        """Those of a mask (N,)."""
        return Records(*(getattr(self, f.name)[keep] for f in fields(Records)))


def load_records(path: Path) -> tuple[Records, dict[str, Any]]:
    """What training/calibration/stereo_calibrate.py wrote, and how it came about.

    Raises ValueError for a file of another form, with the remedy.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            camera = data["camera"]
            records = Records(
                data["point_m"], data["covariance_m2"], data["confidence"], data["hidden_s"],
                camera[:, 2] * camera[:, 6], data["error_mm"], data["seed"],
            )  # fmt: skip
            return records, json.loads(str(data["origin"]))
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{path}: no records of heads ({error}); write them with training/calibration/stereo_calibrate.py"
        ) from error


def pinball(log_sizes: np.ndarray, records: Records) -> float:
    """Mean quantile loss in mm of the model with these sizes."""
    miss = records.error_mm - records.bounds_mm(_model(log_sizes))
    return float(np.mean(np.maximum(QUANTILE * miss, (QUANTILE - 1.0) * miss)))


def _model(log_sizes: np.ndarray) -> BoundModel:
    least = [getattr(LEAST_SIZE, f.name) for f in fields(BoundModel)]
    sizes = np.maximum(np.exp(np.minimum(log_sizes, 5.0)), least)
    return BoundModel(*(float(v) for v in sizes))


def fit(records: Records) -> BoundModel:
    """The sizes of least pinball loss, scaled by a common factor to cover QUANTILE of the records.

    The bound is proportional to that factor, so one ratio per record gives it exactly.
    """
    start = np.log([getattr(START, f.name) for f in fields(BoundModel)])
    best = minimize(
        pinball, start, args=(records,), method="Nelder-Mead",
        options={"maxiter": 600, "xatol": 0.01, "fatol": 1e-5},
    )  # fmt: skip
    model = _model(best.x)
    return scaled(model, float(np.quantile(records.error_mm / records.bounds_mm(model), QUANTILE)))


def scaled(model: BoundModel, factor: float) -> BoundModel:
    """The model whose bounds are larger by a factor; doubt is a ratio and stays."""
    sizes = {k: v * factor for k, v in asdict(model).items()}
    return BoundModel(**{**sizes, "doubt": model.doubt})


def held_out_ratios(records: Records) -> np.ndarray | None:
    """(N,) error over bound when each half of the scenes is judged with the other half's sizes;
    None where there are too few scenes."""
    scenes = np.unique(records.scene)
    if len(scenes) < 4:
        return None
    ratios = np.zeros(len(records))
    for half in (scenes[::2], scenes[1::2]):
        own = np.isin(records.scene, half)
        judged = records.where(own)
        ratios[own] = judged.error_mm / judged.bounds_mm(fit(records.where(~own)))
    return ratios


def scene_factor(ratios: np.ndarray, scene: np.ndarray) -> float:
    """By what bounds must grow so that SCENE_SHARE of the heads are under them in SCENES of the
    scenes; never below one. ratios (N,): error over bound; scene (N,)."""
    needed = [_at_least(ratios[scene == s], SCENE_SHARE) for s in np.unique(scene)]
    return max(1.0, _at_least(np.array(needed), SCENES))


def _at_least(values: np.ndarray, share: float) -> float:
    """The smallest of the values that `share` of them do not exceed."""
    return float(np.quantile(values, share, method="inverted_cdf"))


def report(
    records: Records, ghosts: int, model: BoundModel, held_out: np.ndarray | None
) -> dict[str, Any]:
    """What stands beside the sizes in bounds.json."""
    bound = records.bounds_mm(model)
    under, hidden = records.error_mm <= bound, records.hidden_s > 0.0
    shares = [float(np.mean(under[records.scene == s])) for s in np.unique(records.scene)]
    return {
        "heads": len(records),
        "scenes": len(np.unique(records.scene)),
        "excluded_beyond_10_mm": ghosts,
        "share_under_bound": round(float(np.mean(under)), 4),
        "share_held_out": None if held_out is None else round(float(np.mean(held_out <= 1.0)), 4),
        "worst_scene": round(min(shares), 4),
        "scene_p5": round(float(np.percentile(shares, 5)), 4),
        "share_of_hidden": round(float(np.mean(under[hidden])), 4) if hidden.any() else None,
        "median_bound_mm": round(float(np.median(bound)), 3),
        "median_error_mm": round(float(np.median(records.error_mm)), 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, fit, write; 0 when done, 2 for a file that is none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "records", type=Path, help="npz of training/calibration/stereo_calibrate.py"
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        found, origin = load_records(options.records)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    good = found.where(found.error_mm <= GHOST_MM)
    if len(good) < LEAST:
        print(f"only {len(good)} heads: too few to fit, use more --scenes", file=sys.stderr)
        return 1
    model = fit(good)
    held_out = held_out_ratios(good)
    if held_out is not None:
        factor = scene_factor(held_out, good.scene)
        model, held_out = scaled(model, factor), held_out / factor
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    document = {
        **{k: round(v, 4) for k, v in asdict(model).items()},
        "fit": {
            "command": " ".join(["python", *sys.argv]),
            "commit": commit,
            "records": origin,
            **report(good, len(found) - len(good), model, held_out),
        },
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
