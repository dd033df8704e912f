# SPDX-License-Identifier: Apache-2.0
"""Two cameras on one stand, a hand over one of them in turns: is every level still shown that one of them
sees, and does the pose jump where one gives way to the other?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.run import Progress
from spine_nav_common.core.statistics import statistics
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status
from spine_nav_sim.core.operation import render_all, stamp, times
from spine_nav_sim.core.scene_render import Rendered
from spine_nav_sim.core.splits import anatomy_seeds
from spine_registration.core.config import NavigatorConfig
from spine_registration.core.put_together import FIRST, SECOND
from spine_registration.core.two_cameras import Moment, TwoCameras

from .results_common import Record, Target, provenance, share, stat, table
from .two_camera_scenes import APART_DEG, FPS, HANDS, SECONDS, TwoCameraScene, two_camera_scene

SCENES = 4
BOTH = "both"
METHODS = (FIRST, SECOND, BOTH)
SEEN_SHARE, SEEN_PX = 0.5, 150
"""A camera sees a level that shows half of the pixels that it shows this camera at best, and this many."""
SILENT_MM, WRONG_MM = 4.0, 10.0
JUMP_MM, AVAILABLE = 0.5, 0.98
_SEEN_SEED, _FIRST_SEED = 60, 64
"""Of the list `judge`. Those before showed that a camera which cannot tell whose spine it sees hid what the
other saw; that was mended, and they are not judged on again."""


@dataclass(frozen=True)
class Shown:
    """A level at one moment by one method: errors (K, 3) mm of its planned points in the frame of the
    first camera (of a camera alone: its own), None where it is not tracked; who took part."""

    off_mm: np.ndarray | None
    bound_mm: float | None = None
    cameras: tuple[str, ...] = ()

    @property
    def tre_mm(self) -> float | None:
        """Mean distance."""
        return None if self.off_mm is None else float(np.linalg.norm(self.off_mm, axis=1).mean())


def two_cameras_record(
    segmenter: Any, count: int = SCENES, seconds: float = SECONDS, progress: Progress | None = None
) -> dict[str, Any]:
    """`count` operations on anatomies of the list `judge`."""
    seeds = list(anatomy_seeds("judge")[_FIRST_SEED : _FIRST_SEED + count])
    scenes = []
    for i, seed in enumerate(seeds):
        scene = two_camera_scene(seed, i)

        def note(done: int, name: str = scene.name) -> None:
            if progress is not None:
                progress(done, round(seconds * FPS), name)

        scenes.append(scene_record(scene, segmenter, seconds, note))
    return {
        "seeds": seeds, "scenes": [brief(s) for s in scenes], "pooled": pooled(scenes), "seconds": seconds,
    }  # fmt: skip


def scene_record(
    scene: TwoCameraScene,
    segmenter: Any,
    seconds: float = SECONDS,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """One operation, every frame."""
    two = TwoCameras.of(scene.case, segmenter, NavigatorConfig(), scene.between)
    levels = scene.case.exposed_levels
    shown: dict[str, dict[str, list[Shown]]] = {m: {v: [] for v in levels} for m in METHODS}
    pixels: dict[str, list[tuple[int, int]]] = {v: [] for v in levels}
    events: list[str] = []
    for n, (a, b) in enumerate(_pictures(scene, seconds)):
        at = stamp(a.t_s)
        told = two.process(Moment(a.to_frame(at), b.to_frame(at)))
        events += [f"{a.t_s:.1f} s {e}" for e in told.result.events if "camera" in e]
        for level in levels:
            pixels[level].append((a.visible_px[level], b.visible_px[level]))
            for method, result, truth in (
                (FIRST, two.alone[FIRST], a), (SECOND, two.alone[SECOND], b), (BOTH, told.result, a),
            ):  # fmt: skip
                used = told.cameras.get(level, ()) if method == BOTH else (method,)
                shown[method][level].append(_judged(scene, result, level, truth, used))
        if progress is not None:
            progress(n + 1)
    return {
        "scene": scene.name,
        "cameras": list(scene.cameras),
        "moves": bool(scene.first.camera_path.moves),
        "exposed": list(levels),
        "events": events,
        **judged(shown, pixels),
    }


def _pictures(scene: TwoCameraScene, seconds: float) -> Iterator[tuple[Rendered, Rendered]]:
    at = times(seconds, FPS)
    return zip(render_all(scene.first, at), render_all(scene.second, at), strict=True)


def _judged(
    scene: TwoCameraScene,
    result: NavigationResult,
    level: str,
    truth: Rendered,
    cameras: tuple[str, ...],
) -> Shown:
    e: LevelEstimate = next(e for e in result.levels if e.level == level)
    if e.status is not Status.TRACKED or e.T_camera_ct is None:
        return Shown(None)
    p = scene.case.plan_points_m(level)
    off = transform_points(e.T_camera_ct, p) - transform_points(truth.T_camera_ct[level], p)
    return Shown(1e3 * off, e.predicted_tre_mm, cameras)


def judged(
    shown: dict[str, dict[str, list[Shown]]], pixels: dict[str, list[tuple[int, int]]]
) -> dict[str, Any]:
    """What a scene's rows say, by method; availability counts from the first pose of both on, in the
    level-frames that at least one camera sees."""
    begun = min(
        (n for rows in shown[BOTH].values() for n, s in enumerate(rows) if s.off_mm is not None),
        default=None,
    )
    out: dict[str, Any] = {"start_frames": begun}
    seen = {v: seen_by(px) for v, px in pixels.items()}
    for method, by_level in shown.items():
        every = [s for rows in by_level.values() for s in rows if s.off_mm is not None]
        tre = [s.tre_mm for s in every]
        due = [
            by_level[v][n].off_mm is not None
            for v in by_level
            for n in range(begun if begun is not None else len(seen[v]), len(seen[v]))
            if seen[v][n].any()
        ]
        out[method] = {
            "tre_mm": [round(float(t or 0.0), 3) for t in tre],
            "under": sum(t is not None and t <= (s.bound_mm or 0.0) for t, s in zip(tre, every)),
            "due": len(due),
            "available": sum(due),
            "steps_mm": [round(x, 3) for rows in by_level.values() for x, _ in steps(rows)],
        }
    switches = [x for rows in shown[BOTH].values() for x, switch in steps(rows) if switch]
    out["switch_mm"] = [round(x, 3) for x in switches]
    return out


def seen_by(pixels: Sequence[tuple[int, int]]) -> np.ndarray:
    """(N, 2) whether either camera sees a level, by its visible pixels in each."""
    px = np.array(pixels)
    return np.asarray((px >= SEEN_SHARE * px.max(axis=0)) & (px >= SEEN_PX))


def steps(rows: Sequence[Shown]) -> Iterator[tuple[float, bool]]:
    """By how much the error changes from each shown frame to the next (mean over the planned points, mm),
    and whether other cameras took part before."""
    for a, b in pairwise(rows):
        if a.off_mm is not None and b.off_mm is not None:
            step = float(np.linalg.norm(b.off_mm - a.off_mm, axis=1).mean())
            yield step, set(a.cameras) != set(b.cameras)


def spread(values: Sequence[float]) -> dict[str, float | int] | None:
    """`statistics` and the largest; None without any."""
    found = statistics(values)
    return None if found is None else {**found, "max": float(max(values))}


def brief(scene: Record) -> Record:
    """A scene without its single numbers, for the line."""
    out = {k: v for k, v in scene.items() if k != "switch_mm"}
    switch = scene["switch_mm"]
    out["switches"], out["switch_most_mm"] = len(switch), max(switch, default=None)
    for method in METHODS:
        out[method] = {k: v for k, v in scene[method].items() if k not in ("tre_mm", "steps_mm")}
    return out


def pooled(scenes: Sequence[Record]) -> dict[str, Any]:
    """All scenes together."""
    out: dict[str, Any] = {}
    for method in METHODS:
        rows = [s[method] for s in scenes]
        tre = [t for r in rows for t in r["tre_mm"]]
        due = sum(r["due"] for r in rows)
        out[method] = {
            "level_frames": len(tre),
            "tre_mm": spread(tre),
            "coverage95": sum(r["under"] for r in rows) / len(tre) if tre else None,
            "availability": sum(r["available"] for r in rows) / due if due else None,
            "silent": sum(t > SILENT_MM for t in tre),
            "wrong": sum(t > WRONG_MM for t in tre),
            "step_mm": spread([x for r in rows for x in r["steps_mm"]]),
        }
    out["switch_mm"] = spread([x for s in scenes for x in s["switch_mm"]])
    out["switches"] = sum(len(s["switch_mm"]) for s in scenes)
    out["switches_over"] = sum(x > JUMP_MM for s in scenes for x in s["switch_mm"])
    return out


def _available(r: Record) -> tuple[str, bool] | None:
    p = r["pooled"]
    if p[BOTH]["availability"] is None:
        return None
    text = " / ".join(share(p[m]["availability"]) for m in (BOTH, FIRST, SECOND))
    return text, p[BOTH]["availability"] >= AVAILABLE


def _jump(r: Record) -> tuple[str, bool] | None:
    p = r["pooled"]
    s, own = p["switch_mm"], p[FIRST]["step_mm"]
    if s is None:
        return None
    text = (
        f"median {s['median']:.2f}, largest {s['max']:.2f} mm; {p['switches_over']} of {p['switches']} over"
        f" {JUMP_MM}"
    )
    if own is not None:
        text += f" (one camera from frame to frame: {own['median']:.2f}, {own['max']:.2f})"
    return text, s["max"] <= JUMP_MM


def _better(r: Record) -> tuple[str, bool] | None:
    p = r["pooled"]
    if any(p[m]["tre_mm"] is None for m in METHODS):
        return None
    text = " / ".join(f"{p[m]['tre_mm']['median']:.2f}" for m in (BOTH, FIRST, SECOND)) + " mm"
    return text, all(
        p[BOTH]["tre_mm"]["median"] < p[m]["tre_mm"]["median"] for m in (FIRST, SECOND)
    )


TWO_CAMERAS_TARGETS = (
    Target("two cameras, a hand over one of them in turns: shown, of what one of them sees (each alone)",
           "≥ 98 %", "not reported", "two_cameras", _available),
    Target("the same: step of the error where a camera leaves or joins", "≤ 0.5 mm", "not reported",
           "two_cameras", _jump),
    Target("the same: TRE median, both / each alone", "better than each", "not reported",
           "two_cameras", _better),
)  # fmt: skip


def two_cameras_table(r: Record) -> list[str]:
    """A row per method, then per scene."""
    rows = []
    for method in METHODS:
        p = r["pooled"][method]
        steps_ = p["step_mm"]
        rows.append((
            method if method == BOTH else f"{method} alone", share(p["availability"]), stat(p["tre_mm"]),
            share(p["coverage95"]), str(p["silent"]), str(p["wrong"]),
            "–" if steps_ is None else f"{steps_['median']:.2f} / {steps_['p95']:.2f} / {steps_['max']:.2f}",
        ))  # fmt: skip
    head = ("camera", "shown", "TRE mm", "under bound", "> 4 mm", "> 10 mm", "frame to frame mm")
    scenes = [
        (
            s["scene"], "+".join(s["cameras"]), "hand-held" if s["moves"] else "standing",
            f"{s['exposed'][0]}–{s['exposed'][-1]}",
            *(share(s[m]["available"] / s[m]["due"]) if s[m]["due"] else "–" for m in METHODS),
            "–" if s["switch_most_mm"] is None else f"{s['switch_most_mm']:.2f} of {s['switches']}",
        )
        for s in r["scenes"]
    ]  # fmt: skip
    of_scenes = (
        "scene",
        "cameras",
        "stand",
        "exposed",
        "first",
        "second",
        "both",
        "largest switch mm",
    )
    return [*table(head, rows), "", *table(of_scenes, scenes)]


def two_cameras_section(r: Record) -> list[str]:
    """The part of docs/results.md."""
    (a0, a1), (b0, b1) = HANDS
    seen = r["seeds"][0] == anatomy_seeds("judge")[_SEEN_SEED]
    note = (
        " A fault was found on these seeds and mended before this line: it is no fresh judgement."
    )
    return [
        "## Two cameras", "",
        (f"Two RGB-D cameras on one stand, {APART_DEG[0]:.0f} to {APART_DEG[1]:.0f}° apart, over virtual "
         f"operations ({r['seconds']:.0f} s); a gloved hand comes before the first at {a0:g} to {a1:g} s and "
         f"before the second at {b0:g} to {b1:g} s, and covers a part of the other's view too. The transform "
         "is what `calibrate handeye` makes of twenty noisy views of a board. Shown: of the level-frames, from "
         "the first pose on, in which at least one camera sees half of the level; each camera alone is of the "
         "same run, judged in its own frame. A step is the change of the error from one shown frame to the "
         "next, mean over the planned points." + (note if seen else "")),
        "", *provenance(r), "", *two_cameras_table(r), "",
    ]  # fmt: skip
