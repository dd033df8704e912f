# SPDX-License-Identifier: Apache-2.0
"""Pedicle screws for one vertebra: the axis that keeps farthest off the cortex, and the thickest and
longest screw of the tray that keeps its margin there; or why none does.

Every axis through the pedicle within the limits of convergence and tilt is looked at on a grid of
distances; the best are searched on, and judged by exact distances to the surface.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from rod_bending_ar.core.cortex import BEYOND, CAP_M, Cortex
from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.surface import distances_and_slopes
from spine_nav_common.core.types import Mesh, Rejected, ScrewPlan
from spine_nav_common.core.voxels import inside_grid
from spine_nav_sim.core.anatomy_frame import VertebraFrame, find_frame

from .axes import score_axes, way_of
from .implants import Implants

Distance = Callable[[np.ndarray], np.ndarray]
SIDES = (("left", 1.0), ("right", -1.0))
KEPT = 3  # plans per pedicle
_VOXEL_MM = 2.0
_CONVERGE_DEG = (0.0, 36.0)
_TILT_DEG = 20.0
_APART_DEG, _APART_MM = 4.0, 3.0  # between plans that count as different
_ROUNDS = 7


@dataclass(frozen=True)
class PlannerConfig:
    """margin_mm: wanted between thread and cortex all along; least_mm: without it no screw is
    planned (a thinner one is looked for first); tip_mm: bone before the tip; head_mm: radius of
    the head about the entry, for the joint above."""

    margin_mm: float = 1.5
    least_mm: float = 1.0
    tip_mm: float = 5.0
    head_mm: float = 5.0


@dataclass(frozen=True)
class PlannedScrew:
    """A screw of the tray on an axis. clearance_mm: from the axis to the cortex, the least of the
    shaft; margin_mm: what is left of it beside the thread; joint_mm: of the head to the vertebra
    above, None without one; why: in words."""

    plan: ScrewPlan
    diameter_mm: float
    length_mm: float
    clearance_mm: float
    joint_mm: float | None
    why: str

    @property
    def margin_mm(self) -> float:
        """Of the thread to the cortex."""
        return self.clearance_mm - 0.5 * self.diameter_mm


@dataclass(frozen=True)
class Pedicle:
    """One side: best axis of all (point_m, into; unit vector), whatever fits there, and the plans,
    best first, or why there is none."""

    side: str
    point_m: np.ndarray
    into: np.ndarray
    plans: tuple[PlannedScrew, ...] | Rejected


@dataclass(frozen=True)
class Vertebra:
    """A vertebra's frame, its surface with exact distances, and both pedicles by side."""

    level: str
    frame: VertebraFrame
    cortex: Cortex
    pedicles: dict[str, Pedicle | Rejected]


def plan_vertebra(
    level: str,
    mesh: Mesh,
    implants: Implants,
    config: PlannerConfig | None = None,
    above: Distance | None = None,
) -> Vertebra | Rejected:
    """Both pedicles of a vertebra. mesh: LPS, metres; above: distances (metres) to the vertebra above.

    Rejected: S1, or a bone whose body and canal cannot be found.
    """
    if level == "S1":
        return Rejected(
            "S1: screws of the sacrum are not planned yet: place them by hand in Slicer"
        )
    frame = find_frame(mesh)
    if isinstance(frame, Rejected):
        return Rejected(f"{level}: {frame.reason}")
    config = config or PlannerConfig()
    cortex = Cortex(mesh, (), "LPS")
    field, low = _field(mesh, frame)
    pedicles = {
        side: _pedicle(level, side, sign, field, low, frame, cortex, implants, config, above)
        for side, sign in SIDES
    }
    return Vertebra(level, frame, cortex, pedicles)


def _field(mesh: Mesh, frame: VertebraFrame) -> tuple[np.ndarray, np.ndarray]:
    """Signed distances and slopes (X, Y, Z, 4), mm, in the bone of body and arch and one voxel about
    it, BEYOND elsewhere; first voxel's place."""
    depth = 1e3 * frame.body_depth
    low = np.array([-32.0, -depth - 6.0, -18.0])
    high = np.array([32.0, 40.0, 26.0])
    T = frame.T_mesh_vertebra
    vertices = 1e3 * transform_points(np.linalg.inv(T), mesh.vertices_m)
    shape = tuple(np.ceil((high - low) / _VOXEL_MM).astype(int) + 1)
    bone = inside_grid(vertices, mesh.faces, low, _VOXEL_MM, shape)
    wanted = ndimage.binary_dilation(bone)
    points = transform_points(T, 1e-3 * (low + _VOXEL_MM * np.argwhere(wanted)))
    distance, slope = distances_and_slopes(mesh, points, ~bone[wanted])
    field = np.full((*shape, 4), BEYOND, np.float32)
    field[wanted] = np.concatenate([1e3 * distance[:, None], slope @ T[:3, :3]], axis=1)
    return field, low


def _starts(field: np.ndarray, low: np.ndarray, side: float) -> np.ndarray:
    """(N, 3) deepest places beside the canal, and around them."""
    x, y, z = (low[k] + _VOXEL_MM * np.arange(field.shape[k]) for k in range(3))
    found = []
    for j in np.flatnonzero((y >= 1.0) & (y <= 8.0)):
        rows, columns = np.flatnonzero((side * x > 5.0) & (side * x < 27.0)), np.flatnonzero(
            (z > -8.0) & (z < 17.0)
        )  # fmt: skip
        depth = -field[np.ix_(rows, [j], columns)][:, 0, :, 0]
        i, k = np.unravel_index(int(depth.argmax()), depth.shape)
        if depth[i, k] > 0.0:
            found.append([x[rows[i]], y[j], z[columns[k]]])
    if not found:
        return np.zeros((0, 3))
    off = np.array([[a, 0.0, b] for a in (-1.5, 0.0, 1.5) for b in (-2.0, 0.0, 2.0)])
    return (np.array(found)[:, None] + off).reshape(-1, 3)


def _pedicle(
    level: str,
    side: str,
    sign: float,
    field: np.ndarray,
    low: np.ndarray,
    frame: VertebraFrame,
    cortex: Cortex,
    implants: Implants,
    config: PlannerConfig,
    above: Distance | None,
) -> Pedicle | Rejected:
    starts = _starts(field, low, sign)
    if not len(starts):
        return Rejected(
            f"{level} {side}: there is no bone beside the canal where the pedicle should be"
        )
    lengths = np.array(implants.lengths_mm)
    most = 0.5 * implants.diameters_mm[-1] + config.margin_mm
    limits = np.array([config.tip_mm, 0.35 * 1e3 * frame.body_depth, most, 1.0])

    def score(axes: np.ndarray, limits: np.ndarray = limits) -> np.ndarray:
        return np.asarray(
            score_axes(np.ascontiguousarray(axes), field, low, _VOXEL_MM, lengths, sign, limits)
        )

    converge = np.radians(np.arange(_CONVERGE_DEG[0], _CONVERGE_DEG[1] + 1.0, 6.0))
    tilt = np.radians(np.arange(-18.0, 19.0, 6.0))
    turns = np.stack(np.meshgrid(converge, tilt, indexing="ij"), axis=-1).reshape(-1, 2)
    axes = np.concatenate(
        [np.repeat(starts, len(turns), axis=0), np.tile(turns, (len(starts), 1))], axis=1
    )
    found = score(axes)
    best = _distinct(axes, found, sign, 2 * KEPT)
    if not best:
        return Rejected(
            f"{level} {side}: no axis through the pedicle holds a screw of"
            f" {implants.lengths_mm[0]:g} mm, converging {_CONVERGE_DEG[0]:.0f} to"
            f" {_CONVERGE_DEG[1]:.0f}°, with {config.tip_mm:g} mm of bone before its tip"
        )
    searched = [_search(axes[k], score) for k in best]
    pairs = sorted(searched, key=lambda pair: -pair[1][0])
    T = frame.T_mesh_vertebra
    kept = _distinct(np.array([a for a, _ in pairs]), np.array([f for _, f in pairs]), sign, KEPT)
    plans, thin = [], 0.0
    for k in kept:
        axis, f = pairs[k]
        screw = _screw(level, side, sign, axis, f, T, cortex, implants, config, above)
        if isinstance(screw, float):
            thin = max(thin, screw)
        else:
            plans.append(screw)
    # measured on the axis farthest off the cortex: a plan has enough before, and then leans as it likes
    free = limits.copy()
    free[2] = np.inf
    axis, _ = _search(pairs[0][0], lambda tried: score(tried, free))
    point, into = transform_points(T, 1e-3 * axis[None, :3])[0], T[:3, :3] @ way_of(axis, sign)
    if not plans:
        wanted = implants.diameters_mm[0] + 2.0 * config.least_mm
        return Pedicle(side, point, into, Rejected(
            f"{level} {side}: the pedicle leaves {2.0 * thin:.1f} mm about the best axis, and the"
            f" thinnest screw with its margins needs {wanted:.1f} mm"
        ))  # fmt: skip
    # in the order of their score, but first what leaves the joint above alone
    return Pedicle(side, point, into, tuple(sorted(plans, key=_meets_joint)))


def _meets_joint(screw: PlannedScrew) -> bool:
    return screw.joint_mm is not None and screw.joint_mm < 0.0


def _search(
    axis: np.ndarray, score: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Downhill by trying: each of four numbers both ways, alone and in pairs, in ever smaller steps."""
    moves = np.array([
        [i, 0.0, j, k, m]
        for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1) for m in (-1, 0, 1)
    ])  # fmt: skip
    step = np.array([1.5, 0.0, 1.5, np.radians(3.0), np.radians(3.0)])
    low = np.array(
        [-np.inf, -np.inf, -np.inf, np.radians(_CONVERGE_DEG[0]), -np.radians(_TILT_DEG)]
    )
    high = np.array([np.inf, np.inf, np.inf, np.radians(_CONVERGE_DEG[1]), np.radians(_TILT_DEG)])
    found = score(axis[None])[0]
    for _ in range(_ROUNDS):
        tried = np.clip(axis + moves * step, low, high)
        scores = score(tried)
        k = int(scores[:, 0].argmax())
        if scores[k, 0] > found[0] + 1e-6:
            axis, found = tried[k], scores[k]
        else:
            step = 0.5 * step
    return axis, found


def _distinct(axes: np.ndarray, found: np.ndarray, sign: float, count: int) -> list[int]:
    """The best axes that differ in direction or place."""
    chosen: list[int] = []
    for k in np.argsort(-found[:, 0], kind="stable"):
        if not np.isfinite(found[k, 0]) or len(chosen) == count:
            break
        way = way_of(axes[k], sign)
        for j in chosen:
            off = axes[k, :3] - axes[j, :3]
            apart = np.linalg.norm(off - (off @ way) * way)
            angle = np.degrees(np.arccos(np.clip(way @ way_of(axes[j], sign), -1.0, 1.0)))
            if apart < _APART_MM and angle < _APART_DEG:
                break
        else:
            chosen.append(int(k))
    return chosen


def _screw(
    level: str,
    side: str,
    sign: float,
    axis: np.ndarray,
    found: np.ndarray,
    T: np.ndarray,
    cortex: Cortex,
    implants: Implants,
    config: PlannerConfig,
    above: Distance | None,
) -> PlannedScrew | float:
    """The thickest screw that keeps its margin by exact distances, or the axis' clearance in mm."""
    way = T[:3, :3] @ way_of(axis, sign)
    start = transform_points(T, 1e-3 * axis[None, :3])[0]
    rough = start + 1e-3 * found[1] * way
    s = np.arange(-0.006, 0.0061, 0.00025)
    outside = cortex.exact_m(rough + s[:, None] * way) >= 0.0
    entry = rough + (float(s[np.flatnonzero(outside)[-1]]) if outside.any() else 0.0) * way
    length = float(found[2])
    along = np.arange(CAP_M, 1e-3 * length + 1e-6, 0.0005)
    clear = 1e3 * float(-cortex.exact_m(entry + along[:, None] * way).max())
    fitting = [d for d in implants.diameters_mm if clear - 0.5 * d >= config.margin_mm]
    spare = [d for d in implants.diameters_mm if clear - 0.5 * d >= config.least_mm]
    if not spare:
        return clear
    diameter = fitting[-1] if fitting else spare[0]
    joint = None
    if above is not None:
        # head and shank behind the entry, where the joint of the vertebra above lies
        behind = entry - np.linspace(0.0, 0.010, 6)[:, None] * way
        joint = float(1e3 * above(behind).min()) - config.head_mm
    plan = ScrewPlan(level, side, entry, entry + 1e-3 * length * way)
    room = clear - 0.5 * diameter
    why = (
        f"{diameter:g} × {length:g} mm, {room:.1f} mm of bone beside the thread, converging"
        f" {np.degrees(axis[3]):.0f}°, tilted {np.degrees(axis[4]):+.0f}° cranially"
    )
    return PlannedScrew(plan, diameter, length, clear, joint, why)
