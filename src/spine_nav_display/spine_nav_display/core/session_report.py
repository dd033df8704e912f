# SPDX-License-Identifier: Apache-2.0
"""One page about a session, readable without the software: HTML with its pictures inside."""

from __future__ import annotations

import base64
import html
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rod_bending_ar.core.cortex import Shaft
from rod_bending_ar.core.screw_check import grade_words
from spine_nav_common.core.png import png_bytes
from spine_nav_common.core.types import NavigationResult, Rejected, Status

from .session_audit import Moment, head, timeline
from .session_reading import Session
from .session_rods import RodLast, draw_rod
from .session_screws import PlacedLast
from .session_verify import Verified

NOTICE = "Research software, not a medical device."
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:960px;margin:24px auto;padding:0 16px;color:#111}
h1{font-size:22px}h2{font-size:17px;margin-top:28px}table{border-collapse:collapse;width:100%}
td,th{border:1px solid #bbb;padding:4px 8px;text-align:left;vertical-align:top}th{background:#eee}
img{max-width:100%;border:1px solid #bbb}.small{color:#444;font-size:13px;overflow-wrap:anywhere}
@media print{body{margin:0}}
"""


@dataclass(frozen=True)
class LevelSummary:
    """What was shown of one level over the session. shares of the frames that were worked on."""

    level: str
    tracked: int
    frames: int
    first_tracked_ns: int | None
    bounds_mm: tuple[float, ...]
    last: str


@dataclass(frozen=True)
class Picture:
    """An image (H, W, 3) uint8 RGB and what it shows."""

    image: np.ndarray
    caption: str


def summarise(session: Session) -> list[LevelSummary]:
    """Per level in the order of the case; of frames that were published."""
    ordered = sorted(session.shown.values(), key=lambda item: item[0])
    levels: dict[str, list[tuple[int, NavigationResult, int]]] = {}
    for log_ns, result in ordered:
        for k, e in enumerate(result.levels):
            levels.setdefault(e.level, []).append((log_ns, result, k))
    found = []
    for level, items in levels.items():
        states = [(log_ns, result.levels[k]) for log_ns, result, k in items]
        tracked = [(log_ns, e) for log_ns, e in states if e.status is Status.TRACKED]
        bounds = tuple(e.predicted_tre_mm for _, e in tracked if e.predicted_tre_mm is not None)
        last = states[-1][1]
        found.append(
            LevelSummary(
                level,
                len(tracked),
                len(states),
                tracked[0][0] if tracked else None,
                bounds,
                last.status.value + (f": {last.reason}" if last.reason else ""),
            )
        )
    return found


def best_moments(session: Session, count: int = 3) -> list[int]:
    """Stamps of frames with most levels tracked, spread over the session."""
    ordered = sorted(session.shown.items(), key=lambda item: item[1][0])
    found: list[int] = []
    for part in np.array_split(np.arange(len(ordered)), count):
        if not len(part):
            continue
        stamps = [ordered[i] for i in part]
        best = max(stamps, key=lambda item: _tracked(item[1][1]))
        if _tracked(best[1][1]):
            found.append(best[0])
    return found


def _tracked(result: NavigationResult) -> int:
    return sum(e.status is Status.TRACKED for e in result.levels)


def write_report(
    session: Session,
    verified: Verified,
    pictures: Sequence[Picture],
    placed: Sequence[PlacedLast] = (),
    rods: Mapping[str, RodLast | Rejected] | None = None,
) -> str:
    """The page as text. placed: the planned screws as they were placed, where the case is known;
    rods: those that were planned, by side."""
    start_ns = int(session.manifest["started_ns"])
    moments = timeline(session)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>SpineNav session</title><style>{_STYLE}</style></head><body>",
        f"<h1>Navigated session</h1><p><b>{NOTICE}</b></p>",
        "<p class='small'>" + "<br>".join(map(_text, head(session))) + "</p>",
        "<h2>Levels</h2>",
        _table(
            ("level", "shown as tracked", "first", "predicted error (95 %), mm", "at the end"),
            [_level_row(s, start_ns) for s in summarise(session)],
        ),
        *_checks(session, start_ns),
        *_screws(session),
        *_placed(placed, start_ns),
        *_rods(rods or {}, start_ns),
        "<h2>Questions and answers</h2>",
        _moments(moments, ("asked", "answer", "page"), start_ns, "Nobody was asked."),
        "<h2>Faults and withdrawals</h2>",
        _moments(moments, ("withdrawn", "refused", "fault"), start_ns, "None."),
        _restarts(session),
        "<h2>The record</h2>",
        f"<p>{verified.chunks} chunks, {verified.bytes / 1e6:.1f} MB; "
        + (
            "<b>damaged</b>"
            if verified.damaged
            else "every byte that is vouched for is as it was written"
            if verified.findings
            else "every byte is as it was written"
        )
        + "</p>",
        _list(
            [str(f) for f in verified.findings]
            + session.notes
            + ([session.cut] if session.cut else [])
        ),
    ]
    if pictures:
        parts.append("<h2>Pictures</h2>")
    parts += [_picture(p) for p in pictures]
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(png_bytes(picture.image)).decode("ascii")
    return f"<p><img alt='' src='data:image/png;base64,{data}'><br>{_text(picture.caption)}</p>"


def _text(value: object) -> str:
    return html.escape(str(value))


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{_text(n)}</th>" for n in names)
    body = "".join("<tr>" + "".join(f"<td>{_text(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _level_row(s: LevelSummary, start_ns: int) -> tuple[str, ...]:
    first = (
        "never" if s.first_tracked_ns is None else f"{(s.first_tracked_ns - start_ns) * 1e-9:.1f} s"
    )
    bounds = "none stated"
    if s.bounds_mm:
        bounds = f"median {statistics.median(s.bounds_mm):.2f}, largest {max(s.bounds_mm):.2f}"
    share = f"{s.tracked} of {s.frames} frames ({100 * s.tracked / max(1, s.frames):.0f} %)"
    return s.level, share, first, bounds, s.last


def _checks(session: Session, start_ns: int) -> list[str]:
    """Measured errors: landmarks that the surgeon touched, against where the poses had them."""
    if not session.checks:
        return [
            "<h2>Landmark checks</h2>",
            "<p>No landmark was touched: errors were not measured.</p>",
        ]
    rows = []
    for log_ns, fields in session.checks:
        touched, n = [], 1
        while (name := fields.get(f"landmark {n}")) is not None:
            mm = fields.get(f"residual_mm {n}")
            touched.append(
                f"{name} {float(mm):.1f} mm" if mm else f"{name} {fields.get(f'mark {n}')}"
            )
            n += 1
        at = f"{(log_ns - start_ns) * 1e-9:.1f} s"
        rows.append((fields["level"], at, fields["text"], "; ".join(touched)))
    return [
        "<h2>Landmark checks</h2>",
        _table(("level", "at", "verdict, mean of the landmarks", "each"), rows),
        (
            "<p class='small'>The limit holds the predicted error of the pose and that of a touch (95 %)."
            " A click on the camera's own picture does not see that camera's bias in depth.</p>"
        ),
    ]


def _screws(session: Session) -> list[str]:
    """The last pair in which every head was seen, or with most of them."""
    if not session.screws:
        return []
    best = max(session.screws, key=lambda s: (sum(not x.hidden for x in s.screws), s.log_ns))
    rows = [
        (x.name, f"{x.bound95_mm:.2f}", "held, not seen then" if x.hidden else "measured")
        for x in best.screws
    ]
    rods = ", ".join(best.rods) or "none"
    said = [words for _, _, words in session.bending if not words.startswith("withdrawn")]
    last = f"<p>Bends, last said: {_text(said[-1])}</p>" if said else ""
    return [
        "<h2>Screws and rods</h2>",
        _table(("screw", "95 % bound, mm", "then"), rows),
        f"<p>Rods: {_text(rods)}; stereo pair {best.stamp_ns}.</p>{last}",
    ]


def _at(log_ns: int | None, start_ns: int) -> str:
    return "" if log_ns is None else f"; at {(log_ns - start_ns) * 1e-9:.1f}\u00a0s"


def _margin(shaft: Shaft | Rejected | None) -> str:
    if not isinstance(shaft, Shaft):
        return "–"
    return f"{shaft.least_mm:.1f} ({shaft.draws.least95_mm:.1f})"


def _placed(placed: Sequence[PlacedLast], start_ns: int) -> list[str]:
    """Planned screws against placed ones."""
    if not placed:
        return []
    rows = []
    for p in placed:
        name, c = f"{p.level}\u00a0{p.side}", p.check
        if isinstance(c, Rejected):
            rows.append((name, "–", "–", "–", _margin(p.planned), "–", f"not compared: {c.reason}"))
            continue
        rows.append(
            (
                name,
                f"{c.entry_mm:.1f}\u00a0±\u00a0{c.entry95_mm:.1f}",
                f"{c.tip_mm:.1f}\u00a0±\u00a0{c.tip95_mm:.1f}",
                f"{c.angle_deg:.0f}\u00a0±\u00a0{c.angle95_deg:.0f}",
                f"{_margin(p.planned)} / {_margin(c.shaft)}",
                c.grade or "–",
                f"{grade_words(c.shaft)}{_at(p.log_ns, start_ns)}",
            )
        )
    names = (
        "screw", "entry, mm", "tip, mm", "angle, °", "margin to the cortex, mm: plan / placed",
        "grade", "grade by the predicted error",
    )  # fmt: skip
    return [
        "<h2>Screws against the plan</h2>",
        _table(names, rows),
        (
            "<p class='small'>Each by the last pair in which it was measured while its vertebra was"
            " tracked. ±: 95 % of what the predicted error allows. Margin: the least along the"
            " shaft, negative outside; what 95 % of the poses that the predicted error allows leave"
            " in brackets. Grade: Gertzbein-Robbins of the whole shaft, its depth taken from the"
            " plan.</p>"
        ),
    ]


def _rods(rods: Mapping[str, RodLast | Rejected], start_ns: int) -> list[str]:
    """Rods as planned against rods as found."""
    if not rods:
        return []
    rows, pictures = [], []
    for side, rod in rods.items():
        if isinstance(rod, Rejected):
            rows.append((side, "–", "–", "–", f"not compared: {rod.reason}"))
            continue
        sigma = float(np.median(rod.sigma_mm[rod.seen]))
        at = f"stereo pair {rod.stamp_ns}"
        rows.append(
            (side, f"{rod.mean_mm:.1f}", f"{rod.most_mm:.1f}", f"{1.96 * sigma:.1f}", rod.words)
        )
        pictures.append(_picture(Picture(draw_rod(rod), f"{side} rod, {at}")))
    names = ("rod", "from its plan, mean, mm", "largest, mm", "known within (95 %), mm", "guidance")
    return [
        "<h2>Rods against the plan</h2>",
        _table(names, rows),
        (
            "<p class='small'>Each by the last pair in which the rod was seen in its screws while its"
            " plan held: distance of its seen points from the planned curve, as both lay then.</p>"
        ),
        *pictures,
    ]


def _moments(moments: Sequence[Moment], kinds: Sequence[str], start_ns: int, none: str) -> str:
    """Of these kinds, the same text counted instead of repeated."""
    counted: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], int] = {}
    for m in moments:
        if m.kind in kinds:
            counted[m.kind, m.text] += 1
            first.setdefault((m.kind, m.text), m.log_ns)
    if not counted:
        return f"<p>{_text(none)}</p>"
    rows = [
        (f"{(first[key] - start_ns) * 1e-9:.1f} s", key[0], key[1], str(count))
        for key, count in counted.items()
    ]
    return _table(("first", "kind", "what", "times"), rows)


def _restarts(session: Session) -> str:
    again = max(0, len(session.lives) - 1)
    return f"<p>The navigation was started again {again} times.</p>" if again else ""
