# SPDX-License-Identifier: Apache-2.0
"""The metrics of docs/contracts.md, section 5: what `evaluate` computes from an output folder and truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import OutputError
from .geometry import rotation_angle, transform_points
from .implant_metrics import RodScore, ScrewScore, score_rods, score_screws
from .implant_outputs import RODS, SCREWS, read_rods, read_screws
from .outputs import POSES, PoseRow, read_poses
from .statistics import median, percent, spread, statistics
from .truth import Truth, TruthFrame
from .types import Case, ScrewPlan, Status

SUCCESS_DEG, SUCCESS_MM = 5.0, 4.0
SILENT_FAILURE_MM = 4.0


@dataclass(frozen=True)
class PoseError:
    """Errors of one level in one frame that was shown as tracked.

    trer_deg and eper_mm hold one value per plan line. nearest_level is the level whose true
    centroid is closest to the estimated one; another name than `level` is a wrong level.
    """

    stamp_ns: int
    level: str
    tre_mm: float
    trer_deg: tuple[float, ...]
    eper_mm: tuple[float, ...]
    add_mm: float
    rotation_deg: float
    centroid_mm: float
    predicted_tre_mm: float
    nearest_level: str

    @property
    def success(self) -> bool:
        """Whether a first pose with these errors counts as a successful registration."""
        return self.rotation_deg < SUCCESS_DEG and self.centroid_mm < SUCCESS_MM


@dataclass(frozen=True)
class LevelOutcome:
    """What became of one exposed level in one scene.

    frames: frames with truth for it; statuses: its rows there by status; errors: its tracked rows.
    """

    level: str
    frames: int
    statuses: dict[str, int]
    errors: tuple[PoseError, ...]

    @property
    def success(self) -> bool:
        """First tracked row under 5 degrees and 4 mm; never tracked is a failure."""
        return bool(self.errors) and self.errors[0].success


@dataclass(frozen=True)
class Report:
    """The evaluation of one or several scenes; `to_dict` gives the numbers, format_report a table.

    Attributes:
        outcomes: one per scene and exposed level.
        frames: frames with truth.
        frames_without_rows: of these, those that poses.csv leaves out (their levels count as not
            available).
        rows_without_truth: rows of poses.csv that no truth can judge; in no other number.
        screws, rods: None where the folder holds no screws.csv or rods.json.
    """

    outcomes: tuple[LevelOutcome, ...]
    frames: int
    frames_without_rows: int = 0
    rows_without_truth: int = 0
    screws: ScrewScore | None = None
    rods: RodScore | None = None
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """All metrics, pooled and per level, as JSON types; None where there is nothing to tell."""
        levels = list(dict.fromkeys(o.level for o in self.outcomes))
        return {
            "version": 1,
            "frames": self.frames,
            "frames_without_rows": self.frames_without_rows,
            "rows_without_truth": self.rows_without_truth,
            "pooled": summarise(self.outcomes),
            "levels": {v: summarise([o for o in self.outcomes if o.level == v]) for v in levels},
            "screws": None if self.screws is None else self.screws.to_dict(),
            "rods": None if self.rods is None else self.rods.to_dict(),
            "notes": list(self.notes),
        }


def summarise(outcomes: Sequence[LevelOutcome]) -> dict[str, Any]:
    """The metrics of some outcomes, pooled over their level-frames."""
    errors = [e for o in outcomes for e in o.errors]
    frames = sum(o.frames for o in outcomes)
    silent = sum(e.tre_mm > SILENT_FAILURE_MM for e in errors)
    covered = sum(e.tre_mm <= e.predicted_tre_mm for e in errors)
    statuses: Counter[str] = Counter()
    for outcome in outcomes:
        statuses.update(outcome.statuses)
    return {
        "levels": len(outcomes),
        "levels_registered": sum(o.success for o in outcomes),
        "levels_failed": sum(not o.success for o in outcomes),
        "level_frames": frames,
        "tracked": len(errors),
        "availability": len(errors) / frames if frames else None,
        "tre_mm": statistics(e.tre_mm for e in errors),
        "trer_deg": statistics(v for e in errors for v in e.trer_deg),
        "eper_mm": statistics(v for e in errors for v in e.eper_mm),
        "add_mm": statistics(e.add_mm for e in errors),
        "silent_failures": silent,
        "silent_failure_rate": silent / len(errors) if errors else None,
        "wrong_level": sum(e.nearest_level != e.level for e in errors),
        "bound_mm": statistics(e.predicted_tre_mm for e in errors),
        "coverage95": covered / len(errors) if errors else None,
        "statuses": dict(sorted(statuses.items())),
    }


def evaluate(out_dir: str | Path, truth: Truth, case: Case) -> Report:
    """Judge the poses.csv, screws.csv and rods.json that a folder holds.

    Raises:
        OutputError: none of the three is there, one is damaged, a row names a level that is not
            in the case, or a level has two rows in one frame.
    """
    out_dir = Path(out_dir)
    present = {name: (out_dir / name).is_file() for name in (POSES, SCREWS, RODS)}
    if not any(present.values()):
        raise OutputError(
            out_dir,
            "",
            "it holds no poses.csv, screws.csv or rods.json",
            "give the --out folder of replay or screws",
        )
    screws = rods = None
    if present[SCREWS]:
        screws = score_screws(read_screws(out_dir / SCREWS), truth)
    if present[RODS]:
        rods = score_rods(*read_rods(out_dir / RODS), truth)
    if not present[POSES]:
        return Report((), len(truth.frames), screws=screws, rods=rods)
    report = evaluate_poses(read_poses(out_dir / POSES), truth, case, out_dir / POSES)
    return Report(
        report.outcomes,
        report.frames,
        report.frames_without_rows,
        report.rows_without_truth,
        screws,
        rods,
        report.notes,
    )


def evaluate_poses(
    rows: Sequence[PoseRow], truth: Truth, case: Case, source: str | Path = POSES
) -> Report:
    """Judge pose rows; `source` names them in errors. Raises OutputError as evaluate does."""
    by_level: dict[str, dict[int, PoseRow]] = {level: {} for level in case.exposed_levels}
    for row in rows:
        if row.level not in by_level:
            raise OutputError(
                source,
                f"stamp_ns {row.stamp_ns}",
                f"level {row.level!r} is not exposed in the case",
                "evaluate with the case that replay had",
            )
        if row.stamp_ns in by_level[row.level]:
            raise OutputError(
                source,
                f"stamp_ns {row.stamp_ns}",
                f"{row.level} has two rows",
                "the file is damaged: run again",
            )
        by_level[row.level][row.stamp_ns] = row
    centroids = {level: mesh.vertices_m.mean(axis=0) for level, mesh in case.meshes.items()}
    outcomes = []
    for level, own in by_level.items():
        known = [s for s, frame in truth.frames.items() if level in frame.T_camera_ct]
        judged = [own[s] for s in sorted(known) if s in own]
        errors = tuple(
            pose_error(row, truth.frames[row.stamp_ns], case, centroids)
            for row in judged
            if row.status is Status.TRACKED
        )
        statuses = dict(Counter(row.status.value for row in judged))
        outcomes.append(LevelOutcome(level, len(known), statuses, errors))
    stamps = {row.stamp_ns for row in rows}
    unjudged = sum(
        row.stamp_ns not in truth.frames or row.level not in truth.frames[row.stamp_ns].T_camera_ct
        for row in rows
    )
    notes: tuple[str, ...] = ()
    if set(truth.exposed) != set(case.exposed_levels):
        notes = (
            (
                f"the case calls {', '.join(case.exposed_levels)} exposed, "
                f"the truth {', '.join(truth.exposed)}: judged are the case's"
            ),
        )
    return Report(
        tuple(outcomes), len(truth.frames), len(set(truth.frames) - stamps), unjudged, notes=notes
    )


def pose_error(
    row: PoseRow, frame: TruthFrame, case: Case, centroids: dict[str, np.ndarray]
) -> PoseError:
    """Errors of one tracked row; centroids (3,) in mesh coordinates per level, metres."""
    T, T_true = row.T_camera_ct, frame.T_camera_ct[row.level]
    if T is None or row.predicted_tre_mm is None:
        raise ValueError(f"{row.level} at {row.stamp_ns} has no pose")
    lines = [p for p in case.plan if p.level == row.level]
    own = transform_points(T, centroids[row.level])
    distances = {
        level: float(np.linalg.norm(own - transform_points(frame.T_camera_ct[level], centroid)))
        for level, centroid in centroids.items()
        if level in frame.T_camera_ct
    }
    return PoseError(
        stamp_ns=row.stamp_ns,
        level=row.level,
        tre_mm=mean_distance_mm(T, T_true, case.plan_points_m(row.level)),
        trer_deg=tuple(trajectory_error_deg(T, T_true, line) for line in lines),
        eper_mm=tuple(mean_distance_mm(T, T_true, line.entry_m[None]) for line in lines),
        add_mm=mean_distance_mm(T, T_true, case.meshes[row.level].vertices_m),
        rotation_deg=float(np.degrees(rotation_angle(T[:3, :3] @ T_true[:3, :3].T))),
        centroid_mm=1e3 * distances[row.level],
        predicted_tre_mm=row.predicted_tre_mm,
        nearest_level=min(distances, key=distances.__getitem__),
    )


def mean_distance_mm(T: np.ndarray, T_true: np.ndarray, points_m: np.ndarray) -> float:
    """Mean distance in mm between points (N, 3) moved by two transforms (4, 4)."""
    d = transform_points(T, points_m) - transform_points(T_true, points_m)
    return 1e3 * float(np.linalg.norm(d, axis=1).mean())


def trajectory_error_deg(T: np.ndarray, T_true: np.ndarray, line: ScrewPlan) -> float:
    """Angle in degrees between a planned axis moved by two transforms (TrEr)."""
    u = T[:3, :3] @ (line.target_m - line.entry_m)
    v = T_true[:3, :3] @ (line.target_m - line.entry_m)
    # atan2 keeps small angles that acos rounds away
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(u, v)), abs(float(u @ v)))))


def pool_reports(reports: Sequence[Report]) -> Report:
    """One report over several scenes: every level-frame and head weighs the same."""
    screws = [r.screws for r in reports if r.screws is not None]
    rods = [r.rods for r in reports if r.rods is not None]
    return Report(
        tuple(o for r in reports for o in r.outcomes),
        sum(r.frames for r in reports),
        sum(r.frames_without_rows for r in reports),
        sum(r.rows_without_truth for r in reports),
        ScrewScore.pool(screws) if screws else None,
        RodScore.pool(rods) if rods else None,
        tuple(dict.fromkeys(n for r in reports for n in r.notes)),
    )


def format_report(report: Report) -> str:
    """The report as a text table, one line per level and one for all, then screws and rods."""
    document = report.to_dict()
    lines = []
    if report.outcomes:
        head = (
            f"{'level':<6}{'frames':>7}{'tracked':>9}{'TRE mm mean/med/p95':>22}"
            f"{'TrEr deg med':>14}{'EpEr mm med':>13}{'ADD mm med':>12}{'registered':>12}"
            f"{'silent':>8}{'wrong':>7}{'cover95':>9}"
        )
        lines += [head, "-" * len(head)]
        for name, m in (*document["levels"].items(), ("all", document["pooled"])):
            lines.append(
                f"{name:<6}{m['level_frames']:>7}{percent(m['availability']):>9}{spread(m['tre_mm']):>22}"
                f"{median(m['trer_deg']):>14}{median(m['eper_mm']):>13}"
                f"{median(m['add_mm']):>12}{m['levels_registered']:>8} / {m['levels']:<1}"
                f"{m['silent_failures']:>8}{m['wrong_level']:>7}{percent(m['coverage95']):>9}"
            )
        if report.frames_without_rows:
            lines.append(f"{report.frames_without_rows} of {report.frames} frames have no rows")
        if report.rows_without_truth:
            lines.append(f"{report.rows_without_truth} rows have no truth and are not judged")
    if report.screws is not None:
        lines += report.screws.lines()
    if report.rods is not None:
        lines += report.rods.lines()
    return "\n".join([*lines, *report.notes])
