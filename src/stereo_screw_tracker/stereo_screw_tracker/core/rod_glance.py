# SPDX-License-Identifier: Apache-2.0
"""A known rod between two full measurements: is it still there, all of it, and where it should be?

Some places along it and beyond its ends are measured. A rod is rigid, so they tell how it moved, but
not its shape anew. Wherever they do not agree with the rod as it was, the glance says nothing, and
the rod is measured in full in the same pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from spine_nav_common.core.geometry import exp_so3, transform, transform_points
from spine_nav_common.core.types import Head3D, ScrewTrack

from .config import RodConfig
from .rod_fit import FittedRod, side_of
from .rod_saddles import Saddle, pulled
from .rod_walk import Measure, arc_mm, seen_by_both
from .triangulate import pair_jacobians
from .types import RodMeasurements, StereoCamera

_EVERY_MM = 12.0
_WITHIN_MM = (
    4.5  # of the last place that was seen; how far the end itself is seen differs by as much
)
_BEYOND_MM = (6.0, 12.0)
_LEAST_SEEN = 4
_MOST_LOST = 0.25  # share of the places seen before that may be hidden now, but for the ends
_PRIOR_M, _PRIOR_RAD = 1.5e-3, np.radians(1.0)  # 1 sigma against the motion of the heads
_ERROR_PX = 0.3  # 1 sigma of a measured place, beside its own
_ACROSS_MM, _DEPTH_MM = 1.5, 4.0  # a rod that moved by more against the heads is measured anew
_OFF_MM = 0.7  # and one of which a place lies farther beside the rod that it was


def moved_rod(fitted: FittedRod, T: np.ndarray) -> FittedRod:
    """The rod after the rigid motion T (4, 4)."""
    rod, R = fitted.rod, T[:3, :3]
    free = None if rod.free_m is None else transform_points(T, rod.free_m)
    saddles = {
        i: Saddle(transform_points(T, s.point_m), R @ s.tangent, R @ s.covariance_m2 @ R.T)
        for i, s in fitted.saddles.items()
    }
    line = transform_points(T, rod.centreline_m)
    return replace(fitted, rod=replace(rod, centreline_m=line, free_m=free), saddles=saddles)


def glance(
    camera: StereoCamera,
    known: FittedRod,
    measure: Measure,
    screws: Sequence[ScrewTrack],
    config: RodConfig,
) -> FittedRod | None:
    """The known rod where it is now; None where it has to be measured in full.

    Args:
        known: as it was, moved with the heads to where it should be.
        screws: heads shown in this pair.
    """
    line, was_seen = known.rod.centreline_m, known.rod.seen
    s, seen_at = arc_mm(line), np.flatnonzero(was_seen)
    if not len(seen_at):
        return None
    first, last = s[seen_at[0]] + _WITHIN_MM, s[seen_at[-1]] - _WITHIN_MM
    if last - first < config.least_seen_mm:
        return None
    count = max(2, int(np.ceil((last - first) / _EVERY_MM)) + 1)
    at = np.abs(s[:, None] - np.linspace(first, last, count)).argmin(axis=0)
    tangents = np.gradient(line, s, axis=0)
    tangents /= np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-12)
    beyond = 1e-3 * np.array(_BEYOND_MM)[:, None]
    points = np.concatenate(
        [line[at], line[-1] + beyond * tangents[-1], line[0] - beyond * tangents[0]]
    )
    along = np.concatenate(
        [tangents[at], np.tile(tangents[-1], (2, 1)), np.tile(tangents[0], (2, 1))]
    )
    measured = measure(points, along)
    seen = seen_by_both(measured) >= config.presence
    good = was_seen[at] & seen[:count]
    lost = was_seen[at] & ~seen[:count]
    if (
        good.sum() < max(_LEAST_SEEN, (1.0 - _MOST_LOST) * was_seen[at].sum())
        or lost[0]
        or lost[-1]
        or seen[count:].reshape(2, -1).all(axis=1).any()
    ):
        return None
    T = _motion(camera, measured, np.flatnonzero(good))
    if T is None:
        return None
    now = moved_rod(known, T)
    held = _held(now, screws, config)
    if held is None:
        return None
    nearest = np.abs(s[:, None] - s[at]).argmin(axis=1)
    rod = replace(
        now.rod, seen=was_seen & ~lost[nearest], side=side_of(now.rod.centreline_m, screws)
    )
    return replace(now, rod=rod, held=held)


def _motion(camera: StereoCamera, m: RodMeasurements, at: np.ndarray) -> np.ndarray | None:
    """(4, 4) rigid motion that brings the places onto what was measured; None where none does, or
    where it is none that the heads made too."""
    points = m.point_m[at]
    centre = points.mean(axis=0)
    rows, offs, weights, mm = [], [], [], []
    for J, normal, offset, sigma in zip(
        pair_jacobians(camera, points),
        (m.normal_left[at], m.normal_right[at]),
        (m.offset_left_px[at], m.offset_right_px[at]),
        (m.sigma_left_px[at], m.sigma_right_px[at]),
        strict=True,
    ):
        way = np.einsum("ni,nij->nj", normal, J)
        rows.append(np.hstack([way, np.cross(points - centre, way)]))
        offs.append(offset)
        weights.append(1.0 / np.hypot(sigma, _ERROR_PX))
        mm.append(1e3 * points[:, 2] / camera.intrinsics.fx)
    A, b, w = np.concatenate(rows), np.concatenate(offs), np.concatenate(weights)
    prior = np.diag(1.0 / np.repeat([_PRIOR_M, _PRIOR_RAD], 3) ** 2)
    x = np.linalg.solve(A.T @ (w[:, None] ** 2 * A) + prior, A.T @ (w**2 * b))
    if not np.isfinite(x).all():
        return None
    view = centre / np.linalg.norm(centre)
    depth_mm = 1e3 * abs(float(x[:3] @ view))
    across_mm = 1e3 * float(np.linalg.norm(x[:3] - (x[:3] @ view) * view))
    off_mm = np.abs(b - A @ x) * np.concatenate(mm)
    if across_mm > _ACROSS_MM or depth_mm > _DEPTH_MM or off_mm.max() > _OFF_MM:
        return None
    R = exp_so3(x[3:])
    return transform(R, centre + x[:3] - R @ centre)


def _held(
    now: FittedRod, screws: Sequence[ScrewTrack], config: RodConfig
) -> dict[int, Head3D] | None:
    """The heads that held the rod, made more certain; None where one of them left it."""
    shown = {s.track_id: s.head for s in screws}
    tree = cKDTree(now.rod.centreline_m)
    held = {}
    for i, saddle in now.saddles.items():
        if i not in shown:
            return None
        view = shown[i].point_m / np.linalg.norm(shown[i].point_m)
        near = now.rod.centreline_m[tree.query(shown[i].point_m)[1]]
        way = near - shown[i].point_m
        if 1e3 * np.linalg.norm(way - (way @ view) * view) > config.anchor_mm:
            return None
        held[i] = pulled(shown[i], saddle, config)
    return held
