# SPDX-License-Identifier: Apache-2.0
"""A camera's lens by OpenCV's models: fitted to views of a board, and what it leaves at others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from scipy.optimize import least_squares

from .boards import BoardView

MODELS = {"plumb_bob": "plumb_bob", "rational": "rational_polynomial", "fisheye": "equidistant"}
"""As the command line has them, and as sensor_msgs/CameraInfo."""


@dataclass(frozen=True)
class Kind:
    """What is fitted: a model of `MODELS`, and OpenCV's flags."""

    model: str
    flags: int
    size: int

    @property
    def fisheye(self) -> bool:
        """Whether OpenCV has it in another module."""
        return self.model == "fisheye"


def _fisheye(name: str) -> int:
    """A flag of cv2.fisheye, which OpenCV 5 has moved up."""
    return int(getattr(cv2.fisheye, name, None) or getattr(cv2, name))


KINDS = (
    Kind("plumb_bob", cv2.CALIB_FIX_K3, 5),
    Kind("plumb_bob", 0, 5),
    Kind("rational", cv2.CALIB_RATIONAL_MODEL, 8),
    Kind("fisheye", _fisheye("CALIB_RECOMPUTE_EXTRINSIC") | _fisheye("CALIB_FIX_SKEW"), 4),
)
"""From the plainest to the richest: of equal ones the first is taken."""


@dataclass(frozen=True)
class NamedView:
    """A board in an image: the file's name or the stamp, and its corners."""

    name: str
    board: BoardView

    @cached_property
    def size_px_per_m(self) -> float:
        """How large the board appears."""
        seen, true = (
            cv2.contourArea(cv2.convexHull(x.astype(np.float32)))
            for x in (self.board.corners_px, 1e3 * self.board.board_m[:, :2])
        )
        return 1e3 * float(np.sqrt(seen / max(true, 1e-9)))


@dataclass(frozen=True)
class Lens:
    """A fitted camera; K (3, 3), D (N,)."""

    kind: Kind
    width: int
    height: int
    K: np.ndarray
    D: np.ndarray

    def project(self, board_m: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """(N, 2) pixels of points of a board whose rotation vector and translation are `vector`."""
        at = board_m.reshape(-1, 1, 3)
        make = cv2.fisheye.projectPoints if self.kind.fisheye else cv2.projectPoints
        if self.kind.fisheye:
            px = make(at, vector[:3].reshape(3, 1), vector[3:].reshape(3, 1), self.K, self.D)[0]
        else:
            px = make(at, vector[:3], vector[3:], self.K, self.D)[0]
        found: np.ndarray = px.reshape(-1, 2)
        return found

    def rays(self, px: np.ndarray) -> np.ndarray:
        """(N, 2) of x/z and y/z of pixels (N, 2)."""
        at = np.ascontiguousarray(px, dtype=np.float64).reshape(-1, 1, 2)
        make = cv2.fisheye.undistortPoints if self.kind.fisheye else cv2.undistortPoints
        found: np.ndarray = make(at, self.K, self.D).reshape(-1, 2)
        return found

    def start(self, board: BoardView) -> np.ndarray | None:
        """(6,) about where a board lies; None: its corners fit no pose."""
        rays = self.rays(board.corners_px)
        good = np.isfinite(rays).all(axis=1) & (np.abs(rays).max(axis=1) < 20.0)
        if good.sum() < 6:
            return None
        eye = np.eye(3)
        ok, r, t = cv2.solvePnP(board.board_m[good], rays[good], eye, None, flags=cv2.SOLVEPNP_IPPE)
        return np.concatenate([r.ravel(), t.ravel()]) if ok and t[2, 0] > 0.0 else None

    def settle(self, board: BoardView) -> Left | None:
        """The pose that fits a board best, and what is left at its corners."""
        start = self.start(board)
        if start is None:
            return None
        scale = np.array([1.0, 1.0, 1.0, *[abs(start[5])] * 3])

        def off(x: np.ndarray) -> np.ndarray:
            return (self.project(board.board_m, scale * x) - board.corners_px).ravel()

        found = scale * least_squares(off, start / scale, method="lm").x
        return self.left(board, found)

    def left(self, board: BoardView, vector: np.ndarray) -> Left:
        """What a pose leaves at a board's corners: in the image, and on the board."""
        px = self.project(board.board_m, vector) - board.corners_px
        R = cv2.Rodrigues(vector[:3])[0]
        ray = np.column_stack([self.rays(board.corners_px), np.ones(len(px))])
        z = (R[:, 2] @ vector[3:]) / (ray @ R[:, 2])
        on = (z[:, None] * ray - vector[3:]) @ R
        mm = 1e3 * np.linalg.norm(on - board.board_m, axis=1)
        return Left(vector, board.corners_px, px, mm, float(np.median(z)))


@dataclass(frozen=True)
class Left:
    """What a lens leaves at a board.

    Attributes:
        vector: (6,) rotation vector and translation (m) of the board.
        at_px: (N, 2) the corners. px: (N, 2) where they ought to be, less where they are.
        mm: (N,) the same on the board's plane. distance_m: of the board's middle.
    """

    vector: np.ndarray
    at_px: np.ndarray
    px: np.ndarray
    mm: np.ndarray
    distance_m: float

    @property
    def rms_px(self) -> float:
        """Root of the mean square of the distances."""
        return float(np.sqrt((self.px**2).sum(axis=1).mean()))

    @property
    def tilt_deg(self) -> float:
        """Between the board's normal and the optical axis."""
        R = cv2.Rodrigues(self.vector[:3])[0]
        return float(np.degrees(np.arccos(min(1.0, abs(R[2, 2])))))


def fit(kind: Kind, views: Sequence[NamedView], size: tuple[int, int]) -> Lens | None:
    """The lens that fits these views best; None where OpenCV finds none."""
    board = [v.board.board_m for v in views]
    px = [v.board.corners_px for v in views]
    try:
        if kind.fisheye:
            # Its first guess of the focal length diverges on narrow lenses: begin with that of the other.
            plain = fit(KINDS[0], views, size)
            if plain is None:
                return None
            K, D = plain.K.copy(), np.zeros((4, 1))
            flags = kind.flags | _fisheye("CALIB_USE_INTRINSIC_GUESS")
            K, D = cv2.fisheye.calibrate(
                [b.reshape(1, -1, 3) for b in board], [p.reshape(1, -1, 2) for p in px], size, K, D,
                flags=flags, criteria=(cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 100, 1e-9),
            )[1:3]  # fmt: skip
        else:
            K, D = cv2.calibrateCamera(
                [b.astype(np.float32) for b in board], [p.astype(np.float32) for p in px], size,
                None, None, flags=kind.flags,
            )[1:3]  # fmt: skip
    except cv2.error:
        return None
    D = np.ravel(D)[: kind.size]
    usable = np.isfinite(K).all() and np.isfinite(D).all() and min(K[0, 0], K[1, 1]) > 0.0
    return Lens(kind, *size, np.asarray(K, float), D.astype(float)) if usable else None


def folds(count: int, order: Sequence[Any], of: int = 5) -> list[tuple[list[int], list[int]]]:
    """(views to fit, views left out) per fold; every fold has near and far views."""
    by = sorted(range(count), key=lambda i: order[i])
    of = min(of, count)
    return [([i for n, i in enumerate(by) if n % of != k], by[k::of]) for k in range(of)]


def jackknife(values: Sequence[np.ndarray]) -> np.ndarray:
    """1 sigma of each number of a fit, by fits to all folds but one."""
    x = np.array(values)
    n = len(x)
    found: np.ndarray = np.sqrt((n - 1) / n * ((x - x.mean(axis=0)) ** 2).sum(axis=0))
    return found
