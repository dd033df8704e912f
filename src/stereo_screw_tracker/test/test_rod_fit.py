# SPDX-License-Identifier: Apache-2.0
"""Rods: cells to curves, curves to a fit whose standard error tells where it is not known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from screw_support import (
    CAMERA,
    NO_SEEDS,
    heads_m,
    join_seeds,
    measure_rods,
    posterior,
    rod_m,
    seeds_along,
)

from spine_nav_common.core.types import Head3D, Rejected, RodFit, ScrewTrack
from stereo_screw_tracker.core.config import RodConfig
from stereo_screw_tracker.core.rod_fit import FittedRod, fit_rod
from stereo_screw_tracker.core.rod_group import SeedCurve, group_rods
from stereo_screw_tracker.core.rod_walk import seen_by_both
from stereo_screw_tracker.core.types import RodMeasurements, RodSeeds

CONFIG = RodConfig()
MIDDLE = np.array([0.0, 0.0, 0.5])


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    """Rolled about the line of sight: at 90 degrees the spine lies along the epipolar lines."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (points - MIDDLE) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]).T + MIDDLE


def off_mm(points: np.ndarray, curve: np.ndarray) -> np.ndarray:
    return 1e3 * np.linalg.norm(points[:, None] - curve, axis=2).min(axis=1)


def screws(points: np.ndarray, side: str = "", depth_mm: float = 0.8) -> list[ScrewTrack]:
    covariance = np.diag([0.1, 0.1, depth_mm]) ** 2 * 1e-6
    rng = np.random.default_rng(9)
    return [
        ScrewTrack(
            i,
            Head3D(
                p + 1e-3 * rng.normal(0, [0.1, 0.1, depth_mm]),
                covariance,
                posterior(),
                0.05,
                0.9,
                0.0,
            ),
            2.0,
            side=side,
        )
        for i, p in enumerate(points)
    ]


def fitted(
    rods: list[np.ndarray],
    rough: np.ndarray | None = None,
    held: list[ScrewTrack] | None = None,
    seed: int = 0,
    cranial: np.ndarray | None = None,
    config: RodConfig = CONFIG,
    **measuring: object,
) -> FittedRod | Rejected:
    """The first rod, from a rough curve (default: itself, displaced) and noisy measurements."""
    rng = np.random.default_rng(seed)
    start = rods[0][10:-10:6] + (1e-3, -1e-3, 6e-3) if rough is None else rough
    return fit_rod(
        CAMERA,
        SeedCurve(start, 1.0),
        lambda points, tangents: measure_rods(rods, points, tangents, rng, **measuring),
        held or [],
        config,
        cranial,
    )


def good(answer: FittedRod | Rejected) -> RodFit:
    assert isinstance(answer, FittedRod), answer.reason
    return answer.rod


class TestGroups:
    def seeds(self, *rods: np.ndarray, seed: int = 0, **noise: float) -> RodSeeds:
        rng = np.random.default_rng(seed)
        return join_seeds([seeds_along(r, rng, **noise) for r in rods])

    @pytest.mark.parametrize("degrees", [0.0, 30.0, 60.0, 90.0])
    @pytest.mark.parametrize("seed", range(3))
    def test_two_rods_in_any_order_are_two_curves(self, degrees: float, seed: int) -> None:
        rods = [turned(rod_m(side), degrees) for side in ("left", "right")]
        curves = group_rods(self.seeds(*rods, seed=seed), CONFIG)
        assert len(curves) == 2
        owners = set()
        for curve in curves:
            far = [off_mm(curve.points_m, rod).mean() for rod in rods]
            owners.add(int(np.argmin(far)))
            assert min(far) < 5.0 and max(far) > 20.0
        assert owners == {0, 1}

    @pytest.mark.parametrize("apart_mm", [25.0, 40.0, 60.0])
    def test_parallel_rods_are_never_merged(self, apart_mm: float) -> None:
        y = np.arange(-70.0, 70.0, 0.5)
        rods = [1e-3 * np.stack([np.full_like(y, x), y, np.full_like(y, 500.0)], 1)
                for x in (0.0, apart_mm)]  # fmt: skip
        assert len(group_rods(self.seeds(*rods), CONFIG)) == 2

    def test_a_hand_over_the_rod_leaves_one_rod(self) -> None:
        rod = rod_m()
        parts = [rod[:110], rod[200:]]  # 45 mm hidden
        curves = group_rods(self.seeds(*parts), CONFIG)
        assert len(curves) == 1
        assert off_mm(rod[[20, -20]], curves[0].points_m).max() < 8.0

    def test_short_pieces_are_dropped(self) -> None:
        tool = 1e-3 * np.stack(
            [np.linspace(60, 80, 41), np.linspace(0, 12, 41), np.full(41, 480.0)], 1
        )
        curves = group_rods(self.seeds(rod_m(), tool), CONFIG)
        assert len(curves) == 1

    def test_a_shaft_across_the_rod_does_not_bend_it(self) -> None:
        rod = rod_m()
        across = rod[150] + 1e-3 * np.stack(
            [np.linspace(-25, 25, 101), np.linspace(-4, 4, 101), np.full(101, -10.0)], 1
        )
        curves = group_rods(self.seeds(rod, across), CONFIG)
        best = min(curves, key=lambda c: off_mm(c.points_m, rod).mean())
        assert off_mm(best.points_m, rod).max() < 10.0
        assert np.linalg.norm(best.points_m[0] - best.points_m[-1]) > 0.12

    def test_scattered_cells_are_no_rod(self) -> None:
        rng = np.random.default_rng(1)
        points = MIDDLE + rng.uniform(-0.1, 0.1, (25, 3))
        tangent = rng.normal(size=(25, 3))
        assert group_rods(RodSeeds(points, tangent, np.full(25, 0.6)), CONFIG) == ()

    def test_no_cells_no_rods(self) -> None:
        assert group_rods(NO_SEEDS, CONFIG) == ()

    def test_cells_that_are_no_numbers_are_left_out(self) -> None:
        seeds = self.seeds(rod_m())
        seeds.point_m[3] = np.nan
        seeds.tangent[5] = 0.0
        seeds.confidence[7] = np.nan
        (curve,) = group_rods(seeds, CONFIG)
        assert np.isfinite(curve.points_m).all()


class TestFit:
    @pytest.mark.parametrize("degrees", [0.0, 30.0, 60.0])
    @pytest.mark.parametrize("seed", range(3))
    def test_it_lies_on_the_rod_from_end_to_end(self, degrees: float, seed: int) -> None:
        rod = turned(rod_m(), degrees)
        fit = good(fitted([rod], seed=seed))
        off = off_mm(fit.centreline_m, rod)
        assert off.mean() < 1.2 and off.max() < 3.0
        ends = fit.centreline_m[[0, -1]]
        for end in rod[[0, -1]]:
            assert 1e3 * np.linalg.norm(ends - end, axis=1).min() < 6.0
        assert fit.seen.all()

    def test_points_are_at_most_a_millimetre_apart_and_lists_equally_long(self) -> None:
        fit = good(fitted([rod_m()]))
        assert 1e3 * np.linalg.norm(np.diff(fit.centreline_m, axis=0), axis=1).max() <= 1.0
        assert len(fit.centreline_m) == len(fit.sigma_mm) == len(fit.seen)

    def test_it_walks_out_to_ends_that_the_rough_curve_lacks(self) -> None:
        rod = rod_m()
        fit = good(fitted([rod], rough=rod[100:200:6]))  # the middle 50 of 150 mm
        length = 1e3 * np.linalg.norm(np.diff(fit.centreline_m, axis=0), axis=1).sum()
        assert abs(length - 0.5 * (len(rod) - 1)) < 12.0

    def test_it_follows_a_bent_rod_beyond_the_rough_curve(self) -> None:
        """Straight on, the refiner would lose a rod of 70 mm radius after a centimetre."""
        angle = np.linspace(-0.8, 0.8, 240)
        rod = MIDDLE + 0.07 * np.stack([1.0 - np.cos(angle), np.sin(angle), 0.0 * angle], 1)
        fit = good(fitted([rod], rough=rod[85:-85:6], reach_px=3.0))
        ends = fit.centreline_m[[0, -1]]
        for end in rod[[0, -1]]:
            assert 1e3 * np.linalg.norm(ends - end, axis=1).min() < 5.0

    def test_a_tulip_beyond_the_rough_curve_does_not_end_it(self) -> None:
        rod = rod_m()
        fit = good(fitted([rod], rough=rod[40:200:6], covered=((rod[230], 0.0065),)))
        assert 1e3 * np.linalg.norm(fit.centreline_m[[0, -1]] - rod[-1], axis=1).min() < 6.0

    def test_it_stops_where_the_rod_stops(self) -> None:
        rod = rod_m()[:200]
        fit = good(fitted([rod], rough=rod_m()[10:260:6]))
        assert off_mm(fit.centreline_m, rod).max() < 5.0

    def test_standard_error_is_honest(self) -> None:
        """Over many draws the true error is neither above nor far below what is stated."""
        rod = rod_m()
        z = []
        for seed in range(12):
            fit = good(fitted([rod], seed=seed))
            z.append(off_mm(fit.centreline_m, rod) / fit.sigma_mm)
        assert 0.3 < np.sqrt(np.mean(np.concatenate(z) ** 2)) < 1.3

    def test_standard_error_grows_where_it_is_hidden(self) -> None:
        rod = rod_m()
        hand = (rod[len(rod) // 2], 0.025)
        fit = good(fitted([rod], covered=(hand,)))
        assert 0.55 < fit.seen.mean() < 0.9
        near = off_mm(fit.centreline_m, hand[0][None]) < 10.0
        far = off_mm(fit.centreline_m, hand[0][None]) > 40.0
        assert fit.sigma_mm[near].min() > 1.5 * np.median(fit.sigma_mm[far])
        assert not fit.seen[near].any() and fit.seen[far].all()
        assert off_mm(fit.centreline_m, rod).max() < 5.0  # bridged, not cut

    def test_standard_error_grows_along_the_epipolar_lines(self) -> None:
        sigma = []
        for degrees in (0.0, 60.0, 75.0):
            lenient = replace(CONFIG, most_sigma_mm=10.0)
            answer = good(fitted([turned(rod_m(), degrees)], config=lenient))
            sigma.append(np.median(answer.sigma_mm))
        assert sigma == sorted(sigma) and sigma[2] > 2.0 * sigma[0]

    def test_along_the_epipolar_lines_without_screws_it_is_not_determined(self) -> None:
        answer = fitted([turned(rod_m(), 90.0)])
        assert isinstance(answer, Rejected)
        assert "turn the camera" in answer.reason

    def test_seated_heads_fix_its_depth_there(self) -> None:
        rod = turned(rod_m(), 90.0)
        held = screws(turned(heads_m(("left",)), 90.0))
        fit = good(fitted([rod], held=held))
        off = off_mm(fit.centreline_m, rod)
        assert off.mean() < 1.5
        assert np.median(fit.sigma_mm) < 3.0

    def test_a_head_beside_the_rod_does_not_pull_it(self) -> None:
        rod = rod_m()
        beside = screws(heads_m(("left",)) + (6e-3, 0.0, 0.0), depth_mm=0.1)
        plain, pulled = good(fitted([rod])), good(fitted([rod], held=beside))
        assert off_mm(pulled.centreline_m, plain.centreline_m).max() < 0.3

    def test_one_wrong_head_in_depth_does_not_bend_it(self) -> None:
        rod = rod_m()
        heads = heads_m(("left",))
        heads[2, 2] += 8e-3
        fit = good(fitted([rod], held=screws(heads, depth_mm=0.5)))
        assert off_mm(fit.centreline_m, rod).max() < 3.5

    def test_two_rods_do_not_mix(self) -> None:
        rods = [rod_m("left"), rod_m("right")]
        fit = good(fitted(rods))
        assert off_mm(fit.centreline_m, rods[0]).max() < 3.0

    def test_false_answers_here_and_there_do_not_bend_it(self) -> None:
        rod, rng = rod_m(), np.random.default_rng(2)

        def spoiled(points: np.ndarray, tangents: np.ndarray) -> RodMeasurements:
            m = measure_rods([rod], points, tangents, rng)
            wrong = rng.uniform(size=len(points)) < 0.1
            m.offset_left_px[wrong] += rng.choice([-8.0, 8.0], int(wrong.sum()))
            m.offset_right_px[rng.uniform(size=len(points)) < 0.05] = np.nan
            return m

        start = SeedCurve(rod[10:-10:6] + (1e-3, -1e-3, 6e-3), 1.0)
        fit = good(fit_rod(CAMERA, start, spoiled, [], CONFIG))
        off = off_mm(fit.centreline_m, rod)
        assert off.mean() < 1.5 and off.max() < 4.0

    def test_the_cranial_end_comes_first(self) -> None:
        up = np.array([0.0, -1.0, 0.0])
        for cranial in (up, -up):
            fit = good(fitted([rod_m()], cranial=cranial))
            assert (fit.centreline_m[0] - fit.centreline_m[-1]) @ cranial > 0.0

    def test_its_side_is_that_of_its_screws(self) -> None:
        assert good(fitted([rod_m()], held=screws(heads_m(("left",)), "left"))).side == "left"
        assert good(fitted([rod_m()])).side == ""
        assert good(fitted([rod_m()], held=screws(heads_m(("right",)), "right"))).side == ""


class TestHeldHeads:
    """What a seated rod tells of the saddles that hold it."""

    def held(self, lift_mm: float, seed: int, depth_mm: float = 2.0) -> tuple[list, FittedRod]:
        rod = rod_m() - (0.0, 0.0, 1e-3 * lift_mm)  # towards the camera: over the heads
        rng = np.random.default_rng(seed)
        covariance = np.diag([0.1, 0.1, depth_mm]) ** 2 * 1e-6
        heads = [
            ScrewTrack(
                i,
                Head3D(
                    p + 1e-3 * rng.normal(0, [0.1, 0.1, depth_mm]), covariance, posterior(), 0.05,
                    0.9, 0.0,
                ),
                2.0,
            )
            for i, p in enumerate(heads_m(("left",)))
        ]  # fmt: skip
        answer = fitted([rod], held=heads, seed=seed)
        assert isinstance(answer, FittedRod)
        return heads, answer

    def test_their_depth_gets_better_and_their_covariance_smaller(self) -> None:
        before, after = [], []
        for seed in range(6):
            heads, answer = self.held(0.0, seed)
            for screw in heads:
                truth = heads_m(("left",))[screw.track_id]
                if screw.track_id in answer.held:
                    better = answer.held[screw.track_id]
                    before.append(np.linalg.norm(screw.head.point_m - truth))
                    after.append(np.linalg.norm(better.point_m - truth))
                    assert np.trace(better.covariance_m2) < np.trace(screw.head.covariance_m2)
        assert len(before) > 20
        assert np.mean(after) < 0.7 * np.mean(before)

    @pytest.mark.parametrize("lift_mm", [5.0, 8.0, 20.0])
    def test_a_rod_that_hovers_over_the_heads_moves_none(self, lift_mm: float) -> None:
        moved = 0
        for seed in range(6):
            moved += bool(self.held(lift_mm, seed)[1].held)
        assert moved <= 1

    def test_the_free_curve_is_that_of_the_same_rod_without_heads(self) -> None:
        """Heads that stand a millimetre and a half beside the rod and hold it pull the shown curve alone."""
        rod, up = rod_m(), np.array([0.0, -1.0, 0.0])
        heads = screws(heads_m(("left",)) + (1.5e-3, 0.0, 0.0), depth_mm=0.1)
        with_heads = fitted([rod], held=heads, cranial=up)
        assert isinstance(with_heads, FittedRod) and with_heads.held
        shown, alone = with_heads.rod, good(fitted([rod], cranial=up))
        assert shown.free_m is not None and shown.free_sigma_mm is not None
        np.testing.assert_allclose(shown.free_m, alone.centreline_m, atol=1e-9)
        np.testing.assert_allclose(shown.free_sigma_mm, alone.free_sigma_mm, rtol=1e-9)
        assert off_mm(shown.centreline_m, alone.centreline_m).max() > 0.3

    def test_standard_error_of_the_shape_is_honest(self) -> None:
        """It leaves out the depth that all of the rod shares, and nothing of what bends it."""
        rod, z, share = rod_m(), [], []
        for seed in range(12):
            fit = good(fitted([rod], seed=seed))
            assert fit.free_m is not None and fit.free_sigma_mm is not None
            own = rod[np.linalg.norm(fit.free_m[:, None] - rod, axis=2).argmin(axis=1)]
            a, b = own - own.mean(axis=0), fit.free_m - fit.free_m.mean(axis=0)
            U, _, Vt = np.linalg.svd(a.T @ b)
            turn = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
            z.append(off_mm(b @ turn.T + own.mean(axis=0), rod) / fit.free_sigma_mm)
            share.append(np.median(fit.free_sigma_mm) / np.median(fit.sigma_mm))
        assert 0.3 < np.sqrt(np.mean(np.concatenate(z) ** 2)) < 1.3
        assert max(share) < 1.0

    def test_a_head_beside_the_rod_is_not_held(self) -> None:
        beside = screws(heads_m(("left",)) + (6e-3, 0.0, 0.0))
        answer = fitted([rod_m()], held=beside)
        assert isinstance(answer, FittedRod) and answer.held == {}


class TestRefusals:
    def test_too_little_seen(self) -> None:
        answer = fitted([rod_m()[:30]], rough=rod_m()[10:260:6])
        assert isinstance(answer, Rejected)
        assert "uncover the rod" in answer.reason

    def test_nothing_seen(self) -> None:
        rod = rod_m()
        answer = fitted([rod + (0.1, 0.0, 0.0)], rough=rod[10:-10:6])
        assert isinstance(answer, Rejected)

    def test_an_answer_of_the_wrong_length_is_an_error(self) -> None:
        rod = rod_m()

        def short(points: np.ndarray, tangents: np.ndarray) -> RodMeasurements:
            return measure_rods([rod], points[:-1], tangents[:-1], np.random.default_rng(0))

        measure: Callable = short
        with pytest.raises(ValueError, match="asked for"):
            fit_rod(CAMERA, SeedCurve(rod[10:-10:6], 1.0), measure, [], CONFIG)


@pytest.mark.parametrize(
    ("left", "right", "seen"),
    [
        (0.99, 0.98, True),
        (0.998, 0.002, True),  # surely there, and hidden from the other eye
        (0.6, 0.1, False),  # what one eye takes for a rod beyond its end
        (0.9, 0.05, False),
        (0.7, 0.6, True),
        (0.6, 0.0, True),  # outside of the other image
        (0.6, np.nan, True),
        (0.3, 0.3, False),
    ],
)
def test_whether_a_rod_is_seen_is_judged_by_both_eyes(left, right, seen) -> None:
    def by_both(one: float, other: float) -> float:
        nothing = [np.zeros(0)] * 7
        return float(seen_by_both(RodMeasurements(*nothing, np.array([one]), np.array([other])))[0])

    joint, mirrored = by_both(left, right), by_both(right, left)
    assert (joint >= CONFIG.presence) == seen == (mirrored >= CONFIG.presence)


class TestNoHeadHoldsIt:
    """Shafts of instruments look like rods, but not so surely; a head that holds one settles it."""

    @pytest.mark.parametrize("sure", [0.9, 0.97])
    def test_what_may_be_a_shaft_is_not_reported(self, sure: float) -> None:
        answer = fitted([rod_m()], sure=sure)
        assert isinstance(answer, Rejected)
        assert "uncover the rod" in answer.reason

    @pytest.mark.parametrize("sure", [0.9, 0.97])
    def test_heads_vouch_for_it(self, sure: float) -> None:
        assert good(fitted([rod_m()], held=screws(heads_m(("left",))), sure=sure)).seen.any()

    @pytest.mark.parametrize(("hidden_share", "reported"), [(0.3, True), (0.9, False)])
    def test_the_other_eye_must_see_most_of_it_too(
        self, hidden_share: float, reported: bool
    ) -> None:
        """What one eye alone takes for a rod all along may be a tube that is out of the other's view."""
        rod, rng = rod_m(), np.random.default_rng(4)
        y = np.sort(rod[:, 1])
        until = y[int(hidden_share * len(y))]

        def half_hidden(points: np.ndarray, tangents: np.ndarray) -> RodMeasurements:
            m = measure_rods([rod], points, tangents, rng)
            doubted = np.where(points[:, 1] < until, 0.6, 1.0)
            return replace(m, confidence_right=np.minimum(m.confidence_right, doubted))

        start = SeedCurve(rod[10:-10:6] + (1e-3, -1e-3, 6e-3), 1.0)
        answer = fit_rod(CAMERA, start, half_hidden, [], CONFIG)
        assert isinstance(answer, Rejected) != reported
        held = fit_rod(CAMERA, start, half_hidden, screws(heads_m(("left",))), CONFIG)
        assert good(held).seen.any()  # where heads hold it, one eye is enough


class TestToTheSaddle:
    """A tulip's arms hide the rod that they hold: what is seen of it ends before the saddle."""

    @staticmethod
    def between(degrees: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """The seen stretch (N, 3) of a straight rod, and the two saddles (2, 3), 8 mm beyond it."""
        rod = rod_m()
        middle, way = rod[150], rod[155] - rod[145]
        way /= np.linalg.norm(way)
        along = 1e-3 * np.arange(-16.0, 16.1, 0.5)
        seen = middle + along[:, None] * way
        return turned(seen, degrees), turned(middle + 1e-3 * np.outer([-24.0, 24.0], way), degrees)

    def reached(self, held: list[ScrewTrack], seen: np.ndarray) -> RodFit:
        return good(fitted([seen], rough=seen[4:-4:6] + (1e-3, 0.0, 3e-3), held=held))

    @pytest.mark.parametrize("degrees", [0.0, 40.0])
    def test_a_rod_goes_on_to_the_heads_that_its_ends_point_to(self, degrees: float) -> None:
        seen, saddles = self.between(degrees)
        rod = self.reached(screws(saddles), seen)
        assert off_mm(saddles, rod.centreline_m).max() < 1.5
        ends = off_mm(rod.centreline_m[[0, -1]], saddles)
        assert (2.0 < ends).all() and (ends < 5.0).all()  # a little beyond, as rods stand out
        hidden = off_mm(rod.centreline_m, seen) > 4.0
        assert hidden.any()
        assert not rod.seen[hidden].any()

    def test_without_heads_it_ends_where_it_is_seen_no_more(self) -> None:
        seen, _ = self.between()
        rod = self.reached([], seen)
        assert off_mm(rod.centreline_m[[0, -1]], seen).max() < 3.0

    @pytest.mark.parametrize("seed", range(4))
    def test_it_stands_out_of_its_last_saddles_where_they_moved_it_in_depth(self, seed) -> None:
        """Along the epipolar lines the free curve lies deep or high, and ends elsewhere."""
        rod = turned(rod_m(reach_mm=1.0), 84.0)
        saddles = turned(heads_m(("left",)), 84.0)
        start = rod[10:-10:6] + (0.0, 0.0, 0.012)
        held = screws(saddles, depth_mm=0.3)
        fit = good(fitted([rod], rough=start, held=held, seed=seed))
        line = fit.centreline_m
        assert len(line) == len(fit.sigma_mm) == len(fit.seen) == len(fit.free_m)
        for end, inner in ((line[0], line[8]), (line[-1], line[-9])):
            way = (end - inner) / np.linalg.norm(end - inner)
            last = saddles[np.linalg.norm(saddles - end, axis=1).argmin()]
            assert 1e3 * (end - last) @ way > 1.5

    @pytest.mark.parametrize("wrong", ["beside", "deeper", "lying"])
    def test_a_head_that_cannot_hold_it_prolongs_nothing(self, wrong: str) -> None:
        seen, saddles = self.between()
        way = saddles[1] - saddles[0]
        way /= np.linalg.norm(way)
        aside = np.cross(way, [0.0, 0.0, 1.0])
        aside /= np.linalg.norm(aside)
        held = screws(saddles + {"beside": 0.009 * aside, "deeper": [0, 0, 0.02]}.get(wrong, 0.0))
        if wrong == "lying":
            held = [replace(s, head=replace(s.head, axis=way)) for s in held]
        rod = self.reached(held, seen)
        assert off_mm(rod.centreline_m[[0, -1]], seen).max() < 3.0
