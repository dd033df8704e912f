# SPDX-License-Identifier: Apache-2.0
"""`spinenav calibrate pivot`, `handeye` and `time` from pose files to their results."""

from __future__ import annotations

import numpy as np
import yaml

from spine_nav_bringup.cli import main
from spine_nav_common.core.geometry import exp_se3, exp_so3, invert, q_xyzw_from_rotation, transform
from spine_nav_common.core.static_frames import load_calibration

TIP = np.array([0.0, 0.15, 0.01])


def tum(path, poses, period_s=0.5):
    rows = [
        " ".join(f"{v:.9f}" for v in [n * period_s, *T[:3, 3], *q_xyzw_from_rotation(T[:3, :3])])
        for n, T in enumerate(poses)
    ]
    path.write_text("\n".join(rows))
    return str(path)


def turns(count, deg, seed=0):
    rng = np.random.default_rng(seed)
    return [exp_so3(np.radians(deg) * rng.uniform(-1, 1, 3)) for _ in range(count)]


def test_a_tip_from_poses_to_the_file(tmp_path, capsys):
    poses = [transform(R, [0.1, 0.2, -1.0] - R @ TIP) for R in turns(40, 30.0)]
    out = tmp_path / "p.yaml"
    assert main(["calibrate", "pivot", tum(tmp_path / "p.tum", poses), "--out", str(out)]) == 0
    assert np.allclose(yaml.safe_load(out.read_text())["tip_m"], TIP, atol=1e-6)
    assert "tip at" in capsys.readouterr().out
    still = tum(tmp_path / "s.tum", poses[:1] * 30)
    assert main(["calibrate", "pivot", still, "--out", str(tmp_path / "s.yaml")]) == 2
    assert "Swing it" in capsys.readouterr().err and not (tmp_path / "s.yaml").exists()


def test_a_camera_on_a_body_from_poses_to_a_file_that_joins_frames(tmp_path):
    X, Y = (
        exp_se3(np.array([0.03, 0.0, 0.05, 0.2, 0.4, -0.9])),
        exp_se3(np.array([1.0, 0, 0, 0, 1, 0])),
    )
    seen = [transform(R, [0.02, 0.0, 0.4]) for R in turns(12, 40.0)]
    body = [Y @ invert(B) @ invert(X) for B in seen]
    out = tmp_path / "h.yaml"
    argv = [
        "calibrate",
        "handeye",
        tum(tmp_path / "a.tum", body),
        "--frames",
        "marker",
        "eye",
        "--out",
        str(out),
    ]
    assert main([*argv[:3], tum(tmp_path / "b.tum", seen), *argv[3:]]) == 0
    (edge,) = load_calibration(out)
    assert (edge.parent, edge.child) == ("marker", "eye")
    assert np.allclose(edge.T_parent_child, X, atol=1e-6)
    back = tum(tmp_path / "c.tum", [invert(B) for B in seen])
    assert main([*argv[:3], back, *argv[3:]]) == 2
    assert main([*argv[:3], back, "--inverted", "camera", *argv[3:]]) == 0
    late = tum(tmp_path / "d.tum", seen, 0.53)
    assert main([*argv[:3], late, *argv[3:]]) == 2


def test_two_clocks_from_poses_to_the_file(tmp_path):
    t = np.arange(0.0, 15.0, 0.02)

    def motion(at):
        return [
            transform(exp_so3(np.array([0.5 * np.sin(1.7 * s + np.sin(0.6 * s) * s), 0.3 * np.cos(2.3 * s), 0.0])), np.zeros(3))
            for s in at
        ]  # fmt: skip

    out = tmp_path / "t.yaml"
    files = [
        tum(tmp_path / "a.tum", motion(t), 0.02),
        tum(tmp_path / "b.tum", motion(t + 0.1), 0.02),
    ]
    assert main(["calibrate", "time", *files, "--out", str(out)]) == 0
    assert abs(yaml.safe_load(out.read_text())["offset_ms"] - 100.0) < 2.0


def test_matrices_written_by_columns_are_refused(tmp_path, capsys):
    for n, R in enumerate(turns(40, 30.0)):
        np.savetxt(tmp_path / f"{n}.txt", transform(R, [0.1, 0.2, -1.0] - R @ TIP).T)
    assert main(["calibrate", "pivot", str(tmp_path), "--out", str(tmp_path / "p.yaml")]) == 2
    assert "last row" in capsys.readouterr().err and not (tmp_path / "p.yaml").exists()
