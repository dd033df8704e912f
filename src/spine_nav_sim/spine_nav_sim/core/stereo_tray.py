# SPDX-License-Identifier: Apache-2.0
"""Screws that are in no bone: an instrument tray beside the wound, with rows of them."""

from __future__ import annotations

import numpy as np

from spine_nav_common.core.types import Mesh
from spine_nav_sim.core.implant_screws import build_screw
from spine_nav_sim.core.implant_shapes import join, loft, moved, split_creases
from spine_nav_sim.core.implants import random_screw_design, screw_pose
from spine_nav_sim.core.metal import MetalLooks, random_looks
from spine_nav_sim.core.render import make_solid
from spine_nav_sim.core.scene_render import Scene
from spine_nav_sim.core.stereo_config import StereoConfig
from spine_nav_sim.core.stereo_scene import OTHER_METAL, Implant

_BESIDE_M = (0.03, 0.05)  # from the wound's edge to the tray's
_STEP_M = (0.016, 0.022)  # from screw to screw
_DEEP_M = 0.075
_LYING_SHARE = 0.5  # of the trays; in the others screws stand head up, as in a rack


def instrument_tray(
    scene: Scene, looks: MetalLooks, rng: np.random.Generator, config: StereoConfig
) -> list[Implant]:
    """A tray of `config.tray_screws` screws at the height of the skin, along the wound."""
    count = config.tray_screws
    if not count:
        return []
    wound = scene.wound
    side = float(rng.choice([-1.0, 1.0]))
    step = rng.uniform(*_STEP_M)
    middle = float(np.mean(wound.z_range_m)) + rng.normal(0.0, 0.015)
    edge = wound.half_width_m + rng.uniform(*_BESIDE_M)
    level = wound.skin_y_m + 0.004
    lying = rng.uniform() < _LYING_SHARE
    rows = 1 if lying else 2  # of a rack
    long = step * (count // rows + 1)
    plate = _plate(np.array([side * (edge + 0.5 * _DEEP_M), level, middle]), 0.5 * long + 0.01)
    implants = [_rests(scene, plate, random_looks(rng, scene.palette, 0.0))]
    design = random_screw_design(rng, config.families or ("round",))
    parts = build_screw(design, rng)
    whole: list[Mesh] = []
    for number in range(count):
        row, place = divmod(number, -(-count // rows))
        z = middle + (place - 0.5 * (count / rows - 1)) * step
        if lying:
            entry = np.array([side * (edge + 0.018), level + 0.008, z])
            out, channel = np.array([-side, 0.0, rng.normal(0.0, 0.1)]), np.array([0.0, 1.0, 0.2])
        else:
            entry = np.array([side * (edge + 0.02 + row * 0.025), level + 0.010, z])
            out, channel = np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, rng.normal()])
        pose = screw_pose(design, entry, out, channel, standoff_m=0.0)
        whole.append(moved(parts.tulip, pose.T_world_tulip))
        if lying:
            whole.append(moved(parts.shank, pose.T_world_shank))
    implants.append(_rests(scene, join(whole), looks))
    return implants


def _plate(centre_m: np.ndarray, half_long_m: float) -> Mesh:
    across, along = 0.5 * _DEEP_M, half_long_m
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * (across, along)
    rings = [np.c_[corners[:, 0], np.full(4, y), corners[:, 1]] + centre_m for y in (-0.001, 0.001)]
    return split_creases(loft(np.array(rings)))


def _rests(scene: Scene, mesh_wound: Mesh, looks: MetalLooks) -> Implant:
    """A mesh of the wound frame that lies still."""
    solid = make_solid(mesh_wound.vertices_m, mesh_wound.faces)
    return Implant(solid, looks, scene.T_world_wound, OTHER_METAL, None)
