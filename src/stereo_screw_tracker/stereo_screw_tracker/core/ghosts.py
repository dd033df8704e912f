# SPDX-License-Identifier: Apache-2.0
"""Which measured heads are heads: epipolar, depth, duplicates, lone outliers, and a bad pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.types import Head3D, Rejected

from .config import GhostConfig
from .rectification import LEAST_FOR_MEDIAN, row_sigma_px, wrong_by_heads
from .triangulate import OUT_OF_DEPTH, triangulate_head
from .types import HeadObservation, StereoCamera

WRONG_SCALE = (
    "all {} heads would lie outside {:g} to {:g} m: the baseline is wrong (P[3] of the right"
    " camera_info is -fx * baseline in metres), or the camera is too near or too far"
)
_LEAST_FOR_SURFACE = 4


@dataclass(frozen=True)
class Screened:
    """The heads that remain, in words what was dropped, and which observation each head is."""

    heads: tuple[Head3D, ...]
    dropped: tuple[str, ...]
    of: tuple[int, ...] = ()


def screen(
    camera: StereoCamera,
    observations: Sequence[HeadObservation],
    config: GhostConfig,
    rows_agree: bool = False,
) -> Screened | Rejected:
    """Triangulate the heads of one pair and drop the ghosts.

    rows_agree: the images themselves have shown that rows fit (rectification.py); heads whose rows
    differ are then the network's fault, and the pair is not blamed.

    Rejected when the pair itself is wrong: swapped images, rows that differ systematically, or a
    scale that puts all heads out of reach.
    A single bad head never rejects the others.
    """
    bad_pair = wrong_by_heads(observations, config, rows_agree)
    if bad_pair is not None:
        return bad_pair
    heads: list[Head3D] = []
    dropped: list[str] = []
    number: dict[int, int] = {}
    too_deep = 0
    for i, observation in enumerate(observations):
        head = triangulate_head(
            camera, observation, (config.nearest_m, config.farthest_m), config.row_error_px
        )
        if isinstance(head, Rejected):
            dropped.append(f"head at {_place(observation)}: {head.reason}")
            too_deep += OUT_OF_DEPTH in head.reason
            continue
        sigma = np.hypot(row_sigma_px(observation), config.row_error_px)
        if abs(head.epipolar_px) > config.epipolar_sigmas * sigma:
            dropped.append(
                f"head at {_place(observation)}: left and right rows differ by"
                f" {head.epipolar_px:.1f} px, {abs(head.epipolar_px) / sigma:.0f} sigmas"
            )
            continue
        heads.append(head)
        number[id(head)] = i
    if len(observations) >= LEAST_FOR_MEDIAN and too_deep == len(observations):
        return Rejected(WRONG_SCALE.format(too_deep, config.nearest_m, config.farthest_m))
    # first depth, then places: a ghost nearer than the others has the smaller standard error and
    # would win the place of the head that it shares an image with
    heads, lone = _without_lone_depths(heads, config)
    heads, twice = _without_duplicates(heads, camera, config)
    of = tuple(number[id(head)] for head in heads)
    return Screened(tuple(heads), tuple(dropped + lone + twice), of)


def uncertainty_m(head: Head3D) -> float:
    """What ranks two claims on one screw: standard error in space over confidence."""
    return float(np.sqrt(np.trace(head.covariance_m2))) / max(head.confidence, 1e-3)


def _place(observation: HeadObservation) -> str:
    with np.errstate(invalid="ignore"):
        return f"({observation.left_px[0]:.0f}, {observation.left_px[1]:.0f})"


def _without_duplicates(
    heads: list[Head3D], camera: StereoCamera, config: GhostConfig
) -> tuple[list[Head3D], list[str]]:
    """Of heads that claim one place, in space or in either image, the most certain one stays."""
    kept: list[Head3D] = []
    dropped: list[str] = []
    right = np.array([camera.baseline_m, 0.0, 0.0])
    for head in sorted(heads, key=uncertainty_m):
        for other in kept:
            apart_mm = 1e3 * float(np.linalg.norm(head.point_m - other.point_m))
            seen_mm = 1e3 * min(
                _across(head.point_m, other.point_m),
                _across(head.point_m - right, other.point_m - right),
            )
            if apart_mm < config.duplicate_mm or seen_mm < config.same_place_mm:
                dropped.append(f"head {apart_mm:.1f} mm beside a more certain one: a duplicate")
                break
        else:
            kept.append(head)
    return kept, dropped


def _across(a: np.ndarray, b: np.ndarray) -> float:
    """How far two points (3,) seem apart from the origin, at the nearer one's distance."""
    na, nb = np.linalg.norm(a), np.linalg.norm(b)
    return float(np.linalg.norm(a / na - b / nb) * min(na, nb))


def _without_lone_depths(
    heads: list[Head3D], config: GhostConfig
) -> tuple[list[Head3D], list[str]]:
    """Drop heads far before or behind the plane through the others, worst first.

    A wrong pair among neighbouring screws is off by a hundred millimetres and more; a lordosis
    or a screw set deep by ten or twenty. The bound lies between.
    """
    dropped: list[str] = []
    while len(heads) >= _LEAST_FOR_SURFACE:
        depth = [h.point_m[2] for h in heads]
        if 1e3 * (max(depth) - min(depth)) < config.lone_depth_mm:
            break  # the usual case needs no plane
        off_mm = np.array([_off_plane_mm(heads, i) for i in range(len(heads))])
        sigma_mm = 1e3 * np.sqrt([h.covariance_m2[2, 2] for h in heads])
        excess = np.abs(off_mm) - np.maximum(config.lone_depth_mm, 5.0 * sigma_mm)
        worst = int(excess.argmax())
        if excess[worst] <= 0.0:
            break
        dropped.append(f"head {off_mm[worst]:+.0f} mm off the depth of the others: a ghost")
        heads = heads[:worst] + heads[worst + 1 :]
    return heads, dropped


def _off_plane_mm(heads: list[Head3D], i: int) -> float:
    """Depth of head i minus that of a robust plane through the others, mm (plus = behind)."""
    others = np.array([h.point_m for j, h in enumerate(heads) if j != i])
    centre = np.median(others, axis=0)
    # slopes are held near zero by what a table's tilt can be (45 deg), so that a row on one line
    # does not extrapolate wildly across itself
    design = np.c_[np.ones(len(others)), (others - centre)[:, :2]]
    depth = others[:, 2] - centre[2]
    weight = np.ones(len(others))
    prior = np.diag([0.0, 1e-4, 1e-4])  # (10 mm)^2 of evidence against a slope of 1
    plane = np.zeros(3)
    for _ in range(8):  # reweighted towards least absolute deviation
        plane = np.linalg.solve(
            design.T @ (weight[:, None] * design) + prior, design.T @ (weight * depth)
        )
        weight = 1.0 / np.maximum(np.abs(depth - design @ plane) / 5e-3, 1.0)
    at = heads[i].point_m - centre
    return 1e3 * float(at[2] - (plane[0] + plane[1] * at[0] + plane[2] * at[1]))
