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
    Decision,
    as_json,
    head,
    judge,
    timeline,
)
from spine_nav_display.core.session_folder import SessionError, is_session
from spine_nav_display.core.session_reading import Session, open_session
from spine_nav_display.core.session_replay import compute_again, load_means
from spine_nav_display.core.session_verify import verify

DONE, FAILED = 0, 1
_NAMED = 10


def run_audit(
    folder: Path,
    case: Path | None = None,
    recompute: str | None = None,
    every_frame: bool = False,
    json: bool = False,
    model: Path | None = None,
    backend: str | None = None,
    progress: Progress | None = None,
) -> int:
    """Print the audit. 0: the record is whole and what was computed again is the same; 1: it is not.

    Args:
        recompute: stamp of a frame, or `all`; needs the case.
        every_frame: also frames that showed the same as the one before.
        json: the timeline as JSON lines, nothing else.

    Raises SessionError, ParameterError: no session, or the case is missing or another.
    """
    if recompute is not None and case is None:
        raise ParameterError("--recompute: the meshes are not in the record; give --case too")
    if not is_session(folder):
        raise SessionError(folder, "", "no session's record", "give what `live --session` wrote")
    try:
        session = open_session(folder)
    except RecordingError as error:
        raise SessionError(folder, "", error.problem, "nothing of it reads") from error
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
    if recompute is not None and case is not None:
        code = max(code, _recompute(session, case, recompute, model, backend, progress))
    return code


def _recompute(
    session: Session,
    case: Path,
    which: str,
    model: Path | None,
    backend: str | None,
    progress: Progress | None,
) -> int:
    from spine_perception.core.backends import AUTO
    from spine_perception.core.segmenter import load_segmenter

    stamp_ns = _stamp(session, which)
    means = load_means(session, case, load_segmenter(model, backend or AUTO))
    decisions: list[Decision] = []
    for again in compute_again(session, means):
        decision = judge(session, again)
        if stamp_ns is None or decision.stamp_ns == stamp_ns:
            decisions.append(decision)
        if progress is not None:
            progress(len(decisions), None, "computed again")
        if decision.stamp_ns == stamp_ns:
            break
    if stamp_ns is None:
        decisions += [Decision(s, "unknown", UNEXPLAINED) for s in session.unexplained]
    for note in means.notes:
        print(f"note: {note}")
    count = Counter(d.verdict for d in decisions)
    for d in [d for d in decisions if d.verdict != "same"][:_NAMED]:
        print(f"frame {d.stamp_ns}: {d.verdict}: {d.text}")
    print("computed again: " + (", ".join(f"{n} {v}" for v, n in count.items()) or "no frame"))
    return DONE if set(count) == {"same"} else FAILED


def _stamp(session: Session, which: str) -> int | None:
    if which == "all":
        return None
    known = {n.frame.stamp_ns for life in session.lives for n in life if n.frame is not None}
    if not which.isdigit() or int(which) not in known:
        raise ParameterError(
            f"--recompute {which}: no frame with this stamp was worked on; give one that the timeline"
            " names, or 'all'"
        )
    return int(which)
