# SPDX-License-Identifier: Apache-2.0
"""Other metal over the wound that must not be taken for a screw or a rod.

Unless said otherwise: origin at the working tip, +z out of the patient along the tool. Metres.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from spine_nav_common.core.types import Mesh
from spine_nav_sim.core.implant_rods import tube_mesh
from spine_nav_sim.core.implant_shapes import Radius, join, lathe, loft, split_creases
from spine_nav_sim.core.implants import MM, ScrewDesign

_SIDES = 36


def _turned(profile: list[tuple[Radius, float]]) -> Mesh:
    return split_creases(lathe(profile, _SIDES))


def _bar(points_m: np.ndarray, radius_m: float, end: str = "round") -> Mesh:
    """A round bar along a polygon, its corners as sharp as the points."""
    fine = [np.linspace(a, b, 12)[:-1] for a, b in pairwise(points_m)]
    return tube_mesh(np.vstack([*fine, points_m[-1:]]), radius_m, 20, end)


def _finger_ring(centre_m: np.ndarray, radius_m: float, wire_m: float) -> Mesh:
    """A ring in the xz plane."""
    around = np.linspace(0.0, 2 * np.pi, 33)
    section = np.linspace(0.0, 2 * np.pi, 13)[:-1]
    rho = radius_m + wire_m * np.cos(section)
    rings = np.array(
        [
            np.column_stack([rho * np.cos(a), wire_m * np.sin(section), rho * np.sin(a)]) + centre_m
            for a in around
        ]
    )
    return loft(rings, torus=True)


def rod_bender(rng: np.random.Generator) -> Mesh:
    """French bender: origin at the middle roller, the rod runs along x below it, handles to +z."""
    roller = rng.uniform(7.0, 11.0) * MM
    width = rng.uniform(8.0, 14.0) * MM
    grip = rng.uniform(0.18, 0.3)
    wheel = _turned([(roller, -0.5 * width), (roller, 0.5 * width)])
    upright = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])  # z of the wheel becomes y
    parts = []
    for x, z in ((0.0, 0.0), (-2.3 * roller, -1.6 * roller), (2.3 * roller, -1.6 * roller)):
        parts.append(Mesh(wheel.vertices_m @ upright.T + [x, 0.0, z], wheel.faces))
    spread = rng.uniform(0.15, 0.5)
    for side in (-1.0, 1.0):
        foot = np.array([side * 2.0 * roller, 0.0, -1.2 * roller])
        knee = np.array([side * 0.6 * roller, 0.0, 2.0 * roller])
        hand = knee + grip * np.array([side * np.sin(spread), 0.0, np.cos(spread)])
        parts.append(_bar(np.array([foot, knee, hand]), rng.uniform(4.0, 6.0) * MM))
        parts.append(_bar(np.array([knee + 0.5 * (hand - knee), hand]), 8.0 * MM))
    return join(parts)


def rod_holder(rng: np.random.Generator, rod_diameter_m: float = 0.0055) -> Mesh:
    """Pliers that hold a rod along x through the origin between jaws at +-y; handles to +z."""
    r = 0.5 * rod_diameter_m
    jaw = rng.uniform(1.5, 2.5) * MM
    hinge = rng.uniform(0.03, 0.06)
    length = hinge + rng.uniform(0.09, 0.15)
    spread = rng.uniform(0.015, 0.04)
    parts = [_turned([(4.5 * MM, hinge - 5 * MM), (4.5 * MM, hinge + 5 * MM)])]
    for side in (-1.0, 1.0):
        tip = [0.0, side * (r + jaw), -r]
        above = [0.0, side * (r + jaw), 2 * r]
        crossing = [0.0, 0.0, hinge]
        end = np.array([0.0, -side * spread, length])
        parts.append(_bar(np.array([tip, above, crossing, end]), jaw))
        ring = _finger_ring(np.zeros(3), rng.uniform(10.0, 13.0) * MM, 2.2 * MM)
        flat = ring.vertices_m[:, [1, 0, 2]] + end + [0.0, -side * 10 * MM, 10 * MM]
        parts.append(Mesh(flat, ring.faces[:, ::-1].copy()))
    return join(parts)


def cross_link(rng: np.random.Generator, one_m: np.ndarray, other_m: np.ndarray) -> Mesh:
    """A bar that clamps two rods together; one_m, other_m (3,): points on the rods' axes."""
    across = other_m - one_m
    width = float(np.linalg.norm(across))
    up = np.cross(across, rng.standard_normal(3))
    up *= rng.uniform(0.004, 0.012) / np.linalg.norm(up)  # it bows over the dura, or aside
    bar = np.array([one_m, one_m + 0.3 * across + up, one_m + 0.7 * across + up, other_m])
    parts = [_bar(bar, rng.uniform(1.8, 3.2) * MM)]
    for end in (one_m, other_m):
        size = min(rng.uniform(4.5, 6.5) * MM, 0.2 * width)
        parts.append(_bar(np.array([end - size * across / width, end + size * across / width]),
                          rng.uniform(3.8, 5.0) * MM, "flat"))  # fmt: skip
    return join(parts)


def tower(rng: np.random.Generator, design: ScrewDesign) -> Mesh:
    """An extension tube clicked over a tulip, in the TULIP frame, slotted along the channel."""
    inner = 0.5 * design.tulip_diameter_m + 0.15 * MM
    outer = inner + rng.uniform(0.8, 1.8) * MM
    low = rng.uniform(-0.4, 0.1) * design.bottom_m
    slot = max(rng.uniform(0.03, 0.07), design.top_m + 5 * MM)
    high = slot + rng.uniform(0.03, 0.08)
    gap = 0.5 * design.channel_m + rng.uniform(0.0, 0.6) * MM
    parts = []
    for side in (-1.0, 1.0):
        rings = []
        for z in (low, 0.5 * slot, slot + 1e-6):
            out = np.linspace(np.arcsin(gap / outer), np.pi - np.arcsin(gap / outer), 18)
            into = np.linspace(np.pi - np.arcsin(gap / inner), np.arcsin(gap / inner), 18)
            arc = np.vstack(
                [
                    np.column_stack([outer * np.cos(out), side * outer * np.sin(out)]),
                    np.column_stack([inner * np.cos(into), side * inner * np.sin(into)]),
                ]
            )
            rings.append(np.column_stack([arc, np.full(len(arc), z)]))
        parts.append(split_creases(loft(np.array(rings), pair_caps=True)))
    angle = np.arange(_SIDES) * (2 * np.pi / _SIDES)
    ring = [
        np.column_stack([rho * np.cos(angle), rho * np.sin(angle), np.full(_SIDES, z)])
        for rho, z in ((outer, slot), (outer, high), (inner, high), (inner, slot), (outer, slot))
    ]
    return join([*parts, split_creases(loft(np.array(ring), torus=True))])


def k_wire(rng: np.random.Generator) -> Mesh:
    """A guide wire: trocar tip at the origin, running to +z."""
    radius = rng.uniform(0.6, 1.2) * MM
    return _turned([(1e-5, 0.0), (radius, 4 * MM), (radius, rng.uniform(0.15, 0.4))])


def needle(rng: np.random.Generator) -> Mesh:
    """A bone-access needle: shaft from the tip at the origin to +z, with a T handle along x."""
    radius = rng.uniform(1.0, 2.2) * MM
    length = rng.uniform(0.10, 0.16)
    half = rng.uniform(0.03, 0.05)
    shaft = _turned([(1e-5, 0.0), (radius, 5 * MM), (radius, length)])
    hub = _turned([(6 * MM, length - 15 * MM), (7 * MM, length + 2 * MM)])
    handle = _bar(np.array([[-half, 0.0, length], [half, 0.0, length]]), 7 * MM)
    return join([shaft, hub, handle])


def suction_tip(rng: np.random.Generator) -> Mesh:
    """A bent suction tube: open tip at the origin, leaving along +z and bending towards +x."""
    radius = rng.uniform(1.5, 3.5) * MM
    straight, bend = rng.uniform(0.05, 0.09), rng.uniform(0.3, 1.0)
    sweep, rest = rng.uniform(0.02, 0.05), rng.uniform(0.06, 0.12)
    s = np.arange(0.0, straight + sweep + rest, 2 * MM)
    heading = bend * np.clip((s - straight) / sweep, 0.0, 1.0)
    steps = np.column_stack([np.sin(heading), np.zeros(len(s)), np.cos(heading)]) * 2 * MM
    line = np.cumsum(steps, axis=0) - steps[0]
    lip, bore = 1.25 * radius, 0.6 * radius
    angle = np.arange(_SIDES) * (2 * np.pi / _SIDES)
    ring = [
        np.column_stack([rho * np.cos(angle), rho * np.sin(angle), np.full(_SIDES, z)])
        for rho, z in ((lip, 0.0), (lip, 4 * MM), (bore, 4 * MM), (bore, 0.0), (lip, 0.0))
    ]
    tube = tube_mesh(line + [0.0, 0.0, 3 * MM], radius, 24, "flat")
    return join([split_creases(loft(np.array(ring), torus=True)), tube])
