# SPDX-License-Identifier: Apache-2.0
"""A calibration of one camera or a pair: as a file, and refused where it is of something else."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml

from spine_nav_common.core.calibration_file import kind_of
from spine_nav_common.core.camera_calibration import (
    CameraCalibration,
    load_camera_calibration,
    write_camera_calibration,
)
from spine_nav_common.core.errors import CalibrationError
from spine_nav_common.core.images import CameraModel

K = np.array([[600.0, 0.0, 320.0], [0.0, 601.0, 240.0], [0.0, 0.0, 1.0]])
D = np.array([-0.3, 0.1, 1e-3, -2e-4, 0.0])
P = np.column_stack([K, np.zeros(3)])
TODAY = date(2026, 11, 28)


def camera(x_m=0.0):
    own = P.copy()
    own[0, 3] = -600.0 * x_m
    return CameraModel(640, 480, K, D, np.eye(3), own)


ONE = CameraCalibration(
    (camera(),), "plumb_bob", "123", TODAY, TODAY + timedelta(days=180), 21.5, {"views": 20}
)
TWO = replace(ONE, cameras=(camera(), camera(0.06)))


@pytest.mark.parametrize("given", [ONE, TWO])
def test_it_comes_back_as_it_was_written(tmp_path, given):
    back = write_camera_calibration(tmp_path / "a.yaml", given)
    assert kind_of(tmp_path / "a.yaml") == given.kind == back.kind
    assert all(a.same_as(b) for a, b in zip(back.cameras, given.cameras, strict=True))
    assert (back.serial, back.made, back.expires, back.temperature_c, back.told) == (
        "123", TODAY, given.expires, 21.5, {"views": 20},
    )  # fmt: skip
    assert len(back.sha256) == 64


def test_a_file_that_was_changed_is_refused(tmp_path):
    path = tmp_path / "a.yaml"
    write_camera_calibration(path, ONE)
    path.write_text(path.read_text().replace("600.0", "610.0", 1))
    with pytest.raises(CalibrationError, match="it was changed.*calibrate intrinsics"):
        load_camera_calibration(path, "intrinsics")


def test_another_kind_is_refused(tmp_path):
    path = tmp_path / "a.yaml"
    write_camera_calibration(path, ONE)
    with pytest.raises(CalibrationError, match="no calibration of this kind \\(stereo\\)"):
        load_camera_calibration(path, "stereo")
    with pytest.raises(CalibrationError, match="cannot be read"):
        load_camera_calibration(tmp_path / "none.yaml", "stereo")


def test_a_pair_whose_eyes_are_swapped_is_not_written_unnoticed(tmp_path):
    with pytest.raises(CalibrationError, match="swapped"):
        write_camera_calibration(
            tmp_path / "a.yaml", replace(TWO, cameras=(camera(), camera(-0.06)))
        )


def test_numbers_that_are_none_are_refused(tmp_path):
    bad = replace(ONE, cameras=(replace(camera(), K=np.full((3, 3), np.nan)),))
    with pytest.raises(CalibrationError, match="NaN"):
        write_camera_calibration(tmp_path / "a.yaml", bad)


def test_a_version_of_tomorrow_is_refused(tmp_path):
    path = tmp_path / "a.yaml"
    write_camera_calibration(path, ONE)
    values = yaml.safe_load(path.read_text()) | {"version": 2}
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(CalibrationError, match="version 2"):
        load_camera_calibration(path, "intrinsics")


def test_it_says_why_it_is_not_of_this_camera():
    assert ONE.problem(640, 480, TODAY, "123") == "" == ONE.problem(640, 480, TODAY)
    assert "expired" in ONE.problem(640, 480, TODAY + timedelta(days=181))
    assert "of the camera 123, this is 9" in ONE.problem(640, 480, TODAY, "9")
    assert "640x480 images, these have 1280x720" in ONE.problem(1280, 720, TODAY)
    assert ONE.path == Path()
