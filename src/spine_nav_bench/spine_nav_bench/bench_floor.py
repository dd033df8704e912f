# SPDX-License-Identifier: Apache-2.0
"""The floor of one frame: what remains when nothing but the camera's depth is to blame.

Point-to-plane ICP of each vertebra on its own true pixels, started at the true pose. Its error is
the depth camera's bias and noise; no estimator that sees one frame can be asked for less.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import open3d as o3d
from scipy.spatial import cKDTree

from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.metrics import mean_distance_mm
from spine_nav_common.core.truth import Truth
from spine_nav_common.core.types import Case, Mesh, RgbdFrame

SAMPLES = 30_000
PIXEL_M = 4e-3
"""A pixel shows a vertebra where its depth is this near to the true surface on its ray."""
MATCH_M = 4e-3
ITERATIONS = 12
MIN_PIXELS = 100


def floor_tre_mm(case: Case, truth: Truth, frames: Sequence[RgbdFrame]) -> list[float]:
    """TRE in mm of every exposed level in every frame that shows enough of it."""
    clouds = {level: _surface(case.meshes[level]) for level in case.exposed_levels}
    scenes = {level: _raycasting(case.meshes[level]) for level in case.exposed_levels}
    out = []
    for frame in frames:
        poses = truth.frames[frame.stamp_ns].T_camera_ct
        for level in case.exposed_levels:
            if level not in poses:
                continue
            points = _true_pixels(frame, scenes[level], poses[level])
            if len(points) < MIN_PIXELS:
                continue
            T = _icp(points, *clouds[level], poses[level])
            out.append(mean_distance_mm(T, poses[level], case.plan_points_m(level)))
    return out


def _surface(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, cKDTree]:
    """Even samples (N, 3) with normals, mesh frame."""
    o3d.utility.random.seed(0)
    shape = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices_m), o3d.utility.Vector3iVector(mesh.faces)
    )
    shape.compute_triangle_normals()
    cloud = shape.sample_points_uniformly(SAMPLES, use_triangle_normal=True)
    points = np.asarray(cloud.points)
    return points, np.asarray(cloud.normals), cKDTree(points)


def _raycasting(mesh: Mesh) -> o3d.t.geometry.RaycastingScene:
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(
        o3d.core.Tensor(mesh.vertices_m.astype(np.float32)),
        o3d.core.Tensor(mesh.faces.astype(np.uint32)),
    )
    return scene


def _true_pixels(
    frame: RgbdFrame, scene: o3d.t.geometry.RaycastingScene, T_camera_ct: np.ndarray
) -> np.ndarray:
    """(N, 3) measured points, camera frame, whose ray meets the posed vertebra near their depth."""
    k = frame.intrinsics
    v, u = np.nonzero(np.isfinite(frame.depth_m) & (frame.depth_m > 0))
    slope = np.stack([(u - k.cx) / k.fx, (v - k.cy) / k.fy, np.ones(len(u))], axis=1)
    inverse = np.linalg.inv(T_camera_ct)
    rays = np.hstack([np.broadcast_to(inverse[:3, 3], slope.shape), slope @ inverse[:3, :3].T])
    hit = scene.cast_rays(o3d.core.Tensor(rays.astype(np.float32)))["t_hit"].numpy()
    z = frame.depth_m[v, u].astype(float)
    mine = np.abs(hit - z) < PIXEL_M  # a ray's parameter is its depth: slope has z = 1
    return slope[mine] * z[mine, None]


def _icp(
    points_m: np.ndarray,
    surface_m: np.ndarray,
    normals: np.ndarray,
    tree: cKDTree,
    T_camera_ct: np.ndarray,
) -> np.ndarray:
    """(4, 4) pose T_camera_ct after point-to-plane steps from `T_camera_ct`."""
    T_ct_camera = np.linalg.inv(T_camera_ct)
    for _ in range(ITERATIONS):
        p = transform_points(T_ct_camera, points_m)
        distance, index = tree.query(p, distance_upper_bound=MATCH_M)
        near = np.isfinite(distance)
        n = normals[index[near]]
        middle = p[near].mean(axis=0)
        J = np.hstack([n, np.cross(p[near] - middle, n)])
        r = np.einsum("ij,ij->i", p[near] - surface_m[index[near]], n)
        x = np.linalg.lstsq(J, -r, rcond=None)[0]
        step = np.eye(4)
        step[:3, :3] = o3d.geometry.get_rotation_matrix_from_axis_angle(x[3:])
        step[:3, 3] = x[:3] + middle - step[:3, :3] @ middle
        T_ct_camera = step @ T_ct_camera
    return np.linalg.inv(T_ct_camera)
