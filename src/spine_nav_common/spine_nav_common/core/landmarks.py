# SPDX-License-Identifier: Apache-2.0
"""Landmarks of one vertebra that can be had from its CT surface and from a camera image alike."""

from __future__ import annotations

import numpy as np
import open3d as o3d

from .case import anatomical_axes
from .types import Mesh

_GRID = 0.002  # metres between rays
_DORSAL_DEPTH = 0.045  # metres in front of the most posterior point that still count as dorsal


def dorsal_centre(mesh: Mesh, frame: str = "LPS") -> np.ndarray:
    """Centroid of the surface that is seen orthographically from posterior.

    Rays 2 mm apart run from posterior to anterior over the whole vertebra; the first hits at most
    45 mm in front of the most posterior one are averaged, so that each square millimetre of the
    coronal plane weighs the same whatever the tessellation.

    Args:
        mesh: a vertebra, metres, in `frame`.
        frame: 'LPS' or 'RAS'.

    Returns:
        (3,) float64 point in metres in the mesh's frame.

    Raises:
        ValueError: an unknown frame, or a mesh that no ray hits.
    """
    R = anatomical_axes(frame)  # columns left, posterior, superior
    local = mesh.vertices_m @ R
    low, high = local.min(0), local.max(0)
    x = np.arange(low[0] + 0.5 * _GRID, high[0], _GRID)
    z = np.arange(low[2] + 0.5 * _GRID, high[2], _GRID)
    grid_x, grid_z = (g.ravel() for g in np.meshgrid(x, z, indexing="ij"))
    rays = np.zeros((grid_x.size, 6), np.float32)
    rays[:, 0], rays[:, 1], rays[:, 2] = grid_x, high[1] + 0.01, grid_z
    rays[:, 4] = -1.0
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(
        o3d.core.Tensor.from_numpy(local.astype(np.float32)),
        o3d.core.Tensor.from_numpy(np.ascontiguousarray(mesh.faces, np.uint32)),
    )
    reach = (
        scene.cast_rays(o3d.core.Tensor.from_numpy(rays), nthreads=1)["t_hit"]
        .numpy()
        .astype(np.float64)
    )
    hit = np.isfinite(reach)
    if not hit.any():
        raise ValueError("no ray from posterior hits the mesh: empty, or not in metres")
    seen = hit & (reach <= reach[hit].min() + _DORSAL_DEPTH)
    y = high[1] + 0.01 - reach[seen]
    return R @ np.array([grid_x[seen].mean(), y.mean(), grid_z[seen].mean()])
