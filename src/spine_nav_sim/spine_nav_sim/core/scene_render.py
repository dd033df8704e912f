# SPDX-License-Identifier: Apache-2.0
"""A laid-out operation and its frames: colour, depth, instances and exact truth at any time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from spine_nav_common.core.geometry import invert
from spine_nav_common.core.types import LEVEL_CODE, LEVELS, Intrinsics, RgbdFrame
from spine_nav_sim.core import sensor as sensors
from spine_nav_sim.core.materials import Palette, Texture, as_square, mix
from spine_nav_sim.core.motion import CameraPath, SpineMotion
from spine_nav_sim.core.render import (
    GBuffer,
    Hits,
    Lamp,
    Solid,
    cast,
    pixel_rays,
    shade,
    shadows,
    unit,
)
from spine_nav_sim.core.scene_config import SceneConfig
from spine_nav_sim.core.scene_props import Prop
from spine_nav_sim.core.wound import Wound


@dataclass(frozen=True)
class Rendered:
    """One frame with its truth. Arrays (H, W); metres; NaN = none. instance holds contract level
    codes of visible bone, bone under residual tissue included; tissue_m its thickness
    there, negative in a burr hole: how much bone is gone."""

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
class Bone:
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
    bones: dict[str, Bone]
    props: list[Prop]
    lamps: tuple[Lamp, ...]
    ambient: np.ndarray
    background: np.ndarray
    cast_shadows: bool
    depth_noise: sensors.DepthNoise
    colour_sensor: sensors.ColourSensor
    bed: Solid
    casters: list[tuple[Solid, np.ndarray]] = field(default_factory=list)  # shadows alone
    _still: dict[bytes, GBuffer] = field(default_factory=dict, repr=False)

    def poses(self, t_s: float) -> dict[str, np.ndarray]:
        """T_camera_ct (4, 4) of every level of the anatomy at `t_s`."""
        T_camera_world = self.camera_path.T_camera_world(t_s)
        return {
            level: T_camera_world @ self.motion.T_world_ct(level, t_s) for level in self.motion.rest
        }

    def forget(self) -> None:
        """Drop the pictures kept for a still camera; call after changing the camera's place."""
        self._still.clear()

    def render(self, t_s: float) -> Rendered:
        """The frame at `t_s` seconds; equal for equal seeds and times."""
        T_camera_world = self.camera_path.T_camera_world(t_s)
        poses = self.poses(t_s)
        buffer, points = self.trace(T_camera_world, poses, t_s)
        frame = round(t_s * 1e6)
        colour, highlight = self._picture(buffer, points, T_camera_world, t_s, frame)
        depth_true = np.where(np.isfinite(buffer.depth), buffer.depth, np.nan).astype(np.float32)
        if self.config.depth == "stereo":
            depth = self._match(buffer, points, T_camera_world, t_s, frame)
        elif self.config.depth_noise:
            view = unit(pixel_rays(self.intrinsics) @ T_camera_world[:3, :3].astype(np.float32))
            cosine = np.abs(np.einsum("hwk,hwk->hw", buffer.normal, view))
            depth = sensors.measure_depth(
                depth_true,
                cosine,
                highlight,
                self.intrinsics,
                self.camera_model,
                self.depth_noise,
                frame,
            )
        else:
            depth = depth_true.copy()
        counts = np.bincount(buffer.instance.ravel(), minlength=len(LEVELS) + 1)
        visible = {level: int(counts[LEVEL_CODE[level]]) for level in poses}
        return Rendered(
            t_s,
            colour,
            depth_true,
            depth,
            buffer.instance,
            buffer.tissue,
            poses,
            visible,
            self.intrinsics,
        )

    def trace(
        self, T_camera_world: np.ndarray, poses: dict[str, np.ndarray], t_s: float
    ) -> tuple[GBuffer, np.ndarray]:
        """G-buffer and world points (H, W, 3) of the scene seen from a camera."""
        rays = pixel_rays(self.intrinsics)
        T_world_camera = invert(T_camera_world).astype(np.float32)
        view = rays @ T_world_camera[:3, :3].T
        buffer = self._resting(T_camera_world, rays, view)
        for level, bone in self.bones.items():
            hits = cast(bone.solid, poses[level], rays, self.intrinsics, self.config.threads)
            if hits is not None:
                R_world_ct = T_world_camera[:3, :3] @ poses[level][:3, :3]
                self._draw_bone(buffer, buffer.nearer(hits), level, bone, R_world_ct, view)
        for prop in self.props:
            if prop.passes:
                self._draw_prop(buffer, prop, T_camera_world, rays, view, t_s)
        distance = np.where(np.isfinite(buffer.depth), buffer.depth, 5.0)[..., None]
        return buffer, view * distance + T_world_camera[:3, 3]

    def _resting(self, T_camera_world: np.ndarray, rays: np.ndarray, view: np.ndarray) -> GBuffer:
        """Wound, skin, drapes and retractors; kept while the camera stands still."""
        key = T_camera_world.tobytes()
        kept = self._still.get(key)
        if kept is not None:
            return kept.copy()
        buffer = GBuffer.empty(self.intrinsics.height, self.intrinsics.width, self.background)
        hits = cast(
            self.bed,
            T_camera_world @ self.T_world_wound,
            rays,
            self.intrinsics,
            self.config.threads,
        )
        if hits is not None:
            self._draw_bed(buffer, buffer.nearer(hits), view)
        for prop in self.props:
            if not prop.passes:
                self._draw_prop(buffer, prop, T_camera_world, rays, view, 0.0)
        if not self.camera_path.moves:
            self._still[key] = buffer.copy()
        return buffer

    def _draw_bed(self, buffer: GBuffer, hits: Hits, view: np.ndarray) -> None:
        x, z = as_square(hits.points[:, 0]), as_square(hits.points[:, 2])
        k = len(hits.pixels)
        albedo = self.wound.sample(self.wound.albedo, x, z).reshape(-1, 3)[:k]
        gloss = self.wound.sample(self.wound.gloss, x, z).ravel()[:k]
        drape = self.wound.drape
        cloth = drape.share(x, z) * self.wound.sample(self.wound.drapable, x, z)
        cloth = cloth.ravel()[:k]
        woven = drape.colour * (1.0 + 0.07 * drape.weave.sample(x, z).ravel()[:k])[:, None]
        albedo, gloss = mix(albedo, woven, cloth), gloss * (1.0 - 0.9 * cloth)
        grain = self.wound.fibre.sample(x, z).ravel()[:k]
        across = self.wound.fibre.sample(z + 0.31, x).ravel()[:k]
        rough = 0.06 + 0.10 * (gloss > 0.08)
        normals = hits.normals
        normals[:, 0] += rough * grain
        normals[:, 2] += rough * across
        buffer.paint(hits, albedo * (1.0 + 0.08 * grain)[:, None], gloss, 40.0)
        buffer.orient(hits, normals, self.T_world_wound[:3, :3], view)

    def _draw_prop(
        self,
        buffer: GBuffer,
        prop: Prop,
        T_camera_world: np.ndarray,
        rays: np.ndarray,
        view: np.ndarray,
        t_s: float,
    ) -> None:
        T_wound_prop = prop.pose(t_s)
        if T_wound_prop is None:
            return
        T_world_prop = self.T_world_wound @ T_wound_prop
        hits = cast(
            prop.solid, T_camera_world @ T_world_prop, rays, self.intrinsics, self.config.threads
        )
        if hits is not None:
            hits = buffer.nearer(hits)
            buffer.paint(hits, prop.albedo, prop.gloss, prop.sharpness)
            buffer.orient(hits, hits.normals, T_world_prop[:3, :3], view)

    def _draw_bone(
        self,
        buffer: GBuffer,
        hits: Hits,
        level: str,
        bone: Bone,
        R_world_ct: np.ndarray,
        view: np.ndarray,
    ) -> None:
        points, tissue, k = hits.points, hits.values, len(hits.pixels)
        if k == 0:
            return
        u = as_square(points[:, 0] + 0.5 * points[:, 1])
        v = as_square(points[:, 2] + 0.35 * points[:, 1])
        coarse, fine = (t.sample(u, v).ravel()[:k] for t in (bone.texture, bone.fine))
        colour = self.palette["bone"] * (1.0 + 0.10 * coarse + 0.05 * fine)[:, None]
        stain = np.clip(0.35 * coarse + 0.25 * fine - 0.9 + 1.6 * bone.stain, 0.0, 0.75)
        colour = mix(colour, self.palette["blood"] * 1.5, stain)
        film = np.clip(np.abs(tissue) / 0.0012 + 0.15 * fine * (tissue > 2e-4), 0.0, 0.97)
        film_colour = self.palette["film"] * (1.0 + 0.2 * fine)[:, None]
        albedo = np.clip(mix(colour, film_colour, film), 0.003, 0.95)
        buffer.paint(
            hits, albedo, self.palette.wetness * (0.35 + 0.5 * film), 35.0, LEVEL_CODE[level]
        )
        rough = 0.05 * np.column_stack([fine, coarse, -fine])
        buffer.orient(hits, hits.normals + rough, R_world_ct, view)

    def _match(
        self,
        buffer: GBuffer,
        points: np.ndarray,
        T_camera_world: np.ndarray,
        t_s: float,
        frame: int,
    ) -> np.ndarray:
        """Depth from a rendered pair; the right camera stands a baseline to the right."""
        baseline = self.camera_model.baseline_m
        T_right_left = np.eye(4)
        T_right_left[0, 3] = -baseline
        T_right_world = T_right_left @ T_camera_world
        poses = {level: T_right_left @ T for level, T in self.poses(t_s).items()}
        right, right_points = self.trace(T_right_world, poses, t_s)
        greys: list[np.ndarray] = []
        gain = None
        for k, (eye, at, T_eye_world) in enumerate(
            ((buffer, points, T_camera_world), (right, right_points, T_right_world))
        ):
            radiance, _ = self.radiance(eye, at, T_eye_world, t_s)
            if gain is None:
                gain = self.gain(radiance, at)
            if self.camera_model.dots:
                local = at @ T_camera_world[:3, :3].T.astype(np.float32)
                local += T_camera_world[:3, 3].astype(np.float32)
                dots = sensors.dot_pattern(local - np.array([0.5 * baseline, 0.0, 0.0], np.float32))
                light = (0.5 + 0.5 * eye.albedo.mean(axis=2)) * 0.6 / gain
                radiance = radiance + (light * dots * (0.5 / local[..., 2]) ** 2)[..., None]
            picture = sensors.expose(radiance, self.colour_sensor, gain, 2 * frame + k)
            greys.append(picture.mean(axis=2).astype(np.uint8))
        near = max(self.camera_model.range_m[0], 0.15)
        return sensors.match_stereo(greys[0], greys[1], self.intrinsics, baseline, (near, 1.4))

    def _picture(
        self,
        buffer: GBuffer,
        points: np.ndarray,
        T_camera_world: np.ndarray,
        t_s: float,
        frame: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Colour image and highlight map."""
        radiance, highlight = self.radiance(buffer, points, T_camera_world, t_s)
        gain = self.gain(radiance, points)
        picture = sensors.expose(radiance, self.colour_sensor, gain, frame)
        return picture, np.where(np.isfinite(buffer.depth), highlight * gain, 0.0)

    def radiance(
        self, buffer: GBuffer, points: np.ndarray, T_camera_world: np.ndarray, t_s: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Linear light (H, W, 3) that reaches the camera, and the specular part (H, W)."""
        x, z = self._wound_plane(points)
        sky = self.wound.sample(self.wound.light, x, z)
        lit = None
        if self.cast_shadows:
            softness = 2.0 * self.intrinsics.width / 640.0
            lit = shadows(
                self.occluders(t_s),
                points,
                buffer.normal,
                self.lamps,
                self.config.threads,
                softness,
            )
        eye = invert(T_camera_world)[:3, 3]
        radiance, highlight = shade(buffer, points, eye, self.lamps, lit, self.ambient, sky)
        radiance[~np.isfinite(buffer.depth)] = self.background
        return radiance, highlight

    def occluders(self, t_s: float) -> list[tuple[Solid, np.ndarray]]:
        """All that throws a shadow at `t_s`, each with T_world_solid."""
        solids = [(self.bed, self.T_world_wound), *self.casters]
        for level, bone in self.bones.items():
            solids.append((bone.solid, self.motion.T_world_ct(level, t_s)))
        for prop in self.props:
            pose = prop.pose(t_s)
            if pose is not None:
                solids.append((prop.solid, self.T_world_wound @ pose))
        return solids

    def _wound_plane(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and z (H, W) of world points in the wound frame."""
        T = invert(self.T_world_wound).astype(np.float32)
        return points @ T[0, :3] + T[0, 3], points @ T[2, :3] + T[2, 3]

    def gain(self, radiance: np.ndarray, points: np.ndarray) -> float:
        """Automatic exposure metered on the opened wound."""
        x, z = self._wound_plane(points)
        low, high = self.wound.z_range_m
        wound = (np.abs(x) < self.wound.half_width_m) & (z > low) & (z < high)
        metered = radiance[wound] if np.count_nonzero(wound) > 50 else radiance
        return 0.22 / max(float(metered.mean()), 1e-4)
