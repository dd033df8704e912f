# SPDX-License-Identifier: Apache-2.0
"""A rod that is known speaks for heads along it: what is doubted there is mostly a head it hides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from .confidence import logit
from .triangulate import project_pair
from .types import HeadObservation, StereoCamera

_REACH_MM = 3.0  # across the rod, in both images


def supported(
    observations: Sequence[HeadObservation],
    rods_m: Sequence[np.ndarray],
    camera: StereoCamera,
    log_odds: float,
) -> list[HeadObservation]:
    """The observations, those that a rod passes in both images with so much more log odds.

    Args:
        rods_m: centrelines (N, 3) of now, points about a millimetre apart.
    """
    trees = [
        [cKDTree(px) for px in project_pair(camera, rod)] for rod in rods_m if (rod[:, 2] > 0).all()
    ]
    out = []
    for o in observations:
        disparity = max(float(o.left_px[0] - o.right_px[0]), 1e-3)
        reach_px = 1e-3 * _REACH_MM * disparity / camera.baseline_m  # f / z = disparity / baseline
        places = (o.left_px, o.right_px)
        if all(np.isfinite(p).all() for p in places) and any(
            all(t.query(p)[0] <= reach_px for t, p in zip(eyes, places, strict=True))
            for eyes in trees
        ):
            odds = float(logit(o.confidence)) + log_odds
            o = replace(o, confidence=float(1.0 / (1.0 + np.exp(-odds))))
        out.append(o)
    return out
