# SPDX-License-Identifier: Apache-2.0
"""`spinenav import`: recordings that others made, in the formats that everything here reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spine_nav_common.core.case import load_case, write_case
from spine_nav_common.core.errors import CaseError, InputError
from spine_nav_common.core.png import read_depth_png, read_png
from spine_nav_common.core.progress import Progress
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.surface import load_surface
from spine_nav_common.core.truth import Truth, TruthFrame, write_truth
from spine_nav_common.core.types import Case, RgbdFrame

from .core.spinedepth import LEVELS, Specimen, Video, read_specimens

PERIOD_NS = 33_333_333
START_NS = 1_000_000_000
_M_PER_MM = 1e-3


@dataclass(frozen=True)
class Imported:
    """What was written, and what of the input was missing or left out, in words."""

    written: tuple[Path, ...]
    missing: tuple[str, ...] = ()


def import_spinedepth(
    folder: Path,
    out: Path,
    *,
    serials: tuple[str, ...] = (),
    frames: int | None = None,
    progress: Progress | None = None,
) -> Imported:
    """Write out/<video>/case, recording and truth.json for every usable video of SpineDepth.

    Raises InputError: no video is usable (with what is missing), an output that exists, a case that
    the bones contradict in both frames.
    """
    specimens = read_specimens(folder, serials, frames)
    missing = [text for s in specimens for text in s.missing]
    total = sum(len(s.videos) for s in specimens)
    if not total:
        raise InputError(folder, "", "nothing can be imported: " + "; ".join(missing[:3]),
                         "mend the first of these")  # fmt: skip
    written: list[Path] = []
    for specimen in specimens:
        case: Case | None = None
        for video in specimen.videos:
            to = out / video.name
            if to.exists():
                raise InputError(to, "", "is already there", "name another folder")
            case = case or _case(specimen, out / f".specimen{specimen.number}")
            write_case(to / "case", case)
            _record(video, case, to)
            written.append(to)
            if progress is not None:
                progress(len(written), total, video.name)
    return Imported(tuple(written), tuple(missing))


def _case(specimen: Specimen, trial: Path) -> Case:
    """The case in the frame that its bones and plan bear out: the dataset does not name it."""
    meshes = {
        v: load_surface(file, f"STL/{v}", _M_PER_MM).mesh for v, file in specimen.meshes.items()
    }
    problem: CaseError | None = None
    for frame in ("LPS", "RAS"):
        name = f"spinedepth-{specimen.number}"
        case = Case(name, frame, meshes, LEVELS, specimen.plan, "")
        try:
            file = write_case(trial, case)
            load_case(file)
        except CaseError as error:
            problem = problem or error
        else:
            return case
        finally:
            for written in trial.iterdir():
                written.unlink()
            trial.rmdir()
    assert problem is not None
    raise problem


def _record(video: Video, case: Case, to: Path) -> None:
    truth: dict[int, TruthFrame] = {}
    with RecordingWriter(to / "recording") as writer:
        for i, (colour, depth) in enumerate(zip(video.colour, video.depth, strict=True)):
            stamp_ns = START_NS + i * PERIOD_NS
            rgb, z = read_png(colour), read_depth_png(depth, _M_PER_MM)
            size = (video.intrinsics.height, video.intrinsics.width)
            if rgb.shape[:2] != size or z.shape != size:
                raise InputError(colour, "size", f"{rgb.shape[:2]} and depth {z.shape}, not {size}",
                                 "export the video again")  # fmt: skip
            writer.write_rgbd(RgbdFrame(stamp_ns, rgb, z, video.intrinsics))
            truth[stamp_ns] = TruthFrame(stamp_ns, video.poses[i])
    write_truth(to / "truth.json", Truth(LEVELS, LEVELS, case.plan, truth))
