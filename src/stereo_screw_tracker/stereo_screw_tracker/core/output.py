# SPDX-License-Identifier: Apache-2.0
"""A StereoResult as the rows and curves of screws.csv and rods.json."""

from __future__ import annotations

from spine_nav_common.core.implant_outputs import RodCurve, ScrewRow
from spine_nav_common.core.types import StereoResult


def screw_rows(result: StereoResult) -> list[ScrewRow]:
    """One row per head that is shown, held ones too."""
    return [
        ScrewRow(
            result.stamp_ns,
            track.track_id,
            track.head.point_m,
            track.head.axis,
            track.head.confidence,
            track.bound95_mm,
            track.level,
            track.side,
            not track.hidden,
        )
        for track in result.screws
    ]


def rod_curves(result: StereoResult) -> list[RodCurve]:
    """One curve per rod."""
    return [
        RodCurve(r.side, r.centreline_m, r.sigma_mm, r.seen, r.free_m, r.free_sigma_mm)
        for r in result.rods
    ]
