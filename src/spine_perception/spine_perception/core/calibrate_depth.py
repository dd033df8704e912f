# SPDX-License-Identifier: Apache-2.0
"""The bias of a depth camera, measured on a flat board: where the colour image says that the board is,
and where depth says it is.

The pose of the board errs too, in every view anew: it takes part in the fit, as far as its corners
leave it free. What remains is measured on views that were left out, without the noise: the mean
product of what two views say of one place. The surface with the least of it is taken. Poses are not
free there, or they would hide what remains; their errors differ from view to view and fall out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product
from typing import Any

import cv2
import numpy as np

from spine_nav_common.core.depth_calibration import (
    DepthCalibration,
    DepthField,
    spline_basis,
)
from spine_nav_common.core.types import Intrinsics, Rejected, RgbdFrame

from .boards import BoardFinder, BoardPose, board_pose
from .coverage import Trouble, covered, missing

LEAST_VIEWS = 10
_CELLS = 40  # over the image's width: a cell is wider than the noise of a matching window
_LEAST_PIXELS = 0.6  # of a cell's: with fewer an edge may lie in it
_INSIDE_PX = 3  # of a 640 px wide image: so far from the rim of the corners
_RUNS = (1, 2, 3, 5)  # views in a row, by distance, that go into one half
_GRIDS = (1, 2, 3, 4, 6, 8)  # spline intervals over the width
_SMOOTH = (0.1, 1.0, 10.0, 100.0)
_PRIOR_SHARE = 5e-3  # 1 sigma of a field before anything is measured: data sheets' worst
PATCHES = 8  # over the width: what is left is told in such
_BOARD_SHARE = 2e-4  # how well a printed board's size is known: 0.05 mm in 240
_HUBER = 2.5
_WORSE = 1.002  # a richer surface must be better than this, on views that were left out
_MOST_SCALE = 0.03
_LEAST_SPREAD = 1.25  # farthest over nearest view
_LEAST_COVERED = 0.6
_MOST_BENT_M = 0.4e-3


@dataclass(frozen=True)
class DepthView:
    """What one view of the board says; N cells of the image.

    Attributes:
        stamp_ns: of the frame.
        uv: (N, 2) middles of the cells, 0 to 1 over the image.
        depth_m, plane_m: (N,) as measured, and of the board.
        lever_m: (N, 6) how plane_m moves with the standard deviations of the board's pose.
        board: (N, 2) places on the board, -1 to 1 over the corners' extent.
        spread_m: (N,) deviation of the pixels of a cell. cosine: (N,) of the angle of view.
        valid: share of the board's pixels that have depth. rms_px: of the corners.
    """

    stamp_ns: int
    uv: np.ndarray
    depth_m: np.ndarray
    plane_m: np.ndarray
    lever_m: np.ndarray
    board: np.ndarray
    spread_m: np.ndarray
    cosine: np.ndarray
    valid: float
    rms_px: float

    @property
    def distance_m(self) -> float:
        """Of the board's middle."""
        return float(np.median(self.plane_m))


def look(frame: RgbdFrame, finder: BoardFinder) -> DepthView | Rejected:
    """What a frame says of the depth's bias; Rejected with what is wrong with the view."""
    found = finder.find(cv2.cvtColor(frame.colour, cv2.COLOR_RGB2GRAY))
    if isinstance(found, Rejected):
        return found
    pose = board_pose(found, frame.intrinsics)
    if isinstance(pose, Rejected):
        return pose
    k = frame.intrinsics
    side = k.width / _CELLS
    mask = np.zeros((k.height, k.width), np.uint8)
    hull = cv2.convexHull(found.corners_px.astype(np.float32))
    cv2.fillConvexPoly(mask, np.round(hull).astype(np.int32), 1)
    reach = max(1, round(_INSIDE_PX * k.width / 640))
    inside = cv2.erode(mask, np.ones((2 * reach + 1,) * 2, np.uint8)) > 0
    v, u = np.nonzero(inside)
    z = frame.depth_m[v, u]
    known = np.isfinite(z) & (z > 0.0)
    if known.mean() < 0.2:
        return Rejected(
            f"depth has {100 * known.mean():.0f} % of the board's pixels: it is too near, too far, or"
            " shines"
        )
    plane = plane_depth(pose.vector, k, u + 0.0, v + 0.0)
    off = np.where(known, z - plane, np.nan)
    cell = (v // side).astype(int) * _CELLS + (u // side).astype(int)
    order = np.argsort(cell, kind="stable")
    rows = []
    for of in np.split(order, np.flatnonzero(np.diff(cell[order])) + 1):
        good = of[known[of]]
        if len(good) < max(_LEAST_PIXELS * len(of), 0.5 * side**2):
            continue
        middle = np.median(off[good])
        spread = 1.4826 * np.median(np.abs(off[good] - middle))
        rows.append((u[good].mean(), v[good].mean(), middle, spread))
    if len(rows) < 12:
        return Rejected("depth has holes nearly everywhere on the board")
    cu, cv_, middle, spread = np.array(rows).T
    at = plane_depth(pose.vector, k, cu, cv_)
    points = np.column_stack([(cu - k.cx) / k.fx * at, (cv_ - k.cy) / k.fy * at, at])
    on = (points - pose.T_camera_board[:3, 3]) @ pose.T_camera_board[:3, :3]
    low, high = finder.spec.corners_m[:, :2].min(axis=0), finder.spec.corners_m[:, :2].max(axis=0)
    normal = pose.T_camera_board[:3, 2]
    cosine = np.abs(points @ normal) / np.linalg.norm(points, axis=1)
    return DepthView(
        frame.stamp_ns,
        np.column_stack([(cu + 0.5) / k.width, (cv_ + 0.5) / k.height]),
        at + middle, at, _lever(pose, k, cu, cv_),
        2.0 * (on[:, :2] - low) / (high - low) - 1.0,
        spread, cosine, float(known.mean()), pose.rms_px,
    )  # fmt: skip


def plane_depth(vector: np.ndarray, k: Intrinsics, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(N,) depth in metres of a board of pose `vector` (6,) at pixels."""
    R = cv2.Rodrigues(vector[:3])[0]
    ray = np.column_stack([(u - k.cx) / k.fx, (v - k.cy) / k.fy, np.ones_like(u)])
    found: np.ndarray = (R[:, 2] @ vector[3:]) / (ray @ R[:, 2])
    return found


def _lever(pose: BoardPose, k: Intrinsics, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    root = np.linalg.cholesky(pose.covariance)
    step = 1e-3
    return np.column_stack(
        [
            (
                plane_depth(pose.vector + step * column, k, u, v)
                - plane_depth(pose.vector - step * column, k, u, v)
            )
            / (2 * step)
            for column in root.T
        ]
    )


# -- the fit -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Surface:
    """A kind of bias: spline intervals over width and height, how stiff, and what else it has."""

    across: int
    smooth: float
    per_m: bool = False
    offset: bool = False

    @property
    def down(self) -> int:
        """Intervals over the height."""
        return max(1, round(0.75 * self.across))

    @property
    def size(self) -> tuple[int, int]:
        """(J, I) of its coefficients."""
        return self.down + 3, self.across + 3


@dataclass(frozen=True)
class _Cells:
    """A view with the weights of its cells: 1 / variance of a share."""

    view: DepthView
    weight: np.ndarray

    @property
    def lever(self) -> np.ndarray:
        """(N, 6) of shares: the true one is that of the plane as found, less lever @ e, e unit normal."""
        found: np.ndarray = -self.view.lever_m / self.view.depth_m[:, None]
        return found

    def free(self, x: np.ndarray) -> np.ndarray:
        """x (N, ...) without what the board's pose may have done; information of its cells left."""
        L, w = self.lever, self.weight.reshape(-1, *[1] * (x.ndim - 1))
        inner = L.T @ (self.weight[:, None] * L) + np.eye(6)
        found: np.ndarray = x - L @ np.linalg.solve(inner, L.T @ (w * x))
        return found


def _design(view: DepthView, surface: Surface) -> np.ndarray:
    """(N, P): what each coefficient adds to plane / depth - 1."""
    across = spline_basis(view.uv[:, 0], surface.size[1])
    down = spline_basis(view.uv[:, 1], surface.size[0])
    columns = (down[:, :, None] * across[:, None, :]).reshape(len(view.uv), -1)
    extra = [view.depth_m] if surface.per_m else []
    extra += [1.0 / view.depth_m] if surface.offset else []
    return np.column_stack([columns, *extra])


def _said(view: DepthView) -> np.ndarray:
    return view.plane_m / view.depth_m - 1.0


def _weighted(view: DepthView, sigma: float, off: np.ndarray | None = None) -> _Cells:
    """Depth noise grows with the square of the distance; cells far off count less."""
    s = sigma * view.depth_m
    w = 1.0 / s**2
    if off is not None:
        w /= np.maximum(1.0, np.abs(off) / (_HUBER * s))
    return _Cells(view, w)


def _prior(surface: Surface) -> np.ndarray:
    """(P, P) information: smooth, and no larger than a camera's may be."""
    J, I = surface.size
    second = [np.diff(np.eye(n), 2, axis=0) for n in (J, I)]
    rough = np.kron(second[0].T @ second[0], np.eye(I)) + np.kron(
        np.eye(J), second[1].T @ second[1]
    )
    # A step of the second difference is taken for a share of 1e-3 at smooth = 1.
    P = surface.smooth * rough / 1e-3**2 + np.eye(J * I) / (_PRIOR_SHARE**2 * J * I)
    extra = [1.0 / (2 * _PRIOR_SHARE) ** 2] * surface.per_m + [1.0 / 1e-3**2] * surface.offset
    out = np.zeros((len(P) + len(extra),) * 2)
    out[: len(P), : len(P)] = P
    out[len(P) :, len(P) :] = np.diag(extra)
    return out


class _Fit:
    """All views under one surface; any part of them can be solved for."""

    def __init__(self, cells: Sequence[_Cells], surface: Surface) -> None:
        self.cells, self.prior = cells, _prior(surface)
        self.design = [_design(c.view, surface) for c in cells]
        self.blocks = []
        for c, X in zip(cells, self.design, strict=True):
            weighted = c.weight[:, None] * c.free(X)
            self.blocks.append((X.T @ weighted, weighted.T @ _said(c.view)))

    def solve(self, of: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (P,) and their covariance (P, P) from the views of these numbers."""
        covariance = np.linalg.inv(self.prior + sum(self.blocks[i][0] for i in of))
        return covariance @ sum(self.blocks[i][1] for i in of), covariance

    def left(self, i: int, theta: np.ndarray) -> np.ndarray:
        """(N,) shares that are left at a view's cells, its board where its corners say."""
        found: np.ndarray = _said(self.cells[i].view) - self.design[i] @ theta
        return found


_Left = list[list[tuple[DepthView, np.ndarray]]]


def _left_out(cells: Sequence[_Cells], surface: Surface) -> _Left:
    """Of each half of the views that was left out: its views, and what is left at their cells.

    Halves, since only places that two views show tell something; parted in several ways, since one
    way tells little. Each half has near and far views.
    """
    fit = _Fit(cells, surface)
    near = sorted(range(len(cells)), key=lambda i: cells[i].view.distance_m)
    out = []
    for run in _RUNS:
        halves = [[i for n, i in enumerate(near) if n // run % 2 == k] for k in range(2)]
        for own, other in (halves, halves[::-1]):
            theta, _ = fit.solve(other)
            out.append([(cells[i].view, fit.left(i, theta)) for i in own])
    return out


def _remaining(left: _Left) -> tuple[float, float]:
    """(share, share): 1 sigma of the bias that is left, and of one patch of one view with its noise.

    Two views left out of one fit err alike at a place by what is left of the bias there, and each by
    its own noise and its own board's pose: the mean product of their means over a patch has the bias
    alone. A patch counts by the views that show it. NaN where no two show one.
    """
    products, squares = [], []
    for fold in left:
        patches: dict[tuple[int, int], list[float]] = {}
        for view, off in fold:
            place = (view.uv * [PATCHES, 0.75 * PATCHES]).astype(int)
            for index in np.unique(place, axis=0):
                of = (place == index).all(axis=1)
                if of.sum() >= 4:
                    patches.setdefault(tuple(index), []).append(float(np.mean(off[of])))
        for means in patches.values():
            squares += [m * m for m in means]
            if len(means) > 1:
                total = sum(means) ** 2 - sum(m * m for m in means)
                products.append((total / (len(means) - 1), len(means)))
    if not products:
        return float("nan"), float(np.sqrt(np.mean(squares)))
    total = sum(p for p, _ in products) / sum(n for _, n in products)
    return float(np.sqrt(max(total, 0.0))), float(np.sqrt(np.mean(squares)))


def calibrate(
    views: Sequence[DepthView],
    dropped: Sequence[Trouble],
    intrinsics: Intrinsics,
    board: str,
    *,
    serial: str = "",
    today: date,
    days: int = 180,
) -> DepthCalibration | Rejected:
    """The calibration of a camera by views of one board, or why they do not suffice."""
    if (why := _not_enough(views, dropped)) is not None:
        return why
    said = np.concatenate([_said(v) for v in views])
    scale = float(np.median(said))
    if abs(scale) > _MOST_SCALE:
        return Rejected(
            f"depth and board differ by {100 * abs(scale):.1f} % in size: a board of another square"
            " size than --board says, or a camera_info that is not of this image. Measure ten squares"
        )
    surface, cells, left = _choose(views)
    if (bent := _bent(views, left)) > _MOST_BENT_M:
        return Rejected(
            f"the board is bent by {1e3 * bent:.1f} mm: glue it to glass or aluminium; nothing can"
            " be measured by it"
        )
    theta, covariance = _Fit(cells, surface).solve(range(len(views)))
    count = surface.size[0] * surface.size[1]
    field = DepthField(
        theta[:count].reshape(surface.size),
        float(theta[count]) if surface.per_m else 0.0,
        float(theta[-1]) if surface.offset else 0.0,
    )
    remaining, with_noise = _remaining(left)
    if np.isnan(remaining):
        return Rejected(
            "no part of the image was shown the board by two of the views that check the others, so that"
            " nothing tells what is left: take more views"
        )
    known_share = _known(surface, covariance, views)
    field_share = max(known_share, remaining, 1e-5)
    flat = _left_out(cells, Surface(1, 1e6))
    told = {
        "board": board,
        "views": len(views),
        "left out": [str(t) for t in dropped],
        "distance_m": [round(min(v.distance_m for v in views), 3), round(max(v.distance_m for v in views), 3)],
        "corners_rms_px": round(float(np.median([v.rms_px for v in views])), 3),
        "surface": {
            "intervals": [surface.across, surface.down], "smooth": surface.smooth,
            "grows_with_square": surface.per_m, "offset": surface.offset,
        },
        "held_out_rms_mm_at_0_5_m": {
            "bias": round(500.0 * remaining, 3), "with noise of a patch": round(500.0 * with_noise, 3),
            "uncorrected": round(500.0 * _uncorrected(views), 3),
            "scale alone": round(500.0 * _remaining(flat)[0], 3),
        },
        "noise_mm": _noise(views),
        "valid": round(float(np.mean([v.valid for v in views])), 3),
    }  # fmt: skip
    return DepthCalibration(
        intrinsics.width, intrinsics.height, intrinsics.fx, field,
        scale_share=float(np.hypot(_BOARD_SHARE, 0.5 * field_share)), field_share=field_share,
        field_width=0.10, serial=serial, made=today, expires=today + timedelta(days=days), told=told,
    )  # fmt: skip


def _not_enough(views: Sequence[DepthView], dropped: Sequence[Trouble]) -> Rejected | None:
    if len(views) < LEAST_VIEWS:
        why = "; ".join(sorted({t.why for t in dropped})[:3])
        return Rejected(
            f"{len(views)} usable views of the board, {LEAST_VIEWS} are needed"
            + (f" ({len(dropped)} left out: {why})" if why else "")
        )
    near, far = min(v.distance_m for v in views), max(v.distance_m for v in views)
    if far < _LEAST_SPREAD * near:
        return Rejected(
            f"the board was shown from {near:.2f} to {far:.2f} m only: show it from the nearest to the"
            " farthest that the wound will be"
        )
    seen = covered(v.uv for v in views)
    share = float((seen > 0).mean())
    if share < _LEAST_COVERED:
        return Rejected(
            f"the board was shown in {100 * share:.0f} % of the image, {100 * _LEAST_COVERED:.0f} %"
            f" are needed: show it at the {missing(seen)} too"
        )
    return None


def _choose(
    views: Sequence[DepthView],
) -> tuple[Surface, list[_Cells], _Left]:
    """The surface that leaves the least on views that were left out; a richer one must earn it."""
    cells = _by_noise(views)
    best = Surface(1, 1.0)
    left = _left_out(cells, best)
    score = _remaining(left)

    def tried(surface: Surface) -> None:
        nonlocal best, left, score
        found = _left_out(cells, surface)
        least = _remaining(found)  # the noise decides where nothing remains
        if _WORSE * least[0] < score[0] or (least[0] == score[0] and least[1] < score[1]):
            best, left, score = surface, found, least

    for across, smooth in product(_GRIDS, _SMOOTH):
        tried(Surface(across, smooth))
    plain = best
    for per_m, offset in ((True, False), (False, True), (True, True)):
        tried(Surface(plain.across, plain.smooth, per_m, offset))
    return best, cells, left


def _by_noise(views: Sequence[DepthView]) -> list[_Cells]:
    """Weights by what a middling surface leaves; single cells far off count less."""
    sigma = 2e-3
    off: list[np.ndarray | None] = [None] * len(views)
    for _ in range(3):
        cells = [_weighted(v, sigma, o) for v, o in zip(views, off, strict=True)]
        fit = _Fit(cells, Surface(3, 1.0))
        theta, _ = fit.solve(range(len(views)))
        left = [c.free(fit.left(i, theta)) for i, c in enumerate(cells)]
        off = list(left)
        relative = np.concatenate([o / v.depth_m for o, v in zip(left, views, strict=True)])
        sigma = float(max(1.4826 * np.median(np.abs(relative)), 1e-5))
    return [_weighted(v, sigma, o) for v, o in zip(views, off, strict=True)]


def _bent(views: Sequence[DepthView], left: _Left) -> float:
    """Metres by which the board's middle stands out or in: what is left, as a parabola over the
    board, alike in all views."""
    place = np.concatenate([v.board for fold in left for v, _ in fold])
    off = np.concatenate([r * v.depth_m for fold in left for v, r in fold])
    x, y = place.T
    A = np.column_stack([x * x - 1 / 3, y * y - 1 / 3, x * y, x, y, np.ones_like(x)])
    found = np.linalg.lstsq(A, off, rcond=None)[0]
    return float(max(abs(found[0]), abs(found[1])))


def _known(surface: Surface, covariance: np.ndarray, views: Sequence[DepthView]) -> float:
    """1 sigma of the share by the fit's own covariance, where the board was shown."""
    at = np.unique(np.round(np.concatenate([v.uv for v in views]) * 16).astype(int), axis=0) / 16.0
    across = spline_basis(at[:, 0], surface.size[1])
    down = spline_basis(at[:, 1], surface.size[0])
    X = (down[:, :, None] * across[:, None, :]).reshape(len(at), -1)
    n = X.shape[1]
    X = X - X.mean(axis=0)  # the scale is told apart
    return float(np.sqrt(np.einsum("ij,jk,ik->i", X, covariance[:n, :n], X).mean()))


def _uncorrected(views: Sequence[DepthView]) -> float:
    return float(np.sqrt((np.concatenate([_said(v) for v in views]) ** 2).mean()))


def _noise(views: Sequence[DepthView]) -> list[dict[str, Any]]:
    """Deviation of a pixel within a cell, against distance and angle of view."""
    z = np.concatenate([v.depth_m for v in views])
    cosine = np.concatenate([v.cosine for v in views])
    spread = np.concatenate([v.spread_m for v in views])
    rows = []
    for low, high in ((0.0, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (0.6, 0.8), (0.8, 2.0)):
        for least, most, name in ((0.94, 1.01, "0 to 20"), (0.77, 0.94, "20 to 40")):
            of = (z >= low) & (z < high) & (cosine >= least) & (cosine < most)
            if of.sum() >= 20:
                rows.append(
                    {"distance_m": [low, high], "angle_deg": name,
                     "mm": round(1e3 * float(np.median(spread[of])), 3), "cells": int(of.sum())}
                )  # fmt: skip
    return rows
