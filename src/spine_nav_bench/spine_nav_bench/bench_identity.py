# SPDX-License-Identifier: Apache-2.0
"""Wrong patient: every recording with every other anatomy's case, and with its own.

The surgeon of these runs confirms whatever is asked, so that nothing but the shape stands between
another person's case and the screen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from spine_nav_common.core.case import load_case
from spine_nav_common.core.run import Progress
from spine_nav_common.core.statistics import statistics
from spine_nav_common.core.types import Case, Rejected, RgbdFrame, Status
from spine_perception.core.segmentation import RoiHint, Segmentation
from spine_registration.core.model import SpineModel, build_model
from spine_registration.core.navigator import Navigator

from .bench_scenes import SceneFolder
from .results_common import Record, Target, provenance, share, table

FRAMES = 36  # 2.4 s at 15 Hz
VERDICT_S = 1.0  # after this nothing of another patient may be shown


class Remembered:
    """The network's answer to each frame, computed once; every case sees the same."""

    def __init__(self, segmenter: Any, frames: Iterable[RgbdFrame]):
        self.provider, self.model_sha256 = segmenter.provider, segmenter.model_sha256
        self.timings_ms: dict[str, float] = {}
        self._answers = {f.stamp_ns: segmenter.run(f) for f in frames}

    def run(self, frame: RgbdFrame, hint: RoiHint | None = None) -> Segmentation | Rejected:
        """What the network said of the whole frame."""
        answer: Segmentation | Rejected = self._answers[frame.stamp_ns]
        return answer

    def warm_up(self) -> None:
        """Nothing is computed here."""


def identity_record(
    scenes: Sequence[SceneFolder], segmenter: Any, progress: Progress | None = None
) -> dict[str, Any]:
    """Runs of all ordered pairs of recording and case. One case per anatomy, of its first scene."""
    cases: dict[str, tuple[Case, SpineModel]] = {}
    for scene in scenes:
        if scene.anatomy not in cases:
            case = load_case(scene.case)
            cases[scene.anatomy] = (case, build_model(case))
    rows = []
    for n, scene in enumerate(scenes):
        frames = scene.frames(FRAMES)
        seen = Remembered(segmenter, frames)
        opened = load_case(scene.case).exposed_levels
        for anatomy, (case, model) in cases.items():
            row = run_pair(case, model, opened, seen, frames)
            if row is not None:
                row |= {
                    "scene": scene.name, "camera": scene.camera, "case": anatomy,
                    "right": anatomy == scene.anatomy,
                }  # fmt: skip
                rows.append(row)
        if progress is not None:
            progress(n + 1, len(scenes), scene.name)
    return {"anatomies": sorted(cases), "pairs": rows, **summary(rows)}


def run_pair(
    case: Case, model: SpineModel, opened: Sequence[str], segmenter: Any, frames: list[RgbdFrame]
) -> dict[str, Any] | None:
    """One recording with one case; None where they have no level in common."""
    exposed = tuple(v for v in opened if v in case.meshes)
    if not exposed:
        return None
    mine = replace(model, exposed=np.array([v in exposed for v in model.levels]))
    navigator = Navigator(replace(case, exposed_levels=exposed), segmenter, model=mine)
    tracked = late_tracked = late = 0
    registered = proven = refused = False
    for frame in frames:
        result = navigator.process(frame)
        if navigator.pending is not None:
            navigator.confirm(True)
        registered |= any(e.startswith("registered") for e in result.events)
        shown = sum(e.status is Status.TRACKED for e in result.levels)
        tracked += shown
        if (frame.stamp_ns - frames[0].stamp_ns) * 1e-9 >= VERDICT_S:
            late, late_tracked = late + len(exposed), late_tracked + shown
        proven |= navigator.identity.proven
        refused |= "not the spine of this case" in result.levels[0].reason
    verdict = navigator.identity.verdict
    return {
        "levels": len(exposed), "frames": len(frames), "tracked": tracked, "late": late,
        "late_tracked": late_tracked, "registered": registered, "proven": proven,
        "refused": refused, "margin_nat": None if verdict is None else verdict.margin_nat,
        "shape_mm": None if verdict is None else verdict.shape_mm,
        "noise_mm": None if verdict is None else verdict.noise_mm,
    }  # fmt: skip


def summary(rows: Sequence[Record]) -> dict[str, Any]:
    """Both kinds of pair, pooled."""
    out: dict[str, Any] = {}
    for name, right in (("mixes", False), ("right", True)):
        part = [r for r in rows if r["right"] is right]
        margins = [r["margin_nat"] for r in part if r["margin_nat"] is not None]
        out[name] = {
            "pairs": len(part),
            "level_frames_late": sum(r["late"] for r in part),
            "tracked_late": sum(r["late_tracked"] for r in part),
            "shown_ever": sum(r["tracked"] > 0 for r in part),
            "registered": sum(r["registered"] for r in part),
            "proven": sum(r["proven"] for r in part),
            "refused": sum(r["refused"] for r in part),
            "margin_nat": statistics(margins),
            "least_margin_nat": min(margins, default=None),
            "most_margin_nat": max(margins, default=None),
        }
    return out


def _shown(r: Record) -> tuple[str, bool] | None:
    m = r["mixes"]
    return f"{m['tracked_late']} of {m['level_frames_late']}", m["tracked_late"] == 0


def _ever(r: Record) -> tuple[str, bool] | None:
    m = r["mixes"]
    if not m["pairs"]:
        return None
    quiet = 1.0 - m["shown_ever"] / m["pairs"]
    return f"{share(quiet)} of {m['pairs']} mixes", quiet >= 0.95


def _refused(r: Record) -> tuple[str, bool] | None:
    return f"{r['right']['refused']} of {r['right']['pairs']}", r["right"]["refused"] == 0


IDENTITY_TARGETS = (
    Target("another patient's level-frames shown as tracked after the first second", "0",
           "not reported", "identity", _shown),
    Target("mixes of recording and case in which nothing was ever shown", "≥ 95 %",
           "not reported", "identity", _ever),
    Target("right patient refused as another's", "0", "not reported", "identity", _refused),
)  # fmt: skip


def identity_table(r: Record) -> list[str]:
    """Mixes beside right pairs, then the right ones by camera."""
    rows = []
    for name, key in (("another patient's case", "mixes"), ("the patient's own case", "right")):
        rows.append(_row(name, r[key]))
    right = [p for p in r["pairs"] if p["right"]]
    for camera in sorted({p["camera"] for p in right}):
        own = summary([p for p in r["pairs"] if p["camera"] == camera])
        rows.append(_row(f"own case, {camera}", own["right"]))
        rows.append(_row(f"another's, {camera}", own["mixes"]))
    head = (
        "case", "pairs", "registered", "shape proven", "refused", "ever shown",
        "tracked after 1 s", "margin, nat: least / median / most",
    )  # fmt: skip
    return table(head, rows)


def _row(name: str, s: Record) -> tuple[str, ...]:
    margin = "–"
    if s["margin_nat"] is not None:
        margin = (
            f"{s['least_margin_nat']:.1f} / {s['margin_nat']['median']:.1f} / "
            f"{s['most_margin_nat']:.1f}"
        )
    counts = (s[k] for k in ("pairs", "registered", "proven", "refused", "shown_ever"))
    late = f"{s['tracked_late']} of {s['level_frames_late']}"
    return (name, *map(str, counts), late, margin)


def identity_section(r: Record) -> list[str]:
    """The part of docs/results.md."""
    return [
        "## Wrong patient", "",
        (f"Every recording with the case of every one of {len(r['anatomies'])} anatomies "
         f"({', '.join(r['anatomies'])}); whatever is asked is confirmed, so only the shape can "
         "refuse. Margin: by how much the case's shape explains the bone better than another's."),
        "", *provenance(r), "", *identity_table(r), "",
    ]  # fmt: skip
