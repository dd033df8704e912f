# SPDX-License-Identifier: Apache-2.0
"""`spinenav calibrate intrinsics` and `stereo` from images to the file, and from wrong folders."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import cv2
import numpy as np
import pytest

from spine_nav_bringup.board_images import board_images
from spine_nav_bringup.calibrate_lens import calibrate_lens
from spine_nav_bringup.cli import main
from spine_nav_common.core.camera_calibration import (
    CameraCalibration,
    load_camera_calibration,
    write_camera_calibration,
)
from spine_nav_common.core.errors import CalibrationError, InputError
from spine_nav_common.core.images import CameraModel, encode_image
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.recording_writer import RecordingWriter

BOARD = "chessboard:9x6:25"
K = np.array([[500.0, 0.0, 322.0], [0.0, 500.0, 238.0], [0.0, 0.0, 1.0]])
PX = 40
BASELINE = 0.06


def texture():
    cells = np.indices((7, 10)).sum(axis=0) % 2
    board = np.kron(cells, np.ones((PX, PX))) * 200 + 30
    return np.pad(board, PX, constant_values=230).astype(np.uint8)


def photograph(vector):
    """The board as a pinhole sees it; vector (6,) of its first inner corner."""
    R = cv2.Rodrigues(vector[:3])[0]
    pixel = 0.025 / PX
    to_m = np.array([[pixel, 0, -0.05], [0, pixel, -0.05], [0, 0, 1.0]])
    H = K @ np.column_stack([R[:, 0], R[:, 1], vector[3:]]) @ to_m
    big = cv2.warpPerspective(texture(), np.diag([2.0, 2.0, 1.0]) @ H, (1280, 960), borderValue=90)
    return cv2.resize(big, (640, 480), interpolation=cv2.INTER_AREA)


def poses(count=14):
    rng = np.random.default_rng(2)
    for n in range(count):
        z = 0.42 + 0.25 * n / count
        r = np.radians(rng.uniform(-32, 32, 3))
        u, v = ((n % 4) / 3 - 0.5) * 0.62 * z, ((n // 4 % 3) / 2 - 0.5) * 0.4 * z
        yield np.concatenate([r, np.array([u, v, z]) - cv2.Rodrigues(r)[0] @ [0.1, 0.0625, 0]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs")
    for n, vector in enumerate(poses()):
        cv2.imwrite(str(path / f"left{n:02d}.png"), photograph(vector))
        right = vector - [0, 0, 0, BASELINE, 0, 0]
        cv2.imwrite(str(path / f"right{n:02d}.png"), photograph(right))
    return path


def test_one_camera_from_a_pattern_of_names(folder, tmp_path, capsys):
    out = tmp_path / "left.yaml"
    argv = ["calibrate", "intrinsics", str(folder / "left*"), "--board", BOARD, "--out", str(out)]
    assert main([*argv, "--serial", "A1", "--temperature", "22"]) == 0
    found = load_camera_calibration(out, "intrinsics")
    assert abs(found.cameras[0].K[0, 0] - 500.0) < 2.0
    assert (found.serial, found.temperature_c) == ("A1", 22.0)
    assert found.told["held_out_px"]["rms"] < 0.1
    assert cv2.imread(str(out.with_suffix(".png"))) is not None
    assert "views that took no part" in capsys.readouterr().out


def test_a_pair_from_a_folder(folder, tmp_path):
    out = tmp_path / "pair.yaml"
    argv = ["calibrate", "stereo", str(folder), "--board", BOARD, "--out", str(out)]
    assert main([*argv, "--baseline", "60"]) == 0
    found = load_camera_calibration(out, "stereo")
    assert abs(found.told["baseline_mm"] - 60.0) < 0.3
    assert main([*argv, "--baseline", "66"]) == 2


def test_the_eyes_of_a_folder_must_be_told_apart(folder):
    with pytest.raises(InputError, match="use `calibrate stereo`"):
        list(board_images(folder, stereo=False))


def test_images_of_mixed_size_are_refused_by_name(folder, tmp_path):
    for n in (1, 2):
        image = cv2.imread(str(folder / "left00.png"), 0)
        cv2.imwrite(str(tmp_path / f"{n}.png"), image if n == 1 else image[:400])
    with pytest.raises(InputError, match="2.png: it is 640x400, the first image 640x480"):
        list(board_images(tmp_path, stereo=False))


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(InputError, match="a.png.*cannot be read"):
        list(board_images(tmp_path, stereo=False))


def test_a_folder_without_pairs_says_how_they_are_called(tmp_path, folder):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 64), np.uint8))
    with pytest.raises(InputError, match="left01.png and right01.png"):
        list(board_images(tmp_path, stereo=True))


def test_folders_of_two_eyes_are_pairs(tmp_path):
    for eye in "LR":
        (tmp_path / eye).mkdir()
        cv2.imwrite(str(tmp_path / eye / "7.png"), np.zeros((48, 64), np.uint8))
    assert [len(image.eyes) for image in board_images(tmp_path, stereo=True)] == [2]


def test_boards_that_nobody_sees_are_refused_with_the_reason(tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((480, 640), 90, np.uint8))
    out = tmp_path / "x.yaml"
    argv = ["calibrate", "intrinsics", str(tmp_path), "--board", BOARD, "--out", str(out)]
    assert main(argv) == 2
    assert "no chessboard of 9x6 points is seen" in capsys.readouterr().err
    assert not out.exists()


def recorded(path, topics, images):
    kind = "sensor_msgs/msg/Image"
    with RecordingWriter(path) as writer:
        for n, eyes in enumerate(images):
            for topic, image in zip(topics, eyes, strict=True):
                stamp = (n + 1) * 100_000_000
                msg = writer.message(
                    kind, header=writer.header(stamp, "cam"), **encode_image(image, "mono8")
                )
                writer.write(topic, kind, msg, stamp)
    return path


def test_a_recording_needs_no_camera_info(tmp_path):
    """The board rests for two frames at a time: four frames are two views."""
    still = [photograph(v) for v in poses(2) for _ in range(2)]
    topics = ("/stereo/left/image_raw", "/stereo/right/image_raw")
    path = recorded(tmp_path / "rec", topics, [(i, i) for i in still])
    images = list(board_images(path, stereo=True))
    assert [len(i.eyes) for i in images] == [2] * 4 and all(i.moving for i in images)
    with pytest.raises(InputError, match="2 usable views"):
        calibrate_lens("stereo", path, BOARD, tmp_path / "x.yaml")


def test_rectified_images_are_no_ground_for_a_lens(tmp_path):
    topics = ("/stereo/left/image_rect", "/stereo/right/image_rect")
    path = recorded(tmp_path / "rec", topics, [(np.zeros((48, 64), np.uint8),) * 2])
    with pytest.raises(InputError, match="rectified already"):
        list(board_images(path, stereo=True))


def test_a_pair_is_used_without_camera_info_and_refused_where_it_may_not(tmp_path):
    """`screws --calibration`: raw images; another size, rectified images or an old file stop it."""
    P = np.column_stack([K, [0, 0, 0]])
    right = np.column_stack([K, [-500.0 * BASELINE, 0, 0]])
    models = [CameraModel(640, 480, K, np.zeros(5), np.eye(3), p) for p in (P, right)]
    today = date.today()
    made = CameraCalibration(tuple(models), "plumb_bob", "", today, today + timedelta(days=1))
    used = write_camera_calibration(tmp_path / "pair.yaml", made)
    image = photograph(next(iter(poses(1))))
    raw = ("/stereo/left/image_raw", "/stereo/right/image_raw")
    source = open_recording(recorded(tmp_path / "raw", raw, [(image, image)]))
    (frame,) = source.stereo_frames(calibration=used)
    assert abs(frame.baseline_m - BASELINE) < 1e-9 and "pair.yaml" in source.notes[0]
    with pytest.raises(CalibrationError, match="expired"):
        source.stereo_frames(calibration=replace(used, expires=today - timedelta(days=1)))
    small = recorded(tmp_path / "small", raw, [(image[:240], image[:240])])
    with pytest.raises(CalibrationError, match="these have 640x240"):
        open_recording(small).stereo_frames(calibration=used)
    rect = ("/stereo/left/image_rect", "/stereo/right/image_rect")
    done = open_recording(recorded(tmp_path / "rect", rect, [(image, image)]))
    with pytest.raises(CalibrationError, match="rectified already"):
        done.stereo_frames(calibration=used)
