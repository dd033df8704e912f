# SPDX-License-Identifier: Apache-2.0
"""What lies in a stereo scene beside screws and rods: tools, cross-links, blood in the heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.geometry import invert, transform_points
from spine_nav_common.core.types import Mesh, ScrewPlan
from spine_nav_sim.core.implant_screws import ScrewParts, blood_mesh
from spine_nav_sim.core.implant_tools import (
    cross_link,
    k_wire,
    needle,
    rod_bender,
    rod_holder,
    suction_tip,
)
from spine_nav_sim.core.implants import ScrewDesign, ScrewPose
from spine_nav_sim.core.metal import MetalLooks, blood_looks
from spine_nav_sim.core.render import Solid, make_solid
from spine_nav_sim.core.scene_render import Scene
from spine_nav_sim.core.stereo_config import StereoConfig
from spine_nav_sim.core.stereo_scene import OTHER_METAL, Implant, PlacedRod


@dataclass(frozen=True)
class Standing:
    """A screw in the world at rest."""

    line: ScrewPlan
    design: ScrewDesign
    parts: ScrewParts
    pose: ScrewPose
    entry_m: np.ndarray
    out: np.ndarray
    standoff_m: float


def solid_of(mesh: Mesh) -> Solid:
    """For the renderer."""
    return make_solid(mesh.vertices_m, mesh.faces)


def pooled_blood(
    scene: Scene,
    standing: Sequence[Standing],
    seated_sides: set[str],
    rng: np.random.Generator,
    config: StereoConfig,
) -> list[Implant]:
    """What stands in some heads, and hides a part of them."""
    implants = []
    for k in standing:
        if k.design.ball_only or k.line.side in seated_sides or config.screw_files:
            continue
        if rng.uniform() < config.pooled_share:
            T = invert(scene.motion.rest[k.line.level]) @ k.pose.T_world_tulip
            looks = blood_looks(rng, scene.palette)
            solid = solid_of(blood_mesh(k.design, rng))
            implants.append(Implant(solid, looks, T, OTHER_METAL, k.line.level))
    return implants


def cross_links(
    scene: Scene,
    rods: list[PlacedRod],
    looks: MetalLooks,
    rng: np.random.Generator,
    config: StereoConfig,
) -> list[Implant]:
    """A bar from rod to rod, which is neither a rod nor a head."""
    if len(rods) < 2 or rng.uniform() >= config.cross_link_share:
        return []
    at = rng.uniform(0.25, 0.75)
    ends = [rod.centreline_m[int(at * (len(rod.centreline_m) - 1))] for rod in rods[:2]]
    level = rods[0].level
    T = np.eye(4) if level is None else invert(scene.motion.rest[level])
    solid = solid_of(cross_link(rng, ends[0], ends[1]))
    return [Implant(solid, looks, T, OTHER_METAL, level)]


def tools_about(
    scene: Scene, rods: list[PlacedRod], looks: MetalLooks, rng: np.random.Generator
) -> list[Implant]:
    """Tools that are neither screw nor rod: a bender or holder lies or is held in view."""
    wound = scene.wound
    implants = []
    kinds = (rod_bender, rod_holder, k_wire, needle, suction_tip)
    for _ in range(int(rng.choice([0, 1, 2], p=[0.6, 0.3, 0.1]))):
        mesh = kinds[int(rng.integers(len(kinds)))](rng)
        across = wound.half_width_m * rng.uniform(-1.6, 1.6)
        height = rng.uniform(-0.03, 0.03) if abs(across) < wound.half_width_m else 0.01
        tip = np.array([across, wound.skin_y_m + height, rng.uniform(*wound.z_range_m)])
        implants.append(_tool(scene, mesh, looks, tip, rng))
    if rods and rods[0].level is None and rng.uniform() < 0.6:  # the rod in hand is held by its end
        tip = transform_points(invert(scene.T_world_wound), rods[0].centreline_m[-6])
        implants.append(_tool(scene, rod_holder(rng, 2.0 * rods[0].radius_m), looks, tip, rng))
    return implants


def _tool(
    scene: Scene, mesh: Mesh, looks: MetalLooks, tip_m: np.ndarray, rng: np.random.Generator
) -> Implant:
    """A tool whose handle points out of the patient, more or less; tip_m in the wound frame."""
    z = np.array([0.0, 1.0, 0.0]) + rng.normal(0.0, 0.5, 3)
    z /= np.linalg.norm(z)
    x = np.cross(rng.standard_normal(3), z)
    x /= np.linalg.norm(x)
    T = np.eye(4)
    T[:3, :3] = np.column_stack([x, np.cross(z, x), z])
    T[:3, 3] = tip_m
    return Implant(solid_of(mesh), looks, scene.T_world_wound @ T, OTHER_METAL, None)
