# SPDX-License-Identifier: Apache-2.0
"""The demo's stereo part: what makes it fail, and the picture of what lies in the files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rod_bending_ar.core.plan import RodOrder
from spine_nav_bringup.demo_stereo import guidance_lines, last_result, picture, stereo_verdict
from spine_nav_bringup.screws import rod_plans
from spine_nav_common.core.implant_outputs import ImplantWriter, RodCurve, ScrewRow
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.types import Intrinsics, StereoFrame
from spine_nav_sim.core.rig import MOUNTED

K = Intrinsics(320, 240, 300.0, 300.0, 159.5, 119.5)
GOOD = {"screws": {"found": 8, "side_wrong": 0, "level_wrong": 0}}


def rows(stamp_ns: int) -> list[ScrewRow]:
    """Two rows of three heads, head up in the image."""
    return [
        ScrewRow(
            stamp_ns, 3 * k + i, np.array([x, -0.03 + 0.03 * i, 0.5]), np.array([0.0, 0.0, -1.0]),
            0.9, 1.0, "", side,
        )
        for k, (side, x) in enumerate((("left", -0.02), ("right", 0.02)))
        for i in range(3)
    ]  # fmt: skip


def rod() -> RodCurve:
    y = np.arange(-0.04, 0.04, 0.001)
    points = np.stack([np.full_like(y, -0.02), y, np.full_like(y, 0.5)], axis=1)
    return RodCurve("left", points, np.full(len(y), 0.3), np.ones(len(y), bool))


def write_run(folder, rod_stamp_ns: int):
    with ImplantWriter(folder) as writer:
        writer.write(100, rows(100), [], {"total": 1.0})
        writer.write(200, rows(200), [rod()] if rod_stamp_ns == 200 else [], {})
        if rod_stamp_ns == 300:
            writer.write(300, [], [rod()], {})


@pytest.mark.parametrize(
    ("change", "stopped", "text"),
    [
        ({"found": 0}, "", "no screw head was found"),
        ({"side_wrong": 2}, "", "2 heads were given a wrong side"),
        ({"level_wrong": 1}, "", "1 a wrong level"),
        ({}, "a node died", "the stereo run stopped: a node died"),
    ],
)
def test_a_demo_without_screws_or_with_wrong_names_fails_and_says_so(change, stopped, text):
    assert stereo_verdict(GOOD, "") == []
    (problem,) = stereo_verdict({"screws": {**GOOD["screws"], **change}}, stopped)
    assert text in problem
    assert stereo_verdict({"screws": None}, "")


def test_the_last_pair_is_read_back_with_its_own_rods_only(tmp_path):
    write_run(tmp_path / "a", 200)
    result = last_result(tmp_path / "a")
    assert (result.stamp_ns, len(result.screws), len(result.rods)) == (200, 6, 1)
    write_run(tmp_path / "b", 300)  # the rods are of a later pair, which had no heads
    assert last_result(tmp_path / "b").rods == ()


def test_the_picture_shows_heads_rod_and_steps(tmp_path):
    write_run(tmp_path, 200)
    image = np.full((240, 320), 90, np.uint8)
    with RecordingWriter(tmp_path / "rec") as writer:
        for stamp_ns in (100, 200):
            writer.write_stereo(StereoFrame(stamp_ns, image, image, K, 0.06))
    result = last_result(tmp_path)
    plans, refusals = rod_plans(result, tmp_path / "screws.csv")
    assert set(plans) == {"left", "right"} and not refusals
    shown = picture(tmp_path / "rec", result, tuple(plans.values()))
    for colour in ((64, 224, 120), (90, 235, 255), (255, 130, 220)):  # heads, rod, plan
        assert (np.abs(shown.astype(int) - colour).max(axis=2) < 12).sum() > 30
    with pytest.raises(ValueError, match="holds no pair"):
        picture(tmp_path / "rec", replace(result, stamp_ns=150), ())


def test_what_the_guidance_said_last_is_told():
    summary = {"stereo": {"guidance": {"left": {"state": "good", "text": "rod is good"}}}}
    assert guidance_lines(summary) == ["left rod, good: rod is good"]
    assert guidance_lines({}) == []


def test_the_simulated_rods_can_be_the_planned_ones():
    assert MOUNTED.overhang_m == (1e-3 * RodOrder().overhang_mm,) * 2
