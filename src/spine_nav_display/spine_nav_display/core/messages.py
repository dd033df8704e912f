# SPDX-License-Identifier: Apache-2.0
"""What the page is told, as plain JSON values: pure functions of what the graph says."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rod_bending_ar.core.cortex import Shaft
from rod_bending_ar.core.screw_check import ScrewCheck, grade_words
from spine_nav_common.core.implant_outputs import RodCurve, ScrewRow
from spine_nav_common.core.types import NavigationResult, Rejected, Status

from .questions import Question

_STEP = re.compile(r"\d+: feed (-?[\d.]+) mm, rotate (-?[\d.]+) deg, bend to (-?[\d.]+) deg")
_ROD_STEP_M = 0.004  # between two points of a rod that is drawn


@dataclass(frozen=True)
class Moment:
    """When something was seen. stamp_ns: of the image. arrived_ms: at this process, by the server's
    monotonic clock. age_ms: of the image at that time; None = its clock does not tell. sure: age_ms
    is the age itself, and not only what it has grown by."""

    stamp_ns: int
    arrived_ms: float
    age_ms: float | None
    sure: bool = True

    def fields(self) -> dict[str, Any]:
        """For a message. Stamps are text: they do not fit into a number of JavaScript."""
        return {
            "stamp_ns": str(self.stamp_ns),
            "arrived_ms": round(self.arrived_ms, 1),
            "age_ms": None if self.age_ms is None else round(self.age_ms, 1),
            "age_sure": self.sure,
        }


def to_text(kind: str, values: Mapping[str, Any]) -> str:
    """A message. Raises ValueError for NaN, which is no JSON."""
    return json.dumps({"kind": kind, **values}, allow_nan=False, separators=(",", ":"))


def levels_message(
    result: NavigationResult,
    moment: Moment,
    question: Question | None,
    frame: str,
    margins: Mapping[tuple[str, str], Shaft] | None = None,
) -> dict[str, Any]:
    """All exposed levels of one frame. Only a `tracked` level has a pose: T (12,) row-major.
    margins: of planned screws to the cortex, by level and side."""
    return {
        **moment.fields(),
        "frame": frame,
        "identity": result.identity,
        "levels": [
            {
                "level": e.level,
                "status": e.status.value,
                "reason": e.reason,
                "tre_mm": _number(e.predicted_tre_mm) if e.status is Status.TRACKED else None,
                "margins": {
                    side: {
                        "least_mm": _number(found.least_mm),
                        "least95_mm": _number(found.draws.least95_mm),
                        "toward": found.toward,
                    }
                    for (level, side), found in (margins or {}).items()
                    if level == e.level and e.status is Status.TRACKED
                },
                "T": None
                if e.status is not Status.TRACKED or e.T_camera_ct is None
                else pose_numbers(e.T_camera_ct),
            }
            for e in result.levels
        ],
        "question": None if question is None else question.fields(),
    }


def withdrawn_message(levels: Sequence[str], reason: str, arrived_ms: float) -> dict[str, Any]:
    """Nothing is known of any level, and why: the navigation is silent or gone."""
    return {
        **Moment(0, arrived_ms, None, False).fields(),
        "frame": "",
        "identity": "unknown",
        "levels": [
            {"level": v, "status": Status.LOST.value, "reason": reason, "tre_mm": None, "T": None}
            for v in levels
        ],
        "question": None,
    }


def implants_message(
    screws: Sequence[ScrewRow],
    rods: Sequence[RodCurve],
    checks: Mapping[int, ScrewCheck | Rejected],
    T_camera_stereo: np.ndarray | Rejected,
    moment: Moment,
    reason: str,
) -> dict[str, Any]:
    """Screws and rods in the stereo camera's frame, each screw with its check against the plan."""
    refused = T_camera_stereo.reason if isinstance(T_camera_stereo, Rejected) else ""
    return {
        **moment.fields(),
        "reason": reason,
        "T": None if isinstance(T_camera_stereo, Rejected) else pose_numbers(T_camera_stereo),
        "T_reason": refused,
        "screws": [
            {
                "id": s.track_id,
                "level": s.level,
                "side": s.side,
                "head": _floats(s.head_m),
                "axis": _floats(s.axis),
                "bound_mm": _number(s.bound95_mm),
                "seen": s.seen,
                "confidence": _number(s.confidence),
                **_check(checks.get(s.track_id)),
            }
            for s in screws
        ],
        "rods": [{"side": r.side, "points": _thinned(r.centreline_m)} for r in rods],
    }


def bending_message(
    sides: Sequence[Mapping[str, str]], moment: Moment, question: Question | None = None
) -> dict[str, Any]:
    """The rods to be bent: the texts of guidance/bending/status, steps in their order; question:
    whether a screw is left out on purpose, where nothing else is asked."""
    told = []
    for fields in sides:
        steps: list[dict[str, Any]] = []
        while (text := fields.get(f"step {len(steps) + 1}")) is not None:
            steps.append(_step(text))
        told.append(
            {
                "side": fields.get("side", ""),
                "state": fields.get("state", ""),
                "text": fields.get("text", ""),
                "rod": fields.get("rod", ""),
                "length_mm": fields.get("length_mm", ""),
                "steps": steps,
                "done": int(fields.get("steps_done", "0") or 0),
                "gap_mm": fields.get("gap_mm", ""),
                "next": _step(fields["next"]) if fields.get("next") else None,
                "warnings": fields.get("warnings", ""),
            }
        )
    asked = None if question is None else question.fields()
    return {**moment.fields(), "sides": told, "question": asked}


HEALTH_STATES = ("ready", "degraded", "unsafe", "failed", "unknown")


def health_message(
    state: str, reason: str, values: Mapping[str, str], arrived_ms: float
) -> dict[str, Any]:
    """The traffic light. An unknown state is told as such and never as ready; arrived_ms: when it was
    said, by the server's monotonic clock, since a page keeps it no longer than it is repeated."""
    return {
        "arrived_ms": round(arrived_ms, 1),
        "state": state if state in HEALTH_STATES else "unknown",
        "reasons": [r for r in reason.split("; ") if r],
        "nodes": {k: v for k, v in values.items() if k != "state"},
    }


def _step(text: str) -> dict[str, Any]:
    """A bend by its numbers, where its text has them; see guidance_output.step_text."""
    found = _STEP.fullmatch(text)
    numbers = (
        dict(zip(("feed_mm", "rotate_deg", "bend_deg"), found.groups(), strict=True))
        if found
        else {}
    )
    return {"text": text, **{k: float(v) for k, v in numbers.items()}}


def pose_numbers(T: np.ndarray) -> list[float]:
    """(12,) upper rows of a (4, 4), row-major."""
    return _floats(np.asarray(T)[:3, :4])


def _check(check: ScrewCheck | Rejected | None) -> dict[str, Any]:
    """Against the plan; entry95_mm, angle95_deg: within how much 95 % of what the predicted error
    allows lies. grade: of Gertzbein-Robbins, empty where none is told."""
    if isinstance(check, ScrewCheck):
        return {
            "entry_mm": _number(check.entry_mm),
            "entry95_mm": _number(check.entry95_mm),
            "angle_deg": _number(check.angle_deg),
            "angle95_deg": _number(check.angle95_deg),
            "grade": check.grade,
            "check_reason": grade_words(check.shaft) if isinstance(check.shaft, Rejected) else "",
        }
    empty = dict.fromkeys(("entry_mm", "entry95_mm", "angle_deg", "angle95_deg"))
    reason = check.reason if check is not None else "not compared"
    return {**empty, "grade": "", "check_reason": reason}


def _thinned(points_m: np.ndarray) -> list[list[float]]:
    """Some of the points of a curve, both ends among them."""
    points = np.asarray(points_m, float)
    if len(points) < 3:
        return [_floats(p) for p in points]
    length = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
    count = max(2, math.ceil(length / _ROD_STEP_M) + 1)
    chosen = np.unique(np.linspace(0, len(points) - 1, count).round().astype(int))
    return [_floats(p) for p in points[chosen]]


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 3)


def _floats(values: np.ndarray) -> list[float]:
    return [round(float(v), 6) for v in np.asarray(values).ravel()]
