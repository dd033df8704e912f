# SPDX-License-Identifier: Apache-2.0
"""`spinenav demo`: a virtual operation through the real ROS 2 nodes, judged and shown.

The operation is rendered first and then played to the nodes at the camera's own pace, so that
rendering does not compete with the navigation for the cores, and the truth lies beside it.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rod_bending_ar.core.lens import project_px
from rod_bending_ar.overlay import draw_overlay
from spine_nav_common.core.case import load_case
from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.graph import paced
from spine_nav_common.core.metrics import evaluate, format_report, mean_distance_mm
from spine_nav_common.core.outputs import POSES, SUMMARY, PoseRow, read_poses
from spine_nav_common.core.png import write_png
from spine_nav_common.core.progress import Progress
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.tables import read_json, write_json
from spine_nav_common.core.truth import Truth, load_truth
from spine_nav_common.core.types import (
    Case,
    Intrinsics,
    LevelEstimate,
    NavigationResult,
    RgbdFrame,
    Status,
)
from spine_nav_display.core.binding import Exposure, free_port
from spine_nav_sim.core.operation import simulate
from spine_nav_sim.core.scene_config import SceneConfig

from .demo_stereo import run_stereo

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
PICTURE_SCALE = 3
PICTURES = 4
CLOSE_UP_PX = 400  # least width of the part of the image that the pictures show
COVERED_SHARE = 0.8
PROBE_FRAMES = 9
NODE_OVERHEAD = 1.5


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

    way = navigate(operation, run)
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

    _say(4, "screws, rods and bending steps: a stereo pair over the placed screws")
    stereo = run_stereo(out / "stereo", seed)
    for line in stereo.lines:
        print(line)
    problems += stereo.problems
    write_json(out / "stereo" / "evaluation.json", {**stereo.report.to_dict(), "way": stereo.way})

    _say(5, "pictures and a recording for Foxglove")
    files = show(operation, run, case, truth, out, f"Virtual operation, seed {seed}: {way}")
    files += stereo.files
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


def navigate(operation: Path, run: Path) -> str:
    """Play the operation to the ROS 2 nodes; without rclpy replay it, and say so."""
    case, recording = operation / "case", operation / "recording"
    if importlib.util.find_spec("rclpy") is None:
        _say(2, "NO ROS 2 HERE (rclpy is not installed): the same core by replay instead of nodes")
        from .replay import replay

        progress = Progress("replay")
        replay(recording, case, run, progress=progress)
        progress.close()
        return "replay without ROS"
    from .live import run_live
    from .live_options import LiveOptions

    rate = affordable_rate(operation)
    slow = "" if rate == 1.0 else f", slowed to {rate:.2f}x: this machine is busy or small"
    port = free_port()
    _say(2, f"navigated by the ROS 2 nodes at the camera's pace{slow}")
    print(f"  the surgeon's page, while it lasts: {Exposure().url(port)}")
    progress = Progress("navigating")
    options = LiveOptions(
        case, f"replay:{recording}", run, assignments=paced(rate), display=True, port=port
    )
    run_live(options, progress)
    progress.close()
    return "live through the ROS 2 nodes" + (f" at {rate:.2f}x" if rate < 1.0 else "")


def affordable_rate(operation: Path) -> float:
    """Speed of play at which the nodes keep up on this machine, 0.1 to 1 (the camera's own)."""
    from itertools import islice

    from spine_perception.core.segmenter import load_segmenter
    from spine_registration.core.navigator import Navigator

    navigator = Navigator(load_case(operation / "case"), load_segmenter())
    stamps, spent = [], []
    for frame in islice(open_recording(operation / "recording").rgbd_frames(), PROBE_FRAMES):
        begin = time.perf_counter()
        navigator.process(frame)
        spent.append(time.perf_counter() - begin)
        stamps.append(frame.stamp_ns)
    if len(spent) < 3:
        return 1.0
    period_s = float(np.median(np.diff(stamps))) * 1e-9
    # The first frames register; the median is a tracking step. Nodes need some time beside it.
    rate = period_s / (NODE_OVERHEAD * float(np.median(spent)))
    return float(np.clip(rate, 0.1, 1.0))


def show(operation: Path, run: Path, case: Case, truth: Truth, out: Path, title: str) -> list[Path]:
    """Write the pictures and the Foxglove recording; returns their paths."""
    from rod_bending_ar.pictures import write_error_over_time, write_strip

    from .demo_recording import write_foxglove

    rows = read_poses(run / POSES)
    results = results_of(rows)
    visible = {
        s: sum(frame.visible_px.get(level, 0) for level in case.exposed_levels)
        for s, frame in truth.frames.items()
    }
    moments = choose_moments(results, visible)
    best = max((results[m.stamp_ns] for m in moments), key=_tracked, default=None)
    wanted = {m.stamp_ns for m in moments}
    pictures: dict[int, np.ndarray] = {}

    def frames() -> Iterator[tuple[RgbdFrame, NavigationResult | None]]:
        for frame in open_recording(operation / "recording").rgbd_frames():
            result = results.get(frame.stamp_ns)
            if frame.stamp_ns in wanted:
                near = close_up(frame, case, best)
                pictures[frame.stamp_ns] = draw_overlay(
                    near.colour, near.intrinsics, case, result, near.depth_m,
                    stamp_ns=near.stamp_ns, scale=PICTURE_SCALE,
                )  # fmt: skip
            yield frame, result

    progress = Progress("recording")
    recording = write_foxglove(out / "foxglove", case, frames(), progress)
    progress.close()
    files = [out / "error_over_time.png", out / "overlay.png"]
    write_error_over_time(files[0], traces(rows, truth, case), title)
    if moments:
        shown = [(m.caption, pictures[m.stamp_ns]) for m in moments if m.stamp_ns in pictures]
        write_png(files[1], pictures[best.stamp_ns])
        files.append(out / "overlay_strip.png")
        write_strip(files[2], shown)
    return [*files, recording]


def close_up(frame: RgbdFrame, case: Case, result: NavigationResult | None) -> RgbdFrame:
    """The part of a frame around the levels that `result` has poses for, in 4:3."""
    poses = [e for e in result.levels if e.T_camera_ct is not None] if result else []
    k = frame.intrinsics
    if not poses:
        return frame
    points = np.concatenate(
        [transform_points(e.T_camera_ct, case.meshes[e.level].vertices_m) for e in poses]
    )
    pixels = project_px(points[points[:, 2] > 0.05], k)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    size = 1.5 * np.maximum(high - low, 1)
    width = int(min(k.width, max(CLOSE_UP_PX, size[0], size[1] * 4 / 3)))
    height = min(k.height, width * 3 // 4)
    corner = np.clip((low + high - (width, height)) / 2, 0, (k.width - width, k.height - height))
    x, y = (int(v) for v in corner)
    part = np.s_[y : y + height, x : x + width]
    near = Intrinsics(width, height, k.fx, k.fy, k.cx - x, k.cy - y)
    return replace(frame, colour=frame.colour[part], depth_m=frame.depth_m[part], intrinsics=near)


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


def choose_moments(results: dict[int, NavigationResult], visible_px: dict[int, int]) -> list[Shown]:
    """Four moments: the first pose, all tracked, the most covered frame, and after it.

    `visible_px` is the bone in view per stamp, from the truth: a frame without a pose need not be
    a covered one. Where nothing ever covered the bone, four moments evenly over the run.
    """
    stamps = sorted(s for s in results if s in visible_px)
    tracked = {s: _tracked(results[s]) for s in stamps}
    first = next((i for i, s in enumerate(stamps) if tracked[s]), None)
    if first is None:
        return [Shown(s, _at(s, stamps, "no pose")) for s in stamps[:1]]
    rest = stamps[first:]
    covered = min(rest, key=lambda s: visible_px[s])
    if visible_px[covered] > COVERED_SHARE * max(visible_px[s] for s in rest):
        evenly = {rest[round(i * (len(rest) - 1) / (PICTURES - 1))] for i in range(PICTURES)}
        return [Shown(s, _at(s, stamps, "")) for s in sorted(evenly)]
    before = [s for s in rest if s < covered] or rest[:1]
    after = [s for s in rest if s > covered] or rest[-1:]
    chosen = {
        max(after, key=lambda s: (tracked[s], s)): "after it",
        covered: "most covered",
        max(before, key=lambda s: (tracked[s], s)): "before a tool passes",
        rest[0]: "first pose",
    }
    return [Shown(s, _at(s, stamps, why)) for s, why in sorted(chosen.items())]


def _at(stamp_ns: int, stamps: list[int], why: str) -> str:
    return f"{(stamp_ns - stamps[0]) * 1e-9:.1f} s" + (f": {why}" if why else "")


def traces(rows: Sequence[PoseRow], truth: Truth, case: Case) -> list[Any]:
    """True error and predicted bound over time, one trace per exposed level."""
    from rod_bending_ar.pictures import Trace

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
    print(f"[{step}/5] {text}", flush=True)


def _clear(out: Path) -> None:
    """Remove what an earlier demo wrote, and only that."""
    for name in ("operation", "run", "foxglove", "stereo"):
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
