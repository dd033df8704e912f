# SPDX-License-Identifier: Apache-2.0
"""Swapped and unrectified pairs are told from an empty wound by the scene's own texture."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from spine_nav_common.core.types import Intrinsics, Rejected, StereoFrame
from stereo_screw_tracker.core.pair_geometry import check_geometry

CAMERA = Intrinsics(640, 480, 600.0, 600.0, 319.5, 239.5)
BASELINE_M = 0.06


@pytest.fixture(scope="module")
def pair() -> StereoFrame:
    """A slanted plane with texture, 0.45 to 0.55 m away, each camera with noise of its own."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(20, 230, (80, 130), dtype=np.uint8)
    wide = cv2.resize(coarse, (900, 480), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    u, v = np.meshgrid(np.arange(640.0), np.arange(480.0))
    disparity = CAMERA.fx * BASELINE_M / (0.45 + 0.1 * v / 480.0)
    right = cv2.remap(wide, (u + 60).astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR)
    # the left camera sees at u what the right one sees at u - disparity
    left = cv2.remap(
        wide, (u + 60 - disparity).astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR
    )
    left, right = (
        np.clip(i + rng.normal(0, 3, i.shape), 0, 255).astype(np.uint8) for i in (left, right)
    )
    return StereoFrame(0, left, right, CAMERA, BASELINE_M)


def test_a_rectified_pair_passes(pair):
    assert check_geometry(pair) is None


def test_colour_is_read_too(pair):
    colour = replace(pair, left=np.dstack([pair.left] * 3), right=np.dstack([pair.right] * 3))
    assert check_geometry(colour) is None


def test_swapped_images_are_named(pair):
    found = check_geometry(replace(pair, left=pair.right, right=pair.left))
    assert isinstance(found, Rejected) and "swapped" in found.reason


@pytest.mark.parametrize("turn_rad", [0.0, 0.01])
def test_rows_that_differ_are_named(pair, turn_rad):
    c, s = np.cos(turn_rad), np.sin(turn_rad)
    moved = cv2.warpAffine(pair.right, np.array([[c, -s, 0.0], [s, c, 8.0]]), (640, 480))
    found = check_geometry(replace(pair, right=moved))
    assert isinstance(found, Rejected) and "not rectified" in found.reason


def test_images_without_anything_in_common_say_nothing(pair):
    other = np.random.default_rng(9).integers(0, 255, pair.right.shape, dtype=np.uint8)
    assert check_geometry(replace(pair, right=other)) is None


def test_images_without_texture_say_nothing(pair):
    flat = np.full_like(pair.left, 120)
    assert check_geometry(replace(pair, left=flat, right=flat)) is None
