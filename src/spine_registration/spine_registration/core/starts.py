# SPDX-License-Identifier: Apache-2.0
"""Where a registration begins: every way to name the vertebrae in view that keeps their order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from spine_nav_common.core.geometry import kabsch, transform
from spine_perception.core.instances import Instance

from .chain import common_pose
from .model import SpineModel

SAME_M = 8e-3
"""Starts nearer than this end in the same place."""
MATCH_M = 18e-3
"""Half a vertebra's height: a centre farther away belongs to the next level."""
UNANIMOUS = 0.8
REVERSED_NAT = 30.0
"""Cost of the head on the side where unanimous votes do not see it."""


@dataclass(frozen=True)
class Start:
    """A rigid starting pose, and what the votes say against it in nat."""

    T_camera_ct: np.ndarray
    penalty: float


_Pairs = tuple[tuple[int, int], ...]
"""(instance, level) of each vertebra in view that the case names."""


def find_starts(
    model: SpineModel, instances: tuple[Instance, ...], unanimous: float
) -> list[Start]:
    """One start per way to name the instances; head on either side, but not where `unanimous`
    votes (share of REVERSED_NAT) speak against it."""
    if not instances:
        return []
    starts: list[Start] = []
    for R, penalty in _orientations(instances):
        if penalty > unanimous * REVERSED_NAT:
            continue  # heard once all the same, as the rival of the best
        R_camera_ct = R @ model.axes.T
        placed: list[np.ndarray] = []
        known: dict[_Pairs, tuple[np.ndarray, np.ndarray, _Pairs]] = {}
        # From every instance: the largest one may be a vertebra beyond the case.
        for pair in product(range(len(instances)), range(len(model.levels))):
            pairs: _Pairs = (pair,)
            for _ in range(3):
                if pairs not in known:
                    T = _rigid(model, instances, pairs, R_camera_ct)
                    expected = model.anchor_m @ T[:3, :3].T + T[:3, 3]
                    known[pairs] = T, expected, _match(instances, expected)
                T, expected, pairs = known[pairs]
                if not pairs:
                    break
            if pairs and all(np.linalg.norm(expected - e, axis=1).mean() > SAME_M for e in placed):
                placed.append(expected)
                starts.append(Start(T, penalty))
    return starts


def reversed_start(model: SpineModel, poses: np.ndarray, penalty: float) -> Start:
    """Poses (L, 4, 4) that cost `penalty`, with the head on the other side."""
    T = common_pose(model, poses)
    R = T[:3, :3] @ model.axes @ np.diag([-1.0, 1.0, -1.0]) @ model.axes.T
    T[:3, 3] += (T[:3, :3] - R) @ model.anchor_m.mean(axis=0)
    T[:3, :3] = R
    return Start(T, REVERSED_NAT - penalty)


def _orientations(instances: tuple[Instance, ...]) -> list[tuple[np.ndarray, float]]:
    """Two rotations R_camera_anatomy, head on either side, each with its penalty in nat.

    The line of the centres gives the spine's axis better than any vote; the votes' cranial
    direction only says on which side the head lies, as strongly as they agree.
    """
    area = np.array([i.area_m2 for i in instances])
    area = area / area.sum()
    dorsal = area @ np.array([i.R_camera_anatomy[:, 1] for i in instances])
    cranial = area @ np.array([i.R_camera_anatomy[:, 2] for i in instances])
    axis = cranial
    if len(instances) > 1:
        centre = np.array([i.centre_m for i in instances])
        offset = centre - area @ centre
        axis = np.linalg.svd(offset * np.sqrt(area)[:, None])[2][0]
    left = np.cross(dorsal, axis)
    if np.linalg.norm(left) < 1e-6:
        return []
    left /= np.linalg.norm(left)
    axis /= np.linalg.norm(axis)
    R = np.column_stack([left, np.cross(axis, left), axis])
    reverse = R @ np.diag([-1.0, 1.0, -1.0])
    agreement = float(axis @ cranial)
    return [
        (R, 0.5 * REVERSED_NAT * (1.0 - agreement)),
        (reverse, 0.5 * REVERSED_NAT * (1.0 + agreement)),
    ]


def _match(instances: tuple[Instance, ...], expected: np.ndarray) -> _Pairs:
    """Greedy one-to-one pairs (instance, level) within half a vertebra."""
    centre = np.array([i.centre_m for i in instances])
    distance = np.linalg.norm(centre[:, None] - expected[None], axis=2)
    pairs = []
    while distance.size and np.min(distance) < MATCH_M:
        i, j = np.unravel_index(np.argmin(distance), distance.shape)
        pairs.append((int(i), int(j)))
        distance[i, :] = np.inf
        distance[:, j] = np.inf
    return tuple(pairs)


def _rigid(
    model: SpineModel,
    instances: tuple[Instance, ...],
    pairs: _Pairs,
    R_camera_ct: np.ndarray,
) -> np.ndarray:
    """(4, 4) least squares over centres, held in orientation by arms of 25 mm."""
    if len(pairs) == 1:
        i, j = pairs[0]
        return transform(R_camera_ct, instances[i].centre_m - R_camera_ct @ model.anchor_m[j])
    arms = 25e-3 * np.vstack([np.zeros(3), np.eye(3)])
    p = np.concatenate([model.anchor_m[j] + arms for _, j in pairs])
    q = np.concatenate([instances[i].centre_m + arms @ R_camera_ct.T for i, _ in pairs])
    return kabsch(p, q, np.repeat([instances[i].area_m2 for i, _ in pairs], len(arms)))
