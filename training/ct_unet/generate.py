# SPDX-License-Identifier: Apache-2.0
"""One virtual patient's bones as the CT network's data: distances on a grid, of which `dataset.py`
makes any number of scans.

    python -m training.ct_unet.generate --split train --units 4     # resumes; times each

A unit is DATA/ct/SPLIT/<index>.npz; see `Unit`. Anatomies are of the school's lists (splits.yaml).
The real CTs are for testing alone, and so are the meshes that were made of them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from spine_nav_common.core.surface import distance_field
from spine_nav_common.core.types import LEVELS, Mesh
from spine_nav_sim.core.anatomy_field import Field, Tube
from training.spine_unet.generate import MAKE, split_list

STEP_MM = 1.5
UNIT_MM = 0.05  # of the stored distance
FAR_MM = 6.35
RIB, PELVIS = 250, 251
VIEWS = 24  # samples that a unit is good for before it counts as used once
_MARGIN_MM = np.array([[45.0, 60.0, 25.0], [45.0, 20.0, 25.0]])
_X, _Z = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Unit:
    """distance (Z, Y, X) int8 in UNIT_MM to the nearest bone, negative inside; who (Z, Y, X) uint8:
    which bone that is, 1 + row of centres, RIB or PELVIS; origin_mm (3,) of voxel 0, x y z in LPS;
    centres_mm (K, 3) of the vertebrae, from head to foot; levels, K names; ribs (K,) bool: who bears
    ribs; typical: five lumbar vertebrae between the ribs and the sacrum."""

    distance: np.ndarray
    who: np.ndarray
    origin_mm: np.ndarray
    centres_mm: np.ndarray
    levels: tuple[str, ...]
    ribs: np.ndarray
    typical: bool


def save_unit(path: Path, unit: Unit) -> None:
    """Whole or not at all; not compressed, since reading speed counts."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(
            file, distance=unit.distance, who=unit.who, origin_mm=unit.origin_mm,
            centres_mm=unit.centres_mm, levels=np.array(unit.levels), ribs=unit.ribs,
            typical=np.array(unit.typical),
        )  # fmt: skip
    part.rename(path)


def load_unit(path: Path) -> Unit:
    """Read what `save_unit` wrote."""
    with np.load(path) as data:
        return Unit(
            data["distance"], data["who"], data["origin_mm"], data["centres_mm"],
            tuple(str(v) for v in data["levels"]), data["ribs"], bool(data["typical"]),
        )  # fmt: skip


def find_units(folder: Path) -> list[Path]:
    """All units below a folder, in a fixed order."""
    return sorted(folder.glob("[0-9]*.npz"))


def centroid_mm(mesh: Mesh) -> np.ndarray:
    """(3,) centre of a closed mesh's volume."""
    v = 1e3 * mesh.vertices_m
    middle = v.mean(axis=0)
    a, b, c = (v[mesh.faces[:, i]] - middle for i in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c))
    return middle + (volume[:, None] * (a + b + c)).sum(axis=0) / (4.0 * volume.sum())


def make_bones(meshes: dict[str, Mesh], rng: np.random.Generator) -> Unit:
    """Vertebrae, stand-ins above them, ribs and pelvis on one grid. Raises ValueError."""
    meshes = _extended(meshes, rng)
    levels = tuple(meshes)
    centres = np.array([centroid_mm(m) for m in meshes.values()])
    typical = rng.random() > 0.10
    last = "T12" if typical else str(rng.choice(["T11", "L1"]))
    ribs = np.array([LEVELS.index(v) <= LEVELS.index(last) for v in levels])
    points = 1e3 * np.concatenate([m.vertices_m for m in meshes.values()])
    low = points.min(axis=0) - _MARGIN_MM[0]
    high = points.max(axis=0) + _MARGIN_MM[1]
    bones = Field(low, high, STEP_MM)  # axes x, y, z
    bones.values[:] = FAR_MM
    who = np.zeros(bones.values.shape, np.uint8)
    for row, mesh in enumerate(meshes.values()):
        _add_mesh(bones, who, row + 1, mesh)
    others = ((RIB, _ribs(centres, ribs, rng)), (PELVIS, _pelvis(meshes, rng)))
    for code, tubes in others:
        field = Field(low, high, STEP_MM)
        for tube in tubes:
            field.add(tube)
        gap = float(rng.uniform(0.6, 2.0))
        values = np.maximum(field.values, gap - bones.values)  # the joint's space stays free
        nearer = values < bones.values
        bones.values[nearer], who[nearer] = values[nearer], code
    stored = np.round(np.clip(bones.values, -FAR_MM, FAR_MM) / UNIT_MM).astype(np.int8)
    return Unit(
        np.ascontiguousarray(stored.transpose(2, 1, 0)),
        np.ascontiguousarray(who.transpose(2, 1, 0)),
        bones.low, centres, levels, ribs, typical,
    )  # fmt: skip


def _add_mesh(bones: Field, who: np.ndarray, code: int, mesh: Mesh) -> None:
    """Union with a mesh: exact near its surface, which a coarse look finds first."""
    v = 1e3 * mesh.vertices_m
    where = bones.window(v.min(axis=0) - FAR_MM, v.max(axis=0) + FAR_MM)
    if where is None:
        return
    box, grid = where
    field = distance_field(mesh)
    points = np.stack(np.broadcast_arrays(*grid), axis=-1)
    coarse_points = points[::2, ::2, ::2]
    coarse = 1e3 * field(1e-3 * coarse_points.reshape(-1, 3)).reshape(coarse_points.shape[:3])
    values = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    values = values[tuple(slice(n) for n in points.shape[:3])].astype(np.float32)
    near = np.abs(values) < FAR_MM + 1.8 * STEP_MM
    values[near] = 1e3 * field(1e-3 * points[near])
    nearer = values < bones.values[box]
    bones.values[box][nearer] = values[nearer]
    who[box][nearer] = code


def _extended(meshes: dict[str, Mesh], rng: np.random.Generator) -> dict[str, Mesh]:
    """Copies of the topmost vertebra above it, smaller and in kyphosis: the simulation ends at T12."""
    top = next(iter(meshes))
    centres = [centroid_mm(m) for m in meshes.values()]
    step = centres[0] - centres[1] if len(centres) > 1 else np.array([0.0, 2.0, 34.0])
    out: dict[str, Mesh] = {}
    local = 1e3 * meshes[top].vertices_m - centres[0]
    at, turn, size = centres[0], Rotation.identity(), 1.0
    for k in range(1, 1 + int(rng.integers(0, 6))):
        index = LEVELS.index(top) - k
        if index < 0:
            break
        size *= rng.uniform(0.95, 0.99)
        turn = turn * Rotation.from_euler("xyz", rng.normal([3.0, 0.0, 0.0], [2.0, 1.0, 1.5]),
                                          degrees=True)  # fmt: skip
        at = at + turn.apply(step) * size * rng.uniform(0.95, 1.02)
        grown = local * size * rng.normal(1.0, 0.03, 3)
        out[LEVELS[index]] = Mesh(1e-3 * (turn.apply(grown) + at), meshes[top].faces)
    return {**dict(reversed(out.items())), **meshes}


def _ribs(centres: np.ndarray, ribs: np.ndarray, rng: np.random.Generator) -> list[Tube]:
    """Crude: head beside the body, back and out, then forwards and down; the last ones are short."""
    course = np.array([
        [21, -6, 4], [30, 8, 2], [48, 20, -6], [72, 18, -18], [96, -10, -34], [104, -50, -52],
    ], float)  # fmt: skip
    bearers = np.flatnonzero(ribs)
    tubes = []
    for order, row in enumerate(reversed(bearers)):
        for side in (1.0, -1.0):
            share = rng.uniform(0.25, 0.8) if order == 0 else 1.0
            count = max(2, round(share * len(course)))
            points = course[:count] * rng.normal(1.0, 0.06, 3) + rng.normal(0.0, 1.0, (count, 3))
            points = points * [side, 1, 1] + centres[row]
            thick = rng.uniform(2.6, 4.2)
            tubes.append(Tube.of(points, 1.5 * thick, thick, _Z, 2.0, 2.0))
    return tubes


def _pelvis(meshes: dict[str, Mesh], rng: np.random.Generator) -> list[Tube]:
    """Crude iliac wings beside the sacrum, and the heads of the femora."""
    if "S1" not in meshes:
        return []
    v = 1e3 * meshes["S1"].vertices_m
    middle = 0.5 * (v.max(axis=0) + v.min(axis=0))
    half, top, back = 0.5 * np.ptp(v[:, 0]), v[:, 2].max(), v[:, 1].max()
    tubes = []
    for side in (1.0, -1.0):
        j = rng.normal(0.0, 3.0, (3, 3))
        points = np.array([
            [half - 6, back - middle[1] - 4, top - middle[2] - 48],
            [half + 16, 0.0, top - middle[2] - 22],
            [half + 52, -58.0, top - middle[2] - 8],
        ]) + j  # fmt: skip
        points = points * [side, 1, 1] + middle
        tubes.append(Tube.of(points, [20, 38, 30], [8, 6, 5], _Z, 2.4, 4.0, cap=9.0))
        head = middle + [side * (half + 34), -52, top - middle[2] - 95]
        tubes.append(Tube.of([head], 24.0, 24.0, _X, 2.0, 4.0))
    return tubes


def own_split(split: str) -> dict:
    """The school's list without what was made of the real CTs."""
    listed = split_list(split)
    if "meshes" not in listed:
        return listed
    return {**listed, "meshes": [m for m in listed["meshes"] if not m["path"].startswith("ct_")]}


def make_unit(folder: Path, split: str, index: int, real: Path) -> int:
    """Write unit `index`; returns the samples that it stands for. Raises ValueError."""
    listed = own_split(split)
    _, anatomy = MAKE[split](index, listed, real)
    rng = np.random.default_rng([listed["seeds"][0] + index, 3])
    save_unit(folder / f"{index:05d}.npz", make_bones(anatomy.meshes, rng))
    return VIEWS


def units_made(folder: Path) -> set[int]:
    """Indices of the units that are there."""
    return {int(p.stem) for p in find_units(folder)}


def main() -> None:
    """Generate until the asked number of units exists."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--split", choices=tuple(MAKE), required=True)
    p.add_argument("--units", type=int, default=100)
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--real", type=Path, default=Path("../shared/data"), help="real surfaces")
    p.add_argument("--data", type=Path, default=Path("training/data"))
    args = p.parse_args()
    folder = args.data / "ct" / args.split
    folder.mkdir(parents=True, exist_ok=True)
    there = units_made(folder)
    for index in range(args.first, args.first + args.units):
        if index in there:
            continue
        begun = time.perf_counter()
        try:
            make_unit(folder, args.split, index, args.real)
        except ValueError as error:
            print(f"{index:05d}: skipped: {error}", flush=True)
            continue
        print(f"{index:05d}: {time.perf_counter() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    main()
