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

from spine_nav_common.core.geometry import skew

from .likelihood import OUTLIER_WIDTH_M, PointLikelihood, point_likelihood
from .model import SpineModel
from .observation import BonePixels

MAX_SIGMA_M = 4e-3
REACH_M = 65e-3
"""No point of a vertebra's dorsal surface lies farther from its dorsal centre."""


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
    w = xi[:, 3:]
    angle = np.sqrt((w * w).sum(axis=1))[:, None, None]
    K = _skews(w)
    sinc = np.sinc(angle / np.pi)
    out[:, :3, :3] = np.eye(3) + sinc * K + 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * (K @ K)
    out[:, :3, 3] = xi[:, :3] + anchor - np.einsum("lij,lj->li", out[:, :3, :3], anchor)
    out[:, 3, 3] = 1.0
    return out


def twist_between(T: np.ndarray, T_reference: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """(L, 6) twists xi with T = Exp(xi about anchor) T_reference, for turns below 170 degrees."""
    R = np.einsum("lij,lkj->lik", T[:, :3, :3], T_reference[:, :3, :3])
    t = T[:, :3, 3] - np.einsum("lij,lj->li", R, T_reference[:, :3, 3])
    w = 0.5 * np.stack(
        [R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]], axis=1
    )
    sine = np.sqrt((w * w).sum(axis=1))
    angle = np.arctan2(sine, 0.5 * (np.einsum("lii->l", R) - 1.0))
    w *= (1.0 / np.sinc(angle / np.pi))[:, None]
    return np.hstack([t - anchor + np.einsum("lij,lj->li", R, anchor), w])


def _skews(w: np.ndarray) -> np.ndarray:
    """(L, 3, 3) cross-product matrices of (L, 3)."""
    K = np.zeros((len(w), 3, 3))
    K[:, 0, 1], K[:, 0, 2], K[:, 1, 2] = -w[:, 2], w[:, 1], -w[:, 0]
    return K - K.transpose(0, 2, 1)


def assign(
    model: SpineModel,
    T: np.ndarray,
    pixels: BonePixels,
    gate_m: float,
    vote_weight: float = 0.0,
) -> np.ndarray:
    """(M,) index of the level whose surface explains a pixel best, -1 for none.

    With `vote_weight` the network's centre votes help, which a coarse pose needs: the cost is
    |distance| + vote_weight * |vote - anchor|.
    """
    anchor = anchors(model, T).astype(np.float32)
    best = np.full(len(pixels.points_m), np.inf, np.float32)
    level = np.full(len(pixels.points_m), -1)
    for k in range(len(model.levels)):
        offset = pixels.points_m - anchor[k]
        near = np.flatnonzero(np.einsum("ij,ij->i", offset, offset) < REACH_M**2)
        if len(near) == 0:
            continue
        s, n = model.surface(pixels.points_m[near], T[k], k)
        cost = np.abs(s)
        ok = (cost < gate_m) & (np.einsum("ij,ij->i", n, pixels.ray[near]) < 0.25)
        if vote_weight > 0.0:
            vote = np.linalg.norm(pixels.centre_vote_m[near] - anchor[k], axis=1)
            cost = cost + vote_weight * np.nan_to_num(vote, nan=0.02)
        ok &= cost < best[near]
        at = near[ok]
        best[at] = cost[ok]
        level[at] = k
    return level


class _Sorted:
    """Pixels that belong to some level, sorted by level; `bounds` cuts them."""

    def __init__(self, pixels: BonePixels, level: np.ndarray, noise: Noise, L: int):
        order = np.argsort(level, kind="stable")
        cut = np.searchsorted(level[order], np.arange(L + 1))
        self.order = order[cut[0] :]  # -1 sorts first
        self.bounds = cut - cut[0]
        self.points, self.ray = pixels.points_m[self.order], pixels.ray[self.order]
        self.bone, self.clean = pixels.bone[self.order], pixels.clean[self.order]
        self.area = pixels.area_m2[self.order]
        self.weight = self.area * np.float32(1.0 / noise.correlation_area_m2)

    def parts(self) -> list[slice]:
        return [slice(a, b) for a, b in zip(self.bounds[:-1], self.bounds[1:])]


@dataclass(frozen=True)
class _Linear:
    H: np.ndarray
    g: np.ndarray
    distance: np.ndarray
    sigma: np.ndarray
    seen: np.ndarray
    likelihood: PointLikelihood


def _linearise(model: SpineModel, T: np.ndarray, data: _Sorted, noise: Noise) -> _Linear:
    """Normal equations per level."""
    L = len(model.levels)
    anchor = anchors(model, T).astype(np.float32)
    s = np.empty(len(data.points), np.float32)
    J = np.empty((len(data.points), 6), np.float32)
    n = J[:, :3]  # the sign of J cancels in H and is minded in g
    for k, part in enumerate(data.parts()):
        q = data.points[part]
        s[part], n[part] = model.surface(q, T[k], k)
        arm = q - anchor[k]
        x, y, z = n[part].T
        J[part, 3] = arm[:, 1] * z - arm[:, 2] * y
        J[part, 4] = arm[:, 2] * x - arm[:, 0] * z
        J[part, 5] = arm[:, 0] * y - arm[:, 1] * x
    cosine = -np.einsum("ij,ij->i", n, data.ray)
    seen = np.isfinite(s) & (cosine > 0.05)
    s[~seen] = 0.0
    # Stereo depth on a slope is worse than its frontal noise seen along the normal.
    sigma = np.float32(noise.sigma_m) * (2.5 - 1.5 * np.clip(cosine, 0.0, 1.0))
    lik = point_likelihood(s, sigma, noise.tissue_scale_m, data.clean, data.bone)
    weight = data.weight * seen
    WJ = J * (weight * lik.curvature)[:, None]
    pull = weight * lik.score
    H, grad = np.zeros((L, 6, 6)), np.zeros((L, 6))
    for k, part in enumerate(data.parts()):
        H[k] = WJ[part].T @ J[part]
        grad[k] = -(pull[part] @ J[part])
    return _Linear(H, grad, s, sigma, seen, lik)


def _fits(data: _Sorted, lin: _Linear) -> tuple[LevelFit, ...]:
    fits = []
    for part in data.parts():
        inlier = lin.likelihood.bone[part] * lin.seen[part]
        total = max(float(inlier.sum()), 1e-9)
        fits.append(
            LevelFit(
                points=len(inlier),
                area_mm2=float(1e6 * (data.area[part] * lin.seen[part]).sum()),
                inlier_share=float(inlier.mean()) if len(inlier) else 0.0,
                rms_mm=float(1e3 * np.sqrt((inlier * lin.distance[part] ** 2).sum() / total)),
            )
        )
    return tuple(fits)


def _sensor_noise(lin: _Linear, noise: Noise) -> float:
    """Frontal noise of the sensor, metres, from the points inside the bone: tissue only ever lies
    outside, so the inner half shows the noise alone."""
    inner = lin.seen & (lin.distance < 0) & (lin.distance > -4 * MAX_SIGMA_M)
    if inner.sum() <= 50:
        return noise.sigma_m
    ratio = lin.distance[inner] / lin.sigma[inner]
    return float(1.48 * noise.sigma_m * np.median(np.abs(ratio)))


def estimate(
    model: SpineModel,
    pixels: BonePixels,
    prior: Prior,
    noise: Noise,
    T_start: np.ndarray | None = None,
    gates_m: tuple[float, ...] = (4e-3, 4e-3, 4e-3, 4e-3),
    vote_weights: tuple[float, ...] = (),
    sigmas_m: tuple[float, ...] = (),
    reassign_at: tuple[int, ...] = (0, 2),
    level: np.ndarray | None = None,
) -> Estimate:
    """Solve for all levels at once, one Gauss-Newton step per gate.

    Args:
        prior: Gaussian on the poses; its information may be singular (springs alone).
        T_start: (L, 4, 4) start, default the prior's mean.
        gates_m: per iteration, the largest distance at which a pixel belongs to a level.
        vote_weights: per iteration weight of the centre votes, see `assign`; default none.
        sigmas_m: per iteration noise, default `noise.sigma_m` (coarse to fine annealing).
        reassign_at: iterations before which pixels are assigned to levels anew.
        level: (M,) assignment to begin with, where iteration 0 is not among them.
    """
    L = len(model.levels)
    T = prior.T_camera_ct.copy() if T_start is None else T_start.copy()
    converged = False
    if level is not None:
        data = _Sorted(pixels, level, noise, L)
    for it, gate in enumerate(gates_m):
        if it in reassign_at:
            vote = vote_weights[it] if it < len(vote_weights) else 0.0
            level = assign(model, T, pixels, gate, vote)
            data = _Sorted(pixels, level, noise, L)
        here = replace(noise, sigma_m=sigmas_m[it] if it < len(sigmas_m) else noise.sigma_m)
        lin = _linearise(model, T, data, here)
        anchor = anchors(model, T)
        deviation = twist_between(T, prior.T_camera_ct, anchor).ravel()
        rhs = -(lin.g.ravel() + prior.information @ deviation)
        step = np.linalg.solve(_with_data(prior.information, lin.H), rhs).reshape(L, 6)
        # A step far beyond the gate comes from a bad linearisation, not from the data.
        size = np.sqrt([(step[:, :3] ** 2).sum(axis=1), (step[:, 3:] ** 2).sum(axis=1)])
        step /= max(1.0, size[0].max() / 8e-3, size[1].max() / 0.15)
        T = exp_about(step, anchor) @ T
        converged = bool(size[0].max() < 5e-5 and size[1].max() < 1e-3)
    lin = _linearise(model, T, data, noise)
    deviation = twist_between(T, prior.T_camera_ct, anchors(model, T)).ravel()
    # Pixels that no level explains are the data's evidence against a hypothesis.
    share = np.clip(pixels.bone, 0.05, 0.97)
    log_likelihood = (
        pixels.area_m2 / noise.correlation_area_m2 * np.log((1.0 - share) / OUTLIER_WIDTH_M)
    )
    log_likelihood[data.order] = data.weight * lin.seen * lin.likelihood.log_density
    return Estimate(
        T_camera_ct=T,
        covariance=np.linalg.inv(_with_data(prior.information, lin.H)),
        data_information=lin.H,
        anchor_camera_m=anchors(model, T),
        fits=_fits(data, lin),
        level_of_pixel=level,
        pixel_log_likelihood=log_likelihood,
        prior_energy=float(0.5 * deviation @ prior.information @ deviation),
        sigma_m=_sensor_noise(lin, noise),
        iterations=len(gates_m),
        converged=converged,
    )


def _with_data(information: np.ndarray, H: np.ndarray) -> np.ndarray:
    """Prior plus data, plus weak absolute information (1 m, 1 rad) that keeps a level without any
    information solvable."""
    out = information + np.eye(len(information))
    for k in range(len(H)):
        out[6 * k : 6 * k + 6, 6 * k : 6 * k + 6] += H[k]
    return out


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
