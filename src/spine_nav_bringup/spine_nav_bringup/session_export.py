# SPDX-License-Identifier: Apache-2.0
"""`spinenav session export`: what others read of a session without this software, or a scrubbed copy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spine_nav_common.core.case import load_case
from spine_nav_common.core.errors import InputError, OutputError
from spine_nav_common.core.run import Progress
from spine_nav_display.core.session_export import export
from spine_nav_display.core.session_folder import SessionError, is_session
from spine_nav_display.core.session_media import (
    write_csv,
    write_film,
    write_screenshots,
    write_tum,
)
from spine_nav_display.core.session_report import best_moments

from .report import open_whole

DONE = 0


@dataclass(frozen=True)
class Wanted:
    """What was asked for. scrub: None, remove or blur. screenshots: how many; case: for pictures."""

    scrub: str | None = None
    csv: bool = False
    tum: bool = False
    mp4: bool = False
    screenshots: int = 0
    case: Path | None = None

    @property
    def pictures(self) -> bool:
        return self.mp4 or self.screenshots > 0

    @property
    def files(self) -> bool:
        return self.csv or self.tum or self.pictures


def run_export(folder: Path, out: Path, wanted: Wanted, progress: Progress) -> int:
    """Write what was asked for, and say what is where.

    Raises InputError: nothing or a contradiction was asked for, no session, a damaged one, another
    case, or `out` cannot be written.
    """
    if not is_session(folder):
        raise SessionError(folder, "", "no session's record", "give what `live --session` wrote")
    if wanted.scrub is not None and wanted.files:
        raise SessionError(
            folder, "--scrub", "a scrubbed copy and pictures in one folder undo each other",
            "export one after the other, into two folders",
        )  # fmt: skip
    if wanted.scrub is not None:
        counts = export(folder, out, wanted.scrub, lambda n: progress(n, None, "messages"))
        print(f"wrote {out}: " + ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in counts.items()))
        return DONE
    if not wanted.files:
        raise SessionError(
            folder, "", "nothing was asked for",
            "give --csv, --tum, --mp4, --screenshots or --scrub",
        )  # fmt: skip
    if wanted.pictures and wanted.case is None:
        raise SessionError(
            folder,
            "--case",
            "a session does not hold the case's meshes",
            "give the operation's case",
        )
    for line in _write(folder, out, wanted, progress):
        print(line)
    return DONE


def _write(folder: Path, out: Path, wanted: Wanted, progress: Progress) -> list[str]:
    if folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise SessionError(
            out, "--out", "lies in the session, which stays as it is", "give another"
        )
    session = open_whole(folder)
    case = load_case(wanted.case) if wanted.case is not None and wanted.pictures else None
    try:
        out.mkdir(parents=True, exist_ok=True)
        files: list[Path] = []
        if wanted.csv:
            files.append(write_csv(session, out))
        if wanted.tum:
            files += write_tum(session, out)
        if case is not None and wanted.screenshots:
            stamps = best_moments(session, wanted.screenshots)
            files += write_screenshots(session, case, out, stamps)
        if case is not None and wanted.mp4:
            files.append(
                write_film(session, case, out, progress=lambda n: progress(n, None, "pictures"))
            )
    except (InputError, OutputError):
        raise
    except OSError as error:
        raise SessionError(
            out, "", f"cannot be written ({error.strerror})", "give --out"
        ) from error
    told = [f"wrote {file}" for file in files]
    return [*told, *([f"the record ends early: {session.cut}"] if session.cut else [])]
