# SPDX-License-Identifier: Apache-2.0
"""The inner loops over pixels, compiled.

Each has a plain NumPy twin in `test/numpy_twins.py` that tests hold it against. All are
single-threaded, free of the GIL and deterministic; compiled code is cached beside this file (or
where NUMBA_CACHE_DIR says), `warm_up` in `estimator` compiles or loads it before the first frame.
"""

from __future__ import annotations

import math

import numpy as np

from spine_nav_common.core.compiled import compiled

OUTLIER_WIDTH_M = 20e-3
MIN_COSINE = 0.05
"""A surface seen under a flatter angle is not seen."""
SETTLED_M, SETTLED_RAD = 5e-5, 1e-3
"""A Gauss-Newton step below both no longer matters."""
ARM_M = 15e-3
"""A turn moves a vertebra's surface by this arm."""
_SQRT2 = math.sqrt(2.0)
_NORM = 1.0 / math.sqrt(2.0 * math.pi)


@compiled
def erfcx(x: float) -> float:
    """exp(x^2) erfc(x) for x >= -4, relative error below 1.3e-7 (Chebyshev fit of Press et al.)."""
    z = abs(x)
    t = 2.0 / (2.0 + z)
    p = -1.26551223 + t * (
        1.00002368
        + t
        * (
            0.37409196
            + t
            * (
                0.09678418
                + t
                * (
                    -0.18628806
                    + t
                    * (
                        0.27886807
                        + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277)))
                    )
                )
            )
        )
    )
    value = t * math.exp(p)
    return value if x >= 0.0 else 2.0 * math.exp(z * z) - value


@compiled
def density(
    s: float, sigma: float, tissue: float, clean: float, bone: float
) -> tuple[float, float, float, float]:
    """See `likelihood.point_likelihood`: density, score, curvature, responsibility of bone."""
    z = s / sigma
    hill = math.exp(-0.5 * z * z)
    gauss = _NORM / sigma * hill
    ratio = sigma / tissue
    arg = (ratio - z) / _SQRT2
    if arg > -4.0:
        covered = 0.5 / tissue * hill * erfcx(arg)
    else:
        covered = math.exp(min(0.5 * ratio * ratio - s / tissue, 50.0)) / tissue
    share_clean = 0.15 + 0.7 * clean
    share = min(max(bone, 0.05), 0.97)
    p_gauss = share * share_clean * gauss
    p_tissue = share * (1.0 - share_clean) * covered
    total = p_gauss + p_tissue + (1.0 - share) / OUTLIER_WIDTH_M
    slope = -p_gauss * z / sigma + share * (1.0 - share_clean) * (gauss - covered) / tissue
    curvature = (p_gauss + 0.35 * p_tissue) / (total * sigma * sigma)
    return total, -slope / total, curvature, (p_gauss + p_tissue) / total


@compiled
def densities(
    s: np.ndarray, sigma: np.ndarray, tissue: float, clean: np.ndarray, bone: np.ndarray
) -> np.ndarray:
    """(4, M): what `density` says of each point, the density's logarithm first."""
    out = np.empty((4, len(s)))
    for i in range(len(s)):
        out[0, i], out[1, i], out[2, i], out[3, i] = density(
            s[i], sigma[i], tissue, clean[i], bone[i]
        )
        out[0, i] = math.log(out[0, i])
    return out


@compiled
def probe(
    p0: float,
    p1: float,
    p2: float,
    T: np.ndarray,
    k: int,
    field: np.ndarray,
    offset: np.ndarray,
    shape: np.ndarray,
    origin: np.ndarray,
    step: float,
) -> tuple[float, float, float, float]:
    """Distance of a camera point to level k, posed by T (L, 4, 4), and the unit normal there, camera
    frame; the distance is NaN outside the level's grid."""
    x, y, z = p0 - T[k, 0, 3], p1 - T[k, 1, 3], p2 - T[k, 2, 3]
    scale = 1.0 / step
    u = (T[k, 0, 0] * x + T[k, 1, 0] * y + T[k, 2, 0] * z - origin[k, 0]) * scale
    v = (T[k, 0, 1] * x + T[k, 1, 1] * y + T[k, 2, 1] * z - origin[k, 1]) * scale
    w = (T[k, 0, 2] * x + T[k, 1, 2] * y + T[k, 2, 2] * z - origin[k, 2]) * scale
    fu, fv, fw = np.rint(u), np.rint(v), np.rint(w)
    n0, n1, n2 = shape[k, 0], shape[k, 1], shape[k, 2]
    if not (0.0 <= fu < n0 and 0.0 <= fv < n1 and 0.0 <= fw < n2):
        return np.nan, 0.0, 0.0, 0.0
    at = offset[k] + (int(fu) * n1 + int(fv)) * n2 + int(fw)
    gu, gv, gw = float(field[at, 1]), float(field[at, 2]), float(field[at, 3])
    s = field[at, 0] + step * ((u - fu) * gu + (v - fv) * gv + (w - fw) * gw)
    scale = 1.0 / max(math.sqrt(gu * gu + gv * gv + gw * gw), 1e-6)
    return (
        s,
        scale * (T[k, 0, 0] * gu + T[k, 0, 1] * gv + T[k, 0, 2] * gw),
        scale * (T[k, 1, 0] * gu + T[k, 1, 1] * gv + T[k, 1, 2] * gw),
        scale * (T[k, 2, 0] * gu + T[k, 2, 1] * gv + T[k, 2, 2] * gw),
    )


@compiled
def surface(
    points: np.ndarray,
    T: np.ndarray,
    k: int,
    field: np.ndarray,
    offset: np.ndarray,
    shape: np.ndarray,
    origin: np.ndarray,
    step: float,
) -> tuple[np.ndarray, np.ndarray]:
    """See `SpineModel.surface`; T (L, 4, 4)."""
    distance = np.empty(len(points), np.float32)
    normal = np.empty((len(points), 3), np.float32)
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        s, n0, n1, n2 = probe(x, y, z, T, k, field, offset, shape, origin, step)
        distance[i] = s
        normal[i, 0], normal[i, 1], normal[i, 2] = n0, n1, n2
    return distance, normal


@compiled
def assign(
    points: np.ndarray,
    ray: np.ndarray,
    vote: np.ndarray,
    T: np.ndarray,
    anchor: np.ndarray,
    reach: float,
    gate: float,
    vote_weight: float,
    field: np.ndarray,
    offset: np.ndarray,
    shape: np.ndarray,
    origin: np.ndarray,
    step: float,
) -> np.ndarray:
    """(M,) see `estimator.assign`."""
    level = np.full(len(points), -1, np.int64)
    for i in range(len(points)):
        p0, p1, p2 = float(points[i, 0]), float(points[i, 1]), float(points[i, 2])
        best = np.inf
        for k in range(len(anchor)):
            x, y, z = p0 - anchor[k, 0], p1 - anchor[k, 1], p2 - anchor[k, 2]
            if x * x + y * y + z * z >= reach * reach:
                continue
            s, n0, n1, n2 = probe(p0, p1, p2, T, k, field, offset, shape, origin, step)
            cost = abs(s)
            # The first comparison is false for NaN.
            if not cost < gate or cost >= best:
                continue
            if n0 * ray[i, 0] + n1 * ray[i, 1] + n2 * ray[i, 2] >= 0.25:
                continue
            if vote_weight > 0.0:
                x, y, z = (
                    vote[i, 0] - anchor[k, 0],
                    vote[i, 1] - anchor[k, 1],
                    vote[i, 2] - anchor[k, 2],
                )
                far = math.sqrt(x * x + y * y + z * z)
                cost += vote_weight * (0.02 if math.isnan(far) else far)
            if cost < best:
                best = cost
                level[i] = k
    return level


@compiled
def linearise(
    points: np.ndarray,
    ray: np.ndarray,
    bone: np.ndarray,
    clean: np.ndarray,
    weight: np.ndarray,
    level: np.ndarray,
    T: np.ndarray,
    anchor: np.ndarray,
    sigma: float,
    tissue: float,
    field: np.ndarray,
    offset: np.ndarray,
    shape: np.ndarray,
    origin: np.ndarray,
    step: float,
    pixel: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Normal equations H (L, 6, 6), g (L, 6) of the pixels that have a level.

    Fills pixel (5, M), or nothing where it is (5, 0): distance, standard deviation along the normal, log density, responsibility
    of bone, and 1 where the surface is seen. What is not seen has distance 0 and the density of
    an outlier, as have pixels without a level.
    """
    L = len(anchor)
    H, g = np.zeros((L, 6, 6)), np.zeros((L, 6))
    J = np.empty(6)
    told = pixel.shape[1] > 0
    for i in range(len(points)):
        k = level[i]
        if told:
            pixel[0, i] = pixel[3, i] = pixel[4, i] = 0.0
            pixel[1, i] = sigma
            pixel[2, i] = math.log((1.0 - min(max(bone[i], 0.05), 0.97)) / OUTLIER_WIDTH_M)
        if k < 0:
            continue
        p0, p1, p2 = float(points[i, 0]), float(points[i, 1]), float(points[i, 2])
        s, n0, n1, n2 = probe(p0, p1, p2, T, k, field, offset, shape, origin, step)
        cosine = -(n0 * ray[i, 0] + n1 * ray[i, 1] + n2 * ray[i, 2])
        if math.isnan(s) or cosine <= MIN_COSINE:
            continue
        # Stereo depth on a slope is worse than its frontal noise seen along the normal.
        own = sigma * (2.5 - 1.5 * min(cosine, 1.0))
        total, score, curvature, is_bone = density(s, own, tissue, clean[i], bone[i])
        if told:
            pixel[0, i], pixel[1, i], pixel[2, i] = s, own, math.log(total)
            pixel[3, i], pixel[4, i] = is_bone, 1.0
        x, y, z = p0 - anchor[k, 0], p1 - anchor[k, 1], p2 - anchor[k, 2]
        J[0], J[1], J[2] = n0, n1, n2
        J[3], J[4], J[5] = y * n2 - z * n1, z * n0 - x * n2, x * n1 - y * n0
        pull, stiff = weight[i] * score, weight[i] * curvature
        # d s / d xi = -J: the sign cancels in H.
        for a in range(6):
            g[k, a] -= pull * J[a]
            part = stiff * J[a]
            for b in range(a + 1):
                H[k, a, b] += part * J[b]
    for k in range(L):
        for a in range(6):
            for b in range(a):
                H[k, b, a] = H[k, a, b]
    return H, g


@compiled
def exp_about(xi: np.ndarray, anchor: np.ndarray, T: np.ndarray) -> None:
    """Moves T (L, 4, 4) in place by twists; see `estimator.exp_about`."""
    K, R = np.empty((3, 3)), np.empty((3, 3))
    for k in range(len(xi)):
        w = xi[k, 3:]
        angle2 = w[0] * w[0] + w[1] * w[1] + w[2] * w[2]
        angle = math.sqrt(angle2)
        if angle > 1e-4:
            a, b = math.sin(angle) / angle, (1.0 - math.cos(angle)) / angle2
        else:
            a, b = 1.0 - angle2 / 6.0, 0.5 - angle2 / 24.0
        K[0, 0] = K[1, 1] = K[2, 2] = 0.0
        K[0, 1], K[0, 2], K[1, 2] = -w[2], w[1], -w[0]
        K[1, 0], K[2, 0], K[2, 1] = w[2], -w[1], w[0]
        for i in range(3):
            for j in range(3):
                R[i, j] = a * K[i, j] + b * (w[i] * w[j])
            R[i, i] += 1.0 - b * angle2
        t0, t1, t2 = T[k, 0, 3], T[k, 1, 3], T[k, 2, 3]
        d0, d1, d2 = t0 - anchor[k, 0], t1 - anchor[k, 1], t2 - anchor[k, 2]
        for j in range(3):
            r0, r1, r2 = T[k, 0, j], T[k, 1, j], T[k, 2, j]
            for i in range(3):
                T[k, i, j] = R[i, 0] * r0 + R[i, 1] * r1 + R[i, 2] * r2
        for i in range(3):
            T[k, i, 3] = xi[k, i] + anchor[k, i] + R[i, 0] * d0 + R[i, 1] * d1 + R[i, 2] * d2


@compiled
def twist_between(T: np.ndarray, T_reference: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """See `estimator.twist_between`."""
    out = np.empty((len(T), 6))
    R = np.empty((3, 3))
    w = np.empty(3)
    for k in range(len(T)):
        for i in range(3):
            for j in range(3):
                R[i, j] = (
                    T[k, i, 0] * T_reference[k, j, 0]
                    + T[k, i, 1] * T_reference[k, j, 1]
                    + T[k, i, 2] * T_reference[k, j, 2]
                )
        w[0], w[1], w[2] = R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]
        sine = 0.5 * math.sqrt(w[0] * w[0] + w[1] * w[1] + w[2] * w[2])
        angle = math.atan2(sine, 0.5 * (R[0, 0] + R[1, 1] + R[2, 2] - 1.0))
        scale = 0.5 * (angle / sine if sine > 1e-9 else 1.0)
        for i in range(3):
            out[k, i] = T[k, i, 3] - anchor[k, i]
            for j in range(3):
                out[k, i] += R[i, j] * (anchor[k, j] - T_reference[k, j, 3])
            out[k, 3 + i] = scale * w[i]
    return out


@compiled
def anchors(anchor_ct: np.ndarray, T: np.ndarray) -> np.ndarray:
    """See `estimator.anchors`."""
    out = np.empty_like(anchor_ct)
    for k in range(len(T)):
        for i in range(3):
            out[k, i] = T[k, i, 3]
            for j in range(3):
                out[k, i] += T[k, i, j] * anchor_ct[k, j]
    return out


@compiled
def with_data(information: np.ndarray, H: np.ndarray) -> np.ndarray:
    """See `estimator._with_data`."""
    out = information.copy()
    for k in range(len(H)):
        for a in range(6):
            for b in range(6):
                out[6 * k + a, 6 * k + b] += H[k, a, b]
            out[6 * k + a, 6 * k + a] += 1.0
    return out


@compiled
def springs(
    anchor: np.ndarray, disc: np.ndarray, along: np.ndarray, about: np.ndarray
) -> np.ndarray:
    """See `estimator.springs`; disc (L - 1, 3) camera frame, `along` 1/m^2 and `about` 1/rad^2, both
    (L - 1,)."""
    L = len(anchor)
    out = np.zeros((6 * L, 6 * L))
    A = np.zeros((2, 6, 6))
    for k in range(L - 1):
        for j in range(2):
            sign = 2.0 * j - 1.0
            x, y, z = (
                disc[k, 0] - anchor[k + j, 0],
                disc[k, 1] - anchor[k + j, 1],
                disc[k, 2] - anchor[k + j, 2],
            )
            for a in range(6):
                A[j, a, a] = sign
            A[j, 0, 4], A[j, 0, 5] = sign * z, -sign * y
            A[j, 1, 3], A[j, 1, 5] = -sign * z, sign * x
            A[j, 2, 3], A[j, 2, 4] = sign * y, -sign * x
        for i in range(2):
            for j in range(2):
                for a in range(6):
                    for b in range(6):
                        total = 0.0
                        for c in range(6):
                            total += (along[k] if c < 3 else about[k]) * A[i, c, a] * A[j, c, b]
                        out[6 * (k + i) + a, 6 * (k + j) + b] += total
    return out


@compiled
def solve_positive(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """x of A x = b for a symmetric positive definite A (N, N), which is overwritten. For some
    dozens of unknowns faster than a call of LAPACK, and the same on every machine."""
    N = len(b)
    x = b.copy()
    for i in range(N):
        for j in range(i + 1):
            total = A[i, j]
            for k in range(j):
                total -= A[i, k] * A[j, k]
            A[i, j] = math.sqrt(total) if i == j else total / A[j, j]
        for k in range(i):
            x[i] -= A[i, k] * x[k]
        x[i] /= A[i, i]
    for i in range(N - 1, -1, -1):
        x[i] /= A[i, i]
        for k in range(i):
            x[k] -= A[i, k] * x[i]
    return x


@compiled
def gauss_newton(
    points: np.ndarray,
    ray: np.ndarray,
    vote: np.ndarray,
    bone: np.ndarray,
    clean: np.ndarray,
    weight: np.ndarray,
    level: np.ndarray,
    T: np.ndarray,
    anchor_ct: np.ndarray,
    T_prior: np.ndarray,
    information: np.ndarray,
    gate: np.ndarray,
    vote_weight: np.ndarray,
    sigma: np.ndarray,
    reassign: np.ndarray,
    least: int,
    tissue: float,
    reach: float,
    field: np.ndarray,
    offset: np.ndarray,
    shape: np.ndarray,
    origin: np.ndarray,
    step: float,
) -> tuple[int, bool]:
    """Moves T (L, 4, 4) and level (M,) in place, one step per gate; after `least` steps it ends as
    soon as a step no longer matters. Returns the steps taken, and whether it ended so."""
    L = len(anchor_ct)
    before, untold = np.zeros((L, 6)), np.empty((5, 0))
    for it in range(len(gate)):
        anchor = anchors(anchor_ct, T)
        if reassign[it]:
            level[:] = assign(
                points, ray, vote, T, anchor, reach, gate[it], vote_weight[it], field, offset,
                shape, origin, step,
            )  # fmt: skip
        H, g = linearise(
            points, ray, bone, clean, weight, level, T, anchor, sigma[it], tissue, field, offset,
            shape, origin, step, untold,
        )  # fmt: skip
        deviation = twist_between(T, T_prior, anchor).ravel()
        rhs = -g.ravel()
        for a in range(6 * L):
            for b in range(6 * L):
                rhs[a] -= information[a, b] * deviation[b]
        xi = solve_positive(with_data(information, H), rhs).reshape(L, 6)
        for k in range(L):
            back = 0.0
            for a in range(6):
                back += xi[k, a] * before[k, a] * (1.0 if a < 3 else ARM_M * ARM_M)
            if back < 0.0:  # it overshot: few pixels, or pixels that change their level to and fro
                for a in range(6):
                    xi[k, a] *= 0.5
        shift, turn = 0.0, 0.0
        for k in range(L):
            shift = max(shift, math.sqrt(xi[k, 0] ** 2 + xi[k, 1] ** 2 + xi[k, 2] ** 2))
            turn = max(turn, math.sqrt(xi[k, 3] ** 2 + xi[k, 4] ** 2 + xi[k, 5] ** 2))
        # A step far beyond the gate comes from a bad linearisation, not from the data.
        xi /= max(1.0, shift / 8e-3, turn / 0.15)
        before[:] = xi
        exp_about(xi, anchor, T)
        if it + 1 >= least and shift < SETTLED_M and turn < SETTLED_RAD:
            return it + 1, True
    return len(gate), False
