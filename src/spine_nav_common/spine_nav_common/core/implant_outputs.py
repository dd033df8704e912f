# SPDX-License-Identifier: Apache-2.0
"""Screws and rods in an output folder (docs/contracts.md, section 4): screws.csv and rods.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .closing import Closing
from .errors import OutputError
from .outputs import TimingWriter
from .tables import Table, number_text, read_json, table_rows, write_json

SCREWS, RODS = "screws.csv", "rods.json"
SCREW_COLUMNS = (
    "stamp_ns", "track_id", "x", "y", "z", "ax", "ay", "az", "confidence", "bound95_mm", "level",
    "side", "seen",
)  # fmt: skip
_SCREW_COLUMNS_1 = SCREW_COLUMNS[:-1]  # before `seen` was added: every head counts as seen


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


class ScrewWriter(Closing):
    """Writes screws.csv, frame by frame; use as a context manager."""

    def __init__(self, directory: str | Path) -> None:
        self._table = Table(Path(directory) / SCREWS, SCREW_COLUMNS)

    def close(self) -> None:
        """Finish the files."""
        self._table.close()

    def write(self, rows: Sequence[ScrewRow]) -> None:
        """Append the screws of one frame. Raises ValueError for a number that is not finite."""
        self._table.append(
            [
                [
                    str(row.stamp_ns),
                    str(row.track_id),
                    *(number_text(v, 9, "screw head") for v in row.head_m),
                    *(number_text(v, 9, "screw axis") for v in row.axis),
                    number_text(row.confidence, 4, "confidence"),
                    number_text(row.bound95_mm, 4, "bound95_mm"),
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
    for where, row in table_rows(path, SCREW_COLUMNS, _SCREW_COLUMNS_1):
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


class ImplantWriter(Closing):
    """Writes screws.csv and timings.csv frame by frame, and rods.json of the last frame when it is
    closed; use as a context manager. timings: the one of the folder's other writer, if there is one.
    """

    def __init__(self, directory: str | Path, timings: TimingWriter | None = None) -> None:
        self._directory = Path(directory)
        self._screws = ScrewWriter(directory)
        self._timings = timings or TimingWriter(directory)
        self._last: tuple[int | None, Sequence[RodCurve]] = (None, ())

    def close(self) -> None:
        """Finish the files."""
        self._screws.close()
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
