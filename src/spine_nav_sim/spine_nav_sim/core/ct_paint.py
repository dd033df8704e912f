# SPDX-License-Identifier: Apache-2.0
"""What a CT shows of a unit: tissues, bone, metal, scanner; another patient and scanner each time.

Soft tissue is made of ellipses about the spine's curve with random density, bone of the distance to
its surface with the scanner's blur in closed form. Hounsfield units throughout, arrays (Z, Y, X).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .ct_bones import PELVIS, RIB, Bones

Rng = np.random.Generator
Array = np.ndarray
AIR_HU, MOST_HU = -1024.0, 3071.0


@dataclass(frozen=True)
class Look:
    """points (3, Z, Y, X): x y z mm in the unit; distance_mm, who: of the unit there; step_mm: of the
    grid that is painted."""

    points: np.ndarray
    distance_mm: np.ndarray
    who: np.ndarray
    step_mm: float


def noise(rng: Rng, shape: tuple[int, ...], cells: float) -> np.ndarray:
    """Bones-variance field, correlated over about `cells` voxels."""
    coarse = [max(2, int(np.ceil(n / cells)) + 1) for n in shape]
    values = rng.standard_normal(coarse, dtype=np.float32)
    for axis, n in enumerate(shape):
        at = np.linspace(0.0, coarse[axis] - 1.0, n)
        low = np.minimum(at.astype(int), coarse[axis] - 2)
        f = (at - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
        f = f * f * (3.0 - 2.0 * f)
        values = values.take(low, axis) * (1.0 - f) + values.take(low + 1, axis) * f
    return values / max(float(values.std()), 1e-6)


def paint(unit: Bones, look: Look, rng: Rng) -> np.ndarray:
    """(Z, Y, X) float32 of one patient on one scanner."""
    x, y, z = look.points
    order = np.argsort(unit.centres_mm[:, 2])
    line = unit.centres_mm[order]
    u = x - np.interp(z, line[:, 2], line[:, 0]).astype(np.float32)
    v = y - np.interp(z, line[:, 2], line[:, 1]).astype(np.float32)
    shape = z.shape
    rough = noise(rng, shape, 16.0 / look.step_mm)
    grain = noise(rng, shape, 5.0 / look.step_mm)
    hu = _body(unit, u, v, x, y, z, rough, grain, rng)
    hu = ndimage.gaussian_filter(hu, rng.uniform(0.3, 0.7))  # tissues end within voxels, too
    hu = _bone(unit, look, hu, rough, grain, rng)
    if rng.random() < 0.15:
        hu = _metal(unit, look, hu, rng)
    return scanned(hu, look.step_mm, rng)


def _ellipse(u: Array, v: Array, at: tuple[float, float], half: tuple[float, float]) -> Array:
    return ((u - at[0]) / half[0]) ** 2 + ((v - at[1]) / half[1]) ** 2 < 1.0


def _body(
    unit: Bones,
    u: Array,
    v: Array,
    x: Array,
    y: Array,
    z: Array,
    rough: Array,
    grain: Array,
    rng: Rng,
) -> Array:
    """Everything but bone and metal."""
    back = rng.uniform(62.0, 115.0)  # from the spine to the skin
    wide, deep = rng.uniform(135.0, 205.0), rng.uniform(95.0, 160.0)
    fat = rng.uniform(3.0, min(45.0, back - 48.0))
    r = np.sqrt((u / wide) ** 2 + ((v - back + deep) / deep) ** 2) + 0.015 * rough
    depth = (1.0 - r) * min(wide, deep)
    hu = np.full(z.shape, -1000.0, np.float32)
    muscle = rng.uniform(35.0, 75.0)
    fat_hu = rng.normal(-100.0, 10.0)
    hu[depth > 0.0] = rng.uniform(0.0, 60.0)
    hu[depth > 2.0] = fat_hu
    hu[depth > fat] = muscle
    wall = fat + rng.uniform(6.0, 22.0)
    inside = (depth > wall) & (v < 12.0)
    # bowel, mesentery, whatever: blobs of fat and soft tissue
    hu[inside] = np.where(rough[inside] > rng.normal(0.0, 0.5), rng.uniform(0, 70), fat_hu)
    front = inside & (v < -42.0)
    if rng.random() < 0.7:
        hu[front & (rough > rng.uniform(1.1, 2.0))] = rng.uniform(-1000, -700)  # gas
    if rng.random() < 0.4:
        hu[front & (rough < -rng.uniform(1.1, 2.0))] = rng.uniform(100, 700)  # oral contrast
    _organs(unit, hu, u, v, z, inside, rng)
    _muscles(hu, u, v, z, depth > fat, grain, muscle, fat_hu, rng)
    _vessels(hu, u, v, z, rng)
    canal, disc = rng.uniform(0.0, 50.0), rng.uniform(60.0, 130.0)
    hu[_ellipse(u, v, (0.0, rng.uniform(2, 6)), (11.0, 9.0))] = canal
    wide_disc = (rng.uniform(21, 28), rng.uniform(14, 19))
    hu[_ellipse(u, v, (0.0, -rng.uniform(16, 22)), wide_disc)] = disc
    if rng.random() < 0.7:  # the table
        gap, thick = rng.uniform(2.0, 30.0), rng.uniform(2.0, 12.0)
        at = y - (unit.centres_mm[:, 1].max() + back + gap) + rng.uniform(0, 6e-4) * x * x
        hu[(at > 0.0) & (at < thick)] = rng.uniform(-700, 300)
        shell = (np.abs(at) < 1.2) | (np.abs(at - thick) < 1.2)
        hu[shell] = rng.uniform(-200, 500)
    return hu


def _organs(unit: Bones, hu: Array, u: Array, v: Array, z: Array, inside: Array, rng: Rng) -> None:
    top, bottom = unit.centres_mm[0, 2], unit.centres_mm[-1, 2]
    if rng.random() < 0.7:  # lungs down to the diaphragm
        level = rng.uniform(0.55, 1.1) * (top - bottom) + bottom
        dome = level - ((np.abs(u) - 70.0) / 45.0) ** 2 * 25.0
        lung = inside & (z > dome) & ((np.abs(u) > 32.0) | (v < -75.0))
        hu[lung] = rng.uniform(-900, -650)
    contrast = rng.uniform(30.0, 220.0)
    middle = 0.5 * (top + bottom)
    for side in (-1.0, 1.0):
        at = np.array([side * rng.uniform(50, 75), rng.uniform(-25, 5), middle + rng.normal(0, 40)])
        kidney = (((u - at[0]) / 28.0) ** 2 + ((v - at[1]) / 26.0) ** 2
                  + ((z - at[2]) / 55.0) ** 2) < 1.0  # fmt: skip
        hu[kidney & inside] = contrast
        big = (((u + side * rng.uniform(60, 90)) / 75.0) ** 2 + ((v + rng.uniform(40, 90)) / 75.0) ** 2
               + ((z - top - rng.normal(0, 40)) / 80.0) ** 2) < 1.0  # fmt: skip
        if rng.random() < 0.5:
            hu[big & inside] = rng.uniform(30, 140)


def _muscles(
    hu: Array,
    u: Array,
    v: Array,
    z: Array,
    under: Array,
    grain: Array,
    muscle: float,
    fat_hu: float,
    rng: Rng,
) -> None:
    infiltrated = grain > rng.uniform(0.6, 3.0)
    size = rng.uniform(0.7, 1.15)
    for side in (-1.0, 1.0):
        erector = _ellipse(u, v, (side * 34.0, 36.0), (34.0 * size, 27.0 * size))
        psoas = _ellipse(u, v, (side * 43.0, -12.0), (21.0 * size, 25.0 * size))
        quadratus = _ellipse(u, v, (side * 72.0, 12.0), (22.0 * size, 14.0 * size))
        both = (erector | psoas | quadratus) & under
        hu[both] = np.where(infiltrated[both], fat_hu, muscle)
    lips = (np.abs(u) < 9.0) & (v > 10.0) & (v < 60.0) & under
    hu[lips] = np.where(grain[lips] > 0.3, fat_hu, muscle)


def _vessels(hu: Array, u: Array, v: Array, z: Array, rng: Rng) -> None:
    blood = rng.uniform(30.0, 60.0) if rng.random() < 0.5 else rng.uniform(120.0, 450.0)
    phase = rng.uniform(0, 6.28, 2)
    a, b = rng.uniform(7.0, 14.0), rng.uniform(8.0, 13.0)
    at_u, at_v = 10.0 + 4.0 * np.sin(z / 45.0 + phase[0]), -48.0 + 3.0 * np.sin(z / 60.0)
    aorta = np.hypot(u - at_u, v - at_v)
    hu[aorta < a] = blood
    if rng.random() < 0.35:  # plaques, or a stent
        wall = (np.abs(aorta - a) < 1.4) & (np.sin(z / rng.uniform(3, 9) + phase[1] + u) > 0.5)
        hu[wall] = rng.uniform(300, 1300)
    hu[np.hypot(u + 15.0, v + 46.0 + 3.0 * np.sin(z / 50.0)) < b] = rng.uniform(0.4, 1.0) * blood


def _bone(unit: Bones, look: Look, hu: Array, rough: Array, grain: Array, rng: Rng) -> Array:
    """Bone over soft tissue: cortex of a thickness, cancellous texture, the blur in closed form."""
    d, who = look.distance_mm, look.who
    blur = max(look.step_mm * rng.uniform(0.5, 1.3), rng.uniform(0.8, 3.0))
    kind = rng.random()
    if kind < 0.35:  # osteoporotic
        dense, thick, cortical = rng.uniform(-30, 90), rng.uniform(0.35, 0.9), rng.uniform(300, 800)
    elif kind < 0.75:
        dense, thick, cortical = rng.uniform(90, 200), rng.uniform(0.5, 1.4), rng.uniform(450, 1100)
    else:
        dense, thick, cortical = (
            rng.uniform(200, 420),
            rng.uniform(0.8, 2.2),
            rng.uniform(600, 1500),
        )
    per = np.full(256, dense, np.float32)
    rows = len(unit.levels)
    per[1 : rows + 1] += rng.normal(0.0, 0.12 * abs(dense) + 12.0, rows)
    per[RIB], per[PELVIS] = dense + rng.normal(0, 50), dense + rng.normal(0, 60)
    canc = per[who] + rng.uniform(5, 55) * grain + rng.uniform(0, 40) * rough
    canc += rng.uniform(0, 60) * rng.standard_normal(d.shape, dtype=np.float32)
    for _ in range(rng.integers(0, 4)):  # sclerosis, islands, lytic spots, Schmorl's nodes
        _spot(unit, look, canc, rng)
    t = thick * np.clip(1.0 + 0.35 * rough, 0.4, 2.5)
    whole = np.clip(0.5 - d / blur, 0.0, 1.0)
    core = np.clip(0.5 - (d + t) / blur, 0.0, 1.0)
    return hu * (1.0 - whole) + core * canc + (whole - core) * cortical


def _spot(unit: Bones, look: Look, canc: np.ndarray, rng: Rng) -> None:
    row = rng.integers(len(unit.levels))
    at = unit.centres_mm[row] + rng.normal(0.0, [12.0, 8.0, 9.0]) + [0.0, -15.0, 0.0]
    r2 = sum((p - a) ** 2 for p, a in zip(look.points, at, strict=True))
    added = rng.choice([350.0, 700.0, -150.0, 1200.0], p=[0.5, 0.2, 0.2, 0.1])
    canc += np.float32(added) * np.exp(-r2 / (2.0 * rng.uniform(2.0, 9.0) ** 2))


def _metal(unit: Bones, look: Look, hu: np.ndarray, rng: Rng) -> np.ndarray:
    """Pedicle screws and rods, and what they do to their slices."""
    x, y, z = look.points
    first = int(rng.integers(len(unit.levels)))
    rows = range(first, min(first + int(rng.integers(1, 4)), len(unit.levels)))
    metal = np.zeros(hu.shape, bool)
    heads: dict[float, list[np.ndarray]] = {-1.0: [], 1.0: []}
    for row in rows:
        for side, places in heads.items():
            c = unit.centres_mm[row]
            head = c + [side * rng.uniform(20, 30), rng.uniform(30, 38), rng.normal(4, 3)]
            tip = c + [side * rng.uniform(5, 14), -rng.uniform(15, 32), rng.normal(4, 4)]
            places.append(head)
            metal |= _capsule(x, y, z, head, tip) < rng.uniform(2.2, 3.6)
            metal |= sum((p - a) ** 2 for p, a in zip(look.points, head, strict=True)) < 7.0**2
    for ends in heads.values():
        if len(ends) > 1:
            metal |= _capsule(x, y, z, ends[0], ends[-1]) < rng.uniform(2.4, 3.2)
    if not metal.any():
        return hu
    soft = ndimage.gaussian_filter(metal.astype(np.float32), 0.6)
    amount = soft.sum(axis=(1, 2))
    share = np.minimum(amount / 60.0, 1.5)[:, None, None]
    strength = rng.uniform(30.0, 350.0)
    streaks = np.zeros(hu.shape, np.float32)
    rows_px, columns = np.mgrid[: hu.shape[1], : hu.shape[2]].astype(np.float32)
    flat = soft.sum(axis=0)
    parts, count = ndimage.label(flat > 0.3)
    for j, i in ndimage.center_of_mass(flat, parts, range(1, min(count, 6) + 1)):
        angle = np.arctan2(rows_px - j, columns - i)
        far = np.hypot(rows_px - j, columns - i) * look.step_mm
        wave = np.cos(rng.integers(2, 7) * angle + rng.uniform(0, 6.28))
        wave += 0.6 * np.cos(rng.integers(7, 21) * angle + rng.uniform(0, 6.28))
        streaks += (wave * np.exp(-far / rng.uniform(15.0, 60.0))).astype(np.float32)
    hu = hu + strength * share * streaks
    return hu + soft * (rng.uniform(2500.0, 9000.0) - hu)


def _capsule(x: Array, y: Array, z: Array, a: Array, b: Array) -> Array:
    d = b - a
    t = np.clip(((x - a[0]) * d[0] + (y - a[1]) * d[1] + (z - a[2]) * d[2]) / (d @ d), 0.0, 1.0)
    return np.sqrt((x - a[0] - t * d[0]) ** 2 + (y - a[1] - t * d[1]) ** 2
                   + (z - a[2] - t * d[2]) ** 2)  # fmt: skip


def scanned(hu: np.ndarray, step_mm: float, rng: Rng) -> np.ndarray:
    """Kernel, dose, slice thickness, beam hardening, the calibration's faults."""
    hu = np.clip(hu, AIR_HU, 2.0 * MOST_HU)
    if rng.random() < 0.6:
        sigma = rng.uniform(0.2, 0.9)
        hu = ndimage.gaussian_filter(hu, (0.0, sigma, sigma))
    grains = rng.standard_normal(hu.shape, dtype=np.float32)
    draw = rng.random()
    if draw < 0.5:  # soft kernel: clumps
        sigma = rng.uniform(0.4, 1.1)
        grains = ndimage.gaussian_filter(grains, (0.3 * sigma, sigma, sigma))
    elif draw < 0.8:  # sharp kernel: noise that swings around its neighbours
        grains -= 0.7 * ndimage.gaussian_filter(grains, (0.0, 1.0, 1.0))
    else:  # few photons through shoulders or hips
        grains = ndimage.gaussian_filter(grains, (0.2, 0.4, rng.uniform(1.0, 4.0)))
    grains /= max(float(grains.std()), 1e-6)
    hu = hu + np.float32(np.exp(rng.uniform(np.log(3.0), np.log(70.0)))) * grains
    if rng.random() < 0.3:
        hu = hu + np.float32(rng.uniform(0, 25)) * noise(rng, hu.shape, 60.0 / step_mm)
    if rng.random() < 0.45:
        hu = _thick(hu, rng.uniform(1.2, 2.5) if step_mm >= 2.0 else rng.uniform(1.2, 3.0), rng)
    if rng.random() < 0.3:
        hu = hu * rng.normal(1.0, 0.04) + rng.normal(0.0, 12.0)
    return np.clip(hu, AIR_HU, MOST_HU).astype(np.float32)


def _thick(hu: np.ndarray, voxels: float, rng: Rng) -> np.ndarray:
    """Slices of more than a voxel, and what a reader makes between them."""
    n = len(hu)
    at = np.arange(rng.uniform(0.0, voxels), n, voxels)
    if len(at) < 2:
        return hu
    place = np.arange(n)
    box = np.clip(0.5 + 0.5 * voxels - np.abs(place[None] - at[:, None]), 0.0, 1.0)
    box /= box.sum(axis=1, keepdims=True)
    between = np.stack([np.interp(place, at, row) for row in np.eye(len(at))], axis=1)
    return np.tensordot((between @ box).astype(np.float32), hu, axes=(1, 0))
