# SPDX-License-Identifier: Apache-2.0
"""Between two searches a glance is enough for what stays; what goes, moves or changes is measured in
the same pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from screw_support import SECOND, World, frame, in_camera, observe, patient_heads_mm, rod_m

from spine_nav_common.core.types import StereoResult
from stereo_screw_tracker.core.confidence import ConfidenceModel
from stereo_screw_tracker.core.config import StereoConfig
from stereo_screw_tracker.core.tracker import StereoTracker

STEP = SECOND // 15


class Glancing(World):
    """A world that tells full looks at heads from glances."""

    refined: int = 0
    doubted_at: tuple[int, ...] = ()

    def refine(self, frame, candidates):
        """As World; the heads `doubted_at` are none to a full look."""
        self.refined += len(candidates)
        seen = World.refine(self, frame, candidates)
        places = [observe(self.now()[i]).left_px for i in self.doubted_at]
        return tuple(
            replace(o, confidence=0.1)
            if any(np.linalg.norm(o.left_px - p) < 5.0 for p in places)
            else o
            for o in seen
        )

    def glance(self, frame, candidates):
        """Always pleased."""
        self.glanced += len(candidates)
        return World.refine(self, frame, candidates)


def watched(world: World, more: int = 3) -> tuple[StereoTracker, int]:
    """A tracker for which everything has settled, and the number of a pair that it will not search."""
    t = StereoTracker(
        StereoConfig(cranial="up"), world, world, world, confidence=ConfidenceModel(0.0, 1.0, 0.0)
    )
    k = 0
    while k < 6 + more or t._looks.since_search != 0:
        world.move((1.0, 0.5, -0.5), (0.1, 0.2, 0.1))
        rows(t, k)
        k += 1
    return t, k


def rows(t: StereoTracker, k: int) -> StereoResult:
    result = t.process(frame(k * STEP))
    assert isinstance(result, StereoResult), result.reason
    return result


def off_mm(points: np.ndarray, curve: np.ndarray) -> np.ndarray:
    return 1e3 * np.linalg.norm(points[:, None] - curve, axis=2).min(axis=1)


def test_settled_heads_and_rods_get_a_glance_where_the_picture_is_not_searched() -> None:
    world = Glancing(confidence=0.99, sigma_px=0.1, rods=[rod_m("left"), rod_m("right")])
    t, k = watched(world)
    world.refined = world.glanced = world.rod_places = 0
    world.move((1.0, 0.5, -0.5), (0.1, 0.2, 0.1))
    result = rows(t, k)
    assert (world.glanced, world.refined) == (10, 0)
    assert 0 < world.rod_places < 45  # of two rods of 150 mm, at every 3 mm and beyond them: 150
    assert len(result.rods) == 2 and not any(s.hidden for s in result.screws)
    for rod, truth in zip(result.rods, world.rods_now(), strict=True):
        assert off_mm(rod.centreline_m, truth).max() < 1.5
        assert rod.seen.mean() > 0.9
    assert min(off_mm(s.head.point_m[None], world.now())[0] for s in result.screws) < 1.0


def test_a_head_that_is_gone_is_told_as_not_seen_in_the_pair_in_which_it_goes() -> None:
    world = Glancing(confidence=0.99, sigma_px=0.1)
    t, k = watched(world)
    world.hidden = {3}
    result = rows(t, k)
    gone = [s for s in result.screws if off_mm(s.head.point_m[None], world.now()[3:4])[0] < 5.0]
    assert all(s.hidden for s in gone)
    assert sum(not s.hidden for s in result.screws) == 9


def test_a_head_that_moves_by_itself_is_refined_in_that_pair() -> None:
    world = Glancing(confidence=0.99, sigma_px=0.1)
    t, k = watched(world)
    world.refined = 0
    world.heads[3] += (0.004, 0.0, 0.0)
    result = rows(t, k)
    assert world.refined == 1
    assert min(off_mm(s.head.point_m[None], world.now()[3:4])[0] for s in result.screws) < 1.5


def test_a_glance_does_not_bring_back_what_a_full_look_disowned() -> None:
    world = Glancing(confidence=0.99, sigma_px=0.1)
    t, k = watched(world)
    world.doubted_at = (3,)
    seen = [sum(not s.hidden for s in rows(t, k + j).screws) for j in range(7)]
    assert seen[0] == 10  # glanced at
    assert seen[2:] == [9] * 5  # the picture was searched once, and then was not


def bent(rod: np.ndarray, by_mm: float) -> np.ndarray:
    """The rod with a bow between two heads, which it leaves where they are."""
    s = np.linspace(0.0, 1e3 * np.linalg.norm(rod[-1] - rod[0]), len(rod))
    heads = in_camera(patient_heads_mm("left"))[1:3].mean(axis=0)
    middle = s[np.linalg.norm(rod - heads, axis=1).argmin()]
    return rod + 1e-3 * by_mm * np.exp(-(((s - middle) / 8.0) ** 2))[:, None] * (1.0, 0.0, 0.0)


def slid(rod: np.ndarray, by_mm: float) -> np.ndarray:
    """The rod on along itself."""
    return rod + 1e-3 * by_mm * (rod[-1] - rod[0]) / np.linalg.norm(rod[-1] - rod[0])


@pytest.mark.parametrize(
    ("change", "most_mm"),
    [
        (lambda rod: rod + (0.004, 0.0, 0.0), 2.0),
        (lambda rod: bent(rod, 3.0), 2.0),
        (lambda rod: slid(rod, 12.0), 3.5),
        (lambda rod: rod[: len(rod) // 2], 3.5),
    ],
    ids=["beside", "bent", "slid", "shorter"],
)
def test_a_rod_that_changes_is_measured_anew_in_that_pair(
    change: Callable[[np.ndarray], np.ndarray], most_mm: float
) -> None:
    world = Glancing(confidence=0.99, sigma_px=0.1, rods=[rod_m("left")])
    t, k = watched(world)
    world.rods = [change(rod_m("left"))]
    truth = world.rods_now()[0]
    for rod in rows(t, k).rods:  # or it is not shown
        line = rod.centreline_m[rod.seen]
        assert off_mm(line, truth).max() < most_mm
        assert off_mm(truth[[0, -1]], line).max() < 6.0


def test_a_rod_that_is_taken_away_is_not_shown_in_that_pair() -> None:
    world = Glancing(confidence=0.99, sigma_px=0.1, rods=[rod_m("left"), rod_m("right")])
    t, k = watched(world)
    world.rods = world.rods[:1]
    (rod,) = rows(t, k).rods
    assert off_mm(rod.centreline_m, world.rods_now()[0]).max() < 1.5


def test_a_head_that_leaves_its_rod_is_not_drawn_to_it() -> None:
    world = Glancing(confidence=0.99, sigma_px=0.1, rods=[rod_m("left")])
    t, k = watched(world)
    at = int(np.linalg.norm(world.heads - in_camera(patient_heads_mm("left"))[2], axis=1).argmin())
    world.heads[at] += (0.006, 0.0, 0.0)
    before = world.rod_places
    result = rows(t, k)
    assert world.rod_places - before > 45  # measured in full, and the heads that hold it found anew
    away = [off_mm(s.head.point_m[None], world.now()[at : at + 1])[0] for s in result.screws]
    assert min(away) < 1.0
