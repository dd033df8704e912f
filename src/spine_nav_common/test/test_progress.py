# SPDX-License-Identifier: Apache-2.0
"""Progress: what is done, of how much, with a note; nothing without a terminal."""

from __future__ import annotations

import io

import pytest

from spine_nav_common.core import progress as module
from spine_nav_common.core.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(module, "QUIET_S", 0.0)
    monkeypatch.setattr(module, "PERIOD_S", 0.0)


def test_shows_count_and_note_and_clears_the_line(at_once):
    stream = Terminal()
    progress = Progress("replay", stream)
    progress(20, 100, "L3 lost")
    assert "replay" in stream.getvalue() and "20/100" in stream.getvalue()
    assert "L3 lost" in stream.getvalue()
    progress.close()
    assert stream.getvalue().endswith("\r")


def test_the_next_part_of_the_work_counts_anew(at_once):
    stream = Terminal()
    progress = Progress("bench", stream)
    progress(90, 100)
    progress(1, 7, "second part")
    assert "1/7" in stream.getvalue()
    progress.close()


def test_silent_at_first_and_without_a_terminal(at_once, monkeypatch):
    stream = io.StringIO()
    Progress("replay", stream)(20, 100)
    assert stream.getvalue() == ""
    monkeypatch.setattr(module, "QUIET_S", 60.0)
    terminal = Terminal()
    Progress("replay", terminal)(20, 100)
    assert terminal.getvalue() == ""
