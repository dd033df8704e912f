# SPDX-License-Identifier: Apache-2.0
"""A virtual spine for the tests of this package: its surfaces, bone pixels sampled from them
without a renderer, and small frames of rays with an oracle in place of the network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import open3d as o3d
from scipy.spatial.transform import Rotation

from spine_nav_common.core.types import LEVEL_CODE, Case, Intrinsics, Rejected, RgbdFrame
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.splits import anatomy_seeds
from spine_perception.core.grid import covering_grid, pixel_maps
from spine_perception.core.instances import Instance
from spine_perception.core.quality import check_frame
from spine_perception.core.segmentation import Segmentation
from spine_registration.core.error import ErrorModel
from spine_registration.core.estimator import anchors, exp_about
from spine_registration.core.model import SpineModel
from spine_registration.core.observation import BonePixels

WORLD = ("L1", "L2", "L3", "L4", "L5")
SEED = anatomy_seeds("train")[3]
CAMERA = Intrinsics(200, 150, 400.0, 400.0, 99.5, 74.5)
FRAME_NS = 66_666_667
BED_M = 8e-3
"""Muscle this far behind the mean dorsal centre hides the deep bone."""


# The size of the promised bounds is not what is tested with these.
ERRORS = ErrorModel(
    filter_gain=1.2, static_gain=0.8, lateral_mm=0.3, axial_mm=0.5, rotation_deg=0.4
)


def make_world() -> Case:
    """L1 to L5 of one fixed anatomy of the list `train`."""
    anatomy = make_anatomy(np.random.default_rng(SEED), levels=WORLD)
    return Case("world", "LPS", anatomy.meshes, WORLD, anatomy.plan, "")


def part(case: Case, levels: tuple[str, ...], exposed: tuple[str, ...] | None = None) -> Case:
    """The case of some levels of a world."""
    return replace(
        case,
        meshes={v: case.meshes[v] for v in levels},
        exposed_levels=exposed or levels,
        plan=tuple(p for p in case.plan if p.level in levels),
    )


def part_model(
    model: SpineModel, levels: tuple[str, ...], exposed: tuple[str, ...] | None = None
) -> SpineModel:
    """What build_model gives for `part`, without computing the grids again."""
    i = np.array([model.levels.index(v) for v in levels])
    names = ("offset", "shape", "origin_m", "dorsal_m", "dorsal_normal", "anchor_m", "centroid_m")
    return replace(
        model,
        levels=levels,
        exposed=np.array([v in (exposed or levels) for v in levels]),
        plan_points_m=tuple(model.plan_points_m[k] for k in i),
        **{name: getattr(model, name)[i] for name in names},
    )


def stacked_model(
    model: SpineModel, level: str, names: tuple[str, ...], spacing_m: float = 0.034
) -> SpineModel:
    """A spine of one vertebra again and again: nothing but its ends tells its levels apart."""
    one = part_model(model, (level,))
    down = -spacing_m * np.arange(len(names))[:, None] * one.axes[:, 2]
    return replace(
        one,
        levels=names,
        exposed=np.ones(len(names), bool),
        offset=np.repeat(one.offset, len(names)),
        shape=np.repeat(one.shape, len(names), axis=0),
        origin_m=one.origin_m + down,
        dorsal_m=one.dorsal_m + down[:, None],
        dorsal_normal=np.repeat(one.dorsal_normal, len(names), axis=0),
        anchor_m=one.anchor_m + down,
        centroid_m=one.centroid_m + down,
        plan_points_m=tuple(one.plan_points_m[0] + d for d in down),
    )


def rigid_pose(
    model: SpineModel,
    roll_deg: float = 90.0,
    tilt_deg: tuple[float, float] = (0.0, 0.0),
    distance_m: float = 0.5,
) -> np.ndarray:
    """(L, 4, 4): a camera above the patient's back; roll 0 has the head at the image's top."""
    back = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]])
    turn = Rotation.from_euler("zyx", [roll_deg, *tilt_deg], degrees=True).as_matrix()
    T = np.eye(4)
    T[:3, :3] = turn @ back @ model.axes.T
    T[:3, 3] = [0.0, 0.0, distance_m] - T[:3, :3] @ model.anchor_m.mean(axis=0)
    return np.broadcast_to(T, (len(model.levels), 4, 4)).copy()


def bent(
    model: SpineModel, T: np.ndarray, rng: np.random.Generator, mm: float = 1.0, deg: float = 1.5
) -> np.ndarray:
    """Every level displaced on its own by normal numbers of this size."""
    xi = rng.normal(size=(len(T), 6)) * np.r_[[1e-3 * mm] * 3, [np.deg2rad(deg)] * 3]
    return exp_about(xi, anchors(model, T)) @ T


def moved(T: np.ndarray, shift_m: tuple[float, float, float]) -> np.ndarray:
    """Camera (or patient) shifted: all poses `T` (L, 4, 4) translated in the camera frame."""
    out = T.copy()
    out[:, :3, 3] += shift_m
    return out


def tre_mm(model: SpineModel, T: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(L,) mean distance over the plan points."""
    out = []
    for k, points in enumerate(model.plan_points_m):
        gap = points @ (T[k, :3, :3] - truth[k, :3, :3]).T + T[k, :3, 3] - truth[k, :3, 3]
        out.append(1e3 * np.linalg.norm(gap, axis=1).mean())
    return np.array(out)


def bone_pixels(
    model: SpineModel,
    T: np.ndarray,
    rng: np.random.Generator,
    noise_m: float = 0.5e-3,
    tissue_m: float = 0.0,
    share: dict[str, float] | float = 1.0,
    tissue_share: float = 0.5,
    vote_m: float = 3e-3,
    area_m2: float = 5e-6,
) -> BonePixels:
    """Points on the dorsal samples that face the camera.

    Args:
        noise_m: deviation of frontal bone along its normal; slopes are worse, as in the estimator.
        tissue_m: mean thickness of tissue on `tissue_share` of the points (it lies outside only).
        share: of each level's points that are kept; a level that a dict does not name has none.
    """
    points, rays, votes, clean = [], [], [], []
    for k, level in enumerate(model.levels):
        p = model.dorsal_m[k] @ T[k, :3, :3].T + T[k, :3, 3]
        n = model.dorsal_normal[k] @ T[k, :3, :3].T
        ray = p / np.linalg.norm(p, axis=1, keepdims=True)
        keep = share if isinstance(share, float) else share.get(level, 0.0)
        cosine = -np.einsum("ij,ij->i", n, ray)
        use = np.flatnonzero(cosine > 0.35)
        use = use[rng.uniform(size=len(use)) < keep]
        covered = rng.uniform(size=len(use)) < (tissue_share if tissue_m > 0 else 0.0)
        thick = np.where(covered, rng.exponential(max(tissue_m, 1e-9), len(use)), 0.0)
        off = thick + noise_m * (2.5 - 1.5 * cosine[use]) * rng.normal(size=len(use))
        q = p[use] + off[:, None] * n[use]
        centre = T[k, :3, :3] @ model.anchor_m[k] + T[k, :3, 3]
        points.append(q)
        rays.append(q / np.linalg.norm(q, axis=1, keepdims=True))
        votes.append(centre + rng.normal(0, vote_m, q.shape))
        clean.append(np.where(covered, 0.3, 0.8))
    q = np.concatenate(points).astype(np.float32)
    return BonePixels(
        points_m=q,
        ray=np.concatenate(rays).astype(np.float32),
        bone=np.full(len(q), 0.95, np.float32),
        clean=np.concatenate(clean).astype(np.float32),
        centre_vote_m=np.concatenate(votes).astype(np.float32),
        area_m2=np.full(len(q), area_m2, np.float32),
        count=len(q),
    )


def instances_of(
    model: SpineModel,
    T: np.ndarray,
    rng: np.random.Generator,
    levels: tuple[str, ...] | None = None,
    centre_mm: float = 2.0,
    turn_deg: float = 5.0,
) -> tuple[Instance, ...]:
    """What the network would see of `levels`, with errors of its usual kind; head first."""
    out = []
    for k, level in enumerate(model.levels):
        if levels is not None and level not in levels:
            continue
        centre = T[k, :3, :3] @ model.anchor_m[k] + T[k, :3, 3] + rng.normal(0, 1e-3 * centre_mm, 3)
        turn = Rotation.from_rotvec(np.deg2rad(rng.normal(0, turn_deg, 3))).as_matrix()
        area = 1e-3 * rng.uniform(0.8, 1.2)
        R = turn @ T[k, :3, :3] @ model.axes
        out.append(Instance(centre, R, area, 400, 4e-3, 0.1))
    return tuple(out)


@dataclass
class Stage:
    """Frames of posed meshes seen by a small depth camera; the oracle knows the truth of each."""

    world: Case
    model: SpineModel
    camera: Intrinsics = CAMERA
    noise_m: float = 0.5e-3
    seed: int = 5
    truth: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._scenes = []
        for level in self.model.levels:
            mesh = self.world.meshes[level]
            scene = o3d.t.geometry.RaycastingScene(nthreads=1)
            scene.add_triangles(
                o3d.core.Tensor(mesh.vertices_m.astype(np.float32)),
                o3d.core.Tensor(mesh.faces.astype(np.uint32)),
            )
            self._scenes.append(scene)
        c = self.camera
        u, v = np.meshgrid(np.arange(c.width), np.arange(c.height))
        slopes = np.stack([(u - c.cx) / c.fx, (v - c.cy) / c.fy, np.ones(u.shape)], axis=-1)
        self._slopes = slopes.reshape(-1, 3)

    def frame(self, i: int, T: np.ndarray) -> RgbdFrame:
        """Frame `i` (1, 2, …) of 15 Hz with the levels at T (L, 4, 4)."""
        c, rng = self.camera, np.random.default_rng([self.seed, i])
        z = np.full(len(self._slopes), np.inf)
        instance = np.zeros(len(self._slopes), np.uint8)
        for k, level in enumerate(self.model.levels):
            R, t = T[k, :3, :3], T[k, :3, 3]
            direction = self._slopes @ R
            start = np.broadcast_to(-R.T @ t, direction.shape)
            rays = np.hstack([start, direction]).astype(np.float32)
            hit = self._scenes[k].cast_rays(o3d.core.Tensor(rays), nthreads=1)["t_hit"].numpy()
            nearer = hit < z
            z[nearer], instance[nearer] = hit[nearer], LEVEL_CODE[level]
        bed = anchors(self.model, T)[:, 2].mean() + BED_M
        instance[z > bed] = 0
        depth = np.minimum(z, bed) + rng.normal(0, self.noise_m, z.shape)
        shape = (c.height, c.width)
        bone = instance.reshape(shape) > 0
        colour = np.where(bone[..., None], (225, 215, 195), (150, 50, 45)).astype(np.uint8)
        stamp = i * FRAME_NS
        self.truth[stamp] = (instance.reshape(shape), T)
        return RgbdFrame(stamp, colour, depth.reshape(shape).astype(np.float32), c)


class Oracle:
    """In place of the network: votes from the truth of a stage's frames, with noise."""

    provider = "oracle"
    model_sha256 = "0" * 64

    def __init__(self, stage: Stage, seed: int = 11):
        self.stage, self.seed = stage, seed
        self.timings_ms: dict[str, float] = {}
        self.hints: list = []
        self.judges_frames = True

    def warm_up(self) -> None:
        pass

    def run(self, frame: RgbdFrame, hint=None) -> Segmentation | Rejected:
        self.hints.append(hint)
        bad = check_frame(frame) if self.judges_frames else None
        if bad is not None:
            return bad
        instance, T = self.stage.truth[frame.stamp_ns]
        rng = np.random.default_rng([self.seed, frame.stamp_ns % 2**32])
        c, model = frame.intrinsics, self.stage.model
        grid = covering_grid(c)
        u, v = pixel_maps(grid.affine(), 224)
        ui, vi = np.rint(u).astype(int), np.rint(v).astype(int)
        inside = (ui >= 0) & (ui < c.width) & (vi >= 0) & (vi < c.height)
        ui, vi = np.where(inside, ui, 0), np.where(inside, vi, 0)
        depth = np.where(inside, frame.depth_m[vi, ui], np.nan)
        points = np.stack([(u - c.cx) / c.fx * depth, (v - c.cy) / c.fy * depth, depth], axis=-1)
        # A hand or a tool in front is no bone: the network sees what the camera sees.
        label = np.where(inside & (frame.colour[vi, ui, 0] > 200), instance[vi, ui], 0)
        centre = np.full(points.shape, np.nan, np.float32)
        cranial, dorsal = centre.copy(), centre.copy()
        for k, level in enumerate(model.levels):
            mine = label == LEVEL_CODE[level]
            anchor = T[k, :3, :3] @ model.anchor_m[k] + T[k, :3, 3] + rng.normal(0, 2e-3, 3)
            turn = Rotation.from_rotvec(rng.normal(0, 0.06, 3)).as_matrix()
            R = turn @ T[k, :3, :3] @ model.axes
            centre[mine] = anchor + rng.normal(0, 3e-3, (int(mine.sum()), 3))
            dorsal[mine], cranial[mine] = R[:, 1], R[:, 2]
        bone = np.where(label > 0, 0.95, 0.02).astype(np.float32)
        clean = np.where(label > 0, 0.8, 0.0).astype(np.float32)
        return Segmentation(bone, clean, centre, cranial, dorsal, points.astype(np.float32), grid)


def covered_by_hand(
    frame: RgbdFrame, columns: slice = slice(None), near_m: float = 0.4
) -> RgbdFrame:
    """The frame with a blue glove over some columns of the image."""
    depth, colour = frame.depth_m.copy(), frame.colour.copy()
    depth[:, columns] = near_m
    colour[:, columns] = (40, 60, 160)
    return replace(frame, depth_m=depth, colour=colour)
