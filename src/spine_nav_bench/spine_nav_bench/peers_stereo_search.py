# SPDX-License-Identifier: Apache-2.0
"""Searches the stereo peers' parameters on validation pairs, writes peer_stereo_parameters.json.

`python -m spine_nav_bench.peers_stereo_search`, after `training/screw_finder/generate.py --split
validation`: the pairs on which our own thresholds are chosen too, with screws of training designs.
The same number of candidates for both peers: the defaults and random draws. The offset from the
surface to the saddle point is fitted with each. The most visible heads right less false ones wins,
then the smallest median error. Judged scenes, real screws and recordings from elsewhere are never
touched.
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

from spine_nav_common.core import jsonl
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.implant_metrics import score_screws
from spine_nav_common.core.implant_outputs import ScrewRow
from spine_nav_common.core.progress import Progress
from spine_nav_common.core.runtime import fix_opencv_threads
from spine_nav_common.core.truth import Truth, TruthFrame, TruthScrew
from spine_nav_common.core.types import Intrinsics, StereoFrame

from . import peers_stereo as peers
from .bench_stereo import heads_document

MODULE = "spine_nav_bench.peers_stereo_search"
DATA = Path("training/data/pairs/validation")
PAIRS = 24
CANDIDATES = 12
VARIANTS = 6  # of each, in what costs no new depth map
SEED = 20261122
LATERAL_MM = 8.0  # a row this near across the line of sight tells the offset along it


@dataclass(frozen=True)
class Sample:
    """One pair with its detections and truth."""

    frame: StereoFrame
    found: peers.Detections
    truth: Truth


def load_samples(detector: peers.Detector, folder: Path, count: int) -> list[Sample]:
    """`count` pairs, evenly from those that training/screw_finder/generate.py wrote to `folder`.

    Raises:
        InputError: there is none.
    """
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise InputError(folder, "--data", "holds no pairs",
                         "run python -m training.screw_finder.generate --split validation")  # fmt: skip
    chosen = np.unique(np.linspace(0, len(files) - 1, count).round().astype(int))
    return [read_sample(detector, files[i], stamp) for stamp, i in enumerate(chosen)]


def read_sample(detector: peers.Detector, file: Path, stamp_ns: int) -> Sample:
    """One pair of the validation data."""
    with np.load(file) as data:
        left, right = data["left"], data["right"]
        high, wide = left.shape
        camera = Intrinsics(wide, high, *(float(v) for v in data["K"]))
        frame = StereoFrame(stamp_ns, left, right, camera, float(data["baseline_m"]))
        heads = zip(data["head_m"], data["axis"], data["head_visible_px"], strict=True)
        screws = tuple(
            TruthScrew(stamp_ns, i, "", "", point, axis, int(px))
            for i, (point, axis, px) in enumerate(heads)
        )
    truth = Truth((), (), (), {stamp_ns: TruthFrame(stamp_ns, {})}, screws)
    return Sample(frame, detector.detect(frame), truth)


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


def variant(p: peers.PeerParameters, other: peers.PeerParameters) -> peers.PeerParameters:
    """`p` with all that leaves its depth maps as they are from `other`."""
    kept = ("threshold", "radius_mm", "percentile", "patch_px")
    return replace(p, **{name: getattr(other, name) for name in kept})


def answers(
    name: str,
    samples: Sequence[Sample],
    p: peers.PeerParameters,
    depths_m: Sequence[np.ndarray] = (),
) -> list[np.ndarray]:
    """Heads (N, 3) of one peer in every sample; SgbmPeer needs the depth maps of `p`."""
    if name == peers.MATCH:
        return [peers.matched_heads(s.frame, s.found, p) for s in samples]
    return [
        peers.sgbm_heads(s.frame, s.found, depth, p)
        for s, depth in zip(samples, depths_m, strict=True)
    ]


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
    """The bench's own numbers over all pairs."""
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
    """The best setting of one peer with its numbers on these pairs."""
    tried: list[tuple[dict[str, Any], peers.PeerParameters]] = []
    for i in range(candidates):
        first = peers.PeerParameters() if i == 0 else draw(rng)
        depths: list[np.ndarray] = []
        if name == peers.SGBM:
            depths = [peers.sgbm_depth(s.frame, first) for s in samples]
        for p in (first, *(variant(first, draw(rng)) for _ in range(VARIANTS - 1))):
            found = answers(name, samples, p, depths)
            p = replace(p, offset_mm=round(fitted_offset_mm(found, samples), 2))
            tried.append((score([moved(f, p.offset_mm) for f in found], samples), p))
        progress(i + 1, candidates, name)
    best, p = min(tried, key=lambda item: rank(item[0]))
    kept = ("visible_heads", "found", "false", "head_mm", "lateral_mm", "depth_mm")
    return {"parameters": asdict(p), "reached": {k: best[k] for k in kept}}


def main() -> int:
    """Search both peers with the detector that is there, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=peers.PARAMETERS_FILE)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--candidates", type=int, default=CANDIDATES)
    args = parser.parse_args()
    fix_opencv_threads(2)
    detector = peers.load_detector()
    samples = load_samples(detector, args.data, args.pairs)
    progress = Progress("search")
    found = {
        name: search(name, samples, np.random.default_rng(SEED), args.candidates, progress)
        for name in peers.PEERS
    }
    progress.close()
    document: dict[str, Any] = {"version": 1, "detectors": {}}
    if args.out.is_file():
        document = json.loads(args.out.read_text(encoding="utf-8"))
    document["detectors"][detector.name] = {
        **jsonl.commit_state(),
        "machine": jsonl.machine(),
        "command": shlex.join(["python", "-m", MODULE, *sys.argv[1:]]),
        "model_sha256": detector.model_sha256,
        "split": "validation",
        "pairs": len(samples),
        "candidates_per_peer": args.candidates * VARIANTS,
        "search_seed": SEED,
        "peers": found,
    }
    args.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
