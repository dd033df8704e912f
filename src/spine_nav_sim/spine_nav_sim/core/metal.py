# SPDX-License-Identifier: Apache-2.0
"""Looks of metal: what it mirrors (lamps, ceiling, gowns, the wound), brushed finish, blood on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from spine_nav_sim.core.materials import Palette, linear_rgb
from spine_nav_sim.core.render import GBuffer, Lamp, shade, unit

_HEIGHT, _WIDTH = 96, 192  # of the panorama: 1.9 degrees a pixel
_BLUR_PX = (0.6, 3.0, 9.0)
_FINISH = (  # sRGB: titanium, steel, anodised colours
    (150, 148, 146), (196, 196, 198), (110, 110, 116), (60, 62, 70), (200, 160, 70),
    (60, 90, 170), (70, 140, 90), (150, 60, 130), (120, 80, 50), (40, 150, 170),
)  # fmt: skip


@dataclass(frozen=True)
class Surroundings:
    """Panorama of linear light about the wound, blurred at three levels; rows from up to down.

    R_panorama_world (3, 3): world to a frame whose y points up (posterior, prone patient).
    """

    levels: tuple[np.ndarray, ...]
    R_panorama_world: np.ndarray

    def look(self, directions: np.ndarray, blur: float) -> np.ndarray:
        """Light (K, 3) from world directions (K, 3), unit; blur 0 sharp to 1 satin."""
        local = directions @ self.R_panorama_world.T.astype(np.float32)
        u = (np.arctan2(local[:, 0], local[:, 2]) / (2.0 * np.pi) + 0.5) * _WIDTH - 0.5
        v = np.arccos(np.clip(local[:, 1], -1.0, 1.0)) / np.pi * _HEIGHT - 0.5
        v = np.clip(v, 0.0, _HEIGHT - 1.0)  # columns wrap around, rows do not
        place = blur * (len(self.levels) - 1)
        low = min(int(place), len(self.levels) - 2)
        # chunks of one row each: cv2.remap refuses rows longer than 32766
        at = [
            np.concatenate([_sample(level, a, b) for a, b in _chunks(u, v)])
            for level in self.levels[low : low + 2]
        ]
        return at[0] * (low + 1.0 - place) + at[1] * (place - low)


def _chunks(
    u: np.ndarray, v: np.ndarray, size: int = 30000
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for i in range(0, max(len(u), 1), size):
        yield u[i : i + size].astype(np.float32), v[i : i + size].astype(np.float32)


def _sample(level: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    if len(u) == 0:
        return np.zeros((0, 3), np.float32)
    picture = cv2.remap(level, u[None], v[None], cv2.INTER_LINEAR, None, cv2.BORDER_WRAP)
    return np.asarray(picture)[0]


def random_surroundings(
    rng: np.random.Generator,
    T_world_wound: np.ndarray,
    lamps: tuple[Lamp, ...],
    palette: Palette,
    ambient: np.ndarray,
) -> Surroundings:
    """Ceiling above, tissue and drapes below, people and screens about the horizon, the lamps."""
    up = np.linspace(1.0, -1.0, _HEIGHT, dtype=np.float32)[:, None]  # about cos of the row's angle
    sky = ambient * np.float32(rng.uniform(0.3, 2.5))
    below = palette["muscle"] * (0.2 + 0.8 * rng.uniform())
    cloth = palette["drape"] * rng.uniform(0.2, 1.2)
    share = 1.0 / (1.0 + np.exp(-up / 0.08))
    panorama = share[..., None] * sky + (1.0 - share)[..., None] * below
    panorama = np.broadcast_to(panorama, (_HEIGHT, _WIDTH, 3)).astype(np.float32).copy()
    ring = np.exp(-((up + rng.uniform(0.0, 0.3)) ** 2) / 0.02)
    panorama += ring[..., None] * cloth * float(ambient.mean())
    for _ in range(int(rng.integers(3, 12))):  # heads, gowns, screens, windows
        centre = (int(rng.integers(_WIDTH)), int(rng.uniform(0.15, 0.62) * _HEIGHT))
        size = (int(rng.integers(3, 26)), int(rng.integers(3, 26)))
        light = rng.uniform(0.0, 0.5) ** 2 * 8.0 * float(ambient.mean())
        colour = (light * np.exp(rng.normal(0.0, 0.2, 3))).tolist()
        cv2.ellipse(panorama, centre, size, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    R_panorama_world = T_world_wound[:3, :3].T
    for lamp in lamps:
        toward = R_panorama_world @ (lamp.position_m - lamp.aim_m)
        toward /= np.linalg.norm(toward)
        u = int((np.arctan2(toward[0], toward[2]) / (2 * np.pi) + 0.5) * _WIDTH)
        v = int(np.arccos(np.clip(toward[1], -1, 1)) / np.pi * _HEIGHT)
        glow = (lamp.colour * rng.uniform(4.0, 25.0)).tolist()
        # nearer to the pole a disc covers more columns
        stretch = 1.0 / max(np.sin((v + 0.5) * np.pi / _HEIGHT), 0.15)
        radius = rng.uniform(3.0, 8.0)
        cv2.ellipse(panorama, (u, v), (int(radius * stretch), int(radius)), 0, 0, 360, glow, -1)
    wide = np.concatenate([panorama, panorama, panorama], axis=1)
    levels = tuple(
        np.ascontiguousarray(cv2.GaussianBlur(wide, (0, 0), s)[:, _WIDTH : 2 * _WIDTH])
        for s in _BLUR_PX
    )
    return Surroundings(levels, R_panorama_world)


@dataclass(frozen=True)
class MetalLooks:
    """Finish of one implant. mirror 0 to 1: share of mirrored light; blur as in `look`; brushed:
    slope of the machining marks; blood 0 to 1: share of the surface that is smeared."""

    albedo: np.ndarray
    mirror: float
    blur: float
    gloss: float
    sharpness: float
    brushed: float
    brush_axis: np.ndarray
    brush_period_m: float
    blood: float
    blood_colour: np.ndarray
    waves: np.ndarray  # (12, 4): wave vectors (rad/m) and phases of the blood's pattern


def random_looks(rng: np.random.Generator, palette: Palette, hardness: float) -> MetalLooks:
    """From dull and evenly grey to a mirror, any anodised colour, clean to bloody."""
    colour = linear_rgb(*_FINISH[int(rng.integers(len(_FINISH)))])
    colour = np.clip(colour * np.exp(rng.normal(0.0, 0.15, 3) + rng.normal(0.0, 0.25)), 0.01, 0.95)
    waves = rng.standard_normal((12, 3))
    waves *= (2 * np.pi / rng.uniform(0.003, 0.02, 12) / np.linalg.norm(waves, axis=1))[:, None]
    bloody = rng.uniform() < 0.25 + 0.5 * hardness
    axis = rng.standard_normal(3)
    return MetalLooks(
        albedo=colour.astype(np.float32),
        mirror=float(rng.beta(1.2, 0.8)),
        blur=float(rng.uniform(0.0, 1.0)),
        gloss=float(rng.uniform(0.2, 3.0)),
        sharpness=float(np.exp(rng.uniform(np.log(20.0), np.log(300.0)))),
        brushed=float(rng.uniform(0.0, 0.12)) if rng.uniform() < 0.6 else 0.0,
        brush_axis=axis / np.linalg.norm(axis),
        brush_period_m=float(rng.uniform(0.0004, 0.0015)),
        blood=float(rng.uniform(0.05, 0.7 * hardness + 0.1)) if bloody else 0.0,
        blood_colour=palette["blood"] * float(rng.uniform(0.8, 2.0)),
        waves=np.column_stack([waves, rng.uniform(0, 2 * np.pi, 12)]).astype(np.float32),
    )


def mirror_finish(looks: MetalLooks) -> MetalLooks:
    """The same metal polished and clean: it shows its surroundings and nothing of itself."""
    return replace(looks, mirror=1.0, blur=0.0, brushed=0.0, blood=0.0)


def blood_looks(rng: np.random.Generator, palette: Palette) -> MetalLooks:
    """Blood as a surface of its own: dark, wet, no finish."""
    return MetalLooks(
        albedo=np.asarray(palette["blood"] * rng.uniform(0.5, 1.5), np.float32),
        mirror=float(rng.uniform(0.02, 0.15)),
        blur=float(rng.uniform(0.0, 0.5)),
        gloss=float(rng.uniform(0.5, 3.0)),
        sharpness=float(np.exp(rng.uniform(np.log(40.0), np.log(300.0)))),
        brushed=0.0,
        brush_axis=np.array([0.0, 0.0, 1.0]),
        brush_period_m=0.001,
        blood=0.0,
        blood_colour=palette["blood"],
        waves=np.zeros((12, 4), np.float32),
    )


def shade_metal(
    looks: MetalLooks,
    local_m: np.ndarray,
    normals: np.ndarray,
    R_world_local: np.ndarray,
    points_m: np.ndarray,
    eye_m: np.ndarray,
    lamps: tuple[Lamp, ...],
    lit: np.ndarray | None,
    ambient: np.ndarray,
    surroundings: Surroundings,
) -> np.ndarray:
    """Light (K, 3) of K points of one implant.

    local_m, normals (K, 3) in the implant's frame; points_m (K, 3) and eye_m in the world; lit
    (L, K) 0 to 1 per lamp or None.
    """
    local = local_m.astype(np.float32)
    n = normals.astype(np.float32).copy()
    if looks.brushed > 0.0:
        along = local @ looks.brush_axis.astype(np.float32) * np.float32(1.0 / looks.brush_period_m)
        groove = np.sin(2 * np.pi * along) + 0.7 * np.sin(2 * np.pi * 2.37 * along + 1.0)
        n += (looks.brushed * groove)[:, None] * looks.brush_axis.astype(np.float32)
    n = unit(n @ R_world_local.T.astype(np.float32))
    view = unit(points_m.astype(np.float32) - eye_m.astype(np.float32))
    away = np.einsum("kj,kj->k", n, view) > 0.0
    n[away] *= -1.0
    pattern = np.cos(local @ looks.waves[:, :3].T + looks.waves[:, 3]).sum(axis=1) / np.sqrt(6.0)
    edge = np.float32(1.5 - 3.0 * looks.blood)
    smear = np.clip((pattern - edge) / 0.25, 0.0, 1.0) if looks.blood > 0.0 else 0.0 * pattern
    smear = smear.astype(np.float32)
    mirror = looks.mirror * (1.0 - 0.85 * smear)
    albedo = looks.albedo * (1.0 - mirror)[:, None] * (1.0 - smear)[:, None]
    albedo = albedo + looks.blood_colour * smear[:, None]
    k = len(local)
    buffer = GBuffer.empty(1, k, np.zeros(3, np.float32))
    buffer.normal[0] = n
    buffer.albedo[0] = albedo
    buffer.gloss[0] = looks.gloss * (1.0 - 0.6 * smear)
    buffer.sharpness[:] = looks.sharpness
    radiance, _ = shade(
        buffer,
        points_m.astype(np.float32)[None],
        eye_m,
        lamps,
        None if lit is None else lit[:, None],
        ambient,
        np.ones((1, k), np.float32),
    )
    reflected = view - 2.0 * np.einsum("kj,kj->k", view, n)[:, None] * n
    facing = np.clip(-np.einsum("kj,kj->k", view, n), 0.0, 1.0)
    fresnel = mirror + (1.0 - mirror) * 0.5 * (1.0 - facing) ** 5
    seen = surroundings.look(reflected, looks.blur) * (0.3 + 0.7 * looks.albedo)
    return np.asarray(radiance[0] + fresnel[:, None] * seen, np.float32)
