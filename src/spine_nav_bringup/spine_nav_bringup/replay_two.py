# SPDX-License-Identifier: Apache-2.0
"""`spinenav replay FIRST --second SECOND`: two cameras' recordings of one operation to one estimate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

from spine_nav_common.core.calibrations import calibrations
from spine_nav_common.core.case import load_case
from spine_nav_common.core.depth_calibration import DepthCalibration
from spine_nav_common.core.errors import RecordingError
from spine_nav_common.core.outputs import ResultWriter, write_summary
from spine_nav_common.core.recorded_messages import load_remap
from spine_nav_common.core.recorded_scenes import RecordedScenes, open_scenes
from spine_nav_common.core.run import Progress, versions
from spine_nav_common.core.storage import recording_sha256
from spine_nav_common.core.tables import Table
from spine_nav_common.core.types import RgbdFrame
from spine_nav_common.parameters import digest, flatten
from spine_perception.core.backends import AUTO
from spine_perception.core.segmenter import Segmenter, load_segmenter
from spine_registration.between_file import load_between
from spine_registration.core.put_together import FIRST, SECOND, Together
from spine_registration.core.two_cameras import Moment, TwoCameras, moments

from .replay import Outcome, drops, navigator_config, per_level

CAMERAS = "cameras.csv"
CAMERA_COLUMNS = ("stamp_ns", "level", "cameras", "first", "second")
_MOST_REASONS = 8

Watch = Callable[[Moment, Together], None]


@dataclass
class _Camera:
    """One camera of the run. gone: why its recording ended early ("" = it did not)."""

    found: RecordedScenes
    depth: DepthCalibration | None
    gone: str = ""
    frame: RgbdFrame | None = None
    level_frames: int = 0
    out: Counter[str] = field(default_factory=Counter)

    def frames(self) -> Iterator[RgbdFrame]:
        """As far as they can be read: the other camera goes on."""
        assert self.found.rgbd is not None
        try:
            yield from self.found.rgbd
        except RecordingError as error:
            self.gone = str(error)

    def told(self, recording: Path) -> dict[str, Any]:
        """For the summary."""
        return {
            "recording": recording_sha256(recording),
            "level_frames": self.level_frames,
            "moments_without": dict(self.out.most_common(_MOST_REASONS)),
            "drops": drops(self.found.recordings.get("rgbd")),
            "ended": self.gone or self.found.incomplete,
        }


def replay_two(
    recording: Path,
    second: Path,
    case: Path,
    out: Path,
    *,
    between: Path | None = None,
    calibration: Sequence[Path] = (),
    second_calibration: Sequence[Path] = (),
    confirm: bool = False,
    remap: Path | None = None,
    config: Path | None = None,
    assignments: Sequence[str] = (),
    segmenter: Segmenter | None = None,
    model: Path | None = None,
    backend: str | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Outcome:
    """Write poses.csv in the frame of `recording`'s camera, cameras.csv (who took part), timings.csv and
    summary.json.

    Args:
        between: file of `calibrate handeye`; None: the cameras are registered by the spine.
        calibration, second_calibration: files with the depth bias of either camera.
        watch: called with every moment and its result. The rest as `replay`.

    Raises:
        InputError: case, recordings or calibrations cannot be used; the output folder is untouched.
        ParameterError, ModelError: a setting or the model is wrong.
    """
    settings = navigator_config(config, assignments)
    loaded = load_case(case, progress)
    names = load_remap(remap) if remap else None
    cameras: dict[str, _Camera] = {}
    for name, path, files in (
        (FIRST, recording, calibration),
        (SECOND, second, second_calibration),
    ):
        depth, transforms = calibrations(files, date.today())
        found = open_scenes(path, names, ("rgbd",), depth_calibration=depth, transforms=transforms)
        cameras[name] = _Camera(found, depth)
    streams = {name: c.frames() for name, c in cameras.items()}
    for name, c in cameras.items():
        c.frame = next(streams[name], None)
        if c.frame is None:
            path = recording if name == FIRST else second
            raise RecordingError(path, "", c.gone or "no RGB-D frame", "record again")
    notes: tuple[str, ...] = ()
    stands = None
    if between is not None:
        frame_ids = tuple(c.frame.frame_id for c in cameras.values() if c.frame is not None)
        serials = tuple(c.depth.serial if c.depth else "" for c in cameras.values())
        stands, notes = load_between(
            between, (frame_ids[0], frame_ids[1]), (serials[0], serials[1]), date.today()
        )
    loaded_segmenter = segmenter or load_segmenter(model, backend or AUTO)
    two = TwoCameras.of(
        loaded, loaded_segmenter, settings, stands,
        [None if c.depth is None else c.depth.camera() for c in cameras.values()],
    )  # fmt: skip
    run = _Run(cameras)
    stopped = "stopped by an error"
    try:
        with ResultWriter(out) as writer:
            table = Table(out / CAMERAS, CAMERA_COLUMNS)
            whole = [
                chain([c.frame], streams[n]) for n, c in cameras.items() if c.frame is not None
            ]
            for moment in moments(whole[0], whole[1]):
                told = two.process(moment)
                if moment.told:
                    writer.write(told.result)
                    table.append(_rows(told, two))
                run.note(moment, told)
                if confirm:
                    run.confirm(moment, two)
                if progress is not None:
                    progress(run.frames, None, "")
                if watch is not None:
                    watch(moment, told)
            table.close()
        stopped = "; ".join(
            f"{name} camera: {c.gone or c.found.incomplete}"
            for name, c in cameras.items()
            if c.gone or c.found.incomplete
        )
        if not two.ever_together:
            why = two.dropped or run.why_never()
            stopped = "; ".join(filter(None, (stopped, f"the second camera took no part: {why}")))
    except KeyboardInterrupt:
        stopped = "stopped by the user"
        raise
    finally:
        summary = write_summary(
            out,
            versions=versions(),
            hashes={
                "model": loaded_segmenter.model_sha256,
                "config": digest(settings),
                "case": loaded.sha256,
                "recording": recording_sha256(recording),
                "second_recording": recording_sha256(second),
            },
            drops=drops(cameras[FIRST].found.recordings.get("rgbd")),
            frames=run.frames,
            stopped=stopped,
            truncated=next((t for c in cameras.values() if (t := c.found.incomplete)), None),
            confirmed=run.confirmed,
            events=run.events,
            identity=run.identity,
            provider=loaded_segmenter.provider,
            config=flatten(settings),
            status_counts_per_level=per_level(out, loaded),
            notes=[*loaded.notes, *notes, *(n for c in cameras.values() for n in c.found.notes)],
            cameras={
                FIRST: cameras[FIRST].told(recording),
                SECOND: cameras[SECOND].told(second),
                "between": two.between.source if two.between else None,
            },
        )
    return Outcome(summary, stopped)


class _Run:
    """What happened besides the rows."""

    def __init__(self, cameras: dict[str, _Camera]) -> None:
        self._cameras = cameras
        self.frames = 0
        self.events: list[dict[str, Any]] = []
        self.confirmed: list[dict[str, Any]] = []
        self.identity: dict[str, Any] = {}

    def note(self, moment: Moment, told: Together) -> None:
        self.frames += moment.told
        result = told.result
        self.events += [{"stamp_ns": result.stamp_ns, "event": e} for e in result.events]
        self.identity = {"state": result.identity, "margin_nat": result.identity_margin_nat}
        if not moment.told:
            return
        for name, camera in self._cameras.items():
            camera.level_frames += sum(name in used for used in told.cameras.values())
            if told.out[name]:
                camera.out[told.out[name]] += 1

    def confirm(self, moment: Moment, two: TwoCameras) -> None:
        for name, navigator in two.navigators.items():
            if navigator.pending is not None:
                asked = f"{name}: {navigator.pending}"
                self.confirmed.append({"stamp_ns": moment.stamp_ns, "hypothesis": asked})
                navigator.confirm(True)

    def why_never(self) -> str:
        """Why the cameras were never put together."""
        last = self._cameras[SECOND].out.most_common(1)
        return last[0][0] if last else "no level was seen by both"


def _rows(told: Together, two: TwoCameras) -> list[list[str]]:
    """Of cameras.csv: whose poses of this moment took part, and the state of the level in either camera
    alone (empty: no new picture)."""
    alone = {n: {e.level: e.status.value for e in r.levels} for n, r in two.alone.items()}
    return [
        [
            str(told.result.stamp_ns),
            e.level,
            "+".join(told.cameras.get(e.level, ())),
            *(alone.get(n, {}).get(e.level, "") for n in (FIRST, SECOND)),
        ]
        for e in told.result.levels
    ]
