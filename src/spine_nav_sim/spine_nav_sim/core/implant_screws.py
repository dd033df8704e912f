# SPDX-License-Identifier: Apache-2.0
"""Surfaces of pedicle screws; frames as in `implants`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.types import Mesh
from spine_nav_sim.core.implant_shapes import (
    Radius,
    join,
    lathe,
    lobe_radius,
    loft,
    polygon_radius,
    split_creases,
)
from spine_nav_sim.core.implants import MM, ScrewDesign

_SIDES = 36
_ARM_POINTS = 15  # along the outside of an arm's section, as many again along its inside
_SEAT_GAP_M = 0.02 * MM  # under a seated rod, so that rod and floor never coincide


@dataclass(frozen=True)
class ScrewParts:
    """tulip and set_screw in the tulip frame, shank (with its ball) in the shank frame, metres.

    A ball-only screw has no set screw; its ball head with the drive recess is its `tulip`.
    """

    tulip: Mesh
    shank: Mesh
    set_screw: Mesh | None


def _drive(design: ScrewDesign) -> Radius:
    if design.drive == "hex":
        return polygon_radius(design.drive_m, 6)
    return lobe_radius(1.1 * design.drive_m)


def _hole(design: ScrewDesign) -> float:
    """Radius of the opening in the channel's floor through which the ball's drive is seen."""
    return 0.72 * design.drive_m


def _outside(design: ScrewDesign, angle: np.ndarray, z: float) -> np.ndarray:
    """The tulip's outer radius (N,) at `angle` (N,) from +x, at height z."""
    share = np.clip(
        (z + design.bottom_m) / (0.7 * (design.top_m - design.tabs_m + design.bottom_m)), 0, 1
    )
    radius = 0.5 * design.tulip_diameter_m * (design.taper + (1 - design.taper) * share)
    from_top = design.top_m - z
    over = max(design.chamfer_m - from_top, 0.0)
    if design.crown == "round":
        over = design.chamfer_m - np.sqrt(max(design.chamfer_m**2 - over**2, 0.0))
    radius -= over
    if design.tabs_m > 0 and abs(z - (design.top_m - design.tabs_m)) < 0.2 * MM:
        radius -= 0.5 * MM  # the groove where the tab is broken off
    c, s = np.abs(np.cos(angle)), np.abs(np.sin(angle))
    p = design.squareness
    rho = radius * (c**p + s**p) ** (-1 / p)
    if p > 2:  # keep the corners inside the stated diameter
        rho *= 2 ** (1 / p - 0.5)
    rho = np.minimum(
        rho,
        np.minimum(design.flat_x_m / np.maximum(c, 1e-9), design.flat_y_m / np.maximum(s, 1e-9)),
    )
    low, high = _notch_heights(design)
    if low <= z <= high:
        rho = rho - design.notch_m * (np.abs(np.cos(angle)) < 0.4)
    return rho


def _notch_heights(design: ScrewDesign) -> tuple[float, float]:
    top = design.top_m - design.tabs_m
    return (0.30 * top, 0.62 * top) if design.notch_m > 0 else (np.inf, np.inf)


def _arm(design: ScrewDesign, side: float) -> Mesh:
    """One arm with its half of the channel's floor: crescent sections stacked along z."""
    half = 0.5 * design.channel_m
    floor = -0.5 * design.rod_diameter_m - _SEAT_GAP_M
    bore = 0.5 * design.tulip_diameter_m - design.wall_m
    hole = _hole(design)
    start = 0.5 * design.rod_diameter_m + 0.3 * MM
    slit = 1e-6  # arms must not share an edge
    rows: list[tuple[float, float, float]] = [(floor - 0.4 * MM, slit, hole)]  # z, half gap, bore
    for angle in np.linspace(0.0, 0.5 * np.pi, 8):
        z = floor + half * (1 - np.cos(angle))
        rows.append((z, max(half * np.sin(angle), slit), hole if angle < 0.9 else 0.0))
    rows.append((start, half, 0.0))
    turns = int(np.clip((design.top_m - start) / (0.6 * MM), 4, 7))
    for k, z in enumerate(np.linspace(start + 1e-6, design.top_m, turns)):
        rows.append((z, half, bore - (0.25 * MM if k % 2 else 0.0)))
    edge = (1.0, 0.6, 0.3, 0.1) if design.crown == "round" else (1.0,)
    extra = [design.top_m - share * design.chamfer_m for share in edge]
    low, high = _notch_heights(design)
    if np.isfinite(low):
        extra += [low - 1e-6, low, high, high + 1e-6]
    if design.tabs_m > 0:
        groove = design.top_m - design.tabs_m
        extra += [groove - 0.25 * MM, groove - 0.15 * MM, groove + 0.15 * MM, groove + 0.25 * MM]
    table = np.array(rows)
    for z in extra:
        row = np.searchsorted(table[:, 0], z)
        if 0 < row < len(table) and table[row, 0] > z:
            share = (z - table[row - 1, 0]) / (table[row, 0] - table[row - 1, 0])
            between = (1 - share) * table[row - 1] + share * table[row]
            table = np.insert(table, row, [z, between[1], between[2]], axis=0)
    sections = np.array([_arm_section(design, side, *row) for row in table])
    sections[0, :, :2] *= 0.97  # the foot stays inside the base, whose outline it would graze
    return loft(sections, pair_caps=True)


def _arm_section(design: ScrewDesign, side: float, z: float, gap: float, bore: float) -> np.ndarray:
    first = 0.0
    for _ in range(12):  # where the outline leaves the channel's wall
        reach = float(_outside(design, np.array([first]), z)[0])
        first = float(np.arcsin(min(gap / reach, 0.95)))
    angle = np.linspace(first, np.pi - first, _ARM_POINTS)
    rho = _outside(design, angle, z)
    outer = np.column_stack([rho * np.cos(angle), rho * np.sin(angle)])
    x = outer[0, 0] * np.cos(np.linspace(0.0, np.pi, _ARM_POINTS))
    if bore > gap:
        # a point on each edge of the bore keeps that edge straight from section to section
        edge = np.sqrt(bore**2 - gap**2)
        for target in (edge, -edge):
            x[np.argmin(np.abs(x - target))] = target
    y = np.maximum(gap, np.sqrt(np.maximum(bore**2 - x**2, 0.0)))
    flat = np.vstack([outer, np.column_stack([x, y])[::-1]])
    return np.column_stack([flat[:, 0], side * flat[:, 1], np.full(len(flat), z)])


def _tulip(design: ScrewDesign) -> Mesh:
    floor = -0.5 * design.rod_diameter_m - _SEAT_GAP_M
    top = floor - 0.02 * MM
    hole = _hole(design)
    angle = np.arange(_SIDES) * (2 * np.pi / _SIDES)
    rows: list[tuple[np.ndarray | float, float]] = [(hole, -design.bottom_m)]
    for z in np.linspace(-design.bottom_m, top, 6):
        inset = max(0.0, 0.6 * MM - (z + design.bottom_m))
        rows.append((_outside(design, angle, float(z)) - inset, float(z)))
    rows += [(hole, top), (hole, -design.bottom_m)]
    # an open ring: the ball closes it from below and shows its drive recess
    rings = np.array([_ring(rho, angle, z) for rho, z in rows])
    parts = [loft(rings, torus=True), _arm(design, 1.0), _arm(design, -1.0)]
    if design.closed_head:
        parts.append(_bridge(design))
    return join([split_creases(p) for p in parts])


def _ring(radius: np.ndarray | float, angle: np.ndarray, z: float) -> np.ndarray:
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle), np.full(len(angle), z)])


def _bridge(design: ScrewDesign) -> Mesh:
    """The ring that closes the head over the rod, open for the set screw."""
    bore = 0.5 * design.tulip_diameter_m - design.wall_m
    low, high = 0.5 * design.rod_diameter_m + 0.7 * MM, design.top_m
    angle = np.arange(_SIDES) * (2 * np.pi / _SIDES)
    heights = (low, high - design.chamfer_m, high - 0.4 * design.chamfer_m, high)
    rows: list[tuple[np.ndarray | float, float]] = [
        (_outside(design, angle, z) + 0.01 * MM, z) for z in heights
    ]
    rows += [(bore, high), (bore, low), rows[0]]
    rings = [_ring(rho, angle, z) for rho, z in rows]
    return loft(np.array(rings), torus=True)


def set_screw_mesh(design: ScrewDesign, rng: np.random.Generator) -> Mesh:
    """The plug on the rod, with its drive recess, in the tulip frame."""
    radius = 0.5 * design.tulip_diameter_m - design.wall_m - 0.27 * MM
    low = 0.5 * design.rod_diameter_m + 0.01 * MM
    height = rng.uniform(3.2, 4.6) * MM
    recess = _drive(design)
    rings: list[tuple[Radius, float]] = [(radius - 0.3 * MM, low)]
    for k in range(6):
        z = low + 0.3 * MM + k * (height - 0.6 * MM) / 5
        rings.append((radius if k % 2 else radius - 0.2 * MM, z))
    rings += [(radius - 0.4 * MM, low + height), (recess, low + height)]
    rings.append((recess, low + height - rng.uniform(1.8, 2.8) * MM))
    return split_creases(lathe(rings, _SIDES))


def blood_mesh(design: ScrewDesign, rng: np.random.Generator) -> Mesh:
    """Blood that stands in the bore between the arms, in the tulip frame."""
    radius = 0.5 * design.tulip_diameter_m - design.wall_m + 0.1 * MM
    floor = -0.5 * design.rod_diameter_m + 0.3 * MM
    rim = design.top_m - design.tabs_m
    level = floor + rng.uniform(0.15, 1.0) * (rim - floor)
    return split_creases(lathe([(radius, floor), (radius, level)], _SIDES))


def _ball_head(design: ScrewDesign) -> Mesh:
    """A ball with a drive recess in its flattened top."""
    r = design.ball_radius_m
    rim = 0.62 * design.drive_m  # outside the recess's corners
    polar = np.linspace(0.15, np.pi - np.arcsin(min(rim / r, 0.9)), 14)
    rings: list[tuple[Radius, float]] = [(r * np.sin(p), -r * np.cos(p)) for p in polar]
    top = -r * np.cos(polar[-1])
    rings += [(_drive(design), top), (_drive(design), top - 0.45 * r)]
    return split_creases(lathe(rings, _SIDES))


def shank_mesh(design: ScrewDesign) -> Mesh:
    """Core with a helical ridge down to the tip, and the ball unless the screw is ball-only."""
    outer = 0.5 * design.shank_diameter_m
    core = outer - design.thread_depth_m
    neck = min(core, 0.8 * design.ball_radius_m)
    top = -0.5 * design.ball_radius_m
    start = -design.ball_radius_m - design.neck_m
    tip = -design.ball_radius_m - design.shank_length_m
    count = int((start - tip) / design.thread_pitch_m * 6 * design.thread_starts) + 1
    angle = np.arange(32) * (2 * np.pi / 32)
    rings = [(np.full(32, neck), top), (np.full(32, neck), start + 0.5 * MM)]
    for z in np.linspace(start, tip, min(count, 170)):
        phase = (z / design.thread_pitch_m - angle / (2 * np.pi)) * design.thread_starts % 1.0
        ridge = np.clip(2.2 - np.abs(phase - 0.5) * 6.0, 0.0, 1.0)
        fade = np.clip((start - z) / (1.5 * MM), 0.0, 1.0)
        sharp = np.clip((z - tip) / (1.6 * design.shank_diameter_m) + 0.12, 0.0, 1.0)
        rings.append(((core + fade * ridge * design.thread_depth_m) * sharp, float(z)))
    core_and_ridge = split_creases(loft(np.array([_ring(rho, angle, z) for rho, z in rings])))
    return core_and_ridge if design.ball_only else join([core_and_ridge, _ball_head(design)])


def build_screw(design: ScrewDesign, rng: np.random.Generator) -> ScrewParts:
    """The screw's closed parts; `rng` draws what the design leaves open (the set screw's height)."""
    shank = shank_mesh(design)
    if design.ball_only:
        return ScrewParts(_ball_head(design), shank, None)
    return ScrewParts(_tulip(design), shank, set_screw_mesh(design, rng))
