# SPDX-License-Identifier: Apache-2.0
"""Virtual lumbar spines: sampled morphometry, stacked vertebrae, closed meshes, screw plan.

Frame LPS (+x left, +y posterior, +z superior), metres in the results; millimetres inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import open3d as o3d
from scipy.spatial.transform import Rotation

from spine_nav_common.core.types import Mesh, Rejected, ScrewPlan
from spine_nav_sim.core import morphometry as mm
from spine_nav_sim.core import vertebra as vb
from spine_nav_sim.core import vertebra_sacrum as sa
from spine_nav_sim.core.anatomy_field import Field, Warp
from spine_nav_sim.core.anatomy_frame import raycasting_scene
from spine_nav_sim.core.planning import screw_on_axis

GRID_MM = 1.25
SACRUM_GRID_MM = 1.7
TARGET_FACES = 7000


@dataclass(frozen=True)
class Anatomy:
    """One spine: meshes and plan in one LPS frame, metres; traits say what is unusual."""

    name: str
    meshes: dict[str, Mesh]
    plan: tuple[ScrewPlan, ...]
    traits: dict[str, object]


@dataclass(frozen=True)
class _Bone:
    """A vertebra to be built: shape, joint to the bone above, pose in the spine (mm)."""

    level: str
    shape: mm.Shape | sa.SacrumShape
    joint_above: mm.Joint
    facets_above: vb.FacetPair
    pose: np.ndarray


def make_anatomy(
    rng: np.random.Generator,
    levels: tuple[str, ...] = ("L1", "L2", "L3", "L4", "L5"),
    name: str = "virtual",
) -> Anatomy:
    """A random spine. `levels` out of T12 to S1; the same rng state gives the same anatomy.

    The whole spine is always sampled, so the choice of levels does not change a vertebra's shape.

    Raises:
        ValueError: for a level that the generator does not know, or none.
    """
    unknown = [level for level in levels if level not in mm.MODEL_LEVELS]
    if unknown or not levels:
        raise ValueError(f"levels {unknown or levels}: choose from {', '.join(mm.MODEL_LEVELS)}")
    subject = mm.sample_subject(rng)
    traits: dict[str, object] = {"sex": subject.sex, "age": round(subject.age)}
    bones = _stack(rng, subject, traits)
    seeds = rng.integers(0, 2**63, len(bones))
    reach = np.array([110.0, 140.0, 330.0])
    # what primitives cannot give: a smooth irregularity of the whole spine
    warp = Warp(rng, -reach, reach, 22.0, float(rng.uniform(0.4, 1.0)))
    meshes, plan = {}, []
    for i, bone in enumerate(bones):
        if bone.level not in levels:
            continue
        field = _field(bones, i, np.random.default_rng(seeds[i]))
        vertices, faces = close_decimated(*field.surface())
        mesh = Mesh(1e-3 * _placed(vertices, bone.pose, warp), faces)
        meshes[bone.level] = mesh
        plan += _plan(bone, mesh, warp)
    ordered = {level: meshes[level] for level in levels}
    return Anatomy(name, ordered, tuple(sorted(plan, key=lambda p: levels.index(p.level))), traits)


def _stack(rng: np.random.Generator, subject: mm.Subject, traits: dict) -> list[_Bone]:
    """Sample all bones T12 to S1 and place them; the spine's frame has L3 upright at the origin."""
    levels = mm.MODEL_LEVELS
    joints = [mm.sample_joint(rng, subject, level) for level in ("T12", *levels[:-1])]
    shapes = [mm.sample_shape(rng, subject, level) for level in levels[:-1]]
    sacrum = sa.sample_sacrum(rng, subject)
    gaps, turns, slips = _alignment(rng, subject, traits)
    bones, pose = [], np.eye(4)
    for i, level in enumerate(levels):
        shape: mm.Shape | sa.SacrumShape
        if level == "S1":
            shape, depth = sacrum, sacrum.body_depth
            facets = vb.superior_facets(joints[i], 17.5, sacrum.facet_height)
        else:
            shape = free = shapes[i]
            depth = free.body_depth
            height = free.posterior_height / 2 + mm.FACET_RISE[level]
            facets = vb.superior_facets(
                joints[i], free.canal_depth + 1.5, height, coronal=level == "T12"
            )
        if i > 0:
            above = shapes[i - 1]
            middle = (above.anterior_height + above.posterior_height) / 4
            here = 0.0
            if isinstance(shape, mm.Shape):
                here = (shape.anterior_height + shape.posterior_height) / 4
            turn = Rotation.from_euler("xyz", turns[i - 1], degrees=True)
            opening = np.radians(abs(turns[i - 1][0])) * depth / 2
            gap = max(gaps[i - 1], opening * 0.9 + 0.8)
            half_turn = Rotation.from_rotvec(turn.as_rotvec() / 2)
            step = np.eye(4)
            step[:3, :3] = turn.as_matrix()
            step[:3, 3] = (
                np.array([0, -above.body_depth / 2, -middle])
                + half_turn.apply([slips[i - 1][0], slips[i - 1][1], -gap])
                - turn.apply([0, -depth / 2, here])
            )
            pose = pose @ step
        bones.append(_Bone(level, shape, joints[i], facets, pose))
    centre = bones[levels.index("L3")].pose
    T = np.linalg.inv(centre)
    return [_Bone(b.level, b.shape, b.joint_above, b.facets_above, T @ b.pose) for b in bones]


def _alignment(
    rng: np.random.Generator, subject: mm.Subject, traits: dict
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Disc gaps (6,), turns (6, 3) in degrees about x, y, z and slips (6, 2) of each segment."""
    upper = mm.MODEL_LEVELS[:-1]
    n = len(upper)
    lordosis = float(np.clip(rng.normal(1.0, 0.28), 0.3, 1.6))
    turns = rng.normal(0, [1.2, 0.9, 0.9], (n, 3))
    turns[:, 0] += [lordosis * mm.SEGMENT_LORDOSIS_DEG[level] for level in upper]
    gaps = np.array([mm.DISC_GAP[level] for level in upper]) + rng.normal(0, 1.0, n)
    gaps += 0.35 * subject.size
    narrow = rng.random(n) < 0.10 + 0.15 * (subject.age > 60)
    gaps = np.where(narrow, gaps * rng.uniform(0.25, 0.6, n), gaps).clip(1.0, 11.0)
    slips = rng.normal(0, 0.4, (n, 2))
    traits["lordosis_factor"] = round(lordosis, 3)
    traits["narrow_discs"] = tuple(np.array(upper)[narrow].tolist())
    if rng.random() < 0.18:
        cobb = float(rng.uniform(10, 34)) * float(rng.choice([-1, 1]))
        apex = float(rng.uniform(1.5, 4.0))
        tilt = 0.5 * cobb * np.sin((np.arange(n + 1) - apex) / n * np.pi)
        twist = -0.45 * cobb * np.cos((np.arange(n + 1) - apex) / n * np.pi)
        turns[:, 1] += np.diff(tilt)
        turns[:, 2] += np.diff(twist)
        traits["scoliosis_cobb_deg"] = round(cobb, 1)
    if rng.random() < 0.15:
        at = int(rng.choice([n - 3, n - 2, n - 1], p=[0.15, 0.5, 0.35]))
        slip = float(rng.uniform(3.0, 9.0))
        slips[at, 1] += slip  # the lower bone stands further back
        traits["spondylolisthesis"] = (upper[at], round(slip, 1))
    if subject.osteophyte_mm > 1.5:
        traits["osteophytes_mm"] = round(subject.osteophyte_mm, 1)
    return gaps, turns, slips


def _field(bones: list[_Bone], i: int, rng: np.random.Generator) -> Field:
    bone = bones[i]
    upper = (bone.joint_above, bone.facets_above)
    if isinstance(bone.shape, sa.SacrumShape):
        field = sa.build_sacrum(bone.shape, upper, SACRUM_GRID_MM)
    else:
        below = bones[i + 1]
        T_here_below = np.linalg.inv(bone.pose) @ below.pose
        lower = (below.joint_above, below.facets_above.moved(T_here_below))
        field = vb.build_field(bone.shape, upper, lower, rng, GRID_MM)
    if i > 0:  # keep the joint space free: carve the neighbour's process out of the socket
        above = bones[i - 1]
        T_here_above = np.linalg.inv(bone.pose) @ above.pose
        pair = bone.facets_above.moved(np.linalg.inv(T_here_above))
        assert isinstance(above.shape, mm.Shape)  # nothing lies below the sacrum
        pars, middle = vb.lamina_points(above.shape)
        for tube in vb.inferior_process(bone.joint_above, pair, pars, middle):
            field.cut(tube.moved(T_here_above), offset=0.9)
    field.roughen(rng, 9.0, bone.shape.noise_mm)
    field.roughen(rng, 3.5, 0.3 * bone.shape.noise_mm)
    return field


def _placed(points: np.ndarray, pose: np.ndarray, warp: Warp) -> np.ndarray:
    """Points (N, 3) of a bone's own frame in the warped spine, mm."""
    placed = points @ pose[:3, :3].T + pose[:3, 3]
    return placed + warp(placed)


def close_decimated(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decimate a closed surface to about TARGET_FACES, or leave it whole if that would open it."""
    full = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(vertices), o3d.utility.Vector3iVector(faces)
    )
    for target in (TARGET_FACES, int(1.3 * TARGET_FACES), 2 * TARGET_FACES):
        if target >= len(faces):
            break
        small = full.simplify_quadric_decimation(target)
        small.remove_degenerate_triangles()
        small.remove_unreferenced_vertices()
        triangles = np.asarray(small.triangles, np.int32).copy()
        if is_closed(triangles):  # quadric decimation does not promise it
            return np.asarray(small.vertices).copy(), triangles
    return vertices, faces


def is_closed(faces: np.ndarray) -> bool:
    """True if every directed edge has exactly one opposite partner (watertight, consistent)."""
    f = np.asarray(faces, np.int64)
    edges = np.concatenate([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]])
    n = int(f.max()) + 1
    forward, backward = edges[:, 0] * n + edges[:, 1], edges[:, 1] * n + edges[:, 0]
    unique = np.unique(forward)
    return len(unique) == len(forward) and np.array_equal(unique, np.unique(backward))


def _plan(bone: _Bone, mesh: Mesh, warp: Warp) -> list[ScrewPlan]:
    if isinstance(bone.shape, sa.SacrumShape):
        centre, direction = sa.sacrum_pedicle_axes(bone.shape)
    else:
        centre, direction = vb.pedicle_axes(bone.shape)
    scene = raycasting_scene(mesh)
    plan = []
    for side, c, d in zip(("left", "right"), centre, direction, strict=True):
        for converge in (1.0, 1.6, 0.5, 2.2):  # a narrow body may need another angle
            axis = c + 20.0 * d * np.array([converge, 1.0, 1.0])
            start, end = 1e-3 * _placed(np.array([c, axis]), bone.pose, warp)
            screw = screw_on_axis(scene, bone.level, side, start, end - start)
            if not isinstance(screw, Rejected):
                plan.append(screw)
                break
    return plan
