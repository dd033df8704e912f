# SPDX-License-Identifier: Apache-2.0
"""Ray casting of rigid solids and shading, on the CPU (Open3D's Embree).

Each solid is cast in its own frame inside its projected box, so that per-frame motion rebuilds no
search tree; the nearest hit wins. Rays have unit z in the camera, so the hit parameter is depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import open3d as o3d

from spine_nav_common.core.geometry import invert
from spine_nav_common.core.types import Intrinsics


@dataclass(frozen=True)
class Solid:
    """A triangle surface ready for casting, in its own frame (metres)."""

    tree: o3d.t.geometry.RaycastingScene
    faces: np.ndarray  # (M, 3)
    normals: np.ndarray  # (N, 3) float32 unit, per vertex
    values: np.ndarray  # (N,) float32 carried to the pixels: residual tissue in metres
    corners: np.ndarray  # (8, 3) of the bounding box


@dataclass(frozen=True)
class Hits:
    """Where one solid is seen; K pixels, flat row-major indices into the image."""

    pixels: np.ndarray  # (K,)
    depth: np.ndarray  # (K,) metres
    normals: np.ndarray  # (K, 3) in the solid's frame
    values: np.ndarray  # (K,)
    points: np.ndarray  # (K, 3) in the solid's frame

    def __getitem__(self, chosen: np.ndarray) -> Hits:
        return Hits(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals (N, 3) float32."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    area = np.cross(b - a, c - a)
    index = faces.ravel()
    normals = np.column_stack(
        [np.bincount(index, np.repeat(area[:, k], 3), len(vertices)) for k in range(3)]
    )
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return (normals / np.maximum(length, 1e-20)).astype(np.float32)


def make_solid(vertices: np.ndarray, faces: np.ndarray, values: np.ndarray | None = None) -> Solid:
    """Build the search tree. vertices (N, 3) metres, faces (M, 3)."""
    tree = o3d.t.geometry.RaycastingScene(nthreads=1)
    tree.add_triangles(
        o3d.core.Tensor.from_numpy(np.ascontiguousarray(vertices, np.float32)),
        o3d.core.Tensor.from_numpy(np.ascontiguousarray(faces, np.uint32)),
    )
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    corners = np.array([[(low, high)[i >> k & 1][k] for k in range(3)] for i in range(8)])
    if values is None:
        values = np.zeros(len(vertices), np.float32)
    return Solid(tree, faces, vertex_normals(vertices, faces), values, corners)


def pixel_rays(intrinsics: Intrinsics) -> np.ndarray:
    """(H, W, 3) float32 directions with unit z, optical frame."""
    u = (np.arange(intrinsics.width, dtype=np.float32) - intrinsics.cx) / intrinsics.fx
    v = (np.arange(intrinsics.height, dtype=np.float32) - intrinsics.cy) / intrinsics.fy
    rays = np.ones((intrinsics.height, intrinsics.width, 3), np.float32)
    rays[..., 0] = u[None, :]
    rays[..., 1] = v[:, None]
    return rays


def _window(
    corners: np.ndarray, T_camera_solid: np.ndarray, intrinsics: Intrinsics
) -> tuple[slice, slice] | None:
    p = corners @ T_camera_solid[:3, :3].T + T_camera_solid[:3, 3]
    if np.all(p[:, 2] < 0.01):
        return None
    if np.any(p[:, 2] < 0.01):
        return slice(0, intrinsics.height), slice(0, intrinsics.width)
    u = intrinsics.fx * p[:, 0] / p[:, 2] + intrinsics.cx
    v = intrinsics.fy * p[:, 1] / p[:, 2] + intrinsics.cy
    u0, u1 = max(int(u.min()), 0), min(int(u.max()) + 2, intrinsics.width)
    v0, v1 = max(int(v.min()), 0), min(int(v.max()) + 2, intrinsics.height)
    return (slice(v0, v1), slice(u0, u1)) if u0 < u1 and v0 < v1 else None


def cast(
    solid: Solid, T_camera_solid: np.ndarray, rays: np.ndarray, intrinsics: Intrinsics, threads: int
) -> Hits | None:
    """Cast the camera's rays on one solid; None when it is out of view."""
    window = _window(solid.corners, T_camera_solid, intrinsics)
    if window is None:
        return None
    T_solid_camera = invert(T_camera_solid).astype(np.float32)
    directions = rays[window] @ T_solid_camera[:3, :3].T
    origin = T_solid_camera[:3, 3]
    bundle = np.empty((*directions.shape[:2], 6), np.float32)
    bundle[..., :3] = origin
    bundle[..., 3:] = directions
    answer = solid.tree.cast_rays(o3d.core.Tensor.from_numpy(bundle), nthreads=threads)
    depth = answer["t_hit"].numpy().ravel()
    hit = np.flatnonzero(np.isfinite(depth))
    if len(hit) == 0:
        return None
    width = window[1].stop - window[1].start
    rows, columns = np.divmod(hit, width)
    pixels = (rows + window[0].start) * intrinsics.width + columns + window[1].start
    depth = depth[hit]
    corners = solid.faces[answer["primitive_ids"].numpy().ravel()[hit]]
    uv = answer["primitive_uvs"].numpy().reshape(-1, 2)[hit]
    normals, values = (
        at[corners[:, 0]] * _column(1.0 - uv[:, 0] - uv[:, 1], at)
        + at[corners[:, 1]] * _column(uv[:, 0], at)
        + at[corners[:, 2]] * _column(uv[:, 1], at)
        for at in (solid.normals, solid.values)
    )
    points = origin + directions.reshape(-1, 3)[hit] * depth[:, None]
    return Hits(pixels, depth, normals, values, points)


def _column(weight: np.ndarray, like: np.ndarray) -> np.ndarray:
    return weight[:, None] if like.ndim == 2 else weight


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) at length 1, in place; zero stays zero."""
    vectors /= np.sqrt(np.einsum("...k,...k->...", vectors, vectors))[..., None] + 1e-9
    return vectors


@dataclass
class GBuffer:
    """What each pixel shows: (H, W) arrays. normal in the world frame, facing the camera."""

    depth: np.ndarray  # inf = nothing
    normal: np.ndarray
    albedo: np.ndarray
    gloss: np.ndarray
    sharpness: np.ndarray
    instance: np.ndarray
    tissue: np.ndarray

    @classmethod
    def empty(cls, height: int, width: int, background: np.ndarray) -> GBuffer:
        """Nothing but a background colour."""
        return cls(
            np.full((height, width), np.inf, np.float32),
            np.zeros((height, width, 3), np.float32),
            np.broadcast_to(background, (height, width, 3)).astype(np.float32),
            np.zeros((height, width), np.float32),
            np.full((height, width), 20.0, np.float32),
            np.zeros((height, width), np.uint8),
            np.zeros((height, width), np.float32),
        )

    def copy(self) -> GBuffer:
        """A deep copy."""
        return GBuffer(*(getattr(self, name).copy() for name in self.__dataclass_fields__))

    def nearer(self, hits: Hits) -> Hits:
        """The hits that win against what is there; their depth is written."""
        depth = self.depth.reshape(-1)
        hits = hits[hits.depth < depth[hits.pixels]]
        depth[hits.pixels] = hits.depth
        return hits

    def paint(
        self,
        hits: Hits,
        albedo: np.ndarray,
        gloss: np.ndarray | float,
        sharpness: float,
        instance: int = 0,
    ) -> None:
        """Write the looks of winning hits; tissue is their carried value on bone, else zero."""
        at = hits.pixels
        self.albedo.reshape(-1, 3)[at] = albedo
        self.gloss.reshape(-1)[at] = gloss
        self.sharpness.reshape(-1)[at] = sharpness
        self.instance.reshape(-1)[at] = instance
        self.tissue.reshape(-1)[at] = hits.values if instance else 0.0

    def orient(
        self, hits: Hits, normals: np.ndarray, R_world_solid: np.ndarray, view: np.ndarray
    ) -> None:
        """Write normals (K, 3) of the solid's frame, turned to face the camera.

        view (H, W, 3): directions of the rays in the world.
        """
        world = unit(normals @ R_world_solid.T.astype(np.float32))
        away = np.einsum("kj,kj->k", world, view.reshape(-1, 3)[hits.pixels]) > 0.0
        world[away] *= -1.0
        self.normal.reshape(-1, 3)[hits.pixels] = world


@dataclass(frozen=True)
class Lamp:
    """A surgical lamp: position and aim in the world (metres), spot radius at the aim."""

    position_m: np.ndarray
    aim_m: np.ndarray
    radius_m: float
    colour: np.ndarray  # (3,) linear, with intensity


def shade(
    buffer: GBuffer,
    points_m: np.ndarray,
    eye_m: np.ndarray,
    lamps: tuple[Lamp, ...],
    lit: np.ndarray | None,
    ambient: np.ndarray,
    open_sky: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Lambert plus Blinn-Phong.

    points_m (H, W, 3) and eye_m in the world; lit (L, H, W) 0 to 1 per lamp or None (no shadows);
    open_sky (H, W) scales ambient light. Returns (radiance (H, W, 3), highlight (H, W)).
    """
    radiance = buffer.albedo * (ambient * open_sky[..., None])
    highlight = np.zeros(buffer.depth.shape, np.float32)
    view = unit(eye_m.astype(np.float32) - points_m)
    for i, lamp in enumerate(lamps):
        to_lamp = lamp.position_m.astype(np.float32) - points_m
        distance = np.sqrt(np.einsum("hwk,hwk->hw", to_lamp, to_lamp)) + 1e-9
        to_lamp /= distance[..., None]
        axis = (lamp.aim_m - lamp.position_m).astype(np.float32)
        reach = float(np.linalg.norm(axis))
        cosine = -(to_lamp @ (axis / reach))
        off_axis = distance * np.sqrt(np.maximum(1.0 - cosine**2, 0.0))
        spot = 1.0 / (1.0 + (off_axis / lamp.radius_m) ** 4) * (cosine > 0.0)
        strength = spot * (reach / distance) ** 2
        if lit is not None:
            strength = strength * lit[i]
        diffuse = np.maximum(np.einsum("hwk,hwk->hw", buffer.normal, to_lamp), 0.0) * strength
        half = unit(to_lamp + view)
        cos_half = np.maximum(np.einsum("hwk,hwk->hw", buffer.normal, half), 0.0)
        specular = buffer.gloss * _power(cos_half, buffer.sharpness) * strength
        radiance += buffer.albedo * (lamp.colour * diffuse[..., None])
        radiance += lamp.colour * (0.6 * specular)[..., None]
        highlight = np.maximum(highlight, specular)
    return radiance, highlight


def _power(base: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """base**exponent for base in [0, 1], only where the result is worth seeing."""
    out = np.zeros_like(base)
    bright = base > 0.85  # 0.85**20 < 0.04
    out[bright] = base[bright] ** exponent[bright]
    return out


def shadows(
    occluders: list[tuple[Solid, np.ndarray]],
    points_m: np.ndarray,
    normals: np.ndarray,
    lamps: tuple[Lamp, ...],
    threads: int,
    softness_px: float,
) -> np.ndarray:
    """(L, H, W) share of each lamp that reaches a pixel, cast at half resolution and softened.

    occluders: (solid, T_world_solid).
    """
    height, width = points_m.shape[:2]
    small = np.ascontiguousarray(points_m[::2, ::2] + 0.0015 * normals[::2, ::2])
    lit = np.ones((len(lamps), height, width), np.float32)
    for i, lamp in enumerate(lamps):
        dark = in_shadow(occluders, small, lamp, threads)
        soft = cv2.GaussianBlur(1.0 - dark.astype(np.float32), (0, 0), max(softness_px, 0.4))
        lit[i] = cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)
    return lit


def in_shadow(
    occluders: list[tuple[Solid, np.ndarray]], points_m: np.ndarray, lamp: Lamp, threads: int
) -> np.ndarray:
    """(...,) whether something stands between world points (..., 3) and a lamp."""
    dark = np.zeros(points_m.shape[:-1], bool)
    for solid, T_world_solid in occluders:
        T = invert(T_world_solid).astype(np.float32)
        origin = points_m @ T[:3, :3].T + T[:3, 3]
        target = T[:3, :3] @ lamp.position_m.astype(np.float32) + T[:3, 3]
        bundle = np.concatenate([origin, target - origin], axis=-1)
        tensor = o3d.core.Tensor.from_numpy(np.ascontiguousarray(bundle, np.float32))
        dark |= solid.tree.test_occlusions(tensor, 0.0, 1.0, nthreads=threads).numpy()
    return dark
