# SPDX-License-Identifier: Apache-2.0
"""Write a virtual operation as others would record it: case, recording and truth (docs/contracts.md)."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from spine_nav_common.core.case import write_case
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.types import Case
from spine_nav_sim.core.anatomy import Anatomy, make_anatomy
from spine_nav_sim.core.anatomy_files import load_anatomy
from spine_nav_sim.core.scene import Rendered, Scene, SceneConfig, make_scene
from spine_nav_sim.core.stereo_config import StereoConfig
from spine_nav_sim.core.stereo_layout import make_stereo_scene
from spine_nav_sim.core.stereo_scene import StereoRendered, StereoScene

START_NS = 1_000_000_000  # a stamp of zero would read as "not set"
ALL_LEVELS = ("T12", "L1", "L2", "L3", "L4", "L5", "S1")
WORKERS = 2
_BETWEEN_S = 1.0  # from the last RGB-D frame to the first pair

_Frame = TypeVar("_Frame")
_Frame_co = TypeVar("_Frame_co", covariant=True)
_When = TypeVar("_When")
_When_contra = TypeVar("_When_contra", contravariant=True)

Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True)
class Operation:
    """The scenes that were recorded; None: not asked for."""

    rgbd: Scene | None
    stereo: StereoScene | None


def simulate(
    out_dir: Path,
    anatomy: Anatomy | Path | None = None,
    seed: int = 0,
    seconds: float = 10.0,
    scenes: tuple[str, ...] = ("rgbd",),
    config: SceneConfig | None = None,
    progress: Progress | None = None,
    stereo_config: StereoConfig | None = None,
) -> Operation:
    """Write out_dir/case, out_dir/recording (MCAP) and out_dir/truth.json; return the scenes.

    Args:
        anatomy: a spine, a folder of meshes, or None: a new one drawn from `seed`.
        scenes: what to record: "rgbd", the opened spine, and "stereo", screws and rods placed.
            With both, the stereo camera comes after the RGB-D camera, as in an operation.
        config, stereo_config: default: hand-held camera, tools, breathing (RGB-D: a bump), with
            `seconds` each. Their own `seconds` is replaced by the argument.
        progress: called as progress(frames done, frames in all, note).

    The same arguments write the same pictures and truth. Raises InputError for a scene kind that
    is not there, for an output that exists, for unusable meshes.
    """
    out_dir = Path(out_dir)
    _refuse_scenes(scenes)
    refuse(out_dir, seconds)
    rng = np.random.default_rng(seed)
    anatomy = anatomy_of(anatomy, rng, seed)
    rgbd = stereo = None
    if "rgbd" in scenes:
        config = replace(config or SceneConfig(camera_moves=True, bump=True), seconds=seconds)
        rgbd = make_scene(anatomy, rng, config)
    if "stereo" in scenes:
        stereo = _make_stereo(anatomy, rng, stereo_config or StereoConfig(), seconds, rgbd)
    exposed = rgbd.exposed if rgbd is not None else stereo.exposed if stereo is not None else ()
    case = Case(anatomy.name, "LPS", anatomy.meshes, exposed, anatomy.plan, "")
    write_case(out_dir / "case", case)
    truth = truth_document(anatomy, exposed)
    rgbd_times = times(seconds, rgbd.config.fps) if rgbd is not None else np.zeros(0)
    stereo_times = times(seconds, stereo.scene.config.fps) if stereo is not None else np.zeros(0)
    later_s = seconds + _BETWEEN_S if rgbd is not None else 0.0
    frames = len(rgbd_times) + len(stereo_times)
    with RecordingWriter(out_dir / "recording") as writer:
        done = 0
        if rgbd is not None:
            for frame in render_all(rgbd, rgbd_times):
                stamp_ns = stamp(frame.t_s)
                writer.write_rgbd(frame.to_frame(stamp_ns))
                truth["frames"].append(truth_frame(frame, stamp_ns))
                done += 1
                _tell(progress, done, frames)
        if stereo is not None:
            for pair in render_all(stereo, stereo_times):
                stamp_ns = stamp(pair.t_s + later_s)
                writer.write_stereo(pair.to_frame(stamp_ns))
                if rgbd is None:  # else the poses belong to the RGB-D camera
                    truth["frames"].append(stereo_truth_frame(pair, stamp_ns))
                truth["screws"] += truth_screws(pair, stamp_ns)
                truth["rods"] += truth_rods(pair, stamp_ns)
                done += 1
                _tell(progress, done, frames)
    (out_dir / "truth.json").write_text(json.dumps(truth) + "\n", encoding="utf-8")
    return Operation(rgbd, stereo)


def anatomy_of(anatomy: Anatomy | Path | None, rng: np.random.Generator, seed: int) -> Anatomy:
    """The spine itself: as given, of a folder of meshes, or (None) a new one."""
    if anatomy is None:
        return make_anatomy(rng, ALL_LEVELS, f"virtual-{seed}")
    return anatomy if isinstance(anatomy, Anatomy) else load_anatomy(anatomy)


def _make_stereo(
    anatomy: Anatomy,
    rng: np.random.Generator,
    config: StereoConfig,
    seconds: float,
    rgbd: Scene | None,
) -> StereoScene:
    scene = replace(config.scene, seconds=seconds)
    if rgbd is not None:
        scene = replace(scene, exposed=rgbd.exposed)
    try:
        return make_stereo_scene(anatomy, rng, replace(config, scene=scene))
    except ValueError as error:
        raise InputError("simulate", "stereo", str(error), "choose another seed") from error


def times(seconds: float, fps: float) -> np.ndarray:
    """Seconds of every frame of a camera, (N,)."""
    return np.arange(max(1, round(seconds * fps))) / fps


def _tell(progress: Progress | None, done: int, frames: int) -> None:
    if progress is not None:
        progress(done, frames, "")


def stamp(t_s: float) -> int:
    """Header stamp in nanoseconds of the frame at `t_s`."""
    return START_NS + round(t_s * 1e9)


class _Renders(Protocol[_When_contra, _Frame_co]):
    def render(self, t_s: _When_contra, /) -> _Frame_co: ...


def render_all(
    scene: _Renders[_When, _Frame], times_s: Iterable[_When], workers: int = WORKERS
) -> Iterator[_Frame]:
    """Frames in the order given; `workers` are rendered at once (NumPy, OpenCV, Embree drop the
    GIL). The order of work does not change a frame."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[_Frame]] = deque()
        for t_s in times_s:
            waiting.append(pool.submit(scene.render, t_s))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def truth_document(anatomy: Anatomy, exposed: tuple[str, ...]) -> dict[str, Any]:
    """truth.json without its frames (docs/contracts.md, section 3)."""
    return {
        "levels": list(anatomy.meshes),
        "exposed": list(exposed),
        "plan": {
            f"{line.level}_{line.side}": {
                "entry_mm": (1e3 * line.entry_m).tolist(),
                "target_mm": (1e3 * line.target_m).tolist(),
            }
            for line in anatomy.plan
        },
        "frames": [],
        "screws": [],
        "rods": [],
    }


def truth_frame(frame: Rendered, stamp_ns: int) -> dict[str, Any]:
    """One entry of truth.json's `frames`."""
    return {
        "stamp_ns": stamp_ns,
        "T_camera_ct_m": {level: T.tolist() for level, T in frame.T_camera_ct.items()},
        "visible_px": frame.visible_px,
    }


def stereo_truth_frame(pair: StereoRendered, stamp_ns: int) -> dict[str, Any]:
    """One entry of `frames`, in the left camera; bone pixels are not counted here."""
    return {
        "stamp_ns": stamp_ns,
        "T_camera_ct_m": {level: T.tolist() for level, T in pair.T_camera_ct.items()},
    }


def truth_screws(pair: StereoRendered, stamp_ns: int) -> list[dict[str, Any]]:
    """The entries of truth.json's `screws` of one pair."""
    return [
        {
            "stamp_ns": stamp_ns,
            "id": number,
            "level": head.level,
            "side": head.side,
            "head_camera_m": head.head_m.tolist(),
            "axis_camera": head.axis.tolist(),
            "visible_px": head.visible_px,
            "seen_share": head.seen.tolist(),
        }
        for number, head in enumerate(pair.heads)
    ]


def truth_rods(pair: StereoRendered, stamp_ns: int) -> list[dict[str, Any]]:
    """The entries of truth.json's `rods` of one pair; seen: in either picture."""
    return [
        {
            "stamp_ns": stamp_ns,
            "side": rod.side,
            "centreline_camera_m": rod.centreline_m.tolist(),
            "seen": (rod.seen_left | rod.seen_right).tolist(),
        }
        for rod in pair.rods
    ]


def _refuse_scenes(scenes: tuple[str, ...]) -> None:
    for scene in scenes:
        if scene not in ("rgbd", "stereo"):
            raise InputError(
                "simulate", "scene", f"{scene!r} is unknown", "use rgbd, stereo or rgbd,stereo"
            )
    if not scenes:
        raise InputError("simulate", "scene", "no scene is named", "use rgbd, stereo")


def refuse(out_dir: Path, seconds: float) -> None:
    """Raises InputError for a duration that is none, and where something would be overwritten."""
    if not seconds > 0.0:
        raise InputError("simulate", "seconds", f"{seconds} is not positive", "give a duration")
    for name in ("case", "recording", "truth.json"):
        if (out_dir / name).exists():
            raise InputError(out_dir / name, "", "is already there", "name another folder")
