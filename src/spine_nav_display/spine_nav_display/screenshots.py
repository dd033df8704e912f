# SPDX-License-Identifier: Apache-2.0
"""The pictures of docs/display.md: a whole virtual operation on the page, in a real browser.

python -m spine_nav_display.screenshots --operation DIR [--rate R] [--out docs/img]

DIR as `spinenav simulate --scene rig` writes it: both cameras play it to the graph at R of their own
pace, while a surgeon who knows its truth works at the page. What he does and what the page says is
printed beside each picture. The pictures must be looked at: the tests find what scrolls, overlaps or
is too small, and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from spine_nav_common.core.graph import paced

from .browser import BrowserError, Tab, browser
from .core.binding import free_port
from .surgeon import ANSWER_S, NEXT_BEND, PLACED, SHOWN, TWO_FRAMES, Surgeon

SIZE = (1280, 800)
RATE = 0.25
_STEP_S, _TRIES = 120.0, 50
_ENDED = "spinenav.covered && document.getElementById('cover-word').innerText === 'NO CONTACT'"


def main(argv: Sequence[str] | None = None) -> int:
    """See the module. Exit codes: 0 done, 1 a picture could not be made."""
    parser = argparse.ArgumentParser(description="pictures of the page for the documentation")
    parser.add_argument("--operation", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=RATE, help="of the cameras' own pace")
    parser.add_argument("--session", type=Path, metavar="DIR", help="record the session there")
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # graph and browser end with it
    more = ["--session", str(args.session)] if args.session else []
    try:
        with (
            tempfile.TemporaryDirectory(prefix="spinenav-screenshots-") as folder,
            live(args.operation, Path(folder), args.rate, *more) as (port, graph),
        ):
            asyncio.run(_pictures(graph, port, args.operation, args.out))
    except BrowserError as error:
        print(f"screenshots: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def live(
    operation: Path, out: Path, rate: float, *more: str
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """`spinenav live --display` that plays an operation: the page's port, and its process."""
    port = free_port(0)
    settings = (*paced(rate), "rod_guidance.steady_frames=4")
    process = subprocess.Popen(
        [
            sys.executable, "-m", "spine_nav_bringup.cli", "live",
            "--case", str(operation / "case"), "--source", f"replay:{operation / 'recording'}",
            "--out", str(out), "--display", "--port", str(port), *more,
            *(word for setting in settings for word in ("--set", setting)),
        ],
        stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield port, process
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)
        process.wait()


async def opened(running: object, graph: subprocess.Popen[bytes], port: int, size: tuple[int, int]) -> Tab:  # fmt: skip
    """The graph's page once it is served: waits as long as the graph lives, since a machine that is
    busy starts it slowly. Raises BrowserError where it has ended."""
    import socket

    while True:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return await running.open(f"http://127.0.0.1:{port}/", *size)
        if graph.poll() is not None:
            raise BrowserError(
                f"spinenav live ended with {graph.returncode} before it served a page"
            )
        await asyncio.sleep(0.1)


class _Album:
    def __init__(self, tab: Tab, out: Path) -> None:
        self.tab, self.out, self.began = tab, out, time.monotonic()

    async def take(self, name: str, when: str = "true") -> None:
        """A picture of the page once `when` holds, and what its panel says."""
        path = self.out / f"display_{name}.jpg"
        for _ in range(_TRIES):
            await self.tab.until(when, _STEP_S)
            await self.tab.evaluate(TWO_FRAMES)
            data = await self.tab.screenshot()
            if await self.tab.evaluate(f"Boolean({when})"):
                break  # a busy machine may have covered it meanwhile
        else:
            raise BrowserError(f"{path}: {when} never lasted as long as a picture takes")
        image = Image.open(io.BytesIO(data)).convert("RGB")
        image.save(path, quality=90)
        said = " | ".join((await self.tab.text("#panel")).split("\n"))
        print(f"{time.monotonic() - self.began:6.1f} s {path}: {said}", flush=True)


async def _pictures(graph: subprocess.Popen[bytes], port: int, operation: Path, out: Path) -> None:
    async with browser() as running:
        tab = await opened(running, graph, port, SIZE)
        surgeon, album = Surgeon(tab, operation), _Album(tab, out)
        # While the patient is registered, and what is asked of him.
        await surgeon.go("verify")
        await tab.until("window.spinenav?.pictures > 0", _STEP_S)
        await album.take("registering", "!spinenav.covered")
        asked = await surgeon.verify(_STEP_S)
        print(f"a question was {'confirmed' if asked else 'not asked'}", flush=True)
        await album.take("verify", SHOWN)
        levels = await tab.evaluate(
            "spinenav.state.levels.levels.filter(l => l.T).map(l => l.level)"
        )
        for step, drawn in (("entry", "magnifier"), ("trajectory", "bull")):
            await surgeon.go(step)
            await album.take(
                step, f"{SHOWN} && document.getElementById('{drawn}')?.hidden === false"
            )
        seen = next(level for level in levels if surgeon.sees(level))
        verdict = await surgeon.check(seen, wait_s=_STEP_S)
        print(f"check of {seen} at the true landmarks: {verdict}", flush=True)
        await album.take("check")
        await tab.evaluate("spinenav.state.told = null")
        await tab.key("s")
        await tab.until("spinenav.state.told", _STEP_S)
        print(f"snapshot: {await tab.evaluate('spinenav.state.told.text')}", flush=True)
        await surgeon.go("screws")
        drawn = "Boolean(document.querySelector('#panel table'))"
        await album.take("screws", f"{SHOWN} && {PLACED} && {drawn}")
        await tab.key("c")
        await tab.until("spinenav.state.picture?.name === 'stereo'", _STEP_S)
        at = await tab.evaluate("spinenav.pictures")  # its overlay has only just begun to draw
        await album.take("stereo", f"!spinenav.covered && spinenav.pictures > {at} + 4 && {PLACED}")
        await tab.key("c")
        await surgeon.go("rod")
        await tab.until("spinenav.state.picture?.name === 'rgbd'", _STEP_S)
        await album.take("rod", f"{SHOWN} && {NEXT_BEND} && {drawn}")
        await tab.key("p", held_s=ANSWER_S)
        await album.take("paused", "spinenav.state.paused")
        await tab.key("p", held_s=ANSWER_S)
        await tab.until(f"!spinenav.state.paused && {SHOWN}", _STEP_S)
        verdict = await surgeon.check(levels[-1], (0.0, 0.0, 0.035), _STEP_S)
        print(f"check of {levels[-1]} 35 mm beside its landmarks: {verdict}", flush=True)
        at = await tab.evaluate("spinenav.pictures")  # the one that was on its way is older
        await album.take("check_failed", f"!spinenav.covered && spinenav.pictures > {at} + 2")
        await tab.key("r", held_s=ANSWER_S)
        await surgeon.verify(_STEP_S)
        await album.take("again", f"{SHOWN} && spinenav.state.levels.levels.every(l => l.T)")
        await surgeon.go("rod")
        await album.take(
            "bent",
            f"{SHOWN} && spinenav.state.bending?.sides.some(s => s.state === 'good') && {drawn}",
        )
        await surgeon.go("verify")
        await asyncio.to_thread(graph.wait)  # the recording has ended, and the graph with it
        await album.take("stopped", _ENDED)
        if tab.errors:
            raise BrowserError("; ".join(tab.errors))


if __name__ == "__main__":
    sys.exit(main())
