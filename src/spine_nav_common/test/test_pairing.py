# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from spine_nav_common.core.pairing import HOLD, Pairer


def run(
    events: list[tuple[str, int]], slop: int = 5
) -> tuple[list[tuple[int, int | None]], Pairer]:
    """Pairs of stamps for a sequence of ('a', stamp) first and ('b', stamp) second images."""
    pairer = Pairer(slop)
    pairs = []
    for kind, stamp in events:
        (pairer.add_first if kind == "a" else pairer.add_second)(stamp, stamp)
        pairs += pairer.ready()
    pairs += pairer.ready(end=True)
    return [(p.first, p.second) for p in pairs], pairer


def test_equal_stamps_pair_at_once():
    pairer = Pairer(5)
    pairer.add_first(10, "colour")
    assert pairer.ready() == []
    pairer.add_second(10, "depth")
    assert [(p.first, p.second) for p in pairer.ready()] == [("colour", "depth")]


def test_nearest_within_half_a_frame_and_the_first_stamp_rules():
    pairs, _ = run([("b", 8), ("a", 10), ("b", 13), ("b", 18), ("a", 20), ("b", 30)])
    assert pairs == [(10, 8), (20, 18)]


def test_no_partner_within_the_slop():
    pairs, pairer = run([("a", 10), ("b", 16), ("a", 20), ("b", 20)])
    assert pairs == [(10, None), (20, 20)]
    assert pairer.reasons == {"depth image without colour": 1}


def test_an_equal_stamp_wins_over_a_near_one_that_came_first():
    pairs, _ = run([("a", 10), ("b", 9), ("b", 10)])
    assert pairs == [(10, 10)]


def test_second_image_without_a_first_is_counted():
    pairs, pairer = run([("b", 0), ("a", 10), ("b", 10), ("b", 20), ("b", 20)])
    assert pairs == [(10, 10)]
    assert pairer.reasons == {"depth image without colour": 2, "depth image doubled": 1}


def test_doubled_and_late_first_images_give_no_pair():
    pairs, pairer = run([("a", 10), ("b", 10), ("a", 30), ("a", 10), ("a", 20), ("a", 30)])
    assert pairs == [(10, 10), (30, None)]
    assert (pairer.duplicated, pairer.late) == (2, 1)


def test_memory_stays_bounded_when_one_stream_is_silent():
    pairer = Pairer(5)
    out = 0
    for i in range(10 * HOLD):
        pairer.add_first(10 * i, i)
        out += len(pairer.ready())
    assert out >= 9 * HOLD - 1
    pairer = Pairer(5)
    for i in range(10 * HOLD):
        pairer.add_second(10 * i, i)
        assert pairer.ready() == []
    assert pairer.reasons["depth image without colour"] == 9 * HOLD


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.floats(0.0, 0.4))
def test_every_first_image_leaves_once_in_order(seed, count, loss):
    """Second images lost at random and delayed by up to three frames: nothing else changes."""
    rng = random.Random(seed)
    events = []
    kept = set()
    for i in range(count):
        events.append((30.0 * i, "a", 30 * i))
        if rng.random() >= loss:
            kept.add(30 * i)
            events.append((30.0 * i + rng.uniform(0, 25), "b", 30 * i))
    pairs, _ = run([(kind, stamp) for _, kind, stamp in sorted(events)], slop=15)
    assert pairs == [(30 * i, 30 * i if 30 * i in kept else None) for i in range(count)]
