# SPDX-License-Identifier: Apache-2.0
"""Write a virtual operation as others would record it: case, recording and truth (contracts)."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spine_nav_common.core.case import write_case
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.types import Case
from spine_nav_sim.core.anatomy import Anatomy, make_anatomy
from spine_nav_sim.core.anatomy_files import load_anatomy
from spine_nav_sim.core.scene import Rendered, Scene, SceneConfig, make_scene

START_NS = 1_000_000_000  # a stamp of zero would read as "not set"
ALL_LEVELS = ("T12", "L1", "L2", "L3", "L4", "L5", "S1")
WORKERS = 2

Progress = Callable[[int, int | None, str], None]


def simulate(
    out_dir: Path,
    anatomy: Anatomy | Path | None = None,
    seed: int = 0,
    seconds: float = 10.0,
    scenes: tuple[str, ...] = ("rgbd",),
    config: SceneConfig | None = None,
    progress: Progress | None = None,
) -> Scene:
    """Write out_dir/case, out_dir/recording (MCAP) and out_dir/truth.json; return the scene.

    Args:
        anatomy: a spine, a folder of meshes, or None: a new one drawn from `seed`.
        scenes: what to record; only "rgbd" so far.
        config: default: hand-held camera, tools, breathing and a bump, with `seconds`.
            Its own `seconds` is replaced by the argument.
        progress: called as progress(frames done, frames in all, note).

    The same arguments write the same pictures and truth. Raises InputError for a scene kind that
    is not there, for an output that exists, for unusable meshes.
    """
    out_dir = Path(out_dir)
    _refuse(out_dir, scenes, seconds)
    rng = np.random.default_rng(seed)
    if anatomy is None:
        anatomy = make_anatomy(rng, ALL_LEVELS, f"virtual-{seed}")
    elif not isinstance(anatomy, Anatomy):
        anatomy = load_anatomy(anatomy)
    config = replace(config or SceneConfig(camera_moves=True, bump=True), seconds=seconds)
    scene = make_scene(anatomy, rng, config)
    case = Case(anatomy.name, "LPS", anatomy.meshes, scene.exposed, anatomy.plan, "")
    write_case(out_dir / "case", case)
    truth = truth_document(anatomy, scene)
    times = np.arange(max(1, round(seconds * config.fps))) / config.fps
    with RecordingWriter(out_dir / "recording") as writer:
        for i, frame in enumerate(render_all(scene, times)):
            stamp_ns = stamp(frame.t_s)
            writer.write_rgbd(frame.to_frame(stamp_ns))
            truth["frames"].append(truth_frame(frame, stamp_ns))
            if progress is not None:
                progress(i + 1, len(times), "")
    (out_dir / "truth.json").write_text(json.dumps(truth) + "\n", encoding="utf-8")
    return scene


def stamp(t_s: float) -> int:
    """Header stamp in nanoseconds of the frame at `t_s`."""
    return START_NS + round(t_s * 1e9)


def render_all(scene: Scene, times_s: np.ndarray, workers: int = WORKERS) -> Iterator[Rendered]:
    """Frames in order of time; `workers` are rendered at once (NumPy, OpenCV, Embree drop the
    GIL). The order of work does not change a frame."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Rendered]] = deque()
        for t_s in times_s:
            waiting.append(pool.submit(scene.render, float(t_s)))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def truth_document(anatomy: Anatomy, scene: Scene) -> dict[str, Any]:
    """truth.json without its frames (contracts, section 3)."""
    return {
        "levels": list(anatomy.meshes),
        "exposed": list(scene.exposed),
        "plan": {
            f"{line.level}_{line.side}": {
                "entry_mm": (1e3 * line.entry_m).tolist(),
                "target_mm": (1e3 * line.target_m).tolist(),
            }
            for line in anatomy.plan
        },
        "frames": [],
    }


def truth_frame(frame: Rendered, stamp_ns: int) -> dict[str, Any]:
    """One entry of truth.json's `frames`."""
    return {
        "stamp_ns": stamp_ns,
        "T_camera_ct_m": {level: T.tolist() for level, T in frame.T_camera_ct.items()},
        "visible_px": frame.visible_px,
    }


def _refuse(out_dir: Path, scenes: tuple[str, ...], seconds: float) -> None:
    known = ("rgbd",)
    for scene in scenes:
        if scene == "stereo":
            raise InputError("simulate", "scene", "stereo scenes are not built yet", "use rgbd")
        if scene not in known:
            raise InputError("simulate", "scene", f"{scene!r} is unknown", "use rgbd")
    if not scenes:
        raise InputError("simulate", "scene", "no scene is named", "use rgbd")
    if not seconds > 0.0:
        raise InputError("simulate", "seconds", f"{seconds} is not positive", "give a duration")
    for name in ("case", "recording", "truth.json"):
        if (out_dir / name).exists():
            raise InputError(out_dir / name, "", "is already there", "name another folder")
