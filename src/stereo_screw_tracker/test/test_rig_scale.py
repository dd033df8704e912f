# SPDX-License-Identifier: Apache-2.0
"""All distances between screws that change at once: the rig was bumped; noise and motion: it was not."""

from __future__ import annotations

import numpy as np
import pytest
from screw_support import heads_m

from spine_nav_common.core.geometry import exp_so3
from spine_nav_common.core.types import Rejected
from stereo_screw_tracker.core.rig_scale import RigWatch, scale_between

TURN = exp_so3(np.radians((3.0, -2.0, 5.0)))


def moved(points: np.ndarray) -> np.ndarray:
    middle = points.mean(axis=0)
    return np.asarray((points - middle) @ TURN.T + middle + (0.02, -0.01, 0.03))


@pytest.mark.parametrize("factor", [0.97, 1.0, 1.02])
def test_the_factor_is_found_whatever_the_camera_did(factor: float) -> None:
    heads = heads_m()
    scale = scale_between(heads, factor * moved(heads))
    assert scale is not None
    assert scale.factor == pytest.approx(factor, abs=2e-3)
    assert scale.changed == (factor != 1.0)


def test_noise_of_depth_and_one_wrong_head_are_no_bump() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        now = moved(heads_m())
        now *= 1.0 + rng.normal(0, 2e-3, (len(now), 1))  # 1 mm of depth, along each ray
        now += rng.normal(0, 1e-4, now.shape)
        now[rng.integers(10)] += rng.normal(0, 4e-3, 3)
        scale = scale_between(heads_m(), now)
        assert scale is not None and not scale.changed


def test_three_heads_tell_nothing() -> None:
    assert scale_between(heads_m()[:3], 1.05 * heads_m()[:3]) is None


def test_one_odd_pair_is_refused_and_two_end_it() -> None:
    watch, heads = RigWatch(), heads_m()
    assert isinstance(watch.seen(heads, 1.03 * heads), Rejected)
    assert watch.broken is None
    assert watch.seen(heads, moved(heads)) is None  # it was one pair
    for _ in range(2):
        watch.seen(heads, 1.03 * heads)
    assert watch.broken is not None and "calibrate" in watch.broken.reason
