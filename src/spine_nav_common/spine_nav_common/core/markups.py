# SPDX-License-Identifier: Apache-2.0
"""Planned screws from 3D Slicer markups files (.mrk.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CaseError
from .types import LEVELS, ScrewPlan

SIDES = ("left", "right")
_TO_LPS = {"LPS": (1.0, 1.0, 1.0), "RAS": (-1.0, -1.0, 1.0)}
_M_PER_UNIT = {"mm": 1e-3, "m": 1.0, "millimeter": 1e-3, "meter": 1.0}
_LENGTH_MM = (5.0, 150.0)  # no pedicle screw's path is shorter or longer


def plan_files(base: Path, entry: object, case_file: Path) -> list[Path]:
    """The markups files that case.yaml's `plan` names: one file, a list, or a folder's *.json.

    Raises CaseError where one is missing or the entry is none of the three.
    """
    names = entry if isinstance(entry, list) else [entry]
    files: list[Path] = []
    for name in names:
        if not isinstance(name, str) or not name:
            raise CaseError(
                case_file,
                "plan",
                f"{name!r} is no file name",
                "name a markups file, a list of files, or a folder",
            )
        path = base / name
        if path.is_dir():
            inside = sorted(path.glob("*.json"))
            if not inside:
                raise CaseError(
                    path,
                    "plan",
                    "the folder holds no markups file",
                    "save the lines there as .mrk.json",
                )
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise CaseError(
                path,
                "plan",
                "the plan file is missing",
                "put it there or correct the name in case.yaml",
            )
    return files


def load_plan(files: list[Path], frame: str) -> list[ScrewPlan]:
    """All Line markups of the files, in metres and in the mesh frame ('LPS' or 'RAS').

    Each markup's own coordinateSystem and coordinateUnits rule (Slicer's default unit is mm);
    a markup without coordinateSystem is taken in `frame`. Other markup types are passed over.

    Raises:
        CaseError: unreadable, no line at all, a line without level or side, doubled, undefined
            or not finite points, unknown frame or unit, implausible length.
    """
    plans: dict[tuple[str, str], ScrewPlan] = {}
    for path in files:
        for markup in _markups(path):
            if markup.get("type") != "Line":
                continue
            plan = _line(path, markup, frame)
            if (plan.level, plan.side) in plans:
                raise CaseError(
                    path,
                    f"plan/{plan.level}_{plan.side}",
                    "this line is there twice",
                    "keep one line per screw",
                )
            plans[plan.level, plan.side] = plan
    if files and not plans:
        raise CaseError(
            files[0],
            "plan",
            "there is no Line markup",
            "save one Line per screw, named for example L3_left",
        )
    return list(plans.values())


def _markups(path: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CaseError(
            path, "plan", f"not readable as JSON ({error})", "save the markups again from Slicer"
        ) from error
    markups = document.get("markups") if isinstance(document, dict) else None
    if not isinstance(markups, list) or not all(isinstance(m, dict) for m in markups):
        raise CaseError(
            path, "plan", "there is no list 'markups'", "save the lines from Slicer as .mrk.json"
        )
    return markups


def _line(path: Path, markup: dict[str, Any], frame: str) -> ScrewPlan:
    name = str(markup.get("name", ""))
    field = f"plan/{name or 'unnamed'}"
    level, _, side = name.partition("_")
    if level not in LEVELS or side not in SIDES:
        raise CaseError(
            path,
            field,
            "the line's name gives no level and side",
            "name it <level>_<left|right>, for example L3_left",
        )
    system = markup.get("coordinateSystem", frame)
    if system not in _TO_LPS:
        raise CaseError(
            path, field, f"coordinateSystem {system!r} is unknown", "save it in LPS or RAS"
        )
    unit = markup.get("coordinateUnits", "mm")
    m_per_unit = _M_PER_UNIT.get(unit) if isinstance(unit, str) else None
    if m_per_unit is None:
        raise CaseError(path, field, f"coordinateUnits {unit!r} is unknown", "save it in mm")
    points = _points(path, field, markup.get("controlPoints"))
    flip = np.array(_TO_LPS[system]) * np.array(_TO_LPS[frame])
    entry_m, target_m = points * flip * m_per_unit
    length_mm = 1e3 * float(np.linalg.norm(target_m - entry_m))
    if not _LENGTH_MM[0] <= length_mm <= _LENGTH_MM[1]:
        raise CaseError(
            path,
            field,
            f"entry and target are {length_mm:.4g} mm apart",
            "place both points and check coordinateUnits",
        )
    return ScrewPlan(level, side, entry_m, target_m)


def _points(path: Path, field: str, control: object) -> np.ndarray:
    """(2, 3) entry and target in the file's own frame and unit."""
    if not isinstance(control, list) or len(control) != 2:
        count = len(control) if isinstance(control, list) else "no"
        raise CaseError(
            path, field, f"the line has {count} control points, not two", "place entry, then target"
        )
    points = []
    for point, what in zip(control, ("entry", "target"), strict=True):
        state = point.get("positionStatus", "defined") if isinstance(point, dict) else "missing"
        try:
            position = np.array(point["position"], dtype=np.float64)
            good = position.shape == (3,) and bool(np.isfinite(position).all())
        except (KeyError, TypeError, ValueError):
            good = False
        if not good or state != "defined":
            raise CaseError(
                path,
                f"{field}/{what}",
                "the point has no finite position",
                "place the point again in Slicer",
            )
        points.append(position)
    return np.array(points)


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
