# SPDX-License-Identifier: Apache-2.0
"""Whether a page may stay open for a night, and whether a word of it is ever lost.

python -m spine_nav_display.endurance [--hours H] [--acts N] [--minutes M]

A display is fed here with the pictures and states of H hours at 15 Hz, as fast as the browser draws
them, for M minutes at most; what page and display hold is read again and again. Meanwhile the page asks
N times for something: every answer must come. One line of JSON is printed: where the minutes ended it,
`hours` are those of the pictures that were shown. `..._growth_8h` is the upper end (95 %) of a straight
line through what was held, over the pictures of 8 h. Each look goes to stderr too. The pictures are
small, so that a night of them fits into an hour: a bitmap that is kept shows in the browser's memory
all the same. A look that the browser does not answer, since the machine stood still, is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import linregress, t

from .browser import BrowserError, Tab, browser
from .core.messages import Moment
from .measure import heap_mb, session_mb
from .rehearsal import Feed, counted_jpeg

CAMERA_HZ = 15.0
_UNLIMITED = ("--disable-frame-rate-limit", "--disable-gpu-vsync")
_WINDOW = (480, 300)  # drawing costs time and holds nothing
_LOOKS = 25  # at memory, over the run
_PATIENCE_S = 600.0  # other measurements may stop everything for minutes
NIGHT_H = 8.0
_WARM = 0.1  # of the run: what a page gathers once is no growth
_REGISTER = "document.querySelector('#buttons button:nth-child(3)')"
_PACE_S = 0.004  # faster than the browser draws: it takes the newest


def main(argv: Sequence[str] | None = None) -> int:
    """See the module. Exit codes: 0 done, 1 the browser did not do it."""
    parser = argparse.ArgumentParser(description="memory over a night, and words that are lost")
    parser.add_argument("--hours", type=float, default=8.0, metavar="H")
    parser.add_argument("--acts", type=int, default=200, metavar="N")
    parser.add_argument("--minutes", type=float, default=math.inf, metavar="M")
    args = parser.parse_args(argv)
    try:
        print(json.dumps(asyncio.run(endured(args.hours, args.acts, args.minutes))))
    except BrowserError as error:
        print(f"endurance: {error}", file=sys.stderr)
        return 1
    return 0


class _Feeder:
    """Feeds a display as fast as its page shows pictures; all that a graph tells with each."""

    def __init__(self, feed: Feed) -> None:
        self.feed, self.sent = feed, 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        pictures = [counted_jpeg(n, small=True) for n in range(64)]
        self.feed.camera()
        while not self._end.is_set():
            self.feed.tick()
            now = Moment(time.time_ns(), time.monotonic() * 1e3, 0.0)
            self.feed.server.picture("rgbd", pictures[self.sent % 64], now)
            self.feed.along()
            self.feed.levels(None, None, 1e-3 * math.sin(self.sent / 8))
            if self.sent % 15 == 0:
                self.feed.health()
                self.feed.implants()
                self.feed.bending()
            self.sent += 1
            self._end.wait(_PACE_S)


@dataclass(frozen=True)
class _Look:
    """Pictures shown until then; what the page's script holds after a collection, this process, and
    all processes of the browser, MB; nodes of the page's document."""

    pictures: int
    page_mb: float
    display_mb: float
    browser_mb: float
    nodes: int


async def _look(tab: Tab, leader: int) -> _Look:
    heap, counted = await heap_mb(tab), await tab.call("Memory.getDOMCounters")
    shown = int(await tab.evaluate("spinenav.pictures"))
    return _Look(shown, heap, _held_mb(os.getpid()), session_mb(leader), int(counted["nodes"]))


async def _watched(
    tab: Tab, leader: int, wanted: int, minutes: float, pause_s: float = 1.0
) -> list[_Look]:
    """Looks at memory, evenly over the pictures that are wanted or the minutes that there are."""
    began = time.monotonic()
    looks: list[_Look] = []
    due = [_WARM + (1 - _WARM) * i / (_LOOKS - 1) for i in range(_LOOKS)]
    heard = began
    while due:
        await asyncio.sleep(pause_s)
        try:
            shown = int(await tab.evaluate("spinenav.pictures"))
            spent = (time.monotonic() - began) / 60.0 / minutes
            if max(shown / wanted, spent) >= due[0]:
                looks.append(await _look(tab, leader))
                print(f"endurance: {looks[-1]}", file=sys.stderr, flush=True)
                due.pop(0)
            heard = time.monotonic()
        except asyncio.TimeoutError:
            if time.monotonic() - heard > _PATIENCE_S:
                raise BrowserError("the page does not answer any more") from None
    return looks


async def endured(hours: float, acts: int, minutes: float = math.inf) -> dict[str, Any]:
    """What is held over the pictures of so many hours, in so many minutes at most, and how many answers
    came.

    Raises BrowserError: there is no browser, or the page stopped.
    """
    wanted = round(hours * 3600 * CAMERA_HZ)
    async with browser(*_UNLIMITED) as running:
        with Feed() as feed, _Feeder(feed) as feeder:
            tab = await running.open(feed.server.url, *_WINDOW)
            await tab.until("window.spinenav?.pictures > 0", _PATIENCE_S)
            began = time.monotonic()
            asking = asyncio.ensure_future(_ask(tab, acts))
            looks = await _watched(tab, running.pid, wanted, minutes)
            answered = await asking
            wall_s = time.monotonic() - began
            sent = feeder.sent
    pictures = np.array([look.pictures for look in looks])
    page, display, whole, nodes = (
        np.array([getattr(look, k) for look in looks])
        for k in ("page_mb", "display_mb", "browser_mb", "nodes")
    )
    return {
        "hours": min(hours, round(float(pictures[-1]) / 3600 / CAMERA_HZ, 3)),
        "pictures_sent": sent,
        "pictures_shown": int(pictures[-1]),
        "wall_s": round(wall_s, 1),
        "page_mb": [round(x, 2) for x in page],
        "display_mb": [round(x, 1) for x in display],
        "browser_mb": [round(x, 1) for x in whole],
        "nodes": [int(n) for n in nodes],
        "page_growth": round(float(page[-1] / page[0] - 1.0), 4),
        "display_growth": round(float(display[-1] / display[0] - 1.0), 4),
        "browser_growth": round(float(whole[-1] / whole[0] - 1.0), 4),
        "page_growth_8h": over_a_night(pictures, page),
        "display_growth_8h": over_a_night(pictures, display),
        "browser_growth_8h": over_a_night(pictures, whole),
        "asked": acts,
        "answered": answered,
        "errors": tab.errors,
    }


def over_a_night(pictures: np.ndarray, held: np.ndarray) -> float:
    """Growth over the pictures of 8 h as a part of what was held first: upper end (95 %, one-sided) of
    the slope of a straight line through the second half, where what is gathered once is there.

    Args:
        pictures: (N,) shown until then. held: (N,) MB.
    """
    half = len(pictures) // 2
    line = linregress(pictures[half:], held[half:])
    most = line.slope + t.ppf(0.95, len(pictures) - half - 2) * line.stderr
    return round(float(most * NIGHT_H * 3600 * CAMERA_HZ / held[half]), 4)


async def _ask(tab: Tab, count: int) -> int:
    """Ask from the page, one after the other; how many answers came to it."""
    await tab.evaluate(
        "spinenav.answers = spinenav.asked = 0; spinenav.hear = spinenav.state.told;"
        "Object.defineProperty(spinenav.state, 'told', {get: () => spinenav.hear,"
        " set(v) { spinenav.hear = v; if (v) spinenav.answers += 1; }})"
    )
    for done in range(1, count + 1):
        # Else nothing were asked: no contact yet.
        await _patiently(tab, f"!{_REGISTER}.disabled")
        # Once alone, however often it must be said.
        await _patiently(
            tab, f"spinenav.asked >= {done} || ({_REGISTER}.click(), spinenav.asked = {done})"
        )
        await _patiently(tab, f"spinenav.answers >= {done}")
        await asyncio.sleep(0.05)
    return int(await _patiently(tab, "spinenav.answers"))


async def _patiently(tab: Tab, script: str) -> Any:
    """`Tab.until`, over answers that do not come because the machine stood still."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return await tab.until(script, _PATIENCE_S)
        except asyncio.TimeoutError:
            if time.monotonic() > end:
                raise BrowserError(f"the page does not answer: {script}") from None


def _held_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(main())
