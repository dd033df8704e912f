# SPDX-License-Identifier: Apache-2.0
"""The commands about a session's record: `audit`, `report`, `session export`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def _audit(args: argparse.Namespace) -> int:
    from spine_nav_common.core.progress import Progress

    from .audit import run_audit

    progress = Progress("audit")
    code = run_audit(
        args.session,
        case=args.case,
        recompute=args.recompute,
        every_frame=args.every_frame,
        json=args.json,
        model=args.model,
        models=args.models,
        backend=args.backend,
        progress=progress,
    )
    progress.close()
    return code


def _report(args: argparse.Namespace) -> int:
    from .report import run_report

    return run_report(args.session, args.case, args.out, args.screw_play)


def _session_export(args: argparse.Namespace) -> int:
    from spine_nav_common.core.progress import Progress

    from .session_export import Wanted, run_export

    progress = Progress("export")
    wanted = Wanted(args.scrub, args.csv, args.tum, args.mp4, args.screenshots or 0, args.case)
    code = run_export(args.session, args.out, wanted, progress)
    progress.close()
    return code


def _count(text: str) -> int:
    count = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= count <= 1000:
        raise argparse.ArgumentTypeError(f"{text}: give 1 to 1000")
    return count


def add_session_commands(
    add: Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser],
    epilog: str,
) -> None:
    """Add the commands; add: takes name, body and help."""
    audit = add("audit", _audit, "what a session has shown and why; whether its record is whole")
    audit.add_argument("session", type=Path, metavar="SESSION")
    audit.add_argument("--case", type=Path, help="of the operation, to compute anything again")
    audit.add_argument(
        "--recompute",
        metavar="STAMP|all",
        help="compute the result of this frame or pair again, and compare",
    )
    audit.add_argument(
        "--every-frame", action="store_true", help="not only where something changed"
    )
    audit.add_argument("--json", action="store_true", help="print the timeline as JSON lines only")
    audit.add_argument("--model", type=Path, metavar="ONNX", help="network instead of the shipped")
    audit.add_argument("--models", type=Path, metavar="DIR", help="of the screw tracker, likewise")
    audit.add_argument("--backend", metavar="NAME", help="what computes the network, see replay")

    report = add("report", _report, "one HTML page about a session, readable without the software")
    report.add_argument("session", type=Path, metavar="SESSION")
    report.add_argument("--case", type=Path, help="of the operation: pictures and grades of screws")
    report.add_argument("--out", type=Path, metavar="FILE", help="default: SESSION_report.html")

    report.add_argument(
        "--screw-play", type=float, metavar="DEG",
        help="how far the screws' tulips may lean from their shanks (default: 25; 0: one piece)",
    )  # fmt: skip

    session = add("session", _session_export, "copies of a session for others")
    session_commands = session.add_subparsers(metavar="export", required=True)
    export = session_commands.add_parser(
        "export",
        help="poses as CSV and TUM, pictures, a film; or a copy without pictures",
        epilog=epilog,
    )
    export.set_defaults(run=_session_export, command="session export")
    export.add_argument("session", type=Path, metavar="SESSION")
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    export.add_argument("--csv", action="store_true", help="poses.csv of what was published")
    export.add_argument(
        "--tum", action="store_true", help="LEVEL.tum: poses while tracked, for evo"
    )
    export.add_argument("--case", type=Path, help="of the operation: for pictures and film")
    export.add_argument("--mp4", action="store_true", help="session.mp4 with the overlay")
    export.add_argument(
        "--screenshots", nargs="?", const=5, type=_count, metavar="N",
        help="N pictures with the overlay, spread over the session (default: 5)",
    )  # fmt: skip
    export.add_argument(
        "--scrub", nargs="?", const="remove", choices=("remove", "blur"),
        help="a copy of the record instead: what becomes of its pictures (default: remove)",
    )  # fmt: skip
