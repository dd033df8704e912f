# SPDX-License-Identifier: Apache-2.0
"""The plan during an operation: the case's own, and what the surgeon has confirmed since.

Somebody proposes another line for a planned screw; it is checked against the bone, asked about, and
counts only after an answer that names its question. Nothing here talks to anybody.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .case import anatomical_axes
from .markups import LENGTH_MM
from .surface import signed_distance_m
from .types import LEVELS, Case, Mesh, Rejected, ScrewPlan

VERSION = 1
MARGIN_MM = 2.0
"""Bone around the axis that an edited screw must have at least, unless a parameter says otherwise."""
MOST_SOURCE = 60  # characters of who proposes
_ENTRY_OUTSIDE_M, _ENTRY_INSIDE_M = 0.003, 0.010  # hand-placed, or in the bed of a burr
_WAY_IN_M = 0.015  # within this the axis must have the margin around it
_STEP_M = 0.0005
_NO_WORSE_M = 0.0005  # the surface of a segmented body has pits through which a good plan passes
_SAME_M = 1e-5  # what single precision and a viewer's round trip lose


@dataclass(frozen=True)
class PlanChange:
    """A line that may take the place of a planned one. id: what an answer names; text: what is
    asked; margin_mm: bone around its axis at least, from where it has entered to its tip."""

    line: ScrewPlan
    id: str
    text: str
    margin_mm: float


def same_line(a: ScrewPlan, b: ScrewPlan) -> bool:
    """Whether both are the same screw, but for what a viewer's single precision loses."""
    ends = ((a.entry_m, b.entry_m), (a.target_m, b.target_m))
    near = all(float(np.linalg.norm(np.subtract(p, q))) <= _SAME_M for p, q in ends)
    return (a.level, a.side) == (b.level, b.side) and near


def line_of(plan: tuple[ScrewPlan, ...], level: str, side: str) -> ScrewPlan | None:
    """The planned screw of a level and side."""
    return next((p for p in plan if (p.level, p.side) == (level, side)), None)


def with_line(plan: tuple[ScrewPlan, ...], line: ScrewPlan) -> tuple[ScrewPlan, ...]:
    """The plan with a line in the place of the one of its name, or added."""
    old = line_of(plan, line.level, line.side)
    return tuple(line if p is old else p for p in plan) if old is not None else (*plan, line)


def axis_margin_m(mesh: Mesh, line: ScrewPlan) -> float:
    """Bone around a screw's axis at least, from where it has entered; negative = outside of it.

    The way in does not count: up to where the axis lies deepest within its first 15 mm.
    """
    way = np.asarray(line.target_m, float) - np.asarray(line.entry_m, float)
    length = float(np.linalg.norm(way))
    along = np.linspace(0.0, 1.0, max(2, math.ceil(length / _STEP_M) + 1))
    depth = -signed_distance_m(mesh, line.entry_m + along[:, None] * way)
    first = int(np.argmax(depth[along * length <= _WAY_IN_M]))
    return float(depth[first:].min())


def check_change(
    case: Case, plan: tuple[ScrewPlan, ...], line: ScrewPlan, margin_mm: float, source: str
) -> PlanChange | Rejected:
    """Whether a line may be asked about. Where the planned line itself has less bone around it than
    is asked for, by this surface, the new one must have no less.

    Args:
        case: whose bone it must lie in.
        plan: the plan as it is now.
        line: in the case's frame, metres.
        margin_mm: bone around the axis at least.
        source: who proposes, for the question.
    """
    name = f"{line.level} {line.side}"
    if line.level not in case.meshes:
        return Rejected(f"{name}: {line.level} is not in this case ({', '.join(case.meshes)})")
    if line.level not in case.exposed_levels:
        return Rejected(f"{name}: {line.level} is not exposed in this case: nothing of it is shown")
    ends = np.array([line.entry_m, line.target_m], float)
    if ends.shape != (2, 3) or not np.isfinite(ends).all():
        return Rejected(f"{name}: its ends are no finite points")
    way = ends[1] - ends[0]
    length_mm = 1e3 * float(np.linalg.norm(way))
    if not LENGTH_MM[0] <= length_mm <= LENGTH_MM[1]:
        return Rejected(
            f"{name}: {length_mm:.1f} mm long; {LENGTH_MM[0]:g} to {LENGTH_MM[1]:g} mm are possible"
        )
    mesh, axes = case.meshes[line.level], anatomical_axes(case.orientation)
    if float(way @ axes[:, 1]) >= 0.0:
        return Rejected(f"{name}: it points out of the body; the first point is the entry")
    other = line_of(plan, line.level, "right" if line.side == "left" else "left")
    middle = mesh.vertices_m.mean(axis=0) if other is None else np.asarray(other.entry_m)
    to_left = float((ends[0] - middle) @ axes[:, 0])
    if to_left * (1.0 if line.side == "left" else -1.0) <= 0.0:
        return Rejected(f"{name}: it lies on the other side of the vertebra")
    outside = signed_distance_m(mesh, ends)
    if not -_ENTRY_INSIDE_M <= outside[0] <= _ENTRY_OUTSIDE_M:
        where = "from" if outside[0] > 0.0 else "inside"
        return Rejected(
            f"{name}: its entry lies {1e3 * abs(outside[0]):.1f} mm {where} the bone's surface"
        )
    margin = 1e3 * axis_margin_m(mesh, line)
    old = line_of(plan, line.level, line.side)
    was = math.inf if old is None else 1e3 * axis_margin_m(mesh, old)
    tip_was = 0.0 if old is None else float(signed_distance_m(mesh, old.target_m[None])[0])
    if outside[1] > max(0.0, tip_was + _NO_WORSE_M):
        return Rejected(f"{name}: its tip lies {1e3 * outside[1]:.1f} mm outside of the bone")
    if margin < min(margin_mm, was - 1e3 * _NO_WORSE_M):
        return Rejected(
            f"{name}: {_margin_text(margin)}; {margin_mm:g} mm are asked for"
            + (f", the plan's {_margin_text(was)}" if was < margin_mm else "")
        )
    text = f"{_moved(plan, line)}; {_margin_text(margin)}"
    text += f" (planned: {_margin_text(was)})" if old is not None else ""
    return PlanChange(line, _id(case, line), f"{text}; from {source}", margin)


def _margin_text(margin_mm: float) -> str:
    if margin_mm < 0.0:
        return f"leaves the bone by {-margin_mm:.1f} mm"
    return f"{margin_mm:.1f} mm of bone around it"


def _moved(plan: tuple[ScrewPlan, ...], line: ScrewPlan) -> str:
    old, name = line_of(plan, line.level, line.side), f"{line.level} {line.side}"
    if old is None:
        return f"{name}: a new screw"
    entry, tip = (
        1e3 * float(np.linalg.norm(np.subtract(a, b)))
        for a, b in ((line.entry_m, old.entry_m), (line.target_m, old.target_m))
    )
    ways = [np.subtract(p.target_m, p.entry_m) for p in (line, old)]
    cosine = float(ways[0] @ ways[1] / np.linalg.norm(ways[0]) / np.linalg.norm(ways[1]))
    angle = math.degrees(math.acos(min(1.0, cosine)))
    return f"{name}: entry moved {entry:.1f} mm, tip {tip:.1f} mm, axis {angle:.1f} degrees"


def _id(case: Case, line: ScrewPlan) -> str:
    text = json.dumps([case.sha256, _line_values(line)])
    return "PLAN-" + hashlib.sha256(text.encode()).hexdigest()[:6].upper()


class PlanDesk:
    """The live plan, and the changes that wait for an answer, in the order in which they came.

    `version` counts the changes that the surgeon has confirmed.
    """

    def __init__(self, case: Case, margin_mm: float = MARGIN_MM) -> None:
        self._case, self._margin_mm = case, margin_mm
        self.plan = case.plan
        self.version = 0
        self._waiting: dict[tuple[str, str], PlanChange] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._count = 0

    @property
    def question(self) -> PlanChange | None:
        """What is asked now."""
        return next(iter(self._waiting.values()), None)

    def propose(self, line: ScrewPlan, source: str) -> PlanChange | Rejected | None:
        """Ask about a line, unless it is refused; None: it is the live plan's own, and nothing is
        asked about this screw any more."""
        key = (line.level, line.side)
        old = line_of(self.plan, *key)
        if old is not None and same_line(old, line):
            if self._waiting.pop(key, None) is not None:
                self._tell(line, "as planned", "as it is planned; nothing is asked any more")
            return None
        change = check_change(self._case, self.plan, line, self._margin_mm, source)
        if isinstance(change, Rejected):
            self._waiting.pop(key, None)  # an older edit of this line is not what they mean now
            self._tell(line, "refused", change.reason)
            return change
        if self._waiting.get(key) is None or self._waiting[key].id != change.id:
            self._waiting[key] = change
            self._tell(line, "asked", f"{change.id}: waits for the surgeon")
        return change

    def answer(self, id_: str, accept: bool) -> str | Rejected:
        """Honour an answer to the question that is asked now."""
        asked = self.question
        if asked is None:
            return Rejected("no change of the plan waits for an answer")
        if id_ != asked.id:
            return Rejected(f"{id_} was answered, {asked.id} is asked now; look again")
        del self._waiting[asked.line.level, asked.line.side]
        name = f"{asked.line.level} {asked.line.side}"
        if not accept:
            self._tell(asked.line, "rejected", f"{asked.id}: the surgeon rejected it")
            return f"{name} stays as it is planned"
        self.plan = with_line(self.plan, asked.line)
        self.version += 1
        self._tell(
            asked.line, "taken", f"{asked.id}: the surgeon confirmed it; plan {self.version}"
        )
        return f"{name} is planned anew"

    def _tell(self, line: ScrewPlan, what: str, text: str) -> None:
        self._count += 1
        name = f"{line.level}_{line.side}"
        self._told.pop(name, None)
        self._told[name] = {"n": self._count, "what": what, "text": text}

    def document(self) -> str:
        """The whole as JSON, see docs/contracts.md, section 6: `plan/state`."""
        asked = self.question
        return json.dumps(
            {
                "v": VERSION,
                "case": self._case.sha256,
                "version": self.version,
                "lines": [_line_values(p) for p in self.plan],
                "question": None
                if asked is None
                else {"id": asked.id, "text": asked.text, "line": _line_values(asked.line)},
                "waiting": len(self._waiting),
                "told": self._told,
            }
        )

    def kept(self) -> dict[str, Any]:
        """What the process after this one needs, fit for JSON: the confirmed lines that differ from
        the case's, and the lines that wait."""
        own = [p for p in self.plan if all(p is not q for q in self._case.plan)]
        return {
            "case": self._case.sha256,
            "version": self.version,
            "count": self._count,
            "lines": [_line_values(p) for p in own],
            "waiting": [
                [_line_values(c.line), c.text, c.id, c.margin_mm] for c in self._waiting.values()
            ],
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on where the process before this one was; what is of another case is left out."""
        if kept.get("case") != self._case.sha256:
            return
        for values in kept["lines"]:
            self.plan = with_line(self.plan, read_line(values))
        self.version, self._count = int(kept["version"]), int(kept["count"])
        for values, text, id_, margin in kept["waiting"]:
            line = read_line(values)
            self._waiting[line.level, line.side] = PlanChange(line, id_, text, float(margin))


def _line_values(line: ScrewPlan) -> dict[str, Any]:
    return {
        "level": line.level,
        "side": line.side,
        "entry_m": [round(float(v), 7) for v in line.entry_m],
        "target_m": [round(float(v), 7) for v in line.target_m],
    }


def read_line(values: Mapping[str, Any]) -> ScrewPlan:
    """A line of a document. Raises ValueError, KeyError or TypeError for what is none."""
    if values["side"] not in ("left", "right"):
        raise ValueError(f"side {values['side']!r}: left or right")
    ends = [np.array(values[name], float) for name in ("entry_m", "target_m")]
    if any(end.shape != (3,) or not np.isfinite(end).all() for end in ends):
        raise ValueError(f"{values['level']} {values['side']}: its ends are no points")
    return ScrewPlan(str(values["level"]), str(values["side"]), *ends)


def proposal(line: ScrewPlan, source: str) -> str:
    """A proposal as JSON: `plan/proposal`."""
    return json.dumps({"v": VERSION, "source": source, **_line_values(line)})


def read_proposal(text: str) -> tuple[ScrewPlan, str] | Rejected:
    """The line of a proposal and its source, in printable characters, as short as a question needs."""
    try:
        values = json.loads(text)
        line, source = read_line(values), str(values["source"])
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        return Rejected(f"a proposal cannot be read: {str(error)[:200]!r}")
    if line.level not in LEVELS:
        return Rejected(f"a proposal is for {line.level[:20]!r}, which is no vertebra")
    plain = "".join(c if c.isascii() and c.isprintable() else "?" for c in source)
    return line, plain[:MOST_SOURCE]


@dataclass(frozen=True)
class PlanState:
    """What `plan/state` says. question: id, text and line of what is asked; told: what became of the
    last proposal of each line, by its name."""

    case_sha256: str
    version: int
    plan: tuple[ScrewPlan, ...]
    question: tuple[str, str, ScrewPlan] | None
    told: Mapping[str, Mapping[str, Any]]

    def of(self, case: Case) -> Case | None:
        """The case with the live plan, the very object where that is its plan already, since a
        question alone must cost its viewers nothing; None where it is of another case."""
        if self.case_sha256 != case.sha256:
            return None
        if len(self.plan) == len(case.plan) and all(map(same_line, self.plan, case.plan)):
            return case
        return replace(case, plan=self.plan)


def read_state(text: str) -> PlanState:
    """Raises ValueError, KeyError or TypeError for what is no state of a plan."""
    values = json.loads(text)
    asked = values["question"]
    return PlanState(
        str(values["case"]),
        int(values["version"]),
        tuple(read_line(v) for v in values["lines"]),
        None if asked is None else (str(asked["id"]), str(asked["text"]), read_line(asked["line"])),
        dict(values["told"]),
    )
