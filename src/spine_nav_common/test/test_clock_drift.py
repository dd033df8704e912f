# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from spine_nav_common.core.clock import StreamClock
from spine_nav_common.core.clock_drift import ClockDrift


def arrivals(ppm, seconds, seed=0, rate=30.0, jitter_s=0.004):
    """(stamp ns, monotonic s): a camera that is fast by ppm, delays that are late and never early."""
    rng = np.random.default_rng(seed)
    true = np.arange(int(seconds * rate)) / rate
    delay = 0.02 + rng.exponential(jitter_s, len(true))
    return zip(
        (1e9 * (5.0 + true * (1 + 1e-6 * ppm))).astype(np.int64), 100.0 + true + delay, strict=True
    )


@pytest.mark.parametrize("ppm", [-80.0, 0.0, 25.0, 150.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_drift_is_found_in_late_arrivals(ppm, seed):
    drift = ClockDrift()
    for stamp, at in arrivals(ppm, 120.0, seed):
        drift.note(int(stamp), float(at))
    assert drift.ppm == pytest.approx(ppm, abs=4.0)


def test_seconds_in_which_all_came_late_do_not_bend_it():
    drift = ClockDrift()
    for stamp, at in arrivals(30.0, 120.0):
        late = 0.3 if 150.0 < at < 160.0 else 0.0
        drift.note(int(stamp), float(at + late))
    assert drift.ppm == pytest.approx(30.0, abs=6.0)


def test_nothing_is_said_of_a_few_seconds():
    drift = ClockDrift()
    assert drift.ppm is None
    for stamp, at in arrivals(50.0, 15.0):
        drift.note(int(stamp), float(at))
    assert drift.ppm is None


def test_two_cameras_apart_are_told_by_their_difference_and_a_clock_that_was_set_begins_anew():
    clocks = [StreamClock(), StreamClock()]
    for clock, ppm in zip(clocks, (40.0, -35.0), strict=True):
        for stamp, at in arrivals(ppm, 90.0):
            clock.note(int(stamp), int(1e9 * at), float(at))
    assert clocks[0].drift_ppm - clocks[1].drift_ppm == pytest.approx(75.0, abs=6.0)
    clocks[0].note(1, int(191e9), 191.0)
    assert clocks[0].steps == 1 and clocks[0].drift_ppm is None
