# SPDX-License-Identifier: Apache-2.0
"""What the surgeon is asked, and has said, of screws that are not there: one question per side.

An answer about levels holds for its side until a screw is seen there after all; one about heads
without names only for these heads, as long as they keep their distances.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

import numpy as np

from spine_nav_common.core.screw_rows import SaddleRow

from .complete import MissingScrew
from .forward import fit_rigid
from .plan import RodOrder


@dataclass(frozen=True)
class ScrewQuestion:
    """Whether a screw is left out on purpose. id: what an answer names; levels: where none is, ()
    where heads have no names; heads: ids of the heads that are asked about then; text: what is
    seen; row: of that moment."""

    id: str
    side: str
    levels: tuple[str, ...]
    heads: tuple[int, ...]
    text: str
    row: SaddleRow

    @property
    def what(self) -> str:
        """What a yes says, in words."""
        where = ", ".join(self.levels)
        if where:
            return f"no screw at {where} {self.side} on purpose"
        return f"no screw is missing between these heads on the {self.side}"

    def fits(self, row: SaddleRow, moved_mm: float) -> bool:
        """Whether the row still shows what was asked about."""
        if self.levels:
            return not set(self.levels) & set(row.levels)
        return row.ids == self.row.ids and changed_mm(self.row, row) <= moved_mm

    def same(self, other: ScrewQuestion, moved_mm: float) -> bool:
        """Whether the other asks nothing new; what it measures may differ by a little."""
        if (self.levels, self.heads) != (other.levels, other.heads):
            return False
        return self.text == other.text if self.levels else self.fits(other.row, moved_mm)


class LeftOut:
    """The questions that are open and what was answered. `answer` may be called by any thread, the
    rest by one.

    moved_mm: largest change of a head against the others before it counts as another arrangement.
    """

    def __init__(self, moved_mm: float) -> None:
        self._moved_mm = moved_mm
        self._asked: dict[str, ScrewQuestion] = {}  # the newest of each side, answered or not
        self._open: set[str] = set()  # sides whose newest refusal is that question
        self._rejected: set[str] = set()
        self._granted: list[ScrewQuestion] = []
        self._heard: list[tuple[ScrewQuestion, bool]] = []

    def ask(self, row: SaddleRow, missing: MissingScrew) -> None:
        """A plan was refused for this."""
        new = ScrewQuestion(
            f"ROD-{secrets.token_hex(3).upper()}",
            row.side,
            missing.levels,
            missing.heads,
            missing.problem,
            row,
        )
        old = self._asked.get(row.side)
        if old is None or not old.same(new, self._moved_mm):
            self._asked[row.side] = new
        self._open.add(row.side)

    def close(self, side: str) -> None:
        """Nothing is asked of this side now; what was rejected stays so until the question changes."""
        self._open.discard(side)

    def question(self, row: SaddleRow) -> ScrewQuestion | None:
        """What is asked of the row's side, while it shows what is asked about."""
        asked = self._asked.get(row.side) if row.side in self._open else None
        if asked is None or asked.id in self._rejected:
            return None
        return asked if asked.fits(row, self._moved_mm) else None

    def answer(self, question: ScrewQuestion, accept: bool) -> None:
        """accept: there is no screw on purpose; else there is one, and it is asked for still."""
        self._heard.append((question, accept))

    def take(self) -> set[str]:
        """Heed what was said since; sides that may be planned now."""
        granted = set()
        while self._heard:
            question, accept = self._heard.pop(0)
            if accept:
                self._granted.append(question)
                granted.add(question.side)
            else:
                self._rejected.add(question.id)
        self._open -= granted
        return granted

    def see(self, row: SaddleRow) -> None:
        """A level that has its screw was not left out, whatever was said."""
        self._granted = [
            q
            for q in self._granted
            if q.side != row.side or not q.levels or q.fits(row, self._moved_mm)
        ]

    def order(self, row: SaddleRow, order: RodOrder) -> RodOrder:
        """The order for this row, with what was said of it."""
        own = [q for q in self._granted if q.side == row.side and q.fits(row, self._moved_mm)]
        return replace(
            order,
            without=order.without + tuple(level for q in own for level in q.levels),
            as_they_stand=order.as_they_stand + tuple(q.heads for q in own if q.heads),
        )


def changed_mm(before: SaddleRow, now: SaddleRow) -> float:
    """Largest distance of a head from its place, the rows laid on each other; equal ids."""
    T = fit_rigid(before.saddles_mm, now.saddles_mm)
    moved = before.saddles_mm @ T[:3, :3].T + T[:3, 3]
    return float(np.linalg.norm(moved - now.saddles_mm, axis=1).max())
