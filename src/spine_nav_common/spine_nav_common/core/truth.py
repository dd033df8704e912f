# SPDX-License-Identifier: Apache-2.0
"""truth.json (docs/contracts.md, section 3), read by `evaluate` alone, and written by the simulation."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import TruthError
from .geometry import check_transform
from .tables import write_json
from .types import LEVELS, ScrewPlan

__all__ = [
    "Truth",
    "TruthError",
    "TruthFrame",
    "TruthRod",
    "TruthScrew",
    "load_truth",
    "write_truth",
]

_REMEDY = (
    "write truth.json as `spinenav simulate` does: levels, exposed, plan, and per frame stamp_ns,"
    " T_camera_ct_m and visible_px of every level"
)


@dataclass(frozen=True)
class TruthFrame:
    """True poses (4, 4), metres, and visible pixels per level in one frame."""

    stamp_ns: int
    T_camera_ct: dict[str, np.ndarray]
    visible_px: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TruthScrew:
    """True saddle point (3,) in metres and axis (3,), unit, out of the bone, in one frame."""

    stamp_ns: int
    id: int
    level: str
    side: str
    head_m: np.ndarray
    axis: np.ndarray
    visible_px: int


@dataclass(frozen=True)
class TruthRod:
    """True centreline (N, 3) of one rod in one frame, metres; seen (N,) bool, None: not told."""

    stamp_ns: int
    side: str
    centreline_m: np.ndarray
    seen: np.ndarray | None = None


@dataclass(frozen=True)
class Truth:
    """All that is known of a recording. plan is in the mesh frame, metres."""

    levels: tuple[str, ...]
    exposed: tuple[str, ...]
    plan: tuple[ScrewPlan, ...]
    frames: dict[int, TruthFrame]
    screws: tuple[TruthScrew, ...] = ()
    rods: tuple[TruthRod, ...] = ()


def load_truth(path: str | Path) -> Truth:
    """Read a truth.json.

    Raises:
        TruthError: unreadable, a field missing, a pose that is no rigid transform, unknown level,
            or a stamp that is there twice.
    """
    path = Path(path)
    where = ""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        where = "levels"
        levels = tuple(_level(v) for v in document["levels"])
        exposed = tuple(_level(v) for v in document.get("exposed") or levels)
        where = "plan"
        plan = tuple(_plan(k, v) for k, v in (document.get("plan") or {}).items())
        frames: dict[int, TruthFrame] = {}
        for i, entry in enumerate(document["frames"]):
            where = f"frames[{i}]"
            frame = TruthFrame(
                int(entry["stamp_ns"]),
                {_level(k): check_transform(v, k) for k, v in entry["T_camera_ct_m"].items()},
                {k: int(v) for k, v in (entry.get("visible_px") or {}).items()},
            )
            if frame.stamp_ns in frames:
                raise ValueError(f"stamp {frame.stamp_ns} is there twice")
            frames[frame.stamp_ns] = frame
        screws = []
        for i, entry in enumerate(document.get("screws") or []):
            where = f"screws[{i}]"
            screws.append(
                TruthScrew(
                    int(entry["stamp_ns"]),
                    int(entry["id"]),
                    str(entry["level"]),
                    str(entry["side"]),
                    _points(entry["head_camera_m"], (3,)),
                    _points(entry["axis_camera"], (3,)),
                    int(entry["visible_px"]),
                )
            )
        rods = []
        for i, entry in enumerate(document.get("rods") or []):
            where = f"rods[{i}]"
            centreline = _points(entry["centreline_camera_m"], (-1, 3))
            seen = _seen(entry.get("seen"), len(centreline))
            rods.append(TruthRod(int(entry["stamp_ns"]), str(entry["side"]), centreline, seen))
    except KeyError as error:
        raise TruthError(path, where, f"{error} is missing", _REMEDY) from error
    except (OSError, TypeError, AttributeError, ValueError) as error:
        raise TruthError(path, where, str(error), _REMEDY) from error
    return Truth(levels, exposed, plan, frames, tuple(screws), tuple(rods))


def _level(value: object) -> str:
    if value not in LEVELS:
        raise ValueError(f"level {value!r} is unknown")
    return str(value)


def _points(value: object, shape: tuple[int, ...]) -> np.ndarray:
    points = np.array(value, dtype=np.float64).reshape(shape)
    if not np.isfinite(points).all():
        raise ValueError("a coordinate is not finite")
    return points


def _seen(value: object, count: int) -> np.ndarray | None:
    if value is None:
        return None
    seen = np.array(value, dtype=bool)
    if seen.shape != (count,):
        raise ValueError(f"seen has shape {seen.shape}, the centreline {count} points")
    return seen


def _plan(name: str, line: dict[str, Any]) -> ScrewPlan:
    level, _, side = name.partition("_")
    if side not in ("left", "right"):
        raise ValueError(f"{name!r} is no <level>_<left|right>")
    entry, target = (1e-3 * _points(line[k], (3,)) for k in ("entry_mm", "target_mm"))
    return ScrewPlan(_level(level), side, entry, target)


def write_truth(path: str | Path, truth: Truth) -> None:
    """Write a truth.json that load_truth reads back exactly."""
    write_json(
        path,
        {
            "levels": list(truth.levels),
            "exposed": list(truth.exposed),
            "plan": {
                f"{p.level}_{p.side}": {
                    "entry_mm": (1e3 * p.entry_m).tolist(),
                    "target_mm": (1e3 * p.target_m).tolist(),
                }
                for p in truth.plan
            },
            "frames": [
                {
                    "stamp_ns": f.stamp_ns,
                    "T_camera_ct_m": {k: T.tolist() for k, T in f.T_camera_ct.items()},
                    "visible_px": f.visible_px,
                }
                for f in truth.frames.values()
            ],
            "screws": [
                {
                    "stamp_ns": s.stamp_ns,
                    "id": s.id,
                    "level": s.level,
                    "side": s.side,
                    "head_camera_m": s.head_m.tolist(),
                    "axis_camera": s.axis.tolist(),
                    "visible_px": s.visible_px,
                }
                for s in truth.screws
            ],
            "rods": [
                {
                    "stamp_ns": r.stamp_ns,
                    "side": r.side,
                    "centreline_camera_m": r.centreline_m.tolist(),
                    **({} if r.seen is None else {"seen": r.seen.tolist()}),
                }
                for r in truth.rods
            ],
        },
    )
