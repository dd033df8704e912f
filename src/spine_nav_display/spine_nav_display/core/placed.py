# SPDX-License-Identifier: Apache-2.0
"""A placed screw against its plan, in the same moment: how far its axis passes the planned entry
point, and the angle between both axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.implant_outputs import ScrewRow
from spine_nav_common.core.types import LevelEstimate, Rejected, ScrewPlan, Status

TOGETHER_NS = 300_000_000
"""Pose and screw of pictures farther apart are of two moments."""


@dataclass(frozen=True)
class Placed:
    """entry_mm: distance of the screw's axis from the planned entry point. angle_deg: between both
    axes. bound_mm: both 95 % bounds, of the vertebra and of the head, added as independent."""

    entry_mm: float
    angle_deg: float
    bound_mm: float


def compare(
    row: ScrewRow,
    plan: Sequence[ScrewPlan],
    levels: Mapping[str, LevelEstimate],
    pose_stamp_ns: int,
    T_camera_stereo: np.ndarray | Rejected,
) -> Placed | Rejected:
    """One screw against its plan, or why it cannot be compared.

    Args:
        row: of the stereo camera, in its left optical frame.
        plan: of the case.
        levels: newest estimates by level, in the RGB-D camera's frame.
        pose_stamp_ns: of those estimates, in the same clock as the screw's.
        T_camera_stereo: (4, 4) from the left optical frame to the RGB-D camera's, or why not known.
    """
    if not row.level or not row.side:
        return Rejected("no level and side tell which screw this is")
    line = next((p for p in plan if (p.level, p.side) == (row.level, row.side)), None)
    if line is None:
        return Rejected(f"no screw is planned for {row.level} {row.side}")
    estimate = levels.get(row.level)
    if estimate is None or estimate.status is not Status.TRACKED or estimate.T_camera_ct is None:
        return Rejected(f"{row.level} is not tracked")
    if abs(row.stamp_ns - pose_stamp_ns) > TOGETHER_NS:
        return Rejected("pose and screw are of different moments")
    if isinstance(T_camera_stereo, Rejected):
        return T_camera_stereo
    entry, target = transform_points(
        estimate.T_camera_ct, np.array([line.entry_m, line.target_m], float)
    )
    head = transform_points(T_camera_stereo, np.asarray(row.head_m, float)[None])[0]
    out = T_camera_stereo[:3, :3] @ np.asarray(row.axis, float)
    beside = entry - head
    away = beside - (beside @ out) * out
    planned_out = (entry - target) / np.linalg.norm(entry - target)
    cosine = float(np.clip(planned_out @ out, -1.0, 1.0))
    bound = float(np.hypot(estimate.predicted_tre_mm or 0.0, row.bound95_mm))
    return Placed(1e3 * float(np.linalg.norm(away)), float(np.degrees(np.arccos(cosine))), bound)
