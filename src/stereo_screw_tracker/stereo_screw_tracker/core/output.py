# SPDX-License-Identifier: Apache-2.0
"""What of the screws is shown, and a StereoResult as the rows and curves of screws.csv and rods.json."""

from __future__ import annotations

from collections.abc import Sequence

from spine_nav_common.core.implant_outputs import RodCurve, ScrewRow
from spine_nav_common.core.shown_implants import Implants
from spine_nav_common.core.types import Rejected, ScrewTrack, StereoResult


def known_well(
    screws: Sequence[ScrewTrack], most_mm: float
) -> tuple[tuple[ScrewTrack, ...], list[str]]:
    """The screws whose bound is at most `most_mm`, and in words which are not shown and why."""
    return tuple(s for s in screws if s.bound95_mm <= most_mm), [
        f"screw {s.track_id} not shown: known within {s.bound95_mm:.0f} mm only; uncover it or look"
        " from another side"
        for s in screws
        if s.bound95_mm > most_mm
    ]


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


def implants_of(result: StereoResult | Rejected, stamp_ns: int) -> Implants:
    """What is published of a pair; of one that was refused the reason."""
    if isinstance(result, Rejected):
        return Implants(stamp_ns, reason=f"pair refused: {result.reason}")
    return Implants(
        result.stamp_ns,
        tuple(screw_rows(result)),
        tuple(rod_curves(result)),
        frozenset(s.track_id for s in result.screws if s.hidden),
        events=result.events,
    )


def rod_curves(result: StereoResult) -> list[RodCurve]:
    """One curve per rod."""
    return [
        RodCurve(r.side, r.centreline_m, r.sigma_mm, r.seen, r.free_m, r.free_sigma_mm)
        for r in result.rods
    ]
