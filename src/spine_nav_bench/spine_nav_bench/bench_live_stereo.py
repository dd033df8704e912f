# SPDX-License-Identifier: Apache-2.0
"""The live stereo graph beside the surgeon's page: pairs per second, how late, and at what cost.

A virtual operation plays at the camera's 15 Hz to the nodes, each in its process; the page is open
in a real browser on the same machine and shows the stereo picture. What is counted lies between the
first and the last picture that the page was measured with.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spine_nav_common.core.outputs import SUMMARY, TIMING_COLUMNS, TIMINGS
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.run import Progress
from spine_nav_common.core.tables import read_json, table_rows

from .bench_stereo_scenes import StereoScene, timed_stereo, write_scenes
from .bench_timing import percentiles
from .commands import Live
from .page import PAGE_OPENS_S, beside_a_page

CAMERA_FPS = 15.0
SECONDS = 8.0
_STAGES = ("stereo_stamp_to_publish", "stereo_arrival_to_publish", "stereo_work")


def live_operation() -> StereoScene:
    """One of the operations whose single pairs are timed (10 heads, 2 rods, 640x480), at 15 Hz."""
    scene = timed_stereo()[0]
    config = replace(scene.config, scene=replace(scene.config.scene, fps=CAMERA_FPS))
    return replace(scene, name=scene.name.replace("timing", "live"), config=config)


def live_stereo_record(
    cache: Path,
    live: Live,
    *,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Play the operation, look at the page, and count."""
    (scene,) = write_scenes(cache, [live_operation()], seconds, progress)
    out = cache / f"{scene.name}-run"
    source = f"replay:{scene.recording}"
    outcome, shown = beside_a_page(live, scene.case, source, out, seconds - PAGE_OPENS_S)
    return {
        "exit_code": outcome.exit_code,
        "seeds": [scene.seed],
        "fps": CAMERA_FPS,
        "size": [640, 480],
        "page": shown,
        "drops": read_json(out / SUMMARY)["drops"].get("stereo", {}),
        "cpu_cores": read_json(out / SUMMARY).get("cpu_cores"),
        **counted(out, scene.recording, *(int(s) for s in shown["stamps_ns"])),
    }


def counted(out: Path, recording: Path, first_ns: int, last_ns: int) -> dict[str, Any]:
    """Pairs between two stamps: sent, processed, per second; and the stages' times, ms."""
    stamps = np.array([pair.stamp_ns for pair in open_recording(recording).stereo_frames()])
    sent = int(np.count_nonzero((stamps >= first_ns) & (stamps <= last_ns)))
    rows = [
        (row["stage"], float(row["ms"]))
        for _, row in table_rows(out / TIMINGS, TIMING_COLUMNS)
        if first_ns <= int(row["stamp_ns"]) <= last_ns
    ]
    done = sum(stage == "stereo_stamp_to_publish" for stage, _ in rows)
    lasted_s = (last_ns - first_ns) * 1e-9
    return {
        "sent": sent,
        "processed": done,
        "seconds": round(lasted_s, 2),
        "pairs_per_s": round(done / lasted_s, 2),
        "stages_ms": {
            stage: percentiles([ms for s, ms in rows if s == stage]) for stage in _STAGES
        },
    }
