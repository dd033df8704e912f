# SPDX-License-Identifier: Apache-2.0
"""A case folder (docs/contracts.md, section 1): read whole or refused, and written."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
import yaml
from scipy.spatial import cKDTree

from .errors import CaseError
from .markups import load_landmarks, load_plan, markups_files, plan_document
from .surface import Field, back_of, distance_field, load_surface
from .types import LEVELS, Case, Mesh, ScrewPlan

__all__ = ["CaseError", "anatomical_axes", "load_case", "write_case"]

_FIELDS = ("version", "name", "frame", "unit", "vertebrae", "exposed_levels", "plan", "landmarks")
_M_PER_UNIT = {"mm": 1e-3, "m": 1.0}
# Distances between the centres of neighbours in one CT frame run from about 15 mm (T1) to 70 mm
# (L5 to a whole sacrum); outside these wide bounds the meshes do not share a frame.
_STEP_MM = (5.0, 120.0)
_READERS = 2
_PLAN_REACH_MM = 50.0  # an entry point farther from its vertebra was not planned on it
# Hand-placed points miss the surface by 1 to 2 mm, tips of bicortical screws pass it by as much,
# and segmented bodies have pits; beyond this a point is clearly outside, or clearly within.
_CLEAR_M = 0.005
_BACKWARD_COS = 0.3  # a line more across than this (73 degrees) does not tell its direction


def anatomical_axes(orientation: str) -> np.ndarray:
    """(3, 3) rotation whose columns are left, posterior, superior in mesh coordinates.

    Args:
        orientation: 'LPS', 'RAS' or any other right-handed one: the sides to which x, y and z point.

    Raises ValueError for what is none.
    """
    axes = np.zeros((3, 3))
    for axis, side in enumerate(orientation if len(orientation) == 3 else ""):
        for column, pair in enumerate(("LR", "PA", "SI")):
            axes[axis, column] += (side == pair[0]) - (side == pair[1])
    if np.linalg.det(axes) < 0.5:
        raise ValueError(f"frame {orientation!r}: write LPS or RAS")
    return axes


def load_case(
    path: str | Path, progress: Callable[[int, int | None, str], None] | None = None
) -> Case:
    """Load the case in a folder (or named by its case.yaml); meshes and plan in metres.

    The plan is brought into the mesh frame. `Case.sha256` is over case.yaml, meshes and plan.

    `Case.notes` says what was mended: names read freely, lines turned round, holes closed.

    Args:
        path: the folder or its case.yaml.
        progress: called as progress(meshes read, meshes in all, level).

    Raises:
        CaseError: anything is missing, unreadable, contradictory or implausible; nothing is loaded.
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
    markups = [] if plan_entry is None else markups_files(file.parent, plan_entry, file)

    points_entry = document.get("landmarks")
    points = (
        [] if points_entry is None else markups_files(file.parent, points_entry, file, "landmarks")
    )

    notes: list[str] = []
    meshes: dict[str, Mesh] = {}
    with ThreadPoolExecutor(_READERS) as pool:  # NumPy's sorts drop the GIL
        surfaces = pool.map(
            lambda item: load_surface(item[1], f"vertebrae/{item[0]}", m_per_unit),
            mesh_files.items(),
        )
        for level, surface in zip(mesh_files, surfaces, strict=True):
            meshes[level] = surface.mesh
            notes += surface.notes
            if progress is not None:
                progress(len(meshes), len(mesh_files), level)
    fields = {level: distance_field(mesh) for level, mesh in meshes.items()}.__getitem__
    read = load_plan(markups, frame)
    notes += read.notes
    _check_order(file, meshes, frame)
    lies, told = _orientation(file, meshes, frame, fields)
    plan_file = markups[0] if len(markups) == 1 else file
    plan, turned = _check_plan(plan_file, read.lines, meshes, lies or frame, fields)
    notes += [*told, *turned]
    return Case(
        name=str(document.get("name", file.parent.name)),
        frame=frame,
        meshes=meshes,
        exposed_levels=exposed,
        plan=plan,
        sha256=_sha256([file, *mesh_files.values(), *markups, *points]),
        notes=tuple(notes),
        landmarks=load_landmarks(points, frame, meshes),
        lies=lies,
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


def _orientation(
    file: Path, meshes: dict[str, Mesh], frame: str, fields: Callable[[str], Field]
) -> tuple[str, list[str]]:
    """How the bones lie where it is not as `frame` says ("" = as it says), and a note for the user.

    A scan whose header has the patient on the side, or a model with axes of its own, is a right-handed
    frame turned about the long axis: the bones tell left from right in it as well. Refuses LPS called
    RAS: the plan of another program would be brought into the wrong one.
    """
    axes = anatomical_axes(frame)
    backs = [
        back_of(mesh, axes[:, 2], fields(level)) for level, mesh in meshes.items() if level != "S1"
    ]
    back = axes.T @ sum((b for b in backs if b is not None), np.zeros(3))
    if not back.any():
        return "", []
    quarters = round(float(np.arctan2(-back[0], back[1])) / (0.5 * np.pi)) % 4
    if quarters == 0:
        return "", []
    if quarters == 2:
        raise CaseError(
            file,
            "frame",
            f"says {frame}, but the backs of the vertebrae point forwards in it",
            f"write frame: {'RAS' if frame == 'LPS' else 'LPS'}, if the meshes were exported so",
        )
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    sides = (axes @ np.linalg.matrix_power(quarter, quarters)).T  # rows: left, posterior, superior
    lies = "".join(
        pair[0] if sides[row, axis] > 0.0 else pair[1]
        for axis, row in enumerate(np.abs(sides).argmax(axis=0))
        for pair in (("LR", "PA", "SI")[row],)
    )
    note = (
        f"{file}: frame says {frame}, but the vertebrae lie turned in it by a quarter about the long"
        f" axis ({lies}): left and right are taken from the bones; check the patient's position in the"
        " scan's header"
    )
    return lies, [note]


def _check_plan(
    file: Path,
    plan: tuple[ScrewPlan, ...],
    meshes: dict[str, Mesh],
    frame: str,
    fields: Callable[[str], Field],
) -> tuple[tuple[ScrewPlan, ...], list[str]]:
    """The plan with reversed lines turned round, and a note for these.

    Refuses lines that lie off their vertebra, on its wrong side, or in no clear direction.
    """
    trees = {
        level: cKDTree(mesh.vertices_m, balanced_tree=False, compact_nodes=False)
        for level, mesh in meshes.items()
    }
    for line in plan:
        if line.level not in meshes:
            raise CaseError(
                file,
                _field(line),
                f"level {line.level} has no mesh",
                "add the mesh to vertebrae or take the line out",
            )
        ends = np.array([line.entry_m, line.target_m])
        if 1e3 * trees[line.level].query(ends)[0].min() > _PLAN_REACH_MM:
            raise _far_away(file, line, trees[line.level])
        middle = ends.mean(axis=0)
        distances = {level: float(tree.query(middle)[0]) for level, tree in trees.items()}
        nearest = min(distances, key=distances.__getitem__)
        # inside a pedicle the surface is a few mm away; 10 mm outside is clearly another bone
        if nearest != line.level and distances[line.level] > distances[nearest] + 0.010:
            raise CaseError(
                file,
                _field(line),
                f"it runs through {nearest}, not {line.level}",
                "correct the line's name or the level of the mesh",
            )
    wrong = _on_wrong_side(plan, meshes, frame)
    if wrong and len(wrong) == len(plan):  # before any turning: a mirrored line looks reversed too
        raise CaseError(
            file,
            "plan",
            "all left lines lie on the patient's right, and right on left",
            "meshes and plan are mirrored, or frame is wrong: check the export",
        )
    posterior = anatomical_axes(frame)[:, 1]
    directed = tuple(
        _directed(file, line, meshes[line.level], posterior, fields(line.level)) for line in plan
    )
    for line in directed:
        if 1e3 * float(trees[line.level].query(line.entry_m)[0]) > _PLAN_REACH_MM:
            raise _far_away(file, line, trees[line.level])
    wrong = _on_wrong_side(directed, meshes, frame)
    if wrong:
        raise CaseError(
            file,
            _field(wrong[0]),
            "it lies on the other side of its vertebra",
            "correct the line's name",
        )
    turned = [_name(a) for a, b in zip(plan, directed, strict=True) if a is not b]
    if not turned:
        return directed, []
    note = (
        f"{file}: turned round, because entry and target were exchanged: {', '.join(turned)}"
        " (the first point lay in the vertebra, the second on the bone behind it)"
    )
    return directed, [note]


def _far_away(file: Path, line: ScrewPlan, tree: cKDTree) -> CaseError:
    away_mm = 1e3 * float(tree.query(line.entry_m)[0])
    return CaseError(
        file,
        _field(line),
        f"its entry lies {away_mm:.0f} mm away from the mesh of {line.level}",
        "check frame and unit, in case.yaml and in the markups file",
    )


def _name(line: ScrewPlan) -> str:
    return f"{line.level}_{line.side}"


def _field(line: ScrewPlan) -> str:
    return f"plan/{_name(line)}"


def _directed(
    file: Path, line: ScrewPlan, mesh: Mesh, posterior: np.ndarray, field: Field
) -> ScrewPlan:
    """The line from entry to target: as it is, or turned where the bone leaves no doubt.

    Raises CaseError where both ends are outside, or the bone does not tell the direction.
    """
    ends = np.array([line.entry_m, line.target_m])
    outside_m = field(ends)
    if outside_m.min() > _CLEAR_M:
        raise CaseError(
            file,
            _field(line),
            f"both ends lie outside the bone of {line.level}, {1e3 * outside_m[0]:.0f} and"
            f" {1e3 * outside_m[1]:.0f} mm from it",
            "place entry and target again, and check that plan and mesh are of one CT",
        )
    behind = (ends - mesh.vertices_m.mean(axis=0)) @ posterior
    backward = float((behind[1] - behind[0]) / np.linalg.norm(ends[1] - ends[0]))
    if backward < 0.0:
        return line
    in_front, at_back = outside_m
    clear = (
        backward >= _BACKWARD_COS
        and behind[1] > 0.0 > behind[0]
        and in_front <= _CLEAR_M
        and at_back >= -_CLEAR_M
    )
    if not clear:
        raise CaseError(
            file,
            _field(line),
            "it points backwards out of the body, and the bone does not tell which end is the entry",
            "make the first point the entry at the back of the bone, the second the target in the"
            " body",
        )
    return replace(line, entry_m=line.target_m, target_m=line.entry_m)


def _on_wrong_side(
    plan: tuple[ScrewPlan, ...], meshes: dict[str, Mesh], frame: str
) -> list[ScrewPlan]:
    left = anatomical_axes(frame)[:, 0]
    entries = {(line.level, line.side): line.entry_m for line in plan}
    wrong: list[ScrewPlan] = []
    for line in plan:
        other = entries.get((line.level, "right" if line.side == "left" else "left"))
        # against its partner where there is one: a turned vertebra's centre may lie off the middle
        middle = meshes[line.level].vertices_m.mean(axis=0) if other is None else other
        toward_left = float((line.entry_m - middle) @ left)
        if toward_left * (1.0 if line.side == "left" else -1.0) <= 0.0:
            wrong.append(line)
    return wrong


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
