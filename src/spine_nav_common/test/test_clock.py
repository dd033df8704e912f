# SPDX-License-Identifier: Apache-2.0
"""The age of an image in every clock domain, and clocks that are set while images come."""

from __future__ import annotations

import pytest

from spine_nav_common.core.clock import Announced, StreamClock

S = 1_000_000_000
NOW = 1_800_000_000 * S
PERIOD = S // 15


def stream(clock, count=30, stamp=NOW, now=NOW, delay_ns=20_000_000, mono=100.0):
    """Images that arrive `delay_ns` after their stamp; returns the last (stamp, now, monotonic)."""
    for i in range(count):
        clock.note(stamp + i * PERIOD, now + i * PERIOD + delay_ns, mono + i / 15)
    i = count - 1
    return stamp + i * PERIOD, now + i * PERIOD + delay_ns, mono + i / 15


@pytest.mark.parametrize(
    ("stamp", "domain"),
    [
        (NOW, "system"),
        (NOW - 86_400 * S, "recording"),
        (7 * S, "sensor"),
        (NOW + 3600 * S, "recording"),
    ],
)
def test_the_domain_is_told_from_the_stamps(stamp, domain):
    clock = StreamClock()
    assert clock.domain == "unknown" and clock.age_ms(stamp, NOW) == float("inf")
    stream(clock, 3, stamp)
    assert clock.domain == domain
    assert clock.steps == 0


@pytest.mark.parametrize("stamp", [NOW, NOW - 86_400 * S, 7 * S, NOW + 3600 * S])
def test_a_backlog_shows_in_every_domain(stamp):
    """Images that were fresh begin to come two seconds late, one by one later."""
    clock = StreamClock()
    last, now, mono = stream(clock, 30, stamp)
    assert clock.age_ms(last, now) < 100.0
    for i in range(1, 61):
        late = i * S // 30
        clock.note(last + i * PERIOD, now + i * PERIOD + late, mono + i / 15 + late * 1e-9)
    assert clock.age_ms(last + 60 * PERIOD, now + 60 * PERIOD + 2 * S) == pytest.approx(
        2000, abs=50
    )
    assert clock.steps == 0


def test_a_stream_that_was_interrupted_and_comes_late_is_no_clock_that_was_set():
    clock = StreamClock()
    last, now, mono = stream(clock, 30, NOW - 86_400 * S)
    clock.note(last + PERIOD, now + PERIOD + 5 * S, mono + 1 / 15 + 5.0)
    assert clock.steps == 0
    assert clock.age_ms(last + PERIOD, now + PERIOD + 5 * S) == pytest.approx(5000, abs=50)


def test_a_camera_ahead_of_this_machine_cannot_hide_its_age():
    clock = StreamClock()
    last, now, _ = stream(clock, 30, NOW + 2 * S)
    assert clock.domain == "system"
    assert clock.age_ms(last, now + S) == pytest.approx(1000, abs=50)


@pytest.mark.parametrize("step_s", [-3600, -5, 5, 3600])
def test_a_clock_that_was_set_is_told_once_and_ages_are_right_again(step_s):
    clock = StreamClock()
    last, now, mono = stream(clock, 30)
    told = []
    for i in range(1, 16):
        stamp = last + i * PERIOD + step_s * S
        told.append(clock.note(stamp, now + i * PERIOD, mono + i / 15))
        assert clock.age_ms(stamp, now + i * PERIOD) < 100.0
    assert [bool(t) for t in told] == [True] + [False] * 14
    assert clock.domain == "sensor"
    assert ("back" if step_s < 0 else "on") in told[0] and f"{abs(step_s)}.0 s" in told[0]


def test_slow_drift_between_two_clocks_is_no_age():
    clock = StreamClock()
    for i in range(15 * 600):
        clock.note(7 * S + i * PERIOD, NOW + round(i * PERIOD * (1 + 1e-4)), i / 15)
    i = 15 * 600 - 1
    assert clock.age_ms(7 * S + i * PERIOD, NOW + round(i * PERIOD * (1 + 1e-4))) < 50.0


@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
def test_an_announced_recording_has_an_age_in_its_own_clock(rate):
    clock = StreamClock()
    clock.announced = Announced(NOW, 5 * S, rate)
    for i in range(30):
        told = clock.note(5 * S + i * PERIOD, NOW + round(i * PERIOD / rate), 1.0 + i / 15 / rate)
        assert told == ""
    last = 5 * S + 29 * PERIOD
    assert clock.domain == "recording"
    now = NOW + round(29 * PERIOD / rate)
    assert clock.age_ms(last, now) == pytest.approx(0.0, abs=1e-3)
    assert clock.age_ms(last, now + S) == pytest.approx(1000 * rate)


def test_simulated_time_that_nobody_publishes_is_endless_age():
    clock = StreamClock(simulated=True)
    assert clock.age_ms(5 * S, 0) == float("inf")
    assert clock.age_ms(5 * S, 6 * S) == 1000.0
    assert clock.domain == "simulated"
