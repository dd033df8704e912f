# SPDX-License-Identifier: Apache-2.0
"""Whether the two cameras moved against each other: a rig that was bumped in mid-run.

A pair alone does not tell a vergence that has changed: rows still agree, and every depth is wrong by
the same disparity. But all distances between the screws grow or shrink by one factor at once, which
bone does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.types import Rejected

LEAST_HEADS = 4
LEAST_CHANGE = (
    0.007  # of all distances; in 266 pairs of `calibrate` none changed by 0.2 % and 5 sigma
)
_SIGMAS = 5.0
_PAIRS = 2  # with the change, until it is believed for good


@dataclass(frozen=True)
class Scale:
    """Factor from the points before to those of now, and its standard error."""

    factor: float
    sigma: float

    @property
    def changed(self) -> bool:
        """Clearly not one."""
        off = abs(self.factor - 1.0)
        return off > LEAST_CHANGE and off > _SIGMAS * self.sigma


def scale_between(before_m: np.ndarray, now_m: np.ndarray) -> Scale | None:
    """Of the best similarity from (N, 3) to (N, 3); None with fewer than four points."""
    if len(before_m) < LEAST_HEADS:
        return None
    a, b = before_m - before_m.mean(axis=0), now_m - now_m.mean(axis=0)
    u, _, vt = np.linalg.svd(b.T @ a)
    R = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
    # across the view, where two eyes err least
    view = now_m.mean(axis=0) / np.linalg.norm(now_m.mean(axis=0))
    across = np.eye(3) - np.outer(view, view)
    turned, seen = a @ R.T @ across, b @ across
    size = float((turned**2).sum())
    if size < 1e-8:
        return None
    factor = float((seen * turned).sum() / size)
    left = float(((seen - factor * turned) ** 2).sum())
    return Scale(factor, float(np.sqrt(left / (2 * len(a) - 4) / size)))


class RigWatch:
    """What the pairs so far say of the rig; one instance per operation."""

    def __init__(self) -> None:
        self._changed = 0
        self._broken: Rejected | None = None

    @property
    def broken(self) -> Rejected | None:
        """Why no pair can be used any more, until the tracker starts anew."""
        return self._broken

    def seen(self, before_m: np.ndarray, now_m: np.ndarray) -> Rejected | None:
        """Heads (N, 3) before and now: why this pair is not used, or None."""
        scale = scale_between(before_m, now_m)
        if scale is None:
            return None
        if not scale.changed:
            self._changed = 0
            return None
        self._changed += 1
        percent = 100.0 * (scale.factor - 1.0)
        wrong = Rejected(
            f"all distances between the screws changed by {percent:+.1f} % from one pair to the next:"
            " the two cameras moved against each other; calibrate the pair and start again"
        )
        if self._changed >= _PAIRS:
            self._broken = wrong
        return wrong
