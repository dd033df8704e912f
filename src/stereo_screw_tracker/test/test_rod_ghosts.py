# SPDX-License-Identifier: Apache-2.0
"""Rods that come of crossed eyes are dropped; rods that only cross are kept."""

from __future__ import annotations

import numpy as np
from screw_support import CAMERA

from spine_nav_common.core.types import Head3D, RodFit, ScrewTrack
from stereo_screw_tracker.core.rod_fit import FittedRod
from stereo_screw_tracker.core.rod_ghosts import without_ghosts
from stereo_screw_tracker.core.triangulate import project_pair

Y = np.linspace(-0.07, 0.07, 180)


def rod(points: np.ndarray) -> FittedRod:
    n = len(points)
    return FittedRod(RodFit(points, np.full(n, 0.5), np.ones(n, bool)), {})


def upright(x: float, z: float = 0.5) -> np.ndarray:
    return np.column_stack([np.full_like(Y, x), Y, np.full_like(Y, z)])


def crossed(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """What the left eye's `left` and the right eye's `right` make together."""
    k = CAMERA.intrinsics
    u_l, u_r = project_pair(CAMERA, left)[0], project_pair(CAMERA, right)[1]
    z = k.fx * CAMERA.baseline_m / (u_l[:, 0] - u_r[:, 0])
    return np.column_stack([(u_l[:, 0] - k.cx) * z / k.fx, (u_l[:, 1] - k.cy) * z / k.fy, z])


def screws(line: np.ndarray) -> list[ScrewTrack]:
    return [
        ScrewTrack(i, Head3D(p, 1e-6 * np.eye(3), np.array([0.0, 0, -1]), 0.1, 0.9, 0.0), 2.0)
        for i, p in enumerate(line[20::40])
    ]


def test_a_ghost_of_crossed_eyes_is_dropped_and_both_rods_stay() -> None:
    a, b = upright(0.02), upright(-0.02)
    ghost = crossed(a, b)
    assert abs(np.median(ghost[:, 2]) - 0.5) > 0.05
    kept, dropped = without_ghosts([rod(ghost), rod(a), rod(b)], [*screws(a), *screws(b)], CAMERA)
    assert dropped == 1
    assert [r.rod.centreline_m[0, 0] for r in kept] == [0.02, -0.02]


def test_a_rod_held_across_another_is_kept() -> None:
    across = np.column_stack([Y, 0.3 * Y, np.full_like(Y, 0.45)])
    kept, dropped = without_ghosts([rod(upright(0.0)), rod(across)], [], CAMERA)
    assert (len(kept), dropped) == (2, 0)


def test_without_screws_the_rod_that_shows_more_stays() -> None:
    whole = upright(0.0)
    part = rod(whole[:60] + [0.001, 0.0, 0.0])
    kept, dropped = without_ghosts([part, rod(whole)], [], CAMERA)
    assert dropped == 1
    assert len(kept[0].rod.centreline_m) == len(whole)


def test_none_and_one_pass() -> None:
    assert without_ghosts([], [], CAMERA) == ([], 0)
    one = [rod(upright(0.0))]
    assert without_ghosts(one, [], CAMERA) == (one, 0)
