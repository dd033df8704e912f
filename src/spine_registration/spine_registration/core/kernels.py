# SPDX-License-Identifier: Apache-2.0
"""The inner loops over pixels, compiled.

Each has a plain NumPy twin in `test/numpy_twins.py` that tests hold it against. All are
single-threaded, free of the GIL and deterministic; compiled code is cached beside this file (or
where NUMBA_CACHE_DIR says), `warm_up` in `estimator` compiles or loads it before the first frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

OUTLIER_WIDTH_M = 20e-3
MIN_COSINE = 0.05
"""A surface seen under a flatter angle is not seen."""
_SQRT2 = math.sqrt(2.0)
_NORM = 1.0 / math.sqrt(2.0 * math.pi)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # error_model: divisions follow IEEE, without a check of each divisor.
    compile_: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")
    out: Callable[..., Any] = compile_(function)
    return out


@_compiled
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


@_compiled
def density(
    s: float, sigma: float, tissue: float, clean: float, bone: float
) -> tuple[float, float, float, float]:
    """See `likelihood.point_likelihood`: log density, score, curvature, responsibility of bone."""
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
    return math.log(total), -slope / total, curvature, (p_gauss + p_tissue) / total


@_compiled
def densities(
    s: np.ndarray, sigma: np.ndarray, tissue: float, clean: np.ndarray, bone: np.ndarray
) -> np.ndarray:
    """(4, M): what `density` says of each point."""
    out = np.empty((4, len(s)))
    for i in range(len(s)):
        out[0, i], out[1, i], out[2, i], out[3, i] = density(
            s[i], sigma[i], tissue, clean[i], bone[i]
        )
    return out


@_compiled
def probe(
    p0: float,
    p1: float,
    p2: float,
    T: np.ndarray,
    field: np.ndarray,
    base: int,
    shape: np.ndarray,
    origin: np.ndarray,
    step: float,
) -> tuple[float, float, float, float]:
    """Distance of a camera point to a posed level and the unit normal there, camera frame; the
    distance is NaN outside the level's grid."""
    x, y, z = p0 - T[0, 3], p1 - T[1, 3], p2 - T[2, 3]
    u = (T[0, 0] * x + T[1, 0] * y + T[2, 0] * z - origin[0]) / step
    v = (T[0, 1] * x + T[1, 1] * y + T[2, 1] * z - origin[1]) / step
    w = (T[0, 2] * x + T[1, 2] * y + T[2, 2] * z - origin[2]) / step
    fu, fv, fw = np.rint(u), np.rint(v), np.rint(w)
    inside = (0.0 <= fu < shape[0]) and (0.0 <= fv < shape[1]) and (0.0 <= fw < shape[2])
    if not inside:
        return np.nan, 0.0, 0.0, 0.0
    at = base + (int(fu) * shape[1] + int(fv)) * shape[2] + int(fw)
    gu, gv, gw = float(field[at, 1]), float(field[at, 2]), float(field[at, 3])
    s = field[at, 0] + step * ((u - fu) * gu + (v - fv) * gv + (w - fw) * gw)
    scale = 1.0 / max(math.sqrt(gu * gu + gv * gv + gw * gw), 1e-6)
    return (
        s,
        scale * (T[0, 0] * gu + T[0, 1] * gv + T[0, 2] * gw),
        scale * (T[1, 0] * gu + T[1, 1] * gv + T[1, 2] * gw),
        scale * (T[2, 0] * gu + T[2, 1] * gv + T[2, 2] * gw),
    )


@_compiled
def surface(
    points: np.ndarray,
    T: np.ndarray,
    field: np.ndarray,
    base: int,
    shape: np.ndarray,
    origin: np.ndarray,
    step: float,
) -> tuple[np.ndarray, np.ndarray]:
    """See `SpineModel.surface`."""
    distance = np.empty(len(points), np.float32)
    normal = np.empty((len(points), 3), np.float32)
    for i in range(len(points)):
        p = points[i]
        s, n0, n1, n2 = probe(p[0], p[1], p[2], T, field, base, shape, origin, step)
        distance[i] = s
        normal[i, 0], normal[i, 1], normal[i, 2] = n0, n1, n2
    return distance, normal


@_compiled
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
        p, r = points[i], ray[i]
        best = np.inf
        for k in range(len(anchor)):
            x, y, z = p[0] - anchor[k, 0], p[1] - anchor[k, 1], p[2] - anchor[k, 2]
            if x * x + y * y + z * z >= reach * reach:
                continue
            s, n0, n1, n2 = probe(
                p[0], p[1], p[2], T[k], field, offset[k], shape[k], origin[k], step
            )
            cost = abs(s)
            # The first comparison is false for NaN.
            if not cost < gate or cost >= best or n0 * r[0] + n1 * r[1] + n2 * r[2] >= 0.25:
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


@_compiled
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

    Fills pixel (5, M): distance, standard deviation along the normal, log density, responsibility
    of bone, and 1 where the surface is seen. What is not seen has distance 0 and the density of
    an outlier, as have pixels without a level.
    """
    L = len(anchor)
    H, g = np.zeros((L, 6, 6)), np.zeros((L, 6))
    J = np.empty(6)
    for i in range(len(points)):
        k = level[i]
        pixel[0, i] = pixel[3, i] = pixel[4, i] = 0.0
        pixel[1, i] = sigma
        pixel[2, i] = math.log((1.0 - min(max(bone[i], 0.05), 0.97)) / OUTLIER_WIDTH_M)
        if k < 0:
            continue
        p = points[i]
        s, n0, n1, n2 = probe(p[0], p[1], p[2], T[k], field, offset[k], shape[k], origin[k], step)
        cosine = -(n0 * ray[i, 0] + n1 * ray[i, 1] + n2 * ray[i, 2])
        if math.isnan(s) or cosine <= MIN_COSINE:
            continue
        # Stereo depth on a slope is worse than its frontal noise seen along the normal.
        own = sigma * (2.5 - 1.5 * min(cosine, 1.0))
        log_density, score, curvature, is_bone = density(s, own, tissue, clean[i], bone[i])
        pixel[0, i], pixel[1, i], pixel[2, i] = s, own, log_density
        pixel[3, i], pixel[4, i] = is_bone, 1.0
        x, y, z = p[0] - anchor[k, 0], p[1] - anchor[k, 1], p[2] - anchor[k, 2]
        J[0], J[1], J[2] = n0, n1, n2
        J[3], J[4], J[5] = y * n2 - z * n1, z * n0 - x * n2, x * n1 - y * n0
        pull, stiff = weight[i] * score, weight[i] * curvature
        # d s / d xi = -J: the sign cancels in H.
        for a in range(6):
            g[k, a] -= pull * J[a]
            for b in range(a + 1):
                H[k, a, b] += stiff * J[a] * J[b]
    for k in range(L):
        for a in range(6):
            for b in range(a):
                H[k, b, a] = H[k, a, b]
    return H, g


@_compiled
def mean_shifts(twists: np.ndarray, arms: np.ndarray) -> np.ndarray:
    """(N,) mean distance by which twists (N, 6), translation first, move points at arms (K, 3)."""
    out = np.empty(len(twists))
    for n in range(len(twists)):
        x, y, z, a, b, c = twists[n]
        total = 0.0
        for k in range(len(arms)):
            u = x + b * arms[k, 2] - c * arms[k, 1]
            v = y + c * arms[k, 0] - a * arms[k, 2]
            w = z + a * arms[k, 1] - b * arms[k, 0]
            total += np.sqrt(u * u + v * v + w * w)
        out[n] = total / len(arms)
    return out
