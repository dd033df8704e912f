# SPDX-License-Identifier: Apache-2.0
"""The files of an output folder (docs/contracts.md, section 4): written row by row, and read back.

Decimals are fixed, so that equal results are equal bytes. Every frame is flushed: a crash keeps
the rows of the frames before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .closing import Closing
from .errors import OutputError
from .geometry import check_transform, q_xyzw_from_rotation, rotation_from_q_xyzw, transform
from .tables import Table, number_text, table_rows, write_json
from .types import LevelEstimate, NavigationResult, Status

POSES, TIMINGS, SUMMARY = "poses.csv", "timings.csv", "summary.json"
POSE_COLUMNS = (
    "stamp_ns", "level", "tx", "ty", "tz", "qx", "qy", "qz", "qw", "status", "predicted_tre_mm",
    "latency_ms",
)  # fmt: skip
TIMING_COLUMNS = ("stamp_ns", "stage", "ms")
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


class TimingWriter:
    """Writes timings.csv; the writers of one folder share one."""

    def __init__(self, directory: str | Path) -> None:
        self._table = Table(Path(directory) / TIMINGS, TIMING_COLUMNS)

    def write(self, stamp_ns: int, timings_ms: Mapping[str, float]) -> None:
        """Append the stages of one frame. Raises ValueError for a number that is not finite."""
        self._table.append(
            [(str(stamp_ns), stage, number_text(ms, 3, stage)) for stage, ms in timings_ms.items()]
        )

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._table.close()


class ResultWriter(Closing):
    """Writes poses.csv and timings.csv of a run into a folder; use as a context manager."""

    def __init__(self, directory: str | Path) -> None:
        directory = Path(directory)
        self._poses = Table(directory / POSES, POSE_COLUMNS)
        self.timings = TimingWriter(directory)

    def close(self) -> None:
        """Finish the files."""
        self._poses.close()
        self.timings.close()

    def write(self, result: NavigationResult, latency_ms: float | None = None) -> None:
        """Append one frame. latency_ms: camera stamp to pose, live only (None in replay).

        Raises ValueError, with nothing written, for a pose or bound that is missing where the
        status promises one, or that is no finite rigid transform.
        """
        rows = [pose_fields(result.stamp_ns, e, latency_ms) for e in result.levels]
        self._poses.append(rows)
        self.timings.write(result.stamp_ns, result.timings_ms)


def pose_fields(stamp_ns: int, estimate: LevelEstimate, latency_ms: float | None) -> list[str]:
    pose = [""] * 7
    bound = ""
    if estimate.status in _WITH_POSE:
        if estimate.T_camera_ct is None or estimate.predicted_tre_mm is None:
            raise ValueError(
                f"{estimate.level} is {estimate.status.value} but has no pose or bound"
            )
        T = check_transform(estimate.T_camera_ct, f"T_camera_ct of {estimate.level}")
        q_xyzw = q_xyzw_from_rotation(T[:3, :3])
        pose = [number_text(v, 9, estimate.level) for v in (*T[:3, 3], *q_xyzw)]
        bound = number_text(estimate.predicted_tre_mm, 4, f"predicted_tre_mm of {estimate.level}")
    latency = "" if latency_ms is None else number_text(latency_ms, 3, "latency_ms")
    return [str(stamp_ns), estimate.level, *pose, estimate.status.value, bound, latency]


def read_poses(path: str | Path) -> list[PoseRow]:
    """The rows of a poses.csv. Raises OutputError with line and remedy for any that is wrong."""
    path = Path(path)
    poses = []
    for where, row in table_rows(path, POSE_COLUMNS):
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
    for where, row in table_rows(path, TIMING_COLUMNS):
        try:
            stages.setdefault(row["stage"], []).append(float(row["ms"]))
        except ValueError as error:
            raise OutputError(path, where, str(error), "the file is damaged: run again") from error
    return {stage: np.array(ms) for stage, ms in stages.items()}


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
