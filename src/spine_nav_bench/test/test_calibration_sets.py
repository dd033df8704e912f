# SPDX-License-Identifier: Apache-2.0
"""Real calibration images: known targets come out to the precision that their SOURCE.md states.

The data are not part of the repository; without them these tests skip.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from spine_nav_bench.bench_calibration import (
    CHESSBOARD,
    DAVINCI,
    LAPAROSCOPE,
    BoardPair,
    calibrate,
    calibration_sets,
    chessboard_rows,
    davinci_pairs,
    laparoscope_anew,
    laparoscope_calibration,
    laparoscope_pairs,
    measure,
    on_rectified,
)
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.geometry import kabsch, transform_points
from stereo_screw_tracker.core.triangulate import triangulate
from stereo_screw_tracker.core.types import StereoCamera

DATA = Path(
    os.environ.get("SPINENAV_DATA", Path(__file__).resolve().parents[4] / "shared" / "data")
)


def folder(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is absent; set SPINENAV_DATA to the folder with the real data")
    return DATA / name


class TestLaparoscope:
    """SOURCE.md: reprojection of the given points 0.12 to 0.22 px mean; baseline 5.62 mm."""

    def test_given_corners_come_out_to_the_stated_reprojection(self) -> None:
        calibration = laparoscope_calibration(folder(LAPAROSCOPE))
        rig = calibration.rig()
        assert abs(1e3 * rig.baseline_m - 5.62) < 0.01
        pairs = laparoscope_pairs(folder(LAPAROSCOPE))
        assert [len(p.board_m) for p in pairs] == [104, 104, 104]
        errors = [measure(rig, on_rectified(calibration, p)) for p in pairs]
        assert np.mean([e.reprojection_px.mean() for e in errors]) < 0.22
        # 5.6 mm of baseline at 19 cm from the rectified plane: one pixel is 3.5 mm of depth
        assert 1e3 * np.mean([e.board_m.mean() for e in errors]) < 2.0

    def test_corners_found_in_our_rectified_image_agree(self) -> None:
        calibration = laparoscope_calibration(folder(LAPAROSCOPE))
        rig = calibration.rig()
        (pair,) = laparoscope_anew(folder(LAPAROSCOPE), rig, which=(0,))
        errors = measure(rig, pair)
        assert errors.reprojection_px.mean() < 0.3  # SOURCE.md's figure is for the given points
        assert 1e3 * errors.board_m.mean() < 2.0
        given = on_rectified(calibration, laparoscope_pairs(folder(LAPAROSCOPE))[0])
        gap = np.linalg.norm(pair.left_px[:, None] - given.left_px, axis=2).min(axis=1)
        assert gap.mean() < 0.6  # another detector on a resampled image

    def test_predicted_depth_error_has_the_size_of_the_real_one(self) -> None:
        """With the corner noise that the rows show; the row difference knows nothing of depth."""
        calibration = laparoscope_calibration(folder(LAPAROSCOPE))
        rig = calibration.rig()
        camera = StereoCamera(rig.intrinsics, rig.baseline_m)
        for raw in laparoscope_pairs(folder(LAPAROSCOPE)):
            pair = on_rectified(calibration, raw)
            row = pair.left_px[:, 1] - pair.right_px[:, 1]
            t = triangulate(camera, pair.left_px, pair.right_px, np.eye(4) * row.var() / 2.0)
            board = transform_points(kabsch(pair.board_m, t.point_m), pair.board_m)
            ray = t.point_m / np.linalg.norm(t.point_m, axis=1, keepdims=True)
            along = ((t.point_m - board) * ray).sum(axis=1)
            sigma = np.sqrt(np.einsum("ni,nij,nj->n", ray, t.covariance_m2, ray))
            assert 0.6 < np.sqrt(np.mean((along / sigma) ** 2)) < 1.8

    def test_swapped_images_give_no_points(self) -> None:
        calibration = laparoscope_calibration(folder(LAPAROSCOPE))
        pair = on_rectified(calibration, laparoscope_pairs(folder(LAPAROSCOPE))[0])
        camera = StereoCamera(calibration.rig().intrinsics, calibration.rig().baseline_m)
        t = triangulate(camera, pair.right_px, pair.left_px, np.eye(4))
        assert np.isnan(t.point_m[:, 2]).all()
        assert (t.disparity_px < 0.0).all()


def test_opencv_chessboards_calibrate_and_triangulate() -> None:
    """SOURCE.md: RMS 0.41 (left), 0.46 (right), 0.45 px (stereo), baseline 3.344 squares."""
    (row,) = chessboard_rows(folder(CHESSBOARD))
    assert row["pairs"] == 13
    assert np.allclose(row["rms_px"], (0.41, 0.46, 0.45), atol=0.01)
    assert abs(row["baseline"] - 3.344) < 0.01
    assert row["board"]["mean"] < 0.03  # squares, on pairs that the calibration has not seen
    assert row["row_px"]["median"] < 0.2


def test_davinci_frames_calibrate_themselves() -> None:
    """No calibration is given; a board of 5 mm squares fixes the scale."""
    pairs = davinci_pairs(folder(DAVINCI), every=3)
    assert len(pairs) >= 7
    calibration = calibrate(pairs[1:], (720, 576))
    assert calibration.rms_px is not None and max(calibration.rms_px) < 0.8
    rig = calibration.rig()
    assert 5.0 < 1e3 * rig.baseline_m < 6.0
    errors = measure(rig, on_rectified(calibration, pairs[0]))
    assert 1e3 * np.median(errors.board_m) < 2.0


def test_rows_that_differ_are_noticed() -> None:
    """The measure can fail: one image 3 px lower, as a knocked camera gives it."""
    calibration = laparoscope_calibration(folder(LAPAROSCOPE))
    pair = on_rectified(calibration, laparoscope_pairs(folder(LAPAROSCOPE))[0])
    lower = BoardPair(pair.left_px, pair.right_px + (0.0, 3.0), pair.board_m)
    errors = measure(calibration.rig(), lower)
    assert errors.reprojection_px.mean() > 1.0


def test_a_folder_without_sets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no calibration set"):
        calibration_sets(tmp_path)
