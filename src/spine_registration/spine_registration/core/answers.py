# SPDX-License-Identifier: Apache-2.0
"""What the surgeon was asked and what was answered: every question has an id, an answer holds for
the poses that it was given for, and what was rejected stays rejected."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.types import Rejected

from .model import SpineModel
from .registration import Registration, differs

LAPSES_NS = 2_000_000_000
"""A frame this much later than the one that was asked about may show other bone in its place."""


@dataclass(frozen=True)
class Question:
    """A hypothesis that waits for an answer. id: four letters and digits, new for every other
    naming or place of the bone, never used again by a later run."""

    id: str
    found: Registration
    stamp_ns: int  # of the newest frame that showed it

    @property
    def name(self) -> str:
        """The levels that it claims."""
        return self.found.best.name

    def __str__(self) -> str:
        return f"{self.name}? ({self.found.reason or 'nothing speaks against it'})"


@dataclass(frozen=True)
class Rejection:
    """What the surgeon said no to: id and name of the question, (L, 3) m where it saw each level."""

    id: str
    name: str
    anchor_camera_m: np.ndarray


@dataclass(frozen=True)
class Answer:
    """What was said to one question."""

    question: Question
    accept: bool


class Answers:
    """The question that is open, the answer that no frame has honoured yet, and all rejections.

    contradicted: the last word was a rejection, so that nothing is clear enough to need no answer.

    Hypotheses are compared by name and by pose: the same name one level off is another question.
    `answer` may be called by any thread, the rest by the one that registers.
    """

    def __init__(self, model: SpineModel):
        self._model = model
        self.open: Question | None = None
        self.contradicted = False
        self._answer: Answer | None = None
        self._rejected: list[Rejection] = []

    def forget(self) -> None:
        """A new registration is asked for: nothing that was said before holds."""
        self.open, self._answer, self._rejected, self.contradicted = None, None, [], False

    def rejections(self) -> tuple[tuple[Rejection, ...], bool]:
        """What was rejected, and `contradicted`: what must outlive this process."""
        return tuple(self._rejected), self.contradicted

    def recall(self, rejections: Iterable[Rejection], contradicted: bool) -> None:
        """What was rejected before a restart stays rejected."""
        self._rejected, self.contradicted = list(rejections), contradicted

    def ask(self, found: Registration, stamp_ns: int) -> Question:
        """Open a question, or keep the open one where `found` is the same hypothesis."""
        before = self.open
        known = before is not None and self.same(before.found, found)
        id = before.id if known and before else _id(stamp_ns, found)
        self.open = Question(id, found, stamp_ns)
        return self.open

    def answer(self, accept: bool, id: str | None = None) -> str | Rejected:
        """Answer the open question; takes effect with the next frame that shows the same.

        Args:
            id: of the question that was read; None: the open one, whatever it is.

        Returns:
            What was understood, or why the answer holds for nothing.
        """
        question = self.open
        if question is None:
            return Rejected("no hypothesis waits for a confirmation")
        if id is not None and id != question.id:
            return Rejected(
                f"the hypothesis changed: {question.name} ({question.id}) is asked now, not {id}; "
                "look at it and answer again"
            )
        self._answer = Answer(question, accept)
        return f"{'accepted' if accept else 'rejected'} {question.name} ({question.id})"

    def put(self, answer: Answer) -> None:
        """An answer that was given once, again (see Navigator.again)."""
        self._answer = answer

    def take(self) -> Answer | None:
        """The answer that came since the last frame; a rejection is remembered."""
        answer, self._answer = self._answer, None
        if answer is not None:
            self.open, self.contradicted = None, not answer.accept
            if not answer.accept:
                q = answer.question
                place = q.found.best.estimate.anchor_camera_m
                self._rejected.append(Rejection(q.id, q.name, place))
        return answer

    def holds(self, answer: Answer, found: Registration, stamp_ns: int) -> bool:
        """Whether a yes was said to what this frame shows."""
        fresh = stamp_ns - answer.question.stamp_ns <= LAPSES_NS
        return answer.accept and fresh and self.same(answer.question.found, found)

    def close(self) -> None:
        """Nothing is asked any more, and an answer that no frame has honoured holds for nothing."""
        self.open = self._answer = None

    def rejected(self, found: Registration) -> Rejection | None:
        """The rejected hypothesis that `found` would be again, if there is one."""
        best = found.best
        for no in self._rejected:
            if no.name == best.name and not differs(self._model, no, best.estimate):
                return no
        return None

    def same(self, a: Registration, b: Registration) -> bool:
        """Whether two hypotheses claim the same levels for the same bone."""
        return a.best.name == b.best.name and not differs(
            self._model, a.best.estimate, b.best.estimate
        )


def _id(stamp_ns: int, found: Registration) -> str:
    digest = hashlib.sha256(f"{stamp_ns} {found.best.name}".encode()).digest()
    return base64.b32encode(digest).decode()[:4]
