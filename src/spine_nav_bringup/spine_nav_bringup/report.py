# SPDX-License-Identifier: Apache-2.0
"""`spinenav report SESSION`: one page about a session."""

from __future__ import annotations

from pathlib import Path

from rod_bending_ar.bulls_eye import bulls_eyes
from rod_bending_ar.core.cortex import Margins
from rod_bending_ar.core.extras import Extras, PlacedScrew
from rod_bending_ar.core.screw_check import PLAY_DEG, ScrewCheck
from spine_nav_common.core.case import load_case
from spine_nav_common.core.errors import RecordingError
from spine_nav_common.core.types import Case, NavigationResult
from spine_nav_display.core.session_folder import SessionError, is_session
from spine_nav_display.core.session_media import drawn
from spine_nav_display.core.session_reading import Session, open_session
from spine_nav_display.core.session_report import Picture, best_moments, write_report
from spine_nav_display.core.session_rods import rods_against_plan
from spine_nav_display.core.session_screws import PlacedLast, placed_screws
from spine_nav_display.core.session_verify import verify

DONE, FAILED = 0, 1
REPORT = "report.html"
_SCALE = 2


def run_report(
    folder: Path, case: Path | None, out: Path | None, play_deg: float | None = None
) -> int:
    """Write the page, by default as report.html beside the session's folder (a session's own folder
    is left as it was). With the case there are pictures, and screws against the plan; play_deg: how
    far their tulips may lean from their shanks (None: as those of polyaxial screws).

    Raises SessionError: no session, another case, or the page cannot be written.
    """
    session = open_whole(folder)
    out = out or folder.parent / f"{folder.resolve().name}_{REPORT}"
    if folder.resolve() in out.resolve().parents:
        raise SessionError(out, "", "lies in the session, which stays as it is", "give --out")
    pictures: list[Picture] = []
    placed: list[PlacedLast] = []
    if case is not None:
        loaded = load_case(case)
        pictures = _pictures(session, loaded)
        placed = placed_screws(session, loaded, PLAY_DEG if play_deg is None else play_deg)
        pictures += _along(loaded, placed)
    verified = verify(folder)
    page = write_report(session, verified, pictures, placed, rods_against_plan(session))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SessionError(
            out, "", f"cannot be written ({error.strerror})", "give --out"
        ) from error
    print(f"wrote {out}")
    return FAILED if verified.damaged else DONE


def open_whole(folder: Path) -> Session:
    """A session that is read. Raises SessionError."""
    if not is_session(folder):
        raise SessionError(folder, "", "no session's record", "give what `live --session` wrote")
    try:
        return open_session(folder)
    except RecordingError as error:
        raise SessionError(folder, "", error.problem, "nothing of it reads") from error


def _pictures(session: Session, case: Case) -> list[Picture]:
    """The overlay as it was to be seen, at the moments with most levels."""
    return [
        Picture(p.image, f"Camera's picture, {p.at_s:.1f} s, frame {p.stamp_ns}")
        for p in drawn(session, case, set(best_moments(session)), scale=_SCALE)
    ]


def _along(case: Case, placed: list[PlacedLast]) -> list[Picture]:
    """The view along every planned trajectory: room to the cortex, and where each screw lies."""
    levels = {p.level: p.estimate for p in placed if p.estimate is not None}
    if not levels:
        return []
    moment = NavigationResult(0, tuple(levels.values()))
    screws = tuple(
        PlacedScrew(p.level, p.side, p.check.entry_m, -p.check.into, 0.0, 0, p.check)
        for p in placed
        if isinstance(p.check, ScrewCheck)
    )
    image = bulls_eyes(case, moment, Extras(Margins(case), screws))
    words = (
        "Along each planned trajectory: planned axis in the middle, room to the cortex (colour) around"
        " the screw (white), predicted error (green); a placed screw's axis from its entry (ring) to"
        " the target's depth (dot). Rings: 2, 4 and 8 mm."
    )
    return [Picture(image, words)]
