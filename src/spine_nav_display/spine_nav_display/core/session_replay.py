# SPDX-License-Identifier: Apache-2.0
"""What a session has shown, computed again from its record: the same frames, answers and requests in
the same order through the same core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spine_nav_common.core.case import load_case
from spine_nav_common.core.depth_calibration import (
    DepthCalibration,
    is_depth_calibration,
    load_depth_calibration,
)
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.frames import rgbd_frame
from spine_nav_common.core.journal import JournalError
from spine_nav_common.core.rectify import RgbdRectifier
from spine_nav_common.core.shown import as_shown
from spine_nav_common.core.types import Case, NavigationResult, RgbdFrame
from spine_perception.core.segmenter import Segmenter
from spine_registration.core.answers import Answer, Question
from spine_registration.core.config import NavigatorConfig
from spine_registration.core.journal import CORES, FrameEntry, Took
from spine_registration.core.memory import from_json
from spine_registration.core.model import SpineModel, build_model
from spine_registration.core.navigator import Navigator
from spine_registration.core.nothing import refused, withdrawn

from .session_folder import INPUTS, SessionError
from .session_life import Life
from .session_reading import Noted, PictureReader, Session


@dataclass(frozen=True)
class Again:
    """A frame that was computed again.

    Attributes:
        noted: its entry in the journal.
        frame: its pixels, None where they are missing.
        result: as the core gives it; None where it could not be computed.
        published: what was to be seen of it; None where nothing was published.
        sure: everything before it could be computed too, by the same means.
        problem: why it could not be computed, or is not what the journal says; "" = all well.
    """

    noted: Noted
    frame: RgbdFrame | None
    result: NavigationResult | None
    published: NavigationResult | None
    sure: bool
    problem: str = ""


@dataclass
class Means:
    """What a session is computed again with.

    config: a function from the recorded settings of a navigator to those to use; None: as recorded.
    """

    case: Case
    model: SpineModel
    segmenter: Segmenter
    config: Callable[[NavigatorConfig], NavigatorConfig] | None = None
    notes: list[str] = field(default_factory=list)
    inputs: Path = Path()

    def depth(self, sha256: str) -> DepthCalibration | None:
        """The depth calibration that was used, from the copies beside the record.

        Raises SessionError: it is not there.
        """
        if not sha256:
            return None
        for path in sorted(self.inputs.glob("calibration_*.yaml")):
            if is_depth_calibration(path):
                found = load_depth_calibration(path)
                if found.sha256 == sha256:
                    return found
        raise SessionError(
            self.inputs, "calibration", f"the depth calibration {sha256[:12]} is missing",
            "copy it there as calibration_1.yaml",
        )  # fmt: skip


def load_means(
    session: Session,
    case: Path,
    segmenter: Segmenter,
    config: Callable[[NavigatorConfig], NavigatorConfig] | None = None,
) -> Means:
    """Case and grids, checked against the session.

    Raises SessionError: it was another case. CaseError: the case cannot be used.
    """
    loaded = check_case(session, case)
    if loaded is None:
        raise SessionError(session.folder, "case", "none is named in it", "its record is damaged")
    return Means(loaded, build_model(loaded), segmenter, config, inputs=session.folder / INPUTS)


def check_case(session: Session, case: Path | None) -> Case | None:
    """The case of a session; None where it was recorded without one, as a stereo pair alone may be.

    Raises SessionError: none was given, or another one. CaseError: it cannot be used.
    """
    recorded = (session.manifest.get("case") or {}).get("sha256")
    if recorded is None:
        return None
    loaded = None if case is None else load_case(case)
    if loaded is None or loaded.sha256 != recorded:
        given = "none was given" if loaded is None else f"this is {loaded.sha256[:12]}"
        raise SessionError(
            session.folder,
            "case",
            f"recorded with the case {str(recorded)[:12]}, {given}",
            "give the case of the operation, unchanged, with --case",
        )
    return loaded


def compute_again(
    session: Session, means: Means, on_info: Callable[[int], None] = lambda stamp: None
) -> Iterator[Again]:
    """Every frame that the live run worked on, in its order.

    Raises SessionError: there are no pictures. ParameterError: settings that are not known any more.
    """
    pictures = PictureReader(session, on_info)
    for life in session.lives:
        yield from _Life(life, means, pictures, session.complete).run()
    pictures.close()


class _Life(Life[FrameEntry, Again]):
    """A navigator's."""

    def __init__(
        self, entries: list[Noted], means: Means, pictures: PictureReader, complete: set[int]
    ) -> None:
        super().__init__(entries, means, pictures, complete)
        self._means = means
        self._navigator: Navigator | None = None
        self._rectify = RgbdRectifier()  # begun by the journal's first entry
        self._depth: DepthCalibration | None = None
        self._questions: dict[tuple[int, int], Question] = {}
        self._asked = {
            (e.frame.epoch, e.frame.took.answer.asked_ns)
            for e in entries
            if e.frame is not None and e.frame.took is not None and e.frame.took.answer is not None
        }

    @staticmethod
    def worked(noted: Noted) -> FrameEntry | None:
        return noted.frame

    def told(self, noted: Noted) -> None:
        if noted.op == "recall":
            self._recall(noted.values)

    def begin(self, values: dict[str, Any]) -> None:
        means = self._means
        config = self.settings(NavigatorConfig, values["navigator"])
        segmenter = means.segmenter
        now = {"model": segmenter.model_sha256, "provider": segmenter.provider}
        self.compare(values, now, CORES)
        self._depth = means.depth(values.get("depth_calibration", ""))
        self._rectify = RgbdRectifier(self._depth)
        camera = None if self._depth is None else self._depth.camera()
        self._navigator = Navigator(means.case, segmenter, config, model=means.model, camera=camera)

    def _core(self) -> Navigator:
        if self._navigator is None:  # its begin is lost
            self.sure = False
            self._navigator = Navigator(
                self._means.case, self._means.segmenter, model=self._means.model
            )
        return self._navigator

    def _recall(self, values: dict[str, Any]) -> None:
        memory = from_json(values["memory"], len(self._means.case.meshes))
        self._core().recall(memory, float(values["within_s"]), memory.boot)

    def again(self, noted: Noted, entry: FrameEntry) -> Again:
        pictures = self._pictures.fetch(noted)
        frame, result, problem = None, None, ""
        if isinstance(pictures, str):
            problem, self.sure = pictures, False
        else:
            try:
                frame = rgbd_frame(
                    entry.stamp_ns, pictures.colour, pictures.depth, pictures.info, self._rectify
                )
                result = self._solve(frame, entry)
            except JournalError as error:
                problem, self.sure = str(error), False
            except Exception as error:  # noqa: BLE001 - what the live node does with it too
                result, problem = self._on_error(error, entry)
        if result is not None and entry.trouble and not problem:
            result = self._refused(entry) if entry.took is None else result
            problem = "" if entry.took is None else f"it was refused then: {entry.trouble}"
        self.sure &= not problem
        published = None
        if result is not None and entry.published and self.published(entry):
            published = as_shown(withdrawn(result, entry.shown) if entry.shown else result)
        return Again(noted, frame, result, published, self.sure, problem)

    def _refused(self, entry: FrameEntry) -> NavigationResult:
        return refused(entry.stamp_ns, self._means.case.exposed_levels, entry.trouble)

    def _solve(self, frame: RgbdFrame, entry: FrameEntry) -> NavigationResult:
        if entry.took is None:
            return self._refused(entry)  # it was never solved
        core = self._core()
        result = core.again(frame, entry.took, entry.epoch, self._answer(entry, entry.took))
        question = core.question
        if question is not None and (key := (entry.epoch, question.stamp_ns)) in self._asked:
            self._questions[key] = question
        return result

    def _answer(self, entry: FrameEntry, took: Took) -> Answer | None:
        if took.answer is None:
            return None
        question = self._questions.get((entry.epoch, took.answer.asked_ns))
        if question is None or question.id != took.answer.id:
            raise JournalError(f"the question {took.answer.id} was not asked again")
        return Answer(question, took.answer.accept)

    def _on_error(self, error: Exception, entry: FrameEntry) -> tuple[NavigationResult | None, str]:
        """The live node refuses such a frame, and starts anew after a fault."""
        if isinstance(error, InputError):
            return None, str(error)
        if not isinstance(error, ValueError):
            self._core().reset()
        if not entry.trouble:
            return None, f"it cannot be computed again: {error!r}"
        return self._refused(entry), ""
