# SPDX-License-Identifier: Apache-2.0
"""From a scan and its mask to a case with a graded plan: all of it, or nothing."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from spine_nav_common.core.case import load_case, write_case
from spine_nav_common.core.errors import CaseError, PlanError
from spine_nav_common.core.surface import distance_field
from spine_nav_common.core.tables import write_json
from spine_nav_common.core.types import LEVEL_CODE, LEVELS, Case, Mesh, Rejected, ScrewPlan

from .ct_network import OnnxCtNetwork, load_network
from .grades import ERROR95_MM, Grade, grade_screw
from .implants import Implants
from .labels import Labels, load_labels
from .measures import lordosis_deg, measures_of
from .pictures import Look, screw_png, spine_png
from .planner import PlannedScrew, PlannerConfig, Vertebra, plan_vertebra
from .report import Page, render
from .sampling import Sampler, density_along, hounsfield
from .scan import Scan, load_scan
from .segment import (
    NO_NETWORK,
    NO_NETWORK_REMEDY,
    Segmented,
    segment_scan,
    write_labels,
)
from .surfaces import Surface, surface_of

REPORT, PAGE, LABELS = "plan_report.json", "report.html", "labels.nii.gz"
Progress = Callable[[int, "int | None", str], None]


@dataclass(frozen=True)
class Wanted:
    """What `spinenav plan` was asked. labels: the mask, None = the network finds the vertebrae;
    levels: to plan, None = every whole one; names: numbering of the mask; found: the user's names of
    what the network finds, from head to foot; error95_mm: predicted error of the registration, 95 %."""

    scan: Path
    out: Path
    labels: Path | None
    levels: tuple[str, ...] | None = None
    implants: Implants = field(default_factory=Implants)
    names: str | None = None
    series: str | None = None
    error95_mm: float = ERROR95_MM
    config: PlannerConfig = field(default_factory=PlannerConfig)
    found: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Planned:
    """What was planned: document of plan_report.json, and seconds by stage."""

    document: dict[str, Any]
    seconds: dict[str, float]


def plan_case(wanted: Wanted, progress: Progress | None = None) -> Planned:
    """Read, make surfaces, measure, plan, grade, and write wanted.out.

    Raises InputError (ScanError, PlanError, CaseError): nothing is written.
    """
    network = load_network() if wanted.labels is None else None
    if wanted.labels is None and network is None:
        raise PlanError(
            wanted.scan, "--labels", f"there is no mask of its vertebrae, and {NO_NETWORK}",
            NO_NETWORK_REMEDY,
        )  # fmt: skip
    out = wanted.out.resolve()  # a link is kept, what it leads to is written
    _check_out(out)
    _check_levels(wanted)
    clock = _Clock(progress)
    clock("reading the scan")
    scan = load_scan(wanted.scan, wanted.series)
    segmentation = None
    if network is not None:
        clock("segmentation")
        made = segment_scan(scan, network, wanted.found, clock.step)
        labels, segmentation = made.labels, _told(made, network)
    else:
        assert wanted.labels is not None
        clock("reading the mask")
        labels = load_labels(wanted.labels, scan, wanted.names)
    levels = _levels(wanted, labels)
    is_hu, note = hounsfield(scan, labels.codes)
    notes = [*scan.notes, *labels.notes, *([note] if note else [])]
    clock("surfaces")
    surfaces = _surfaces(scan, labels, levels, clock)
    meshes = {level: s.mesh for level, s in surfaces.items()}
    clock("planning")
    vertebrae, refused = _vertebrae(meshes, levels, wanted, clock)
    clock("grading")
    sampler = Sampler(scan.image) if is_hu else None
    graded = _graded(vertebrae, meshes, wanted, sampler, refused)
    measures = {level: measures_of(v) for level, v in vertebrae.items()}
    document = _document(wanted, scan, surfaces, vertebrae, graded, refused, measures, notes)
    document["segmentation"] = segmentation  # None: the mask was given
    clock("pictures")
    screws = tuple(p.plan for p, _ in graded)
    exposed = tuple(v for v in meshes if v in levels)
    case = Case(f"scan-{scan.sha256[:8]}", "LPS", meshes, exposed, screws, "")
    page = _page(case, document, vertebrae, graded, sampler, clock)
    clock("writing")
    _write(out, case, document, page, scan, labels)
    clock.stop()
    return Planned(document, clock.seconds)


def _told(made: Segmented, network: OnnxCtNetwork) -> dict[str, Any]:
    """How the mask came about, for plan_report.json."""
    return {
        "network_sha256": network.model_sha256,
        "levels_known": made.because,
        "certainty": made.certainty,
    }


class _Clock:
    """Stages and their seconds, told as progress."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._stage, self._since = progress, "", time.perf_counter()
        self.seconds: dict[str, float] = {}
        self._count = 0

    def __call__(self, stage: str) -> None:
        self.stop()
        self._stage, self._since = stage, time.perf_counter()
        self._count += 1
        self.step(stage)

    def step(self, note: str) -> None:
        if self._progress is not None:
            self._progress(self._count, 7, note)

    def stop(self) -> None:
        if self._stage:
            self.seconds[self._stage] = time.perf_counter() - self._since
        self._stage = ""


def _check_out(out: Path) -> None:
    if not out.exists():
        return
    own = {REPORT, PAGE, LABELS, "case.yaml", "plan.mrk.json", *(f"{v}.ply" for v in LEVELS)}
    there = [f.name for f in out.iterdir()] if out.is_dir() else [out.name]
    other = sorted(set(there) - own) if REPORT in there else there
    if other:
        raise PlanError(
            out, "--out", f"there is something else already ({other[0]})",
            "name a new folder: nothing is overwritten",
        )  # fmt: skip


def _check_levels(wanted: Wanted) -> None:
    for level in wanted.levels or ():
        if level not in LEVELS:
            raise PlanError("--levels", level, "is unknown", "use T1 to T12, L1 to L6, as L3,L4")


def _levels(wanted: Wanted, labels: Labels) -> tuple[str, ...]:
    for level in wanted.levels or ():
        if level in labels.cut:
            raise PlanError(
                wanted.scan, "--levels", f"{level} is cut off by the border of the scan",
                "give a scan that shows it whole",
            )  # fmt: skip
        if level not in labels.levels:
            raise PlanError(
                wanted.scan, "--levels", f"{level} is not in the mask",
                f"choose from {', '.join(labels.levels)}",
            )  # fmt: skip
    return wanted.levels or labels.levels


def _surfaces(
    scan: Scan, labels: Labels, levels: tuple[str, ...], clock: _Clock
) -> dict[str, Surface]:
    made: dict[str, Surface] = {}
    for level in labels.levels:
        clock.step(f"surface of {level}")
        found = surface_of(scan.upright, labels.codes == LEVEL_CODE[level])
        if isinstance(found, Rejected):
            raise PlanError("mask", level, found.reason, "correct the mask of this vertebra")
        made[level] = found
    return made


def _vertebrae(
    meshes: Mapping[str, Mesh], levels: tuple[str, ...], wanted: Wanted, clock: _Clock
) -> tuple[dict[str, Vertebra], list[dict[str, str]]]:
    fields = {level: distance_field(mesh) for level, mesh in meshes.items()}
    vertebrae: dict[str, Vertebra] = {}
    refused: list[dict[str, str]] = []
    for level in (v for v in meshes if v in levels):
        clock.step(f"planning {level}")
        found = plan_vertebra(
            level, meshes[level], wanted.implants, wanted.config, fields.get(above(level, meshes))
        )
        if isinstance(found, Rejected):
            refused += [{"name": f"{level}_{s}", "reason": found.reason} for s in ("left", "right")]
            continue
        vertebrae[level] = found
        for side, pedicle in found.pedicles.items():
            why = pedicle if isinstance(pedicle, Rejected) else pedicle.plans
            if isinstance(why, Rejected):
                refused.append({"name": f"{level}_{side}", "reason": why.reason})
    return vertebrae, refused


def above(level: str, meshes: Mapping[str, Mesh]) -> str:
    """The next level towards the head that is there, "" where the neighbour is not."""
    i = LEVELS.index(level)
    near = [v for v in LEVELS[max(i - 2, 0) : i] if v in meshes]
    # L6 is there in few people: L5 is S1's neighbour, and nobody's but the next one otherwise
    return near[-1] if near and (LEVELS.index(near[-1]) == i - 1 or level == "S1") else ""


def _graded(
    vertebrae: Mapping[str, Vertebra],
    meshes: Mapping[str, Mesh],
    wanted: Wanted,
    sampler: Sampler | None,
    refused: list[dict[str, str]],
) -> list[tuple[PlannedScrew, Grade]]:
    out = []
    for level, vertebra in vertebrae.items():
        upper = above(level, meshes)
        other = distance_field(meshes[upper]) if upper else None
        for pedicle in vertebra.pedicles.values():
            if isinstance(pedicle, Rejected) or isinstance(pedicle.plans, Rejected):
                continue
            screw = pedicle.plans[0]
            grade = grade_screw(
                meshes[level],
                vertebra.frame,
                screw.plan,
                screw.diameter_mm,
                wanted.error95_mm,
                other,
            )
            if isinstance(grade, Rejected):
                refused.append({"name": f"{level}_{pedicle.side}", "reason": grade.reason})
                continue
            if sampler is not None:
                hu = density_along(
                    sampler, screw.plan.entry_m, screw.plan.target_m, screw.diameter_mm
                )
                grade = replace(grade, density_hu=hu)
            out.append((screw, grade))
    return out


def _document(
    wanted: Wanted,
    scan: Scan,
    surfaces: Mapping[str, Surface],
    vertebrae: Mapping[str, Vertebra],
    graded: list[tuple[PlannedScrew, Grade]],
    refused: list[dict[str, str]],
    measures: Mapping[str, Mapping[str, float]],
    notes: list[str],
) -> dict[str, Any]:
    screws = []
    for screw, grade in graded:
        pedicle = vertebrae[screw.plan.level].pedicles[screw.plan.side]
        assert not isinstance(pedicle, Rejected) and not isinstance(pedicle.plans, Rejected)
        screws.append({
            **screw_document(screw.plan, screw.diameter_mm, grade),
            "why": screw.why,
            "alternatives": [
                {**_ends(p.plan), "diameter_mm": p.diameter_mm, "length_mm": p.length_mm,
                 "least_margin_mm": round(p.margin_mm, 2), "why": p.why}
                for p in pedicle.plans[1:]
            ],
        })  # fmt: skip
    return {
        "version": 1,
        "scan": {"sha256": scan.sha256, "spacing_mm": list(scan.spacing_mm), "modality": scan.modality},
        "predicted_error_mm": wanted.error95_mm,
        "implants": {
            "diameters_mm": list(wanted.implants.diameters_mm),
            "lengths_mm": list(wanted.implants.lengths_mm),
        },
        "screws": screws,
        "refused": refused,
        "measures": dict(measures),
        "lordosis_deg": lordosis_deg(vertebrae),
        "surfaces": {
            level: {
                "deviation_mean_mm": round(s.deviation_mm[0], 3),
                "deviation_p95_mm": round(s.deviation_mm[1], 3),
                "volume_ml": round(s.volume_ml[0], 2),
                "mask_volume_ml": round(s.volume_ml[1], 2),
            }
            for level, s in surfaces.items()
        },
        "notes": notes,
    }  # fmt: skip


def _ends(plan: ScrewPlan) -> dict[str, list[float]]:
    return {
        "entry_mm": [round(1e3 * float(v), 3) for v in plan.entry_m],
        "target_mm": [round(1e3 * float(v), 3) for v in plan.target_m],
    }


def screw_document(plan: ScrewPlan, diameter_mm: float, grade: Grade) -> dict[str, Any]:
    """One screw of plan_report.json."""
    length = 1e3 * float(np.linalg.norm(plan.target_m - plan.entry_m))
    return {
        "name": f"{plan.level}_{plan.side}",
        **_ends(plan),
        "diameter_mm": diameter_mm,
        "length_mm": round(length, 2),
        **grade.to_dict(),
    }


def _page(
    case: Case,
    document: dict[str, Any],
    vertebrae: Mapping[str, Vertebra],
    graded: list[tuple[PlannedScrew, Grade]],
    sampler: Sampler | None,
    clock: _Clock,
) -> str:
    fields = {level: distance_field(mesh) for level, mesh in case.meshes.items()}
    pictures = {}
    order = list(case.meshes)
    for screw, grade in graded:
        level = screw.plan.level
        at = order.index(level)
        near = [v for v in order[max(at - 1, 0) : at + 2] if v != level]
        name = f"{level}_{screw.plan.side}"
        clock.step(f"picture of {name}")
        pictures[name] = screw_png(
            Look(
                screw.plan, screw.diameter_mm, grade, vertebrae[level].frame.T_mesh_vertebra[:3, :3],
                fields[level], tuple(fields[v] for v in near), sampler,
            )
        )  # fmt: skip
    overview = spine_png(case.meshes, [(p.plan, p.diameter_mm, g.shaft.grade) for p, g in graded])
    spacing = " × ".join(f"{v:.2f}" for v in document["scan"]["spacing_mm"])
    fact = (
        f"Scan {document['scan']['sha256'][:12]}, voxels of {spacing} mm;"
        f" {len(document['screws'])} screws planned, {len(document['refused'])} refused."
    )
    return render(Page(f"Screw plan {case.name}", [fact], document, overview, pictures))


def _write(
    out: Path, case: Case, document: dict[str, Any], page: str, scan: Scan, labels: Labels
) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=".plan-", dir=out.parent
    ) as made:  # gone, stopped or not
        part = Path(made) / "case"
        write_case(part, case)
        try:
            load_case(part)  # what nobody could load is not left behind
        except CaseError as error:
            raise PlanError("mask", error.field, error.problem, error.remedy) from error
        write_json(part / REPORT, document)
        (part / PAGE).write_text(page, encoding="utf-8")
        write_labels(part / LABELS, labels, scan)
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
