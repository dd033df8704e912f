# SPDX-License-Identifier: Apache-2.0
"""A vertebra as the camera sees it: mask, shading and depth, by casting its triangles into pixels.

The surface is thinned once per mesh (FACES), by less than a pixel at any distance that a wound is
seen from; through a lens its vertices are placed exactly, and its triangles are too small to bend.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.types import Intrinsics, Mesh

from .lens import NEAR_M, Lens, as_lens
from .raster import bounds, facing, rasterise

FACES = 4000  # drawn of one vertebra
_CORNERS = 64  # of its vertices, enough to lay a label by


@dataclass(frozen=True)
class Silhouette:
    """A mesh on the pixels of an image, cropped to its box at pixel (x0, y0).

    nearness (h, w): 1 / z, 0 outside; shade (h, w) 0..1, cosine between surface normal and line of
    sight; corners_px (64, 2): some of its vertices, for labels; far_m: its greatest z.
    """

    x0: int
    y0: int
    nearness: np.ndarray
    shade: np.ndarray
    corners_px: np.ndarray
    far_m: float

    @property
    def mask(self) -> np.ndarray:
        """(h, w) bool."""
        return np.asarray(self.nearness > 0.0)

    @property
    def depth_m(self) -> np.ndarray:
        """(h, w), 0 outside of the mask."""
        out = np.zeros_like(self.nearness)
        return np.divide(1.0, self.nearness, out=out, where=self.mask)


@dataclass(frozen=True)
class _Surface:
    vertices_m: np.ndarray  # (N, 3)
    normals: np.ndarray  # (N, 3)
    faces: np.ndarray  # (M, 3) int32
    closed: bool  # with outward winding
    corners: np.ndarray  # (_CORNERS,) of the vertices


# Keyed by identity; the mesh is kept beside its surface so that the id cannot be reused.
_surfaces: OrderedDict[int, tuple[Mesh, _Surface]] = OrderedDict()
_KEPT = 64


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
    corners = np.linspace(0, len(vertices) - 1, _CORNERS).astype(int)
    return _Surface(vertices, normals, faces, _closed(vertices, faces), corners)


def _closed(vertices: np.ndarray, faces: np.ndarray) -> bool:
    """Whether every edge has its neighbour, and the faces look outwards."""
    tail, head = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    edges = set(zip(tail.tolist(), head.tolist(), strict=True))
    if any((b, a) not in edges for a, b in edges):
        return False
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return bool(np.einsum("ij,ij->", a, np.cross(b, c)) > 0.0)


def silhouette(
    mesh: Mesh, T_camera_mesh: np.ndarray, camera: Lens | Intrinsics
) -> Silhouette | None:
    """The mesh (metres) at T_camera_mesh (4, 4); None where it is out of view or too near."""
    surface, lens = _surface(mesh), as_lens(camera)
    count = len(surface.vertices_m)
    points, inverse_z, along = np.empty((count, 3)), np.empty(count), np.empty(count)
    R, t = (
        np.ascontiguousarray(T_camera_mesh[:3, :3]),
        np.ascontiguousarray(T_camera_mesh[:3, 3]),
    )
    if facing(surface.vertices_m, surface.normals, R, t, points, inverse_z, along) < NEAR_M:
        return None
    pixels = lens.project(points)
    x0, y0, x1, y1 = bounds(pixels)
    if not x0 <= x1:
        return None
    x0, y0 = max(math.floor(x0), 0), max(math.floor(y0), 0)
    x1, y1 = min(math.ceil(x1) + 1, lens.size[0]), min(math.ceil(y1) + 1, lens.size[1])
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    nearness = np.zeros((y1 - y0, x1 - x0), np.float32)
    shade = np.zeros_like(nearness)
    corners = np.empty((count, 4), np.float32)
    corners[:, :2], corners[:, 2], corners[:, 3] = pixels - (x0, y0), inverse_z, along
    rasterise(corners, surface.faces, surface.closed, nearness, shade)
    far_m = 1.0 / max(float(inverse_z.min()), 1e-9)
    return Silhouette(x0, y0, nearness, shade, pixels[surface.corners], far_m)
