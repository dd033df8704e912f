# SPDX-License-Identifier: Apache-2.0
"""Metrics against values worked out by hand, and every failure they must not hide."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spine_nav_common.core.geometry import exp_se3, perturb_about, transform_points
from spine_nav_common.core.metrics import (
    evaluate,
    evaluate_poses,
    format_report,
    pool_reports,
    trajectory_error_deg,
)
from spine_nav_common.core.outputs import OutputError, PoseRow, ResultWriter
from spine_nav_common.core.truth import Truth, TruthFrame
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status

CAMERA = exp_se3(np.array([0.02, 0.05, 0.4, 1.8, 0.3, -0.2]))
STAMPS = tuple(range(100, 110))


@pytest.fixture
def truth(case) -> Truth:
    """Each level moves on its own, so that no level's pose serves for another."""
    frames = {}
    for i, stamp in enumerate(STAMPS):
        poses = {
            level: exp_se3(np.array([0.001 * i, 0.002 * k, 0, 0.01 * k, 0, 0])) @ CAMERA
            for k, level in enumerate(case.meshes)
        }
        frames[stamp] = TruthFrame(stamp, poses)
    return Truth(tuple(case.meshes), case.exposed_levels, case.plan, frames)


def rows_of(case, truth, change=lambda row: row, bound_mm=2.0):
    rows = []
    for stamp, frame in truth.frames.items():
        for level in case.exposed_levels:
            row = PoseRow(stamp, level, Status.TRACKED, frame.T_camera_ct[level], bound_mm, None)
            changed = change(row)
            rows += [] if changed is None else [changed]
    return rows


def moved(row: PoseRow, millimetres: float) -> PoseRow:
    T = row.T_camera_ct.copy()
    T[:3, 3] += (0.0, 0.6e-3 * millimetres, 0.8e-3 * millimetres)
    return dataclasses.replace(row, T_camera_ct=T)


def test_the_truth_itself_is_perfect(case, truth):
    m = evaluate_poses(rows_of(case, truth), truth, case).to_dict()["pooled"]
    for name in ("tre_mm", "trer_deg", "eper_mm", "add_mm"):
        assert m[name]["mean"] == pytest.approx(0.0, abs=1e-9)
    assert (m["availability"], m["coverage95"]) == (1.0, 1.0)
    assert (m["levels"], m["levels_registered"], m["levels_failed"]) == (3, 3, 0)
    assert (m["silent_failures"], m["wrong_level"]) == (0, 0)
    assert m["trer_deg"]["count"] == 2 * 30


def test_a_shift_is_its_length_in_every_distance(case, truth):
    m = evaluate_poses(rows_of(case, truth, lambda r: moved(r, 3.0)), truth, case).to_dict()
    for name in ("tre_mm", "eper_mm", "add_mm"):
        assert m["pooled"][name]["median"] == pytest.approx(3.0)
    assert m["pooled"]["trer_deg"]["p95"] == pytest.approx(0.0, abs=1e-9)
    assert m["pooled"]["coverage95"] == 0.0  # bound 2 mm


def test_a_turn_about_the_entry_point_leaves_it_and_tilts_the_screw(case, truth):
    line = case.plan[0]

    def turn(row: PoseRow) -> PoseRow | None:
        if row.level != "L1":
            return None
        T = row.T_camera_ct
        axis = T[:3, :3] @ (line.target_m - line.entry_m)
        across = np.cross(axis, (0.3, 0.2, 0.9))
        w = np.radians(2.0) * across / np.linalg.norm(across)
        xi = np.concatenate([np.zeros(3), w])
        turned = perturb_about(T, xi, transform_points(T, line.entry_m))
        return dataclasses.replace(row, T_camera_ct=turned)

    (outcome, *others) = evaluate_poses(rows_of(case, truth, turn), truth, case).outcomes
    assert [o.errors for o in others] == [(), ()]
    error = outcome.errors[0]
    assert error.trer_deg[0] == pytest.approx(2.0, abs=1e-6)
    assert error.eper_mm[0] == pytest.approx(0.0, abs=1e-6)
    assert error.eper_mm[1] > 0.5
    assert error.rotation_deg == pytest.approx(2.0, abs=1e-6)


def test_tre_and_add_agree_with_a_plain_loop(case, truth):
    rng = np.random.default_rng(1)
    T = exp_se3(rng.normal(0, 0.003, 6)) @ truth.frames[100].T_camera_ct["L2"]
    rows = [PoseRow(100, "L2", Status.TRACKED, T, 1.0, None)]
    (error,) = evaluate_poses(rows, truth, case).outcomes[1].errors
    T_true = truth.frames[100].T_camera_ct["L2"]

    def distance(p) -> float:
        return 1e3 * np.linalg.norm((T @ [*p, 1.0])[:3] - (T_true @ [*p, 1.0])[:3])

    points = [q for p in case.plan if p.level == "L2" for q in (p.entry_m, p.target_m)]
    assert error.tre_mm == pytest.approx(np.mean([distance(p) for p in points]))
    vertices = case.meshes["L2"].vertices_m
    assert error.add_mm == pytest.approx(np.mean([distance(p) for p in vertices]))
    assert error.centroid_mm == pytest.approx(distance(vertices.mean(axis=0)))
    R = Rotation.from_matrix(T[:3, :3] @ T_true[:3, :3].T)
    assert error.rotation_deg == pytest.approx(np.degrees(R.magnitude()))


def test_without_plan_lines_tre_is_over_the_vertices(case, truth):
    bare = dataclasses.replace(case, plan=())
    rows = rows_of(case, truth, lambda r: moved(r, 1.0))
    m = evaluate_poses(rows, truth, bare).to_dict()["pooled"]
    assert m["tre_mm"]["mean"] == pytest.approx(m["add_mm"]["mean"])
    assert m["trer_deg"] is None


def test_statistics_are_pooled_over_level_frames(case, truth):
    """L1 tracked in one frame with 3 mm, L2 in ten with 1 mm: the mean is no mean of levels."""

    def change(row: PoseRow) -> PoseRow | None:
        if row.level == "L1":
            return moved(row, 3.0) if row.stamp_ns == 100 else None
        return moved(row, 1.0) if row.level == "L2" else None

    m = evaluate_poses(rows_of(case, truth, change), truth, case).to_dict()
    assert m["pooled"]["tre_mm"]["mean"] == pytest.approx((3.0 + 10 * 1.0) / 11)
    assert m["pooled"]["tre_mm"]["median"] == pytest.approx(1.0)
    assert m["pooled"]["availability"] == pytest.approx(11 / 30)
    assert m["levels"]["L1"]["availability"] == pytest.approx(0.1)
    assert m["levels"]["L3"]["tre_mm"] is None
    assert m["levels"]["L3"]["levels_failed"] == 1  # never tracked


@pytest.mark.parametrize(
    ("millimetres", "degrees", "success"),
    [(3.9, 0.0, True), (4.1, 0.0, False), (0.0, 4.9, True), (0.0, 5.1, False)],
)
def test_success_is_of_the_first_tracked_row_alone(case, truth, millimetres, degrees, success):
    centroid = case.meshes["L1"].vertices_m.mean(axis=0)

    def change(row: PoseRow) -> PoseRow:
        if row.stamp_ns == 100:
            return dataclasses.replace(
                row, status=Status.REGISTERING, T_camera_ct=None, predicted_tre_mm=None
            )
        if row.stamp_ns == 101 and row.level == "L1":
            T = row.T_camera_ct
            xi = np.array([0, 0, 0, np.radians(degrees), 0, 0])
            turned = perturb_about(T, xi, transform_points(T, centroid))
            return moved(dataclasses.replace(row, T_camera_ct=turned), millimetres)
        return row

    report = evaluate_poses(rows_of(case, truth, change), truth, case)
    assert [o.success for o in report.outcomes] == [success, True, True]


def test_a_good_row_later_does_not_save_a_bad_first_one_and_order_of_rows_is_by_stamp(case, truth):
    rows = rows_of(case, truth, lambda r: moved(r, 9.0) if r.stamp_ns == 100 else r)
    report = evaluate_poses(rows[::-1], truth, case)
    assert not any(o.success for o in report.outcomes)
    assert report.to_dict()["pooled"]["silent_failures"] == 3


def test_silent_failures_count_tracked_rows_only(case, truth):
    def change(row: PoseRow) -> PoseRow:
        status = Status.OCCLUDED if row.stamp_ns < 105 else Status.TRACKED
        return moved(dataclasses.replace(row, status=status), 4.5)

    m = evaluate_poses(rows_of(case, truth, change), truth, case).to_dict()["pooled"]
    assert (m["tracked"], m["silent_failures"], m["silent_failure_rate"]) == (15, 15, 1.0)
    assert m["statuses"] == {"occluded": 15, "tracked": 15}


def test_a_level_on_its_neighbour_is_a_wrong_level(case, truth):
    """L2 shown on L3's bone: shifted by the distance of their centres, orientation right."""
    c = {level: mesh.vertices_m.mean(axis=0) for level, mesh in case.meshes.items()}

    def change(row: PoseRow) -> PoseRow:
        if row.level != "L2":
            return row
        poses = truth.frames[row.stamp_ns].T_camera_ct
        T = row.T_camera_ct.copy()
        T[:3, 3] += transform_points(poses["L3"], c["L3"]) - transform_points(T, c["L2"])
        return dataclasses.replace(row, T_camera_ct=T)

    report = evaluate_poses(rows_of(case, truth, change), truth, case)
    m = report.to_dict()
    assert m["pooled"]["wrong_level"] == 10
    assert m["levels"]["L2"]["wrong_level"] == 10
    assert {e.nearest_level for e in report.outcomes[1].errors} == {"L3"}
    assert not report.outcomes[1].success
    assert m["pooled"]["silent_failures"] == 10


def test_coverage_is_the_share_under_the_bound(case, truth):
    rows = rows_of(case, truth, lambda r: moved(r, 0.25 * (r.stamp_ns - 99)), bound_mm=2.125)
    m = evaluate_poses(rows, truth, case).to_dict()
    assert m["pooled"]["coverage95"] == pytest.approx(0.8)
    assert m["levels"]["L3"]["coverage95"] == pytest.approx(0.8)


def test_missing_frames_and_rows_without_truth_are_told(case, truth):
    rows = [r for r in rows_of(case, truth) if r.stamp_ns != 103]
    rows.append(PoseRow(999, "L1", Status.TRACKED, CAMERA, 1.0, None))
    report = evaluate_poses(rows, truth, case)
    assert (report.frames_without_rows, report.rows_without_truth) == (1, 1)
    assert report.to_dict()["pooled"]["availability"] == pytest.approx(27 / 30)
    text = format_report(report)
    assert "1 of 10 frames have no rows" in text
    assert "1 rows have no truth" in text


def test_rows_that_cannot_be_judged_are_refused(case, truth):
    rows = rows_of(case, truth)
    with pytest.raises(OutputError, match="two rows"):
        evaluate_poses([*rows, rows[0]], truth, case)
    narrow = dataclasses.replace(case, exposed_levels=("L1", "L2"))
    with pytest.raises(OutputError, match="L3"):
        evaluate_poses(rows, truth, narrow)


def test_a_folder_without_results_is_refused(tmp_path, case, truth):
    with pytest.raises(OutputError, match=r"poses\.csv"):
        evaluate(tmp_path, truth, case)


def test_folder_to_table_and_json(tmp_path, case, truth):
    with ResultWriter(tmp_path) as writer:
        for row in rows_of(case, truth, lambda r: moved(r, 1.0) if r.level == "L1" else None):
            tracked = LevelEstimate("L1", Status.TRACKED, row.T_camera_ct, predicted_tre_mm=2.0)
            rest = (LevelEstimate(v, Status.LOST) for v in ("L2", "L3"))
            writer.write(NavigationResult(row.stamp_ns, (tracked, *rest)))
    report = evaluate(tmp_path, truth, case)
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document["pooled"]["tre_mm"]["median"] == pytest.approx(1.0, abs=1e-6)
    assert document["screws"] is None
    lines = format_report(report).splitlines()
    assert "1.00/1.00/1.00" in next(line for line in lines if line.startswith("L1"))
    assert "33.3 %" in next(line for line in lines if line.startswith("all"))
    assert "1 / 3" in next(line for line in lines if line.startswith("all"))


def test_pooling_weighs_level_frames_not_scenes(case, truth):
    short = dataclasses.replace(truth, frames={100: truth.frames[100]})
    a = evaluate_poses(rows_of(case, truth, lambda r: moved(r, 1.0)), truth, case)
    b = evaluate_poses(rows_of(case, short, lambda r: moved(r, 12.0)), short, case)
    m = pool_reports([a, b]).to_dict()["pooled"]
    assert m["tre_mm"]["mean"] == pytest.approx((30 * 1.0 + 3 * 12.0) / 33)
    assert (m["levels"], m["levels_registered"], m["level_frames"]) == (6, 3, 33)


def test_trajectory_error_keeps_tiny_angles(case):
    line = case.plan[0]
    across = np.cross(line.target_m - line.entry_m, (0, 0, 1.0))
    w = 1e-9 * across / np.linalg.norm(across)
    T = exp_se3(np.concatenate([np.zeros(3), w]))
    assert trajectory_error_deg(T, np.eye(4), line) == pytest.approx(np.degrees(1e-9), rel=1e-3)


def test_a_case_that_calls_other_levels_exposed_is_noted(case, truth):
    other = dataclasses.replace(truth, exposed=("L1",))
    assert "judged are the case's" in format_report(
        evaluate_poses(rows_of(case, truth), other, case)
    )
