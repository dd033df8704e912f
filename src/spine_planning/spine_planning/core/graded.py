# SPDX-License-Identifier: Apache-2.0
"""Grades and measures of a case that is there already, whoever made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rod_bending_ar.core.cortex import DIAMETER_MM
from spine_nav_common.core.case import anatomical_axes, load_case
from spine_nav_common.core.errors import PlanError
from spine_nav_common.core.markups import load_plan
from spine_nav_common.core.screw_names import read_screw_name
from spine_nav_common.core.surface import distance_field
from spine_nav_common.core.tables import read_json
from spine_nav_common.core.types import Case, Mesh, Rejected, ScrewPlan
from spine_nav_sim.core.anatomy_frame import find_frame

from .case_plan import above, screw_document
from .grades import ERROR95_MM, grade_screw
from .implants import Implants
from .measures import lordosis_deg, measures_of
from .planner import plan_vertebra
from .sampling import Sampler, density_along
from .scan import load_scan


def grade_case(
    folder: Path,
    screws: Path,
    ct: Path | None = None,
    diameter_mm: float = DIAMETER_MM,
    error95_mm: float = ERROR95_MM,
) -> dict[str, Any]:
    """Grades of screws against a case's vertebrae, as the `screws` of plan_report.json.

    Args:
        screws: markups (.mrk.json) in the case's CT, or a plan_report.json, which says its diameters.
        ct: the scan, in the case's frame, for the density along the thread.
        diameter_mm: of screws whose file says none.

    Raises InputError.
    """
    case = load_case(folder)
    named = _read_screws(case, screws, diameter_mm)
    R = anatomical_axes(case.orientation)  # p @ R: LPS
    meshes = _lps(case, R)
    frames = {v: find_frame(meshes[v]) for v in dict.fromkeys(p.level for p, _ in named)}
    sampler = None if ct is None else Sampler(load_scan(ct).image)
    to_scan = np.eye(3) if case.frame == "LPS" else np.diag([-1.0, -1.0, 1.0])
    graded, refused = [], []
    for plan, diameter in named:
        own = ScrewPlan(plan.level, plan.side, plan.entry_m @ R, plan.target_m @ R)
        upper = above(plan.level, meshes)
        found = grade_screw(
            meshes[plan.level], frames[plan.level], own, diameter, error95_mm,
            distance_field(meshes[upper]) if upper else None,
        )  # fmt: skip
        if isinstance(found, Rejected):
            refused.append({"name": f"{plan.level}_{plan.side}", "reason": found.reason})
            continue
        if sampler is not None:
            hu = density_along(sampler, plan.entry_m @ to_scan, plan.target_m @ to_scan, diameter)
            found = replace(found, density_hu=hu)
        graded.append(screw_document(plan, diameter, found))
    return {
        "version": 1, "predicted_error_mm": error95_mm, "screws": graded, "refused": refused,
        "notes": list(case.notes),
    }  # fmt: skip


def _lps(case: Case, R: np.ndarray) -> dict[str, Mesh]:
    return {v: Mesh(m.vertices_m @ R, m.faces) for v, m in case.meshes.items()}


def _read_screws(case: Case, path: Path, diameter_mm: float) -> list[tuple[ScrewPlan, float]]:
    if path.suffix.lower() == ".csv":
        raise PlanError(
            path, "--screws", "screws.csv is in the camera's frame, and nothing in it says where the"
            " bone was",
            "give markups in the CT's frame; `spinenav report SESSION --case` grades placed screws",
        )  # fmt: skip
    document = read_json(path)
    if "screws" not in document:
        lines = load_plan([path], case.frame).lines
        named = [(line, diameter_mm) for line in lines]
    else:
        scan = document.get("scan")
        sha256 = str(scan.get("sha256", "")) if isinstance(scan, dict) else ""
        if sha256 and case.name.startswith("scan-") and case.name != f"scan-{sha256[:8]}":
            raise PlanError(
                path, "scan", f"it is the plan of scan-{sha256[:8]}, the case is {case.name}",
                "give the plan and the case of one scan",
            )  # fmt: skip
        named = [_of_report(path, i, entry) for i, entry in enumerate(document["screws"])]
    for plan, _ in named:
        if plan.level not in case.meshes:
            raise PlanError(
                path, f"{plan.level}_{plan.side}", f"the case has no {plan.level}",
                "correct the name, or add the vertebra to the case",
            )  # fmt: skip
    return named


def _of_report(path: Path, i: int, entry: Any) -> tuple[ScrewPlan, float]:
    field = f"screws[{i}]"
    try:
        name = read_screw_name(str(entry["name"]))
        ends = np.array([entry["entry_mm"], entry["target_mm"]], float)
        diameter = float(entry["diameter_mm"])
        if isinstance(name, Rejected):
            raise PlanError(path, field, name.reason, "name it as L3_left")
        if ends.shape != (2, 3) or not np.isfinite(ends).all() or not 2.0 < diameter < 15.0:
            raise ValueError("entry, target or diameter is none")
    except PlanError:
        raise
    except (TypeError, KeyError, ValueError) as error:
        raise PlanError(
            path, field, f"not readable ({error})",
            "write name, entry_mm, target_mm and diameter_mm",
        ) from error  # fmt: skip
    return ScrewPlan(name[0], name[1], 1e-3 * ends[0], 1e-3 * ends[1]), diameter


def measure_case(folder: Path) -> dict[str, Any]:
    """Measures of every vertebra of a case, and why some could not be measured. Raises CaseError."""
    case = load_case(folder)
    meshes = _lps(case, anatomical_axes(case.orientation))
    vertebrae, refused = {}, {}
    for level, mesh in meshes.items():
        if level == "S1":
            refused[level] = "the sacrum has no pedicles that are measured"
            continue
        found = plan_vertebra(level, mesh, Implants())
        if isinstance(found, Rejected):
            refused[level] = found.reason
        else:
            vertebrae[level] = found
    return {
        "version": 1,
        "measures": {level: measures_of(v) for level, v in vertebrae.items()},
        "lordosis_deg": lordosis_deg(vertebrae),
        "refused": refused,
        "notes": list(case.notes),
    }


def grade_words(document: Mapping[str, Any]) -> str:
    """Grades as lines for a terminal."""
    lines = []
    for s in document["screws"]:
        g, m = s["grade"], s["margin_mm"]
        room = ", ".join(f"{k} {v:.1f}" for k, v in m.items() if v is not None)
        hu = "" if s.get("density_hu") is None else f", {s['density_hu']} HU"
        lines.append(
            f"{s['name']}: {s['diameter_mm']:g} × {s['length_mm']:g} mm, Gertzbein-Robbins"
            f" {g['gertzbein_robbins']} (nearest {g['direction']}), breach in"
            f" {100 * s['p_breach']:.1f} % of poses; margins mm: {room}{hu}"
        )
    lines += [f"{r['name']}: refused: {r['reason']}" for r in document["refused"]]
    return "\n".join(lines)
