# SPDX-License-Identifier: Apache-2.0
"""Pointer tips, hand and eye, and clocks, from poses whose truth is known; motions that tell nothing."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
import yaml

from spine_nav_common.core.calibration_file import write_values
from spine_nav_common.core.calibrations import calibrations
from spine_nav_common.core.errors import CalibrationError, InputError
from spine_nav_common.core.geometry import (
    exp_se3,
    exp_so3,
    invert,
    q_xyzw_from_rotation,
    rotation_angle,
    transform,
)
from spine_nav_common.core.handeye import calibrate_handeye, errors
from spine_nav_common.core.pivot import calibrate_pivot
from spine_nav_common.core.pose_streams import PoseStream, read_poses
from spine_nav_common.core.time_offset import time_offset
from spine_nav_common.core.types import Rejected

TIP = np.array([-0.015, 0.18, -0.007])
REST = np.array([0.3, -0.1, -1.2])


def refused(found, *words):
    assert isinstance(found, Rejected), found
    for word in words:
        assert word in found.reason, found.reason


def swung(count=60, wide_deg=30.0, noise_m=3e-4, seed=0):
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        R = exp_so3(np.radians(wide_deg) * rng.uniform(-1.0, 1.0, 3))
        out.append(transform(R, REST - R @ TIP + rng.normal(0.0, noise_m, 3)))
    return np.array(out)


def test_the_tip_is_found_within_what_is_told():
    ratios = []
    for seed in range(12):
        found = calibrate_pivot(swung(seed=seed))
        off = found.tip_m - TIP
        assert np.linalg.norm(off) < 1e-3 and found.sigma_m < 6e-4
        ratios.append(off @ np.linalg.solve(found.covariance_m2, off))
    assert np.mean(ratios) < 5.0  # 3 where it is known exactly as told
    assert 4e-4 < np.sqrt((found.held_out_m**2).mean()) < 7e-4


def test_poses_that_the_others_contradict_are_left_out():
    given = swung()
    given[[3, 17, 40, 41], :3, 3] += 0.03
    found = calibrate_pivot(given)
    assert np.flatnonzero(~found.used).tolist() == [3, 17, 40, 41]
    assert np.linalg.norm(found.tip_m - TIP) < 5e-4


def test_motions_that_do_not_tell_the_tip_are_refused():
    refused(calibrate_pivot(swung(wide_deg=5.0)), "Swing it in a wide cone")
    about = np.array([transform(R, REST - R @ TIP) for R in (
        exp_so3(np.array([0.0, a, 0.0])) for a in np.linspace(-1.5, 1.5, 40))])  # fmt: skip
    refused(calibrate_pivot(about), "swung by 0.0 deg")
    refused(calibrate_pivot(swung(12)), "20 are needed")


def test_a_tip_that_slides_is_refused():
    given = swung()
    given[:, 0, 3] += np.linspace(0.0, 0.06, len(given))
    refused(calibrate_pivot(given), "slid")


def eyes(seed, count=15, roll_deg=90.0, mm=0.2, deg=0.1, axis=None):
    rng = np.random.default_rng(seed)
    X = exp_se3(np.concatenate([rng.uniform(-0.08, 0.08, 3), rng.uniform(-1.5, 1.5, 3)]))
    Y = exp_se3(np.concatenate([rng.uniform(-1, 1, 3), rng.uniform(-1.5, 1.5, 3)]))

    def noise():
        twist = [rng.normal(0, 1e-3 * mm, 3), rng.normal(0, np.radians(deg), 3)]
        return exp_se3(np.concatenate(twist))

    a, b = [], []
    for _ in range(count):
        turn = np.radians(rng.uniform(-1, 1, 3) * [40.0, 40.0, roll_deg])
        if axis is not None:
            turn = turn * np.eye(3)[axis]
        place = [rng.uniform(-0.08, 0.08), rng.uniform(-0.06, 0.06), rng.uniform(0.3, 0.5)]
        B = transform(exp_so3(turn), place)
        a.append(Y @ invert(B) @ invert(X) @ noise())
        b.append(B @ noise())
    return np.array(a), np.array(b), X, Y


def test_hand_and_eye_are_found_within_what_is_told():
    off, ratios = [], []
    for seed in range(8):
        a, b, X, Y = eyes(seed)
        found = calibrate_handeye(a, b)
        off.append(errors(found.T_body_camera, X))
        ratios.append(off[-1][0] / found.sigma_mm)
        assert np.linalg.norm(found.T_base_target[:3, 3] - Y[:3, 3]) < 3e-3
        assert 0.6 < found.noise < 1.5
    mm, deg = np.mean(off, axis=0)
    assert mm < 0.7 and deg < 0.12
    assert np.mean(ratios) < 2.5


def test_a_pair_of_two_moments_is_left_out():
    a, b, X, _ = eyes(1)
    b[6] = b[6] @ exp_se3(np.array([0.02, 0.0, 0.01, 0.05, 0.0, 0.0]))
    found = calibrate_handeye(a, b)
    assert np.flatnonzero(~found.used).tolist() == [6]
    assert errors(found.T_body_camera, X)[0] < 1.5


def test_turns_about_one_axis_alone_are_refused():
    for axis in range(3):
        refused(calibrate_handeye(*eyes(0, axis=axis)[:2]), "one axis")
    refused(calibrate_handeye(*eyes(0, count=7)[:2]), "8 are needed")


def test_streams_of_different_motions_are_refused():
    refused(calibrate_handeye(eyes(0)[0], eyes(5)[1]), "differ by")


def wave(t, rhythm=False):
    """Rotation vectors (N, 3) of a hand that turns a body."""
    if rhythm:
        return np.outer(np.sin(2 * np.pi * 3.0 * t), [0.3, 0.0, 0.0])
    return np.column_stack(
        [0.5 * np.sin(1.7 * t + 0.4 * t * np.sin(0.3 * t)), 0.4 * np.sin(2.9 * (t + 5.0) ** 1.02), 0.2 * np.cos(0.9 * t)]
    )  # fmt: skip


def streams(offset_s, rhythm=False, scale=1.0, seconds=20.0):
    rng = np.random.default_rng(0)
    X = exp_se3(np.array([0.05, 0.02, 0.0, 0.4, -1.0, 0.7]))

    def taken(stamps, shift, right):
        poses = []
        for w in scale * wave(stamps + shift, rhythm):
            noise = exp_so3(np.radians(rng.normal(0, 0.05, 3)))
            poses.append(transform(exp_so3(w), np.zeros(3)) @ right @ transform(noise, np.zeros(3)))
        return PoseStream(stamps, np.array(poses))

    first = taken(np.arange(0.0, seconds, 1 / 60), 0.0, np.eye(4))
    second = taken(np.arange(0.013, seconds, 1 / 30), offset_s, X)
    return first, second


@pytest.mark.parametrize("offset_s", [0.0, 0.1234, -0.047])
def test_clocks_are_found_within_a_fraction_of_a_frame(offset_s):
    found = time_offset(*streams(offset_s))
    assert not isinstance(found, Rejected), found
    assert abs(found.offset_s - offset_s) < 2e-3  # 33 ms between frames
    assert abs(found.offset_s - offset_s) < 5 * found.sigma_s and found.sigma_s < 2e-3


def test_motions_that_do_not_tell_the_time_are_refused():
    refused(time_offset(*streams(0.1, rhythm=True)), "without a rhythm")
    refused(time_offset(*streams(0.1, scale=0.02)), "deg/s")
    refused(time_offset(*streams(0.1, seconds=5.0)), "record longer")
    refused(
        time_offset(streams(0.0)[0], PoseStream(streams(0.0)[1].stamp_s, eyes(0, 600)[0])), "alike"
    )


def test_clocks_that_are_further_apart_are_refused():
    found = time_offset(*streams(1.3))
    assert isinstance(found, Rejected)


def written(path, sep=" "):
    rows = ["# stamp tx ty tz qx qy qz qw"] if sep == " " else ["stamp_s,tx,ty,tz,qx,qy,qz,qw"]
    for n, T in enumerate(swung(5)):
        rows.append(
            sep.join(f"{v:.9f}" for v in [0.1 * n, *T[:3, 3], *q_xyzw_from_rotation(T[:3, :3])])
        )
    path.write_text("\n".join(rows))
    return str(path)


@pytest.mark.parametrize("sep", [" ", ","])
def test_poses_are_read_as_they_were_written(tmp_path, sep):
    found = read_poses(written(tmp_path / "a.txt", sep))
    assert np.allclose(found.T, swung(5), atol=1e-8) and np.allclose(
        found.stamp_s, 0.1 * np.arange(5)
    )


def test_matrices_of_a_folder_are_read(tmp_path):
    for n, T in enumerate(swung(3)):
        np.savetxt(tmp_path / f"{n}000000000.txt", T)
    assert np.allclose(read_poses(str(tmp_path)).T, swung(3))
    np.savetxt(tmp_path / "7.txt", 2.0 * np.eye(4))
    with pytest.raises(InputError, match="7.txt.*rotation"):
        read_poses(str(tmp_path))


def test_lines_that_are_no_poses_are_named(tmp_path):
    path = tmp_path / "a.tum"
    path.write_text("0 0 0 0 0 0 0 1\n1 0 0 0 0 0 0 2\n")
    with pytest.raises(InputError, match="line 2: no unit quaternion"):
        read_poses(str(path))
    path.write_text("0 0 0\n")
    with pytest.raises(InputError, match="line 1: 3 numbers"):
        read_poses(str(path))


def test_a_hand_eye_file_joins_frames_until_it_expires(tmp_path):
    path = tmp_path / "h.yaml"
    edge = {
        "parent": "body",
        "child": "cam",
        "translation_m": [0.1, 0.0, 0.0],
        "q_xyzw": [0.0, 0.0, 0.0, 1.0],
    }
    expires = date(2026, 11, 28)
    write_values(path, "handeye", 1, {"expires": expires.isoformat(), "transforms": [edge]})
    _, (joined,) = calibrations([path], expires)
    assert (joined.parent, joined.child) == ("body", "cam")
    assert rotation_angle(joined.T_parent_child[:3, :3]) == 0.0
    with pytest.raises(CalibrationError, match="expired.*calibrate handeye"):
        calibrations([path], expires + timedelta(days=1))
    calibrations([path])  # what was used long ago is read
    said = yaml.safe_load(path.read_text())
    said["transforms"][0]["translation_m"][0] = 0.2
    path.write_text(yaml.safe_dump(said))
    with pytest.raises(CalibrationError, match="it was changed"):
        calibrations([path])
