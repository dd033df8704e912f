# SPDX-License-Identifier: Apache-2.0
"""Accuracy: our own run over whole recordings, and single registrations of ours and the peers on
the same frames with the same segmentation."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spine_nav_common.core.case import load_case
from spine_nav_common.core.metrics import PoseError, Report, evaluate, pool_reports, pose_error
from spine_nav_common.core.outputs import POSES, PoseRow, read_poses
from spine_nav_common.core.run import Progress
from spine_nav_common.core.statistics import statistics
from spine_nav_common.core.truth import Truth, load_truth
from spine_nav_common.core.types import Case, Rejected, RgbdFrame, Status
from spine_registration.core.model import SpineModel, build_model
from spine_registration.core.navigator import Navigator

from . import peers
from .bench_floor import floor_tre_mm
from .bench_scenes import SceneFolder
from .commands import Replay
from .results import OURS

FLOOR_FRAMES = 4  # of each recording: the bias is the same in all of them
START_SHARES = (0.0,)  # where in a recording the registrations from scratch start
PATIENCE_FRAMES = 15  # one second at 15 Hz; ours may wait for a clear answer
HIDDEN, SEEN = 0.05, 0.5  # shares of a level's best-seen pixels: fully occluded, in view again
TOOL_SHARE = 0.7  # fewer pixels than this share: a tool, a hand or blood is in the way


@dataclass
class Attempts:
    """Registrations from scratch of one method, pooled over scenes."""

    wanted: int = 0
    errors: list[PoseError] = field(default_factory=list)
    registration_ms: list[float] = field(default_factory=list)
    segmentation_ms: list[float] = field(default_factory=list)
    refusals: int = 0
    frames: list[int] = field(default_factory=list)
    per_scene: dict[str, list[int]] = field(default_factory=dict)

    def add(
        self, scene: str, wanted: int, errors: list[PoseError], registration_ms: float,
        segmentation_ms: float, frames: int, refused: bool,
    ) -> None:  # fmt: skip
        """One attempt on one frame."""
        self.wanted += wanted
        self.errors += errors
        self.registration_ms.append(registration_ms)
        self.segmentation_ms.append(segmentation_ms)
        self.frames.append(frames)
        self.refusals += refused
        right, of = self.per_scene.get(scene, [0, 0])
        self.per_scene[scene] = [right + sum(e.success for e in errors), of + wanted]

    def document(self) -> dict[str, Any]:
        """Success, errors over the successful and over all given poses, and time."""
        right = [e for e in self.errors if e.success]
        total = np.add(self.registration_ms, self.segmentation_ms)
        return {
            "levels": self.wanted,
            "levels_right": len(right),
            "success": len(right) / self.wanted if self.wanted else None,
            "given": len(self.errors),
            "wrong_level": sum(e.nearest_level != e.level for e in self.errors),
            "refused_attempts": self.refusals,
            "attempts": len(self.registration_ms),
            "frames_used": statistics(self.frames),
            "right": _errors(right),
            "all_given": _errors(self.errors),
            "registration_ms": statistics(self.registration_ms),
            "with_network_ms": statistics(total),
            "per_scene": self.per_scene,
        }


def _errors(errors: Sequence[PoseError]) -> dict[str, Any]:
    return {
        "tre_mm": statistics(e.tre_mm for e in errors),
        "trer_deg": statistics(v for e in errors for v in e.trer_deg),
        "eper_mm": statistics(v for e in errors for v in e.eper_mm),
        "add_mm": statistics(e.add_mm for e in errors),
    }


def start_frames(frames: Sequence[RgbdFrame], shares: Sequence[float] = START_SHARES) -> list[int]:
    """Indices of the frames on which every method registers from scratch."""
    return sorted({int(share * len(frames)) for share in shares})


def judge(poses: dict[str, np.ndarray], stamp_ns: int, truth: Truth, case: Case) -> list[PoseError]:
    """Errors of the exposed levels that got a pose T_camera_ct (4, 4)."""
    centroids = {level: mesh.vertices_m.mean(axis=0) for level, mesh in case.meshes.items()}
    return [
        pose_error(
            PoseRow(stamp_ns, level, Status.TRACKED, T, 0.0, None),
            truth.frames[stamp_ns], case, centroids,
        )
        for level, T in poses.items()
        if level in truth.frames[stamp_ns].T_camera_ct
    ]  # fmt: skip


def ours_from_scratch(
    case: Case, segmenter: Any, model: SpineModel, frames: Sequence[RgbdFrame]
) -> tuple[dict[str, tuple[int, np.ndarray]], float, float, int]:
    """A new navigator on consecutive frames until the first level is tracked.

    Returns the first tracked pose per level with its stamp, the milliseconds of registration and
    of the network over the frames that it took, and how many those were.
    """
    navigator = Navigator(case, segmenter, model=model)
    work_ms = network_ms = 0.0
    for used, frame in enumerate(frames[:PATIENCE_FRAMES], start=1):
        start = time.perf_counter()
        result = navigator.process(frame)
        total = 1e3 * (time.perf_counter() - start)
        network = result.timings_ms.get("network", 0.0)
        work_ms, network_ms = work_ms + total - network, network_ms + network
        tracked = {
            e.level: (frame.stamp_ns, e.T_camera_ct)
            for e in result.levels
            if e.status is Status.TRACKED and e.T_camera_ct is not None
        }
        if tracked:
            return tracked, work_ms, network_ms, used
    return {}, work_ms, network_ms, min(len(frames), PATIENCE_FRAMES)


def compare(
    scene: SceneFolder,
    segmenter: Any,
    parameters: dict[str, peers.PeerParameters],
    table: dict[str, Attempts],
) -> None:
    """Register one scene from scratch with every method, on the same frames; fills `table`."""
    case, truth = load_case(scene.case), load_truth(scene.truth)
    frames = [f for f in scene.frames() if f.stamp_ns in truth.frames]
    model, peer_model = build_model(case), peers.prepare(case)
    for p in parameters.values():
        peers.model_features(peer_model, p)  # before the operation, so not timed
    wanted = len(case.exposed_levels)
    for start in start_frames(frames):
        frame = frames[start]
        begin = time.perf_counter()
        segmentation = segmenter.run(frame)
        network_ms = 1e3 * (time.perf_counter() - begin)
        for name, peer in peers.PEERS.items():
            begin = time.perf_counter()
            found = _peer_poses(peer, frame, segmentation, peer_model, parameters[name])
            spent = 1e3 * (time.perf_counter() - begin)
            errors = (
                [] if isinstance(found, Rejected) else judge(found, frame.stamp_ns, truth, case)
            )
            table[name].add(
                scene.name, wanted, errors, spent, network_ms, 1, isinstance(found, Rejected)
            )
        poses, spent, network, used = ours_from_scratch(case, segmenter, model, frames[start:])
        errors = [e for level, (s, T) in poses.items() for e in judge({level: T}, s, truth, case)]
        table[OURS].add(scene.name, wanted, errors, spent, network, used, not poses)


def _peer_poses(
    peer: peers.Peer, frame: RgbdFrame, segmentation: Any, model: peers.Model,
    parameters: peers.PeerParameters,
) -> dict[str, np.ndarray] | Rejected:  # fmt: skip
    if isinstance(segmentation, Rejected):
        return segmentation
    bone = peers.bone_scene(frame, segmentation)
    return bone if isinstance(bone, Rejected) else peer(bone, model, parameters, 0)


@dataclass(frozen=True)
class Occlusion:
    """Visibility against status, per level and scene, pooled by `occlusion_document`."""

    recovery_s: tuple[float, ...]
    not_recovered: int
    covered_frames: int
    covered_tracked: int


def occlusion(rows: Sequence[PoseRow], truth: Truth, exposed: Sequence[str]) -> Occlusion:
    """Recovery after full occlusion, and availability while something covers the bone.

    A level is hidden below 5 % and in view again from 50 % of its best-seen pixels. Recovery is
    the time from then to its first tracked frame; an episode that the recording ends early is
    left out. Covered: below 70 %.
    """
    status = {(r.stamp_ns, r.level): r.status for r in rows}
    stamps = sorted(truth.frames)
    recovery, open_ends, covered, covered_tracked = [], 0, 0, 0
    for level in exposed:
        pixels = np.array([truth.frames[s].visible_px.get(level, 0) for s in stamps], float)
        if not pixels.max(initial=0.0):
            continue
        share = pixels / pixels.max()
        tracked = np.array([status.get((s, level)) is Status.TRACKED for s in stamps])
        covered += int((share < TOOL_SHARE).sum())
        covered_tracked += int((tracked & (share < TOOL_SHARE)).sum())
        hidden, back = False, None
        for i, value in enumerate(share):
            if value < HIDDEN:
                hidden, back = True, None
            elif hidden and back is None and value >= SEEN:
                back = i
            if back is not None and tracked[i]:
                recovery.append((stamps[i] - stamps[back]) * 1e-9)
                hidden, back = False, None
        if back is not None and (stamps[-1] - stamps[back]) * 1e-9 > 1.0:
            open_ends += 1
    return Occlusion(tuple(recovery), open_ends, covered, covered_tracked)


def _some_frames(scene: SceneFolder, truth: Truth) -> list[RgbdFrame]:
    frames = [f for f in scene.frames() if f.stamp_ns in truth.frames]
    return frames[:: max(1, len(frames) // FLOOR_FRAMES)][:FLOOR_FRAMES]


def run_ours(
    scenes: Sequence[SceneFolder],
    segmenter: Any,
    replay: Replay,
    runs: Path,
    progress: Progress | None,
) -> dict[str, Any]:
    """Replay every scene, evaluate it, and pool. Rows stay in `runs`."""
    reports: list[Report] = []
    floors: dict[str, list[float]] = defaultdict(list)
    seen: list[Occlusion] = []
    per_scene, stages = [], defaultdict(list)
    for i, scene in enumerate(scenes):
        out = runs / scene.name
        outcome = replay(scene.recording, scene.case, out, segmenter=segmenter)
        truth, case = load_truth(scene.truth), load_case(scene.case)
        report = evaluate(out, truth, case)
        reports.append(report)
        seen.append(occlusion(read_poses(out / POSES), truth, case.exposed_levels))
        pooled = report.to_dict()["pooled"]
        floor = floor_tre_mm(case, truth, _some_frames(scene, truth))
        floors[scene.camera] += floor
        per_scene.append(
            {"scene": scene.name, "anatomy": scene.anatomy, "seed": scene.seed,
             "camera": scene.camera, "floor_tre_mm": statistics(floor),
             "exposed": list(case.exposed_levels), **pooled}
        )  # fmt: skip
        for stage, row in outcome.summary["timings_ms"].items():
            stages[stage].append(row["median"])
        if progress is not None:
            progress(i + 1, len(scenes), scene.name)
    recovery = [s for o in seen for s in o.recovery_s]
    covered = sum(o.covered_frames for o in seen)
    return {
        "pooled": pool_reports(reports).to_dict()["pooled"],
        "scenes": per_scene,
        "cameras": {
            camera: {
                **pool_reports(
                    [r for s, r in zip(scenes, reports, strict=True) if s.camera == camera]
                ).to_dict()["pooled"],
                "floor_tre_mm": statistics(floors[camera]),
            }
            for camera in sorted({s.camera for s in scenes})
        },
        "recovery_s": statistics(recovery),
        "recovery_max_s": max(recovery, default=None),
        "not_recovered": sum(o.not_recovered for o in seen),
        "covered_level_frames": covered,
        "covered_availability": (
            sum(o.covered_tracked for o in seen) / covered if covered else None
        ),
    }


def accuracy_record(
    scenes: Sequence[SceneFolder],
    segmenter: Any,
    replay: Replay,
    runs: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Everything that the tables of accuracy need, as one JSON record."""
    parameters = peers.load_parameters()
    table: dict[str, Attempts] = {name: Attempts() for name in (OURS, *peers.PEERS)}
    for i, scene in enumerate(scenes):
        compare(scene, segmenter, parameters, table)
        if progress is not None:
            progress(i + 1, len(scenes), f"from scratch: {scene.name}")
    return {
        "run": run_ours(scenes, segmenter, replay, runs, progress),
        "scratch": {name: attempts.document() for name, attempts in table.items()},
        "peer_parameters": {name: peers.settings_of(name, p) for name, p in parameters.items()},
    }
