# SPDX-License-Identifier: Apache-2.0
"""Pedicle-screw plans on vertebra meshes (metres, LPS: +x left, +y posterior, +z superior)."""

from __future__ import annotations

import numpy as np
import open3d as o3d
from spine_nav_common.core.types import Mesh, Rejected, ScrewPlan

MAX_LENGTH = 0.050  # metres from entry to target
ANTERIOR_MARGIN = 0.006  # bone left before the anterior wall


def raycasting_scene(mesh: Mesh) -> o3d.t.geometry.RaycastingScene:
    """Open3D scene of one mesh, single thread."""
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(
        o3d.core.Tensor(np.ascontiguousarray(mesh.vertices_m, np.float32)),
        o3d.core.Tensor(np.ascontiguousarray(mesh.faces, np.uint32)),
    )
    return scene


def _first_hit(scene, origin: np.ndarray, direction: np.ndarray) -> float:
    ray = np.concatenate([origin, direction])[None].astype(np.float32)
    return float(scene.cast_rays(o3d.core.Tensor(ray), nthreads=1)["t_hit"].numpy()[0])


def screw_on_axis(
    scene: o3d.t.geometry.RaycastingScene,
    level: str,
    side: str,
    isthmus_m: np.ndarray,
    direction: np.ndarray,
) -> ScrewPlan | Rejected:
    """Screw through a point inside the pedicle along a unit direction into the body.

    The entry is where the backward ray leaves the bone, the target at most MAX_LENGTH further on
    and at least ANTERIOR_MARGIN before the anterior wall.
    """
    isthmus_m = np.asarray(isthmus_m, float)
    direction = np.asarray(direction, float) / np.linalg.norm(direction)
    back = _first_hit(scene, isthmus_m, -direction)
    front = _first_hit(scene, isthmus_m, direction)
    if not (np.isfinite(back) and np.isfinite(front)):
        return Rejected(f"{level} {side}: the pedicle axis does not leave the surface")
    length = min(MAX_LENGTH, back + front - ANTERIOR_MARGIN)
    if length <= back:
        return Rejected(f"{level} {side}: the pedicle axis leaves the bone before the body")
    entry = isthmus_m - back * direction
    return ScrewPlan(level, side, entry, entry + length * direction)
