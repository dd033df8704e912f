# SPDX-License-Identifier: Apache-2.0
"""`spinenav bench`: speed and accuracy beside peer methods, on the same frames in one run.

Each part appends one JSON line to docs/results, with command, commit, model and machine; the
tables of docs/results.md are generated from these lines and from nothing else.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from spine_nav_common.core.errors import InputError
from spine_nav_common.parameters import digest
from spine_registration.core.config import NavigatorConfig

from .bench_accuracy import accuracy_record
from .bench_scenes import SECONDS, foreign_scenes, judged_scenes
from .bench_timing import timing_record
from .core import jsonl
from .core.progress import Progress
from .core.run import versions
from .replay import load_segmenter
from .results import render, table_text

PARTS = ("accuracy", "foreign", "timing")
CACHE = Path("out/bench")
PLOT = Path("docs/img/update_time.png")
SMOKE_SECONDS = 1.0


def run_bench(args: argparse.Namespace) -> int:
    """Measure, append the lines, and print the tables (or the lines with --json)."""
    parts = _parts(args)
    segmenter = load_segmenter()
    base = {
        "command": "spinenav " + shlex.join(sys.argv[1:]),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **jsonl.commit_state(),
        "machine": jsonl.machine(),
        "versions": versions(),
        "model_sha256": segmenter.model_sha256,
        "provider": segmenter.provider,
        "config_sha256": digest(NavigatorConfig()),
        "smoke": args.smoke,
    }
    lines = []
    for part in parts:
        progress = Progress(f"bench {part}")
        started = time.monotonic()
        record = {"part": part, **base, **_measure(part, args, segmenter, progress)}
        record["wall_s"] = round(time.monotonic() - started, 1)
        progress.close()
        lines.append(record)
        if not args.smoke:
            jsonl.append(args.results / f"{part}.jsonl", record)
    if not args.smoke:
        document = args.results.parent / "results.md"
        document.write_text(render(args.results), encoding="utf-8")
        print(f"wrote {document}", file=sys.stderr)
    for record in lines:
        print(json.dumps(record, sort_keys=True) if args.json else table_text(record))
    return 0


def _parts(args: argparse.Namespace) -> tuple[str, ...]:
    if args.only is not None:
        if args.only not in PARTS:
            raise InputError("bench", "--only", f"{args.only!r} is unknown",
                             f"use one of {', '.join(PARTS)}")  # fmt: skip
        if args.only == "foreign" and args.scenes is None:
            raise InputError("bench", "--only foreign", "no scenes are named", "add --scenes DIR")
        return (args.only,)
    return tuple(p for p in PARTS if p != "foreign" or args.scenes is not None)


def _measure(
    part: str, args: argparse.Namespace, segmenter: Any, progress: Progress
) -> dict[str, Any]:
    seconds = SMOKE_SECONDS if args.smoke else SECONDS
    cache = CACHE / ("smoke" if args.smoke else "scenes")
    if part == "timing":
        short = {"attempts": 2, "steps": 4, "counts": (1, 2), "nodes": False}
        return timing_record(
            cache, segmenter, None if args.smoke else PLOT, seconds=seconds, progress=progress,
            **(short if args.smoke else {}),
        )  # fmt: skip
    if part == "foreign":
        scenes = foreign_scenes(args.scenes)[: 1 if args.smoke else None]
    else:
        count = {"count": 1} if args.smoke else {}
        scenes = judged_scenes(cache, args.anatomy, seconds=seconds, progress=progress, **count)
    record = accuracy_record(scenes, segmenter, CACHE / "runs", progress)
    record["scene_names"] = [s.name for s in scenes]
    record["seeds"] = [s.seed for s in scenes]
    record["anatomies"] = sorted({s.anatomy for s in scenes})
    return record
