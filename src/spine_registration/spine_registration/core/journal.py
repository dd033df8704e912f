# SPDX-License-Identifier: Apache-2.0
"""What a navigator was told and did, in order, so that a run can be computed again bit by bit.

A frame's result follows from its pixels, from all that was done before, and from what other threads
and the surgeon did meanwhile: which poses told the network where to look, an answer, a request. Those
are `Took`. The entries (see spine_nav_common.core.journal):

`frame`: one was solved (or refused), with its `took` and what became of the result.
`recall`: what the process before had known was taken over.
`begin`: a new navigator, with case, model and settings. `asked`: a service or parameter was called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spine_nav_common.core.journal import JournalError

if TYPE_CHECKING:
    from .answers import Answer

CORES = ("spine_nav_common.core", "spine_perception.core", "spine_registration.core")
"""What a result of the navigator is computed by."""


@dataclass(frozen=True)
class TookAnswer:
    """An answer that a frame honoured: to the question `id` as the frame `asked_ns` put it."""

    accept: bool
    id: str
    asked_ns: int


@dataclass(frozen=True)
class Took:
    """What went into a frame's result besides its pixels and the frames before it.

    looked_ns: stamp of the frame whose poses told the network where to look; None = it searched the
    whole image. renewed: a new registration had been asked for. answer: of the surgeon. uptime_s: the
    machine's time at which poses of before a restart were compared; None = there were none. withheld:
    levels that are not shown from this frame on, each with the reason: a check had failed.
    """

    looked_ns: int | None = None
    renewed: bool = False
    answer: TookAnswer | None = None
    uptime_s: float | None = None
    withheld: tuple[tuple[str, str], ...] = ()


def took_answer(answer: Answer) -> TookAnswer:
    """How a journal names an answer."""
    return TookAnswer(answer.accept, answer.question.id, answer.question.stamp_ns)


@dataclass(frozen=True)
class FrameEntry:
    """One frame that a live navigator worked on.

    Attributes:
        stamp_ns, epoch: of the frame; see Navigator.segment.
        depth_ns, info_ns: stamps of its depth image (None = there was none) and camera_info.
        took: None where it was never solved.
        trouble: why it could not be used, "" = it could. fault: it broke the navigator, which was
            reset.
        shown: "" = its result was published as it was; else why it was withdrawn or not shown.
        published: whether a result of it was published at all.
        events: what happened in it, in words.
    """

    stamp_ns: int
    epoch: int
    depth_ns: int | None
    info_ns: int
    took: Took | None = None
    trouble: str = ""
    fault: bool = False
    shown: str = ""
    published: bool = True
    events: tuple[str, ...] = ()


def frame_entry(values: dict[str, Any]) -> FrameEntry:
    """The frame of an entry with op `frame`. Raises JournalError."""
    try:
        took = values["took"]
        if took is not None:
            answer = took["answer"]
            withheld = tuple((str(k), str(v)) for k, v in took.get("withheld", ()))
            answer = None if answer is None else TookAnswer(**answer)
            took = Took(**{**took, "answer": answer, "withheld": withheld})
        given = {k: values[k] for k in FrameEntry.__dataclass_fields__}
        return FrameEntry(**{**given, "took": took, "events": tuple(given["events"])})
    except (KeyError, TypeError) as error:
        raise JournalError(f"no frame entry: {error!r}") from error
