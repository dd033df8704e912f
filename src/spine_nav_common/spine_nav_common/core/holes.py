# SPDX-License-Identifier: Apache-2.0
"""Closes the small holes that a segmentation leaves in a vertebra's surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import pdist

from .types import Rejected

# A flat cover over a hole 6 mm wide (30 mm^2) lies 0.6 mm off bone that curves with a radius of
# 8 mm, as much as segmentation itself errs. Wider, longer or more, and the bone would be invented.
MOST_EXTENT_MM = 10.0
MOST_AREA_MM2 = 30.0
MOST_SHARE = 0.02  # of the whole surface


@dataclass(frozen=True)
class Closed:
    """A surface whose holes were closed. extents_mm, areas_mm2: one per hole, largest extent of
    its rim and area of its cover."""

    vertices_m: np.ndarray
    faces: np.ndarray
    extents_mm: tuple[float, ...]
    areas_mm2: tuple[float, ...]

    def text(self) -> str:
        """How many and how large, for the user."""
        n = len(self.extents_mm)
        holes = "one small hole was" if n == 1 else f"{n} small holes were"
        return (
            f"{holes} closed with flat covers, the largest {max(self.extents_mm):.1f} mm across,"
            f" {sum(self.areas_mm2):.0f} mm^2 together; check the segmentation there"
        )


def close_holes(vertices_m: np.ndarray, faces: np.ndarray) -> Closed | Rejected:
    """Cover every hole of an oriented surface with a fan of triangles.

    Args:
        vertices_m: (N, 3). faces: (M, 3), neighbours running opposite ways along shared edges.

    Returns:
        The closed surface, or Rejected where a hole is too large, or the open edges form no simple
        rims (triangles that overlap or are turned).
    """
    rims = _rims(faces)
    if isinstance(rims, Rejected):
        return rims
    total_mm2 = 1e6 * float(_areas(vertices_m, faces).sum())
    covers, centres, extents, areas = [faces], [vertices_m], [], []
    new = len(vertices_m)
    for rim in rims:
        points = vertices_m[rim]
        extent_mm = 1e3 * float(np.ptp(points, axis=0).max())
        if extent_mm <= MOST_EXTENT_MM:  # few corners then: every pair can be measured
            extent_mm = 1e3 * float(pdist(points).max())
        if len(rim) == 3:
            fan, centre = rim[None], np.empty((0, 3))
        else:
            fan = np.stack([rim, np.roll(rim, -1), np.full(len(rim), new)], axis=1)
            centre = points.mean(axis=0)[None]
        area_mm2 = 1e6 * float(_areas(np.concatenate([*centres, centre]), fan).sum())
        if extent_mm > MOST_EXTENT_MM or area_mm2 > MOST_AREA_MM2:
            return Rejected(
                f"a hole is {extent_mm:.0f} mm across, {area_mm2:.0f} mm^2; up to"
                f" {MOST_EXTENT_MM:.0f} mm and {MOST_AREA_MM2:.0f} mm^2 are closed here"
            )
        covers.append(fan)
        centres.append(centre)
        extents.append(extent_mm)
        areas.append(area_mm2)
        new += len(centre)
    if sum(areas) > MOST_SHARE * total_mm2:
        return Rejected(
            f"{len(areas)} holes make up {100 * sum(areas) / total_mm2:.1f} % of the surface; up to"
            f" {100 * MOST_SHARE:.0f} % are closed here"
        )
    return Closed(np.concatenate(centres), np.concatenate(covers), tuple(extents), tuple(areas))


def _areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return np.asarray(0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1))


def _rims(faces: np.ndarray) -> list[np.ndarray] | Rejected:
    """Closed loops of vertices in the direction in which a cover's triangles must run."""
    n = int(faces.max()) + 1
    tail, head = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    forth, count = np.unique(tail * n + head, return_counts=True)
    if (count > 1).any():
        return Rejected("triangles overlap or neighbours run the same way")
    open_edges = forth[~np.isin(forth, head * n + tail)]
    # a cover runs each open edge the other way; rims may touch at a corner
    following: dict[int, list[int]] = {}
    for start, end in zip((open_edges % n).tolist(), (open_edges // n).tolist(), strict=True):
        following.setdefault(start, []).append(end)
    rims: list[np.ndarray] = []
    while following:
        path = [next(iter(following))]
        while path:
            ends = following.get(path[-1])
            if not ends:
                return Rejected("the rim of a hole does not close")
            corner = ends.pop()
            if not ends:
                del following[path[-1]]
            if corner not in path:
                path.append(corner)
                continue
            first = path.index(corner)
            rim = path[first:]
            if len(rim) < 3:
                return Rejected("the rim of a hole has fewer than three corners")
            rims.append(np.array(rim))
            path = path[: first + 1] if first else []
    return rims
