# SPDX-License-Identifier: Apache-2.0
"""`spinenav audit SESSION`: what was shown and why, whether the record is whole, and whether a decision
comes out the same when it is computed again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from spine_nav_common.core.errors import RecordingError
from spine_nav_common.core.run import Progress
from spine_nav_common.parameters import ParameterError
from spine_nav_display.core.session_audit import (
    UNEXPLAINED,
    UNSHOWN,
    Decision,
    as_json,
    head,
    judge,
    judge_pair,
    timeline,
)
from spine_nav_display.core.session_folder import SessionError, is_session
from spine_nav_display.core.session_reading import Noted, Session, open_session
from spine_nav_display.core.session_replay import check_case, compute_again, load_means
from spine_nav_display.core.session_replay_pairs import PairMeans, compute_pairs_again
from spine_nav_display.core.session_verify import verify
from spine_perception.core.backends import AUTO

DONE, FAILED = 0, 1
_NAMED = 10


def run_audit(
    folder: Path,
    case: Path | None = None,
    recompute: str | None = None,
    every_frame: bool = False,
    json: bool = False,
    model: Path | None = None,
    models: Path | None = None,
    backend: str | None = None,
    progress: Progress | None = None,
) -> int:
    """Print the audit. 0: the record is whole and what was computed again is the same; 1: it is not.

    Args:
        recompute: stamp of a frame or a pair, or `all`; needs the case.
        every_frame: also frames that showed the same as the one before.
        json: the timeline as JSON lines, nothing else.

    Raises SessionError, ParameterError: no session, or the case is missing or another.
    """
    if not is_session(folder):
        raise SessionError(folder, "", "no session's record", "give what `live --session` wrote")
    try:
        session = open_session(folder)
    except RecordingError as error:
        raise SessionError(folder, "", error.problem, "nothing of it reads") from error
    if recompute is not None and case is None and session.manifest.get("case"):
        raise ParameterError("--recompute: the meshes are not in the record; give --case too")
    moments = timeline(session, every_frame)
    if json:
        print(as_json(moments))
        return DONE
    print("\n".join(head(session)))
    for moment in moments:
        print(moment.line(session.manifest["started_ns"]))
    verified = verify(folder)
    print(f"verified {verified.chunks} chunks, {verified.bytes / 1e6:.1f} MB")
    for finding in verified.findings:
        print(f"{'DAMAGED' if finding.damage else 'note'}: {finding}")
    for note in [*session.notes, *([session.cut] if session.cut else [])]:
        print(f"note: {note}")
    code = FAILED if verified.damaged else DONE
    if recompute is not None:
        code = max(code, _recompute(session, case, recompute, model, models, backend, progress))
    return code


def _recompute(
    session: Session,
    case: Path | None,
    which: str,
    model: Path | None,
    models: Path | None,
    backend: str | None,
    progress: Progress | None,
) -> int:
    wanted = _wanted(session, which)
    decisions: list[tuple[str, Decision]] = []

    def note(what: str, decision: Decision) -> bool:
        """Whether this was all that is wanted."""
        if decision.stamp_ns in wanted or which == "all":
            decisions.append((what, decision))
        if progress is not None:
            progress(len(decisions), None, "computed again")
        return decision.stamp_ns in wanted

    notes: list[str] = []
    if session.lives and case is not None and (which == "all" or wanted & _stamps(session.lives)):
        from spine_perception.core.segmenter import load_segmenter

        means = load_means(session, case, load_segmenter(model, backend or AUTO))
        for again in compute_again(session, means):
            if note("frame", judge(session, again)):
                break
        notes += means.notes
    if session.pair_lives and (which == "all" or wanted & _stamps(session.pair_lives)):
        from stereo_screw_tracker.core.load import load_core

        loaded = check_case(session, case)
        stereo = PairMeans(loaded, lambda config: load_core(config, models, backend or AUTO))
        for pair in compute_pairs_again(session, stereo):
            if note("pair", judge_pair(session, pair)):
                break
        notes += stereo.notes
    if which == "all":
        decisions += [("frame", Decision(s, "unknown", UNEXPLAINED)) for s in session.unexplained]
        decisions += [
            ("pair", Decision(s, "unknown", UNEXPLAINED)) for s in session.pairs_unexplained
        ]
    for told in notes:
        print(f"note: {told}")
    for what, d in [(w, d) for w, d in decisions if d.verdict != "same"][:_NAMED]:
        print(f"{what} {d.stamp_ns}: {d.verdict}: {d.text}")
    for what in ("frame", "pair"):
        count = Counter(d.verdict for w, d in decisions if w == what)
        if count:
            found = ", ".join(f"{n} {v}" for v, n in count.items())
            print(f"{what}s computed again: {found}")
    if not decisions:
        print("nothing was computed again")
    bad = [d for _, d in decisions if d.verdict not in ("same", UNSHOWN)]
    return DONE if decisions and not bad else FAILED


def _stamps(lives: list[list[Noted]]) -> set[int]:
    entries = [n.frame or n.pair for life in lives for n in life]
    return {e.stamp_ns for e in entries if e is not None}


def _wanted(session: Session, which: str) -> set[int]:
    """The stamp that is asked for; none where it is all."""
    if which == "all":
        return set()
    known = _stamps(session.lives) | _stamps(session.pair_lives)
    if not which.isdigit() or int(which) not in known:
        raise ParameterError(
            f"--recompute {which}: no frame with this stamp was worked on; give one that the timeline"
            " names, or 'all'"
        )
    return {int(which)}
