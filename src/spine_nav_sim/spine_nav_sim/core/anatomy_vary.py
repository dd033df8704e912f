# SPDX-License-Identifier: Apache-2.0
"""New anatomies out of given ones: smooth deformation, stacking of one vertebra, resection."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from spine_nav_common.core.types import Mesh, Rejected, ScrewPlan
from spine_nav_sim.core import morphometry as mm
from spine_nav_sim.core.anatomy import Anatomy, close_decimated
from spine_nav_sim.core.anatomy_field import Field, Tube, Warp
from spine_nav_sim.core.anatomy_frame import (
    VertebraFrame,
    depth_inside,
    find_frame,
    inside,
    raycasting_scene,
)
from spine_nav_sim.core.planning import plan_screws, screw_on_axis

RESECTIONS: tuple[str, ...] = (
    "laminectomy",
    "hemilaminectomy_left",
    "hemilaminectomy_right",
    "facetectomy_left",
    "facetectomy_right",
    "spinous",
)
_OTHER_SIDE = {"left": "right", "right": "left"}


def vary_anatomy(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    """A new plausible anatomy: one smooth invertible map of space moves meshes and plan alike.

    Scale 0.9 to 1.1, anisotropy of a few percent, free-form warps of 25 mm wavelength (1.0 to
    1.8 mm SD, peaks of 2 to 6 mm) and 12 mm wavelength (0.3 mm SD), mirrored in half of the cases.
    Faces are kept, so a watertight mesh stays watertight; entries stay on the surface.
    """
    everything = np.vstack([m.vertices_m for m in anatomy.meshes.values()])
    centre = everything.mean(0)
    mirror = bool(rng.random() < 0.5)
    scale = float(np.clip(rng.normal(1.0, 0.05), 0.9, 1.1)) * np.clip(
        rng.normal(1.0, 0.04, 3), 0.92, 1.08
    )
    low, high = everything.min(0) - 0.03, everything.max(0) + 0.03
    amplitude = float(rng.uniform(0.0010, 0.0018))
    warps = [Warp(rng, low, high, 0.025, amplitude), Warp(rng, low, high, 0.012, 0.0003)]

    def moved(points: np.ndarray) -> np.ndarray:
        q = points + sum(w(points) for w in warps)
        q = (q - centre) * scale
        return q * np.array([-1.0, 1.0, 1.0]) if mirror else q

    meshes = {
        level: Mesh(moved(m.vertices_m), m.faces[:, ::-1].copy() if mirror else m.faces)
        for level, m in anatomy.meshes.items()
    }
    plan: list[ScrewPlan] = []
    for screw in anatomy.plan:
        entry, target = moved(np.array([screw.entry_m, screw.target_m]))
        side = _OTHER_SIDE[screw.side] if mirror else screw.side
        # the pedicle is about two fifths of the way; a line through its warped image stays in bone
        isthmus = moved((0.6 * screw.entry_m + 0.4 * screw.target_m)[None])[0]
        new = screw_on_axis(
            raycasting_scene(meshes[screw.level]), screw.level, side, isthmus, target - entry
        )
        if not isinstance(new, Rejected):
            plan.append(new)
    traits = {**anatomy.traits, "varied_from": anatomy.name, "mirrored": mirror}
    return Anatomy(f"{anatomy.name}-varied", meshes, tuple(plan), traits)


def stack_vertebra(
    mesh: Mesh,
    rng: np.random.Generator,
    levels: tuple[str, ...] = ("T12", "L1", "L2", "L3"),
    name: str = "stacked",
) -> Anatomy:
    """A spine out of copies of one vertebra, scaled along the levels and set in lordosis.

    Raises:
        ValueError: a mesh whose anatomical frame cannot be found, or an unknown level.
    """
    found = _frame(mesh)
    unknown = [level for level in levels if level not in mm.MODEL_LEVELS[:-1]]
    if unknown or not levels:
        raise ValueError(f"levels {unknown or levels}: choose from {mm.MODEL_LEVELS[:-1]}")
    R, origin = found.T_mesh_vertebra[:3, :3], found.T_mesh_vertebra[:3, 3]
    local = (mesh.vertices_m - origin) @ R
    pose, meshes = np.eye(4), {}
    for i, level in enumerate(levels):
        if i > 0:
            above = levels[i - 1]
            turn = rng.normal(0, 1.2, 3) + np.array([mm.SEGMENT_LORDOSIS_DEG[above], 0, 0])
            step = np.eye(4)
            step[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
            gap = 1e-3 * float(np.clip(rng.normal(mm.DISC_GAP[above] + 1.0, 0.8), 2.5, 9.0))
            step[:3, 3] = [0, 0.2e-3 * turn[0], -(found.body_height * _growth(above) + gap)]
            pose = pose @ step
        grown = local * np.array([_growth(level) ** 2, 1.0, _growth(level)])
        meshes[level] = Mesh(grown @ pose[:3, :3].T + pose[:3, 3], mesh.faces)
    return Anatomy(name, meshes, plan_screws(meshes), {"source": "stacked"})


def _frame(mesh: Mesh) -> VertebraFrame:
    found = find_frame(mesh)
    if not isinstance(found, Rejected):
        return found
    raise ValueError(f"{found.reason}; give a whole vertebra in LPS, metres")


def _growth(level: str) -> float:
    """Size of a level relative to L1, from the mean endplate widths of both sexes."""
    widths = {k: mm.ENDPLATE_WIDTH["male"][k][0] for k in (level, "L1")}
    return float((widths[level] / widths["L1"]) ** 0.5)


def resect(mesh: Mesh, rng: np.random.Generator, kind: str) -> Mesh:
    """The vertebra (LPS, metres) after a resection: closed, re-meshed at about 1.1 mm.

    Only what the camera sees is cut: the CT surface and the plan stay as they are.

    Args:
        kind: one of RESECTIONS.

    Raises:
        ValueError: an unknown kind, or a mesh whose anatomical frame cannot be found.
    """
    if kind not in RESECTIONS:
        raise ValueError(f"resection {kind!r}: choose from {', '.join(RESECTIONS)}")
    found = _frame(mesh)
    R, origin = found.T_mesh_vertebra[:3, :3], found.T_mesh_vertebra[:3, 3]
    local = 1e3 * (mesh.vertices_m - origin) @ R
    field = Field(local.min(0) - 3.0, local.max(0) + 3.0, 1.1)
    grid = np.stack(np.meshgrid(*field.axes, indexing="ij"), -1)
    scene = raycasting_scene(Mesh(local, mesh.faces))
    bone = inside(scene, grid)
    # exact distances only near the surface: everything else is decided by its sign
    near = ndimage.binary_dilation(bone, iterations=3) & ~ndimage.binary_erosion(bone, iterations=3)
    field.values = np.where(bone, np.float32(-3.0), np.float32(3.0))
    field.values[near] = np.clip(-depth_inside(scene, grid[near]), -3.0, 3.0)
    for tube in _cutters(kind, rng):
        field.cut(tube)
    vertices, faces = field.surface()
    vertices, faces = close_decimated(vertices, faces)
    return Mesh(1e-3 * vertices @ R.T + origin, faces)


def _cutters(kind: str, rng: np.random.Generator) -> list[Tube]:
    """Volumes that the burr takes away, mm in the vertebra's frame."""
    side = 1.0 if kind.endswith("left") else -1.0
    j = rng.normal(0, 1.0, 4).clip(-2, 2)
    x, z = np.eye(3)[0], np.eye(3)[2]
    if kind == "laminectomy":
        return [Tube.of([[j[0], 34, -6 + j[1]]], 8.5 + 0.7 * j[2], 34, x, 6.0, 1.5, cap=24.0)]
    if kind.startswith("hemilaminectomy"):
        middle = [side * (6.5 + 0.3 * j[0]), 21, -7 + j[1]]
        return [Tube.of([middle], 5.0 + 0.4 * j[2], 14, x, 5.0, 1.5, cap=13.0)]
    if kind.startswith("facetectomy"):
        low = [side * 15, 17, -26]
        high = [side * (14.5 + 0.5 * j[0]), 19, -9 + j[1]]
        return [Tube.of([low, high], 9.5, 11.0, x, 4.0, 1.5, cap=6.0)]
    return [Tube.of([[0, 60, -10]], 34 + j[0], 30, z, 6.0, 1.5, cap=20.0)]  # spinous process
