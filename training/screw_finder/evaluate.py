# SPDX-License-Identifier: Apache-2.0
"""Numbers of the whole finder on pairs that training never saw.

    python -m training.screw_finder.evaluate models/screw_finder.onnx

Images at their own resolution go through `Finder.find`. A head is visible if it shows at least half
of itself in both views. A candidate is right if it lies within RIGHT_MM of a head, in both views,
at that head's depth; one at a head that is mostly covered counts neither way.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from spine_nav_common.core.types import Intrinsics, StereoFrame
from spine_perception.core.backends import ONNX_FP32
from stereo_screw_tracker.core.finder import Finder, FinderNetwork, HeadCandidate, bin_disparity
from stereo_screw_tracker.core.finder_grid import CELL_PX, MAPS, letterbox, network_input
from stereo_screw_tracker.core.finder_mono import MonoFinder
from training.screw_finder.dataset import HIDDEN, Pair, find_pairs, make_sample, read_pair

RIGHT_MM = 8.0  # the refiner reaches that far; tulips are 12 mm wide and stand 25 mm apart
VISIBLE = 0.5
LEVELS = np.round(np.arange(0.05, 1.0, 0.01), 2)  # thresholds to choose from
LEAST_SCORE = float(LEVELS[0])


@dataclass(frozen=True)
class Labelled:
    """A pair with what its geometry needs. f_mm (N,): image pixels per millimetre at each head."""

    pair: Pair
    frame: StereoFrame
    f_mm: np.ndarray


@dataclass(frozen=True)
class RodCells:
    """counts (len(LEVELS), 3): hits, said, there; misses in grid pixels where a rod was said."""

    counts: np.ndarray
    across: np.ndarray
    disparity: np.ndarray


def load(path: Path) -> Labelled:
    """One validation file."""
    pair = read_pair(path)
    with np.load(path) as f:
        fx, fy, cx, cy = (float(k) for k in f["K"])
        baseline, depth = float(f["baseline_m"]), f["head_m"].reshape(-1, 3)[:, 2]
    h, w = pair.left.shape
    frame = StereoFrame(0, pair.left, pair.right, Intrinsics(w, h, fx, fy, cx, cy), baseline)
    return Labelled(pair, frame, fx / depth * 1e-3)


def match(
    found: tuple[HeadCandidate, ...], truth: Labelled
) -> tuple[list[tuple[int, int]], list[int]]:
    """(candidate, head) pairs, best score first, and the candidates that are no head."""
    right, wrong, taken = [], [], set()
    px = truth.pair.head_px
    for i, head in enumerate(found):
        miss = np.maximum(np.hypot(*(px[0] - head.left_px).T), np.hypot(*(px[1] - head.right_px).T))
        near = miss / np.maximum(truth.f_mm, 1e-9)
        best = int(near.argmin()) if len(near) else -1
        if best < 0 or near[best] > RIGHT_MM or best in taken:
            wrong.append(i)
        else:
            taken.add(best)
            right.append((i, best))
    return right, wrong


def evaluate(
    network: FinderNetwork,
    folder: Path,
    limit: int = 0,
    thresholds: dict[str, float] | None = None,
    mono: bool = False,
) -> dict[str, float]:
    """All numbers. Without thresholds they are chosen on these very pairs, and reported.

    mono: the network is the peer's, which sees one view at a time.
    """
    paths = find_pairs(folder)
    if limit and len(paths) > limit:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, limit).astype(int)]
    if not paths:
        raise FileNotFoundError(f"{folder}: no pairs; run python -m training.screw_finder.generate")
    finder = (MonoFinder if mono else Finder)(network, LEAST_SCORE)
    rows, shares, times, rods = [], [], [], []
    for path in paths:
        truth = load(path)
        begun = time.perf_counter()
        answer = finder.find(truth.frame)
        times.append((time.perf_counter() - begun) * 1e3)
        rows += _head_rows(answer if mono else answer.heads, truth)
        shares.append(truth.pair.head_seen.min(axis=0))
        rods.append(_judge_rod(network, truth))
    share = np.concatenate(shares)
    visible = int((share >= VISIBLE).sum())
    recall, false = _curves(rows, visible)
    cells = np.sum([r.counts for r in rods], axis=0)
    f1 = 2 * cells[:, 0] / np.maximum(cells[:, 1] + cells[:, 2], 1)
    if thresholds is None:
        # A miss and a false head weigh the same.
        thresholds = {"head": LEVELS[np.argmax(recall - false)], "rod": LEVELS[f1.argmax()]}
    head, rod = (int(np.abs(LEVELS - thresholds[name]).argmin()) for name in ("head", "rod"))
    hits, told, there = cells[rod]
    good = [r for r in rows if r["kind"] == 1 and r["score"] >= thresholds["head"]]
    report = {
        "pairs": len(paths), "heads": len(share), "visible": visible,
        "head_threshold": thresholds["head"], "rod_threshold": thresholds["rod"],
        "recall": recall[head], "false": false[head],
        "recall_at_1pc_false": recall[false <= 0.01].max(initial=0.0),
        "confirmed": np.mean([r["confirmed"] for r in good] or [0.0]),
        "rod_recall": hits / max(1, there), "rod_precision": hits / max(1, told),
        "rod_f1": f1[rod],
        "find_ms": np.median(times),
    }  # fmt: skip
    misses = {f"{name}_px": [r[name] for r in good] for name in ("left", "right", "disparity")}
    misses["rod_px"] = np.concatenate([r.across for r in rods])
    misses["rod_disparity_px"] = np.concatenate([r.disparity for r in rods])
    for name, values in misses.items():
        if len(values):
            report[f"{name}_median"] = np.median(values)
            report[f"{name}_p95"] = np.percentile(values, 95)
    return {k: round(float(v), 4) for k, v in report.items()}


def _curves(rows: list[dict], visible: int) -> tuple[np.ndarray, np.ndarray]:
    """Per level: share of the visible heads that are found, share of candidates that are none."""
    score = np.array([r["score"] for r in rows])
    kind = np.array([r["kind"] for r in rows])
    seen = np.array([r["seen"] for r in rows])
    over = score >= LEVELS[:, None]
    found = (over & (kind == 1) & (seen >= VISIBLE)).sum(axis=1)
    false, said = (over & (kind == 0)).sum(axis=1), (over & (kind >= 0)).sum(axis=1)
    return found / max(1, visible), false / np.maximum(said, 1)


def _head_rows(found: tuple[HeadCandidate, ...], truth: Labelled) -> list[dict]:
    """One row per candidate; kind 1 right, 0 wrong, -1 does not count. Errors in grid pixels."""
    h, w = truth.pair.left.shape
    scale = letterbox(w, h).scale
    right, wrong = match(found, truth)
    px, share = truth.pair.head_px, truth.pair.head_seen
    rows = []
    for i, k in right:
        c = found[i]
        rows.append(
            {
                "score": c.score,
                "kind": 1 if share[:, k].max() >= HIDDEN else -1,
                "seen": float(share[:, k].min()),
                "confirmed": c.confirmed,
                "left": float(np.hypot(*((c.left_px - px[0, k]) * scale))),
                "right": float(np.hypot(*((c.right_px - px[1, k]) * scale))),
                "disparity": abs(c.disparity_px - (px[0, k, 0] - px[1, k, 0])) * scale[0],
            }
        )
    rows += [{"score": found[i].score, "kind": 0, "seen": 0.0} for i in wrong]
    return rows


def _judge_rod(network: FinderNetwork, truth: Labelled) -> RodCells:
    """The left reference's rod cells against the truth."""
    h, w = truth.pair.left.shape
    sample = make_sample(truth.pair, None)
    x = network_input(truth.pair.left, truth.pair.right, letterbox(w, h))
    maps, *volumes = network.run(x)
    m = dict(zip(MAPS, maps[0], strict=True))
    p = 1 / (1 + np.exp(-m["rod"]))
    judged, there = sample.rod_weight > 0, sample.rod > 0.5
    said = (p >= LEVELS[:, None, None]) & judged
    wanted = np.full(len(LEVELS), (there & judged).sum())
    counts = np.stack([(said & there).sum(axis=(1, 2)), said.sum(axis=(1, 2)), wanted], axis=1)
    on = (sample.rod_on > 0) & (p > 0.5)
    # Across the rod only: along it, any point is as good.
    cos2, sin2 = sample.rod_vector[2:4, on]
    angle = 0.5 * np.arctan2(sin2, cos2)
    offset = np.stack([m["rod_du"][on], m["rod_dv"][on]]) - sample.rod_vector[:2, on]
    across = CELL_PX * np.abs(offset[1] * np.cos(angle) - offset[0] * np.sin(angle))
    if not volumes:
        return RodCells(counts, across, np.zeros(0))
    known = on & (sample.rod_bin_on > 0.5)
    miss = bin_disparity(volumes[1][0][:, known].T) - CELL_PX * sample.rod_bin[known]
    return RodCells(counts, across, np.abs(miss))


def main() -> None:
    """Evaluate an exported model with the thresholds of its card."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model", type=Path)
    p.add_argument("--data", type=Path, default=Path("training/data/pairs/validation"))
    p.add_argument("--limit", type=int, default=0)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--mono", action="store_true", help="the model is the peer's")
    args = p.parse_args()
    cv2.setNumThreads(1)
    finder = (MonoFinder if args.mono else Finder).load(args.model, ONNX_FP32, args.threads)
    chosen = finder.network.card["thresholds"]
    print(json.dumps(evaluate(finder.network, args.data, args.limit, chosen, args.mono)))


if __name__ == "__main__":
    main()
