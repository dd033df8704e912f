# SPDX-License-Identifier: Apache-2.0
"""Rigid geometry on 4x4 arrays: SE(3), quaternions (xyzw), pinhole projection, Kabsch.

Lengths in metres, angles in radians, twists translation first (x, y, z, rx, ry, rz).
Only `check_transform` and `check_rotation` validate; everything else trusts its input, because it
runs in inner loops. Call the checks once, where a transform enters the program.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .types import Intrinsics

_SMALL_ANGLE = 1e-4  # below this, Taylor series are exact to double precision
_ORTHONORMAL_TOLERANCE = 1e-6


def check_rotation(R: np.ndarray, name: str = "R") -> np.ndarray:
    """Return R (3, 3) as float64, or raise ValueError if it is no finite proper rotation."""
    R = np.asarray(R, dtype=np.float64)
    if R.shape != (3, 3):
        raise ValueError(f"{name}: shape {R.shape}, expected (3, 3)")
    if not np.isfinite(R).all():
        raise ValueError(f"{name}: holds NaN or infinity")
    if np.abs(R.T @ R - np.eye(3)).max() > _ORTHONORMAL_TOLERANCE:
        raise ValueError(f"{name}: rotation is not orthonormal within {_ORTHONORMAL_TOLERANCE:g}")
    if np.linalg.det(R) < 0.0:
        raise ValueError(f"{name}: rotation mirrors (determinant -1)")
    return R


def check_transform(T: np.ndarray, name: str = "T") -> np.ndarray:
    """Return T (4, 4) as float64, or raise ValueError if it is no finite rigid transform."""
    T = np.asarray(T, dtype=np.float64)
    if T.shape != (4, 4):
        raise ValueError(f"{name}: shape {T.shape}, expected (4, 4)")
    if not np.isfinite(T).all():
        raise ValueError(f"{name}: holds NaN or infinity")
    if np.abs(T[3] - (0.0, 0.0, 0.0, 1.0)).max() > _ORTHONORMAL_TOLERANCE:
        raise ValueError(f"{name}: last row is {T[3].tolist()}, expected [0, 0, 0, 1]")
    check_rotation(T[:3, :3], name)
    return T


def transform(R: np.ndarray, t: ArrayLike) -> np.ndarray:
    """(4, 4) transform from rotation R (3, 3) and translation t (3,) in metres."""
    T = np.eye(4)
    T[:3, :3] = R
    T[:3, 3] = t
    return T


def invert(T: np.ndarray) -> np.ndarray:
    """Inverse of a rigid transform: T_target_source (4, 4) to T_source_target (4, 4)."""
    R = T[:3, :3].T
    return transform(R, -R @ T[:3, 3])


def transform_points(T: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points (..., 3) from source to target by T_target_source (4, 4)."""
    return points @ T[:3, :3].T + T[:3, 3]


def skew(v: np.ndarray) -> np.ndarray:
    """(3, 3) matrix of the cross product: skew(v) @ w == cross(v, w)."""
    x, y, z = v
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def _series(theta: float) -> tuple[float, float, float]:
    """sin(t)/t, (1 - cos t)/t^2 and (t - sin t)/t^3, stable at zero."""
    if theta < _SMALL_ANGLE:
        t2 = theta * theta
        return 1.0 - t2 / 6.0, 0.5 - t2 / 24.0, 1.0 / 6.0 - t2 / 120.0
    s, c = np.sin(theta), np.cos(theta)
    return s / theta, (1.0 - c) / theta**2, (theta - s) / theta**3


def exp_so3(w: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of the rotation vector w (3,) in radians."""
    a, b, _ = _series(float(np.linalg.norm(w)))
    W = skew(w)
    return np.eye(3) + a * W + b * (W @ W)


def log_so3(R: np.ndarray) -> np.ndarray:
    """Rotation vector (3,) of R (3, 3), of length 0 to pi; stable at both ends."""
    q = q_xyzw_from_rotation(R)
    n = float(np.linalg.norm(q[:3]))
    if n < 1e-12:
        return 2.0 * q[:3]
    return q[:3] * (2.0 * np.arctan2(n, q[3]) / n)


def exp_se3(xi: np.ndarray) -> np.ndarray:
    """Transform (4, 4) of the twist xi (6,), translation first, metres and radians."""
    xi = np.asarray(xi, dtype=np.float64)
    w = xi[3:]
    a, b, c = _series(float(np.linalg.norm(w)))
    W = skew(w)
    W2 = W @ W
    return transform(np.eye(3) + a * W + b * W2, (np.eye(3) + b * W + c * W2) @ xi[:3])


def log_se3(T: np.ndarray) -> np.ndarray:
    """Twist (6,), translation first, with exp_se3(log_se3(T)) == T; rotation up to pi."""
    w = log_so3(T[:3, :3])
    theta = float(np.linalg.norm(w))
    W = skew(w)
    if theta < _SMALL_ANGLE:
        k = 1.0 / 12.0 + theta * theta / 720.0
    else:
        # (1 - theta/2 cot(theta/2)) / theta^2, finite at pi where cot is zero
        k = (1.0 - 0.5 * theta / np.tan(0.5 * theta)) / theta**2
    return np.concatenate([(np.eye(3) - 0.5 * W + k * (W @ W)) @ T[:3, 3], w])


def perturb_about(T_camera_x: np.ndarray, xi: np.ndarray, anchor_camera: np.ndarray) -> np.ndarray:
    """Left perturbation of a pose (4, 4) by the twist xi (6,) about a point (3,) of the camera.

    This is the perturbation that the project's covariances describe (see types).
    """
    E = exp_se3(xi)
    E[:3, 3] += anchor_camera - E[:3, :3] @ anchor_camera
    return E @ T_camera_x


def adjoint(T: np.ndarray) -> np.ndarray:
    """(6, 6) adjoint, translation first: exp(adjoint(T) @ xi) == T exp(xi) T^-1."""
    R = T[:3, :3]
    A = np.zeros((6, 6))
    A[:3, :3] = R
    A[3:, 3:] = R
    A[:3, 3:] = skew(T[:3, 3]) @ R
    return A


def rotation_angle(R: np.ndarray) -> float:
    """Angle of a rotation (3, 3) in radians, 0 to pi, exact for small angles too."""
    return float(np.linalg.norm(log_so3(R)))


def q_xyzw_from_rotation(R: np.ndarray) -> np.ndarray:
    """Unit quaternion (4,) x, y, z, w of R (3, 3), with w >= 0 so that equal poses print alike."""
    # Shepperd's method: divide by the largest component, never by one near zero.
    trace = R[0, 0] + R[1, 1] + R[2, 2]
    choice = int(np.argmax((R[0, 0], R[1, 1], R[2, 2], trace)))
    q = np.empty(4)
    if choice == 3:
        q[:] = (R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1], 1.0 + trace)
    else:
        i, j, k = choice, (choice + 1) % 3, (choice + 2) % 3
        q[i] = 1.0 + 2.0 * R[i, i] - trace
        q[j] = R[j, i] + R[i, j]
        q[k] = R[k, i] + R[i, k]
        q[3] = R[k, j] - R[j, k]
    q /= np.linalg.norm(q)
    return -q if q[3] < 0.0 else q


def rotation_from_q_xyzw(q_xyzw: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) of a quaternion (4,) x, y, z, w; normalised here.

    Raises ValueError for a quaternion that is not finite or has no length.
    """
    q = np.asarray(q_xyzw, dtype=np.float64)
    n = float(np.linalg.norm(q))
    if q.shape != (4,) or not np.isfinite(n) or n < 1e-9:
        raise ValueError(f"q_xyzw: {q_xyzw!r} is no quaternion")
    x, y, z, w = q / n
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def project(intrinsics: Intrinsics, points: np.ndarray) -> np.ndarray:
    """Pixels (..., 2) u, v of points (..., 3) in metres; NaN for points not in front (z <= 0)."""
    z = points[..., 2]
    z = np.where(z > 0.0, z, np.nan)
    u = intrinsics.fx * points[..., 0] / z + intrinsics.cx
    v = intrinsics.fy * points[..., 1] / z + intrinsics.cy
    return np.stack([u, v], axis=-1)


def backproject(intrinsics: Intrinsics, uv: np.ndarray, z_m: np.ndarray) -> np.ndarray:
    """Points (..., 3) in metres of pixels uv (..., 2) at depth z_m (...); NaN depth stays NaN."""
    x = (uv[..., 0] - intrinsics.cx) / intrinsics.fx * z_m
    y = (uv[..., 1] - intrinsics.cy) / intrinsics.fy * z_m
    return np.stack([x, y, z_m], axis=-1)


def backproject_depth(intrinsics: Intrinsics, depth_m: np.ndarray) -> np.ndarray:
    """Points (H, W, 3) in metres, dtype of depth_m (H, W); NaN where there is no depth."""
    v, u = np.indices(depth_m.shape, dtype=depth_m.dtype)
    return backproject(intrinsics, np.stack([u, v], axis=-1), depth_m).astype(depth_m.dtype)


def kabsch(source: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Rigid T_target_source (4, 4) that minimises sum w ||T source - target||^2 (never a mirror).

    source, target: (N, 3) metres, corresponding rows; weights: (N,) >= 0.
    Raises ValueError for fewer than three points, or points on one line (rotation undefined).
    """
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3:
        raise ValueError(f"kabsch: shapes {source.shape} and {target.shape}, expected (N, 3) twice")
    w = np.ones(len(source)) if weights is None else np.asarray(weights, dtype=np.float64)
    total = w.sum()
    if len(source) < 3 or not total > 0.0:
        raise ValueError("kabsch: needs three points with weight")
    cs, ct = w @ source / total, w @ target / total
    U, s, Vt = np.linalg.svd((w[:, None] * (source - cs)).T @ (target - ct))
    if s[1] <= 1e-12 * max(s[0], 1e-300):
        raise ValueError("kabsch: points lie on one line, rotation is undefined")
    d = np.sign(np.linalg.det(Vt.T @ U.T))
    R = Vt.T @ np.diag([1.0, 1.0, d]) @ U.T
    return transform(R, ct - R @ cs)
