# SPDX-License-Identifier: Apache-2.0
"""Frame-to-frame estimation of all levels: predict, correct, notice what moved on its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from . import kernels
from .chain import chain_prior
from .config import NavigatorConfig
from .estimator import (
    MAX_SIGMA_M,
    Estimate,
    Noise,
    Prior,
    anchors,
    estimate,
    gate_m,
)
from .model import SpineModel
from .observation import BonePixels

OBJECTION = 10.6
"""Chi-square of 6 at 10 %: a motion that is missed harms more than one that is imagined, which only
makes the level's past count less."""
MIN_MOVED_AREA_MM2 = 120.0
"""Less bone than this cannot witness a motion."""
STEADY_S = 0.15
"""Beyond about two frame periods what was seen of the camera's motion says nothing any more."""
SETTLE_STEPS = 2
_FREEDOM = np.r_[np.full(3, 3e-3**2), np.full(3, np.deg2rad(3.0) ** 2)]


@dataclass(frozen=True)
class TrackState:
    """Belief after a frame: poses (L, 4, 4), joint covariance (6L, 6L) in the weights of the pose,
    recent common motion per 1/15 s, sensor noise and how far it reaches (see `Noise`)."""

    stamp_ns: int
    T_camera_ct: np.ndarray
    covariance: np.ndarray
    common_mm: float
    common_deg: float
    sigma_m: float
    pose_area_m2: float


@dataclass(frozen=True)
class TrackStep:
    """Belief after the newest frame, its estimate, and the levels that moved on their own."""

    state: TrackState
    estimate: Estimate
    moved: tuple[int, ...]
    moved_mm: tuple[float, ...]


def start(estimate_: Estimate, stamp_ns: int, config: NavigatorConfig) -> TrackState:
    """Begin from a registration."""
    return TrackState(
        stamp_ns,
        estimate_.T_camera_ct,
        estimate_.covariance,
        config.common_noise_mm,
        config.common_noise_deg,
        estimate_.sigma_m,
        estimate_.sample_area_m2,
    )


def predict(
    model: SpineModel, state: TrackState, stamp_ns: int, config: NavigatorConfig
) -> tuple[Prior, np.ndarray]:
    """Belief at `stamp_ns` before its frame, and its covariance without the springs.

    What was measured is forgotten exponentially: a depth camera's error hardly changes from frame
    to frame, so a second of frames is worth a few, not fifteen. What the CT says of neighbours is
    not forgotten; the springs give back what the forgetting takes of them. On top, camera and
    trunk may move as a whole.
    """
    prior, covariance, _ = _predict(model, state, stamp_ns, config, 1.0)
    return prior, covariance


def _predict(
    model: SpineModel, state: TrackState, stamp_ns: int, config: NavigatorConfig, caution: float
) -> tuple[Prior, np.ndarray, np.ndarray]:
    """As `predict`, and its information if the past's covariance were larger by `caution`."""
    dt = np.clip((stamp_ns - state.stamp_ns) * 1e-9, 1e-3, 4.0)
    kept = float(np.exp(-dt / config.memory_s))
    L = len(model.levels)
    anchor = anchors(model, state.T_camera_ct)
    J_level = np.tile(np.eye(6), (L, 1, 1))
    x, y, z = (anchor - anchor.mean(axis=0)).T
    J_level[:, 0, 4], J_level[:, 0, 5] = z, -y
    J_level[:, 1, 3], J_level[:, 1, 5] = -z, x
    J_level[:, 2, 3], J_level[:, 2, 4] = y, -x
    J = J_level.reshape(6 * L, 6)
    mm, deg = state.common_mm, state.common_deg
    if dt > STEADY_S:
        mm, deg = max(mm, config.common_noise_mm), max(deg, config.common_noise_deg)
    common = np.r_[np.full(3, (1e-3 * mm) ** 2), np.full(3, np.deg2rad(deg) ** 2)]
    # A camera sweep is no random walk: its variance grows with the square of the gap.
    motion = (15.0 * dt) ** 2 * (J * common) @ J.T
    chain = chain_prior(model, state.T_camera_ct, 1.0, config)
    extra = (1.0 - kept) * chain.information
    pull = extra @ kernels.twist_between(chain.T_camera_ct, state.T_camera_ct, anchor).ravel()
    total = np.linalg.inv(state.covariance / kept + motion) + extra
    mean = state.T_camera_ct.copy()
    kernels.exp_about(np.linalg.solve(total, pull).reshape(L, 6), anchor, mean)
    cautious = total
    if caution != 1.0:
        cautious = np.linalg.inv(state.covariance * (caution / kept) + motion) + extra
    return Prior(mean, total), np.linalg.inv(total), cautious


def step(
    model: SpineModel,
    state: TrackState,
    pixels: BonePixels,
    stamp_ns: int,
    noise: Noise,
    config: NavigatorConfig,
) -> TrackStep:
    """Update the belief with one frame's bone pixels.

    The frame is first solved almost free of the past, so that a real motion shows whole instead of
    being mistaken for outliers. Then past and present are weighed level by level: a level whose
    own data object to the compromise moved by itself, and its past is worth that much less.
    """
    # An objection is evidence: it counts pixels as evidence does, and so must the past.
    caution = max(1.0, noise.correlation_area_m2 / state.pose_area_m2)
    prior, covariance, past = _predict(model, state, stamp_ns, config, caution)
    L = len(model.levels)
    noise = replace(noise, sigma_m=state.sigma_m, pose_area_m2=state.pose_area_m2)
    gate = gate_m(state.sigma_m)
    loose = covariance + np.diag(np.tile(_FREEDOM, L))
    free = estimate(
        model, pixels, Prior(prior.T_camera_ct, np.linalg.inv(loose)), noise,
        gates_m=(gate + 4e-3, gate), reassign_at=(0, 1), settle=SETTLE_STEPS,
    )  # fmt: skip
    xi = kernels.twist_between(free.T_camera_ct, prior.T_camera_ct, free.anchor_camera_m)
    moved: tuple[int, ...] = ()
    witness = [k for k in range(L) if free.fits[k].area_mm2 > MIN_MOVED_AREA_MM2]
    while True:
        # One at a time: a level that moves drags its neighbours into the compromise, and all
        # object. It is the one that leaves least objection when set free.
        objection, gap = _objection(past, free.data_information, xi)
        trials = {
            k: np.linalg.inv(_freed(np.linalg.inv(past), k, gap[k]))
            for k in witness if k not in moved and objection[k] > OBJECTION
        }  # fmt: skip
        if not trials:
            break
        k = min(trials, key=lambda j: _objection(trials[j], free.data_information, xi)[0].sum())
        moved, past, covariance = (*moved, k), trials[k], _freed(covariance, k, gap[k])
    moved = tuple(sorted(moved))
    if moved:
        prior = Prior(prior.T_camera_ct, np.linalg.inv(covariance))
    result = estimate(
        model, pixels, prior, noise, free.T_camera_ct, (gate,), reassign_at=(),
        level=free.level_of_pixel,
    )  # fmt: skip
    common = _common_motion(model, state.T_camera_ct, result.T_camera_ct, moved)
    low_mm, low_deg = 0.15, 0.05
    spans = 15.0 * max((stamp_ns - state.stamp_ns) * 1e-9, 1e-3)  # common motion is per 1/15 s
    keep = 0.8**spans
    sigma = np.clip(result.sigma_m, 1e-3 * config.noise_floor_mm, MAX_SIGMA_M)
    new = TrackState(
        stamp_ns,
        result.T_camera_ct,
        result.covariance,
        float(max(low_mm, keep * state.common_mm, 1.5 * common[0] / spans)),
        float(max(low_deg, keep * state.common_deg, 1.5 * common[1] / spans)),
        float(keep * state.sigma_m + (1.0 - keep) * sigma),
        float(keep * state.pose_area_m2 + (1.0 - keep) * result.sample_area_m2),
    )
    own_mm = _own_motion_mm(model, state.T_camera_ct, result.T_camera_ct, moved)
    return TrackStep(new, result, moved, own_mm)


def _objection(
    past: np.ndarray, information: np.ndarray, xi: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How much each level's data lose by the compromise with the past (chi-square, (L,)), past
    (6L, 6L) what it knows, and by how far the compromise differs from what the data alone say ((L, 6) twists)."""
    L = len(xi)
    total = past.copy()
    for k in range(L):
        total[6 * k : 6 * k + 6, 6 * k : 6 * k + 6] += information[k]
    pull = np.einsum("lij,lj->li", information, xi).ravel()
    fused = np.linalg.solve(total, pull).reshape(L, 6)
    gap = xi - fused
    return np.einsum("li,lij,lj->l", gap, information, gap), gap


def _freed(covariance: np.ndarray, k: int, gap: np.ndarray) -> np.ndarray:
    """The covariance with room for level k to have moved by `gap` (6,)."""
    out = covariance.copy()
    part = np.arange(6 * k, 6 * k + 6)
    out[part, part] += gap**2
    return out


def _own_motion_mm(
    model: SpineModel, before: np.ndarray, after: np.ndarray, moved: tuple[int, ...]
) -> tuple[float, ...]:
    """How far each moved level went in this frame beyond what the others did."""
    shift = anchors(model, after) - anchors(model, before)
    rest = [k for k in range(len(before)) if k not in moved]
    together = np.median(shift[rest], axis=0) if rest else np.zeros(3)
    return tuple(float(1e3 * np.linalg.norm(shift[k] - together)) for k in moved)


def _common_motion(
    model: SpineModel, before: np.ndarray, after: np.ndarray, moved: tuple[int, ...]
) -> tuple[float, float]:
    """Median shift (mm) of the anchors and median turn (deg) of the levels since the last frame."""
    keep = [k for k in range(len(before)) if k not in moved] or list(range(len(before)))
    shift = anchors(model, after)[keep] - anchors(model, before)[keep]
    trace = np.einsum("lij,lij->l", after[keep, :3, :3], before[keep, :3, :3])
    angle = np.arccos(np.clip(0.5 * (trace - 1.0), -1.0, 1.0))
    return (
        float(1e3 * np.linalg.norm(np.median(shift, axis=0))),
        float(np.rad2deg(np.median(angle))),
    )
