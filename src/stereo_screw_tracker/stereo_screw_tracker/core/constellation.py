# SPDX-License-Identifier: Apache-2.0
"""How the heads moved together from one frame to the next, and which head is which.

Screws stand in bone and the camera is held by hand, so between two frames the heads move as one
rigid body, but for breathing. The motion is solved with a prior on the camera's speed, so that one
head, two heads or a single row (whose turn about itself nothing tells) need no special case: what
is not observed stays at the prior and shows in the covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from spine_nav_common.core.geometry import exp_so3, skew, transform, transform_points

_ROUNDS = 4
_TURN_MM_PER_MM = 0.12  # a head 100 mm from the middle moves this share of it in a turn of 7 deg
_FORBIDDEN = 1e6
# Depth is known several times worse than the place in the image, and no two heads stand behind
# each other: depth counts less when heads are paired.
_METRIC = np.array([1.0, 1.0, 0.4])


@dataclass(frozen=True)
class Motion:
    """T_now_before (4, 4), and how well it is known: covariances (6, 6) of a left perturbation
    about centre_m (3,) in the frame of now, translation first, metres and radians.

    measured: the share that comes from the measurements' noise. It does not add up over frames,
    because the heads that the next motion starts from carry the same noise. drift: the share that
    only the prior limits, where too few heads were seen; that does add up.
    """

    T_now_before: np.ndarray
    measured: np.ndarray
    drift: np.ndarray
    centre_m: np.ndarray

    def spread_at(self, point_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(3, 3) covariances, measured and drift, that the motion gives a moved point (3,)."""
        J = np.hstack([np.eye(3), -skew(point_m - self.centre_m)])
        return J @ self.measured @ J.T, J @ self.drift @ J.T


@dataclass(frozen=True)
class Match:
    """pairs: (before, now) indices; motion from them."""

    pairs: tuple[tuple[int, int], ...]
    motion: Motion


def match(
    before_m: np.ndarray,
    before_covariance: np.ndarray,
    now_m: np.ndarray,
    now_covariance: np.ndarray,
    prior_sigma: tuple[float, float],
    gate_m: float,
) -> Match:
    """Pair heads before (N, 3) with heads now (M, 3), one to one, and solve the rigid motion.

    Args:
        before_covariance, now_covariance: (N, 3, 3), (M, 3, 3), m^2.
        prior_sigma: translation (m) and rotation (rad) that the camera may have made, 1 sigma.
        gate_m: a pair may be this far apart once the motion is applied (depth counting less).

    Every translation that brings some head onto another is tried; the one that explains most
    heads wins, less what it costs the prior: a row that slipped by one level loses its end.
    """
    pairs: tuple[tuple[int, int], ...] = ()
    motion = solve_motion(
        before_m, now_m[:0], before_covariance[:0], pairs, prior_sigma, _middle(before_m)
    )
    if not len(before_m) or not len(now_m):
        return Match(pairs, motion)
    shift = _best_shift(before_m, now_m, prior_sigma[0], gate_m)
    moved = before_m + shift
    middle = _middle(before_m)
    reach = gate_m + _TURN_MM_PER_MM * np.linalg.norm(before_m - middle, axis=1)
    for _ in range(_ROUNDS):
        found = assign_nearest(moved, now_m, reach)
        if not found:
            return Match((), motion)
        summed = np.array([before_covariance[i] + now_covariance[j] for i, j in found])
        motion = solve_motion(before_m, now_m, summed, found, prior_sigma, middle)
        if found == pairs:
            break
        pairs = found
        moved = transform_points(motion.T_now_before, before_m)
        reach = np.full(len(before_m), gate_m)
    # a pair that the common motion does not bring together is two heads
    apart = [float(np.linalg.norm((moved[i] - now_m[j]) * _METRIC)) for i, j in found]
    return Match(tuple(p for p, d in zip(found, apart, strict=True) if d <= gate_m), motion)


def assign_nearest(
    moved_m: np.ndarray, now_m: np.ndarray, reach_m: np.ndarray
) -> tuple[tuple[int, int], ...]:
    """One-to-one pairs (i, j) of points (N, 3), (M, 3) at most reach_m (N,) apart, nearest in sum."""
    if not len(moved_m) or not len(now_m):
        return ()
    distance = np.linalg.norm((moved_m[:, None] - now_m) * _METRIC, axis=2)
    cost = np.where(distance <= reach_m[:, None], distance, _FORBIDDEN)
    rows, columns = linear_sum_assignment(cost)
    return tuple(
        (int(i), int(j)) for i, j in zip(rows, columns, strict=True) if cost[i, j] < _FORBIDDEN
    )


def _middle(points: np.ndarray) -> np.ndarray:
    return points.mean(axis=0) if len(points) else np.zeros(3)


def _best_shift(before: np.ndarray, now: np.ndarray, sigma_m: float, gate_m: float) -> np.ndarray:
    """Translation (3,) under which most heads find one of now, less the prior's cost."""
    shifts = np.concatenate([np.zeros((1, 3)), (now[None] - before[:, None]).reshape(-1, 3)])
    apart = ((before + shifts[:, None])[:, :, None] - now[None, None]) * _METRIC  # (S, N, M, 3)
    distance = np.linalg.norm(apart, axis=3)
    near = np.exp(-0.5 * (distance.min(axis=2) / gate_m) ** 2).sum(axis=1)
    cost = 0.5 * (shifts**2).sum(axis=1) / sigma_m**2
    # one more head explained is worth two sigmas of camera motion
    return shifts[int(np.argmax(2.0 * near - cost))]


def solve_motion(
    before_m: np.ndarray,
    now_m: np.ndarray,
    covariance_m2: np.ndarray,
    pairs: tuple[tuple[int, int], ...],
    prior_sigma: tuple[float, float],
    middle_m: np.ndarray,
) -> Motion:
    """Rigid motion of paired points by Gauss-Newton, whitened by covariance_m2 (P, 3, 3) per pair,
    held by the prior; reweighted (Cauchy at 3 sigma), so that one head that moved by itself does
    not take the others along."""
    prior = np.diag([prior_sigma[0] ** -2] * 3 + [prior_sigma[1] ** -2] * 3)
    R, t = np.eye(3), np.zeros(3)  # now = R (before - middle) + middle + t
    H = prior
    if pairs:
        i, j = np.array(pairs).T
        start, goal = before_m[i] - middle_m, now_m[j] - middle_m
        information = np.linalg.inv(covariance_m2)
        for _ in range(_ROUNDS):
            arm = start @ R.T
            residual = arm + t - goal
            squared = np.einsum("ki,kij,kj->k", residual, information, residual)
            W = information / (1.0 + squared / 27.0)[:, None, None]  # 3 dof at 3 sigma
            J = np.zeros((len(arm), 3, 6))
            J[:, :, :3] = np.eye(3)
            J[:, :, 3:] = -_skews(arm)
            weighted = np.einsum("kia,kij->kaj", J, W)
            H = prior + np.einsum("kaj,kjb->ab", weighted, J)
            g = prior @ np.concatenate([t, _log(R)]) + np.einsum("kaj,kj->a", weighted, residual)
            step = -np.linalg.solve(H, g)
            t = t + step[:3]
            R = exp_so3(step[3:]) @ R
    C = np.linalg.inv(H)
    drift = C @ prior @ C
    return Motion(transform(R, middle_m + t - R @ middle_m), C - drift, drift, middle_m + t)


def _skews(v: np.ndarray) -> np.ndarray:
    """(K, 3, 3) matrices of the cross products with v (K, 3)."""
    out = np.zeros((len(v), 3, 3))
    out[:, 0, 1], out[:, 0, 2], out[:, 1, 2] = -v[:, 2], v[:, 1], -v[:, 0]
    return out - out.transpose(0, 2, 1)


def _log(R: np.ndarray) -> np.ndarray:
    # turns between frames are small; exact enough for a prior, and never singular
    return 0.5 * np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
