# SPDX-License-Identifier: Apache-2.0
"""Joint maximum-a-posteriori poses of all vertebrae of a spine.

The state is one twist per level, xi_l = (v, w): a left perturbation in the camera frame about the
level's anchor a_l (its dorsal centre), p -> p + v + w x (p - a_l). The prior is a Gaussian over
all 6 L numbers, so common motion (camera, breathing of the whole trunk) and motion of one
vertebra against its neighbours are told apart by their covariance, not by thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from spine_nav_common.core.geometry import skew

from . import kernels
from .model import GRID_M, SpineModel
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
    p = _contiguous(pixels)
    return kernels.assign(
        p.points_m, p.ray, p.centre_vote_m, np.ascontiguousarray(T), anchors(model, T), REACH_M, gate_m,
        vote_weight, *_grids(model),
    )  # fmt: skip


def _contiguous(pixels: BonePixels) -> BonePixels:
    """One memory layout, so that the kernels are compiled once and not in the middle of a run."""
    arrays = {
        f.name: np.require(getattr(pixels, f.name), np.float32, ("C", "W"))
        for f in fields(BonePixels) if f.name != "count"
    }  # fmt: skip
    return BonePixels(**arrays, count=pixels.count)


def _grids(model: SpineModel) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    return model.field, model.offset, model.shape, model.origin_m, GRID_M


@dataclass(frozen=True)
class _Linear:
    """Normal equations per level (the data's energy), and per pixel: signed distance, deviation
    along the normal, log density, responsibility of bone, 1 where the surface is seen."""

    H: np.ndarray
    g: np.ndarray
    distance: np.ndarray
    sigma: np.ndarray
    log_density: np.ndarray
    bone: np.ndarray
    seen: np.ndarray


def _linearise(
    model: SpineModel, T: np.ndarray, pixels: BonePixels, level: np.ndarray, noise: Noise
) -> _Linear:
    """Normal equations of the pixels that have a level."""
    pixel = np.empty((5, len(level)))
    H, g = kernels.linearise(
        pixels.points_m, pixels.ray, pixels.bone, pixels.clean,
        pixels.area_m2 / noise.correlation_area_m2, level, T, anchors(model, T), noise.sigma_m,
        noise.tissue_scale_m, *_grids(model), pixel,
    )  # fmt: skip
    return _Linear(H, g, *pixel)


def _fits(pixels: BonePixels, level: np.ndarray, lin: _Linear, L: int) -> tuple[LevelFit, ...]:
    owner = level + 1  # 0: none
    points, area, inliers, squares = (
        np.bincount(owner, weight, L + 1)[1:]
        for weight in (None, pixels.area_m2 * lin.seen, lin.bone, lin.bone * lin.distance**2)
    )
    share = inliers / np.maximum(points, 1)
    rms = np.sqrt(squares / np.maximum(inliers, 1e-9))
    return tuple(
        LevelFit(int(points[k]), float(1e6 * area[k]), float(share[k]), float(1e3 * rms[k]))
        for k in range(L)
    )


def _sensor_noise(lin: _Linear, noise: Noise) -> float:
    """Frontal noise of the sensor, metres, from the points inside the bone: tissue only ever lies
    outside, so the inner half shows the noise alone."""
    inner = (lin.distance < 0) & (lin.distance > -4 * MAX_SIGMA_M)
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
    pixels = _contiguous(pixels)
    T = prior.T_camera_ct.copy() if T_start is None else T_start.copy()
    converged = False
    for it, gate in enumerate(gates_m):
        if it in reassign_at:
            vote = vote_weights[it] if it < len(vote_weights) else 0.0
            level = assign(model, T, pixels, gate, vote)
        here = replace(noise, sigma_m=sigmas_m[it] if it < len(sigmas_m) else noise.sigma_m)
        if level is None:
            raise ValueError("no assignment: pass `level` or reassign at iteration 0")
        lin = _linearise(model, T, pixels, level, here)
        anchor = anchors(model, T)
        deviation = twist_between(T, prior.T_camera_ct, anchor).ravel()
        rhs = -(lin.g.ravel() + prior.information @ deviation)
        step = np.linalg.solve(_with_data(prior.information, lin.H), rhs).reshape(L, 6)
        # A step far beyond the gate comes from a bad linearisation, not from the data.
        size = np.sqrt([(step[:, :3] ** 2).sum(axis=1), (step[:, 3:] ** 2).sum(axis=1)])
        step /= max(1.0, size[0].max() / 8e-3, size[1].max() / 0.15)
        T = exp_about(step, anchor) @ T
        converged = bool(size[0].max() < 5e-5 and size[1].max() < 1e-3)
    assert level is not None
    lin = _linearise(model, T, pixels, level, noise)
    deviation = twist_between(T, prior.T_camera_ct, anchors(model, T)).ravel()
    return Estimate(
        T_camera_ct=T,
        covariance=np.linalg.inv(_with_data(prior.information, lin.H)),
        data_information=lin.H,
        anchor_camera_m=anchors(model, T),
        fits=_fits(pixels, level, lin, L),
        level_of_pixel=level,
        # Pixels that no level explains are the data's evidence against a hypothesis.
        pixel_log_likelihood=pixels.area_m2 / noise.correlation_area_m2 * lin.log_density,
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
