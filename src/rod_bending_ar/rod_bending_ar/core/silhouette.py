# SPDX-License-Identifier: Apache-2.0
"""A vertebra as the camera sees it: mask, shading and depth, by casting its triangles into pixels.

The surface is thinned once per mesh (FACES), by less than a pixel at any distance that a wound is
seen from; through a lens its vertices are placed exactly, and its triangles are too small to bend.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.types import Intrinsics, Mesh

from .lens import NEAR_M, Lens, as_lens, project_px
from .raster import facing, rasterise

FACES = 4000  # drawn of one vertebra


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

    def pixels(self, every: int = 1) -> np.ndarray:
        """(N, 2) x and y in the image of the cells in the mask, of every `every`-th row and column."""
        rows, columns = np.nonzero(self.mask[::every, ::every])
        cells = np.stack([columns, rows], axis=1) * (every * self.step)
        return cells + np.array([self.x0, self.y0]) + 0.5 * (self.step - 1)


@dataclass(frozen=True)
class _Surface:
    vertices_m: np.ndarray  # (N, 3)
    normals: np.ndarray  # (N, 3)
    faces: np.ndarray  # (M, 3) int32
    closed: bool  # with outward winding


# Keyed by identity; the mesh is kept beside its surface so that the id cannot be reused.
_surfaces: OrderedDict[int, tuple[Mesh, _Surface]] = OrderedDict()
_KEPT = 64


def prepare(mesh: Mesh) -> None:
    """Build what `silhouette` needs of a mesh, so that the first picture does not wait for it."""
    T = np.eye(4)
    T[2, 3] = 1.0
    silhouette(mesh, T, Intrinsics(64, 64, 50.0, 50.0, 32.0, 32.0))


def _surface(mesh: Mesh) -> _Surface:
    if id(mesh) not in _surfaces:
        _surfaces[id(mesh)] = (mesh, _build(mesh))
        while len(_surfaces) > _KEPT:
            _surfaces.popitem(last=False)
    return _surfaces[id(mesh)][1]


def _build(mesh: Mesh) -> _Surface:
    vertices, faces = mesh.vertices_m, mesh.faces
    if len(faces) > FACES:
        import open3d as o3d  # heavy; commands that draw nothing do without

        full = o3d.geometry.TriangleMesh(
            o3d.utility.Vector3dVector(vertices), o3d.utility.Vector3iVector(faces)
        )
        small = full.simplify_quadric_decimation(FACES)
        vertices, faces = np.asarray(small.vertices), np.asarray(small.triangles)
    faces = np.ascontiguousarray(faces, np.int32)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], np.cross(b - a, c - a))
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    vertices = np.ascontiguousarray(vertices, float)
    return _Surface(vertices, normals, faces, _closed(vertices, faces))


def _closed(vertices: np.ndarray, faces: np.ndarray) -> bool:
    """Whether every edge has its neighbour, and the faces look outwards."""
    tail, head = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    edges = set(zip(tail.tolist(), head.tolist(), strict=True))
    if any((b, a) not in edges for a, b in edges):
        return False
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return bool(np.einsum("ij,ij->", a, np.cross(b, c)) > 0.0)


def silhouette(
    mesh: Mesh, T_camera_mesh: np.ndarray, camera: Lens | Intrinsics, step: int = 1
) -> Silhouette | None:
    """The mesh (metres) at T_camera_mesh (4, 4); None where it is out of view or too near."""
    surface, lens = _surface(mesh), as_lens(camera)
    points = np.empty_like(surface.vertices_m)
    along = np.empty(len(points))
    R, t = np.ascontiguousarray(T_camera_mesh[:3, :3]), np.ascontiguousarray(T_camera_mesh[:3, 3])
    facing(surface.vertices_m, surface.normals, R, t, points, along)
    z = points[:, 2]
    if z.min() < NEAR_M:
        return None
    pixels = project_px(points, lens)
    known = pixels if np.isfinite(pixels.sum()) else pixels[np.isfinite(pixels).all(axis=1)]
    if not len(known):
        return None
    low = np.maximum(np.floor(known.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(known.max(axis=0)) + 1, lens.size).astype(int)
    cells = (high - low) // step  # a cell that the image cuts is left out
    if np.any(high - low < 2) or np.any(cells < 1):
        return None
    nearness = np.zeros((cells[1], cells[0]), np.float32)
    shade = np.zeros_like(nearness)
    at = (pixels - (low + 0.5 * (step - 1))) / step  # a cell's middle
    rasterise(at, 1.0 / z, along, surface.faces, surface.closed, nearness, shade)
    mask = nearness > 0.0
    depth = np.divide(1.0, nearness, out=np.zeros_like(nearness), where=mask)
    return Silhouette(int(low[0]), int(low[1]), step, mask, shade, depth)
