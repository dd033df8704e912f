# SPDX-License-Identifier: Apache-2.0
"""`spinenav replay SESSION`: what a live run has shown, computed again from its record.

Fed are the frames and stereo pairs that the live run worked on, with its answers and requests between
them; frames that it left out have the rows that the live run gave them. poses.csv (but for the column
latency_ms, which stays empty), screws.csv and rods.json are those of the live run byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spine_nav_common.core.implant_outputs import ImplantWriter
from spine_nav_common.core.live_rows import LiveRows
from spine_nav_common.core.outputs import ResultWriter, write_summary
from spine_nav_common.core.run import Progress, versions
from spine_nav_common.core.types import NavigationResult, RgbdFrame
from spine_nav_common.parameters import ParameterError, build, digest, flatten
from spine_nav_display.core.session_audit import NOT_RECORDED, Decision, judge, judge_pair
from spine_nav_display.core.session_reading import Session, open_session
from spine_nav_display.core.session_replay import Again, check_case, compute_again, load_means
from spine_nav_display.core.session_replay_pairs import PairAgain, PairMeans, compute_pairs_again
from spine_perception.core.segmenter import Segmenter
from spine_registration.core.config import NavigatorConfig
from stereo_screw_tracker.core.config import StereoConfig
from stereo_screw_tracker.core.load import StereoCore

from .screws import STAGE_PREFIX, StereoRun, stereo_summary

Watch = Callable[[RgbdFrame, NavigationResult], None]
_MOST = 3  # frames that are named


def open_replayable(path: Path) -> Session | None:
    """The session, where it holds a journal; None: it is a recording like others."""
    session = open_session(path)
    return session if session.lives or session.pair_lives else None


@dataclass(frozen=True)
class Cores:
    """What a session is replayed with.

    segmenter: loads it. tracker: loads one for settings. settings, stereo_settings: from the recorded
    ones to others; None = as recorded.
    """

    segmenter: Callable[[], Segmenter]
    tracker: Callable[[StereoConfig], StereoCore]
    settings: Callable[[NavigatorConfig], NavigatorConfig] | None = None
    stereo_settings: Callable[[StereoConfig], StereoConfig] | None = None


def replay_session(
    session: Session,
    case: Path,
    out: Path,
    cores: Cores,
    *,
    confirm: bool = False,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> tuple[dict[str, Any], str]:
    """Write poses.csv (without RGB-D empty), timings.csv and summary.json, and with stereo pairs
    screws.csv and rods.json; the summary, and why it is not all ("" = it is).

    Raises: as `replay`; SessionError where it was another case.
    """
    if confirm:
        raise ParameterError("--confirm: a session holds the answers that were given; leave it out")
    means = None
    if session.lives:
        means = load_means(session, case, cores.segmenter(), cores.settings)
    loaded = means.case if means is not None else check_case(session, case)
    run, more = _Run(), {}
    with ResultWriter(out) as writer:
        rows = LiveRows(loaded.exposed_levels if loaded else (), writer.write)
        for again in compute_again(session, means, rows.frame) if means is not None else ():
            run.note(again, judge(session, again))
            # A stamp that went back has no row in a live run either.
            if again.published is not None and again.published.stamp_ns > run.newest_ns:
                run.newest_ns = again.published.stamp_ns
                rows.result(again.published)
            if progress is not None:
                progress(run.frames, None, "")
            if watch is not None and again.frame is not None and again.published is not None:
                watch(again.frame, again.published)
        rows.close()
        pairs = _Run("pairs")
        pair_means = PairMeans(loaded, cores.tracker, cores.stereo_settings)
        if session.pair_lives:
            with ImplantWriter(out, writer.timings) as implants:
                more = _pairs(session, pair_means, implants, pairs, progress)
    stopped = "; ".join(
        filter(
            None,
            (
                session.cut,
                run.stopped(len(session.unexplained)),
                pairs.stopped(len(session.pairs_unexplained)),
            ),
        )
    )
    begin = next((n.values for life in session.lives for n in life if n.op == "begin"), {})
    config = build(NavigatorConfig, begin.get("navigator", {}), "the record's settings")
    if cores.settings is not None:
        config = cores.settings(config)
    provider = means.segmenter.provider if means is not None else pair_means.core.provider
    summary = write_summary(
        out,
        versions=versions(),
        hashes={
            "model": means.segmenter.model_sha256 if means is not None else "",
            **({"stereo_model": pair_means.core.model_sha256} if more else {}),
            "config": digest(config),
            "case": loaded.sha256 if loaded is not None else "",
            "recording": session.manifest.get("sha256", ""),
        },
        drops=run.drops(),
        frames=rows.counts["colour_frames"],
        results=rows.counts["results"],
        stopped=stopped,
        confirmed=[],
        events=run.events,
        identity=run.identity,
        provider=provider,
        config=flatten(config),
        session=session.manifest.get("session", ""),
        notes=[
            *(loaded.notes if loaded is not None else ()),
            *session.notes,
            *(means.notes if means is not None else ()),
            *pair_means.notes,
        ],
        **more,
    )
    return summary, stopped


def _pairs(
    session: Session,
    means: PairMeans,
    writer: ImplantWriter,
    run: _Run,
    progress: Progress | None,
) -> dict[str, Any]:
    """Write the rows of the pairs as the live run has; what the summary says of them."""
    counts = StereoRun()
    for again in compute_pairs_again(session, means):
        run.note(again, judge_pair(session, again))
        counts.note(again.frame, again.result)
        shown = again.published
        if shown is not None and shown.stamp_ns > run.newest_ns:
            run.newest_ns = shown.stamp_ns
            stages: dict[str, float] = getattr(again.result, "timings_ms", {})
            stages = {STAGE_PREFIX + stage: ms for stage, ms in stages.items()}
            writer.write(shown.stamp_ns, shown.screws, shown.rods, stages)
        if progress is not None:
            progress(run.frames, None, "stereo")
    return {"stereo": {**stereo_summary(counts), "drops": run.drops()}}


class _Run:
    """What happened besides the rows."""

    def __init__(self, what: str = "frames") -> None:
        self._what = what
        self.frames = self.failed = self.same = self.unsure = 0
        self.newest_ns = -1
        self.problems: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.identity: dict[str, Any] = {}

    def note(self, again: Again | PairAgain, decision: Decision) -> None:
        self.frames += 1
        self.same += decision.verdict == "same"
        # What was never published, or is not in the record, can be compared with nothing.
        compared = again.published is not None and decision.text != NOT_RECORDED
        if again.problem or (compared and decision.verdict != "same"):
            self.failed += bool(again.problem)
            self.problems.append(f"{decision.stamp_ns}: {decision.text}")
        elif not compared:
            self.unsure += not again.sure
        result = again.result
        if isinstance(result, NavigationResult):
            self.events += [{"stamp_ns": result.stamp_ns, "event": text} for text in result.events]
            self.identity = {"state": result.identity, "margin_nat": result.identity_margin_nat}

    def drops(self) -> dict[str, Any]:
        """For the summary."""
        return {"read": self.frames, "not_computed": self.failed, "as_published": self.same}

    def stopped(self, unexplained: int) -> str:
        """Why this is not all that was shown, bit by bit; "" = it is."""
        told, what = [], self._what
        if self.problems:
            few = "; ".join(self.problems[:_MOST])
            told.append(f"{len(self.problems)} {what} do not come out as they were shown ({few})")
        if unexplained:
            told.append(
                f"{unexplained} results were shown of {what} that the journal does not have"
            )
        if self.unsure:
            told.append(f"{self.unsure} {what} are not sure to be as they were shown")
        return "; ".join(told)
