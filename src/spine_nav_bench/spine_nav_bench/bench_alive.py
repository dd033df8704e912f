# SPDX-License-Identifier: Apache-2.0
"""The live graph while its nodes are killed and held: how soon what they showed is withdrawn, and
how soon it is back."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from spine_nav_common.core.errors import InputError
from spine_nav_common.core.run import Progress
from spine_nav_common.core.tables import read_json
from spine_nav_sim.core.scene_config import SceneConfig
from spine_nav_sim.core.splits import anatomy_seeds

from .bench_scenes import virtual_scene
from .bench_timing import FIVE
from .commands import Live

REPEATS = 2
_END_S = 30.0


def alive_record(
    cache: Path,
    live: Live,
    *,
    seconds: float,
    repeats: int = REPEATS,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Every node killed and held `repeats` times while a recording runs round and round."""
    if importlib.util.find_spec("rclpy") is None:
        raise InputError("bench", "--only alive", "ROS 2 is missing", "run 'make setup'")
    # Nothing but the faults may interrupt: the camera stands still, so the end meets the beginning.
    config = replace(
        SceneConfig(camera_moves=False, tool_passes=False, distance_m=(0.5, 0.6)), exposed=FIVE
    )
    seed = anatomy_seeds("judge")[-2]
    scene = virtual_scene(cache, "alive-5", seed, config, seconds, None, progress)
    out = cache / "alive-5-live"
    file = out.parent / f"{out.name}-faults.json"
    file.unlink(missing_ok=True)
    assailant = subprocess.Popen(
        [sys.executable, "-m", "spine_nav_bench.assailant", file, str(os.getpid()), str(repeats)],
        stdout=sys.stderr,
    )
    try:
        outcome = live(scene.case, f"replay:{scene.recording}", out, ("camera_source.loop=true",))
    finally:
        assailant.terminate()
        assailant.wait(_END_S)
    stopped = outcome.summary.get("stopped", "")
    return {**read_json(file), "stopped": stopped, "seeds": [scene.seed]}
