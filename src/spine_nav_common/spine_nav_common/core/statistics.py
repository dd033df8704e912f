# SPDX-License-Identifier: Apache-2.0
"""How numbers are pooled and printed, the same in every table."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

SIGMAS_3D_95 = 2.795
"""95 % of the lengths of an isotropic Gaussian error in space lie within this many sigma."""


def statistics(values: Iterable[float]) -> dict[str, float | int] | None:
    """mean, median, p95 and count of values; None without any."""
    array = np.fromiter(values, dtype=np.float64)
    if not len(array):
        return None
    return {
        "mean": float(array.mean()),
        "median": float(np.median(array)),
        "p95": float(np.percentile(array, 95)),
        "count": len(array),
    }


def percent(share: float | None) -> str:
    """A share as a percentage, '-' for None."""
    return "-" if share is None else f"{100 * share:.1f} %"


def median(summary: dict[str, float | int] | None) -> str:
    """The median of `statistics`, '-' for None."""
    return "-" if summary is None else f"{summary['median']:.2f}"


def spread(summary: dict[str, float | int] | None) -> str:
    """mean/median/p95 of `statistics`, '-' for None."""
    if summary is None:
        return "-"
    return "/".join(f"{summary[k]:.2f}" for k in ("mean", "median", "p95"))
