# SPDX-License-Identifier: Apache-2.0
"""Plans from voxelised virtual anatomies, graded on the true surface that the planner never saw.

The mask is the true one, at 1 mm: what segmentation would add is not in these numbers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk

from rod_bending_ar.core.cortex import Cortex, planned_shaft
from spine_nav_common.core.run import Progress
from spine_nav_common.core.statistics import statistics
from spine_nav_common.core.surface import distance_field, signed_distance_m
from spine_nav_common.core.types import Mesh, Rejected, ScrewPlan
from spine_nav_common.core.voxels import inside_grid
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.anatomy_frame import find_frame
from spine_nav_sim.core.planning import plan_level
from spine_nav_sim.core.splits import anatomy_seeds
from spine_planning.core.case_plan import above
from spine_planning.core.grades import grade_screw
from spine_planning.core.implants import Implants
from spine_planning.core.measures import measures_of
from spine_planning.core.planner import Pedicle, PlannerConfig, Vertebra, plan_vertebra
from spine_planning.core.surfaces import surface_of

from .results_common import Record, Target, provenance, share, stat, table

COUNT = 20
VOXEL_MM = 1.0
_LEVELS = ("L1", "L2", "L3", "L4", "L5")
_THIN = Implants((5.0,), Implants().lengths_mm)  # what fits with 1 mm may not be refused
_FITS = PlannerConfig(margin_mm=1.0, least_mm=1.0)
_WIDTH_MM, _PATH_MM, _ANGLE_DEG = 0.5, 1.5, 1.5


def planning_record(count: int = COUNT, progress: Progress | None = None) -> dict[str, Any]:
    """`count` anatomies of the list `judge`: grades, refusals, errors of surface and measures, times."""
    seeds = list(anatomy_seeds("judge"))[:count]
    screws: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    surface_mm: list[np.ndarray] = []
    measures: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {"surface": [], "planner": []}
    peer: list[str] = []
    for i, seed in enumerate(seeds):
        truth = make_anatomy(np.random.default_rng(seed), _LEVELS, f"virtual-{seed}").meshes
        made: dict[str, Mesh] = {}
        for level, mesh in truth.items():
            image, mask = voxelised(mesh, np.random.default_rng([seed, _LEVELS.index(level)]))
            started = time.perf_counter()
            found = surface_of(image, mask)
            times["surface"].append(time.perf_counter() - started)
            if isinstance(found, Rejected):
                refused.append({"seed": seed, "name": level, "reason": found.reason, "fits": True})
                continue
            made[level] = found.mesh
            surface_mm.append(1e3 * np.abs(signed_distance_m(mesh, found.mesh.vertices_m)))
        fields = {level: distance_field(mesh) for level, mesh in made.items()}
        for level, mesh in made.items():
            started = time.perf_counter()
            vertebra = plan_vertebra(level, mesh, Implants(), None, fields.get(above(level, made)))
            times["planner"].append(time.perf_counter() - started)
            sides = _judged(seed, level, vertebra, truth[level])
            screws += sides[0]
            refused += sides[1]
            if not isinstance(vertebra, Rejected):
                _compare(vertebra, truth[level], measures)
                peer += _rule_based(level, mesh, truth[level], vertebra)
            if progress is not None:
                progress(i, count, f"{seed} {level}")
    grades = [s["grade"] for s in screws]
    pedicles = len(screws) + len(refused)
    wrongly = sum(r["fits"] for r in refused)
    return {
        "seeds": seeds, "voxel_mm": VOXEL_MM, "pedicles": pedicles, "screws": screws,
        "refused": refused,
        "share_a": grades.count("A") / len(grades) if grades else None,
        "share_ab": sum(g in "AB" for g in grades) / len(grades) if grades else None,
        "share_wrongly_refused": wrongly / pedicles if pedicles else None,
        "rule_based_a": peer.count("A") / len(peer) if peer else None,
        "rule_based": len(peer),
        "surface_mm": statistics(np.concatenate(surface_mm)) if surface_mm else None,
        "measures": {name: statistics(values) for name, values in sorted(measures.items())},
        "surface_s": statistics(times["surface"]),
        "planner_10_screws_s": statistics([5.0 * t for t in times["planner"]]),
    }  # fmt: skip


def voxelised(mesh: Mesh, rng: np.random.Generator) -> tuple[sitk.Image, np.ndarray]:
    """A vertebra as its mask (Z, Y, X) in a grid that lies anyhow to it, and that grid."""
    low = 1e3 * mesh.vertices_m.min(axis=0) - 3.0 - rng.uniform(0.0, VOXEL_MM, 3)
    high = 1e3 * mesh.vertices_m.max(axis=0) + 3.0
    shape = tuple(np.ceil((high - low) / VOXEL_MM).astype(int))
    mask = inside_grid(1e3 * mesh.vertices_m, mesh.faces, low, VOXEL_MM, shape).T
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing([VOXEL_MM] * 3)
    image.SetOrigin([float(v) for v in low])
    return image, mask


def _judged(
    seed: int, level: str, vertebra: Vertebra | Rejected, truth: Mesh
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Screws graded on the truth, and refusals with whether a thin screw fits there."""
    screws, refused = [], []
    frame = find_frame(truth)
    fits: Vertebra | Rejected | None = None
    for side in ("left", "right"):
        found = vertebra if isinstance(vertebra, Rejected) else vertebra.pedicles[side]
        why = found.plans if isinstance(found, Pedicle) else found
        assert not isinstance(why, Vertebra)
        if isinstance(why, Rejected):
            fits = fits or plan_vertebra(level, truth, _THIN, _FITS)
            own = fits if isinstance(fits, Rejected) else fits.pedicles[side]
            refused.append({
                "seed": seed, "name": f"{level}_{side}", "reason": why.reason,
                "fits": isinstance(own, Pedicle) and not isinstance(own.plans, Rejected),
            })  # fmt: skip
            continue
        screw = why[0]
        grade = grade_screw(truth, frame, screw.plan, screw.diameter_mm)
        screws.append({
            "seed": seed, "name": f"{level}_{side}", "diameter_mm": screw.diameter_mm,
            "length_mm": screw.length_mm, "planned_margin_mm": round(screw.margin_mm, 2),
            # a screw that cannot be graded on the truth counts as the worst
            "grade": "E" if isinstance(grade, Rejected) else grade.shaft.grade,
            "margin_mm": None if isinstance(grade, Rejected) else round(grade.shaft.least_mm, 2),
            "toward": None if isinstance(grade, Rejected) else grade.toward,
        })  # fmt: skip
    return screws, refused


def _compare(vertebra: Vertebra, truth: Mesh, errors: dict[str, list[float]]) -> None:
    """The same measures on the true surface."""
    other = plan_vertebra(vertebra.level, truth, Implants())
    if isinstance(other, Rejected):
        return
    ours, theirs = measures_of(vertebra), measures_of(other)
    for name in set(ours) & set(theirs):
        plain = name.replace("_left", "").replace("_right", "")
        errors.setdefault(plain, []).append(abs(ours[name] - theirs[name]))


def _rule_based(level: str, mesh: Mesh, truth: Mesh, vertebra: Vertebra) -> list[str]:
    """Grades of the pedicle's axis through its narrowest section, with our screws' diameters; only
    where ours are planned too."""
    plans: tuple[ScrewPlan, ...] | Rejected = plan_level(mesh, level)
    out = []
    for side in ("left", "right"):
        ours = vertebra.pedicles[side]
        if isinstance(ours, Rejected) or isinstance(ours.plans, Rejected):
            continue
        if isinstance(plans, Rejected):
            out.append("refused")
            continue
        plan = next(p for p in plans if p.side == side)
        cortex = Cortex(truth, (plan,), "LPS")
        found = planned_shaft(cortex, plan, 0.0, ours.plans[0].diameter_mm)
        out.append("E" if isinstance(found, Rejected) else found.grade)
    return out


def _grades(r: Record) -> tuple[str, bool] | None:
    if r["share_a"] is None:
        return None
    text = f"{100 * r['share_a']:.1f} % / {100 * r['share_ab']:.1f} % of {len(r['screws'])}"
    return text, r["share_a"] >= 0.99 and r["share_ab"] >= 1.0


def _refused(r: Record) -> tuple[str, bool] | None:
    wrong = r["share_wrongly_refused"]
    return None if wrong is None else (share(wrong), wrong <= 0.02)


def _surface(r: Record) -> tuple[str, bool] | None:
    s = r["surface_mm"]
    return None if s is None else (
        f"{s['mean']:.2f} / {s['p95']:.2f} mm", s["mean"] <= 0.5 and s["p95"] <= 1.5
    )  # fmt: skip


def _measured(r: Record) -> tuple[str, bool] | None:
    found = [
        r["measures"].get(k)
        for k in ("pedicle_width_mm", "screw_path_length_mm", "pedicle_axial_angle_deg")
    ]
    if None in found:
        return None
    means = [f["mean"] for f in found]
    met = all(m <= g for m, g in zip(means, (_WIDTH_MM, _PATH_MM, _ANGLE_DEG), strict=True))
    return f"{means[0]:.2f} mm, {means[1]:.2f} mm, {means[2]:.2f}°", met


def _time(r: Record) -> tuple[str, bool] | None:
    s = r["planner_10_screws_s"]
    return None if s is None else (f"{s['median']:.2f} s", s["median"] <= 1.0)


PLANNING_TARGETS: Sequence[Target] = (
    Target("plans on virtual patients graded on the true bone, Gertzbein-Robbins A / A+B, true mask at"
           " 1 mm", "≥ 99 % / 100 %", "96.2 to 99 % A", "planning", _grades),
    Target("pedicles refused although a 5 mm screw fits with 1 mm", "≤ 2 %", "not reported",
           "planning", _refused),
    Target("surface from the mask at 1 mm, mean / 95 %", "≤ 0.5 / 1.5 mm", "not reported",
           "planning", _surface),
    Target("pedicle width, path length, axial angle: mean error", "≤ 0.5 mm, 1.5 mm, 1.5°",
           "ICC 0.82 to 0.98", "planning", _measured),
    Target("planner, 10 screws", "≤ 1 s", "26 s + 2 s per screw", "planning", _time),
)  # fmt: skip


def planning_table(r: Record) -> list[str]:
    """Grades by diameter of the screw, and the errors."""
    rows = []
    for diameter in sorted({s["diameter_mm"] for s in r["screws"]}):
        own = [s for s in r["screws"] if s["diameter_mm"] == diameter]
        counts = [sum(s["grade"] == g for s in own) for g in "ABCDE"]
        rows.append((f"{diameter:g} mm", str(len(own)), *map(str, counts)))
    out = table(("screw", "n", *"ABCDE"), rows)
    out += ["", *table(("what", "mean / median / 95 %"), [
        ("surface, mm", stat(r["surface_mm"])),
        *((name.replace("_", " "), stat(s)) for name, s in r["measures"].items()),
        ("surface of a vertebra, s", stat(r["surface_s"])),
        ("planner, 10 screws, s", stat(r["planner_10_screws_s"])),
    ])]  # fmt: skip
    return out


def planning_section(r: Record) -> list[str]:
    """The part of docs/results.md."""
    return [
        "## From a scan to a plan", "", *provenance(r), "",
        (f"{len(r['seeds'])} virtual patients of the list `judge`, {r['pedicles']} pedicles, masks at"
         f" {r['voxel_mm']:g} mm; {len(r['refused'])} refused. The true mask is given: what"
         " segmentation adds is not in it. Measures: ours on the surface from the mask against ours on"
         " the true surface. Rule-based peer, the axis through the narrowest section with our"
         f" diameters: {share(r['rule_based_a'])} A of {r['rule_based']}."), "",
        *planning_table(r), "",
    ]  # fmt: skip
