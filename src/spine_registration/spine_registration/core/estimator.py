# SPDX-License-Identifier: Apache-2.0
"""Joint maximum-a-posteriori poses of all vertebrae of a spine.

The state is one twist per level, xi_l = (v, w): a left perturbation in the camera frame about the
level's anchor a_l (its dorsal centre), p -> p + v + w x (p - a_l). The prior is a Gaussian over
all 6 L numbers, so common motion (camera, breathing of the whole trunk) and motion of one
vertebra against its neighbours are told apart by their covariance, not by thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spine_nav_common.core.geometry import exp_so3, log_so3, skew

from .likelihood import OUTLIER_WIDTH_M, point_likelihood
from .model import SpineModel
from .observation import BonePixels

MAX_SIGMA_M = 4e-3


def gate_m(sigma_m: float) -> float:
    """Distance beyond which a pixel no longer belongs to a surface, for a settled pose."""
    return max(5e-3, 3.0 * sigma_m)


@dataclass(frozen=True)
class Noise:
    """What a bone pixel's depth is worth."""

    sigma_m: float
    tissue_scale_m: float
    correlation_area_m2: float


@dataclass(frozen=True)
class Prior:
    """Gaussian over twists about `T_camera_ct` (L, 4, 4): information (6L, 6L)."""

    T_camera_ct: np.ndarray
    information: np.ndarray


@dataclass(frozen=True)
class LevelFit:
    """How well one level explains the pixels assigned to it."""

    points: int
    area_mm2: float
    inlier_share: float
    rms_mm: float


@dataclass(frozen=True)
class Estimate:
    """Poses, their joint covariance (6L, 6L) and the data's own information per level."""

    T_camera_ct: np.ndarray
    covariance: np.ndarray
    data_information: np.ndarray
    anchor_camera_m: np.ndarray
    fits: tuple[LevelFit, ...]
    level_of_pixel: np.ndarray
    pixel_log_likelihood: np.ndarray
    prior_energy: float
    sigma_m: float
    iterations: int
    converged: bool

    @property
    def log_likelihood(self) -> float:
        """Of all pixels, those that no level explains included; nat."""
        return float(self.pixel_log_likelihood.sum())

    @property
    def score(self) -> float:
        """Log posterior up to a constant, in nat; larger is better."""
        return self.log_likelihood - self.prior_energy


def anchors(model: SpineModel, T: np.ndarray) -> np.ndarray:
    """(L, 3) dorsal centres in the camera frame."""
    return np.einsum("lij,lj->li", T[:, :3, :3], model.anchor_m) + T[:, :3, 3]


def exp_about(xi: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """(L, 4, 4) transforms of twists (L, 6) about anchors (L, 3)."""
    out = np.zeros((len(xi), 4, 4))
    for k, (v, w) in enumerate(zip(xi[:, :3], xi[:, 3:])):
        R = exp_so3(w)
        out[k, :3, :3] = R
        out[k, :3, 3] = v + anchor[k] - R @ anchor[k]
        out[k, 3, 3] = 1.0
    return out


def twist_between(T: np.ndarray, T_reference: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """(L, 6) twists xi with T = Exp(xi about anchor) T_reference."""
    out = np.empty((len(T), 6))
    for k in range(len(T)):
        R = T[k, :3, :3] @ T_reference[k, :3, :3].T
        t = T[k, :3, 3] - R @ T_reference[k, :3, 3]
        out[k, 3:] = log_so3(R)
        out[k, :3] = t - anchor[k] + R @ anchor[k]
    return out


def assign(
    model: SpineModel,
    T: np.ndarray,
    pixels: BonePixels,
    gate_m: float,
    vote_weight: float = 0.0,
    active: np.ndarray | None = None,
) -> np.ndarray:
    """(M,) index of the level whose surface explains a pixel best, -1 for none.

    With `vote_weight` the network's centre votes help, which a coarse pose needs: the cost is
    |distance| + vote_weight * |vote - anchor|.
    """
    anchor = anchors(model, T)
    best = np.full(len(pixels.points_m), np.inf)
    level = np.full(len(pixels.points_m), -1)
    for k in range(len(model.levels)):
        if active is not None and not active[k]:
            continue
        near = np.nonzero(((pixels.points_m - anchor[k]) ** 2).sum(axis=1) < 0.065**2)[0]
        if len(near) == 0:
            continue
        local = (pixels.points_m[near] - T[k, :3, 3]) @ T[k, :3, :3]
        s, g = model.signed_distance(local, np.full(len(near), k))
        facing = np.einsum("ij,ij->i", g @ T[k, :3, :3].T, pixels.ray[near]) < 0.25
        with np.errstate(invalid="ignore"):
            cost = np.abs(s)
            ok = (cost < gate_m) & facing
        if vote_weight > 0.0:
            vote = np.linalg.norm(pixels.centre_vote_m[near] - anchor[k], axis=1)
            cost = cost + vote_weight * np.nan_to_num(vote, nan=0.02)
        ok &= cost < best[near]
        best[near[ok]] = cost[ok]
        level[near[ok]] = k
    return level


@dataclass(frozen=True)
class _Linear:
    H: np.ndarray
    g: np.ndarray
    log_likelihood: np.ndarray
    fits: tuple[LevelFit, ...]
    sigma_m: float


def _linearise(
    model: SpineModel,
    T: np.ndarray,
    pixels: BonePixels,
    order: np.ndarray,
    bounds: np.ndarray,
    noise: Noise,
) -> _Linear:
    """Normal equations per level; `order` sorts pixels by level, `bounds` cuts them."""
    L = len(model.levels)
    order = order[bounds[0] :]  # -1 sorts first
    bounds = bounds - bounds[0]
    q, ray = pixels.points_m[order], pixels.ray[order]
    level = np.repeat(np.arange(L), np.diff(bounds))
    anchor = anchors(model, T)
    local = np.empty_like(q)
    for k in range(L):
        a, b = bounds[k], bounds[k + 1]
        local[a:b] = (q[a:b] - T[k, :3, 3]) @ T[k, :3, :3]
    s, g = model.signed_distance(local, level)
    n = np.empty_like(q)
    for k in range(L):
        a, b = bounds[k], bounds[k + 1]
        n[a:b] = g[a:b] @ T[k, :3, :3].T
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-6)
    cosine = -np.einsum("ij,ij->i", n, ray)
    seen = np.isfinite(s) & (cosine > 0.05)
    s = np.where(seen, s, 0.0).astype(float)
    # Stereo depth on a slope is worse than its frontal noise seen along the normal.
    sigma = noise.sigma_m * (1.0 + 1.5 * (1.0 - np.clip(cosine, 0.0, 1.0)))
    lik = point_likelihood(
        s, sigma, noise.tissue_scale_m, pixels.clean[order], pixels.bone[order]
    )
    weight = np.where(seen, pixels.area_m2[order] / noise.correlation_area_m2, 0.0)
    J = np.empty((len(q), 6))
    J[:, :3] = -n
    J[:, 3:] = -np.cross(q - anchor[level], n)
    WJ = J * (weight * lik.curvature)[:, None]
    gJ = J * (weight * lik.score)[:, None]
    H, grad, fits = np.zeros((L, 6, 6)), np.zeros((L, 6)), []
    for k in range(L):
        part = slice(bounds[k], bounds[k + 1])
        H[k] = WJ[part].T @ J[part]
        grad[k] = gJ[part].sum(axis=0)
        inlier = lik.bone[part] * seen[part]
        total = inlier.sum()
        fits.append(
            LevelFit(
                points=int(bounds[k + 1] - bounds[k]),
                area_mm2=float(1e6 * (pixels.area_m2[order][part] * seen[part]).sum()),
                inlier_share=float(inlier.mean()) if len(inlier) else 0.0,
                rms_mm=float(1e3 * np.sqrt((inlier * s[part] ** 2).sum() / max(total, 1e-9))),
            )
        )
    negative = seen & (s < 0) & (s > -4 * MAX_SIGMA_M)
    sigma_hat = noise.sigma_m
    if negative.sum() > 50:  # tissue only lies outside: the inner half shows the sensor's noise
        ratio = s[negative] * noise.sigma_m / sigma[negative]
        sigma_hat = float(1.48 * np.median(np.abs(ratio)))
    return _Linear(H, grad, weight * lik.log_density, tuple(fits), sigma_hat)


def estimate(
    model: SpineModel,
    pixels: BonePixels,
    prior: Prior,
    noise: Noise,
    T_start: np.ndarray | None = None,
    gates_m: tuple[float, ...] = (4e-3, 4e-3, 4e-3, 4e-3),
    vote_weights: tuple[float, ...] = (),
    sigmas_m: tuple[float, ...] = (),
    reassign_every: int = 2,
    active: np.ndarray | None = None,
) -> Estimate:
    """Solve for all levels at once, one Gauss-Newton step per gate.

    Args:
        prior: Gaussian on the poses; its information may be singular (springs alone).
        T_start: (L, 4, 4) start, default the prior's mean.
        gates_m: per iteration, the largest distance at which a pixel belongs to a level.
        vote_weights: per iteration weight of the centre votes, see `assign`; default none.
        sigmas_m: per iteration noise, default `noise.sigma_m` (coarse to fine annealing).
        reassign_every: iterations between two assignments of pixels to levels.
    """
    L = len(model.levels)
    T = prior.T_camera_ct.copy() if T_start is None else T_start.copy()
    previous_gate, converged, used = None, False, 0
    lin = None
    for it, gate in enumerate(gates_m):
        vote = vote_weights[it] if it < len(vote_weights) else 0.0
        if it % reassign_every == 0 or gate != previous_gate:
            level = assign(model, T, pixels, gate, vote, active)
            order = np.argsort(level, kind="stable")
            bounds = np.searchsorted(level[order], np.arange(L + 1))
            previous_gate = gate
        here = replace(noise, sigma_m=sigmas_m[it] if it < len(sigmas_m) else noise.sigma_m)
        lin = _linearise(model, T, pixels, order, bounds, here)
        anchor = anchors(model, T)
        deviation = twist_between(T, prior.T_camera_ct, anchor).ravel()
        H = prior.information.copy()
        for k in range(L):
            H[6 * k : 6 * k + 6, 6 * k : 6 * k + 6] += lin.H[k]
        rhs = -(lin.g.ravel() + prior.information @ deviation)
        step = np.linalg.solve(H + _ridge(L), rhs).reshape(L, 6)
        # A step far beyond the gate comes from a bad linearisation, not from the data.
        size = np.maximum(
            np.linalg.norm(step[:, :3], axis=1) / 8e-3, np.linalg.norm(step[:, 3:], axis=1) / 0.15
        ).max()
        step /= max(1.0, size)
        T = exp_about(step, anchor) @ T
        used = it + 1
        converged = bool(np.abs(step[:, :3]).max() < 5e-5 and np.abs(step[:, 3:]).max() < 1e-3)
    level = assign(model, T, pixels, gates_m[-1], 0.0, active)
    order = np.argsort(level, kind="stable")
    bounds = np.searchsorted(level[order], np.arange(L + 1))
    lin = _linearise(model, T, pixels, order, bounds, noise)
    deviation = twist_between(T, prior.T_camera_ct, anchors(model, T)).ravel()
    H = prior.information.copy()
    for k in range(L):
        H[6 * k : 6 * k + 6, 6 * k : 6 * k + 6] += lin.H[k]
    # Pixels that no level explains are the data's evidence against a hypothesis.
    share = np.clip(pixels.bone, 0.05, 0.97)
    log_likelihood = pixels.area_m2 / noise.correlation_area_m2 * np.log(
        (1.0 - share) / OUTLIER_WIDTH_M
    )
    log_likelihood[order[bounds[0] :]] = lin.log_likelihood
    return Estimate(
        T_camera_ct=T,
        covariance=np.linalg.inv(H + _ridge(L)),
        data_information=lin.H,
        anchor_camera_m=anchors(model, T),
        fits=lin.fits,
        level_of_pixel=level,
        pixel_log_likelihood=log_likelihood,
        prior_energy=float(0.5 * deviation @ prior.information @ deviation),
        sigma_m=lin.sigma_m,
        iterations=used,
        converged=converged,
    )


def _ridge(L: int) -> np.ndarray:
    """Weak absolute information (1 m, 1 rad): keeps a level without any information solvable."""
    return np.eye(6 * L)


def springs(
    model: SpineModel, T: np.ndarray, sigma_rotation_rad: float, sigma_translation_m: float
) -> np.ndarray:
    """(6L, 6L) information that neighbours keep their CT pose, softly, about the disc between.

    All meshes share one CT frame, so the CT's relative pose means equal `T_camera_ct`: the mean
    that goes with this information is one rigid pose for all levels. `T` (L, 4, 4) gives the
    anchors of the linearisation.
    """
    L = len(model.levels)
    anchor = anchors(model, T)
    information = np.zeros((6 * L, 6 * L))
    W = np.diag([sigma_translation_m**-2] * 3 + [sigma_rotation_rad**-2] * 3)
    for k in range(L - 1):
        disc_ct = 0.5 * (model.centroid_m[k] + model.centroid_m[k + 1])
        m = 0.5 * sum(T[j, :3, :3] @ disc_ct + T[j, :3, 3] for j in (k, k + 1))
        A = np.zeros((6, 6 * L))
        for j, sign in ((k, -1.0), (k + 1, 1.0)):
            A[:3, 6 * j : 6 * j + 3] = sign * np.eye(3)
            A[:3, 6 * j + 3 : 6 * j + 6] = -sign * skew(m - anchor[j])
            A[3:, 6 * j + 3 : 6 * j + 6] = sign * np.eye(3)
        information += A.T @ W @ A
    return information
