# SPDX-License-Identifier: Apache-2.0
"""From settings and model files to a tracker that is ready for its first frame."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from spine_nav_common.core.runtime import fix_opencv_threads
from spine_nav_common.core.types import Case, Intrinsics, Rejected, StereoFrame, StereoResult
from spine_perception.core.backends import AUTO

from .config import StereoConfig
from .finder import MODEL_NAME as FINDER
from .finder import Finder
from .refiner import MODEL_NAME as HEADS
from .refiner import HeadRefiner
from .rod_refiner import MODEL_NAME as RODS
from .rod_refiner import RodRefiner
from .tracker import StereoTracker


def network_threads() -> int:
    """Two where there are as many cores: a pair has two pictures and many crops."""
    return min(2, os.cpu_count() or 1)


class TracksScrews(Protocol):
    """What commands and nodes need of the tracker; tests put a fake here."""

    def process(
        self,
        frame: StereoFrame,
        vertebrae: Mapping[str, np.ndarray] | None = None,
        case: Case | None = None,
    ) -> StereoResult | Rejected: ...

    def reset(self) -> None: ...


@dataclass(frozen=True)
class StereoCore:
    """A warm tracker and what computes it: `model_sha256` is one hash over all three models."""

    tracker: TracksScrews
    provider: str = ""
    model_sha256: str = ""


@dataclass(frozen=True)
class StereoNetworks:
    """The three loaded models, and their hashes by file name."""

    finder: Finder
    heads: HeadRefiner
    rods: RodRefiner
    provider: str
    hashes: dict[str, str]


def load_networks(
    models: Path | None = None,
    backend: str = AUTO,
    threads: int | None = None,
) -> StereoNetworks:
    """Finder, head refiner and rod refiner, verified against their cards.

    Args:
        models: folder that holds all three models; None: those that are shipped.
        backend, threads: see OnnxModel.

    Raises ModelError: a model is missing, damaged, or made for another version.
    """

    def file(name: str) -> Path | None:
        return models / name if models else None

    finder = Finder.load(file(FINDER), backend, threads)
    heads = HeadRefiner(file(HEADS), backend, threads)
    rods = RodRefiner(file(RODS), backend, threads)
    hashes = {
        FINDER: finder.network.model_sha256,
        HEADS: heads.model_sha256,
        RODS: rods.model_sha256,
    }
    return StereoNetworks(finder, heads, rods, finder.network.provider, hashes)


def load_tracker(
    config: StereoConfig,
    models: Path | None = None,
    backend: str = AUTO,
    threads: int | None = None,
) -> StereoCore:
    """A warm tracker over the three models; arguments and errors as in `load_networks`."""
    n = load_networks(models, backend, threads)
    # the refiner judges what the finder only suspects, so more is asked than the finder would tell
    n.finder.head_threshold = config.least_score
    n.finder.rod_threshold = config.rods.least_seed_confidence
    for part in (n.finder, n.heads, n.rods):
        part.warm_up()
    tracker = StereoTracker(config, n.finder, n.heads, n.rods)
    for pair in warm_pairs():
        tracker.process(pair)
    tracker.reset()
    return StereoCore(tracker, n.provider, joint_sha256(n.hashes.values()))


def warm_pairs() -> tuple[StereoFrame, StereoFrame]:
    """Two pairs of a flat texture, 0.5 m away: what is compiled or loaded at its first use is not
    when the first pair of a camera comes (0.35 s of it, and a camera does not wait)."""
    camera = Intrinsics(640, 480, 600.0, 600.0, 319.5, 239.5)
    baseline_m, disparity_px = 0.06, 72
    rng = np.random.default_rng(0)
    pairs = []
    for i in (0, 1):
        coarse = rng.integers(40, 220, (60, 90), dtype=np.uint8)
        wide = cv2.resize(coarse, (720, 480), interpolation=cv2.INTER_CUBIC)
        left, right = wide[:, :640], wide[:, disparity_px : disparity_px + 640]
        pairs.append(StereoFrame(i * 100_000_000, left.copy(), right.copy(), camera, baseline_m))
    return pairs[0], pairs[1]


def load_core(config: StereoConfig, models: Path | None = None, backend: str = AUTO) -> StereoCore:
    """A warm tracker with fixed thread counts. Raises ModelError."""
    fix_opencv_threads()
    return load_tracker(config, models, backend, network_threads())


def joint_sha256(hashes: Iterable[str]) -> str:
    """One hash over several, in their order."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
