# SPDX-License-Identifier: Apache-2.0
"""`spinenav rod plan`: bending plans from screws.csv."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from rod_bending_ar.core.complete import MissingScrew, parse_without, planned_screws
from rod_bending_ar.core.material import Bender
from rod_bending_ar.core.plan import RodOrder, RodPlan, plan_rod
from spine_nav_common.core.case import load_case
from spine_nav_common.core.errors import RodError, RowError
from spine_nav_common.core.implant_outputs import ScrewRow, read_screws
from spine_nav_common.core.screw_rows import saddle_rows, select_stamp
from spine_nav_common.core.tables import write_json
from spine_nav_common.parameters import ParameterError

_BACK_NS = 2_000_000_000  # a head that was seen this long ago lies where it lay, and is no other


def plan_rods(
    screws: Path,
    out: Path,
    side: str | None = None,
    stamp: str = "last",
    cranial: str | None = None,
    order: RodOrder | None = None,
) -> dict[Path, RodPlan]:
    """Write OUT/bend_plan_<side>.json for one side or for each that has screws; path to plan.

    Every side is planned before the first file is written. Raises InputError.
    """
    every = read_screws(screws)
    rows = last_seen(every, stamp, screws)
    plans = [plan_rod(row, order) for row in saddle_rows(rows, screws, side, cranial)]
    back_ns = max(row.stamp_ns for row in every) - rows[0].stamp_ns
    if stamp == "last" and back_ns:
        told = f"planned from {back_ns * 1e-9:.1f} s before the end, when every head was seen"
        plans = [replace(plan, warnings=(*plan.warnings, told)) for plan in plans]
    files = {out / f"bend_plan_{plan.side}.json": plan for plan in plans}
    for path, plan in files.items():
        write_json(path, plan.to_dict())
    return files


def last_seen(rows: list[ScrewRow], stamp: str, source: Path) -> list[ScrewRow]:
    """The rows of the stamp; for 'last' those of the newest frame in which each of its heads was
    seen, if there is one within two seconds: a head that is only held makes no plan."""
    chosen = select_stamp(rows, stamp, source)
    if stamp != "last" or all(row.seen for row in chosen):
        return chosen
    ids = {row.track_id for row in chosen}
    newest = chosen[0].stamp_ns
    frames: dict[int, list[ScrewRow]] = {}
    for row in rows:
        if newest - row.stamp_ns <= _BACK_NS:
            frames.setdefault(row.stamp_ns, []).append(row)
    for stamp_ns in sorted(frames, reverse=True):
        frame = frames[stamp_ns]
        if {r.track_id for r in frame} == ids and all(r.seen for r in frame):
            return frame
    return chosen


def _without(given: list[str]) -> tuple[str, ...]:
    try:
        return parse_without(",".join(given))
    except ValueError as error:
        raise ParameterError(f"--without: {error}") from error


_OPTIONS = {
    "rows": "run spinenav screws until heads show",
    "level": "give --cranial left, right, up or down (the head's direction in the image)",
    "direction": "correct the level and side columns, or --cranial",
}
_COLUMNS = "correct the level and side columns, or choose another --side or --stamp"


def at_the_command(error: RodError) -> RodError:
    """The error with what this command's options can do about it."""
    if isinstance(error, MissingScrew):
        more = f"if there is no screw on purpose, say so with --without {error.answer}"
    elif isinstance(error, RowError):
        more = f"or {_OPTIONS.get(error.field, _COLUMNS)}"
    else:
        return error
    return RodError(error.file, error.field, error.problem, f"{error.remedy}; {more}")


def describe(plan: RodPlan) -> str:
    """The plan as lines for a terminal: rod, steps, gaps, what to check."""
    head = (
        f"{plan.side}: {plan.order.material} rod, {plan.order.diameter_mm} mm thick,"
        f" {plan.length_mm:.0f} mm long, {len(plan.steps)} bends;"
        f" {plan.gap_words()}"
    )
    steps = [
        f"  {s.n}. feed {s.feed_mm:.1f} mm, rotate {s.rotate_deg:.1f} deg,"
        f" bend to {s.bend_set_deg:.1f} deg ({s.bend_deg:.1f} deg remain)"
        for s in plan.steps
    ]
    return "\n".join([head, *steps, *(f"  check: {warning}" for warning in plan.warnings)])


def run_rod_plan(args: argparse.Namespace) -> int:
    """The body of the command; 0, or InputError."""
    case = load_case(args.case) if args.case else None
    for note in case.notes if case else ():
        print(f"note: {note}")
    order = RodOrder(
        material=args.material,
        diameter_mm=args.diameter,
        length_mm=args.length,
        lordosis_deg=args.lordosis,
        bender=Bender(die_radius_mm=args.die),
        planned=planned_screws(case),
        without=_without(args.without),
    )
    try:
        files = plan_rods(args.screws, args.out, args.side, args.stamp, args.cranial, order)
    except RodError as error:
        raise at_the_command(error) from error
    for path, plan in files.items():
        print(describe(plan))
        print(f"wrote {path}")
    return 0
