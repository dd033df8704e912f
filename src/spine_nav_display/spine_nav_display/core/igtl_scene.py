# SPDX-License-Identifier: Apache-2.0
"""What goes to 3D Slicer and comes from it: names, and coordinates in mm and RAS.

A case's coordinates are those of its meshes, LPS or RAS, in metres; OpenIGTLink's are RAS in mm.
The camera's frame is its optical frame (x right, y down, z forward) in mm, and no RAS.
"""

from __future__ import annotations

import numpy as np

from spine_nav_common.core.case import anatomical_axes
from spine_nav_common.core.screw_names import read_screw_name
from spine_nav_common.core.types import Rejected, ScrewPlan

from .igtl_messages import Point, read_points


def ras_from_case(frame: str) -> np.ndarray:
    """(3, 3) rotation from a case's frame to RAS; its own inverse."""
    return anatomical_axes(frame) @ np.diag([-1.0, -1.0, 1.0])


def to_ras_mm(points_m: np.ndarray, frame: str) -> np.ndarray:
    """(N, 3) points of a case in RAS, mm."""
    return 1e3 * np.asarray(points_m, float) @ ras_from_case(frame).T


def from_ras_mm(points_mm: np.ndarray, frame: str) -> np.ndarray:
    """The way back: (N, 3) metres in the case's frame."""
    return 1e-3 * np.asarray(points_mm, float) @ ras_from_case(frame)


def vertebra_to_camera_mm(T_camera_ct: np.ndarray, frame: str) -> np.ndarray:
    """(4, 4) from the CT's RAS in mm to the camera's optical frame in mm."""
    T = np.array(T_camera_ct, float)
    T[:3, :3] = T[:3, :3] @ ras_from_case(frame).T
    T[:3, 3] *= 1e3
    return T


def transform_name(level: str) -> str:
    """Device of a level's pose."""
    return f"Vertebra{level}ToCamera"


def model_name(level: str) -> str:
    """Device of a level's surface."""
    return f"Vertebra{level}"


def status_name(level: str) -> str:
    """Device of a level's words."""
    return f"Vertebra{level}Status"


def line_name(plan: ScrewPlan) -> str:
    """Device of a planned screw's two points, which can be edited and sent back."""
    return f"{plan.level}_{plan.side}"


def shaft_name(plan: ScrewPlan) -> str:
    """Device of a planned screw as it is drawn while its level is tracked."""
    return f"Plan{plan.level}_{plan.side}"


def plan_points(plan: ScrewPlan, frame: str) -> tuple[Point, Point]:
    """Entry and target as points."""
    ends = to_ras_mm(np.array([plan.entry_m, plan.target_m]), frame)
    entry, target = (tuple(float(v) for v in end) for end in ends)
    return Point("entry", entry), Point("target", target)  # type: ignore[arg-type]


def shaft(plan: ScrewPlan, frame: str, radius_mm: float = 1.0, corners: int = 8) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """A closed prism around a planned screw's axis: points (N, 3) mm RAS, triangles (M, 3)."""
    ends = to_ras_mm(np.array([plan.entry_m, plan.target_m]), frame)
    way = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    across = np.cross(way, np.eye(3)[int(np.argmin(np.abs(way)))])
    across /= np.linalg.norm(across)
    angles = 2.0 * np.pi * np.arange(corners) / corners
    ring = np.outer(np.cos(angles), across) + np.outer(np.sin(angles), np.cross(way, across))
    points = np.vstack([ends[0] + radius_mm * ring, ends[1] + radius_mm * ring, ends])
    i, j = np.arange(corners), np.roll(np.arange(corners), -1)
    first, last = np.full(corners, 2 * corners), np.full(corners, 2 * corners + 1)
    triangles = np.vstack(
        [
            np.stack([i, j, j + corners], axis=1),
            np.stack([i, j + corners, i + corners], axis=1),
            np.stack([first, j, i], axis=1),
            np.stack([last, i + corners, j + corners], axis=1),
        ]
    )
    return points, triangles


def read_line(device: str, content: bytes, frame: str) -> ScrewPlan | Rejected:
    """A planned screw that comes as two points, first the entry, in the case's frame."""
    named = read_screw_name(device)
    if isinstance(named, Rejected):
        return Rejected(f"'{device}' names no planned screw ({named.reason}); name it like L3_left")
    points = read_points(content)
    if isinstance(points, Rejected):
        return Rejected(f"{device}: {points.reason}")
    if len(points) != 2:
        return Rejected(f"{device}: {len(points)} points; give two, first entry, then target")
    entry, target = from_ras_mm(np.array([p.xyz_mm for p in points]), frame)
    return ScrewPlan(*named, entry, target)
