# SPDX-License-Identifier: Apache-2.0
"""The SpineDepth dataset (Balgrist) as its public readers lay it out: what is there, and what is missing.

Its videos are Stereolabs SVO files, which the ZED SDK alone decodes. So the pictures are read from
where Stereolabs' own sample puts them: `Video_0/left000000.png`, `Video_0/depth000000.png` (16 bit,
mm) beside `Video_0.svo`.
"""

from __future__ import annotations

import configparser
import re
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from spine_nav_common.core.errors import InputError
from spine_nav_common.core.geometry import check_transform
from spine_nav_common.core.png import read_png
from spine_nav_common.core.types import Intrinsics, ScrewPlan

WHERE = "rocs.balgrist.ch/open-access/spinedepth"
EXPORT = "python export_svo.py Video_0.svo Video_0/ 4  (Stereolabs' sample, LEFT+DEPTH_16Bit)"
LEVELS = ("L1", "L2", "L3", "L4", "L5")
VIDEOS = (0, 1)
# The sensors were changed during acquisition: from this recording on the second set counts.
SECOND_SET = {2: 32, 5: 8, 7: 12, 9: 12}
_SECTIONS = {(2208, 1242): "2K", (1920, 1080): "FHD", (1280, 720): "HD", (672, 376): "VGA"}
_HEADER_BYTES = 65536


@dataclass(frozen=True)
class Video:
    """One video of one sensor.

    Attributes:
        name: unique in the dataset, e.g. specimen2-rec00-video1.
        colour, depth: PNG files of the same frames, in order.
        poses: per frame T_camera_ct (4, 4) of each level, metres; None where a row was no pose.
        intrinsics: of the left rectified pictures.
    """

    name: str
    colour: tuple[Path, ...]
    depth: tuple[Path, ...]
    poses: tuple[dict[str, np.ndarray], ...]
    intrinsics: Intrinsics


@dataclass
class Specimen:
    """One cadaver: meshes by level, planned screws in metres, its usable videos, what is missing."""

    number: int
    meshes: dict[str, Path]
    plan: tuple[ScrewPlan, ...]
    videos: list[Video] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def read_specimens(
    folder: Path, serials: tuple[str, ...] = (), frames: int | None = None
) -> list[Specimen]:
    """Every `Specimen_<n>` in a folder, or the folder itself if it is one.

    Args:
        serials: of the cameras of Video_0 and Video_1, where the SVO files do not tell them.
        frames: the first so many of each video; None: all.

    Raises InputError: the folder is no SpineDepth folder, or a specimen lacks a mesh.
    """
    folder = Path(folder)
    found = [folder] if _number(folder) is not None else _subfolders(folder)
    if not found:
        raise InputError(
            folder, "", "holds no folder Specimen_<number>",
            f"get the dataset at {WHERE} and name the folder above its specimens",
        )  # fmt: skip
    return [_specimen(f, serials, frames) for f in found]


def _number(folder: Path) -> int | None:
    match = re.fullmatch(r"specimen_?(\d+)", folder.name, re.IGNORECASE)
    return int(match.group(1)) if match else None


def _subfolders(folder: Path) -> list[Path]:
    inside = [f for f in folder.iterdir() if f.is_dir()] if folder.is_dir() else []
    numbered = [(n, f) for f in inside if (n := _number(f)) is not None]
    return [f for _, f in sorted(numbered)]


def _child(folder: Path, *names: str) -> Path | None:
    """A child by any of these names, whatever their case: the packages differ."""
    wanted = {n.lower() for n in names}
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return next((f for f in inside if f.name.lower() in wanted), None)


def _specimen(folder: Path, serials: tuple[str, ...], frames: int | None) -> Specimen:
    number = _number(folder)
    assert number is not None
    stl = _child(folder, "STL")
    meshes = {v: m for v in LEVELS if stl is not None and (m := _child(stl, f"{v}.stl"))}
    lacking = [v for v in LEVELS if v not in meshes]
    if lacking:
        raise InputError(
            folder / "STL", "", f"{', '.join(f'{v}.stl' for v in lacking)} missing",
            f"unpack the specimen's whole package again ({WHERE})",
        )  # fmt: skip
    specimen = Specimen(number, meshes, ())
    planning = _child(folder, "Planning")
    points = _child(planning, "PlanningPoints.txt") if planning is not None else None
    if points is None:
        specimen.missing.append(
            f"{folder}/Planning/PlanningPoints.txt: missing; TRE is over the meshes, TrEr and EpEr are"
            " not given"
        )
    else:
        specimen.plan = read_plan(points)
    recordings = _child(folder, "Recordings")
    inside = recordings.iterdir() if recordings is not None else ()
    numbered = sorted(
        (int(match.group(1)), f)
        for f in inside
        if f.is_dir() and (match := re.fullmatch(r"recording_?(\d+)", f.name, re.IGNORECASE))
    )
    if not numbered:
        specimen.missing.append(f"{folder}/Recordings: no folder Recording<number>")
    for index, recording in numbered:
        second = number in SECOND_SET and index >= SECOND_SET[number]
        calib = _child(folder, *(("Calib_b",) if second else ("Calib", "Settings")))
        for video in VIDEOS:
            name = f"specimen{number}-rec{index:02d}-video{video}"
            try:
                serial = serials[video] if len(serials) > video else ""
                one, told = _video(name, recording, video, calib, serial, frames)
                specimen.videos.append(one)
                specimen.missing += told
            except InputError as error:
                specimen.missing.append(str(error))
    return specimen


def read_plan(file: Path) -> tuple[ScrewPlan, ...]:
    """Planned screws in metres, of twenty lines x,y,z in mm: L1 left entry, left pedicle, right ...

    Raises InputError: other lines than these.
    """
    try:
        points = 1e-3 * np.loadtxt(file, delimiter=",", ndmin=2)
    except ValueError as error:
        raise InputError(file, "", f"no points ({error})", "unpack it again") from error
    if points.shape != (4 * len(LEVELS), 3) or not np.isfinite(points).all():
        raise InputError(
            file, "", f"holds {points.shape[0]} x {points.shape[1]} numbers, not 20 x 3",
            "unpack it again",
        )  # fmt: skip
    pairs = points.reshape(len(LEVELS), 2, 2, 3)
    return tuple(
        ScrewPlan(level, side, *pairs[i, j])
        for i, level in enumerate(LEVELS)
        for j, side in enumerate(("left", "right"))
    )


def _video(
    name: str, recording: Path, video: int, calib: Path | None, serial: str, frames: int | None
) -> tuple[Video, list[str]]:
    pictures = _child(recording, f"Video_{video}")
    colour = sorted(pictures.glob("left*.png"))[:frames] if pictures is not None else []
    if not colour:
        svo = _child(recording, f"Video_{video}.svo")
        raise InputError(
            recording / f"Video_{video}",
            "",
            "no left*.png" + (f" beside {svo.name}" if svo else f", and no Video_{video}.svo"),
            f"export the video with the ZED SDK and the file of Calib/: {EXPORT}"
            if svo else f"unpack the recording again ({WHERE})",
        )  # fmt: skip
    assert pictures is not None
    depth = [pictures / f.name.replace("left", "depth", 1) for f in colour]
    lacking = [f.name for f in depth if not f.is_file()]
    if lacking:
        raise InputError(
            pictures, "", f"{lacking[0]} missing ({len(lacking)} of {len(depth)} depth images)",
            f"export colour and depth together: {EXPORT}",
        )  # fmt: skip
    first = read_png(colour[0])
    size = (first.shape[1], first.shape[0])
    intrinsics = _intrinsics(recording, video, calib, serial, size)
    file = _child(recording, f"Poses_{video}.txt")
    if file is None:
        raise InputError(recording / f"Poses_{video}.txt", "", "missing", f"get it at {WHERE}")
    poses, told = read_poses(file)
    count = min(len(poses), len(colour))
    if len(poses) < len(colour):
        told.append(f"{file}: poses of {len(poses)} of {len(colour)} frames; the others left out")
    if not count:
        raise InputError(file, "", "holds no pose", f"get it again at {WHERE}")
    one = Video(name, tuple(colour[:count]), tuple(depth[:count]), tuple(poses[:count]), intrinsics)
    return one, told


def read_poses(file: Path) -> tuple[list[dict[str, np.ndarray]], list[str]]:
    """T_camera_ct (4, 4) in metres of L1 to L5 per frame, of five rows of 16 numbers each (mm), and what
    was left out, in words: a row that is no rigid transform, the rows of a frame that was cut off.

    Raises InputError: no table of 16 columns.
    """
    try:
        rows = np.genfromtxt(file, delimiter=",", ndmin=2)
    except ValueError as error:
        raise InputError(file, "", f"no table ({error})", "unpack it again") from error
    if rows.size and rows.shape[1] != 16:
        raise InputError(
            file, "", f"{rows.shape[1]} columns, not 16", "give the poses as published"
        )
    told = []
    whole = len(rows) // len(LEVELS)
    if len(rows) % len(LEVELS):
        told.append(
            f"{file}: {len(rows)} rows, the last frame has not five of them and is left out"
        )
    poses: list[dict[str, np.ndarray]] = []
    bad = 0
    for i in range(whole):
        frame: dict[str, np.ndarray] = {}
        for j, level in enumerate(LEVELS):
            T = rows[len(LEVELS) * i + j].reshape(4, 4).copy()
            T[:3, 3] *= 1e-3
            try:
                # Written with few digits: the nearest rotation, if it is one up to rounding.
                u, _, vt = np.linalg.svd(np.nan_to_num(T[:3, :3]))
                if not np.abs(u @ vt - T[:3, :3]).max() <= 1e-3:  # NaN too
                    raise ValueError
                T[:3, :3] = u @ vt
                frame[level] = check_transform(T)
            except ValueError:
                bad += 1
        poses.append(frame)
    if bad:
        told.append(f"{file}: {bad} rows are no rigid transform; these levels have no truth there")
    return poses, told


def _intrinsics(
    recording: Path, video: int, calib: Path | None, serial: str, size: tuple[int, int]
) -> Intrinsics:
    files = sorted(calib.glob("*.conf")) if calib is not None else []
    where = calib if calib is not None else recording.parent.parent / "Calib"
    if not files:
        raise InputError(where, "", "no SN<serial>.conf", f"get the calibrations at {WHERE}")
    known = {re.sub(r"\D", "", f.stem): f for f in files}
    if not serial:
        svo = _child(recording, f"Video_{video}.svo")
        head = svo.open("rb").read(_HEADER_BYTES) if svo is not None else b""
        told = [s for s in known if s and _names(head, s)]
        if len(told) != 1:
            raise InputError(
                recording / f"Video_{video}.svo", "serial",
                f"the file does not tell which of {', '.join(sorted(known))} recorded it",
                "say it: --serials SERIAL_OF_VIDEO_0,SERIAL_OF_VIDEO_1",
            )  # fmt: skip
        serial = told[0]
    if serial not in known:
        raise InputError(
            where, f"SN{serial}.conf", f"missing (there are {', '.join(sorted(known))})",
            "correct --serials, or put the file there",
        )  # fmt: skip
    return zed_intrinsics(known[serial], size)


def _names(head: bytes, serial: str) -> bool:
    return serial.encode() in head or int(serial).to_bytes(4, "little") in head


def zed_intrinsics(file: Path, size: tuple[int, int]) -> Intrinsics:
    """Pinhole of the left rectified picture (width, height), as Stereolabs' OpenCV sample computes it.

    Raises InputError: a size that no ZED has, a section or number that is missing.
    """
    if size not in _SECTIONS:
        raise InputError(
            file, "size", f"pictures of {size[0]} x {size[1]} are of no ZED",
            f"export them unchanged: {', '.join(f'{w} x {h}' for w, h in _SECTIONS)}",
        )  # fmt: skip
    kind = _SECTIONS[size]
    ini = configparser.ConfigParser()
    try:
        ini.read_string(file.read_text(encoding="utf-8", errors="replace"))
        k, d = zip(*(_eye(ini[f"{eye}_CAM_{kind}"]) for eye in ("LEFT", "RIGHT")), strict=True)
        stereo = ini["STEREO"]
        t = [float(stereo.get(n, stereo.get(f"{n}_{kind}", "0"))) for n in ("Baseline", "TY", "TZ")]
        turn = [float(stereo.get(f"{n}_{kind}", "0")) for n in ("RX", "CV", "RZ")]
        if not t[0]:
            raise KeyError("Baseline")
    except (configparser.Error, KeyError, ValueError) as error:
        raise InputError(
            file, kind, f"no calibration of a ZED ({error})", f"get it again at {WHERE}"
        ) from error
    R, _ = cv2.Rodrigues(np.array(turn).reshape(3, 1))
    _, _, P, *_ = cv2.stereoRectify(
        k[0],
        d[0],
        k[1],
        d[1],
        size,
        R,
        np.array([[-t[0]], [t[1]], [t[2]]]),
        flags=cv2.CALIB_ZERO_DISPARITY,
        alpha=0,
    )
    return Intrinsics(*size, *(float(P[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))))


def _eye(section: configparser.SectionProxy) -> tuple[np.ndarray, np.ndarray]:
    fx, fy, cx, cy = (float(section[n]) for n in ("fx", "fy", "cx", "cy"))
    k = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    return k, np.array([float(section.get(n, "0")) for n in ("k1", "k2", "p1", "p2", "k3")])
