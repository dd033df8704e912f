# SPDX-License-Identifier: Apache-2.0
"""`spinenav demo`: a virtual operation through the real ROS 2 nodes, judged and shown.

The operation is rendered first and then played to the nodes at the camera's own pace, so that
rendering does not compete with the navigation for the cores, and the truth lies beside it.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spine_nav_common.core.case import load_case
from spine_nav_common.core.metrics import evaluate, format_report, mean_distance_mm
from spine_nav_common.core.outputs import POSES, SUMMARY, PoseRow, read_json, read_poses, write_json
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.truth import Truth, load_truth
from spine_nav_common.core.types import (
    Case,
    LevelEstimate,
    NavigationResult,
    Status,
)
from spine_nav_sim.core.operation import simulate
from spine_nav_sim.core.scene_config import SceneConfig

from .core.progress import Progress

DONE, FAILED = 0, 1
EXPOSED = ("L1", "L2", "L3", "L4", "L5")
SCENE = SceneConfig(
    exposed=EXPOSED,
    camera_moves=True,
    bump=True,
    hardness=0.35,
    camera="d415",
    distance_m=(0.45, 0.5),
    tool_busy=0.25,
)
PICTURE_SCALE = 2
PICTURES = 4


@dataclass(frozen=True)
class Shown:
    """One frame that is worth a picture, and why."""

    stamp_ns: int
    caption: str


def run_demo(out: Path, seed: int, seconds: float) -> int:
    """Operate, navigate, judge, draw. Returns 0, or 1 if a node failed or guidance was wrong."""
    started = time.monotonic()
    _clear(out)
    operation, run = out / "operation", out / "run"
    _say(1, f"a virtual operation on L1 to L5: {seconds:.0f} s of RGB-D, seed {seed}")
    progress = Progress("rendering")
    simulate(operation, None, seed, seconds, ("rgbd",), SCENE, progress)
    progress.close()

    way = navigate(operation, run, seconds)
    summary = read_json(run / SUMMARY)
    if summary["stopped"]:
        print(f"the run stopped half-way: {summary['stopped']}; its rows are in {run}")
        return FAILED

    _say(3, "judged against the truth of the virtual operation")
    case, truth = load_case(operation / "case"), load_truth(operation / "truth.json")
    report = evaluate(run, truth, case)
    table = format_report(report)
    print(table)
    pooled = report.to_dict()["pooled"]
    problems = verdict(pooled)
    print(_timing_line(summary))
    write_json(out / "evaluation.json", {**report.to_dict(), "way": way, "problems": problems})

    _say(4, "pictures and a recording for Foxglove")
    files = show(operation, run, case, truth, out, f"Virtual operation, seed {seed}: {way}")
    for file in files:
        print(f"  {file}")
    print(f"done in {time.monotonic() - started:.0f} s. Research software, not a medical device.")
    for problem in problems:
        print(f"FAILED: {problem}")
    return FAILED if problems else DONE


def verdict(pooled: dict[str, Any]) -> list[str]:
    """What makes a demo fail: guidance that was wrong and looked right, or none at all."""
    problems = []
    if pooled["wrong_level"]:
        problems.append(f"a wrong level was shown as tracked in {pooled['wrong_level']} rows")
    if pooled["silent_failures"]:
        problems.append(
            f"{pooled['silent_failures']} of {pooled['tracked']} tracked rows were off by more "
            "than 4 mm (silent failures)"
        )
    if not pooled["tracked"]:
        problems.append("no level was ever tracked")
    return problems


def navigate(operation: Path, run: Path, seconds: float) -> str:
    """Play the operation to the ROS 2 nodes; without rclpy replay it, and say so."""
    case, recording = operation / "case", operation / "recording"
    if importlib.util.find_spec("rclpy") is None:
        _say(2, "NO ROS 2 HERE (rclpy is not installed): the same core by replay instead of nodes")
        from .replay import replay

        progress = Progress("replay")
        replay(recording, case, run, progress=progress)
        progress.close()
        return "replay without ROS"
    from .live import LiveOptions, run_live

    _say(2, f"navigated by the ROS 2 nodes at the camera's pace ({seconds:.0f} s)")
    progress = Progress("navigating")
    run_live(LiveOptions(case=case, source=f"replay:{recording}", out=run), progress)
    progress.close()
    return "live through the ROS 2 nodes"


def show(operation: Path, run: Path, case: Case, truth: Truth, out: Path, title: str) -> list[Path]:
    """Write the pictures and the Foxglove recording; returns their paths."""
    from .demo_recording import write_foxglove
    from .overlay import draw_overlay
    from .pictures import write_error_over_time, write_picture, write_strip

    rows = read_poses(run / POSES)
    results = results_of(rows)
    moments = choose_moments(results)
    pictures: dict[int, np.ndarray] = {}

    def frames():
        for frame in open_recording(operation / "recording").rgbd_frames():
            result = results.get(frame.stamp_ns)
            if frame.stamp_ns in {m.stamp_ns for m in moments}:
                pictures[frame.stamp_ns] = draw_overlay(
                    frame.colour, frame.intrinsics, case, result, frame.depth_m,
                    stamp_ns=frame.stamp_ns, scale=PICTURE_SCALE,
                )  # fmt: skip
            yield frame, result

    progress = Progress("recording")
    recording = write_foxglove(out / "foxglove", case, frames(), progress)
    progress.close()
    files = [out / "error_over_time.png", out / "overlay.png"]
    write_error_over_time(files[0], traces(rows, truth, case), title)
    if moments:
        shown = [(m.caption, pictures[m.stamp_ns]) for m in moments if m.stamp_ns in pictures]
        best = max(moments, key=lambda m: _tracked(results[m.stamp_ns]))
        write_picture(files[1], pictures[best.stamp_ns])
        files.append(out / "overlay_strip.png")
        write_strip(files[2], shown)
    return [*files, recording]


def results_of(rows: Sequence[PoseRow]) -> dict[int, NavigationResult]:
    """Rows of a poses.csv as one result per stamp; reasons are not in that file."""
    levels: dict[int, list[LevelEstimate]] = {}
    for row in rows:
        levels.setdefault(row.stamp_ns, []).append(
            LevelEstimate(
                row.level, row.status, row.T_camera_ct, predicted_tre_mm=row.predicted_tre_mm
            )
        )
    return {stamp: NavigationResult(stamp, tuple(found)) for stamp, found in levels.items()}


def _tracked(result: NavigationResult) -> int:
    return sum(e.status is Status.TRACKED for e in result.levels)


def choose_moments(results: dict[int, NavigationResult]) -> list[Shown]:
    """Four moments: before registration, registered, the most occluded one, the end."""
    stamps = sorted(results)
    if not stamps:
        return []
    tracked = {s: _tracked(results[s]) for s in stamps}
    first = next((s for s in stamps if tracked[s]), stamps[-1])
    after = [s for s in stamps if s > first]
    covered = min(after, key=lambda s: (tracked[s], s), default=first)
    best = max(stamps, key=lambda s: (tracked[s], s < covered))
    last = max(
        (s for s in stamps if s > covered), key=lambda s: (tracked[s], s), default=stamps[-1]
    )
    chosen = {
        stamps[2 * len(stamps) // 3]: "under way",
        stamps[len(stamps) // 4]: "under way",
        first: "first pose",
        best: "all tracked" if tracked[best] == len(results[best].levels) else "best view",
        covered: "a tool passes" if tracked[covered] < tracked[best] else "in between",
        last: "recovered" if tracked[covered] < tracked[last] else "at the end",
    }
    spare = len(chosen) - PICTURES  # moments under way only fill the sheet
    kept = list(chosen.items())[max(0, min(spare, 2)) :]
    return [Shown(s, f"{(s - stamps[0]) * 1e-9:.1f} s: {why}") for s, why in sorted(kept)]


def traces(rows: Sequence[PoseRow], truth: Truth, case: Case) -> list[Any]:
    """True error and predicted bound over time, one trace per exposed level."""
    from .pictures import Trace

    start = min(truth.frames)
    found = []
    for level in case.exposed_levels:
        own = [r for r in rows if r.level == level and r.stamp_ns in truth.frames]
        points = case.plan_points_m(level)
        error = [
            np.nan
            if r.T_camera_ct is None
            else mean_distance_mm(
                r.T_camera_ct, truth.frames[r.stamp_ns].T_camera_ct[level], points
            )
            for r in own
        ]
        bound = [np.nan if r.predicted_tre_mm is None else r.predicted_tre_mm for r in own]
        time_s = np.array([(r.stamp_ns - start) * 1e-9 for r in own])
        status = tuple(r.status for r in own)
        found.append(Trace(level, time_s, np.array(error), np.array(bound), status))
    return found


def _timing_line(summary: dict[str, Any]) -> str:
    timings = summary["timings_ms"]
    parts = [
        f"{stage} {timings[stage]['median']:.0f} ms"
        for stage in ("registration", "network", "update", "total")
        if stage in timings
    ]
    return f"median times: {', '.join(parts)}" if parts else "no timings"


def _say(step: int, text: str) -> None:
    print(f"[{step}/4] {text}", flush=True)


def _clear(out: Path) -> None:
    """Remove what an earlier demo wrote, and only that."""
    for name in ("operation", "run", "foxglove"):
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
