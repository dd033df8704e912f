# SPDX-License-Identifier: Apache-2.0
"""What the tests in a real browser share: a display that is fed, and a page on it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from spine_nav_common.core.types import Status
from spine_nav_display.browser import Browser, Tab, browser, find_chromium
from spine_nav_display.core.questions import Question
from spine_nav_display.rehearsal import LEVELS, Feed
from spine_nav_display.server import Limits

MARKS = [
    pytest.mark.skipif(
        find_chromium() is None, reason="no chromium; apt-get install chromium runs these"
    ),
    pytest.mark.slow,
]
ASKED = Question("K7QX", "L2 to L4 as seen?", LEVELS, 11)
SIZES = ((1280, 800), (1920, 1080))

# A loaded machine draws late: the limit of a test on something else must not be the picture's age.
PATIENT = Limits(picture_ms=20_000.0, stereo_ms=20_000.0, silence_ms=20_000.0)


class Stream:
    """Feeds a server 15 times a second until told otherwise. `what`: the parts that are fed."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.pictures = self.ticks = self.along = True
        self.tool: dict | None = None
        self.statuses: dict[str, tuple[Status, str]] = {}
        self.question: Question | None = None
        self.pose_age_ms = 5.0
        self.says: tuple[str, str] | None = ("ready", "all well")
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        self.feed.camera()
        while not self._end.wait(1 / 15):
            if self.ticks:
                self.feed.tick()
            if self.says is not None:
                self.feed.health(*self.says)
            if self.pictures:
                self.feed.picture()
            if self.along:
                self.feed.along()
            if self.tool is not None:
                self.feed.tool(self.tool)
            self.feed.levels(self.statuses, self.question, age_ms=self.pose_age_ms)
            self.feed.implants()
            self.feed.bending()


def browsed(
    scenario: Callable[[Feed, Stream, Browser, Tab], Awaitable[None]],
    size: tuple[int, int] = SIZES[0],
    limits: Limits | None = PATIENT,
) -> Feed:
    """Runs a scenario on a page that has shown its first pictures."""

    async def run() -> None:
        async with browser() as running:
            tab = await running.open(feed.server.url, *size)
            await tab.until("window.spinenav?.pictures > 2 && spinenav.delays.length > 0")
            await scenario(feed, stream, running, tab)

    with Feed(limits=limits) as feed, Stream(feed) as stream:
        asyncio.run(asyncio.wait_for(run(), 120.0))
    return feed


TWO_FRAMES = "new Promise(d => requestAnimationFrame(() => requestAnimationFrame(d)))"
