# SPDX-License-Identifier: Apache-2.0
"""What one rendered view is turned into before the network sees it: sensor faults, occluders, colour.

All on the grid (size, size), in metres and 0..1 colours, with an injected generator.
"""

from __future__ import annotations

import cv2
import numpy as np

Rng = np.random.Generator


def smooth_noise(rng: Rng, size: int, cells: float) -> np.ndarray:
    """Unit-variance noise field (size, size) float32, correlated over about `cells` cells."""
    n = max(2, int(np.ceil(size / cells)) + 2)
    coarse = rng.standard_normal((n, n), dtype=np.float32)
    field = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return field / max(float(field.std()), 1e-6)


def warp_jitter(rng: Rng, u: np.ndarray, v: np.ndarray, scale: float) -> tuple:
    """Depth comes from slightly the wrong pixel near edges: matched windows, misaligned sensors."""
    if rng.random() < 0.4:
        return u, v
    size = u.shape[0]
    amount = rng.uniform(0.0, 1.2) * scale
    shift = rng.normal(0.0, 0.5, 2) * scale
    fields = [smooth_noise(rng, size, rng.uniform(1.5, 6.0)) * amount for _ in range(2)]
    return u + fields[0] + np.float32(shift[0]), v + fields[1] + np.float32(shift[1])


def degrade_depth(rng: Rng, depth_m: np.ndarray) -> np.ndarray:
    """Noise, bias, smoothing, quantisation and holes of a structured-light or stereo camera."""
    size = depth_m.shape[0]
    depth = depth_m.copy()
    if rng.random() < 0.4:
        depth = _nan_blur(depth, int(rng.choice([3, 3, 5])))
    reference = float(np.nanmedian(depth)) if np.isfinite(depth).any() else 0.5
    grain = rng.uniform(0.0, 0.0008) * rng.standard_normal(depth.shape, dtype=np.float32)
    clump = rng.uniform(0.0, 0.0018) * smooth_noise(rng, size, rng.uniform(1.5, 7.0))
    swell = rng.uniform(0.0, 0.0020) * smooth_noise(rng, size, rng.uniform(15.0, 60.0))
    strength = (depth / reference) ** 2 if reference > 0 else 1.0
    depth = depth * np.float32(1.0 + rng.normal(0.0, 0.004)) + (grain + clump + swell) * strength
    if rng.random() < 0.5:
        depth = np.round(depth * 1000.0) / 1000.0
    if rng.random() < 0.6:
        level = rng.uniform(1.3, 3.0)
        depth[smooth_noise(rng, size, rng.uniform(2.0, 14.0)) > level] = np.nan
    if rng.random() < 0.3:
        depth[rng.random(depth.shape) < rng.uniform(0.0, 0.15)] = np.nan
    if rng.random() < 0.5:
        # Steep surfaces and edges give no match.
        dx = np.abs(cv2.Sobel(depth, cv2.CV_32F, 1, 0, ksize=3, scale=0.125))
        dy = np.abs(cv2.Sobel(depth, cv2.CV_32F, 0, 1, ksize=3, scale=0.125))
        with np.errstate(invalid="ignore"):
            depth[dx + dy > rng.uniform(0.003, 0.012)] = np.nan
    return depth.astype(np.float32)


def add_occluders(
    rng: Rng, depth_m: np.ndarray, colour: np.ndarray, label: np.ndarray, pitch_m: float
) -> None:
    """In place: polygons nearer than the scene, with label 0 (hands, tools, suction)."""
    size = depth_m.shape[0]
    if rng.random() < 0.6 or not np.isfinite(depth_m).any():
        return
    near = float(np.nanmin(depth_m))
    for _ in range(rng.integers(1, 4)):
        centre = rng.uniform(0, size, 2)
        if rng.random() < 0.5:
            angle = rng.uniform(0, np.pi)
            along = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(20, 90) / 1000 / pitch_m
            across = np.array([-np.sin(angle), np.cos(angle)]) * rng.uniform(2, 12) / 1000 / pitch_m
            corners = np.array(
                [centre + a * along + b * across for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            )
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(4, 9)))
            radii = rng.uniform(5, 45, len(angles)) / 1000 / pitch_m
            corners = centre + radii[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
        mask = np.zeros((size, size), np.uint8)
        cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 1)
        inside = mask > 0
        tilt = rng.normal(0, 0.0006, 2)
        i, j = np.nonzero(inside)
        if not len(i):
            continue
        height = near - rng.uniform(0.0, 0.12) + tilt[0] * (i - i.mean()) + tilt[1] * (j - j.mean())
        depth_m[inside] = (
            np.nan
            if rng.random() < 0.2
            else np.minimum(np.nan_to_num(depth_m[inside], nan=9.0), height)
        )
        base = rng.uniform(0, 1, 3) if rng.random() < 0.7 else np.full(3, rng.uniform(0.3, 1.0))
        colour[inside] = np.clip(base + rng.normal(0, 0.04, (len(i), 3)), 0, 1)
        label[inside] = 0


def add_implants(
    rng: Rng, depth_m: np.ndarray, colour: np.ndarray, label: np.ndarray, pitch_m: float
) -> None:
    """In place, sometimes: screw heads on the bone, and rods between them, with label 0.

    They are what a wound holds after the first screw: discs with a channel, 8 to 22 mm above the
    bone, of bare or anodised metal, which depth cameras see badly."""
    bone = np.argwhere((label > 0) & np.isfinite(depth_m))
    if rng.random() < 0.7 or len(bone) < 20:
        return
    size = depth_m.shape[0]
    i, j = np.mgrid[:size, :size]
    tint = rng.uniform(0.35, 0.9) * np.ones(3)
    if rng.random() < 0.4:
        tint = tint * (0.4 + 1.8 * rng.dirichlet([1.5, 1.5, 1.5]))
    radius, slot = rng.uniform(0.0055, 0.0075) / pitch_m, rng.uniform(0.0024, 0.0032) / pitch_m
    lost, way = rng.uniform(0.0, 0.5), rng.uniform(0, np.pi)
    heads = bone[rng.integers(len(bone), size=rng.integers(1, 9))]
    tops = depth_m[heads[:, 0], heads[:, 1]] - rng.uniform(0.008, 0.022, len(heads))
    for (row, column), top in zip(heads, tops, strict=True):
        y, x = i - row, j - column
        turn = way + rng.normal(0.0, 0.3)
        across = np.abs(y * np.cos(turn) - x * np.sin(turn))
        inside = np.hypot(y, x) < radius
        height = np.where(across < slot, top + 0.006, top)
        _metal(rng, depth_m, colour, label, inside, height, tint, lost)
    if len(heads) > 1 and rng.random() < 0.6:
        (r0, c0), (r1, c1) = heads[:2]
        length = max(float(np.hypot(r1 - r0, c1 - c0)), 1e-3)
        along = ((i - r0) * (r1 - r0) + (j - c0) * (c1 - c0)) / length
        across = np.abs((i - r0) * (c1 - c0) - (j - c0) * (r1 - r0)) / length
        over = rng.uniform(0.005, 0.02) / pitch_m
        inside = (across < 0.0028 / pitch_m) & (along > -over) & (along < length + over)
        height = tops[0] + (tops[1] - tops[0]) * along / length
        _metal(rng, depth_m, colour, label, inside, height, tint, lost)


def _metal(
    rng: Rng,
    depth_m: np.ndarray,
    colour: np.ndarray,
    label: np.ndarray,
    inside: np.ndarray,
    height_m: np.ndarray,
    tint: np.ndarray,
    lost: float,
) -> None:
    """In place: a thing of metal where it is nearer than what is there; a share without depth."""
    inside = inside & ~(depth_m < height_m)
    n = int(inside.sum())
    if not n:
        return
    seen = height_m[inside] + rng.normal(0.0, 0.0006, n)
    depth_m[inside] = np.where(rng.random(n) < lost, np.nan, seen)
    row, column = np.nonzero(inside)
    slope = rng.normal(0.0, 0.06, 2)  # of the light over the thing
    shine = 0.6 + slope[0] * (row - row.mean()) + slope[1] * (column - column.mean())
    shine = np.clip(shine + rng.normal(0.0, 0.06, n), 0.05, 1.6)[:, None]
    colour[inside] = np.clip(tint * shine, 0.0, 1.0)
    label[inside] = 0


def add_blood(rng: Rng, depth_m: np.ndarray, colour: np.ndarray, label: np.ndarray) -> None:
    """In place, sometimes: blood or water stands in the deep of the wound, level and shining."""
    bone = (label > 0) & np.isfinite(depth_m)
    if rng.random() < 0.75 or bone.sum() < 20:
        return
    size = depth_m.shape[0]
    i, j = np.mgrid[:size, :size] / size - 0.5
    level = float(np.quantile(depth_m[bone], rng.uniform(0.55, 0.98)))
    tilt = rng.normal(0.0, 0.01, 2)
    surface = level + tilt[0] * i + tilt[1] * j
    wound = cv2.dilate(bone.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    under = wound & (depth_m > surface)
    red = np.array([rng.uniform(0.12, 0.5), rng.uniform(0.0, 0.08), rng.uniform(0.0, 0.09)])
    clear = rng.uniform(0.0, 0.4)  # of what lies below is seen through it
    noise = rng.normal(0.0, rng.uniform(0.0003, 0.0015), depth_m.shape).astype(np.float32)
    depth_m[under] = (surface + noise)[under]
    colour[under] = clear * colour[under] + (1 - clear) * red.astype(np.float32)
    label[under] = 0


def add_glints(rng: Rng, depth_m: np.ndarray, colour: np.ndarray, label: np.ndarray) -> None:
    """In place, sometimes: wet places that reflect a lamp: white, and without depth or with a
    wrong one."""
    wet = np.argwhere(label > 0)
    if rng.random() < 0.5 or not len(wet):
        return
    spots = np.zeros(depth_m.shape, np.float32)
    for row, column in wet[rng.integers(len(wet), size=rng.integers(1, 40))]:
        axes = (float(rng.uniform(0.5, 3.0)), float(rng.uniform(0.5, 3.0)))
        at = (float(column + rng.normal(0, 2)), float(row + rng.normal(0, 2)))
        cv2.ellipse(spots, (at, axes, float(rng.uniform(0, 180))), 1.0, -1)
    shine = np.clip(cv2.GaussianBlur(spots, (0, 0), rng.uniform(0.4, 1.2)), 0.0, 1.0)[..., None]
    colour += (rng.uniform(0.8, 1.0) - colour) * shine
    blind = (shine[..., 0] > 0.5) & (rng.random(depth_m.shape) < rng.uniform(0.0, 1.0))
    if rng.random() < 0.7:
        depth_m[blind] = np.nan
    else:
        depth_m[blind] += rng.normal(0.0, 0.004, int(blind.sum())).astype(np.float32)


def crop_out(rng: Rng, depth_m: np.ndarray, colour: np.ndarray, label: np.ndarray) -> None:
    """In place, sometimes: nothing beyond a random edge, as where the patient or the range ends."""
    if rng.random() < 0.7:
        return
    size = depth_m.shape[0]
    i, j = np.mgrid[:size, :size] - 0.5 * size
    for _ in range(rng.integers(1, 4)):
        angle = rng.uniform(0, 2 * np.pi)
        beyond = i * np.sin(angle) + j * np.cos(angle) > rng.uniform(0.2, 0.55) * size
        depth_m[beyond] = np.nan
        if rng.random() < 0.7:
            colour[beyond] = 0.0
        label[beyond] = 0


def shift_colour(rng: Rng, colour: np.ndarray) -> np.ndarray:
    """Colour must not be trusted: gains, gamma, hue turns, channel swaps, grey, or nothing at all."""
    draw = rng.random()
    if draw < 0.2:
        return np.full_like(colour, 0.5)  # zero after the network's normalisation
    out = colour
    if draw < 0.35:
        out = np.repeat(out.mean(axis=2, keepdims=True), 3, axis=2)
    elif draw < 0.5:
        out = out[..., rng.permutation(3)]
    elif draw < 0.7:
        mix = np.eye(3) + rng.normal(0, 0.15, (3, 3))
        out = out @ (mix / mix.sum(axis=1, keepdims=True)).T.astype(np.float32)
    gain = rng.uniform(0.6, 1.5) * rng.uniform(0.85, 1.15, 3)
    out = np.clip(out * gain.astype(np.float32), 0.0, 1.0) ** np.float32(rng.uniform(0.6, 1.6))
    if rng.random() < 0.5:
        light = 1.0 + rng.uniform(0.0, 0.3) * smooth_noise(rng, colour.shape[0], 50.0)
        out = out * light[..., None]
    if rng.random() < 0.3:
        k = int(rng.choice([3, 5]))
        out = cv2.blur(np.ascontiguousarray(out, dtype=np.float32), (k, k))
    out = out + np.float32(rng.uniform(0, 0.05)) * rng.standard_normal(out.shape, dtype=np.float32)
    return np.clip(out, 0.0, 1.0).astype(np.float32)


def _nan_blur(depth: np.ndarray, k: int) -> np.ndarray:
    valid = np.isfinite(depth)
    mask = valid.astype(np.float32)
    total = cv2.blur(np.where(valid, depth, 0.0).astype(np.float32), (k, k))
    mean = total / np.maximum(cv2.blur(mask, (k, k)), 1e-6)
    return np.where(valid, mean, np.nan).astype(np.float32)
