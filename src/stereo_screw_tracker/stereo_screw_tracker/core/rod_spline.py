# SPDX-License-Identifier: Apache-2.0
"""A smooth curve through across-rod measurements of two views, with covariance.

A rod that is seen from the side tells where it lies across itself in each image and nothing along
itself. Both views together give depth where the rod crosses the epipolar lines; where it runs along
them, only heads that hold it and its own stiffness do. All of that is one weighted least-squares
problem for the control points of a cubic B-spline; its inverse normal matrix is the standard error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.interpolate import BSpline

from .config import RodConfig
from .triangulate import pair_jacobians, project_pair
from .types import RodMeasurements, StereoCamera

_KNOT_MM = 15.0
_ROUNDS = 5
_RESTS_M = 2e-5  # a fit that moves by less is done
_OUTLIER = 2.5  # sigmas at which a residual's weight is halved
_STIFF_MM = 25.0  # stretch over which a rod's curvature stays alike
_ACROSS_PRIOR_MM = 6.0  # the first curve is this rough across the view
_ALONG_MM = 2.0  # points may slide along the curve by this much; nothing measures it
_SIGMA_FLOOR_PX = 0.05


@dataclass(frozen=True)
class Anchor:
    """A point (3,) that the curve passes at arc position s_mm, with covariance (3, 3), metres."""

    s_mm: float
    point_m: np.ndarray
    covariance_m2: np.ndarray


@dataclass(frozen=True)
class SplineFit:
    """spline: arc position in mm to point (3,) in metres; covariance (3n, 3n) of its n control
    points, m^2, point by point."""

    spline: BSpline
    covariance: np.ndarray

    def points(self, s_mm: np.ndarray) -> np.ndarray:
        """(K, 3) metres."""
        return self.spline(s_mm)

    def tangents(self, s_mm: np.ndarray) -> np.ndarray:
        """(K, 3) unit."""
        d = self.spline(s_mm, 1)
        return d / np.maximum(np.linalg.norm(d, axis=1, keepdims=True), 1e-12)

    def covariance_across(self, s_mm: np.ndarray) -> np.ndarray:
        """(K, 3, 3) m^2 of the curve's place, without what slides along it."""
        return self._across(s_mm, self._root(s_mm))

    def shape_covariance_across(self, s_mm: np.ndarray) -> np.ndarray:
        """(K, 3, 3) m^2 of the curve's shape: what remains once the whole of it was laid over the
        true one, shifted and turned. A depth error that all of the rod shares is none of shape."""
        rows = self._root(s_mm)
        points = self.points(s_mm)
        arm = points - points.mean(axis=0)
        turns = [np.cross(axis, arm) for axis in np.eye(3)]
        shifts = [np.tile(axis, (len(arm), 1)) for axis in np.eye(3)]
        Q = np.linalg.svd(np.stack([*shifts, *turns]).reshape(6, -1).T, full_matrices=False)[0]
        flat = rows.reshape(Q.shape[0], -1)
        return self._across(s_mm, (flat - Q @ (Q.T @ flat)).reshape(rows.shape))

    def _root(self, s_mm: np.ndarray) -> np.ndarray:
        """(K, 3, 3n) a root of the joint covariance of all places."""
        B = _basis(self.spline.t, s_mm)
        root = np.linalg.cholesky(self.covariance).reshape(B.shape[1], 3, -1)
        return np.tensordot(B, root, 1)

    def _across(self, s_mm: np.ndarray, rows: np.ndarray) -> np.ndarray:
        C = rows @ rows.transpose(0, 2, 1)
        t = self.tangents(s_mm)
        P = np.eye(3) - t[:, :, None] * t[:, None, :]
        return P @ C @ P


def fit_spline(
    camera: StereoCamera,
    s_mm: np.ndarray,
    measured: RodMeasurements,
    anchors: tuple[Anchor, ...],
    config: RodConfig,
) -> SplineFit:
    """The curve that the measurements and anchors tell.

    Args:
        s_mm: (K,) arc positions of measured.point_m along the hypothesis, rising.
        measured: places without a rod in view have confidence 0 and do not count.
    """
    knots = _knots(float(s_mm[0]), float(s_mm[-1]))
    B = _basis(knots, s_mm)
    start = measured.point_m
    n = B.shape[1]
    control = np.linalg.lstsq(B, start, rcond=None)[0]
    tangent = _directions(start)
    spacing = float(np.median(np.diff(s_mm)))
    thin = 1.0 / max(1.0, config.correlation_mm / spacing)  # neighbours err together
    prior_H, prior_g = _prior(B, start, tangent, config)
    bend_H = _bending(knots, n, config)
    sides = _view_rows(camera, measured, config)
    left0, right0 = project_pair(camera, start)
    across = _anchor_rows(anchors, knots, tangent, s_mm, config)
    H = prior_H
    for _ in range(_ROUNDS):
        curve = B @ control
        J_left, J_right = pair_jacobians(camera, curve)
        left, right = project_pair(camera, curve)
        H, g = prior_H + bend_H, prior_g.copy()
        chi, count = 0.0, 0.0
        for (normal, offset, weight), J, moved in (
            (sides[0], J_left, left - left0),
            (sides[1], J_right, right - right0),
        ):
            residual = ((normal * moved).sum(axis=1) - offset) * weight
            row = np.einsum("ki,kij->kj", normal, J) * weight[:, None]  # (K, 3)
            robust = 1.0 / (1.0 + (residual / _OUTLIER) ** 2)
            A = (B[:, :, None] * row[:, None, :]).reshape(len(B), -1)
            # linearised about the present curve: residual + row (new - present) = 0
            target = np.einsum("kj,kj->k", row, curve) - residual
            H = H + thin * (A.T @ (robust[:, None] * A))
            g = g + thin * (A.T @ (robust * target))
            chi += float((robust * residual**2).sum())
            count += float(robust[weight > 0].sum())
        for basis, U, target, W in across:
            A = np.einsum("n,ui->uni", basis, U).reshape(len(U), -1)
            r = A @ control.ravel() - target
            soft = 1.0 / (1.0 + float(r @ W @ r) / (2.0 * _OUTLIER**2))
            H = H + soft * (A.T @ W @ A)
            g = g + soft * (A.T @ W @ target)
        before, control = control, np.linalg.solve(H, g).reshape(n, 3)
        if np.abs(control - before).max() < _RESTS_M:
            break
    inflate = max(1.0, chi / count) if count else 1.0
    covariance = inflate * np.linalg.inv(H)
    return SplineFit(BSpline(knots, control, 3), 0.5 * (covariance + covariance.T))


def _knots(first: float, last: float) -> np.ndarray:
    inner = max(1, round((last - first) / _KNOT_MM))
    grid = np.linspace(first, last, inner + 1)
    return np.concatenate([[first] * 3, grid, [last] * 3])


def _basis(knots: np.ndarray, s_mm: np.ndarray, derivative: int = 0) -> np.ndarray:
    """(K, n) values of the basis functions at arc positions, or of their derivatives."""
    spline = _functions(np.ascontiguousarray(knots, np.float64).tobytes())
    return np.asarray(spline(np.clip(s_mm, knots[0], knots[-1]), derivative))


@lru_cache(maxsize=32)
def _functions(knots: bytes) -> BSpline:
    """All basis functions of one set of knots: a fit asks for them a dozen times."""
    t = np.frombuffer(knots, np.float64)
    return BSpline(t, np.eye(len(t) - 4), 3)


def _directions(points: np.ndarray) -> np.ndarray:
    d = np.gradient(points, axis=0)
    return d / np.maximum(np.linalg.norm(d, axis=1, keepdims=True), 1e-12)


def _view_rows(
    camera: StereoCamera, measured: RodMeasurements, config: RodConfig
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per view: normals (K, 2), offsets (K,), and weights (K,) = 1/sigma, 0 where not seen."""
    out = []
    for normal, offset, sigma, confidence in (
        (measured.normal_left, measured.offset_left_px, measured.sigma_left_px,
         measured.confidence_left),
        (measured.normal_right, measured.offset_right_px, measured.sigma_right_px,
         measured.confidence_right),
    ):  # fmt: skip
        ok = np.isfinite(offset) & np.isfinite(sigma) & np.isfinite(normal).all(axis=1)
        with np.errstate(invalid="ignore"):
            ok &= (confidence >= config.presence) & (sigma > 0.0)
        weight = np.where(ok, 1.0 / np.maximum(np.where(ok, sigma, 1.0), _SIGMA_FLOOR_PX), 0.0)
        out.append((np.where(ok[:, None], normal, 0.0), np.where(ok, offset, 0.0), weight))
    return out


def _prior(
    B: np.ndarray, start: np.ndarray, tangent: np.ndarray, config: RodConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Normal equations that hold the curve near the hypothesis.

    Its error is one error of the whole rod, not a new one at every place: the weight of all places
    together is that of a single observation. Along the curve it only fixes the parametrisation.
    """
    count = len(start)
    view = start / np.linalg.norm(start, axis=1, keepdims=True)
    vv = view[:, :, None] * view[:, None, :]
    tt = tangent[:, :, None] * tangent[:, None, :]
    W = (
        vv / (1e-3 * config.seed_depth_mm) ** 2 + (np.eye(3) - vv) / (1e-3 * _ACROSS_PRIOR_MM) ** 2
    ) / count + tt / (1e-3 * _ALONG_MM) ** 2
    H = np.einsum("kn,kij,km->nimj", B, W, B)
    n = B.shape[1]
    return H.reshape(3 * n, 3 * n), np.einsum("kn,kij,kj->ni", B, W, start).ravel()


def _bending(knots: np.ndarray, n: int, config: RodConfig) -> np.ndarray:
    """Normal matrix of the rod's stiffness: curvature is zero but for curvature_per_m (1 sigma),
    independent from one stretch of _STIFF_MM to the next."""
    grid = np.linspace(knots[0], knots[-1], max(8, int((knots[-1] - knots[0]) / 3.0)))
    step = (knots[-1] - knots[0]) / len(grid)
    D = _basis(knots, grid, 2)  # metres per mm^2
    per_mm2 = 1e-3 * (1e-3 * config.curvature_per_m)  # 1/m = 1e-3/mm; times metres per mm
    one = D.T @ D * (step / _STIFF_MM) / per_mm2**2
    return np.kron(one, np.eye(3))


def _anchor_rows(
    anchors: tuple[Anchor, ...],
    knots: np.ndarray,
    tangent: np.ndarray,
    s_mm: np.ndarray,
    config: RodConfig,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Per anchor: basis (n,), two directions U (2, 3) across the rod, target (2,), weight (2, 2)."""
    rows = []
    for a in anchors:
        t = tangent[int(np.abs(s_mm - a.s_mm).argmin())]
        U = np.linalg.svd(t[None])[2][1:]
        C = U @ a.covariance_m2 @ U.T + (1e-3 * config.seat_mm) ** 2 * np.eye(2)
        rows.append((_basis(knots, np.array([a.s_mm]))[0], U, U @ a.point_m, np.linalg.inv(C)))
    return rows
