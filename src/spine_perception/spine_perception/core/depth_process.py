# SPDX-License-Identifier: Apache-2.0
"""A depth camera's bias as a Gaussian process over the image, from views of a flat board.

What a view says of a place is: the smooth bias there, noise that stays in its place and is the same
in every view, the board's pose (which errs as far as its corners leave it free), and noise of its own.
How large and how wide the bias is, and how large the noise that stays, is what makes the views most
likely; so a smooth camera gets a smooth surface, noise that stays is not taken for bias, and what is
left is told by the same model. Rasmussen and Williams, Gaussian Processes for Machine Learning,
chapters 2 and 5.

Shares of the distance throughout; widths as a share of the image's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize

from .depth_views import CELLS, DepthView

_SCALE = 5e-3  # 1 sigma of a scale before anything is measured: data sheets' worst
_EXTRA = np.array([2 * _SCALE, 1e-3])  # 1/m: grows with the square of the distance; m: an offset
_HUBER = 2.5
_START = (1.5e-3, 0.15, 0.5e-3)  # amplitude, width, noise that stays
_LOOSE = (1.5, 0.5, 1.5)  # 1 sigma of their logarithms, about _START
_STEPS = 60


@dataclass(frozen=True)
class Process:
    """amplitude of the smooth bias, its width, and the noise that stays, of a cell; 1 sigma."""

    amplitude: float
    width: float
    stays: float


@dataclass(frozen=True)
class Cells:
    """Where the views say something, and how sure each is there.

    Attributes:
        uv: (C, 2) middles of the image's cells that any view shows.
        of: per view (N,) which cells its rows are. weight: per view (N,) 1 / variance of a row.
        near_m: the distance at which the bias is told; extras are zero there.
    """

    uv: np.ndarray
    of: tuple[np.ndarray, ...]
    weight: tuple[np.ndarray, ...]
    near_m: float


@dataclass(frozen=True)
class Evidence:
    """What views say in all: information (C + 2, C + 2), its product with the values (C + 2,), their
    sum of squares."""

    information: np.ndarray
    said: np.ndarray
    square: float


@dataclass(frozen=True)
class Posterior:
    """Of the bias at M places, and of the two extras (1/m, m): means, and the covariance
    (M + 2, M + 2) of all."""

    mean: np.ndarray
    extra: np.ndarray
    covariance: np.ndarray


def said(view: DepthView) -> np.ndarray:
    """(N,) plane over depth, less one: what a correction has to add."""
    return view.plane_m / view.depth_m - 1.0


def lever(view: DepthView) -> np.ndarray:
    """(N, 6) what the board's pose does to `said`, per standard deviation."""
    found: np.ndarray = -view.lever_m / view.depth_m[:, None]
    return found


def cells_of(views: Sequence[DepthView]) -> Cells:
    """The views' cells, weighted by what is left of them; single cells far off count less."""
    rows = [(v.uv * [CELLS, 0.75 * CELLS]).astype(int).clip(0, CELLS - 1) for v in views]
    index = [r[:, 1] * CELLS + r[:, 0] for r in rows]
    used, inverse = np.unique(np.concatenate(index), return_inverse=True)
    of = tuple(np.split(inverse, np.cumsum([len(i) for i in index])[:-1]))
    n = len(used)
    sums = [np.bincount(inverse, np.concatenate([v.uv[:, k] for v in views]), n) for k in (0, 1)]
    uv = np.stack(sums, axis=1) / np.bincount(inverse, minlength=n)[:, None]
    cells = Cells(uv, of, (), float(np.median([v.distance_m for v in views])))
    sigma, off = 2e-3, [np.zeros(len(v.uv)) for v in views]
    for _ in range(4):
        weight = [_weight(v, sigma, o) for v, o in zip(views, off, strict=True)]
        cells = replace(cells, weight=tuple(weight))
        fit = solved(cells, gathered(views, cells, range(len(views))), Process(*_START), stays=True)
        off = [
            _free(v, w, left(v, c, cells, fit)) for v, c, w in zip(views, of, weight, strict=True)
        ]
        relative = np.concatenate([o / v.depth_m for o, v in zip(off, views, strict=True)])
        sigma = float(max(1.4826 * np.median(np.abs(relative)), 1e-5))
    return cells


def _weight(view: DepthView, sigma: float, off: np.ndarray) -> np.ndarray:
    s = sigma * view.depth_m  # depth noise grows with the square of the distance
    w: np.ndarray = 1.0 / (s**2 * np.maximum(1.0, np.abs(off) / (_HUBER * s)))
    return w


def _free(view: DepthView, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x (N, ...) without what the board's pose may have done."""
    A = lever(view)
    w = weight.reshape(-1, *[1] * (x.ndim - 1))
    found: np.ndarray = x - A @ np.linalg.solve(
        A.T @ (weight[:, None] * A) + np.eye(6), A.T @ (w * x)
    )
    return found


def left(view: DepthView, of: np.ndarray, cells: Cells, fit: Posterior) -> np.ndarray:
    """(N,) what a view says beyond a posterior at all cells."""
    found: np.ndarray = said(view) - fit.mean[of] - _extras(view, cells) @ fit.extra
    return found


def _extras(view: DepthView, cells: Cells) -> np.ndarray:
    z = view.depth_m
    return np.column_stack([z - cells.near_m, 1.0 / z - 1.0 / cells.near_m])


def gathered(views: Sequence[DepthView], cells: Cells, which: Sequence[int]) -> Evidence:
    """What the views of these numbers say in all, their boards' poses free."""
    C = len(cells.uv)
    information, total, square = np.zeros((C + 2, C + 2)), np.zeros(C + 2), 0.0
    for i in which:
        view, at, w = views[i], cells.of[i], cells.weight[i]
        y, E = said(view), _extras(view, cells)
        W = w[:, None] * _free(view, w, np.eye(len(y)))
        WE = W @ E
        information[np.ix_(at, at)] += W
        information[at, C:] += WE
        information[C:, C:] += E.T @ WE
        total[at] += W @ y
        total[C:] += WE.T @ y
        square += float(y @ W @ y)
    information[C:, :C] = information[:C, C:].T
    return Evidence(information, total, square)


def _kernel(a: np.ndarray, b: np.ndarray, process: Process) -> np.ndarray:
    """Matern 5/2, and one scale."""
    d = np.sqrt(5.0 * (((a[:, None] - b[None]) * [1.0, 0.75]) ** 2).sum(axis=-1)) / process.width
    found: np.ndarray = _SCALE**2 + process.amplitude**2 * (1.0 + d + d * d / 3.0) * np.exp(-d)
    return found


def _prior(cells: Cells, process: Process) -> np.ndarray:
    C = len(cells.uv)
    P = np.zeros((C + 2, C + 2))
    P[:C, :C] = _kernel(cells.uv, cells.uv, process) + (process.stays**2 + 1e-14) * np.eye(C)
    P[C:, C:] = np.diag(_EXTRA**2)
    return P


def likeliest(cells: Cells, evidence: Evidence) -> Process:
    """The process under which the views are likeliest, loosely held to what such cameras are like."""

    def unlikely(x: np.ndarray) -> float:
        root = np.linalg.cholesky(_prior(cells, Process(*np.exp(x))))
        inner = np.linalg.cholesky(np.eye(len(root)) + root.T @ evidence.information @ root)
        z = solve_triangular(inner, root.T @ evidence.said, lower=True)
        away = (x - np.log(_START)) / _LOOSE
        return float(-0.5 * z @ z + np.log(np.diag(inner)).sum() + 0.5 * away @ away)

    start = np.log(_START)
    simplex = np.vstack([start, start + np.diag([0.7, 0.5, 0.7])])
    found = minimize(
        unlikely, start, method="Nelder-Mead",
        options={"maxfev": _STEPS, "xatol": 0.05, "fatol": 0.3, "initial_simplex": simplex},
    )  # fmt: skip
    return Process(*np.exp(found.x))


def solved(
    cells: Cells,
    evidence: Evidence,
    process: Process,
    at: np.ndarray | None = None,
    *,
    stays: bool = False,
) -> Posterior:
    """The smooth bias at places (M, 2), by default the cells'; `stays`: with the noise that stays."""
    C = len(cells.uv)
    P = _prior(cells, process)
    Q = np.zeros((C + 2, C + 2)) if at is None else np.zeros((len(at) + 2, C + 2))
    places = cells.uv if at is None else at
    M = len(places)
    Q[:M, :C] = _kernel(places, cells.uv, process)
    if stays:
        if at is not None:
            raise ValueError("the noise that stays is known at the cells alone")
        Q = P.copy()
    Q[M:, C:] = np.diag(_EXTRA**2)
    root = np.linalg.cholesky(P)
    inner = np.linalg.cholesky(np.eye(C + 2) + root.T @ evidence.information @ root)
    # P^-1 - P^-1 (P^-1 + information)^-1 P^-1 = root^-T (1 - inner^-T inner^-1) root^-1
    back = solve_triangular(root, Q.T, lower=True)  # (C + 2, M + 2)
    half = solve_triangular(inner, back, lower=True)
    own = np.zeros((M + 2, M + 2))
    own[:M, :M] = _kernel(places, places, process)
    own[M:, M:] = np.diag(_EXTRA**2)
    if stays:
        own = P
    z = cho_solve((inner, True), root.T @ evidence.said)
    mean = back.T @ z
    return Posterior(mean[:M], mean[M:], own - back.T @ back + half.T @ half)
