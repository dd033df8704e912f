# SPDX-License-Identifier: Apache-2.0
"""The bones of one virtual patient for a CT: vertebrae with stand-ins above them, crude ribs and
pelvis, as distances on a grid, of which `ct_paint` and `ct_scan` make any number of scans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from spine_nav_common.core.surface import distance_field
from spine_nav_common.core.types import LEVELS, Mesh

from .anatomy_field import Field, Tube

STEP_MM = 1.5
UNIT_MM = 0.05  # of the stored distance
FAR_MM = 6.35
RIB, PELVIS = 250, 251
_MARGIN_MM = np.array([[45.0, 60.0, 25.0], [45.0, 20.0, 25.0]])
_X, _Z = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Bones:
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


def centroid_mm(mesh: Mesh) -> np.ndarray:
    """(3,) centre of a closed mesh's volume."""
    v = 1e3 * mesh.vertices_m
    middle = v.mean(axis=0)
    a, b, c = (v[mesh.faces[:, i]] - middle for i in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c))
    return middle + (volume[:, None] * (a + b + c)).sum(axis=0) / (4.0 * volume.sum())


def make_bones(meshes: dict[str, Mesh], rng: np.random.Generator) -> Bones:
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
    return Bones(
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
    """Crude iliac wings beside the sacrum, hip joints, femora, the seat and the pubic bones: a network
    that never saw them takes them for vertebrae."""
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
        wide, thick = rng.uniform(0.85, 1.15, 2)
        out = side * wide
        socket = head + [-24.0 * side, 12.0, 14.0]
        above = head + [-8.0 * side, 10.0, 42.0]
        seat = head + [-26.0 * out, 42.0, -58.0]
        front = np.array([middle[0] + 6.0 * side, head[1] - 40.0, head[2] - 12.0])
        shaft = head + [46.0 * out, 8.0, -40.0]
        for ends, size in (
            ((above, socket, seat), [13.0, 15.0, 13.0]),  # around the joint, down to the seat
            ((socket, front), [9.0, 8.0]),
            ((front, seat), [6.0, 7.0]),
            ((head, shaft, shaft + [-4.0 * side, 0.0, -90.0]), [12.0, 17.0, 14.0]),
        ):
            jitter = rng.normal(0.0, 2.5, (len(ends), 3))
            tubes.append(
                Tube.of(
                    np.array(ends) + jitter,
                    thick * np.array(size),
                    thick * np.array(size),
                    _X,
                    2.0,
                    4.0,
                )
            )
    return tubes
