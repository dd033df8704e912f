# SPDX-License-Identifier: Apache-2.0
"""A depth calibration: as a file, applied, and refused where it is of something else."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest
import yaml

from spine_nav_common.core.calibrations import calibrations
from spine_nav_common.core.depth_calibration import (
    DepthCalibration,
    DepthCorrector,
    DepthField,
    is_depth_calibration,
    load_depth_calibration,
    spline_basis,
    write_depth_calibration,
)
from spine_nav_common.core.errors import CalibrationError
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.types import Intrinsics, RgbdFrame

CAMERA = Intrinsics(48, 32, 60.0, 61.0, 23.5, 15.5)
FIELD = DepthField(1e-3 * np.arange(20.0).reshape(4, 5), per_m=0.002, offset_m=1e-4)
FOUND = DepthCalibration(
    CAMERA.width, CAMERA.height, CAMERA.fx, FIELD, 2e-4, 1e-4, 0.1, "123", date.today(),
    date.today() + timedelta(days=180), {"views": 30},
)  # fmt: skip


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "depth.yaml"
    write_depth_calibration(path, FOUND)
    return path


def test_it_comes_back_as_it_was_written(file):
    back = load_depth_calibration(file)
    assert np.allclose(back.bias.share, FIELD.share, rtol=1e-8) and back.told == FOUND.told
    assert replace(back, bias=FIELD, sha256="", path=FOUND.path) == replace(FOUND, bias=FIELD)
    assert is_depth_calibration(file) and len(back.sha256) == 64


def test_splines_sum_to_one_and_follow_a_straight_line():
    x = np.linspace(0.0, 1.0, 7)
    basis = spline_basis(x, 6)
    assert np.allclose(basis.sum(axis=1), 1.0)
    knots = np.concatenate([np.zeros(3), np.linspace(0, 1, 4), np.ones(3)])
    greville = [knots[i + 1 : i + 4].mean() for i in range(6)]
    assert np.allclose(basis @ greville, x)


def test_depth_is_corrected_by_place_and_distance():
    depth = np.full((CAMERA.height, CAMERA.width), 0.5, np.float32)
    depth[3, 4] = np.nan
    found = DepthCorrector(FOUND)(depth)
    u, v = (10 + 0.5) / CAMERA.width, (20 + 0.5) / CAMERA.height
    share = FIELD.share_at(np.array([u]), np.array([v]))[0]
    assert found[20, 10] == pytest.approx(0.5 * (1 + share + 0.001) + 1e-4, rel=1e-6)
    assert np.isnan(found[3, 4]) and np.isfinite(found).sum() == found.size - 1


def changed(file, **values):
    said = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**said, **values}))


@pytest.mark.parametrize(
    ("values", "word"),
    [({"fx": 61.0}, "it was changed"), ({"version": 2}, "version"), ({"kind": "stereo"}, "kind")],
)
def test_a_file_that_was_changed_is_refused(file, values, word):
    changed(file, **values)
    with pytest.raises(CalibrationError, match=word):
        load_depth_calibration(file)


def test_a_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("[1, 2")
    assert not is_depth_calibration(path)
    with pytest.raises(CalibrationError, match="cannot be read"):
        load_depth_calibration(path)
    field = replace(FIELD, share=np.full((4, 5), 0.2))
    with pytest.raises(CalibrationError, match="5 % of the distance"):
        write_depth_calibration(path, replace(FOUND, bias=field))


def test_two_of_them_are_one_too_many(file, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_bytes(file.read_bytes())
    depth, edges = calibrations([file])
    assert depth.sha256 == load_depth_calibration(file).sha256 and edges == []
    with pytest.raises(CalibrationError, match="too"):
        calibrations([file, other])


def recorded(folder, count=2):
    with RecordingWriter(folder, depth_encoding="32FC1") as writer:
        for i in range(count):
            rng = np.random.default_rng(i)
            depth = 0.45 + 0.1 * rng.random((32, 48)).astype(np.float32)
            depth[rng.random((32, 48)) < 0.2] = np.nan
            colour = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
            writer.write_rgbd(RgbdFrame((i + 1) * 33_333_333, colour, depth, CAMERA))
    return open_recording(folder)


def test_a_recording_is_read_with_it_and_without(file, tmp_path):
    recording = recorded(tmp_path / "recording")
    plain = [f.depth_m for f in recording.rgbd_frames()]
    depth = load_depth_calibration(file)
    better = [f.depth_m for f in recording.rgbd_frames(depth_calibration=depth)]
    correct = DepthCorrector(depth)
    for a, b in zip(plain, better, strict=True):
        assert np.array_equal(correct(a), b, equal_nan=True) and not np.array_equal(a, b)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"width": 96}, "calibrate this profile"),
        ({"fx": 1.05 * CAMERA.fx}, "focal length"),
        ({"expires": date(2020, 1, 1)}, "expired on 2020-01-01"),
    ],
)
def test_one_of_another_camera_or_time_is_refused_before_the_first_frame(
    file, tmp_path, values, words
):
    wrong = write_depth_calibration(file, replace(FOUND, **values))
    with pytest.raises(CalibrationError, match=words):
        recorded(tmp_path / "recording").rgbd_frames(depth_calibration=wrong)


def test_a_known_serial_of_another_camera_is_told():
    from spine_nav_common.core.images import CameraModel

    K = np.array([[CAMERA.fx, 0, CAMERA.cx], [0, CAMERA.fy, CAMERA.cy], [0, 0, 1.0]])
    P = np.column_stack([K, np.zeros(3)])
    model = CameraModel(CAMERA.width, CAMERA.height, K, np.zeros(5), np.eye(3), P)
    assert FOUND.problem(model, date.today()) == FOUND.problem(model, date.today(), "123") == ""
    assert "the camera 123, this is 9" in FOUND.problem(model, date.today(), "9")
