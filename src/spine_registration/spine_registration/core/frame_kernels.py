# SPDX-License-Identifier: Apache-2.0
"""The loops that judge a frame once its poses are there, compiled; as `kernels`, with twins."""

from __future__ import annotations

import math

import numpy as np

from spine_nav_common.core.compiled import compiled

from .kernels import probe


@compiled
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


@compiled
def view_share(
    points: np.ndarray,
    normals: np.ndarray,
    T: np.ndarray,
    depth: np.ndarray,
    fx: float,
    fy: float,
    cx: float,
    cy: float,
    cell_px: int,
    self_occlusion: float,
    near: float,
    stride: int,
) -> np.ndarray:
    """(L, 4): shares of `visibility.LevelView`."""
    L, N = points.shape[0], (points.shape[1] + stride - 1) // stride
    height, width = depth.shape
    cols = width // cell_px + 1
    front = np.full((height // cell_px + 1) * cols, np.inf)
    z = np.empty((L, N))
    cell = np.full((L, N), -1, np.int64)
    pixel = np.empty((L, N), np.int64)
    facing = np.zeros((L, N), np.bool_)
    out = np.zeros((L, 4))
    for k in range(L):
        for i in range(N):
            p, n = points[k, i * stride], normals[k, i * stride]
            x = T[k, 0, 0] * p[0] + T[k, 0, 1] * p[1] + T[k, 0, 2] * p[2] + T[k, 0, 3]
            y = T[k, 1, 0] * p[0] + T[k, 1, 1] * p[1] + T[k, 1, 2] * p[2] + T[k, 1, 3]
            w = T[k, 2, 0] * p[0] + T[k, 2, 1] * p[1] + T[k, 2, 2] * p[2] + T[k, 2, 3]
            if w <= 0.05:
                continue
            u, v = np.rint(x / w * fx + cx), np.rint(y / w * fy + cy)
            if not (0.0 <= u < width and 0.0 <= v < height):
                continue
            out[k, 0] += 1.0
            toward = (
                x * (T[k, 0, 0] * n[0] + T[k, 0, 1] * n[1] + T[k, 0, 2] * n[2])
                + y * (T[k, 1, 0] * n[0] + T[k, 1, 1] * n[1] + T[k, 1, 2] * n[2])
                + w * (T[k, 2, 0] * n[0] + T[k, 2, 1] * n[1] + T[k, 2, 2] * n[2])
            )
            facing[k, i] = toward < -0.2 * math.sqrt(x * x + y * y + w * w)
            z[k, i] = w
            cell[k, i] = (int(v) // cell_px) * cols + int(u) // cell_px
            pixel[k, i] = int(v) * width + int(u)
            front[cell[k, i]] = min(front[cell[k, i]], w)
    for k in range(L):
        seen = 0
        for i in range(N):
            if cell[k, i] < 0 or not facing[k, i]:
                continue
            if z[k, i] >= front[cell[k, i]] + self_occlusion:
                continue
            seen += 1
            gap = depth[pixel[k, i] // width, pixel[k, i] % width] - z[k, i]
            # All three are false where there is no depth.
            out[k, 1] += abs(gap) < near
            out[k, 2] += gap <= -near
            out[k, 3] += gap >= near
        out[k, 0] /= N
        out[k, 1:] /= max(seen, 1)
    return out


@compiled
def sort_into_patches(
    points: np.ndarray,
    ray: np.ndarray,
    vote: np.ndarray,
    bone: np.ndarray,
    clean: np.ndarray,
    area: np.ndarray,
    level: np.ndarray,
    T: np.ndarray,
    anchor: np.ndarray,
    slot: np.ndarray,
    centre: np.ndarray,
    reach: float,
    limit: float,
    vote_reach: float,
    field: np.ndarray,
    offset: np.ndarray,
    shape: np.ndarray,
    origin: np.ndarray,
    step: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Weight and weighted sum of the signed distances per patch, (K, P) each; see `identity.add`.

    slot (L,): index of a level in `centre` (K, P, 3), -1 for levels that are not compared.
    """
    K, P = centre.shape[0], centre.shape[1]
    weight, moment = np.zeros((K, P)), np.zeros((K, P))
    for i in range(len(points)):
        k = level[i]
        if k < 0 or slot[k] < 0:
            continue
        x, y, z = vote[i, 0] - anchor[k, 0], vote[i, 1] - anchor[k, 1], vote[i, 2] - anchor[k, 2]
        if x * x + y * y + z * z > vote_reach * vote_reach:  # false where there is no vote
            continue
        p = points[i]
        s, n0, n1, n2 = probe(p[0], p[1], p[2], T, k, field, offset, shape, origin, step)
        cosine = -(n0 * ray[i, 0] + n1 * ray[i, 1] + n2 * ray[i, 2])
        if not abs(s) < limit or cosine <= 0.3:
            continue
        x, y, z = p[0] - T[k, 0, 3], p[1] - T[k, 1, 3], p[2] - T[k, 2, 3]
        u = T[k, 0, 0] * x + T[k, 1, 0] * y + T[k, 2, 0] * z
        v = T[k, 0, 1] * x + T[k, 1, 1] * y + T[k, 2, 1] * z
        w = T[k, 0, 2] * x + T[k, 1, 2] * y + T[k, 2, 2] * z
        c = centre[slot[k]]
        best, nearest = reach * reach, -1
        for j in range(P):
            far = (c[j, 0] - u) ** 2 + (c[j, 1] - v) ** 2 + (c[j, 2] - w) ** 2
            if far < best:
                best, nearest = far, j
        if nearest < 0:
            continue
        trust = bone[i] * (0.05 + clean[i]) * area[i]
        weight[slot[k], nearest] += trust
        moment[slot[k], nearest] += trust * s
    return weight, moment


@compiled
def sensor_noise(distance: np.ndarray, sigma: np.ndarray, deepest: float) -> tuple[int, float]:
    """Points inside the bone down to `deepest`, and the median of their |distance| / sigma."""
    ratio, n = np.empty(len(distance)), 0
    for i in range(len(distance)):
        if -deepest < distance[i] < 0.0:
            ratio[n] = -distance[i] / sigma[i]
            n += 1
    return n, np.median(ratio[:n]) if n else 0.0


@compiled
def block_correlation(
    points: np.ndarray,
    area: np.ndarray,
    level: np.ndarray,
    distance: np.ndarray,
    sigma: np.ndarray,
    seen: np.ndarray,
    block: float,
) -> tuple[int, float, float]:
    """Residuals that count, their correlation within blocks of a level's image plane (NaN where
    nothing can be said), and the median area of a pixel; see `estimator._sample_area`."""
    M = len(level)
    r, at = np.empty(M), np.empty((M, 3), np.int64)
    n = 0
    for i in range(M):
        if level[i] < 0 or seen[i] <= 0.0:
            continue
        ratio = distance[i] / sigma[i]
        if not -4.0 < ratio < 2.0:
            continue
        r[n] = ratio
        at[n, 0] = level[i]
        at[n, 1] = math.floor(points[i, 0] / block)
        at[n, 2] = math.floor(points[i, 1] / block)
        n += 1
    usual = np.median(area)
    if n < 2:
        return n, np.nan, usual
    r, at = r[:n], at[:n]
    r -= r.mean()
    variance = (r * r).mean()
    low1, low2 = at[:, 1].min(), at[:, 2].min()
    wide1, wide2 = at[:, 1].max() - low1 + 1, at[:, 2].max() - low2 + 1
    count = np.zeros((at[:, 0].max() + 1) * wide1 * wide2)
    total = np.zeros(len(count))
    for i in range(n):
        key = (at[i, 0] * wide1 + at[i, 1] - low1) * wide2 + at[i, 2] - low2
        count[key] += 1.0
        total[key] += r[i]
    pairs = (count * (count - 1.0)).sum()
    if pairs <= 0.0 or variance <= 0.0:
        return n, np.nan, usual
    return n, ((total * total).sum() - n * variance) / (pairs * variance), usual


@compiled
def vote_gaps(vote: np.ndarray, level: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """(L,) median distance of the centre votes of a level's pixels from its anchor; 0 without any."""
    out = np.zeros(len(anchor))
    gap = np.empty(len(level))
    for k in range(len(anchor)):
        n = 0
        for i in range(len(level)):
            if level[i] != k:
                continue
            x, y, z = (
                vote[i, 0] - anchor[k, 0],
                vote[i, 1] - anchor[k, 1],
                vote[i, 2] - anchor[k, 2],
            )
            far = math.sqrt(x * x + y * y + z * z)
            if math.isfinite(far):
                gap[n] = far
                n += 1
        if n:
            out[k] = np.median(gap[:n])
    return out


@compiled
def bias_equations(
    points: np.ndarray,
    weight: np.ndarray,
    level: np.ndarray,
    T: np.ndarray,
    anchor: np.ndarray,
    centre: np.ndarray,
    width: float,
    limit: float,
    field: np.ndarray,
    offset: np.ndarray,
    shape: np.ndarray,
    origin: np.ndarray,
    step: float,
) -> tuple[np.ndarray, np.ndarray]:
    """H (L, 6, 6) of the pixels within `limit` of their level, and what relative depth errors do to
    it, (6L, 1 + C): of one that is the same everywhere, and of Gaussians about `centre` (C, 2)."""
    L, C = len(anchor), len(centre)
    H, drive = np.zeros((L, 6, 6)), np.zeros((6 * L, 1 + C))
    J = np.empty(6)
    shape_at = np.empty(1 + C)
    shape_at[0] = 1.0
    for i in range(len(points)):
        k = level[i]
        if k < 0:
            continue
        p0, p1, p2 = float(points[i, 0]), float(points[i, 1]), float(points[i, 2])
        s, n0, n1, n2 = probe(p0, p1, p2, T, k, field, offset, shape, origin, step)
        if not abs(s) < limit:  # or NaN
            continue
        x, y, z = p0 - anchor[k, 0], p1 - anchor[k, 1], p2 - anchor[k, 2]
        J[0], J[1], J[2] = n0, n1, n2
        J[3], J[4], J[5] = y * n2 - z * n1, z * n0 - x * n2, x * n1 - y * n0
        # A relative depth error moves the point along its line of sight.
        moved = weight[i] * (n0 * p0 + n1 * p1 + n2 * p2)
        u, v = p0 / p2, p1 / p2
        for c in range(C):
            square = (centre[c, 0] - u) ** 2 + (centre[c, 1] - v) ** 2
            shape_at[1 + c] = math.exp(-0.5 * square / (width * width))
        for a in range(6):
            for b in range(6):
                H[k, a, b] += weight[i] * J[a] * J[b]
            push = moved * J[a]
            for c in range(1 + C):
                drive[6 * k + a, c] += push * shape_at[c]
    return H, drive
