# SPDX-License-Identifier: Apache-2.0
"""An eye that is out of focus is named; light, grain and what only one eye sees are no blur."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from screw_support import CAMERA, World
from test_stereo_tracker import shown, tracker
from texture_support import SIZE, pair, texture

from spine_nav_common.core.types import StereoFrame
from spine_nav_sim.core.stereo_faults import darker, defocused
from stereo_screw_tracker.core.focus import LOOK_NS, FocusWatch, sharpness


def wound() -> np.ndarray:
    """(SIZE, SIZE) uint8 with sharp edges and soft ones, as tissue and metal have."""
    fine = np.random.default_rng(9).random((SIZE // 6, SIZE // 6)) < 0.12
    edges = np.kron(fine, np.ones((6, 6)))[:SIZE, :SIZE]
    return np.clip(0.7 * texture(1) + 90.0 * edges, 0, 255).astype(np.uint8)


def pairs(count: int = 4) -> list[StereoFrame]:
    return [pair(np.eye(4), wound=wound(), stamp=(k + 1) * LOOK_NS) for k in range(count)]


def swapped(frames: list[StereoFrame]) -> list[StereoFrame]:
    return [replace(f, left=f.right, right=f.left) for f in frames]


def said(frames: list[StereoFrame]) -> list[str | None]:
    watch = FocusWatch()
    return [watch.look(f) for f in frames]


@pytest.mark.parametrize("sigma_px", [3.0, 8.0])
def test_a_blurred_eye_is_named_with_the_remedy(sigma_px: float) -> None:
    for name, frames in (
        ("right", defocused(sigma_px)(pairs())),
        ("left", swapped(defocused(sigma_px)(pairs()))),
    ):
        told = said(frames)
        assert told[0] is None  # one look may be an accident
        assert all(t is not None and f"the {name} image is less sharp" in t for t in told[1:])
        assert "clean and dry" in str(told[-1])


def test_exposure_and_grain_are_no_blur_and_it_is_over_when_the_lens_is_clean() -> None:
    rng = np.random.default_rng(2)
    noisy = [
        replace(
            f, right=np.clip(f.right + rng.normal(0, 4, f.right.shape), 0, 255).astype(np.uint8)
        )
        for f in pairs()
    ]
    for frames in (pairs(), darker(1.0)(pairs()), darker(-1.0)(pairs()), noisy):
        assert said(frames) == [None] * 4
    frames = [*defocused(4.0)(pairs(2)), *pairs(4)[2:]]
    assert [t is None for t in said(frames)] == [True, False, True, True]


def test_sharpness_is_of_the_picture_and_not_of_its_size() -> None:
    one = pairs(1)[0].left
    assert sharpness(np.repeat(np.repeat(one, 2, 0), 2, 1)) == pytest.approx(
        sharpness(one), rel=0.05
    )


def test_the_tracker_tells_it_and_goes_on() -> None:
    world = World(sigma_px=0.1)
    t = tracker(world)
    results = [shown(t.process(f)) for f in defocused(4.0)(pairs(3))]
    assert CAMERA.intrinsics.width == 640
    assert all(len(r.screws) == 10 for r in results)
    assert any("right image is less sharp" in e for e in results[-1].events)
