# SPDX-License-Identifier: Apache-2.0
"""What the ROS tests share: a domain per process, a small case and recording, a fake navigator."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import trimesh

from spine_nav_common.core.case import load_case, write_case
from spine_nav_common.core.depth_calibration import (
    DepthCalibration,
    DepthField,
    write_depth_calibration,
)
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.types import (
    Case,
    Intrinsics,
    LevelEstimate,
    Mesh,
    NavigationResult,
    Rejected,
    RgbdFrame,
    ScrewPlan,
    Status,
)
from spine_registration.core.memory import Memory, Shown
from spine_registration.core.picture import thumbnail
from spine_registration.ros.navigation_core import Core, NavigationConfig

CAMERA = Intrinsics(64, 48, 60.0, 60.0, 31.5, 23.5)
LEVELS = ("L2", "L3")
PERIOD_NS = 66_666_667
START_NS = 1_700_000_000_000_000_000


_domain = None


def own_domain() -> None:
    """One ROS domain per test process, so that parallel runs do not hear each other."""
    global _domain
    first = os.getpid()
    for number in (1 + (first + k) % 100 for k in range(100)):
        if _domain is not None:
            break
        lock = Path(tempfile.gettempdir()) / f"spinenav-test-domain-{number}-{os.getuid()}"
        file = lock.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        _domain = number, file  # until this process ends
    assert _domain is not None, "all 100 ROS domains are in use by other test runs"
    os.environ["ROS_DOMAIN_ID"] = str(_domain[0])
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


def spinenav(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own, without a terminal."""
    command = [sys.executable, "-m", "spine_nav_bringup.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, check=False
    )


def lines_without_latency(out: Path) -> list[str]:
    """The rows of a poses.csv but for their last column, which only a live run has."""
    lines = (out / "poses.csv").read_text(encoding="ascii").splitlines()
    return [line.rpartition(",")[0] for line in lines]


def exit_codes(proc_info) -> dict[str, int]:
    """Exit code of the last process of each executable that a launch test started."""
    # executable-N, where N counts all processes of a launch
    return {n.rpartition("-")[0]: proc_info[n].returncode for n in proc_info.process_names()}


def write_small_case(folder: Path) -> Path:
    """Two box-like vertebrae 35 mm apart with a plan; returns the folder."""
    meshes, plan = {}, []
    for i, level in enumerate(LEVELS):
        centre = np.array([0.0, 0.0, -0.035 * i])
        box = trimesh.creation.box(extents=(0.05, 0.07, 0.028)).subdivide()
        vertices = np.asarray(box.vertices) + centre
        meshes[level] = Mesh(vertices.astype(float), np.asarray(box.faces, np.int32))
        for side, x in (("left", 0.012), ("right", -0.012)):
            entry, target = centre + (x, 0.030, 0.0), centre + (x, -0.010, 0.0)
            plan.append(ScrewPlan(level, side, entry, target))
    case = Case("small", "LPS", meshes, LEVELS, tuple(plan), "")
    write_case(folder, case)
    return folder


def frame(index: int, camera: Intrinsics = CAMERA) -> RgbdFrame:
    """A plain frame whose first pixel counts."""
    colour = np.full((camera.height, camera.width, 3), 90, np.uint8)
    colour[0, 0, 0] = index % 256
    depth = np.full((camera.height, camera.width), 0.5, np.float32)
    depth[:4] = np.nan
    return RgbdFrame(START_NS + index * PERIOD_NS, colour, depth, camera)


def write_small_recording(folder: Path, count: int = 12, sqlite3: bool = False) -> Path:
    """`count` frames at 15 Hz; returns the folder."""
    with RecordingWriter(folder, compress=False, sqlite3=sqlite3) as writer:
        for index in range(count):
            writer.write_rgbd(frame(index))
    return folder


class FakeNavigator:
    """Gives every level a pose 0.5 m away after `register_after` frames.

    modes: `error_at` raises RuntimeError at that frame, `slow_s` sleeps per frame, `ask` waits for
    the surgeon, `occluded` levels are never tracked.
    """

    def __init__(
        self, levels: tuple[str, ...], register_after: int = 2, slow_s: float = 0.0,
        error_at: int | None = None, ask: bool = False, occluded: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.levels, self.register_after, self.slow_s = levels, register_after, slow_s
        self.error_at, self.occluded = error_at, occluded
        self.pending = "L2 to L3 as seen? (margin 2)" if ask else None
        self.pending_id = "AAAA" if ask else None
        self.stamps: list[int] = []
        self.epochs: list[int] = []
        self.first_pixels: list[int] = []
        self.resets = self.requests = self.registrations = 0
        self.recalled: list[tuple[Memory, float]] = []
        self.withheld: dict[str, str] = {}

    @property
    def following(self) -> bool:
        return self.pending is None and len(self.stamps) > self.register_after

    def segment(self, frame: RgbdFrame, epoch: int = 0) -> SimpleNamespace:
        self.epochs.append(epoch)
        return SimpleNamespace(frame=frame)

    def solve(self, seen: SimpleNamespace) -> NavigationResult:
        return self.process(seen.frame)

    def process(self, frame: RgbdFrame) -> NavigationResult:
        self.stamps.append(frame.stamp_ns)
        self.first_pixels.append(int(frame.colour[0, 0, 0]))
        time.sleep(self.slow_s)
        if self.error_at is not None and len(self.stamps) == self.error_at:
            raise RuntimeError("broken on purpose")
        if self.pending is not None:
            levels = [LevelEstimate(v, Status.REJECTED, reason="confirm") for v in self.levels]
        elif len(self.stamps) <= self.register_after:
            levels = [LevelEstimate(v, Status.SEARCHING) for v in self.levels]
        else:
            levels = [self._estimate(v) for v in self.levels]
        return NavigationResult(frame.stamp_ns, tuple(levels), {"update": 1.5})

    def _estimate(self, level: str) -> LevelEstimate:
        T = np.eye(4)
        T[:3, 3] = (0.01, 0.02, 0.5)
        status = Status.OCCLUDED if level in self.occluded else Status.TRACKED
        covariance = np.diag([1e-7] * 3 + [1e-5] * 3)
        return LevelEstimate(level, status, T, covariance, T[:3, 3] + (0, 0, 0.02), 1.25)

    def label_image(self, frame: RgbdFrame) -> np.ndarray:
        return np.full(frame.depth_m.shape, 254, np.uint8)

    def request_registration(self) -> None:
        self.requests += 1

    def withhold(self, reasons: dict[str, str]) -> None:
        self.withheld |= reasons

    def memory(self, frame: RgbdFrame, clock: str) -> Memory:
        T, tracked = np.tile(np.eye(4), (len(self.levels), 1, 1)), np.ones(len(self.levels), bool)
        shown = Shown("camera", T, tracked, thumbnail(frame.colour), frame.stamp_ns, 0.0)
        return Memory("case", clock, "boot", shown, (), False)

    def recall(self, memory: Memory, within_s: float) -> None:
        self.recalled.append((memory, within_s))

    def confirm(self, accept: bool, hypothesis_id: str | None = None) -> str | Rejected:
        if hypothesis_id not in (None, self.pending_id):
            return Rejected(f"the hypothesis changed: {self.pending_id} is asked now")
        self.pending = self.pending_id = None
        return "accepted L2 to L3" if accept else "rejected L2 to L3"

    def reset(self) -> None:
        self.resets += 1


def depth_calibration(path: Path, intrinsics: Intrinsics, **values) -> DepthCalibration:
    """A calibration of this camera, written there: it takes a thousandth of the distance away."""
    today = date.today()
    known = DepthCalibration(
        intrinsics.width, intrinsics.height, intrinsics.fx, DepthField(np.full((4, 4), -1e-3)),
        2e-4, 1e-4, 0.1, "", today, today + timedelta(days=1),
    )  # fmt: skip
    return write_depth_calibration(path, replace(known, **values))


def fake_loader(navigators: list[FakeNavigator], **modes) -> Callable[[NavigationConfig], Core]:
    """A loader for NavigationNode; the navigator it makes is appended to `navigators`."""

    def load(config: NavigationConfig) -> Core:
        case = load_case(config.case)
        navigators.append(FakeNavigator(case.exposed_levels, **modes))
        return Core(case, navigators[-1], "fake", "0" * 64)

    return load
