# SPDX-License-Identifier: Apache-2.0
"""The demo's second camera: screws, rod and bending steps of a virtual operation, through the nodes."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rod_bending_ar.core.plan import RodPlan
from rod_bending_ar.core.planned import PlannedRod
from rod_bending_ar.stereo_overlay import draw_stereo, result_of
from spine_nav_common.core.case import load_case
from spine_nav_common.core.graph import paced
from spine_nav_common.core.implant_outputs import (
    RODS,
    SCREWS,
    read_rods,
    read_screws,
)
from spine_nav_common.core.metrics import Report, evaluate, format_report
from spine_nav_common.core.outputs import SUMMARY
from spine_nav_common.core.png import write_png
from spine_nav_common.core.progress import Progress
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.tables import read_json, write_json
from spine_nav_common.core.truth import load_truth
from spine_nav_common.core.types import StereoResult
from spine_nav_display.core.binding import Exposure, free_port
from spine_nav_sim.core.operation import simulate
from spine_nav_sim.core.rig import MOUNTED
from stereo_screw_tracker.core.load import load_core

from .rod import describe
from .screws import OVERLAY, find_screws, rod_plans, stereo_config

SECONDS = 1.2
PROBE_PAIRS = 3
NODE_OVERHEAD = 1.5
STEADY_FRAMES = 4  # of a dozen


@dataclass(frozen=True)
class StereoDemo:
    """What came of it: lines for the terminal, the evaluation, what was wrong, files written."""

    lines: tuple[str, ...]
    report: Report
    way: str
    problems: tuple[str, ...]
    files: tuple[Path, ...]


def run_stereo(out: Path, seed: int) -> StereoDemo:
    """Render, track through the nodes, judge, plan the rods, draw. Raises what a stage raises."""
    operation, run = out / "operation", out / "run"
    progress = Progress("rendering pairs")
    simulate(operation, None, seed, SECONDS, ("stereo",), progress=progress, stereo_config=MOUNTED)
    progress.close()
    way = track_screws(operation, run)
    summary = read_json(run / SUMMARY)
    case = load_case(operation / "case")
    report = evaluate(run, load_truth(operation / "truth.json"), case)
    result = last_result(run)
    plans, refusals = rod_plans(result, run / SCREWS, "", case)
    for side, plan in plans.items():
        write_json(out / f"bend_plan_{side}.json", plan.to_dict())
    files = [out / f"bend_plan_{side}.json" for side in plans]
    if result is not None:
        files.insert(0, out / OVERLAY)
        write_png(files[0], picture(operation / "recording", result, tuple(plans.values())))
    lines = [format_report(report), *guidance_lines(summary)]
    lines += [describe(plan) for plan in plans.values()]
    lines += [f"{side}: no bending plan: {reason}" for side, reason in refusals.items()]
    if summary["stopped"]:
        lines.append(f"the run stopped half-way: {summary['stopped']}")
    problems = stereo_verdict(report.to_dict(), summary["stopped"])
    return StereoDemo(tuple(lines), report, way, tuple(problems), tuple(files))


def track_screws(operation: Path, run: Path) -> str:
    """Play the pairs to the ROS 2 nodes; without rclpy the same core reads them, and it says so."""
    case, recording = operation / "case", operation / "recording"
    progress = Progress("finding screws")
    if importlib.util.find_spec("rclpy") is None:
        find_screws(recording, run, case=case, progress=progress)
        progress.close()
        return "without ROS"
    from .live import run_live
    from .live_options import LiveOptions

    rate = affordable_rate(recording)
    settings = (
        *paced(rate),
        f"rod_guidance.steady_frames={STEADY_FRAMES}",
    )
    port = free_port()
    print(f"  the surgeon's page, while it lasts: {Exposure().url(port)}")
    options = LiveOptions(
        case, f"replay:{recording}", run, assignments=settings, display=True, port=port
    )
    run_live(options, progress)
    progress.close()
    return "through the ROS 2 nodes" + (f" at {rate:.2f}x" if rate < 1.0 else "")


def affordable_rate(recording: Path) -> float:
    """Speed of play at which the node keeps up on this machine, 0.1 to 1 (the camera's own)."""
    tracker = load_core(stereo_config(None, ())).tracker
    stamps, spent = [], []
    for frame in islice(open_recording(recording).stereo_frames(), PROBE_PAIRS):
        begin = time.perf_counter()
        tracker.process(frame)
        spent.append(time.perf_counter() - begin)
        stamps.append(frame.stamp_ns)
    if len(spent) < PROBE_PAIRS:
        return 1.0
    period_s = float(np.median(np.diff(stamps))) * 1e-9
    return float(np.clip(period_s / (NODE_OVERHEAD * float(np.median(spent))), 0.1, 1.0))


def last_result(run: Path) -> StereoResult | None:
    """The last pair's screws and rods from the files of a run; None without any screw."""
    rows = read_screws(run / SCREWS)
    stamp_ns, rods = read_rods(run / RODS)
    if not rows:
        return None
    newest = max(r.stamp_ns for r in rows)
    return result_of(
        newest, [r for r in rows if r.stamp_ns == newest], rods if stamp_ns == newest else ()
    )


def picture(recording: Path, result: StereoResult, plans: Sequence[RodPlan]) -> np.ndarray:
    """The pair of the result's stamp with what was found and planned."""
    for frame in open_recording(recording).stereo_frames():
        if frame.stamp_ns == result.stamp_ns:
            return draw_stereo(frame, result, [PlannedRod.of(plan) for plan in plans])
    raise ValueError(f"{recording} holds no pair of stamp {result.stamp_ns}")


def guidance_lines(summary: dict[str, Any]) -> list[str]:
    """What the guidance node said last, per side."""
    guidance = summary.get("stereo", {}).get("guidance", {})
    return [f"{side} rod, {g['state']}: {g['text']}" for side, g in guidance.items()]


def stereo_verdict(report: dict[str, Any], stopped: str) -> list[str]:
    """What makes the demo fail: a run that stopped, no screw, or a wrong side or level."""
    problems = [f"the stereo run stopped: {stopped}"] if stopped else []
    screws = report["screws"]
    if not screws or not screws["found"]:
        problems.append("no screw head was found")
    elif screws["side_wrong"] or screws["level_wrong"]:
        problems.append(
            f"{screws['side_wrong']} heads were given a wrong side, {screws['level_wrong']} a"
            " wrong level"
        )
    return problems
