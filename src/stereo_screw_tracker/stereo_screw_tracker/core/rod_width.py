# SPDX-License-Identifier: Apache-2.0
"""Whether a bar is as wide as a rod: its silhouettes, where depth and scale are known.

Shafts of instruments look like rods. Rods for pedicle screws are 4.75 mm thick and more, many
shafts (suction tubes, needles, branches of pliers) are thinner: their outermost edges lie within
a rod's. Handles are thicker: lamps draw lines along them as far apart as a rod's edges, and their
own edges lie beyond.
"""

from __future__ import annotations

import numpy as np

from spine_nav_common.core.types import RodFit, StereoFrame

from .crops import paired_crops, rod_crops
from .finder_grid import grey
from .triangulate import camera_of

_PITCH_M = 0.00025
_ALONG = 8  # crop pixels to either side of the place over which edges are averaged
_SPACING_MM = 3.0
_MOST_PLACES = 40
_MIN_SPREAD = 4.0  # grey levels
_INNER_MM, _ROD_MM, _OUTER_MM = 1.5, 2.4, 5.0  # from the axis; 2.4: half the thinnest rod
_THICKEST_MM, _BEYOND_MM, _HANDLE_MM = 3.5, 4.0, 14.0


def outline_share(frame: StereoFrame, rod: RodFit) -> float:
    """Strength of the strongest pair of edges as far apart as a rod is wide, or farther, to that of
    the strongest pair beyond 1.5 mm from the axis; 1 where nothing stands out within.

    Both edges of a pair lie alike far from the axis; edges are averaged over both eyes and along
    what is seen of the rod. Lines nearer to the axis are reflections of lamps.
    """
    profile = _edge_pairs(frame, rod, _OUTER_MM, _MOST_PLACES)
    if profile is None:
        return 1.0
    radius_mm, pairs = profile
    return float(pairs[radius_mm >= _ROD_MM].max() / max(float(pairs.max()), 1e-9))


def beyond_share(frame: StereoFrame, rod: RodFit) -> float:
    """Strength of the strongest pair of edges farther apart than those of the thickest rod, up to
    14 mm from the axis, to that of a rod's own; 0 where nothing is seen of it."""
    profile = _edge_pairs(frame, rod, _HANDLE_MM, _MOST_PLACES // 2)
    if profile is None:
        return 0.0
    radius_mm, pairs = profile
    own = (radius_mm >= _ROD_MM - 0.2) & (radius_mm <= _THICKEST_MM)
    return float(pairs[radius_mm > _BEYOND_MM].max() / max(float(pairs[own].max()), 1e-9))


def _edge_pairs(
    frame: StereoFrame, rod: RodFit, reach_mm: float, most_places: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Distances from the axis in mm (R,) and the strength (R,) of edges on both sides there; None
    where nothing is seen of the rod."""
    line = rod.centreline_m
    step_mm = 1e3 * float(np.median(np.linalg.norm(np.diff(line, axis=0), axis=1)))
    tangents = np.gradient(line, axis=0)
    tangents /= np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-12)
    at = np.flatnonzero(rod.seen)
    thin = max(_SPACING_MM / max(step_mm, 1e-3), len(at) / most_places, 1.0)
    at = at[np.arange(0.0, len(at), thin).astype(int)]
    if not len(at):
        return None
    size = 2 * round((1e-3 * reach_mm + 0.0005) / _PITCH_M)
    pair = rod_crops(line[at], tangents[at], camera_of(frame), _PITCH_M)
    crops = paired_crops(grey(frame.left), grey(frame.right), pair, size)
    middle = size // 2
    across = crops[:, :, middle - _ALONG : middle + _ALONG].mean(axis=2)  # (K, 2, size)
    spread = across.std(axis=2, keepdims=True) + _MIN_SPREAD
    edges = np.abs(np.gradient(across, axis=2) / spread).mean(axis=0)  # (2, size)
    x_mm = 1e3 * _PITCH_M * (np.arange(size) - 0.5 * (size - 1))
    radius_mm = np.arange(_INNER_MM, reach_mm, 0.125)
    pairs = np.mean(
        [np.minimum(np.interp(radius_mm, x_mm, e), np.interp(-radius_mm, x_mm, e)) for e in edges],
        axis=0,
    )
    return radius_mm, pairs
