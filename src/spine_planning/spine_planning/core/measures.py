# SPDX-License-Identifier: Apache-2.0
"""Measures of a vertebra on its surface, with the names of plan_report.json.

A pedicle's axis is the line through the middles of its cross sections, narrow ones before wide ones:
an axis that keeps farthest off the cortex is one of many, and jumps from one surface to the next. Width
and height: across that axis, in the axial and in the sagittal plane, where they are least. Angles: of
that axis against the vertebra's own sagittal and axial planes. Interpedicular distance: between the
medial walls there.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.types import LEVELS, Rejected
from spine_nav_sim.core.anatomy_frame import first_hits, raycasting_scene

from .planner import SIDES, Vertebra

_PEDICLE_M = np.arange(
    -0.006, 0.0121, 0.001
)  # about the place where the axis meets the wall's plane
_FARTHEST_M = 0.030
_SPOKES = 32
_SECTIONS_M = np.arange(-0.008, 0.0121, 0.001)
_WIDEST_M = 0.018  # a spoke that is longer is in the body or the lamina
_ROUNDS = 10
_SLOPE = 0.2  # 1 sigma of a turn of the axis, of sections that err by _SECTION_M
_SECTION_M = 1e-3


def measures_of(vertebra: Vertebra) -> dict[str, float]:
    """Measures in mm and degrees; what cannot be measured is left out."""
    out: dict[str, float] = {
        "body_depth_mm": 1e3 * vertebra.frame.body_depth,
        "body_height_mm": 1e3 * vertebra.frame.body_height,
    }
    scene = raycasting_scene(vertebra.cortex.mesh)
    T = vertebra.frame.T_mesh_vertebra
    R, R_inverse = T[:3, :3], np.linalg.inv(T)
    medial_walls: list[float] = []
    for side, sign in SIDES:
        pedicle = vertebra.pedicles[side]
        if isinstance(pedicle, Rejected):
            continue
        point, way = _axis(scene, R_inverse, pedicle.point_m, pedicle.into)
        local = R.T @ way
        out[f"pedicle_axial_angle_{side}_deg"] = float(
            np.degrees(np.arctan2(-sign * local[0], -local[1]))
        )
        out[f"pedicle_sagittal_angle_{side}_deg"] = float(np.degrees(np.arcsin(local[2])))
        start = _at_wall(R_inverse, point, way)
        points = start - _PEDICLE_M[:, None] * way
        lateral, up = _across(sign * R[:, 0], way)
        found = {
            name: first_hits(scene, points, np.tile(direction, (len(points), 1)))
            for name, direction in
            (("medial", -lateral), ("lateral", lateral), ("up", up), ("down", -up))
        }  # fmt: skip
        width, height = found["medial"] + found["lateral"], found["up"] + found["down"]
        k = int(width.argmin())
        if np.isfinite(width[k]) and width[k] < _FARTHEST_M:
            out[f"pedicle_width_{side}_mm"] = 1e3 * float(width[k])
            wall = transform_points(R_inverse, (points[k] - found["medial"][k] * lateral)[None])
            medial_walls.append(float(wall[0, 0]))
        if np.isfinite(height.min()) and height.min() < _FARTHEST_M:
            out[f"pedicle_height_{side}_mm"] = 1e3 * float(height.min())
        back, front = first_hits(scene, np.array([start, start]), np.array([-way, way]))
        if np.isfinite([back, front]).all():
            out[f"screw_path_length_{side}_mm"] = 1e3 * float(back + front)
    if len(medial_walls) == 2:
        out["interpedicular_distance_mm"] = 1e3 * abs(medial_walls[0] - medial_walls[1])
    return {name: round(value, 2) for name, value in out.items()}


def _axis(
    scene: Any, T_vertebra_mesh: np.ndarray, point_m: np.ndarray, way: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A point (3,) and the direction (3,) of the pedicle's axis, from one that lies in the pedicle."""
    turn = np.linspace(0.0, 2.0 * np.pi, _SPOKES, endpoint=False)
    aside = np.linalg.inv(T_vertebra_mesh)[:3, 0]
    for _ in range(_ROUNDS):
        start = _at_wall(T_vertebra_mesh, point_m, way)
        a, b = _across(aside, way)
        spokes = np.cos(turn)[:, None] * a + np.sin(turn)[:, None] * b
        points = start - _SECTIONS_M[:, None] * way
        far = first_hits(
            scene, np.repeat(points, _SPOKES, axis=0), np.tile(spokes, (len(points), 1))
        ).reshape(len(points), _SPOKES)
        far = np.where(np.isfinite(far), np.minimum(far, _WIDEST_M), _WIDEST_M)
        # A section is a fan of triangles of sides far[k], far[k + 1].
        area = 0.5 * (far * np.roll(far, -1, axis=1)).sum(axis=1) * np.sin(turn[1])
        x, y = far * np.cos(turn), far * np.sin(turn)
        cross = x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)
        middle = np.stack(
            [((c + np.roll(c, -1, axis=1)) * cross).sum(axis=1) / (6.0 * area) for c in (x, y)], 1
        )
        weight = (area.min() / area) ** 4
        at = float(weight @ _SECTIONS_M / weight.sum())
        A = np.column_stack([np.ones_like(area), _SECTIONS_M - at])
        information = A.T @ (weight[:, None] * A) + np.diag([0.0, (_SECTION_M / _SLOPE) ** 2])
        shift, slope = np.linalg.solve(information, A.T @ (weight[:, None] * middle))
        point_m = start - at * way + shift[0] * a + shift[1] * b
        way = way - slope[0] * a - slope[1] * b  # sections are counted backwards
        way = way / np.linalg.norm(way)
    return point_m, way


def _at_wall(T_vertebra_mesh: np.ndarray, point_m: np.ndarray, way: np.ndarray) -> np.ndarray:
    """Where an axis meets the plane of the body's posterior wall."""
    at = transform_points(T_vertebra_mesh, point_m[None])[0]
    found: np.ndarray = point_m - (at[1] / (T_vertebra_mesh[:3, :3] @ way)[1]) * way
    return found


def _across(aside: np.ndarray, way: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors square to the axis, the first as near to `aside` as may be."""
    a = aside - (aside @ way) * way
    a = a / np.linalg.norm(a)
    return a, np.cross(a, way)


def lordosis_deg(vertebrae: Mapping[str, Vertebra]) -> dict[str, float]:
    """Sagittal angle from each level to the next below, positive lordotic, and over all of them."""
    levels = sorted(vertebrae, key=LEVELS.index)
    out = {f"{a}-{b}": _turn(vertebrae[a], vertebrae[b]) for a, b in itertools.pairwise(levels)}
    if len(levels) > 2:
        out[f"{levels[0]}-{levels[-1]}"] = _turn(vertebrae[levels[0]], vertebrae[levels[-1]])
    return {name: round(value, 1) for name, value in out.items()}


def _turn(upper: Vertebra, lower: Vertebra) -> float:
    def lean(v: Vertebra) -> float:
        up = v.frame.T_mesh_vertebra[:3, 2]
        return float(np.degrees(np.arctan2(up[1], up[2])))

    return lean(upper) - lean(lower)
