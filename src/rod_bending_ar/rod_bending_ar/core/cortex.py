# SPDX-License-Identifier: Apache-2.0
"""How far a screw stays inside the cortex of its vertebra, with the predicted error in it.

A screw is a capsule about its axis that ends at the tip. Its margin at a place along the axis is the
distance from the capsule to the outer surface, negative where it breaches. The entry does not count:
the shaft is judged from CAP_M behind the surface on, since every screw stands out of the bone there.
Gertzbein-Robbins is applied to that shaft as a whole, not to the pedicle alone: where the pedicle
ends is not known of every mesh, and a wall that is breached elsewhere is a breach too.

Lengths in metres unless a name says otherwise; coordinates are those of the mesh.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spine_nav_common.core.case import anatomical_axes
from spine_nav_common.core.compiled import compiled
from spine_nav_common.core.statistics import SIGMAS_3D_95
from spine_nav_common.core.surface import distance_field, distances_and_slopes
from spine_nav_common.core.types import Case, Mesh, Rejected, ScrewPlan

DIAMETER_MM = 5.5  # of a screw of which nothing else is said
STEP_M = 1e-3
CAP_M = 0.008
BEFORE_M, BEHIND_M = 0.008, 0.015  # about the planned entry the axis must go into the bone
DRAWS = 400
GRADES = ("A", "B", "C", "D", "E")
_GRADE_EDGES_MM = (2.0, 4.0, 6.0)  # Gertzbein-Robbins: B < 2, C < 4, D < 6
VOXEL_M = 1.25e-3
_TUBE_M = 0.012  # about the planned lines; farther off a screw is none of theirs
BEYOND = 0.5  # of a field, in its unit: there the distance is not known
_SEED = 20261127  # the same pose says the same twice


def grade_of(breach_mm: float) -> str:
    """Gertzbein-Robbins of a breach in mm; none (A) where it is not positive."""
    if not breach_mm > 0.0:
        return GRADES[0]
    return GRADES[1 + int(np.searchsorted(_GRADE_EDGES_MM, breach_mm, "right"))]


@dataclass(frozen=True)
class Shaft:
    """A screw's capsule against the cortex.

    s_m (N,): along the axis from the planned entry; margin_mm (N,): of the shaft there, nominal;
    least_mm, at_m: the smallest of them and where; toward: which way the cortex is nearest there
    (medial, lateral, cranial, caudal, anterior, posterior); tip_mm: how far the tip stands out of
    the bone, negative inside; surface_m: where the axis enters the bone. draws: what the error
    makes of it.
    """

    s_m: np.ndarray
    margin_mm: np.ndarray
    least_mm: float
    at_m: float
    toward: str
    tip_mm: float
    surface_m: float
    draws: Draws

    @property
    def grade(self) -> str:
        """Gertzbein-Robbins, of the nominal pose."""
        return grade_of(-self.least_mm)


@dataclass(frozen=True)
class Draws:
    """Poses drawn from the predicted error. margin95_mm (N,): 95 % of them leave more than this at
    each place of `s_m`; least95_mm: the same of the smallest margin; p_breach: share that breaches;
    shares (5,): of grades A to E."""

    margin95_mm: np.ndarray
    least95_mm: float
    p_breach: float
    shares: np.ndarray


@compiled
def from_tangents(
    points: np.ndarray, field: np.ndarray, low: np.ndarray, voxel: float
) -> np.ndarray:
    """Distances (N,) of points (N, 3) from a grid of distances and slopes (X, Y, Z, 4): the tangents
    of the eight corners, weighed as in linear interpolation, which alone would round off the ridge
    between two walls. Within an eighth of a voxel on a ridge, exact beside it. Corners at BEYOND and
    more are not known."""
    out = np.empty(len(points))
    for i in range(len(points)):
        out[i] = tangents_at(points[i, 0], points[i, 1], points[i, 2], field, low, voxel)
    return out


@compiled
def tangents_at(
    at_x: float, at_y: float, at_z: float, field: np.ndarray, low: np.ndarray, voxel: float
) -> float:
    """`from_tangents` of one point."""
    cell_x, cell_y, cell_z = (
        (at_x - low[0]) / voxel,
        (at_y - low[1]) / voxel,
        (at_z - low[2]) / voxel,
    )
    base_x, base_y, base_z = int(np.floor(cell_x)), int(np.floor(cell_y)), int(np.floor(cell_z))
    total = weights = 0.0
    for k in range(8):
        x, y, z = base_x + (k & 1), base_y + (k >> 1 & 1), base_z + (k >> 2)
        if not (0 <= x < field.shape[0] and 0 <= y < field.shape[1] and 0 <= z < field.shape[2]):
            continue
        distance = field[x, y, z, 0]
        if distance >= BEYOND:
            continue
        off_x, off_y, off_z = cell_x - x, cell_y - y, cell_z - z
        weight = (1.0 - abs(off_x)) * (1.0 - abs(off_y)) * (1.0 - abs(off_z))
        slope = field[x, y, z, 1] * off_x + field[x, y, z, 2] * off_y + field[x, y, z, 3] * off_z
        total += weight * (distance + voxel * slope)
        weights += weight
    return total / weights if weights > 0.0 else BEYOND


class Cortex:
    """One vertebra's surface, for the screws that are planned in it. Thread-safe once built."""

    def __init__(self, mesh: Mesh, plans: tuple[ScrewPlan, ...], frame: str) -> None:
        self.mesh, self.plans = mesh, plans
        self._axes = anatomical_axes(frame)
        self.exact_m = distance_field(mesh)  # of points (N, 3)

    @cached_property
    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """(X, Y, Z, 4) signed distances and their slopes in a tube about each planned line, and
        the first voxel's place."""
        ends = np.array([(p.entry_m, p.target_m) for p in self.plans])
        low = ends.min(axis=(0, 1)) - _TUBE_M
        high = ends.max(axis=(0, 1)) + _TUBE_M
        axes = [np.arange(a, b + VOXEL_M, VOXEL_M) for a, b in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        wanted = np.zeros(grid.shape[:3], bool)
        for entry, target in ends:
            way = target - entry
            along = np.clip((grid - entry) @ way / (way @ way), 0.0, 1.0)
            off = np.linalg.norm(grid - entry - along[..., None] * way, axis=-1)
            wanted |= off <= _TUBE_M
        field = np.full((*wanted.shape, 4), BEYOND, np.float32)
        distances, slopes = distances_and_slopes(self.mesh, grid[wanted])
        field[wanted] = np.concatenate([distances[:, None], slopes], axis=1)
        return field, low

    def prepare(self) -> None:
        """Compute the distances (a fifth of a second), so that nobody waits for them later."""
        _ = self.grid

    def holds(self, points_m: np.ndarray) -> bool:
        """Whether points (N, 3) lie about the planned screws, where distances are known."""
        return bool((self.near_m(points_m) < BEYOND).all())

    def near_m(self, points_m: np.ndarray) -> np.ndarray:
        """Signed distances of points (..., 3) from the grid; for many points."""
        field, low = self.grid
        points = np.ascontiguousarray(points_m.reshape(-1, 3), np.float64)
        return from_tangents(points, field, low, VOXEL_M).reshape(points_m.shape[:-1])

    def toward(self, plan: ScrewPlan, point_m: np.ndarray, axis: np.ndarray) -> str:
        """Which way the cortex is nearest from a place (3,) on a screw's axis (3,)."""
        step = 0.5e-3 * np.concatenate([np.eye(3), -np.eye(3)])
        d = self.exact_m(point_m + step).astype(float)
        out = d[:3] - d[3:]
        out = self._axes.T @ (out - (out @ axis) * axis)
        k = int(np.abs(out).argmax())
        names = (("lateral", "medial"), ("posterior", "anterior"), ("cranial", "caudal"))
        first = out[k] > 0.0 if k or plan.side == "left" else out[k] < 0.0
        return names[k][0 if first else 1]


def shaft(
    cortex: Cortex,
    plan: ScrewPlan,
    start_m: np.ndarray,
    into: np.ndarray,
    moved: tuple[np.ndarray, np.ndarray],
    diameter_mm: float = DIAMETER_MM,
) -> Shaft | Rejected:
    """A screw in its vertebra: nominal and as drawn.

    Args:
        plan: the screw that is meant.
        start_m, into: (3,) place on the axis level with the planned entry, unit vector into the
            bone; moved: the same of drawn poses, (D, 3) each. The tip lies as far from there as the
            target from the planned entry.
    """
    length = float(np.linalg.norm(plan.target_m - plan.entry_m))
    if not (np.isfinite(start_m).all() and np.isfinite(into).all() and length > CAP_M):
        return Rejected(f"{plan.level} {plan.side}: the screw has no usable length or place")
    s = np.arange(-BEFORE_M, length + 1.5 * STEP_M, STEP_M)  # past the tip, however it is rounded
    points = start_m + s[:, None] * into
    if not cortex.holds(points[(s >= 0.0) & (s <= length)]):
        return Rejected(f"the screw lies beside every line that is planned in {plan.level}")
    phi = cortex.exact_m(points).astype(float)
    radius = 0.5e-3 * diameter_mm
    own = _capsule(phi[None], s, radius, length)
    if not own.enters[0]:
        return Rejected(f"{plan.level} {plan.side}: its axis does not enter the bone near the plan")
    counted = own.counted[0]
    if not counted.any():
        return Rejected(f"{plan.level} {plan.side}: the screw ends where its shaft would begin")
    margin = -1e3 * (phi + radius)
    least = int(np.flatnonzero(counted)[margin[counted].argmin()])
    starts, ways = moved
    drawn_phi = cortex.near_m(starts[:, None] + s[:, None] * ways[:, None])
    drawn = _capsule(drawn_phi, s, radius, length)
    margins = -1e3 * (drawn_phi + radius)
    each = np.where(drawn.counted, margins, np.inf).min(axis=1)
    breach = np.maximum(-each, 0.0)
    grades = np.array([grade_of(b) for b in breach])
    return Shaft(
        s[counted],
        margin[counted],
        float(margin[least]),
        float(s[least]),
        cortex.toward(plan, points[least], into),
        float(1e3 * own.tip[0]),
        float(own.surface[0]),
        Draws(
            np.quantile(margins[:, counted], 0.05, axis=0),
            float(np.quantile(each, 0.05)),
            float((breach > 0.0).mean()),
            np.array([(grades == g).mean() for g in GRADES]),
        ),
    )


@dataclass(frozen=True)
class _Capsule:
    """Per pose: counted (D, N) places of the shaft, tip (D,) signed distance, surface (D,) where
    the axis goes into the bone (level with the planned entry where it does not), enters (D,)
    whether it does."""

    counted: np.ndarray
    tip: np.ndarray
    surface: np.ndarray
    enters: np.ndarray


def _capsule(phi: np.ndarray, s: np.ndarray, radius: float, length: float) -> _Capsule:
    """phi (D, N): signed distance along the axes of D poses at s (N,)."""
    into = (phi[:, :-1] >= 0.0) & (phi[:, 1:] < 0.0) & (s[1:] <= BEHIND_M)
    enters = np.asarray(into.any(axis=1))
    pose, first = np.arange(len(phi)), into.argmax(axis=1)
    before, after = phi[pose, first], phi[pose, first + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = s[first] + (s[first + 1] - s[first]) * before / (before - after)
    surface = np.where(enters, crossing, 0.0)
    counted = (s >= surface[:, None] + CAP_M - 0.5 * STEP_M) & (s <= length - radius)
    return _Capsule(counted, phi[:, int(np.searchsorted(s, length))], surface, enters)


def planned_shaft(
    cortex: Cortex, plan: ScrewPlan, bound95_mm: float, diameter_mm: float = DIAMETER_MM
) -> Shaft | Rejected:
    """The margin of a planned screw as it would be drilled along a pose that is known within
    bound95_mm (95 % of errors; taken as a shift, alike in all directions)."""
    if not (np.isfinite(bound95_mm) and bound95_mm >= 0.0):
        return Rejected(f"{plan.level} {plan.side}: the predicted error is not known")
    way = (plan.target_m - plan.entry_m) / max(
        float(np.linalg.norm(plan.target_m - plan.entry_m)), 1e-9
    )
    shift = normal_draws()[:, :3] * (1e-3 * bound95_mm / SIGMAS_3D_95)
    moved = plan.entry_m + shift, np.broadcast_to(way, shift.shape)
    return shaft(cortex, plan, plan.entry_m, way, moved, diameter_mm)


_normal: list[np.ndarray] = []


def normal_draws() -> np.ndarray:
    """(DRAWS, 8) standard normal numbers, the same in every call."""
    if not _normal:
        _normal.append(np.random.default_rng(_SEED).normal(size=(DRAWS, 8)))
    return _normal[0]


class Margins:
    """Margins of all planned screws of a case, kept per predicted error in steps of STEP_MM, rounded
    up: never better than it is."""

    STEP_MM = 0.2
    _KEPT = 512

    def __init__(self, case: Case, diameter_mm: float = DIAMETER_MM) -> None:
        self.diameter_mm = diameter_mm
        self._plans = {(p.level, p.side): p for p in case.plan}
        levels = dict.fromkeys(p.level for p in case.plan)
        self.cortices = {
            v: Cortex(case.meshes[v], tuple(p for p in case.plan if p.level == v), case.orientation)
            for v in levels
            if v in case.meshes
        }
        self._known: OrderedDict[tuple[str, str, int], Shaft | Rejected] = OrderedDict()
        self._left: int | None = None

    def prepare(self) -> None:
        """Compute what takes long."""
        for cortex in self.cortices.values():
            cortex.prepare()
        for level, side in self._plans:
            self.planned(level, side, 10.0 * self.STEP_MM)

    def allow(self, count: int | None) -> None:
        """From now on compute only so many margins anew (None: all); where none is left, the
        margin of a larger error that is known already is given."""
        self._left = count

    def planned(self, level: str, side: str, bound95_mm: float | None) -> Shaft | Rejected:
        """The planned screw of a level and side under a predicted error."""
        plan, cortex = self._plans.get((level, side)), self.cortices.get(level)
        if plan is None or cortex is None:
            return Rejected(f"no screw is planned for {level} {side}")
        if bound95_mm is None or not np.isfinite(bound95_mm):
            return Rejected(f"{level} {side}: the predicted error is not known")
        step = int(np.ceil(bound95_mm / self.STEP_MM - 1e-9))
        key = (level, side, step)
        if key not in self._known:
            if self._left == 0:
                larger = [k for k in self._known if k[:2] == key[:2] and k[2] > step]
                if not larger:
                    return Rejected(f"{level} {side}: being computed")
                return self._known[min(larger)]
            if self._left is not None:
                self._left -= 1
            found = planned_shaft(cortex, plan, step * self.STEP_MM, self.diameter_mm)
            self._known[key] = found
            while len(self._known) > self._KEPT:
                self._known.popitem(last=False)
        return self._known[key]
