# SPDX-License-Identifier: Apache-2.0
"""Compiled code is ready before the first frame needs it."""

from __future__ import annotations

import numpy as np

from spine_nav_common.core.depth_camera import DEPTH_CAMERAS
from spine_nav_common.core.types import Intrinsics

from . import frame_kernels
from .bias import bias_response
from .error import predicted_tre_mm
from .estimator import Noise, Prior, estimate
from .identity import advance as compare
from .identity import begin, make_patches
from .model import SpineModel
from .observation import BonePixels
from .visibility import view_levels

_warm: set[int] = set()


def warm_up(model: SpineModel) -> None:
    """Run every kernel once on arrays of this model's kind; at once when that was done before.

    The first time on a machine this compiles, for some ten seconds; the code is kept on disk, and
    later starts load it in a fraction of a second.
    """
    L = len(model.levels)
    if L in _warm:
        return
    T = np.zeros((L, 4, 4))
    T[:, 3, 3] = 1.0
    # The camera looks at the back of a patient who lies prone.
    T[:, :3, :3] = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]]) @ model.axes.T
    T[:, :3, 3] = np.array([0.0, 0.0, 0.5]) - T[0, :3, :3] @ model.anchor_m.mean(axis=0)
    points = np.concatenate(
        [p[::20] @ P[:3, :3].T + P[:3, 3] for p, P in zip(model.dorsal_m, T, strict=True)]
    ).astype(np.float32)
    ones = np.ones(len(points), np.float32)
    ray = points / np.linalg.norm(points, axis=1, keepdims=True)
    pixels = BonePixels(points, ray, ones, ones, points, 1e-6 * ones, len(points))
    prior = Prior(T, np.eye(6 * L))
    found = estimate(model, pixels, prior, Noise(1e-3, 1e-3, 1e-4), gates_m=(5e-3,), settle=1)
    for asked in ("score", "covariance", "sigma_m", "sample_area_m2", "fits"):
        getattr(found, asked)  # computed when asked
    model.surface(points, T[0], 0)
    view_levels(model, T, np.ones((8, 8), np.float32), Intrinsics(8, 8, 8.0, 8.0, 3.5, 3.5))
    predicted_tre_mm(1e-6 * np.eye(6), found.anchor_camera_m[0], model.plan_points_m[0])
    frame_kernels.vote_gaps(points, found.level_of_pixel, found.anchor_camera_m)
    bias_response(
        model, T, pixels, found.level_of_pixel, found.anchor_camera_m, np.eye(6 * L), 1.0,
        DEPTH_CAMERAS["generic"],
    )  # fmt: skip
    patches = make_patches(model)
    compare(begin(patches), patches, model, T, pixels)
    _warm.add(L)
