# SPDX-License-Identifier: Apache-2.0
"""Rods that a hand covers stay with their heads for a while; rods that were taken away do not."""

from __future__ import annotations

import numpy as np
import pytest
from screw_support import SECOND, World, frame, rod_m

from spine_nav_common.core.types import StereoResult
from stereo_screw_tracker.core.confidence import ConfidenceModel
from stereo_screw_tracker.core.config import RodConfig, StereoConfig
from stereo_screw_tracker.core.tracker import StereoTracker

STEP = SECOND // 15
LEFT_HEADS = set(range(5))


def tracker(world: World, **rods: object) -> StereoTracker:
    refiner_alone = ConfidenceModel(0.0, 1.0, 0.0)
    # no picture shows a rod's silhouettes here
    config = StereoConfig(cranial="up", rods=RodConfig(**{"lone_beyond": 9.0, **rods}))
    return StereoTracker(config, world, world, world, confidence=refiner_alone)


def pair(t: StereoTracker, k: int) -> StereoResult:
    result = t.process(frame(k * STEP))
    assert isinstance(result, StereoResult), result.reason
    return result


def off_mm(points: np.ndarray, curve: np.ndarray) -> np.ndarray:
    return 1e3 * np.linalg.norm(points[:, None] - curve, axis=2).min(axis=1)


def watched(pairs: int = 4, **rods: object) -> tuple[World, StereoTracker, StereoResult]:
    """A left rod that was seen in some pairs."""
    world = World(sigma_px=0.1, rods=[rod_m("left")])
    t = tracker(world, **rods)
    for k in range(pairs):
        last = pair(t, k)
    assert len(last.rods) == 1
    return world, t, last


def test_a_rod_that_is_covered_with_its_heads_stays_and_moves_with_the_spine() -> None:
    world, t, before = watched()
    truth = world.rods
    world.hidden, world.rods = LEFT_HEADS, []
    for k in range(4, 8):
        world.move((3.0, -1.0, 1.0), (0.3, 0.2, 0.5))
        result = pair(t, k)
    (rod,) = result.rods
    world.rods = truth
    assert off_mm(rod.centreline_m, world.rods_now()[0]).max() < 4.0
    assert not rod.seen.any()
    assert np.median(rod.sigma_mm) > np.median(before.rods[0].sigma_mm)
    assert (pair(t, 8).rods[0].seen).mean() > 0.9  # the hand is gone


def test_of_a_rod_that_is_half_covered_the_whole_stays() -> None:
    world, t, before = watched()
    world.hidden = {1, 2, 3, 4}
    world.rods = [rod_m("left")[:90]]
    (rod,) = pair(t, 4).rods
    assert off_mm(before.rods[0].centreline_m, rod.centreline_m).max() < 3.0
    assert 0.2 < rod.seen.mean() < 0.5


def test_a_rod_that_was_taken_away_is_gone_at_once() -> None:
    world, t, _ = watched()
    world.rods = []
    assert pair(t, 4).rods == ()


@pytest.mark.parametrize(("hold_s", "rods"), [(0.2, 0), (1.0, 1)])
def test_a_covered_rod_is_not_shown_for_ever(hold_s: float, rods: int) -> None:
    world, t, _ = watched(hold_s=hold_s)
    world.hidden, world.rods = LEFT_HEADS, []
    shown = [len(pair(t, k).rods) for k in range(4, 12)]
    assert shown[0] == 1 and shown[-1] == rods


def test_a_rod_that_no_head_holds_is_not_kept() -> None:
    world = World(sigma_px=0.1, rods=[rod_m("left") - (0.0, 0.0, 0.06)])
    t = tracker(world)
    assert [len(pair(t, k).rods) for k in range(4)][-1] == 1
    world.hidden, world.rods = LEFT_HEADS, []
    assert pair(t, 4).rods == ()


def test_another_rod_in_its_place_is_the_one_that_is_shown() -> None:
    world, t, _ = watched()
    world.hidden, world.rods = LEFT_HEADS, [rod_m("left") + (0.002, 0.0, 0.0)]
    assert len(pair(t, 4).rods) == 1
