# SPDX-License-Identifier: Apache-2.0
"""A bar's silhouettes tell a thin shaft and a thick handle from a rod."""

from __future__ import annotations

import numpy as np
import pytest
from screw_support import SECOND, World
from screw_support import frame as noise_frame

from spine_nav_common.core.types import Intrinsics, RodFit, StereoFrame, StereoResult
from stereo_screw_tracker.core.config import StereoConfig
from stereo_screw_tracker.core.rod_width import beyond_share, outline_share
from stereo_screw_tracker.core.tracker import StereoTracker

DEPTH_M = 0.5


def seen_bar(
    diameter_mm: float,
    glint: float = 0.0,
    fx: float = 1500.0,
    turned: bool = False,
    band_mm: float = 0.0,
) -> tuple[StereoFrame, RodFit]:
    """A bar in the middle of both pictures, upright or lying, with a bright line along its axis, or
    a band as wide as band_mm."""
    k = Intrinsics(640, 480, fx, fx, 320.0, 240.0)
    baseline = 0.06
    v, u = np.mgrid[0:480, 0:640].astype(float)
    shift = fx * baseline / DEPTH_M
    eyes = []
    for place in (320.0, 320.0 - shift):
        off_mm = 1e3 * DEPTH_M / fx * ((v - 240.0) if turned else (u - place))
        soft = 0.5 - 0.5 * np.tanh((np.abs(off_mm) - 0.5 * diameter_mm) / 0.3)
        line = glint * np.exp(-0.5 * ((off_mm - 0.3) / 0.3) ** 2)
        line = line + 60.0 * (0.5 - 0.5 * np.tanh((np.abs(off_mm) - 0.5 * band_mm) / 0.3)) * (
            band_mm > 0.0
        )
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


@pytest.mark.parametrize("turned", [False, True])
def test_a_handle_has_its_own_edges_beyond_those_of_a_rod(turned: bool) -> None:
    """A lamp draws a band along it that is as wide as a rod; what is thin is not its business."""
    handle = seen_bar(20.0, turned=turned, band_mm=5.5)
    assert outline_share(*handle) > 0.8 and beyond_share(*handle) > 0.7
    for diameter_mm in (4.75, 5.5, 6.35):
        assert beyond_share(*seen_bar(diameter_mm, 90.0, turned=turned)) < 0.2


def test_nothing_seen_is_no_verdict() -> None:
    frame, rod = seen_bar(3.6)
    nothing = RodFit(rod.centreline_m, rod.sigma_mm, np.zeros(len(rod.seen), bool), "")
    assert outline_share(frame, nothing) == 1.0 and beyond_share(frame, nothing) == 0.0


@pytest.mark.parametrize(
    ("diameter_mm", "band_mm", "wrong"),
    [(5.5, 0.0, None), (3.6, 0.0, "thinner"), (20.0, 5.5, "thicker")],
)
def test_a_shaft_or_a_handle_that_no_head_holds_is_no_rod(
    diameter_mm: float, band_mm: float, wrong: str | None
) -> None:
    """Networks that take anything for a rod; the picture alone decides."""
    frame, bar = seen_bar(diameter_mm, fx=600.0, band_mm=band_mm)
    frame = noise_frame(SECOND, left=frame.left, right=frame.right)
    lonely = World(heads=np.zeros((0, 3)), rods=[bar.centreline_m])
    result = StereoTracker(StereoConfig(), lonely, lonely, lonely).process(frame)
    assert isinstance(result, StereoResult), result.reason
    assert len(result.rods) == (wrong is None)
    said = [e for e in result.events if "than a rod" in e]
    assert [f"{wrong} than a rod" in e for e in said] == ([] if wrong is None else [True])
