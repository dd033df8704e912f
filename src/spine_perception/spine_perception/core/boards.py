# SPDX-License-Identifier: Apache-2.0
"""Flat calibration boards: what they are, where their corners are in an image, and how they lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from spine_nav_common.core.types import Intrinsics, Rejected
from spine_nav_common.parameters import ParameterError

LEAST_CORNERS = 12
LEAST_SHARPNESS = 0.12
"""Of the grey levels between white and black, the step within one pixel at a marker's edge: below it
a corner may be a tenth of a pixel from where it seems."""
MOST_REPROJECTION_PX = 0.7


@dataclass(frozen=True)
class CharucoSpec:
    """A ChArUco board: columns x rows of squares, lengths in metres, the dictionary's name."""

    columns: int
    rows: int
    square_m: float
    marker_m: float
    dictionary: str

    @cached_property
    def board(self) -> Any:
        """As OpenCV has it."""
        known = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.dictionary))
        size = (self.columns, self.rows)
        return cv2.aruco.CharucoBoard(size, self.square_m, self.marker_m, known)

    @cached_property
    def corners_m(self) -> np.ndarray:
        """(N, 3) inner corners in the board's frame, z = 0."""
        return np.asarray(self.board.getChessboardCorners(), dtype=np.float64)

    def __str__(self) -> str:
        mm = f"{1e3 * self.square_m:g}:{1e3 * self.marker_m:g}"
        return f"charuco:{self.columns}x{self.rows}:{mm}:{self.dictionary}"


def board_spec(text: str) -> CharucoSpec:
    """`charuco:COLSxROWS:SQUARE_MM:MARKER_MM:DICT`; ParameterError says how to write it."""
    form = "charuco:COLSxROWS:SQUARE_MM:MARKER_MM:DICT, as charuco:10x7:24:17:DICT_5X5_100"
    try:
        kind, size, square, marker, dictionary = text.split(":")
        columns, rows = (int(n) for n in size.split("x"))
        spec = CharucoSpec(columns, rows, 1e-3 * float(square), 1e-3 * float(marker), dictionary)
        if kind != "charuco" or min(columns, rows) < 3:
            raise ValueError("no ChArUco board of at least 3x3 squares")
        if not 0.0 < spec.marker_m < spec.square_m < 1.0:
            raise ValueError("a marker must be smaller than its square")
        if not dictionary.startswith("DICT_"):
            raise ValueError(f"{dictionary} is no dictionary")
        _ = spec.board
    except (ValueError, AttributeError, cv2.error) as error:
        raise ParameterError(f"--board {text}: {error}; write {form}") from error
    return spec


@dataclass(frozen=True)
class BoardView:
    """A board in one image: corners_px (N, 2) and board_m (N, 3) of the same corners."""

    corners_px: np.ndarray
    board_m: np.ndarray


@dataclass(frozen=True)
class BoardPose:
    """Where a board is.

    Attributes:
        T_camera_board: (4, 4), metres.
        covariance: (6, 6) of rotation vector (rad) and translation (m), as OpenCV has them.
        vector: (6,) the same pose as such.
        rms_px: of what the corners are off.
    """

    T_camera_board: np.ndarray
    covariance: np.ndarray
    vector: np.ndarray
    rms_px: float


class BoardFinder:
    """Finds a board's corners; of whichever layout of OpenCV's two the board has."""

    def __init__(self, spec: CharucoSpec) -> None:
        self.spec = spec
        self._detectors: list[Any] = []
        for legacy in (False, True):
            size = (spec.columns, spec.rows)
            known = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, spec.dictionary))
            board = cv2.aruco.CharucoBoard(size, spec.square_m, spec.marker_m, known)
            board.setLegacyPattern(legacy)
            self._detectors.append(cv2.aruco.CharucoDetector(board))

    def find(self, grey: np.ndarray) -> BoardView | Rejected:
        """The board in a grey image (H, W) uint8."""
        corners: Any = None
        ids: Any = None
        markers: Any = None
        for detector in list(self._detectors):
            corners, ids, markers, _ = detector.detectBoard(grey)
            if ids is not None and len(ids) >= LEAST_CORNERS:
                self._detectors = [detector]
                break
        count = 0 if ids is None else len(ids)
        if count < LEAST_CORNERS:
            if not markers:
                return Rejected(
                    "no marker of this board is seen: another board or dictionary, a mirrored or a"
                    " dark image"
                )
            return Rejected(f"{count} corners, {LEAST_CORNERS} are needed: show more of the board")
        px = corners.reshape(-1, 2).astype(np.float64)
        sharp = sharpness(grey, px)
        if sharp < LEAST_SHARPNESS:
            return Rejected(f"blurred ({sharp:.2f} of {LEAST_SHARPNESS}): hold the board still")
        return BoardView(px, self.spec.corners_m[ids.ravel()])


def sharpness(grey: np.ndarray, corners_px: np.ndarray) -> float:
    """The steepest step of grey between neighbouring pixels about each corner, over its contrast;
    the median of all corners: 0.5 and more for a sharp image."""
    found = []
    for x, y in np.round(corners_px).astype(int):
        window = grey[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5].astype(np.float64)
        contrast = float(np.ptp(window))
        if min(window.shape) < 5 or contrast < 20.0:
            continue
        step = max(np.abs(np.diff(window, axis=a)).max() for a in (0, 1))
        found.append(step / contrast)
    return float(np.median(found)) if found else 0.0


def board_pose(view: BoardView, intrinsics: Intrinsics) -> BoardPose | Rejected:
    """Where the board is, from its corners in an undistorted image, and how well that is known."""
    k = intrinsics
    K = np.array([[k.fx, 0.0, k.cx], [0.0, k.fy, k.cy], [0.0, 0.0, 1.0]])
    ok, rvec, tvec = cv2.solvePnP(view.board_m, view.corners_px, K, None, flags=cv2.SOLVEPNP_IPPE)
    if not ok:
        return Rejected("its corners fit no pose")
    rvec, tvec = cv2.solvePnPRefineLM(view.board_m, view.corners_px, K, None, rvec, tvec)
    seen, jacobian = cv2.projectPoints(view.board_m, rvec, tvec, K, None)
    off = seen.reshape(-1, 2) - view.corners_px
    rms = float(np.sqrt((off**2).sum() / len(off)))
    if rms > MOST_REPROJECTION_PX:
        return Rejected(
            f"its corners are {rms:.2f} px off where a flat board of this size has them: a bent"
            " board, another size, or a camera_info that is not of this image"
        )
    J = jacobian[:, :6]
    sigma_px = max(np.sqrt((off**2).sum() / (2 * len(off) - 6)), 0.03)
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = cv2.Rodrigues(rvec)[0], tvec.ravel()
    vector = np.concatenate([rvec.ravel(), tvec.ravel()])
    return BoardPose(T, sigma_px**2 * np.linalg.inv(J.T @ J), vector, rms)
