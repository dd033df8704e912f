# SPDX-License-Identifier: Apache-2.0
"""Levels of heads from what the surgeon has opened, where no registered vertebra tells them.

Counting names a head only if the count leaves one reading: every row has exactly as many heads as
there are exposed levels. With one head more or less nobody can tell which is the odd one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rod_bending_ar.core.errors import RodError
from rod_bending_ar.core.row import saddle_rows
from spine_nav_common.core.types import LEVEL_CODE, StereoResult

from .output import screw_rows


class LevelNames:
    """Names heads by their order along the spine and remembers the names by track.

    exposed: the case's exposed levels, in any order.
    """

    def __init__(self, exposed: Sequence[str]) -> None:
        self._caudal_first = sorted(exposed, key=lambda level: -LEVEL_CODE[level])
        self._known: dict[int, str] = {}

    def name(self, result: StereoResult) -> StereoResult:
        """The result with levels: of this frame's count, or remembered where a head is missing.

        Heads that have a level already (from registered vertebrae) are left as they are.
        """
        if not result.screws or any(s.level for s in result.screws):
            return result
        count = len(self._caudal_first)
        ids = _rows_of_ids(result)
        if ids and all(len(row) == count for row in ids):
            self._known = {
                i: v for row in ids for i, v in zip(row, self._caudal_first, strict=True)
            }
        elif any(len(row) > count for row in ids):
            self._known = {}  # one of these is none of the levels: the names so far may be wrong
        screws = tuple(replace(s, level=self._known.get(s.track_id, "")) for s in result.screws)
        return replace(result, screws=screws)


def _rows_of_ids(result: StereoResult) -> list[tuple[int, ...]]:
    """Track ids of each side, caudal first; empty where sides or directions are not known."""
    try:
        return [row.ids for row in saddle_rows(screw_rows(result), "screws")]
    except RodError:
        return []
