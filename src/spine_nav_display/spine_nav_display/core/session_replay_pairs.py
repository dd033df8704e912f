# SPDX-License-Identifier: Apache-2.0
"""Screws and rods of a session, computed again from its record: the same pairs, vertebrae and resets in
the same order through the same core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from spine_nav_common.core.frames import RigCache, stereo_frame
from spine_nav_common.core.shown_implants import Implants, implants_as_shown
from spine_nav_common.core.types import Case, Rejected, StereoFrame, StereoResult
from stereo_screw_tracker.core.config import StereoConfig
from stereo_screw_tracker.core.journal import CORES, PairEntry
from stereo_screw_tracker.core.load import StereoCore
from stereo_screw_tracker.core.named import NamedTracker
from stereo_screw_tracker.core.output import implants_of

from .session_life import Life
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


class _Life(Life[PairEntry, PairAgain]):
    """A tracker's."""

    about = "screws: "

    def __init__(
        self, entries: list[Noted], means: PairMeans, pictures: PictureReader, complete: set[int]
    ) -> None:
        super().__init__(entries, means, pictures, complete)
        self._means = means
        self._tracker: NamedTracker | None = None
        self._rigs = RigCache(False)

    @staticmethod
    def worked(noted: Noted) -> PairEntry | None:
        return noted.pair

    def told(self, noted: Noted) -> None:
        if noted.op == "reset":
            self._core().reset()

    def begin(self, values: dict[str, Any]) -> None:
        config = self.settings(StereoConfig, values["tracker"])
        self._rigs = RigCache(bool(values["raw"]))
        self._tracker = self._load(config)
        case, core = self._means.case, self._means.core
        now = {"case": case.sha256 if case is not None else ""}
        self.compare(values, now | {"model": core.model_sha256, "provider": core.provider}, CORES)

    def _load(self, config: StereoConfig) -> NamedTracker:
        self._means.core = self._means.load(config)
        tracker = NamedTracker(self._means.core.tracker, self._means.case)
        tracker.reset()  # whoever loads may give the same core again
        return tracker

    def _core(self) -> NamedTracker:
        if self._tracker is None:  # its begin is lost
            self.sure = False
            self._tracker = self._load(StereoConfig())
        return self._tracker

    def again(self, noted: Noted, entry: PairEntry) -> PairAgain:
        messages = self._pictures.messages(noted)
        if isinstance(messages, str):
            self.sure = False
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
        if entry.published and self.published(entry):
            shown = Implants(entry.stamp_ns, reason=entry.shown) if entry.shown else implants
            published = implants_as_shown(shown)
        if bool(entry.trouble) != bool(implants.reason) and (published is None or entry.shown):
            problem = f"then: {entry.trouble or 'tracked'}; now: {implants.reason or 'tracked'}"
        self.sure &= not problem and tried.fault == entry.fault
        frame = frames[-1] if frames else None
        return PairAgain(noted, frame, tried.result, published, self.sure, problem)
