# SPDX-License-Identifier: Apache-2.0
"""The virtual operation as a camera: the meshes of a case, opened, moving and seen with noise."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from spine_nav_common.core.types import Rejected, RgbdFrame


class Virtual:
    """Frames of a rendered scene; see FrameSource.

    Args:
        case: folder whose meshes are operated on; its exposed levels are opened.
        seed: of the scene (pose, wound, noise, motion).
        fps, seconds: pace and length; 0 seconds = without end (then not pre-rendered).
        prerender: render all before the first frame, so that timed runs do not measure rendering.

    Raises:
        CaseError: the case cannot be used.
    """

    def __init__(
        self, case: Path, seed: int = 0, fps: float = 15.0, seconds: float = 10.0,
        prerender: bool = True,
    ) -> None:  # fmt: skip
        from spine_nav_common.core.case import anatomical_axes, load_case
        from spine_nav_sim.core.anatomy import Anatomy
        from spine_nav_sim.core.scene import SceneConfig, make_scene

        loaded = load_case(case)
        # The generator works in LPS; the turn is undone by the registration, which sees meshes only.
        lps = anatomical_axes(loaded.orientation)
        meshes = {k: replace(m, vertices_m=m.vertices_m @ lps) for k, m in loaded.meshes.items()}
        anatomy = Anatomy(loaded.name, meshes, (), {})
        config = SceneConfig(exposed=loaded.exposed_levels, fps=fps, seconds=seconds or 600.0)
        self._scene = make_scene(anatomy, np.random.default_rng(seed), config)
        self._period_ns = round(1e9 / fps)
        self._count = round(seconds * fps) if seconds else None
        self.scenes = ("rgbd",)
        self.real_time = self._count is None or not prerender
        self._stop = threading.Event()
        self._ready: list[RgbdFrame] = []
        if not self.real_time:
            self._ready = [self._render(i, i * self._period_ns) for i in range(self._count)]

    def _render(self, index: int, stamp_ns: int) -> RgbdFrame:
        return self._scene.render(index * self._period_ns * 1e-9).to_frame(stamp_ns)

    def frames(self) -> Iterator[RgbdFrame | Rejected]:
        """See FrameSource. Rendered live, a frame that comes late is late, never skipped ahead."""
        if not self.real_time:
            start_ns = time.time_ns()
            yield from (replace(f, stamp_ns=start_ns + f.stamp_ns) for f in self._ready)
            return
        due, index = time.monotonic(), 0
        while not self._stop.is_set() and (self._count is None or index < self._count):
            frame = self._render(index, 0)
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            yield replace(frame, stamp_ns=time.time_ns())
            due = max(due + self._period_ns * 1e-9, time.monotonic())
            index += 1

    def close(self) -> None:
        """See FrameSource."""
        self._stop.set()
