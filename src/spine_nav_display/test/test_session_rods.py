# SPDX-License-Identifier: Apache-2.0
"""Rods of a session against their plan, out of messages as they were published."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

from geometry_msgs.msg import Point
from visualization_msgs.msg import Marker, MarkerArray

from rod_bending_ar.core.guidance import SideGuidance
from rod_bending_ar.ros.guidance_output import guidance_status
from spine_nav_common.core.implant_outputs import RodCurve
from spine_nav_common.core.types import Rejected
from spine_nav_common.ros.conversions import header
from spine_nav_common.ros.implants import Implants, implant_messages
from spine_nav_display.core import session_rods
from spine_nav_display.core.session_reading import Session
from spine_nav_display.core.session_report import write_report
from spine_nav_display.core.session_rods import RodLast, draw_rod, rods_against_plan
from spine_nav_display.core.session_verify import Verified

STEREO = "stereo_left_optical_frame"
PLAN = np.stack([np.zeros(41), np.linspace(-0.05, 0.05, 41), np.full(41, 0.45)], axis=1)


def pair(stamp_ns, off_mm, planned=True, seen=None, longer_mm=0.0):
    """Messages of one stereo pair: the left rod beside its plan by off_mm (per point)."""
    top = header(stamp_ns, STEREO)
    target = Marker(header=top, ns="left/target", action=Marker.ADD, type=Marker.LINE_STRIP)
    target.points = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in PLAN]
    markers = [Marker(header=top, action=Marker.DELETEALL), *([target] if planned else [])]
    found = PLAN.copy()
    found[:, 0] += 1e-3 * np.asarray(off_mm)
    found[-1, 1] += 1e-3 * longer_mm
    seen = np.ones(len(PLAN), bool) if seen is None else seen
    rod = RodCurve("left", found, np.full(len(PLAN), 0.3), seen)
    m = implant_messages(Implants(stamp_ns, rods=(rod,)), STEREO)
    said = SideGuidance("left", "bending", "bend 2 of 3")
    return [
        ("/spine/screws/poses", m.poses),
        ("/spine/screws/status", m.status),
        ("/spine/guidance/bending", MarkerArray(markers=markers)),
        ("/spine/guidance/bending/status", guidance_status([said], top)),
    ]


@pytest.fixture
def against_plan(tmp_path, monkeypatch):
    def make(*pairs):
        messages = [m for one in pairs for m in one]
        monkeypatch.setattr(
            session_rods,
            "read_topics",
            lambda _, *suffixes: (m for m in messages if m[0].endswith(suffixes)),
        )
        return rods_against_plan(Session(tmp_path, {"started_ns": 0, "session": "s"}))

    return make


def test_a_rod_is_compared_at_the_last_pair_in_which_it_lay_in_its_screws(against_plan, tmp_path):
    off = np.linspace(0.0, 4.0, len(PLAN))
    rods = against_plan(pair(1, 9.0), pair(2, off), pair(3, 40.0), pair(4, 0.0, planned=False))
    rod = rods["left"]
    assert isinstance(rod, RodLast) and rod.stamp_ns == 2, "then it was held over the wound"
    assert rod.mean_mm == pytest.approx(off[1:-1].mean(), abs=0.06)
    assert rod.most_mm == pytest.approx(off[-2], abs=0.06)
    session = Session(tmp_path, {"started_ns": 0, "session": "s"})
    page = write_report(session, Verified(1, 1, ()), (), (), rods)
    assert "Rods against the plan" in page and "bend 2 of 3" in page
    assert f"<td>{rod.most_mm:.1f}</td>" in page and page.count("data:image/png") == 1


def test_what_is_not_seen_or_beyond_the_plans_end_is_not_measured(against_plan):
    off = np.where(np.arange(len(PLAN)) > 30, 30.0, 1.0)
    seen = np.arange(len(PLAN)) <= 30
    rod = against_plan(pair(1, off, seen=seen))["left"]
    assert rod.most_mm == pytest.approx(1.0, abs=0.06)
    rod = against_plan(pair(1, 1.0, longer_mm=20.0))["left"]
    assert rod.most_mm == pytest.approx(1.0, abs=0.06), "a longer rod is not an error of its shape"


def test_a_rod_that_was_never_laid_in_is_not_compared(against_plan):
    rods = against_plan(pair(1, 40.0))
    assert isinstance(rods["left"], Rejected)
    assert against_plan(pair(1, 1.0, planned=False)) == {}


def test_the_picture_shows_plan_and_rod_where_they_part(against_plan):
    near = draw_rod(against_plan(pair(1, 0.0))["left"])
    far = draw_rod(against_plan(pair(1, np.linspace(0.0, 8.0, len(PLAN))))["left"])
    plan = lambda image: np.count_nonzero((image == session_rods._PLAN).all(axis=2))
    assert plan(far) > plan(near) > 0, "a rod that lies on its plan covers it"
