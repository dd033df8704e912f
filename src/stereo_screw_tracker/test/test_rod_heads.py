# SPDX-License-Identifier: Apache-2.0
"""Rods between heads: found without the finder where there is one, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from screw_support import CAMERA, NO_SEEDS, World, frame, heads_m, measure_rods, posterior, rod_m

from spine_nav_common.core.types import Head3D, ScrewTrack, StereoResult
from stereo_screw_tracker.core.config import RodConfig, StereoConfig
from stereo_screw_tracker.core.rod_group import SeedCurve
from stereo_screw_tracker.core.rod_heads import rods_between_heads
from stereo_screw_tracker.core.rod_walk import seen_by_both
from stereo_screw_tracker.core.tracker import StereoTracker
from stereo_screw_tracker.core.types import RodMeasurements

CONFIG = RodConfig()


def screws(points: np.ndarray) -> list[ScrewTrack]:
    cov = np.diag([0.1, 0.1, 0.8]) ** 2 * 1e-6
    return [
        ScrewTrack(i, Head3D(p, cov, posterior(), 0.05, 0.9, 0.0), 2.0)
        for i, p in enumerate(points)
    ]


def looked(
    rods: list[np.ndarray], points: np.ndarray, known: list[np.ndarray] | None = None
) -> list[SeedCurve]:
    rng = np.random.default_rng(0)

    def measure(places: np.ndarray, tangents: np.ndarray) -> RodMeasurements:
        return measure_rods(rods, places, tangents, rng)

    return rods_between_heads(CAMERA, screws(points), known or [], measure, seen_by_both, CONFIG)


def off_mm(points: np.ndarray, curve: np.ndarray) -> np.ndarray:
    return 1e3 * np.linalg.norm(points[:, None] - curve, axis=2).min(axis=1)


def test_each_side_with_a_rod_is_one_curve_from_saddle_to_saddle() -> None:
    rods = [rod_m("left"), rod_m("right")]
    curves = looked(rods, heads_m())
    assert len(curves) == 2
    for curve in curves:
        assert min(off_mm(curve.points_m, rod).max() for rod in rods) < 5.0
        assert np.linalg.norm(np.diff(curve.points_m, axis=0), axis=1).max() < 3.1e-3
    ends = np.concatenate([c.points_m[[0, -1]] for c in curves])
    assert (np.linalg.norm(ends[:, None] - heads_m(), axis=2).min(axis=1) < 1e-9).all()


def test_heads_without_a_rod_have_none() -> None:
    assert looked([], heads_m()) == []


def test_the_side_without_a_rod_has_none_and_none_runs_across() -> None:
    (curve,) = looked([rod_m("right")], heads_m())
    assert off_mm(curve.points_m, rod_m("right")).max() < 5.0


def test_what_is_measured_anyway_is_not_looked_for() -> None:
    rods = [rod_m("left"), rod_m("right")]
    (curve,) = looked(rods, heads_m(), [rods[0] + (0.0, 0.0, 6e-3)])
    assert off_mm(curve.points_m, rods[1]).max() < 5.0


def test_a_curve_that_passes_far_before_the_heads_explains_nothing() -> None:
    rods = [rod_m("left")]
    before = rods[0] * 0.8  # the same pixels, a hand nearer to the camera
    assert len(looked(rods, heads_m(), [before])) == 1


def test_two_heads_one_behind_the_other_as_their_axes_point_hold_no_rod() -> None:
    points = np.array([[0.0, 0.0, 0.5], [0.0, 0.0, 0.47]])
    along = np.linspace(points[0], points[1], 60)
    assert looked([along], points) == []


def test_a_rod_that_the_finder_does_not_see_is_found_between_its_heads() -> None:
    world = World(rods=[rod_m("left"), rod_m("right")], sigma_px=0.1)

    class Blind:
        def find(self, *args: object) -> object:
            return replace(world.find(*args), rod_seeds=NO_SEEDS)

    def rods(finder: object) -> int:
        result = StereoTracker(StereoConfig(), finder, world, world).process(frame(0))
        assert isinstance(result, StereoResult)
        for rod in result.rods:
            assert min(off_mm(rod.centreline_m, r).mean() for r in world.rods) < 1.0
        return len(result.rods)

    assert rods(Blind()) == 2
