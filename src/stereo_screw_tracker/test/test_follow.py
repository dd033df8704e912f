# SPDX-License-Identifier: Apache-2.0
"""Between two searches known heads and rods are looked at where they are, and nothing goes stale."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from screw_support import CAMERA, NO_SEEDS, SECOND, World, frame, rod_m

from spine_nav_common.core.types import RodFit, StereoResult
from stereo_screw_tracker.core.confidence import ConfidenceModel
from stereo_screw_tracker.core.config import RodConfig, StereoConfig
from stereo_screw_tracker.core.follow import picture_shift, rough_curve, thumbnail, unknown
from stereo_screw_tracker.core.looks import SETTLED_PAIRS
from stereo_screw_tracker.core.rod_group import SeedCurve
from stereo_screw_tracker.core.tracker import StereoTracker

STEP = SECOND // 15


def tracker(world: World, **changes: object) -> StereoTracker:
    refiner_alone = ConfidenceModel(0.0, 1.0, 0.0)
    return StereoTracker(
        StereoConfig(cranial="up", **changes), world, world, world, confidence=refiner_alone
    )


def rows(t: StereoTracker, k: int, **changes: object) -> StereoResult:
    result = t.process(frame(k * STEP, **changes))
    assert isinstance(result, StereoResult), result.reason
    return result


@pytest.mark.parametrize(("every", "wanted"), [(1, 16), (3, SETTLED_PAIRS + 5)])
def test_the_picture_is_searched_in_turns(every: int, wanted: int) -> None:
    world = World(sigma_px=0.1, rods=[rod_m("left")])
    t = tracker(world, search_every=every)
    for k in range(16):
        world.move((1.0, 0.5, -0.5), (0.1, 0.2, 0.1))
        result = rows(t, k)
        assert len(result.screws) == 10 and not any(s.hidden for s in result.screws)
        assert len(result.rods) == 1
        off = np.linalg.norm(result.screws[0].head.point_m - world.now(), axis=1).min()
        assert 1e3 * off < 3.0
    assert abs(world.searched - wanted) <= 1


def test_a_head_that_comes_into_view_is_found_within_one_turn() -> None:
    world = World(sigma_px=0.1, hidden={2})
    t = tracker(world)
    for k in range(8):
        rows(t, k)
    world.hidden = set()
    found = [len(rows(t, 8 + k).screws) for k in range(3)]
    assert found[-1] == 10


def test_the_picture_is_searched_at_once_where_most_heads_are_not_where_they_should_be() -> None:
    world = World(sigma_px=0.1)
    t = tracker(world)
    k = 0
    while k < 4 or t._looks.since_search != 0:  # the next pair would not be searched
        rows(t, k)
        k += 1
    before = world.searched
    world.move((25.0, 0.0, 0.0), (0.0, 0.0, 0.0))  # 30 px, and the picture does not tell
    result = rows(t, k)
    assert world.searched == before + 1
    assert len(result.screws) >= 10


def test_a_search_tells_what_the_finder_thinks_of_known_heads() -> None:
    """Heads that the refiner likes go on being shown only while the finder likes them too."""
    world = World(sigma_px=0.1)
    t = StereoTracker(
        StereoConfig(), world, world, world, confidence=ConfidenceModel(0.0, 0.5, 2.0)
    )
    for k in range(6):
        assert len(rows(t, k).screws) == 10
    world.score = 0.15
    shown = [len(rows(t, 6 + k).screws) for k in range(30)]
    assert shown[-1] == 0


@pytest.mark.parametrize("who", ["find", "refine"])
def test_an_error_of_either_network_comes_out_of_a_searched_pair(
    who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(sigma_px=0.1)
    t = tracker(world)
    k = 0
    while k < 4 or t._looks.since_search != t.config.search_every - 1:  # the next is searched
        rows(t, k)
        k += 1

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no memory")

    with monkeypatch.context() as m:
        m.setattr(world, who, broken)
        with pytest.raises(RuntimeError, match="no memory"):
            rows(t, k)
    assert len(rows(t, k).screws) == 10  # and nothing of it is left


def test_known_heads_are_looked_for_where_the_picture_moved_to() -> None:
    """24 px between two pairs: farther than the fake refiner (15 px) sees."""
    rng = np.random.default_rng(5)
    scene = cv2.GaussianBlur(rng.uniform(0, 255, (700, 900)), (0, 0), 6.0)
    scene = cv2.normalize(scene, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)

    def views(shift: int) -> dict[str, np.ndarray]:
        return {
            "left": scene[100:580, 120 - shift : 760 - shift].copy(),
            "right": scene[100:580, 190 - shift : 830 - shift].copy(),
        }

    world = World(sigma_px=0.1)
    t = tracker(world)
    k = 0
    while k < 4 or t._looks.since_search != 0:
        rows(t, k, **views(0))
        k += 1
    before = world.searched
    mm_per_px = 1e3 * 0.5 / CAMERA.intrinsics.fx
    world.move((24 * mm_per_px, 0.0, 0.0), (0.0, 0.0, 0.0))
    result = rows(t, k, **views(24))
    assert world.searched == before
    assert sum(not s.hidden for s in result.screws) == 10


def test_a_rod_that_was_taken_away_is_gone() -> None:
    world = World(sigma_px=0.1, rods=[rod_m("left"), rod_m("right")])
    t = tracker(world)
    for k in range(7):
        assert len(rows(t, k).rods) == 2
    world.rods = world.rods[:1]
    assert [len(rows(t, 7 + k).rods) for k in range(4)][-1] == 1


def test_a_known_rod_that_the_finder_overlooks_stays_where_it_is_measured() -> None:
    over_the_wound = rod_m("left") - (0.0, 0.0, 0.06)  # no head tells of it
    world = World(sigma_px=0.1, rods=[over_the_wound])
    t = tracker(world, rods=RodConfig(lone_beyond=9.0))  # no picture of it
    assert len(rows(t, 0).rods) == 1
    find = world.find
    world.find = lambda *args: replace(find(*args), rod_seeds=NO_SEEDS)
    before = world.searched
    assert [len(rows(t, 1 + k).rods) for k in range(8)] == [1] * 8
    assert world.searched > before


def test_the_shift_of_the_picture_is_measured_and_unlike_pictures_have_none() -> None:
    rng = np.random.default_rng(2)
    scene = cv2.GaussianBlur(rng.uniform(0, 255, (600, 800)), (0, 0), 6.0)
    scene = cv2.normalize(scene, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)
    size = (640, 480)
    cut = [
        thumbnail(frame(0, left=scene[y : y + 480, x : x + 640])) for x, y in ((60, 60), (40, 72))
    ]
    assert picture_shift(cut[0], cut[1], size) == pytest.approx((20.0, -12.0), abs=1.0)
    noise = rng.uniform(0, 255, (120, 160)).astype(np.float32)
    assert picture_shift(cut[0], noise, size) == pytest.approx((0.0, 0.0))


def test_known_rods_are_told_from_new_ones() -> None:
    left, right = (SeedCurve(rod_m(side)[::8], 1.0) for side in ("left", "right"))
    deeper = left.points_m * 1.02  # the same place in the picture: the finder's depth is rough
    (new,) = unknown([deeper], [left, right], CAMERA, 5.0)
    assert new is right
    assert unknown([rod_m("right")[::8]], [left], CAMERA, 5.0) == [left]


def test_the_next_pair_begins_on_the_rod_itself_without_its_ends() -> None:
    line = rod_m("left")
    curve = rough_curve(RodFit(line, np.ones(len(line)), np.ones(len(line), bool), "left"))
    assert np.linalg.norm(curve[:, None] - line, axis=2).min(axis=1).max() < 1e-9
    step = 1e3 * np.linalg.norm(np.diff(curve, axis=0), axis=1)
    assert 2.0 < step.min() and step.max() < 4.0
    for end in (0, -1):
        assert 8.0 < 1e3 * np.linalg.norm(curve[end] - line[end]) < 10.0


def test_an_end_that_was_seen_too_far_does_not_stay() -> None:
    long, short = rod_m("left", reach_mm=21.0), rod_m("left", reach_mm=12.0)
    world = World(sigma_px=0.1, rods=[long])
    t = tracker(world)
    for k in range(8):
        rows(t, k)
    world.rods = [short]
    (rod,) = [rows(t, 8 + k).rods[0] for k in range(3)][-1:]
    for end in (rod.centreline_m[0], rod.centreline_m[-1]):
        beyond = np.linalg.norm(short[[0, -1]] - end, axis=1).min()
        assert 1e3 * beyond < 4.0
