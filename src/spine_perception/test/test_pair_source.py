# SPDX-License-Identifier: Apache-2.0
"""Stereo pairs through OpenCV: side by side and as two streams, from videos, folders and devices that go."""

from __future__ import annotations

import itertools
from datetime import date, timedelta

import cv2
import numpy as np
import pytest
import yaml

from spine_nav_common.core.camera_calibration import (
    CameraCalibration,
    write_camera_calibration,
)
from spine_nav_common.core.types import Rejected, StereoFrame
from spine_perception.sources import SourceError
from spine_perception.sources.pair import StereoPair, pair_cameras

W, H, N, FX, BASELINE_M = 160, 96, 6, 150.0, 0.06


def calibration(path, baseline_m=0.0, size=(W, H), d=(0.0,) * 5, p3=None):
    K = [FX, 0, (W - 1) / 2, 0, FX, (H - 1) / 2, 0, 0, 1]
    P = [
        FX,
        0,
        (W - 1) / 2,
        -FX * baseline_m if p3 is None else p3,
        0,
        FX,
        (H - 1) / 2,
        0,
        0,
        0,
        1,
        0,
    ]
    path.write_text(
        yaml.safe_dump(
            {
                "image_width": size[0], "image_height": size[1], "camera_name": path.stem,
                "camera_matrix": {"rows": 3, "cols": 3, "data": [float(v) for v in K]},
                "distortion_model": "plumb_bob",
                "distortion_coefficients": {"rows": 1, "cols": 5, "data": list(d)},
                "rectification_matrix": {"rows": 3, "cols": 3, "data": np.eye(3).ravel().tolist()},
                "projection_matrix": {"rows": 3, "cols": 4, "data": [float(v) for v in P]},
            }
        )
    )  # fmt: skip
    return str(path)


@pytest.fixture
def files(tmp_path):
    return calibration(tmp_path / "left.yaml"), calibration(tmp_path / "right.yaml", BASELINE_M)


def picture(i, eye):
    """Grey that tells eye and number, smooth so that a codec keeps it."""
    return np.full((H, W, 3), (40 + 25 * i, 200 if eye == "left" else 60, 90), np.uint8)


def video(path, images, fps=10.0):
    h, w = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (w, h))
    assert writer.isOpened()
    for image in images:
        writer.write(image)
    writer.release()
    return str(path)


@pytest.fixture(params=["side by side", "two videos", "folder"])
def where(request, tmp_path):
    eyes = {eye: [picture(i, eye) for i in range(N)] for eye in ("left", "right")}
    if request.param == "side by side":
        both = [np.hstack(pair) for pair in zip(*eyes.values(), strict=True)]
        return video(tmp_path / "both.avi", both)
    if request.param == "two videos":
        return ",".join(video(tmp_path / f"{eye}.avi", images) for eye, images in eyes.items())
    for eye, images in eyes.items():
        (tmp_path / "images" / eye).mkdir(parents=True)
        for i, image in enumerate(images):
            cv2.imwrite(str(tmp_path / "images" / eye / f"{i:04d}.png"), image)
    return str(tmp_path / "images")


def test_every_pair_comes_once_left_left_and_right_right(where, files):
    source = StereoPair(where, *files, fps=10)
    frames = list(source.frames())
    assert len(frames) == N and source.scenes == ("stereo",) and not source.real_time
    for i, frame in enumerate(frames):
        for eye in ("left", "right"):
            middle = getattr(frame, eye)[H // 2, W // 2].astype(int)
            np.testing.assert_allclose(middle, picture(i, eye)[0, 0, ::-1], atol=4)
        assert frame.left.shape == (H, W, 3)
        assert frame.baseline_m == pytest.approx(BASELINE_M)
        assert frame.intrinsics.fx == FX
    np.testing.assert_allclose(np.diff([f.stamp_ns for f in frames]), 100_000_000, atol=2)


def test_the_lens_is_taken_out(tmp_path):
    left = calibration(tmp_path / "left.yaml", d=(-0.3, 0.1, 0.0, 0.0, 0.0))
    right = calibration(tmp_path / "right.yaml", BASELINE_M)
    image = np.zeros((H, W), np.uint8)
    image[:, 20] = 255
    for eye in ("left", "right"):
        (tmp_path / "images" / eye).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "images" / eye / "0.png"), image)
    (frame,) = StereoPair(str(tmp_path / "images"), left, right).frames()
    np.testing.assert_array_equal(frame.right, image)
    assert np.abs(frame.left.astype(int) - image).max() > 100


def stereo_file(path, files, days):
    cameras = pair_cameras(*files)
    today = date.today()
    write_camera_calibration(
        path, CameraCalibration(cameras, "plumb_bob", "1", today, today + timedelta(days))
    )
    return str(path)


def test_one_file_of_calibrate_stereo_is_of_both_cameras_until_it_expires(tmp_path, where, files):
    both = stereo_file(tmp_path / "pair.yaml", files, 10)
    assert len(list(StereoPair(where, both, "").frames())) == N
    with pytest.raises(SourceError, match="of both cameras"):
        StereoPair(where, both, files[1])
    with pytest.raises(SourceError, match="expired"):
        StereoPair(where, stereo_file(tmp_path / "old.yaml", files, -1), "")


@pytest.mark.parametrize("where", ["nowhere.avi", "99", ",", "a,b,c", ""])
def test_what_is_no_pair_is_refused(where, files):
    with pytest.raises(SourceError):
        StereoPair(where, *files)


def test_a_file_that_is_no_video_is_refused(tmp_path, files):
    (tmp_path / "x.avi").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="OpenCV"):
        StereoPair(str(tmp_path / "x.avi"), *files)


def test_a_pair_needs_its_calibration_and_left_is_not_right(tmp_path, where, files):
    with pytest.raises(SourceError, match=r"left_calibration=FILE"):
        StereoPair(where, "", files[1])
    with pytest.raises(SourceError, match="swapped"):
        StereoPair(where, files[0], calibration(tmp_path / "turned.yaml", -BASELINE_M))
    with pytest.raises(SourceError, match="baseline"):
        StereoPair(where, files[0], files[0])
    (tmp_path / "no.yaml").write_text("image_width: 3")
    with pytest.raises(SourceError, match="no calibration of the right camera"):
        StereoPair(where, files[0], str(tmp_path / "no.yaml"))


def test_images_of_another_size_than_the_calibration_are_told(tmp_path, where):
    size = (2 * W, H)
    files = (
        calibration(tmp_path / "l.yaml", size=size),
        calibration(tmp_path / "r.yaml", BASELINE_M, size),
    )
    found = list(StereoPair(where, *files).frames())
    assert len(found) == N
    assert all(isinstance(f, Rejected) and "160x96" in f.reason for f in found)


def test_a_damaged_image_costs_its_pair_alone(tmp_path, files):
    for eye in ("left", "right"):
        (tmp_path / "images" / eye).mkdir(parents=True)
        for i in range(3):
            cv2.imwrite(str(tmp_path / "images" / eye / f"{i}.png"), picture(i, eye))
    (tmp_path / "images" / "right" / "1.png").write_bytes(b"gone")
    source = StereoPair(str(tmp_path / "images"), *files)
    kinds = [type(f) for f in source.frames()]
    assert kinds == [StereoFrame, Rejected, StereoFrame] and source.counts["damaged"] == 1


class Device:
    """A UVC camera that gives so many images and is gone; `late_ns` behind the other one."""

    live = True

    def __init__(self, eye, images, late_ns=0):
        self.eye, self.left, self.late_ns = eye, images, late_ns

    def grab(self):
        self.left -= 1
        return self.left >= 0

    def image(self):
        return picture(0, self.eye)

    def stamp_ns(self):
        return 10**18 - 30_000_000 * self.left + self.late_ns

    def close(self):
        pass


def test_a_camera_that_goes_is_told_and_taken_up_again(files):
    opened = []

    def open_stream(place, fps):
        opened.append(place)
        if 2 < len(opened) < 4:
            raise SourceError("0: no camera")
        return Device("left" if place == "0" else "right", 2)

    source = StereoPair("0,2", *files, open_stream=open_stream)
    source._stop.wait = lambda s: None
    assert source.real_time
    found = list(itertools.islice(source.frames(), 6))
    words = [getattr(f, "reason", "frame") for f in found]
    assert words[:2] == ["frame", "frame"] and "unplugged" in words[2]
    assert words[3] == "0: no camera" and words[4:] == ["frame", "frame"]
    assert [f.stamp_ns for f in found[:2]] == [10**18 - 30_000_000, 10**18]


def test_two_cameras_without_a_common_trigger_are_no_pair(files):
    def open_stream(place, fps):
        return Device(place, 2, 0 if place == "0" else 12_000_000)

    source = StereoPair("0,2", *files, open_stream=open_stream)
    first = next(source.frames())
    assert (
        isinstance(first, Rejected) and "12 ms apart" in first.reason and "trigger" in first.reason
    )
    assert source.counts["apart"] == 1
