# SPDX-License-Identifier: Apache-2.0
"""Fixed transforms between frames (extrinsics), from calibration files or /tf_static: composed along
the chain that joins two frames, never guessed where it is missing or contradicts itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .calibration_file import read_values
from .errors import CalibrationError
from .geometry import check_transform, invert, rotation_angle, rotation_from_q_xyzw, transform
from .types import Rejected

# Two statements about one pair of frames that differ by more are two statements: at half a metre
# the angle alone moves a screw by 1.7 mm.
_SAME_MM = 1.0
_SAME_DEG = 0.2
_FARTHEST_M = 5.0  # cameras of one operation are not further apart: another unit


@dataclass(frozen=True)
class StaticTransform:
    """T_parent_child (4, 4): maps points of `child` to `parent`, metres. source: who says so."""

    parent: str
    child: str
    T_parent_child: np.ndarray
    source: str


class StaticFrames:
    """A small buffer of fixed transforms. Not thread-safe."""

    def __init__(self, transforms: Iterable[StaticTransform] = ()) -> None:
        self._edges: dict[tuple[str, str], list[StaticTransform]] = {}
        self._answers: dict[tuple[str, str], np.ndarray | Rejected] = {}
        for item in transforms:
            self.add(item)

    def __bool__(self) -> bool:
        return bool(self._edges)

    def add(self, item: StaticTransform) -> None:
        """Take a transform; a source that speaks of the same frames again replaces what it said."""
        parent, child = _frame(item.parent), _frame(item.child)
        known = self._edges.setdefault((parent, child), [])
        known[:] = [k for k in known if k.source != item.source]
        known.append(StaticTransform(parent, child, item.T_parent_child, item.source))
        self._answers.clear()

    def lookup(self, target: str, source: str) -> np.ndarray | Rejected:
        """T_target_source (4, 4); Rejected with what is missing or contradicts itself."""
        target, source = _frame(target), _frame(source)
        if target == source:
            return np.eye(4)
        if (target, source) not in self._answers:
            self._answers[target, source] = self._find(target, source)
        return self._answers[target, source]

    def _find(self, target: str, source: str) -> np.ndarray | Rejected:
        reached = {source: np.eye(4)}  # T_frame_source
        waiting = deque([source])
        steps = self._steps()
        while waiting:
            here = waiting.popleft()
            for there, T_there_here in steps.get(here, ()):
                T = T_there_here @ reached[here]
                if there not in reached:
                    reached[there] = T
                    waiting.append(there)
                    continue
                apart = _apart(T, reached[there])
                if apart:
                    return Rejected(
                        f"the transforms that join {source} and {there} contradict each other by"
                        f" {apart} (said by {self._sources()}): calibrate again, or take out the"
                        " wrong one"
                    )
        if target in reached:
            return reached[target]
        return Rejected(
            f"no transform joins {source} and {target}: give a calibration of the two cameras"
            " (--calibration FILE), or publish it on /tf_static"
        )

    def _sources(self) -> str:
        return " and ".join(sorted({i.source for items in self._edges.values() for i in items}))

    def _steps(self) -> dict[str, list[tuple[str, np.ndarray]]]:
        """Frame to (neighbour, T_neighbour_frame)."""
        steps: dict[str, list[tuple[str, np.ndarray]]] = {}
        for (parent, child), items in self._edges.items():
            for item in items:
                T = item.T_parent_child
                steps.setdefault(child, []).append((parent, T))
                steps.setdefault(parent, []).append((child, invert(T)))
        return steps


def _frame(name: str) -> str:
    return name.lstrip("/")


def _apart(a: np.ndarray, b: np.ndarray) -> str:
    """How far two transforms are apart, in words; empty where they say the same."""
    between = invert(a) @ b
    mm = 1e3 * float(np.linalg.norm(between[:3, 3]))
    deg = float(np.degrees(rotation_angle(between[:3, :3])))
    return f"{mm:.1f} mm and {deg:.1f} degrees" if mm > _SAME_MM or deg > _SAME_DEG else ""


def static_transform(
    parent: Any, child: Any, translation_m: Any, q_xyzw: Any, source: str
) -> StaticTransform:
    """A checked transform from frame names, translation (3,) and quaternion (4,) x, y, z, w.

    Raises ValueError: empty or equal names, numbers that are no rigid transform or too far.
    """
    if not (isinstance(parent, str) and isinstance(child, str) and parent and child):
        raise ValueError("parent and child must be names of frames")
    if _frame(parent) == _frame(child):
        raise ValueError(f"{parent} is parent and child")
    t = np.array(translation_m, dtype=np.float64)
    q = np.array(q_xyzw, dtype=np.float64)
    if t.shape != (3,) or q.shape != (4,) or not (np.isfinite(t).all() and np.isfinite(q).all()):
        raise ValueError("translation_m needs three finite numbers, q_xyzw four")
    if abs(float(np.linalg.norm(q)) - 1.0) > 1e-3:
        raise ValueError("q_xyzw is no unit quaternion")
    if float(np.linalg.norm(t)) > _FARTHEST_M:
        raise ValueError(f"the frames are {np.linalg.norm(t):.3g} m apart: write metres")
    T = check_transform(transform(rotation_from_q_xyzw(q), t))
    return StaticTransform(parent, child, T, source)


def load_calibration(path: str | Path) -> list[StaticTransform]:
    """The transforms of a calibration file: YAML with version 1 and a list `transforms` of parent,
    child, translation_m [x, y, z] and q_xyzw, which map points of the child to the parent.

    Raises CalibrationError with field and remedy.
    """
    path = Path(path)
    form = "write {parent: FRAME, child: FRAME, translation_m: [x, y, z], q_xyzw: [x, y, z, w]}"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CalibrationError(path, "", f"not readable ({error})", "give a YAML file") from error
    if isinstance(document, dict) and document.get("kind") == "handeye":
        document = read_values(path, "handeye", 1)
    if not isinstance(document, dict) or document.get("version") != 1:
        raise CalibrationError(path, "version", "is not 1", "write version: 1")
    entries = document.get("transforms")
    if not isinstance(entries, list) or not entries:
        raise CalibrationError(path, "transforms", "there is none", form)
    found = []
    for i, entry in enumerate(entries):
        field = f"transforms[{i}]"
        if not isinstance(entry, dict):
            raise CalibrationError(path, field, "it is no mapping", form)
        try:
            found.append(
                static_transform(
                    entry["parent"],
                    entry["child"],
                    entry["translation_m"],
                    entry["q_xyzw"],
                    str(path),
                )
            )
        except KeyError as error:
            raise CalibrationError(path, field, f"{error.args[0]} is missing", form) from error
        except (TypeError, ValueError, OverflowError) as error:
            raise CalibrationError(path, field, str(error), form) from error
    return found
