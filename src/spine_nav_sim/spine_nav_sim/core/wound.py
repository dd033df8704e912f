# SPDX-License-Identifier: Apache-2.0
"""The opened wound as a height field over the spine: floor, wall, skin, drape, blood, gauze.

Wound frame: x to the patient's left, y posterior (height, towards the surgeon), z cranial; origin at
the middle of the exposed levels. Maps are (nz, nx) arrays on a regular grid of that frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from spine_nav_sim.core.materials import Palette, Texture, mix, random_texture

HALF_WIDTH_M = 0.105
END_M = 0.075  # how far the maps reach beyond the exposed levels
NOTHING = -1.0  # height where there is no bone


@dataclass(frozen=True)
class WoundStyle:
    """Drawn per scene; lengths in metres, fractions 0 to 1. See `random_style`."""

    visible_area_m2: float
    half_width: float
    wall: float
    fat: float
    end_margin: tuple[float, float]
    corner: float
    ridge: float
    ridge_width: float
    lateral_slope: float
    bump: float
    side_bias: float
    along_bias: float
    blood: float
    stain: float
    gauze: int
    drape_half: tuple[float, float]
    body_radius: float


def random_style(
    rng: np.random.Generator,
    visible_area_mm2: tuple[float, float],
    hardness: float,
    half_width_m: tuple[float, float] = (0.024, 0.048),
) -> WoundStyle:
    """A wound; `hardness` 0 to 1 covers more bone, adds bumps, blood and gauze."""
    low, high = visible_area_mm2
    return WoundStyle(
        visible_area_m2=1e-6 * (low + (high - low) * rng.beta(1.0 + hardness, 2.0 - hardness)),
        half_width=rng.uniform(*half_width_m),
        wall=rng.uniform(0.004, 0.014),
        fat=rng.uniform(0.008, 0.035),
        end_margin=(rng.uniform(-0.002, 0.02), rng.uniform(-0.002, 0.02)),
        corner=rng.uniform(2.0, 7.0),
        ridge=rng.uniform(0.0, 0.85),
        ridge_width=rng.uniform(0.003, 0.007),
        lateral_slope=rng.uniform(-0.15, 0.6),
        bump=rng.uniform(0.0008, 0.002 + 0.002 * hardness),
        side_bias=rng.normal(0.0, 0.001 + 0.002 * hardness),
        along_bias=rng.uniform(0.0, 0.001 + 0.003 * hardness),
        blood=rng.uniform(0.0, 0.1 + 0.3 * hardness),
        stain=rng.uniform(0.0, 0.4 + 0.5 * hardness),
        gauze=int(rng.integers(0, 3)) if rng.uniform() < 0.3 + 0.3 * hardness else 0,
        drape_half=(rng.uniform(0.045, 0.14), rng.uniform(0.01, 0.09)),
        body_radius=rng.uniform(0.15, 0.30),
    )


@dataclass(frozen=True)
class Drape:
    """Cloth round a rectangular window, drawn per pixel because it goes on beyond the maps."""

    half_x_m: float
    z_range_m: tuple[float, float]
    colour: np.ndarray
    edge: Texture
    weave: Texture

    def share(self, x_m: np.ndarray, z_m: np.ndarray) -> np.ndarray:
        """0 to 1: how much of the place is cloth, wound coordinates (H, W)."""
        low, high = self.z_range_m
        reach = np.maximum(np.abs(x_m) - self.half_x_m, np.maximum(low - z_m, z_m - high))
        reach = reach - 0.004 * self.edge.sample(x_m, z_m)
        return np.clip(reach / 0.0015 + 0.5, 0.0, 1.0)


@dataclass(frozen=True)
class Wound:
    """Height field with its colours. `height_m` (nz, nx) is the y of the surface; `albedo`
    (nz, nx, 3) linear RGB; `gloss` (nz, nx) highlight strength; `light` (nz, nx) ambient share
    that reaches the place; x0_m, z0_m the first cell; `drapable` (nz, nx) 1 where cloth
    may lie; mesh: vertices (N, 3), faces (M, 3)."""

    x0_m: float
    z0_m: float
    step_m: float
    height_m: np.ndarray
    albedo: np.ndarray
    gloss: np.ndarray
    light: np.ndarray
    vertices_m: np.ndarray
    faces: np.ndarray
    half_width_m: float
    z_range_m: tuple[float, float]
    skin_y_m: float
    fibre: Texture
    drape: Drape
    drapable: np.ndarray

    def cells(self, x_m: np.ndarray, z_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fractional (column, row) of wound coordinates, float32, for cv2.remap."""
        u = ((x_m - self.x0_m) / self.step_m).astype(np.float32)
        v = ((z_m - self.z0_m) / self.step_m).astype(np.float32)
        return u, v

    def sample(self, layer: np.ndarray, x_m: np.ndarray, z_m: np.ndarray) -> np.ndarray:
        """A map at wound coordinates (H, W); beyond its rim the rim goes on."""
        u, v = self.cells(x_m, z_m)
        return np.asarray(cv2.remap(layer, u, v, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE))


def wound_frame(centroids_m: np.ndarray, posterior: np.ndarray) -> np.ndarray:
    """T_world_wound (4, 4) from the exposed levels' centroids (N, 3), cranial first, a single one
    means that the spine runs along the world's z."""
    z = centroids_m[0] - centroids_m[-1] if len(centroids_m) > 1 else np.array([0.0, 0.0, 1.0])
    z = z / np.linalg.norm(z)
    y = posterior - z * (posterior @ z)
    y /= np.linalg.norm(y)
    T = np.eye(4)
    T[:3, :3] = np.column_stack([np.cross(y, z), y, z])
    T[:3, 3] = centroids_m.mean(axis=0)
    return T


def top_map(
    points_m: np.ndarray, x0_m: float, z0_m: float, step_m: float, shape: tuple[int, int]
) -> np.ndarray:
    """Highest y of the points (N, 3) per cell, small gaps closed; NOTHING where there is none."""
    u = np.rint((points_m[:, 0] - x0_m) / step_m).astype(np.int64)
    v = np.rint((points_m[:, 2] - z0_m) / step_m).astype(np.int64)
    inside = (u >= 0) & (u < shape[1]) & (v >= 0) & (v < shape[0])
    top = np.full(shape[0] * shape[1], NOTHING, np.float32)
    np.maximum.at(top, v[inside] * shape[1] + u[inside], points_m[inside, 1].astype(np.float32))
    return cv2.morphologyEx(top.reshape(shape), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))


def _profile(values: np.ndarray, mask: np.ndarray, reduce: str, sigma: float) -> np.ndarray:
    """Per row a statistic of masked values, gaps filled from the neighbours, smoothed."""
    masked = np.where(mask & (values > NOTHING + 0.5), values, np.nan)
    with np.errstate(all="ignore"):
        known = np.isfinite(masked).sum(axis=1) >= 3
        row = np.full(len(values), np.nan)
        if not known.any():
            raise ValueError("wound: no bone lies under the opening; check the meshes' frame (LPS)")
        function = np.nanmedian if reduce == "median" else np.nanmax
        row[known] = function(masked[known], axis=1)
    index = np.arange(len(row))
    filled = np.interp(index, index[known], row[known])
    return np.asarray(gaussian_filter1d(filled, sigma, mode="nearest"))


def _noise(rng: np.random.Generator, x: np.ndarray, z: np.ndarray, period_m: float) -> np.ndarray:
    return random_texture(rng, (period_m, 1.3 * period_m)).sample(x, z)


@dataclass(frozen=True)
class _Ground:
    """The grid of the maps: (nz, nx) coordinates in metres. dx is x from the spine's midline,
    inside the distance to the opening's wall, positive within."""

    x: np.ndarray
    z: np.ndarray
    dx: np.ndarray
    inside: np.ndarray
    step_m: float
    style: WoundStyle
    palette: Palette
    rng: np.random.Generator

    def noise(self, period_m: float) -> np.ndarray:
        """A fresh random texture over the grid."""
        return _noise(self.rng, self.x, self.z, period_m)

    def blur(self, layer: np.ndarray, sigma_m: float) -> np.ndarray:
        """Gaussian blur of a map."""
        return np.asarray(cv2.GaussianBlur(layer, (0, 0), sigma_m / self.step_m))


@dataclass(frozen=True)
class _Layers:
    height: np.ndarray
    albedo: np.ndarray
    gloss: np.ndarray


def build_wound(
    surfaces_m: dict[str, np.ndarray],
    exposed: tuple[str, ...],
    midline_m: np.ndarray,
    z_range_m: tuple[float, float],
    style: WoundStyle,
    palette: Palette,
    rng: np.random.Generator,
    step_m: float = 0.0015,
) -> Wound:
    """Lay tissue over the bones.

    surfaces_m: per level densely sampled surface points (N, 3) in the wound frame, metres.
    midline_m: (K, 2) z, x of the levels' centroids, z rising. z_range_m: extent of the exposed
    posterior elements along z. The floor is shifted up or down until the mean visible bone per
    exposed level, seen from posterior, is `style.visible_area_m2` (or all there is).
    Raises ValueError when there is no bone under the opening.
    """
    z_lo, z_hi = z_range_m
    x_axis = np.arange(-HALF_WIDTH_M, HALF_WIDTH_M + step_m, step_m)
    z_axis = np.arange(z_lo - END_M, z_hi + END_M + step_m, step_m)
    shape = (len(z_axis), len(x_axis))
    tops = {
        level: top_map(points, x_axis[0], z_axis[0], step_m, shape)
        for level, points in surfaces_m.items()
    }
    top = np.max(list(tops.values()), axis=0)
    opening = (z_lo - style.end_margin[0], z_hi + style.end_margin[1])
    ground = _ground(x_axis, z_axis, midline_m, opening, style, palette, rng, step_m)
    floor, tip, pool = _floor(ground, top, z_range_m)
    reach = ground.inside > 0.5 * style.wall
    floor = floor + _cover(tops, exposed, floor, reach, style.visible_area_m2, step_m)

    skin = _skin(ground, tip, z_axis)
    share = np.clip(ground.inside / style.wall + 0.5, 0.0, 1.0)
    share = ground.blur((share * share * (3.0 - 2.0 * share)).astype(np.float32), 0.0008)
    height = (share * floor + (1.0 - share) * skin).astype(np.float32)
    layers = _colours(ground, height, skin, share, pool)
    drape, clear, lift = _drape(ground, z_range_m)
    layers = _gauze(ground, _Layers(layers.height + lift, layers.albedo, layers.gloss))
    height, albedo, gloss = (
        _calm_rim(layer, step_m) for layer in (layers.height, layers.albedo, layers.gloss)
    )
    surface = np.maximum(height, top)
    light = 1.0 - (ground.blur(surface, 0.009) - surface) / 0.035
    vertices, faces = _mesh(x_axis, z_axis, height, style)
    return Wound(
        x0_m=float(x_axis[0]),
        z0_m=float(z_axis[0]),
        step_m=step_m,
        height_m=height,
        albedo=albedo,
        gloss=gloss,
        light=np.clip(light, 0.25, 1.1).astype(np.float32),
        vertices_m=vertices,
        faces=faces,
        half_width_m=style.half_width,
        z_range_m=opening,
        skin_y_m=float(skin[shape[0] // 2, shape[1] // 2]),
        fibre=random_texture(rng, (0.03, 0.08), squeeze=0.35),
        drape=drape,
        drapable=_calm_rim(clear, step_m),
    )


def _ground(
    x_axis: np.ndarray,
    z_axis: np.ndarray,
    midline_m: np.ndarray,
    opening: tuple[float, float],
    style: WoundStyle,
    palette: Palette,
    rng: np.random.Generator,
    step_m: float,
) -> _Ground:
    """The grid with the opening: a superellipse along the spine with a ragged rim."""
    x, z = (a.astype(np.float32) for a in np.meshgrid(x_axis, z_axis))
    dx = x - np.interp(z_axis, midline_m[:, 0], midline_m[:, 1])[:, None].astype(np.float32)
    ragged = cv2.GaussianBlur(_noise(rng, x, z, 0.3), (0, 0), 0.005 / step_m)
    rim = style.half_width * (1.0 + 0.07 * ragged)
    along = (z - 0.5 * sum(opening)) / (0.5 * (opening[1] - opening[0]))
    radial = np.abs(dx / rim) ** style.corner + np.abs(along) ** style.corner
    inside = (1.0 - radial ** (1.0 / style.corner)) * rim
    return _Ground(x, z, dx, inside, step_m, style, palette, rng)


def _floor(
    ground: _Ground, top: np.ndarray, z_range_m: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Height of the wound's floor up to a shift, profile (nz,) of the spinous tips, blood pools."""
    style, dx, px = ground.style, ground.dx, 1e-3 / ground.step_m
    beside = (np.abs(dx) > 0.005) & (np.abs(dx) < 0.016)
    lamina = _profile(top, beside, "median", 10 * px)
    tip = np.maximum(_profile(top, np.abs(dx) < 0.006, "max", 8 * px), lamina + 0.002)
    ridge = style.ridge * np.exp(-((dx / style.ridge_width) ** 2))
    floor = lamina[:, None] + ridge * (tip - lamina)[:, None]
    floor += style.lateral_slope * np.maximum(np.abs(dx) - 0.022, 0.0)
    floor += style.bump * ground.noise(0.12) + 0.25 * style.bump * ground.noise(0.04)
    floor += style.side_bias * np.tanh(dx / 0.01) + style.along_bias * ground.noise(0.5)
    outside = np.maximum(np.maximum(z_range_m[0] - ground.z, ground.z - z_range_m[1]), 0.0)
    floor += np.minimum(outside * 0.6, 0.01)  # neighbours stay covered but for their tips
    smooth = ground.blur(floor.astype(np.float32), 0.010)
    hollow = floor - smooth
    within = ground.inside > 0.002
    line = np.quantile(hollow[within], style.blood)
    pool = within & (hollow < line)
    return np.where(pool, smooth + line, floor).astype(np.float32), tip, pool


def _cover(
    tops: dict[str, np.ndarray],
    exposed: tuple[str, ...],
    floor: np.ndarray,
    opening: np.ndarray,
    area_m2: float,
    step_m: float,
) -> float:
    """Shift of the floor that leaves `area_m2` of bone visible per exposed level, by bisection."""
    rises = [(tops[level] - floor)[opening] for level in exposed]
    wanted = area_m2 / step_m**2
    low, high = -0.02, 0.02
    for _ in range(20):
        shift = 0.5 * (low + high)
        # A broad sacrum must not pay for vertebrae that stay buried.
        seen = [min(float(np.count_nonzero(rise > shift)), 1.6 * wanted) for rise in rises]
        if sum(seen) > wanted * len(rises):
            low = shift
        else:
            high = shift
    return 0.5 * (low + high)


def _skin(ground: _Ground, tip: np.ndarray, z_axis: np.ndarray) -> np.ndarray:
    """Height of the intact skin: over the spinous tips, curved along and across the back."""
    line = np.polyval(np.polyfit(z_axis, tip, 2), z_axis)
    line += np.max(tip - line) + ground.style.fat
    return np.asarray(line[:, None] - _body_drop(ground.x, ground.style))


def _body_drop(x: np.ndarray, style: WoundStyle) -> np.ndarray:
    radius = style.body_radius
    inner = np.minimum(np.abs(x), 0.95 * radius)
    return np.asarray(radius - np.sqrt(radius**2 - inner**2))


def _colours(
    ground: _Ground, height: np.ndarray, skin: np.ndarray, open_share: np.ndarray, pool: np.ndarray
) -> _Layers:
    """Looks of floor, wall and skin."""
    style, palette, rng, noise = ground.style, ground.palette, ground.rng, ground.noise
    muscle = palette["muscle"] * (1.0 + 0.25 * noise(0.15))[..., None]
    fibres = random_texture(rng, (0.02, 0.05), squeeze=0.3).sample(ground.x, ground.z)
    muscle = np.clip(muscle * (1.0 + 0.25 * fibres)[..., None], 0.003, 0.9)
    tendon = np.clip(0.5 * noise(0.2) - 0.4, 0.0, 0.7)
    albedo = mix(muscle, palette["ligament"], tendon * rng.uniform(0.2, 1.0))
    middle = np.exp(-((ground.dx / (1.3 * style.ridge_width)) ** 2)) * rng.uniform(0.0, 0.9)
    albedo = mix(albedo, palette["ligament"], middle.astype(np.float32))
    depth = skin - height
    fat = np.clip((0.8 * style.fat - depth) / 0.003 + 0.4 * noise(0.2), 0.0, 1.0)
    albedo = mix(albedo, palette["fat"] * (1 + 0.15 * noise(0.08))[..., None], fat)
    stain = np.clip(0.8 * noise(0.18) - 1.2 + 1.6 * style.stain, 0.0, 0.9)
    albedo = mix(albedo, palette["blood"], np.where(pool, 1.0, stain * (open_share > 0.02)))
    gloss = np.where(pool, 1.6 * palette.wetness + 0.4, palette.wetness * (1.0 - 0.5 * fat))
    skin_share = np.clip((0.0025 - depth) / 0.0015, 0.0, 1.0)
    albedo = mix(albedo, palette["skin"] * (1.0 + 0.06 * noise(0.25))[..., None], skin_share)
    return _Layers(height, albedo, gloss * (1.0 - 0.8 * skin_share))


def _drape(ground: _Ground, z_range: tuple[float, float]) -> tuple[Drape, np.ndarray, np.ndarray]:
    """The cloth, where it may lie (nz, nx) and by how much it lifts the surface (nz, nx)."""
    # The cloth must not fall into the wound where the window is narrower than the opening.
    clear = np.clip((-ground.inside - 0.004) / 0.003, 0.0, 1.0).astype(np.float32)
    half_x, end = ground.style.drape_half
    drape = Drape(
        half_x,
        (z_range[0] - end, z_range[1] + end),
        ground.palette["drape"],
        random_texture(ground.rng, (0.4, 0.8)),
        random_texture(ground.rng, (0.015, 0.03)),
    )
    folds = 0.0025 + 0.0012 * ground.noise(0.35)
    lift = drape.share(ground.x, ground.z) * clear * folds
    return drape, clear, lift.astype(np.float32)


def _gauze(ground: _Ground, layers: _Layers) -> _Layers:
    """Swabs tucked against the wall."""
    x, z, rng, palette = ground.x, ground.z, ground.rng, ground.palette
    height, albedo, gloss = layers.height, layers.albedo, layers.gloss
    for _ in range(ground.style.gauze):
        side = rng.choice([-1.0, 1.0])
        centre_x = side * (ground.style.half_width + rng.uniform(-0.016, 0.02))
        centre_z = rng.uniform(z.min() + END_M, z.max() - END_M)
        turn = rng.uniform(0.0, np.pi)
        c, s = np.cos(turn), np.sin(turn)
        u, v = c * (x - centre_x) + s * (z - centre_z), -s * (x - centre_x) + c * (z - centre_z)
        half = rng.uniform(0.008, 0.022, 2)
        edge = np.maximum(np.abs(u) - half[0], np.abs(v) - half[1]) + 0.002 * ground.noise(0.1)
        share = np.clip(-edge / 0.002 + 0.5, 0.0, 1.0).astype(np.float32)
        pile = ground.blur(height, 0.003) + 0.002 + 0.0012 * ground.noise(0.1)
        height = height * (1.0 - share) + np.maximum(pile, height) * share
        soaked = np.clip(0.5 * ground.noise(0.15) + rng.uniform(-0.6, 0.6), 0.0, 0.9)
        weave = palette["gauze"] * (1 + 0.08 * ground.noise(0.012))[..., None]
        albedo = mix(albedo, mix(weave, palette["blood"] * 2.0, soaked), share)
        gloss = gloss * (1.0 - 0.8 * share)
    return _Layers(height.astype(np.float32), albedo, gloss)


def _calm_rim(layer: np.ndarray, step_m: float) -> np.ndarray:
    """Fade detail out towards the rim, which goes on for ever beyond the map."""
    layer = layer.astype(np.float32)
    calm = cv2.GaussianBlur(layer, (0, 0), 0.02 / step_m)
    rows, columns = (np.minimum(np.arange(n), np.arange(n)[::-1]) * step_m for n in layer.shape[:2])
    share = np.clip(1.0 - np.minimum(rows[:, None], columns[None, :]) / 0.015, 0.0, 1.0)
    share = share.astype(np.float32)
    return mix(layer, calm, share) if layer.ndim == 3 else layer + share * (calm - layer)


def _mesh(
    x_axis: np.ndarray, z_axis: np.ndarray, height: np.ndarray, style: WoundStyle
) -> tuple[np.ndarray, np.ndarray]:
    """Triangles of the height field, with a coarse skirt for the rest of the patient."""
    steps = np.array([0.02, 0.05, 0.09, 0.15, 0.25, 0.5])
    xs = np.concatenate([x_axis[0] - steps[::-1], x_axis, x_axis[-1] + steps])
    zs = np.concatenate([z_axis[0] - steps[::-1], z_axis, z_axis[-1] + steps])
    full = np.pad(height, len(steps), mode="edge").astype(np.float64)
    full -= np.maximum(_body_drop(xs, style) - _body_drop(x_axis[-1:], style), 0.0)[None, :]
    grid_x, grid_z = np.meshgrid(xs, zs)
    vertices = np.column_stack([grid_x.ravel(), full.ravel(), grid_z.ravel()])
    n = len(xs)
    corner = (np.arange(len(zs) - 1)[:, None] * n + np.arange(n - 1)[None, :]).ravel()
    faces = np.concatenate(
        [
            np.column_stack([corner, corner + n, corner + 1]),
            np.column_stack([corner + 1, corner + n, corner + n + 1]),
        ]
    )
    return vertices, faces.astype(np.int32)
