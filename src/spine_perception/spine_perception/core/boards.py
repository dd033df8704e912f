# SPDX-License-Identifier: Apache-2.0
"""Flat calibration boards: what they are, where their corners are in an image, and how they lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from scipy.spatial import cKDTree

from spine_nav_common.core.types import Intrinsics, Rejected
from spine_nav_common.parameters import ParameterError

LEAST_CORNERS = 12
LEAST_SHARPNESS = 0.12
"""Of the grey levels between white and black, the step within one pixel at a marker's edge: below it
a corner may be a tenth of a pixel from where it seems."""
MOST_REPROJECTION_PX = 0.7
_SAME_MARKER = 0.04  # a printed marker's side; another board's differs by more
_LAYOUT_LEAD = 50  # corners by which one layout is surely the board's
_MARKER_PX = 1.5  # by which the markers' own corners, which nothing refines, make it small


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


@dataclass(frozen=True)
class GridSpec:
    """A plain grid: inner corners of a chessboard, or circles; columns x rows of such points.

    kind: chessboard, circles, or acircles (every other row moved by half, OpenCV's asymmetric grid).
    """

    kind: str
    columns: int
    rows: int
    square_m: float

    @cached_property
    def corners_m(self) -> np.ndarray:
        """(N, 3) points in the board's frame, z = 0, row by row."""
        row, column = np.divmod(np.arange(self.columns * self.rows), self.columns)
        if self.kind == "acircles":
            column = 2 * column + row % 2
        return self.square_m * np.stack([column, row, np.zeros_like(row)], 1).astype(np.float64)

    def __str__(self) -> str:
        return f"{self.kind}:{self.columns}x{self.rows}:{1e3 * self.square_m:g}"


BoardSpec = CharucoSpec | GridSpec
GRIDS = ("chessboard", "circles", "acircles")
FORM = (
    "charuco:COLSxROWS:SQUARE_MM:MARKER_MM:DICT (squares), chessboard:COLSxROWS:SQUARE_MM (inner"
    " corners), circles:COLSxROWS:SPACING_MM or acircles:COLSxROWS:SPACING_MM (asymmetric), as"
    " charuco:10x7:24:17:DICT_5X5_100"
)


def board_spec(text: str) -> BoardSpec:
    """A board as `FORM` writes it; ParameterError says how to write it."""
    try:
        kind, size, *rest = text.split(":")
        columns, rows = (int(n) for n in size.split("x"))
        if min(columns, rows) < 3:
            raise ValueError("no board of at least 3x3")
        if kind in GRIDS:
            return _grid_spec(kind, columns, rows, 1e-3 * float(*rest))
        square, marker, dictionary = rest
        spec = CharucoSpec(columns, rows, 1e-3 * float(square), 1e-3 * float(marker), dictionary)
        if kind != "charuco":
            raise ValueError(f"{kind} is no kind of board")
        if not 0.0 < spec.marker_m < spec.square_m < 1.0:
            raise ValueError("a marker must be smaller than its square")
        if not dictionary.startswith("DICT_"):
            raise ValueError(f"{dictionary} is no dictionary")
        _ = spec.board
    except (ValueError, TypeError, AttributeError, cv2.error) as error:
        raise ParameterError(f"--board {text}: {error}; write {FORM}") from error
    return spec


def _grid_spec(kind: str, columns: int, rows: int, square_m: float) -> GridSpec:
    if not 0.0 < square_m < 1.0:
        raise ValueError("a spacing is between 0 and 1000 mm")
    if columns == rows and kind != "acircles":
        raise ValueError("a square grid looks alike from four sides: take another count of columns")
    return GridSpec(kind, columns, rows, square_m)


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
    """Finds a board's corners; of whichever layout of OpenCV's two a ChArUco board has."""

    def __init__(self, spec: BoardSpec) -> None:
        self.spec = spec
        self._detectors: list[Any] = []
        if isinstance(spec, CharucoSpec):
            known = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, spec.dictionary))
            size = (spec.columns, spec.rows)
            for legacy in (False, True):
                board = cv2.aruco.CharucoBoard(size, spec.square_m, spec.marker_m, known)
                board.setLegacyPattern(legacy)
                self._detectors.append(cv2.aruco.CharucoDetector(board))
        self._count = [0] * len(self._detectors)

    def find_pair(
        self, left: np.ndarray, right: np.ndarray
    ) -> tuple[BoardView | Rejected, BoardView | Rejected]:
        """The board in the two images of a pair, its corners named alike."""
        first, layout = self.find(left), self._layout
        second = self.find(right)
        if layout != self._layout:
            first = self.find(left)
        if isinstance(first, Rejected) or isinstance(second, Rejected):
            return first, second
        if isinstance(self.spec, GridSpec):
            ends = [v.corners_px[-1] - v.corners_px[0] for v in (first, second)]
            if ends[0] @ ends[1] < 0.0:  # a board that looks alike half turned
                second = BoardView(second.corners_px[::-1], second.board_m)
        return first, second

    @property
    def _layout(self) -> int:
        """Of the two, the one that has found more corners: the other finds nearly as many, each a square
        beside its place, and none in some images."""
        return int(np.argmax(self._count)) if self._count else 0

    def find(self, grey: np.ndarray) -> BoardView | Rejected:
        """The board in a grey image (H, W) uint8."""
        spec = self.spec
        found = self._charuco(grey) if isinstance(spec, CharucoSpec) else _grid(grey, spec)
        if isinstance(found, Rejected):
            return found
        edges = found.corners_px
        if isinstance(spec, GridSpec) and spec.kind != "chessboard":
            edges = _rims(found, spec)
        sharp = sharpness(grey, edges)
        if sharp < LEAST_SHARPNESS:
            return Rejected(f"blurred ({sharp:.2f} of {LEAST_SHARPNESS}): hold the board still")
        return found

    def _charuco(self, grey: np.ndarray) -> BoardView | Rejected:
        found: list[tuple[Any, ...]] = []
        most = max(self._count)
        for i, detector in enumerate(self._detectors):
            if most - self._count[i] > _LAYOUT_LEAD:
                found.append((None, None, (), None))
                continue
            found.append(detector.detectBoard(grey))
            self._count[i] += 0 if found[i][1] is None else len(found[i][1])
        corners, ids, markers, _ = found[self._layout]
        count = 0 if ids is None else len(ids)
        if count < LEAST_CORNERS:
            if not markers:
                _, _, mirrored, _ = self._detectors[0].detectBoard(
                    np.ascontiguousarray(grey[:, ::-1])
                )
                if mirrored:
                    return Rejected("the image is mirrored: switch the camera's mirroring off")
                return Rejected(
                    "no marker of this board is seen: another board or dictionary, or a dark image"
                )
            return Rejected(f"{count} corners, {LEAST_CORNERS} are needed: show more of the board")
        view = BoardView(
            corners.reshape(-1, 2).astype(np.float64), self.spec.corners_m[ids.ravel()]
        )
        return self._marker_size(view, markers) or view

    def _marker_size(self, view: BoardView, markers: Any) -> Rejected | None:
        """Whether markers and squares are as --board has them, by the plane of the corners."""
        spec = self.spec
        assert isinstance(spec, CharucoSpec)
        H, _ = cv2.findHomography(view.corners_px, view.board_m[:, :2])
        if H is None:
            return Rejected("its corners lie on no plane")
        quads = np.concatenate(markers).reshape(-1, 4, 2).astype(float)
        px = _side(quads)
        side = _side(cv2.perspectiveTransform(quads.reshape(-1, 1, 2), H).reshape(-1, 4, 2))
        if abs(side / spec.marker_m - 1.0) > _SAME_MARKER + _MARKER_PX / px:
            return Rejected(
                f"markers are {side / spec.square_m:.2f} of a square, --board says"
                f" {spec.marker_m / spec.square_m:.2f}: measure both"
            )
        return None


def _side(quads: np.ndarray) -> float:
    return float(np.median(np.linalg.norm(quads - np.roll(quads, 1, axis=1), axis=2)))


def _grid(grey: np.ndarray, spec: GridSpec) -> BoardView | Rejected:
    shape = (spec.columns, spec.rows)
    if spec.kind == "chessboard":
        ok, px = cv2.findChessboardCorners(grey, shape)
        if ok:
            px = _refined(grey, np.asarray(px, np.float32).reshape(spec.rows, spec.columns, 2))
        else:  # slower, and finds some that the other does not
            how = cv2.CALIB_CB_EXHAUSTIVE | cv2.CALIB_CB_ACCURACY
            ok, px = cv2.findChessboardCornersSB(grey, shape, flags=how)
    else:
        symmetric = spec.kind == "circles"
        how = cv2.CALIB_CB_SYMMETRIC_GRID if symmetric else cv2.CALIB_CB_ASYMMETRIC_GRID
        ok, px = cv2.findCirclesGrid(grey, shape, flags=how)
        if not ok:
            ok, px = cv2.findCirclesGrid(grey, shape, flags=how | cv2.CALIB_CB_CLUSTERING)
    if not ok:
        return Rejected(
            f"no {spec.kind} of {spec.columns}x{spec.rows} points is seen: show the whole board, or"
            " count its inner corners or circles again"
        )
    return BoardView(np.asarray(px, np.float64).reshape(-1, 2), spec.corners_m)


def _refined(grey: np.ndarray, px: np.ndarray) -> np.ndarray:
    """Corners (rows, columns, 2) at subpixels, by windows that see no second corner."""
    sides = [np.linalg.norm(np.diff(px, axis=a), axis=2).min() for a in (0, 1)]
    half = int(np.clip(round(0.25 * float(min(sides))), 2, 11))
    until = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-4)
    found: np.ndarray = cv2.cornerSubPix(
        grey, px.reshape(-1, 1, 2).copy(), (half, half), (-1, -1), until
    )
    return found


def _rims(view: BoardView, spec: GridSpec) -> np.ndarray:
    """(N, 2) pixels at the circles' rims: their middles have no edge. A circle is taken to fill half
    of its spacing."""
    H, _ = cv2.findHomography(view.board_m[:, :2], view.corners_px)
    half = 0.25 * spec.square_m * (1.0 if spec.kind == "circles" else 2.0**0.5)
    at = (view.board_m[:, :2] + [half, 0.0]).reshape(-1, 1, 2)
    found: np.ndarray = cv2.perspectiveTransform(at, H).reshape(-1, 2)
    return found


def sharpness(grey: np.ndarray, corners_px: np.ndarray) -> float:
    """The steepest step of grey between neighbouring pixels about each corner, over its contrast;
    the median of all corners: 0.5 and more for a sharp image."""
    found = []
    apart = cKDTree(corners_px).query(corners_px, k=2)[0][:, 1] if len(corners_px) > 1 else 0.0
    reach = int(np.clip(0.4 * np.median(apart), 4, 20))  # as far as white and black reach
    for x, y in np.round(corners_px).astype(int):
        top, left = max(0, y - reach), max(0, x - reach)
        window = grey[top : y + reach + 1, left : x + reach + 1].astype(np.float64)
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
