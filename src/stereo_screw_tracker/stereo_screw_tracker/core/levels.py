# SPDX-License-Identifier: Apache-2.0
"""Levels of heads from what the surgeon has opened, where no registered vertebra tells them.

Counting names a head only if the count leaves one reading: both rows have exactly as many heads as
there are exposed levels, lie level by level across from each other, and step along the spine as the
case does. One missed head and one ghost keep the count and shift the names by a level; the other
row and the case's own distances speak against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spine_nav_common.core.case import anatomical_axes
from spine_nav_common.core.errors import RodError
from spine_nav_common.core.landmarks import dorsal_centre
from spine_nav_common.core.screw_rows import SIDES, SaddleRow, saddle_rows
from spine_nav_common.core.types import LEVEL_CODE, Case, StereoResult

from .output import screw_rows

# A row that is one level off lies a whole step from its partner; tilted vertebrae and crooked
# entries lie a third of a step apart. At half a step nobody can tell.
_ACROSS = 0.4
# Posture turns neighbours by some 10 degrees, which changes a step of their tulips by a third; a
# ghost between two heads halves a step, and a head left out doubles it.
_ALONG = 0.4
_TULIP_MM = 15.0  # the saddle stands this far out of the bone, along the screw


class LevelNames:
    """Names heads by their order along the spine and remembers the names by track.

    exposed: the case's exposed levels, in any order. case: whose plan, or else whose vertebrae,
    say how far apart they lie; without it only the two rows are held against each other.
    """

    def __init__(self, exposed: Sequence[str], case: Case | None = None) -> None:
        self._caudal_first = sorted(exposed, key=lambda level: -LEVEL_CODE[level])
        self._expected = None if case is None else _expected_mm(self._caudal_first, case)
        self._known: dict[int, str] = {}

    def name(self, result: StereoResult) -> StereoResult:
        """The result with levels: of this frame's count, or remembered where a head is missing.

        Heads that have a level already (from registered vertebrae) are left as they are.
        """
        if not result.screws or any(s.level for s in result.screws):
            return result
        count = len(self._caudal_first)
        rows = _rows(result)
        if len(rows) == 2 and all(len(row.ids) == count for row in rows):
            # rows that contradict each other may have been read wrongly before: forget the names
            self._known = (
                {i: v for row in rows for i, v in zip(row.ids, self._caudal_first, strict=True)}
                if _agree(rows, self._expected)
                else {}
            )
        elif any(len(row.ids) > count for row in rows):
            self._known = {}  # one of these is none of the levels: the names so far may be wrong
        screws = tuple(replace(s, level=self._known.get(s.track_id, "")) for s in result.screws)
        return replace(result, screws=screws)


def _rows(result: StereoResult) -> list[SaddleRow]:
    """The row of each side, caudal first; empty where sides or directions are not known."""
    try:
        return saddle_rows(screw_rows(result), "screws")
    except RodError:
        return []


def _expected_mm(levels: Sequence[str], case: Case) -> dict[str, np.ndarray]:
    """Where the saddles of each side (N, 3) lie in the case, in left, posterior, superior axes."""
    axes = anatomical_axes(case.orientation)
    expected = {}
    for side in SIDES:
        lines = {p.level: p for p in case.plan if p.side == side}
        if all(level in lines for level in levels):
            ways = [(lines[v].entry_m, lines[v].entry_m - lines[v].target_m) for v in levels]
            points = [1e3 * at + _TULIP_MM * out / np.linalg.norm(out) for at, out in ways]
        else:
            points = [1e3 * dorsal_centre(case.meshes[v], case.orientation) for v in levels]
        expected[side] = np.array(points).reshape(-1, 3) @ axes
    return expected


def _agree(rows: Sequence[SaddleRow], expected: dict[str, np.ndarray] | None) -> bool:
    """Whether both rows can be the levels in order: across from each other, stepping as the case."""
    first, second = (np.asarray(row.saddles_mm, np.float64) for row in rows)
    if len(first) < 2:
        return True  # nothing to be shifted against
    mean = 0.5 * (first + second)
    up = (mean[-1] - mean[0]) / np.linalg.norm(mean[-1] - mean[0])
    steps = np.diff(mean @ up)
    across = (first - second) @ up
    if expected is not None:
        a, b = (expected[row.side] for row in rows)
        middle = 0.5 * (a + b)
        own_up = (middle[-1] - middle[0]) / np.linalg.norm(middle[-1] - middle[0])
        across = across - (a - b) @ own_up
    near = np.minimum(np.append(steps, np.inf), np.append(np.inf, steps))  # the shorter neighbour
    if (np.abs(across) > _ACROSS * near).any():
        return False
    if expected is None:
        return True
    for row, seen in zip(rows, (first, second), strict=True):
        true = np.linalg.norm(np.diff(expected[row.side], axis=0), axis=1)
        measured = np.linalg.norm(np.diff(seen, axis=0), axis=1)
        if (np.abs(measured - true) > _ALONG * true).any():
            return False
    return True
