# SPDX-License-Identifier: Apache-2.0
"""Registration from scratch: which vertebra is which, and where.

Instances that the network voted for are matched to the case's levels in every way that keeps
their order. Each hypothesis is refined as an articulated chain and scored on the same pixels.
A hypothesis without a clear lead is not an answer: shifted by one level, a spine fits well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spine_nav_common.core.geometry import kabsch, log_so3
from spine_nav_common.core.types import Rejected
from spine_perception.core.instances import Instance

from .config import NavigatorConfig
from .estimator import MAX_SIGMA_M, Estimate, Noise, Prior, estimate, gate_m, springs
from .model import SpineModel
from .observation import BonePixels

MATCH_M = 18e-3
"""Half a vertebra's height: a centre farther away belongs to the next level."""
MIN_LEVEL_AREA_MM2 = 60.0
MISSING_LEVEL_NAT = 10.0
"""Cost of an exposed level without bone: the surgeon said that it is open."""


@dataclass(frozen=True)
class Hypothesis:
    """One way to name what is seen: poses after refinement, and its score in nat."""

    estimate: Estimate
    name: str
    score: float


@dataclass(frozen=True)
class Registration:
    """The best hypothesis and its lead over the next in nat; `clear` if that lead suffices."""

    best: Hypothesis
    margin: float
    rival: str
    clear: bool
    reason: str


def register(
    model: SpineModel,
    pixels: BonePixels,
    instances: tuple[Instance, ...],
    noise: Noise,
    config: NavigatorConfig,
) -> Registration | Rejected:
    """Find the poses of all levels of the case without any hint.

    Args:
        pixels: bone of one frame. instances: vertebrae that the network sees in that frame.

    Returns:
        The best hypothesis with its margin, or why there is none.
    """
    starts = _starts(model, instances)
    if not starts:
        return Rejected("no vertebra recognised in view")
    coarse = [(name, _approach(model, pixels, T, noise, config)) for name, T in starts]
    # One noise level for all hypotheses, the best one's: their scores must be comparable.
    quiet = min(estimate_.sigma_m for _, estimate_ in coarse)
    noise = replace(noise, sigma_m=float(np.clip(quiet, noise.sigma_m, MAX_SIGMA_M)))
    tried = [_settle(model, pixels, e, name, noise, config) for name, e in coarse]
    tried.sort(key=lambda h: -h.score)
    best = tried[0]
    problem = _implausible(model, best.estimate)
    if problem:
        return Rejected(problem)
    rivals = [h for h in tried[1:] if _differs(model, best.estimate, h.estimate)]
    if not rivals:
        return Registration(best, np.inf, "none", True, "")
    rival = rivals[0]
    margin = best.score - rival.score
    shape = min((_shape_lead(best.estimate, h.estimate), h.name) for h in rivals)
    if margin < config.level_margin:
        reason = f"{best.name} leads {rival.name} by {margin:.1f} nat only"
        return Registration(best, margin, rival.name, False, reason)
    if shape[0] < 0.0:
        # The count of visible levels speaks for one answer, their shape for another.
        reason = f"count says {best.name}, shape says {shape[1]}"
        return Registration(best, margin, shape[1], False, reason)
    return Registration(best, margin, rival.name, True, "")


def _starts(
    model: SpineModel, instances: tuple[Instance, ...]
) -> list[tuple[str, np.ndarray]]:
    """Rigid starting poses, one per way to name the instances."""
    if not instances:
        return []
    lead = max(range(len(instances)), key=lambda i: instances[i].area_m2)
    starts = []
    seen: set[tuple[int, ...]] = set()
    for k in range(len(model.levels)):
        pairs = [(lead, k)]
        T = _rigid(model, instances, pairs)
        for _ in range(3):
            expected = model.anchor_m @ T[:3, :3].T + T[:3, 3]
            pairs = _match(instances, expected)
            if not pairs:
                break
            T = _rigid(model, instances, pairs)
        key = tuple(j - i for i, j in pairs)
        if not pairs or key in seen:
            continue
        seen.add(key)
        named = [model.levels[j] for _, j in sorted(pairs, key=lambda p: p[1])]
        starts.append((f"{named[0]}-{named[-1]}" if len(named) > 1 else named[0], T))
    return starts


def _match(instances: tuple[Instance, ...], expected: np.ndarray) -> list[tuple[int, int]]:
    """Greedy one-to-one pairs (instance, level) within half a vertebra."""
    centre = np.array([i.centre_m for i in instances])
    distance = np.linalg.norm(centre[:, None] - expected[None], axis=2)
    pairs = []
    while distance.size and np.min(distance) < MATCH_M:
        i, j = np.unravel_index(np.argmin(distance), distance.shape)
        pairs.append((int(i), int(j)))
        distance[i, :] = np.inf
        distance[:, j] = np.inf
    return pairs


def _rigid(
    model: SpineModel, instances: tuple[Instance, ...], pairs: list[tuple[int, int]]
) -> np.ndarray:
    """(4, 4) least squares over centres and axes (an axis counts as points 25 mm off)."""
    source, target, weight = [], [], []
    for i, j in pairs:
        arms = 25e-3 * np.vstack([np.zeros(3), np.eye(3)])
        source.append(model.anchor_m[j] + arms @ model.axes.T)
        target.append(instances[i].centre_m + arms @ instances[i].R_camera_anatomy.T)
        weight.append(np.full(4, instances[i].area_m2))
    return kabsch(np.concatenate(source), np.concatenate(target), np.concatenate(weight))


def _approach(
    model: SpineModel, pixels: BonePixels, T: np.ndarray, noise: Noise, config: NavigatorConfig
) -> Estimate:
    """Coarse to fine: nearly rigid first, so that the chain finds its place before each vertebra
    finds its own."""
    poses = np.broadcast_to(T, (len(model.levels), 4, 4)).copy()
    for stiffness, gates, votes, sigmas in (
        (0.3, (15e-3,) * 4, (0.4,) * 4, (3e-3,) * 4),
        (1.0, (10e-3, 8e-3, 6e-3, 6e-3), (0.2, 0.1, 0.05, 0.0), (2.0e-3, 2.0e-3, 1.5e-3, 1.5e-3)),
    ):
        prior = chain_prior(model, poses, stiffness, config)
        result = estimate(
            model, pixels, prior, noise, poses, gates, votes, sigmas, reassign_at=(0, 1, 2, 3)
        )
        poses = result.T_camera_ct
    return result


def _settle(
    model: SpineModel,
    pixels: BonePixels,
    coarse: Estimate,
    name: str,
    noise: Noise,
    config: NavigatorConfig,
) -> Hypothesis:
    poses = coarse.T_camera_ct
    prior = chain_prior(model, poses, 1.0, config)
    result = estimate(model, pixels, prior, noise, poses, (gate_m(noise.sigma_m),) * 4)
    missing = sum(
        fit.area_mm2 < MIN_LEVEL_AREA_MM2 for fit, e in zip(result.fits, model.exposed) if e
    )
    return Hypothesis(result, name, result.score - MISSING_LEVEL_NAT * missing)


def chain_prior(
    model: SpineModel, poses: np.ndarray, stiffness: float, config: NavigatorConfig
) -> Prior:
    """Springs about the rigid pose nearest to `poses`."""
    centre = _common(model, poses)
    information = springs(
        model,
        poses,
        stiffness * np.deg2rad(config.spring_rotation_deg),
        stiffness * 1e-3 * config.spring_translation_mm,
    )
    return Prior(np.broadcast_to(centre, poses.shape).copy(), information)


def _common(model: SpineModel, T: np.ndarray) -> np.ndarray:
    """(4, 4) rigid pose nearest to all levels' poses, at their anchors."""
    arms = 25e-3 * np.vstack([np.zeros(3), np.eye(3), -np.eye(3)])
    points = model.anchor_m[:, None] + arms[None]
    posed = np.einsum("lij,lnj->lni", T[:, :3, :3], points) + T[:, None, :3, 3]
    return kabsch(points.reshape(-1, 3), posed.reshape(-1, 3))


def _differs(model: SpineModel, a: Estimate, b: Estimate) -> bool:
    """Whether two hypotheses name the bone differently, not only start elsewhere."""
    shift = np.linalg.norm(a.anchor_camera_m - b.anchor_camera_m, axis=1)
    return bool(np.median(shift) > 0.5 * MATCH_M)


def _shape_lead(a: Estimate, b: Estimate) -> float:
    """How much better `a` fits the pixels that both explain, nat."""
    both = (a.level_of_pixel >= 0) & (b.level_of_pixel >= 0)
    return float((a.pixel_log_likelihood - b.pixel_log_likelihood)[both].sum())


def _implausible(model: SpineModel, result: Estimate) -> str:
    """Why a chain of poses cannot be this patient's spine, or ''."""
    T = result.T_camera_ct
    if not np.isfinite(T).all():
        return "registration diverged"
    for k in range(len(T) - 1):
        turn = log_so3(T[k + 1, :3, :3] @ T[k, :3, :3].T)
        if np.rad2deg(np.linalg.norm(turn)) > 20.0:
            return f"{model.levels[k]} and {model.levels[k + 1]} turned by more than 20 deg"
    seen = [f for f, e in zip(result.fits, model.exposed) if e and f.area_mm2 > MIN_LEVEL_AREA_MM2]
    if not seen:
        return "no bone on any exposed level"
    explained = sum(f.inlier_share * f.area_mm2 for f in result.fits)
    total = sum(f.area_mm2 for f in result.fits)
    if explained < 0.6 * total:
        return f"the case explains only {100 * explained / total:.0f} % of the bone in view"
    return ""
