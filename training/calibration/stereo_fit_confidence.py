# SPDX-License-Identifier: Apache-2.0
"""Fit how the finder's score and the refiner's confidence join, on the validation pairs.

    python -m training.calibration.stereo_fit_confidence --out src/stereo_screw_tracker/stereo_screw_tracker/confidence.json

Training designs and anatomies, none of them judged. Prints found and false heads per threshold, the
half of the pairs that was not fitted on; heads of which little shows count neither way.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from scipy.optimize import minimize

from spine_nav_common.core.types import Rejected, StereoFrame
from stereo_screw_tracker.core.confidence import logit
from stereo_screw_tracker.core.config import StereoConfig
from stereo_screw_tracker.core.load import load_networks
from stereo_screw_tracker.core.triangulate import camera_of, triangulate_head
from training.screw_refiner.dataset import find_pairs, load_pair

NEAR_MM = 8.0  # of a head: not a ghost, even where it is not right
SHOWS = 0.5  # share of a head's pixels from which it should be found


def places(paths: list[Path], models: Path | None, config: StereoConfig) -> np.ndarray:
    """Rows (K, 7): pair, refiner, finder, is a head, is a head that shows, error mm, heads that
    show in this pair."""
    nets = load_networks(models, threads=2)
    nets.finder.head_threshold = config.least_score
    rows = []
    for number, path in enumerate(paths):
        pair = load_pair.__wrapped__(path)
        k = pair.camera.intrinsics
        frame = StereoFrame(0, pair.left, pair.right, k, pair.camera.baseline_m)
        inside = np.ones(len(pair.head_m), bool)
        for px in (pair.head_left_px, pair.head_right_px):
            inside &= ((px >= 0) & (px <= [k.width - 1, k.height - 1])).all(axis=1)
        shows = inside & (pair.head_seen.min(axis=1) >= SHOWS)
        heads = [h for h in nets.finder.find(frame).heads if h.left_px[0] > h.right_px[0]]
        heads = heads[: config.most_candidates]
        seen = nets.heads.refine(frame, [(h.left_px, h.right_px) for h in heads])
        taken: set[int] = set()
        for head, o in sorted(
            zip(heads, seen, strict=True), key=lambda p: -p[1].confidence * p[0].score
        ):
            point = triangulate_head(camera_of(frame), o, (0.15, 1.5), 0.4)
            if isinstance(point, Rejected):
                continue
            error = (
                1e3 * np.linalg.norm(pair.head_m - point.point_m, axis=1)
                if len(pair.head_m)
                else np.array([np.inf])
            )
            nearest = int(error.argmin())
            is_head = error[nearest] < NEAR_MM
            if is_head and nearest in taken:  # a double: the ghost filter's business
                continue
            taken.add(nearest)
            rows.append(
                (number, o.confidence, head.score, is_head, is_head and shows[nearest],
                 error[nearest], 0)
            )  # fmt: skip
        rows.append((number, 0.0, 0.0, 0, 0, np.inf, shows.sum()))
    return np.array(rows, float)


def fit(rows: np.ndarray) -> np.ndarray:
    """(3,) offset and weights by maximum likelihood with a weak prior; weights not negative."""
    x = np.column_stack([np.ones(len(rows)), logit(rows[:, 1]), logit(rows[:, 2])])
    y = rows[:, 3]

    def loss(w: np.ndarray) -> float:
        z = x @ w
        return float(np.logaddexp(0.0, z).sum() - y @ z + 0.05 * (w[1:] ** 2).sum())

    bounds = [(None, None), (0.0, None), (0.0, None)]
    return np.asarray(minimize(loss, np.array([0.0, 0.5, 0.5]), bounds=bounds).x)


def main() -> None:
    """Fit on all pairs, judge on halves."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, default=Path("training/data/pairs/validation"))
    p.add_argument("--models", type=Path, default=None)
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args()
    cv2.setNumThreads(1)
    everything = places(find_pairs(args.data), args.models, StereoConfig())
    rows, show = everything[everything[:, 2] > 0], everything[:, 6].sum()
    odd = rows[:, 0] % 2 == 1
    score = np.zeros(len(rows))
    for half in (odd, ~odd):
        w = fit(rows[half])
        score[~half] = w[0] + logit(rows[~half, 1]) * w[1] + logit(rows[~half, 2]) * w[2]
    for least in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        on = score >= logit(least)
        print(
            f"confidence {least:.2f}: found {rows[on, 4].sum() / show:.3f} of {show:.0f}, "
            f"false {np.count_nonzero(rows[on, 3] == 0) / show:.3f} per head that shows"
        )
    right = rows[rows[:, 4] > 0, 5]
    print(f"error of heads that show: mean {right.mean():.2f}, median {np.median(right):.2f} mm")
    w = fit(rows)
    names = ("offset", "refiner", "finder")
    content = {n: round(float(v), 4) for n, v in zip(names, w, strict=True)}
    args.out.write_text(json.dumps(content) + "\n", encoding="utf-8")
    print(f"{args.out}: {content}")


if __name__ == "__main__":
    main()
