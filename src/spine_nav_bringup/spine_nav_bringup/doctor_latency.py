# SPDX-License-Identifier: Apache-2.0
"""`spinenav doctor --latency`: a short measurement of this machine through the core, without ROS."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from spine_nav_common.core.budgets import StageTimes, budgets
from spine_nav_common.core.case import load_case
from spine_nav_common.core.images import decode_colour, decode_depth, encode_image
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.run import Progress
from spine_nav_common.core.types import Case, RgbdFrame
from spine_nav_sim.core.operation import simulate
from spine_nav_sim.core.scene_config import SceneConfig
from spine_nav_sim.core.splits import anatomy_seeds
from spine_perception.core.backends import AUTO
from spine_perception.core.segmenter import Segmenter, load_segmenter
from spine_registration.core.navigator import Navigator

LEVELS = ("L1", "L2", "L3", "L4", "L5")
SECONDS = 1.0
ROUNDS = 5
NOTE = (
    "Of a virtual operation in memory, five levels, one frame after the other; the ROS 2 graph adds"
    " its transport, and computes the network and the update of two frames at once."
)


class _Message:
    """An Image message's fields, as a camera sends them."""

    def __init__(self, fields: dict) -> None:
        self.__dict__.update(fields)


def measure(
    case: Case, frames: Sequence[RgbdFrame], segmenter: Segmenter, rounds: int = ROUNDS
) -> StageTimes:
    """Every frame `rounds` times: decoded from messages, segmented, solved; the first round, in which
    everything is compiled and touched for the first time, does not count."""
    messages = [
        (_Message(encode_image(f.colour, "rgb8")), _Message(encode_image(f.depth_m, "32FC1")))
        for f in frames
    ]
    navigator = Navigator(case, segmenter)
    times = StageTimes()
    for lap in range(rounds + 1):
        navigator.reset()
        for frame, (colour, depth) in zip(frames, messages, strict=True):
            start = time.perf_counter()
            decoded = RgbdFrame(
                frame.stamp_ns, decode_colour(colour), decode_depth(depth), frame.intrinsics
            )
            decode_ms = 1e3 * (time.perf_counter() - start)
            result = navigator.process(decoded)
            if navigator.pending is not None:
                navigator.confirm(True)  # time is measured here, not trust
            took = result.timings_ms
            if "registration" in took:  # its network looked at the whole image
                took = {k: v for k, v in took.items() if k == "registration"}
            else:
                took = {**took, "decode": decode_ms, "image_to_pose": decode_ms + took["total"]}
                took |= {f"network: {k}": v for k, v in segmenter.timings_ms.items()}
            if lap:
                times.note(took)
    return times


def latency_text(times: StageTimes, provider: str) -> str:
    """The table of stage, budget and measured time."""
    limits = budgets(provider)
    lines = [f"network runs on {provider}", f"{'stage, ms':<20} {'budget':>13} {'measured':>13}"]
    for stage, took in sorted(times.times().items()):
        limit = limits.get(stage)
        allowed = f"{limit.median_ms:g} / {limit.p99_ms:g}" if limit else "-"
        verdict = "" if limit is None or took.within(limit) else "  OVER"
        measured = f"{took.median_ms:.1f} / {took.p99_ms:.1f}"
        lines.append(f"{stage:<20} {allowed:>13} {measured:>13}  n = {took.count}{verdict}")
    return "\n".join(["median / 99th percentile", *lines, NOTE])


def run_latency(backend: str | None = None, progress: Progress | None = None) -> int:
    """Measure and print; 0 whatever is found: a slow machine is told, not refused."""
    segmenter = load_segmenter(backend=backend or AUTO)
    config = SceneConfig(exposed=LEVELS, camera_moves=True, tool_passes=False)
    with TemporaryDirectory(prefix="spinenav-") as folder:
        scene = Path(folder) / "scene"
        seed = anatomy_seeds("calibrate")[0]
        simulate(scene, None, seed, SECONDS, ("rgbd",), config, progress)
        frames = list(open_recording(scene / "recording").rgbd_frames())
        times = measure(load_case(scene / "case"), frames, segmenter)
    print(latency_text(times, segmenter.provider))
    return 0
