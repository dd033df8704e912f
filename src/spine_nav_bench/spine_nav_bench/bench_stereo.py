# SPDX-License-Identifier: Apache-2.0
"""Screws and rods from stereo pairs: our tracker and peers on the same pairs of the same scenes."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from spine_nav_common.core.case import load_case
from spine_nav_common.core.implant_metrics import (
    RIGHT_MM,
    VISIBLE_SHARE,
    HeadError,
    RodError,
    RodScore,
    ScrewScore,
    score_rods,
    score_screws,
)
from spine_nav_common.core.implant_outputs import RodCurve, ScrewRow
from spine_nav_common.core.run import Progress
from spine_nav_common.core.statistics import statistics
from spine_nav_common.core.truth import Truth
from spine_nav_common.core.types import Case, Rejected, StereoFrame, StereoResult
from stereo_screw_tracker.core.load import StereoCore, TracksScrews, network_threads
from stereo_screw_tracker.core.output import rod_curves, screw_rows

from . import peers_stereo
from .bench_stereo_scenes import (
    LONG_SECONDS,
    SECONDS,
    TIMED_SECONDS,
    StereoFolder,
    foreign_stereo,
    judged_stereo,
    long_stereo,
    timed_stereo,
    write_scenes,
)
from .bench_timing import percentiles
from .commands import FindScrews
from .results import OURS

FIRST, ALL = "first", "all"
SETTLED = 9  # pairs of a scene after which its tracks count as settled: from the tenth on
RANGES_M = (0.0, 0.45, 0.55, np.inf)
AT_M = 0.5  # the targets speak of heads half a metre away
_PAIRS_TOLD = 3  # of those in which the same thing went wrong
SMOKE_SCENES, SMOKE_SECONDS = 2, 0.4
TURNS = 3


@dataclass(frozen=True)
class Answer:
    """What one method says of a scene. rods per stamp, None: it gives no rods; ms per pair;
    refused: reasons of pairs that it did not use."""

    rows: tuple[ScrewRow, ...]
    rods: Mapping[int, Sequence[RodCurve]] | None
    ms: tuple[float, ...]
    refused: tuple[str, ...] = ()
    stages_ms: tuple[Mapping[str, float], ...] = ()


class Peer(Protocol):
    """A method that looks at each pair alone and gives (N, 3) head points, metres, left frame."""

    def heads(self, frame: StereoFrame) -> np.ndarray | Rejected: ...


def ours(tracker: TracksScrews, frames: Iterable[StereoFrame], case: Case | None = None) -> Answer:
    """The tracker over the pairs of one scene, from a fresh start."""
    tracker.reset()
    rows: list[ScrewRow] = []
    rods: dict[int, Sequence[RodCurve]] = {}
    ms, stages, refused = [], [], []
    for frame in frames:
        start = time.perf_counter()
        result = tracker.process(frame, None, case)
        ms.append(1e3 * (time.perf_counter() - start))
        if isinstance(result, Rejected):
            refused.append(result.reason)
            continue
        rows += screw_rows(result)
        rods[result.stamp_ns] = rod_curves(result)
        stages.append(result.timings_ms)
    return Answer(tuple(rows), rods, tuple(ms), tuple(refused), tuple(stages))


def peer_answer(peer: Peer, frames: Iterable[StereoFrame]) -> Answer:
    """A peer over the pairs of one scene. Its rows carry neither axis nor bound."""
    rows: list[ScrewRow] = []
    ms, refused = [], []
    for frame in frames:
        start = time.perf_counter()
        found = peer.heads(frame)
        ms.append(1e3 * (time.perf_counter() - start))
        if isinstance(found, Rejected):
            refused.append(found.reason)
            continue
        rows += [
            ScrewRow(frame.stamp_ns, i, point, np.array([0.0, 0.0, -1.0]), 1.0, 0.0)
            for i, point in enumerate(found)
        ]
    return Answer(tuple(rows), None, tuple(ms), tuple(refused))


# -- scores -----------------------------------------------------------------------------------


def only(truth: Truth, stamps: Iterable[int]) -> Truth:
    """The truth of these pairs alone."""
    kept = set(stamps)
    return replace(
        truth,
        frames={k: v for k, v in truth.frames.items() if k in kept},
        screws=tuple(s for s in truth.screws if s.stamp_ns in kept),
        rods=tuple(r for r in truth.rods if r.stamp_ns in kept),
    )


def wilson(hits: int, of: int, z: float = 1.96) -> tuple[float, float] | None:
    """95 % interval of a share, as if the trials were independent; None without trials."""
    if of == 0:
        return None
    share = hits / of
    centre = (share + z**2 / (2 * of)) / (1 + z**2 / of)
    half = z / (1 + z**2 / of) * np.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
    return float(centre - half), float(centre + half)


def at_half_metre_mm(head: HeadError) -> float:
    """The error that the same pixels would make at 0.5 m: lateral grows with the distance, depth
    with its square."""
    scale = AT_M / head.range_m
    return float(np.hypot(head.lateral_mm * scale, head.depth_mm * scale**2))


def heads_document(scores: Sequence[ScrewScore], with_axis: bool = True) -> dict[str, Any]:
    """Pooled numbers of screw heads. with_axis False: a method without axis and bound."""
    pooled = ScrewScore.pool(scores)
    heads = pooled.heads
    false = pooled.rows - len(heads)
    document = pooled.to_dict() | {
        "false": false,
        "false_per_visible": false / pooled.visible if pooled.visible else None,
        "bounded": pooled.bounded,
        "coverage95_interval": wilson(pooled.bounded, pooled.rows),
        "signed_depth_mm": statistics(h.depth_mm for h in heads),
        "at_half_metre_mm": statistics(at_half_metre_mm(h) for h in heads),
        "by_range": [
            {
                "from_m": low,
                "to_m": None if np.isinf(high) else high,
                **{
                    name: statistics(
                        abs(getattr(h, name)) for h in heads if low <= h.range_m < high
                    )
                    for name in ("distance_mm", "lateral_mm", "depth_mm")
                },
            }
            for low, high in pairwise(RANGES_M)
        ],
    }
    if not with_axis:
        document |= dict.fromkeys(("axis_deg", "coverage95", "coverage95_interval", "bounded"))
    return document


def rods_document(scores: Sequence[RodScore]) -> dict[str, Any]:
    """Pooled numbers of rods. A rod that is 5 mm off on average is missed, and one too many."""
    pooled = RodScore.pool(scores)
    found = [e for e in pooled.errors if is_found(e)]
    lost = sum(e.distance_mm is not None for e in pooled.errors) - len(found)
    return {
        "rods": len(pooled.errors),
        "found": len(found),
        "missed": len(pooled.errors) - len(found),
        "extra": pooled.extra + lost,
        "side_wrong": sum(e.side_wrong for e in found),
        "distance_mm": statistics(e.distance_mm for e in found if e.distance_mm is not None),
        "visible_mm": statistics(e.visible_mm for e in found if e.visible_mm is not None),
        "visible_max_mm": statistics(
            e.visible_max_mm for e in found if e.visible_max_mm is not None
        ),
        "covered": _mean([e.covered for e in found if e.covered is not None]),
        "worst_mm": max((e.visible_max_mm for e in found if e.visible_max_mm is not None),
                        default=None),
    }  # fmt: skip


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def is_found(error: RodError) -> bool:
    """Whether the rod that was reported for a true one is that rod."""
    return error.distance_mm is not None and error.distance_mm <= RIGHT_MM


def score_all_rods(rods: Mapping[int, Sequence[RodCurve]], truth: Truth) -> RodScore:
    """Rods of every pair; a refused pair has none."""
    return RodScore.pool([score_rods(stamp, rods.get(stamp, ()), truth) for stamp in truth.frames])


def failures(rows: Sequence[ScrewRow], truth: Truth) -> list[str]:
    """Visible heads that were not found and rows that are no head, in words."""
    missed: dict[str, list[str]] = defaultdict(list)
    false: list[str] = []
    for k, stamp in enumerate(sorted(truth.frames)):
        screws = [s for s in truth.screws if s.stamp_ns == stamp]
        best = max((s.visible_px for s in screws), default=0)
        points = np.reshape([r.head_m for r in rows if r.stamp_ns == stamp], (-1, 3))
        heads = np.reshape([s.head_m for s in screws], (-1, 3))
        apart_mm = 1e3 * np.linalg.norm(points[:, None] - heads, axis=2)
        for j, s in enumerate(screws):
            nearest = apart_mm[:, j].min(initial=np.inf)
            if s.visible_px > VISIBLE_SHARE * best and nearest > RIGHT_MM:
                row = "no row" if np.isinf(nearest) else f"nearest row {nearest:.0f} mm away"
                missed[f"{s.level} {s.side}"].append(f"{k} ({s.visible_px} of {best} px, {row})")
        for nearest in apart_mm.min(axis=1, initial=np.inf):
            if nearest > RIGHT_MM:
                false.append(f"{k} ({nearest:.0f} mm from the nearest head)")
    lines = [f"{name} missed in pair {_few(pairs)}" for name, pairs in missed.items()]
    return [*lines, *([f"a row that is no head in pair {_few(false)}"] if false else [])]


def _few(pairs: Sequence[str]) -> str:
    shown = ", ".join(pairs[:_PAIRS_TOLD])
    more = len(pairs) - _PAIRS_TOLD
    return f"{shown} and {more} more" if more > 0 else shown


# -- the record -------------------------------------------------------------------------------


@dataclass
class Timed:
    """Milliseconds per pair and stage of one method; first_ms: the first pairs of operations, which
    are in ms too."""

    ms: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, answer: Answer) -> None:
        """The pairs of one scene."""
        self.ms += answer.ms
        self.first_ms += answer.ms[:1]
        for stages in answer.stages_ms:
            for stage, ms in stages.items():
                self.stages_ms[stage].append(ms)

    def document(self) -> dict[str, Any]:
        """Percentiles."""
        return {
            "frame_ms": percentiles(self.ms),
            "first_ms": percentiles(self.first_ms),
            "stages_ms": {k: percentiles(v) for k, v in self.stages_ms.items()},
        }


@dataclass
class Collected:
    """Scores of one method, scene by scene."""

    heads: dict[str, list[ScrewScore]] = field(default_factory=lambda: defaultdict(list))
    rods: dict[str, list[RodScore]] = field(default_factory=lambda: defaultdict(list))
    kinds: dict[str, list[ScrewScore]] = field(default_factory=lambda: defaultdict(list))
    timed: Timed = field(default_factory=Timed)
    refused: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, answer: Answer, truth: Truth) -> ScrewScore:
        """One scene; returns its score over all pairs."""
        first = min(truth.frames)
        one = only(truth, [first])
        score = score_screws(answer.rows, truth)
        self.heads[ALL].append(score)
        self.kinds[kind].append(score)
        rows = [r for r in answer.rows if r.stamp_ns == first]
        self.heads[FIRST].append(score_screws(rows, one))
        if answer.rods is not None:
            self.rods[ALL].append(score_all_rods(answer.rods, truth))
            self.rods[FIRST].append(score_all_rods(answer.rods, one))
        self.timed.add(answer)
        self.refused.update(answer.refused)
        return score

    def document(self, with_axis: bool) -> dict[str, Any]:
        """Everything pooled."""
        return {
            "heads": {k: heads_document(v, with_axis) for k, v in self.heads.items()},
            "kinds": {k: heads_document(v, with_axis) for k, v in self.kinds.items()},
            "rods": {k: rods_document(v) for k, v in self.rods.items()} or None,
            **self.timed.document(),
            "refused": dict(self.refused),
        }


def stereo_record(
    scenes: Sequence[StereoFolder],
    run: Callable[[StereoFolder, Sequence[StereoFrame]], Answer],
    peers: Mapping[str, Peer],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Everything that the tables of screws and rods need, as one JSON record.

    run: our own answer for the pairs of a scene.
    """
    table = {name: Collected() for name in (OURS, *peers)}
    per_scene = []
    for i, scene in enumerate(scenes):
        frames, truth = scene.pairs(), scene.truth()
        truth = only(truth, [f.stamp_ns for f in frames])
        answer = run(scene, frames)
        score = table[OURS].add(scene.kind, answer, truth)
        per_scene.append(_scene_row(scene, frames, truth, answer, score))
        for name, peer in peers.items():
            table[name].add(scene.kind, peer_answer(peer, frames), truth)
        if progress is not None:
            progress(i + 1, len(scenes), scene.name)
    return {
        "methods": {name: c.document(name == OURS) for name, c in table.items()},
        "scenes": per_scene,
        "pairs": sum(s["pairs"] for s in per_scene),
        "seeds": [s.seed for s in scenes],
        "anatomies": sorted({s.anatomy for s in scenes}),
    }


def _scene_row(
    scene: StereoFolder,
    frames: Sequence[StereoFrame],
    truth: Truth,
    answer: Answer,
    score: ScrewScore,
) -> dict[str, Any]:
    k = frames[0].intrinsics
    ranges = [float(np.linalg.norm(s.head_m)) for s in truth.screws]
    return {
        "scene": scene.name,
        "kind": scene.kind,
        "anatomy": scene.anatomy,
        "seed": scene.seed,
        "pairs": len(frames),
        "screws": len({s.id for s in truth.screws}),
        "true_rods": len({r.side for r in truth.rods}),
        "size": [k.width, k.height],
        "mono": frames[0].left.ndim == 2,
        "baseline_mm": round(1e3 * frames[0].baseline_m, 1),
        "range_m": round(float(np.mean(ranges)), 3) if ranges else None,
        "heads": heads_document([score]),
        "rods": rods_document([score_all_rods(answer.rods or {}, truth)]),
        "refused": len(answer.refused),
        "failures": failures(answer.rows, truth),
    }


def settled_record(scenes: Sequence[StereoFolder], tracker: TracksScrews) -> dict[str, Any]:
    """Heads from the tenth pair of a moving camera on, in scenes of more pairs, and their names
    with the case: how many of the right rows have both level and side, and how many wrong ones."""
    scores: dict[str, list[ScrewScore]] = {FIRST: [], "settled": []}
    named = 0
    for scene in scenes:
        frames, truth = scene.pairs(), scene.truth()
        answer = ours(tracker, frames, load_case(scene.case) if scene.case else None)
        stamps = [f.stamp_ns for f in frames]
        for what, own in ((FIRST, stamps[:1]), ("settled", stamps[SETTLED:])):
            rows = [r for r in answer.rows if r.stamp_ns in set(own)]
            scores[what].append(score_screws(rows, only(truth, own)))
            if what != FIRST:
                named += sum(bool(r.level and r.side) for r in rows)
    pooled = heads_document(scores["settled"])
    return {
        "scenes": [s.name for s in scenes],
        "first": heads_document(scores[FIRST]),
        "heads": pooled,
        "named": named,
        "names_wrong": pooled["level_wrong"] + pooled["side_wrong"],
    }


# -- the parts of the bench -------------------------------------------------------------------


def judged_record(
    cache: Path,
    core: StereoCore,
    implants: list[Path],
    anatomies: list[Path],
    *,
    smoke: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Scenes of the list `judge`, real screws and anatomies where their folders are given."""
    wanted = judged_stereo(implants, anatomies, **({"count": SMOKE_SCENES} if smoke else {}))
    seconds = SMOKE_SECONDS if smoke else SECONDS
    scenes = write_scenes(cache, wanted, seconds, progress)
    peers = peers_stereo.load_peers()
    record = stereo_record(scenes, lambda _, frames: ours(core.tracker, frames), peers, progress)
    more = [] if smoke else write_scenes(cache, long_stereo(), LONG_SECONDS, progress)
    settled = settled_record(more, core.tracker) if more else None
    return record | {"settled": settled} | peer_settings(peers)


def foreign_record(
    root: Path,
    core: StereoCore,
    find_screws: FindScrews,
    runs: Path,
    smoke: bool,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Recordings made elsewhere through `spinenav screws`, peers on the same pairs."""
    scenes = foreign_stereo(root)[: 1 if smoke else None]
    peers = peers_stereo.load_peers()
    record = stereo_record(
        scenes,
        lambda scene, _: screws_command(scene, core, find_screws, runs / scene.name),
        peers,
        progress,
    )
    return record | peer_settings(peers)


def screws_command(
    scene: StereoFolder, core: StereoCore, find_screws: FindScrews, out: Path
) -> Answer:
    """What `spinenav screws RECORDING --case CASE` answers; its files stay in `out`."""
    core.tracker.reset()
    given: list[tuple[int, StereoResult | Rejected]] = []
    find_screws(
        scene.recording, out, case=scene.case, core=core,
        watch=lambda frame, result: given.append((frame.stamp_ns, result)),
    )  # fmt: skip
    results = [r for _, r in given if not isinstance(r, Rejected)]
    return Answer(
        tuple(row for r in results for row in screw_rows(r)),
        {r.stamp_ns: rod_curves(r) for r in results},
        tuple(r.timings_ms["total"] for r in results),
        tuple(r.reason for _, r in given if isinstance(r, Rejected)),
        tuple(r.timings_ms for r in results),
    )


def peer_settings(peers: Mapping[str, Any]) -> dict[str, Any]:
    """What the peers ran with, and how it was found."""
    detector = next(iter(peers.values())).detector
    return {
        "peer_parameters": {
            name: peers_stereo.settings_of(name, peer.parameters) for name, peer in peers.items()
        },
        "peer_detector": detector.name,
        "peer_detector_sha256": detector.model_sha256,
        "peer_search": peers_stereo.search_origin(detector.name),
    }


def stereo_timing_record(
    cache: Path, core: StereoCore, *, smoke: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Milliseconds per 640x480 pair of ours and the peers, in turns on the same pairs.

    Pairs are in memory. Each turn tracks a scene from its first pair on; the first turn warms up
    and is not counted.
    """
    wanted = timed_stereo()[: 1 if smoke else None]
    scenes = write_scenes(cache, wanted, SMOKE_SECONDS if smoke else TIMED_SECONDS, progress)
    peers = peers_stereo.load_peers()
    table = {name: Timed() for name in (OURS, *peers)}
    loaded = [scene.pairs() for scene in scenes]
    turns = 2 if smoke else TURNS
    for turn in range(turns):
        for frames in loaded:
            answers = {OURS: ours(core.tracker, frames)}
            answers |= {name: peer_answer(peer, frames) for name, peer in peers.items()}
            for name, answer in answers.items() if turn else ():
                table[name].add(answer)
        if progress is not None:
            progress(turn + 1, turns, "timing")
    k = loaded[0][0].intrinsics
    return {
        "size": [k.width, k.height],
        "screws": [len({s.id for s in scene.truth().screws}) for scene in scenes],
        "threads": {"network": network_threads(), "opencv": cv2.getNumThreads()},
        "methods": {name: timed.document() for name, timed in table.items()},
        "seeds": [scene.seed for scene in scenes],
    }
