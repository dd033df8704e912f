# SPDX-License-Identifier: Apache-2.0
"""Landmarks of one vertebra that can be had from its CT surface and from a camera image alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import open3d as o3d

from .case import anatomical_axes
from .types import Case, Mesh, Rejected

_GRID = 0.002  # metres between rays
_TIP_GRID = 0.001
_TIP_M = 0.002  # what lies so near to the outermost point is the tip
_RIDGE_M = 0.008  # so much of the most posterior bone is the spinous process
_MIDLINE_M = 0.008  # half the width of a spinous process
SPINOUS = "spinous process, lower tip"
TRANSVERSE = {"left": "left transverse process, tip", "right": "right transverse process, tip"}


@dataclass(frozen=True)
class Landmark:
    """A place on a vertebra that a surgeon can find and touch. point_m: (3,) in the mesh's frame."""

    name: str
    point_m: np.ndarray


_DORSAL_DEPTH = 0.045  # metres in front of the most posterior point that still count as dorsal


def dorsal_centre(mesh: Mesh, frame: str = "LPS") -> np.ndarray:
    """Centroid of the surface that is seen orthographically from posterior.

    Rays 2 mm apart run from posterior to anterior over the whole vertebra; the first hits at most
    45 mm in front of the most posterior one are averaged, so that each square millimetre of the
    coronal plane weighs the same whatever the tessellation.

    Args:
        mesh: a vertebra, metres.
        frame: its orientation, as `anatomical_axes` has it.

    Returns:
        (3,) float64 point in metres in the mesh's frame.

    Raises:
        ValueError: an unknown frame, or a mesh that no ray hits.
    """
    R = anatomical_axes(frame)  # columns left, posterior, superior
    return R @ _dorsal(mesh.vertices_m @ R, mesh.faces, _GRID).mean(axis=0)


def process_tips(mesh: Mesh, frame: str = "LPS") -> tuple[Landmark, ...]:
    """Tips of the spinous and the transverse processes, as seen from posterior.

    The lower tip of the spinous process is the point of the midline that lies farthest posterior and
    caudal, those of the transverse processes lie farthest to the sides. On six real L1 vertebrae
    (VerSe) they lie 0.3 to 2.5 mm from landmarks that people placed.

    Args and errors as of `dorsal_centre`. A sacrum has no such tips: they are not meant for it.
    """
    R = anatomical_axes(frame)
    seen = _dorsal(mesh.vertices_m @ R, mesh.faces, _TIP_GRID)
    left, posterior, superior = seen.T
    middle = np.median(left[posterior >= posterior.max() - _RIDGE_M])
    central = np.abs(left - middle) < _MIDLINE_M
    anywhere = np.ones(len(seen), bool)
    found = (
        (SPINOUS, posterior - superior, central),
        (TRANSVERSE["left"], left, anywhere),
        (TRANSVERSE["right"], -left, anywhere),
    )
    return tuple(Landmark(name, R @ _tip(seen, score, among)) for name, score, among in found)


def landmarks(case: Case, level: str) -> tuple[Landmark, ...] | Rejected:
    """What can be touched of a level: what the case names, else the tips of the processes."""
    if level not in case.meshes:
        return Rejected(f"{level} is not in the case")
    if named := case.landmarks.get(level):
        return tuple(Landmark(name, np.asarray(p, float)) for name, p in named.items())
    if level == "S1":
        return Rejected(
            "a sacrum has no tips that are known by themselves; name its landmarks in the case"
            " (case.yaml: landmarks)"
        )
    try:
        return process_tips(case.meshes[level], case.orientation)
    except ValueError as error:
        return Rejected(f"{level} has no landmarks: {error}")


def _tip(points: np.ndarray, score: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Mean of the points around the one with the highest score."""
    best = points[np.where(among, score, -np.inf).argmax()]
    near = np.linalg.norm(points - best, axis=1) < _TIP_M
    return points[near & among].mean(axis=0)


def _dorsal(local_m: np.ndarray, faces: np.ndarray, grid_m: float) -> np.ndarray:
    """(N, 3) first hits of posterior rays on a surface whose axes are left, posterior, superior."""
    low, high = local_m.min(0), local_m.max(0)
    x = np.arange(low[0] + 0.5 * grid_m, high[0], grid_m)
    z = np.arange(low[2] + 0.5 * grid_m, high[2], grid_m)
    grid_x, grid_z = (g.ravel() for g in np.meshgrid(x, z, indexing="ij"))
    rays = np.zeros((grid_x.size, 6), np.float32)
    rays[:, 0], rays[:, 1], rays[:, 2] = grid_x, high[1] + 0.01, grid_z
    rays[:, 4] = -1.0
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(
        o3d.core.Tensor.from_numpy(local_m.astype(np.float32)),
        o3d.core.Tensor.from_numpy(np.ascontiguousarray(faces, np.uint32)),
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
    return np.column_stack([grid_x[seen], high[1] + 0.01 - reach[seen], grid_z[seen]])
