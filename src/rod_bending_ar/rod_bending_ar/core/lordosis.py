# SPDX-License-Identifier: Apache-2.0
"""Lordosis of a row of saddles, and the row bent to another lordosis."""

from __future__ import annotations

import math

import numpy as np

from .curve import ideal_curve


def sagittal_frame(saddles_mm: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """(3, 3) rows: along the row (caudal to cranial), posterior (mean axis, square to it), and
    their cross product. saddles_mm (N, 3) caudal first, axes (N, 3) out of the bone."""
    along = saddles_mm[-1] - saddles_mm[0]
    along = along / np.linalg.norm(along)
    posterior = axes.mean(axis=0)
    posterior = posterior - (posterior @ along) * along
    posterior = posterior / np.linalg.norm(posterior)
    return np.stack([along, posterior, np.cross(along, posterior)])


def lordosis_deg(saddles_mm: np.ndarray, axes: np.ndarray, tolerance_mm: float) -> float:
    """Angle between the ideal curve's ends in the sagittal plane; concave to posterior is > 0."""
    tangents = ideal_curve(saddles_mm, tolerance_mm).tangents
    frame = sagittal_frame(saddles_mm, axes)
    first, last = (math.atan2(frame[1] @ t, frame[0] @ t) for t in (tangents[0], tangents[-1]))
    return math.degrees(last - first)


def bend_to_lordosis(
    saddles_mm: np.ndarray, axes: np.ndarray, target_deg: float, tolerance_mm: float
) -> np.ndarray:
    """The saddles (N, 3) after the row is bent evenly in the sagittal plane to a lordosis.

    Distances between neighbours stay. The moved row is laid over the old one by its middle.
    """
    frame = sagittal_frame(saddles_mm, axes)
    segments = np.diff(saddles_mm, axis=0)
    lengths = np.linalg.norm(segments, axis=1)
    middles = (np.cumsum(lengths) - 0.5 * lengths) / lengths.sum() - 0.5
    moved, added = saddles_mm, 0.0
    for _ in range(8):  # the spline's ends turn by a little more or less than the chain
        missing = target_deg - lordosis_deg(moved, axes, tolerance_mm)
        if abs(missing) < 0.05:
            break
        added += missing
        turn = np.radians(added) * middles
        local = segments @ frame.T
        c, s = np.cos(turn), np.sin(turn)
        turned = np.stack(
            [c * local[:, 0] - s * local[:, 1], s * local[:, 0] + c * local[:, 1], local[:, 2]],
            axis=1,
        )
        chain = np.concatenate([np.zeros((1, 3)), np.cumsum(turned @ frame, axis=0)])
        moved = chain + (saddles_mm.mean(axis=0) - chain.mean(axis=0))
    return moved
