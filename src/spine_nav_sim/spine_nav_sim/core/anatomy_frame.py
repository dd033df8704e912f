# SPDX-License-Identifier: Apache-2.0
"""The anatomical frame of any vertebra mesh, found from its geometry alone (metres, LPS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import open3d as o3d
from scipy import ndimage
from scipy.spatial import cKDTree

from spine_nav_common.core.types import Mesh, Rejected
from spine_nav_common.core.voxels import inside_grid

RayScene = Any  # open3d.t.geometry.RaycastingScene, which has no types

_VOXEL = 0.0015
_SYMMETRY_POINTS = 500
_BODY_RADIUS = (0.007, 0.030)  # largest sphere inside the bone; a vertebral body's half height


@dataclass(frozen=True)
class VertebraFrame:
    """T_mesh_vertebra (4, 4): x left, y posterior, z superior, origin at the middle of the
    posterior wall of the body. Lengths in metres."""

    T_mesh_vertebra: np.ndarray
    body_depth: float  # anterior to posterior wall
    body_height: float


def raycasting_scene(mesh: Mesh) -> o3d.t.geometry.RaycastingScene:
    """Open3D scene of one mesh, single thread."""
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(
        o3d.core.Tensor.from_numpy(np.ascontiguousarray(mesh.vertices_m, np.float32)),
        o3d.core.Tensor.from_numpy(np.ascontiguousarray(mesh.faces, np.uint32)),
    )
    return scene


def first_hits(scene: RayScene, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(N,) distances along unit directions (N, 3) from origins (N, 3); inf without a hit."""
    rays = np.concatenate(np.broadcast_arrays(origins, directions), axis=-1).astype(np.float32)
    return scene.cast_rays(o3d.core.Tensor.from_numpy(rays.reshape(-1, 6)), nthreads=1)[
        "t_hit"
    ].numpy()


def inside(scene: RayScene, points: np.ndarray) -> np.ndarray:
    """Bool array of points (..., 3) that lie in the bone."""
    tensor = o3d.core.Tensor.from_numpy(np.ascontiguousarray(points, np.float32))
    return scene.compute_occupancy(tensor, nthreads=1, nsamples=3).numpy() > 0.5


def depth_inside(scene: RayScene, points: np.ndarray) -> np.ndarray:
    """Distance to the surface, positive in the bone, of points (..., 3)."""
    tensor = o3d.core.Tensor.from_numpy(np.ascontiguousarray(points, np.float32))
    return -scene.compute_signed_distance(tensor, nthreads=1, nsamples=3).numpy()


def find_frame(mesh: Mesh) -> VertebraFrame | Rejected:
    """Locate body, endplates and canal of a vertebra (also S1) in LPS within about 40 degrees."""
    centre, radius = _body_sphere(mesh)
    if not _BODY_RADIUS[0] <= radius <= _BODY_RADIUS[1]:
        return Rejected(
            f"the largest sphere in the bone has {2e3 * radius:.0f} mm diameter: no body"
        )
    up = _endplate_axis(mesh, centre, radius)
    if up is None:
        return Rejected("no pair of endplates found above and below the body")
    left, centre = _symmetry_axis(mesh, centre, up)
    back = np.cross(up, left)
    scene = raycasting_scene(mesh)
    R = np.column_stack([left, back, up])
    # centre the body between its walls, seen from the sphere
    for _ in range(2):
        spread = [
            _median_hit(scene, centre, R, axis, sign) for axis in range(3) for sign in (1, -1)
        ]
        if not np.isfinite(spread).all():
            return Rejected("the body's walls cannot be measured from its middle")
        centre = centre + R[:, 2] * (spread[4] - spread[5]) / 2
    wall, front = spread[2], spread[3]
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, centre + back * wall
    return VertebraFrame(T, float(wall + front), float(spread[4] + spread[5]))


def _body_sphere(mesh: Mesh) -> tuple[np.ndarray, float]:
    """Centre and radius of the largest sphere inside the bone, on a 1.5 mm grid."""
    low = mesh.vertices_m.min(0) - 2 * _VOXEL
    size = np.ceil((np.ptp(mesh.vertices_m, axis=0) + 4 * _VOXEL) / _VOXEL).astype(int) + 1
    bone = inside_grid(mesh.vertices_m, mesh.faces, low, _VOXEL, tuple(size))
    distance = ndimage.distance_transform_edt(bone, sampling=_VOXEL)
    radius = float(distance.max())
    near = np.argwhere(distance > 0.97 * radius)
    return low + _VOXEL * near.mean(0), radius


def _endplate_axis(mesh: Mesh, centre: np.ndarray, radius: float) -> np.ndarray | None:
    """Mean normal of the faces above the body minus that of the faces below."""
    v = mesh.vertices_m
    a, b, c = (v[mesh.faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    area = np.linalg.norm(normal, axis=1)
    unit = normal / np.maximum(area, 1e-12)[:, None]
    middle = (a + b + c) / 3 - centre
    up = np.array([0.0, 0.0, 1.0])
    for _ in range(4):
        height = middle @ up
        flat = np.linalg.norm(middle - height[:, None] * up, axis=1) < 1.15 * radius
        top = flat & (height > 0.5 * radius) & (unit @ up > 0.75)
        bottom = flat & (height < -0.5 * radius) & (unit @ up < -0.75)
        if not top.any():
            return None
        axis = normal[top].sum(0) / np.linalg.norm(normal[top].sum(0))
        if bottom.any():  # the sacrum has no lower endplate
            axis = axis - normal[bottom].sum(0) / np.linalg.norm(normal[bottom].sum(0))
        up = axis / np.linalg.norm(axis)
    return up if up[2] > 0.6 else None


def _symmetry_axis(mesh: Mesh, centre: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left axis and the centre moved into the mirror plane that maps the vertebra best onto
    itself: coarse, then fine search over the plane's turn about `up` and its lateral offset."""
    v = mesh.vertices_m
    a, b, c = (v[mesh.faces[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1).cumsum()
    # one face in equal steps of area: independent of the tessellation
    pick = np.searchsorted(area, area[-1] * (np.arange(_SYMMETRY_POINTS) + 0.5) / _SYMMETRY_POINTS)
    points = ((a + b + c) / 3 - centre)[pick]
    tree = cKDTree((v - centre)[:: max(1, len(v) // 8000)])
    x0 = np.cross([0.0, 1.0, 0.0], up)
    x0 /= np.linalg.norm(x0)
    y0 = np.cross(up, x0)
    best_turn, best_offset = 0.0, 0.0
    for turns, offsets in (
        (np.arange(-40.0, 41.0, 5.0), np.arange(-0.006, 0.0061, 0.003)),
        (np.arange(-4.0, 4.1, 1.0), np.arange(-0.002, 0.0021, 0.001)),
    ):
        scores = []
        for turn in np.radians(turns) + best_turn:
            left = np.cos(turn) * x0 - np.sin(turn) * y0
            for offset in offsets + best_offset:
                mirrored = points - 2 * ((points @ left) - offset)[:, None] * left
                gap = np.minimum(tree.query(mirrored, distance_upper_bound=0.005)[0], 0.005)
                scores.append((float(gap.mean()), turn, offset))
        _, best_turn, best_offset = min(scores)
    left = np.cos(best_turn) * x0 - np.sin(best_turn) * y0
    return left, centre + best_offset * left


def _median_hit(scene: RayScene, centre: np.ndarray, R: np.ndarray, axis: int, sign: int) -> float:
    """Median distance from the body's middle to its wall along one axis, from 9 nearby rays."""
    others = [R[:, k] for k in range(3) if k != axis]
    offsets = np.array([i * others[0] + j * others[1] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    hits = first_hits(scene, centre + 0.003 * offsets, np.tile(sign * R[:, axis], (9, 1)))
    return float(np.median(hits))
