# SPDX-License-Identifier: Apache-2.0
"""Searches the peers' parameters on training anatomies and writes peer_parameters.json.

`python -m spine_nav_bench.peers_search`. The same number of candidates for every peer: the
defaults and random draws; the better third is tried on more frames, and the most levels right
wins, then the smallest median TRE. Real anatomies, judged anatomies and foreign scenes are never
touched.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spine_nav_common.core import jsonl
from spine_nav_common.core.metrics import PoseError
from spine_nav_common.core.progress import Progress
from spine_nav_common.core.truth import Truth, TruthFrame
from spine_nav_common.core.types import Case, Rejected
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.operation import ALL_LEVELS, stamp
from spine_nav_sim.core.scene import make_scene
from spine_nav_sim.core.splits import anatomy_seeds
from spine_perception.core.segmenter import load_segmenter

from . import peers
from .bench_accuracy import judge
from .bench_scenes import scene_config

SCENES = 8
CANDIDATES = 12
FIRST_ROUND = 4  # scenes; the second round has them all
SEED = 20260101
TIMES_S = (0.0,)


@dataclass(frozen=True)
class Sample:
    """One frame of a training scene, ready for every peer."""

    case: Case
    model: peers.Model
    scene: peers.Scene
    truth: Truth
    stamp_ns: int


def training_samples(segmenter: Any, scenes: int) -> list[Sample]:
    """Frames of scenes over training anatomies, taken from the end of the list."""
    seeds = anatomy_seeds("train")[-scenes:]
    samples = []
    for i, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        anatomy = make_anatomy(rng, ALL_LEVELS, f"train-{seed}")
        layout = make_scene(anatomy, rng, replace(scene_config(i), tool_passes=False))
        case = Case(anatomy.name, "LPS", anatomy.meshes, layout.exposed, anatomy.plan, "")
        for t_s in TIMES_S:
            rendered = layout.render(t_s)
            stamp_ns = stamp(t_s)
            frame = rendered.to_frame(stamp_ns)
            segmentation = segmenter.run(frame)
            if isinstance(segmentation, Rejected):
                continue
            bone = peers.bone_scene(frame, segmentation)
            if isinstance(bone, Rejected):
                continue
            truth = Truth(
                tuple(anatomy.meshes), layout.exposed, anatomy.plan,
                {stamp_ns: TruthFrame(stamp_ns, rendered.T_camera_ct)},
            )  # fmt: skip
            samples.append(Sample(case, peers.prepare(case), bone, truth, stamp_ns))
    return samples


def draw(rng: np.random.Generator) -> peers.PeerParameters:
    """One random setting within wide, sensible ranges."""
    return peers.PeerParameters(
        voxel_mm=float(rng.choice([1.5, 2.0, 3.0, 4.0, 5.0])),
        feature_radius=float(rng.choice([3.0, 5.0, 8.0])),
        ransac_distance=float(rng.choice([1.0, 1.5, 2.5])),
        ransac_iterations=int(rng.choice([50_000, 100_000, 400_000])),
        per_level=bool(rng.random() < 0.3),
        rolls=int(rng.choice([2, 2, 2, 4])),
        shifts=int(rng.choice([1, 3, 5])),
        shift_step_mm=float(rng.choice([8.0, 12.0, 17.0, 25.0])),
        tilt_deg=float(rng.choice([0.0, 10.0, 15.0, 20.0])),
        dorsal_from_view=bool(rng.random() < 0.4),
        coarse_plane=bool(rng.random() < 0.5),
        coarse_mm=float(rng.choice([10.0, 15.0, 20.0, 30.0])),
        fine_mm=float(rng.choice([2.0, 3.0, 5.0, 8.0])),
        iterations=int(rng.choice([20, 40])),
    )


def score(
    peer: peers.Peer, p: peers.PeerParameters, samples: Sequence[Sample]
) -> tuple[float, float, float]:
    """Share of levels right, median TRE over these in mm, and median seconds per frame."""
    wanted, errors, spent = 0, [], []
    for sample in samples:
        wanted += len(sample.case.exposed_levels)
        peers.model_features(sample.model, p)
        begin = time.perf_counter()
        found = peer(sample.scene, sample.model, p, 0)
        spent.append(time.perf_counter() - begin)
        if not isinstance(found, Rejected):
            errors += judge(found, sample.stamp_ns, sample.truth, sample.case)
    right: list[PoseError] = [e for e in errors if e.success]
    tre = float(np.median([e.tre_mm for e in right])) if right else float("inf")
    return len(right) / wanted, tre, float(np.median(spent))


def search(
    name: str, samples: Sequence[Sample], rng: np.random.Generator, progress: Progress
) -> dict[str, Any]:
    """The best setting of one peer with its score on the training scenes."""
    peer = peers.PEERS[name]
    candidates = [peers.PeerParameters(), *(draw(rng) for _ in range(CANDIDATES - 1))]
    few = list(samples[:FIRST_ROUND])
    first = []
    for i, p in enumerate(candidates):
        first.append((score(peer, p, few), p))
        progress(i + 1, CANDIDATES, name)
    first.sort(key=lambda item: (-item[0][0], item[0][1]))
    second = [(score(peer, p, samples), p) for _, p in first[: max(1, CANDIDATES // 3)]]
    (share, tre, seconds), best = min(second, key=lambda item: (-item[0][0], item[0][1]))
    return {
        "parameters": asdict(best),
        "training_success": share,
        "training_tre_median_mm": tre if np.isfinite(tre) else None,
        "training_seconds_median": seconds,
    }


def main() -> int:
    """Search all peers and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=peers.PARAMETERS_FILE)
    parser.add_argument("--scenes", type=int, default=SCENES)
    args = parser.parse_args()
    segmenter = load_segmenter()
    samples = training_samples(segmenter, args.scenes)
    progress = Progress("search")
    found = {
        name: search(name, samples, np.random.default_rng(SEED), progress) for name in peers.PEERS
    }
    progress.close()
    document = {
        "version": 1,
        **jsonl.commit_state(),
        "machine": jsonl.machine(),
        "model_sha256": segmenter.model_sha256,
        "split": "train",
        "anatomy_seeds": list(anatomy_seeds("train")[-args.scenes :]),
        "candidates_per_peer": CANDIDATES,
        "search_seed": SEED,
        "peers": found,
    }
    args.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
