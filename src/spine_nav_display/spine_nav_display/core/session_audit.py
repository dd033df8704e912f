# SPDX-License-Identifier: Apache-2.0
"""What a session's record tells: the timeline, and whether a decision comes out the same again."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spine_nav_common.core.live_plan import read_state
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status
from spine_registration.core.journal import FrameEntry
from stereo_screw_tracker.core.journal import PairEntry

from .session_pairs import pair_differences, shown_pair
from .session_reading import Noted, Session
from .session_replay import Again
from .session_replay_pairs import PairAgain

_NUMBER = re.compile(r"\d+(\.\d+)?")
_PRESSED = {
    "confirm": "an answer",
    "register": "a new registration",
    "pause": "pause",
    "resume": "go on",
}


@dataclass(frozen=True)
class Moment:
    """Something that happened. log_ns: when the recorder heard of it, by the system's clock. kind:
    `run`, `event`, `shown`, `withdrawn`, `asked`, `answer`, `refused`, `fault`, `page`, `plan`, `note`, `check`. stamp_ns: of the frame
    that it came from, None = of none."""

    log_ns: int
    kind: str
    text: str
    stamp_ns: int | None = None

    def line(self, start_ns: int) -> str:
        """For a reader; seconds since the start."""
        stamp = "" if self.stamp_ns is None else f" [frame {self.stamp_ns}]"
        return f"{(self.log_ns - start_ns) * 1e-9:10.3f} s  {self.kind:9} {self.text}{stamp}"


def head(session: Session) -> list[str]:
    """Which session, with which case, models, calibration and settings."""
    m = session.manifest
    started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(m["started_ns"] * 1e-9))
    case = m.get("case") or {}
    lines = [
        f"session {m['session']}, started {started}, source {m.get('source')}",
        f"case {case.get('sha256', 'none')}, exposed {', '.join(case.get('exposed_levels', []))}",
    ]
    lines += [f"calibration {sha}" for sha in m.get("calibration", [])] or [
        "calibration none given"
    ]
    begins = [n.values for life in session.lives for n in life if n.op == "begin"]
    lines += dict.fromkeys(
        f"navigation with model {v['model']}, {v['provider']}, settings {v['config']}"
        for v in begins
    )
    begins = [n.values for life in session.pair_lives for n in life if n.op == "begin"]
    lines += dict.fromkeys(
        f"screw tracker with models {v['model']}, {v['provider']}, settings {v['config']}"
        for v in begins
    )
    if m.get("ended_ns") is None:
        lines.append("the session has no end: its recorder, or the machine, stopped in the middle")
    for stream, counts in m.get("streams", {}).items():
        lines.append(
            f"{stream}: " + ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in counts.items())
        )
    return lines


def timeline(session: Session, every_frame: bool = False) -> list[Moment]:
    """All that happened, in order.

    every_frame: also frames that showed the same as the one before.
    """
    moments = [m for life in session.lives for m in _of_life(life)]
    moments += [m for life in session.pair_lives for m in _of_pairs(life)]
    moments += _shown(session, every_frame)
    for log_ns, stamp_ns, reason in session.withdrawn:
        moments.append(Moment(log_ns, "withdrawn", reason, stamp_ns))
    moments += _implants(session, every_frame)
    moments += _plans(session)
    moments += [_of_page(log_ns, text) for log_ns, text in session.events]
    moments += [Moment(at, kind, words) for at, kind, words in session.rod_words]
    moments += [Moment(at, "check", f"{f['level']} {f['text']}") for at, f in session.checks]
    moments = [replace(m, text=_printable(m.text)) for m in moments]
    return sorted(moments, key=lambda m: m.log_ns)


def _of_life(life: list[Noted]) -> Iterator[Moment]:
    for noted in life:
        v, at = noted.values, noted.log_ns
        if noted.op == "begin":
            yield Moment(at, "run", f"navigation begins, for {', '.join(v['levels'])}")
        elif noted.op == "recall":
            yield Moment(at, "run", "it took over what the navigation before it had known")
        elif noted.op == "asked":
            yield Moment(at, "asked", _asked(v))
        elif noted.frame is not None:
            yield from _of_frame(at, noted.frame)


def _of_pairs(life: list[Noted]) -> Iterator[Moment]:
    for noted in life:
        v, at = noted.values, noted.log_ns
        if noted.op == "begin":
            levels = ", ".join(v["levels"]) or "no known level"
            yield Moment(at, "run", f"the screw tracker begins, for {levels}")
        elif noted.op == "reset":
            yield Moment(at, "run", f"all screws were forgotten: {v['why']}")
        elif noted.op == "asked":
            yield Moment(at, "asked", f"screws: {_asked(v)}")
        elif noted.pair is not None:
            yield from _of_work(at, noted.pair)


def _asked(v: dict[str, Any]) -> str:
    word = _PRESSED.get(v["what"], v["what"])
    if v["what"] == "check":
        word = f"landmark check: {v.get('words', '')}"
    if v["what"] == "confirm":
        word = f"{'yes' if v['accept'] else 'no'} to {v.get('id', 'what was asked')}"
    return word + (f", refused: {v['refused']}" if v.get("refused") else "")


def _of_frame(at: int, frame: FrameEntry) -> Iterator[Moment]:
    if frame.took is not None and frame.took.answer is not None:
        a = frame.took.answer
        text = f"{'yes' if a.accept else 'no'} to {a.id} (asked with frame {a.asked_ns}) was taken"
        yield Moment(at, "answer", text, frame.stamp_ns)
    if frame.took is not None and frame.took.renewed:
        yield Moment(at, "answer", "registered anew, as was asked for", frame.stamp_ns)
    yield from _of_work(at, frame)


def _of_work(at: int, frame: FrameEntry | PairEntry) -> Iterator[Moment]:
    if frame.trouble:
        yield Moment(at, "fault" if frame.fault else "refused", frame.trouble, frame.stamp_ns)
    for text in frame.events:
        yield Moment(at, "event", text, frame.stamp_ns)
    if not frame.published:
        yield Moment(at, "run", f"its result was not published: {frame.shown}", frame.stamp_ns)


def _of_page(at: int, text: str) -> Moment:
    """What a page of the display showed, or asked for, and what came of it."""
    try:
        v = json.loads(text)
        page = str(v.get("page", ""))
        if v.get("what") == "action":
            about = f" {v['question']}" if v.get("question") else ""
            done = "done" if v.get("ok") else "refused"
            return Moment(at, "page", f"{page}: {v['action']}{about}, {done}: {v.get('text', '')}")
        if v.get("what") == "shown":
            levels = ", ".join(map(str, v.get("levels", []))) or "no level"
            covered = f", covered: {v['covered']}" if v.get("covered") else ""
            stamp = str(v.get("picture", ""))
            of = int(stamp) if stamp.isdigit() else None
            return Moment(at, "page", f"{page}: shows {levels}{covered}", of)
        rest = {k: x for k, x in v.items() if k not in ("what", "page", "stamp_ns")}
        return Moment(at, "page", f"{page}: {v.get('what', 'note')}" + (f" {rest}" if rest else ""))
    except (AttributeError, KeyError, TypeError, ValueError):
        return Moment(at, "note", text)


def _plans(session: Session) -> Iterator[Moment]:
    """What became of each change of the plan that somebody proposed."""
    heard = 0
    for log_ns, text in session.plans:
        try:
            told = read_state(text).told
            new = sorted((int(t["n"]), name) for name, t in told.items() if int(t["n"]) > heard)
            for heard, name in new:
                yield Moment(log_ns, "plan", f"{name} {told[name]['what']}: {told[name]['text']}")
        except (KeyError, TypeError, ValueError):
            yield Moment(log_ns, "note", "a state of the plan cannot be read")


def _printable(text: str) -> str:
    """Without what a terminal obeys, or no file can hold: whoever asked a page for something may have
    put it there."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _shown(session: Session, every_frame: bool) -> Iterator[Moment]:
    """Of each level what was published, where it changed."""
    before: dict[str, tuple[str, str]] = {}
    for stamp_ns, (log_ns, result) in sorted(session.shown.items(), key=lambda item: item[1][0]):
        for e in result.levels:
            # Numbers change with every frame; what is said does not.
            reason = "" if e.status is Status.TRACKED else _NUMBER.sub("#", e.reason)
            now = (e.status.value, reason)
            if every_frame or before.get(e.level) != now:
                yield Moment(log_ns, "shown", level_text(e), stamp_ns)
            before[e.level] = now


def _implants(session: Session, every_frame: bool) -> Iterator[Moment]:
    """Of screws, rods and bends what was published, where it changed."""
    before = ""
    for s in session.screws:
        held = {True: " (held)", False: ""}
        names = ", ".join(sorted(screw.name + held[screw.hidden] for screw in s.screws))
        rods = f"; rods {', '.join(s.rods)}" if s.rods else ""
        now = s.reason or f"screws {names or 'none'}{rods}"
        if every_frame or now != before:
            yield Moment(s.log_ns, "shown", now, s.stamp_ns)
        before = now
    before = ""
    for log_ns, stamp_ns, words in session.bending:
        now = _NUMBER.sub("#", words)
        if every_frame or now != before:
            yield Moment(log_ns, "shown", f"bending: {words}", stamp_ns)
        before = now


def level_text(e: LevelEstimate) -> str:
    """Status, predicted error and reason of a level."""
    bound = "" if e.predicted_tre_mm is None else f", predicted error {e.predicted_tre_mm:.2f} mm"
    return f"{e.level} {e.status.value}{bound}" + (f": {e.reason}" if e.reason else "")


def differences(was: NavigationResult, now: NavigationResult) -> list[str]:
    """In what two published results differ, bit by bit; empty = they are the same."""
    found = []
    for a, b in zip(was.levels, now.levels):
        if (a.level, a.status, a.reason) != (b.level, b.status, b.reason):
            found.append(f"{level_text(a)} was shown, computed again {level_text(b)}")
        elif not _same(a.T_camera_ct, b.T_camera_ct):
            found.append(f"{a.level}: its pose differs by {_apart(a.T_camera_ct, b.T_camera_ct)}")
        elif a.predicted_tre_mm != b.predicted_tre_mm:
            found.append(f"{a.level}: {a.predicted_tre_mm} mm was stated, now {b.predicted_tre_mm}")
    if len(was.levels) != len(now.levels):
        found.append(f"{len(was.levels)} levels were shown, computed again {len(now.levels)}")
    return found


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.tobytes() == b.tobytes()


def _apart(a: np.ndarray | None, b: np.ndarray | None) -> str:
    if a is None or b is None:
        return "being there or not"
    return f"{1e3 * float(np.linalg.norm(a[:3, 3] - b[:3, 3])):.3g} mm"


UNEXPLAINED = "it was shown, and the journal does not have its frame"
NOT_RECORDED = "what was published of it is not in the record"
UNSHOWN = "unshown"


@dataclass(frozen=True)
class Decision:
    """A frame's result as it was shown and as it comes out again. verdict: `same`, `different`, `unknown`
    or `unshown` (nothing was shown of it, and the journal says why), with the reason in `text`."""

    stamp_ns: int
    verdict: str
    text: str


def judge(session: Session, again: Again) -> Decision:
    """Compare a frame that was computed again with what was published of it."""
    stamp_ns = again.noted.frame.stamp_ns if again.noted.frame is not None else -1
    was = session.shown.get(stamp_ns)
    found = differences(was[1], again.published) if was and again.published else []
    return _decision(stamp_ns, again, again.noted.frame, was is not None, found)


def judge_pair(session: Session, again: PairAgain) -> Decision:
    """Compare a pair that was computed again with what was published of it."""
    stamp_ns = again.noted.pair.stamp_ns if again.noted.pair is not None else -1
    was = session.pairs_shown.get(stamp_ns)
    found = []
    if was is not None and again.published is not None:
        found = pair_differences(was[1], shown_pair(again.published))
    return _decision(stamp_ns, again, again.noted.pair, was is not None, found)


def _decision(
    stamp_ns: int,
    again: Again | PairAgain,
    entry: FrameEntry | PairEntry | None,
    recorded: bool,
    found: list[str],
) -> Decision:
    """found: in what it differs from what was recorded of it."""
    if again.problem:
        return Decision(stamp_ns, "unknown", again.problem)
    if entry is not None and not entry.published:  # in work while it was paused, or stopped
        if recorded:
            return Decision(
                stamp_ns, "different", "it was shown, and the journal says that it was not"
            )
        return Decision(stamp_ns, UNSHOWN, entry.shown)
    if again.published is None:
        return Decision(stamp_ns, "unknown", "nothing was published of it")
    if not recorded:
        return Decision(stamp_ns, "unknown", NOT_RECORDED)
    if not found:
        return Decision(stamp_ns, "same", "")
    if not again.sure:
        found = [
            *found,
            "frames before it could not be computed again, so that this proves nothing",
        ]
    return Decision(stamp_ns, "different" if again.sure else "unknown", "; ".join(found))


def as_json(moments: list[Moment]) -> str:
    """The timeline as JSON lines."""
    return "\n".join(json.dumps(vars(m)) for m in moments)
