# SPDX-License-Identifier: Apache-2.0
"""Vertebrae of a CT, one by one: the network's blocks joined, its votes gathered, each with how sure
the network is of it.

Volumes are on the network's grid (`ct_network`): (Z, Y, X), STEP_MM, axes to S, P and L. Positions
are x y z in mm from voxel 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from .ct_network import BLOCK, CENTRE_SCALE_MM, MASKS, STEP_MM, CtNetwork, ct_features

OVERLAP = 24  # voxels that neighbouring blocks share, at least
_BONE_HU, _BONE_VOXELS = 120.0, 40  # a block with less bone than this holds no vertebra
_BIN_MM = 4.0  # of the votes' map
_PEAK_MM = 18.0  # least distance of two vertebrae's centres
_REACH_MM = 24.0  # of a vote from the centre that it counts for
_LEAST_ML = 3.0
_RIB_NEAR_MM, _RIB_ML = 14.0, 0.35
_LINK_MM = 75.0  # of two neighbours' centres, at most
_BESIDE_MM = 50.0  # off the spine's line: no vertebra's centre
_CRUMB = 0.2  # of a vertebra's volume
Step = Callable[[float], None]


@dataclass(frozen=True)
class Answer:
    """What the network says of a volume. masks (3, Z, Y, X): probabilities, in the order of MASKS;
    votes (3, Z/2, Y/2, X/2): mm from a cell's middle to its vertebra's centre, x y z."""

    masks: np.ndarray
    votes: np.ndarray


@dataclass(frozen=True)
class Vertebra:
    """centre_mm (3,): x y z from voxel 0; certainty: 0 to 1, mean of |2 p - 1| over its voxels and
    their rim; at_border: the volume's border cuts it."""

    centre_mm: np.ndarray
    volume_ml: float
    certainty: float
    is_sacrum: bool
    has_ribs: bool
    at_border: bool


@dataclass(frozen=True)
class Found:
    """labels (Z, Y, X) uint8: 0, or 1 + index into vertebrae, which lie from head to foot; bone
    (Z, Y, X): probability of vertebra, for the border between voxels."""

    labels: np.ndarray
    vertebrae: tuple[Vertebra, ...]
    bone: np.ndarray


def find_vertebrae(hu: np.ndarray, network: CtNetwork, step: Step | None = None) -> Found:
    """All vertebrae and the sacrum of a volume (Z, Y, X) in Hounsfield units; arguments as `ask`."""
    return instances(ask(hu, network, step))


def ask(hu: np.ndarray, network: CtNetwork, step: Step | None = None) -> Answer:
    """Blocks that overlap, weighted by how far a voxel is from its block's border.

    Args:
        hu (Z, Y, X): even sides; NaN is outside the scan.
        step: told the share that is done.
    """
    if any(n % 2 for n in hu.shape):
        raise ValueError(f"the volume measures {hu.shape} voxels: give even numbers of them")
    padded = np.maximum(BLOCK, hu.shape)
    seen = np.zeros(padded, bool)
    values = np.zeros(padded, np.float32)
    inside = tuple(slice(n) for n in hu.shape)
    seen[inside] = np.isfinite(hu)
    values[inside] = np.nan_to_num(hu, nan=0.0)
    x = ct_features(values, seen)
    masks = np.zeros((len(MASKS), *padded), np.float32)
    votes = np.zeros((3, *(padded // 2)), np.float32)
    weights = np.zeros(padded, np.float32)
    hat = _hat()
    blocks = list(_blocks(padded))
    for count, block in enumerate(blocks):
        if step is not None:
            step(count / len(blocks))
        if ((values[block] > _BONE_HU) & seen[block]).sum() < _BONE_VOXELS:
            continue  # nothing there: probability zero
        k, j, i = block
        logits, vectors = network(np.ascontiguousarray(x[:, k, j, i][None]))
        masks[:, k, j, i] += hat / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0)))
        k, j, i = (slice(s.start // 2, s.stop // 2) for s in block)
        votes[:, k, j, i] += hat[::2, ::2, ::2] * vectors * CENTRE_SCALE_MM
        weights[block] += hat
    weights = np.maximum(weights, 1e-9)
    masks /= weights
    votes /= weights[::2, ::2, ::2]
    masks *= seen
    z, y, w = hu.shape
    return Answer(masks[:, :z, :y, :w], votes[:, : z // 2, : y // 2, : w // 2])


def _hat() -> np.ndarray:
    """(BLOCK,) * 3 weights that fall towards the border, never to nothing."""
    ramp = np.minimum(np.arange(BLOCK) + 1, BLOCK - np.arange(BLOCK)) / OVERLAP
    line = np.clip(ramp, 0.02, 1.0).astype(np.float32)
    return line[:, None, None] * line[None, :, None] * line[None, None, :]


def _blocks(shape: np.ndarray) -> Iterator[tuple[slice, ...]]:
    """Blocks at even voxels that cover a volume."""
    starts = []
    for n in shape:
        count = 1 + max(0, int(np.ceil((n - BLOCK) / (BLOCK - OVERLAP))))
        at = np.linspace(0, n - BLOCK, count)
        starts.append((2 * np.floor(at / 2)).astype(int))
    for k in starts[0]:
        for j in starts[1]:
            for i in starts[2]:
                yield tuple(slice(a, a + BLOCK) for a in (k, j, i))


def instances(answer: Answer) -> Found:
    """Votes gathered to vertebrae; the sacrum by its own mask."""
    bone, sacral, rib = answer.masks
    cells = _pooled(bone) > 0.5
    is_sacrum = _largest((bone > 0.5) & (sacral > 0.5))
    own = cells & ~(_pooled(is_sacrum.astype(np.float32)) > 0.5)
    at = np.argwhere(own)
    middle = STEP_MM * (2.0 * at[:, ::-1] + 0.5)
    votes = middle + answer.votes.transpose(1, 2, 3, 0)[tuple(at.T)]
    owner, count = _gathered(votes, np.array(bone.shape) * STEP_MM)
    marks = np.zeros(own.shape, np.int32)
    marks[tuple(at.T)] = owner + 1
    labels = np.zeros(bone.shape, np.uint8)
    solid = (bone > 0.5) & ~is_sacrum
    if count and solid.any():
        nearest = ndimage.distance_transform_edt(
            marks == 0, return_distances=False, return_indices=True
        )
        spread = marks[tuple(nearest)]
        labels = np.where(solid, spread.repeat(2, 0).repeat(2, 1).repeat(2, 2), 0).astype(np.uint8)
    parts = [_largest(labels == k + 1) for k in range(count)]
    kept = [(p, False) for p in parts if p.sum() * STEP_MM**3 >= 1e3 * _LEAST_ML]
    if is_sacrum.sum() * STEP_MM**3 >= 1e3 * _LEAST_ML:
        kept.append((is_sacrum, True))
    found = assembled(kept, bone, rib > 0.5)
    own = in_column(found.vertebrae)
    if own.all():
        return found
    kept = [(found.labels == k + 1, v.is_sacrum) for k, v in enumerate(found.vertebrae) if own[k]]
    return assembled(kept, bone, rib > 0.5)


def in_column(vertebrae: tuple[Vertebra, ...]) -> np.ndarray:
    """(N,) bool: what is not beside the spine, as hips and ribs are that were taken for vertebrae.

    The spine is the heaviest chain of neighbours. Crumbs are left out too. A vertebra that is lost
    so leaves a gap, which `level_names` asks about.
    """
    n = len(vertebrae)
    if n < 2:
        return np.ones(n, bool)
    centre = np.array([v.centre_mm for v in vertebrae])
    volume = np.array([v.volume_ml for v in vertebrae])
    apart = centre[:, None] - centre[None]
    far = np.linalg.norm(apart, axis=2)
    linked = (far < _LINK_MM) & (np.abs(apart[..., 2]) >= 0.5 * far)
    _, part = connected_components(linked, directed=False)
    spine = part == np.bincount(part, weights=volume).argmax()
    line = centre[spine][np.argsort(centre[spine, 2])]
    beside = np.hypot(
        *(centre[:, k] - np.interp(centre[:, 2], line[:, 2], line[:, k]) for k in (0, 1))
    )
    crumb = volume < _CRUMB * np.median(volume[spine])
    # At the column's ends the scan's border leaves crumbs of true vertebrae.
    height = centre[:, 2]
    middle = spine & ~crumb
    end = (height > height[middle].max()) | (height < height[middle].min())
    cut = end & np.array([v.at_border for v in vertebrae])
    return np.asarray((spine | (beside < _BESIDE_MM)) & (~crumb | cut))


def assembled(kept: list[tuple[np.ndarray, bool]], bone: np.ndarray, ribs: np.ndarray) -> Found:
    """Masks (Z, Y, X) with whether each is the sacrum, in order from head to foot and described."""
    described = []
    bears = _bear_ribs(kept, ribs)
    for k, (mask, is_sacrum) in enumerate(kept):
        low, high = _box(mask, 2)
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        part = mask[window]
        rim = ndimage.binary_dilation(part)
        sure = float(np.abs(2.0 * bone[window][rim] - 1.0).mean())
        index = np.argwhere(part)
        centre = STEP_MM * (index.mean(axis=0) + low)[::-1]
        touches = bool(
            (index.min(axis=0) + low == 0).any()
            or (index.max(axis=0) + low >= np.array(mask.shape) - 1).any()
        )
        volume = 1e-3 * STEP_MM**3 * float(part.sum())
        described.append((mask, Vertebra(centre, volume, sure, is_sacrum, bears[k], touches)))
    # The sacrum is the last, however its centre lies to a steep L5's.
    described.sort(key=lambda d: (d[1].is_sacrum, -d[1].centre_mm[2]))
    labels = np.zeros(bone.shape, np.uint8)
    for k, (mask, _) in enumerate(described):
        labels[mask] = k + 1
    return Found(labels, tuple(v for _, v in described), bone)


def _bear_ribs(kept: list[tuple[np.ndarray, bool]], ribs: np.ndarray) -> list[bool]:
    """Which vertebrae have a rib beside them that is nearest to them: the last rib passes the process
    of the vertebra below its own."""
    pad = int(_RIB_NEAR_MM / STEP_MM) + 1
    parts, count = ndimage.label(ribs, np.ones((3, 3, 3)))
    nearest = np.full((count + 1, len(kept)), np.inf)
    close_ml = np.zeros((count + 1, len(kept)))
    for k, (mask, is_sacrum) in enumerate(kept):
        low, high = _box(mask, pad)
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        beside = parts[window]
        if is_sacrum or not beside.any():
            continue
        far = STEP_MM * ndimage.distance_transform_edt(~mask[window])
        np.minimum.at(nearest[:, k], beside, far)
        near = beside[far < _RIB_NEAR_MM]
        close_ml[:, k] = 1e-3 * STEP_MM**3 * np.bincount(near, minlength=count + 1)
    owner = nearest.argmin(axis=1) if kept else np.zeros(count + 1, int)
    return [bool(close_ml[1:, k][owner[1:] == k].sum() >= _RIB_ML) for k in range(len(kept))]


def _box(mask: np.ndarray, pad: int) -> tuple[np.ndarray, np.ndarray]:
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    low = np.maximum([s.start - pad for s in box], 0)
    return low, np.minimum([s.stop + pad for s in box], mask.shape)


def _pooled(values: np.ndarray) -> np.ndarray:
    """Mean of 2 x 2 x 2 voxels; the shape is even."""
    z, y, x = (n // 2 for n in values.shape)
    pooled: np.ndarray = values.reshape(z, 2, y, 2, x, 2).mean(axis=(1, 3, 5))
    return pooled


def _largest(mask: np.ndarray) -> np.ndarray:
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    best: np.ndarray = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    return best


def _gathered(votes: np.ndarray, extent_mm: np.ndarray) -> tuple[np.ndarray, int]:
    """(N,) index of the vertebra that each vote is for, -1 for none, and their number."""
    if not len(votes):
        return np.zeros(0, int), 0
    margin = 40.0  # a cut vertebra's centre may lie outside
    shape = tuple(np.ceil((extent_mm[::-1] + 2 * margin) / _BIN_MM).astype(int) + 1)
    index = np.floor((votes + margin) / _BIN_MM).astype(int)
    index = np.clip(index, 0, np.array(shape) - 1)
    mass = np.zeros(shape, np.float32)
    np.add.at(mass, tuple(index.T), 1.0)
    smooth = ndimage.gaussian_filter(mass, 1.2)
    peak = smooth == ndimage.maximum_filter(smooth, size=5)
    cell_ml = 1e-3 * (2.0 * STEP_MM) ** 3
    # A vertebra's votes lie within a few bins; its peak has about a tenth of them.
    peak &= smooth > 0.012 * _LEAST_ML / cell_ml
    places = np.argwhere(peak)
    order = np.argsort(-smooth[tuple(places.T)])
    centres: list[np.ndarray] = []
    for place in places[order]:
        centre = (place + 0.5) * _BIN_MM - margin
        for _ in range(5):
            near = np.linalg.norm(votes - centre, axis=1) < 0.5 * _PEAK_MM
            if near.any():
                centre = votes[near].mean(axis=0)
        weight = (np.linalg.norm(votes - centre, axis=1) < 0.5 * _PEAK_MM).sum() * cell_ml
        apart = all(np.linalg.norm(centre - c) > _PEAK_MM for c in centres)
        if apart and weight >= 0.4 * _LEAST_ML:
            centres.append(centre)
    if not centres:
        return np.full(len(votes), -1), 0
    far = np.stack([np.linalg.norm(votes - c, axis=1) for c in centres], axis=1)
    owner = far.argmin(axis=1)
    return np.where(far.min(axis=1) < _REACH_MM, owner, -1), len(centres)
