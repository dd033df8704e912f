# SPDX-License-Identifier: Apache-2.0
"""What the compiled kernels compute, in plain NumPy: slower, and easy to read."""

from __future__ import annotations

import numpy as np
from scipy.special import erfcx

from spine_nav_common.core.types import Intrinsics
from spine_registration.core import identity
from spine_registration.core.estimator import (
    REACH_M,
    Noise,
    Prior,
    anchors,
    exp_about,
    twist_between,
)
from spine_registration.core.kernels import ARM_M, MIN_COSINE, OUTLIER_WIDTH_M
from spine_registration.core.model import GRID_M, SpineModel
from spine_registration.core.observation import BonePixels
from spine_registration.core.visibility import CELL_PX, NEAR_M, SELF_OCCLUSION_M


def surface(
    model: SpineModel, points_m: np.ndarray, T: np.ndarray, level: int
) -> tuple[np.ndarray, np.ndarray]:
    """Twin of `SpineModel.surface`."""
    R = T[:3, :3]
    g = ((points_m - T[:3, 3]) @ R - model.origin_m[level]) / GRID_M
    nearest = np.rint(g)
    nx, ny, nz = model.shape[level].tolist()
    inside = (nearest >= 0).all(axis=1) & (nearest < (nx, ny, nz)).all(axis=1)
    index = np.where(inside, nearest @ np.array([ny * nz, nz, 1]), 0.0).astype(int)
    node = model.field[index + model.offset[level]]
    distance = node[:, 0] + GRID_M * np.einsum("ij,ij->i", g - nearest, node[:, 1:])
    distance[~inside] = np.nan
    normal = node[:, 1:] @ R.T
    return distance, normal / np.maximum(np.linalg.norm(normal, axis=1), 1e-6)[:, None]


def density(
    s: np.ndarray, sigma: np.ndarray, tissue: float, clean: np.ndarray, bone: np.ndarray
) -> np.ndarray:
    """Twin of `kernels.densities`: log density, score, curvature, responsibility of bone."""
    z = s / sigma
    gauss = np.exp(-0.5 * z * z) / (sigma * np.sqrt(2.0 * np.pi))
    ratio = sigma / tissue
    # Exponential convolved with a Gaussian; erfcx keeps it finite where exp would overflow,
    # and the far right tail takes the plain exponential.
    arg = (ratio - z) / np.sqrt(2.0)
    tail = np.exp(np.minimum(0.5 * ratio * ratio - s / tissue, 50.0))
    covered = np.where(
        arg > -4.0,
        0.5 / tissue * np.exp(-0.5 * z * z) * erfcx(np.maximum(arg, -4.0)),
        tail / tissue,
    )
    share_clean = 0.15 + 0.7 * clean
    share = np.clip(bone, 0.05, 0.97)
    p_gauss = share * share_clean * gauss
    p_tissue = share * (1.0 - share_clean) * covered
    total = p_gauss + p_tissue + (1.0 - share) / OUTLIER_WIDTH_M
    slope = -p_gauss * z / sigma + share * (1.0 - share_clean) * (gauss - covered) / tissue
    curvature = (p_gauss + 0.35 * p_tissue) / total / sigma**2
    return np.array([np.log(total), -slope / total, curvature, (p_gauss + p_tissue) / total])


def assign(
    model: SpineModel, T: np.ndarray, pixels: BonePixels, gate_m: float, vote_weight: float
) -> np.ndarray:
    """Twin of `estimator.assign`."""
    anchor = anchors(model, T)
    best = np.full(len(pixels.points_m), np.inf)
    level = np.full(len(pixels.points_m), -1)
    for k in range(len(model.levels)):
        near = np.linalg.norm(pixels.points_m - anchor[k], axis=1) < REACH_M
        s, n = surface(model, pixels.points_m, T[k], k)
        vote = np.linalg.norm(pixels.centre_vote_m - anchor[k], axis=1)
        cost = np.abs(s) + vote_weight * np.nan_to_num(vote, nan=0.02)
        facing = np.einsum("ij,ij->i", n, pixels.ray)
        ok = near & (np.abs(s) < gate_m) & (facing < 0.25) & (cost < best)
        best[ok], level[ok] = cost[ok], k
    return level


def linearise(
    model: SpineModel, T: np.ndarray, pixels: BonePixels, level: np.ndarray, noise: Noise
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Twin of `kernels.linearise`: H (L, 6, 6), g (L, 6), pixel (5, M)."""
    L, M = len(model.levels), len(level)
    weight = pixels.area_m2 / noise.correlation_area_m2
    H, g, pixel = np.zeros((L, 6, 6)), np.zeros((L, 6)), np.zeros((5, M))
    pixel[1] = noise.sigma_m
    pixel[2] = np.log((1.0 - np.clip(pixels.bone, 0.05, 0.97)) / OUTLIER_WIDTH_M)
    for k, anchor in enumerate(anchors(model, T)):
        s, n = surface(model, pixels.points_m, T[k], k)
        cosine = -np.einsum("ij,ij->i", n, pixels.ray)
        mine = (level == k) & np.isfinite(s) & (cosine > MIN_COSINE)
        sigma = noise.sigma_m * (2.5 - 1.5 * np.clip(cosine[mine], 0.0, 1.0))
        of = density(s[mine], sigma, noise.tissue_scale_m, pixels.clean[mine], pixels.bone[mine])
        log_density, score, curvature, bone = of
        pixel[:, mine] = s[mine], sigma, log_density, bone, np.ones(mine.sum())
        J = np.hstack([n[mine], np.cross(pixels.points_m[mine] - anchor, n[mine])])
        H[k] = (J * (weight[mine] * curvature)[:, None]).T @ J
        g[k] = -((weight[mine] * score) @ J)
    return H, g, pixel


def gauss_newton(
    model: SpineModel,
    T: np.ndarray,
    pixels: BonePixels,
    prior: Prior,
    noise: Noise,
    gates_m: tuple[float, ...],
) -> np.ndarray:
    """Twin of `kernels.gauss_newton`, pixels assigned anew in every step: (L, 4, 4)."""
    L, before = len(T), np.zeros((len(T), 6))
    arm = np.r_[np.ones(3), np.full(3, ARM_M)]
    for gate in gates_m:
        anchor = anchors(model, T)
        H, g, _ = linearise(model, T, pixels, assign(model, T, pixels, gate, 0.0), noise)
        A = prior.information + np.eye(6 * L)
        for k in range(L):
            A[6 * k : 6 * k + 6, 6 * k : 6 * k + 6] += H[k]
        deviation = twist_between(T, prior.T_camera_ct, anchor).ravel()
        xi = -np.linalg.solve(A, g.ravel() + prior.information @ deviation).reshape(L, 6)
        xi[((xi * arm) * (before * arm)).sum(axis=1) < 0] *= 0.5
        shift, turn = (
            np.linalg.norm(xi[:, part], axis=1).max() for part in (slice(3), slice(3, 6))
        )
        xi /= max(1.0, shift / 8e-3, turn / 0.15)
        before = xi
        T = exp_about(xi, anchor) @ T
    return T


def view_levels(
    model: SpineModel, T: np.ndarray, depth_m: np.ndarray, intrinsics: Intrinsics, stride: int = 3
) -> np.ndarray:
    """Twin of `visibility.view_levels`: (L, 4) in the order of `LevelView`."""
    height, width = depth_m.shape
    p = np.einsum("lij,lnj->lni", T[:, :3, :3], model.dorsal_m[:, ::stride])
    p += T[:, None, :3, 3]
    n = np.einsum("lij,lnj->lni", T[:, :3, :3], model.dorsal_normal[:, ::stride])
    z = np.maximum(p[..., 2], 1e-3)
    u = np.rint(p[..., 0] / z * intrinsics.fx + intrinsics.cx).astype(int)
    v = np.rint(p[..., 1] / z * intrinsics.fy + intrinsics.cy).astype(int)
    facing = np.einsum("lni,lni->ln", n, p) < -0.2 * np.linalg.norm(p, axis=2)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (p[..., 2] > 0.05)
    cols = width // CELL_PX + 1
    cell = np.where(inside, (v // CELL_PX) * cols + u // CELL_PX, 0)
    front = np.full((height // CELL_PX + 1) * cols, np.inf)
    np.minimum.at(front, cell[inside], z[inside])
    seen = facing & inside & (z < front[cell] + SELF_OCCLUSION_M)
    measured = depth_m[np.where(inside, v, 0), np.where(inside, u, 0)]
    with np.errstate(invalid="ignore"):
        gap = measured - z
        found = [seen & (np.abs(gap) < NEAR_M), seen & (gap <= -NEAR_M), seen & (gap >= NEAR_M)]
    total = np.maximum(seen.sum(axis=1), 1)
    return np.column_stack([inside.mean(axis=1), *(f.sum(axis=1) / total for f in found)])


def sort_into_patches(model, pixels, level, T, patches):
    """Weight and weighted sum of the signed distances per patch, (K, P) each."""
    weight, moment = np.zeros((2, *patches.centre_m.shape[:2]))
    for slot, k in enumerate(patches.levels):
        mine = np.flatnonzero(level == k)
        p = pixels.points_m[mine]
        distance, normal = model.surface(p, T[k], k)
        anchor = T[k, :3, :3] @ model.anchor_m[k] + T[k, :3, 3]
        vote = np.linalg.norm(pixels.centre_vote_m[mine] - anchor, axis=1)
        at = (p - T[k, :3, 3]) @ T[k, :3, :3]
        far = np.linalg.norm(at[:, None] - patches.centre_m[slot], axis=2)
        nearest = far.argmin(axis=1)
        good = (
            (np.abs(distance) < identity.LIMIT_M)
            & (-(normal * pixels.ray[mine]).sum(axis=1) > 0.3)
            & ~(vote > identity.VOTE_REACH_M)
            & (far.min(axis=1) < identity.PATCH_REACH_M)
        )
        trust = (pixels.bone * (0.05 + pixels.clean) * pixels.area_m2)[mine]
        np.add.at(weight[slot], nearest[good], trust[good])
        np.add.at(moment[slot], nearest[good], (trust * distance)[good])
    return weight, moment


def sensor_noise(distance, sigma, deepest):
    """Twin of `frame_kernels.sensor_noise`."""
    inner = (distance < 0) & (distance > -deepest)
    return inner.sum(), np.median(np.abs(distance[inner] / sigma[inner]))


def block_correlation(points, area, level, distance, sigma, seen, block):
    """Twin of `frame_kernels.block_correlation`."""
    used = (level >= 0) & (seen > 0) & (distance < 2 * sigma) & (distance > -4 * sigma)
    r = distance[used] / sigma[used]
    r -= r.mean()
    place = np.floor(points[used, :2].astype(float) / block)
    _, at = np.unique(np.column_stack([level[used], place]), axis=0, return_inverse=True)
    n, total = np.bincount(at.ravel()), np.bincount(at.ravel(), r)
    pairs = (n * (n - 1.0)).sum()
    correlation = ((total**2).sum() - len(r) * r.var()) / (pairs * r.var())
    return len(r), correlation, np.median(area)


def vote_gaps(vote, level, anchor):
    """Twin of `frame_kernels.vote_gaps`."""
    gaps = [np.linalg.norm(vote[level == k] - a, axis=1) for k, a in enumerate(anchor)]
    gaps = [g[np.isfinite(g)] for g in gaps]
    return np.array([np.median(g) if len(g) else 0.0 for g in gaps])


def bias_equations(model, points, weight, level, T, anchor, centre, width, limit):
    """Twin of `frame_kernels.bias_equations`."""
    L = len(anchor)
    H, drive = np.zeros((L, 6, 6)), np.zeros((6 * L, 1 + len(centre)))
    for k in range(L):
        q = points[level == k]
        distance, normal = surface(model, q, T[k], k)
        J = np.hstack([normal, np.cross(q - anchor[k], normal)])
        w = np.where(np.abs(np.nan_to_num(distance, nan=1.0)) < limit, weight[level == k], 0.0)
        slope = q[:, :2] / q[:, 2:]
        far = ((slope[:, None] - centre) ** 2).sum(axis=2)
        shapes = np.column_stack([np.ones(len(q)), np.exp(-0.5 * far / width**2)])
        H[k] = (J * w[:, None]).T @ J
        moved = w * np.einsum("ij,ij->i", normal, q)
        drive[6 * k : 6 * k + 6] = (J * moved[:, None]).T @ shapes
    return H, drive
