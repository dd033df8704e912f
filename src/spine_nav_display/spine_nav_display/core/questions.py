# SPDX-License-Identifier: Apache-2.0
"""Which answer counts: it names its session and its question, and the first one wins.

Nothing here talks to anybody. The desk keeps what is asked now; a page's answer is taken once, or
refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spine_nav_common.core.types import Rejected

CONFIRM, REJECT = "confirm", "reject"
VERBS = (CONFIRM, REJECT)
_WORDS = {CONFIRM: "confirmed", REJECT: "rejected"}


@dataclass(frozen=True)
class Question:
    """What the surgeon is asked. id: of the hypothesis; text: as shown; levels: that it names;
    stamp_ns: of the newest frame that showed it; line: the planned screw that is asked about, with
    level, side, entry and target in metres, where it is one; side: of the rod whose missing screw is
    asked about, at `levels` (none: its heads have no names), else empty."""

    id: str
    text: str
    levels: tuple[str, ...]
    stamp_ns: int
    line: Mapping[str, Any] | None = None
    side: str = ""

    @property
    def is_plan(self) -> bool:
        """Whether it is about the plan, and not about which vertebra is which."""
        return self.line is not None

    @property
    def name(self) -> str:
        """What is confirmed or rejected, in words."""
        levels = ", ".join(self.levels)
        if self.side:
            return (
                f"no screw at {levels} {self.side}" if levels else f"no screw left out {self.side}"
            )
        return levels or "hypothesis"

    def fields(self) -> dict[str, Any]:
        """For a message to the pages."""
        line = None if self.line is None else dict(self.line)
        asked = {"id": self.id, "text": self.text, "name": self.name, "side": self.side}
        return {**asked, "levels": list(self.levels), "line": line}


@dataclass(frozen=True)
class Answer:
    """What a page said. session and question: those that it showed; stamp_ns: of the status that
    the question was read from."""

    page: str
    session: str
    question: str
    verb: str
    stamp_ns: int


@dataclass(frozen=True)
class Taken:
    """An answer that counts, and the question that it answers."""

    answer: Answer
    question: Question


class Desk:
    """The question that is open and the answer that it has got."""

    def __init__(self) -> None:
        self.session = ""
        self.question: Question | None = None
        self._taken: Taken | None = None

    def begin(self, session: str) -> None:
        """The core or this process has started anew: nothing that was asked before counts."""
        self.session, self.question, self._taken = session, None, None

    def ask(self, question: Question | None) -> None:
        """What the newest status asks; None = nothing."""
        asked = question.id if question is not None else None
        if self._taken is not None and self._taken.question.id != asked:
            self._taken = None
        self.question = question

    @property
    def answered(self) -> Taken | None:
        """The answer to the open question that is on its way to the core."""
        return self._taken

    def answer(self, answer: Answer) -> Taken | Rejected:
        """Take an answer, or refuse it with what is wrong."""
        if answer.verb not in VERBS:
            return Rejected(f"'{answer.verb}' is no answer; give {' or '.join(VERBS)}")
        if answer.session != self.session:
            return Rejected(
                "the navigation was started again since this page showed its question; look again"
            )
        if self.question is None:
            return Rejected("nothing waits for an answer any more")
        if answer.question != self.question.id:
            return Rejected(
                f"the question has changed: {answer.question or 'none'} was answered,"
                f" {self.question.id} is asked now; look again"
            )
        if self._taken is not None:
            first = self._taken.answer
            return Rejected(f"page {first.page} was first: {_WORDS[first.verb]}")
        self._taken = Taken(answer, self.question)
        return self._taken

    def failed(self, taken: Taken) -> None:
        """The core has refused an answer that was taken: its question is open again."""
        if self._taken is taken:
            self._taken = None


def told(taken: Taken) -> str:
    """An answer in words, for every page."""
    a = taken.answer
    return f"{taken.question.name} {_WORDS[a.verb]} by page {a.page}"
