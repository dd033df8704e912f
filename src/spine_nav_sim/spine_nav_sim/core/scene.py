# SPDX-License-Identifier: Apache-2.0
"""Lay out a random operation over an anatomy (see scene_render for what can be done with it)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from spine_nav_common.core.geometry import invert, transform_points
from spine_nav_common.core.types import LEVELS, Intrinsics, Mesh
from spine_nav_sim.core import sensor as sensors
from spine_nav_sim.core.anatomy_vary import RESECTIONS, resect
from spine_nav_sim.core.materials import Palette, as_square, random_palette, random_texture
from spine_nav_sim.core.motion import (
    Breathing,
    CameraPath,
    Push,
    SpineMotion,
    hand_held,
    operating_pose,
    still,
)
from spine_nav_sim.core.render import Lamp, make_solid, vertex_normals
from spine_nav_sim.core.scene_config import SceneConfig
from spine_nav_sim.core.scene_props import passing_props, retractors
from spine_nav_sim.core.scene_render import Bone, Rendered, Scene
from spine_nav_sim.core.wound import Wound, build_wound, random_style, wound_frame

if TYPE_CHECKING:
    from spine_nav_sim.core.anatomy import Anatomy

__all__ = ["Rendered", "Scene", "SceneConfig", "make_scene"]

POSTERIOR = np.array([0.0, 1.0, 0.0])  # LPS
_CAMERA_SHARES = (0.35, 0.25, 0.15, 0.25)  # d415, d435, d405, zedm
_STREAMS = (
    "levels", "pose", "resection", "colour", "wound", "burr", "tissue", "retractors", "tools",
    "model", "camera", "breathing", "pushes", "light", "sensor",
)  # fmt: skip
_KEEP_BELOW_FLOOR_M = 0.012  # bone farther under the tissue can never come to light


def _choose_levels(
    anatomy: Anatomy, rng: np.random.Generator, config: SceneConfig
) -> tuple[str, ...]:
    levels = sorted(anatomy.meshes, key=LEVELS.index)
    if config.exposed is not None:
        missing = [level for level in config.exposed if level not in anatomy.meshes]
        if missing:
            raise ValueError(
                f"scene: exposed level {missing[0]} is not in anatomy {anatomy.name!r}; "
                f"it has {', '.join(levels)}"
            )
        return tuple(sorted(config.exposed, key=LEVELS.index))
    low, high = config.n_exposed
    n = int(rng.integers(min(low, len(levels)), min(high, len(levels)) + 1))
    first = int(rng.integers(0, len(levels) - n + 1))
    return tuple(levels[first : first + n])


def _surface_points(vertices: np.ndarray, faces: np.ndarray, spacing_m: float) -> np.ndarray:
    """Points on the surface about `spacing_m` apart, the same barycentric grid on every face."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    area = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    n = int(np.clip(np.ceil(np.sqrt(2.0 * np.quantile(area, 0.9)) / spacing_m), 1, 6))
    i, j = (k.ravel() for k in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    u, v = i[i + j <= n] / n, j[i + j <= n] / n
    grid = np.column_stack([1.0 - u - v, u, v])
    return np.einsum("kc,cfd->kfd", grid, np.array([a, b, c])).reshape(-1, 3)


def _residual_tissue(
    vertices: np.ndarray, above_floor: np.ndarray, rng: np.random.Generator, config: SceneConfig
) -> np.ndarray:
    """Thickness (N,) metres of tissue left on bone: smooth patches, thicker near the floor."""
    waves = 24
    wavelength = rng.uniform(0.010, 0.045, waves)
    direction = rng.standard_normal((waves, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    k = (2.0 * np.pi / wavelength)[:, None] * direction
    field_ = np.cos(
        vertices.astype(np.float32) @ k.T.astype(np.float32)
        + rng.uniform(0.0, 2.0 * np.pi, waves).astype(np.float32)
    ).sum(axis=1)
    field_ *= np.sqrt(2.0 / waves)
    most = config.tissue_mm * 1e-3
    cover = rng.uniform(-1.2, 0.4 + 0.6 * config.hardness)
    patches = rng.uniform(0.2, 0.6) * most * np.maximum(field_ + cover, 0.0)
    rim = rng.uniform(0.0, 0.4) * most * np.exp(-np.maximum(above_floor, 0.0) / 0.002)
    return np.clip(patches + rim, 0.0, most).astype(np.float32)


def make_scene(anatomy: Anatomy, rng: np.random.Generator, config: SceneConfig) -> Scene:
    """Lay out one operation over `anatomy` (meshes in metres, LPS).

    Raises ValueError for an exposed level that the anatomy lacks, an unknown camera or depth, meshes
    that are not in LPS.
    """
    if config.depth not in ("model", "stereo"):
        raise ValueError(f"scene: unknown depth {config.depth!r}; known: model, stereo")
    # A stream per part: another choice in one part leaves the others as they were.
    draw = dict(zip(_STREAMS, rng.spawn(len(_STREAMS)), strict=True))
    exposed = _choose_levels(anatomy, draw["levels"], config)
    levels = sorted(anatomy.meshes, key=LEVELS.index)
    centroids = {level: anatomy.meshes[level].vertices_m.mean(axis=0) for level in levels}
    rest = operating_pose(centroids, draw["pose"], config.deviation_deg, config.deviation_mm)
    placed = {level: transform_points(rest[level], centroids[level]) for level in levels}
    first, last = levels.index(exposed[0]), levels.index(exposed[-1])
    chain = exposed if len(exposed) > 1 else levels[max(first - 1, 0) : last + 2]
    T_world_wound = wound_frame(np.array([placed[level] for level in chain]), POSTERIOR)
    T_wound_world = invert(T_world_wound)
    near = levels[max(first - 2, 0) : last + 3]

    middle = np.array(
        [transform_points(T_wound_world, placed[level]) for level in reversed(levels)]
    )
    palette = random_palette(draw["colour"])
    T_wound_ct = {level: T_wound_world @ rest[level] for level in near}
    wound, bones = _open_wound(
        anatomy, exposed, T_wound_ct, middle[:, [2, 0]], palette, draw, config
    )
    props = retractors(wound, palette, draw["retractors"])
    if config.tool_passes:
        props += passing_props(wound, palette, draw["tools"], config.seconds, config.tool_busy)
    name = config.camera
    if name == "random":
        name = str(draw["model"].choice(list(sensors.CAMERAS), p=_CAMERA_SHARES))
    elif name not in sensors.CAMERAS:
        raise ValueError(f"scene: unknown camera {name!r}; known: {', '.join(sensors.CAMERAS)}")
    model = sensors.CAMERAS[name]
    rng = draw["camera"]
    intrinsics = sensors.camera_intrinsics(model, config.width, config.height, rng)
    camera = place_camera(T_world_wound, wound, intrinsics, model, rng, config)
    return Scene(
        config=config,
        exposed=exposed,
        motion=SpineMotion(
            rest,
            centroids,
            _breathing(levels, draw["breathing"], config),
            _pushes(exposed, draw["pushes"], config),
        ),
        camera_path=camera,
        intrinsics=intrinsics,
        camera_model=model,
        palette=palette,
        wound=wound,
        T_world_wound=T_world_wound,
        bones=bones,
        props=props,
        lamps=place_lamps(T_world_wound, wound, draw["light"]),
        ambient=_ambient(draw["light"]),
        background=(draw["light"].uniform(0.0, 0.3, 3) * draw["light"].uniform()).astype(
            np.float32
        ),
        cast_shadows=bool(draw["light"].uniform() < config.shadows),
        depth_noise=sensors.random_depth_noise(
            draw["sensor"], model, config.hardness, camera_distance(camera, T_world_wound, wound)
        ),
        colour_sensor=sensors.random_colour_sensor(draw["sensor"], config.hardness),
        bed=make_solid(wound.vertices_m, wound.faces),
    )


def _open_wound(
    anatomy: Anatomy,
    exposed: tuple[str, ...],
    T_wound_ct: dict[str, np.ndarray],
    midline_m: np.ndarray,
    palette: Palette,
    draw: dict[str, np.random.Generator],
    config: SceneConfig,
) -> tuple[Wound, dict[str, Bone]]:
    """Tissue over the levels of `T_wound_ct`, and what of their bone can come to light."""
    seen = {level: anatomy.meshes[level] for level in T_wound_ct}
    for level in exposed:
        if draw["resection"].uniform() < config.resect_share:
            seen[level] = _resected(seen[level], draw["resection"])
    points = {
        level: transform_points(T_wound_ct[level], mesh.vertices_m) for level, mesh in seen.items()
    }
    surfaces = {
        level: _surface_points(points[level], mesh.faces, config.wound_step_m)
        for level, mesh in seen.items()
    }
    posterior_z = np.concatenate([_posterior_part(points[level])[:, 2] for level in exposed])
    low, high = np.quantile(posterior_z, [0.02, 0.98])
    style = random_style(
        draw["wound"], config.visible_area_mm2, config.hardness, config.half_width_m
    )
    wound = build_wound(
        surfaces,
        exposed,
        midline_m,
        (float(low), float(high)),
        style,
        palette,
        draw["wound"],
        config.wound_step_m,
    )
    bones = {}
    for level, mesh in seen.items():
        entries = [
            line.entry_m
            for line in anatomy.plan
            if line.level == level
            and level in exposed
            and draw["burr"].uniform() < config.burr_share
        ]
        bone = _make_bone(mesh, entries, points[level], wound, style.stain, draw["tissue"], config)
        if bone is not None:
            bones[level] = bone
    return wound, bones


def _ambient(rng: np.random.Generator) -> np.ndarray:
    level = rng.uniform(0.12, 0.5) * np.exp(rng.normal(0.0, 0.05, 3))
    return np.asarray(level, np.float32)


def _resected(mesh: Mesh, rng: np.random.Generator) -> Mesh:
    """The vertebra with a random piece cut away; the CT surface and the truth stay whole. A mesh
    in which no anatomical frame is found (a fragment) is left as it is."""
    with contextlib.suppress(ValueError):
        return resect(mesh, rng, str(rng.choice(RESECTIONS)))
    return mesh


def _posterior_part(points: np.ndarray) -> np.ndarray:
    """The posterior half of a vertebra, wound frame."""
    return points[points[:, 1] > 0.5 * (points[:, 1].min() + points[:, 1].max())]


def _burr(vertices: np.ndarray, entries: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Depth (N,) metres of hemispherical holes drilled at the entries."""
    depth = np.zeros(len(vertices), np.float32)
    for entry in entries:
        radius, deepest = rng.uniform(0.003, 0.005), rng.uniform(0.0015, 0.004)
        distance = np.linalg.norm(vertices - entry, axis=1)
        hole = deepest * np.sqrt(np.maximum(1.0 - (distance / radius) ** 2, 0.0))
        depth = np.maximum(depth, hole.astype(np.float32))
    return depth


def _make_bone(
    mesh: Mesh,
    entries: list[np.ndarray],
    points: np.ndarray,
    wound: Wound,
    stain: float,
    rng: np.random.Generator,
    config: SceneConfig,
) -> Bone | None:
    """The part of a vertebra that can come to light, with its residual tissue, in CT frame."""
    floor = wound.sample(wound.height_m, as_square(points[:, 0]), as_square(points[:, 2]))
    floor = floor.ravel()[: len(points)]
    above = points[:, 1] - floor
    keep = above > -_KEEP_BELOW_FLOOR_M
    faces = mesh.faces[keep[mesh.faces].any(axis=1)]
    texture = random_texture(rng, (0.05, 0.12))
    fine = random_texture(rng, (0.012, 0.03))
    seed = rng.integers(2**62)
    if len(faces) == 0:
        return None
    used, index = np.unique(faces, return_inverse=True)
    vertices, faces = mesh.vertices_m[used], index.reshape(-1, 3).astype(np.int32)
    tissue = _residual_tissue(vertices, above[used], np.random.default_rng(seed), config)
    burr = _burr(vertices, entries, np.random.default_rng(seed + 1))
    tissue = np.where(burr > 0.0, -burr, tissue)
    normals = vertex_normals(vertices, faces)
    solid = make_solid(vertices + tissue[:, None] * normals, faces, tissue)
    return Bone(solid, texture, fine, float(np.clip(stain, 0.0, 1.0)))


def wound_centre_m(wound: Wound) -> np.ndarray:
    """(3,) point that cameras look at, wound frame."""
    return np.array([0.0, wound.skin_y_m - 0.025, np.mean(wound.z_range_m)])


def camera_distance(path: CameraPath, T_world_wound: np.ndarray, wound: Wound) -> float:
    """Metres from the camera to the middle of the wound."""
    T_camera_wound = path.T_camera_world(0.0) @ T_world_wound
    return float(np.linalg.norm(transform_points(T_camera_wound, wound_centre_m(wound))))


def place_camera(
    T_world_wound: np.ndarray,
    wound: Wound,
    intrinsics: Intrinsics,
    model: sensors.CameraModel,
    rng: np.random.Generator,
    config: SceneConfig,
) -> CameraPath:
    """A camera over the wound: rolled by `roll_deg`, tilted by `pitch_deg`, off the centre."""
    distance = rng.uniform(*(config.distance_m or model.mount_m))
    pitch = np.radians(rng.uniform(*config.pitch_deg))
    azimuth, roll = rng.uniform(0.0, 2.0 * np.pi, 2)
    low, high = np.radians(config.roll_deg)
    roll = low + (high - low) * roll / (2.0 * np.pi)
    toward = np.array(
        [np.sin(pitch) * np.cos(azimuth), np.cos(pitch), np.sin(pitch) * np.sin(azimuth)]
    )  # wound to camera, wound frame
    z_axis = -toward
    x_axis = np.cross(z_axis, [np.cos(roll), 0.0, np.sin(roll)])
    x_axis /= np.linalg.norm(x_axis)
    R_wound_camera = np.column_stack([x_axis, np.cross(z_axis, x_axis), z_axis])
    off = rng.uniform(-config.off_centre, config.off_centre, 2) * distance
    off *= 0.5 * np.array([intrinsics.width, intrinsics.height]) / intrinsics.fx
    centre = wound_centre_m(wound)
    T_wound_camera = np.eye(4)
    T_wound_camera[:3, :3] = R_wound_camera
    T_wound_camera[:3, 3] = centre + distance * toward + R_wound_camera[:, :2] @ off
    mean = invert(T_world_wound @ T_wound_camera)
    if not config.camera_moves:
        return still(mean)
    return hand_held(mean, rng, config.camera_sway_mm, config.camera_sway_deg)


def _breathing(
    levels: list[str], rng: np.random.Generator, config: SceneConfig
) -> Breathing | None:
    peak = rng.uniform(*config.breathing_mm) * 1e-3
    frequency, base, lag = rng.uniform(0.2, 0.3), rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.35)
    share = np.clip(1.0 + rng.normal(0.0, 0.25, len(levels)), 0.3, 1.0)
    sideways = rng.normal(0.0, 0.15, (len(levels), 2))
    pitch = np.radians(rng.normal(0.0, 0.25, len(levels)))
    phase = base + lag * np.arange(len(levels)) + rng.normal(0.0, 0.1, len(levels))
    if peak == 0.0:
        return None
    direction = np.column_stack([sideways[:, 0], np.ones(len(levels)), sideways[:, 1]])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return Breathing(
        float(frequency),
        {level: peak * share[i] * direction[i] for i, level in enumerate(levels)},
        {level: float(pitch[i]) * peak / 0.001 * 0.5 for i, level in enumerate(levels)},
        {level: float(phase[i]) for i, level in enumerate(levels)},
    )


def _random_push(
    level: str,
    rng: np.random.Generator,
    start: float,
    duration: float,
    shift_mm: float,
    turn_deg: float,
    lasting: bool = False,
) -> Push:
    direction = rng.standard_normal(3) + np.array([0.0, -1.5, 0.0])  # mostly pressed in
    axis = rng.standard_normal(3)
    return Push(
        level,
        float(start),
        float(duration),
        np.radians(turn_deg) * axis / np.linalg.norm(axis),
        shift_mm * 1e-3 * direction / np.linalg.norm(direction),
        lasting,
    )


def _pushes(
    exposed: tuple[str, ...], rng: np.random.Generator, config: SceneConfig
) -> tuple[Push, ...]:
    pushes = []
    if config.pushes:
        t = rng.uniform(1.0, 4.0)
        while t < config.seconds:
            pushes.append(
                _random_push(
                    str(rng.choice(exposed)),
                    rng,
                    t,
                    rng.uniform(0.8, 1.6),
                    rng.uniform(0.5, 3.0),
                    rng.uniform(0.0, 2.0),
                )
            )
            t += rng.uniform(2.5, 7.0)
    if config.bump:
        pushes.append(
            _random_push(
                str(rng.choice(exposed)),
                rng,
                0.5 * config.seconds,
                0.1,
                rng.uniform(*config.bump_mm),
                rng.uniform(0.0, 2.0),
                True,
            )
        )
    return tuple(pushes)


def place_lamps(
    T_world_wound: np.ndarray, wound: Wound, rng: np.random.Generator
) -> tuple[Lamp, ...]:
    """One to three surgical lamps aimed at the wound."""
    lamps = []
    for _ in range(int(rng.integers(1, 4))):
        tilt, turn = rng.uniform(0.05, 0.75), rng.uniform(0.0, 2.0 * np.pi)
        toward = np.array([np.sin(tilt) * np.cos(turn), np.cos(tilt), np.sin(tilt) * np.sin(turn)])
        aim = np.array([rng.normal(0, 0.02), wound.skin_y_m, rng.normal(0, 0.04)])
        position = aim + rng.uniform(0.6, 1.3) * toward
        warm = np.exp(rng.normal(0.0, 0.06, 3)) * rng.uniform(0.3, 1.2)
        lamps.append(
            Lamp(
                T_world_wound[:3, :3] @ position + T_world_wound[:3, 3],
                T_world_wound[:3, :3] @ aim + T_world_wound[:3, 3],
                rng.uniform(0.06, 0.25),
                warm.astype(np.float32),
            )
        )
    return tuple(lamps)
