# SPDX-License-Identifier: Apache-2.0
"""Where the finder sees heads in the training pairs, right or wrong: what the refiner must judge.

    python -m training.screw_refiner.mine --data training/data

Random places teach the refiner what a wound looks like; only the finder's own mistakes teach it
what looks like a head and is none. Writes DATA/pairs/train/mined/<pair>.npz: left_px, right_px (K, 2), score.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from spine_nav_common.core.types import StereoFrame
from stereo_screw_tracker.core.finder import Finder
from training.screw_refiner.dataset import find_pairs, load_pair

FLOOR = 0.1  # far below any threshold in use
MOST = 40


def mine(folder: Path, model: Path | None = None, again: bool = False) -> Iterator[None]:
    """Mine every pair in `folder` that has not been, one per step."""
    finder = Finder.load(model, threads=1)
    finder = Finder(finder.network, FLOOR, finder.rod_threshold)
    out = folder / "mined"
    out.mkdir(exist_ok=True)
    for path in find_pairs(folder):
        target = out / path.name
        if target.exists() and not again:
            continue
        pair = load_pair.__wrapped__(path)
        camera = pair.camera
        frame = StereoFrame(0, pair.left, pair.right, camera.intrinsics, camera.baseline_m)
        heads = [h for h in finder.find(frame).heads if h.left_px[0] > h.right_px[0]][:MOST]
        part = out / f".{path.name}"
        np.savez(
            part,
            left_px=np.array([h.left_px for h in heads]).reshape(-1, 2),
            right_px=np.array([h.right_px for h in heads]).reshape(-1, 2),
            score=np.array([h.score for h in heads]),
        )
        part.replace(target)
        yield


def main() -> None:
    """Mine every pair that has not been mined."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, default=Path("training/data"))
    p.add_argument("--model", type=Path, default=None, help="default: the shipped finder")
    p.add_argument("--again", action="store_true", help="replace what another finder has mined")
    args = p.parse_args()
    cv2.setNumThreads(1)
    for number, _ in enumerate(mine(args.data / "pairs" / "train", args.model, args.again), 1):
        if number % 100 == 0:
            print(f"{number} pairs", flush=True)


if __name__ == "__main__":
    main()
