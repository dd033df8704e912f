# SPDX-License-Identifier: Apache-2.0
"""Random breaks in what a camera sees of the spine: gaps, jumps, covers and dropped runs, while the
camera moves to where a wrong level fits best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

KINDS = ("gap", "jump", "cover", "drops")
LONGEST_S = 60.0
_DROPS = 24  # frames over which runs are dropped
_COVERS = (2, 30)  # frames behind a hand


@dataclass(frozen=True)
class Shot:
    """One frame of an interrupted sequence.

    index: of the frame's stamp, in frame periods. progress: 0 before the camera's move, 1 after.
    covered: a hand hides everything.
    """

    index: int
    progress: float
    covered: bool = False


@dataclass(frozen=True)
class Interruption:
    """What happens between two views of a spine.

    levels: shift along the spine in vertebrae, caudal positive. across_m: shift across it. turn_deg:
    turn of the camera about its line of sight. tilt_deg: about an axis across it. gap_s: time
    without a usable frame (0: none).
    """

    kind: str
    gap_s: float
    levels: float
    across_m: float
    turn_deg: float
    tilt_deg: float
    shots: tuple[Shot, ...]

    def T_after_before(self, progress: float, centres_m: np.ndarray) -> np.ndarray:
        """(4, 4) by which poses in the camera frame change when `progress` of the move is done.

        Args:
            centres_m: (L, 3) centres of the vertebrae before it, camera frame, head first.
        """
        view = np.array([0.0, 0.0, 1.0])
        along = np.diff(centres_m, axis=0).mean(axis=0)
        across = np.cross(view, along)
        across /= np.linalg.norm(across)
        turn = Rotation.from_rotvec(np.deg2rad(progress * self.turn_deg) * view)
        tilt = Rotation.from_rotvec(np.deg2rad(progress * self.tilt_deg) * across)
        middle = centres_m.mean(axis=0)
        T = np.eye(4)
        T[:3, :3] = (turn * tilt).as_matrix()
        shift = self.levels * along + self.across_m * across
        T[:3, 3] = middle - T[:3, :3] @ middle + progress * shift
        return T

    def __str__(self) -> str:
        return (
            f"{self.kind} of {self.gap_s:.2f} s, {self.levels:+.1f} levels, "
            f"{1e3 * self.across_m:+.0f} mm across, turned {self.turn_deg:+.0f} deg, "
            f"tilted {self.tilt_deg:+.0f} deg"
        )


def random_interruption(rng: np.random.Generator, fps: float, after: int) -> Interruption:
    """One case; half of them move the camera by exactly one vertebra.

    Args:
        after: frames in the new place at the end of the sequence.
    """
    kind = KINDS[int(rng.integers(len(KINDS)))]
    levels, across, turn, tilt = 0.0, 0.0, 0.0, 0.0
    move = rng.choice(
        ["one", "several", "across", "turn", "any", "none"], p=[0.5, 0.12, 0.12, 0.12, 0.1, 0.04]
    )
    if move == "one":
        levels = float(rng.choice([-1.0, 1.0])) + rng.normal(0.0, 0.03)
    elif move == "several":
        levels = float(rng.choice([-3.0, -2.0, 2.0, 3.0]))
    elif move == "any":
        levels = float(rng.uniform(-1.5, 1.5))
    if move in ("across", "any"):
        across = float(rng.choice([-1.0, 1.0]) * rng.uniform(5e-3, 50e-3))
    if move in ("turn", "any"):
        turn = float(rng.choice([-1.0, 1.0]) * rng.uniform(3.0, 180.0 if move == "turn" else 30.0))
        tilt = float(rng.uniform(-12.0, 12.0))
    gap_s = 0.0
    if kind == "gap":
        gap_s = float(np.exp(rng.uniform(np.log(0.1), np.log(LONGEST_S))))
        first = max(2, round(gap_s * fps))
        shots = _rest(first, after)
    elif kind == "jump":
        shots = _rest(1, after)
    elif kind == "cover":
        count = int(rng.integers(*_COVERS))
        gap_s = count / fps
        shots = [Shot(i, i / (count + 1), True) for i in range(1, count + 1)]
        shots += _rest(count + 1, after)
    else:
        shots, gap_s = _dropped_runs(rng, fps)
        shots += _rest(_DROPS + 1, after)
    return Interruption(kind, gap_s, levels, across, turn, tilt, tuple(shots))


def _rest(first: int, count: int) -> list[Shot]:
    return [Shot(first + i, 1.0) for i in range(count)]


def _dropped_runs(rng: np.random.Generator, fps: float) -> tuple[list[Shot], float]:
    """Frames that remain of a move during which runs of random length are lost."""
    shots, index, longest = [], 1, 0
    while index <= _DROPS:
        lost = int(rng.integers(1, 11))
        longest = max(longest, lost)
        index += lost
        for _ in range(int(rng.integers(1, 4))):
            if index <= _DROPS:
                shots.append(Shot(index, index / _DROPS))
            index += 1
    return shots, longest / fps
