# SPDX-License-Identifier: Apache-2.0
"""The tip of a pointer, from poses of its marker while the tip rests in one place.

Every pose says marker rotation @ tip + marker place = resting place: linear in both points. Poses that
the others contradict are left out; what is left over is no white noise (a tip that slides, a marker that
bends), so the uncertainty is the larger of the fit's own and of what parts of the motion say apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .types import Rejected

LEAST_POSES = 20
LEAST_SWING_DEG = 5.0
MOST_RESIDUAL_M = 5e-3
_OUTLIER = 3.5  # robust sigmas
_MOST_DROPPED = 0.4
_BLOCKS = 5


@dataclass(frozen=True)
class PivotFound:
    """A pointer's tip.

    Attributes:
        tip_m: (3,) in the marker's frame. pivot_m: (3,) where it rested.
        covariance_m2: (3, 3) of the tip. used: (N,) which poses took part.
        residual_m: (N,) of every pose's tip from the resting place. held_out_m: (M,) of those that took
        part, each by a fit without its part of the motion.
        swing_deg: how far the pointer was swung (RMS) about the axis about which it was swung least.
    """

    tip_m: np.ndarray
    pivot_m: np.ndarray
    covariance_m2: np.ndarray
    used: np.ndarray
    residual_m: np.ndarray
    held_out_m: np.ndarray
    swing_deg: float

    @property
    def sigma_m(self) -> float:
        """1 sigma of the tip in the direction in which it is known worst."""
        return float(np.sqrt(np.linalg.eigvalsh(self.covariance_m2)[-1]))


def calibrate_pivot(T: np.ndarray) -> PivotFound | Rejected:
    """The tip by poses (N, 4, 4) of its marker, metres, in the order of time; or why they do not tell it."""
    R, t = T[:, :3, :3], T[:, :3, 3]
    if len(T) < LEAST_POSES:
        return Rejected(f"{len(T)} poses, {LEAST_POSES} are needed")
    swing = swing_deg(R)
    if swing < LEAST_SWING_DEG:
        return Rejected(
            f"the pointer was swung by {swing:.1f} deg (RMS) about one of its axes, {LEAST_SWING_DEG:g} are"
            " needed: that does not tell the tip. Swing it in a wide cone, to all sides, and turn it"
        )
    used = _agree(R, t)
    if used.mean() < 1.0 - _MOST_DROPPED:
        return Rejected(
            f"{int((~used).sum())} of {len(T)} poses contradict the others: the tip slid, or the marker was"
            " seen badly. Rest the tip in a dimple"
        )
    tip, rest = _solve(R[used], t[used])
    off = R @ tip + t - rest
    left = np.linalg.norm(off, axis=1)
    rms = float(np.sqrt((left[used] ** 2).mean()))
    if rms > MOST_RESIDUAL_M:
        return Rejected(
            f"the tip moves by {1e3 * rms:.1f} mm (RMS): it slid, or lengths are in another unit. Rest it in"
            " a dimple"
        )
    if (swing := swing_deg(R[used])) < LEAST_SWING_DEG:
        return Rejected(
            f"without the poses that contradict the others the swing is {swing:.1f} deg: swing wider"
        )
    A = _design(R[used])
    own = (off[used] ** 2).sum() / (3 * used.sum() - 6) * np.linalg.inv(A.T @ A)[:3, :3]
    apart, held = _parts(R[used], t[used])
    return PivotFound(tip, rest, _larger(own, apart), used, left, held, swing)


def swing_deg(R: np.ndarray) -> float:
    """RMS angle by which rotations (N, 3, 3) move the direction that they move least; 0 where all turn
    about one axis, along which nothing tells the tip."""
    mean = R.mean(axis=0)
    least = float(np.linalg.eigvalsh(np.eye(3) - mean.T @ mean)[0])
    return float(np.degrees(np.arcsin(np.sqrt(np.clip(least, 0.0, 1.0)))))


def _design(R: np.ndarray) -> np.ndarray:
    return np.concatenate([R, np.broadcast_to(-np.eye(3), R.shape)], axis=2).reshape(-1, 6)


def _solve(R: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = np.linalg.lstsq(_design(R), -t.ravel(), rcond=None)[0]
    return found[:3], found[3:]


def _agree(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(N,) which poses agree: from the few poses whose tip suits half of all best, outwards."""
    rng = np.random.default_rng(0)
    best, left = np.inf, np.zeros(len(R))
    for _ in range(300):
        some = rng.choice(len(R), 6, replace=False)
        tip, rest = _solve(R[some], t[some])
        off = np.linalg.norm(R @ tip + t - rest, axis=1)
        if (middle := float(np.median(off))) < best:
            best, left = middle, off
    used = left <= np.median(left) * 2.5
    for _ in range(10):
        tip, rest = _solve(R[used], t[used])
        left = np.linalg.norm(R @ tip + t - rest, axis=1)
        # The length of an isotropic error in space has its median at 1.54 sigma.
        sigma = max(float(np.median(left[used])) / 1.54, 1e-6)
        again = left < _OUTLIER * 1.73 * sigma
        if (again == used).all():
            break
        used = again
    return used


def _parts(R: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(3, 3) covariance of the tip by leaving parts of the motion out (jackknife), (N,) what the left-out
    poses are off then."""
    parts = np.array_split(np.arange(len(R)), _BLOCKS)
    tips, held = [], np.zeros(len(R))
    for part in parts:
        rest_of = np.setdiff1d(np.arange(len(R)), part)
        tip, rest = _solve(R[rest_of], t[rest_of])
        held[part] = np.linalg.norm(R[part] @ tip + t[part] - rest, axis=1)
        tips.append(tip)
    x = np.array(tips) - np.mean(tips, axis=0)
    return (_BLOCKS - 1) / _BLOCKS * x.T @ x, held


def _larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A covariance that is no smaller than either of two, in the directions of `a` and `b` relative."""
    L = np.linalg.cholesky(a)
    inner = np.linalg.solve(L, np.linalg.solve(L, b).T)
    values, vectors = np.linalg.eigh(0.5 * (inner + inner.T))
    root = L @ vectors
    found: np.ndarray = root @ np.diag(np.maximum(values, 1.0)) @ root.T
    return found
