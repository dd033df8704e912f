# SPDX-License-Identifier: Apache-2.0
"""What the registration knows of a case: signed distance grids and the surface seen from behind.

All grids of a case lie in one flat array, so that one call looks up points of every level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import open3d as o3d

from spine_nav_common.core.case import anatomical_axes
from spine_nav_common.core.landmarks import dorsal_centre
from spine_nav_common.core.types import LEVELS, Case, Mesh

from . import kernels

GRID_M = 1.5e-3
"""Grid step. Distance and gradient of the nearest node give a first-order value whose error is
below h^2/(8 R), 0.06 mm on a process of 5 mm radius, for one memory access per point."""
MARGIN_M = 12e-3
BAND_M = 5e-3
DORSAL_SAMPLES = 900


@dataclass(frozen=True)
class SpineModel:
    """A case, ready for registration; L levels from cranial to caudal, metres, mesh frame.

    field: (G, 4) float32 signed distance (negative in bone) and its gradient at the nodes of all
        grids, C order per level.
    offset, shape, origin_m: (L,), (L, 3), (L, 3) of the grids.
    dorsal_m, dorsal_normal: (L, N, 3) samples of the surface seen from behind.
    anchor_m: (L, 3) dorsal centres; centroid_m: (L, 3) means of mesh vertices.
    plan_points_m: per level (K, 3) points at which the TRE is defined.
    axes: (3, 3) columns left, posterior, superior in the mesh frame.
    """

    levels: tuple[str, ...]
    exposed: np.ndarray
    axes: np.ndarray
    field: np.ndarray
    offset: np.ndarray
    shape: np.ndarray
    origin_m: np.ndarray
    dorsal_m: np.ndarray
    dorsal_normal: np.ndarray
    anchor_m: np.ndarray
    centroid_m: np.ndarray
    plan_points_m: tuple[np.ndarray, ...]

    @property
    def grids(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
        """The distance grids as the kernels take them."""
        return self.field, self.offset, self.shape, self.origin_m, GRID_M

    def surface(
        self, points_m: np.ndarray, T_camera_ct: np.ndarray, level: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Signed distance of camera points to a posed level, and the outward normal there.

        Args:
            points_m: (M, 3) float32 metres, camera frame. T_camera_ct: (4, 4). level: its index.

        Returns:
            (M,) float32 metres, NaN outside the level's grid; (M, 3) float32 unit normals, camera
            frame.
        """
        T = np.zeros((len(self.levels), 4, 4))
        T[level] = T_camera_ct
        return kernels.surface(
            np.require(points_m, np.float32, ("C", "W")), T, level, self.field, self.offset,
            self.shape, self.origin_m, GRID_M,
        )  # fmt: skip


def build_model(case: Case) -> SpineModel:
    """Prepare a case: distance grids, dorsal samples, plan points (about 0.4 s per level)."""
    levels = tuple(sorted(case.meshes, key=LEVELS.index))
    axes = anatomical_axes(case.orientation)
    grids, shapes, origins, dorsal, normals, anchors = [], [], [], [], [], []
    for level in levels:
        scene, mesh = _raycasting(case.meshes[level]), case.meshes[level]
        values, origin = _distance_grid(scene, mesh)
        grids.append(np.stack([values, *np.gradient(values, GRID_M)], axis=-1).reshape(-1, 4))
        shapes.append(values.shape)
        origins.append(origin)
        p, n = _dorsal_samples(scene, mesh, axes)
        dorsal.append(p)
        normals.append(n)
        anchors.append(dorsal_centre(mesh, case.orientation))
    sizes = [len(g) for g in grids]
    return SpineModel(
        levels=levels,
        exposed=np.array([level in case.exposed_levels for level in levels]),
        axes=axes,
        field=np.concatenate(grids).astype(np.float32),
        offset=np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32),
        shape=np.array(shapes, np.int32),
        origin_m=np.array(origins),
        dorsal_m=np.array(dorsal),
        dorsal_normal=np.array(normals),
        anchor_m=np.array(anchors),
        centroid_m=np.array([case.meshes[v].vertices_m.mean(axis=0) for v in levels]),
        plan_points_m=tuple(_plan_points(case, v) for v in levels),
    )


def _plan_points(case: Case, level: str) -> np.ndarray:
    points = case.plan_points_m(level)
    step = max(1, len(points) // 64)  # without a plan the TRE is over all vertices: a sample does
    return points[::step] if len(points) > 64 else points


def _tensor(array: np.ndarray) -> Any:
    return o3d.core.Tensor(array)  # type: ignore[call-overload]  # its stubs know no plain array


def _raycasting(mesh: Mesh) -> o3d.t.geometry.RaycastingScene:
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(
        _tensor(mesh.vertices_m.astype(np.float32)),
        _tensor(mesh.faces.astype(np.uint32)),
    )
    return scene


def _distance_grid(
    scene: o3d.t.geometry.RaycastingScene, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray]:
    """Exact near the surface, interpolated from every second node far away (4 times faster)."""
    low = mesh.vertices_m.min(axis=0) - MARGIN_M
    half = np.ceil((np.ptp(mesh.vertices_m, axis=0) + 2 * MARGIN_M) / (2 * GRID_M)).astype(int)
    coarse = _distance(scene, low, half + 1, 2 * GRID_M)
    values = coarse
    for axis in range(3):
        n = values.shape[axis]
        fine_shape = list(values.shape)
        fine_shape[axis] = 2 * n - 1
        fine = np.empty(fine_shape, np.float32)
        at = [slice(None)] * 3
        a, b = list(at), list(at)
        at[axis], a[axis], b[axis] = slice(0, None, 2), slice(0, n - 1), slice(1, n)
        fine[tuple(at)] = values
        at[axis] = slice(1, None, 2)
        fine[tuple(at)] = 0.5 * (values[tuple(a)] + values[tuple(b)])
        values = fine
    near = np.nonzero(values < BAND_M)
    points = np.asarray(low + np.stack(near, axis=-1) * GRID_M, np.float32)
    values[near] = scene.compute_distance(_tensor(points), nthreads=0).numpy()
    inside = scene.compute_occupancy(_tensor(points)).numpy() > 0.5
    values[near] *= np.where(inside, -1.0, 1.0).astype(np.float32)
    return values, low


def _distance(
    scene: o3d.t.geometry.RaycastingScene, low: np.ndarray, shape: np.ndarray, step: float
) -> np.ndarray:
    axes = [low[a] + step * np.arange(shape[a]) for a in range(3)]
    points = np.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1), np.float32)
    inside = scene.compute_occupancy(_tensor(points)).numpy() > 0.5
    distance = scene.compute_distance(_tensor(points)).numpy()
    # Deep bone is never seen by a camera: only the sign matters there.
    deep = np.minimum(distance, np.float32(0.9 * BAND_M))
    return np.asarray(np.where(inside, deep, distance), np.float32)


def _dorsal_samples(
    scene: o3d.t.geometry.RaycastingScene, mesh: Mesh, axes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points that some camera behind the patient can see, evenly over the surface."""
    left, posterior, superior = axes.T
    centre = 0.5 * (mesh.vertices_m.min(axis=0) + mesh.vertices_m.max(axis=0))
    step = 1.0e-3
    u, v = np.meshgrid(np.arange(-0.07, 0.07, step), np.arange(-0.06, 0.06, step))
    found_p, found_n = [], []
    for lateral, axial in ((0, 0), (0.6, 0), (-0.6, 0), (0, 0.5), (0, -0.5)):
        view = posterior + lateral * left + axial * superior
        view /= np.linalg.norm(view)
        right = np.cross(superior, view)
        right /= np.linalg.norm(right)
        up = np.cross(view, right)
        start = centre + 0.15 * view + u.reshape(-1, 1) * right + v.reshape(-1, 1) * up
        rays = np.hstack([start, np.broadcast_to(-view, start.shape)]).astype(np.float32)
        hit = scene.cast_rays(_tensor(rays))
        t = hit["t_hit"].numpy()
        ok = np.isfinite(t)
        normal = hit["primitive_normals"].numpy()
        facing = (normal @ view.astype(np.float32)) > 0.25
        ok &= facing
        found_p.append(start[ok] - t[ok, None] * view)
        found_n.append(normal[ok])
    points, normal = np.concatenate(found_p), np.concatenate(found_n).astype(float)
    # A voxel filter evens the density out, a fixed stride brings it to the fixed number.
    key = np.floor((points - points.min(axis=0)) / 1.6e-3).astype(np.int64)
    _, first = np.unique(key @ np.array([1, 4096, 4096 * 4096]), return_index=True)
    first = first[np.linspace(0, len(first) - 1, DORSAL_SAMPLES).astype(int)]
    return points[first], normal[first]
