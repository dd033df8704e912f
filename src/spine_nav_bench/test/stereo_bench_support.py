# SPDX-License-Identifier: Apache-2.0
"""Three pairs of four heads on a rod, a tracker that says what it is told to, and a record's base."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spine_nav_bench.bench_stereo_scenes import StereoFolder
from spine_nav_common.core.truth import Truth, TruthFrame, TruthRod, TruthScrew
from spine_nav_common.core.types import (
    Head3D,
    Intrinsics,
    Rejected,
    RodFit,
    ScrewTrack,
    StereoFrame,
    StereoResult,
)

BASE = {
    "command": "spinenav bench", "time": "2026-01-01T00:00:00+00:00", "commit": "a" * 40,
    "dirty": False, "model_sha256": "b" * 64, "provider": "CPU", "wall_s": 300.0,
    "machine": {"cpu": "TestCPU", "cores": 2, "load_1min": 0.1}, "smoke": False,
}  # fmt: skip
OUT = np.array([0.0, 0.0, -1.0])
HEADS = np.array([[0.00, 0, 0.5], [0.03, 0, 0.5], [0.06, 0, 0.5], [0.09, 0, 0.5]])
ROD = np.stack([np.linspace(-0.01, 0.10, 221), np.zeros(221), np.full(221, 0.5)], axis=1)
STAMPS = (100, 200, 300)


def truth() -> Truth:
    """Four heads on one rod in three pairs; the last head shows less than half of the others."""
    return Truth(
        ("L1",), ("L1",), (), {s: TruthFrame(s, {}) for s in STAMPS},
        tuple(
            TruthScrew(s, i, f"L{i + 1}", "left", head, OUT, px)
            for s in STAMPS for i, (head, px) in enumerate(zip(HEADS, (90, 80, 70, 9), strict=True))
        ),
        tuple(TruthRod(s, "left", ROD, ROD[:, 0] < 0.07) for s in STAMPS),
    )  # fmt: skip


def pairs() -> list[StereoFrame]:
    image = np.zeros((48, 64), np.uint8)
    camera = Intrinsics(64, 48, 60.0, 60.0, 32.0, 24.0)
    return [StereoFrame(s, image, image, camera, 0.06) for s in STAMPS]


@dataclass
class FakeTracker:
    """Says what it is told to; refuses the pairs of `refused`."""

    heads: np.ndarray
    refused: tuple[int, ...] = ()
    bound_mm: float = 2.0
    rods: tuple[np.ndarray, ...] = (ROD,)
    resets: int = 0

    def reset(self) -> None:
        self.resets += 1

    def process(self, frame, vertebrae=None, case=None):
        if frame.stamp_ns in self.refused:
            return Rejected("black image")
        screws = tuple(
            ScrewTrack(i, Head3D(p, np.eye(3) * 1e-6, OUT, 0.05, 0.9, 0.0), self.bound_mm)
            for i, p in enumerate(self.heads)
        )
        rods = tuple(RodFit(r, np.ones(len(r)), np.ones(len(r), bool)) for r in self.rods)
        return StereoResult(frame.stamp_ns, screws, rods, {"find": 3.0, "total": 5.0})


class FakeScene(StereoFolder):
    def pairs(self, count=None):
        return pairs()

    def truth(self):
        return truth()
