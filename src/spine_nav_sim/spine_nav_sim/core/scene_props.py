# SPDX-License-Identifier: Apache-2.0
"""Retractors that stay in the wound; hands and instruments that pass over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh
from numpy.typing import ArrayLike

from spine_nav_sim.core.materials import Palette
from spine_nav_sim.core.render import Solid, make_solid
from spine_nav_sim.core.wound import Wound


@dataclass(frozen=True)
class Pass:
    """One visit of a prop: it comes in, works, leaves; times in seconds, wound frame in metres."""

    start_s: float
    end_s: float
    outside_m: np.ndarray
    work_m: np.ndarray
    sway_m: np.ndarray
    sway_hz: float
    phase_rad: float

    def position(self, t_s: float) -> np.ndarray | None:
        """Tip position at `t_s`, None while away."""
        if not self.start_s <= t_s <= self.end_s:
            return None
        travel = min(0.6, 0.35 * (self.end_s - self.start_s))
        share = min((t_s - self.start_s) / travel, (self.end_s - t_s) / travel, 1.0)
        share = 0.5 - 0.5 * np.cos(np.pi * share)
        sway = self.sway_m * np.sin(2 * np.pi * self.sway_hz * t_s + self.phase_rad + np.arange(3))
        return (1.0 - share) * self.outside_m + share * (self.work_m + sway)


@dataclass(frozen=True)
class Prop:
    """A solid with its looks; `passes` empty means that it always stays at `T_wound_prop`."""

    solid: Solid
    albedo: np.ndarray
    gloss: float
    sharpness: float
    T_wound_prop: np.ndarray
    passes: tuple[Pass, ...] = ()

    def pose(self, t_s: float) -> np.ndarray | None:
        """T_wound_prop at `t_s`, None while the prop is away."""
        if not self.passes:
            return self.T_wound_prop
        for visit in self.passes:
            position = visit.position(t_s)
            if position is not None:
                T = self.T_wound_prop.copy()
                T[:3, 3] = position
                return T
        return None


def _solid(parts: list[trimesh.Trimesh]) -> Solid:
    mesh = trimesh.util.concatenate(parts)
    return make_solid(np.asarray(mesh.vertices), np.asarray(mesh.faces, np.int32))


def _capsule(start: ArrayLike, end: ArrayLike, radius: float) -> trimesh.Trimesh:
    axis = np.asarray(end, float) - np.asarray(start, float)
    length = float(np.linalg.norm(axis))
    capsule = trimesh.creation.capsule(height=length, radius=radius, count=[8, 12])
    turn = trimesh.geometry.align_vectors([0.0, 0.0, 1.0], axis / length)
    turn[:3, 3] = start
    return capsule.apply_transform(turn)


def _box(extents: ArrayLike, centre: ArrayLike) -> trimesh.Trimesh:
    # Subdivided so that interpolated normals stay nearly those of the faces.
    box = trimesh.creation.box(extents=extents)
    box = trimesh.Trimesh(
        box.vertices[box.faces].reshape(-1, 3), np.arange(36).reshape(-1, 3), process=False
    )
    return box.apply_translation(centre)


def retractors(wound: Wound, palette: Palette, rng: np.random.Generator) -> list[Prop]:
    """Up to two pairs of metal blades along the long walls, their arms lying on the skin."""
    props = []
    for _ in range(int(rng.choice([0, 1, 2], p=[0.35, 0.4, 0.25]))):
        z = rng.uniform(*wound.z_range_m)
        width = rng.uniform(0.012, 0.035)
        depth = rng.uniform(0.02, 0.045)
        for side in (-1.0, 1.0):
            if rng.uniform() < 0.15:
                continue
            top = wound.skin_y_m + rng.uniform(0.0, 0.006)
            x = side * (wound.half_width_m + rng.uniform(-0.004, 0.002))
            arm = rng.uniform(0.04, 0.12)
            parts = [
                _box([0.0015, depth, width], [x, top - depth / 2, z]),
                _box([arm, 0.004, rng.uniform(0.006, width)], [x + side * arm / 2, top, z]),
                _box([0.006, 0.0015, width], [x - side * 0.002, top - depth, z]),
            ]
            turn = trimesh.transformations.rotation_matrix(
                rng.normal(0.0, 0.12), [0.0, 0.0, 1.0], [x, top, z]
            )
            shine = rng.uniform(0.1, 0.7)
            props.append(Prop(_solid(parts), 0.6 * palette["metal"], shine, 60.0, turn))
    return props


def _instrument(rng: np.random.Generator) -> list[tuple[Solid, str]]:
    """Shaft and handle along +y from the tip at the origin."""
    shaft, reach = rng.uniform(0.0015, 0.005), rng.uniform(0.08, 0.22)
    tip = rng.uniform(0.002, 0.007)
    metal = [
        _capsule([0, 0, 0], [0, reach, 0], shaft),
        _capsule([0, 0, 0], [0, rng.uniform(0.008, 0.03), 0], tip),
    ]
    grip = rng.uniform(0.007, 0.016)
    handle = [_capsule([0, reach, 0], [0, reach + rng.uniform(0.05, 0.12), 0], grip)]
    return [(_solid(metal), "metal"), (_solid(handle), "plastic")]


def _hand(rng: np.random.Generator) -> list[tuple[Solid, str]]:
    """A gloved hand with its sleeve; finger tips near the origin, the arm rising along +x +y."""
    parts = []
    lift = rng.uniform(0.02, 0.06)  # of the wrist over the knuckles
    for k in range(4):
        across = (k - 1.5) * 0.02
        curl = rng.uniform(-0.01, 0.02)
        tip = np.array([curl - 0.006 * abs(k - 1.5), rng.uniform(0.0, 0.012), across * 0.8])
        middle = np.array([0.03 + curl, 0.03 + rng.normal(0, 0.004), across * 0.95])
        knuckle = np.array([0.075, 0.035, across])
        parts += [
            _capsule(tip, middle, 0.0078),
            _capsule(middle, knuckle, 0.0095),
            _capsule(knuckle, [0.14, 0.035 + 0.6 * lift, 0.6 * across], 0.0125),
        ]
    thumb = rng.uniform(-0.05, -0.03)
    parts += [
        _capsule([0.035, 0.012, thumb], [0.075, 0.025, thumb - 0.008], 0.0095),
        _capsule([0.075, 0.025, thumb - 0.008], [0.135, 0.03 + 0.6 * lift, -0.02], 0.013),
    ]
    palm = trimesh.creation.icosphere(subdivisions=3, radius=1.0)
    parts.append(
        palm.apply_scale([0.05, 0.017, 0.042]).apply_translation([0.115, 0.035 + 0.4 * lift, 0.0])
    )
    wrist = np.array([0.175, 0.035 + lift, 0.0])
    parts.append(_capsule([0.13, 0.035 + 0.5 * lift, 0.0], wrist, 0.027))
    sleeve = [_capsule(wrist + [0.02, 0.006, 0], wrist + [0.34, rng.uniform(0.08, 0.22), 0], 0.042)]
    return [(_solid(parts), "glove"), (_solid(sleeve), "sleeve")]


def passing_props(
    wound: Wound, palette: Palette, rng: np.random.Generator, seconds: float, busy: float
) -> list[Prop]:
    """Hands and instruments with visits between 0 and `seconds`.

    busy: 0 to 1, share of the time in which something is over the wound.
    """
    props: list[Prop] = []
    kits = [(_hand(rng), _instrument(rng)) for _ in range(2)]
    t = rng.uniform(0.0, 1.5) if busy < 0.9 else -1.0
    while t < seconds:
        stay = rng.uniform(1.2, 3.5)
        hand = rng.uniform() < 0.55
        yaw = rng.uniform(-np.pi, np.pi)
        tilt = rng.uniform(0.1, 0.6) if not hand else rng.uniform(-0.1, 0.3)
        turn = trimesh.transformations.rotation_matrix(yaw, [0, 1, 0])
        turn = turn @ trimesh.transformations.rotation_matrix(-tilt, [0, 0, 1])
        work = np.array(
            [
                rng.normal(0.0, 0.015),
                rng.uniform(0.0, 0.04),
                rng.uniform(*wound.z_range_m),
            ]
        )
        work[1] += wound.skin_y_m - (0.0 if hand else 0.045)
        away = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
        outside = work + away * rng.uniform(0.25, 0.4) + [0.0, rng.uniform(0.02, 0.1), 0.0]
        visit = Pass(
            t,
            t + stay,
            outside,
            work,
            rng.uniform(0.0, 0.012, 3),
            rng.uniform(0.2, 1.2),
            rng.uniform(0.0, 6.28),
        )
        gloved, instrument = kits[int(rng.integers(len(kits)))]
        solids = gloved if hand else instrument
        if hand and rng.uniform() < 0.6:
            solids = gloved + instrument
        for solid, material in solids:
            gloss = {"metal": 1.2, "glove": 0.25, "plastic": 0.4}.get(material, 0.02)
            props.append(Prop(solid, palette[material], gloss, 30.0, turn, (visit,)))
        gap = stay * (1.0 - busy) / max(busy, 0.05)
        t += stay + gap * rng.uniform(0.5, 1.5) if busy < 0.9 else 0.6 * stay
    return props
