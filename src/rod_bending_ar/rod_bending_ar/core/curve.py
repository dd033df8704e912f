# SPDX-License-Identifier: Apache-2.0
"""The rod's ideal axis: of all curves that pass the saddles within a tolerance, the one that a
straight elastic rod would take with the least bending energy (a natural smoothing spline)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

_STEP_MM = 0.5


@dataclass(frozen=True)
class RodCurve:
    """points_mm (M, 3) from the caudal to the cranial saddle, half a millimetre apart; length_mm;
    min_radius_mm (inf: straight) and the saddle nearest to it; tangents (N, 3) at the saddles;
    offsets_mm (N,) saddle to curve."""

    points_mm: np.ndarray
    length_mm: float
    min_radius_mm: float
    tightest: int
    tangents: np.ndarray
    offsets_mm: np.ndarray


def spline_matrices(knots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Q (N, N-2) and R (N-2, N-2) of a natural cubic spline: Q^T y = R y'' (Reinsch 1967).

    The energy of the spline through y is y^T K y with K = Q R^-1 Q^T.
    """
    h = np.diff(knots)
    n = len(knots)
    q = np.zeros((n, n - 2))
    r = np.zeros((n - 2, n - 2))
    for j in range(n - 2):
        q[j : j + 3, j] = 1.0 / h[j], -1.0 / h[j] - 1.0 / h[j + 1], 1.0 / h[j + 1]
        r[j, j] = (h[j] + h[j + 1]) / 3.0
        if j:
            r[j, j - 1] = r[j - 1, j] = h[j] / 6.0
    return q, r


def energy_matrix(knots: np.ndarray) -> np.ndarray:
    """K (N, N): y^T K y is the integral of y''^2 of the natural spline through y at the knots."""
    if len(knots) < 3:
        return np.zeros((len(knots), len(knots)))
    q, r = spline_matrices(knots)
    return q @ np.linalg.solve(r, q.T)


def ideal_curve(saddles_mm: np.ndarray, tolerance_mm: float) -> RodCurve:
    """The least-energy curve that misses no saddle (N, 3), N >= 2, by more than the tolerance."""
    knots = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(saddles_mm, axis=0), axis=1))])
    energy = energy_matrix(knots)
    fitted = saddles_mm

    def smoothed(weight: float) -> np.ndarray:
        return np.linalg.solve(np.eye(len(knots)) + weight * energy, saddles_mm)

    # the offset grows with the weight: bisect its logarithm, mm^3
    low, high = -3.0, 9.0
    for _ in range(40 if len(knots) > 2 else 0):
        middle = 0.5 * (low + high)
        trial = smoothed(10.0**middle)
        if np.linalg.norm(trial - saddles_mm, axis=1).max() <= tolerance_mm:
            low, fitted = middle, trial
        else:
            high = middle
    if len(knots) == 2:
        spline = CubicSpline(knots, fitted, bc_type=((2, np.zeros(3)), (2, np.zeros(3))))
    else:
        spline = CubicSpline(knots, fitted, bc_type="natural")
    t = np.linspace(0.0, knots[-1], max(3, int(np.ceil(knots[-1] / _STEP_MM)) + 1))
    points, first, second = spline(t), spline(t, 1), spline(t, 2)
    speed = np.linalg.norm(first, axis=1)
    curvature = np.linalg.norm(np.cross(first, second), axis=1) / speed**3
    worst = int(curvature.argmax())
    tangents = spline(knots, 1)
    return RodCurve(
        points,
        float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum()),
        float(1.0 / curvature[worst]) if curvature[worst] > 1e-9 else float("inf"),
        int(np.abs(knots - t[worst]).argmin()),
        tangents / np.linalg.norm(tangents, axis=1, keepdims=True),
        np.linalg.norm(fitted - saddles_mm, axis=1),
    )
