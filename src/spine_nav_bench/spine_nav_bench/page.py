# SPDX-License-Identifier: Apache-2.0
"""A live run with the surgeon's page open in a real browser on the same machine, and what it saw."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spine_nav_common.core.errors import InputError
from spine_nav_common.core.tables import read_json
from spine_nav_display.core.binding import Exposure, free_port

from .commands import Live, Outcome

PAGE_OPENS_S = 4.0  # from the first picture that is shown until the page counts
_END_S = 30.0


def beside_a_page(
    live: Live, case: Path, source: str, out: Path, seconds: float, **given: Any
) -> tuple[Outcome, dict[str, Any]]:
    """Run `live` with the page open for so many seconds; its outcome, and the page's measurement.

    Raises InputError: what it needs is missing, or the browser did not measure.
    """
    for module in ("rclpy", "aiohttp"):
        if importlib.util.find_spec(module) is None:
            raise InputError("bench", "page", f"{module} is missing", "run 'make setup'")
    port = free_port()
    page = out.parent / f"{out.name}-page.jsonl"
    page.unlink(missing_ok=True)
    browser = subprocess.Popen(
        [
            sys.executable, "-m", "spine_nav_display.measure", "--url", Exposure().url(port),
            "--wait", "60", "--seconds", str(seconds), "--out", str(page),
        ],
        stdout=sys.stderr,
    )  # fmt: skip
    try:
        outcome = live(case, source, out, (), port=port, **given)
        browser.wait(_END_S)
    finally:
        browser.terminate()
        browser.wait(_END_S)
    if not page.is_file():
        raise InputError("bench", "page", "the page was not measured",
                         "see what the browser said above")  # fmt: skip
    return outcome, read_json(page)


def told_by(module: str, *arguments: str) -> dict[str, Any]:
    """The line of JSON that a measuring program of the display prints.

    Raises InputError: it failed, see what it said.
    """
    command: Sequence[str] = (sys.executable, "-m", f"spine_nav_display.{module}", *arguments)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise InputError("bench", module, "it did not measure", "see what it said above")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
