# SPDX-License-Identifier: Apache-2.0
"""Screws and rods of a pair as they were published, in as little memory as hours of them take."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from spine_nav_common.core.implant_outputs import RodCurve, ScrewRow
from spine_nav_common.core.shown import stamp_ns_of, status_fields
from spine_nav_common.core.shown_implants import ROD, SCREW, Implants


@dataclass(frozen=True)
class Screw:
    """A head as it was published. name: level and side, or its track."""

    name: str
    bound95_mm: float
    hidden: bool


@dataclass(frozen=True)
class Screws:
    """What was published of screws and rods at one stamp, or why nothing."""

    log_ns: int
    stamp_ns: int
    screws: tuple[Screw, ...] = ()
    rods: tuple[str, ...] = ()
    reason: str = ""


def screws_of(log_ns: int, message: Any) -> Screws:
    """What a message of screws/status tells; see spine_nav_common.core.shown_implants."""
    screws, rods, reason = [], [], ""
    for item in message.status:
        fields = status_fields(item)
        if item.name.startswith(SCREW):
            name = f"{fields['level']} {fields['side']}".strip() or f"head {fields['track_id']}"
            screws.append(Screw(name, float(fields["bound95_mm"]), fields["hidden"] == "True"))
        elif item.name.startswith(ROD):
            rods.append(item.name.removeprefix(ROD))
        else:
            reason = fields.get("reason", "")
    stamp_ns = stamp_ns_of(message.header.stamp)
    return Screws(log_ns, stamp_ns, tuple(screws), tuple(rods), reason)


@dataclass(frozen=True)
class ShownPair:
    """What was published of a pair; of each rod its side and a hash of all that was said of it."""

    screws: tuple[ScrewRow, ...]
    rods: tuple[tuple[str, str], ...]
    reason: str
    events: tuple[str, ...]


def shown_pair(implants: Implants) -> ShownPair:
    """implants: as a listener has them, see implants_as_shown."""
    rods = tuple((rod.side, _sha256(rod)) for rod in implants.rods)
    return ShownPair(implants.screws, rods, implants.reason, implants.events)


def _sha256(rod: RodCurve) -> str:
    digest = hashlib.sha256()
    for values in (rod.centreline_m, rod.sigma_mm, rod.seen, rod.free_m, rod.free_sigma_mm):
        digest.update(b"none" if values is None else np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def pair_differences(was: ShownPair, now: ShownPair) -> list[str]:
    """In what two pairs differ, bit by bit; empty = they are the same."""
    if was.reason != now.reason:
        a, b = (p.reason or f"{len(p.screws)} heads" for p in (was, now))
        return [f"{a} was shown, computed again {b}"]
    found = []
    ids, again = ([s.track_id for s in p.screws] for p in (was, now))
    if ids != again:
        found.append(f"heads {ids} were shown, computed again {again}")
    else:
        for before, after in zip(was.screws, now.screws, strict=True):
            found += _of_screw(before, after)
    if [side for side, _ in was.rods] != [side for side, _ in now.rods]:
        found.append(f"{len(was.rods)} rods were shown, computed again {len(now.rods)}")
    elif was.rods != now.rods:
        found.append("a rod differs")
    if was.events != now.events:
        found.append(f"{list(was.events)} was said, computed again {list(now.events)}")
    return found


def _of_screw(a: ScrewRow, b: ScrewRow) -> list[str]:
    name = f"head {a.track_id}"
    if (a.level, a.side, a.seen) != (b.level, b.side, b.seen):
        return [f"{name} was {_said(a)}, now {_said(b)}"]
    if a.head_m.tobytes() != b.head_m.tobytes() or a.axis.tobytes() != b.axis.tobytes():
        apart_mm = 1e3 * float(np.linalg.norm(a.head_m - b.head_m))
        return [f"{name}: its pose differs by {apart_mm:.3g} mm"]
    if (a.confidence, a.bound95_mm) != (b.confidence, b.bound95_mm):
        return [f"{name}: {a.bound95_mm} mm was stated, now {b.bound95_mm}, or its confidence"]
    return []


def _said(s: ScrewRow) -> str:
    return " ".join(filter(None, (s.level, s.side, "" if s.seen else "held"))) or "unnamed"
