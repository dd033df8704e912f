# SPDX-License-Identifier: Apache-2.0
"""Every frame of a recording through the navigation core, without ROS, the same bytes each time.

Rows are written as they come, so an interrupted run keeps what it measured. Wall-clock numbers go
to timings.csv and summary.json only; poses.csv depends on the input alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from spine_nav_common.core.case import load_case
from spine_nav_common.core.outputs import ResultWriter, write_summary
from spine_nav_common.core.recording import load_remap, open_recording, recording_sha256
from spine_nav_common.core.types import Case, NavigationResult, RgbdFrame, Status
from spine_nav_common.parameters import digest, flatten
from spine_perception.core.segmenter import Segmenter
from spine_registration.core.config import NavigatorConfig
from spine_registration.core.navigator import Navigator

from .core.run import NETWORK_THREADS, Progress, core_config, versions
from .core.runtime import fix_opencv_threads


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
        counts = self.summary["status_counts"]
        total = sum(counts.values())
        shown = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
        lines = [f"{self.summary['frames']} frames, {total} level-frames: {shown or 'none'}"]
        if total:
            share = 100 * counts[Status.TRACKED.value] / total
            lines.append(f"shown as tracked: {share:.1f} %")
        lines += [f"confirmed by --confirm: {c['hypothesis']}" for c in self.summary["confirmed"]]
        lines += [f"note: {note}" for note in self.summary["notes"]]
        if self.stopped:
            lines.append(f"INCOMPLETE: {self.stopped}; the rows so far are kept")
        return "\n".join(lines)


def navigator_config(file: Path | None, assignments: Sequence[str]) -> NavigatorConfig:
    """NavigatorConfig from a ROS 2 parameters file and `--set`; raises ParameterError."""
    return core_config(NavigatorConfig, "navigation.navigator", file, assignments, "replay")


def load_segmenter(model: Path | None = None) -> Segmenter:
    """The network named, or the one that is shipped; warm, with a fixed thread count."""
    fix_opencv_threads()
    segmenter = Segmenter.load(model, threads=NETWORK_THREADS)
    segmenter.warm_up()
    return segmenter


def results(
    navigator: Navigates, frames: Iterator[RgbdFrame], run: Run, confirm: bool = False
) -> Iterator[tuple[RgbdFrame, NavigationResult]]:
    """Process frame after frame; with `confirm`, accept every hypothesis that asks for it."""
    for frame in frames:
        result = navigator.process(frame)
        run.frames += 1
        run.events += [{"stamp_ns": result.stamp_ns, "event": text} for text in result.events]
        if confirm and navigator.pending is not None:
            run.confirmed.append({"stamp_ns": frame.stamp_ns, "hypothesis": navigator.pending})
            navigator.confirm(True)
        yield frame, result


def replay(
    recording: Path,
    case: Path,
    out: Path,
    *,
    confirm: bool = False,
    remap: Path | None = None,
    config: Path | None = None,
    assignments: list[str] | None = None,
    segmenter: Segmenter | None = None,
    model: Path | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Outcome:
    """Replay a recording against a case and write poses.csv, timings.csv and summary.json.

    Args:
        confirm: accept the best level hypothesis where one is pending; noted in the summary.
        assignments: `navigation.navigator.NAME=VALUE`, stronger than the config file.
        segmenter: one that is loaded already; else `model`, else the shipped one.
        progress: called as progress(frames done, None, note).
        watch: called with every frame and its result.

    Raises:
        InputError: case or recording cannot be used; the output folder is untouched, unless the
            recording shows its fault in mid-run.
        ParameterError, ModelError: a setting or the model is wrong.
    """
    settings = navigator_config(config, assignments or [])
    loaded = load_case(case)
    source = open_recording(recording, load_remap(remap) if remap else None)
    frames = source.rgbd_frames()
    segmenter = segmenter or load_segmenter(model)
    navigator = Navigator(loaded, segmenter, settings)
    hashes = {
        "model": segmenter.model_sha256,
        "config": digest(settings),
        "case": loaded.sha256,
        "recording": recording_sha256(recording),
    }
    notes = ["stereo is not processed in this version"] if source.has_stereo else []
    run, stopped = Run(), "stopped by an error"
    try:
        with ResultWriter(out) as writer:
            for frame, result in results(navigator, frames, run, confirm):
                writer.write(result)
                if progress is not None:
                    progress(run.frames, None, "")
                if watch is not None:
                    watch(frame, result)
        stopped = source.truncated or ""
    except KeyboardInterrupt:
        stopped = "stopped by the user"
        raise
    finally:
        # Also after Ctrl-C or a fault: the rows are on disk, and the summary says where they end.
        summary = write_summary(
            out,
            versions=versions(),
            hashes=hashes,
            drops={**source.counts, "reasons": dict(source.reasons)},
            frames=run.frames,
            stopped=stopped,
            truncated=source.truncated,
            confirmed=run.confirmed,
            events=run.events,
            provider=segmenter.provider,
            config=flatten(settings),
            status_counts_per_level=_per_level(out, loaded),
            notes=notes,
        )
    return Outcome(summary, stopped)


def _per_level(out: Path, case: Case) -> dict[str, dict[str, int]]:
    from spine_nav_common.core.outputs import POSES, read_poses, status_counts

    rows = read_poses(out / POSES)
    return {
        level: status_counts(r for r in rows if r.level == level) for level in case.exposed_levels
    }
