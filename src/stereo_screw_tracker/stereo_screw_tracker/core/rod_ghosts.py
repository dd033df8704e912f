# SPDX-License-Identifier: Apache-2.0
"""Two rods seen by two eyes can be paired crosswise: the third rod that comes of it is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from spine_nav_common.core.types import RodFit, ScrewTrack

from .rod_fit import FittedRod
from .triangulate import project_pair
from .types import StereoCamera

_SAME_PLACE_MM = 4.0  # as for heads: what covers one place in an image is one thing
_HOLDS_MM = 6.0


def without_ghosts(
    rods: Sequence[FittedRod], screws: Sequence[ScrewTrack], camera: StereoCamera
) -> tuple[list[FittedRod], int]:
    """The rods, less those that lie over a better one in either image; how many were dropped.

    Better is a rod that more screws hold; among equals the one of which more is seen. A ghost of
    crossed eyes lies at another depth, where no screw is.
    """
    heads = np.array([s.head.point_m for s in screws]).reshape(-1, 3)

    def rank(fitted: FittedRod) -> tuple[int, float]:
        line = fitted.rod.centreline_m
        away, _ = cKDTree(line).query(heads) if len(heads) else (np.zeros(0), None)
        step = np.linalg.norm(np.diff(line, axis=0), axis=1)
        return int((1e3 * away < _HOLDS_MM).sum()), float(step[fitted.rod.seen[1:]].sum())

    kept: list[FittedRod] = []
    for fitted in sorted(rods, key=rank, reverse=True):
        if not any(one_place(fitted.rod, other.rod, camera) for other in kept):
            kept.append(fitted)
    return [r for r in rods if any(r is k for k in kept)], len(rods) - len(kept)


def one_place(a: RodFit, b: RodFit, camera: StereoCamera) -> bool:
    """Whether most of a lies over b in the left or in the right image."""
    line = a.centreline_m
    scale_mm = 1e3 * line[:, 2] / camera.intrinsics.fx
    pairs = zip(project_pair(camera, line), project_pair(camera, b.centreline_m), strict=True)
    for own, other in pairs:
        if not (np.isfinite(own).all() and np.isfinite(other).all()):
            continue
        away, _ = cKDTree(other).query(own)
        if float(np.median(away * scale_mm)) < _SAME_PLACE_MM:
            return True
    return False
