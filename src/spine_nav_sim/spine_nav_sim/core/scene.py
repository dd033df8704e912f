# SPDX-License-Identifier: Apache-2.0
"""The virtual operation: a random scene over an anatomy, rendered at any time with exact truth."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from spine_nav_common.core.geometry import invert
from spine_nav_common.core.types import LEVEL_CODE, LEVELS, Intrinsics, RgbdFrame
from spine_nav_sim.core import sensor as sensors
from spine_nav_sim.core.materials import Palette, Texture, mix, random_palette, random_texture
from spine_nav_sim.core.motion import (
    Breathing, CameraPath, Push, SpineMotion, hand_held, operating_pose, still,
)
from spine_nav_sim.core.render import (
    GBuffer, Lamp, Solid, cast, make_solid, pixel_rays, shade, shadows, vertex_normals,
)
from spine_nav_sim.core.scene_props import Prop, passing_props, retractors
from spine_nav_sim.core.wound import Wound, build_wound, random_style, wound_frame

if TYPE_CHECKING:
    from spine_nav_sim.core.anatomy import Anatomy

POSTERIOR = np.array([0.0, 1.0, 0.0])  # LPS
_CAMERA_SHARES = (0.35, 0.25, 0.15, 0.25)  # d415, d435, d405, zedm
_KEEP_BELOW_FLOOR_M = 0.012  # bone farther under the tissue can never come to light


@dataclass(frozen=True)
class SceneConfig:
    """What a scene may be; pairs are (low, high) of a random draw. Lengths by suffix."""

    exposed: tuple[str, ...] | None = None  # None: draw n_exposed neighbouring levels
    n_exposed: tuple[int, int] = (2, 6)
    hardness: float = 0.5  # 0 easy to 1 hard: covered bone, blood, noise, holes, exposure
    width: int = 640
    height: int = 480
    fps: float = 15.0
    seconds: float = 10.0
    camera: str = "random"  # or a key of sensor.CAMERAS
    camera_moves: bool = False
    camera_sway_mm: float = 12.0
    camera_sway_deg: float = 1.5
    distance_m: tuple[float, float] = (0.35, 0.75)
    pitch_deg: tuple[float, float] = (0.0, 25.0)
    off_centre: float = 0.25  # share of the half image by which the wound's middle may be off
    deviation_deg: float = 2.5
    deviation_mm: float = 1.0
    breathing_mm: tuple[float, float] = (0.5, 2.0)  # peak; (0, 0): none
    pushes: bool = True
    bump: bool = False  # half way through, one level jumps and stays
    bump_mm: tuple[float, float] = (2.0, 5.0)
    tool_passes: bool = True
    tool_busy: float = 0.35
    tissue_mm: float = 3.0  # most residual soft tissue on bone
    visible_area_mm2: tuple[float, float] = (800.0, 3600.0)  # bone per level; 1 px each at 0.6 m
    shadows: float = 0.5  # probability
    depth: str = "model"  # or "stereo": render both images and match them
    depth_noise: bool = True
    wound_step_m: float = 0.0015
    threads: int = 0  # of the ray caster; 0: all


@dataclass(frozen=True)
class Rendered:
    """One frame with its truth. Arrays (H, W); metres; NaN = none. instance holds contract level
    codes of visible bone, bone under residual tissue included; tissue_m its thickness there."""

    t_s: float
    colour: np.ndarray
    depth_true_m: np.ndarray
    depth_m: np.ndarray
    instance: np.ndarray
    tissue_m: np.ndarray
    T_camera_ct: dict[str, np.ndarray]
    visible_px: dict[str, int]
    intrinsics: Intrinsics

    def to_frame(self, stamp_ns: int) -> RgbdFrame:
        """What a camera driver would hand over."""
        return RgbdFrame(stamp_ns, self.colour, self.depth_m, self.intrinsics)


@dataclass(frozen=True)
class _Bone:
    solid: Solid
    texture: Texture
    fine: Texture
    stain: float


@dataclass
class Scene:
    """A laid-out operation. All fields are drawn by `make_scene`; `render` has no state but a cache
    of the resting parts for a still camera."""

    config: SceneConfig
    exposed: tuple[str, ...]
    motion: SpineMotion
    camera_path: CameraPath
    intrinsics: Intrinsics
    camera_model: sensors.CameraModel
    palette: Palette
    wound: Wound
    T_world_wound: np.ndarray
    bones: dict[str, _Bone]
    props: list[Prop]
    lamps: tuple[Lamp, ...]
    ambient: np.ndarray
    background: np.ndarray
    cast_shadows: bool
    depth_noise: sensors.DepthNoise
    colour_sensor: sensors.ColourSensor
    bed: Solid
    _still: tuple[bytes, GBuffer] | None = field(default=None, repr=False)

    def poses(self, t_s: float) -> dict[str, np.ndarray]:
        """T_camera_ct (4, 4) of every level of the anatomy at `t_s`."""
        T_camera_world = self.camera_path.T_camera_world(t_s)
        return {level: T_camera_world @ self.motion.T_world_ct(level, t_s)
                for level in self.motion.rest}

    def render(self, t_s: float) -> Rendered:
        """The frame at `t_s` seconds; equal for equal seeds and times."""
        T_camera_world = self.camera_path.T_camera_world(t_s)
        poses = self.poses(t_s)
        buffer, points = self.trace(T_camera_world, poses, t_s)
        frame = round(t_s * 1e6)
        colour, highlight = self._picture(buffer, points, T_camera_world, t_s, frame)
        depth_true = np.where(np.isfinite(buffer.depth), buffer.depth, np.nan).astype(np.float32)
        view = pixel_rays(self.intrinsics) @ T_camera_world[:3, :3].astype(np.float32)
        view /= np.linalg.norm(view, axis=2, keepdims=True)
        cosine = np.abs(np.einsum("hwk,hwk->hw", buffer.normal, view))
        if not self.config.depth_noise:
            depth = depth_true.copy()
        else:
            depth = sensors.measure_depth(
                depth_true, cosine, highlight, self.intrinsics, self.camera_model,
                self.depth_noise, frame,
            )
        counts = np.bincount(buffer.instance.ravel(), minlength=len(LEVELS) + 1)
        visible = {level: int(counts[LEVEL_CODE[level]]) for level in poses}
        return Rendered(t_s, colour, depth_true, depth, buffer.instance, buffer.tissue, poses,
                        visible, self.intrinsics)

    def trace(
        self, T_camera_world: np.ndarray, poses: dict[str, np.ndarray], t_s: float
    ) -> tuple[GBuffer, np.ndarray]:
        """G-buffer and world points (H, W, 3) of the scene seen from a camera."""
        rays = pixel_rays(self.intrinsics)
        buffer = self._resting(T_camera_world, rays)
        for level, bone in self.bones.items():
            self._draw_bone(buffer, level, bone, poses[level], T_camera_world, rays)
        for prop in self.props:
            if prop.passes:
                self._draw_prop(buffer, prop, T_camera_world, rays, t_s)
        T_world_camera = invert(T_camera_world).astype(np.float32)
        distance = np.where(np.isfinite(buffer.depth), buffer.depth, 5.0)[..., None]
        points = (rays * distance) @ T_world_camera[:3, :3].T + T_world_camera[:3, 3]
        return buffer, points

    def _resting(self, T_camera_world: np.ndarray, rays: np.ndarray) -> GBuffer:
        """Wound, skin, drapes and retractors; kept while the camera stands still."""
        key = T_camera_world.tobytes()
        if self._still is not None and self._still[0] == key:
            return self._still[1].copy()
        buffer = GBuffer.empty(self.intrinsics.height, self.intrinsics.width, self.background)
        T_camera_wound = T_camera_world @ self.T_world_wound
        hits = cast(self.bed, T_camera_wound, rays, self.intrinsics, self.config.threads)
        if hits is not None:
            win, rows, columns = buffer.nearer(hits)
            x, z = hits.points[win, 0], hits.points[win, 2]
            image_x, image_z = (np.zeros(buffer.depth.shape, np.float32) for _ in range(2))
            image_x[rows, columns], image_z[rows, columns] = x, z
            albedo = self.wound.sample(self.wound.albedo, image_x, image_z)
            gloss = self.wound.sample(self.wound.gloss, image_x, image_z)
            grain = self.wound.fibre.sample(image_x, image_z)
            grain_2 = self.wound.fibre.sample(image_z + 0.31, image_x)
            normals = hits.normals[win]
            rough = (0.06 + 0.10 * (gloss > 0.08))[rows, columns]
            normals[:, 0] += rough * grain[rows, columns]
            normals[:, 2] += rough * grain_2[rows, columns]
            buffer.albedo[rows, columns] = (
                albedo[rows, columns] * (1.0 + 0.08 * grain[rows, columns])[:, None])
            buffer.gloss[rows, columns] = gloss[rows, columns]
            buffer.sharpness[rows, columns] = 40.0
            self._put_normals(buffer, normals, self.T_world_wound, T_camera_world, rays,
                              rows, columns)
        for prop in self.props:
            if not prop.passes:
                self._draw_prop(buffer, prop, T_camera_world, rays, 0.0)
        if not self.camera_path.moves:
            self._still = (key, buffer.copy())
        return buffer

    @staticmethod
    def _put_normals(buffer, normals, T_world_solid, T_camera_world, rays, rows, columns):
        """World normals, turned towards the camera."""
        world = normals @ T_world_solid[:3, :3].T.astype(np.float32)
        world /= np.linalg.norm(world, axis=1, keepdims=True) + 1e-9
        view = rays[rows, columns] @ T_camera_world[:3, :3].astype(np.float32)
        away = np.einsum("kj,kj->k", world, view) > 0.0
        world[away] *= -1.0
        buffer.normal[rows, columns] = world

    def _draw_prop(self, buffer, prop, T_camera_world, rays, t_s):
        T_wound_prop = prop.pose(t_s)
        if T_wound_prop is None:
            return
        T_world_prop = self.T_world_wound @ T_wound_prop
        hits = cast(prop.solid, T_camera_world @ T_world_prop, rays, self.intrinsics,
                    self.config.threads)
        if hits is None:
            return
        win, rows, columns = buffer.nearer(hits)
        self._put_normals(buffer, hits.normals[win], T_world_prop, T_camera_world, rays,
                          rows, columns)
        buffer.albedo[rows, columns] = prop.albedo
        buffer.gloss[rows, columns] = prop.gloss
        buffer.sharpness[rows, columns] = prop.sharpness
        buffer.instance[rows, columns] = 0
        buffer.tissue[rows, columns] = 0.0

    def _draw_bone(self, buffer, level, bone, T_camera_ct, T_camera_world, rays):
        hits = cast(bone.solid, T_camera_ct, rays, self.intrinsics, self.config.threads)
        if hits is None:
            return
        win, rows, columns = buffer.nearer(hits)
        if len(win) == 0:
            return
        points, tissue = hits.points[win], hits.values[win]
        u = (points[:, 0] + 0.5 * points[:, 1])[None, :].astype(np.float32)
        v = (points[:, 2] + 0.35 * points[:, 1])[None, :].astype(np.float32)
        coarse, fine = (_sample_line(t, u, v) for t in (bone.texture, bone.fine))
        colour = self.palette["bone"] * (1.0 + 0.10 * coarse + 0.05 * fine)[:, None]
        stain = np.clip(0.35 * coarse + 0.25 * fine - 0.9 + 1.6 * bone.stain, 0.0, 0.75)
        colour = mix(colour, self.palette["blood"] * 1.5, stain)
        film = np.clip(tissue / 0.0012 + 0.15 * fine * (tissue > 2e-4), 0.0, 0.97)
        film_colour = self.palette["film"] * (1.0 + 0.2 * fine)[:, None]
        buffer.albedo[rows, columns] = np.clip(mix(colour, film_colour, film), 0.003, 0.95)
        buffer.gloss[rows, columns] = self.palette.wetness * (0.35 + 0.5 * film)
        buffer.sharpness[rows, columns] = 35.0
        normals = hits.normals[win]
        normals = normals + 0.05 * np.column_stack([fine, coarse, -fine])
        self._put_normals(buffer, normals, invert(T_camera_world) @ T_camera_ct, T_camera_world,
                          rays, rows, columns)
        buffer.instance[rows, columns] = LEVEL_CODE[level]
        buffer.tissue[rows, columns] = tissue

    def _picture(self, buffer, points, T_camera_world, t_s, frame):
        """Colour image and highlight map."""
        T_wound_world = invert(self.T_world_wound).astype(np.float32)
        x = points @ T_wound_world[0, :3] + T_wound_world[0, 3]
        z = points @ T_wound_world[2, :3] + T_wound_world[2, 3]
        sky = self.wound.sample(self.wound.light, x, z)
        lit = None
        if self.cast_shadows:
            occluders = [(self.bed, self.T_world_wound)]
            occluders += [(b.solid, self.motion.T_world_ct(level, t_s))
                          for level, b in self.bones.items()]
            for prop in self.props:
                pose = prop.pose(t_s)
                if pose is not None:
                    occluders.append((prop.solid, self.T_world_wound @ pose))
            lit = shadows(occluders, points, buffer.normal, self.lamps, self.config.threads,
                          2.0 * self.intrinsics.width / 640.0)
        eye = invert(T_camera_world)[:3, 3]
        radiance, highlight = shade(buffer, points, eye, self.lamps, lit, self.ambient, sky)
        nothing = ~np.isfinite(buffer.depth)
        radiance[nothing] = self.background
        gain = self._gain(radiance, x, z)
        return sensors.expose(radiance, self.colour_sensor, gain, frame), np.where(
            nothing, 0.0, highlight * gain)

    def _gain(self, radiance, x, z):
        """Automatic exposure metered on the opened wound."""
        wound = (np.abs(x) < self.wound.half_width_m) & (z > self.wound.z_range_m[0]) & (
            z < self.wound.z_range_m[1])
        metered = radiance[wound] if np.count_nonzero(wound) > 50 else radiance
        return 0.22 / max(float(metered.mean()), 1e-4)


def _sample_line(texture: Texture, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Texture at (1, K) coordinates for any K; cv2.remap refuses rows longer than 32766."""
    k = u.shape[1]
    side = int(np.ceil(np.sqrt(k)))
    pad = side * side - k
    square = [np.pad(a[0], (0, pad)).reshape(side, side) for a in (u, v)]
    return texture.sample(*square).ravel()[:k]


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
    return tuple(levels[first:first + n])


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
    wavelength = rng.uniform(0.006, 0.035, waves)
    direction = rng.standard_normal((waves, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    k = (2.0 * np.pi / wavelength)[:, None] * direction
    field_ = np.cos(vertices.astype(np.float32) @ k.T.astype(np.float32)
                    + rng.uniform(0.0, 2.0 * np.pi, waves).astype(np.float32)).sum(axis=1)
    field_ *= np.sqrt(2.0 / waves)
    most = config.tissue_mm * 1e-3
    cover = rng.uniform(-1.2, 0.4 + 0.6 * config.hardness)
    patches = rng.uniform(0.2, 0.6) * most * np.maximum(field_ + cover, 0.0)
    rim = rng.uniform(0.0, 0.4) * most * np.exp(-np.maximum(above_floor, 0.0) / 0.002)
    return np.clip(patches + rim, 0.0, most).astype(np.float32)


def make_scene(anatomy: Anatomy, rng: np.random.Generator, config: SceneConfig) -> Scene:
    """Lay out one operation over `anatomy` (meshes in metres, LPS).

    Raises ValueError when an exposed level is not in the anatomy.
    """
    exposed = _choose_levels(anatomy, rng, config)
    levels = sorted(anatomy.meshes, key=LEVELS.index)
    centroids = {level: anatomy.meshes[level].vertices_m.mean(axis=0) for level in levels}
    rest = operating_pose(centroids, rng, config.deviation_deg, config.deviation_mm)
    placed = {level: rest[level][:3, :3] @ centroids[level] + rest[level][:3, 3]
              for level in levels}
    chain = exposed if len(exposed) > 1 else tuple(levels)
    T_world_wound = wound_frame(np.array([placed[level] for level in chain]), POSTERIOR)
    T_wound_world = invert(T_world_wound)
    first, last = levels.index(exposed[0]), levels.index(exposed[-1])
    near = levels[max(first - 2, 0):last + 3]

    points, surfaces = {}, {}
    for level in near:
        mesh = anatomy.meshes[level]
        T = T_wound_world @ rest[level]
        points[level] = mesh.vertices_m @ T[:3, :3].T + T[:3, 3]
        surfaces[level] = _surface_points(points[level], mesh.faces, config.wound_step_m)
    middle = np.array([T_wound_world[:3, :3] @ placed[level] + T_wound_world[:3, 3]
                       for level in reversed(levels)])
    posterior_z = np.concatenate([_posterior_part(points[level])[:, 2] for level in exposed])
    z_range = (float(np.quantile(posterior_z, 0.02)), float(np.quantile(posterior_z, 0.98)))
    palette = random_palette(rng)
    style = random_style(rng, config.visible_area_mm2, config.hardness)
    wound = build_wound(surfaces, exposed, middle[:, [2, 0]], z_range, style, palette, rng,
                        config.wound_step_m)
    bones = {level: _make_bone(anatomy.meshes[level], points[level], wound, style.stain, rng,
                               config) for level in near}
    bones = {level: bone for level, bone in bones.items() if bone is not None}
    props = retractors(wound, palette, rng)
    if config.tool_passes:
        props += passing_props(wound, palette, rng, config.seconds, config.tool_busy)
    name = config.camera
    if name == "random":
        name = str(rng.choice(list(sensors.CAMERAS), p=_CAMERA_SHARES))
    elif name not in sensors.CAMERAS:
        raise ValueError(f"scene: unknown camera {name!r}; known: {', '.join(sensors.CAMERAS)}")
    model = sensors.CAMERAS[name]
    intrinsics = sensors.camera_intrinsics(model, config.width, config.height, rng)
    camera = _camera_path(T_world_wound, wound, intrinsics, model, rng, config)
    return Scene(
        config=config, exposed=exposed,
        motion=SpineMotion(rest, centroids, _breathing(levels, rng, config),
                           _pushes(exposed, rng, config)),
        camera_path=camera, intrinsics=intrinsics, camera_model=model, palette=palette,
        wound=wound, T_world_wound=T_world_wound, bones=bones, props=props,
        lamps=_lamps(T_world_wound, wound, rng),
        ambient=(rng.uniform(0.12, 0.5) * np.exp(rng.normal(0, 0.05, 3))).astype(np.float32),
        background=(rng.uniform(0.0, 0.3, 3) * rng.uniform()).astype(np.float32),
        cast_shadows=bool(rng.uniform() < config.shadows),
        depth_noise=sensors.random_depth_noise(rng, model, config.hardness),
        colour_sensor=sensors.random_colour_sensor(rng, config.hardness),
        bed=make_solid(wound.vertices_m, wound.faces),
    )


def _posterior_part(points: np.ndarray) -> np.ndarray:
    """The posterior half of a vertebra, wound frame."""
    return points[points[:, 1] > 0.5 * (points[:, 1].min() + points[:, 1].max())]


def _make_bone(mesh, points, wound, stain, rng, config) -> _Bone | None:
    """The part of a vertebra that can come to light, with its residual tissue, in CT frame."""
    floor = wound.sample(wound.height_m, *(points[:, i].astype(np.float32)[None, :]
                                           for i in (0, 2)))[0]
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
    normals = vertex_normals(vertices, faces)
    solid = make_solid(vertices + tissue[:, None] * normals, faces, tissue)
    return _Bone(solid, texture, fine, float(np.clip(stain, 0.0, 1.0)))


def _camera_path(T_world_wound, wound, intrinsics, model, rng, config) -> CameraPath:
    distance = min(rng.uniform(*config.distance_m), model.far_m)
    pitch = np.radians(rng.uniform(*config.pitch_deg))
    azimuth, roll = rng.uniform(0.0, 2.0 * np.pi, 2)
    toward = np.array([np.sin(pitch) * np.cos(azimuth), np.cos(pitch),
                       np.sin(pitch) * np.sin(azimuth)])  # wound to camera, wound frame
    z_axis = -toward
    x_axis = np.cross(z_axis, [np.cos(roll), 0.0, np.sin(roll)])
    x_axis /= np.linalg.norm(x_axis)
    R_wound_camera = np.column_stack([x_axis, np.cross(z_axis, x_axis), z_axis])
    off = rng.uniform(-config.off_centre, config.off_centre, 2) * distance
    off *= 0.5 * np.array([intrinsics.width, intrinsics.height]) / intrinsics.fx
    centre = np.array([0.0, wound.skin_y_m - 0.025, np.mean(wound.z_range_m)])
    T_wound_camera = np.eye(4)
    T_wound_camera[:3, :3] = R_wound_camera
    T_wound_camera[:3, 3] = centre + distance * toward + R_wound_camera[:, :2] @ off
    mean = invert(T_world_wound @ T_wound_camera)
    if not config.camera_moves:
        return still(mean)
    return hand_held(mean, rng, config.camera_sway_mm, config.camera_sway_deg)


def _breathing(levels, rng, config) -> Breathing | None:
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


def _random_push(level, rng, start, duration, shift_mm, turn_deg, lasting=False) -> Push:
    direction = rng.standard_normal(3) + np.array([0.0, -1.5, 0.0])  # mostly pressed in
    axis = rng.standard_normal(3)
    return Push(
        level, float(start), float(duration),
        np.radians(turn_deg) * axis / np.linalg.norm(axis),
        shift_mm * 1e-3 * direction / np.linalg.norm(direction), lasting,
    )


def _pushes(exposed, rng, config) -> tuple[Push, ...]:
    pushes = []
    if config.pushes:
        t = rng.uniform(1.0, 4.0)
        while t < config.seconds:
            pushes.append(_random_push(str(rng.choice(exposed)), rng, t, rng.uniform(0.8, 1.6),
                                       rng.uniform(0.5, 3.0), rng.uniform(0.0, 2.0)))
            t += rng.uniform(2.5, 7.0)
    if config.bump:
        pushes.append(_random_push(str(rng.choice(exposed)), rng, 0.5 * config.seconds, 0.1,
                                   rng.uniform(*config.bump_mm), rng.uniform(0.0, 2.0), True))
    return tuple(pushes)


def _lamps(T_world_wound, wound, rng) -> tuple[Lamp, ...]:
    lamps = []
    for _ in range(int(rng.integers(1, 4))):
        tilt, turn = rng.uniform(0.05, 0.75), rng.uniform(0.0, 2.0 * np.pi)
        toward = np.array([np.sin(tilt) * np.cos(turn), np.cos(tilt), np.sin(tilt) * np.sin(turn)])
        aim = np.array([rng.normal(0, 0.02), wound.skin_y_m, rng.normal(0, 0.04)])
        position = aim + rng.uniform(0.6, 1.3) * toward
        warm = np.exp(rng.normal(0.0, 0.06, 3)) * rng.uniform(0.3, 1.2)
        lamps.append(Lamp(
            T_world_wound[:3, :3] @ position + T_world_wound[:3, 3],
            T_world_wound[:3, :3] @ aim + T_world_wound[:3, 3],
            rng.uniform(0.06, 0.25), warm.astype(np.float32),
        ))
    return tuple(lamps)


def with_size(config: SceneConfig, width: int, height: int) -> SceneConfig:
    """The same scenes at another image size."""
    return replace(config, width=width, height=height)
