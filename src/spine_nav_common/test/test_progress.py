# SPDX-License-Identifier: Apache-2.0
"""Progress: nothing before two seconds, nothing without a terminal."""

from __future__ import annotations

import io

from spine_nav_common.core.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def clocked(stream):
    now = [0.0]
    return now, Progress("replay", stream, clock=lambda: now[0])


def test_silent_for_two_seconds_then_shows_count_and_time_left():
    stream = Terminal()
    now, progress = clocked(stream)
    now[0] = 1.9
    progress(10, 100)
    assert stream.getvalue() == ""
    now[0] = 4.0
    progress(20, 100, "L3 lost")
    assert "20/100" in stream.getvalue()
    assert "16 s left" in stream.getvalue()
    assert "L3 lost" in stream.getvalue()
    progress.close()
    assert stream.getvalue().endswith("\r")


def test_silent_without_a_terminal():
    stream = io.StringIO()
    now, progress = clocked(stream)
    now[0] = 60.0
    progress(20, 100)
    progress.close()
    assert stream.getvalue() == ""


def test_redrawn_at_most_five_times_a_second():
    stream = Terminal()
    now, progress = clocked(stream)
    for i in range(100):
        now[0] = 3.0 + i * 0.01
        progress(i, 100)
    assert stream.getvalue().count("\r") <= 6
