# SPDX-License-Identifier: Apache-2.0
"""Lay out a stereo scene: open a wound, set screws by plan, lay rods in, mount two cameras."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from spine_nav_common.core.geometry import invert, transform_points
from spine_nav_common.core.types import Intrinsics, Mesh
from spine_nav_sim.core.implant_files import load_implant
from spine_nav_sim.core.implant_rods import random_rod_curve, tube_mesh
from spine_nav_sim.core.implant_screws import ScrewParts, build_screw
from spine_nav_sim.core.implant_shapes import join, moved
from spine_nav_sim.core.implant_tools import (
    tower,
)
from spine_nav_sim.core.implants import (
    FAMILIES_TRAIN,
    ROD_DIAMETERS_M,
    ScrewDesign,
    random_screw_design,
    screw_pose,
)
from spine_nav_sim.core.metal import (
    mirror_finish,
    random_looks,
    random_surroundings,
)
from spine_nav_sim.core.render import make_solid
from spine_nav_sim.core.scene import make_scene, place_camera, wound_centre_m
from spine_nav_sim.core.scene_config import SceneConfig
from spine_nav_sim.core.scene_render import Scene
from spine_nav_sim.core.stereo_config import StereoConfig
from spine_nav_sim.core.stereo_extras import (
    Standing,
    cross_links,
    pooled_blood,
    solid_of,
    tools_about,
)
from spine_nav_sim.core.stereo_scene import (
    FIRST_ROD,
    OTHER_METAL,
    Implant,
    PlacedRod,
    PlacedScrew,
    StereoScene,
    right_camera,
    shift_camera,
)
from spine_nav_sim.core.stereo_tray import instrument_tray
from spine_nav_sim.core.wound import Wound

if TYPE_CHECKING:
    from spine_nav_sim.core.anatomy import Anatomy

_STREAMS = ("scene", "screws", "looks", "rods", "others", "camera", "cover", "extras", "tray")
_CLEARANCE_M = (0.001, 0.005)  # between a tulip and the tissue around it
_STEEP = 3.5  # height over distance of the funnel around a head
_FEWEST = 2


def make_stereo_scene(
    anatomy: Anatomy, rng: np.random.Generator, config: StereoConfig
) -> StereoScene:
    """One operation with screws over `anatomy` (metres, LPS), seen by a stereo camera.

    Raises ValueError for what `make_scene` refuses, and where fewer than two screws are planned on
    the exposed levels.
    """
    draw = dict(zip(_STREAMS, rng.spawn(len(_STREAMS)), strict=True))
    scene = make_scene(anatomy, draw["scene"], _wide_enough(anatomy, config))
    standing = _stand_screws(anatomy, scene, draw["screws"], config)
    rods: list[PlacedRod] = []
    kind = config.rods
    if kind == "random":
        kind = str(draw["rods"].choice(["none", "seated", "held"], p=[0.4, 0.45, 0.15]))
    seated_sides: set[str] = set()
    if kind == "seated":
        standing, rods = _seat_rods(scene, standing, draw["rods"], config)
        seated_sides = {rod.side for rod in rods}
    elif kind == "held":
        rods = [_held_rod(scene, draw["rods"])]
    elif kind == "alone":
        standing, rods = [], [_held_rod(scene, draw["rods"])]
    elif kind != "none":
        raise ValueError(
            f"stereo: rods {kind!r} is unknown; use none, seated, held, alone or random"
        )
    _clear_tissue(scene, standing, draw["cover"], config)
    if kind == "alone":
        _close_wound(scene)
    screws, implants, metal = _build(scene, standing, rods, seated_sides, draw, config)
    baseline_m, T_right_left = _mount_cameras(scene, draw["camera"], config)
    # as it rests: breathing moves its shadow by less than a pixel
    scene.casters.append((solid_of(join(metal)), np.eye(4)))
    surroundings = random_surroundings(
        draw["looks"], scene.T_world_wound, scene.lamps, scene.palette, scene.ambient
    )
    return StereoScene(
        scene,
        baseline_m,
        T_right_left,
        screws,
        tuple(rods),
        implants,
        surroundings,
        float(np.exp(draw["camera"].normal(0.0, 0.03))),
        bool(draw["camera"].uniform() < config.mono_share),
        config.supersample,
    )


def _wide_enough(anatomy: Anatomy, config: StereoConfig) -> SceneConfig:
    """The scene's ranges with an opening that reaches the planned entry points."""
    lateral = [
        abs(p.entry_m[0] - anatomy.meshes[p.level].vertices_m[:, 0].mean()) for p in anatomy.plan
    ]
    reach = max(lateral, default=0.025)
    low, high = config.beside_entry_mm
    return replace(config.scene, half_width_m=(reach + 1e-3 * low, reach + 1e-3 * high))


def _stand_screws(
    anatomy: Anatomy, scene: Scene, rng: np.random.Generator, config: StereoConfig
) -> list[Standing]:
    """Screws at the planned places of the exposed levels, cranial first, left before right."""
    lines = [p for level in scene.exposed for p in anatomy.plan if p.level == level]
    lines = [p for p in lines if rng.uniform() >= config.missing_share] or lines
    most = int(rng.integers(config.screws[0], config.screws[1] + 1))
    lines = lines[: max(most, _FEWEST)]
    if len(lines) < _FEWEST:
        raise ValueError(
            f"stereo: {len(lines)} screws are planned on {', '.join(scene.exposed)}; "
            f"at least {_FEWEST} are needed"
        )
    posterior = scene.T_world_wound[:3, 1]
    cranial = scene.T_world_wound[:3, 2]
    common = _design(rng, config)
    mixed = rng.uniform() < 0.25
    standing = []
    for line in lines:
        design, parts = (
            _design(rng, config, common[0].rod_diameter_m)
            if mixed
            else _resized(common, rng, config)
        )
        T = scene.motion.rest[line.level]
        entry = transform_points(T, line.entry_m) + rng.normal(0.0, config.placed_mm * 1e-3, 3)
        out = T[:3, :3] @ (line.entry_m - line.target_m)
        out = out / np.linalg.norm(out) + np.tan(np.radians(config.placed_deg)) * rng.normal(
            0.0, 0.6, 3
        )
        out /= np.linalg.norm(out)
        standoff = rng.uniform(*config.standoff_mm) * 1e-3
        tilt = design.max_tilt_rad * rng.beta(1.2, 1.8)
        towards = posterior + rng.normal(0.0, 0.5, 3)  # tulips fall about the line of sight
        pose = screw_pose(
            design, entry, out, cranial + rng.normal(0.0, 0.35, 3), tilt, towards, standoff,
            float(rng.uniform(0.0, 2 * np.pi)),
        )  # fmt: skip
        standing.append(Standing(line, design, parts, pose, entry, out, standoff))
    return standing


def _design(
    rng: np.random.Generator, config: StereoConfig, rod_diameter_m: float | None = None
) -> tuple[ScrewDesign, ScrewParts]:
    """A screw of any kind; rod_diameter_m: of the rod that the other screws of the set take."""
    if config.screw_files:
        return load_implant(config.screw_files[int(rng.integers(len(config.screw_files)))])
    design = random_screw_design(rng, config.families or FAMILIES_TRAIN, rod_diameter_m)
    return design, build_screw(design, rng)


def _resized(
    common: tuple[ScrewDesign, ScrewParts], rng: np.random.Generator, config: StereoConfig
) -> tuple[ScrewDesign, ScrewParts]:
    """The set's screws differ in shank alone; only seldom does that show, so few are rebuilt."""
    design, parts = common
    if config.screw_files or rng.uniform() < 0.7:
        return common
    design = replace(design, shank_length_m=float(rng.uniform(0.030, 0.060)))
    return design, replace(parts, shank=build_screw(design, rng).shank)


def _seat_rods(
    scene: Scene, standing: list[Standing], rng: np.random.Generator, config: StereoConfig
) -> tuple[list[Standing], list[PlacedRod]]:
    """Rods through the saddles of one or both sides; each tulip turns to take its rod."""
    sides = [s for s in ("left", "right") if sum(k.line.side == s for k in standing) >= 2]
    if len(sides) == 2 and rng.uniform() < config.one_rod_share:
        sides = [sides[int(rng.integers(2))]]
    rods = []
    standing = list(standing)
    for side in sides:
        own = [i for i, k in enumerate(standing) if k.line.side == side]
        for _ in range(3):  # the tulips turn with the rod, the rod follows their saddles
            saddles = np.array([standing[i].pose.saddle_m for i in own])
            along = np.gradient(saddles, axis=0)
            for i, tangent in zip(own, along, strict=True):
                k = standing[i]
                t = tangent / np.linalg.norm(tangent)
                wanted = k.out - t * (t @ k.out)
                wanted /= np.linalg.norm(wanted)
                tilt = float(np.arccos(np.clip(wanted @ k.out, -1.0, 1.0)))
                pose = screw_pose(
                    k.design, k.entry_m, k.out, t, tilt, wanted, k.standoff_m,
                ) if tilt > 1e-4 else screw_pose(k.design, k.entry_m, k.out, t, 0.0, None,
                                                 k.standoff_m)  # fmt: skip
                standing[i] = replace(k, pose=pose)
        saddles = np.array([standing[i].pose.saddle_m for i in own])
        curve = random_rod_curve(rng, saddles, seated=True, overhang_m=config.overhang_m)
        radius = 0.5 * standing[own[0]].design.rod_diameter_m
        middle = standing[own[len(own) // 2]].line.level
        rods.append(PlacedRod(side, radius, curve, middle))
    return standing, rods


def _held_rod(scene: Scene, rng: np.random.Generator) -> PlacedRod:
    """A rod held over the wound, straight or bent, no side of its own."""
    T = scene.T_world_wound
    centre = wound_centre_m(scene.wound) + np.array(
        [rng.normal(0.0, 0.03), rng.uniform(0.03, 0.09), rng.normal(0.0, 0.03)]
    )
    turn = rng.normal(0.0, 0.5)
    along = np.array([np.sin(turn), rng.normal(0.0, 0.15), np.cos(turn)])
    along /= np.linalg.norm(along)
    n, reach = 4, rng.uniform(0.03, 0.09)
    bend = np.cross(along, rng.standard_normal(3)) * rng.choice([0.0, rng.uniform(0.0, 0.006)])
    places = np.linspace(-1.0, 1.0, n)
    points = centre + np.outer(places * reach, along) + np.outer(places**2, bend)
    curve = random_rod_curve(rng, transform_points(T, points), seated=True)
    return PlacedRod("", 0.5 * float(rng.choice(ROD_DIAMETERS_M)), curve, None)


def _build(
    scene: Scene,
    standing: list[Standing],
    rods: list[PlacedRod],
    seated_sides: set[str],
    draw: dict[str, np.random.Generator],
    config: StereoConfig,
) -> tuple[tuple[PlacedScrew, ...], tuple[Implant, ...], list[Mesh]]:
    """Solids with their looks (screws mostly share one finish, as sets do), and what of the metal
    throws shadows, in the world."""
    rng = draw["looks"]
    hardness = config.scene.hardness
    common = random_looks(rng, scene.palette, hardness)
    screws, implants, metal = [], [], []
    locked = rng.uniform() < 0.6
    for number, k in enumerate(standing):
        T_ct_world = invert(scene.motion.rest[k.line.level])
        T_tulip, T_shank = T_ct_world @ k.pose.T_world_tulip, T_ct_world @ k.pose.T_world_shank
        screws.append(
            PlacedScrew(
                k.line.level,
                k.line.side,
                transform_points(T_ct_world, k.pose.saddle_m),
                T_ct_world[:3, :3] @ k.pose.axis,
            )
        )
        looks = common if rng.uniform() < 0.8 else random_looks(rng, scene.palette, hardness)
        head = [k.parts.tulip]
        if (
            k.parts.set_screw is not None
            and k.line.side in seated_sides
            and (locked or rng.uniform() < 0.2)
        ):
            head.append(k.parts.set_screw)
        whole = join(head)
        implants.append(Implant(solid_of(whole), looks, T_tulip, number, k.line.level))
        metal.append(moved(whole, k.pose.T_world_tulip))
        implants.append(Implant(solid_of(k.parts.shank), looks, T_shank, OTHER_METAL, k.line.level))
        if k.line.side not in seated_sides and (
            not k.design.ball_only and draw["others"].uniform() < config.towers_share
        ):
            T = T_ct_world @ k.pose.T_world_tulip
            implants.append(
                Implant(
                    solid_of(tower(draw["others"], k.design)), common, T, OTHER_METAL, k.line.level
                )
            )
    for number, rod in enumerate(rods):
        looks = common if rng.uniform() < 0.4 else random_looks(rng, scene.palette, hardness)
        tube = tube_mesh(rod.centreline_m, rod.radius_m)
        metal.append(tube)
        if config.rods == "alone":
            looks = mirror_finish(looks)
        T_part = np.eye(4)
        if rod.level is not None:
            T_part = invert(scene.motion.rest[rod.level])
        implants.append(Implant(solid_of(tube), looks, T_part, FIRST_ROD + number, rod.level))
    if standing:
        implants += tools_about(scene, rods, common, draw["others"])
    implants += pooled_blood(scene, standing, seated_sides, draw["extras"], config)
    implants += cross_links(scene, rods, common, draw["extras"], config)
    implants += instrument_tray(scene, common, draw["tray"], config)
    return tuple(screws), tuple(implants), metal


def _clear_tissue(
    scene: Scene, standing: list[Standing], rng: np.random.Generator, config: StereoConfig
) -> None:
    """Push the tissue down around the heads, as a surgeon does to mount a rod; some stay hemmed."""
    wound: Wound = scene.wound
    vertices = wound.vertices_m.copy()
    T_wound_world = invert(scene.T_world_wound)
    for k in standing:
        saddle = transform_points(T_wound_world, k.pose.saddle_m)
        radius = 0.5 * k.design.tulip_diameter_m + rng.uniform(*_CLEARANCE_M)
        depth = k.design.bottom_m
        if rng.uniform() < config.covered_share:
            depth *= rng.uniform(-0.3, 0.7)
        off = vertices[:, [0, 2]] - saddle[[0, 2]]
        beyond = np.maximum(np.hypot(off[:, 0], off[:, 1]) - radius, 0.0)
        # a funnel as steep as retracted muscle stands; the wound is a height field
        vertices[:, 1] = np.minimum(vertices[:, 1], saddle[1] - depth + _STEEP * beyond)
    scene.bed = make_solid(vertices, wound.faces)


def _close_wound(scene: Scene) -> None:
    """Skin from side to side: no bone is in the picture."""
    vertices = scene.wound.vertices_m.copy()
    vertices[:, 1] = np.maximum(vertices[:, 1], scene.wound.skin_y_m)
    scene.bed = make_solid(vertices, scene.wound.faces)


def remount_cameras(stereo: StereoScene, rng: np.random.Generator, config: StereoConfig) -> None:
    """Another stereo head at another place, and other surroundings, over the same operation."""
    stereo.baseline_m, stereo.T_right_left = _mount_cameras(stereo.scene, rng, config)
    scene = stereo.scene
    stereo.surroundings = random_surroundings(
        rng, scene.T_world_wound, scene.lamps, scene.palette, scene.ambient
    )
    stereo.right_gain = float(np.exp(rng.normal(0.0, 0.03)))
    stereo.mono = bool(rng.uniform() < config.mono_share)


def _mount_cameras(
    scene: Scene, rng: np.random.Generator, config: StereoConfig
) -> tuple[float, np.ndarray]:
    """Give the scene a random stereo head; returns its nominal baseline and T_right_left."""
    width, height = config.sizes[int(rng.integers(len(config.sizes)))]
    if config.scene.distance_m is None:
        raise ValueError("a stereo scene needs scene.distance_m: its head has no mounting range")
    distance = float(rng.uniform(*config.scene.distance_m))
    low, high = scene.wound.z_range_m
    f = rng.uniform(*config.filled) * width * distance / (high - low + 0.03)
    widest, narrowest = (
        0.5 * width / np.tan(np.radians(0.5 * angle)) for angle in reversed(config.hfov_deg)
    )
    f = float(np.clip(f, widest, narrowest))
    ranges = replace(config.scene, distance_m=(distance, distance))
    scene.intrinsics = Intrinsics(
        width, height, f, f,
        0.5 * (width - 1) + rng.normal(0.0, 0.01) * width,
        0.5 * (height - 1) + rng.normal(0.0, 0.01) * width,
    )  # fmt: skip
    baseline_m = float(rng.uniform(*config.baseline_m))
    scene.camera_path = place_camera(
        scene.T_world_wound, scene.wound, scene.intrinsics, scene.camera_model, rng, ranges
    )
    shift_camera(scene, baseline_m)
    scale = width / 640.0
    T_right_left = right_camera(
        baseline_m,
        scene.intrinsics,
        rng.normal(0.0, config.row_error_px * scale),
        rng.normal(0.0, config.vergence_error_px * scale),
    )
    return baseline_m, T_right_left
