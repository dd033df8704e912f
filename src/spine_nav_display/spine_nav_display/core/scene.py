# SPDX-License-Identifier: Apache-2.0
"""The case as the page needs it: small surfaces, planned screws, and the words of a trajectory.

Lengths in the page's messages are metres unless their name says otherwise; coordinates are those of
the mesh files.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

from spine_nav_common.core.case import anatomical_axes
from spine_nav_common.core.types import Case, Mesh, ScrewPlan

FACES = 2500  # drawn of one vertebra; the page draws them without a GPU too


@dataclass(frozen=True)
class Trajectory:
    """A planned screw in numbers: length in mm; transverse_deg: how far the tip is turned towards
    the midline, negative away from it; sagittal_deg: how far it points to the head, negative to the
    feet. Angles are those of the scan's axes against straight ahead (anterior)."""

    length_mm: float
    transverse_deg: float
    sagittal_deg: float


def trajectory(plan: ScrewPlan, orientation: str) -> Trajectory:
    """The numbers of a planned screw in a case of that orientation (LPS, RAS or another).

    Raises ValueError for a plan without length.
    """
    way = np.asarray(plan.target_m, float) - np.asarray(plan.entry_m, float)
    length = float(np.linalg.norm(way))
    if not length > 0.0:
        raise ValueError(f"{plan.level} {plan.side}: entry and target are one point")
    left, posterior, cranial = way @ anatomical_axes(orientation)
    medial = -left if plan.side == "left" else left
    anterior = -posterior
    return Trajectory(
        1e3 * length,
        float(np.degrees(np.arctan2(medial, anterior))),
        float(np.degrees(np.arctan2(cranial, np.hypot(left, anterior)))),
    )


def case_message(case: Case, faces: int = FACES) -> dict[str, Any]:
    """Everything of a case that the page draws; sent once.

    Surfaces are base64 of little-endian float32 (N, 3) metres and uint32 (M, 3).
    """
    levels = {}
    for level in case.exposed_levels:
        small = simplified(case.meshes[level], faces)
        levels[level] = {
            "vertices": _packed(small.vertices_m, "<f4"),
            "faces": _packed(small.faces, "<u4"),
            "centre": _floats(case.plan_points_m(level).mean(axis=0)),
        }
    return {
        "name": case.name,
        "frame": case.frame,
        "levels": levels,
        "plan": plan_lines(case),
        "notes": list(case.notes),
    }


def simplified(mesh: Mesh, faces: int) -> Mesh:
    """At most about `faces` triangles of a surface."""
    if len(mesh.faces) <= faces:
        return mesh
    import open3d as o3d

    full = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices_m), o3d.utility.Vector3iVector(mesh.faces)
    )
    small = full.simplify_quadric_decimation(faces)
    return Mesh(np.asarray(small.vertices), np.asarray(small.triangles, np.int32))


def plan_lines(case: Case) -> list[dict[str, Any]]:
    """The planned screws of exposed levels, as the page draws them."""
    return [screw_line(p, case.orientation) for p in case.plan if p.level in case.exposed_levels]


def screw_line(plan: ScrewPlan, orientation: str) -> dict[str, Any]:
    """A planned screw with its numbers."""
    numbers = trajectory(plan, orientation)
    return {
        "level": plan.level,
        "side": plan.side,
        "entry": _floats(plan.entry_m),
        "target": _floats(plan.target_m),
        "length_mm": round(numbers.length_mm, 1),
        "transverse_deg": round(numbers.transverse_deg, 1),
        "sagittal_deg": round(numbers.sagittal_deg, 1),
    }


def _packed(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode("ascii")


def _floats(values: np.ndarray) -> list[float]:
    return [round(float(v), 6) for v in np.asarray(values).ravel()]
