# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from spine_nav_common.core.pairing import HOLD, STEP_NS, Pairer


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


# -- clocks that are set, and broken stamps ------------------------------------------------------

PERIOD = 66_666_667
HOUR = 3_600_000_000_000


def stamps_of(shift_from: dict[int, int], count: int = 200) -> list[int]:
    """15 Hz; from image i on shifted by shift_from[i]."""
    out, shift = [], 0
    for i in range(count):
        shift = shift_from.get(i, shift)
        out.append(1_000 * 1_000_000_000 + i * PERIOD + shift)
    return out


def feed(pairer: Pairer, first: list[int], second: list[int]) -> list[tuple[int, bool, int]]:
    """(stamp, has a partner, epoch) of every pair that leaves before the end."""
    pairs = []
    for a, b in zip(first, second, strict=True):
        pairer.add_first(a, a)
        pairer.add_second(b, b)
        pairs += pairer.ready()
    return [(p.stamp_ns, p.second is not None, p.epoch) for p in pairs]


def test_one_stamp_an_hour_ahead_costs_one_image_not_an_hour():
    for stream in ("first", "second", "both"):
        broken, right = stamps_of({50: HOUR, 51: 0}), stamps_of({})
        first = broken if stream != "second" else right
        second = broken if stream != "first" else right
        pairer = Pairer(5_000_000, follow_back=True)
        pairs = feed(pairer, first, second)
        assert sum(partner for _, partner, _ in pairs) >= 197, stream
        assert max(stamp for stamp, _, _ in pairs) == right[-1]
        assert not any(epoch for _, _, epoch in pairs)


def test_a_clock_that_is_set_on_or_back_costs_at_most_a_few_images():
    for shift in (HOUR, -HOUR, 5_000_000_000, -5_000_000_000):
        stamps = stamps_of({50: shift})
        pairer = Pairer(5_000_000, follow_back=True)
        pairs = feed(pairer, stamps, stamps)
        assert len(pairs) >= 196 and all(partner for _, partner, _ in pairs)
        anew = [stamp for stamp, _, epoch in pairs if epoch]
        assert anew == (stamps[50 : 50 + len(anew)] if shift < 0 else [])
        assert bool(anew) == (shift < 0) and {epoch for _, _, epoch in pairs} <= {0, 1}


def test_a_recording_never_goes_back():
    pairer = Pairer(5_000_000)
    stamps = stamps_of({50: -HOUR, 100: 0})
    pairs = feed(pairer, stamps, stamps)
    assert [stamp for stamp, _, _ in pairs] == sorted({s for s, _, _ in pairs})
    assert len(pairs) == 150 and pairer.late == 50


def test_a_slow_or_interrupted_stream_is_no_broken_clock():
    pairer = Pairer(5_000_000, follow_back=True)
    stamps = [10 * STEP_NS + 3 * i * STEP_NS for i in range(20)]
    pairs = feed(pairer, stamps, stamps)
    pairs += [(p.stamp_ns, p.second is not None, p.epoch) for p in pairer.ready(end=True)]
    assert pairs == [(s, True, 0) for s in stamps] and pairer.broken == 0


def test_memory_of_seen_stamps_is_bounded():
    pairer = Pairer(5)
    for i in range(10_000):
        pairer.add_first(10 * i, i)
        pairer.add_second(10 * i, i)
        pairer.ready()
    assert len(pairer._seen) < 100
    pairer.add_first(10 * 9_999, "again")
    pairer.add_first(0, "old")
    assert (pairer.duplicated, pairer.late) == (1, 1)
