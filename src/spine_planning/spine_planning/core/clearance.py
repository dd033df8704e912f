# SPDX-License-Identifier: Apache-2.0
"""How far a tip may go along a line before k sigma of the pose's error could bring a wall to it.

Beside the shaft the whole ellipse of k sigma across the axis must lie in the bone, a drill's radius off
every wall; before the tip the front half of the ellipsoid. Each is looked at in places all round, pushed
out so that their hull holds the ellipse.

Lengths in metres, coordinates of the mesh; covariances (6, 6) as in `safety.Belief`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rod_bending_ar.core.cortex import BEFORE_M, BEHIND_M, CAP_M, VOXEL_M, Cortex, from_tangents
from spine_nav_common.core.compiled import compiled
from spine_nav_common.core.types import Rejected

STEP_M = 0.5e-3
WALK_M = 1.5e-3
_AROUND = 8
_HULL = 1.0 / np.cos(np.pi / _AROUND)
_SURE_M = 0.4e-3  # of the grid of distances; what is nearer a wall is asked of the surface itself
_LEAST_SIGMA_M = 1e-6  # no pose is known better: a direction without error is none that is known


@dataclass(frozen=True)
class Reach:
    """end_m: the tip may go so far past `start`. margin_m: nominal, from the drill to the wall, needed_m:
    what the error asks for, both at the first place that is not safe, or where least is left."""

    end_m: float
    margin_m: float
    needed_m: float

    @property
    def slack_m(self) -> float:
        """What is left beside the error."""
        return self.margin_m - self.needed_m


def spreads(points: np.ndarray, covariance: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """(N, 3, 3) covariances of points (N, 3)."""
    x, y, z = (points - anchor).T
    moves = np.zeros((len(points), 3, 6))  # a point moves by d + w x arm
    moves[:, [0, 1, 2], [0, 1, 2]] = 1.0
    moves[:, 0, 4], moves[:, 0, 5] = z, -y
    moves[:, 1, 3], moves[:, 1, 5] = -z, x
    moves[:, 2, 3], moves[:, 2, 4] = y, -x
    return np.asarray(moves @ covariance @ moves.transpose(0, 2, 1))


def across_of(way: np.ndarray) -> np.ndarray:
    """(2, 3) unit vectors square to a unit vector (3,) and each other."""
    u = np.cross(way, np.eye(3)[int(np.abs(way).argmin())])
    u /= np.linalg.norm(u)
    return np.stack([u, np.cross(way, u)])


def reach(
    cortex: Cortex,
    covariance: np.ndarray,
    anchor: np.ndarray,
    start: np.ndarray,
    way: np.ndarray,
    depth: float,
    length: float,
    radius: float,
    sigmas: float,
) -> Reach | Rejected:
    """From `depth` past start (3,) on, `length` at most, by exact distances.

    Rejected: the axis does not enter the bone near start, or the shaft would begin past its end.
    """
    s = np.append(np.arange(-BEFORE_M, length - radius, STEP_M), length - radius)
    points = start + s[:, None] * way
    phi = cortex.exact_m(points).astype(float)
    into = (phi[:-1] >= 0.0) & (phi[1:] < 0.0) & (s[1:] <= BEHIND_M)
    if not into.any():
        return Rejected("its axis does not enter the bone near the planned entry")
    asked = s >= min(max(s[int(into.argmax())] + CAP_M, depth - radius), s[-1])
    if s[int(into.argmax())] + CAP_M > s[-1]:
        return Rejected("it ends where its shaft would begin")
    points, phi, s = points[asked], phi[asked], s[asked]
    out = points[:, None] + sigmas * _HULL * _round(points, way, covariance, anchor)
    wall = cortex.near_m(out)
    unsure = wall > -radius - _SURE_M
    wall[unsure] = cortex.exact_m(out[unsure])
    margin, slack = -(phi + radius), -(np.maximum(wall.max(axis=1), phi) + radius)
    bad = np.flatnonzero(slack < 0.0)
    if len(bad) == 0:
        k, end = int(slack.argmin()), length
    else:
        k = int(bad[0])
        end = float(s[k - 1]) + radius if k else depth
    return Reach(max(end, depth), float(margin[k]), float(margin[k] - slack[k]))


def _round(
    points: np.ndarray, way: np.ndarray, covariance: np.ndarray, anchor: np.ndarray
) -> np.ndarray:
    """(N, M, 3) offsets of one sigma: around the shaft, and before the tip."""
    frame = np.concatenate([way[None], across_of(way)])
    local = frame @ spreads(points, covariance, anchor) @ frame.T
    local += _LEAST_SIGMA_M**2 * np.eye(3)
    turn = 2.0 * np.pi * np.arange(_AROUND) / _AROUND
    ring = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    beside = ring @ np.linalg.cholesky(local[:, 1:, 1:]).transpose(0, 2, 1)
    half = np.concatenate([[[1.0, 0.0, 0.0]], np.sqrt(0.5) * np.insert(ring, 0, 1.0, axis=1)])
    before = half @ np.linalg.cholesky(local).transpose(0, 2, 1)
    return np.concatenate([beside @ frame[1:], before @ frame], axis=1)


def walked(
    cortex: Cortex,
    covariance: np.ndarray,
    anchor: np.ndarray,
    starts: np.ndarray,
    ways: np.ndarray,
    depth: float,
    length: float,
    radius: float,
    sigmas: float,
    enough: float,
) -> np.ndarray:
    """(N, 2) about the same for many lines (N, 3) on the grid of distances: end, and the least slack up
    to there, `enough` at most; -inf where the axis does not enter the bone."""
    field, low = cortex.grid
    return np.asarray(_walk(
        starts, ways, depth, length, radius, sigmas, enough, field, low, VOXEL_M, covariance, anchor
    ))  # fmt: skip


@compiled
def _walk(
    starts: np.ndarray,
    ways: np.ndarray,
    depth: float,
    length: float,
    radius: float,
    sigmas: float,
    enough: float,
    field: np.ndarray,
    low: np.ndarray,
    voxel: float,
    covariance: np.ndarray,
    anchor: np.ndarray,
) -> np.ndarray:
    count = int(np.ceil((length - radius + BEFORE_M) / WALK_M)) + 1
    s = np.linspace(-BEFORE_M, length - radius, count)
    out = np.full((len(starts), 2), -np.inf)
    points, around = np.empty((count, 3)), np.empty((_AROUND + 1, 3))
    frame, h, form = np.empty((3, 3)), np.empty((3, 6)), np.empty((3, 3))
    for i in range(len(starts)):
        way = ways[i]
        for j in range(count):
            for k in range(3):
                points[j, k] = starts[i, k] + s[j] * way[k]
        phi = from_tangents(points, field, low, voxel)
        first = np.inf
        for j in range(count - 1):
            if s[j + 1] > BEHIND_M:
                break
            if phi[j] >= 0.0 and phi[j + 1] < 0.0:
                first = s[j] + (s[j + 1] - s[j]) * phi[j] / (phi[j] - phi[j + 1]) + CAP_M
                break
        if first == np.inf:
            continue
        helper = np.zeros(3)
        helper[int(np.abs(way).argmin())] = 1.0
        frame[2] = way
        frame[0] = np.cross(way, helper)
        frame[0] /= np.sqrt((frame[0] ** 2).sum())
        frame[1] = np.cross(way, frame[0])
        end, least = length, enough
        for j in range(count):
            if s[j] < min(max(first, depth - radius), s[count - 1]):
                continue
            x, y, z = points[j, 0] - anchor[0], points[j, 1] - anchor[1], points[j, 2] - anchor[2]
            for k in range(3):
                u, v, w = frame[k, 0], frame[k, 1], frame[k, 2]
                h[k, 0], h[k, 1], h[k, 2] = u, v, w
                h[k, 3], h[k, 4], h[k, 5] = y * w - z * v, z * u - x * w, x * v - y * u
            for k in range(3):
                for m in range(k + 1):
                    total = 0.0
                    for a in range(6):
                        for b in range(6):
                            total += h[k, a] * covariance[a, b] * h[m, b]
                    form[k, m] = total
            # Distances grow no faster than one goes: where the widest error is far off, no more is asked.
            widest = sigmas * _HULL * np.sqrt(form[0, 0] + form[1, 1] + form[2, 2])
            slack = -(phi[j] + radius) - widest
            if slack < enough:
                a = np.sqrt(max(form[0, 0], _LEAST_SIGMA_M**2))
                b = form[1, 0] / a
                c = np.sqrt(max(form[1, 1] - b * b, _LEAST_SIGMA_M**2))
                for n in range(_AROUND + 1):
                    turn = 2.0 * np.pi * n / _AROUND
                    p, q, r = np.cos(turn), np.sin(turn), 0.0
                    if n == _AROUND:
                        p, q, r = 0.0, 0.0, np.sqrt(form[2, 2])
                    for k in range(3):
                        off = a * p * frame[0, k] + (b * p + c * q) * frame[1, k] + r * way[k]
                        around[n, k] = points[j, k] + sigmas * _HULL * off
                slack = -(max(from_tangents(around, field, low, voxel).max(), phi[j]) + radius)
            least = min(least, slack)
            if slack < 0.0:
                end = max(s[j - 1] + radius, depth)
                break
        out[i, 0], out[i, 1] = end, least
    return out
