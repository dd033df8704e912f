# SPDX-License-Identifier: Apache-2.0
"""How late a picture is on the page, and what the page costs, measured in a real browser.

python -m spine_nav_display.measure [--url URL [--wait S] | --faults N] [--pages N] [--seconds S] [--hz HZ]
    [--out FILE]

Without --url a display is fed here with numbered pictures, 640 x 480, stamped when they are handed
over: what the display and the browser add to a picture's age. With --url the page of a graph that
runs (`spinenav live --display`) is looked at: from the camera's stamp. In both cases an age is that
of the second frame that the browser draws after the picture was given to it, by the page's clock. With
--faults N a level stops being tracked N times: how long its guidance stays on the page after the
server was told, to the frame after the one that took it away. One line of JSON is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from spine_nav_common.core.types import Status

from .browser import Browser, BrowserError, Tab, browser, served
from .core.messages import Moment
from .rehearsal import Feed, counted_jpeg

_SETTLE_PICTURES = 10
_FAULTS = (Status.LOST, Status.OCCLUDED, Status.REJECTED, Status.REGISTERING, Status.SEARCHING)
_LASTS = 4  # messages of a fault, and between two
_STAMP = "spinenav.state.picture?.stamp_ns"  # a text: it is longer than a number of the page's
_WAY = ("to_display", "to_page", "decoded", "on_screen")  # medians of the parts of a delay
_TICKS = 100.0  # of /proc/*/stat, per second on Linux


def main(argv: Sequence[str] | None = None) -> int:
    """See the module. Exit codes: 0 done, 1 the browser did not do it."""
    parser = argparse.ArgumentParser(description="the page's delay, memory and cost")
    parser.add_argument("--url", help="of a page that is served; default: one that is fed here")
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="S", help="for the page to be served"
    )
    parser.add_argument("--pages", type=int, default=1, metavar="N", help="open at the same time")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S")
    parser.add_argument(
        "--hz", type=float, default=15.0, help="pictures per second, where fed here"
    )
    parser.add_argument("--faults", type=int, metavar="N", help="of a level, where fed here")
    parser.add_argument("--out", type=Path, help="add the line to this file too")
    args = parser.parse_args(argv)
    try:
        line = asyncio.run(_measured(args))
    except BrowserError as error:
        print(f"measure: {error}", file=sys.stderr)
        return 1
    text = json.dumps(line)
    print(text)
    if args.out is not None:
        with args.out.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    return 0


async def _measured(args: argparse.Namespace) -> dict[str, Any]:
    given = {"pages": args.pages, "seconds": args.seconds}
    async with browser() as running:
        if args.url:
            await asyncio.to_thread(served, urlsplit(args.url).port, args.wait)
            return {"source": "graph", **given, **await _look(running, args.url, args)}
        with Feed() as feed:
            end = threading.Event()
            thread = threading.Thread(target=_feed, args=(feed, end, args.hz, args.faults))
            thread.start()
            try:
                if args.faults:
                    return {"faults": args.faults, **await _gone(running, feed.server.url, args)}
                told = await _look(running, feed.server.url, args)
            finally:
                end.set()
                thread.join()
            return {"source": "fed", "hz": args.hz, **given, **told}


def _feed(feed: Feed, end: threading.Event, hz: float, faults: int | None) -> None:
    """Pictures at a pace of their own; encoded before, so that only what the display does counts."""
    pictures = [counted_jpeg(n) for n in range(64)]
    feed.camera()
    due, number = time.monotonic(), 0
    while not end.is_set():
        feed.tick()
        feed.health()
        now = Moment(time.time_ns(), time.monotonic() * 1e3, 0.0)
        feed.server.picture("rgbd", pictures[number % 64], now)
        feed.along()
        status = _FAULTS[number // (2 * _LASTS) % len(_FAULTS)]
        faulty = bool(faults) and number // _LASTS % 2
        # The patient moves: else nothing were drawn anew in 3D.
        feed.levels(
            {"L2": (status, "a fault")} if faulty else None, None, 1e-3 * math.sin(number / 8)
        )
        number += 1
        due += 1.0 / hz
        end.wait(max(0.0, due - time.monotonic()))


async def _look(running: Browser, url: str, args: argparse.Namespace) -> dict[str, Any]:
    began = time.monotonic()
    tabs = [await running.open(url)]
    await tabs[0].until("window.spinenav?.pictures > 0", 60.0)
    first_s = time.monotonic() - began
    tabs += [await running.open(url) for _ in range(args.pages - 1)]
    for tab in tabs:
        await tab.until(f"window.spinenav?.pictures >= {_SETTLE_PICTURES}", 60.0)
        await tab.evaluate(
            "spinenav.delays.length = spinenav.ways.length = 0; spinenav.at = spinenav.pictures"
        )
    heap = await heap_mb(tabs[0])
    first_ns = await tabs[0].evaluate(_STAMP)
    cpu, start = _cpu_s(running.pid), time.monotonic()
    own = time.process_time()
    await asyncio.sleep(args.seconds)
    wall = time.monotonic() - start
    cores, own_cores = (_cpu_s(running.pid) - cpu) / wall, (time.process_time() - own) / wall
    last_ns = await tabs[0].evaluate(_STAMP)
    delays, ways, shown = [], [], []
    for tab in tabs:
        delays += await tab.evaluate("spinenav.delays")
        ways += await tab.evaluate("spinenav.ways")
        shown.append(await tab.evaluate("spinenav.pictures - spinenav.at") / wall)
    if not delays:
        raise BrowserError("no picture was shown, or its age is not known")
    median, p99 = np.percentile(delays, [50, 99])
    return {
        "delay_ms": {"median": round(median, 1), "p99": round(p99, 1), "count": len(delays)},
        "way_ms": {
            k: round(float(np.median(w)), 1)
            for k, w in zip(_WAY, zip(*ways, strict=True), strict=True)
        },
        "stamps_ns": [first_ns, last_ns],
        "pictures_per_s": [round(s, 1) for s in shown],
        "first_picture_s": round(first_s, 2),
        "browser_cores": round(cores, 2),
        "display_cores": None if args.url else round(own_cores, 2),
        "heap_mb": [heap, await heap_mb(tabs[0])],
        "errors": sorted({e for tab in tabs for e in tab.errors}),
    }


# Guidance is the drawing along the trajectory of L2. `gone`: ms from the server's being told to the
# frame after its removal. `stale`: frames that still showed it later than 150 ms.
_WATCH = """(() => {
  spinenav.gone = []; spinenav.stale = 0;
  let held = spinenav.state.levels, since = null, counted = true;
  Object.defineProperty(spinenav.state, "levels", {get: () => held, set(v) {
    held = v;
    if (v?.levels.find((l) => l.level === "L2")?.T) { since = null; counted = false; }
    else if (v) since ??= v.arrived_ms;
  }});
  const look = () => {
    const shown = Boolean(document.querySelector("#panel canvas"));
    if (since !== null && !counted) {
      const late = spinenav.clock.now() - since;
      if (!shown) { spinenav.gone.push(late); counted = true; }
      else if (late > 150) spinenav.stale += 1;
    }
    requestAnimationFrame(look);
  };
  look();
})()"""


async def _gone(running: Browser, url: str, args: argparse.Namespace) -> dict[str, Any]:
    tab = await running.open(url)
    await tab.until(f"window.spinenav?.pictures >= {_SETTLE_PICTURES}", 60.0)
    await tab.key("3")
    await tab.until("Boolean(document.querySelector('#panel canvas'))")
    await tab.evaluate(_WATCH)
    lasting_s = args.faults * 2 * _LASTS / args.hz
    await tab.until(f"spinenav.gone.length >= {args.faults}", 30.0 + 2.0 * lasting_s)
    gone = (await tab.evaluate("spinenav.gone"))[: args.faults]
    median, p99 = np.percentile(gone, [50, 99])
    return {
        "gone_ms": {"median": round(median, 1), "p99": round(p99, 1), "most": round(max(gone), 1)},
        "stale_frames_after_150_ms": await tab.evaluate("spinenav.stale"),
        "errors": tab.errors,
    }


async def heap_mb(tab: Tab) -> float:
    """What the page's script holds, after a collection."""
    await tab.call("HeapProfiler.collectGarbage")
    used = await tab.call("Runtime.getHeapUsage")
    return round(used["usedSize"] / 1e6, 2)


def of_session(leader: int) -> Iterator[tuple[Path, list[str]]]:
    """The processes of a session, and the fields of their stat after the name."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[3]) == leader:
            yield stat.parent, fields


def _cpu_s(leader: int) -> float:
    """CPU time of a session's processes in s."""
    return sum((int(f[11]) + int(f[12])) / _TICKS for _, f in of_session(leader))


def session_mb(leader: int) -> float:
    """Memory of a session's processes, what they share counted once."""
    total = 0.0
    for process, _ in of_session(leader):
        with suppress(OSError):
            lines = (process / "smaps_rollup").read_text().splitlines()
            total += sum(float(x.split()[1]) for x in lines if x.startswith("Pss:")) / 1e3
    return round(total, 1)


if __name__ == "__main__":
    sys.exit(main())
