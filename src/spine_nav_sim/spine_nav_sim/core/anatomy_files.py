# SPDX-License-Identifier: Apache-2.0
"""Anatomies from folders of vertebra meshes that others made."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from spine_nav_common.core.errors import CaseError, InputError
from spine_nav_common.core.surface import MESH_FORMATS, load_surface
from spine_nav_common.core.types import LEVELS, Mesh
from spine_nav_sim.core.anatomy import Anatomy
from spine_nav_sim.core.planning import plan_screws

# R_LPS_mesh for each frame that mesh files come in; columns are the mesh axes in LPS.
FRAMES: dict[str, np.ndarray] = {
    "LPS": np.eye(3),
    "RAS": np.diag([-1.0, -1.0, 1.0]),
    "x_anterior": np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
}
_LEVEL_IN_NAME = re.compile(
    r"(?<![A-Za-z0-9])(T\d{1,2}|L[1-6]|S1|sacrum)(?![A-Za-z0-9])", re.IGNORECASE
)
_MIN_OFFSET = 0.003  # metres; a vertebra's box reaches at least so much further back than forward


def load_anatomy(mesh_dir: str | Path, frame: str | None = None) -> Anatomy:
    """Every vertebra mesh of a folder, in LPS and metres, with an automatic plan.

    File names carry the level as a word of its own (L3.ply, sub-verse010_L1.stl, sacrum.obj);
    millimetres or metres are told apart by size; files of other kinds are ignored.

    Args:
        mesh_dir: the folder.
        frame: 'LPS', 'RAS' or 'x_anterior' (+x anterior, +y left, +z superior); None detects it.

    Raises:
        InputError: no mesh, a name without a level, one level twice, a broken mesh, an unknown
            frame, or a frame that cannot be told.
    """
    folder = Path(mesh_dir)
    if frame is not None and frame not in FRAMES:
        raise InputError(folder, "frame", f"{frame!r} is unknown", f"use one of {list(FRAMES)}")
    files = (
        sorted(f for f in folder.iterdir() if f.suffix.lower() in MESH_FORMATS)
        if folder.is_dir()
        else []
    )
    if not files:
        raise InputError(folder, "", "no PLY, STL, OBJ or VTP mesh here", "name a folder of meshes")
    raw: dict[str, Mesh] = {}
    for file in files:
        level = level_of(file)
        if level in raw:
            raise InputError(
                file, "level", f"{level} stands in this folder twice", "keep one patient per folder"
            )
        raw[level] = _in_metres(file)
    raw = dict(sorted(raw.items(), key=lambda item: LEVELS.index(item[0])))
    frame = frame or detect_frame(raw, folder)
    R = FRAMES[frame]
    meshes = {level: Mesh(m.vertices_m @ R.T, m.faces) for level, m in raw.items()}
    _check_order(meshes, folder)
    return Anatomy(folder.name, meshes, plan_screws(meshes), {"frame": frame, "source": "files"})


def load_vertebra(file: str | Path, frame: str | None = None) -> tuple[str, Mesh]:
    """Level and mesh (LPS, metres) of one file; errors as in load_anatomy."""
    file = Path(file)
    level, mesh = level_of(file), _in_metres(file)
    R = FRAMES[frame or detect_frame({level: mesh}, file)]
    return level, Mesh(mesh.vertices_m @ R.T, mesh.faces)


def level_of(file: Path) -> str:
    """The level named in a file's name, upper case; the sacrum is S1."""
    found = {m.upper().replace("SACRUM", "S1") for m in _LEVEL_IN_NAME.findall(_words(file.stem))}
    found &= set(LEVELS)
    if len(found) != 1:
        raise InputError(
            file, "level", f"{len(found)} levels in the name", "name the file after one, as L3.ply"
        )
    return found.pop()


def _words(stem: str) -> str:
    return stem.replace("_", " ")


def _in_metres(file: Path) -> Mesh:
    """The surface; a vertebra measures centimetres, so only one of both units can be right."""
    try:
        return load_surface(file, "mesh", 1e-3).mesh
    except CaseError as in_mm:
        try:
            return load_surface(file, "mesh", 1.0).mesh
        except CaseError:
            raise in_mm from None


def detect_frame(meshes: dict[str, Mesh], source: str | Path = "") -> str:
    """'LPS', 'RAS' or 'x_anterior' from the shape: the processes behind the body stretch the box,
    while the volume stays in front.

    Raises:
        InputError: the direction is not clear, or the levels disagree.
    """
    votes: dict[str, str] = {}
    voters = {level: mesh for level, mesh in meshes.items() if level != "S1"}  # no such shape
    for level, mesh in voters.items():
        v = mesh.vertices_m
        a, b, c = (v[mesh.faces[:, i]] - v.mean(0) for i in range(3))
        volume = np.einsum("ij,ij->i", a, np.cross(b, c))
        centroid = (volume[:, None] * (a + b + c) / 4).sum(0) / volume.sum() + v.mean(0)
        offset = ((v.min(0) + v.max(0)) / 2 - centroid)[:2]
        size = float(np.linalg.norm(offset))
        for name, R in FRAMES.items():
            posterior = R.T[:2, 1]  # LPS +y in mesh coordinates
            if size > _MIN_OFFSET and offset @ posterior > 0.85 * size:
                votes[level] = name
    if len(votes) < len(voters) or len(set(votes.values())) != 1:
        raise InputError(
            source,
            "frame",
            f"the meshes do not tell which way is posterior ({votes or 'no level does'})",
            f"say the frame, one of {list(FRAMES)}",
        )
    return next(iter(votes.values()))


def _check_order(meshes: dict[str, Mesh], folder: Path) -> None:
    centres = [m.vertices_m.mean(0) for m in meshes.values()]
    names = list(meshes)
    for i in range(len(names) - 1):
        if centres[i + 1][2] >= centres[i][2]:
            raise InputError(
                folder,
                "frame",
                f"{names[i + 1]} does not lie below {names[i]} along +z",
                f"export the meshes in one CT frame with +z superior, one of {list(FRAMES)}",
            )
