# SPDX-License-Identifier: Apache-2.0
"""Screws of a session against the plan, out of messages as they were published."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from spine_nav_common.core.implant_outputs import ScrewRow
from spine_nav_common.core.types import (
    Case,
    LevelEstimate,
    Mesh,
    NavigationResult,
    Rejected,
    ScrewPlan,
    Status,
)
from spine_nav_display.core import session_screws
from spine_nav_display.core.session_reading import Session
from spine_nav_display.core.session_report import write_report
from spine_nav_display.core.session_verify import Verified

CAMERA, STEREO = "camera_color_optical_frame", "stereo_left_optical_frame"
MS = 1_000_000
CALIBRATION = """version: 1
transforms:
- {parent: camera_color_optical_frame, child: stereo_left_optical_frame,
   translation_m: [0.06, 0.0, 0.0], q_xyzw: [0.0, 0.0, 0.0, 1.0]}
"""
T = np.eye(4)
T[2, 3] = 0.5


def case() -> Case:
    box = trimesh.creation.box((0.04, 0.06, 0.03)).subdivide()
    mesh = Mesh(np.asarray(box.vertices, float), np.asarray(box.faces, np.int32))
    plan = tuple(
        ScrewPlan("L3", side, np.array([x, 0.030, 0.0]), np.array([x, -0.020, 0.0]))
        for side, x in (("left", 0.01), ("right", -0.01))
    )
    return Case("t", "LPS", {"L3": mesh}, ("L3",), plan, "")


def row(stamp_ns: int, x_mm: float, seen: bool = True) -> ScrewRow:
    """The left screw x_mm beside its plan, in the stereo camera's frame."""
    head = np.array([0.01 + 1e-3 * x_mm - 0.06, 0.042, 0.5])
    return ScrewRow(stamp_ns, 1, head, np.array([0.0, 1.0, 0.0]), 0.9, 1.0, "L3", "left", seen)


def shown(stamp_ns: int, status: Status = Status.TRACKED) -> tuple[int, NavigationResult]:
    held = status is Status.TRACKED
    level = LevelEstimate("L3", status, T if held else None, predicted_tre_mm=1.0 if held else None)
    return stamp_ns, NavigationResult(stamp_ns, (level,))


@pytest.fixture
def session(tmp_path, monkeypatch):
    """One whose stereo pairs are given as rows; `make(rows, results, calibrated)`."""
    pytest.importorskip("rclpy")
    from geometry_msgs.msg import PoseArray

    from spine_nav_common.ros.conversions import header
    from spine_nav_common.ros.implants import Implants, implant_messages

    def make(rows, results, calibrated=True):
        if calibrated:
            (tmp_path / "inputs").mkdir()
            (tmp_path / "inputs" / "calibration_1.yaml").write_text(CALIBRATION)
        messages = [("/spine/registration/vertebra_poses", PoseArray(header=header(0, CAMERA)))]
        for r in rows:
            hidden = frozenset() if r.seen else frozenset({r.track_id})
            m = implant_messages(Implants(r.stamp_ns, (r,), hidden=hidden), STEREO)
            messages += [("/spine/screws/poses", m.poses), ("/spine/screws/status", m.status)]
        monkeypatch.setattr(
            session_screws,
            "read_topics",
            lambda _, *suffixes: (m for m in messages if m[0].endswith(suffixes)),
        )
        found = Session(tmp_path, {"started_ns": 0, "session": "s"})
        found.shown = {stamp: (stamp, result) for stamp, result in results}
        return found

    return make


def test_each_screw_is_compared_at_the_last_pair_that_tells(session):
    found = session(
        [row(0, 1.0), row(66 * MS, 2.0), row(132 * MS, 5.0, seen=False), row(900 * MS, 6.0)],
        [shown(0), shown(66 * MS), shown(132 * MS), shown(900 * MS, Status.LOST)],
    )
    left, right = session_screws.placed_screws(found, case(), play_deg=0.0)
    assert left.stamp_ns == 66 * MS, "then it was held, then its level was lost"
    assert left.check.entry_mm == pytest.approx(2.0, abs=1e-3) and left.check.grade == "A"
    assert isinstance(right.check, Rejected) and "not seen" in right.check.reason
    page = write_report(found, Verified(1, 1, ()), (), (left, right))
    assert "Screws against the plan" in page and "L3\u00a0left" in page and "2.0\u00a0±" in page
    assert "not compared: it was not seen" in page


def test_a_tulip_that_may_lean_has_no_grade_in_the_report(session):
    found = session([row(0, 1.0)], [shown(0)])
    left, _ = session_screws.placed_screws(found, case())
    assert left.check.grade == ""
    assert "grade not told" in write_report(found, Verified(1, 1, ()), (), (left,))


@pytest.mark.parametrize(
    ("rows", "results", "calibrated", "word"),
    [
        ([row(0, 1.0)], [shown(0)], False, "no transform"),
        ([row(0, 1.0)], [shown(200 * MS)], True, "no pose of the same moment"),
        ([row(0, 1.0)], [shown(0, Status.OCCLUDED)], True, "not tracked"),
        ([row(0, 1.0)], [], True, "no pose of the same moment"),
    ],
)
def test_what_cannot_be_compared_is_not(session, rows, results, calibrated, word):
    left, _ = session_screws.placed_screws(session(rows, results, calibrated), case())
    assert isinstance(left.check, Rejected) and word in left.check.reason


def test_without_a_case_there_is_no_such_part(session):
    page = write_report(session([row(0, 1.0)], [shown(0)]), Verified(1, 1, ()), ())
    assert "against the plan" not in page
