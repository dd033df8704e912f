# SPDX-License-Identifier: Apache-2.0
"""The depth calibration: what is left of the bias of simulated cameras, and what it is worth on
recordings with a board recording of the same camera."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from spine_nav_common.core.depth_calibration import (
    DepthCalibration,
    DepthCorrector,
    write_depth_calibration,
)
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.run import Progress
from spine_nav_common.core.types import Intrinsics, Rejected, RgbdFrame
from spine_nav_sim.core.board import BoardScene, bias_image, board_camera, board_frames
from spine_nav_sim.core.sensor import CAMERAS as MODELS
from spine_nav_sim.core.sensor import measure_depth
from spine_perception.core.boards import BoardFinder, CharucoSpec, board_spec
from spine_perception.core.calibrate_depth import PATCHES, calibrate
from spine_perception.core.coverage import Trouble
from spine_perception.core.depth_views import look

from .bench_accuracy import run_ours
from .bench_scenes import foreign_scenes
from .commands import Outcome, Replay

BOARD = "charuco:10x7:24:17:DICT_5X5_100"
"""Of the simulation, and of the recordings in ../shared/data/scenes_depthcal."""
MODEL, SEED, CAMERAS, VIEWS = "d415", 440_000, 6, 30
HELD_OUT_VIEWS = 12
AT_M = 0.5
_STEADY_FRAMES = 40


def depth_record(
    scenes: Path | None,
    segmenter: Any,
    replay: Replay,
    runs: Path,
    *,
    smoke: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The JSON record: simulated cameras, and scenes (folders with board_recording) with and without."""
    seeds = [SEED + i for i in range(1 if smoke else CAMERAS)]
    cameras = []
    for i, seed in enumerate(seeds):
        cameras.append(simulated_camera(seed))
        if progress is not None:
            progress(i + 1, len(seeds), "simulated cameras")
    record: dict[str, Any] = {"cameras": cameras, "seeds": seeds, "with": None, "without": None}
    found = [] if scenes is None else foreign_scenes(scenes)
    found = [s for s in found if (s.folder / "board_recording").exists()][: 1 if smoke else None]
    if not found:
        return record
    files: dict[Path, Path] = {}
    for scene in found:
        board = scene.folder / "board_recording"
        frames = open_recording(board).rgbd_frames()
        calibration = _calibrated(frames, board_spec(BOARD), board)
        file = runs / f"{scene.name}.depth.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_depth_calibration(file, calibration)
        files[scene.recording] = file
    record["without"] = run_ours(found, segmenter, replay, runs / "without", progress)
    record["with"] = run_ours(
        found, segmenter, with_calibration(replay, files), runs / "with", progress
    )
    return record


def with_calibration(replay: Replay, files: Mapping[Path, Path]) -> Replay:
    """`replay` with the calibration of each recording; KeyError for one that has none."""

    def calibrated(recording: Path, case: Path, out: Path, **given: Any) -> Outcome:
        return replay(recording, case, out, calibration=(files[recording],), **given)

    return calibrated


def simulated_camera(seed: int, views: int = VIEWS) -> dict[str, Any]:
    """One camera of the class, calibrated on a board; mm RMS of its true bias at 0.5 m, before beside
    one scale and after, where views that took no part show the board, and over the whole image."""
    spec = board_spec(BOARD)
    scene = BoardScene(
        spec.board, spec.square_m, (spec.columns, spec.rows), camera=MODEL, views=views, seed=seed
    )
    found = _calibrated((f for f, _ in board_frames(scene)), spec, Path(f"simulated camera {seed}"))
    bias = bias_image(scene, AT_M)
    left = DepthCorrector(found)((AT_M + bias).astype(np.float32)) - AT_M
    held_out = replace(
        scene, individual=board_camera(scene), seed=seed + 1_000_000, views=HELD_OUT_VIEWS
    )
    shown = sum(np.isfinite(depth) for _, depth in board_frames(held_out))
    weights = np.asarray(shown, np.float64) / np.sum(shown)
    steady = DepthCorrector(found)(_steady(scene)) - AT_M
    return {
        "seed": seed,
        "views": found.told["views"],
        "bias_mm": _rms_mm(bias, weights),
        "beside_scale_mm": _rms_mm(bias - float(np.sum(weights * bias)), weights),
        "left_mm": _rms_mm(left, weights),
        "left_patches_mm": _patches_mm(steady, weights),
        "left_whole_image_mm": _rms_mm(left, np.full(left.shape, 1.0 / left.size)),
        "told_mm": found.told["left_mm_at_0_5_m"],
    }


def _steady(scene: BoardScene) -> np.ndarray:
    """(H, W) float32 metres: the mean of many pictures of a wall at AT_M, the smooth bias and the noise
    that is the same in all of them."""
    camera, noise = board_camera(scene)
    wall = np.full((scene.height, scene.width), AT_M, np.float32)
    one, none = np.ones_like(wall), np.zeros_like(wall)
    model = MODELS[scene.camera]
    seen = [measure_depth(wall, one, none, camera, model, noise, n) for n in range(_STEADY_FRAMES)]
    found: np.ndarray = np.nanmean(seen, axis=0).astype(np.float32)
    return found


def _patches_mm(error_m: np.ndarray, weights: np.ndarray) -> float:
    """RMS in mm of the means over patches as wide as those that a calibration file tells by."""
    side = error_m.shape[1] // PATCHES
    total = 0.0
    for top in range(0, error_m.shape[0], side):
        for start in range(0, error_m.shape[1], side):
            of = np.s_[top : top + side, start : start + side]
            known = np.isfinite(error_m[of]) & (weights[of] > 0.0)
            if known.any():
                w = weights[of][known]
                total += w.sum() * np.average(error_m[of][known], weights=w) ** 2
    return 1e3 * float(np.sqrt(total))


def _rms_mm(error_m: np.ndarray, weights: np.ndarray) -> float:
    return 1e3 * float(np.sqrt(np.sum(weights * error_m.astype(np.float64) ** 2)))


def _calibrated(frames: Iterable[RgbdFrame], spec: CharucoSpec, name: Path) -> DepthCalibration:
    finder = BoardFinder(spec)
    views, dropped = [], []
    intrinsics: Intrinsics | None = None
    for frame in frames:
        intrinsics = frame.intrinsics
        seen = look(frame, finder)
        if isinstance(seen, Rejected):
            dropped.append(Trouble(frame.stamp_ns, seen.reason))
        else:
            views.append(seen)
    if intrinsics is None:
        raise InputError(name, "frames", "there are none", "record the board: docs/cameras.md")
    today = datetime.now(timezone.utc).date()
    found = calibrate(views, dropped, intrinsics, str(spec), today=today)
    if isinstance(found, Rejected):
        raise InputError(name, "board", found.reason, "and record it again")
    return found
