# SPDX-License-Identifier: Apache-2.0
"""Screws and rods of a session, computed again from its record: the same pairs, vertebrae and resets in
the same order through the same core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from spine_nav_common.core.cpu import cpu_name
from spine_nav_common.core.frames import RigCache, stereo_frame
from spine_nav_common.core.journal import code_sha256
from spine_nav_common.core.shown_implants import Implants, implants_as_shown
from spine_nav_common.core.types import Case, Rejected, StereoFrame, StereoResult
from spine_nav_common.parameters import ParameterError, build
from stereo_screw_tracker.core.config import StereoConfig
from stereo_screw_tracker.core.journal import CORES, PairEntry
from stereo_screw_tracker.core.load import StereoCore
from stereo_screw_tracker.core.named import NamedTracker
from stereo_screw_tracker.core.output import implants_of

from .session_reading import STEREO, Noted, PictureReader, Session


@dataclass(frozen=True)
class PairAgain:
    """A pair that was computed again.

    Attributes:
        noted: its entry in the journal.
        frame: its pixels, None where they are missing or unusable.
        result: as the core gives it; None where it could not be computed.
        published: what was to be seen of it; None where nothing was published.
        sure: everything before it could be computed too, by the same means.
        problem: why it could not be computed, or is not what the journal says; "" = all well.
    """

    noted: Noted
    frame: StereoFrame | None
    result: StereoResult | Rejected | None
    published: Implants | None
    sure: bool
    problem: str = ""


@dataclass
class PairMeans:
    """What the pairs of a session are computed again with.

    load: a fresh core of settings. config: a function from the recorded settings to those to use; None:
    as recorded. core: the last that was loaded.
    """

    case: Case | None
    load: Callable[[StereoConfig], StereoCore]
    config: Callable[[StereoConfig], StereoConfig] | None = None
    notes: list[str] = field(default_factory=list)
    core: StereoCore = field(default_factory=lambda: StereoCore(_Nothing()))


class _Nothing:
    """Stands for a tracker before one is loaded."""

    def process(self, *_: Any) -> Rejected:
        return Rejected("no tracker is loaded")

    def reset(self) -> None:
        """There is nothing to forget."""


def compute_pairs_again(session: Session, means: PairMeans) -> Iterator[PairAgain]:
    """Every pair that the live run worked on, in its order.

    Raises SessionError: there are no pictures. ParameterError: settings that are not known any more.
    """
    pictures = PictureReader(session, camera=STEREO)
    for life in session.pair_lives:
        yield from _Life(life, means, pictures, session.pairs_complete).run()
    pictures.close()


class _Life:
    """One tracker from its beginning to its end."""

    def __init__(
        self, entries: list[Noted], means: PairMeans, pictures: PictureReader, complete: set[int]
    ) -> None:
        self._entries, self._means, self._pictures = entries, means, pictures
        pairs = [e.pair for e in entries if e.pair is not None]
        # A process that was killed may have noted its last pair, and not published it any more.
        self._unpublished = pairs[-1] if pairs and pairs[-1].stamp_ns not in complete else None
        self._tracker: NamedTracker | None = None
        self._rigs = RigCache(False)
        self._sure = True
        self._last = -1

    def run(self) -> Iterator[PairAgain]:
        for noted in self._entries:
            if noted.values["n"] != self._last + 1:
                self._sure = False
            self._last = noted.values["n"]
            if noted.op == "begin":
                self._begin(noted.values)
            elif noted.op == "reset":
                self._core().reset()
            elif noted.pair is not None:
                yield self._pair(noted, noted.pair)

    def _begin(self, values: dict[str, Any]) -> None:
        means = self._means
        try:
            config = build(StereoConfig, values["tracker"], "the record's settings")
        except ParameterError as error:
            raise ParameterError(f"{error}; replay with the program that recorded it") from error
        if means.config is not None:
            changed = means.config(config)
            self._sure &= changed == config
            config = changed
        self._rigs = RigCache(bool(values["raw"]))
        self._tracker = self._load(config)
        case = means.case.sha256 if means.case is not None else ""
        for what, now in (
            ("case", case),
            ("model", means.core.model_sha256),
            ("provider", means.core.provider),
            ("code", code_sha256(CORES)),
            ("cpu", cpu_name()),
        ):
            if values.get(what) != now:
                self._sure = False
                note = f"screws: recorded with the {what} {values.get(what)}, computed again with {now}"
                if note not in means.notes:
                    means.notes.append(note)

    def _load(self, config: StereoConfig) -> NamedTracker:
        self._means.core = self._means.load(config)
        tracker = NamedTracker(self._means.core.tracker, self._means.case)
        tracker.reset()  # whoever loads may give the same core again
        return tracker

    def _core(self) -> NamedTracker:
        if self._tracker is None:  # its begin is lost
            self._sure = False
            self._tracker = self._load(StereoConfig())
        return self._tracker

    def _pair(self, noted: Noted, entry: PairEntry) -> PairAgain:
        messages = self._pictures.messages(noted)
        if isinstance(messages, str):
            self._sure = False
            return PairAgain(noted, None, None, None, False, messages)
        frames: list[StereoFrame] = []

        def decode() -> StereoFrame:
            infos = messages["left info"], messages["right info"]
            eyes = messages["left"], messages["right"]
            frames.append(stereo_frame(entry.stamp_ns, *eyes, infos, self._rigs))
            return frames[-1]

        # A tracker that breaks is reset by the next entry, as it was then.
        tried = self._core().tried(decode, entry.transforms())
        implants, problem = implants_of(tried.result, entry.stamp_ns), ""
        published = None
        if entry.published and entry is not self._unpublished:
            shown = Implants(entry.stamp_ns, reason=entry.shown) if entry.shown else implants
            published = implants_as_shown(shown)
        if bool(entry.trouble) != bool(implants.reason) and (published is None or entry.shown):
            problem = f"then: {entry.trouble or 'tracked'}; now: {implants.reason or 'tracked'}"
        self._sure &= not problem and tried.fault == entry.fault
        frame = frames[-1] if frames else None
        return PairAgain(noted, frame, tried.result, published, self._sure, problem)
