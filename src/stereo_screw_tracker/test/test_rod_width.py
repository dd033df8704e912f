# SPDX-License-Identifier: Apache-2.0
"""A bar's silhouettes tell a thin shaft from a rod."""

from __future__ import annotations

import numpy as np
import pytest
from screw_support import SECOND, World
from screw_support import frame as noise_frame

from spine_nav_common.core.types import Intrinsics, RodFit, StereoFrame, StereoResult
from stereo_screw_tracker.core.config import RodConfig, StereoConfig
from stereo_screw_tracker.core.rod_width import outline_share
from stereo_screw_tracker.core.tracker import StereoTracker

DEPTH_M = 0.5


def seen_bar(
    diameter_mm: float, glint: float = 0.0, fx: float = 1500.0, turned: bool = False
) -> tuple[StereoFrame, RodFit]:
    """A bar in the middle of both pictures, upright or lying, with a bright line along its axis."""
    k = Intrinsics(640, 480, fx, fx, 320.0, 240.0)
    baseline = 0.06
    v, u = np.mgrid[0:480, 0:640].astype(float)
    shift = fx * baseline / DEPTH_M
    eyes = []
    for place in (320.0, 320.0 - shift):
        off_mm = 1e3 * DEPTH_M / fx * ((v - 240.0) if turned else (u - place))
        soft = 0.5 - 0.5 * np.tanh((np.abs(off_mm) - 0.5 * diameter_mm) / 0.3)
        line = glint * np.exp(-0.5 * ((off_mm - 0.3) / 0.3) ** 2)
        noise = np.random.default_rng(1).normal(0.0, 2.0, off_mm.shape)
        eyes.append(np.clip(70.0 + 80.0 * soft + line + noise, 0, 255).astype(np.uint8))
    s = np.linspace(-0.04, 0.04, 90)
    zero = np.zeros_like(s)
    line_m = np.stack([s, zero, zero + DEPTH_M] if turned else [zero, s, zero + DEPTH_M], 1)
    rod = RodFit(line_m, np.ones(len(s)), np.ones(len(s), bool), "")
    return StereoFrame(0, eyes[0], eyes[1], k, baseline), rod


@pytest.mark.parametrize("diameter_mm", [4.75, 5.5, 6.35])
@pytest.mark.parametrize("glint", [0.0, 90.0])
@pytest.mark.parametrize("turned", [False, True])
def test_a_rod_has_its_edges_where_a_rod_s_are(diameter_mm, glint, turned) -> None:
    assert outline_share(*seen_bar(diameter_mm, glint, turned=turned)) > 0.8


@pytest.mark.parametrize("diameter_mm", [3.2, 3.6, 4.0])
@pytest.mark.parametrize("turned", [False, True])
def test_a_thin_shaft_has_none_there(diameter_mm, turned) -> None:
    assert outline_share(*seen_bar(diameter_mm, turned=turned)) < 0.4


def test_nothing_seen_is_no_verdict() -> None:
    frame, rod = seen_bar(3.6)
    nothing = RodFit(rod.centreline_m, rod.sigma_mm, np.zeros(len(rod.seen), bool), "")
    assert outline_share(frame, nothing) == 1.0


@pytest.mark.parametrize(("diameter_mm", "rods"), [(5.5, 1), (3.6, 0)])
def test_a_thin_shaft_that_no_head_holds_is_no_rod(diameter_mm: float, rods: int) -> None:
    """Networks that take anything for a rod; the picture alone decides."""
    frame, bar = seen_bar(diameter_mm, fx=600.0)
    frame = noise_frame(SECOND, left=frame.left, right=frame.right)
    lonely = World(heads=np.zeros((0, 3)), rods=[bar.centreline_m])
    config = StereoConfig(rods=RodConfig(lone_outline=0.5))
    result = StereoTracker(config, lonely, lonely, lonely).process(frame)
    assert isinstance(result, StereoResult), result.reason
    assert len(result.rods) == rods
    assert any("thinner than a rod" in event for event in result.events) == (not rods)
