# SPDX-License-Identifier: Apache-2.0
"""`spinenav rod plan`: bending plans from screws.csv."""

from __future__ import annotations

import argparse
from pathlib import Path

from rod_bending_ar.core.material import Bender
from rod_bending_ar.core.plan import RodOrder, RodPlan, plan_rod
from rod_bending_ar.core.row import saddle_rows, select_stamp
from spine_nav_common.core.outputs import read_screws, write_json


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
    rows = select_stamp(read_screws(screws), stamp, screws)
    plans = [plan_rod(row, order) for row in saddle_rows(rows, screws, side, cranial)]
    files = {out / f"bend_plan_{plan.side}.json": plan for plan in plans}
    for path, plan in files.items():
        write_json(path, plan.to_dict())
    return files


def describe(plan: RodPlan) -> str:
    """The plan as lines for a terminal: rod, steps, gaps, what to check."""
    head = (
        f"{plan.side}: {plan.order.material} rod, {plan.order.diameter_mm} mm thick,"
        f" {plan.length_mm:.0f} mm long, {len(plan.steps)} bends;"
        f" largest gap {plan.seating.max_mm:.2f} mm"
    )
    steps = [
        f"  {s.n}. feed {s.feed_mm:.1f} mm, rotate {s.rotate_deg:.1f} deg,"
        f" bend to {s.bend_set_deg:.1f} deg ({s.bend_deg:.1f} deg remain)"
        for s in plan.steps
    ]
    return "\n".join([head, *steps, *(f"  check: {warning}" for warning in plan.warnings)])


def run_rod_plan(args: argparse.Namespace) -> int:
    """The body of the command; 0, or InputError."""
    order = RodOrder(
        material=args.material,
        diameter_mm=args.diameter,
        length_mm=args.length,
        lordosis_deg=args.lordosis,
        bender=Bender(die_radius_mm=args.die),
    )
    files = plan_rods(args.screws, args.out, args.side, args.stamp, args.cranial, order)
    for path, plan in files.items():
        print(describe(plan))
        print(f"wrote {path}")
    return 0
