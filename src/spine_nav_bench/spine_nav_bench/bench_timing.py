# SPDX-License-Identifier: Apache-2.0
"""Time: registration from scratch, one tracking step over the number of levels, the network, and
camera stamp to published pose. Frames are in memory and everything is warm."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rod_bending_ar.pictures import write_update_time
from spine_nav_common.core.case import load_case
from spine_nav_common.core.outputs import POSES, SUMMARY, read_poses
from spine_nav_common.core.run import Progress
from spine_nav_common.core.tables import read_json
from spine_nav_common.core.types import Case, RgbdFrame, Status
from spine_nav_sim.core.scene_config import SceneConfig
from spine_nav_sim.core.splits import anatomy_seeds
from spine_registration.core.model import build_model
from spine_registration.core.navigator import Navigator

from .bench_accuracy import PATIENCE_FRAMES
from .bench_scenes import SceneFolder, virtual_scene
from .commands import Live

ALL_LEVELS = ("T12", "L1", "L2", "L3", "L4", "L5", "S1")
FIVE = ("L1", "L2", "L3", "L4", "L5")
ATTEMPTS = 20
STEPS = 60  # tracking steps per number of levels
VIEWER_END_S = 20.0
CAMERA_FPS = 15.0
LIVE_S = 20.0
"""Length of the live operation, in the recording's own time."""
FIRST_S = 1.0  # the registration and what waited for it; told apart in real time


def percentiles(values: Sequence[float]) -> dict[str, float | int] | None:
    """median, p95, p99, largest and count of durations in ms."""
    if not len(values):
        return None
    median, p95, p99 = np.percentile(values, [50, 95, 99])
    return {
        "median": float(median), "p95": float(p95), "p99": float(p99),
        "max": float(np.max(values)), "count": len(values),
    }  # fmt: skip


def timing_scenes(
    cache: Path, seconds: float, progress: Progress | None = None
) -> tuple[SceneFolder, SceneFolder]:
    """Two operations of the judged list: five levels opened, and all seven."""
    # The last seeds of the list: these anatomies are timed, not judged.
    five, seven = anatomy_seeds("judge")[-2:]
    common = SceneConfig(camera_moves=True, tool_passes=False, distance_m=(0.5, 0.6))
    return (
        virtual_scene(cache, "timing-5", five, replace(common, exposed=FIVE), seconds, None,
                      progress),
        virtual_scene(cache, "timing-7", seven, replace(common, exposed=ALL_LEVELS), seconds, None,
                      progress),
    )  # fmt: skip


def live_scene(cache: Path, progress: Progress | None = None) -> SceneFolder:
    """The operation of five levels, long enough for a percentile of an operation."""
    config = SceneConfig(camera_moves=True, tool_passes=False, distance_m=(0.5, 0.6))
    seed = anatomy_seeds("judge")[-2]
    config = replace(config, exposed=FIVE)
    return virtual_scene(cache, "timing-live", seed, config, LIVE_S, None, progress)


def registration_times(
    case: Case, segmenter: Any, frames: Sequence[RgbdFrame], attempts: int
) -> dict[str, Any]:
    """Decoded frames in memory to poses, from scratch, at `attempts` different frames.

    The times are those of the one frame that gave the poses of all levels; how long the shape was
    then compared with the case, before anything was shown, is told apart.
    """
    model = build_model(case)
    total, network, shown_ms, shown_frames = [], [], [], []
    Navigator(case, segmenter, model=model).process(frames[0])  # warm
    for start in np.linspace(0, len(frames) - 2, attempts).astype(int):
        navigator, found, spent = Navigator(case, segmenter, model=model), False, 0.0
        for used, frame in enumerate(frames[start:][:PATIENCE_FRAMES], start=1):
            begin = time.perf_counter()
            result = navigator.process(frame)
            took = 1e3 * (time.perf_counter() - begin)
            spent += took
            if navigator.following and not found:
                found = True
                total.append(took)
                network.append(result.timings_ms["network"])
            if any(e.status is Status.TRACKED for e in result.levels):
                shown_ms.append(spent)
                shown_frames.append(used)
                break
    return {
        "levels": len(case.exposed_levels),
        "attempts": attempts,
        "answered": len(total),
        "total_ms": percentiles(total),
        "registration_ms": percentiles(list(np.subtract(total, network))),
        "network_ms": percentiles(network),
        "shown": len(shown_ms),
        "shown_ms": percentiles(shown_ms) if shown_ms else None,
        "shown_frames_median": float(np.median(shown_frames)) if shown_frames else None,
    }


def sub_case(case: Case, count: int) -> Case:
    """The case with its first `count` exposed levels alone."""
    levels = case.exposed_levels[:count]
    return replace(
        case,
        meshes={level: case.meshes[level] for level in levels},
        exposed_levels=levels,
        plan=tuple(p for p in case.plan if p.level in levels),
    )


def update_times(
    case: Case, segmenter: Any, frames: Sequence[RgbdFrame], steps: int
) -> dict[str, Any]:
    """One tracking step without the network, while all levels of the case are followed.

    The level is confirmed where it is asked for: a case of few levels in a wound of many has no
    clear answer, and time is what is measured here.
    """
    navigator = Navigator(case, segmenter)
    update, network, tracked = [], [], []
    while len(update) < steps:
        navigator.reset()
        before = len(update)
        for frame in frames:
            result = navigator.process(frame)
            if navigator.pending is not None:
                navigator.confirm(True)
            if "update" in result.timings_ms:
                update.append(result.timings_ms["update"])
                network.append(result.timings_ms["network"])
                tracked.append(sum(e.status is Status.TRACKED for e in result.levels))
        if len(update) == before:
            break
    return {
        "levels": len(case.exposed_levels),
        "update_ms": percentiles(update[2:]),
        "network_ms": percentiles(network[2:]),
        "tracked_mean": float(np.mean(tracked)) if tracked else None,
    }


def growth_exponent(levels: Sequence[int], median_ms: Sequence[float]) -> float:
    """Slope of log time over log levels: 1 is linear growth, less is better."""
    return float(np.polyfit(np.log(levels), np.log(median_ms), 1)[0])


@contextmanager
def watched(file: Path) -> Iterator[dict[str, Any]]:
    """A viewer looks on in a process of its own; afterwards the dict holds what it saw."""
    seen: dict[str, Any] = {}
    file.parent.mkdir(parents=True, exist_ok=True)
    viewer = subprocess.Popen([sys.executable, "-m", "spine_nav_bench.viewer", str(file)])
    try:
        yield seen
    finally:
        viewer.terminate()
        viewer.wait(VIEWER_END_S)
    seen.update(read_json(file))


def tracked_level_frames(
    case: Case, segmenter: Any, frames: Sequence[RgbdFrame]
) -> set[tuple[int, str]]:
    """Stamp and level of what is tracked when every frame is processed, as `replay` does."""
    navigator = Navigator(case, segmenter)
    results = [navigator.process(frame) for frame in frames]
    return {
        (r.stamp_ns, e.level) for r in results for e in r.levels if e.status is Status.TRACKED
    }  # fmt: skip


def node_latency(
    scene: SceneFolder,
    live: Live,
    out: Path,
    replayed: set[tuple[int, str]],
    fps: float = CAMERA_FPS,
) -> dict[str, Any] | None:
    """Frames processed, camera stamp to published pose, image to overlay picture on a screen that is
    watched, and CPU, through the ROS 2 nodes at `fps`; None where rclpy is absent. tracked: of the
    level-frames that `replay` tracks; tracked_all: of all. latency_first_ms: of the first second,
    with the registration; latency_after_ms: of the rest."""
    if importlib.util.find_spec("rclpy") is None:
        return None
    with watched(out.parent / f"{out.name}-viewer.json") as seen:
        pace = (f"camera_source.rate={fps / CAMERA_FPS}",)
        outcome = live(scene.case, f"replay:{scene.recording}", out, pace)
    rows = read_poses(out / POSES)
    latency = {r.stamp_ns: r.latency_ms for r in rows if r.latency_ms is not None}
    tracked = {(r.stamp_ns, r.level) for r in rows if r.status is Status.TRACKED}
    summary = read_json(out / SUMMARY)
    begin = min(r.stamp_ns for r in rows)
    early = {s for s in latency if (s - begin) * 1e-9 * CAMERA_FPS / fps < FIRST_S}
    return {
        "exit_code": outcome.exit_code,
        "latency_ms": percentiles(list(latency.values())),
        "latency_first_ms": percentiles([latency[s] for s in early]),
        "latency_after_ms": percentiles([latency[s] for s in latency.keys() - early]),
        "without_latency": len({r.stamp_ns for r in rows} - latency.keys()),
        "overlay_ms": percentiles(seen["latency_ms"]),
        "overlay": {k: v for k, v in seen.items() if k != "latency_ms"},
        "frames": summary["frames"],
        "results": summary["results"],
        "published": summary["drops"]["published_by_camera"],
        "processed": summary["drops"].get("processed", 0),
        "tracked": len(tracked & replayed),
        "tracked_all": len(tracked),
        "cpu_cores": summary.get("cpu_cores"),
        "provider": summary["provider"],
        "fps": fps,
        "size": [640, 480],
    }


def timing_record(
    cache: Path,
    segmenter: Any,
    live: Live,
    plot: Path | None,
    *,
    seconds: float,
    attempts: int = ATTEMPTS,
    steps: int = STEPS,
    counts: Sequence[int] = range(1, 8),
    nodes: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Everything that the table of times needs, as one JSON record; draws the plot."""
    started = time.perf_counter()
    five, seven = timing_scenes(cache, seconds, progress)
    rendering_s = time.perf_counter() - started
    frames = five.frames()
    case = load_case(five.case)
    record: dict[str, Any] = {"registration": registration_times(case, segmenter, frames, attempts)}
    record["update_five"] = update_times(case, segmenter, frames, steps)
    many, frames = load_case(seven.case), seven.frames()
    table = []
    for done, count in enumerate(counts, start=1):
        table.append(update_times(sub_case(many, count), segmenter, frames, steps))
        if progress is not None:
            progress(done, len(counts), f"{count} levels")
    record["update_by_levels"] = table
    timed = [row for row in table if row["update_ms"] is not None]
    if len(timed) > 1:
        levels = [row["levels"] for row in timed]
        median = [row["update_ms"]["median"] for row in timed]
        record["growth_exponent"] = growth_exponent(levels, median)
        if plot is not None:
            plot.parent.mkdir(parents=True, exist_ok=True)
            write_update_time(plot, levels, median, [row["update_ms"]["p99"] for row in timed])
    record["nodes"] = record["nodes_30"] = None
    if nodes:
        scene = live_scene(cache, progress)
        replayed = tracked_level_frames(load_case(scene.case), segmenter, scene.frames())
        record["replay_tracked"] = len(replayed)
        record["nodes"] = node_latency(scene, live, cache / "timing-live-15", replayed)
        record["nodes_30"] = node_latency(
            scene, live, cache / "timing-live-30", replayed, 2 * CAMERA_FPS
        )
    record["rendering_s"] = rendering_s
    record["seeds"] = [five.seed, seven.seed]
    return record
