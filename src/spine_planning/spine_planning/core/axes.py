# SPDX-License-Identifier: Apache-2.0
"""Search of screw axes in a field of distances: which axis through a pedicle keeps farthest off the
cortex. Millimetres, in the vertebra's frame (x left, y posterior, z superior, origin at the middle of
the body's posterior wall)."""

from __future__ import annotations

import numpy as np

from rod_bending_ar.core.cortex import CAP_M, tangents_at
from spine_nav_common.core.compiled import compiled

CAP_MM = 1e3 * CAP_M
_BACK_MM, _FRONT_MM, _STEP_MM = 45.0, 65.0, 1.0


@compiled
def score_axes(
    axes: np.ndarray,
    field: np.ndarray,
    low: np.ndarray,
    voxel: float,
    lengths: np.ndarray,
    side: float,
    limits: np.ndarray,
) -> np.ndarray:
    """How good axes are.

    Args:
        axes (K, 5): x, y, z of a point in the pedicle, convergence and cranial tilt in radians.
        field, low, voxel: signed distances and slopes (X, Y, Z, 4), mm, and their grid.
        lengths (M,): of the screws, mm, ascending. side: 1 left, -1 right.
        limits: bone before the tip; what the tip must lie in front of the posterior wall; clearance
            above which more is no better; least distance of the tip from the midline.

    Returns:
        (K, 4): score (-inf: no screw), entry along the axis from its point, length, clearance of the
        axis from the cap behind the surface to the tip.
    """
    out = np.full((len(axes), 4), -np.inf)
    steps = int((_BACK_MM + _FRONT_MM) / _STEP_MM) + 1
    phi = np.empty(steps)
    zero = int(_BACK_MM / _STEP_MM)
    for k in range(len(axes)):
        converge, tilt = axes[k, 3], axes[k, 4]
        x, y, z = axes[k, 0], axes[k, 1], axes[k, 2]
        way_x = -side * np.sin(converge) * np.cos(tilt)
        way_y, way_z = -np.cos(converge) * np.cos(tilt), np.sin(tilt)
        # from the point to either side, as far as there is bone
        back, front = zero, zero
        for way in (-1, 1):
            i = zero
            while 0 <= i < steps:
                s = (i - zero) * _STEP_MM
                phi[i] = tangents_at(x + s * way_x, y + s * way_y, z + s * way_z, field, low, voxel)
                if phi[i] >= 0.0:
                    break
                i += way
            if way < 0:
                back = i + 1
            else:
                front = i - 1
        if not 0 < back <= front < steps - 1:
            continue
        entry = back - phi[back] / (phi[back] - phi[back - 1])
        leaves = front + phi[front] / (phi[front] - phi[front + 1])
        room = (leaves - entry) * _STEP_MM - limits[0]
        clear = np.inf
        at = int(np.ceil(entry + CAP_MM / _STEP_MM))
        for m in range(len(lengths)):
            if lengths[m] > room:
                break
            tip = entry + lengths[m] / _STEP_MM
            while at <= tip:
                clear = min(clear, -phi[at])
                at += 1
            whole = int(np.floor(tip))
            share = tip - whole
            clear_tip = min(clear, -(phi[whole] * (1.0 - share) + phi[whole + 1] * share))
            tip_x = x + (tip - zero) * _STEP_MM * way_x
            tip_y = y + (tip - zero) * _STEP_MM * way_y
            if tip_y > -limits[1] or side * tip_x < limits[3]:
                continue
            score = (
                min(clear_tip, limits[2])
                + 0.012 * lengths[m]
                - 0.6 * abs(converge - 0.26)
                - 0.6 * abs(tilt)
            )
            if score > out[k, 0]:
                out[k, 0], out[k, 1] = score, (entry - zero) * _STEP_MM
                out[k, 2], out[k, 3] = lengths[m], clear_tip
    return out


def way_of(axis: np.ndarray, side: float) -> np.ndarray:
    """(3,) unit vector into the bone of an axis (5,), see score_axes."""
    converge, tilt = axis[3], axis[4]
    return np.array([
        -side * np.sin(converge) * np.cos(tilt), -np.cos(converge) * np.cos(tilt), np.sin(tilt)
    ])  # fmt: skip
