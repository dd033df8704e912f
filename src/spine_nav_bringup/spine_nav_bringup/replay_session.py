# SPDX-License-Identifier: Apache-2.0
"""`spinenav replay SESSION`: what a live run has shown, computed again from its record.

Fed are the frames that the live run worked on, with its answers and requests between them; frames that
it left out have the rows that the live run gave them. poses.csv is that of the live run byte by byte,
but for the column latency_ms, which stays empty.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from spine_nav_common.core.live_rows import LiveRows
from spine_nav_common.core.outputs import ResultWriter, write_summary
from spine_nav_common.core.run import Progress, versions
from spine_nav_common.core.types import NavigationResult, RgbdFrame
from spine_nav_common.parameters import ParameterError, build, digest, flatten
from spine_nav_display.core.session_audit import NOT_RECORDED, Decision, judge
from spine_nav_display.core.session_reading import Session, open_session
from spine_nav_display.core.session_replay import Again, compute_again, load_means
from spine_perception.core.segmenter import Segmenter
from spine_registration.core.config import NavigatorConfig

Watch = Callable[[RgbdFrame, NavigationResult], None]
_STEREO = "its stereo pairs were not tracked here; `spinenav screws SESSION` reads them"
_MOST = 3  # frames that are named


def open_replayable(path: Path) -> Session | None:
    """The session, where its navigation can be computed again; None: only its stereo pairs can."""
    session = open_session(path)
    return session if session.lives else None


def replay_session(
    session: Session,
    case: Path,
    out: Path,
    segmenter: Segmenter,
    *,
    confirm: bool = False,
    settings: Callable[[NavigatorConfig], NavigatorConfig] | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> tuple[dict[str, Any], str]:
    """Write poses.csv, timings.csv and summary.json; the summary, and why it is not all ("" = it is).

    Args:
        settings: from the recorded settings of the navigator to others; None = as recorded.

    Raises: as `replay`; SessionError where it was another case.
    """
    if confirm:
        raise ParameterError("--confirm: a session holds the answers that were given; leave it out")
    means = load_means(session, case, segmenter, settings)
    run = _Run()
    with ResultWriter(out) as writer:
        rows = LiveRows(means.case.exposed_levels, writer.write)
        for again in compute_again(session, means, rows.frame):
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
    stopped = run.stopped(session.cut, len(session.unexplained))
    begin = next((n.values for life in session.lives for n in life if n.op == "begin"), {})
    config = build(NavigatorConfig, begin.get("navigator", {}), "the record's settings")
    if settings is not None:
        config = settings(config)
    stereo = "stereo_tracker" in session.manifest.get("parameters", {})
    summary = write_summary(
        out,
        versions=versions(),
        hashes={
            "model": segmenter.model_sha256,
            "config": digest(config),
            "case": means.case.sha256,
            "recording": session.manifest.get("sha256", ""),
        },
        drops={"read": run.frames, "not_computed": run.failed, "as_published": run.same},
        frames=rows.counts["colour_frames"],
        results=rows.counts["results"],
        stopped=stopped,
        confirmed=[],
        events=run.events,
        identity=run.identity,
        provider=segmenter.provider,
        config=flatten(config),
        session=session.manifest.get("session", ""),
        notes=[*means.case.notes, *session.notes, *means.notes, *([_STEREO] if stereo else [])],
    )
    return summary, stopped


class _Run:
    """What happened besides the rows."""

    def __init__(self) -> None:
        self.frames = self.failed = self.same = self.unsure = 0
        self.newest_ns = -1
        self.problems: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.identity: dict[str, Any] = {}

    def note(self, again: Again, decision: Decision) -> None:
        self.frames += 1
        self.same += decision.verdict == "same"
        # What was never published, or is not in the record, can be compared with nothing.
        compared = again.published is not None and decision.text != NOT_RECORDED
        if again.problem or (compared and decision.verdict != "same"):
            self.failed += bool(again.problem)
            self.problems.append(f"frame {decision.stamp_ns}: {decision.text}")
        elif not compared:
            self.unsure += not again.sure
        if (result := again.result) is not None:
            self.events += [{"stamp_ns": result.stamp_ns, "event": text} for text in result.events]
            self.identity = {"state": result.identity, "margin_nat": result.identity_margin_nat}

    def stopped(self, cut: str, unexplained: int) -> str:
        """Why this is not all that was shown, bit by bit; "" = it is."""
        told = [cut] if cut else []
        if self.problems:
            few = "; ".join(self.problems[:_MOST])
            told.append(f"{len(self.problems)} frames do not come out as they were shown ({few})")
        if unexplained:
            told.append(
                f"{unexplained} results were shown of frames that the journal does not have"
            )
        if self.unsure:
            told.append(f"{self.unsure} frames are not sure to be as they were shown")
        return "; ".join(told)
