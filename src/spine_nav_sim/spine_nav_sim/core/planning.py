# SPDX-License-Identifier: Apache-2.0
"""Pedicle-screw plans on vertebra meshes (metres, LPS: +x left, +y posterior, +z superior)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from spine_nav_common.core.types import Mesh, Rejected, ScrewPlan
from spine_nav_sim.core.anatomy_frame import (
    RayScene,
    VertebraFrame,
    depth_inside,
    find_frame,
    first_hits,
    inside,
    raycasting_scene,
)

MAX_LENGTH = 0.050  # metres from entry to target
ANTERIOR_MARGIN = 0.006  # bone left before the anterior wall
SIDES = (("left", 1.0), ("right", -1.0))
_STEP = 0.001  # pedicle cross-sections


def plan_screws(meshes: dict[str, Mesh]) -> tuple[ScrewPlan, ...]:
    """Left and right pedicle screws for every level where both axes can be verified in the bone.

    A level whose pedicles cannot be found gets no screws; `plan_level` tells why.
    """
    plan: list[ScrewPlan] = []
    for level, mesh in meshes.items():
        screws = plan_level(mesh, level)
        if not isinstance(screws, Rejected):
            plan += screws
    return tuple(plan)


def plan_level(mesh: Mesh, level: str) -> tuple[ScrewPlan, ScrewPlan] | Rejected:
    """Left and right screw of one vertebra: narrowest cross-section beside the canal, then the
    axis with the largest clearance that converges 5 to 30 degrees into the body."""
    if level == "S1":
        return Rejected("S1: automatic planning knows free vertebrae only, not the sacrum")
    frame = find_frame(mesh)
    if isinstance(frame, Rejected):
        return Rejected(f"{level}: {frame.reason}")
    scene = raycasting_scene(mesh)
    screws = []
    for side, sign in SIDES:
        isthmus = _isthmus(scene, frame, sign)
        if isinstance(isthmus, Rejected):
            return Rejected(f"{level} {side}: {isthmus.reason}")
        screw = _best_axis(scene, frame, level, side, sign, isthmus)
        if isinstance(screw, Rejected):
            return screw
        screws.append(screw)
    return screws[0], screws[1]


def screw_on_axis(
    scene: RayScene, level: str, side: str, isthmus_m: np.ndarray, direction: np.ndarray
) -> ScrewPlan | Rejected:
    """Screw through a point inside the pedicle along a direction into the body.

    The entry is where the backward ray leaves the bone, the target at most MAX_LENGTH further on
    and at least ANTERIOR_MARGIN before the anterior wall.
    """
    isthmus_m = np.asarray(isthmus_m, float)
    direction = np.asarray(direction, float) / np.linalg.norm(direction)
    if not bool(inside(scene, isthmus_m[None])[0]):
        return Rejected(f"{level} {side}: the pedicle's middle is not inside the bone")
    back, front = first_hits(scene, np.array([isthmus_m] * 2), np.array([-direction, direction]))
    if not (np.isfinite(back) and np.isfinite(front)):
        return Rejected(f"{level} {side}: the pedicle axis does not leave the surface")
    length = min(MAX_LENGTH, float(back + front) - ANTERIOR_MARGIN)
    if length <= back + 0.010:
        return Rejected(f"{level} {side}: the pedicle axis leaves the bone before the body")
    entry = isthmus_m - float(back) * direction
    return ScrewPlan(level, side, entry, entry + length * direction)


def _isthmus(scene: RayScene, frame: VertebraFrame, sign: float) -> np.ndarray | Rejected:
    """Middle of the narrowest pedicle cross-section in the vertebra's frame, metres.

    Coronal sections 1 to 9 mm behind the posterior wall; in each the bone that borders the canal.
    Where a transverse process springs from the pedicle (L5) only 16 mm next to the canal count.
    """
    x = np.arange(0.004, 0.045, _STEP)
    z = np.arange(-0.020, 0.028, _STEP)
    best: tuple[float, np.ndarray] | None = None
    for y in np.arange(0.001, 0.010, _STEP):
        local = np.stack(np.broadcast_arrays(sign * x[:, None], y, z[None, :]), -1)
        bone = inside(scene, _to_mesh(frame, local))
        labels, count = ndimage.label(bone)
        for k in range(1, count + 1):
            part = labels == k
            inner = int(np.argmax(part.any(1)))
            part[inner + 16 :] = False
            area = part.sum() * _STEP**2
            xi, zi = np.nonzero(part)
            middle = np.array([sign * x[xi].mean(), y, z[zi].mean()])
            # articular tips and bits of the transverse process are too small or out of place
            if area < 4e-5 or inner == 0 or not -0.006 < middle[2] < 0.016 or x[inner] > 0.028:
                continue
            if best is None or area < best[0]:
                best = (area, middle)
    if best is None:
        return Rejected("no pedicle cross-section beside the canal")
    return best[1]


def _best_axis(
    scene: RayScene, frame: VertebraFrame, level: str, side: str, sign: float, isthmus: np.ndarray
) -> ScrewPlan | Rejected:
    """Search directions and small offsets; the score is the clearance in the pedicle."""
    mean = 17.0
    converge, tilt, dx, dz = (
        g.ravel()
        for g in np.meshgrid(
            np.radians(np.arange(5.0, 31.0, 3.0)),
            np.radians(np.arange(-9.0, 10.0, 3.0)),
            np.array([-0.002, 0.0, 0.002]),
            np.array([-0.002, 0.0, 0.002]),
            indexing="ij",
        )
    )
    direction = np.stack(
        [-sign * np.sin(converge) * np.cos(tilt), -np.cos(converge) * np.cos(tilt), np.sin(tilt)], 1
    )
    start = isthmus + np.stack([dx, np.zeros_like(dx), dz], 1)
    along = np.arange(-0.008, 0.019, 0.003)
    points = start[:, None] + along[None, :, None] * direction[:, None]
    clearance = depth_inside(scene, _to_mesh(frame, points)).min(1)
    score = (
        clearance
        - 0.00004 * np.abs(np.degrees(converge) - mean)
        - 0.00004 * np.abs(np.degrees(tilt))
    )
    R = frame.T_mesh_vertebra[:3, :3]
    for k in np.argsort(-score)[:20]:
        if clearance[k] < 0.001:
            break
        screw = screw_on_axis(scene, level, side, _to_mesh(frame, start[k]), R @ direction[k])
        if not isinstance(screw, Rejected) and _contained(scene, screw):
            return screw
    return Rejected(f"{level} {side}: no axis through the pedicle stays inside the bone")


def _contained(scene: RayScene, screw: ScrewPlan) -> bool:
    """True if the screw from 1 mm under its entry to its target lies in the bone."""
    length = float(np.linalg.norm(screw.target_m - screw.entry_m))
    t = np.arange(0.001, length, 0.001) / length
    path = screw.entry_m + t[:, None] * (screw.target_m - screw.entry_m)
    return bool(inside(scene, path).all())


def _to_mesh(frame: VertebraFrame, points: np.ndarray) -> np.ndarray:
    T = frame.T_mesh_vertebra
    return points @ T[:3, :3].T + T[:3, 3]
