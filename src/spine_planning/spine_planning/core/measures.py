# SPDX-License-Identifier: Apache-2.0
"""Measures of a vertebra on its surface, with the names of plan_report.json.

Width and height of a pedicle: across its axis (the one that keeps farthest off the cortex), in the
axial and in the sagittal plane, where they are least. Angles: of that axis against the vertebra's own
sagittal and axial planes. Interpedicular distance: between the medial walls there.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.types import LEVELS, Rejected
from spine_nav_sim.core.anatomy_frame import first_hits, raycasting_scene

from .planner import SIDES, Vertebra

_PEDICLE_M = np.arange(
    -0.006, 0.0121, 0.001
)  # about the place where the axis meets the wall's plane
_FARTHEST_M = 0.030


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
        way = pedicle.into
        local = R.T @ way
        out[f"pedicle_axial_angle_{side}_deg"] = float(
            np.degrees(np.arctan2(-sign * local[0], -local[1]))
        )
        out[f"pedicle_sagittal_angle_{side}_deg"] = float(np.degrees(np.arcsin(local[2])))
        at = transform_points(R_inverse, pedicle.point_m[None])[0]
        start = pedicle.point_m - (at[1] / local[1]) * way  # where the axis meets the wall's plane
        points = start - _PEDICLE_M[:, None] * way
        lateral = sign * R[:, 0]
        lateral = lateral - (lateral @ way) * way
        lateral /= np.linalg.norm(lateral)
        up = np.cross(lateral, way)
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
