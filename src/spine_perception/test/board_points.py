# SPDX-License-Identifier: Apache-2.0
"""Corners of a board before a known lens, without images."""

from __future__ import annotations

import cv2
import numpy as np

from spine_perception.core.boards import BoardView, board_spec
from spine_perception.core.calibrate_stereo import NamedPair, Rig
from spine_perception.core.lens import KINDS, Lens, NamedView

SIZE = (640, 480)
BOARD = "chessboard:9x6:25"
CORNERS_M = board_spec(BOARD).corners_m
K = np.array([[532.0, 0.0, 331.0], [0.0, 534.0, 236.0], [0.0, 0.0, 1.0]])
LENSES = {
    "plumb_bob": Lens(KINDS[1], *SIZE, K, np.array([-0.29, 0.1, 1e-3, -5e-4, 0.0])),
    "rational": Lens(KINDS[2], *SIZE, K, np.array([0.4, 0.9, 0.0, 0.0, 0.1, 0.9, 1.1, 0.3])),
    "fisheye": Lens(KINDS[3], *SIZE, 0.6 * K + np.diag([0.0, 0.0, 0.4])
                    + np.array([[0.0, 0.0, 132.0], [0.0, 0.0, 94.0], [0.0, 0.0, 0.0]]),
                    np.array([0.05, -0.02, 0.01, -0.003])),
}  # fmt: skip


def rig(baseline_m=0.06):
    """Two plumb_bob cameras, a little turned to each other."""
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(np.array([0.004, -0.01, 0.006]))[0]
    T[:3, 3] = -T[:3, :3] @ [baseline_m, 1e-4, -2e-4]
    one = LENSES["plumb_bob"]
    other = Lens(one.kind, *SIZE, one.K + np.array([[3.0, 0, -4], [0, 3, 5], [0, 0, 0]]), one.D)
    return Rig(one, other, T)


def poses(count, rng, near=0.3, far=0.6, tilt_deg=35.0):
    """Vectors (6,) of boards anywhere before the camera; most lie in its image."""
    middle = CORNERS_M.mean(axis=0)
    for number in range(count):
        z = near + (far - near) * ((0.382 * number) % 1.0)
        r = np.radians(rng.uniform(-tilt_deg, tilt_deg, 3))
        t = np.array([rng.uniform(-0.35, 0.35) * z, rng.uniform(-0.25, 0.25) * z, z])
        yield np.concatenate([r, t - cv2.Rodrigues(r)[0] @ middle])


def inside(px):
    return bool((px > 2).all() and (px < np.array(SIZE) - 3).all())


def views(lens, count, noise_px=0.1, seed=0, **how):
    rng = np.random.default_rng(seed)
    found = []
    for vector in poses(50 * count, rng, **how):
        px = lens.project(CORNERS_M, vector)
        if inside(px):
            px = px + rng.normal(0.0, noise_px, px.shape)
            found.append(NamedView(f"{len(found):02d}.png", BoardView(px, CORNERS_M)))
        if len(found) == count:
            return found
    raise AssertionError("too few of the poses show the board")


def pairs(of, count, noise_px=0.1, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for vector in poses(80 * count, rng):
        px = [of.left.project(CORNERS_M, vector), of.right.project(CORNERS_M, of.moved(vector))]
        if all(inside(p) for p in px):
            name = f"{len(found):02d}.png"
            eyes = [
                NamedView(name, BoardView(p + rng.normal(0.0, noise_px, p.shape), CORNERS_M))
                for p in px
            ]
            found.append(NamedPair(name, *eyes))
        if len(found) == count:
            return found
    raise AssertionError("too few of the poses show the board")
