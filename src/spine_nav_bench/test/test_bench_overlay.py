# SPDX-License-Identifier: Apache-2.0
"""The overlay's bench finds an overlay that lies aside, and its table says what was missed."""

from __future__ import annotations

import numpy as np
import pytest

from spine_nav_bench import bench_overlay as bench
from spine_nav_bench.results_overlay import OVERLAY_TARGETS, overlay_section
from spine_nav_common.core.types import Rejected


@pytest.fixture(scope="module")
def scene():
    return bench.make_scene(bench.SEED)


def test_what_is_drawn_lies_within_half_a_pixel(scene):
    outline = bench.outline_errors_px(scene)
    assert len(outline) > 2000 and np.quantile(outline, 0.95) <= 0.5
    marks = bench.mark_errors_px(scene)
    assert len(marks) > 10 and marks.max() + bench.raster_errors_px(50).max() <= 0.5


def test_an_overlay_that_ignores_the_lens_is_found_out(scene, monkeypatch):
    exact = bench.exact_px
    monkeypatch.setattr(bench, "exact_px", lambda lens, points: exact(lens, points) + (2.0, 0.0))
    assert np.median(bench.mark_errors_px(scene)) == pytest.approx(2.0, abs=0.01)
    assert np.quantile(bench.outline_errors_px(scene), 0.95) > 1.0


def test_everything_that_is_told_is_drawn(scene):
    assert len(scene.result.levels) == 5 and len(scene.case.plan) == 10
    assert len(scene.extras.screws) == 10 and len(scene.extras.rods) == 4
    assert scene.extras.tool is not None and scene.extras.bends and not scene.extras.notes
    assert not any(isinstance(s.check, Rejected) for s in scene.extras.screws)


STAT = {"median": 7.0, "p95": 9.0, "p99": 9.5, "max": 10.0, "count": 60}
PX = {"median": 0.1, "p95": 0.3, "p99": 0.4, "max": 0.2, "count": 60}
RECORD = {
    "command": "spinenav bench", "time": "2026-01-01T00:00:00+00:00", "commit": "a" * 40,
    "dirty": False, "model_sha256": None, "provider": None, "wall_s": 9.0,
    "machine": {"cpu": "TestCPU", "cores": 2, "load_1min": 0.1}, "smoke": False, "part": "overlay",
    "size": [1280, 720], "seeds": [1], "drawn": {"vertebrae": 5}, "loop_ms": 40.0,
    "draw_ms": STAT, "open3d_ms": {**STAT, "median": 600.0}, "open3d_note": "Filament",
    "marks_px": PX, "raster_px": PX, "outline_px": PX,
}  # fmt: skip


def test_the_table_tells_what_was_missed():
    assert [t.read(RECORD)[1] for t in OVERLAY_TARGETS] == [True, True]
    slow = {**RECORD, "draw_ms": {**STAT, "median": 8.1}, "open3d_ms": None}
    aside = {**RECORD, "outline_px": {**PX, "p95": 0.51}}
    assert not OVERLAY_TARGETS[0].read(slow)[1] and not OVERLAY_TARGETS[1].read(aside)[1]
    assert "Open3D: Filament" in OVERLAY_TARGETS[0].read(slow)[0]
    assert any("1280×720" in line for line in overlay_section(RECORD))
