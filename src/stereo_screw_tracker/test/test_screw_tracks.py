# SPDX-License-Identifier: Apache-2.0
"""Tracks: stable ids under a moving camera, honest covariance, held heads, and clean restarts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from screw_support import CAMERA, SECOND, heads_m, observe, posterior

from spine_nav_common.core.geometry import exp_so3, transform, transform_points
from spine_nav_common.core.types import Head3D
from stereo_screw_tracker.core.config import TrackConfig
from stereo_screw_tracker.core.constellation import match, solve_motion
from stereo_screw_tracker.core.tracks import Step, Tracks, advance
from stereo_screw_tracker.core.triangulate import triangulate_head

CONFIG = TrackConfig()
STEP = SECOND // 15


def seen(
    points: np.ndarray, rng: np.random.Generator | None = None, confidence: float = 0.95,
    sigma_px: float = 0.15, R: np.ndarray | None = None,
) -> list[Head3D]:  # fmt: skip
    axis = posterior() if R is None else R @ posterior()
    heads = [
        triangulate_head(CAMERA, observe(p, rng, sigma_px, axis, confidence), (0.1, 2.0))
        for p in points
    ]
    assert all(isinstance(h, Head3D) for h in heads)
    return heads


def motion(shift_mm: tuple, turn_deg: tuple, about: np.ndarray) -> np.ndarray:
    R = exp_so3(np.radians(turn_deg))
    return transform(R, about - R @ about + 1e-3 * np.array(shift_mm))


def nearest(step: Step, truth: np.ndarray) -> dict[int, int]:
    """track id -> index of the true head."""
    return {t.track_id: int(np.linalg.norm(truth - t.point_m, axis=1).argmin()) for t in step.shown}


class TestIds:
    @given(
        st.tuples(*[st.floats(-12.0, 12.0)] * 3),
        st.tuples(*[st.floats(-4.0, 4.0)] * 3),
        st.integers(0, 2**31),
    )
    @settings(max_examples=30, deadline=None)
    def test_one_jump_of_the_camera_keeps_them(self, shift, turn, seed) -> None:
        rng = np.random.default_rng(seed)
        before = heads_m()
        first = advance(Tracks(), seen(before, rng), 0, CONFIG)
        T = motion(shift, turn, before.mean(axis=0))
        now = transform_points(T, before)
        second = advance(first.state, seen(now[rng.permutation(10)], rng), 4 * STEP, CONFIG)
        assert len(second.shown) == 10
        ids = nearest(first, before)
        assert nearest(second, now) == ids

    def test_a_row_does_not_slip_by_one_level(self) -> None:
        """The caudal head leaves the image while another comes in at the cranial end."""
        row = np.array([[0.02, 0.031 * k, 0.5] for k in range(6)])
        first = advance(Tracks(), seen(row[:5]), 0, CONFIG)
        second = advance(first.state, seen(row[1:]), STEP, CONFIG)
        ids = nearest(first, row)
        for i, k in nearest(second, row).items():
            assert ids.get(i, 5) == k
        assert sum(t.seen_ns != STEP for t in second.shown) == 1

    def test_they_are_never_used_twice(self) -> None:
        heads = heads_m()
        state, used = Tracks(), set()
        for k in range(3):
            step = advance(state, seen(heads), k * 3 * SECOND, CONFIG)  # every gap resets
            ids = {t.track_id for t in step.shown}
            assert not ids & used
            used |= ids
            state = step.state

    @pytest.mark.parametrize("count", [1, 2])
    def test_one_or_two_heads_are_followed_too(self, count: int) -> None:
        points = heads_m()[:count]
        state, ids = Tracks(), None
        for k in range(6):
            step = advance(
                state, seen(points + 1e-3 * k * np.array([3.0, 2.0, 0])), k * STEP, CONFIG
            )
            now = [t.track_id for t in step.shown]
            assert ids in (None, now)
            ids, state = now, step.state

    def test_the_order_of_the_measurements_does_not_matter(self) -> None:
        points = heads_m()
        steps = []
        for order in (np.arange(10), np.arange(10)[::-1]):
            first = advance(Tracks(), seen(points[order]), 0, CONFIG)
            steps.append(advance(first.state, seen(points[order[::-1]]), STEP, CONFIG))
        for a in steps[0].shown:
            b = min(steps[1].shown, key=lambda t: np.linalg.norm(t.point_m - a.point_m))
            assert np.allclose(a.point_m, b.point_m, atol=1e-7)


class TestFusion:
    def test_independent_noise_averages_out(self) -> None:
        rng = np.random.default_rng(0)
        config = replace(CONFIG, common_share=0.0, process_mm_per_sqrt_s=0.05)
        state, points = Tracks(), heads_m()
        for k in range(30):
            step = advance(state, seen(points, rng), k * STEP, config)
            state = step.state
        off = [np.linalg.norm(points - t.point_m, axis=1).min() for t in step.shown]
        single = np.linalg.norm(np.array([h.point_m for h in seen(points, rng)]) - points, axis=1)
        assert np.mean(off) < 0.5 * single.mean()

    def test_what_stays_the_same_keeps_its_share_of_the_covariance(self) -> None:
        state, points = Tracks(), heads_m()
        single = np.trace(seen(points)[0].covariance_m2)
        for k in range(60):
            step = advance(state, seen(points), k * STEP, CONFIG)
            state = step.state
        stated = np.trace(step.shown[0].head().covariance_m2)
        assert stated >= 0.98 * CONFIG.common_share * single

    def test_a_constant_bias_stays_within_what_is_stated(self) -> None:
        """The same error in every frame: 2 sigma of depth, frame after frame."""
        points = heads_m()
        heads = seen(points)
        biased = [
            replace(h, point_m=h.point_m + [0, 0, 2.0 * np.sqrt(h.covariance_m2[2, 2])])
            for h in heads
        ]
        state = Tracks()
        for k in range(40):
            step = advance(state, biased, k * STEP, CONFIG)
            state = step.state
        for track in step.shown:
            off = np.linalg.norm(points - track.point_m, axis=1).min()
            assert off < 3.0 * np.sqrt(track.head().covariance_m2[2, 2])

    def test_an_axis_that_is_misread_in_every_pair_does_not_become_surer(self) -> None:
        """A camera that stands still: forty equal answers are worth one."""
        turned = exp_so3(np.radians([6.0, 0.0, 0.0]))  # twice the stated sigma
        heads = seen(heads_m(), R=turned)
        state = Tracks()
        for k in range(40):
            step = advance(state, heads, k * STEP, CONFIG)
            state = step.state
        stated = np.array([t.head().axis_sigma_rad for t in step.shown])
        assert (stated >= np.sqrt(CONFIG.axis_common_share) * heads[0].axis_sigma_rad).all()
        assert (stated < 1.1 * heads[0].axis_sigma_rad).all()
        off = np.array([np.arccos(t.axis @ posterior()) for t in step.shown])
        assert (off < 2.1 * stated).all()

    def test_covariances_stay_positive(self) -> None:
        rng = np.random.default_rng(4)
        state, points = Tracks(), heads_m()
        for k in range(40):
            T = motion((0.5 * k, 0, 0), (0.3 * k, 0, 0.2 * k), points.mean(axis=0))
            step = advance(state, seen(transform_points(T, points), rng), k * STEP, CONFIG)
            state = step.state
            for t in state.tracks:
                assert np.linalg.eigvalsh(t.covariance_m2).min() > 0.0
                assert abs(np.linalg.norm(t.axis) - 1.0) < 1e-9

    def test_a_screw_that_is_pushed_is_followed_and_reported(self) -> None:
        points = heads_m()
        state = Tracks()
        for k in range(5):
            state = advance(state, seen(points), k * STEP, CONFIG).state
        moved = points.copy()
        moved[3, 0] += 6e-3
        step = advance(state, seen(moved), 5 * STEP, CONFIG)
        track = min(step.shown, key=lambda t: np.linalg.norm(t.point_m - moved[3]))
        assert np.linalg.norm(track.point_m - moved[3]) < 1e-3
        assert len(step.shown) == 10
        assert any("moved by" in e for e in step.events)

    def test_axes_turn_with_the_camera_and_average(self) -> None:
        points = heads_m()
        state = Tracks()
        for k in range(10):
            T = motion((0, 0, 0), (0, 1.5 * k, 0), points.mean(axis=0))
            step = advance(state, seen(transform_points(T, points), R=T[:3, :3]), k * STEP, CONFIG)
            state = step.state
        for t in step.shown:
            assert np.degrees(np.arccos(t.axis @ (T[:3, :3] @ posterior()))) < 0.7
            assert t.head().axis_sigma_rad < np.radians(3.0)


class TestHiddenHeads:
    def follow(self, hold_s: float, fps: float) -> tuple[int, Step]:
        """Frames that head 9 is still shown after it vanished."""
        config = replace(CONFIG, hold_s=hold_s)
        points = heads_m()
        state = advance(Tracks(), seen(points), 0, config).state
        for k in range(1, 200):
            step = advance(state, seen(points[:9]), round(k * SECOND / fps), config)
            if len(step.shown) == 9:
                return k - 1, step
            state = step.state
        raise AssertionError("a stale track was never withdrawn")

    @pytest.mark.parametrize("fps", [5.0, 30.0])
    def test_they_are_held_by_time_not_by_frames(self, fps: float) -> None:
        frames, step = self.follow(1.0, fps)
        assert frames == round(fps)
        assert any("withdrawn" in e for e in step.events)

    def test_they_move_with_the_others(self) -> None:
        points = heads_m()
        state = advance(Tracks(), seen(points), 0, CONFIG).state
        for k in range(1, 8):
            T = motion((2.0 * k, -1.0 * k, 0), (0.5 * k, 0, 0.8 * k), points.mean(axis=0))
            now = transform_points(T, points)
            step = advance(state, seen(np.delete(now, 4, axis=0)), k * STEP, CONFIG)
            state = step.state
        (hidden,) = (t for t, h in zip(step.shown, step.hidden, strict=True) if h)
        assert np.linalg.norm(hidden.point_m - now[4]) < 1.5e-3

    def test_when_nothing_is_seen_the_camera_may_have_moved(self) -> None:
        """No head tells how the camera moved: after a moment none may be shown any more."""
        points = heads_m()
        state = advance(Tracks(), seen(points), 0, CONFIG).state
        shown = []
        for k in range(1, 8):
            step = advance(state, [], k * STEP, CONFIG)
            shown.append(len(step.shown))
            state = step.state
        assert shown[-1] == 0
        assert step.state.tracks  # but they are found again
        back = advance(state, seen(points), 8 * STEP, CONFIG)
        assert sorted(t.track_id for t in back.shown) == list(range(10))

    def test_a_held_head_gives_way_to_a_measured_one_in_its_place(self) -> None:
        points = heads_m()
        state = advance(Tracks(), seen(points), 0, CONFIG).state
        twin = np.vstack([np.delete(points, 4, axis=0), points[4] + (5e-3, 0, 0)])
        step = advance(state, seen(twin), STEP, CONFIG)
        assert len(step.shown) == 10


class TestNewHeads:
    def test_sure_ones_are_shown_at_once_doubtful_ones_with_a_surer_sighting(self) -> None:
        points = heads_m()
        heads = [*seen(points[:5]), *seen(points[5:], confidence=0.6)]
        first = advance(Tracks(), heads, 0, CONFIG)
        assert len(first.shown) == 5
        second = advance(first.state, seen(points), STEP, CONFIG)
        assert len(second.shown) == 10

    def test_many_doubtful_sightings_do_not_make_a_sure_head(self) -> None:
        """A ghost that stands in every pair of a recording: pairs err alike."""
        points = heads_m()
        state = Tracks()
        for k in range(40):
            heads = [*seen(points[:9]), *seen(points[9:], confidence=0.65)]
            step = advance(state, heads, k * STEP, CONFIG)
            state = step.state
            assert len(step.shown) == 9

    def test_a_ghost_that_was_sure_once_is_taken_back(self) -> None:
        points = heads_m()
        step = advance(Tracks(), seen(points), 0, CONFIG)
        assert len(step.shown) == 10
        for k in range(1, 10):
            heads = [*seen(points[:9]), *seen(points[9:], confidence=0.55)]
            step = advance(step.state, heads, k * STEP, CONFIG)
        assert len(step.shown) == 9

    def test_pairs_without_a_head_that_should_be_there_speak_against_it(self) -> None:
        """Seen in one pair of five: the confidence falls below what is shown when it comes again."""
        points = heads_m()
        config = replace(CONFIG, hold_s=1.0)
        step = advance(Tracks(), seen(points), 0, config)
        told = []
        for k in range(1, 31):
            heads = seen(points[:9]) + (seen(points[9:], confidence=0.9) if k % 5 == 0 else [])
            step = advance(step.state, heads, k * SECOND // 10, config)
            told.append(len(step.shown))
        assert told[0] == 10 and told[-1] == 9

    def test_the_confidence_that_is_told_is_the_mean_over_the_pairs(self) -> None:
        points = heads_m()
        step = advance(Tracks(), seen(points, confidence=0.99), 0, CONFIG)
        step = advance(step.state, seen(points, confidence=0.9), STEP, CONFIG)
        odds = 0.5 * (np.log(99.0) + np.log(9.0))
        assert step.shown[0].head().confidence == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-3)

    def test_a_doubtful_flash_never_shows(self) -> None:
        points = heads_m()
        state = Tracks()
        for k in range(6):
            heads = seen(points[:9])
            if k % 2:
                heads += seen(points[9:], confidence=0.6)
            step = advance(state, heads, k * STEP, CONFIG)
            assert len(step.shown) == 9
            state = step.state

    def test_what_is_below_the_least_confidence_is_no_evidence(self) -> None:
        step = advance(Tracks(), seen(heads_m(), confidence=0.1), 0, CONFIG)
        assert step.state.tracks == ()


class TestTime:
    @pytest.mark.parametrize(
        ("stamp", "words"), [(-SECOND, "went back"), (0, "went back"), (3 * SECOND, "no frame for")]
    )
    def test_stamps_that_do_not_follow_reset_and_say_so(self, stamp: int, words: str) -> None:
        state = advance(Tracks(), seen(heads_m()), 0, CONFIG).state
        step = advance(state, seen(heads_m()), stamp, CONFIG)
        assert words in step.events[0]
        assert sorted(t.track_id for t in step.shown) == list(range(10, 20))

    def test_a_state_is_never_changed_in_place(self) -> None:
        state = advance(Tracks(), seen(heads_m()), 0, CONFIG).state
        kept = [t.point_m.copy() for t in state.tracks]
        advance(state, seen(heads_m() + 5e-3), STEP, CONFIG)
        assert all(np.array_equal(a, t.point_m) for a, t in zip(kept, state.tracks, strict=True))


class TestMotion:
    PRIOR = (0.02, 0.1)

    def test_agrees_with_a_closed_form_where_the_prior_is_weak(self) -> None:
        from spine_nav_common.core.geometry import kabsch

        before = heads_m()
        T = motion((5.0, -3.0, 4.0), (2.0, 1.0, -3.0), before.mean(axis=0))
        now = transform_points(T, before) + np.random.default_rng(0).normal(0, 2e-4, (10, 3))
        pairs = tuple((i, i) for i in range(10))
        found = solve_motion(
            before, now, np.tile(1e-8 * np.eye(3), (10, 1, 1)), pairs, (10.0, 10.0),
            before.mean(axis=0),
        )  # fmt: skip
        # robust weights differ a little from plain ones
        assert np.allclose(found.T_now_before, kabsch(before, now), atol=3e-4)

    def test_one_head_tells_nothing_of_the_turn(self) -> None:
        before = heads_m()
        covariance = np.tile(1e-8 * np.eye(3), (10, 1, 1))
        found = match(before, covariance, before[:1], covariance[:1], self.PRIOR, 0.012)
        _, far = found.motion.spread_at(before[9])
        _, near = found.motion.spread_at(before[0])
        assert np.sqrt(np.trace(far)) > 5.0 * np.sqrt(np.trace(near))

    def test_a_head_that_moved_alone_does_not_take_the_others_along(self) -> None:
        before = heads_m()
        now = before.copy()
        now[0, 0] += 8e-3
        covariance = np.tile(1e-8 * np.eye(3), (10, 1, 1))
        found = match(before, covariance, now, covariance, self.PRIOR, 0.012)
        assert (
            np.linalg.norm(transform_points(found.motion.T_now_before, before[5]) - now[5]) < 3e-4
        )

    def test_nothing_to_pair_leaves_the_prior(self) -> None:
        none = np.zeros((0, 3))
        found = match(none, np.zeros((0, 3, 3)), none, np.zeros((0, 3, 3)), self.PRIOR, 0.012)
        assert found.pairs == ()
        assert np.allclose(found.motion.T_now_before, np.eye(4))
        assert np.allclose(np.diag(found.motion.drift)[:3], 0.02**2)
