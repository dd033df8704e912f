# SPDX-License-Identifier: Apache-2.0
"""Registration from scratch: which vertebra is which, and where.

Instances that the network voted for are matched to the case's levels in every way that keeps
their order. Each hypothesis is refined as an articulated chain and scored on the same pixels.
A hypothesis without a clear lead is not an answer: shifted by one level, a spine fits well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from spine_nav_common.core.geometry import kabsch, log_so3
from spine_nav_common.core.types import Rejected
from spine_perception.core.instances import Instance

from .chain import chain_prior
from .config import NavigatorConfig
from .estimator import MAX_SIGMA_M, Estimate, Noise, anchors, estimate, gate_m
from .model import SpineModel
from .observation import BonePixels, thin
from .starts import MATCH_M, REVERSED_NAT, UNANIMOUS, Start, find_starts, reversed_start

MIN_LEVEL_AREA_MM2 = 60.0
PREVIEW_POINTS = 500
HYPOTHESIS_POINTS = 1400
"""Neighbouring pixels hang together: more of them do not tell hypotheses apart any better."""
MAX_HYPOTHESES = 2
SETTLE_STEPS = 12
REFINEMENTS, REFINE_STEPS = 3, 4
TAIL = 4.0
"""A joint that is bent otherwise than its neighbours is rare, not impossible: degrees of freedom."""
SHAPE_MARGIN_NAT = 6.0
"""Least lead by shape alone: identical vertebrae differ by none, however many of them are open."""
CLAIM_M = 30e-3
MIN_EXPLAINED = 0.6
LED_M = 6e-3
"""Bone that another camera's poses lead to lies no farther from them: biases and the transform's error."""
MISSING_LEVEL_NAT = 10.0
"""Cost of an exposed level without bone: the surgeon said that it is open."""


class HasPlace(Protocol):
    """Something that says where each level is."""

    @property
    def anchor_camera_m(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Placed:
    """Where each level is: what `differs` compares."""

    anchor_camera_m: np.ndarray


@dataclass(frozen=True)
class Hypothesis:
    """One way to name what is seen: poses after refinement, and its score in nat, from which the
    penalty for what the votes say against it is taken already."""

    estimate: Estimate
    name: str
    penalty: float
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
    followed: np.ndarray | None = None,
) -> Registration | Rejected:
    """Find the poses of all levels of the case without any hint.

    Args:
        pixels: bone of one frame. instances: vertebrae that the network sees in that frame.
        followed: (L, 4, 4) poses that were followed until now. They are heard as a rival, so that
            another answer must beat them clearly.

    Returns:
        The best hypothesis with its margin, or why there is none.
    """
    found = _register(model, pixels, instances, noise, config, UNANIMOUS, followed)
    if isinstance(found, Registration) and found.best.penalty > UNANIMOUS * REVERSED_NAT:
        # The shape overruled unanimous votes: that side deserves the full search.
        found = _register(model, pixels, instances, noise, config, np.inf, followed)
    if isinstance(found, Registration):
        refined = _refined(model, pixels, found.best.estimate, noise, config)
        found = replace(found, best=replace(found.best, estimate=refined))
    return found


def led(
    model: SpineModel,
    pixels: BonePixels,
    found: Registration | Rejected,
    T_camera_ct: np.ndarray,
    noise: Noise,
    config: NavigatorConfig,
) -> Registration | Rejected:
    """What a registration means beside poses T (L, 4, 4) at which another, registered camera follows the
    levels: what was not clear and agrees with them is, and bone that is too little for a search is looked
    for there. A clear answer stays what it is, that it may contradict them."""
    there = Placed(anchors(model, T_camera_ct))
    if isinstance(found, Registration):
        same = not differs(model, there, found.best.estimate)
        return replace(found, clear=True, reason="") if same else found
    gate = gate_m(noise.sigma_m)
    kept = estimate(
        model, pixels, chain_prior(model, T_camera_ct, 0.3, config), noise, T_camera_ct,
        (gate + 4e-3, gate), reassign_at=(0, 1), settle=SETTLE_STEPS,
    )  # fmt: skip
    if not np.isfinite(kept.T_camera_ct).all():
        return found
    far_m = np.linalg.norm(kept.anchor_camera_m - there.anchor_camera_m, axis=1)
    fits = [f for f, e in zip(kept.fits, model.exposed) if e and f.area_mm2 >= MIN_LEVEL_AREA_MM2]
    if not fits or min(f.inlier_share for f in fits) < MIN_EXPLAINED or far_m.max() > LED_M:
        return found
    return Registration(_hypothesis(model, kept, 0.0), np.inf, "none", True, "")


def _register(
    model: SpineModel,
    pixels: BonePixels,
    instances: tuple[Instance, ...],
    noise: Noise,
    config: NavigatorConfig,
    unanimous: float,
    followed: np.ndarray | None,
) -> Registration | Rejected:
    starts = find_starts(model, instances, unanimous)
    if not starts:
        return Rejected("no vertebra recognised in view")
    few, pixels = thin(pixels, PREVIEW_POINTS), thin(pixels, HYPOTHESIS_POINTS)
    seen = _distinct(model, [_preview(model, few, s, noise, config) for s in starts])
    near = [(h, _approach(model, pixels, h, noise, config)) for h in seen[:MAX_HYPOTHESES]]
    # One noise level for all hypotheses, the best one's: their scores must be comparable.
    quiet = min((e for _, e in near), key=lambda e: e.sigma_m)
    noise = replace(
        noise,
        sigma_m=float(np.clip(quiet.sigma_m, noise.sigma_m, MAX_SIGMA_M)),
        pose_area_m2=quiet.sample_area_m2,
    )
    tried = [_settle(model, pixels, h, e, noise, config) for h, e in near]
    # The same bone named one level higher or lower, or head for foot, is the rival that harms: it
    # is always heard.
    lead = max(tried, key=_score)
    turned = _preview(
        model, few, reversed_start(model, lead.estimate.T_camera_ct, lead.penalty), noise, config
    )
    for rival in (_shifted(model, lead, -1), _shifted(model, lead, 1), turned):
        if rival is not None:
            e = _approach(model, pixels, rival, noise, config)
            tried.append(_settle(model, pixels, rival, e, noise, config))
    if followed is not None:
        prior = chain_prior(model, followed, 1.0, config)
        gate = (gate_m(noise.sigma_m),)
        kept = estimate(model, pixels, prior, noise, followed, gate, settle=SETTLE_STEPS)
        tried.append(_hypothesis(model, kept, 0.0))
    best = max(tried, key=_score)
    problem = _implausible(model, pixels, len(instances), best.estimate)
    if problem:
        return Rejected(problem)
    return _verdict(model, best, tried, config)


def _verdict(
    model: SpineModel, best: Hypothesis, tried: list[Hypothesis], config: NavigatorConfig
) -> Registration:
    rivals = [h for h in tried if differs(model, best.estimate, h.estimate)]
    if not rivals:
        return Registration(best, np.inf, "none", True, "")
    rivals = [
        h if h.name != best.name else replace(h, name=f"{h.name} one level off") for h in rivals
    ]
    rival = max(rivals, key=_score)
    margin = best.score - rival.score
    if margin < config.level_margin:
        reason = f"{best.name} leads {rival.name} by {margin:.1f} nat only"
        return Registration(best, margin, rival.name, False, reason)
    for h in rivals:
        # A rival that leaves an exposed level without bone contradicts the surgeon's statement;
        # the shape need not prove it wrong as well, but must not speak for it either.
        needed = 0.0 if _missing(model, h.estimate) else SHAPE_MARGIN_NAT
        if _shape_lead(best.estimate, h.estimate) < needed:
            reason = f"count says {best.name}, shape does not tell it from {h.name}"
            return Registration(best, margin, h.name, False, reason)
    return Registration(best, margin, rival.name, True, "")


def challenge(
    model: SpineModel,
    pixels: BonePixels,
    T: np.ndarray,
    way: int,
    noise: Noise,
    config: NavigatorConfig,
) -> float:
    """By how many nat the reading one level higher (-1) or lower (+1) fits better than poses T.

    A slipped pose fits its wrong vertebrae well; only the comparison tells. Few points, to be
    affordable while tracking. Negative when the present reading is the better one.
    """
    few = thin(pixels, PREVIEW_POINTS)
    prior = chain_prior(model, T, 1.0, config)
    present = _hypothesis(
        model, estimate(model, few, prior, noise, T, (gate_m(noise.sigma_m),)), 0.0
    )
    start = _shifted(model, present, way)
    if start is None:
        return -np.inf
    poses = start.estimate.T_camera_ct
    prior = chain_prior(model, poses, 1.0, config)
    gates = (10e-3, 8e-3, 6e-3, gate_m(noise.sigma_m))
    other = _hypothesis(
        model, estimate(model, few, prior, noise, poses, gates, reassign_at=(0, 1, 2, 3)), 0.0
    )
    return other.score - present.score if differs(model, present.estimate, other.estimate) else 0.0


def _score(h: Hypothesis) -> float:
    return h.score


def _distinct(model: SpineModel, hypotheses: list[Hypothesis]) -> list[Hypothesis]:
    """Best first, without those that name the bone as a better one does."""
    kept: list[Hypothesis] = []
    for h in sorted(hypotheses, key=_score, reverse=True):
        if all(differs(model, k.estimate, h.estimate) for k in kept):
            kept.append(h)
    return kept


def _shifted(model: SpineModel, h: Hypothesis, way: int) -> Hypothesis | None:
    """The hypothesis with every level put where its neighbour is; None for a single level."""
    T, L = h.estimate.T_camera_ct, len(model.levels)
    if L < 2:
        return None
    own = np.arange(max(0, -way), min(L, L - way))
    arms = 25e-3 * np.vstack([np.zeros(3), np.eye(3)])
    p = np.concatenate([model.anchor_m[k] + arms for k in own])
    q = np.concatenate(
        [(model.anchor_m[k + way] + arms) @ T[k + way, :3, :3].T + T[k + way, :3, 3] for k in own]
    )
    poses = np.broadcast_to(kabsch(p, q), T.shape).copy()
    return replace(h, estimate=replace(h.estimate, T_camera_ct=poses))


def _preview(
    model: SpineModel, pixels: BonePixels, start: Start, noise: Noise, config: NavigatorConfig
) -> Hypothesis:
    """Nearly rigid first, so that the chain finds its place before each vertebra finds its own."""
    poses = np.broadcast_to(start.T_camera_ct, (len(model.levels), 4, 4)).copy()
    prior = chain_prior(model, poses, 0.3, config)
    result = estimate(
        model, pixels, prior, replace(noise, sigma_m=2e-3), poses, (15e-3, 15e-3, 12e-3, 10e-3),
        (0.4, 0.4, 0.3, 0.2), (3e-3, 3e-3, 3e-3, 2e-3), reassign_at=(0, 1, 2, 3),
    )  # fmt: skip
    return _hypothesis(model, result, start.penalty)


def _approach(
    model: SpineModel,
    pixels: BonePixels,
    preview: Hypothesis,
    noise: Noise,
    config: NavigatorConfig,
) -> Estimate:
    poses = preview.estimate.T_camera_ct
    return estimate(
        model, pixels, chain_prior(model, poses, 1.0, config), noise, poses,
        (10e-3, 8e-3, 6e-3, 6e-3), (0.2, 0.1, 0.05, 0.0), (2e-3, 2e-3, 1.5e-3, 1.5e-3),
        reassign_at=(0, 1, 2, 3),
    )  # fmt: skip


def _settle(
    model: SpineModel,
    pixels: BonePixels,
    preview: Hypothesis,
    near: Estimate,
    noise: Noise,
    config: NavigatorConfig,
) -> Hypothesis:
    poses = near.T_camera_ct
    prior = chain_prior(model, poses, 1.0, config)
    result = estimate(
        model, pixels, prior, noise, poses, (gate_m(noise.sigma_m),) * 2, settle=SETTLE_STEPS
    )
    return _hypothesis(model, result, preview.penalty)


def _refined(
    model: SpineModel,
    pixels: BonePixels,
    found: Estimate,
    noise: Noise,
    config: NavigatorConfig,
) -> Estimate:
    """The answer's poses, solved again with the sample area that its own residuals measure.

    Hypotheses are compared with the area that their rough poses showed, one for all. Springs bend a
    pose, a bent pose leaves residuals that hang together, those make the pixels count less, and the
    springs more: only at its own pose does the area say what the sensor does. Likewise the joints:
    one that the frame shows bent is held less by its springs.
    """
    for _ in range(REFINEMENTS):
        own = replace(
            noise,
            sigma_m=float(np.clip(found.sigma_m, noise.sigma_m, MAX_SIGMA_M)),
            pose_area_m2=found.sample_area_m2,
        )
        T = found.T_camera_ct
        found = estimate(
            model, pixels, chain_prior(model, T, 1.0, config, TAIL), own, T,
            (gate_m(own.sigma_m),), reassign_at=(0,), settle=REFINE_STEPS,
        )  # fmt: skip
    return found


def _hypothesis(model: SpineModel, result: Estimate, penalty: float) -> Hypothesis:
    has_bone = [fit.area_mm2 >= MIN_LEVEL_AREA_MM2 for fit in result.fits]
    named = [level for level, bone in zip(model.levels, has_bone) if bone] or ["no level"]
    name = named[0] if len(named) == 1 else f"{named[0]}-{named[-1]}"
    if penalty > 0.5 * REVERSED_NAT:
        name += " reversed"
    score = result.score - MISSING_LEVEL_NAT * _missing(model, result) - penalty
    return Hypothesis(result, name, penalty, score)


def _missing(model: SpineModel, result: Estimate) -> int:
    """Exposed levels that the poses leave without bone."""
    bone = np.array([fit.area_mm2 >= MIN_LEVEL_AREA_MM2 for fit in result.fits])
    return int((model.exposed & ~bone).sum())


def differs(model: SpineModel, a: HasPlace, b: HasPlace) -> bool:
    """Whether two hypotheses name the bone differently, not only start elsewhere."""
    shift = np.linalg.norm(a.anchor_camera_m - b.anchor_camera_m, axis=1)
    return bool(np.median(shift) > 0.5 * MATCH_M)


def _shape_lead(a: Estimate, b: Estimate) -> float:
    """How much better `a` fits the pixels that both explain, nat."""
    both = (a.level_of_pixel >= 0) & (b.level_of_pixel >= 0)
    return float((a.pixel_log_likelihood - b.pixel_log_likelihood)[both].sum())


def _implausible(model: SpineModel, pixels: BonePixels, instances: int, result: Estimate) -> str:
    """Why a chain of poses cannot be this patient's spine, or ''."""
    T = result.T_camera_ct
    if not np.isfinite(T).all():
        return "registration diverged"
    for k in range(len(T) - 1):
        turn = log_so3(T[k + 1, :3, :3] @ T[k, :3, :3].T)
        if np.rad2deg(np.linalg.norm(turn)) > 20.0:
            return f"{model.levels[k]} and {model.levels[k + 1]} turned by more than 20 deg"
    bone = [f.area_mm2 >= MIN_LEVEL_AREA_MM2 for f, e in zip(result.fits, model.exposed) if e]
    if 2 * sum(bone) < len(bone) or not any(bone):
        return f"bone on {sum(bone)} of {len(bone)} exposed levels only"
    # Bone that lies where the case claims a vertebra must have the case's shape; what lies beyond
    # may be a level that the case does not hold.
    reach = np.min(
        [((pixels.points_m - a) ** 2).sum(axis=1) for a in result.anchor_camera_m], axis=0
    )
    claimed = float(pixels.area_m2[reach < CLAIM_M**2].sum()) * 1e6
    explained = sum(f.inlier_share * f.area_mm2 for f in result.fits)
    due = float(pixels.area_m2.sum()) * 1e6 * min(1.0, len(model.levels) / instances)
    if explained < 0.5 * due:
        return f"the case explains only {100 * explained / due:.0f} % of its share of the bone"
    if explained < MIN_EXPLAINED * claimed:
        return f"the case explains only {100 * explained / claimed:.0f} % of the bone at its levels"
    return ""
