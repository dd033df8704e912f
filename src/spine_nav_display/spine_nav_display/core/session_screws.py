# SPDX-License-Identifier: Apache-2.0
"""Placed screws of a session against the plan: of each the last pair in which it was measured while
its vertebra was tracked."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rod_bending_ar.core.cortex import DIAMETER_MM, Margins, Shaft
from rod_bending_ar.core.extras import SAME_NS
from rod_bending_ar.core.screw_check import PLAY_DEG, ScrewCheck, check_row, comparable
from spine_nav_common.core.calibrations import calibrations
from spine_nav_common.core.implant_outputs import ScrewRow
from spine_nav_common.core.shown import stamp_ns_of
from spine_nav_common.core.shown_implants import implants_from_messages
from spine_nav_common.core.static_frames import StaticFrames, static_transform
from spine_nav_common.core.types import Case, LevelEstimate, NavigationResult, Rejected, Status

from .session_folder import INPUTS
from .session_reading import Session, read_topics

_POSES, _SCREWS, _SCREW_POSES = "/vertebra_poses", "/screws/status", "/screws/poses"
_STATIC = "/tf_static"


@dataclass(frozen=True)
class PlacedLast:
    """A screw of the plan: its last comparison and the stamp of its pair, or why there is none.
    planned: the margin of the plan itself, under the error predicted last; estimate: of its level;
    log_ns: when the pair was recorded, by this machine's clock."""

    level: str
    side: str
    stamp_ns: int
    check: ScrewCheck | Rejected
    planned: Shaft | Rejected | None = None
    estimate: LevelEstimate | None = None
    log_ns: int | None = None


def placed_screws(
    session: Session, case: Case, play_deg: float = PLAY_DEG, diameter_mm: float = DIAMETER_MM
) -> list[PlacedLast]:
    """Every planned screw of an exposed level in the order of the case. play_deg: see check_screw."""
    plans = {(p.level, p.side): p for p in case.plan}
    frames, camera, stereo = _frames(session)
    T = frames.lookup(camera, stereo) if camera and stereo else Rejected("no screw was recorded")
    results = _ByStamp(session)
    last: dict[tuple[str, str], tuple[ScrewRow, NavigationResult]] = {}
    why: dict[tuple[str, str], Rejected] = {}
    for row in _rows(session):
        key = (row.level, row.side)
        if key not in plans or not row.seen:
            continue
        result = results.at(row.stamp_ns)
        if isinstance(result, Rejected):
            why[key] = result
            continue
        levels = {e.level: e for e in result.levels}
        found = comparable(row, plans, levels, result.stamp_ns, T)
        if isinstance(found, Rejected):
            why[key] = found
        else:
            last[key] = row, result
    margins = Margins(case, diameter_mm)
    tracked = {
        e.level: e
        for stamp_ns in sorted(session.shown)
        for e in session.shown[stamp_ns][1].levels
        if e.status is Status.TRACKED
    }
    placed = []
    log_ns = {s.stamp_ns: s.log_ns for s in session.screws}
    for key in [k for k in plans if k[0] in case.exposed_levels]:
        newest = tracked.get(key[0])
        bound = newest.predicted_tre_mm if newest is not None else None
        planned = margins.planned(*key, bound)
        if key not in last:
            reason = why.get(key, Rejected("it was not seen"))
            placed.append(PlacedLast(*key, 0, reason, planned, newest))
            continue
        row, result = last[key]
        levels = {e.level: e for e in result.levels}
        check = check_row(row, margins, plans, levels, result.stamp_ns, T, play_deg)
        placed.append(
            PlacedLast(*key, row.stamp_ns, check, planned, newest, log_ns.get(row.stamp_ns))
        )
    return placed


class _ByStamp:
    """Published results, the nearest of a moment."""

    def __init__(self, session: Session) -> None:
        self._shown = session.shown
        self._stamps = sorted(session.shown)

    def at(self, stamp_ns: int) -> NavigationResult | Rejected:
        k = bisect.bisect_left(self._stamps, stamp_ns)
        near = self._stamps[max(k - 1, 0) : k + 1]
        best = min(near, key=lambda s: abs(s - stamp_ns), default=None)
        if best is None or abs(best - stamp_ns) > SAME_NS:
            return Rejected("no pose of the same moment")
        return self._shown[best][1]


def _frames(session: Session) -> tuple[StaticFrames, str, str]:
    """What joins the cameras, and the frames of the RGB-D and the stereo camera."""
    frames, camera, stereo = StaticFrames(), "", ""
    for edge in calibrations(sorted((session.folder / INPUTS).glob("calibration_*.yaml")))[1]:
        frames.add(edge)
    for topic, message in read_topics(session, _STATIC, _POSES, _SCREW_POSES):
        if topic.endswith(_STATIC):
            for item in message.transforms:
                t, q = item.transform.translation, item.transform.rotation
                parent, child = item.header.frame_id, item.child_frame_id
                try:
                    frames.add(
                        static_transform(
                            parent, child, (t.x, t.y, t.z), (q.x, q.y, q.z, q.w), _STATIC
                        )
                    )
                except ValueError:
                    continue  # another robot's
        elif topic.endswith(_POSES):
            camera = camera or message.header.frame_id
        else:
            stereo = stereo or message.header.frame_id
    return frames, camera, stereo


def _rows(session: Session) -> Iterator[ScrewRow]:
    """Heads as they were published."""
    poses: dict[int, Any] = {}
    statuses: dict[int, Any] = {}
    for topic, message in read_topics(session, _SCREWS, _SCREW_POSES):
        stamp_ns = stamp_ns_of(message.header.stamp)
        mine, others = (poses, statuses) if topic.endswith(_SCREW_POSES) else (statuses, poses)
        mine[stamp_ns] = message
        if stamp_ns in others:
            yield from implants_from_messages(statuses.pop(stamp_ns), poses.pop(stamp_ns)).screws
