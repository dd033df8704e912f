# SPDX-License-Identifier: Apache-2.0
"""The commands from a scan to a plan: `plan`, `segment`, `grade`, `measures`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

SCHEMES = "totalsegmentator|verse|spineps|spinenav|FILE"


def _plan(args: argparse.Namespace) -> int:
    from spine_nav_common.core.progress import Progress
    from spine_planning.core.case_plan import Wanted, plan_case
    from spine_planning.core.graded import grade_words
    from spine_planning.core.implants import Implants, load_implants

    progress = Progress("plan")
    planned = plan_case(
        Wanted(
            args.scan, args.out, args.labels, _names(args.levels),
            load_implants(args.implants) if args.implants else Implants(),
            args.label_names, args.series, args.predicted_error, found=_names(args.found),
        ),
        progress,
    )  # fmt: skip
    progress.close()
    for note in planned.document["notes"]:
        print(f"note: {note}")
    print(grade_words(planned.document))
    total = sum(planned.seconds.values())
    print(f"wrote {args.out} in {total:.0f} s: case, plan_report.json, labels.nii.gz, report.html")
    return 0 if planned.document["screws"] else 1


def _segment(args: argparse.Namespace) -> int:
    from spine_nav_common.core.errors import PlanError
    from spine_nav_common.core.progress import Progress
    from spine_planning.core.ct_network import load_network
    from spine_planning.core.scan import load_scan
    from spine_planning.core.segment import (
        NO_NETWORK,
        check_out,
        segment_scan,
        write_labels,
    )

    check_out(args.out)
    network = load_network()
    if network is None:
        raise PlanError(
            args.scan,
            "segment",
            NO_NETWORK,
            "use TotalSegmentator or SPINEPS, and `plan --labels MASK`",
        )
    progress = Progress("segment")
    scan = load_scan(args.scan, args.series)
    made = segment_scan(scan, network, _names(args.found), lambda note: progress(0, None, note))
    write_labels(args.out, made.labels, scan)
    progress.close()
    for note in (*scan.notes, *made.labels.notes):
        print(f"note: {note}")
    for level, sure in made.certainty.items():
        print(f"{level}: certainty {sure:.2f}")
    print(f"wrote {args.out}, numbers as `plan --label-names spinenav` reads them")
    return 0


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(v.strip().upper() for v in (text or "").split(",") if v.strip()) or None


def _grade(args: argparse.Namespace) -> int:
    import json

    from spine_planning.core.graded import grade_case, grade_words

    found = grade_case(args.case, args.screws, args.ct, args.diameter, args.predicted_error)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        for note in found["notes"]:
            print(f"note: {note}")
        print(grade_words(found))
    return 0 if found["screws"] else 1


def _measures(args: argparse.Namespace) -> int:
    import json

    from spine_planning.core.graded import measure_case

    found = measure_case(args.case)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0 if found["measures"] else 1
    for note in found["notes"]:
        print(f"note: {note}")
    for level, values in found["measures"].items():
        print(f"{level}:")
        for name, value in values.items():
            print(f"  {name}: {value:g}")
    for name, value in found["lordosis_deg"].items():
        print(f"lordosis {name}: {value:g} deg")
    for level, reason in found["refused"].items():
        print(f"{level}: not measured: {reason}")
    return 0 if found["measures"] else 1


def _millimetres(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 15.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 15 mm")
    return value


def add_planning_commands(
    add: Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser],
) -> None:
    """Add the commands; add: takes name, body and help."""
    plan = add("plan", _plan, "from a scan and its mask to a case with a graded screw plan")
    plan.add_argument(
        "scan", type=Path, metavar="SCAN", help="DICOM folder or zip, NIfTI, NRRD, MHA"
    )
    plan.add_argument("--out", type=Path, required=True, metavar="CASE")
    plan.add_argument(
        "--labels", type=Path, metavar="MASK",
        help="mask of the vertebrae in the scan's grid, or a folder with one mask for each (default:"
        " the network finds them)",
    )  # fmt: skip
    _found_option(plan)
    plan.add_argument(
        "--label-names", metavar=SCHEMES,
        help="what the mask's numbers stand for (FILE: YAML or JSON with number: level)",
    )  # fmt: skip
    plan.add_argument("--series", metavar="N", help="which of several DICOM series")
    plan.add_argument("--levels", metavar="L3,L4", help="to be planned (default: every whole one)")
    plan.add_argument(
        "--implants", type=Path, metavar="YAML", help="diameters_mm and lengths_mm of the tray"
    )
    _error_option(plan)

    segment = add("segment", _segment, "vertebrae of a CT, found and named, as a mask")
    segment.add_argument("scan", type=Path, metavar="SCAN")
    segment.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help=".nii.gz, .nrrd or .mha"
    )
    segment.add_argument("--series", metavar="N", help="which of several DICOM series")
    _found_option(segment)

    grade = add("grade", _grade, "grades of any screws against a case's vertebrae")
    grade.add_argument("--case", type=Path, required=True)
    grade.add_argument(
        "--screws",
        type=Path,
        required=True,
        metavar="FILE",
        help=".mrk.json, or a plan_report.json",
    )
    grade.add_argument("--ct", type=Path, metavar="CT", help="the case's scan: bone density")
    grade.add_argument(
        "--diameter", type=_millimetres, default=5.5, metavar="MM", help="where the file says none"
    )
    _error_option(grade)
    grade.add_argument("--json", action="store_true")

    measures = add("measures", _measures, "pedicles, bodies and lordosis of a case")
    measures.add_argument("case", type=Path, metavar="CASE")
    measures.add_argument("--json", action="store_true")


def _found_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--found", metavar="L1,L2,S1",
        help="names of all vertebrae that the network finds, from head to foot, where it asks",
    )  # fmt: skip


def _error_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--predicted-error", type=_millimetres, default=2.0, metavar="MM",
        help="of the registration, 95 %%, for the probability of a breach (default: 2.0)",
    )  # fmt: skip
