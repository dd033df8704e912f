# SPDX-License-Identifier: Apache-2.0
"""Numbers of the refiners on pairs with screw families and anatomies that training never saw.

    python -m training.screw_refiner.evaluate head models/screw_refiner.onnx
    python -m training.screw_refiner.evaluate rod models/rod_refiner.onnx

Hypotheses err like the finder's (`dataset.finder_like`); everything then runs
through the core's own code. Truth is where the saddle point lies in the pictures, so the
calibration error of the simulated rig is reported apart (`rig_mm`).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from spine_nav_common.core.types import StereoFrame
from spine_perception.core.backends import ONNX_FP32
from spine_perception.core.inference import OnnxModel
from stereo_screw_tracker.core import refiner, rod_refiner
from stereo_screw_tracker.core.crops import head_crops, rod_crops, triangulate_rough
from stereo_screw_tracker.core.refiner import EYES_FROM_PAIR, BatchNetwork
from training.screw_refiner.dataset import (
    IGNORE,
    StereoPair,
    find_pairs,
    finder_like,
    head_labels,
    load_pair,
    not_a_head,
    rod_hypotheses,
    rod_labels,
)

SEED = 7
NORMAL_95 = 1.96
BINS = ((0.25, 0.5), (0.5, 0.75), (0.75, 1.01))  # shares of a head seen, in the eye that sees less


def frame_of(pair: StereoPair) -> StereoFrame:
    """The pair as the tracker gets it."""
    return StereoFrame(0, pair.left, pair.right, pair.camera.intrinsics, pair.camera.baseline_m)


def chosen(folder: Path, limit: int) -> list[StereoPair]:
    """Up to `limit` pairs spread over the folder (0: all); raises FileNotFoundError if none."""
    paths = find_pairs(folder)
    if not paths:
        raise FileNotFoundError(f"{folder}: no pairs; run python -m training.screw_finder.generate")
    if limit and len(paths) > limit:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, limit).astype(int)]
    return [load_pair(p) for p in paths]


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {"n": 0}
    return {
        "n": len(values),
        "mean": float(np.mean(values)),
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
    }


def detection(logit: np.ndarray, present: np.ndarray) -> dict[str, float]:
    """Area under the ROC, and the share of false answers when 98 % of the true ones pass."""
    yes, no = logit[present == 1.0], logit[present == 0.0]
    if not len(yes) or not len(no):
        return {"true": len(yes), "false": len(no)}
    rank = np.searchsorted(np.sort(no), yes, side="left") + np.searchsorted(
        np.sort(no), yes, "right"
    )
    limit = np.percentile(yes, 2)
    return {
        "true": len(yes),
        "false": len(no),
        "auc": float(rank.mean() / (2 * len(no))),
        "false_at_98": float((no >= limit).mean()),
        "true_over_half": float((yes > 0).mean()),
        "false_over_half": float((no > 0).mean()),
    }


def _logit(confidence: np.ndarray) -> np.ndarray:
    c = np.clip(confidence, 1e-12, 1 - 1e-12)
    return np.log(c) - np.log1p(-c)


def factors(z: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Factors per column that put 95 % of the errors z (in predicted sigmas) below 1.96 sigma."""
    return {
        name: float(np.percentile(np.abs(z[:, i]), 95) / NORMAL_95) for i, name in enumerate(names)
    }


def evaluate_heads(
    network: BatchNetwork, pairs: list[StereoPair], scale: np.ndarray | None = None
) -> tuple[dict, dict[str, float]]:
    """Report, and the factors by which the sigmas (already times `scale`) are too small."""
    scale = np.ones(len(refiner.SCALED)) if scale is None else scale
    rng = np.random.default_rng(SEED)
    rows, logits, presents = [], [], []
    for pair in pairs:
        heads = np.arange(len(pair.head_m))
        left, right = finder_like(pair, heads, rng)
        wrong = not_a_head(pair, 8, rng)
        left, right = np.concatenate([left, wrong[0]]), np.concatenate([right, wrong[1]])
        found = refiner.refine_heads(
            network, scale, frame_of(pair), list(zip(left, right, strict=True))
        )
        labels = head_labels(pair, *head_crops(left, right, pair.camera, refiner.PITCH_M))
        presents.append(labels.present)
        logits.append(_logit(np.array([o.confidence for o in found])))
        for i in np.flatnonzero(labels.present[: len(heads)] == 1.0):
            row = _head_row(pair, found[i], labels.head[i], (left[i], right[i]))
            rows.append(row)
    table = {name: np.array([r[name] for r in rows]) for name in rows[0]} if rows else {}
    report: dict = {"presence": detection(np.concatenate(logits), np.concatenate(presents))}
    if not rows:
        return report, {}
    for name in (
        "lateral_px",
        "disparity_px",
        "error_mm",
        "lateral_mm",
        "rig_mm",
        "axis_deg",
        "before_mm",
    ):
        report[name] = _quantiles(table[name])
    for low, high in BINS:
        inside = (table["seen"] >= low) & (table["seen"] < high)
        report[f"seen_{low}_{min(high, 1.0)}"] = {
            name: _quantiles(table[name][inside])
            for name in ("error_mm", "disparity_px", "axis_deg")
        }
    near = np.abs(table["depth_m"] - 0.5) < 0.05
    report["at_half_a_metre"] = {
        name: _quantiles(table[name][near]) for name in ("error_mm", "disparity_px", "axis_deg")
    }
    report["bias_px"] = {
        name: float(np.mean(table["signed"][:, i])) for i, name in enumerate(refiner.SCALED[:4])
    }
    z = np.abs(table["z"])
    report["within"] = {
        name: {
            "sigma_1": float((z[:, i] < 1).mean()),
            "sigma_1.96": float((z[:, i] < NORMAL_95).mean()),
        }
        for i, name in enumerate(refiner.SCALED)
    }
    return _rounded(report), factors(table["z"], refiner.SCALED)


def _head_row(pair: StereoPair, o, head: int, before: tuple[np.ndarray, np.ndarray]) -> dict:
    """Errors of one observation of a head."""
    true_left, true_right = pair.head_left_px[head], pair.head_right_px[head]
    error = np.concatenate([o.left_px - true_left, o.right_px - true_right])
    to_pair = np.linalg.inv(EYES_FROM_PAIR)
    signed = to_pair @ error
    sigma = np.sqrt(np.diag(to_pair @ o.covariance_px2 @ to_pair.T))

    def place(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return triangulate_rough(left[None], right[None], pair.camera)[0]

    truth, said = place(true_left, true_right), place(o.left_px, o.right_px)
    miss = said - truth
    ray = truth / np.linalg.norm(truth)
    cosine = float(np.clip(o.axis @ pair.axis[head], -1.0, 1.0))
    away = pair.axis[head] - cosine * o.axis
    # Two tangent directions, either of which may stand for the axis in the calibration.
    any_side = np.cross(o.axis, [1.0, 0.0, 0.0])
    any_side /= np.linalg.norm(any_side)
    return {
        "depth_m": truth[2],
        "seen": pair.head_seen[head].min(),
        "signed": signed,
        "lateral_px": np.hypot(*signed[:2]),
        "disparity_px": abs(signed[2]),
        "error_mm": 1e3 * np.linalg.norm(miss),
        "lateral_mm": 1e3 * np.linalg.norm(miss - ray * (ray @ miss)),
        "rig_mm": 1e3 * np.linalg.norm(said - pair.head_m[head]),
        "before_mm": 1e3 * np.linalg.norm(place(*before) - truth),
        "axis_deg": np.degrees(np.arccos(cosine)),
        "z": np.append(signed / sigma, away @ any_side / o.axis_sigma_rad),
    }


def evaluate_rods(
    network: BatchNetwork, pairs: list[StereoPair], scale: np.ndarray | None = None
) -> tuple[dict, dict[str, float]]:
    """Report, and the factors by which the sigmas (already times `scale`) are too small."""
    scale = np.ones(len(rod_refiner.SCALED)) if scale is None else scale
    rng = np.random.default_rng(SEED)
    miss, before, z, logits, presents = [], [], [], [], []
    for pair in pairs:
        points, tangents = rod_hypotheses(pair, 48, rng)
        said = rod_refiner.measure_rod(network, scale, frame_of(pair), points, tangents)
        crops = rod_crops(points, tangents, pair.camera, rod_refiner.PITCH_M)
        labels = rod_labels(pair, crops)
        for eye, (offset, sigma, confidence, matrix) in enumerate(
            (
                (
                    said.offset_left_px,
                    said.sigma_left_px,
                    said.confidence_left,
                    crops.left_from_crop,
                ),
                (
                    said.offset_right_px,
                    said.sigma_right_px,
                    said.confidence_right,
                    crops.right_from_crop,
                ),
            )
        ):
            truth = labels.offset[:, eye] * np.linalg.norm(matrix[:, :, 0], axis=1)
            here = labels.present[:, eye] == 1.0
            miss.append((offset - truth)[here])
            before.append(truth[here])
            z.append(((offset - truth) / sigma)[here])
            known = (labels.present[:, eye] != IGNORE) & (confidence > 0)
            logits.append(_logit(confidence[known]))
            presents.append(labels.present[known, eye])
    error, hypothesis, ratio = (np.concatenate(a) for a in (miss, before, z))
    report: dict = {"presence": detection(np.concatenate(logits), np.concatenate(presents))}
    if not len(error):
        return report, {}
    report |= {
        "offset_px": _quantiles(np.abs(error)),
        "before_px": _quantiles(np.abs(hypothesis)),
        "bias_px": float(error.mean()),
        "within": {
            "sigma_1": float((np.abs(ratio) < 1).mean()),
            "sigma_1.96": float((np.abs(ratio) < NORMAL_95).mean()),
        },
    }
    return _rounded(report), factors(ratio[:, None], rod_refiner.SCALED)


def _rounded(value):
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def milliseconds(
    kind: str, network: BatchNetwork, pairs: list[StereoPair], repeats: int = 20
) -> float:
    """Median time of 12 heads (until they rest), or of 100 rod places, in one pair."""
    rng = np.random.default_rng(SEED)
    pairs = [p for p in pairs if len(p.head_m) and len(p.rod_m)]
    spent = []
    for i in range(repeats):
        pair = pairs[i % len(pairs)]
        if kind == "head":
            eyes = finder_like(pair, rng.integers(len(pair.head_m), size=12), rng)
            candidates = list(zip(*eyes, strict=True))
            start = time.perf_counter()
            refiner.refine_heads(network, np.ones(5), frame_of(pair), candidates)
        else:
            places = rod_hypotheses(pair, 100, rng)
            start = time.perf_counter()
            rod_refiner.measure_rod(network, np.ones(1), frame_of(pair), *places)
        spent.append(1e3 * (time.perf_counter() - start))
    return float(np.median(spent[2:]))


EVALUATE = {"head": evaluate_heads, "rod": evaluate_rods}
CORE = {"head": refiner, "rod": rod_refiner}


def main() -> None:
    """Print the report of an exported model with the sigmas of its card."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("kind", choices=sorted(EVALUATE))
    p.add_argument("model", type=Path)
    p.add_argument("--data", type=Path, default=Path("training/data/pairs/validation"))
    p.add_argument("--limit", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args()
    core = CORE[args.kind]
    network = OnnxModel(args.model, core.MODEL_INPUT, ONNX_FP32, args.threads)
    scale = refiner.sigma_scale(network.card, core.SCALED, args.model)
    pairs = chosen(args.data, args.limit)
    report = EVALUATE[args.kind](network, pairs, scale)[0]
    report["ms"] = round(milliseconds(args.kind, network, pairs), 1)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
