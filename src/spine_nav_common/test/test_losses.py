# SPDX-License-Identifier: Apache-2.0
"""Images that are lost on their way are told by stamps; what is not lost is not."""

from __future__ import annotations

import numpy as np
import pytest

from spine_nav_common.core.losses import WINDOW_S, StreamLosses

PERIOD_NS = 33_333_333


def stream(arrives, period_ns=PERIOD_NS, jitter_ns=0, infos=False, seed=0):
    """A camera of `len(arrives)` frames; its images and the moment after the last one."""
    losses, rng = StreamLosses("colour"), np.random.default_rng(seed)
    for i, arrived in enumerate(arrives):
        stamp = i * period_ns + int(rng.uniform(-jitter_ns, jitter_ns))
        now = i * period_ns * 1e-9
        if infos:
            losses.info(stamp, now)
        if arrived:
            losses.image(stamp, now)
    return losses, len(arrives) * period_ns * 1e-9


@pytest.mark.parametrize("hz", [5, 15, 30, 90])
@pytest.mark.parametrize("jitter", [0.0, 0.15])
def test_a_camera_whose_images_all_arrive_is_not_accused(hz, jitter):
    period = round(1e9 / hz)
    for count in range(1, 4 * hz):
        losses, now = stream([True] * count, period, int(jitter * period))
        assert losses.told(now) == ""


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("infos", [False, True])
def test_two_thirds_lost_at_random_are_told(seed, infos):
    arrives = np.random.default_rng(seed).random(90) < 1 / 3
    losses, now = stream(arrives, infos=infos)
    assert losses.told(now).startswith("colour images are lost: the camera sends ")
    arrived, sent, rate_hz = losses.sent(now)
    assert arrived < 0.6 * sent
    if infos:
        assert rate_hz == pytest.approx(30.0, rel=0.01) and abs(sent - 60) <= 1


def test_a_regular_loss_is_told_where_camera_infos_get_through():
    every_third = [i % 3 == 0 for i in range(90)]
    assert stream(every_third)[0].told(3.0) == "", "the stamps alone are those of a slower camera"
    losses, now = stream(every_third, infos=True)
    assert losses.told(now).endswith("of the last 60 20 arrived")


def test_images_that_stop_while_their_infos_go_on_are_told():
    losses, now = stream([i < 40 for i in range(70)], infos=True)
    assert losses.told(now)


def test_it_is_told_within_half_a_second_and_forgotten_two_seconds_after_the_last():
    arrives = [i % 3 == 0 for i in range(15)]
    losses, now = stream(arrives, infos=True)
    assert now == pytest.approx(0.5) and losses.told(now)
    for i in range(15, 15 + 70):
        losses.info(i * PERIOD_NS, i * PERIOD_NS * 1e-9)
        losses.image(i * PERIOD_NS, i * PERIOD_NS * 1e-9)
    assert losses.told(85 * PERIOD_NS * 1e-9) == ""


def test_infos_from_before_the_first_image_a_pause_and_a_clock_set_back_are_no_loss():
    losses = StreamLosses("depth")
    for i in range(20):
        losses.info(i * PERIOD_NS, 0.01 * i)
    for i in range(20, 40):
        losses.image(i * PERIOD_NS, 0.01 * i)
    for i in range(20):  # the recording begins anew
        losses.image(i * PERIOD_NS - 10**12, 0.01 * (40 + i))
    for i in range(20):  # after five seconds of nothing
        losses.image((200 + i) * PERIOD_NS, 0.01 * (60 + i))
    assert losses.told(0.8) == ""


def test_who_sends_nothing_any_more_is_not_lost():
    losses, now = stream([i % 3 == 0 for i in range(60)], infos=True)
    assert losses.told(now)
    assert losses.told(now + WINDOW_S + 1.0) == ""
