# SPDX-License-Identifier: Apache-2.0
"""Crops and labels for the refiners from the pairs that `training.screw_finder.generate` writes.

Hypotheses err as the finder and the rod's curve do; labels follow from geometry alone, so a
hypothesis that lands on a neighbour or on nothing gets the label it deserves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from spine_nav_common.core.types import Intrinsics
from stereo_screw_tracker.core import refiner, rod_refiner
from stereo_screw_tracker.core.crops import (
    CropPair,
    head_crops,
    paired_crops,
    rod_crops,
)
from stereo_screw_tracker.core.types import StereoCamera

IGNORE = -1.0  # a label of confidence that is neither right nor wrong
REACH_PX, REACH_DISPARITY_PX, REACH_ROW_PX = 10.0, 7.0, 3.0  # crop px that one look must bridge
BEYOND = 1.5  # times the reach: surely out of it
SEEN, HIDDEN = 0.25, 0.02  # shares of a head above and below which its presence is certain
ROD_REACH_PX, ROD_BEYOND_PX = 10.0, 13.0
ROD_END_M = 0.0015  # nearer to the end of a rod than this, presence is a matter of taste
MIN_DISPARITY_PX = 2.0
MINED_SHARE = 0.45  # of the hypotheses are the finder's own, where they have been mined


@dataclass(frozen=True)
class StereoPair:
    """One generated pair; arrays as the generator documents them, in float64."""

    left: np.ndarray
    right: np.ndarray
    camera: StereoCamera
    head_m: np.ndarray
    axis: np.ndarray
    head_left_px: np.ndarray
    head_right_px: np.ndarray
    head_seen: np.ndarray  # (N, 2) left, right
    rod_m: np.ndarray
    rod_tangent: np.ndarray
    rod_id: np.ndarray
    rod_left_px: np.ndarray
    rod_right_px: np.ndarray
    rod_seen: np.ndarray  # (M, 2) bool
    # (K, 2) where the finder sees heads, rightly or not (mine.py)
    mined_left_px: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    mined_right_px: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))


@dataclass(frozen=True)
class HeadLabels:
    """Per crop: shift (N, 4) crop px, axis (N, 3) ray frame, present (N,) 1, 0 or IGNORE,
    weight (N,) of the shift and axis, head (N,) row of the nearest head, seen (N, 2) its shares."""

    shift: np.ndarray
    axis: np.ndarray
    present: np.ndarray
    weight: np.ndarray
    head: np.ndarray
    seen: np.ndarray


@dataclass(frozen=True)
class RodLabels:
    """Per crop and eye: offset (N, 2) crop px, present (N, 2) 1, 0 or IGNORE."""

    offset: np.ndarray
    present: np.ndarray


def find_pairs(folder: Path) -> list[Path]:
    """The pairs that exist now, in order of name."""
    return sorted(p for p in folder.glob("*.npz") if not p.name.startswith("."))


@lru_cache(maxsize=8192)
def load_pair(path: Path) -> StereoPair:
    """One pair, kept in memory; raises OSError or KeyError if the file is not one."""
    with np.load(path) as f:
        left, right = np.ascontiguousarray(f["left"]), np.ascontiguousarray(f["right"])
        fx, fy, cx, cy = (float(k) for k in f["K"])
        camera = StereoCamera(
            Intrinsics(left.shape[1], left.shape[0], fx, fy, cx, cy), float(f["baseline_m"])
        )

        def rows(name: str, width: int) -> np.ndarray:
            return f[name].astype(float).reshape(-1, width)

        return StereoPair(
            left,
            right,
            camera,
            rows("head_m", 3),
            rows("axis", 3),
            rows("head_left_px", 2),
            rows("head_right_px", 2),
            np.hstack([rows("head_seen_left", 1), rows("head_seen_right", 1)]),
            rows("rod_m", 3),
            rows("rod_tangent", 3),
            f["rod_id"].reshape(-1).astype(int),
            rows("rod_left_px", 2),
            rows("rod_right_px", 2),
            np.hstack([rows("rod_seen_left", 1), rows("rod_seen_right", 1)]) > 0.5,
            *_mined(path),
        )


def _mined(path: Path) -> tuple[np.ndarray, np.ndarray]:
    file = path.parent / "mined" / path.name
    if not file.exists():
        return np.zeros((0, 2)), np.zeros((0, 2))
    with np.load(file) as f:
        return f["left_px"].astype(float), f["right_px"].astype(float)


# Heads ------------------------------------------------------------------------------------------


def _tailed(
    rng: np.random.Generator, n: int, sigma: float, tail: float, share: float
) -> np.ndarray:
    """Normal, but `share` of the draws uniform in +-tail."""
    wide = rng.uniform(-tail, tail, n)
    return np.where(rng.random(n) < share, wide, rng.normal(0.0, sigma, n))


def finder_like(
    pair: StereoPair, rows: np.ndarray, rng: np.random.Generator, close: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Hypotheses (left_px, right_px) about heads `rows`; a share `close` errs as a first look's."""
    n = len(rows)
    small = rng.random(n) < close
    pixel = (
        pair.camera.intrinsics.fx * refiner.PITCH_M / pair.head_m[rows, 2]
    )  # image px per crop px
    lateral = np.stack(
        [
            np.where(small, rng.normal(0, 0.9, n), _tailed(rng, n, 3.8, REACH_PX, 0.15))
            for _ in range(2)
        ],
        axis=1,
    )
    disparity = np.where(
        small, rng.normal(0, 0.7, n), _tailed(rng, n, 2.2, REACH_DISPARITY_PX, 0.2)
    )
    row = np.where(small, rng.normal(0, 0.2, n), rng.normal(0, 0.5, n))
    half = 0.5 * np.stack([disparity, row], axis=1)
    left = pair.head_left_px[rows] + pixel[:, None] * (lateral + half)
    right = pair.head_right_px[rows] + pixel[:, None] * (lateral - half)
    return left, right


def not_a_head(pair: StereoPair, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Hypotheses (left_px, right_px) beside heads, on rods, anywhere, or of eyes that do not match."""
    k = pair.camera.intrinsics
    heads = len(pair.head_m)
    typical = pair.head_m[:, 2] if heads else pair.rod_m[:, 2]
    depth = (float(np.median(typical)) if len(typical) else 0.5) * rng.normal(1.0, 0.04, n)
    disparity = k.fx * pair.camera.baseline_m / depth
    left = rng.uniform([0, 0], [k.width - 1, k.height - 1], (n, 2))
    right = left - np.column_stack([disparity, rng.normal(0.0, 0.3, n)])
    kind = rng.random(n)
    pixel = k.fx * refiner.PITCH_M / depth
    for i in range(n):
        if heads and kind[i] < 0.3:  # its flank, its shaft, the bone about it
            at = rng.integers(heads)
            angle, r = rng.uniform(0, 2 * np.pi), rng.uniform(14, 40) * pixel[i]
            move = r * np.array([np.cos(angle), np.sin(angle)])
            left[i], right[i] = pair.head_left_px[at] + move, pair.head_right_px[at] + move
            right[i, 0] += rng.normal(0, 2) * pixel[i]
        elif heads and kind[i] < 0.5:  # one eye is right, the other is not
            at = rng.integers(heads)
            left[i], right[i] = pair.head_left_px[at], pair.head_right_px[at]
            wrong = rng.choice([-1, 1]) * rng.uniform(10, 45) * pixel[i]
            other = rng.integers(heads)
            if other != at and rng.random() < 0.5:
                wrong = pair.head_right_px[other, 0] - pair.head_right_px[at, 0]
                right[i, 1] = 0.5 * (pair.head_right_px[other, 1] + right[i, 1])
            right[i, 0] += wrong
            move = rng.normal(0, 2, 2) * pixel[i]
            left[i] += move
            right[i] += move
            if rng.random() < 0.5:  # the left eye is the wrong one: move both along
                left[i, 0] -= wrong
                right[i, 0] -= wrong
        elif len(pair.rod_m) and kind[i] < 0.8:
            at = rng.integers(len(pair.rod_m))
            move = rng.normal(0, 2.5, 2) * pixel[i]
            left[i], right[i] = pair.rod_left_px[at] + move, pair.rod_right_px[at] + move
            right[i, 0] += rng.normal(0, 1.5) * pixel[i]
    bad = left[:, 0] - right[:, 0] < MIN_DISPARITY_PX
    right[bad, 0] = left[bad, 0] - np.maximum(disparity[bad], MIN_DISPARITY_PX)
    return left, right


def vary_head_crops(
    crops: CropPair, rotation: np.ndarray, rng: np.random.Generator
) -> tuple[CropPair, np.ndarray]:
    """Crops rolled by a few degrees and of slightly wrong scale, and their R_ray_camera."""
    n = len(rotation)
    roll = np.radians(rng.normal(0.0, 2.0, n))
    c, s, zero = np.cos(roll), np.sin(roll), np.zeros(n)
    turn = np.moveaxis(np.array([[c, -s], [s, c]]), 2, 0)
    scaled = turn * rng.uniform(0.95, 1.05, n)[:, None, None]
    back = np.moveaxis(np.array([[c, s, zero], [-s, c, zero], [zero, zero, zero + 1]]), 2, 0)
    return CropPair(
        crops.left_px, crops.right_px, crops.left_from_crop @ scaled, crops.right_from_crop @ scaled
    ), back @ rotation


def head_labels(pair: StereoPair, crops: CropPair, rotation: np.ndarray) -> HeadLabels:
    """What the truth says about each crop."""
    n = len(rotation)
    if not len(pair.head_m):
        return HeadLabels(
            np.zeros((n, 4)),
            np.tile([0.0, 0, -1], (n, 1)),
            np.zeros(n),
            np.zeros(n),
            np.full(n, -1),
            np.zeros((n, 2)),
        )
    eyes = [
        np.einsum("nij,nhj->nhi", np.linalg.inv(m), true[None] - at[:, None])
        for m, true, at in (
            (crops.left_from_crop, pair.head_left_px, crops.left_px),
            (crops.right_from_crop, pair.head_right_px, crops.right_px),
        )
    ]
    mean, apart = 0.5 * (eyes[0] + eyes[1]), eyes[0] - eyes[1]
    parts = np.stack(
        [
            np.linalg.norm(mean, axis=2) / REACH_PX,
            np.abs(apart[..., 0]) / REACH_DISPARITY_PX,
            np.abs(apart[..., 1]) / REACH_ROW_PX,
        ]
    )
    far = parts.max(axis=0)  # (N, heads): 1 at the rim of the reach
    head = far.argmin(axis=1)
    at = np.arange(n)
    far, seen = far[at, head], pair.head_seen[head]
    best_seen = seen.max(axis=1)
    inside = _inside(pair, pair.head_left_px[head]) & _inside(pair, pair.head_right_px[head])
    reached = (far <= 1.0) & inside
    present = np.full(n, IGNORE)
    present[reached & (best_seen >= SEEN)] = 1.0
    present[(far > BEYOND) | ((far <= BEYOND) & (best_seen < HIDDEN))] = 0.0
    shift = np.concatenate([mean[at, head], apart[at, head]], axis=1)
    axis = np.einsum("nij,nj->ni", rotation, pair.axis[head])
    weight = (reached & (best_seen >= 0.1)).astype(float)
    return HeadLabels(shift, axis, present, weight, head, seen)


def _inside(pair: StereoPair, px: np.ndarray) -> np.ndarray:
    k = pair.camera.intrinsics
    return np.all((px >= 0) & (px <= [k.width - 1, k.height - 1]), axis=1)


def head_samples(
    pair: StereoPair, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, HeadLabels]:
    """n grey crops (n, 2, s, s), not normalised, with labels; varied for training."""
    usable = np.flatnonzero(pair.head_seen.max(axis=1) >= 0.1) if len(pair.head_m) else []
    mined = min(round(MINED_SHARE * n), 2 * len(pair.mined_left_px))
    positive = round(0.68 * (n - mined)) if len(usable) else 0
    left, right = not_a_head(pair, n - mined - positive, rng)
    if mined:
        at = rng.integers(len(pair.mined_left_px), size=mined)
        left = np.concatenate([pair.mined_left_px[at] + rng.normal(0.0, 0.5, (mined, 2)), left])
        right = np.concatenate([pair.mined_right_px[at] + rng.normal(0.0, 0.5, (mined, 2)), right])
        right[:mined, 0] = np.minimum(right[:mined, 0], left[:mined, 0] - MIN_DISPARITY_PX)
    if positive:
        about = finder_like(pair, rng.choice(usable, positive), rng, close=0.45)
        left, right = np.concatenate([about[0], left]), np.concatenate([about[1], right])
    crops, rotation = head_crops(left, right, pair.camera, refiner.PITCH_M)
    crops, rotation = vary_head_crops(crops, rotation, rng)
    labels = head_labels(pair, crops, rotation)
    return paired_crops(pair.left, pair.right, crops, refiner.CROP_SIZE), labels


# Rods -------------------------------------------------------------------------------------------


def _turned(tangent: np.ndarray, rng: np.random.Generator, sigma_deg: float) -> np.ndarray:
    moved = tangent + rng.normal(0.0, np.radians(sigma_deg), tangent.shape)
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def rod_hypotheses(
    pair: StereoPair, n: int, rng: np.random.Generator, negative: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    """Places (n, 3) and tangents (n, 3) about rods; a share `negative` beside or beyond them."""
    if not len(pair.rod_m):
        return _anywhere(pair, n, rng)
    rows = rng.integers(len(pair.rod_m), size=n)
    tangent = pair.rod_tangent[rows]
    point = pair.rod_m[rows]
    ray = point / np.linalg.norm(point, axis=1, keepdims=True)
    side = np.cross(ray, tangent)
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-6)
    across = np.where(
        rng.random(n) < 0.4, rng.normal(0, 0.0004, n), _tailed(rng, n, 0.0013, 0.0045, 0.2)
    )
    deep = np.where(rng.random(n) < 0.4, rng.normal(0, 0.0015, n), rng.normal(0, 0.005, n))
    wrong = rng.random(n) < negative
    beside = rng.choice([-1, 1], n) * rng.uniform(0.006, 0.03, n)
    along = rng.choice([-1, 1], n) * rng.uniform(0.0, 0.12, n)  # past the end, with luck
    kind = rng.random(n)
    across = np.where(wrong & (kind < 0.6), beside, across)
    along = np.where(wrong & (kind >= 0.6), along, 0.0)
    point = point + side * across[:, None] + ray * deep[:, None] + tangent * along[:, None]
    tangent = _turned(tangent, rng, 4.0)
    lost = wrong & (kind < 0.25)
    point[lost], tangent[lost] = _anywhere(pair, int(lost.sum()), rng)
    return point, tangent


def _anywhere(pair: StereoPair, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    k = pair.camera.intrinsics
    known = np.concatenate([pair.rod_m, pair.head_m])[:, 2]
    depth = (float(np.median(known)) if len(known) else 0.5) * rng.normal(1.0, 0.04, n)
    u, v = rng.uniform([0, 0], [k.width - 1, k.height - 1], (n, 2)).T
    point = np.column_stack([(u - k.cx) / k.fx, (v - k.cy) / k.fy, np.ones(n)]) * depth[:, None]
    angle = rng.uniform(0, np.pi, n)
    return point, np.column_stack([np.cos(angle), np.sin(angle), np.zeros(n)])


def rod_labels(pair: StereoPair, crops: CropPair) -> RodLabels:
    """Where the true axes cross each crop's horizontal middle line."""
    n = len(crops.left_px)
    offset, present = np.zeros((n, 2)), np.zeros((n, 2))
    if not len(pair.rod_m):
        return RodLabels(offset, present)
    padded = np.concatenate([[-1], pair.rod_id, [-2, -2]])
    for eye, (at, matrix, px) in enumerate(
        (
            (crops.left_px, crops.left_from_crop, pair.rod_left_px),
            (crops.right_px, crops.right_from_crop, pair.rod_right_px),
        )
    ):
        inside = _inside(pair, at)
        inverse = np.linalg.inv(matrix)
        q = np.einsum("nij,nmj->nmi", inverse, px[None] - at[:, None])  # (n, M, 2)
        same = np.zeros(len(px), bool)
        same[:-1] = pair.rod_id[1:] == pair.rod_id[:-1]
        y0, y1 = q[..., 1], np.roll(q[..., 1], -1, axis=1)
        x0, x1 = q[..., 0], np.roll(q[..., 0], -1, axis=1)
        crosses = same[None] & (np.minimum(y0, y1) <= 0) & (np.maximum(y0, y1) > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            x = np.where(crosses, x0 - y0 * (x1 - x0) / (y1 - y0), np.inf)
        best = np.abs(x).argmin(axis=1)
        found = x[np.arange(n), best]
        seen = pair.rod_seen[:, eye]
        near_end = np.abs(q).max(axis=2).min(axis=1) < ROD_BEYOND_PX
        for i in range(n):
            if abs(found[i]) <= ROD_REACH_PX:
                offset[i, eye] = found[i]
                about = seen[max(0, best[i] - 1) : best[i] + 3]
                present[i, eye] = 1.0 if about.all() else (IGNORE if about.any() else 0.0)
                if padded[best[i]] != padded[best[i] + 3]:  # the last millimetre of the rod
                    present[i, eye] = IGNORE
            elif abs(found[i]) <= ROD_BEYOND_PX:
                present[i, eye] = IGNORE
            elif near_end[i] and not np.isfinite(found[i]):
                gap = np.linalg.norm(q[i], axis=1).min() * rod_refiner.PITCH_M
                present[i, eye] = IGNORE if gap < ROD_END_M else 0.0
            if not inside[i]:
                present[i, eye] = IGNORE
    return RodLabels(offset, present)


def rod_samples(pair: StereoPair, n: int, rng: np.random.Generator) -> tuple[np.ndarray, RodLabels]:
    """n grey crops (n, 2, s, s), not normalised, with labels."""
    crops = rod_crops(*rod_hypotheses(pair, n, rng), pair.camera, rod_refiner.PITCH_M)
    scale = rng.uniform(0.95, 1.05, n)[:, None, None]
    crops = CropPair(
        crops.left_px, crops.right_px, crops.left_from_crop * scale, crops.right_from_crop * scale
    )
    return (
        paired_crops(pair.left, pair.right, crops, rod_refiner.CROP_SIZE),
        rod_labels(pair, crops),
    )
