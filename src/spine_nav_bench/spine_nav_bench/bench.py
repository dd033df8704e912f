# SPDX-License-Identifier: Apache-2.0
"""`spinenav bench`: speed and accuracy beside peer methods, on the same frames in one run.

Each part appends one JSON line to docs/results (or --results DIR), with command, commit, model and machine; the
tables of docs/results.md are generated from these lines and from nothing else.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from rod_bending_ar.core.benchmark import run_benchmark
from spine_nav_common.core import jsonl
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.progress import Progress
from spine_nav_common.core.run import versions
from spine_nav_common.parameters import digest
from spine_perception.core.segmenter import load_segmenter
from spine_registration.core.config import NavigatorConfig
from stereo_screw_tracker.core.config import StereoConfig
from stereo_screw_tracker.core.load import StereoCore, load_core

from .bench_accuracy import accuracy_record
from .bench_alive import alive_record
from .bench_bridges import bridges_record
from .bench_calibrate import calibrate_record
from .bench_calibration import calibration_sets
from .bench_cameras import cameras_record
from .bench_depth import depth_record
from .bench_display import display_record
from .bench_gaps import CASES as GAPS
from .bench_gaps import gaps_record
from .bench_identity import identity_record
from .bench_live_stereo import live_stereo_record
from .bench_overlay import overlay_record
from .bench_planning import planning_record
from .bench_precision import SCENES as PRECISION_SCENES
from .bench_precision import SECONDS as PRECISION_SECONDS
from .bench_precision import precision_record, precision_scenes
from .bench_replanning import replanning_record
from .bench_scenes import SECONDS, foreign_scenes, judged_scenes
from .bench_segmentation import segmentation_record
from .bench_stereo import foreign_record, judged_record, stereo_timing_record
from .bench_stereo_faults import faults_record
from .bench_timing import timing_record
from .bench_two_cameras import two_cameras_record
from .commands import Commands
from .reliability import plot_reliability
from .results import render, table_text

RGBD = (
    "accuracy", "foreign", "timing", "precision", "identity", "gaps", "alive", "depth_calibration",
    "two_cameras",
)  # fmt: skip
STEREO = ("stereo", "stereo_foreign", "stereo_faults", "stereo_timing", "live_stereo")
PARTS = (
    *RGBD,
    *STEREO,
    "rod",
    "calibration",
    "bridges",
    "display",
    "overlay",
    "cameras",
    "planning",
    "segmentation",
    "replanning",
)
NEEDS = {"foreign": "scenes", "stereo_foreign": "scenes", "calibration": "data"}
SMOKE_SECONDS = 1.0
LIVE_STEREO_SMOKE_S = 5.0  # a browser takes some of it to start
IDENTITY_ANATOMIES = 12  # virtual ones, beside the real ones that are named
ROD_SEED, RODS = 300_000, 100  # rods for each number of screws; constants were chosen on others


@dataclass(frozen=True)
class Places:
    """Where a bench writes: lines (folder of JSON lines), document, images, cache of scenes."""

    lines: Path
    document: Path
    images: Path
    cache: Path


def places(results: Path | None) -> Places:
    """Everything below `results`; None: the project's own documents, and a cache in out/."""
    if results is None:
        docs = Path("docs")
        return Places(docs / "results", docs / "results.md", docs / "img", Path("out/bench"))
    return Places(results, results / "results.md", results / "img", results / "cache")


class Loaded:
    """Networks, loaded by the first part that asks."""

    @cached_property
    def segmenter(self) -> Any:
        return load_segmenter()

    @cached_property
    def stereo(self) -> StereoCore:
        return load_core(StereoConfig())

    def provenance(self, part: str) -> dict[str, Any]:
        """Model and settings behind a part; null where no network takes part."""
        if part in RGBD:
            model, config = self.segmenter, digest(NavigatorConfig())
        elif part in STEREO:
            model, config = self.stereo, digest(StereoConfig())
        else:
            return {"model_sha256": None, "provider": None, "config_sha256": None}
        return {
            "model_sha256": model.model_sha256,
            "provider": model.provider,
            "config_sha256": config,
        }


def run_bench(args: argparse.Namespace, commands: Commands) -> int:
    """Measure `commands`, append the lines, and print the tables (or the lines with --json)."""
    loaded, to = Loaded(), places(args.results)
    lines = []
    for part in _parts(args):
        base = {
            "command": "spinenav " + shlex.join(sys.argv[1:]),
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **jsonl.commit_state(),
            "machine": jsonl.machine(),
            "versions": versions(),
            **loaded.provenance(part),
            "smoke": args.smoke,
        }
        progress = Progress(f"bench {part}")
        started = time.monotonic()
        record = {"part": part, **base, **_measure(part, args, loaded, commands, to, progress)}
        record["wall_s"] = round(time.monotonic() - started, 1)
        progress.close()
        lines.append(record)
        if not args.smoke:
            jsonl.append(to.lines / f"{part}.jsonl", record)
    if not args.smoke:
        to.document.write_text(render(to.lines), encoding="utf-8")
        print(f"wrote {to.document}", file=sys.stderr)
    for record in lines:
        print(json.dumps(record, sort_keys=True) if args.json else table_text(record))
    return 0


def _parts(args: argparse.Namespace) -> tuple[str, ...]:
    def given(part: str) -> bool:
        return part not in NEEDS or getattr(args, NEEDS[part]) is not None

    if args.only is None:
        return tuple(p for p in PARTS if given(p))
    if args.only not in PARTS:
        raise InputError("bench", "--only", f"{args.only!r} is unknown",
                         f"use one of {', '.join(PARTS)}")  # fmt: skip
    if not given(args.only):
        raise InputError("bench", f"--only {args.only}", f"no {NEEDS[args.only]} are named",
                         f"add --{NEEDS[args.only]} DIR")  # fmt: skip
    return (args.only,)


def _measure(
    part: str,
    args: argparse.Namespace,
    loaded: Loaded,
    commands: Commands,
    to: Places,
    progress: Progress,
) -> dict[str, Any]:
    cache = to.cache / ("smoke" if args.smoke else "scenes")
    if part in RGBD:
        return _measure_rgbd(part, args, loaded, commands, to, cache, progress)
    if part == "rod":
        return {"rods": run_benchmark(ROD_SEED, 5 if args.smoke else RODS), "seeds": [ROD_SEED]}
    if part == "bridges":
        return bridges_record(cache, progress=progress, **({"seconds": 2.0} if args.smoke else {}))
    if part == "display":
        night = {"minutes": args.minutes} if args.minutes is not None else {}
        return display_record(cache, commands.live, smoke=args.smoke, progress=progress, **night)
    if part == "calibration":
        sets = calibration_sets(args.data)
        return {"sets": sets, "calibrate": calibrate_record(args.data, args.smoke)}
    if part == "overlay":
        return overlay_record(args.smoke, progress)
    if part == "planning":
        return planning_record(**({"count": 1} if args.smoke else {}), progress=progress)
    if part == "segmentation":
        few = {"count": 1} if args.smoke else {}
        return segmentation_record(args.data, progress=progress, **few)
    if part == "replanning":
        return replanning_record(**({"count": 1} if args.smoke else {}), progress=progress)
    if part == "cameras":
        return cameras_record(args.smoke)
    if part == "stereo_timing":
        return stereo_timing_record(cache, loaded.stereo, smoke=args.smoke, progress=progress)
    if part == "stereo_faults":
        return faults_record(cache, loaded.stereo, smoke=args.smoke, progress=progress)
    if part == "live_stereo":
        short = {"seconds": LIVE_STEREO_SMOKE_S} if args.smoke else {}
        return live_stereo_record(cache, commands.live, progress=progress, **short)
    if part == "stereo_foreign":
        return foreign_record(
            args.scenes,
            loaded.stereo,
            commands.find_screws,
            to.cache / "runs",
            args.smoke,
            progress,
        )
    return judged_record(
        cache, loaded.stereo, args.implants, args.anatomy, smoke=args.smoke, progress=progress
    )


def _measure_rgbd(
    part: str,
    args: argparse.Namespace,
    loaded: Loaded,
    commands: Commands,
    to: Places,
    cache: Path,
    progress: Progress,
) -> dict[str, Any]:
    seconds = SMOKE_SECONDS if args.smoke else SECONDS
    segmenter = loaded.segmenter
    if part == "timing":
        short = {"attempts": 2, "steps": 4, "counts": (1, 2), "nodes": False}
        return timing_record(
            cache, segmenter, commands.live, None if args.smoke else to.images / "update_time.png", seconds=seconds, progress=progress,
            **(short if args.smoke else {}),
        )  # fmt: skip
    if part == "alive":
        few = {"repeats": 1} if args.smoke else {}
        return alive_record(cache, commands.live, seconds=seconds, progress=progress, **few)
    if part == "precision":
        count = 1 if args.smoke else PRECISION_SCENES
        seconds = SMOKE_SECONDS if args.smoke else PRECISION_SECONDS
        scenes = precision_scenes(cache, count, seconds, progress)
        return precision_record(scenes, commands.replay, to.cache / "runs", progress)
    if part == "identity":
        count = 2 if args.smoke else IDENTITY_ANATOMIES
        scenes = judged_scenes(cache, args.anatomy, count, seconds, progress)
        return identity_record(scenes, segmenter, progress)
    if part == "gaps":
        few = {"cases": 4, "count": 1} if args.smoke else {"cases": GAPS}
        return gaps_record(args.anatomy, segmenter, progress=progress, **few)
    if part == "two_cameras":
        few = {"count": 1, "seconds": SMOKE_SECONDS} if args.smoke else {}
        return two_cameras_record(segmenter, progress=progress, **few)
    if part == "depth_calibration":
        return depth_record(
            args.scenes, segmenter, commands.replay, to.cache / "runs", smoke=args.smoke,
            progress=progress,
        )  # fmt: skip
    if part == "foreign":
        scenes = foreign_scenes(args.scenes)[: 1 if args.smoke else None]
    else:
        few = {"count": 1} if args.smoke else {}
        scenes = judged_scenes(cache, args.anatomy, seconds=seconds, progress=progress, **few)
    record = accuracy_record(scenes, segmenter, commands.replay, to.cache / "runs", progress)
    record["scene_names"] = [s.name for s in scenes]
    record["seeds"] = [s.seed for s in scenes]
    record["anatomies"] = sorted({s.anatomy for s in scenes})
    if part == "accuracy" and not args.smoke:
        to.images.mkdir(parents=True, exist_ok=True)
        plot_reliability(record, to.images / "reliability.png")
    return record
