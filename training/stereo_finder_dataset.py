# SPDX-License-Identifier: Apache-2.0
"""Stereo pairs from training/stereo_generate.py to augmented samples and targets of the finder.

Kept in memory at no more than the grid's resolution, so that random scale and place cost no reading. All places are pixels (u, v) from the centre of the first pixel.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from stereo_finder_augment import photometric, random_cover
from stereo_screw_tracker.core.finder_grid import (
    BINS,
    CELL_PX,
    CELLS_HIGH,
    CELLS_WIDE,
    HEIGHT,
    SLOPE_SCALE,
    WIDTH,
    cell_centres,
    grey,
    normalise,
)

HIDDEN = 0.15  # a head that shows less is neither to be found nor a mistake
HEAD_CELLS = 1.6  # cells this near a saddle point say where it is
HEAT_SIGMA = 0.8  # cells
ROD_PX, ROD_UNSURE_PX = 6.4, 11.0  # on the rod up to here; off it from there on, in grid pixels
TANGENT_STEP = 3  # rod points before and after that give the tangent


@dataclass(frozen=True)
class Pair:
    """One labelled pair. left, right (H, W) uint8; index 0 of `places` and `seen` is the left view.

    head_px (2, N, 2), head_seen (2, N); rod_px (2, M, 2), rod_seen (2, M), rod_id (M,) in order
    along each rod.
    """

    left: np.ndarray
    right: np.ndarray
    head_px: np.ndarray
    head_seen: np.ndarray
    rod_px: np.ndarray
    rod_seen: np.ndarray
    rod_id: np.ndarray

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
            return Pair(
                grey(f["left"]),
                grey(f["right"]),
                np.stack([f["head_left_px"], f["head_right_px"]]).reshape(2, -1, 2).astype(float),
                np.stack([f["head_seen_left"], f["head_seen_right"]]).reshape(2, -1).astype(float),
                np.stack([f["rod_left_px"], f["rod_right_px"]]).reshape(2, -1, 2).astype(float),
                np.stack([f["rod_seen_left"], f["rod_seen_right"]]).reshape(2, -1).astype(bool),
                f["rod_id"].reshape(-1).astype(int),
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
    )


def make_sample(pair: Pair, rng: np.random.Generator | None) -> Sample:
    """A sample of the whole pair; with a generator, of an augmented view of it."""
    if rng is not None:
        if rng.random() < 0.5:
            pair = pair.mirrored()
        if rng.random() < 0.5:
            pair = pair.upside_down()
    h, w = pair.left.shape
    scale = min(WIDTH / w, HEIGHT / h)
    middle = np.array([WIDTH - w * scale, HEIGHT - h * scale]) / 2
    apart = np.zeros(2)  # how the right view is moved against the left one
    if rng is not None:
        zoom = np.exp(rng.uniform(-0.2, 0.3)) if rng.random() < 0.7 else 1.0
        middle += (1 - zoom) * np.array([w, h]) * scale / 2
        middle += rng.uniform(-0.5, 0.5, 2) * np.abs(zoom - 1) * np.array([w, h]) * scale
        scale *= zoom
        apart = np.array([rng.uniform(-12, 12), rng.normal(0, 0.6)])
    shifts = np.stack([middle, middle + apart])
    places = {
        name: (getattr(pair, f"{name}_px") + 0.5) * scale - 0.5 + shifts[:, None]
        for name in ("head", "rod")
    }
    head_seen, rod_seen = pair.head_seen.copy(), pair.rod_seen.copy()
    cover = random_cover(rng) if rng is not None else None
    channels = []
    for eye, image in enumerate((pair.left, pair.right)):
        view, inside = _view(image, scale, shifts[eye], rng)
        if rng is not None:
            view, mask = photometric(view, cover, eye, rng)
            head_seen[eye] *= 1.0 - _share(mask, places["head"][eye], 6)
            rod_seen[eye] &= _share(mask, places["rod"][eye], 2) < 0.5
        channels.append(normalise(view) * inside)
    return Sample(
        np.stack(channels),
        *_head_targets(places["head"], head_seen),
        *_rod_targets(places["rod"], rod_seen, pair.rod_id),
    )


def crop_rows(sample: Sample, high: int, rng: np.random.Generator) -> Sample:
    """A band of `high` rows, mostly one with a head or a rod in it.

    The wound is a small part of most images, and training time is short. Columns all stay: the
    other view needs them at every disparity.
    """
    cells = high // CELL_PX
    rows = np.flatnonzero((sample.head_on + sample.rod_on).any(axis=1))
    last = CELLS_HIGH - cells
    first = int(rng.integers(0, last + 1))
    if len(rows) and rng.random() < 0.75:
        first = int(np.clip(rng.choice(rows) - rng.integers(0, cells), 0, last))
    cut = {
        name: value[..., first : first + cells, :]
        for name, value in vars(sample).items()
        if name != "x"
    }
    top = first * CELL_PX
    return Sample(x=sample.x[:, top : top + high], **cut)


def _view(
    image: np.ndarray, scale: float, shift: np.ndarray, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """The grid's pixels of one image (uint8), and where the image is at all (float32 0 or 1)."""
    if scale < 0.8 and (rng is None or rng.random() < 0.7):
        image = cv2.GaussianBlur(image, (3, 3), 0.6)  # what area scaling would average away
    offset = 0.5 * scale - 0.5 + shift
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    view = cv2.warpAffine(
        image, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    h, w = image.shape
    inside = np.zeros((HEIGHT, WIDTH), np.float32)
    first = np.maximum(np.round(shift), 0).astype(int)
    last = np.round(shift + np.array([w, h]) * scale).astype(int)
    inside[first[1] : last[1], first[0] : last[0]] = 1.0
    return view, inside


def _share(mask: np.ndarray | None, px: np.ndarray, radius: int) -> np.ndarray:
    """(N,) share of the square about each place that is covered; outside the grid 0."""
    if mask is None or not len(px):
        return np.zeros(len(px))
    u, v = np.round(px).astype(int).T
    inside = (u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT)
    reach = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1)
    rows = (v[:, None] + reach[0]).clip(0, HEIGHT - 1)
    columns = (u[:, None] + reach[1]).clip(0, WIDTH - 1)
    return np.where(inside, mask[rows, columns].mean(axis=1), 0.0)


def _bins(px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Disparities in bins, and whether the bins reach them."""
    bins = (px[0, :, 0] - px[1, :, 0]) / CELL_PX
    return bins, (bins >= 0) & (bins <= BINS - 1)


def _head_targets(px: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, ...]:
    centres = cell_centres()
    heat, weight, on, bin_on = (np.zeros((CELLS_HIGH, CELLS_WIDE), np.float32) for _ in range(4))
    weight += 1.0
    vector = np.zeros((2, CELLS_HIGH, CELLS_WIDE), np.float32)
    bin_map = np.zeros((CELLS_HIGH, CELLS_WIDE), np.float32)
    bins, reached = _bins(px)
    nearest = np.full((CELLS_HIGH, CELLS_WIDE), np.inf)
    for n, (u, v) in enumerate(px[0]):
        offset = (np.array([u, v]) - centres) / CELL_PX
        distance = np.hypot(offset[..., 0], offset[..., 1])
        if seen[0, n] < HIDDEN:
            weight[distance < 2.5] = 0.0
            continue
        if not (0 <= u < WIDTH and 0 <= v < HEIGHT):
            continue
        bump = np.exp(-0.5 * (distance / HEAT_SIGMA) ** 2)
        bump[np.unravel_index(distance.argmin(), distance.shape)] = 1.0
        np.maximum(heat, bump, out=heat)
        mine = (distance < HEAD_CELLS) & (distance < nearest)
        nearest[mine] = distance[mine]
        vector[:, mine] = offset[mine].T
        on[mine] = 1.0
        bin_map[mine] = bins[n]
        # Where the other view shows nothing, the disparity is a guess from the surroundings.
        bin_on[mine] = reached[n] * (1.0 if seen[1, n] >= HIDDEN else 0.2)
    weight[heat == 1.0] = 1.0  # a seen head beside a hidden one still counts
    return heat, weight, on, vector, bin_map, bin_on


def _rod_targets(px: np.ndarray, seen: np.ndarray, rod_id: np.ndarray) -> tuple[np.ndarray, ...]:
    shape = (CELLS_HIGH, CELLS_WIDE)
    rod, weight, on, bin_map, bin_on = (np.zeros(shape, np.float32) for _ in range(5))
    weight += 1.0
    vector = np.zeros((6, *shape), np.float32)
    if len(rod_id) < 2:
        return rod, weight, on, vector, bin_map, bin_on
    bins, reached = _bins(px)
    before, after = _neighbours(rod_id)
    step = px[0, after] - px[0, before]
    length = np.hypot(step[:, 0], step[:, 1])
    along = step / np.maximum(length, 1e-6)[:, None]
    slope = (bins[after] - bins[before]) * CELL_PX / np.maximum(length, 1e-6)
    # Every cell within reach of a point, the nearest point last so that it stays.
    cell = np.round((px[0] - (CELL_PX - 1) / 2) / CELL_PX).astype(int)
    reach = np.mgrid[-2:3, -2:3].reshape(2, -1).T
    at = (cell[:, None] + reach).reshape(-1, 2)
    point = np.repeat(np.arange(len(rod_id)), len(reach))
    inside = (at >= 0).all(axis=1) & (at < (CELLS_WIDE, CELLS_HIGH)).all(axis=1)
    at, point = at[inside], point[inside]
    offset = px[0, point] - (at * CELL_PX + (CELL_PX - 1) / 2)
    distance = np.hypot(offset[:, 0], offset[:, 1])
    order = np.argsort(-distance, kind="stable")
    at, point, offset, distance = at[order], point[order], offset[order], distance[order]
    nearest = np.full(shape, np.inf)
    index = np.zeros(shape, int)
    shift = np.zeros((2, *shape))
    v, u = at[:, 1], at[:, 0]
    nearest[v, u], index[v, u] = distance, point
    shift[0, v, u], shift[1, v, u] = offset.T / CELL_PX
    visible = seen[0][index]
    near = nearest < ROD_PX
    rod[near & visible] = 1.0
    weight[(nearest < ROD_UNSURE_PX) & ~(near & visible)] = 0.0
    # End on, a rod has no direction in the image.
    steady = length[index] > 0.5
    on[near & visible & steady] = 1.0
    cos, sin = along[index].transpose(2, 0, 1)
    vector[:2] = shift
    vector[2], vector[3] = cos**2 - sin**2, 2 * cos * sin
    vector[4:] = SLOPE_SCALE * slope[index] * np.stack([cos, sin])
    vector[:, on == 0] = 0.0
    bin_map[near] = bins[index][near]
    bin_on[near & visible & reached[index]] = 1.0
    bin_on *= np.where(seen[1][index], 1.0, 0.2).astype(np.float32)
    return rod, weight, on, vector.astype(np.float32), bin_map, bin_on


def _neighbours(rod_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices TANGENT_STEP points before and after each point, held inside its own rod."""
    index = np.arange(len(rod_id))
    before, after = index.copy(), index.copy()
    for rod in np.unique(rod_id):
        mine = index[rod_id == rod]
        before[mine] = np.maximum(mine - TANGENT_STEP, mine[0])
        after[mine] = np.minimum(mine + TANGENT_STEP, mine[-1])
    return before, after
