# SPDX-License-Identifier: Apache-2.0
"""Real stereo calibration images through our rectification and triangulation, against the board.

A board is flat and its corners are known to a few micrometres: what our geometry makes of them is
the error of calibration, corner detection, rectification and triangulation together, on real
lenses. No network takes part. Where no calibration is given the cameras are calibrated with OpenCV
on one half of the pairs, and the other half is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spine_nav_common.core.errors import InputError
from spine_nav_common.core.geometry import kabsch, transform_points
from spine_nav_common.core.images import CameraModel
from spine_nav_common.core.rectify import StereoRig, stereo_rig
from spine_nav_common.core.statistics import statistics
from stereo_screw_tracker.core.triangulate import project_pair, triangulate
from stereo_screw_tracker.core.types import StereoCamera

LAPAROSCOPE, DAVINCI, CHESSBOARD = (
    "stereo_laparoscope_tracked_A",
    "stereo_davinci_charuco",
    "stereo_opencv_chessboard",
)
_LEAST_CORNERS = 20
_SUBPIXEL = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-4)


@dataclass(frozen=True)
class BoardPair:
    """One board in a pair: left_px, right_px (N, 2), raw or rectified; board_m (N, 3)."""

    left_px: np.ndarray
    right_px: np.ndarray
    board_m: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """left, right with rectification (R, P); rms_px: (left, right, both) or None where given."""

    left: CameraModel
    right: CameraModel
    rms_px: tuple[float, float, float] | None = None

    def rig(self) -> StereoRig:
        """Our rectification of raw images."""
        return stereo_rig(self.left, self.right, raw=True)


@dataclass(frozen=True)
class PairErrors:
    """Per corner: board_m (N,) distance to the board after rigid alignment, metres; row_px (N,)
    v_l - v_r; reprojection_px (N,) mean over both images of triangulated against measured."""

    board_m: np.ndarray
    row_px: np.ndarray
    reprojection_px: np.ndarray


def calibration_sets(data_dir: str | Path) -> list[dict[str, Any]]:
    """What our geometry measures on every calibration set found in `data_dir`, one row per set and
    kind of corner: `set`, `corners`, `pairs`, `unit` (of lengths), `baseline`, `rms_px`, `board`
    (mean, median, p95, count), `reprojection_px`, `row_px` (absolute).

    Raises InputError where no set is there, or a file of one cannot be read.
    """
    measures: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
        LAPAROSCOPE: laparoscope_rows,
        DAVINCI: davinci_rows,
        CHESSBOARD: chessboard_rows,
    }
    folder = Path(data_dir)
    there = [name for name in measures if (folder / name).is_dir()]
    if not there:
        raise InputError(
            folder, "", "it holds no calibration set", f"name the folder of {CHESSBOARD}"
        )
    return [row for name in there for row in measures[name](folder / name)]


# -- what every set shares -----------------------------------------------------------------------


def rectified(
    size: tuple[int, int],
    cameras: Sequence[tuple[np.ndarray, np.ndarray]],
    T_right_left: np.ndarray,
) -> tuple[CameraModel, CameraModel]:
    """Two calibrated cameras (K (3, 3), D (N,)) with the rotation and projection that rectify them.

    T_right_left (4, 4) in metres; size (width, height).
    """
    (K1, D1), (K2, D2) = cameras
    R1, R2, P1, P2 = cv2.stereoRectify(
        K1, D1, K2, D2, size, T_right_left[:3, :3], T_right_left[:3, 3:4],
        flags=cv2.CALIB_ZERO_DISPARITY, alpha=-1,
    )[:4]  # fmt: skip
    return (
        CameraModel(*size, K1, np.ravel(D1), R1, P1),
        CameraModel(*size, K2, np.ravel(D2), R2, P2),
    )


def rectified_points(model: CameraModel, pixels: np.ndarray) -> np.ndarray:
    """Raw pixels (N, 2) on the rectified image."""
    points = np.ascontiguousarray(pixels, dtype=np.float64).reshape(-1, 1, 2)
    return cv2.undistortPoints(points, model.K, model.D, R=model.R, P=model.P).reshape(-1, 2)


def on_rectified(calibration: Calibration, pair: BoardPair) -> BoardPair:
    """A pair of raw pixels, rectified."""
    return BoardPair(
        rectified_points(calibration.left, pair.left_px),
        rectified_points(calibration.right, pair.right_px),
        pair.board_m,
    )


def measure(rig: StereoRig, pair: BoardPair) -> PairErrors:
    """Triangulate the corners of a rectified pair and compare them with the board."""
    camera = StereoCamera(rig.intrinsics, rig.baseline_m)
    found = triangulate(camera, pair.left_px, pair.right_px, np.eye(4))
    board = transform_points(kabsch(pair.board_m, found.point_m), pair.board_m)
    left, right = project_pair(camera, found.point_m)
    off = [
        np.linalg.norm(left - pair.left_px, axis=1),
        np.linalg.norm(right - pair.right_px, axis=1),
    ]
    return PairErrors(
        np.linalg.norm(found.point_m - board, axis=1), found.row_px, np.mean(off, axis=0)
    )


def calibrate(pairs: Sequence[BoardPair], size: tuple[int, int]) -> Calibration:
    """OpenCV's calibration of a stereo camera from raw pairs of a board: each camera, then both."""
    board = [p.board_m.astype(np.float32) for p in pairs]
    left = [p.left_px.astype(np.float32) for p in pairs]
    right = [p.right_px.astype(np.float32) for p in pairs]
    rms_left, K1, D1 = cv2.calibrateCamera(board, left, size, None, None)[:3]
    rms_right, K2, D2 = cv2.calibrateCamera(board, right, size, None, None)[:3]
    rms, K1, D1, K2, D2, R, t = cv2.stereoCalibrate(
        board, left, right, K1, D1, K2, D2, size, flags=cv2.CALIB_FIX_INTRINSIC
    )[:7]
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, np.ravel(t)
    models = rectified(size, ((K1, D1), (K2, D2)), T)
    return Calibration(*models, (float(rms_left), float(rms_right), float(rms)))


def _row(
    name: str,
    corners: str,
    unit: str,
    m_per_unit: float,
    baseline_m: float,
    errors: Sequence[PairErrors],
    rms_px: tuple[float, float, float] | None,
) -> dict[str, Any]:
    return {
        "set": name,
        "corners": corners,
        "pairs": len(errors),
        "unit": unit,
        "baseline": baseline_m / m_per_unit,
        "rms_px": rms_px,
        "board": statistics(np.concatenate([e.board_m for e in errors]) / m_per_unit),
        "reprojection_px": statistics(np.concatenate([e.reprojection_px for e in errors])),
        "row_px": statistics(np.abs(np.concatenate([e.row_px for e in errors]))),
    }


def _crossed(pairs: Sequence[BoardPair], size: tuple[int, int]) -> list[PairErrors]:
    """Every pair measured with a calibration of the other half (even and odd) of the pairs."""
    errors = []
    for half in (0, 1):
        calibration = calibrate(pairs[half::2], size)
        rig = calibration.rig()
        errors += [measure(rig, on_rectified(calibration, p)) for p in pairs[1 - half :: 2]]
    return errors


def _self_calibrated(
    name: str, corners: str, unit: str, m_per_unit: float, pairs: list[BoardPair],
    size: tuple[int, int],
) -> dict[str, Any]:  # fmt: skip
    whole = calibrate(pairs, size)
    return _row(
        name, corners, unit, m_per_unit, whole.rig().baseline_m, _crossed(pairs, size), whole.rms_px
    )


def _grey(file: Path) -> np.ndarray:
    image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise InputError(file, "", "the image cannot be read", "fetch the data set again")
    return image


# -- laparoscope: calibration and corners are given ----------------------------------------------


def laparoscope_calibration(folder: Path) -> Calibration:
    """The calibration that stands beside the images (lengths there in mm)."""

    def matrix(name: str) -> np.ndarray:
        return np.loadtxt(folder / f"calib.{name}.txt")

    T = matrix("l2r")
    T[:3, 3] *= 1e-3
    cameras = [
        (matrix(f"{eye}.intrinsics"), matrix(f"{eye}.distortion")) for eye in ("left", "right")
    ]
    return Calibration(*rectified((1920, 1080), cameras, T))


def laparoscope_pairs(folder: Path) -> list[BoardPair]:
    """The given corners of the three pairs, raw pixels, those found in both images."""
    pairs = []
    for k in range(3):
        ids, pixels = {}, {}
        for eye in ("left", "right"):
            ids[eye] = np.loadtxt(folder / f"calib.{eye}.ids.{k}.txt", dtype=int)
            pixels[eye] = np.loadtxt(folder / f"calib.{eye}.image_points.{k}.txt")
        board = np.loadtxt(folder / f"calib.left.object_points.{k}.txt")
        _, i, j = np.intersect1d(ids["left"], ids["right"], return_indices=True)
        pairs.append(BoardPair(pixels["left"][i], pixels["right"][j], 1e-3 * board[i]))
    return pairs


def laparoscope_rows(folder: Path) -> list[dict[str, Any]]:
    """Given corners, and the inset chessboard found anew in images that we rectified."""
    calibration = laparoscope_calibration(folder)
    rig = calibration.rig()
    given = [measure(rig, on_rectified(calibration, p)) for p in laparoscope_pairs(folder)]
    anew = [measure(rig, p) for p in laparoscope_anew(folder, rig)]
    return [
        _row(LAPAROSCOPE, "given", "mm", 1e-3, rig.baseline_m, given, None),
        _row(LAPAROSCOPE, "found anew", "mm", 1e-3, rig.baseline_m, anew, None),
    ]


def laparoscope_anew(
    folder: Path, rig: StereoRig, which: Sequence[int] = (0, 1)
) -> list[BoardPair]:
    """The inset chessboard (13 x 8 corners, 3 mm) found in our rectified images of these pairs."""
    pairs = []
    for k in which:
        raw = [_grey(folder / f"calib.{eye}.images.{k}.png") for eye in ("left", "right")]
        found = chessboard_corners(rig.rectify(*raw), (13, 8), 3e-3)
        if found is not None:
            pairs.append(found)
    return pairs


def chessboard_corners(
    images: Sequence[np.ndarray], shape: tuple[int, int], square_m: float
) -> BoardPair | None:
    """A chessboard's inner corners (columns, rows) in both images, in one order, or None."""
    corners = []
    for image in images:
        ok, found = cv2.findChessboardCornersSB(
            image, shape, flags=cv2.CALIB_CB_EXHAUSTIVE | cv2.CALIB_CB_ACCURACY
        )
        if not ok:
            return None
        corners.append(np.asarray(found, dtype=np.float64).reshape(-1, 2))
    left, right = corners
    if (left[-1] - left[0]) @ (right[-1] - right[0]) < 0.0:  # the board looks alike half turned
        right = right[::-1]
    return BoardPair(left, right, _grid(shape, square_m))


def _grid(shape: tuple[int, int], square_m: float) -> np.ndarray:
    row, column = np.divmod(np.arange(shape[0] * shape[1]), shape[0])
    return square_m * np.stack([column, row, np.zeros_like(row)], axis=1).astype(np.float64)


# -- da Vinci: ChArUco, no calibration given -----------------------------------------------------


def davinci_pairs(folder: Path, every: int = 1) -> list[BoardPair]:
    """ChArUco corners (5 mm squares) found in both images, raw pixels, of every n-th pair."""
    board = cv2.aruco.CharucoBoard(
        (19, 26), 5e-3, 4e-3, cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_250)
    )
    board.setLegacyPattern(True)
    detector = cv2.aruco.CharucoDetector(board)
    places = np.asarray(board.getChessboardCorners(), dtype=np.float64)
    pairs = []
    for file in sorted((folder / "L").glob("Frame_*.jpg"))[::every]:
        found = []
        for eye in ("L", "R"):
            corners, ids = detector.detectBoard(_grey(folder / eye / file.name))[:2]
            many = ids is not None and len(ids) > 0
            found.append(dict(zip(ids.ravel(), corners.reshape(-1, 2))) if many else {})
        both = sorted(found[0].keys() & found[1].keys())
        if len(both) >= 2 * _LEAST_CORNERS:
            left, right = (np.array([f[i] for i in both], dtype=np.float64) for f in found)
            pairs.append(BoardPair(left, right, places[both]))
    return pairs


def davinci_rows(folder: Path) -> list[dict[str, Any]]:
    """Calibrated from the images themselves."""
    pairs = davinci_pairs(folder)
    return [_self_calibrated(DAVINCI, "ChArUco", "mm", 1e-3, pairs, (720, 576))]


# -- OpenCV's chessboard: the square is the unit -------------------------------------------------


def chessboard_pairs(folder: Path) -> list[BoardPair]:
    """The 9 x 6 inner corners of the 13 pairs, raw pixels; one square counts as 1 mm."""
    pairs = []
    for file in sorted(folder.glob("left[0-9][0-9].jpg")):
        corners = []
        for image in (_grey(file), _grey(folder / file.name.replace("left", "right"))):
            ok, found = cv2.findChessboardCorners(image, (9, 6))
            if ok:
                found = cv2.cornerSubPix(image, found, (11, 11), (-1, -1), _SUBPIXEL)
                corners.append(np.asarray(found, dtype=np.float64).reshape(-1, 2))
        if len(corners) == 2:
            pairs.append(BoardPair(*corners, _grid((9, 6), 1e-3)))
    return pairs


def chessboard_rows(folder: Path) -> list[dict[str, Any]]:
    """Calibrated from the images themselves."""
    pairs = chessboard_pairs(folder)
    return [_self_calibrated(CHESSBOARD, "chessboard", "squares", 1e-3, pairs, (640, 480))]
