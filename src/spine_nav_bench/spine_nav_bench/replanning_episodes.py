# SPDX-License-Identifier: Apache-2.0
"""Episodes of drilling: a partial and noisy look at a vertebra that moves, a pose with its covariance
from it, and a drill that goes on frame by frame. The bone's true place judges and is told to no method.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from rod_bending_ar.core.cortex import CAP_M, Cortex
from spine_nav_common.core.geometry import exp_so3, invert, perturb_about, transform_points
from spine_nav_common.core.types import LevelEstimate, Mesh, Rejected, ScrewPlan, Status
from spine_planning.core.replan import Freedom, replan
from spine_planning.core.safety import Drill, Limits, allowed_advance, usable_pose

STEP_M, FRAME_S, AGE_MS = 1e-3, 0.2, 80.0
STUCK, MOST = 15, 200  # frames without a move, and of an episode
METHODS = ("ours", "plain", "fixed")
_POINT_M = 1.1e-3  # a bone point's error; such points count once in CORRELATED_M2
_CORRELATED_M2 = 60e-6
_PRIOR = np.array([3e-3] * 3 + [np.radians(4.0)] * 3)  # what the neighbours' springs hold
_SEEN = (0.4, 1.0)  # share of the dorsal surface that is in view
_NEW = 0.15  # of the covariance: new with every frame; the rest stays for the episode
_DRIFT = np.array([0.12e-3] * 3 + [np.radians(0.08)] * 3)  # of the bone, per frame
_BREATH_M, _BREATH_S = 0.5e-3, 4.0
_WANDER = np.radians(0.5)  # of a motion of the drill
_LEVER_M = 0.02
_T = np.array(
    [[1.0, 0, 0, 0], [0, 0, 1.0, 0], [0, -1.0, 0, 0.5], [0, 0, 0, 1.0]]
)  # looks from behind


@dataclass(frozen=True)
class Nominal(Limits):
    """The wall where the pose says it is: what a method without covariance believes."""

    @property
    def sigmas(self) -> float:
        """k."""
        return 0.0


@dataclass
class World:
    """One vertebra, one planned screw, one look at it. covariance: of the error as it is stated, in the
    camera's axes about anchor; scale: true errors are so many times larger."""

    cortex: Cortex
    plan: ScrewPlan
    covariance: np.ndarray
    anchor_m: np.ndarray
    seed: tuple[int, ...]
    scale: float = 1.0
    _poses: list[np.ndarray] = field(default_factory=list)
    _estimates: list[np.ndarray] = field(default_factory=list)

    @cached_property
    def tre_mm(self) -> np.ndarray:
        """(500,) errors that the covariance means, as `predicted_tre_mm` counts them."""
        errors = np.random.default_rng(0).multivariate_normal(np.zeros(6), self.covariance, 500)
        ends = transform_points(_T, np.array([self.plan.entry_m, self.plan.target_m]))
        moved = errors[:, None, :3] + np.cross(errors[:, None, 3:], ends - self.anchor_m)
        return np.asarray(1e3 * np.linalg.norm(moved, axis=2).mean(axis=1))

    def frame(self, k: int) -> tuple[np.ndarray, LevelEstimate]:
        """True pose (4, 4) and what is said of it in frame k; the same for every method."""
        if not self._poses:
            rng = np.random.default_rng(self.seed)
            lower = self.scale * np.linalg.cholesky(self.covariance)
            bias = np.sqrt(1.0 - _NEW) * lower @ rng.normal(size=6)
            drift = np.cumsum(rng.normal(size=(MOST + 1, 6)) * _DRIFT, axis=0)
            phase = rng.uniform(0.0, 2.0 * np.pi)
            for i in range(MOST + 1):
                sway = drift[i].copy()
                sway[2] += _BREATH_M * np.sin(2.0 * np.pi * FRAME_S * i / _BREATH_S + phase)
                true = perturb_about(_T, sway, self.anchor_m)
                error = bias + np.sqrt(_NEW) * lower @ rng.normal(size=6)
                self._poses.append(true)
                self._estimates.append(perturb_about(true, error, self.anchor_m))
        bound = float(np.quantile(self.tre_mm, 0.95))
        said = LevelEstimate(
            self.plan.level,
            Status.TRACKED,
            self._estimates[k],
            self.covariance,
            self.anchor_m,
            bound,
        )
        return self._poses[k], said


@dataclass(frozen=True)
class Episode:
    """What came of it. wall_mm: the least distance between hole and wall, negative where it breaches;
    penetration: bone on the hole's way over that of the plan along the true pose; replan_ms: of each."""

    wall_mm: float
    penetration: float
    replan_ms: tuple[float, ...]
    why: str

    @property
    def safe(self) -> bool:
        """No wall is touched by the hole, from 8 mm behind the surface on."""
        return self.wall_mm >= 0.0


def make_world(
    mesh: Mesh,
    cortex: Cortex,
    plan: ScrewPlan,
    seed: tuple[int, ...],
    scale: float = 1.0,
    rough: float = 1.0,
) -> World:
    """A look from behind at a random part of the dorsal surface, and the covariance of a pose from it.

    Points on the surface hold a pose along their normals (point to plane); a noisy strip of a lamina
    tells little across itself, and its covariance says so. rough: points are so many times noisier;
    scale: as of `World`.
    """
    rng = np.random.default_rng([*seed, 1])
    corners = mesh.vertices_m[mesh.faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = 0.5 * np.linalg.norm(cross, axis=1)
    normal, middle = cross / np.maximum(2.0 * area, 1e-15)[:, None], corners.mean(axis=1)
    dorsal = (normal[:, 1] > 0.2) & (middle[:, 1] > np.quantile(mesh.vertices_m[:, 1], 0.5))
    toward = rng.normal(size=3) * [1.0, 0.0, 1.0]  # from which side something covers it
    order = middle[dorsal] @ toward
    seen = np.flatnonzero(dorsal)[order <= np.quantile(order, rng.uniform(*_SEEN))]
    anchor = transform_points(_T, np.average(middle[seen], axis=0, weights=area[seen]))
    n = normal[seen] @ _T[:3, :3].T
    arms = transform_points(_T, middle[seen]) - anchor
    rows = np.concatenate([n, np.cross(arms, n)], axis=1)
    told = (rows * (area[seen] / _CORRELATED_M2)[:, None]).T @ rows / (rough * _POINT_M) ** 2
    covariance = np.linalg.inv(told + np.diag(1.0 / _PRIOR**2))
    return World(cortex, plan, covariance, anchor, seed, scale)


def drill(world: World, method: str, diameter_mm: float, freedom: Freedom | None = None) -> Episode:
    """One episode by one method: `ours` (covariance, filter, planning anew), `plain` (planning anew
    about the newest pose, without covariance), `fixed` (the plan along the first pose, a stiff arm)."""
    rng = np.random.default_rng([*world.seed, 2])
    path, spent, why = (
        _fixed(world, rng) if method == "fixed" else _following(world, method, diameter_mm, rng, freedom)
    )  # fmt: skip
    wall, bone = judged(world.cortex, path, diameter_mm)
    return Episode(1e3 * wall, bone / _ideal(world), tuple(spent), why)


def _fixed(world: World, rng: np.random.Generator) -> tuple[np.ndarray, list[float], str]:
    T = world.frame(0)[1].T_camera_ct
    assert T is not None
    ends = transform_points(T, np.array([world.plan.entry_m, world.plan.target_m]))
    length = float(np.linalg.norm(ends[1] - ends[0]))
    way = _wandered((ends[1] - ends[0]) / length, rng)
    count = int(np.ceil(length / STEP_M))
    path = [
        transform_points(invert(world.frame(k)[0]), ends[0] + min(k * STEP_M, length) * way)
        for k in range(count + 1)
    ]
    return np.array(path), [], "planned depth"


def _following(
    world: World, method: str, diameter_mm: float, rng: np.random.Generator, freedom: Freedom | None
) -> tuple[np.ndarray, list[float], str]:
    """The hole holds the drill, which follows the bone; the arm turns and pushes it."""
    limits = Limits() if method == "ours" else Nominal(max_tre_mm=np.inf)
    if method == "plain":  # all that it knows of safety is the middle of the bone
        freedom = replace(freedom or Freedom(), enough_mm=3.0)
    path: list[np.ndarray] = []
    spent: list[float] = []
    into = np.zeros(3)  # in the bone
    still, why = 0, "time"
    for k in range(MOST):
        true, said = world.frame(k)
        belief = usable_pose(said, AGE_MS, world.plan, limits)
        if isinstance(belief, Rejected):
            return np.array(path).reshape(-1, 3), spent, belief.reason
        now = Drill(transform_points(true, path[-1]), true[:3, :3] @ into) if path else None
        started = time.perf_counter()
        found = replan(world.cortex, world.plan, belief, now, diameter_mm, limits, freedom)
        spent.append(1e3 * (time.perf_counter() - started))
        moved = 0.0
        if isinstance(found, Rejected):
            why = found.reason
            if "depth is reached" in why:
                break
        else:
            way = found.target_camera_m - found.entry_camera_m
            way = way / np.linalg.norm(way)
            if not path:
                path.append(transform_points(invert(true), found.entry_camera_m))
                now = Drill(found.entry_camera_m, way)
            assert now is not None
            now = Drill(now.tip_m, way)
            moved = min(STEP_M, float((found.target_camera_m - now.tip_m) @ way))
            if method == "ours":
                allowed = allowed_advance(
                    world.cortex,
                    world.plan,
                    belief,
                    now,
                    diameter_mm,
                    limits,
                    STEP_M / FRAME_S * 1e3,
                )
                moved = 0.0 if isinstance(allowed, Rejected) else min(
                    moved, 1e-3 * allowed.advance_mm, max(1e-3 * allowed.speed_mm_s * FRAME_S, 2e-4)
                )  # fmt: skip
            if moved > 0.0:
                into = true[:3, :3].T @ _wandered(way, rng)
                path.append(path[-1] + moved * into)
        still = 0 if moved >= 5e-5 else still + 1
        if still > STUCK:
            break
    return np.array(path).reshape(-1, 3), spent, why


def _wandered(way: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(exp_so3(_WANDER * np.cross(way, rng.normal(size=3))) @ way)


def judged(cortex: Cortex, path: np.ndarray, diameter_mm: float) -> tuple[float, float]:
    """Least distance between the hole along path (N, 3) and the wall, and how much of it is bone,
    metres, by exact distances. A path that is none leaves the wall alone."""
    if len(path) < 2:
        return np.inf, 0.0
    run = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.linspace(0.0, run[-1], max(2, int(np.ceil(run[-1] / 0.25e-3)) + 1))
    points = np.stack([np.interp(at, run, path[:, k]) for k in range(3)], axis=1)
    phi = cortex.exact_m(points).astype(float)
    inside = phi < 0.0
    if not inside.any():
        return np.inf, 0.0
    radius = 0.5e-3 * diameter_mm
    first = at[int(inside.argmax())]
    counted = (at >= first + CAP_M) & (at <= run[-1] - radius)
    wall = float(-(phi[counted] + radius).max()) if counted.any() else np.inf
    return wall, float(inside.mean() * run[-1])


def _ideal(world: World) -> float:
    """Bone on the plan's way, metres."""
    return judged(world.cortex, np.array([world.plan.entry_m, world.plan.target_m]), 1.0)[1]
