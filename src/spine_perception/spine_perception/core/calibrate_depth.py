# SPDX-License-Identifier: Apache-2.0
"""The calibration of a depth camera by views of a flat board, and why they may not suffice.

The bias is what `depth_process` makes of the views. What is left of it is the model's own deviation,
held against views that were left out, without the noise: the mean product of what two of them say of
one place. What is more than the model expects is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import numpy as np

from spine_nav_common.core.depth_calibration import DepthCalibration, DepthField, spline_basis
from spine_nav_common.core.types import Intrinsics, Rejected

from .coverage import Trouble, covered, missing
from .depth_process import (
    Cells,
    Evidence,
    Posterior,
    Process,
    cells_of,
    gathered,
    left,
    likeliest,
    said,
    solved,
)
from .depth_views import DepthView

LEAST_VIEWS = 10
PATCHES = 8  # over the width: views that were left out are compared in such
_PARTS = 4  # a quarter of the views is left out at a time
_INTERVALS = (12, 16)  # of the file's splines, over height and width
_GRID = (24, 32)  # where the bias is asked, over height and width
_BOARD_SHARE = 2e-4  # how well a printed board's size is known: 0.05 mm in 240
_MOST_SCALE = 0.03
_LEAST_SPREAD = 1.25  # farthest over nearest view
_LEAST_COVERED = 0.6
_MOST_BENT_M = 0.4e-3
_AT_M = 0.5  # the distance of the numbers for people
_WIDTHS = np.geomspace(0.03, 0.4, 24)  # slopes: correlation lengths of what is left


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
    scale = float(np.median(np.concatenate([said(v) for v in views])))
    if abs(scale) > _MOST_SCALE:
        return Rejected(
            f"depth and board differ by {100 * abs(scale):.1f} % in size: a board of another square"
            " size than --board says, or a camera_info that is not of this image. Measure ten squares"
        )
    cells = cells_of(views)
    evidence = gathered(views, cells, range(len(views)))
    process = likeliest(cells, evidence)
    checked = _checked(views, cells, process)
    if checked is None:
        return Rejected(
            "no part of the image was shown the board by two of the views that check the others, so that"
            " nothing tells what is left: take more views"
        )
    if (bent := _bent(views, checked.rest)) > _MOST_BENT_M:
        return Rejected(
            f"the board is bent by {1e3 * bent:.1f} mm: glue it to glass or aluminium; nothing can"
            " be measured by it"
        )
    down, across = ((np.arange(n) + 0.5) / n for n in _GRID)
    at = np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2)
    found = solved(cells, evidence, process, at)
    rest = _what_is_left(found, at, views, cells.near_m, intrinsics)
    field_share = max(float(np.hypot(rest.field, checked.unexpected)), 1e-5)
    flat = _checked(views, cells, replace(process, amplitude=1e-7))
    per_m, offset = (float(x) for x in found.extra)
    mm = 1e3 * _AT_M
    told = {
        "board": board,
        "views": len(views),
        "left out": [str(t) for t in dropped],
        "distance_m": [round(min(v.distance_m for v in views), 3), round(max(v.distance_m for v in views), 3)],
        "corners_rms_px": round(float(np.median([v.rms_px for v in views])), 3),
        "bias": {
            "amplitude_share": float(f"{process.amplitude:.3g}"),
            "width_of_image": round(float(process.width), 3),
            "noise_that_stays_share": float(f"{process.stays:.3g}"),
        },
        "left_mm_at_0_5_m": round(mm * float(np.hypot(rest.scale, field_share)), 3),
        "held_out_rms_mm_at_0_5_m": {
            "bias": round(mm * checked.bias, 3), "expected": round(mm * checked.expected, 3),
            "with noise of a patch": round(mm * checked.with_noise, 3),
            "uncorrected": round(mm * _uncorrected(views), 3),
            "scale alone": round(mm * flat.bias, 3) if flat else None,
        },
        "noise_mm": _noise(views),
        "valid": round(float(np.mean([v.valid for v in views])), 3),
    }  # fmt: skip
    # The extras are told about near_m, the file about zero.
    share = found.mean - per_m * cells.near_m - offset / cells.near_m
    return DepthCalibration(
        intrinsics.width, intrinsics.height, intrinsics.fx,
        DepthField(_splines(share.reshape(_GRID)), per_m, offset),
        scale_share=float(np.hypot(_BOARD_SHARE, rest.scale)), field_share=field_share,
        field_width=rest.width, serial=serial, made=today, expires=today + timedelta(days=days), told=told,
    )  # fmt: skip


def _splines(share: np.ndarray) -> np.ndarray:
    """(J, I) coefficients of what is given in the middles of a grid."""
    down, across = (
        np.linalg.pinv(spline_basis((np.arange(n) + 0.5) / n, k + 3), rcond=1e-3)
        for n, k in zip(_GRID, _INTERVALS, strict=True)
    )
    found: np.ndarray = down @ share @ across.T
    return found


@dataclass(frozen=True)
class _Rest:
    """What is left, 1 sigma of a share: alike everywhere, and over the image with its width (slopes)."""

    scale: float
    field: float
    width: float


def _what_is_left(
    found: Posterior,
    at: np.ndarray,
    views: Sequence[DepthView],
    near_m: float,
    k: Intrinsics,
) -> _Rest:
    """Anywhere in the image: nothing says where in it the wound will be."""
    w = np.full(len(at), 1.0 / len(at))
    covariance = found.covariance[:-2, :-2]
    z = np.concatenate([v.depth_m for v in views])
    E = np.column_stack([z - near_m, 1.0 / z - 1.0 / near_m])
    extra = float(np.einsum("ij,jk,ik->i", E, found.covariance[-2:, -2:], E).mean())
    scale = float(w @ covariance @ w)
    varies = covariance - (covariance @ w)[:, None] - (w @ covariance)[None] + scale
    field = float(w @ np.diag(varies))
    slope = at * [k.width / k.fx, k.height / k.fy]
    square = ((slope[:, None] - slope[None]) ** 2).sum(axis=-1)
    near = square < (3.0 * _WIDTHS[-1]) ** 2
    misfit = [
        float(
            (((varies - field * np.exp(-0.5 * square / x**2)) ** 2) * (w[:, None] * w))[near].sum()
        )
        for x in _WIDTHS
    ]
    width = float(_WIDTHS[int(np.argmin(misfit))])
    return _Rest(float(np.sqrt(scale + extra)), float(np.sqrt(max(field, 0.0))), width)


_Parts = list[list[tuple[DepthView, np.ndarray]]]


@dataclass(frozen=True)
class _Checked:
    """What is left on views that were left out, 1 sigma of a share in a patch: of bias with the noise that
    stays, the same as the model expects it, and with the views' own noise. rest: per part, its views and
    (N,) what is left at their cells."""

    bias: float
    expected: float
    with_noise: float
    rest: _Parts

    @property
    def unexpected(self) -> float:
        """1 sigma of what is left beyond what the model expects."""
        return float(np.sqrt(max(self.bias**2 - self.expected**2, 0.0)))


def _checked(views: Sequence[DepthView], cells: Cells, process: Process) -> _Checked | None:
    """None where no two views that were left out together show one place."""
    near = sorted(range(len(views)), key=lambda i: views[i].distance_m)
    rest, products, expected, squares, pairs = [], 0.0, 0.0, [], 0
    patch = (cells.uv * [PATCHES, 0.75 * PATCHES]).astype(int) @ [1, PATCHES]
    for part in range(_PARTS):
        out, kept = near[part::_PARTS], [i for n, i in enumerate(near) if n % _PARTS != part]
        evidence: Evidence = gathered(views, cells, kept)
        fit = solved(cells, evidence, process)
        # Poses are not free here, or they would hide what is left; they err in each view anew.
        rest.append([(views[i], left(views[i], cells.of[i], cells, fit)) for i in out])
        means: dict[int, list[float]] = {}
        for i, (_, off) in zip(out, rest[-1], strict=True):
            of = patch[cells.of[i]]
            for name in np.unique(of):
                if (of == name).sum() >= 4:
                    means.setdefault(int(name), []).append(float(off[of == name].mean()))
        for name, found in means.items():
            squares += [m * m for m in found]
            if (n := len(found)) > 1:
                own = np.flatnonzero(patch == name)
                model = fit.covariance[np.ix_(own, own)].mean() + process.stays**2 / len(own)
                products += (sum(found) ** 2 - sum(m * m for m in found)) / (n - 1)
                expected += n * float(model)
                pairs += n
    if not pairs:
        return None
    return _Checked(
        float(np.sqrt(max(products / pairs, 0.0))), float(np.sqrt(expected / pairs)),
        float(np.sqrt(np.mean(squares))), rest,
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


def _bent(views: Sequence[DepthView], rest: _Parts) -> float:
    """Metres by which the board's middle stands out or in: what is left, as a parabola over the
    board, alike in all views."""
    place = np.concatenate([v.board for part in rest for v, _ in part])
    off = np.concatenate([r * v.depth_m for part in rest for v, r in part])
    x, y = place.T
    A = np.column_stack([x * x - 1 / 3, y * y - 1 / 3, x * y, x, y, np.ones_like(x)])
    found = np.linalg.lstsq(A, off, rcond=None)[0]
    return float(max(abs(found[0]), abs(found[1])))


def _uncorrected(views: Sequence[DepthView]) -> float:
    return float(np.sqrt((np.concatenate([said(v) for v in views]) ** 2).mean()))


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
