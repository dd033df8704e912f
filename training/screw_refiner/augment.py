# SPDX-License-Identifier: Apache-2.0
"""What may happen to a pair of crops on the way: light, lens, sensor, glare, blood, covers.

All functions take grey crops (B, 2, n, n) float32 in 0..255 and work on the whole batch at once.
The generator's pictures have all of this already; this only keeps a net from learning them by heart.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.shots import Shot, coded, lens, random_shot


def photometric(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Changed crops and covered (B,): whether the middle is covered in both eyes."""
    x = x.copy()
    x = _glare(x, rng)
    x = _blood(x, rng)
    x, covered = _cover(x, rng)
    x = _blur(x, rng)
    shots = [random_shot(rng) for _ in x]
    for crop, shot in zip(x, shots, strict=True):
        for eye in (0, 1):
            crop[eye] = lens(crop[eye], _in_crops(shot), eye)
    x = _sensor(x, rng)
    for crop, shot in zip(x, shots, strict=True):
        for eye in (0, 1):
            crop[eye] = coded(crop[eye], shot)
    return x, covered


def _in_crops(shot: Shot) -> Shot:
    """A crop is a small part of a picture, magnified or not: blur is even and half as wide."""
    blur = tuple(0.5 * s * float(np.clip(shot.slope[0] + 0.5, 0.0, 1.0)) for s in shot.defocus_px)
    return replace(shot, defocus_px=blur, slope=(1.0, 0.0, 0.0), motion_px=0.5 * shot.motion_px)


def _both(rng: np.random.Generator, b: int, sigma: float, own: float) -> np.ndarray:
    """(B, 2) normal numbers that the eyes share but for a part `own`."""
    return rng.normal(0, sigma, (b, 1)) + rng.normal(0, own, (b, 2))


def _chosen(rng: np.random.Generator, b: int, share: float) -> np.ndarray:
    """(B, 2) bool: `share` of the crops, most in both eyes, some in one."""
    eye = rng.random((b, 2)) < 0.75
    return (rng.random((b, 1)) < share) & eye


def _ellipse(
    shape: tuple[int, ...], rng: np.random.Generator, low: float, high: float
) -> np.ndarray:
    """(k, 2, n, n) squared distance in half axes from an ellipse that the eyes see a bit apart."""
    k, _, n, _ = shape
    grid = (np.arange(n) - (n - 1) / 2).astype(np.float32)
    u0 = _both(rng, k, n / 3.5, 1.5).astype(np.float32)[..., None, None]
    v0 = np.repeat(rng.normal(0, n / 3.5, (k, 1)), 2, axis=1).astype(np.float32)[..., None, None]
    angle = rng.uniform(0, np.pi, (k, 1, 1, 1)).astype(np.float32)
    a, b = (rng.uniform(low, high, (k, 1, 1, 1)).astype(np.float32) for _ in range(2))
    u, v = grid[None, None, None, :] - u0, grid[None, None, :, None] - v0
    c, s = np.cos(angle), np.sin(angle)
    return ((c * u + s * v) / a) ** 2 + ((c * v - s * u) / b) ** 2


def _glare(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    on = _chosen(rng, len(x), 0.08)
    rows = np.flatnonzero(on.any(axis=1))
    if len(rows):
        shine = np.exp(-_ellipse(x[rows].shape, rng, 1.5, 8.0))
        height = rng.uniform(60, 400, (len(rows), 2, 1, 1)) * on[rows, :, None, None]
        x[rows] = np.minimum(x[rows] + (height * shine).astype(np.float32), 255.0)
    return x


def _blood(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    on = _chosen(rng, len(x), 0.08)
    rows = np.flatnonzero(on.any(axis=1))
    if len(rows):
        inside = np.clip(4.0 * (1.0 - _ellipse(x[rows].shape, rng, 2.0, 12.0)), 0.0, 1.0)
        depth = rng.uniform(0.3, 1.0, (len(rows), 1, 1, 1)) * on[rows, :, None, None]
        grey = rng.uniform(10, 70, (len(rows), 1, 1, 1))
        mix = (depth * inside).astype(np.float32)
        x[rows] += mix * (grey.astype(np.float32) - x[rows])
    return x


def _cover(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A straight-edged thing nearer than the crop's plane: it shows disparity of its own."""
    b, _, n, _ = x.shape
    covered = np.zeros(b, bool)
    on = _chosen(rng, b, 0.06)
    rows = np.flatnonzero(on.any(axis=1))
    if not len(rows):
        return x, covered
    k = len(rows)
    grid = (np.arange(n) - (n - 1) / 2).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi, (k, 1)).astype(np.float32)
    width = rng.uniform(3, 12, (k, 1)).astype(np.float32)
    place = (rng.choice([-1, 1], (k, 1)) * rng.uniform(0, n / 2, (k, 1))).astype(np.float32)
    near = np.array([[0.5, -0.5]]) * rng.uniform(0, 14, (k, 1))  # a nearer thing has more disparity
    c, s = np.cos(angle)[..., None, None], np.sin(angle)[..., None, None]
    u = grid[None, None, None, :] - near.astype(np.float32)[..., None, None]
    across = c * u + s * grid[None, None, :, None] - place[..., None, None]
    along = c * grid[None, None, :, None] - s * u
    inside = np.clip(width[..., None, None] + 0.5 - np.abs(across), 0.0, 1.0)
    inside = inside * on[rows, :, None, None]
    shade = rng.uniform(10, 220, (k, 1, 1, 1)) + rng.normal(0, 25, (k, 1, 1, 1)) * np.cos(
        across / width[..., None, None] * 1.5 + along * rng.uniform(-0.3, 0.3, (k, 1, 1, 1))
    )
    x[rows] += (inside * (shade - x[rows])).astype(np.float32)
    x[rows] = np.clip(x[rows], 0.0, 255.0)
    middle = slice(n // 2 - n // 6, n // 2 + n // 6)
    covered[rows] = inside[:, :, middle, middle].mean(axis=(2, 3)).min(axis=1) > 0.7
    return x, covered


def _blur(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    strength = rng.uniform(0, 1, (len(x), 2)) * (rng.random((len(x), 1)) < 0.2)
    rows = np.flatnonzero(strength.any(axis=1))
    y = x[rows]
    for _ in range(2):
        p = np.pad(y, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
        p = 0.25 * (p[:, :, :-2] + p[:, :, 2:]) + 0.5 * p[:, :, 1:-1]
        y = 0.25 * (p[..., :-2] + p[..., 2:]) + 0.5 * p[..., 1:-1]
    mix = strength[rows].astype(np.float32)[..., None, None]
    x[rows] += mix * (y - x[rows])
    return x


def _sensor(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    b = len(x)
    gamma = np.exp(_both(rng, b, 0.2, 0.05)).astype(np.float32)[..., None, None]
    gain = np.exp(_both(rng, b, 0.25, 0.08)).astype(np.float32)[..., None, None]
    x = np.minimum(255.0 * (np.maximum(x, 0.0) / 255.0) ** gamma * gain, 255.0)
    noise = rng.standard_normal(x.shape, np.float32)
    level = (rng.uniform(0, 6, (b, 1, 1, 1)) * (rng.random((b, 1, 1, 1)) < 0.4)).astype(np.float32)
    return np.clip(x + level * noise, 0.0, 255.0)
