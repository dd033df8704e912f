# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rod_bending_ar.core.forward import BendStep, arc_positions_mm, replay_steps, seat

STEPS = (
    BendStep(1, 40.0, 0.0, 20.0, 0.0),
    BendStep(2, 75.0, 90.0, 12.0, 0.0),
    BendStep(3, 110.0, -150.0, 25.0, 0.0),
)


def sliced(steps: tuple[BendStep, ...], length_mm: float, die_mm: float) -> np.ndarray:
    """Independent forward model: many short rigid pieces, each turned a little in its own frame."""
    ds = 0.05
    turn, point = Rotation.identity(), np.zeros(3)
    points, rolled = [point], 0
    for s in np.arange(0.0, length_mm, ds) + ds / 2.0:
        while (
            rolled < len(steps)
            and s > steps[rolled].feed_mm - die_mm * np.radians(steps[rolled].bend_deg) / 2.0
        ):
            turn = turn * Rotation.from_euler("x", steps[rolled].rotate_deg, degrees=True)
            rolled += 1
        inside = any(abs(s - b.feed_mm) < die_mm * np.radians(b.bend_deg) / 2.0 for b in steps)
        half = Rotation.from_euler("z", ds / die_mm / 2.0 if inside else 0.0)
        turn = turn * half
        point = point + ds * turn.apply([1.0, 0.0, 0.0])
        turn = turn * half
        points.append(point)
    return np.array(points)


def test_replay_agrees_with_a_rod_of_short_rigid_pieces() -> None:
    rod = replay_steps(STEPS, 150.0, 30.0)
    other = sliced(STEPS, 150.0, 30.0)
    assert np.linalg.norm(rod[-1] - other[-1]) < 0.15
    assert np.linalg.norm(rod[len(rod) // 2] - other[len(other) // 2]) < 0.15


def test_rod_keeps_its_length_and_the_dies_radius() -> None:
    rod = replay_steps(STEPS, 150.0, 30.0)
    assert arc_positions_mm(rod)[-1] == pytest.approx(150.0, abs=0.02)
    way = np.diff(rod, axis=0)
    way /= np.linalg.norm(way, axis=1)[:, None]
    turned = np.arccos(np.clip((way[1:] * way[:-1]).sum(1), -1.0, 1.0)) / 0.5
    assert 1.0 / turned.max() == pytest.approx(30.0, rel=0.01)


def test_no_step_leaves_a_straight_rod() -> None:
    rod = replay_steps((), 80.0, 30.0)
    assert np.allclose(rod[:, 1:], 0.0)
    assert rod[-1, 0] == 80.0


@pytest.mark.parametrize(
    "steps",
    [
        (BendStep(1, 40.0, 0.0, 40.0, 0.0), BendStep(2, 50.0, 0.0, 40.0, 0.0)),
        (BendStep(1, 75.0, 0.0, 10.0, 0.0), BendStep(2, 40.0, 0.0, 10.0, 0.0)),
        (BendStep(1, 2.0, 0.0, 20.0, 0.0),),
        (BendStep(1, 149.0, 0.0, 20.0, 0.0),),
        (BendStep(1, 40.0, 0.0, -5.0, 0.0),),
    ],
    ids=["overlap", "out of order", "before the rod", "beyond the rod", "negative"],
)
def test_steps_that_no_bender_can_make_are_refused(steps: tuple[BendStep, ...]) -> None:
    with pytest.raises(ValueError, match="overlaps the bend before it or the rod's end"):
        replay_steps(steps, 150.0, 30.0)


@pytest.mark.parametrize("seed", range(4))
def test_seating_undoes_any_motion_and_slide(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rod = replay_steps(STEPS, 150.0, 30.0)
    arc = np.array([12.0, 45.0, 78.0, 105.0, 138.0])
    turn = Rotation.random(random_state=seed)
    saddles = turn.apply(rod[np.round(arc / 0.5).astype(int)]) + rng.normal(0.0, 100.0, 3)
    seating = seat(rod, saddles, arc + rng.uniform(-4.0, 4.0))
    assert seating.max_mm < 0.01
    assert np.allclose(seating.arc_mm, arc, atol=0.5)


def test_seating_reports_one_high_saddle_and_where_it_lies() -> None:
    rod = replay_steps((), 100.0, 30.0)
    saddles = np.array([[10.0, 0.0, 0.0], [50.0, 3.0, 0.0], [90.0, 0.0, 0.0]])
    seating = seat(rod, saddles, np.array([10.0, 50.0, 90.0]))
    # least squares of a line through (0, 3, 0): 1 mm off either end, 2 mm off the middle
    assert np.allclose(seating.gaps_mm, [1.0, 2.0, 1.0], atol=1e-3)
    assert np.allclose(seating.gap_vectors_mm[1], [0.0, 2.0, 0.0], atol=1e-3)


def test_saddle_beyond_the_end_is_a_gap() -> None:
    rod = replay_steps((), 50.0, 30.0)
    saddles = np.array([[0.0, 0.0, 0.0], [80.0, 0.0, 0.0]])
    assert seat(rod, saddles, np.array([0.0, 50.0])).max_mm == pytest.approx(15.0, abs=0.01)
