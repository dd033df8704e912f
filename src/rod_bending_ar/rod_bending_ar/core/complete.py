# SPDX-License-Identifier: Apache-2.0
"""Whether every screw of a side stands in its row: against the plan, or by the gaps of the row.

A rod that passes a screw by is a new operation; so a screw that should be there is asked for, and
only the surgeon says that there is none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from spine_nav_common.core.errors import RodError
from spine_nav_common.core.screw_rows import SaddleRow
from spine_nav_common.core.types import LEVELS, Case

# Distances of neighbouring saddles differ by up to 1.45 times along one spine (T10-T11 to L2-L3,
# posterior elements); one screw left out makes 2.
_WIDE = 1.6
ANY = "any"  # answer to every question: plan for the heads as they are


class MissingScrew(RodError):
    """A screw that should be there is not in its row; nothing was planned.

    levels: where none is, all of them, as far as the heads' names tell; heads: else the ids of the
    heads that are asked about, neighbours or the whole row. answer: what `without` takes for it.
    """

    def __init__(
        self,
        row: SaddleRow,
        problem: str,
        show: str,
        levels: Sequence[str],
        heads: Sequence[int],
        answer: str,
    ) -> None:
        super().__init__(row.source, f"side {row.side}", problem, show)
        self.levels, self.heads, self.answer = tuple(levels), tuple(heads), answer


def planned_screws(case: Case | None) -> tuple[tuple[str, str], ...]:
    """(level, side) of every planned screw at a level that is open; () without a case."""
    if case is None:
        return ()
    return tuple((p.level, p.side) for p in case.plan if p.level in case.exposed_levels)


def parse_without(text: str) -> tuple[str, ...]:
    """Levels of a list such as "T12,L3", or `any`. Raises ValueError for anything else."""
    levels = tuple(word.strip() for word in text.split(",") if word.strip())
    for level in levels:
        if level != ANY and level not in LEVELS:
            raise ValueError(f"{level!r} is no level: give T1 to T12, L1 to L6, S1, or {ANY}")
    return levels


def check_complete(
    row: SaddleRow,
    planned: Sequence[tuple[str, str]] = (),
    without: Sequence[str] = (),
    as_they_stand: Collection[tuple[int, ...]] = (),
) -> None:
    """Refuse a row in which a screw is missing.

    Args:
        row: the screws of one side.
        planned: (level, side) of every screw of the case's plan that the surgeon can see; where
            none is of this side, gaps in the row are judged instead.
        without: levels where there is no screw on purpose; `any` for all of them.
        as_they_stand: ids of heads without names of which the surgeon said that none is missing:
            two neighbours, or the whole row.

    Raises MissingScrew that names what is missing, or where.
    """
    if ANY in without:
        return
    own = [level for level, side in planned if side == row.side and level not in without]
    if any(side == row.side for _, side in planned):
        if row.ids not in as_they_stand:
            _against_plan(row, own)
    else:
        _by_gaps(row, without, as_they_stand)


def _against_plan(row: SaddleRow, planned: Sequence[str]) -> None:
    named = [level for level in row.levels if level]
    missing = [level for level in planned if level not in named]
    unnamed = len(row.names) - len(named)
    if len(missing) <= unnamed:  # the heads without a level may be these
        return
    if unnamed:
        what = f"{len(missing) - unnamed} of the planned screws {', '.join(missing)}"
    else:
        what = f"the planned screw{'s' * (len(missing) > 1)} {', '.join(missing)}"
    raise MissingScrew(
        row,
        f"{what} {'is' if len(missing) - unnamed == 1 else 'are'} not among its"
        f" {len(row.names)} heads",
        "show the missing heads to both cameras",
        () if unnamed else missing,
        row.ids if unnamed else (),
        missing[0],
    )


def _by_gaps(
    row: SaddleRow, without: Sequence[str], as_they_stand: Collection[tuple[int, ...]]
) -> None:
    steps = np.linalg.norm(np.diff(row.saddles_mm, axis=0), axis=1)
    for i, step in enumerate(steps):
        between = _between(row, i)
        if between is not None:
            missing = [level for level in between if level not in without]
            if missing:
                raise _question(row, i, f"no screw at {', '.join(missing)}", missing)
            continue
        if row.ids[i : i + 2] in as_they_stand:
            continue
        near = np.concatenate([steps[max(i - 1, 0) : i], steps[i + 1 : i + 2]])
        if len(near) and step > _WIDE * near.mean():
            text = f"{step:.0f} mm apart where its neighbours are {near.mean():.0f} mm"
            raise _question(row, i, text, ())


def _between(row: SaddleRow, i: int) -> list[str] | None:
    """Levels between heads i and i + 1 where both have one; else None."""
    pair = row.levels[i : i + 2]
    if len(pair) < 2 or not all(pair):
        return None
    between = LEVELS[LEVELS.index(pair[1]) + 1 : LEVELS.index(pair[0])]
    return [level for level in between if level != "L6"]  # few people have a sixth


def _question(row: SaddleRow, i: int, text: str, levels: Sequence[str]) -> MissingScrew:
    return MissingScrew(
        row,
        f"is a screw missing between {row.names[i]} and {row.names[i + 1]}? They show {text}",
        "show all heads to both cameras",
        levels,
        () if levels else row.ids[i : i + 2],
        levels[0] if levels else ANY,
    )
