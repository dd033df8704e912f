# SPDX-License-Identifier: Apache-2.0
"""`spinenav import`: recordings that others made, in the formats that everything here reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from spine_nav_common.core.case import load_case, write_case
from spine_nav_common.core.errors import CaseError, InputError
from spine_nav_common.core.png import read_depth_png, read_png
from spine_nav_common.core.progress import Progress
from spine_nav_common.core.recorded_messages import ROLES
from spine_nav_common.core.recording_writer import TYPES, RecordingWriter
from spine_nav_common.core.surface import load_surface
from spine_nav_common.core.truth import Truth, TruthFrame, write_truth
from spine_nav_common.core.types import Case, RgbdFrame

from .core.spinedepth import LEVELS, Specimen, Video, read_specimens
from .core.tum import read_tum

PERIOD_NS = 33_333_333
START_NS = 1_000_000_000
_M_PER_MM = 1e-3
# What of a bag is of use; images first.
_KINDS = (
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/CompressedImage",
    "sensor_msgs/msg/CameraInfo",
    "tf2_msgs/msg/TFMessage",
)


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


def import_tum(folder: Path, out: Path, progress: Progress | None = None) -> Imported:
    """Write out/recording from a folder in the layout of the TUM RGB-D benchmark. Raises InputError."""
    found = read_tum(folder)
    missing = (f"{found.unpaired} colour images without depth",) if found.unpaired else ()
    return _write(found.frames(), out, len(found.pairs), progress, missing)


def import_realsense(file: Path, out: Path, progress: Progress | None = None) -> Imported:
    """Write out/recording from a file that librealsense recorded, by the camera's own driver: depth
    aligned to colour, every frame. Raises InputError: it cannot be played."""
    from spine_perception.sources import SourceError
    from spine_perception.sources.realsense import RealSense

    try:
        played = RealSense(file=file, real_time=False).frames()
        return _write((f for f in played if isinstance(f, RgbdFrame)), out, None, progress)
    except SourceError as error:
        raise InputError(
            file, "", str(error),
            "a .bag of librealsense before 2.58 needs that version of pyrealsense2 (pip), or `rs-convert`",
        ) from error  # fmt: skip


def import_rosbag1(file: Path, out: Path) -> tuple[Imported, Path | None]:
    """Write out/recording from a bag of ROS 1 (images, camera_info, tf), and the remap file that it
    needs, if its names are of an older realsense-ros. Raises InputError: no bag, no camera in it."""
    from rosbags.convert import ConverterError, convert
    from rosbags.rosbag1 import Reader, ReaderError

    to = _new(out)
    try:
        with Reader(file) as reader:
            topics = {c.topic: c.msgtype for c in reader.connections}
    except (ReaderError, OSError) as error:
        raise InputError(
            file, "", f"no whole bag of ROS 1 ({error})", "`rosbag reindex` mends a cut one"
        ) from error
    if any(name.startswith("/device_") for name in topics):
        raise InputError(
            file, "", "librealsense recorded it, not ROS", f"spinenav import realsense {file}"
        )
    images = [name for name, kind in topics.items() if kind in _KINDS[:2]]
    if not images:
        raise InputError(file, "", "no images in it", "record the camera's topics")
    try:
        convert([file], to, "mcap", 9, "zstd", "storage", None, TYPES, (), (), (), _KINDS)
    except ConverterError as error:
        shutil.rmtree(to, ignore_errors=True)
        raise InputError(file, "", str(error), "record it again") from error
    remap = {
        name: old
        for role in ("colour", "colour info", "depth", "depth info")
        for name in ROLES[role]
        if name not in topics and (old := name.replace("/camera/camera/", "/camera/")) in topics
    }
    if remap:
        (out / "remap.yaml").write_text(yaml.safe_dump(remap), encoding="utf-8")
    known = {name for names in ROLES.values() for name in names} | set(remap.values())
    unread = sorted(set(images) - known)
    notes = (f"no reader for {', '.join(unread)}: name them with --remap",) if unread else ()
    return Imported((to,), notes), out / "remap.yaml" if remap else None


def _new(out: Path) -> Path:
    to = out / "recording"
    if to.exists():
        raise InputError(to, "", "is already there", "name another folder")
    out.mkdir(parents=True, exist_ok=True)
    return to


def _write(
    frames: Iterable[RgbdFrame],
    out: Path,
    total: int | None,
    progress: Progress | None,
    missing: tuple[str, ...] = (),
) -> Imported:
    to = _new(out)
    count = 0
    try:
        with RecordingWriter(to) as writer:
            for count, frame in enumerate(frames, 1):
                writer.write_rgbd(frame)
                if progress is not None:
                    progress(count, total, "")
    except BaseException:  # nothing by half, stopped or not
        shutil.rmtree(to, ignore_errors=True)
        raise
    if not count:
        shutil.rmtree(to)
        raise InputError(out, "", "not one frame with colour and depth", "record both streams")
    return Imported((to,), missing)
