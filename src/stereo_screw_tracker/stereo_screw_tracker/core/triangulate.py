# SPDX-License-Identifier: Apache-2.0
"""From a place in both images to a point with covariance, and how far the two places disagree.

A rectified pair sees (u, v), (u - d, v): four measured numbers, three unknowns, and the model is
linear in them. Generalised least squares is therefore the maximum-likelihood answer in one step,
and its one left-over degree of freedom is the epipolar residual.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.types import Head3D, Intrinsics, Rejected, StereoFrame

from .types import HeadObservation, StereoCamera

OUT_OF_DEPTH = "is outside"
# d(u_l, v_l, u_r, v_r) / d(u, v, d)
_DESIGN = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
_ROWS = np.array([0.0, 1.0, 0.0, -1.0])  # the combination that is zero without error: v_l - v_r


@dataclass(frozen=True)
class Triangulation:
    """N points: point_m (N, 3), NaN where the disparity is not positive; covariance_m2 (N, 3, 3);
    disparity_px (N,); row_px (N,) = v_l - v_r; row_sigma_px (N,), what its noise would be."""

    point_m: np.ndarray
    covariance_m2: np.ndarray
    disparity_px: np.ndarray
    row_px: np.ndarray
    row_sigma_px: np.ndarray


def camera_of(frame: StereoFrame) -> StereoCamera:
    """The rectified camera that took a pair."""
    return StereoCamera(frame.intrinsics, frame.baseline_m)


def project_pair(camera: StereoCamera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left and right pixels (..., 2) of points (..., 3) in the left optical frame, metres; NaN for
    points that are not in front."""
    k = camera.intrinsics
    z = np.where(points[..., 2] > 0.0, points[..., 2], np.nan)
    u = k.fx * points[..., 0] / z + k.cx
    v = k.fy * points[..., 1] / z + k.cy
    return np.stack([u, v], -1), np.stack([u - k.fx * camera.baseline_m / z, v], -1)


def pair_jacobians(camera: StereoCamera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """d(pixel)/d(point) (..., 2, 3) of the left and the right image at points (..., 3), px/m."""
    return (
        _jacobian(camera.intrinsics, points),
        _jacobian(camera.intrinsics, points - (camera.baseline_m, 0.0, 0.0)),
    )


def _jacobian(k: Intrinsics, points: np.ndarray) -> np.ndarray:
    x, y, z = np.moveaxis(points, -1, 0)
    zero = np.zeros_like(z)
    return np.stack(
        [
            np.stack([k.fx / z, zero, -k.fx * x / z**2], -1),
            np.stack([zero, k.fy / z, -k.fy * y / z**2], -1),
        ],
        -2,
    )


def triangulate(
    camera: StereoCamera, left_px: np.ndarray, right_px: np.ndarray, covariance_px2: np.ndarray
) -> Triangulation:
    """Points of N pairs of places.

    Args:
        left_px, right_px: (N, 2) u, v in the rectified images.
        covariance_px2: (N, 4, 4) or (4, 4) of (u_l, v_l, u_r, v_r), positive definite.

    Raises:
        ValueError: a shape does not fit, or a covariance is not positive definite.
    """
    left_px, right_px = np.atleast_2d(left_px), np.atleast_2d(right_px)
    count = len(left_px)
    if left_px.shape != (count, 2) or right_px.shape != (count, 2):
        raise ValueError(
            f"triangulate: pixels {left_px.shape} and {right_px.shape}, expected (N, 2)"
        )
    covariance = np.broadcast_to(covariance_px2, (count, 4, 4))
    try:
        np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError as error:
        raise ValueError("triangulate: a covariance is not positive definite") from error
    measured = np.concatenate([left_px, right_px], axis=1)
    information = np.linalg.inv(covariance)
    weighted = _DESIGN.T @ information  # (N, 3, 4)
    solved_covariance = np.linalg.inv(weighted @ _DESIGN)
    u, v, d = np.einsum("nij,njk,nk->in", solved_covariance, weighted, measured)
    k = camera.intrinsics
    fb = k.fx * camera.baseline_m
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(d > 0.0, fb / d, np.nan)
    x, y = (u - k.cx) / k.fx, (v - k.cy) / k.fy
    point = np.stack([x * z, y * z, z], axis=1)
    to_point = np.zeros((count, 3, 3))  # d(point) / d(u, v, d)
    to_point[:, 0, 0] = z / k.fx
    to_point[:, 1, 1] = z / k.fy
    to_point[:, :, 2] = -point * (z / fb)[:, None]
    return Triangulation(
        point,
        to_point @ solved_covariance @ to_point.transpose(0, 2, 1),
        d,
        measured @ _ROWS,
        np.sqrt(np.einsum("i,nij,j->n", _ROWS, covariance, _ROWS)),
    )


def widened(covariance_px2: np.ndarray, row_error_px: float) -> np.ndarray:
    """Covariance (..., 4, 4) with the row difference that calibration leaves (1 sigma) added.

    It goes to the right row alone: left pixels are the reference that results are drawn in.
    """
    out = np.array(covariance_px2, dtype=np.float64)
    out[..., 3, 3] += row_error_px**2
    return out


def triangulate_head(
    camera: StereoCamera,
    observation: HeadObservation,
    depth_limits_m: tuple[float, float],
    row_error_px: float = 0.0,
) -> Head3D | Rejected:
    """The head in space, or why these two places are none.

    Rejected: numbers that are not finite, a covariance or axis that is none, no positive disparity
    (left and right swapped, or a wrong pair), a depth outside `depth_limits_m`.
    """
    numbers = (
        observation.left_px, observation.right_px, observation.covariance_px2, observation.axis,
        observation.axis_sigma_rad, observation.confidence,
    )  # fmt: skip
    if not all(np.isfinite(n).all() for n in numbers):
        return Rejected("a measured number is not finite")
    length = float(np.linalg.norm(observation.axis))
    if abs(length - 1.0) > 1e-2:
        return Rejected(f"its axis has length {length:.3g}, not 1")
    try:
        t = triangulate(
            camera,
            observation.left_px,
            observation.right_px,
            widened(observation.covariance_px2, row_error_px),
        )
    except ValueError as error:
        return Rejected(str(error))
    if not t.disparity_px[0] > 0.0:
        return Rejected(
            f"its disparity is {t.disparity_px[0]:.1f} px: it would lie behind the camera"
        )
    z = float(t.point_m[0, 2])
    if not depth_limits_m[0] <= z <= depth_limits_m[1]:
        low, high = depth_limits_m
        return Rejected(f"its depth of {z:.2f} m {OUT_OF_DEPTH} {low:g} to {high:g} m")
    return Head3D(
        t.point_m[0],
        t.covariance_m2[0],
        observation.axis / length,
        float(observation.axis_sigma_rad),
        float(observation.confidence),
        float(t.row_px[0]),
    )
