# SPDX-License-Identifier: Apache-2.0
"""The whole tracker with fakes for its networks: what it shows, holds, refuses, and in which words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from screw_support import CAMERA, SECOND, World, frame, heads_m, image, observe, rod_m
from texture_support import pair

from spine_nav_common.core.errors import RodError
from spine_nav_common.core.geometry import transform
from spine_nav_common.core.screw_rows import saddle_rows
from spine_nav_common.core.types import Rejected, StereoResult
from spine_nav_sim.core.stereo_faults import turned
from stereo_screw_tracker.core.confidence import ConfidenceModel
from stereo_screw_tracker.core.config import RodConfig, StereoConfig, TrackConfig
from stereo_screw_tracker.core.load import load_tracker, warm_pairs
from stereo_screw_tracker.core.odometry import Wound
from stereo_screw_tracker.core.output import screw_rows
from stereo_screw_tracker.core.pair_check import check_pair
from stereo_screw_tracker.core.pair_geometry import check_geometry
from stereo_screw_tracker.core.rectification import check_rig
from stereo_screw_tracker.core.tracker import StereoTracker
from stereo_screw_tracker.core.types import HeadObservation

STEP = SECOND // 15


def tracker(world: World, **changes: object) -> StereoTracker:
    refiner_alone = ConfidenceModel(0.0, 1.0, 0.0)  # so that a test sets the confidence itself
    return StereoTracker(
        StereoConfig(cranial="up", **changes), world, world, world, confidence=refiner_alone
    )


def shown(result: StereoResult | Rejected) -> StereoResult:
    assert isinstance(result, StereoResult), result.reason
    return result


def off_mm(result: StereoResult, world: World) -> np.ndarray:
    """Distance of every row to the nearest true head."""
    rows = np.array([s.head.point_m for s in result.screws])
    return 1e3 * np.linalg.norm(rows[:, None] - world.now(), axis=2).min(axis=1)


def test_every_head_gets_one_row_with_side_and_bound_in_the_first_frame() -> None:
    world = World(sigma_px=0.1)
    result = shown(tracker(world).process(frame(0)))
    assert len(result.screws) == 10
    assert [s.track_id for s in result.screws] == list(range(10))
    assert (off_mm(result, world) < [s.bound95_mm for s in result.screws]).mean() > 0.8
    for screw in result.screws:
        truth = np.linalg.norm(world.now() - screw.head.point_m, axis=1).argmin()
        assert screw.side == ("left" if truth < 5 else "right")
        assert screw.level == ""  # nothing tells


def test_ids_stay_with_their_screws_while_the_camera_moves() -> None:
    world = World(sigma_px=0.15)
    t = tracker(world)
    first: dict[int, int] = {}
    for k in range(12):
        if k:
            world.move((3.0, -2.0, 2.0), (0.8, 0.5, -1.0))
        result = shown(t.process(frame(k * STEP)))
        assert len(result.screws) == 10
        for s in result.screws:
            truth = int(np.linalg.norm(world.now() - s.head.point_m, axis=1).argmin())
            assert first.setdefault(s.track_id, truth) == truth
    assert off_mm(result, world).mean() < 1.5


def test_a_head_that_the_finder_misses_is_looked_for_where_its_track_expects_it() -> None:
    world = World()
    t = tracker(world)
    t.process(frame(0))
    world.missed = {3}
    world.move((2.0, 1.0, 0.0), (0.3, 0.0, 0.3))
    result = shown(t.process(frame(STEP)))
    assert len(result.screws) == 10
    assert not any(s.hidden for s in result.screws)


def test_a_hidden_head_is_held_moved_along_and_then_withdrawn() -> None:
    world = World(sigma_px=0.1)
    t = tracker(world)
    t.process(frame(0))
    world.hidden = {4}
    seen_hidden, bounds = 0, []
    for k in range(1, 40):
        world.move((1.0, 0.5, 0.5), (0.2, 0.1, 0.2))
        result = shown(t.process(frame(k * STEP)))
        held = [s for s in result.screws if s.hidden]
        if held:
            seen_hidden += 1
            bounds.append(held[0].bound95_mm)
            far = np.linalg.norm(held[0].head.point_m - world.now()[4])
            assert 1e3 * far < 2.0 * held[0].bound95_mm
        if any("withdrawn" in e for e in result.events):
            break
    assert 5 < seen_hidden <= 23  # 1.5 s at 15 Hz
    assert bounds == sorted(bounds)  # ever less certain
    assert len(result.screws) == 9
    assert len(shown(t.process(frame((k + 1) * STEP))).screws) == 9


def test_no_screws_in_view_is_a_result_without_rows() -> None:
    world = World(heads=np.zeros((0, 3)))
    result = shown(tracker(world).process(frame(0)))
    assert result.screws == () and result.rods == ()


def test_rods_of_both_sides_are_reported_cranial_end_first() -> None:
    rods = [rod_m("left"), rod_m("right")]
    world = World(rods=rods, sigma_px=0.1)
    result = shown(tracker(world).process(frame(0)))
    assert {r.side for r in result.rods} == {"left", "right"}
    for rod in result.rods:
        truth = rods[0 if rod.side == "left" else 1]
        off = 1e3 * np.linalg.norm(rod.centreline_m[:, None] - truth, axis=2).min(axis=1)
        assert off.mean() < 0.8 and off.max() < 2.5
        assert np.linalg.norm(np.diff(rod.centreline_m, axis=0), axis=1).max() <= 1e-3
        assert rod.centreline_m[0, 1] < rod.centreline_m[-1, 1]  # head lies up in the image


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"left": np.zeros((480, 640), np.uint8)}, "left image is black"),
        ({"right": np.zeros((480, 640), np.uint8)}, "right image is black"),
        ({"right": np.full((480, 640), 255, np.uint8)}, "right image is overexposed"),
        ({"left": np.full((480, 640), 90, np.uint8)}, "left image shows nothing"),
        ({"right": image(0)}, "same image"),
        ({"right": image(1)[:240]}, "same resolution"),
        ({"left": image(0).astype(np.float32)}, "8-bit"),
        ({"baseline_m": 60.0}, "P[3]"),
        ({"baseline_m": 0.0}, "P[3]"),
        ({"baseline_m": -0.06}, "swapped"),
        ({"baseline_m": float("nan")}, "calibrate"),
        ({"intrinsics": replace(CAMERA.intrinsics, width=1280)}, "calibrate at the resolution"),
    ],
)
def test_a_pair_that_cannot_be_used_is_refused_with_the_remedy(changes: dict, words: str) -> None:
    world = World()
    result = tracker(world).process(frame(0, **changes))
    assert isinstance(result, Rejected)
    assert words in result.reason
    assert world.measured == 0  # no network was asked


def test_a_refused_pair_does_not_lose_the_tracks() -> None:
    world = World()
    t = tracker(world)
    ids = [s.track_id for s in shown(t.process(frame(0))).screws]
    assert isinstance(t.process(frame(STEP, left=np.zeros((480, 640), np.uint8))), Rejected)
    assert [s.track_id for s in shown(t.process(frame(2 * STEP))).screws] == ids


def test_the_same_stamp_twice_is_refused() -> None:
    t = tracker(World())
    t.process(frame(5))
    again = t.process(frame(5))
    assert isinstance(again, Rejected) and "twice" in again.reason


def test_reset_counts_ids_from_zero_again() -> None:
    world = World()
    t = tracker(world)
    t.process(frame(0))
    t.reset()
    result = shown(t.process(frame(0)))
    assert [s.track_id for s in result.screws] == list(range(10))
    assert result.events == ()


def test_doubtful_heads_wait_for_a_surer_sighting() -> None:
    world = World(confidence=0.6, sigma_px=0.1)
    t = tracker(world)
    for k in range(3):
        assert shown(t.process(frame(k * STEP))).screws == ()
    world.confidence = 0.99
    assert len(shown(t.process(frame(3 * STEP))).screws) == 10


def test_what_the_refiner_disowns_is_no_row() -> None:
    world = World(confidence=0.05)
    t = tracker(world)
    for k in range(3):
        assert shown(t.process(frame(k * STEP))).screws == ()


class Spoiled(World):
    """A world whose head refiner answers one head with numbers that are none."""

    def refine(self, frame, candidates) -> tuple[HeadObservation, ...]:
        first, *others = super().refine(frame, candidates)
        return (replace(first, right_px=np.array([np.nan, 240.0])), *others)


def test_a_measurement_that_is_not_a_number_takes_no_other_head_along() -> None:
    world = Spoiled()
    assert len(shown(tracker(world, look_again=False).process(frame(0))).screws) == 9


def test_a_refiner_that_answers_nonsense_of_the_pair_is_a_refusal() -> None:
    """Rows that differ by 3 px everywhere: plausible points would come out, and all be wrong."""

    class Knocked(World):
        def refine(self, frame, candidates) -> tuple[HeadObservation, ...]:
            seen = super().refine(frame, candidates)
            return tuple(replace(o, right_px=o.right_px + (0.0, 3.0)) for o in seen)

    answer = tracker(Knocked()).process(frame(0))
    assert isinstance(answer, Rejected)
    assert "not rectified" in answer.reason


def test_a_rod_that_heads_hold_makes_them_more_certain() -> None:
    plain, helped = (
        shown(
            tracker(
                World(rods=[rod_m("left"), rod_m("right")], sigma_px=0.3),
                rods=RodConfig(seat_heads=seat),
            ).process(frame(0))
        )
        for seat in (False, True)
    )
    truth = World()
    assert off_mm(helped, truth).mean() < 0.8 * off_mm(plain, truth).mean()
    assert np.mean([s.bound95_mm for s in helped.screws]) < np.mean(
        [s.bound95_mm for s in plain.screws]
    )


def test_every_row_has_a_finite_bound_and_a_unit_axis() -> None:
    world = World(rods=[rod_m("left")])
    t = tracker(world)
    t.trace = []
    result = shown(t.process(frame(0)))
    assert len(t.trace) == len(result.screws) == 10
    for s in result.screws:
        assert 0.0 < s.bound95_mm < 50.0
        assert abs(np.linalg.norm(s.head.axis) - 1.0) < 1e-6


def test_a_ghost_far_behind_the_others_is_no_row() -> None:
    world = World()
    world.ghosts = [observe(np.array([0.02, 0.05, 0.75]))]
    result = shown(tracker(world).process(frame(0)))
    assert len(result.screws) == 10


def test_settings_reach_the_tracks() -> None:
    world = World()
    t = tracker(world, tracks=TrackConfig(hold_s=0.0))
    t.process(frame(0))
    world.hidden = {0}
    assert len(shown(t.process(frame(STEP))).screws) == 9


def test_what_the_finder_doubts_counts_less() -> None:
    """The same close view, and the finder's score alone decides."""
    world = World(sigma_px=0.1)
    sure = StereoTracker(
        StereoConfig(), world, world, world, confidence=ConfidenceModel(0.0, 1.0, 1.0)
    )
    doubting = StereoTracker(
        StereoConfig(), world, world, world, confidence=ConfidenceModel(-9.0, 1.0, 1.0)
    )
    assert shown(sure.process(frame(0))).screws
    assert not shown(doubting.process(frame(0))).screws


def test_a_lone_vague_head_is_not_shown_and_a_lone_sure_one_is() -> None:
    one = heads_m()[:1]
    result = shown(tracker(World(heads=one, sigma_px=0.1)).process(frame(0)))
    assert len(result.screws) == 1
    bound = result.screws[0].bound95_mm
    strict = shown(
        tracker(World(heads=one, sigma_px=0.1), lone_bound_mm=0.9 * bound).process(frame(0))
    )
    assert strict.screws == ()
    assert any("not shown" in event for event in strict.events)


def test_a_head_that_is_known_too_badly_is_not_shown_and_the_user_is_told() -> None:
    world = World(sigma_px=0.1)
    bounds = [s.bound95_mm for s in shown(tracker(world).process(frame(0))).screws]
    most = float(np.median(bounds))
    world = World(sigma_px=0.1)
    strict = shown(tracker(world, most_bound_mm=most).process(frame(0)))
    assert [s.bound95_mm for s in strict.screws] == [b for b in bounds if b <= most]
    assert 0 < len(strict.screws) < 10
    assert sum("known within" in e for e in strict.events) == 10 - len(strict.screws)


def test_heads_behind_a_hand_go_with_the_wound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine of ten are hidden while the camera turns about the tenth, which alone tells no turn."""

    def last(by_texture: bool) -> np.ndarray:
        world = World(sigma_px=0.1)
        t = tracker(world)
        before = world.T_now_first
        monkeypatch.setattr(
            Wound,
            "motion",
            lambda *_: (
                world.T_now_first @ np.linalg.inv(before) if by_texture else Rejected("no texture")
            ),
        )
        t.process(frame(0))
        world.hidden = set(range(1, 10))
        for k in range(1, 9):
            before = world.T_now_first
            world.move((1.0, 1.0, 0.0), (0.8, 0.5, 1.2))
            t.process(frame(k * STEP))
        held = [track for track in t._tracks.tracks if track.track_id >= 0]
        assert len(held) == 10
        rows = np.array([track.point_m for track in held])
        return 1e3 * np.linalg.norm(rows[:, None] - world.now(), axis=2).min(axis=1)

    assert last(by_texture=True).max() < 2.5
    assert last(by_texture=False).max() > 4.0  # what the texture is for


def test_texture_that_moves_otherwise_than_the_seen_heads_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(sigma_px=0.1)
    t = tracker(world)
    t.process(frame(0))
    world.hidden = {4}
    monkeypatch.setattr(Wound, "motion", lambda *_: transform(np.eye(3), np.array([0.02, 0, 0])))
    for k in range(1, 5):
        world.move((1.0, 0.5, 0.5), (0.2, 0.1, 0.2))
        result = shown(t.process(frame(k * STEP)))
    assert len(result.screws) == 10
    assert off_mm(result, world).max() < 2.5


@pytest.mark.parametrize("still", ["left", "right"])
def test_an_eye_that_stands_still_while_the_other_goes_on_is_refused_and_named(still: str) -> None:
    world = World(sigma_px=0.1)
    t = tracker(world)
    images = {eye: [image(10 * k + i) for k in range(4)] for i, eye in enumerate(("left", "right"))}

    def pair(k: int, **changes: np.ndarray) -> StereoResult | Rejected:
        return t.process(
            frame(k * STEP, left=images["left"][k], right=images["right"][k], **changes)
        )

    assert len(shown(pair(0)).screws) == 10
    measured = world.measured
    moving = "right" if still == "left" else "left"
    refused = t.process(frame(STEP, **{still: images[still][0], moving: images[moving][1]}))
    assert isinstance(refused, Rejected) and f"the {still} image" in refused.reason
    assert world.measured == measured  # no network was asked
    assert len(shown(pair(2)).screws) == 10  # and it is over when both go on


@pytest.mark.parametrize("eye", ["left", "right"])
def test_an_interlaced_eye_is_refused_and_named_while_it_moves(eye: str) -> None:
    world = World(sigma_px=0.1)
    t = tracker(world)
    poses = []
    for _ in range(3):
        poses.append(world.T_now_first)
        world.move((6.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    world.T_now_first = np.eye(4)
    before = pair(poses[0], stamp=0)
    assert len(shown(t.process(before)).screws) == 10
    now = pair(poses[1], stamp=STEP)
    rows = getattr(now, eye).copy()
    rows[1::2] = getattr(before, eye)[1::2]
    measured = world.measured
    answer = t.process(replace(now, **{eye: rows}))
    assert isinstance(answer, Rejected) and f"{eye} image is interlaced" in answer.reason
    assert "progressive" in answer.reason and world.measured == measured
    world.T_now_first = poses[2]
    assert len(shown(t.process(pair(poses[2], stamp=2 * STEP))).screws) == 10


def test_noise_alone_is_not_interlaced() -> None:
    assert len(shown(tracker(World(sigma_px=0.1)).process(frame(0))).screws) == 10


def test_a_rack_of_screws_beside_the_wound_is_told_and_gets_no_side() -> None:
    """One row in the wound, one in a rack 60 mm aside and 50 mm higher: as two rows of one spine."""
    wound = heads_m(("left",))
    rack = wound[:, :] + (0.06, 0.0, -0.05)
    result = shown(
        tracker(World(heads=np.concatenate([wound, rack]), sigma_px=0.1)).process(frame(0))
    )
    assert len(result.screws) == 10
    assert {(s.level, s.side) for s in result.screws} == {("", "")}
    assert any("in no bone" in e and "tray" in e for e in result.events)
    with pytest.raises(RodError, match="in no bone"):  # what a bending plan is made of
        saddle_rows(screw_rows(result), "screws.csv", cranial="up")
    both = shown(tracker(World(sigma_px=0.1)).process(frame(0)))  # two rows of a spine
    assert {s.side for s in both.screws} == {"left", "right"}
    assert not any("in no bone" in e for e in both.events)


def test_many_rods_that_no_head_holds_are_shanks_in_a_tray() -> None:
    held = rod_m("left")
    middle = held[len(held) // 2]
    along = np.linspace(-0.03, 0.03, 121)[:, None] * (0, 1, 0)  # each as long as a shank
    lying = [middle + (0.07 + 0.018 * k, 0.0, -0.04) + along for k in range(4)]
    config = RodConfig(lone_log_odds=0.0, lone_outline=0.0, lone_beyond=9.0)

    def seen(rods: list[np.ndarray]) -> StereoResult:
        return shown(tracker(World(rods=rods, sigma_px=0.1), rods=config).process(frame(0)))

    assert len(seen([held, *lying[:2]]).rods) == 3
    many = seen([held, *lying])
    assert [r.side for r in many.rods] == ["left"]
    assert any("look like rods" in e and "tray" in e for e in many.events)


def test_a_mirror_rod_alone_is_that_rod_and_no_head() -> None:
    """A lamp in polished metal looks like a tulip to one eye: rows that do not agree are no head."""
    rod = rod_m("left")
    glint = observe(rod[len(rod) // 2])
    glint = replace(glint, right_px=glint.right_px + (0.0, 4.0))
    config = RodConfig(lone_log_odds=0.0, lone_outline=0.0, lone_beyond=9.0)
    world = World(heads=np.zeros((0, 3)), rods=[rod], ghosts=[glint], sigma_px=0.1)
    world.now = lambda: np.array([[0.0, 0.0, 5.0]])  # nothing near
    t = tracker(world, rods=config)
    for k in range(3):
        result = shown(t.process(frame(k * STEP, left=image(k), right=image(k + 10))))
        assert result.screws == () and len(result.rods) == 1
        assert result.rods[0].side == ""
    world.ghosts = [observe(rod[len(rod) // 2])]  # what looks like a head to both eyes is one
    assert len(shown(t.process(frame(3 * STEP, left=image(3), right=image(13)))).screws) == 1


def test_a_rig_that_is_bumped_in_mid_run_is_refused_until_the_tracker_starts_anew() -> None:
    """Two pixels of vergence: rows agree as before, and all depths are wrong."""
    world = World(sigma_px=0.1)
    t = tracker(world)

    def seen(k: int, yaw_px: float) -> StereoResult | Rejected:
        if k:
            world.move((1.0, -0.5, 0.5), (0.2, 0.1, 0.2))
        return t.process(turned(pair(world.T_now_first, stamp=k * STEP), yaw_px, 0.0, 0.0))

    for k in range(8):
        assert len(shown(seen(k, 0.0)).screws) == 10
    for k in range(8, 45):  # from the pair of the bump on, and after tracks would be forgotten
        result = seen(k, 2.0)
        assert isinstance(result, Rejected) and "moved against each other" in result.reason
    t.reset()
    assert len(shown(seen(45, 0.0)).screws) == 10


def test_the_finder_tells_what_the_refiners_are_to_judge() -> None:
    config = StereoConfig(least_score=0.15, rods=RodConfig(least_seed_confidence=0.25))
    finder = load_tracker(config).tracker._looks._finder
    assert (finder.head_threshold, finder.rod_threshold) == (0.15, 0.25)


def test_the_pairs_that_warm_a_tracker_up_are_looked_at_whole():
    """One that is refused at once would leave the work of a first pair to the camera's."""
    config = StereoConfig()
    for flat in warm_pairs():
        assert check_pair(flat) is None
        assert check_rig(flat, config.ghosts.systematic_row_px).wrong is None
        assert check_geometry(flat) is None
