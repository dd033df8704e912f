# SPDX-License-Identifier: Apache-2.0
"""The pictures of docs/display.md: the page of a graph that plays a recording, in a real browser.

python -m spine_nav_display.screenshots --case CASE --recording RECORDING [--out docs/img]

CASE and RECORDING as `spinenav simulate --scene rgbd,stereo` writes them. The pictures must be
looked at: the tests find what scrolls, overlaps or is too small, and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .browser import BrowserError, Tab, browser, served

SIZE = (1280, 800)
_START_S, _STEP_S = 60.0, 60.0
_DRAWN = "new Promise(d => requestAnimationFrame(() => requestAnimationFrame(d)))"
_TRACKED = (
    "!spinenav.covered && spinenav.state.levels?.levels[0]?.T"
    " && spinenav.state.levels.levels.filter(l => l.T).length > 1"
)
_ASKED = "Object.values(spinenav.state.check?.levels ?? {}).some(l => l.state === 'open')"
_BENT = (
    "spinenav.state.bending?.sides.some(s => s.steps.length)"
    " && spinenav.state.implants?.screws.length && !spinenav.state.implants.reason"
)
_STOPPED = "spinenav.covered && document.getElementById('cover-word').innerText === 'PICTURE STOPPED'"  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """See the module. Exit codes: 0 done, 1 a picture could not be made."""
    parser = argparse.ArgumentParser(description="pictures of the page for the documentation")
    parser.add_argument("--case", type=Path, required=True)
    parser.add_argument("--recording", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="spinenav-screenshots-") as folder:
        live = subprocess.Popen(
            [
                sys.executable, "-c",
                "import sys; from spine_nav_bringup.cli import main; sys.exit(main())", "live",
                "--case", str(args.case), "--source", f"replay:{args.recording}",
                "--out", folder, "--display", "--port", str(port),
            ],
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            asyncio.run(_pictures(port, args.out))
        except BrowserError as error:
            print(f"screenshots: {error}", file=sys.stderr)
            return 1
        finally:
            if live.poll() is None:
                os.kill(live.pid, signal.SIGINT)
            live.wait()
    return 0


async def _pictures(port: int, out: Path) -> None:
    async with browser() as running:
        await asyncio.to_thread(served, port, _START_S)
        tab = await running.open(f"http://127.0.0.1:{port}/", *SIZE)
        await tab.until(f"window.spinenav && {_TRACKED}", _STEP_S)
        for step, name in (("1", "verify"), ("2", "entry"), ("3", "trajectory")):
            await _shoot(tab, step, _TRACKED, out / f"display_{name}.jpg")
        await tab.key("6")
        await tab.key("b")
        await _shoot(tab, "6", f"{_TRACKED} && {_ASKED}", out / "display_check.jpg")
        for step, name in (("4", "screws"), ("5", "rod")):
            await _shoot(tab, step, _BENT, out / f"display_{name}.jpg")
        await _shoot(tab, "1", _STOPPED, out / "display_stopped.jpg")


async def _shoot(tab: Tab, step: str, when: str, path: Path) -> None:
    await tab.key(step)
    await tab.until(when, _STEP_S)
    await tab.evaluate(_DRAWN)
    Image.open(io.BytesIO(await tab.screenshot())).convert("RGB").save(path, quality=90)
    print(path)


if __name__ == "__main__":
    sys.exit(main())
