# SPDX-License-Identifier: Apache-2.0
"""SpineDepth's layout, made from the simulation: what is imported, and what is said to be missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh

from spine_nav_bringup import cli
from spine_nav_bringup.core.spinedepth import LEVELS, read_specimens, zed_intrinsics
from spine_nav_bringup.import_data import import_spinedepth
from spine_nav_common.core.case import load_case
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.truth import load_truth
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.scene import make_scene
from spine_nav_sim.core.scene_config import SceneConfig

W, H = 672, 376
SERIALS = ("10027879", "10028650")
RAS = np.diag([-1.0, -1.0, 1.0])
TWO = 2  # frames


@pytest.fixture(scope="module")
def simulated():
    anatomy = make_anatomy(np.random.default_rng(11), ("T12", *LEVELS, "S1"), "virtual-11")
    config = SceneConfig(
        exposed=LEVELS, width=W, height=H, camera="zedm", seconds=1.0, tool_passes=False,
        resect_share=0.0, threads=1,
    )  # fmt: skip
    scene = make_scene(anatomy, np.random.default_rng(11), config)
    return anatomy, scene, [scene.render(t) for t in (0.0, 0.5)]


def conf(k) -> str:
    eye = f"fx={k.fx}\nfy={k.fy}\ncx={k.cx}\ncy={k.cy}\nk1=0\nk2=0\np1=0\np2=0\nk3=0\n"
    return (
        f"[LEFT_CAM_VGA]\n{eye}\n[RIGHT_CAM_VGA]\n{eye}\n"
        "[STEREO]\nBaseline=63\nTY=0\nTZ=0\nCV_VGA=0\nRX_VGA=0\nRZ_VGA=0\n"
    )


def write(folder: Path, simulated, turned: np.ndarray, recording: int = 0, number: int = 3) -> Path:
    """A specimen with one recording, whose meshes lie in another frame; both sensors see the same."""
    anatomy, scene, frames = simulated
    top = folder / f"Specimen_{number}"
    for name in ("STL", "Calib", "Planning"):
        (top / name).mkdir(parents=True)
    for level in LEVELS:
        m = anatomy.meshes[level]
        trimesh.Trimesh(1e3 * m.vertices_m @ turned, m.faces, process=False).export(
            top / "STL" / f"{level}.stl"
        )
    plan = {(p.level, p.side): p for p in anatomy.plan}
    lines = [
        ",".join(f"{1e3 * x:.4f}" for x in point @ turned)
        for level in LEVELS
        for side in ("left", "right")
        for point in (plan[level, side].entry_m, plan[level, side].target_m)
    ]
    (top / "Planning/PlanningPoints.txt").write_text("\n".join(lines) + "\n")
    to = top / "Recordings" / f"Recording{recording}"
    to.mkdir(parents=True)
    for video, serial in enumerate(SERIALS):
        (top / "Calib" / f"SN{serial}.conf").write_text(conf(scene.intrinsics))
        svo = b"SVO\0" + int(serial).to_bytes(4, "little") + b"\0" * 64
        (to / f"Video_{video}.svo").write_bytes(svo)
        pictures = to / f"Video_{video}"
        pictures.mkdir()
        rows = []
        for i, frame in enumerate(frames):
            shown = frame.to_frame(1)
            cv2.imwrite(
                str(pictures / f"left{i:06d}.png"), cv2.cvtColor(shown.colour, cv2.COLOR_RGB2BGR)
            )
            mm = np.nan_to_num(np.rint(1e3 * shown.depth_m)).astype(np.uint16)
            cv2.imwrite(str(pictures / f"depth{i:06d}.png"), mm)
            for level in LEVELS:
                T = frame.T_camera_ct[level].copy()
                T[:3, :3] = T[:3, :3] @ turned
                T[:3, 3] *= 1e3
                rows.append(",".join(f"{x:.6f}" for x in T.ravel()))
        (to / f"Poses_{video}.txt").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.parametrize("frame", ["LPS", "RAS"])
def test_recordings_cases_and_truth_are_what_was_simulated(simulated, tmp_path, frame):
    anatomy, scene, frames = simulated
    turned = np.eye(3) if frame == "LPS" else RAS
    done = import_spinedepth(write(tmp_path / "in", simulated, turned), tmp_path / "out")
    assert not done.missing
    assert [f.name for f in done.written] == ["specimen3-rec00-video0", "specimen3-rec00-video1"]
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [f.name for f in done.written]
    one = done.written[0]
    case, truth = load_case(one / "case"), load_truth(one / "truth.json")
    assert case.frame == frame and case.exposed_levels == LEVELS and len(case.plan) == 10
    assert truth.plan[0].side == "left"
    shown = list(open_recording(one / "recording").rgbd_frames())
    assert [f.stamp_ns for f in shown] == list(truth.frames)
    for read, made in zip(shown, frames, strict=True):
        expected = made.to_frame(1)
        np.testing.assert_array_equal(read.colour, expected.colour)
        np.testing.assert_allclose(read.depth_m, expected.depth_m, atol=6e-4)
        k = read.intrinsics
        given = (scene.intrinsics.fx, scene.intrinsics.fy, scene.intrinsics.cx, scene.intrinsics.cy)
        # OpenCV rectifies to square pixels: the given ones differ by their fy alone.
        np.testing.assert_allclose((k.fx, k.fy, k.cx, k.cy), given, rtol=8e-3)
        for level in LEVELS:
            points = anatomy.meshes[level].vertices_m[::97]
            np.testing.assert_allclose(
                transform_points(truth.frames[read.stamp_ns].T_camera_ct[level], points @ turned),
                transform_points(made.T_camera_ct[level], points), atol=2e-6,
            )  # fmt: skip


def missing(folder: Path, out: Path, *words: str) -> None:
    told = " | ".join(import_spinedepth(folder, out).missing)
    for word in words:
        assert word in told, told


def test_what_is_missing_is_named_and_the_rest_imported(simulated, tmp_path):
    folder = write(tmp_path / "in", simulated, np.eye(3))
    recording = folder / "Specimen_3/Recordings/Recording0"
    poses = recording / "Poses_0.txt"
    rows = poses.read_text().splitlines()

    poses.write_text("\n".join(rows[:-2]) + "\n")
    missing(folder, tmp_path / "cut", "Poses_0.txt", "not five", "1 of 2 frames")
    poses.write_text("\n".join(["nan," + rows[0].split(",", 1)[1], *rows[1:]]) + "\n")
    missing(folder, tmp_path / "nan", "1 rows are no rigid transform")
    truth = load_truth(tmp_path / "nan/specimen3-rec00-video0/truth.json")
    assert [len(f.T_camera_ct) for f in truth.frames.values()] == [4, 5]
    poses.unlink()
    missing(folder, tmp_path / "poses", "Poses_0.txt: missing")
    (recording / "Video_1/depth000001.png").unlink()
    with pytest.raises(InputError, match=r"depth000001.png missing|Poses_0"):
        import_spinedepth(folder, tmp_path / "none")
    shutil.rmtree(recording / "Video_1")
    with pytest.raises(InputError, match=r"export_svo.py"):
        import_spinedepth(folder / "Specimen_3", tmp_path / "none")
    (folder / "Specimen_3/STL/L4.stl").unlink()
    with pytest.raises(InputError, match=r"L4.stl missing.*rocs.balgrist.ch"):
        import_spinedepth(folder, tmp_path / "none")
    with pytest.raises(InputError, match=r"no folder Specimen_<number>"):
        import_spinedepth(recording, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_camera_is_the_one_that_the_video_names(simulated, tmp_path):
    folder = write(tmp_path / "in", simulated, np.eye(3))
    top = folder / "Specimen_3"
    other = top / f"Calib/SN{SERIALS[1]}.conf"
    other.write_text(other.read_text().replace("fx=", "fx=1"))
    first, second = read_specimens(folder)[0].videos
    assert second.intrinsics.fx > 1.5 * first.intrinsics.fx
    for video in (0, 1):
        (top / f"Recordings/Recording0/Video_{video}.svo").write_bytes(b"SVO\0" * 32)
    (silent,) = read_specimens(folder)
    assert not silent.videos and "--serials" in silent.missing[0]
    assert len(read_specimens(folder, SERIALS)[0].videos) == 2


def test_the_second_set_of_calibrations_counts_from_its_recording_on(simulated, tmp_path):
    folder = write(tmp_path / "in", simulated, np.eye(3), recording=8, number=5)
    (specimen,) = read_specimens(folder)
    assert not specimen.videos and "Calib" in specimen.missing[0]
    (folder / "Specimen_5/Calib").rename(folder / "Specimen_5/calib_B")
    assert len(read_specimens(folder)[0].videos) == 2


def test_pictures_of_another_size_are_refused(tmp_path):
    with pytest.raises(InputError, match="of no ZED"):
        zed_intrinsics(tmp_path / "SN1.conf", (640, 480))


def test_the_command_tells_how_to_judge_and_fails_where_something_is_missing(
    simulated, tmp_path, capsys
):
    folder = write(tmp_path / "in", simulated, np.eye(3))
    out = tmp_path / "out"
    argv = ["import", "spinedepth", str(folder), "--frames", "1", "--out"]
    assert cli.main([*argv, str(out)]) == 0
    assert f"spinenav bench --scenes {out} --only foreign" in capsys.readouterr().out
    assert len(load_truth(out / "specimen3-rec00-video1/truth.json").frames) == 1
    (folder / "Specimen_3/Planning/PlanningPoints.txt").unlink()
    assert cli.main([*argv, str(tmp_path / "more")]) == 1
    assert "PlanningPoints.txt: missing" in capsys.readouterr().err
