# SPDX-License-Identifier: Apache-2.0
"""The predicted error of poses where screws go: 95 % ellipses as they are drawn, and of directions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spine_nav_common.core.geometry import skew
from spine_nav_common.core.types import Intrinsics, LevelEstimate

CHI_2D_95 = 2.4477  # sqrt of the 95 % quantile of chi-square with two degrees of freedom
_ROUNDING = 1e-9  # of the largest eigenvalue: so far below zero a covariance is one still


def error_shapes(
    estimates: Sequence[LevelEstimate],
    points_m: np.ndarray,
    across: np.ndarray,
    radii: np.ndarray,
) -> np.ndarray:
    """(M, 2, 2) matrices that take the unit circle to the 95 % ellipse of the error at each point;
    their columns are its semi-axes.

    The pose's covariance gives the ellipse its shape; where its longer semi-axis is shorter than
    the circle that `predicted_tre_mm` stands for, the whole ellipse grows to that. A pose without
    a covariance, or with one that is none (zero, NaN, not positive), leaves the circle.

    Args:
        estimates: of each point. points_m: (M, 3) in the camera's frame. across: (M, 2, 3), from
            metres there to the picture. radii: (M,) the circles of `predicted_tre_mm`.
    """
    shapes = radii[:, None, None] * np.eye(2)
    usable = {
        id(e): usable_covariance(e.covariance) for e in {id(e): e for e in estimates}.values()
    }
    told = [
        i
        for i, e in enumerate(estimates)
        if usable[id(e)] is not None and e.anchor_camera_m is not None
    ]
    if not told:
        return shapes
    covariances = np.array([usable[id(estimates[i])] for i in told])
    arms = points_m[told] - np.array([estimates[i].anchor_camera_m for i in told])
    x, y, z = arms.T
    moves = np.zeros((len(told), 3, 6))  # a point moves by d + w x arm
    moves[:, [0, 1, 2], [0, 1, 2]] = 1.0
    moves[:, 0, 4], moves[:, 0, 5] = z, -y
    moves[:, 1, 3], moves[:, 1, 5] = -z, x
    moves[:, 2, 3], moves[:, 2, 4] = y, -x
    seen = across[told] @ moves
    squares, ways = np.linalg.eigh(seen @ covariances @ seen.transpose(0, 2, 1))
    axes = CHI_2D_95 * np.sqrt(np.maximum(squares, 0.0))
    longest, wanted = axes[:, 1], radii[told]
    good = longest > 0.0
    grown = np.maximum(1.0, wanted / np.where(good, longest, 1.0))
    own = ways * (axes * grown[:, None])[:, None]
    shapes[told] = np.where(good[:, None, None], own, shapes[told])
    return shapes


def error_shapes_px(
    estimates: Sequence[LevelEstimate], points_m: np.ndarray, pinhole: Intrinsics
) -> np.ndarray:
    """The same in the camera's picture, pixels. Every estimate has a predicted error."""
    x, y, z = points_m.T
    across = np.zeros((len(points_m), 2, 3))
    across[:, 0, 0], across[:, 0, 2] = pinhole.fx / z, -pinhole.fx * x / z**2
    across[:, 1, 1], across[:, 1, 2] = pinhole.fy / z, -pinhole.fy * y / z**2
    bounds_m = 1e-3 * np.array([e.predicted_tre_mm for e in estimates], float)
    return error_shapes(estimates, points_m, across, max(pinhole.fx, pinhole.fy) * bounds_m / z)


def usable_covariance(covariance: np.ndarray | None) -> np.ndarray | None:
    """A symmetric one (N, N); None where it is zero, not finite or not positive."""
    if covariance is None or not np.isfinite(covariance).all():
        return None
    even = np.asarray(0.5 * (covariance + covariance.T))
    values = np.linalg.eigvalsh(even)
    return even if values[-1] > 0.0 and values[0] >= -_ROUNDING * values[-1] else None


def direction95_deg(*turned: tuple[np.ndarray, np.ndarray]) -> float:
    """95 % of the angle by which directions (3,) err together, each with the covariance (3, 3) of
    its turn in rad^2, in one frame. Alike in all directions as in the worst one."""
    total = np.zeros((3, 3))
    for way, turn in turned:
        across = skew(way)
        total += across @ turn @ across.T
    return float(np.degrees(CHI_2D_95 * np.sqrt(max(np.linalg.eigvalsh(total)[-1], 0.0))))


def pose_turn(estimate: LevelEstimate, length_m: float) -> np.ndarray:
    """Covariance (3, 3) of a pose's turn about the camera's axes, rad^2. Where none is known, as if
    the whole of `predicted_tre_mm` were a turn about the middle of a screw of this length."""
    covariance = usable_covariance(estimate.covariance)
    if covariance is not None and estimate.anchor_camera_m is not None:
        return covariance[3:, 3:]
    assert estimate.predicted_tre_mm is not None
    turn95 = 2e-3 * estimate.predicted_tre_mm / length_m
    return np.asarray((turn95 / CHI_2D_95) ** 2 * np.eye(3))
