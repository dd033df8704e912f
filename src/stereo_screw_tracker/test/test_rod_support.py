# SPDX-License-Identifier: Apache-2.0
"""A rod that heads hold speaks for doubted heads along it, and for nothing beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from screw_support import CAMERA, SECOND, World, frame, heads_m, observe, rod_m

from spine_nav_common.core.types import StereoResult
from stereo_screw_tracker.core.confidence import ConfidenceModel
from stereo_screw_tracker.core.config import RodConfig, StereoConfig
from stereo_screw_tracker.core.rod_support import supported
from stereo_screw_tracker.core.tracker import StereoTracker

STEP = SECOND // 15
DOUBTED = 2  # the middle head of the left row


class Doubting(World):
    """A world of which one head is doubted by the refiner."""

    def refine(self, frame, candidates):
        """As World, and doubtful at that head."""
        seen = super().refine(frame, candidates)
        place = observe(self.now()[DOUBTED]).left_px
        return tuple(
            replace(o, confidence=0.6) if np.linalg.norm(o.left_px - place) < 5.0 else o
            for o in seen
        )


def shown(world: World, pairs: int = 6, **rods: object) -> list[int]:
    """How many heads are shown in each pair, while the camera moves."""
    refiner_alone = ConfidenceModel(0.0, 1.0, 0.0)
    config = StereoConfig(cranial="up", rods=RodConfig(**rods))
    t = StereoTracker(config, world, world, world, confidence=refiner_alone)
    counts = []
    for k in range(pairs):
        if k:
            world.move((2.0, -1.0, 1.0), (0.5, 0.3, -0.6))
        result = t.process(frame(k * STEP))
        assert isinstance(result, StereoResult)
        counts.append(len(result.screws))
    return counts


def test_a_doubted_head_on_a_rod_that_others_hold_is_shown() -> None:
    counts = shown(Doubting(rods=[rod_m("left")], sigma_px=0.1), head_log_odds=2.0)
    assert counts[0] == 9  # the rod itself is new
    assert counts[-2:] == [10, 10]


def test_without_that_rod_it_waits() -> None:
    assert shown(Doubting(sigma_px=0.1), head_log_odds=2.0) == [9] * 6
    assert shown(Doubting(rods=[rod_m("right")], sigma_px=0.1), head_log_odds=2.0) == [9] * 6
    assert shown(Doubting(rods=[rod_m("left")], sigma_px=0.1)) == [9] * 6


def test_a_rod_that_no_head_holds_speaks_for_none() -> None:
    """Held in a hand over the wound: 30 mm before the saddles, and no second opinion."""
    over = rod_m("left") * (0.47 / 0.5)
    world = Doubting(rods=[over], sigma_px=0.1)
    assert (
        shown(world, head_log_odds=2.0, lone_log_odds=0.0, lone_outline=0.0, lone_beyond=9.0)
        == [9] * 6
    )


@pytest.mark.parametrize(
    "off_mm,raised", [((0, 0, 0), True), ((2, 0, 0), True), ((5, 0, 0), False), ((0, 0, 60), False)]
)
def test_both_images_must_show_it_on_the_rod(off_mm: tuple, raised: bool) -> None:
    """Before or behind the rod it lies beside it in one image at least."""
    place = heads_m(("left",))[DOUBTED] + 1e-3 * np.array(off_mm)
    one = observe(place, confidence=0.4)
    (out,) = supported([one], [rod_m("left")], CAMERA, 2.0)
    odds = np.log(0.4 / 0.6) + (2.0 if raised else 0.0)
    assert out.confidence == pytest.approx(1.0 / (1.0 + np.exp(-odds)))


def test_numbers_that_are_none_are_left_to_the_screen() -> None:
    bad = replace(observe(heads_m()[0]), right_px=np.array([np.nan, 1.0]))
    assert supported([bad], [rod_m("left")], CAMERA, 2.0)[0].confidence == bad.confidence
