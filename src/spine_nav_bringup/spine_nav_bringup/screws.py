# SPDX-License-Identifier: Apache-2.0
"""`spinenav screws`: every pair of a stereo recording through the screw tracker, without ROS.

Rows are written as they come, so an interrupted run keeps what it measured. screws.csv and
rods.json depend on the input alone; wall-clock numbers go to timings.csv and summary.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rod_bending_ar.core.complete import planned_screws
from rod_bending_ar.core.plan import RodOrder, RodPlan, plan_rod
from rod_bending_ar.core.planned import PlannedRod
from rod_bending_ar.stereo_overlay import draw_stereo, head_name
from spine_nav_common.core.camera_calibration import CameraCalibration, load_camera_calibration
from spine_nav_common.core.case import load_case
from spine_nav_common.core.errors import RecordingError, RodError
from spine_nav_common.core.implant_outputs import SCREWS, ImplantWriter, ScrewRow
from spine_nav_common.core.outputs import write_summary
from spine_nav_common.core.png import write_png
from spine_nav_common.core.recorded_messages import load_remap
from spine_nav_common.core.recording import Recording, open_recording
from spine_nav_common.core.run import Progress, core_config, versions
from spine_nav_common.core.screw_rows import SIDES, saddle_rows
from spine_nav_common.core.static_frames import StaticFrames
from spine_nav_common.core.storage import recording_sha256
from spine_nav_common.core.types import (
    Case,
    NavigationResult,
    Rejected,
    RgbdFrame,
    RodFit,
    ScrewTrack,
    Status,
    StereoFrame,
    StereoResult,
)
from spine_nav_common.parameters import digest, flatten
from spine_perception.core.backends import AUTO
from stereo_screw_tracker.core.config import StereoConfig
from stereo_screw_tracker.core.load import StereoCore, TracksScrews, load_core
from stereo_screw_tracker.core.named import NamedTracker
from stereo_screw_tracker.core.output import rod_curves, screw_rows

from .rod import at_the_command

OVERLAY = "overlay.png"
STEREO_NODE = "stereo_tracker"
STAGE_PREFIX = "stereo_"  # apart from the navigation's stages in the same timings.csv
_NO_PAIR = "the recording holds no pair of equal stamps"
_NEAR_NS = 150_000_000  # vertebrae registered this near in time name the levels
Watch = Callable[[StereoFrame, "StereoResult | Rejected"], None]


@dataclass
class StereoRun:
    """What happened in a run besides its rows. seen: frames in which each track was measured."""

    frames: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    seen: Counter[int] = field(default_factory=Counter)
    events: list[dict[str, Any]] = field(default_factory=list)
    last_frame: StereoFrame | None = None
    last_result: StereoResult | Rejected | None = None

    def note(self, frame: StereoFrame | None, result: StereoResult | Rejected | None) -> None:
        """A pair was tracked; None: it could not be read."""
        self.frames += 1
        self.last_frame, self.last_result = frame, result
        if isinstance(result, Rejected):
            self.refused[result.reason] += 1
        elif result is not None:
            self.seen.update(s.track_id for s in result.screws if not s.hidden)
            self.events += [{"stamp_ns": result.stamp_ns, "event": e} for e in result.events]

    @property
    def last(self) -> StereoResult | None:
        """The last pair's result, if it was not refused."""
        return self.last_result if isinstance(self.last_result, StereoResult) else None


@dataclass(frozen=True)
class ScrewsOutcome:
    """End of a run: summary.json's content, the last result, why it stopped early ("" = it did
    not), and for every side its bending plan or why there is none."""

    summary: dict[str, Any]
    stopped: str
    screws: tuple[ScrewTrack, ...]
    rods: tuple[RodFit, ...]
    seen: Counter[int]
    next_step: str

    @property
    def exit_code(self) -> int:
        """0 after a whole recording, 1 after one that was cut off or of which nothing was usable."""
        return 1 if self.stopped else 0

    def text(self) -> str:
        """A short table for a reader at the terminal."""
        frames = self.summary["frames"]
        lines = [f"{frames} pairs, {len(self.screws)} screw heads at the end"]
        if self.screws:
            lines.append(
                f"{'head':<14}{'track':>6}{'pairs':>8}{'95 % within':>14}{'confidence':>12}"
            )
        for s in sorted(self.screws, key=lambda s: (s.side, s.level, s.track_id)):
            held = "  held, not seen now" if s.hidden else ""
            lines.append(
                f"{head_name(s):<14}{s.track_id:>6}{self.seen[s.track_id]:>8}"
                f"{s.bound95_mm:>11.1f} mm{s.head.confidence:>12.2f}{held}"
            )
        for rod in self.rods:
            lines.append(f"rod {rod_text(rod)}")
        if not self.rods:
            lines.append("no rod")
        refused = self.summary["refused"]
        lines += [f"{count} pairs refused: {reason}" for reason, count in refused.items()]
        lines += [f"note: {note}" for note in self.summary["notes"]]
        lines.append(self.next_step)
        if self.stopped:
            lines.append(f"INCOMPLETE: {self.stopped}; the rows so far are kept")
        return "\n".join(lines)


def rod_text(rod: RodFit) -> str:
    """Side, length, standard error and share seen of a rod."""
    length_mm = 1e3 * float(np.linalg.norm(np.diff(rod.centreline_m, axis=0), axis=1).sum())
    return (
        f"{rod.side or 'of unknown side'}: {length_mm:.0f} mm,"
        f" ± {float(np.median(rod.sigma_mm)):.1f} mm, {100 * float(np.mean(rod.seen)):.0f} % seen"
    )


def stereo_config(
    file: Path | None,
    assignments: Sequence[str],
    cranial: str | None = None,
    command: str = "screws",
) -> StereoConfig:
    """StereoConfig from a ROS 2 parameters file, `--set` and `--cranial`; raises ParameterError."""
    config = core_config(StereoConfig, f"{STEREO_NODE}.tracker", file, assignments, command)
    return replace(config, cranial=cranial) if cranial else config


def stereo_frames(
    source: Recording, calibration: CameraCalibration | None = None
) -> Iterator[StereoFrame]:
    """The recording's pairs, checked. Raises RecordingError with the remedy."""
    if source.has_rgbd and not source.has_stereo:
        raise RecordingError(
            source.path,
            "",
            "it holds RGB-D topics and no stereo pair",
            "use spinenav replay, or name the stereo topics with --remap",
        )
    return source.stereo_frames(calibration=calibration)


class RegisteredFrames:
    """Tracked vertebrae of RGB-D frames, for pairs near in time, brought into the pair's frame.

    frames: how the cameras lie to each other, where each has a frame of its own.
    """

    def __init__(self, frames: StaticFrames | None = None) -> None:
        self._frames = frames or StaticFrames()
        self._known: list[tuple[int, str, dict[str, np.ndarray]]] = []
        self.refused = ""  # why vertebrae name no screws although some were near

    def note(self, frame: RgbdFrame, result: NavigationResult) -> None:
        """Remember what is tracked in this frame."""
        poses = {
            e.level: e.T_camera_ct
            for e in result.levels
            if e.status is Status.TRACKED and e.T_camera_ct is not None
        }
        self._known.append((frame.stamp_ns, frame.frame_id, poses))

    def near(self, frame: StereoFrame) -> dict[str, np.ndarray] | None:
        """T_camera_ct (4, 4) per level in the left optical frame, or None where nothing tells."""
        best = min(self._known, key=lambda k: abs(k[0] - frame.stamp_ns), default=None)
        if best is None or abs(best[0] - frame.stamp_ns) > _NEAR_NS or not best[2]:
            return None
        T_left_camera = self._frames.lookup(frame.frame_id, best[1])
        if isinstance(T_left_camera, Rejected):
            self.refused = f"registered vertebrae name no screws: {T_left_camera.reason}"
            return None
        return {level: T_left_camera @ T for level, T in best[2].items()}


def track(
    tracker: TracksScrews,
    frames: Iterator[StereoFrame],
    writer: ImplantWriter,
    run: StereoRun,
    case: Case | None = None,
    registered: RegisteredFrames | None = None,
    prefix: str = "",
) -> Iterator[tuple[StereoFrame, StereoResult | Rejected]]:
    """Process and write pair after pair; a refused pair has no rows and leaves no rod.

    prefix: of the stages in a timings.csv that holds others too.
    """
    named = NamedTracker(tracker, case)
    for frame in frames:
        vertebrae = registered.near(frame) if registered else None
        result = named.process(frame, vertebrae)
        run.note(frame, result)
        if isinstance(result, Rejected):
            writer.write(frame.stamp_ns, [], [], {})
        else:
            stages = {prefix + stage: ms for stage, ms in result.timings_ms.items()}
            writer.write(frame.stamp_ns, screw_rows(result), rod_curves(result), stages)
        yield frame, result


def find_screws(
    recording: Path,
    out: Path,
    *,
    case: Path | None = None,
    cranial: str | None = None,
    remap: Path | None = None,
    calibration: Path | None = None,
    config: Path | None = None,
    assignments: Sequence[str] = (),
    models: Path | None = None,
    backend: str | None = None,
    core: StereoCore | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> ScrewsOutcome:
    """Write screws.csv, rods.json, timings.csv, summary.json and overlay.png of a recording.

    Args:
        case: names levels where its exposed levels fit the heads one to one.
        cranial: where the patient's head lies in the image: left, right, up or down.
        models: folder of the three models; None: those that are shipped.
        backend: of `spine_perception.core.backends`; what computes the networks.
        core: a tracker that is loaded already.
        progress: called as progress(pairs done, None, note).
        watch: called with every pair and its result.

    Raises:
        InputError, ParameterError, ModelError: wrong input; the output folder is untouched.
    """
    settings = stereo_config(config, assignments, cranial)
    loaded = load_case(case) if case else None
    source = open_recording(recording, load_remap(remap) if remap else None)
    pair = load_camera_calibration(calibration, "stereo") if calibration else None
    frames = stereo_frames(source, pair)
    core = core or load_core(settings, models, backend or AUTO)
    run, stopped = StereoRun(), "stopped by an error"
    try:
        with ImplantWriter(out) as writer:
            for frame, result in track(core.tracker, frames, writer, run, loaded):
                if progress is not None:
                    heads = 0 if isinstance(result, Rejected) else len(result.screws)
                    progress(run.frames, None, f"{heads} heads")
                if watch is not None:
                    watch(frame, result)
        stopped = source.truncated or unusable(run)
    except KeyboardInterrupt:
        stopped = "stopped by the user"
        raise
    finally:
        # Also after Ctrl-C or a fault: the rows are on disk, and the summary says where they end.
        summary = write_summary(
            out,
            poses=False,
            versions=versions(),
            hashes={
                "model": core.model_sha256,
                "config": digest(settings),
                "case": loaded.sha256 if loaded else "",
                "recording": recording_sha256(recording),
            },
            drops={**source.counts, "reasons": dict(source.reasons)},
            stopped=stopped,
            truncated=source.truncated,
            provider=core.provider,
            config=flatten(settings),
            **stereo_summary(run, [*(loaded.notes if loaded else ()), *source.notes]),
        )
    plans, refusals = rod_plans(run.last, out / SCREWS, settings.cranial, loaded)
    if run.last_frame is not None:
        planned = [PlannedRod.of(plan) for plan in plans.values()]
        picture = draw_stereo(run.last_frame, run.last_result, planned)
        write_png(out / OVERLAY, picture)
    last = run.last
    return ScrewsOutcome(
        summary,
        stopped,
        last.screws if last else (),
        last.rods if last else (),
        run.seen,
        next_step(last, plans, refusals, out, case),
    )


def stereo_summary(run: StereoRun, notes: Sequence[str] = ()) -> dict[str, Any]:
    """What summary.json says of the stereo part; notes: what was mended in the input."""
    return {
        "frames": run.frames,
        "heads_at_end": len(run.last.screws) if run.last else 0,
        "rods_at_end": len(run.last.rods) if run.last else 0,
        "tracks": len(run.seen),
        "refused": dict(run.refused),
        "events": run.events,
        "notes": [*notes, *([] if run.frames else [_NO_PAIR])],
    }


def stereo_lines(summary: Mapping[str, Any]) -> list[str]:
    """The stereo part of a run's summary for a reader at the terminal."""
    heads, rods = summary["heads_at_end"], summary["rods_at_end"]
    lines = [f"{summary['frames']} stereo pairs: {heads} screw heads and {rods} rods at the end"]
    lines += [f"{count} pairs refused: {reason}" for reason, count in summary["refused"].items()]
    for side, guidance in summary.get("guidance", {}).items():
        lines.append(f"{side} rod, {guidance['state']}: {guidance['text']}")
    return lines


def unusable(run: StereoRun) -> str:
    """Why nothing came of the stereo part; "" where something did."""
    if run.frames and run.refused.total() == run.frames:
        return f"no pair could be used: {run.refused.most_common(1)[0][0]}"
    return "" if run.frames else "no left image has a right one of its time: check the stamps"


def rod_plans(
    result: StereoResult | None, source: Path, cranial: str = "", case: Case | None = None
) -> tuple[dict[str, RodPlan], dict[str, str]]:
    """Per side the plan of its rod, or why there is none; a side without heads is in neither."""
    plans: dict[str, RodPlan] = {}
    refusals: dict[str, str] = {}
    rows: list[ScrewRow] = screw_rows(result) if result else []
    order = RodOrder(planned=planned_screws(case))
    sides = [side for side in SIDES if any(r.side == side for r in rows)]
    for side in sides or ([None] if rows else []):
        try:
            for row in saddle_rows(rows, source, side, cranial or None):
                plans[row.side] = plan_rod(row, order)
        except RodError as error:
            error = at_the_command(error)
            refusals[side or "rod"] = f"{error.field}: {error.problem}; {error.remedy}"
    return plans, refusals


def next_step(
    result: StereoResult | None,
    plans: dict[str, RodPlan],
    refusals: dict[str, str],
    out: Path,
    case: Path | None = None,
) -> str:
    """What to do now, in one line or a few."""
    if result is None:
        return "next: see the reason above, then run again"
    if not result.screws:
        return (
            "no screw head was found: show the tulips to both cameras, 0.35 to 0.7 m away, sharp and"
            " not overexposed, and run again"
        )
    lines = [f"{side}: no bending plan yet: {reason}" for side, reason in refusals.items()]
    if plans:
        given = f" --case {case}" if case else ""
        lines.append(f"next: spinenav rod plan --screws {out / SCREWS}{given} --out {out}")
    return "\n".join(lines)
