# SPDX-License-Identifier: Apache-2.0
"""A mesh as a camera sees it: which pixels it covers, how far and how steep it stands there.

Open3D casts the rays (Embree, a tree per mesh that is built once); nothing is drawn face by face.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from spine_nav_common.core.types import Intrinsics, Mesh

NEAR_M = 0.05  # nothing nearer to the camera is drawn


@dataclass(frozen=True)
class Silhouette:
    """A mesh on every `step`-th pixel of an image, cropped to its box at pixel (x0, y0).

    mask (h, w) bool; shade (h, w) 0..1, cosine between surface normal and line of sight; depth_m
    (h, w), 0 outside of the mask. Cell (i, j) stands for `step` × `step` pixels from
    (x0 + j·step, y0 + i·step) on.
    """

    x0: int
    y0: int
    step: int
    mask: np.ndarray
    shade: np.ndarray
    depth_m: np.ndarray

    def pixels(self) -> np.ndarray:
        """(N, 2) x and y in the image of the cells in the mask."""
        rows, columns = np.nonzero(self.mask)
        cells = np.stack([columns, rows], axis=1) * self.step
        return cells + np.array([self.x0, self.y0]) + 0.5 * (self.step - 1)


@dataclass(frozen=True)
class _Surface:
    scene: Any  # open3d RaycastingScene, in the mesh's coordinates
    hull_m: np.ndarray  # (N, 3) vertices of the convex hull


# Keyed by identity; the mesh is kept beside its surface so that the id cannot be reused.
_surfaces: OrderedDict[int, tuple[Mesh, _Surface]] = OrderedDict()
_KEPT = 64


def prepare(mesh: Mesh) -> None:
    """Build what `silhouette` needs of a mesh, so that the first picture does not wait for it."""
    _surface(mesh)


def _surface(mesh: Mesh) -> _Surface:
    if id(mesh) not in _surfaces:
        _surfaces[id(mesh)] = (mesh, _build(mesh))
        while len(_surfaces) > _KEPT:
            _surfaces.popitem(last=False)
    return _surfaces[id(mesh)][1]


def _build(mesh: Mesh) -> _Surface:
    import open3d as o3d  # heavy; commands that draw nothing do without
    from scipy.spatial import ConvexHull, QhullError

    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor.from_numpy(np.ascontiguousarray(mesh.vertices_m, np.float32)),
        o3d.core.Tensor.from_numpy(np.ascontiguousarray(mesh.faces, np.uint32)),
    )
    try:
        hull = mesh.vertices_m[ConvexHull(mesh.vertices_m).vertices]
    except QhullError:  # flat
        hull = mesh.vertices_m
    return _Surface(scene, np.asarray(hull, float))


def project_px(points_m: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """(N, 3) metres in the optical frame, z > 0, to (N, 2) pixels."""
    z = points_m[:, 2]
    return np.stack(
        [
            intrinsics.fx * points_m[:, 0] / z + intrinsics.cx,
            intrinsics.fy * points_m[:, 1] / z + intrinsics.cy,
        ],
        axis=1,
    )


def silhouette(
    mesh: Mesh, T_camera_mesh: np.ndarray, intrinsics: Intrinsics, step: int = 1
) -> Silhouette | None:
    """The mesh (metres) at T_camera_mesh (4, 4); None where it is out of view or too near."""
    import open3d as o3d

    surface = _surface(mesh)
    R, t = T_camera_mesh[:3, :3], T_camera_mesh[:3, 3]
    hull = surface.hull_m @ R.T + t
    if hull[:, 2].min() < NEAR_M:
        return None
    pixels = project_px(hull, intrinsics)
    size = np.array([intrinsics.width, intrinsics.height])
    low = np.maximum(np.floor(pixels.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(pixels.max(axis=0)) + 1, size).astype(int)
    cells = (high - low) // step  # a cell that the image cuts is left out
    if np.any(high - low < 2) or np.any(cells < 1):
        return None
    first = low + 0.5 * (step - 1)
    x, y = (
        ((first[i] + step * np.arange(cells[i]) - centre) / focal).astype(np.float32)
        for i, (centre, focal) in enumerate(
            [(intrinsics.cx, intrinsics.fx), (intrinsics.cy, intrinsics.fy)]
        )
    )
    # z of a ray is 1 in the camera's frame: the distance of its hit is the depth.
    R_32 = R.astype(np.float32)
    rays = np.empty((cells[1], cells[0], 6), np.float32)
    rays[..., :3] = -R.T @ t
    rays[..., 3:] = x[:, None] * R_32[0] + (y[:, None] * R_32[1] + R_32[2])[:, None]
    hits = surface.scene.cast_rays(o3d.core.Tensor.from_numpy(rays), nthreads=1)
    depth = hits["t_hit"].numpy()
    mask = np.isfinite(depth)
    depth[~mask] = 0.0
    # the normal of a miss is 0, and so is its shade
    along = np.einsum("ijk,ijk->ij", hits["primitive_normals"].numpy(), rays[..., 3:])
    shade = np.abs(along) / np.sqrt(1.0 + x**2 + (y**2)[:, None])
    return Silhouette(int(low[0]), int(low[1]), step, mask, shade, depth)
