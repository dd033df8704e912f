# SPDX-License-Identifier: Apache-2.0
"""`spinenav replay FIRST --second SECOND`: what is refused before a frame is read, and one whole run."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from spine_nav_bench.two_camera_scenes import two_camera_scene
from spine_nav_bringup.cli import main
from spine_nav_bringup.replay_two import CAMERA_COLUMNS
from spine_nav_common.core.calibration_file import write_values
from spine_nav_common.core.case import write_case
from spine_nav_common.core.errors import CalibrationError
from spine_nav_common.core.geometry import invert, q_xyzw_from_rotation, transform_points
from spine_nav_common.core.outputs import read_poses
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.tables import table_rows
from spine_nav_common.core.types import Status
from spine_nav_sim.core.operation import stamp
from spine_nav_sim.core.splits import anatomy_seeds
from spine_registration.between_file import load_between

FRAMES = ("left_color_optical_frame", "right_color_optical_frame")
COUNT, FPS = 12, 10.0


def handeye_file(path, T, frames=FRAMES, expires="2099-01-01", serial="", covariance=None):
    edge = {
        "parent": frames[0], "child": frames[1], "translation_m": T[:3, 3].tolist(),
        "q_xyzw": q_xyzw_from_rotation(T[:3, :3]).tolist(),
    }  # fmt: skip
    cov = np.diag([1e-8] * 3 + [1e-7] * 3) if covariance is None else covariance
    values = {
        "serial": serial, "made": "2026-01-01", "expires": expires, "transforms": [edge],
        "T_base_target": np.eye(4).ravel().tolist(), "covariance": cov.ravel().tolist(), "told": {},
    }  # fmt: skip
    write_values(path, "handeye", 1, values)
    return path


X = np.array([[0.8, 0, 0.6, -0.3], [0, 1, 0, 0], [-0.6, 0, 0.8, 0.1], [0, 0, 0, 1.0]])


def refused(path, frames=FRAMES, **more):
    with pytest.raises(CalibrationError) as error:
        load_between(path, frames, **more)
    return str(error.value)


class TestTheFile:
    def test_either_way_round_it_is_the_first_ones(self, tmp_path):
        turned = handeye_file(tmp_path / "b.yaml", invert(X), FRAMES[::-1])
        straight, _ = load_between(handeye_file(tmp_path / "a.yaml", X), FRAMES)
        found, notes = load_between(turned, FRAMES)
        assert np.allclose(found.T_first_second, X) and np.allclose(straight.T_first_second, X)
        assert notes == ()
        # The lever of 0.3 m is in the covariance of what is turned round.
        assert found.covariance[1, 1] > 1.9 * straight.covariance[1, 1]

    def test_of_other_cameras_or_expired_or_changed_it_is_refused(self, tmp_path):
        file = handeye_file(tmp_path / "a.yaml", X, serial="111, 222")
        told = refused(file, (FRAMES[0], "third"))
        assert "it joins" in told and "--frames left_color_optical_frame third" in told
        assert "111 and 222" in refused(file, serials=("111", "333"))
        load_between(file, FRAMES, ("111", "222"))
        load_between(file, FRAMES, ("", ""))
        old = handeye_file(tmp_path / "b.yaml", X, expires="2026-06-01")
        assert "expired" in refused(old, today=date(2026, 6, 2))
        load_between(old, FRAMES, today=date(2026, 6, 1))
        text = file.read_text()
        file.write_text(text.replace("-0.3", "-0.31"))
        assert "changed" in refused(file)

    def test_without_a_covariance_it_is_refused(self, tmp_path):
        assert "covariance" in refused(handeye_file(tmp_path / "a.yaml", X, covariance=np.eye(3)))
        bad = handeye_file(tmp_path / "b.yaml", X, covariance=-np.eye(6))
        assert "covariance" in refused(bad)

    def test_two_cameras_of_one_name_are_told(self, tmp_path):
        file = handeye_file(tmp_path / "a.yaml", X)
        found, (note,) = load_between(file, ("camera", "camera"))
        assert np.allclose(found.T_first_second, X) and "taken for the first camera" in note


@pytest.fixture(scope="module")
def operation(tmp_path_factory):
    """Two recordings of one operation, the second one shorter: its camera dies."""
    folder = tmp_path_factory.mktemp("two")
    scene = two_camera_scene(anatomy_seeds("train")[5], 2, hands=False)
    write_case(folder / "case", scene.case)
    truth = {}
    for name, camera, frame_id, count in (
        ("first", scene.first, FRAMES[0], COUNT), ("second", scene.second, FRAMES[1], COUNT - 3),
    ):  # fmt: skip
        with RecordingWriter(folder / name) as writer:
            for n in range(count):
                shot = camera.render(n / FPS)
                writer.write_rgbd(replace(shot.to_frame(stamp(n / FPS)), frame_id=frame_id))
                if name == "first":
                    truth[stamp(n / FPS)] = shot.T_camera_ct
    handeye_file(
        folder / "between.yaml", scene.between.T_first_second, covariance=scene.between.covariance
    )
    return folder, scene, truth


def run(folder, out, *more):
    argv = ["replay", str(folder / "first"), "--second", str(folder / "second")]
    return main([*argv, "--case", str(folder / "case"), "--out", str(out), *map(str, more)])


def test_two_recordings_give_one_estimate_and_one_that_ends_is_dropped_without_a_jump(
    operation, tmp_path, capsys
):
    folder, scene, truth = operation
    out = tmp_path / "out"
    assert run(folder, out, "--between", folder / "between.yaml") == 0, capsys.readouterr()
    rows = read_poses(out / "poses.csv")
    levels = scene.case.exposed_levels
    assert len(rows) == COUNT * len(levels)
    used = [r["cameras"] for _, r in table_rows(out / "cameras.csv", CAMERA_COLUMNS)]
    assert "first+second" in used[: (COUNT - 3) * len(levels)]
    assert set(used[(COUNT - 3) * len(levels) :]) == {"first"}
    off = {}
    for r in rows:
        if r.status is Status.TRACKED:
            p = scene.case.plan_points_m(r.level)
            true = transform_points(truth[r.stamp_ns][r.level], p)
            off[r.level, r.stamp_ns] = 1e3 * (transform_points(r.T_camera_ct, p) - true)
    assert max(np.linalg.norm(e, axis=1).mean() for e in off.values()) < 4.0
    before, after = (stamp(n / FPS) for n in (COUNT - 4, COUNT - 3))
    steps = [np.linalg.norm(off[v, after] - off[v, before], axis=1).mean() for v in levels]
    assert max(steps) < 1.0
    told = json.loads((out / "summary.json").read_text())["cameras"]
    assert told["between"] == "between.yaml"
    assert told["second"]["moments_without"]["no frame"] == 3
    # The same bytes again.
    again = tmp_path / "again"
    run(folder, again, "--between", folder / "between.yaml")
    for name in ("poses.csv", "cameras.csv"):
        assert (out / name).read_bytes() == (again / name).read_bytes()


def test_without_a_file_the_spine_registers_the_cameras(operation, tmp_path):
    folder = operation[0]
    assert run(folder, tmp_path / "out") == 0
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert told["cameras"]["between"] == "the spine itself"
    assert any("registered to each other by the spine" in e["event"] for e in told["events"])


def test_a_wrong_file_leaves_the_first_camera_alone_and_says_so(operation, tmp_path, capsys):
    folder, scene, _ = operation
    wrong = scene.between.T_first_second.copy()
    wrong[:3, 3] *= 1.08
    file = handeye_file(tmp_path / "wrong.yaml", wrong)
    out = tmp_path / "out"
    assert run(folder, out, "--between", file) == 1
    said = capsys.readouterr().out
    assert "took no part" in said and "wrong.yaml does not fit" in said
    assert any(r.status is Status.TRACKED for r in read_poses(out / "poses.csv"))
    used = {r["cameras"] for _, r in table_rows(out / "cameras.csv", CAMERA_COLUMNS)}
    assert used <= {"first", ""}


def test_a_file_of_other_cameras_is_refused_before_anything_is_written(operation, tmp_path, capsys):
    folder, scene, _ = operation
    file = handeye_file(tmp_path / "o.yaml", scene.T_first_second, ("a", "b"))
    assert run(folder, tmp_path / "out", "--between", file) == 2
    assert "it joins a and b" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_between_without_a_second_camera_is_a_usage_error(tmp_path, capsys):
    argv = ["replay", "x", "--case", "y", "--out", str(tmp_path / "o"), "--between", "f.yaml"]
    assert main(argv) == 2
    assert "--second" in capsys.readouterr().err
