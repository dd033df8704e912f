# SPDX-License-Identifier: Apache-2.0
"""Which level each vertebra is: from the sacrum and the last ribs where both are in view and agree,
otherwise asked. A level is never guessed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.types import LEVELS

from .vertebrae import Vertebra

_LUMBAR = 5  # between the ribs and the sacrum in most people
_STEP_MM = (14.0, 60.0)  # from centre to centre
_GAP = 1.6  # of the median step: beyond, a vertebra may be missing


@dataclass(frozen=True)
class Named:
    """A level for each vertebra, from head to foot."""

    levels: tuple[str, ...]
    because: str


@dataclass(frozen=True)
class Asked:
    """Why the levels are not certain, and what they would be in most people ("" where even that is
    not known)."""

    reason: str
    proposal: str


def name_levels(vertebrae: tuple[Vertebra, ...]) -> Named | Asked:
    """Names by counting upwards from the sacrum, if the ribs say the same."""
    free = [v for v in vertebrae if not v.is_sacrum]
    sacrum = [v for v in vertebrae if v.is_sacrum]
    ribs = [v.has_ribs for v in free]
    count = len(free)
    bearing = [k for k, r in enumerate(ribs) if r]
    proposal = _proposal(count, bearing, bool(sacrum))
    gap = missing_between(vertebrae)
    if gap:
        return Asked(gap, proposal)
    if not sacrum:
        return Asked("the sacrum is not in view, so nothing can be counted from", proposal)
    if not bearing:
        return Asked(
            "no rib is in view, so four or six lumbar vertebrae cannot be ruled out", proposal
        )
    if bearing != list(range(bearing[-1] + 1)):
        return Asked("ribs were seen at some vertebrae and not at those above them", "")
    lumbar = count - len(bearing)
    if lumbar != _LUMBAR:
        return Asked(
            f"{lumbar} vertebrae lie between the last rib and the sacrum: a transitional vertebra, or"
            " one overlooked",
            "",
        )
    return Named(_upwards(count, True), "counted from the sacrum, and the last ribs agree")


def check_names(vertebrae: tuple[Vertebra, ...], levels: tuple[str, ...]) -> str:
    """What is wrong with names that the user gave, "" if nothing is."""
    unknown = [v for v in levels if v not in LEVELS]
    if unknown:
        return f"{', '.join(unknown)} is unknown"
    if len(levels) != len(vertebrae):
        return f"{len(vertebrae)} vertebrae were found and {len(levels)} are named"
    for a, b in itertools.pairwise(levels):
        i, j = LEVELS.index(a), LEVELS.index(b)
        if j <= i:
            return f"{b} cannot lie below {a}"
        if [v for v in LEVELS[i + 1 : j] if v != "L6"]:  # which few people have
            return f"{b} does not follow {a}"
    for level, v in zip(levels, vertebrae, strict=True):
        if (level == "S1") != v.is_sacrum:
            return (
                f"{level} is named where {'the sacrum' if v.is_sacrum else 'no sacrum'} was found"
            )
    return missing_between(vertebrae)


def missing_between(vertebrae: tuple[Vertebra, ...]) -> str:
    """Where the steps from vertebra to vertebra are none, "" if they are."""
    free = [v.centre_mm for v in vertebrae if not v.is_sacrum]
    steps = [float(np.linalg.norm(b - a)) for a, b in itertools.pairwise(free)]
    if not steps:
        return ""
    middle = float(np.median(steps))
    for k, s in enumerate(steps):
        if not _STEP_MM[0] <= s <= _STEP_MM[1] or s > _GAP * middle:
            return (
                f"vertebrae {k + 1} and {k + 2} from the top lie {s:.0f} mm apart: one may be"
                " overlooked or split"
            )
    return ""


def _proposal(count: int, bearing: list[int], sacrum: bool) -> str:
    if sacrum:
        return ",".join(_upwards(count, True))
    if bearing and bearing[-1] + 1 < count and count - bearing[-1] - 1 <= _LUMBAR:
        top = LEVELS.index("T12") - bearing[-1]
        return ",".join(LEVELS[top : top + count]) if top >= 0 else ""
    return ""


def _upwards(count: int, sacrum: bool) -> tuple[str, ...]:
    free = tuple(v for v in LEVELS if v not in ("L6", "S1"))
    if count > len(free):
        return ()
    return (*free[len(free) - count :], *(("S1",) if sacrum else ()))
