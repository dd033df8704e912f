# SPDX-License-Identifier: Apache-2.0
"""A stereo view of an operation with screws and rods: both pictures and exact truth at any time.

Tissue and bone are drawn by the scene that the RGB-D camera sees. Metal is small and sharp, and its
place is wanted to a tenth of a pixel: it is cast with several rays per pixel and averaged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from spine_nav_common.core.geometry import invert, transform_points
from spine_nav_common.core.types import Intrinsics, StereoFrame
from spine_nav_sim.core import sensor as sensors
from spine_nav_sim.core.metal import MetalLooks, Surroundings, shade_metal
from spine_nav_sim.core.motion import rigid
from spine_nav_sim.core.render import GBuffer, Hits, Solid, cast, in_shadow, pixel_rays, unit
from spine_nav_sim.core.scene_render import Scene

OTHER_METAL = 250  # owner of metal that is neither screw head nor rod
FIRST_ROD = 100


@dataclass(frozen=True)
class Implant:
    """One piece of metal. It moves with `level` (T_part in its CT frame), or rests in the world
    (level None). owner: number of the screw, FIRST_ROD + number of the rod, or OTHER_METAL."""

    solid: Solid
    looks: MetalLooks
    T_part: np.ndarray
    owner: int
    level: str | None


@dataclass(frozen=True)
class PlacedScrew:
    """saddle_ct_m (3,) and axis_ct (3,), out of the bone, in the CT frame of its level."""

    level: str
    side: str
    saddle_ct_m: np.ndarray
    axis_ct: np.ndarray


@dataclass(frozen=True)
class PlacedRod:
    """centreline_m (N, 3) in the world at rest; it moves with `level` (None: it is held still)."""

    side: str
    radius_m: float
    centreline_m: np.ndarray
    level: str | None


@dataclass(frozen=True)
class HeadTruth:
    """A head in one frame: nominal left optical frame, and where it truly lies in each picture.

    visible_px: pixels of the left picture that show it; seen (2,): share of its own pixels that
    nothing covers, left and right.
    """

    level: str
    side: str
    head_m: np.ndarray
    axis: np.ndarray
    left_px: np.ndarray
    right_px: np.ndarray
    visible_px: int
    seen: np.ndarray


@dataclass(frozen=True)
class RodTruth:
    """A rod in one frame: centreline_m (N, 3), its pixels (N, 2), seen (N,) per picture."""

    side: str
    radius_m: float
    centreline_m: np.ndarray
    left_px: np.ndarray
    right_px: np.ndarray
    seen_left: np.ndarray
    seen_right: np.ndarray


@dataclass(frozen=True)
class StereoRendered:
    """One pair with its truth; pictures (H, W) or (H, W, 3) uint8."""

    t_s: float
    left: np.ndarray
    right: np.ndarray
    intrinsics: Intrinsics
    baseline_m: float
    heads: tuple[HeadTruth, ...]
    rods: tuple[RodTruth, ...]
    T_camera_ct: dict[str, np.ndarray]

    def to_frame(self, stamp_ns: int) -> StereoFrame:
        """What a camera driver would hand over, rectified."""
        return StereoFrame(stamp_ns, self.left, self.right, self.intrinsics, self.baseline_m)


@dataclass
class StereoScene:
    """All fields are drawn by `stereo_layout.make_stereo_scene`.

    T_right_left: the true place of the right camera, a little off the nominal baseline.
    """

    scene: Scene
    baseline_m: float
    T_right_left: np.ndarray
    screws: tuple[PlacedScrew, ...]
    rods: tuple[PlacedRod, ...]
    implants: tuple[Implant, ...]
    surroundings: Surroundings
    right_gain: float
    mono: bool
    supersample: int

    @property
    def exposed(self) -> tuple[str, ...]:
        """Levels that the surgeon has opened, cranial first."""
        return self.scene.exposed

    def render(self, t_s: float) -> StereoRendered:
        """The pair at `t_s` seconds; equal for equal seeds and times."""
        T_left_world = self.scene.camera_path.T_camera_world(t_s)
        gain = None
        pictures, owners, counts = [], [], []
        for eye, T_eye_world in enumerate((T_left_world, self.T_right_left @ T_left_world)):
            radiance, points, owner, whole = self._eye(T_eye_world, t_s)
            if gain is None:
                gain = self.scene.gain(radiance, points)
            light = gain * (self.right_gain if eye else 1.0)
            frame = 2 * round(t_s * 1e6) + eye
            picture = sensors.expose(radiance, self.scene.colour_sensor, light, frame)
            if self.mono:
                picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
            pictures.append(picture)
            owners.append(owner)
            counts.append(whole)
        return StereoRendered(
            t_s,
            pictures[0],
            pictures[1],
            self.scene.intrinsics,
            self.baseline_m,
            self._heads(T_left_world, t_s, owners, counts),
            self._rods(T_left_world, t_s, owners),
            self.scene.poses(t_s),
        )

    def _eye(
        self, T_eye_world: np.ndarray, t_s: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Light (H, W, 3), world points (H, W, 3), owner (sH, sW) of the fine grid, and how many
        fine pixels each screw head would fill with nothing before it."""
        scene, s = self.scene, self.supersample
        T_world_ct = {k: scene.motion.T_world_ct(k, t_s) for k in scene.motion.rest}
        poses = {k: T_eye_world @ T for k, T in T_world_ct.items()}
        buffer, points = scene.trace(T_eye_world, poses, t_s)
        radiance, _ = scene.radiance(buffer, points, T_eye_world, t_s)
        fine = _finer(scene.intrinsics, s)
        grid = GBuffer.empty(fine.height, fine.width, np.zeros(3, np.float32))
        grid.depth = np.repeat(np.repeat(buffer.depth, s, axis=0), s, axis=1)
        owner = np.full((fine.height, fine.width), -1, np.int16)
        rays = pixel_rays(fine)
        whole = np.zeros(len(self.screws), np.int64)
        drawn: list[tuple[Implant, np.ndarray, Hits]] = []
        for number, implant in enumerate(self.implants):
            T_world_part = implant.T_part
            if implant.level is not None:
                T_world_part = T_world_ct[implant.level] @ T_world_part
            hits = cast(implant.solid, T_eye_world @ T_world_part, rays, fine, scene.config.threads)
            if hits is None:
                continue
            if implant.owner < len(self.screws):
                whole[implant.owner] += len(hits.pixels)
            hits = grid.nearer(hits)
            owner.ravel()[hits.pixels] = number
            drawn.append((implant, T_world_part, hits))
        light = np.asarray(
            cv2.resize(radiance, (fine.width, fine.height), interpolation=cv2.INTER_LINEAR)
        )
        eye = invert(T_eye_world)[:3, 3]
        numbers = {id(implant): n for n, implant in enumerate(self.implants)}
        for implant, T_world_part, hits in drawn:
            hits = hits[owner.ravel()[hits.pixels] == numbers[id(implant)]]
            if len(hits.pixels):
                light.reshape(-1, 3)[hits.pixels] = self._metal(
                    implant, T_world_part, hits, eye, t_s
                )
        size = (scene.intrinsics.width, scene.intrinsics.height)
        radiance = np.asarray(cv2.resize(light, size, interpolation=cv2.INTER_AREA))
        table = np.array([i.owner for i in self.implants] + [-1], np.int16)
        return radiance, points, table[owner], whole

    def _metal(
        self,
        implant: Implant,
        T_world_part: np.ndarray,
        hits: Hits,
        eye_m: np.ndarray,
        t_s: float,
    ) -> np.ndarray:
        """Light (K, 3) of an implant's winning pixels."""
        scene = self.scene
        R = T_world_part[:3, :3]
        points = (hits.points @ R.T + T_world_part[:3, 3]).astype(np.float32)
        lit = None
        if scene.cast_shadows:
            normals = unit(hits.normals @ R.T.astype(np.float32))
            away = np.einsum("kj,kj->k", normals, points - eye_m.astype(np.float32)) > 0.0
            normals[away] *= -1.0
            start = points + 0.0006 * normals
            occluders = scene.occluders(t_s)
            lit = np.stack(
                [
                    1.0 - in_shadow(occluders, start, lamp, scene.config.threads)
                    for lamp in scene.lamps
                ]
            ).astype(np.float32)
        return shade_metal(
            implant.looks,
            hits.points,
            hits.normals,
            R,
            points,
            eye_m,
            scene.lamps,
            lit,
            scene.ambient,
            self.surroundings,
        )

    def _heads(
        self,
        T_left_world: np.ndarray,
        t_s: float,
        owners: list[np.ndarray],
        counts: list[np.ndarray],
    ) -> tuple[HeadTruth, ...]:
        heads = []
        shown = [np.bincount(o[(o >= 0) & (o < FIRST_ROD)], minlength=len(self.screws))
                 for o in owners]  # fmt: skip
        for number, screw in enumerate(self.screws):
            T_left_ct = T_left_world @ self.scene.motion.T_world_ct(screw.level, t_s)
            head = transform_points(T_left_ct, screw.saddle_ct_m)
            seen = [shown[e][number] / max(counts[e][number], 1) for e in (0, 1)]
            heads.append(
                HeadTruth(
                    screw.level,
                    screw.side,
                    head,
                    T_left_ct[:3, :3] @ screw.axis_ct,
                    self._pixels(head, right=False),
                    self._pixels(head, right=True),
                    round(shown[0][number] / self.supersample**2),
                    np.array(seen),
                )
            )
        return tuple(heads)

    def _rods(
        self, T_left_world: np.ndarray, t_s: float, owners: list[np.ndarray]
    ) -> tuple[RodTruth, ...]:
        rods = []
        for number, rod in enumerate(self.rods):
            T_left_rest = T_left_world
            if rod.level is not None:
                moved = self.scene.motion.T_world_ct(rod.level, t_s)
                T_left_rest = T_left_world @ moved @ invert(self.scene.motion.rest[rod.level])
            line = transform_points(T_left_rest, rod.centreline_m)
            pixels = [self._pixels(line, right=bool(e)) for e in (0, 1)]
            seen = [
                _shows(owner, at * self.supersample, FIRST_ROD + number)
                for owner, at in zip(owners, pixels, strict=True)
            ]
            rods.append(
                RodTruth(rod.side, rod.radius_m, line, pixels[0], pixels[1], seen[0], seen[1])
            )
        return tuple(rods)

    def _pixels(self, points_m: np.ndarray, right: bool) -> np.ndarray:
        """Image places (..., 2) of points in the left frame, by the true right camera."""
        k = self.scene.intrinsics
        p = transform_points(self.T_right_left, points_m) if right else points_m
        z = np.maximum(p[..., 2], 0.02)
        return np.stack([k.fx * p[..., 0] / z + k.cx, k.fy * p[..., 1] / z + k.cy], axis=-1)


def right_camera(
    baseline_m: float, intrinsics: Intrinsics, row_error_px: float, vergence_error_px: float
) -> np.ndarray:
    """T_right_left of a pair whose calibration leaves these errors at the image centre, pixels."""
    turn = np.array([row_error_px / intrinsics.fy, vergence_error_px / intrinsics.fx, 0.0])
    nominal = np.eye(4)
    nominal[0, 3] = -baseline_m
    return np.asarray(rigid(turn, np.zeros(3), np.zeros(3)) @ nominal)


def shift_camera(scene: Scene, baseline_m: float) -> None:
    """Move the left camera so that the middle of both looks where it looked."""
    to_left = np.eye(4)
    to_left[0, 3] = 0.5 * baseline_m
    path = scene.camera_path
    scene.camera_path = replace(path, T_camera_world_mean=to_left @ path.T_camera_world_mean)
    scene.forget()


def _finer(k: Intrinsics, s: int) -> Intrinsics:
    """The same camera with s x s rays per pixel; pixel centres at integers in both."""
    shift = 0.5 * (s - 1)
    return Intrinsics(
        k.width * s, k.height * s, k.fx * s, k.fy * s, k.cx * s + shift, k.cy * s + shift
    )


def _shows(owner: np.ndarray, at_px: np.ndarray, wanted: int) -> np.ndarray:
    """(N,) whether the owner's picture shows `wanted` within a pixel of the places (N, 2)."""
    height, width = owner.shape
    column, row = np.rint(at_px).astype(int).T
    inside = (column >= 1) & (column < width - 1) & (row >= 1) & (row < height - 1)
    seen = np.zeros(len(at_px), bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            at = owner[np.clip(row + dy, 0, height - 1), np.clip(column + dx, 0, width - 1)]
            seen |= at == wanted
    return seen & inside
