# SPDX-License-Identifier: Apache-2.0
"""Planned screws from 3D Slicer markups files (.mrk.json)."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CaseError
from .screw_names import read_screw_name
from .types import Rejected, ScrewPlan

_TO_LPS = {"LPS": (1.0, 1.0, 1.0), "RAS": (-1.0, -1.0, 1.0)}
_M_PER_UNIT = {"mm": 1e-3, "m": 1.0, "millimeter": 1e-3, "meter": 1.0}
LEAST_LANDMARKS = 3
"""Of a level: fewer points do not tell a turn."""
LENGTH_MM = (5.0, 150.0)  # no pedicle screw's path is shorter or longer


def markups_files(base: Path, entry: object, case_file: Path, field: str = "plan") -> list[Path]:
    """The markups files that a field of case.yaml names: one file, a list, or a folder's *.json.

    Raises CaseError where one is missing or the entry is none of the three.
    """
    names = entry if isinstance(entry, list) else [entry]
    files: list[Path] = []
    for name in names:
        if not isinstance(name, str) or not name:
            raise CaseError(
                case_file,
                field,
                f"{name!r} is no file name",
                "name a markups file, a list of files, or a folder",
            )
        path = base / name
        if path.is_dir():
            inside = sorted(path.glob("*.json"))
            if not inside and list(path.glob("*.fcsv")):
                raise _point_list(path, field)
            if not inside:
                raise CaseError(
                    path,
                    field,
                    "the folder holds no markups file",
                    "save the markups there as .mrk.json",
                )
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise CaseError(
                path,
                field,
                "the file is missing",
                "put it there or correct the name in case.yaml",
            )
    return files


@dataclass(frozen=True)
class ReadPlan:
    """The lines of a plan in metres and in the mesh frame, and what was read freely, in words."""

    lines: tuple[ScrewPlan, ...]
    notes: tuple[str, ...] = ()


def load_plan(files: list[Path], frame: str) -> ReadPlan:
    """All Line markups of the files, in metres and in the mesh frame ('LPS' or 'RAS').

    Each markup's own coordinateSystem and coordinateUnits rule (Slicer's default unit is mm);
    a markup without coordinateSystem is taken in `frame`. Other markup types are passed over.

    Names may be free where level and side are beyond doubt ("L1 Left", "L1R", "Screw_L1_R");
    points that are not defined yet are passed over.

    Raises:
        CaseError: unreadable, no line at all, a line without level or side, doubled, not two
            defined and finite points, unknown frame or unit, implausible length.
    """
    lines = [(p, m) for p in files for m in _markups(p) if m.get("type") == "Line"]
    if files and not lines:
        raise CaseError(
            files[0],
            "plan",
            "there is no Line markup",
            "save one Line per screw, named for example L3_left",
        )
    names = _names(lines)
    plans: dict[tuple[str, str], ScrewPlan] = {}
    notes: list[str] = []
    for (path, markup), (level, side) in zip(lines, names, strict=True):
        if (level, side) in plans:
            raise CaseError(
                path,
                f"plan/{_title(markup)}",
                f"this line is there twice: two are named {level} {side}",
                "keep one line per screw",
            )
        plans[level, side], passed_over = _line(path, markup, level, side, frame)
        if passed_over:
            notes.append(
                f"{path}: plan/{_title(markup)}: {passed_over} point{'s' * (passed_over > 1)} that"
                " Slicer calls not defined passed over"
            )
    free = [
        f"'{_title(markup)}' as {level} {side}"
        for (_, markup), (level, side) in zip(lines, names, strict=True)
        if markup.get("name") != f"{level}_{side}"
    ]
    if free:
        notes.append(f"names of planned screws read freely: {', '.join(free)}")
    return ReadPlan(tuple(plans.values()), tuple(notes))


def load_landmarks(
    files: list[Path], frame: str, levels: Collection[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Points that a surgeon touches to check a pose, by level and name, in metres and `frame`.

    They are control points of Fiducial markups, labelled '<level> <name>' ("L3 spinous process"); each
    markup's coordinateSystem and coordinateUnits rule. Points that are not defined are passed over.

    Raises CaseError: unreadable, no point at all, a label without one of the levels or without a name,
    doubled, not finite, fewer than three on a level.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for path in files:
        for markup in _markups(path, "landmarks"):
            if markup.get("type") != "Fiducial":
                continue
            field = f"landmarks/{_title(markup)}"
            to_frame = _to_frame(path, field, markup, frame)
            for point in markup.get("controlPoints") or []:
                if _is_undefined(point):
                    continue
                label = str(point.get("label", "")) if isinstance(point, dict) else ""
                level, _, name = label.replace("_", " ").strip().partition(" ")
                if level not in levels or not name.strip():
                    raise CaseError(
                        path, f"{field}/{label or 'unnamed'}", "its label gives no level of the case",
                        "label points <level> <name>, for example L3 spinous process",
                    )  # fmt: skip
                own = found.setdefault(level, {})
                if name.strip() in own:
                    raise CaseError(
                        path, f"{field}/{label}", "this point is there twice", "keep one"
                    )
                own[name.strip()] = _position(path, f"{field}/{label}", point) * to_frame
    if files and not found:
        raise CaseError(
            files[0], "landmarks", "there is no point", "save a Fiducial list from Slicer"
        )
    for level, own in found.items():
        if len(own) < LEAST_LANDMARKS:
            raise CaseError(
                files[0], f"landmarks/{level}", f"{len(own)} points name no pose",
                f"give at least {LEAST_LANDMARKS} on each level that has any",
            )  # fmt: skip
    return found


def _title(markup: dict[str, Any]) -> str:
    return str(markup.get("name", "")) or "unnamed"


def _names(lines: list[tuple[Path, dict[str, Any]]]) -> list[tuple[str, str]]:
    """Level and side of every line. Raises CaseError with all that was and was not understood."""
    read = [read_screw_name(str(markup.get("name", ""))) for _, markup in lines]
    understood = [
        f"'{_title(markup)}' as {name[0]} {name[1]}"
        for (_, markup), name in zip(lines, read, strict=True)
        if not isinstance(name, Rejected)
    ]
    names: list[tuple[str, str]] = []
    for (path, markup), name in zip(lines, read, strict=True):
        if isinstance(name, Rejected):
            raise CaseError(
                path,
                f"plan/{_title(markup)}",
                f"the line's name gives no level and side: {name.reason}; understood were"
                f" {', '.join(understood) or 'none'}",
                "name it <level>_<left|right>, for example L3_left",
            )
        names.append(name)
    return names


def _markups(path: Path, field: str = "plan") -> list[dict[str, Any]]:
    if path.suffix.lower() == ".fcsv":
        raise _point_list(path, field)
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CaseError(
            path, field, f"not readable as JSON ({error})", "save the markups again from Slicer"
        ) from error
    markups = document.get("markups") if isinstance(document, dict) else None
    if not isinstance(markups, list) or not all(isinstance(m, dict) for m in markups):
        raise CaseError(
            path, field, "there is no list 'markups'", "save the lines from Slicer as .mrk.json"
        )
    return markups


def _point_list(path: Path, field: str) -> CaseError:
    what = "Line" if field == "plan" else "Point List"
    return CaseError(
        path, field, "an .fcsv file holds points without units, and no lines",
        f"in 3D Slicer's module Markups create one {what} per"
        f" {'screw, named L3_left' if field == 'plan' else 'level'} (Create > {what}), then File > Save"
        " Data with File Format 'Markups JSON (.mrk.json)', and name that file in case.yaml",
    )  # fmt: skip


def _line(
    path: Path, markup: dict[str, Any], level: str, side: str, frame: str
) -> tuple[ScrewPlan, int]:
    """One screw, and how many points that are not defined were passed over."""
    field = f"plan/{_title(markup)}"
    to_frame = _to_frame(path, field, markup, frame)
    points, passed_over = _points(path, field, markup.get("controlPoints"))
    entry_m, target_m = points * to_frame
    length_mm = 1e3 * float(np.linalg.norm(target_m - entry_m))
    if not LENGTH_MM[0] <= length_mm <= LENGTH_MM[1]:
        raise CaseError(
            path,
            field,
            f"entry and target are {length_mm:.4g} mm apart",
            "place both points and check coordinateUnits",
        )
    return ScrewPlan(level, side, entry_m, target_m), passed_over


def _to_frame(path: Path, field: str, markup: dict[str, Any], frame: str) -> np.ndarray:
    """(3,) factors that bring a markup's own coordinates to metres in `frame`."""
    system = markup.get("coordinateSystem", frame)
    if not isinstance(system, str) or system not in _TO_LPS:
        raise CaseError(
            path, field, f"coordinateSystem {system!r} is unknown", "save it in LPS or RAS"
        )
    unit = markup.get("coordinateUnits", "mm")
    m_per_unit = _M_PER_UNIT.get(unit) if isinstance(unit, str) else None
    if m_per_unit is None:
        raise CaseError(path, field, f"coordinateUnits {unit!r} is unknown", "save it in mm")
    return np.array(_TO_LPS[system]) * np.array(_TO_LPS[frame]) * m_per_unit


def _points(path: Path, field: str, control: object) -> tuple[np.ndarray, int]:
    """(2, 3) entry and target in the file's own frame and unit, and how many were passed over."""
    points = control if isinstance(control, list) else []
    defined = [p for p in points if not _is_undefined(p)]
    if len(defined) != 2:
        count = len(points) if isinstance(control, list) else "no"
        if len(defined) < len(points):
            count = f"{len(defined)} defined"
        raise CaseError(
            path, field, f"the line has {count} control points, not two", "place entry, then target"
        )
    positions = [
        _position(path, f"{field}/{what}", point)
        for point, what in zip(defined, ("entry", "target"), strict=True)
    ]
    return np.array(positions), len(points) - len(defined)


def _position(path: Path, field: str, point: Any) -> np.ndarray:
    try:
        position = np.array(point["position"], dtype=np.float64)
        good = position.shape == (3,) and bool(np.isfinite(position).all())
    except (KeyError, TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise CaseError(
            path, field, "the point has no finite position", "place the point again in Slicer"
        )
    return position


def _is_undefined(point: object) -> bool:
    """Whether Slicer still places this point (undefined, preview) or lost it (missing)."""
    return isinstance(point, dict) and point.get("positionStatus", "defined") != "defined"


def plan_document(plan: tuple[ScrewPlan, ...], frame: str) -> dict[str, Any]:
    """The plan as a Slicer markups document, in mm and `frame`."""
    return {
        "@schema": "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/"
        "Markups/Resources/Schema/markups-schema-v1.0.3.json#",
        "markups": [
            {
                "type": "Line",
                "coordinateSystem": frame,
                "coordinateUnits": "mm",
                "name": f"{line.level}_{line.side}",
                "controlPoints": [
                    {
                        "id": str(i + 1),
                        "label": label,
                        "position": [float(1e3 * v) for v in point],
                        "positionStatus": "defined",
                    }
                    for i, (label, point) in enumerate(
                        (("entry", line.entry_m), ("target", line.target_m))
                    )
                ],
            }
            for line in plan
        ],
    }
