# SPDX-License-Identifier: Apache-2.0
"""The files of an output folder (docs/contracts.md, section 4): written row by row, and read back.

Decimals are fixed, so that equal results are equal bytes. Every frame is flushed: a crash keeps
the rows of the frames before it.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .errors import OutputError
from .geometry import check_transform, q_xyzw_from_rotation, rotation_from_q_xyzw, transform
from .types import LevelEstimate, NavigationResult, Status

POSES, TIMINGS, SUMMARY = "poses.csv", "timings.csv", "summary.json"
SCREWS, RODS = "screws.csv", "rods.json"
POSE_COLUMNS = (
    "stamp_ns", "level", "tx", "ty", "tz", "qx", "qy", "qz", "qw", "status", "predicted_tre_mm",
    "latency_ms",
)  # fmt: skip
TIMING_COLUMNS = ("stamp_ns", "stage", "ms")
SCREW_COLUMNS = (
    "stamp_ns", "track_id", "x", "y", "z", "ax", "ay", "az", "confidence", "bound95_mm", "level",
    "side", "seen",
)  # fmt: skip
_SCREW_COLUMNS_1 = SCREW_COLUMNS[:-1]  # before `seen` was added: every head counts as seen
_WITH_POSE = (Status.TRACKED, Status.OCCLUDED)


@dataclass(frozen=True)
class PoseRow:
    """One line of poses.csv; T_camera_ct (4, 4) in metres and the bound only where it has a pose."""

    stamp_ns: int
    level: str
    status: Status
    T_camera_ct: np.ndarray | None
    predicted_tre_mm: float | None
    latency_ms: float | None


@dataclass(frozen=True)
class ScrewRow:
    """One line of screws.csv: saddle point (3,) in metres, axis (3,) unit, left optical frame.
    seen: measured in this frame, not only held."""

    stamp_ns: int
    track_id: int
    head_m: np.ndarray
    axis: np.ndarray
    confidence: float
    bound95_mm: float
    level: str = ""
    side: str = ""
    seen: bool = True


@dataclass(frozen=True)
class RodCurve:
    """One rod of rods.json: centreline (N, 3) in metres, sigma (N,) in mm, seen (N,) bool.

    free_m (N, 3): the same places as measured without the heads that hold the rod; free_sigma_mm
    (N,): standard error of that curve's shape, wherever the whole of it lies. None: not told.
    """

    side: str
    centreline_m: np.ndarray
    sigma_mm: np.ndarray
    seen: np.ndarray
    free_m: np.ndarray | None = None
    free_sigma_mm: np.ndarray | None = None

    def without_heads(self) -> tuple[np.ndarray, np.ndarray]:
        """Curve (N, 3) in metres that no head has pulled, the only one that tells whether the rod
        fits the heads, and its sigma (N,) in mm; what is told at all in files of before."""
        if self.free_m is None or self.free_sigma_mm is None:
            return self.centreline_m, self.sigma_mm
        return self.free_m, self.free_sigma_mm

    def turned(self) -> RodCurve:
        """The same rod from its other end."""
        free_m = None if self.free_m is None else self.free_m[::-1]
        free_sigma_mm = None if self.free_sigma_mm is None else self.free_sigma_mm[::-1]
        return RodCurve(
            self.side, self.centreline_m[::-1], self.sigma_mm[::-1], self.seen[::-1],
            free_m, free_sigma_mm,
        )  # fmt: skip

    def check(self) -> None:
        """Raises ValueError for lists of unequal length, half a free curve, or numbers that are not
        finite."""
        points = np.asarray(self.centreline_m)
        lists = [points, self.sigma_mm]
        if (self.free_m is None) != (self.free_sigma_mm is None):
            raise ValueError("rod: a free curve needs its sigma, and the sigma its curve")
        if self.free_m is not None and self.free_sigma_mm is not None:
            lists += [self.free_m, self.free_sigma_mm]
        shapes = [np.shape(v) for v in lists]
        whole = [(len(points), 3), (len(points),)] * (len(lists) // 2)
        if shapes != whole or len(self.seen) != len(points):
            raise ValueError("rod: its lists differ in length")
        if not all(np.isfinite(v).all() for v in lists):
            raise ValueError("rod: a number is not finite")


def _number(value: float, decimals: int, what: str) -> str:
    """Fixed decimals, no negative zero. Raises ValueError for NaN and infinity."""
    if not math.isfinite(value):
        raise ValueError(f"{what} is {value}: leave the field empty instead")
    text = f"{value:.{decimals}f}"
    return text[1:] if text.startswith("-") and not text.strip("-0.") else text


class _Table:
    """A CSV file that grows by whole frames."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="ascii", newline="")
        self.append([columns])

    def append(self, rows: Iterable[Sequence[str]]) -> None:
        """Write rows in one piece and hand them to the operating system."""
        text = "".join(",".join(row) + "\n" for row in rows)
        self._file.write(text)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TimingWriter:
    """Writes timings.csv; the writers of one folder share one."""

    def __init__(self, directory: str | Path) -> None:
        self._table = _Table(Path(directory) / TIMINGS, TIMING_COLUMNS)

    def write(self, stamp_ns: int, timings_ms: Mapping[str, float]) -> None:
        """Append the stages of one frame. Raises ValueError for a number that is not finite."""
        self._table.append(
            [(str(stamp_ns), stage, _number(ms, 3, stage)) for stage, ms in timings_ms.items()]
        )

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._table.close()


class ResultWriter:
    """Writes poses.csv and timings.csv of a run into a folder; use as a context manager."""

    def __init__(self, directory: str | Path) -> None:
        directory = Path(directory)
        self._poses = _Table(directory / POSES, POSE_COLUMNS)
        self.timings = TimingWriter(directory)

    def __enter__(self) -> ResultWriter:  # noqa: PYI034 - Self needs Python 3.11
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._poses.close()
        self.timings.close()

    def write(self, result: NavigationResult, latency_ms: float | None = None) -> None:
        """Append one frame. latency_ms: camera stamp to pose, live only (None in replay).

        Raises ValueError, with nothing written, for a pose or bound that is missing where the
        status promises one, or that is no finite rigid transform.
        """
        rows = [_pose_fields(result.stamp_ns, e, latency_ms) for e in result.levels]
        self._poses.append(rows)
        self.timings.write(result.stamp_ns, result.timings_ms)


def _pose_fields(stamp_ns: int, estimate: LevelEstimate, latency_ms: float | None) -> list[str]:
    pose = [""] * 7
    bound = ""
    if estimate.status in _WITH_POSE:
        if estimate.T_camera_ct is None or estimate.predicted_tre_mm is None:
            raise ValueError(
                f"{estimate.level} is {estimate.status.value} but has no pose or bound"
            )
        T = check_transform(estimate.T_camera_ct, f"T_camera_ct of {estimate.level}")
        q_xyzw = q_xyzw_from_rotation(T[:3, :3])
        pose = [_number(v, 9, estimate.level) for v in (*T[:3, 3], *q_xyzw)]
        bound = _number(estimate.predicted_tre_mm, 4, f"predicted_tre_mm of {estimate.level}")
    latency = "" if latency_ms is None else _number(latency_ms, 3, "latency_ms")
    return [str(stamp_ns), estimate.level, *pose, estimate.status.value, bound, latency]


def _rows(path: Path, *known: Sequence[str]) -> Iterable[tuple[str, dict[str, str]]]:
    """(field prefix, row) of a CSV file with exactly these columns, or those of an older form."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(path, "", f"not readable ({error})", "run replay first") from error
    reader = csv.DictReader(text.splitlines())
    if reader.fieldnames is None or tuple(reader.fieldnames) not in known:
        raise OutputError(
            path, "header", f"is {reader.fieldnames}", f"expected {','.join(known[0])}"
        )
    for number, row in enumerate(reader, start=2):
        if None in row or None in row.values():
            raise OutputError(
                path,
                f"line {number}",
                "it has another number of fields",
                "the file is damaged: run again",
            )
        yield f"line {number}", row


def read_poses(path: str | Path) -> list[PoseRow]:
    """The rows of a poses.csv. Raises OutputError with line and remedy for any that is wrong."""
    path = Path(path)
    poses = []
    for where, row in _rows(path, POSE_COLUMNS):
        try:
            status = Status(row["status"])
            numbers = [row[c] for c in POSE_COLUMNS[2:9]]
            T = None
            bound = float(row["predicted_tre_mm"]) if row["predicted_tre_mm"] else None
            if status in _WITH_POSE:
                tx, ty, tz, *q = (float(v) for v in numbers)
                T = check_transform(transform(rotation_from_q_xyzw(np.array(q)), (tx, ty, tz)))
                if bound is None or not math.isfinite(bound):
                    raise ValueError(f"{status.value} without predicted_tre_mm")
            elif any(numbers) or bound is not None:
                raise ValueError(f"{status.value} with a pose")
            latency = float(row["latency_ms"]) if row["latency_ms"] else None
            poses.append(PoseRow(int(row["stamp_ns"]), row["level"], status, T, bound, latency))
        except ValueError as error:
            raise OutputError(path, where, str(error), "the file is damaged: run again") from error
    return poses


def read_timings(path: str | Path) -> dict[str, np.ndarray]:
    """Milliseconds (N,) per stage of a timings.csv. Raises OutputError."""
    path = Path(path)
    stages: dict[str, list[float]] = {}
    for where, row in _rows(path, TIMING_COLUMNS):
        try:
            stages.setdefault(row["stage"], []).append(float(row["ms"]))
        except ValueError as error:
            raise OutputError(path, where, str(error), "the file is damaged: run again") from error
    return {stage: np.array(ms) for stage, ms in stages.items()}


class ScrewWriter:
    """Writes screws.csv, frame by frame; use as a context manager."""

    def __init__(self, directory: str | Path) -> None:
        self._table = _Table(Path(directory) / SCREWS, SCREW_COLUMNS)

    def __enter__(self) -> ScrewWriter:  # noqa: PYI034 - Self needs Python 3.11
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._table.close()

    def write(self, rows: Sequence[ScrewRow]) -> None:
        """Append the screws of one frame. Raises ValueError for a number that is not finite."""
        self._table.append(
            [
                [
                    str(row.stamp_ns),
                    str(row.track_id),
                    *(_number(v, 9, "screw head") for v in row.head_m),
                    *(_number(v, 9, "screw axis") for v in row.axis),
                    _number(row.confidence, 4, "confidence"),
                    _number(row.bound95_mm, 4, "bound95_mm"),
                    row.level,
                    row.side,
                    str(int(row.seen)),
                ]
                for row in rows
            ]
        )


def read_screws(path: str | Path) -> list[ScrewRow]:
    """The rows of a screws.csv. Raises OutputError with line and remedy for any that is wrong."""
    path = Path(path)
    screws = []
    for where, row in _rows(path, SCREW_COLUMNS, _SCREW_COLUMNS_1):
        try:
            numbers = np.array([float(row[c]) for c in SCREW_COLUMNS[2:10]])
            if not np.isfinite(numbers).all():
                raise ValueError("a number is not finite")
            seen = row.get("seen", "1")
            if seen not in ("0", "1"):
                raise ValueError(f"seen is {seen!r}, not 0 or 1")
            screws.append(
                ScrewRow(
                    int(row["stamp_ns"]),
                    int(row["track_id"]),
                    numbers[:3],
                    numbers[3:6],
                    float(numbers[6]),
                    float(numbers[7]),
                    row["level"],
                    row["side"],
                    seen == "1",
                )
            )
        except ValueError as error:
            raise OutputError(path, where, str(error), "the file is damaged: run again") from error
    return screws


def write_rods(directory: str | Path, stamp_ns: int | None, rods: Sequence[RodCurve]) -> None:
    """Write rods.json: the rods of the last frame; no rod is an empty list.

    Raises ValueError for lists of unequal length or numbers that are not finite.
    """
    entries = []
    for rod in rods:
        rod.check()
        entry = {
            "side": rod.side,
            "centreline_camera_m": np.round(rod.centreline_m, 9).tolist(),
            "sigma_mm": np.round(rod.sigma_mm, 4).tolist(),
            "seen": [bool(v) for v in rod.seen],
        }
        if rod.free_m is not None and rod.free_sigma_mm is not None:
            entry["free_camera_m"] = np.round(rod.free_m, 9).tolist()
            entry["free_sigma_mm"] = np.round(rod.free_sigma_mm, 4).tolist()
        entries.append(entry)
    write_json(Path(directory) / RODS, {"version": 1, "stamp_ns": stamp_ns, "rods": entries})


class ImplantWriter:
    """Writes screws.csv and timings.csv frame by frame, and rods.json of the last frame when it is
    closed; use as a context manager. timings: the one of the folder's other writer, if there is one.
    """

    def __init__(self, directory: str | Path, timings: TimingWriter | None = None) -> None:
        self._directory = Path(directory)
        self._screws = ScrewWriter(directory)
        self._timings = timings or TimingWriter(directory)
        self._last: tuple[int | None, Sequence[RodCurve]] = (None, ())

    def __enter__(self) -> ImplantWriter:  # noqa: PYI034 - Self needs Python 3.11
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._screws.__exit__(kind, error, trace)
        self._timings.close()
        write_rods(self._directory, *self._last)

    def write(
        self,
        stamp_ns: int,
        screws: Sequence[ScrewRow],
        rods: Sequence[RodCurve],
        timings_ms: Mapping[str, float],
    ) -> None:
        """Append one frame; a frame without screws and rods counts as the last one too."""
        self._screws.write(screws)
        self._timings.write(stamp_ns, timings_ms)
        self._last = (stamp_ns, rods)


def read_rods(path: str | Path) -> tuple[int | None, list[RodCurve]]:
    """Stamp and rods of a rods.json. Raises OutputError."""
    path = Path(path)
    document = read_json(path)
    try:
        if document["version"] != 1:
            raise ValueError(f"version is {document['version']!r}")
        rods = []
        for entry in document["rods"]:
            points, free = (
                None if v is None else np.array(v, dtype=np.float64).reshape(-1, 3)
                for v in (entry["centreline_camera_m"], entry.get("free_camera_m"))
            )  # fmt: skip
            sigma, free_sigma = (
                None if v is None else np.array(v, dtype=np.float64)
                for v in (entry["sigma_mm"], entry.get("free_sigma_mm"))
            )
            if points is None or sigma is None:
                raise ValueError("a rod without a curve")
            seen = np.array(entry["seen"], dtype=bool)
            rod = RodCurve(str(entry["side"]), points, sigma, seen, free, free_sigma)
            rod.check()
            rods.append(rod)
        return document["stamp_ns"], rods
    except (KeyError, TypeError, ValueError) as error:
        raise OutputError(path, "rods", f"{error}", "the file is damaged: run again") from error


def write_json(path: str | Path, document: object) -> None:
    """Write JSON in one step: a reader sees the old file or the whole new one.

    Raises ValueError for NaN or infinity, which are no JSON.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object from a file. Raises OutputError."""
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(path, "", f"not readable ({error})", "run again") from error
    if not isinstance(document, dict):
        raise OutputError(path, "", "it holds no object", "run again")
    return document


def timing_summary(stages: dict[str, np.ndarray]) -> dict[str, dict[str, float | int]]:
    """median, p95, p99 and count per stage of milliseconds (N,), for summary.json."""
    return {
        stage: {
            "median": round(float(np.median(ms)), 3),
            "p95": round(float(np.percentile(ms, 95)), 3),
            "p99": round(float(np.percentile(ms, 99)), 3),
            "count": len(ms),
        }
        for stage, ms in stages.items()
        if len(ms)
    }


def status_counts(poses: Iterable[PoseRow]) -> dict[str, int]:
    """How many rows have each status, all six named, for summary.json."""
    counts = {status.value: 0 for status in Status}
    for row in poses:
        counts[row.status.value] += 1
    return counts


def write_summary(
    directory: str | Path,
    *,
    versions: dict[str, str],
    hashes: dict[str, str],
    drops: dict[str, object],
    poses: bool = True,
    **more: object,
) -> dict[str, Any]:
    """Write summary.json beside poses.csv and timings.csv, whose rows it counts; returns it.

    Args:
        directory: a closed output folder.
        versions: program and libraries.
        hashes: model, configuration, case, recording.
        drops: what gave no row, and why (Recording.counts and reasons).
        poses: whether the run wrote poses.csv (one that lies there may be of another run).
        more: further fields, such as confirmed levels or why the run stopped.
    """
    directory = Path(directory)
    summary = {
        "version": 1,
        "versions": versions,
        "hashes": hashes,
        **({"status_counts": status_counts(read_poses(directory / POSES))} if poses else {}),
        "timings_ms": timing_summary(read_timings(directory / TIMINGS)),
        "drops": drops,
        **more,
    }
    write_json(directory / SUMMARY, summary)
    return summary
