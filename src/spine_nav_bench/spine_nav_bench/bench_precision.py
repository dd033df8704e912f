# SPDX-License-Identifier: Apache-2.0
"""The accuracy gate of the back-ends: each against fp32 of ONNX Runtime, on anatomies that are not
judged. A precision that changes the TRE or loses a level is not shipped as a choice of `auto`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spine_nav_common.core.case import load_case
from spine_nav_common.core.metrics import LevelOutcome, evaluate, summarise
from spine_nav_common.core.run import Progress
from spine_nav_common.core.truth import load_truth
from spine_nav_sim.core.splits import anatomy_seeds
from spine_perception.core.backends import AUTO, BACKENDS, ONNX_FP32
from spine_perception.core.features import N_CHANNELS
from spine_perception.core.grid import GRID_SIZE
from spine_perception.core.inference import ModelError, OnnxNetwork, find_model
from spine_perception.core.segmenter import Segmenter, load_segmenter

from .bench_scenes import SceneFolder, scene_config, virtual_scene
from .commands import Replay

SCENES, SECONDS = 8, 2.0
SPLIT = "calibrate"
MOST_CHANGE_MM = 0.05
SHOW_ALL = ("navigation.navigator.max_predicted_tre_mm=20.0",)
"""Poses are compared, not promises: those that are known too badly to be shown count as well."""
RUNS = 40  # of the network, timed; the least is told, since nothing makes it faster than it is


def precision_scenes(
    cache: Path, count: int, seconds: float, progress: Progress | None = None
) -> list[SceneFolder]:
    """Virtual operations of the last anatomies of the list `calibrate`."""
    return [
        virtual_scene(cache, f"precision-{seed}", seed, scene_config(i), seconds, None, progress)
        for i, seed in enumerate(anatomy_seeds(SPLIT)[-count:])
    ]


def network_ms(backend: str) -> float:
    """Least time of the U-Net alone."""
    network = OnnxNetwork(find_model(), backend)
    x = np.random.default_rng(0).normal(size=(1, N_CHANNELS, GRID_SIZE, GRID_SIZE))
    x = x.astype(np.float32)
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        network(x)
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def compare(reference: Sequence[LevelOutcome], other: Sequence[LevelOutcome]) -> dict[str, Any]:
    """Level-frames tracked by both, level by level, and levels that only one registered."""
    change, lost, gained = [], [], []
    for a, b in zip(reference, other, strict=True):
        if a.level != b.level:
            raise ValueError(f"{a.level} beside {b.level}: the outcomes are of different scenes")
        errors = {e.stamp_ns: e.tre_mm for e in a.errors}
        change += [e.tre_mm - errors[e.stamp_ns] for e in b.errors if e.stamp_ns in errors]
        if a.success and not b.success:
            lost.append(a.level)
        if b.success and not a.success:
            gained.append(a.level)
    mean = float(np.mean(change)) if change else None
    return {
        "compared": len(change),
        "tre_change_mean_mm": mean,
        "tre_change_abs_p95_mm": float(np.percentile(np.abs(change), 95)) if change else None,
        "levels_lost": lost,
        "levels_gained": gained,
        "passes": mean is not None and abs(mean) <= MOST_CHANGE_MM and not lost,
    }


def precision_record(
    scenes: Sequence[SceneFolder], replay: Replay, runs: Path, progress: Progress | None = None
) -> dict[str, Any]:
    """Every back-end that runs here over the scenes; those that do not run, with the reason."""
    outcomes: dict[str, list[LevelOutcome]] = {}
    record: dict[str, Any] = {"backends": {}, "absent": {}, "reference": ONNX_FP32}
    names = [ONNX_FP32, *(b for b in BACKENDS if b not in (AUTO, ONNX_FP32))]
    for done, name in enumerate(names):
        try:
            segmenter: Segmenter = load_segmenter(backend=name)
        except ModelError as error:
            record["absent"][name] = (
                str(error).partition("does not load it: ")[2].partition("; choose another")[0]
            )
            continue
        outcomes[name] = []
        for scene in scenes:
            out = runs / name / scene.name
            replay(scene.recording, scene.case, out, segmenter=segmenter, assignments=SHOW_ALL)
            report = evaluate(out, load_truth(scene.truth), load_case(scene.case))
            outcomes[name] += report.outcomes
            if progress is not None:
                progress(done, len(names), f"{name}, {scene.name}")
        pooled = summarise(outcomes[name])
        record["backends"][name] = {
            "provider": segmenter.provider,
            "network_ms": network_ms(name),
            **{k: pooled[k] for k in ("levels", "levels_registered", "tracked", "level_frames",
                                      "tre_mm", "silent_failures", "wrong_level")},
            **compare(outcomes[ONNX_FP32], outcomes[name]),
        }  # fmt: skip
    record["seeds"] = [s.seed for s in scenes]
    record["split"] = SPLIT
    return record
