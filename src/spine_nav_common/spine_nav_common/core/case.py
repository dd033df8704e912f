# SPDX-License-Identifier: Apache-2.0
"""A case folder (contracts, section 1): read whole or refused, and written."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
import yaml
from scipy.spatial import cKDTree

from .errors import CaseError
from .markups import load_plan, plan_document, plan_files
from .surface import load_surface
from .types import LEVELS, Case, Mesh, ScrewPlan

__all__ = ["CaseError", "anatomical_axes", "load_case", "write_case"]

_FIELDS = ("version", "name", "frame", "unit", "vertebrae", "exposed_levels", "plan")
_M_PER_UNIT = {"mm": 1e-3, "m": 1.0}
# Distances between the centres of neighbours in one CT frame run from about 15 mm (T1) to 70 mm
# (L5 to a whole sacrum); outside these wide bounds the meshes do not share a frame.
_STEP_MM = (5.0, 120.0)
_PLAN_REACH_MM = 50.0  # an entry point farther from its vertebra was not planned on it


class CaseWarning(UserWarning):
    """Something in a case looks odd but is not refused."""


def anatomical_axes(frame: str) -> np.ndarray:
    """(3, 3) rotation whose columns are left, posterior, superior in mesh coordinates.

    Raises ValueError for a frame that is neither 'LPS' nor 'RAS'.
    """
    if frame == "LPS":
        return np.eye(3)
    if frame == "RAS":
        return np.diag([-1.0, -1.0, 1.0])
    raise ValueError(f"frame {frame!r}: write LPS or RAS")


def load_case(path: str | Path) -> Case:
    """Load the case in a folder (or named by its case.yaml); meshes and plan in metres.

    The plan is brought into the mesh frame. `Case.sha256` is over case.yaml, meshes and plan.

    Raises:
        CaseError: anything is missing, unreadable, contradictory or implausible; nothing is loaded.
    Warns:
        CaseWarning: a planned screw does not point into the bone (anterior).
    """
    path = Path(path)
    file = path if path.name.endswith((".yaml", ".yml")) else path / "case.yaml"
    if not file.is_file():
        raise CaseError(file, "", "there is no case here", "give the folder that holds case.yaml")
    document = _document(file)
    frame = _choice(file, document, "frame", ("LPS", "RAS"))
    m_per_unit = _M_PER_UNIT[_choice(file, document, "unit", ("mm", "m"))]
    mesh_files = _vertebrae(file, document.get("vertebrae"))
    exposed = _exposed(file, document, tuple(mesh_files))
    plan_entry = document.get("plan")
    markups = [] if plan_entry is None else plan_files(file.parent, plan_entry, file)

    meshes = {
        level: load_surface(mesh, f"vertebrae/{level}", m_per_unit)
        for level, mesh in mesh_files.items()
    }
    plan = tuple(load_plan(markups, frame))
    _check_order(file, meshes, frame)
    _check_plan(markups[0] if len(markups) == 1 else file, plan, meshes, frame)
    return Case(
        name=str(document.get("name", file.parent.name)),
        frame=frame,
        meshes=meshes,
        exposed_levels=exposed,
        plan=plan,
        sha256=_sha256([file, *mesh_files.values(), *markups]),
    )


def _document(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CaseError(file, "", f"not readable as YAML ({error})", "correct the file") from error
    if not isinstance(document, dict):
        raise CaseError(file, "", "it is no mapping", "write version, frame, unit, vertebrae")
    if document.get("version") != 1:
        raise CaseError(
            file, "version", f"is {document.get('version')!r}", "this program reads version: 1"
        )
    for key in document:
        near = difflib.get_close_matches(str(key), _FIELDS, 1, 0.8)
        if key not in _FIELDS and near:  # a typing error must not open all levels silently
            raise CaseError(file, str(key), "this field is unknown", f"did you mean {near[0]}?")
    return document


def _choice(file: Path, document: dict[str, Any], field: str, allowed: tuple[str, ...]) -> str:
    value = document.get(field)
    if value not in allowed:
        raise CaseError(
            file,
            field,
            f"is {value!r}" if field in document else "is missing",
            f"write {field}: {' or '.join(allowed)}",
        )
    return str(value)


def _level(file: Path, field: str, value: object) -> str:
    if value not in LEVELS:
        raise CaseError(file, field, f"level {value!r} is unknown", "use T1 to T12, L1 to L6, S1")
    return str(value)


def _vertebrae(file: Path, entries: object) -> dict[str, Path]:
    if not isinstance(entries, list) or not entries:
        raise CaseError(file, "vertebrae", "there are none", "list {level: L1, mesh: L1.ply}, …")
    meshes: dict[str, Path] = {}
    for i, entry in enumerate(entries):
        field = f"vertebrae[{i}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("mesh"), str):
            raise CaseError(
                file, field, "it has no level and mesh", "write {level: L1, mesh: L1.ply}"
            )
        level = _level(file, f"{field}/level", entry.get("level"))
        if level in meshes:
            raise CaseError(
                file, f"{field}/level", f"level {level} is there twice", "keep one mesh per level"
            )
        meshes[level] = file.parent / entry["mesh"]
    return meshes


def _exposed(file: Path, document: dict[str, Any], levels: tuple[str, ...]) -> tuple[str, ...]:
    entries = document.get("exposed_levels")
    if entries is None:
        return levels
    if not isinstance(entries, list) or not entries:
        raise CaseError(
            file,
            "exposed_levels",
            "it is no list of levels",
            "list the opened levels, or leave the field out for all",
        )
    exposed = tuple(_level(file, "exposed_levels", entry) for entry in entries)
    for level in exposed:
        if exposed.count(level) > 1:
            raise CaseError(file, "exposed_levels", f"level {level} is there twice", "keep one")
        if level not in levels:
            raise CaseError(
                file,
                "exposed_levels",
                f"level {level} has no mesh",
                "add it to vertebrae or take it out",
            )
    return exposed


def _check_order(file: Path, meshes: dict[str, Mesh], frame: str) -> None:
    """Refuse meshes that do not lie one below the other, in the order of their levels."""
    superior = anatomical_axes(frame)[:, 2]
    levels = sorted(meshes, key=LEVELS.index)
    for upper, lower in itertools.pairwise(levels):
        step = meshes[upper].vertices_m.mean(axis=0) - meshes[lower].vertices_m.mean(axis=0)
        distance_mm = 1e3 * float(np.linalg.norm(step))
        # S1 follows T12 to L6 directly or with levels left out: count what may lie between
        gap = LEVELS.index(lower) - LEVELS.index(upper)
        field = f"vertebrae/{upper}, {lower}"
        if distance_mm < _STEP_MM[0] or distance_mm > _STEP_MM[1] * gap:
            raise CaseError(
                file,
                field,
                f"their centres are {distance_mm:.4g} mm apart",
                "export all vertebrae in one CT frame, each under its own level",
            )
        if step @ superior <= 0.0:
            raise CaseError(
                file,
                field,
                f"{upper} lies caudal of {lower}",
                "check the level names, and that frame says how the meshes were exported",
            )


def _check_plan(
    file: Path, plan: tuple[ScrewPlan, ...], meshes: dict[str, Mesh], frame: str
) -> None:
    """Refuse lines that lie off their vertebra or on the wrong side of it."""
    trees = {level: cKDTree(mesh.vertices_m) for level, mesh in meshes.items()}
    for line in plan:
        field = f"plan/{line.level}_{line.side}"
        if line.level not in meshes:
            raise CaseError(
                file,
                field,
                f"level {line.level} has no mesh",
                "add the mesh to vertebrae or take the line out",
            )
        middle = 0.5 * (line.entry_m + line.target_m)
        entry_mm = 1e3 * float(trees[line.level].query(line.entry_m)[0])
        if entry_mm > _PLAN_REACH_MM:
            raise CaseError(
                file,
                field,
                f"its entry lies {entry_mm:.0f} mm away from the mesh of {line.level}",
                "check frame and unit, in case.yaml and in the markups file",
            )
        distances = {level: float(tree.query(middle)[0]) for level, tree in trees.items()}
        nearest = min(distances, key=distances.__getitem__)
        # inside a pedicle the surface is a few mm away; 10 mm outside is clearly another bone
        if nearest != line.level and distances[line.level] > distances[nearest] + 0.010:
            raise CaseError(
                file,
                field,
                f"it runs through {nearest}, not {line.level}",
                "correct the line's name or the level of the mesh",
            )
    _check_sides(file, plan, meshes, frame)


def _check_sides(
    file: Path, plan: tuple[ScrewPlan, ...], meshes: dict[str, Mesh], frame: str
) -> None:
    left, posterior, _ = anatomical_axes(frame).T
    entries = {(line.level, line.side): line.entry_m for line in plan}
    wrong: list[str] = []
    for line in plan:
        other = entries.get((line.level, "right" if line.side == "left" else "left"))
        # against its partner where there is one: a turned vertebra's centre may lie off the middle
        middle = meshes[line.level].vertices_m.mean(axis=0) if other is None else other
        toward_left = float((line.entry_m - middle) @ left)
        if toward_left * (1.0 if line.side == "left" else -1.0) <= 0.0:
            wrong.append(f"{line.level}_{line.side}")
    if wrong and len(wrong) == len(plan):
        raise CaseError(
            file,
            "plan",
            "all left lines lie on the patient's right, and right on left",
            "meshes and plan are mirrored, or frame is wrong: check the export",
        )
    if wrong:
        raise CaseError(
            file,
            f"plan/{wrong[0]}",
            "it lies on the other side of its vertebra",
            "correct the line's name",
        )
    for line in plan:
        if (line.target_m - line.entry_m) @ posterior >= 0.0:
            warnings.warn(
                f"{file}: plan/{line.level}_{line.side}: the screw points backwards out of the "
                "body; the first point must be the entry",
                CaseWarning,
                stacklevel=4,
            )


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def write_case(
    directory: str | Path, case: Case, *, unit: str = "mm", mesh_format: str = "ply"
) -> Path:
    """Write a case as case.yaml, one mesh per level and plan.mrk.json; returns case.yaml's path.

    Args:
        directory: made if it is not there.
        case: what to write; its sha256 is not used.
        unit: 'mm' or 'm', of the meshes (markups are always in mm, as Slicer's).
        mesh_format: 'ply', 'stl' or 'obj'. PLY and STL hold single precision.

    Raises ValueError for another unit or format.
    """
    if unit not in _M_PER_UNIT or mesh_format not in ("ply", "stl", "obj"):
        raise ValueError(f"unit {unit!r}, format {mesh_format!r}: use mm or m; ply, stl or obj")
    if not re.fullmatch(r"LPS|RAS", case.frame):
        raise ValueError(f"frame {case.frame!r}: LPS or RAS")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    document: dict[str, object] = {
        "version": 1,
        "name": case.name,
        "frame": case.frame,
        "unit": unit,
        "vertebrae": [{"level": v, "mesh": f"{v}.{mesh_format}"} for v in case.meshes],
        "exposed_levels": list(case.exposed_levels),
    }
    for level, mesh in case.meshes.items():
        surface = trimesh.Trimesh(mesh.vertices_m / _M_PER_UNIT[unit], mesh.faces, process=False)
        surface.export(directory / f"{level}.{mesh_format}")
    if case.plan:
        document["plan"] = "plan.mrk.json"
        text = json.dumps(plan_document(case.plan, case.frame), indent=1)
        (directory / "plan.mrk.json").write_text(text + "\n", encoding="utf-8")
    file = directory / "case.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return file
