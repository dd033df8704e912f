# SPDX-License-Identifier: Apache-2.0
"""Poses over time, from what trackers and other programs write."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import InputError
from .geometry import rotation_from_q_xyzw, transform
from .recorded_clock import stamp_ns
from .recorded_messages import RecordedMessages

UNITS = {"m": 1.0, "mm": 1e-3}
_FORM = "write `stamp_s tx ty tz qx qy qz qw` lines (TUM; or the same with commas)"


@dataclass(frozen=True)
class PoseStream:
    """stamp_s (N,) increasing; T (N, 4, 4), metres: points of what moves to where it is seen from."""

    stamp_s: np.ndarray
    T: np.ndarray

    def __len__(self) -> int:
        return len(self.stamp_s)


def read_poses(source: str, unit: str = "m") -> PoseStream:
    """Poses of a TUM or CSV file, of a folder of 4x4 text matrices (names are numbers: stamps in ns), or
    of a topic of a recording (`RECORDING:/topic`: PoseStamped, with covariance, or TransformStamped).

    unit: of lengths, m or mm. Raises InputError with what is wrong and where.
    """
    recording, colon, topic = source.rpartition(":/")
    if colon:
        return _recorded(Path(recording), "/" + topic)
    path = Path(source)
    if path.is_dir():
        stamps, poses = _matrices(path)
    else:
        stamps, poses = _lines(path)
    if len(stamps) < 2:
        raise InputError(path, "poses", f"there are {len(stamps)}", _FORM)
    T = np.array(poses)
    T[:, :3, 3] *= UNITS[unit]
    order = np.argsort(stamps, kind="stable")
    return PoseStream(np.array(stamps)[order], T[order])


def _lines(path: Path) -> tuple[list[float], list[np.ndarray]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, "", f"it cannot be read ({error})", _FORM) from error
    stamps: list[float] = []
    poses: list[np.ndarray] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = [w for w in re.split(r"[,;\s]+", line.split("#")[0].strip()) if w]
        if not words or (not stamps and re.match(r"[A-Za-z_]", words[0])):
            continue  # a comment, or the head of a CSV
        try:
            values = [float(w) for w in words]
            if len(values) != 8 or not np.isfinite(values).all():
                raise ValueError(f"{len(values)} numbers")
            if abs(float(np.linalg.norm(values[4:])) - 1.0) > 1e-2:
                raise ValueError("no unit quaternion")
            poses.append(transform(rotation_from_q_xyzw(np.array(values[4:])), values[1:4]))
        except ValueError as error:
            raise InputError(path, f"line {number}", str(error), _FORM) from error
        stamps.append(values[0])
    return stamps, poses


def _matrices(path: Path) -> tuple[list[float], list[np.ndarray]]:
    stamps: list[float] = []
    poses: list[np.ndarray] = []
    for file in sorted(path.glob("*.txt")):
        if not file.stem.isdigit():
            continue
        try:
            T = np.loadtxt(file)
            if T.shape != (4, 4) or not np.isfinite(T).all():
                raise ValueError(f"numbers of shape {T.shape}, expected 4x4")
            R = T[:3, :3]
            if np.abs(R @ R.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R) < 0.0:
                raise ValueError("its rotation is none")
            if np.abs(T[3] - [0.0, 0.0, 0.0, 1.0]).max() > 1e-6:
                raise ValueError(
                    "its last row is not 0 0 0 1: written by columns, it is another pose"
                )
        except ValueError as error:
            raise InputError(file, "", str(error), "write a rigid 4x4 matrix") from error
        stamps.append(1e-9 * int(file.stem))
        poses.append(T)
    return stamps, poses


def _recorded(path: Path, topic: str) -> PoseStream:
    held = RecordedMessages(path, {})
    if topic not in held.topics:
        there = ", ".join(
            sorted(n for n, k in held.topics.items() if "Pose" in k or "Transform" in k)
        )
        raise InputError(
            path, topic, "it is not in the recording", f"poses are on: {there or 'none'}"
        )
    found = []
    for _, message in held.messages(topic):
        if message is None:
            continue
        if hasattr(message, "transform"):
            p, q = message.transform.translation, message.transform.rotation
        else:
            pose = getattr(message, "pose", None)
            pose = getattr(pose, "pose", pose)
            if pose is None or not hasattr(message, "header"):
                raise InputError(
                    path, topic, f"it holds {held.topics[topic]}", "name a topic of PoseStamped"
                )
            p, q = pose.position, pose.orientation
        try:
            R = rotation_from_q_xyzw(np.array([q.x, q.y, q.z, q.w]))
        except ValueError as error:
            raise InputError(path, topic, str(error), "record poses that are some") from error
        found.append((1e-9 * stamp_ns(message), transform(R, [p.x, p.y, p.z])))
    if len(found) < 2:
        raise InputError(path, topic, f"there are {len(found)} poses", "record more")
    found.sort(key=lambda one: one[0])
    return PoseStream(np.array([t for t, _ in found]), np.array([T for _, T in found]))
