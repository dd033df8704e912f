# SPDX-License-Identifier: Apache-2.0
"""Searches the stereo peers' parameters on training scenes, writes peer_stereo_parameters.json.

`python -m spine_nav_bringup.peers_stereo_search`. The same number of candidates for both peers:
the defaults and random draws. The offset from the surface to the saddle point is fitted with each.
The most visible heads right less false ones wins, then the smallest median error. Judged scenes,
real screws and recordings from elsewhere are never touched.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spine_nav_common.core.implant_metrics import score_screws
from spine_nav_common.core.outputs import ScrewRow
from spine_nav_common.core.truth import Truth
from spine_nav_common.core.types import StereoFrame

from . import peers_stereo as peers
from .bench_stereo import heads_document, only
from .bench_stereo_scenes import split_stereo, write_scenes
from .core import jsonl
from .core.progress import Progress
from .core.run import NETWORK_THREADS
from .core.runtime import fix_opencv_threads

MODULE = "spine_nav_bringup.peers_stereo_search"
SCENES = 10
PAIRS_PER_SCENE = 2  # the first and the last: neighbours show the same
CANDIDATES = 24
SEED = 20261122
LATERAL_MM = 8.0  # a row this near across the line of sight tells the offset along it


@dataclass(frozen=True)
class Sample:
    """One training pair with its detections and truth."""

    frame: StereoFrame
    found: peers.Detections
    truth: Truth


def training_samples(detector: peers.Detector, cache: Path, scenes: int) -> list[Sample]:
    """Pairs of training scenes from the end of the list."""
    progress = Progress("training scenes")
    folders = write_scenes(cache, split_stereo("train", scenes), progress=progress)
    samples = []
    for folder in folders:
        pairs = folder.pairs()
        for frame in pairs[:: max(1, len(pairs) - 1)][:PAIRS_PER_SCENE]:
            truth = only(folder.truth(), [frame.stamp_ns])
            samples.append(Sample(frame, detector.detect(frame), truth))
    progress.close()
    return samples


def draw(rng: np.random.Generator) -> peers.PeerParameters:
    """One random setting within wide, sensible ranges."""
    return peers.PeerParameters(
        threshold=float(rng.choice([0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75])),
        max_width=int(rng.choice([640, 960, 1280])),
        block_px=int(rng.choice([3, 5, 7, 9])),
        smoothness=float(rng.choice([0.5, 1.0, 2.0])),
        uniqueness=int(rng.choice([0, 5, 10])),
        three_way=bool(rng.random() < 0.5),
        radius_mm=float(rng.choice([2.0, 4.0, 6.0, 8.0])),
        percentile=float(rng.choice([25.0, 50.0, 75.0])),
        patch_px=int(rng.choice([0, 5, 8, 12])),
    )


def answers(name: str, samples: Sequence[Sample], p: peers.PeerParameters) -> list[np.ndarray]:
    """Heads (N, 3) of one peer in every sample."""
    if name == peers.MATCH:
        return [peers.matched_heads(s.frame, s.found, p) for s in samples]
    return [peers.sgbm_heads(s.frame, s.found, peers.sgbm_depth(s.frame, p), p) for s in samples]


def fitted_offset_mm(found: Sequence[np.ndarray], samples: Sequence[Sample]) -> float:
    """Median way along the line of sight from the answers to the true heads that they mean."""
    ways = []
    for points, sample in zip(found, samples, strict=True):
        heads = np.reshape([s.head_m for s in sample.truth.screws], (-1, 3))
        for point in points:
            sight = point / np.linalg.norm(point)
            along = (heads - point) @ sight
            lateral_mm = 1e3 * np.linalg.norm(heads - point - along[:, None] * sight, axis=1)
            if lateral_mm.min(initial=np.inf) <= LATERAL_MM:
                ways.append(1e3 * float(along[lateral_mm.argmin()]))
    return float(np.median(ways)) if ways else 0.0


def moved(points: np.ndarray, offset_mm: float) -> np.ndarray:
    """Points (N, 3) shifted along their lines of sight."""
    return points * (1.0 + 1e-3 * offset_mm / np.linalg.norm(points, axis=1, keepdims=True))


def score(found: Sequence[np.ndarray], samples: Sequence[Sample]) -> dict[str, Any]:
    """The bench's own numbers over the training pairs."""
    up = np.array([0.0, 0.0, -1.0])
    return heads_document(
        [
            score_screws(
                [ScrewRow(s.frame.stamp_ns, i, p, up, 1.0, 0.0) for i, p in enumerate(points)],
                s.truth,
            )
            for points, s in zip(found, samples, strict=True)
        ],
        with_axis=False,
    )


def rank(document: dict[str, Any]) -> tuple[float, float]:
    """Smaller is better: false less found heads, then the median error."""
    median = document["head_mm"]["median"] if document["head_mm"] else np.inf
    return document["false"] - document["found"], median


def search(
    name: str,
    samples: Sequence[Sample],
    rng: np.random.Generator,
    candidates: int,
    progress: Callable[[int, int, str], None],
) -> dict[str, Any]:
    """The best setting of one peer with its numbers on the training pairs."""
    tried: list[tuple[dict[str, Any], peers.PeerParameters]] = []
    for i in range(candidates):
        p = peers.PeerParameters() if i == 0 else draw(rng)
        found = answers(name, samples, p)
        p = replace(p, offset_mm=round(fitted_offset_mm(found, samples), 2))
        tried.append((score([moved(f, p.offset_mm) for f in found], samples), p))
        progress(i + 1, candidates, name)
    best, p = min(tried, key=lambda item: rank(item[0]))
    kept = ("visible_heads", "found", "false", "head_mm", "lateral_mm", "depth_mm")
    return {"parameters": asdict(p), "training": {k: best[k] for k in kept}}


def main() -> int:
    """Search both peers with the detector that is there, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=peers.PARAMETERS_FILE)
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--candidates", type=int, default=CANDIDATES)
    parser.add_argument("--cache", type=Path, default=Path("out/bench/search"))
    args = parser.parse_args()
    fix_opencv_threads(NETWORK_THREADS)
    detector = peers.load_detector(threads=NETWORK_THREADS)
    samples = training_samples(detector, args.cache, args.scenes)
    progress = Progress("search")
    found = {
        name: search(name, samples, np.random.default_rng(SEED), args.candidates, progress)
        for name in peers.PEERS
    }
    progress.close()
    document = {"version": 1, "detectors": {}}
    if args.out.is_file():
        document = json.loads(args.out.read_text(encoding="utf-8"))
    document["detectors"][detector.name] = {
        **jsonl.commit_state(),
        "machine": jsonl.machine(),
        "command": shlex.join(["python", "-m", MODULE, *sys.argv[1:]]),
        "model_sha256": getattr(detector, "model_sha256", None),
        "split": "train",
        "seeds": [s.seed for s in split_stereo("train", args.scenes)],
        "pairs": len(samples),
        "candidates_per_peer": args.candidates,
        "search_seed": SEED,
        "peers": found,
    }
    args.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
