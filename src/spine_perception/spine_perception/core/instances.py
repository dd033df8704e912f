# SPDX-License-Identifier: Apache-2.0
"""From per-cell votes to vertebrae: clusters of voted centres, each with a robust orientation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .segmentation import Segmentation

BANDWIDTH_M = 0.014
_REACH_M = 0.016  # half the distance between neighbouring dorsal centres: a vote beyond is nobody's
_MERGE_M = 0.018
_VOXEL_M = 0.004
_MIN_AREA_M2 = 8e-5
_MIN_SHARE_OF_LARGEST = 0.05
_MAX_INSTANCES = 14
_MEAN_SHIFT_STEPS = 12


@dataclass(frozen=True)
class Instance:
    """One vertebra that the network sees, of unknown level, in the camera frame.

    centre_m (3,): dorsal centre. R_camera_anatomy (3, 3): columns left, posterior, superior (the
    axes of an LPS CT). area_m2: bone surface facing the camera that voted for it. cells: how many
    grid cells. spread_m: RMS distance of the votes from the centre. spread_rad: mean angle of the
    votes' axes from the agreed ones.
    """

    centre_m: np.ndarray
    R_camera_anatomy: np.ndarray
    area_m2: float
    cells: int
    spread_m: float
    spread_rad: float


def find_instances(seg: Segmentation, threshold: float = 0.5) -> tuple[Instance, ...]:
    """Vertebrae in the order from head to foot; empty where the segmenter casts no votes."""
    cells, votes = _votes(seg, threshold)
    if not len(votes):
        return ()
    z = seg.points_m[..., 2][cells]
    # A cell covers an area that grows with the square of its depth; focal lengths cancel into
    # the distance between neighbouring points.
    area = _cell_area(seg, z)
    modes = _modes(votes, area)
    owner = _owners(votes, modes)
    cranial, dorsal = seg.cranial[cells].astype(float), seg.dorsal[cells].astype(float)
    found = []
    for k in range(len(modes)):
        mine = owner == k
        if area[mine].sum() < _MIN_AREA_M2:
            continue
        found.append(_instance(votes[mine], cranial[mine], dorsal[mine], area[mine]))
    if not found:
        return ()
    largest = max(i.area_m2 for i in found)
    found = [i for i in found if i.area_m2 >= _MIN_SHARE_OF_LARGEST * largest]
    axis = sum(i.area_m2 * i.R_camera_anatomy[:, 2] for i in found)
    return tuple(sorted(found, key=lambda i: -float(axis @ i.centre_m)))


def assign_cells(
    seg: Segmentation, instances: tuple[Instance, ...], threshold: float = 0.5
) -> np.ndarray:
    """(h, w) int16: index of the instance that each bone cell votes for, -1 elsewhere."""
    out = np.full(seg.bone.shape, -1, np.int16)
    cells, votes = _votes(seg, threshold)
    if len(votes) and instances:
        out[cells] = _owners(votes, np.array([i.centre_m for i in instances]))
    return out


def _votes(seg: Segmentation, threshold: float) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    good = (seg.bone > threshold) & np.isfinite(seg.centre_m).all(axis=2)
    good &= np.isfinite(seg.points_m).all(axis=2)
    cells = np.nonzero(good)
    return cells, seg.centre_m[cells].astype(float)


def _cell_area(seg: Segmentation, z: np.ndarray) -> np.ndarray:
    """(N,) m2 across the viewing ray that each cell at depth z stands for."""
    i, j = np.nonzero(np.isfinite(seg.points_m[..., 2]))
    slopes = seg.points_m[i, j, :2] / seg.points_m[i, j, 2:]
    dx = np.ptp(slopes[:, 0]) / max(1, np.ptp(j))
    dy = np.ptp(slopes[:, 1]) / max(1, np.ptp(i))
    return dx * dy * z.astype(float) ** 2


def _modes(votes: np.ndarray, area: np.ndarray) -> np.ndarray:
    """(K, 3) cluster centres: densest voxel first, mean shift, remove its votes, again."""
    modes: list[np.ndarray] = []
    left = np.ones(len(votes), bool)
    voxel = np.floor(votes / _VOXEL_M).astype(np.int64)
    low, side = voxel.min(axis=0), np.ptp(voxel, axis=0) + 1
    key = ((voxel - low) @ np.array([side[1] * side[2], side[2], 1])).astype(np.int64)
    first, inverse = np.unique(key, return_index=True, return_inverse=True)[1:]
    while len(modes) < _MAX_INSTANCES and area[left].sum() >= _MIN_AREA_M2:
        v, a = votes[left], area[left]
        mass = np.bincount(inverse[left], a, len(first))
        best = voxel[first[np.argmax(mass)]]
        mode = (best + 0.5) * _VOXEL_M
        for _ in range(_MEAN_SHIFT_STEPS):
            w = a * np.exp(-0.5 * ((v - mode) ** 2).sum(axis=1) / (0.5 * BANDWIDTH_M) ** 2)
            if w.sum() <= 0:
                break
            shifted = w @ v / w.sum()
            moved = np.linalg.norm(shifted - mode)
            mode = shifted
            if moved < 1e-4:
                break
        near = np.linalg.norm(votes - mode, axis=1) < BANDWIDTH_M
        if not (near & left).any():
            near = left & (voxel == best).all(axis=1)
        strong = area[near & left].sum() >= _MIN_AREA_M2
        if strong and all(np.linalg.norm(mode - m) > _MERGE_M for m in modes):
            modes.append(mode)
        left &= ~near
    return np.array(modes).reshape(-1, 3)


def _owners(votes: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(N,) index of the nearest centre within reach, else -1."""
    if not len(centres):
        return np.full(len(votes), -1)
    distance = np.linalg.norm(votes[:, None] - centres[None], axis=2)
    nearest = distance.argmin(axis=1)
    return np.where(distance[np.arange(len(votes)), nearest] < _REACH_M, nearest, -1)


def _instance(
    votes: np.ndarray, cranial: np.ndarray, dorsal: np.ndarray, area: np.ndarray
) -> Instance:
    centre = np.array([_weighted_median(votes[:, k], area) for k in range(3)])
    miss = np.linalg.norm(votes - centre, axis=1)
    weight = area / (1.0 + (miss / 0.004) ** 2)
    centre = weight @ votes / weight.sum()
    miss = np.linalg.norm(votes - centre, axis=1)
    R = _orthonormal(weight @ cranial, weight @ dorsal)
    for _ in range(2):
        angle = _axis_angles(R, cranial, dorsal)
        robust = weight / (1.0 + (angle / 0.2) ** 2)
        R = _orthonormal(robust @ cranial, robust @ dorsal)
    angle = _axis_angles(R, cranial, dorsal)
    return Instance(
        centre_m=centre,
        R_camera_anatomy=R,
        area_m2=float(area.sum()),
        cells=len(votes),
        spread_m=float(np.sqrt(area @ miss**2 / area.sum())),
        spread_rad=float(area @ angle / area.sum()),
    )


def _axis_angles(R: np.ndarray, cranial: np.ndarray, dorsal: np.ndarray) -> np.ndarray:
    """(N,) mean of the angles of both axes from R's, radians."""
    return 0.5 * (
        np.arccos(np.clip(cranial @ R[:, 2], -1, 1)) + np.arccos(np.clip(dorsal @ R[:, 1], -1, 1))
    )


def _orthonormal(cranial: np.ndarray, dorsal: np.ndarray) -> np.ndarray:
    """The rotation nearest to the two directions; columns left, posterior, superior."""
    cranial = cranial / max(float(np.linalg.norm(cranial)), 1e-12)
    dorsal = dorsal / max(float(np.linalg.norm(dorsal)), 1e-12)
    left = np.cross(dorsal, cranial)
    left /= max(float(np.linalg.norm(left)), 1e-12)
    U, _, Vt = np.linalg.svd(np.column_stack([left, dorsal, cranial]))
    return U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt


def _weighted_median(values: np.ndarray, weight: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(total, 0.5 * total[-1])])
