# SPDX-License-Identifier: Apache-2.0
"""Every frame of a recording through the cores, without ROS, the same bytes each time.

Rows are written as they come, so an interrupted run keeps what it measured. Wall-clock numbers go
to timings.csv and summary.json only; poses.csv depends on the input alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Protocol

from spine_nav_common.core.calibrations import calibrations
from spine_nav_common.core.case import load_case
from spine_nav_common.core.errors import RecordingError
from spine_nav_common.core.implant_outputs import ImplantWriter
from spine_nav_common.core.outputs import ResultWriter, write_summary
from spine_nav_common.core.recorded_messages import load_remap
from spine_nav_common.core.recorded_scenes import open_scenes
from spine_nav_common.core.recording import Recording
from spine_nav_common.core.run import Progress, core_config, versions
from spine_nav_common.core.static_frames import StaticFrames
from spine_nav_common.core.storage import recording_sha256
from spine_nav_common.core.types import Case, NavigationResult, RgbdFrame, Status
from spine_nav_common.parameters import digest, flatten
from spine_nav_display.core.session_folder import is_session
from spine_perception.core.backends import AUTO
from spine_perception.core.segmenter import Segmenter, load_segmenter
from spine_registration.core.config import NavigatorConfig
from spine_registration.core.navigator import Navigator
from stereo_screw_tracker.core.load import StereoCore, load_core

from .replay_session import Cores, open_replayable, replay_session
from .screws import (
    STAGE_PREFIX,
    STEREO_NODE,
    RegisteredFrames,
    StereoRun,
    stereo_config,
    stereo_lines,
    stereo_summary,
    track,
    unusable,
)


class Navigates(Protocol):
    """What replay needs of the navigation core."""

    def process(self, frame: RgbdFrame) -> NavigationResult: ...

    def confirm(self, accept: bool) -> str: ...

    @property
    def pending(self) -> str | None: ...


Watch = Callable[[RgbdFrame, NavigationResult], None]


@dataclass
class Run:
    """What happened in a run besides its rows."""

    frames: int = 0
    confirmed: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    identity: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """End of a run: the content of summary.json, and why it stopped early ("" = it did not)."""

    summary: dict[str, Any]
    stopped: str

    @property
    def exit_code(self) -> int:
        """0 after a whole recording, 1 after a truncated one."""
        return 1 if self.stopped else 0

    def text(self) -> str:
        """A few lines for a reader at the terminal."""
        lines = []
        counts = self.summary.get("status_counts")
        if counts is not None:
            total = sum(counts.values())
            shown = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
            lines.append(
                f"{self.summary['frames']} frames, {total} level-frames: {shown or 'none'}"
            )
            if total:
                share = 100 * counts[Status.TRACKED.value] / total
                lines.append(f"shown as tracked: {share:.1f} %")
        if "stereo" in self.summary:
            lines += stereo_lines(self.summary["stereo"])
        lines += [f"confirmed by --confirm: {c['hypothesis']}" for c in self.summary["confirmed"]]
        lines += [f"note: {note}" for note in self.summary["notes"]]
        if self.stopped:
            lines.append(f"INCOMPLETE: {self.stopped}; the rows so far are kept")
        return "\n".join(lines)


def navigator_config(file: Path | None, assignments: Sequence[str]) -> NavigatorConfig:
    """NavigatorConfig from a ROS 2 parameters file and `--set`; raises ParameterError."""
    return core_config(NavigatorConfig, "navigation.navigator", file, assignments, "replay")


def results(
    navigator: Navigates, frames: Iterator[RgbdFrame], run: Run, confirm: bool = False
) -> Iterator[tuple[RgbdFrame, NavigationResult]]:
    """Process frame after frame; with `confirm`, accept every hypothesis that asks for it."""
    for frame in frames:
        result = navigator.process(frame)
        run.frames += 1
        run.events += [{"stamp_ns": result.stamp_ns, "event": text} for text in result.events]
        run.identity = {"state": result.identity, "margin_nat": result.identity_margin_nat}
        if confirm and navigator.pending is not None:
            run.confirmed.append({"stamp_ns": frame.stamp_ns, "hypothesis": navigator.pending})
            navigator.confirm(True)
        yield frame, result


@dataclass(frozen=True)
class _Rgbd:
    """The RGB-D part of a replay, ready to run."""

    frames: Iterator[RgbdFrame]
    navigator: Navigates
    segmenter: Segmenter


def replay(
    recording: Path,
    case: Path,
    out: Path,
    *,
    confirm: bool = False,
    calibration: Sequence[Path] = (),
    remap: Path | None = None,
    config: Path | None = None,
    assignments: Sequence[str] = (),
    segmenter: Segmenter | None = None,
    model: Path | None = None,
    models: Path | None = None,
    backend: str | None = None,
    stereo_core: StereoCore | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Outcome:
    """Replay a recording, or the record of a session, against a case: poses.csv from its RGB-D frames, screws.csv and rods.json
    from its stereo pairs, timings.csv and summary.json; poses.csv is empty without RGB-D.

    Args:
        calibration: files with the bias of the depth camera, or with the transform between the two
            cameras, beside the recording's own /tf_static; by it registered vertebrae name screws of
            another camera.
        confirm: accept the best level hypothesis where one is pending; noted in the summary.
        assignments: `navigation.navigator.NAME=VALUE` or `stereo_tracker.tracker.NAME=VALUE`,
            stronger than the config file.
        segmenter, stereo_core: loaded already; else `model` and `models`, else those shipped.
        backend: of `spine_perception.core.backends`; what computes the networks.
        progress: called as progress(frames done, None, note).
        watch: called with every RGB-D frame and its result.

    Raises:
        InputError: case or recording cannot be used; the output folder is untouched, unless the
            recording shows its fault in mid-run.
        ParameterError, ModelError: a setting or the model is wrong.
    """
    mine = [a for a in assignments if a.startswith(f"{STEREO_NODE}.")]
    if is_session(recording) and (session := open_replayable(recording)) is not None:
        others = [a for a in assignments if a not in mine]
        cores = Cores(
            lambda: segmenter or load_segmenter(model, backend or AUTO),
            lambda settings: stereo_core or load_core(settings, models, backend or AUTO),
            (lambda _: navigator_config(config, others)) if config or others else None,
            (lambda _: stereo_config(config, mine, command="replay")) if config or mine else None,
        )
        summary, stopped = replay_session(
            session,
            case,
            out,
            cores,
            confirm=confirm,
            progress=progress,
            watch=watch,
        )
        return Outcome(summary, stopped)
    settings = navigator_config(config, [a for a in assignments if a not in mine])
    stereo_settings = stereo_config(config, mine, command="replay")
    loaded = load_case(case, progress)
    names = load_remap(remap) if remap else None
    depth, transforms = calibrations(calibration, date.today())
    found = open_scenes(recording, names, depth_calibration=depth, transforms=transforms)
    extrinsics = StaticFrames(transforms)
    for item in next(iter(found.recordings.values())).static_transforms():
        extrinsics.add(item)
    rgbd, stereo = None, None
    if found.rgbd is not None:
        segmenter = segmenter or load_segmenter(model, backend or AUTO)
        camera = None if depth is None else depth.camera()
        navigator = Navigator(loaded, segmenter, settings, camera=camera)
        rgbd = _Rgbd(found.rgbd, navigator, segmenter)
    if found.stereo is not None:
        stereo = stereo_core or load_core(stereo_settings, models, backend or AUTO)
    run, screws, stopped = Run(), StereoRun(), "stopped by an error"
    registered = RegisteredFrames(extrinsics)
    try:
        with ResultWriter(out) as writer:
            try:
                for frame, result in (
                    results(rgbd.navigator, rgbd.frames, run, confirm) if rgbd else ()
                ):
                    writer.write(result)
                    registered.note(frame, result)
                    if progress is not None:
                        progress(run.frames, None, "")
                    if watch is not None:
                        watch(frame, result)
            except RecordingError as error:  # a fault that shows in mid-run, as depth's unit
                if stereo is None:
                    raise
                found.broken["rgbd"] = str(error)
            if stereo is not None and found.stereo is not None:
                with ImplantWriter(out, writer.timings) as implants:
                    for _ in track(
                        stereo.tracker,
                        found.stereo,
                        implants,
                        screws,
                        loaded,
                        registered,
                        STAGE_PREFIX,
                    ):
                        if progress is not None:
                            progress(run.frames + screws.frames, None, "stereo")
        stopped = found.incomplete
        if rgbd is None:
            stopped = stopped or unusable(screws)
    except KeyboardInterrupt:
        stopped = "stopped by the user"
        raise
    finally:
        told = [registered.refused] if registered.refused else []
        # Also after Ctrl-C or a fault: the rows are on disk, and the summary says where they end.
        more: dict[str, Any] = {}
        if stereo is not None:
            more["stereo"] = {
                **stereo_summary(screws),
                "drops": drops(found.recordings["stereo"]),
            }
        summary = write_summary(
            out,
            versions=versions(),
            hashes={
                "model": rgbd.segmenter.model_sha256 if rgbd else "",
                **({"stereo_model": stereo.model_sha256} if stereo else {}),
                "config": digest(settings, stereo_settings) if stereo else digest(settings),
                "case": loaded.sha256,
                **({"depth_calibration": depth.sha256} if depth else {}),
                "recording": recording_sha256(recording),
            },
            drops=drops(found.recordings.get("rgbd")),
            frames=run.frames,
            stopped=stopped,
            truncated=next((r.truncated for r in found.recordings.values() if r.truncated), None),
            confirmed=run.confirmed,
            events=run.events,
            identity=run.identity,
            provider=rgbd.segmenter.provider if rgbd else stereo.provider if stereo else "",
            config={
                **flatten(settings),
                **({"stereo": flatten(stereo_settings)} if stereo else {}),
            },
            status_counts_per_level=per_level(out, loaded),
            notes=[*loaded.notes, *found.notes, *found.broken.values(), *told],
            **more,
        )
    return Outcome(summary, stopped)


def drops(recording: Recording | None) -> dict[str, Any]:
    """What of a recording was read and what gave no frame, for the summary."""
    if recording is None:
        return {
            **dict.fromkeys(("read", "duplicated", "late", "unpaired", "bad"), 0),
            "reasons": {},
        }
    return {**recording.counts, "reasons": dict(recording.reasons)}


def per_level(out: Path, case: Case) -> dict[str, dict[str, int]]:
    """How many rows of each level have each status, for the summary."""
    from spine_nav_common.core.outputs import POSES, read_poses, status_counts

    rows = read_poses(out / POSES)
    return {
        level: status_counts(r for r in rows if r.level == level) for level in case.exposed_levels
    }
