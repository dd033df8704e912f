# SPDX-License-Identifier: Apache-2.0
"""Closed surfaces by lofting: no boolean operations, parts may overlap since only rays are cast."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from spine_nav_common.core.types import Mesh

CREASE_RAD = np.deg2rad(35.0)


def loft(rings: np.ndarray, pair_caps: bool = False, torus: bool = False) -> Mesh:
    """A closed surface through S rings of N points each, (S, N, 3) metres, capped at both ends.

    Caps are fans around the ring's mean; with `pair_caps` they are strips between the points i and
    N-1-i, for crescent-shaped rings; a `torus` has no ends (first and last ring are equal). Points that coincide are merged, creases are not split.
    """
    s, n, _ = rings.shape
    k = np.arange(n)
    a = (np.arange(s - 1)[:, None] * n + k).ravel()
    b = (np.arange(s - 1)[:, None] * n + (k + 1) % n).ravel()
    faces = [np.column_stack([a, b, b + n]), np.column_stack([a, b + n, a + n])]
    vertices = rings.reshape(-1, 3)
    last = (s - 1) * n
    if torus:
        pass
    elif pair_caps:
        i = np.arange(n // 2 - 1)
        p, q, p2, q2 = i, n - 1 - i, i + 1, n - 2 - i
        cap = np.vstack([np.column_stack([p, q, q2]), np.column_stack([p, q2, p2])])
        faces += [cap, cap[:, ::-1] + last]
    else:
        vertices = np.vstack([vertices, rings[0].mean(axis=0), rings[-1].mean(axis=0)])
        low, high = np.full(n, s * n), np.full(n, s * n + 1)
        faces.append(np.column_stack([low, (k + 1) % n, k]))
        faces.append(np.column_stack([high, last + k, last + (k + 1) % n]))
    return oriented(weld(vertices, np.vstack(faces)))


def weld(vertices_m: np.ndarray, faces: np.ndarray) -> Mesh:
    """Merge points nearer than about 1 nm and drop the triangles that collapse."""
    _, first, inverse = np.unique(
        np.round(vertices_m * 1e9).astype(np.int64), axis=0, return_index=True, return_inverse=True
    )
    faces = inverse.reshape(-1)[faces]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    return Mesh(vertices_m[first], faces.astype(np.int32))


def volume(mesh: Mesh) -> float:
    """Signed volume in m^3, positive for outward winding."""
    a, b, c = (mesh.vertices_m[mesh.faces[:, i]] for i in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6.0)


def oriented(mesh: Mesh) -> Mesh:
    """The closed surface with outward winding."""
    return mesh if volume(mesh) >= 0.0 else Mesh(mesh.vertices_m, mesh.faces[:, ::-1].copy())


def split_creases(mesh: Mesh, crease_rad: float = CREASE_RAD) -> Mesh:
    """Duplicate vertices along edges sharper than `crease_rad`, for interpolated normals."""
    v, f = mesh.vertices_m, mesh.faces.astype(np.int64)
    normal = np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    # half-edges: corner start, corner end; sorted by undirected key so that twins are neighbours
    start = np.arange(f.size)
    end = (start // 3) * 3 + (start + 1) % 3
    one, two = f.ravel()[start], f.ravel()[end]
    key = np.minimum(one, two) * len(v) + np.maximum(one, two)
    order = np.argsort(key, kind="stable")
    twins = np.nonzero(key[order][1:] == key[order][:-1])[0]
    p, q = order[twins], order[twins + 1]
    smooth = np.einsum("ij,ij->i", normal[p // 3], normal[q // 3]) > np.cos(crease_rad)
    p, q = p[smooth], q[smooth]
    same = one[p] == one[q]
    rows = np.concatenate([p, end[p]])
    cols = np.concatenate([np.where(same, q, end[q]), np.where(same, end[q], q)])
    graph = coo_matrix((np.ones(len(rows)), (rows, cols)), shape=(f.size, f.size))
    count, label = connected_components(graph, directed=False)
    vertices = np.empty((count, 3))
    vertices[label] = v[f.ravel()]
    return Mesh(vertices, label.reshape(-1, 3).astype(np.int32))


def join(parts: list[Mesh]) -> Mesh:
    """One mesh of several; nothing is merged."""
    offset = np.cumsum([0] + [len(p.vertices_m) for p in parts[:-1]])
    return Mesh(
        np.vstack([p.vertices_m for p in parts]),
        np.vstack([p.faces + o for p, o in zip(parts, offset, strict=True)]).astype(np.int32),
    )


def moved(mesh: Mesh, T_target_mesh: np.ndarray) -> Mesh:
    """The mesh in the target frame; T (4, 4) rigid."""
    return Mesh(mesh.vertices_m @ T_target_mesh[:3, :3].T + T_target_mesh[:3, 3], mesh.faces)


Radius = float | Callable[[np.ndarray], np.ndarray]


def lathe(profile: list[tuple[Radius, float]], sides: int = 36) -> Mesh:
    """A star-shaped body around z. profile: (radius in metres or a function of the angle, z)."""
    angle = np.arange(sides) * (2 * np.pi / sides)
    rings = []
    for radius, z in profile:
        rho = radius(angle) if callable(radius) else np.full(sides, float(radius))
        rings.append(np.column_stack([rho * np.cos(angle), rho * np.sin(angle), np.full(sides, z)]))
    return loft(np.array(rings))


def polygon_radius(across_flats_m: float, corners: int) -> Callable[[np.ndarray], np.ndarray]:
    """Outline of a regular polygon as a function of the angle."""
    step = 2 * np.pi / corners

    def radius(angle: np.ndarray) -> np.ndarray:
        return 0.5 * across_flats_m / np.cos((angle + step / 2) % step - step / 2)

    return radius


def lobe_radius(across_m: float, lobes: int = 6) -> Callable[[np.ndarray], np.ndarray]:
    """Outline of a hexalobe (torx) recess; `across_m` over opposite lobes."""

    def radius(angle: np.ndarray) -> np.ndarray:
        return 0.5 * across_m * (0.87 + 0.13 * np.cos(lobes * angle))

    return radius
