# SPDX-License-Identifier: Apache-2.0
"""Peer methods of the bench, re-implemented on the same pixels and the same segmentation.

Each takes one frame's bone points and gives a pose per exposed level, or Rejected:

- `fpfh_ransac_icp`: Open3D's FPFH features, RANSAC and point-to-plane ICP, the common recipe.
- `multi_start_icp`: many starts around the bone's principal axis, ICP from each, the best wins.
- `segment_orient_icp`: in the spirit of Liebmann 2024: segmentation and predicted orientation give
  the first pose, then every vertebra is refined on its own by ICP. The paper leaves the ICP
  variant and the network open; here they share the network that our own method uses.

Parameters come from `peers_search.py`, which searches them on training anatomies.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import open3d as o3d
import small_gicp
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from spine_nav_common.core.case import anatomical_axes
from spine_nav_common.core.landmarks import dorsal_centre
from spine_nav_common.core.types import Case, Mesh, Rejected, RgbdFrame
from spine_perception.core.segmentation import Segmentation

PARAMETERS_FILE = Path(__file__).with_name("peer_parameters.json")
MIN_POINTS = 150
SCORE_CUT_M = 0.005
SCORE_POINTS = 700
START_POINTS = 600  # bounds the time of one start


@dataclass(frozen=True)
class Scene:
    """Bone of one frame in the camera frame, metres: points (N, 3), unit normals (N, 3) towards
    the camera; cranial and dorsal unit votes (N, 3) of the network, NaN where it casts none."""

    points_m: np.ndarray
    normals: np.ndarray
    cranial: np.ndarray
    dorsal: np.ndarray


@dataclass(frozen=True)
class Surface:
    """Sampled surface that a camera behind the patient can see: points, outward normals, index."""

    points_m: np.ndarray
    normals: np.ndarray
    cloud: small_gicp.PointCloud
    tree: small_gicp.KdTree
    lookup: cKDTree


@dataclass(frozen=True)
class Model:
    """The exposed levels of a case, ready before the operation: per level and all together.

    `R_ct_anatomy` (3, 3): columns are the cranial, dorsal and left direction in the mesh frame.
    `middle_m` (3,): mean of the levels' dorsal centres, what the middle of the seen bone is to.
    """

    levels: dict[str, Surface]
    spine: Surface
    R_ct_anatomy: np.ndarray
    middle_m: np.ndarray
    features: dict[Any, tuple[Any, Any]] = field(default_factory=dict)  # filled on first use


@dataclass(frozen=True)
class PeerParameters:
    """What the search may choose. Lengths in millimetres, angles in degrees."""

    voxel_mm: float = 3.0
    feature_radius: float = 5.0  # in voxels
    ransac_distance: float = 1.5  # in voxels
    ransac_iterations: int = 100_000
    per_level: bool = False
    rolls: int = 2
    shifts: int = 3
    shift_step_mm: float = 12.0
    tilt_deg: float = 15.0
    dorsal_from_view: bool = False  # else the thinnest principal axis of the bone
    coarse_plane: bool = False  # point-to-plane in the coarse stage too, else point-to-point
    coarse_mm: float = 20.0
    fine_mm: float = 5.0
    iterations: int = 40


def load_parameters(path: Path = PARAMETERS_FILE) -> dict[str, PeerParameters]:
    """Parameters per peer, as the search on training anatomies wrote them."""
    known = {f.name for f in fields(PeerParameters)}
    stored = json.loads(path.read_text())["peers"]
    return {
        name: PeerParameters(**{k: v for k, v in entry["parameters"].items() if k in known})
        for name, entry in stored.items()
    }


def bone_scene(
    frame: RgbdFrame, segmentation: Segmentation, threshold: float = 0.5
) -> Scene | Rejected:
    """Every pixel of the frame that the shared segmentation calls bone and that has depth."""
    v, u = np.nonzero(np.isfinite(frame.depth_m) & (frame.depth_m > 0))
    keep = segmentation.bone_at(u, v) > threshold
    u, v = u[keep], v[keep]
    if len(u) < MIN_POINTS:
        return Rejected(f"{len(u)} bone pixels, {MIN_POINTS} needed")
    z = frame.depth_m[v, u].astype(np.float64)
    k = frame.intrinsics
    points = np.stack([(u - k.cx) / k.fx * z, (v - k.cy) / k.fy * z, z], axis=1)
    grid = segmentation.grid
    rows = np.clip(np.round((v - grid.v0) / grid.scale), 0, segmentation.bone.shape[0] - 1)
    columns = np.clip(np.round((u - grid.u0) / grid.scale), 0, segmentation.bone.shape[1] - 1)
    cells = rows.astype(int), columns.astype(int)
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    cloud.estimate_normals(o3d.geometry.KDTreeSearchParamHybrid(0.006, 40))
    cloud.orient_normals_towards_camera_location(np.zeros(3))
    return Scene(
        points,
        np.asarray(cloud.normals),
        segmentation.cranial[cells].astype(np.float64),
        segmentation.dorsal[cells].astype(np.float64),
    )


def _sample(mesh: Mesh, dorsal: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    corners = mesh.vertices_m[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normals, axis=1)
    unit = normals / np.maximum(area, 1e-18)[:, None]
    # Faces turned away from every camera behind the patient would only attract wrong matches.
    weight = np.where(unit @ dorsal > -0.3, area, 0.0)
    count = max(300, int(0.5 * weight.sum() / 2.0e-6))  # one point per 2 mm2
    chosen = rng.choice(len(area), size=count, p=weight / weight.sum())
    a, b = rng.random((2, count, 1))
    flip = (a + b) > 1
    a, b = np.where(flip, 1 - a, a), np.where(flip, 1 - b, b)
    c = corners[chosen]
    return c[:, 0] + a * (c[:, 1] - c[:, 0]) + b * (c[:, 2] - c[:, 0]), unit[chosen]


def _surface(points: np.ndarray, normals: np.ndarray) -> Surface:
    cloud = small_gicp.PointCloud(points)
    tree = small_gicp.KdTree(cloud)
    small_gicp.estimate_normals(cloud, tree, 12)
    return Surface(points, normals, cloud, tree, cKDTree(points))


def prepare(case: Case, seed: int = 0) -> Model:
    """Sample the case's exposed levels; done once per case, outside every timed part."""
    rng = np.random.default_rng(seed)
    left, dorsal, cranial = anatomical_axes(case.orientation).T
    sampled = {level: _sample(case.meshes[level], dorsal, rng) for level in case.exposed_levels}
    levels = {level: _surface(*both) for level, both in sampled.items()}
    spine = _surface(
        np.concatenate([p for p, _ in sampled.values()]),
        np.concatenate([n for _, n in sampled.values()]),
    )
    middle = np.mean([dorsal_centre(case.meshes[v], case.orientation) for v in levels], axis=0)
    return Model(levels, spine, np.stack([cranial, dorsal, left], axis=1), middle)


def _icp(
    surface: Surface,
    source: small_gicp.PointCloud,
    T_ct_camera: np.ndarray,
    reach_m: float,
    n: int,
    plane: bool = True,
) -> np.ndarray:
    result = small_gicp.align(
        surface.cloud,
        source,
        surface.tree,
        T_ct_camera,
        registration_type="PLANE_ICP" if plane else "ICP",
        max_correspondence_distance=reach_m,
        max_iterations=n,
        rotation_epsilon=1e-4,
        translation_epsilon=1e-5,
    )
    return np.asarray(result.T_target_source)


def _score(surface: Surface, points_m: np.ndarray, T_ct_camera: np.ndarray) -> float:
    """Mean distance of scene points to the model, metres, each cut at 5 mm."""
    step = max(1, len(points_m) // SCORE_POINTS)
    moved = points_m[::step] @ T_ct_camera[:3, :3].T + T_ct_camera[:3, 3]
    distance, _ = surface.lookup.query(moved, distance_upper_bound=SCORE_CUT_M)
    return float(np.minimum(distance, SCORE_CUT_M).mean())


def _thin(points_m: np.ndarray, voxel_m: float) -> np.ndarray:
    cloud = small_gicp.voxelgrid_sampling(points_m, voxel_m)
    return np.ascontiguousarray(np.asarray(cloud.points())[:, :3])


def _refine_levels(
    model: Model, points_m: np.ndarray, T_ct_camera: np.ndarray, p: PeerParameters
) -> dict[str, np.ndarray]:
    """Each vertebra on its own: points nearest to it, ICP to its surface. T_camera_ct per level."""
    moved = points_m @ T_ct_camera[:3, :3].T + T_ct_camera[:3, 3]
    names = list(model.levels)
    distance = np.stack([model.levels[n].lookup.query(moved)[0] for n in names])
    owner = distance.argmin(axis=0)
    near = distance.min(axis=0) < p.coarse_mm * 1e-3
    poses = {}
    for i, name in enumerate(names):
        mine = np.ascontiguousarray(points_m[(owner == i) & near])
        T = T_ct_camera
        if len(mine) >= 30:
            source = small_gicp.PointCloud(mine)
            T = _icp(model.levels[name], source, T, 2 * p.fine_mm * 1e-3, p.iterations)
            T = _icp(model.levels[name], source, T, p.fine_mm * 1e-3, p.iterations)
        poses[name] = np.linalg.inv(T)
    return poses


def _best_start(
    model: Model, points_m: np.ndarray, starts: list[np.ndarray], p: PeerParameters
) -> np.ndarray:
    """ICP of the whole spine from every start; the smallest cut distance wins."""
    thin = _thin(points_m, 2 * p.voxel_mm * 1e-3)
    thin = np.ascontiguousarray(thin[:: -(-len(thin) // START_POINTS)])
    source = small_gicp.PointCloud(thin)
    best, best_score = starts[0], np.inf
    for start in starts:
        coarse_m = p.coarse_mm * 1e-3
        T = _icp(model.spine, source, start, coarse_m, p.iterations, p.coarse_plane)
        T = _icp(model.spine, source, T, coarse_m / 2, p.iterations, p.coarse_plane)
        T = _icp(model.spine, source, T, 2 * p.fine_mm * 1e-3, p.iterations)
        score = _score(model.spine, thin, T)
        if score < best_score:
            best, best_score = T, score
    return best


def _starts(
    model: Model, points_m: np.ndarray, frames: list[np.ndarray], p: PeerParameters
) -> list[np.ndarray]:
    """T_ct_camera that put the bone's centre on the model's centre, shifted along the spine.

    frames: (3, 3) rotations whose columns are cranial, dorsal and left in the camera frame.
    """
    centre, middle = points_m.mean(axis=0), model.middle_m
    cranial_ct = model.R_ct_anatomy[:, 0]
    offsets = (np.arange(p.shifts) - (p.shifts - 1) / 2) * p.shift_step_mm * 1e-3
    starts = []
    for R_camera_anatomy in frames:
        R = model.R_ct_anatomy @ R_camera_anatomy.T
        for offset in offsets:
            T = np.eye(4)
            T[:3, :3] = R
            T[:3, 3] = middle + offset * cranial_ct - R @ centre
            starts.append(T)
    return starts


def _frame(cranial: np.ndarray, dorsal: np.ndarray) -> np.ndarray:
    """Orthonormal columns cranial, dorsal, left (left = dorsal x cranial in LPS and RAS alike)."""
    cranial = cranial / np.linalg.norm(cranial)
    dorsal = dorsal - (dorsal @ cranial) * cranial
    dorsal = dorsal / np.linalg.norm(dorsal)
    return np.stack([cranial, dorsal, np.cross(dorsal, cranial)], axis=1)


def multi_start_icp(
    scene: Scene, model: Model, p: PeerParameters, seed: int
) -> dict[str, np.ndarray] | Rejected:
    """Starts: dorsal towards the camera, the bone's long axis in both directions and turned."""
    points = _thin(scene.points_m, p.voxel_mm * 1e-3)
    if len(points) < MIN_POINTS // 2:
        return Rejected("too few bone points")
    centred = points - points.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2]
    long_axis = axes[0]
    view = -points.mean(axis=0) / np.linalg.norm(points.mean(axis=0))
    if not p.dorsal_from_view:
        view = axes[2] * np.sign(axes[2] @ view)
    rolls = np.arange(max(2, p.rolls)) * 2 * np.pi / max(2, p.rolls)
    tilts = [0.0] if p.tilt_deg == 0 else [k * p.tilt_deg for k in (-2, -1, 0, 1, 2)]
    frames = []
    for roll in rolls:
        cranial = Rotation.from_rotvec(roll * view).apply(long_axis)
        for tilt in tilts:
            dorsal = Rotation.from_rotvec(np.radians(tilt) * cranial).apply(view)
            frames.append(_frame(cranial, dorsal))
    T = _best_start(model, points, _starts(model, points, frames, p), p)
    return _refine_levels(model, points, T, p)


def segment_orient_icp(
    scene: Scene, model: Model, p: PeerParameters, seed: int
) -> dict[str, np.ndarray] | Rejected:
    """The network's orientation, the mask's centre (shifted along the spine), then ICP."""
    votes = np.isfinite(scene.cranial).all(axis=1) & np.isfinite(scene.dorsal).all(axis=1)
    if votes.sum() < MIN_POINTS:
        return Rejected("the segmentation casts no orientation votes")
    points = _thin(scene.points_m, p.voxel_mm * 1e-3)
    frame = _frame(np.median(scene.cranial[votes], axis=0), np.median(scene.dorsal[votes], axis=0))
    T = _best_start(model, points, _starts(model, points, [frame], p), p)
    return _refine_levels(model, points, T, p)


def _features(points: np.ndarray, normals: np.ndarray, p: PeerParameters) -> tuple[Any, Any]:
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    cloud.normals = o3d.utility.Vector3dVector(normals)
    cloud = cloud.voxel_down_sample(p.voxel_mm * 1e-3)
    radius = p.feature_radius * p.voxel_mm * 1e-3
    feature = o3d.pipelines.registration.compute_fpfh_feature(
        cloud, o3d.geometry.KDTreeSearchParamHybrid(radius, 100)
    )
    return cloud, feature


def model_features(model: Model, p: PeerParameters) -> dict[str, tuple[Any, Any]]:
    """Cloud and FPFH of the model per part ("" = whole spine), computed once per case."""
    parts = model.levels if p.per_level else {"": model.spine}
    for name, surface in parts.items():
        key = (name, p.voxel_mm, p.feature_radius)
        if key not in model.features:
            model.features[key] = _features(surface.points_m, surface.normals, p)
    return {name: model.features[name, p.voxel_mm, p.feature_radius] for name in parts}


def fpfh_ransac_icp(
    scene: Scene, model: Model, p: PeerParameters, seed: int
) -> dict[str, np.ndarray] | Rejected:
    """Open3D's recipe, for the spine as a whole or for each vertebra (`per_level`)."""
    o3d.utility.random.seed(seed)
    source, source_feature = _features(scene.points_m, scene.normals, p)
    if len(source.points) < MIN_POINTS // 2:
        return Rejected("too few bone points")
    points = _thin(scene.points_m, p.voxel_mm * 1e-3)
    registration = o3d.pipelines.registration
    poses: dict[str, np.ndarray] = {}
    for name, (target, target_feature) in model_features(model, p).items():
        surface = model.levels[name] if name else model.spine
        reach = p.ransac_distance * p.voxel_mm * 1e-3
        found = registration.registration_ransac_based_on_feature_matching(
            source, target, source_feature, target_feature, True, reach,
            registration.TransformationEstimationPointToPoint(False), 3,
            [
                registration.CorrespondenceCheckerBasedOnEdgeLength(0.9),
                registration.CorrespondenceCheckerBasedOnDistance(reach),
            ],
            registration.RANSACConvergenceCriteria(p.ransac_iterations, 0.999),
        )  # fmt: skip
        T = np.asarray(found.transformation)
        if not p.per_level:
            T = _icp(surface, small_gicp.PointCloud(points), T, 2 * p.fine_mm * 1e-3, p.iterations)
            return _refine_levels(model, points, T, p)
        T = _icp(surface, small_gicp.PointCloud(points), T, p.fine_mm * 1e-3, p.iterations)
        poses[name] = np.linalg.inv(T)
    return poses


Peer = Callable[[Scene, Model, PeerParameters, int], "dict[str, np.ndarray] | Rejected"]
PEERS: dict[str, Peer] = {
    "Open3D FPFH + RANSAC + ICP": fpfh_ransac_icp,
    "multi-start ICP": multi_start_icp,
    "segment + orient + ICP (after Liebmann 2024)": segment_orient_icp,
}
_ICP = ("voxel_mm", "coarse_mm", "fine_mm", "iterations")
_STARTS = ("shifts", "shift_step_mm", "coarse_plane")
SETTINGS: dict[str, tuple[str, ...]] = {
    "Open3D FPFH + RANSAC + ICP": (
        *_ICP, "feature_radius", "ransac_distance", "ransac_iterations", "per_level",
    ),
    "multi-start ICP": (*_ICP, *_STARTS, "rolls", "tilt_deg", "dorsal_from_view"),
    "segment + orient + ICP (after Liebmann 2024)": (*_ICP, *_STARTS),
}  # fmt: skip


def settings_of(name: str, p: PeerParameters) -> dict[str, Any]:
    """The parameters that this peer reads, for the tables."""
    return {field_name: getattr(p, field_name) for field_name in SETTINGS[name]}
