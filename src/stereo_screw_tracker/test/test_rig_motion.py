# SPDX-License-Identifier: Apache-2.0
"""Eyes that move against each other are told in words; a moving camera, a hand and breath are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from screw_support import heads_m
from texture_support import moved, pair

from spine_nav_common.core.geometry import transform
from spine_nav_common.core.types import Rejected, StereoFrame
from spine_nav_sim.core.stereo_faults import Fault, bumped, drifting, rolling, sheared, wet
from stereo_screw_tracker.core import rig_motion
from stereo_screw_tracker.core.odometry import Picture, Texture
from stereo_screw_tracker.core.rig_motion import CHECK_NS, RigChange, RigWatch, rig_change

PAIRS = 12


def path(k: int, still: bool = False) -> np.ndarray:
    """A hand-held camera: nearer, aside and turned, back and forth."""
    if still:
        return np.eye(4)
    a, b = np.sin(0.7 * k), np.sin(0.45 * k + 0.3) - np.sin(0.3)
    return moved((12 * a, -8 * b, 15 * b), (2.5 * b, -2 * a, 3 * a))


def pairs(still: bool = False, hand_from: int = PAIRS) -> list[StereoFrame]:
    hand = transform(np.eye(3), np.array([0.06, 0.0, 0.42]))
    return [
        pair(path(k, still), hand if k >= hand_from else None, stamp=(k + 1) * CHECK_NS)
        for k in range(PAIRS)
    ]


def answers(frames: list[StereoFrame]) -> list[str]:
    """Of a watch over the frames, '' where a pair may be used."""
    watch = RigWatch()
    said = [watch.look(f, heads_m()) for f in frames]
    return ["" if r is None else r.reason for r in said]


def spoiled(fault: Fault, **where: bool) -> list[str]:
    return answers(fault(pairs(**where)))


@pytest.mark.parametrize("still", [True, False])
def test_a_camera_that_moves_is_no_bump_nor_is_a_hand(still: bool) -> None:
    assert not any(answers(pairs(still)))
    assert not any(answers(pairs(still, hand_from=5)))


def test_noise_is_no_bump() -> None:
    rng = np.random.default_rng(5)

    def grain(image: np.ndarray) -> np.ndarray:
        return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)

    frames = [replace(f, left=grain(f.left), right=grain(f.right)) for f in pairs()]
    assert not any(answers(frames))


@pytest.mark.parametrize("yaw_px", [-2.0, -1.0, 1.0, 2.0])
@pytest.mark.parametrize("still", [True, False])
def test_vergence_that_jumps_is_told_with_what_it_does_to_depth(yaw_px: float, still: bool) -> None:
    said = spoiled(bumped(4, yaw_px), still=still)
    assert not any(said[:4]) and all(said[4:])
    # 600 px, 60 mm and half a metre: 72 px of disparity
    percent = float(said[4].split("wrong by ")[1].split(" %")[0])
    assert percent == pytest.approx(100 * yaw_px / 72, abs=0.35)
    assert "moved against each other" in said[4] and "calibrate" in said[4]


@pytest.mark.parametrize("yaw_px", [-2.0, 2.0])
def test_the_pair_of_the_bump_itself_is_refused(yaw_px: float) -> None:
    """Pairs come faster than the rig is looked at thoroughly: a glance at each tells."""
    fast = [replace(f, stamp_ns=k * CHECK_NS // 5) for k, f in enumerate(pairs())]
    for at in (6, 7, 9):  # between two looks
        said = answers(bumped(at, yaw_px)(fast))
        assert not any(said[:at]) and all(said[at:])
    assert not any(answers(fast))


def test_what_a_glance_doubts_a_look_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few points, followed one way, may err; a pair is refused for what all of them say."""
    asked: list[bool] = []

    def misled(
        then: Texture, now: Picture, T: np.ndarray, thorough: bool = True
    ) -> RigChange | Rejected:
        change = rig_change(then, now, T)
        asked.append(thorough)
        assert isinstance(change, RigChange)
        return change if thorough else replace(change, moved=change.moved + 5.0)

    monkeypatch.setattr(rig_motion, "rig_change", misled)
    fast = [replace(f, stamp_ns=k * CHECK_NS // 5) for k, f in enumerate(pairs())]
    assert not any(answers(fast))
    assert asked[:2] == [False, True]


@pytest.mark.parametrize("still", [True, False])
def test_a_lens_with_drops_is_no_bump_whenever_they_come(still: bool) -> None:
    """Drops bend the picture where they lie; the rest of it stands as it did."""
    for seed in range(3):
        before = pairs(still)
        after = wet(seed=seed)(before)
        assert not any(answers(after))
        assert not any(answers(before[:4] + after[4:]))
        bump = bumped(4, 2.0)(after)  # and it is told beside them
        assert all(answers(bump)[4:]) and not any(answers(bump)[:4])


def test_a_rig_that_drifts_is_refused_before_it_is_a_percent_off() -> None:
    said = spoiled(drifting(2.0))
    first = next(k for k, reason in enumerate(said) if reason)
    assert 1 < first <= 6  # 2 px in eleven steps: 1 px is 1.4 % of the depth
    assert all(said[first:])


def test_rows_that_jump_and_an_eye_that_rolls_are_told() -> None:
    for fault in (bumped(4, 0.0, 2.0), bumped(4, 0.0, 0.0, 0.5)):
        said = spoiled(fault)
        assert not any(said[:4]) and all("rows" in reason for reason in said[4:])


def test_rows_that_are_read_while_the_camera_moves_are_told() -> None:
    frames = pairs(still=True)
    frames[6] = sheared(frames[6], 6.0)
    said = answers(frames)
    assert "reads its rows while it moves" in said[6]
    assert not any(said[:6] + said[7:])  # it is over when the camera rests


def test_a_fast_camera_with_a_rolling_shutter_in_one_eye_is_told() -> None:
    assert any(spoiled(rolling(0.3)))


def test_a_refused_rig_stays_refused_until_it_is_seen_to_be_right() -> None:
    frames = bumped(4, 2.0)(pairs(still=True))
    blind = replace(frames[5], left=np.full_like(frames[5].left, 90))
    good = pairs(still=True)[7]
    watch = RigWatch()
    for f in frames[:4]:
        assert watch.look(f, heads_m()) is None
    assert isinstance(watch.look(frames[4], heads_m()), Rejected)
    assert isinstance(watch.look(blind, heads_m()), Rejected)  # nothing was seen that absolves it
    soon = replace(good, stamp_ns=blind.stamp_ns + CHECK_NS // 2)
    assert isinstance(watch.look(soon, heads_m()), Rejected)
    assert watch.look(good, heads_m()) is None


def test_a_drift_is_summed_up_over_references_that_replace_each_other() -> None:
    """The camera goes on along the wound; little of the first pair is left in the last."""
    along = [
        pair(moved((-9.0 * k, 0, 0), (0, 0, 0)), stamp=(k + 1) * CHECK_NS) for k in range(PAIRS)
    ]
    assert not any(answers(along))
    assert answers(drifting(1.5)(along))[-1]


def test_nothing_is_said_without_heads() -> None:
    watch = RigWatch()
    for f in bumped(2, 3.0)(pairs()):
        assert watch.look(f, np.zeros((0, 3))) is None
