# SPDX-License-Identifier: Apache-2.0
"""Joint maximum-a-posteriori poses of all vertebrae of a spine.

The state is one twist per level, xi_l = (v, w): a left perturbation in the camera frame about the
level's anchor a_l (its dorsal centre), p -> p + v + w x (p - a_l). The prior is a Gaussian over
all 6 L numbers, so common motion (camera, breathing of the whole trunk) and motion of one
vertebra against its neighbours are told apart by their covariance, not by thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from . import frame_kernels, kernels
from .model import SpineModel
from .observation import BonePixels

MAX_SIGMA_M = 4e-3
REACH_M = 65e-3
"""No point of a vertebra's dorsal surface lies farther from its dorsal centre."""


BLOCK_M = 10e-3
AREA_GAIN = 3.0
POSE_AREA_M2 = (20e-6, 120e-6)
MIN_RESIDUALS = 200


def gate_m(sigma_m: float) -> float:
    """Distance beyond which a pixel no longer belongs to a surface, for a settled pose."""
    return max(5e-3, 3.0 * sigma_m)


@dataclass(frozen=True)
class Noise:
    """What a bone pixel's depth is worth.

    As evidence between hypotheses, bone of `correlation_area_m2` is one sample: a camera's error
    reaches as far as that, and a lead must never be imagined. In the pose it is `pose_area_m2`,
    which a frame's own residuals measure (`Estimate.sample_area_m2`): counted as evidence, clean
    pixels lose against the springs, and a bent spine comes out straight. `pose_tissue_m` is the
    scale of tissue in the pose: with a long tail bare bone that the network is not sure of is not
    pushed in.
    """

    sigma_m: float
    tissue_scale_m: float
    correlation_area_m2: float
    pose_area_m2: float = 50e-6
    pose_tissue_m: float = 2e-3


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


@dataclass(frozen=True)
class Estimate:
    """Poses of all levels after one frame; what not everybody asks is computed when asked.

    level_of_pixel (M,): index of the level, -1 for none. linear: at the poses, in the cautious
    weights of evidence. model, pixels, prior, noise: what they were made from.
    """

    T_camera_ct: np.ndarray
    anchor_camera_m: np.ndarray
    level_of_pixel: np.ndarray
    linear: _Linear
    iterations: int
    converged: bool
    model: SpineModel
    pixels: BonePixels
    prior: Prior
    noise: Noise

    @property
    def data_information(self) -> np.ndarray:
        """(L, 6, 6) what the frame says of each level, in the weights of evidence."""
        return self.linear.H

    @cached_property
    def information(self) -> np.ndarray:
        """(6L, 6L) of the poses, prior included, in the weights of the pose."""
        p, noise = self.pixels, self.noise
        H, _ = kernels.linearise(
            p.points_m, p.ray, p.bone, p.clean, p.area_m2 / np.float32(noise.pose_area_m2),
            self.level_of_pixel, self.T_camera_ct, self.anchor_camera_m, noise.sigma_m,
            noise.pose_tissue_m, *self.model.grids, np.empty((5, 0)),
        )  # fmt: skip
        return _with_data(np.ascontiguousarray(self.prior.information), H)

    @property
    def covariance(self) -> np.ndarray:
        """(6L, 6L), in the weights of the pose."""
        return np.linalg.inv(self.information)

    @cached_property
    def fits(self) -> tuple[LevelFit, ...]:
        """(L,) how well each level explains its pixels."""
        return _fits(self.pixels, self.level_of_pixel, self.linear, len(self.T_camera_ct))

    @cached_property
    def sample_area_m2(self) -> float:
        """Bone that is one independent sample by this frame's residuals."""
        return _sample_area(self.pixels, self.level_of_pixel, self.linear, self.noise)

    @cached_property
    def sigma_m(self) -> float:
        """Frontal noise of the sensor by this frame's residuals."""
        return _sensor_noise(self.linear, self.noise)

    @cached_property
    def pixel_log_likelihood(self) -> np.ndarray:
        """(M,) nat; pixels that no level explains are the data's evidence against a hypothesis."""
        return self.pixels.area_m2 / self.noise.correlation_area_m2 * self.linear.log_density

    @property
    def log_likelihood(self) -> float:
        """Of all pixels, those that no level explains included; nat."""
        return float(self.pixel_log_likelihood.sum())

    @property
    def prior_energy(self) -> float:
        """What the poses cost by the prior, nat."""
        xi = kernels.twist_between(
            self.T_camera_ct, np.ascontiguousarray(self.prior.T_camera_ct), self.anchor_camera_m
        ).ravel()
        return float(0.5 * xi @ self.prior.information @ xi)

    @property
    def score(self) -> float:
        """Log posterior up to a constant, in nat; larger is better."""
        return self.log_likelihood - self.prior_energy


def anchors(model: SpineModel, T: np.ndarray) -> np.ndarray:
    """(L, 3) dorsal centres in the camera frame."""
    return kernels.anchors(model.anchor_m, np.ascontiguousarray(T))


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
        vote_weight, *model.grids,
    )  # fmt: skip


def _contiguous(pixels: BonePixels) -> BonePixels:
    """One memory layout, so that the kernels are compiled once and not in the middle of a run."""
    arrays = {
        f.name: np.require(getattr(pixels, f.name), np.float32, ("C", "W"))
        for f in fields(BonePixels) if f.name != "count"
    }  # fmt: skip
    return BonePixels(**arrays, count=pixels.count)


def _linearise(
    model: SpineModel, T: np.ndarray, pixels: BonePixels, level: np.ndarray, noise: Noise
) -> _Linear:
    """Normal equations of the pixels that have a level, in the weights of evidence."""
    pixel = np.empty((5, len(level)))
    H, g = kernels.linearise(
        pixels.points_m, pixels.ray, pixels.bone, pixels.clean,
        pixels.area_m2 / noise.correlation_area_m2, level, T, anchors(model, T), noise.sigma_m,
        noise.tissue_scale_m, *model.grids, pixel,
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
    inner, median = frame_kernels.sensor_noise(lin.distance, lin.sigma, 4 * MAX_SIGMA_M)
    return 1.48 * noise.sigma_m * median if inner > 50 else noise.sigma_m


def _sample_area(pixels: BonePixels, level: np.ndarray, lin: _Linear, noise: Noise) -> float:
    """Bone surface, m2, that counts as one independent sample in the pose.

    From the correlation of residuals within blocks of 10 mm. A block ends before the correlation
    does, and the fitted pose has taken its share of it: AREA_GAIN, chosen on training scenes, makes
    up for both.
    """
    used, correlation, usual_m2 = frame_kernels.block_correlation(
        pixels.points_m, pixels.area_m2, level, lin.distance, lin.sigma, lin.seen, BLOCK_M
    )
    if used < MIN_RESIDUALS or not np.isfinite(correlation):
        return noise.pose_area_m2
    area = AREA_GAIN * (usual_m2 + max(0.0, correlation) * BLOCK_M**2)
    return float(np.clip(area, *POSE_AREA_M2))


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
    settle: int = 0,
) -> Estimate:
    """Solve for all levels at once, one Gauss-Newton step per gate, then until it settles.

    Args:
        prior: Gaussian on the poses; its information may be singular (springs alone).
        T_start: (L, 4, 4) start, default the prior's mean.
        gates_m: per iteration, the largest distance at which a pixel belongs to a level.
        vote_weights: per iteration weight of the centre votes, see `assign`; default none.
        sigmas_m: per iteration noise, default `noise.sigma_m` (coarse to fine annealing).
        reassign_at: iterations before which pixels are assigned to levels anew.
        level: (M,) assignment to begin with, where iteration 0 is not among them.
        settle: at most so many more iterations with the last gate, assigned anew in each, until
            a step no longer matters.
    """
    pixels = _contiguous(pixels)
    least, steps = len(gates_m), len(gates_m) + settle
    reassign = np.zeros(steps, np.bool_)
    reassign[[i for i in reassign_at if i < least]] = True
    reassign[least:] = True
    if level is None and not reassign[0]:
        raise ValueError("no assignment: pass `level` or reassign at iteration 0")
    level = np.full(len(pixels.points_m), -1) if level is None else level.copy()
    T = np.array(prior.T_camera_ct if T_start is None else T_start, order="C")
    information = np.ascontiguousarray(prior.information)
    T_prior = np.ascontiguousarray(prior.T_camera_ct)
    weight = pixels.area_m2 / np.float32(noise.pose_area_m2)
    grids = model.grids
    per_pixel = (pixels.points_m, pixels.ray)
    of_bone = (pixels.bone, pixels.clean, weight, level)
    taken, converged = kernels.gauss_newton(
        *per_pixel, pixels.centre_vote_m, *of_bone, T, model.anchor_m, T_prior, information,
        _padded(gates_m, steps, gates_m[-1]), _padded(vote_weights, steps, 0.0),
        _padded(sigmas_m, steps, noise.sigma_m), reassign, least, noise.pose_tissue_m, REACH_M,
        *grids,
    )  # fmt: skip
    return Estimate(
        T, anchors(model, T), level, _linearise(model, T, pixels, level, noise), taken, converged,
        model, pixels, prior, noise,
    )  # fmt: skip


def _padded(values: tuple[float, ...], steps: int, rest: float) -> np.ndarray:
    out = np.full(steps, rest)
    out[: len(values)] = values
    return out


def _with_data(information: np.ndarray, H: np.ndarray) -> np.ndarray:
    """Prior plus data, plus weak absolute information (1 m, 1 rad) that keeps a level without any
    information solvable."""
    return kernels.with_data(information, H)


def springs(
    model: SpineModel,
    T: np.ndarray,
    sigma_rotation_rad: float,
    sigma_translation_m: float,
    tail: float = np.inf,
) -> np.ndarray:
    """(6L, 6L) information that neighbours keep their CT pose, softly, about the disc between.

    All meshes share one CT frame, so the CT's relative pose means equal `T_camera_ct`: the mean
    that goes with this information is one rigid pose for all levels. `T` (L, 4, 4) gives the
    anchors of the linearisation. Joints follow a Student distribution of `tail` degrees of freedom:
    one that is bent in T by more than the sigmas expect holds less.
    """
    middle = 0.5 * (model.centroid_m[:-1] + model.centroid_m[1:])
    ends = [np.einsum("lij,lj->li", P[:, :3, :3], middle) + P[:, :3, 3] for P in (T[:-1], T[1:])]
    along = np.full(len(middle), sigma_translation_m**-2)
    about = np.full(len(middle), sigma_rotation_rad**-2)
    if np.isfinite(tail):
        between = T[:-1, :3, :3] @ T[1:, :3, :3].transpose(0, 2, 1)
        cosine = 0.5 * (np.einsum("lii->l", between) - 1.0)
        angle = np.arccos(np.clip(cosine, -1.0, 1.0))
        strain = ((ends[1] - ends[0]) ** 2).sum(axis=1) * along + angle**2 * about
        held = np.minimum(1.0, (tail + 6.0) / (tail + strain))
        along, about = held * along, held * about
    return kernels.springs(anchors(model, T), 0.5 * (ends[0] + ends[1]), along, about)
