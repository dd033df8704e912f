# SPDX-License-Identifier: Apache-2.0
"""Where a camera sits on a tracked body, and what it looks at in the tracker's frame.

a_i: T_base_body of a tracker or robot, b_i: T_camera_target of the camera, of one moment each. Sought are
X = T_body_camera and Y = T_base_target with a_i X b_i = Y: AX = YB, and with Y eliminated AX = XB. Park's
closed solution is refined over both unknowns, each pose weighted by the noise of either stream, so that
translation and rotation need no weight between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .geometry import adjoint, exp_se3, invert, log_se3, log_so3, rotation_angle, transform
from .types import Rejected

LEAST_POSES = 8
LEAST_TURN_DEG = 8.0
_OUTLIER = 5.0  # of the usual Mahalanobis distance
_MOST_DROPPED = 1 / 3
_MOST_CHI2 = 100.0
_STARTS = 20


@dataclass(frozen=True)
class PoseNoise:
    """1 sigma of a stream's poses, per axis: of what moves, in its own frame."""

    mm: float = 0.2
    deg: float = 0.1

    @property
    def information(self) -> np.ndarray:
        """(6,) 1 / sigma of a twist, translation first, SI."""
        return 1.0 / np.array([1e-3 * self.mm] * 3 + [np.radians(self.deg)] * 3)


_Noises = tuple[PoseNoise, PoseNoise]


@dataclass(frozen=True)
class HandEyeFound:
    """A solution.

    Attributes:
        T_body_camera, T_base_target: (4, 4).
        covariance: (6, 6) of T_body_camera as T exp(twist), translation first, metres and radians.
        used: (N,) which poses took part.
        held_out_mm, held_out_deg: (M,) of the target's pose by poses that took no part.
        noise: what is left over by what the stated noise of both streams lets expect; 1 = as stated.
    """

    T_body_camera: np.ndarray
    T_base_target: np.ndarray
    covariance: np.ndarray
    used: np.ndarray
    held_out_mm: np.ndarray
    held_out_deg: np.ndarray
    noise: float

    @property
    def sigma_mm(self) -> float:
        """1 sigma of the translation in the direction in which it is known worst."""
        return 1e3 * float(np.sqrt(np.linalg.eigvalsh(self.covariance[:3, :3])[-1]))

    @property
    def sigma_deg(self) -> float:
        """1 sigma of the rotation about the axis about which it is known worst."""
        return float(np.degrees(np.sqrt(np.linalg.eigvalsh(self.covariance[3:, 3:])[-1])))


def park(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """X (4, 4) by Park and Martin's closed solution over all pairs of poses (N, 4, 4)."""
    i, j = np.triu_indices(len(a), 1)
    A, B = np.linalg.inv(a[j]) @ a[i], b[j] @ np.linalg.inv(b[i])  # A X = X B
    alpha, beta = (np.array([log_so3(R) for R in T[:, :3, :3]]) for T in (A, B))
    U, _, Vt = np.linalg.svd(alpha.T @ beta)
    R = U @ np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))]) @ Vt
    left = (A[:, :3, :3] - np.eye(3)).reshape(-1, 3)
    t = np.linalg.lstsq(left, (B[:, :3, 3] @ R.T - A[:, :3, 3]).ravel(), rcond=None)[0]
    return transform(R, t)


def _start(a: np.ndarray, b: np.ndarray, noises: _Noises) -> np.ndarray:
    """The closed solution of all poses; where some of them lie far off it, the one of a few poses that
    half of all suit best."""
    X = park(a, b)
    d = _distances(X, a, b, noises)
    if d.max() < _OUTLIER * np.median(d):
        return X
    rng = np.random.default_rng(0)
    some = [rng.choice(len(a), 6, replace=False) for _ in range(_STARTS)]
    found = [X] + [park(a[k], b[k]) for k in some if turn_deg(a[k]) > 0.5 * LEAST_TURN_DEG]
    return min(found, key=lambda X: float(np.median(_distances(X, a, b, noises))))


def turn_deg(a: np.ndarray) -> float:
    """RMS angle of rotations (N, 4, 4) about the axis about which they turn second most, against their
    middle: 0 where all turn about one axis, along which nothing tells X."""
    middle = a[len(a) // 2, :3, :3]
    w = np.array([log_so3(middle.T @ x[:3, :3]) for x in a])
    w = w - w.mean(axis=0)
    return float(np.degrees(np.linalg.svd(w, compute_uv=False)[1] / np.sqrt(len(a))))


def calibrate_handeye(
    a: np.ndarray, b: np.ndarray, noise_a: PoseNoise | None = None, noise_b: PoseNoise | None = None
) -> HandEyeFound | Rejected:
    """X and Y by pairs of poses (N, 4, 4), or why they do not tell them."""
    noises = noise_a or PoseNoise(), noise_b or PoseNoise()
    if len(a) < LEAST_POSES:
        return Rejected(f"{len(a)} pairs of poses, {LEAST_POSES} are needed")
    if (turn := turn_deg(a)) < LEAST_TURN_DEG:
        return Rejected(
            f"beside the axis about which it turned most the camera turned by {turn:.1f} deg (RMS),"
            f" {LEAST_TURN_DEG:g} are needed: turns about one axis do not tell where it sits. Tilt it to"
            " other sides too"
        )
    used = np.ones(len(a), bool)
    X = _start(a, b, noises)
    Y = _middle(X, a, b)
    for _ in range(6):
        X, Y, J, _ = _refine(X, Y, a[used], b[used], noises)
        d = np.linalg.norm(_whitened(X, Y, a, b, noises)[0], axis=1)
        again = d < _OUTLIER * max(float(np.median(d)), 1e-9)
        if (again == used).all():
            break
        used = again
    if used.mean() < 1.0 - _MOST_DROPPED or used.sum() < LEAST_POSES:
        return Rejected(
            f"{int((~used).sum())} of {len(a)} pairs contradict the others: were both poses taken at one"
            " moment, the camera held still, and the target not moved?"
        )
    if turn_deg(a[used]) < LEAST_TURN_DEG:
        return Rejected(
            "without the pairs that contradict the others the camera turned too little: tilt it more"
        )
    X, Y, J, left = _refine(X, Y, a[used], b[used], noises)
    chi2 = float((left**2).sum() / (left.size - 12))
    if chi2 > _MOST_CHI2:
        return Rejected(
            f"the two streams differ by {np.sqrt(chi2):.0f} times their noise: no fixed place of the camera"
            " explains both. Are they of one motion (see `calibrate time`), in metres, each the right way"
            " round?"
        )
    covariance = np.linalg.inv(J.T @ J)[:6, :6] * max(chi2, 1.0)
    mm, deg = _held_out(X, Y, a[used], b[used], noises)
    return HandEyeFound(X, Y, covariance, used, mm, deg, float(np.sqrt(chi2)))


def _middle(X: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Y that X and all poses say in the mean."""
    every = a @ X @ b
    Y = every[0]
    for _ in range(5):
        Y = Y @ exp_se3(np.mean([log_se3(invert(Y) @ T) for T in every], axis=0))
    return Y


def _distances(X: np.ndarray, a: np.ndarray, b: np.ndarray, noises: _Noises) -> np.ndarray:
    return np.linalg.norm(_whitened(X, _middle(X, a, b), a, b, noises)[0], axis=1)


def _whitened(
    X: np.ndarray, Y: np.ndarray, a: np.ndarray, b: np.ndarray, noises: _Noises
) -> tuple[np.ndarray, list[np.ndarray]]:
    """(N, 6) log(Y^-1 a X b) in units of its own noise, and what makes it so: (6, 6) each."""
    back = invert(Y)
    sa, sb = (np.diag(1.0 / n.information**2) for n in noises)
    out, roots = [], []
    for ai, bi in zip(a, b, strict=True):
        # An error e of a, as a exp(e), shows at the target as Ad((X b)^-1) e; one of b as it is.
        J = adjoint(invert(X @ bi))
        W = np.linalg.inv(np.linalg.cholesky(J @ sa @ J.T + sb))
        out.append(W @ log_se3(back @ ai @ X @ bi))
        roots.append(W)
    return np.array(out), roots


def _refine(
    X: np.ndarray, Y: np.ndarray, a: np.ndarray, b: np.ndarray, noises: _Noises
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Gauss and Newton on both; X, Y, J (6 N, 12) of X exp and Y exp, and what is left (N, 6)."""
    J = np.zeros((0, 12))
    left, _ = _whitened(X, Y, a, b, noises)
    for _ in range(30):
        left, roots = _whitened(X, Y, a, b, noises)
        rows = []
        for W, ai, bi in zip(roots, a, b, strict=True):
            seen = invert(Y) @ ai @ X @ bi
            # X exp(x): seen exp(Ad(b^-1) x); Y exp(y): exp(-y) seen = seen exp(-Ad(seen^-1) y). The left
            # Jacobian of the logarithm is the identity to first order in what is left.
            rows.append(W @ np.hstack([adjoint(invert(bi)), -adjoint(invert(seen))]))
        J = np.concatenate(rows)
        step = -np.linalg.lstsq(J, left.ravel(), rcond=None)[0]
        X, Y = X @ exp_se3(step[:6]), Y @ exp_se3(step[6:])
        if np.abs(step).max() < 1e-10:
            break
    left, _ = _whitened(X, Y, a, b, noises)
    return X, Y, J, left


def _held_out(
    X: np.ndarray, Y: np.ndarray, a: np.ndarray, b: np.ndarray, noises: _Noises
) -> tuple[np.ndarray, np.ndarray]:
    mm, deg = np.zeros(len(a)), np.zeros(len(a))
    for k in range(5):
        out = np.arange(len(a)) % 5 == k
        x, y, _, _ = _refine(X, Y, a[~out], b[~out], noises)
        for i in np.flatnonzero(out):
            off = invert(y) @ a[i] @ x @ b[i]
            mm[i], deg[i] = (
                1e3 * np.linalg.norm(off[:3, 3]),
                np.degrees(rotation_angle(off[:3, :3])),
            )
    return mm, deg


def errors(X: np.ndarray, true: np.ndarray) -> Sequence[float]:
    """(mm, deg) by which an X is off the truth."""
    off = invert(true) @ X
    return [
        1e3 * float(np.linalg.norm(X[:3, 3] - true[:3, 3])),
        float(np.degrees(rotation_angle(off[:3, :3]))),
    ]
