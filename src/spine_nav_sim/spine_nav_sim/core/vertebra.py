# SPDX-License-Identifier: Apache-2.0
"""Implicit model of one vertebra T12 to L5, in mm.

Own frame: x left, y posterior, z superior; origin at the middle of the posterior wall of the body.
Facet joints are given from outside (they belong to two vertebrae), so that neighbours match.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spine_nav_sim.core.anatomy_field import Field, Tube, smooth_min
from spine_nav_sim.core.morphometry import Joint, Shape

SIDES = (1.0, -1.0)  # left is +x
X, Y, Z = np.eye(3)


@dataclass(frozen=True)
class FacetPair:
    """Facet joint centres (2, 3) and unit normals (2, 3) of the upper facing surface (out of the
    lower bone's superior process, towards posterior and medial), left then right, mm."""

    centre: np.ndarray
    normal: np.ndarray
    up: np.ndarray  # (3,) direction of the joint's height

    def moved(self, T: np.ndarray) -> FacetPair:
        return FacetPair(
            self.centre @ T[:3, :3].T + T[:3, 3], self.normal @ T[:3, :3].T, T[:3, :3] @ self.up
        )


def superior_facets(
    joint: Joint, posterior: float, height: float, coronal: bool = False
) -> FacetPair:
    """Facets on the upper end of a vertebra, `posterior` mm behind the wall, `height` mm above."""
    centre, normal = [], []
    for i, s in enumerate(SIDES):
        angle = np.radians(16.0 if coronal else joint.angle_deg[i])
        centre.append([s * joint.half_width[i], posterior, height])
        normal.append([-s * np.sin(angle), np.cos(angle), 0.0])
    return FacetPair(np.array(centre), np.array(normal), Z.copy())


def superior_process(
    joint: Joint, facets: FacetPair, root: np.ndarray, mammillary: float
) -> list[Tube]:
    """Tubes of the two superior articular processes; root (2, 3) is on the pillar."""
    tubes = []
    for i in range(2):
        n, c = facets.normal[i], facets.centre[i]
        across = np.cross(facets.up, n)
        across *= np.sign(across[1]) if abs(across[1]) > 0.2 else np.sign(across[0] * SIDES[i])
        thick, half = 3.9, 0.5 * joint.width[i]
        mid = c - n * (thick + 0.5 * joint.gap)
        h = 0.5 * joint.height[i]
        low, high = mid - facets.up * (h + 2.0), mid + facets.up * (h - 2.0)
        tubes.append(
            Tube.of([low, mid, high], [half * 1.05, half * 1.15, half * 0.85], [5.0, 4.6, 3.6], across,
                    2.3, 2.5, cap=4.2)
        )  # fmt: skip
        tubes.append(Tube.of([root[i], low], [6.0, half * 0.9], [5.0, 4.2], across, 2.0, 4.0))
        # The shell curls round the joint: a front lip and the mammillary body behind.
        front = mid - across * half * 0.85 + n * 2.2
        tubes.append(
            Tube.of([front - facets.up * h * 0.5, front + facets.up * h * 0.45], 2.8, 2.6, across,
                    2.0, 3.0)
        )  # fmt: skip
        back = mid + across * half * 1.05 - facets.up * h * 0.1 + n * 0.8
        tubes.append(
            Tube.of([back - facets.up * 3.5, back + facets.up * 2.5], [3.2 * mammillary] * 2,
                    [3.6 * mammillary] * 2, across, 2.0, 3.0)
        )  # fmt: skip
    return tubes


def inferior_process(
    joint: Joint, facets: FacetPair, root: np.ndarray, middle: np.ndarray
) -> list[Tube]:
    """Tubes of the two inferior articular processes from the pars (root) down to the joints, and
    of the sheets of lamina that join them to the midline (middle)."""
    tubes = []
    for i in range(2):
        n, c = facets.normal[i], facets.centre[i]
        across = np.cross(facets.up, n)
        half = 0.5 * joint.width[i]
        mid = c + n * (3.4 + 0.5 * joint.gap)
        h = 0.5 * joint.height[i]
        tubes.append(
            Tube.of(
                [root[i], mid + facets.up * (h + 1.0), mid, mid - facets.up * (h - 3.0)],
                [6.0, half * 0.95, half * 0.95, half * 0.72],
                [4.2, 4.8, 4.8, 3.8],
                across, 2.2, 3.5, cap=4.2,
            )
        )  # fmt: skip
        shoulder = mid + facets.up * (0.5 * h) + n * 0.5
        inner = middle + np.array([0.0, 0.5, -5.0])
        tubes.append(
            Tube.of([0.75 * shoulder + 0.25 * root[i], inner], [7.0, 6.0], [3.2, 3.2], Z, 2.3, 4.0,
                    cap=3.0)
        )  # fmt: skip
    return tubes


def add_body(field: Field, s: Shape, rng: np.random.Generator) -> None:
    """Kidney-shaped body with waist, concave endplates, wedge and random rim osteophytes."""
    d, a = s.body_depth, s.body_width / 2
    b, y0 = 0.56 * d, -0.44 * d
    top = max(s.anterior_height, s.posterior_height) / 2
    margin = 6.0 + s.rim_mm
    where = field.window(
        np.array([-a - margin, -d - margin, -top - 6.0]), np.array([a + margin, 6.0, top + 6.0])
    )
    if where is None:
        return
    at, (x, y, z) = where
    p, q = x / a, (y - y0) / b
    theta = np.arctan2(q, p)
    ripple = np.zeros_like(theta)
    for k in (2, 3, 5, 7):
        ripple += rng.normal() * np.cos(k * theta + rng.uniform(0, 6.283)) / k
    half = (
        s.posterior_height + (s.anterior_height - s.posterior_height) * np.clip(-y / d, 0, 1)
    ) / 2
    rel = np.clip(z / half, -1.2, 1.2)
    lip = (
        s.rim_mm
        * np.clip(0.4 + ripple, 0, 2.5)
        * (q < 0.6)
        * np.exp(-(((1 - np.abs(rel)) * 5) ** 2))
    )
    scale = 1.0 - 0.11 * (1 - rel**2) + lip / a
    n = 2.2
    rho = (np.abs(p) ** n + np.abs(q) ** n + 1e-9) ** (1 / n)
    radial = (rho / scale - 1) * min(a, b) * 0.95
    wall = y - 0.6 + 2.0 * np.clip(1 - (x / (0.6 * a)) ** 2, 0, 1)
    plate = np.abs(z) - half + 1.2 * np.clip(1 - rho**2, 0, 1)
    side = -smooth_min(-radial.astype(np.float32), -(wall + 0 * z).astype(np.float32), 3.0)
    body = -smooth_min(-side, -plate.astype(np.float32), 2.2)
    field.values[at] = smooth_min(field.values[at], body.astype(np.float32), 3.0)


def pillar_points(s: Shape) -> np.ndarray:
    """(2, 3) where pedicle, lamina and articular processes meet, left and right."""
    z = _pedicle_z(s)
    return np.array(
        [
            [sign * (s.canal_width / 2 + s.pedicle_width[i] * 0.5), 11.5, z - 1.0]
            for i, sign in enumerate(SIDES)
        ]
    )


def pedicle_axes(s: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Isthmus centres (2, 3) and unit directions (2, 3) into the body, left and right."""
    centre, direction = [], []
    for i, sign in enumerate(SIDES):
        angle = np.radians(s.pedicle_angle_deg[i])
        centre.append([sign * (s.canal_width + s.pedicle_width[i]) / 2, 4.0, _pedicle_z(s)])
        direction.append([-sign * np.sin(angle), -np.cos(angle), -0.05])
    axes = np.array(direction)
    return np.array(centre), axes / np.linalg.norm(axes, axis=1, keepdims=True)


def _pedicle_z(s: Shape) -> float:
    return s.posterior_height / 2 - s.pedicle_height / 2 - 2.0


def add_pedicles(field: Field, s: Shape) -> None:
    centre, direction = pedicle_axes(s)
    pillar = pillar_points(s)
    for i in range(2):
        w, h = s.pedicle_width[i] / 2, s.pedicle_height / 2
        front = centre[i] + direction[i] * 9.0
        field.add(
            Tube.of([front, centre[i], pillar[i]], [h * 1.05, h, h * 0.95],
                    [w * 1.15, w, w * 1.02], Z, 2.2, 4.0)
        )  # fmt: skip


def add_transverse(field: Field, s: Shape) -> None:
    g = s.process_girth
    for i, sign in enumerate(SIDES):
        pillar = pillar_points(s)[i]
        reach = s.process_reach[i]
        tip_y, z = 15.0 + s.process_sweep[i], pillar[2]
        if s.level == "L5":  # thick cone from the whole side of the pedicle
            root = pillar + np.array([sign * 1.0, -5.0, 0.0])
            mid = np.array([sign * (abs(root[0]) * 0.45 + reach * 0.55), 9.0, z + 1.0])
            tip = np.array([sign * (reach - 5.0), tip_y, z + s.process_rise[i]])
            a, b = [8.5 * g, 6.5 * g, 3.8 * g], [8.0 * g, 5.4 * g, 3.0 * g]
        else:
            root = pillar + np.array([sign * 1.0, 0.0, -1.0])
            mid = np.array(
                [sign * (abs(root[0]) * 0.45 + reach * 0.55), 12.5, z + 0.5 * s.process_rise[i]]
            )
            tip = np.array([sign * (reach - 3.0), tip_y, z + s.process_rise[i]])
            a, b = [6.5 * g, 4.8 * g, 3.9 * g], [4.8 * g, 3.0 * g, 2.2 * g]
        field.add(Tube.of([root, mid, tip], a, b, Z, 2.3, 5.0, cap=3.0))
        accessory = root + np.array([sign * 3.0, 3.0, -4.0])
        field.add(Tube.of([accessory], 2.4 * g, 2.6 * g, Z, 2.0, 3.0))


def add_thoracic_processes(field: Field, s: Shape) -> None:
    """T12 has three tubercles a side instead of a transverse process."""
    for i, sign in enumerate(SIDES):
        pillar = pillar_points(s)[i]
        reach = s.process_reach[i]
        for tip, r in (
            ([sign * (reach - 6.0), 16.0, pillar[2] + 7.0], 4.2),
            ([sign * (reach - 4.0), 11.0, pillar[2] - 1.0], 4.2),
            ([sign * (reach - 7.0), 13.0, pillar[2] - 8.0], 3.4),
        ):
            field.add(Tube.of([pillar, tip], [6.0, r], [6.0, r], Z, 2.0, 4.0))


def lamina_points(s: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Pars points (2, 3) and the midline point (3,) of the lamina's middle."""
    drop = {"T12": -8.5, "L1": -8.0, "L2": -7.5, "L3": -7.0, "L4": -6.0, "L5": -3.5}[s.level]
    mid = np.array([0.0, s.canal_depth + s.lamina_thickness / 2 + 1.0, drop])
    pillar = pillar_points(s)
    pars = np.array([[0.80 * p[0], 14.5, p[2] - 7.0] for p in pillar])
    return pars, mid


def add_arch(field: Field, s: Shape) -> None:
    """Laminae and pars."""
    pars, mid = lamina_points(s)
    slope = np.radians(s.lamina_slope)
    up = np.array([0.0, -np.sin(slope), np.cos(slope)])
    height = {"T12": 20.0, "L1": 20.0, "L2": 19.5, "L3": 18.5, "L4": 16.5, "L5": 14.0}[s.level] / 2
    height *= s.lamina_height
    half = s.lamina_thickness / 2
    for i, sign in enumerate(SIDES):
        outer = pars[i] * np.array([0.85, 1.0, 1.0])
        field.add(
            Tube.of([outer, mid + X * sign * 1.0], [height * 0.95, height], [half, half * 1.05], up,
                    2.8, 3.0, cap=3.0)
        )  # fmt: skip
        pillar = pillar_points(s)[i]
        field.add(Tube.of([pillar, pars[i]], [6.5, 6.0], [5.0, 4.0], X, 2.2, 4.0))


def add_spinous(field: Field, s: Shape) -> None:
    """Hatchet-shaped plate with a bulging posterior border; short and round at L5."""
    _, mid = lamina_points(s)
    h, t = s.spinous_height / 2, s.spinous_thickness / 2
    tilt = {"T12": 7.0, "L1": 5.0, "L2": 4.0, "L3": 3.0, "L4": 2.5, "L5": 3.5}[s.level]
    tilt += s.spinous_drop
    tip_y = s.spinous_length - 4.0
    root = mid + np.array([0.0, 0.5, -1.0])
    waist = np.array(
        [0.3 * s.spinous_deviation, 0.45 * root[1] + 0.55 * tip_y, root[2] - 0.5 * tilt]
    )
    tip = np.array([s.spinous_deviation, tip_y, root[2] - tilt])
    field.add(
        Tube.of([root, waist, tip], [h * 0.80, h * s.spinous_waist, h - 1.5], [t * 1.9, t * 0.9, t], Z, 2.8,
                5.0, cap=3.5)
    )  # fmt: skip
    field.add(
        Tube.of(
            [tip + Z * (h - 4.0), tip + Y * 0.5, tip - Z * (h - 4.0) - Y * 0.5],
            [t * 1.0, t * 1.1, t * 1.3], [3.4, 3.4, 3.8], X, 2.0, 3.0,
        )
    )  # fmt: skip


def canal(s: Shape) -> list[Tube]:
    """The vertebral canal: an oval behind the body and a narrower one behind it, which together
    make the rounded triangle of lumbar levels."""
    d, w, length = s.canal_depth, s.canal_width, s.posterior_height
    slope = np.tan(np.radians(s.lamina_slope)) * 0.5 * length

    def tube(y: float, half_x: float, half_y: float) -> Tube:
        ends = [[0, y - slope, length], [0, y + slope, -length]]
        return Tube.of(ends, half_x, half_y, X, 2.0, 2.5)

    narrow = {"L4": 0.24, "L5": 0.19}.get(s.level, 0.27)
    return [tube(0.36 * d, 0.5 * w, 0.36 * d), tube(0.62 * d, narrow * w, 0.38 * d)]


def build_field(
    s: Shape,
    upper: tuple[Joint, FacetPair],
    lower: tuple[Joint, FacetPair],
    rng: np.random.Generator,
    spacing: float,
) -> Field:
    """The whole vertebra; facet pairs are in the vertebra's own frame."""
    reach = max(s.process_reach.max(), s.body_width / 2) + 8.0
    low_z = min(-s.anterior_height / 2 - 6.0, float(lower[1].centre[:, 2].min()) - 16.0)
    low_z = min(low_z, -8.0 - s.spinous_height)
    high_z = max(s.anterior_height / 2 + 6.0, float(upper[1].centre[:, 2].max()) + 16.0)
    field = Field(
        np.array([-reach, -s.body_depth - s.rim_mm * 3 - 6.0, low_z]),
        np.array([reach, s.spinous_length + 8.0, high_z]),
        spacing,
    )
    add_body(field, s, rng)
    add_pedicles(field, s)
    if s.level == "T12":
        add_thoracic_processes(field, s)
    else:
        add_transverse(field, s)
    add_arch(field, s)
    add_spinous(field, s)
    pars, middle = lamina_points(s)
    for tube in inferior_process(*lower, root=pars, middle=middle):
        field.add(tube)
    for tube in canal(s):
        field.cut(tube)
    coronal = s.level == "T12"
    for tube in superior_process(
        *upper, root=pillar_points(s), mammillary=(0.8 if coronal else 1.0) * s.mammillary
    ):
        field.add(tube)
    return field
