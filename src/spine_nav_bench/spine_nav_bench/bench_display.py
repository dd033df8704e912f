# SPDX-License-Identifier: Apache-2.0
"""The surgeon's page and the session's record: how late, how long, and what is left out.

The page is measured in a real browser on the same machine, beside the whole graph of an RGB-D camera
at 15 Hz; faults and a night beside a display that is fed; the record in a run of its own.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from spine_nav_common.core.progress import Progress
from spine_nav_common.core.tables import read_json
from spine_nav_display.core.session_folder import read_manifest

from .bench_timing import LIVE_S, live_scene
from .commands import Live
from .page import PAGE_OPENS_S, beside_a_page, told_by

FAULTS, FAULT_HZ = 200, 30.0
NIGHT_H, NIGHT_MINUTES, ACTS = 8.0, 20.0, 200


def display_record(
    cache: Path,
    live: Live,
    *,
    smoke: bool = False,
    minutes: float = NIGHT_MINUTES,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Everything that the table of the page and the record needs, as one JSON record."""
    scene = live_scene(cache, progress)
    source, out = f"replay:{scene.recording}", cache / "display-run"
    outcome, page = beside_a_page(live, scene.case, source, out, LIVE_S - PAGE_OPENS_S)
    session = cache / "display-session"
    shutil.rmtree(session, ignore_errors=True)
    recorded = live(scene.case, source, cache / "display-recorded-run", (), session=session)
    faults = told_by("measure", "--faults", str(5 if smoke else FAULTS), "--hz", str(FAULT_HZ))
    acts, minutes = (5, 0.2) if smoke else (ACTS, minutes)
    night = told_by(
        "endurance", "--hours", str(NIGHT_H), "--minutes", str(minutes), "--acts", str(acts)
    )
    return {
        "seeds": [scene.seed],
        "size": [640, 480],
        "fps": 15.0,
        "exit_codes": [outcome.exit_code, recorded.exit_code],
        "page": page,
        "cpu_cores": read_json(out / "summary.json").get("cpu_cores"),
        "faults": faults,
        "night": night,
        "record": _recorded(session),
    }


def _recorded(session: Path) -> dict[str, Any]:
    """Counts of the streams and bytes of a session, per second of what was recorded."""
    manifest = read_manifest(session)
    size = sum(f.stat().st_size for f in session.rglob("*") if f.is_file())
    seconds = (manifest["ended_ns"] - manifest["started_ns"]) * 1e-9
    return {"streams": manifest["streams"], "bytes": size, "seconds": round(seconds, 2)}
