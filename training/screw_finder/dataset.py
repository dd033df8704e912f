# SPDX-License-Identifier: Apache-2.0
"""Stereo pairs from training/screw_finder/generate.py to augmented samples and targets of the finder.

Kept in memory at no more than the grid's resolution, so that random scale and place cost no reading. All places are pixels (u, v) from the centre of the first pixel.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from stereo_screw_tracker.core.finder_grid import (
    BINS,
    CELL_PX,
    CELLS_HIGH,
    CELLS_WIDE,
    HEIGHT,
    SLOPE_SCALE,
    WIDTH,
    grey,
    normalise,
)
from training.screw_finder.augment import photometric, random_cover
from training.shots import random_shot

TULIP_M = 0.012
CLOSE_LOOKS = 0.6  # share of the samples that look closely at the heads
CLOSE_TULIP_PX = (15.0, 40.0)
CLOSE_DISPARITY_PX = (40.0, 170.0)
HIDDEN = 0.15  # a head that shows less is neither to be found nor a mistake
HEAD_CELLS = 1.6  # cells this near a saddle point say where it is
HEAD_REACH = 3  # cells beyond which a head leaves no trace
GUESS = 0.2  # weight of a disparity whose other end is hidden
HEAT_SIGMA = 0.8  # cells
ROD_PX, ROD_UNSURE_PX = 6.4, 11.0  # on the rod up to here; off it from there on, in grid pixels
TANGENT_STEP = 3  # rod points before and after that give the tangent


@dataclass(frozen=True)
class Pair:
    """One labelled pair. left, right (H, W) uint8; index 0 of `places` and `seen` is the left view.

    head_px (2, N, 2), head_seen (2, N); rod_px (2, M, 2), rod_seen (2, M), rod_id (M,) in order
    along each rod. tulip_px: how wide 12 mm are at the heads' median depth; 0 without heads.
    """

    left: np.ndarray
    right: np.ndarray
    head_px: np.ndarray
    head_seen: np.ndarray
    rod_px: np.ndarray
    rod_seen: np.ndarray
    rod_id: np.ndarray
    tulip_px: float

    def mirrored(self) -> Pair:
        """The pair that a mirror shows: eyes change places, disparities stay."""
        edge = self.left.shape[1] - 1

        def turn(px: np.ndarray) -> np.ndarray:
            return np.stack([edge - px[::-1, :, 0], px[::-1, :, 1]], axis=-1)

        return replace(
            self,
            left=np.ascontiguousarray(self.right[:, ::-1]),
            right=np.ascontiguousarray(self.left[:, ::-1]),
            head_px=turn(self.head_px),
            head_seen=self.head_seen[::-1],
            rod_px=turn(self.rod_px),
            rod_seen=self.rod_seen[::-1],
        )

    def upside_down(self) -> Pair:
        """Mirrored about the horizontal: rows stay rows, so it is a stereo pair still."""
        edge = self.left.shape[0] - 1

        def turn(px: np.ndarray) -> np.ndarray:
            return np.stack([px[..., 0], edge - px[..., 1]], axis=-1)

        return replace(
            self,
            left=np.ascontiguousarray(self.left[::-1]),
            right=np.ascontiguousarray(self.right[::-1]),
            head_px=turn(self.head_px),
            rod_px=turn(self.rod_px),
        )


@dataclass(frozen=True)
class Sample:
    """Input x (2, HEIGHT, WIDTH) and targets on the cells (CELLS_HIGH, CELLS_WIDE).

    heat and heat_weight; head_on: weight of the head's vector targets; head_vector (2, ...) offset
    in cells; head_bin: disparity in bins, head_bin_on its weight. The same for the rod, whose
    vector (6, ...) is offset, cos2, sin2 and slope.
    """

    x: np.ndarray
    heat: np.ndarray
    heat_weight: np.ndarray
    head_on: np.ndarray
    head_vector: np.ndarray
    head_bin: np.ndarray
    head_bin_on: np.ndarray
    rod: np.ndarray
    rod_weight: np.ndarray
    rod_on: np.ndarray
    rod_vector: np.ndarray
    rod_bin: np.ndarray
    rod_bin_on: np.ndarray


def find_pairs(folder: Path) -> list[Path]:
    """All pairs of a split, in order; names with a dot before them are being written."""
    return sorted(p for p in folder.glob("*.npz") if not p.name.startswith("."))


def read_pair(path: Path) -> Pair:
    """A pair at its own resolution. Raises ValueError with the file if it is not one."""
    try:
        with np.load(path) as f:
            depth = f["head_m"].reshape(-1, 3)[:, 2]
            return Pair(
                grey(f["left"]),
                grey(f["right"]),
                np.stack([f["head_left_px"], f["head_right_px"]]).reshape(2, -1, 2).astype(float),
                np.stack([f["head_seen_left"], f["head_seen_right"]]).reshape(2, -1).astype(float),
                np.stack([f["rod_left_px"], f["rod_right_px"]]).reshape(2, -1, 2).astype(float),
                np.stack([f["rod_seen_left"], f["rod_seen_right"]]).reshape(2, -1).astype(bool),
                f["rod_id"].reshape(-1).astype(int),
                float(TULIP_M * f["K"][0] / np.median(depth)) if len(depth) else 0.0,
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a labelled pair ({error}); generate it again") from error


def keep_small(pair: Pair) -> Pair:
    """The pair as it is kept in memory for training."""
    h, w = pair.left.shape
    scale = min(WIDTH / w, HEIGHT / h)
    if scale >= 1.0:
        return pair
    size = (round(w * scale), round(h * scale))
    factor = np.array([size[0] / w, size[1] / h])
    small = [cv2.resize(i, size, interpolation=cv2.INTER_AREA) for i in (pair.left, pair.right)]
    return replace(
        pair,
        left=small[0],
        right=small[1],
        head_px=(pair.head_px + 0.5) * factor - 0.5,
        rod_px=(pair.rod_px + 0.5) * factor - 0.5,
        tulip_px=pair.tulip_px * factor[0],
    )


def make_sample(pair: Pair, rng: np.random.Generator | None, high: int = HEIGHT) -> Sample:
    """A sample of the whole pair; with a generator, a band of `high` rows of an augmented view.

    The wound is a small part of most images, and training time is short: most bands show a head or
    a rod. Columns all stay, because the other view needs them at every disparity.
    """
    if rng is not None:
        if rng.random() < 0.5:
            pair = pair.mirrored()
        if rng.random() < 0.5:
            pair = pair.upside_down()
    scale, shifts = _placement(pair, rng)
    places = {
        name: (getattr(pair, f"{name}_px") + 0.5) * scale - 0.5 + shifts[:, None]
        for name in ("head", "rod")
    }
    first = 0
    if rng is not None and high < HEIGHT:
        things = np.concatenate([px[0, :, 1] for px in places.values()])
        first = _random_band(things, high // CELL_PX, rng)
    top = np.array([0.0, first * CELL_PX])
    head_seen, rod_seen = pair.head_seen.copy(), pair.rod_seen.copy()
    cover = random_cover(high, rng) if rng is not None else None
    shot = random_shot(rng) if rng is not None else None
    channels = []
    for eye, image in enumerate((pair.left, pair.right)):
        view, inside = _view(image, scale, shifts[eye] - top, high, rng)
        if rng is not None and shot is not None:
            view, mask = photometric(view, cover, shot, eye, rng)
            head_seen[eye] *= 1.0 - _share(mask, places["head"][eye] - top, 6)
            rod_seen[eye] &= _share(mask, places["rod"][eye] - top, 2) < 0.5
        channels.append(normalise(view) * inside)
    targets = (
        *_head_targets(places["head"], head_seen),
        *_rod_targets(places["rod"], rod_seen, pair.rod_id),
    )
    band = slice(first, first + high // CELL_PX)
    return Sample(np.stack(channels), *(target[..., band, :] for target in targets))


def _placement(pair: Pair, rng: np.random.Generator | None) -> tuple[float, np.ndarray]:
    """Grid pixels per image pixel, and where each view's corner comes to lie (2, 2).

    Augmented, it is the whole image moved and scaled a little, or a close look at the heads as
    `Finder.find` takes one, with the right view shifted so that disparities are small.
    """
    h, w = pair.left.shape
    size = np.array([w, h])
    scale = min(WIDTH / w, HEIGHT / h)
    corner = (np.array([WIDTH, HEIGHT]) - size * scale) / 2
    if rng is None:
        return scale, np.stack([corner, corner])
    wobble = np.array([rng.uniform(-12, 12), rng.normal(0, 0.6)])
    if pair.tulip_px and rng.random() < CLOSE_LOOKS:
        wanted = np.exp(rng.uniform(*np.log(CLOSE_TULIP_PX)))
        scale = float(np.clip(wanted / pair.tulip_px, 0.9 * scale, 2.8 * scale))
        middle = pair.head_px.mean(axis=1)
        apart = (middle[0, 0] - middle[1, 0]) * scale - rng.uniform(*CLOSE_DISPARITY_PX)
        corner = np.array([WIDTH, HEIGHT]) * rng.uniform(0.3, 0.7, 2) - middle.mean(axis=0) * scale
        corner[0] -= apart / 2
        return scale, np.stack([corner, corner + (apart, wobble[1])])
    if rng.random() < 0.7:
        zoom = np.exp(rng.uniform(-0.2, 0.3))
        corner += (1 - zoom) * size * scale / 2
        corner += rng.uniform(-0.5, 0.5, 2) * np.abs(zoom - 1) * size * scale
        scale *= zoom
    return scale, np.stack([corner, corner + wobble])


def _random_band(rows_px: np.ndarray, cells: int, rng: np.random.Generator) -> int:
    """First of `cells` rows of cells, three times in four about one of the places."""
    last = CELLS_HIGH - cells
    inside = rows_px[(rows_px >= 0) & (rows_px < HEIGHT)]
    if not len(inside) or rng.random() < 0.25:
        return int(rng.integers(0, last + 1))
    return int(np.clip(rng.choice(inside) // CELL_PX - rng.integers(0, cells), 0, last))


def _view(
    image: np.ndarray,
    scale: float,
    shift: np.ndarray,
    high: int,
    rng: np.random.Generator | None,
) -> tuple[np.ndarray, np.ndarray]:
    """(high, WIDTH) pixels of one image (uint8), and where the image is at all (float32 0 or 1)."""
    if scale < 0.8 and (rng is None or rng.random() < 0.7):
        image = cv2.GaussianBlur(image, (3, 3), 0.6)  # what area scaling would average away
    offset = 0.5 * scale - 0.5 + shift
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    view = cv2.warpAffine(
        image, matrix, (WIDTH, high), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    h, w = image.shape
    inside = np.zeros((high, WIDTH), np.float32)
    first = np.maximum(np.round(shift), 0).astype(int)
    last = np.maximum(np.round(shift + np.array([w, h]) * scale), 0).astype(int)
    inside[first[1] : last[1], first[0] : last[0]] = 1.0
    return view, inside


def _share(mask: np.ndarray | None, px: np.ndarray, radius: int) -> np.ndarray:
    """(N,) share of the square about each place that is covered; outside the grid 0."""
    if mask is None or not len(px):
        return np.zeros(len(px))
    u, v = np.round(px).astype(int).T
    high, wide = mask.shape
    inside = (u >= 0) & (u < wide) & (v >= 0) & (v < high)
    reach = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1)
    rows = (v[:, None] + reach[0]).clip(0, high - 1)
    columns = (u[:, None] + reach[1]).clip(0, wide - 1)
    return np.where(inside, mask[rows, columns].mean(axis=1), 0.0)


def _bins(px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Disparities in bins, and whether the bins reach them."""
    bins = (px[0, :, 0] - px[1, :, 0]) / CELL_PX
    return bins, (bins >= 0) & (bins <= BINS - 1)


def _head_targets(px: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, ...]:
    heat, on, bins_at, bin_on = (np.zeros((CELLS_HIGH, CELLS_WIDE), np.float32) for _ in range(4))
    weight = np.ones_like(heat)
    vector = np.zeros((2, CELLS_HIGH, CELLS_WIDE), np.float32)
    nearest = np.full_like(heat, np.inf)
    bins, reached = _bins(px)
    for n, cell in enumerate((px[0] - (CELL_PX - 1) / 2) / CELL_PX):
        first = np.maximum(np.round(cell).astype(int) - HEAD_REACH, 0)
        last = np.minimum(np.round(cell).astype(int) + HEAD_REACH + 1, (CELLS_WIDE, CELLS_HIGH))
        if (last <= first).any():
            continue
        at = np.s_[first[1] : last[1], first[0] : last[0]]
        offset = cell[:, None, None] - np.mgrid[at[::-1]].transpose(0, 2, 1)
        distance = np.hypot(*offset)
        if seen[0, n] < HIDDEN:
            weight[at][distance < HEAD_REACH - 0.5] = 0.0
            continue
        if not (0 <= px[0, n, 0] < WIDTH and 0 <= px[0, n, 1] < HEIGHT):
            continue
        bump = np.exp(-0.5 * (distance / HEAT_SIGMA) ** 2)
        bump[np.unravel_index(distance.argmin(), distance.shape)] = 1.0
        np.maximum(heat[at], bump, out=heat[at])
        mine = (distance < HEAD_CELLS) & (distance < nearest[at])
        nearest[at][mine] = distance[mine]
        vector[:, at[0], at[1]][:, mine] = offset[:, mine]
        on[at][mine] = 1.0
        bins_at[at][mine] = bins[n]
        # Where the other view shows nothing, the disparity is a guess from the surroundings.
        bin_on[at][mine] = reached[n] * (1.0 if seen[1, n] >= HIDDEN else GUESS)
    weight[heat == 1.0] = 1.0  # a seen head beside a hidden one still counts
    return heat, weight, on, vector, bins_at, bin_on


def _rod_targets(px: np.ndarray, seen: np.ndarray, rod_id: np.ndarray) -> tuple[np.ndarray, ...]:
    rod, on, bins_at, bin_on = (np.zeros((CELLS_HIGH, CELLS_WIDE), np.float32) for _ in range(4))
    weight = np.ones_like(rod)
    vector = np.zeros((6, CELLS_HIGH, CELLS_WIDE), np.float32)
    targets = rod, weight, on, vector, bins_at, bin_on
    if len(rod_id) < 2:
        return targets
    # All cells within reach of a rod, each with its nearest point.
    cell = (px[0] - (CELL_PX - 1) / 2) / CELL_PX
    reach = np.mgrid[-2:3, -2:3].reshape(2, -1).T
    uv = (np.round(cell).astype(int)[:, None] + reach).reshape(-1, 2)
    point = np.repeat(np.arange(len(rod_id)), len(reach))
    distance = np.hypot(*(cell[point] - uv).T) * CELL_PX
    keep = (uv >= 0).all(axis=1) & (uv < (CELLS_WIDE, CELLS_HIGH)).all(axis=1)
    keep &= distance < ROD_UNSURE_PX
    order = np.flatnonzero(keep)[np.argsort(distance[keep], kind="stable")]
    _, nearest = np.unique(uv[order] @ (1, CELLS_WIDE), return_index=True)
    order = order[nearest]
    (u, v), point, distance = uv[order].T, point[order], distance[order]

    before, after = _neighbours(rod_id)
    bins, reached = _bins(px)
    step = px[0, after[point]] - px[0, before[point]]
    length = np.maximum(np.hypot(*step.T), 1e-6)
    cos, sin = step.T / length
    slope = (bins[after[point]] - bins[before[point]]) * CELL_PX / length
    there = (distance < ROD_PX) & seen[0, point]
    rod[v, u] = there
    weight[v, u] = there
    # End on, a rod has no direction in the image.
    told = there & (length > 0.5)
    on[v, u] = told
    shift = (cell[point] - uv[order]).T
    values = np.stack(
        [
            *shift,
            cos**2 - sin**2,
            2 * cos * sin,
            SLOPE_SCALE * slope * cos,
            SLOPE_SCALE * slope * sin,
        ]
    )
    vector[:, v, u] = np.where(told, values, 0.0)
    bins_at[v, u] = np.where(there, bins[point], 0.0)
    bin_on[v, u] = there * reached[point] * np.where(seen[1, point], 1.0, GUESS)
    return targets


def _neighbours(rod_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices TANGENT_STEP points before and after each point, held inside its own rod."""
    index = np.arange(len(rod_id))
    before, after = index.copy(), index.copy()
    for rod in np.unique(rod_id):
        mine = index[rod_id == rod]
        before[mine] = np.maximum(mine - TANGENT_STEP, mine[0])
        after[mine] = np.minimum(mine + TANGENT_STEP, mine[-1])
    return before, after
