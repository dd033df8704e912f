# SPDX-License-Identifier: Apache-2.0
"""Rigid motion of the virtual operation: every vertebra and the camera, as functions of time.

Frames: `world` is the CT frame in which the scene was laid out; `T_world_ct` of a level maps its
mesh coordinates (CT frame, metres) to where that vertebra lies in the operation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation


def rigid(rotvec_rad: np.ndarray, pivot_m: np.ndarray, shift_m: np.ndarray) -> np.ndarray:
    """(4, 4) rotation by `rotvec_rad` about `pivot_m`, then a shift."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec(rotvec_rad).as_matrix()
    T[:3, 3] = pivot_m - T[:3, :3] @ pivot_m + shift_m
    return T


def operating_pose(
    centroids_m: dict[str, np.ndarray],
    rng: np.random.Generator,
    sigma_deg: float,
    sigma_mm: float,
    clip_deg: float = 8.0,
) -> dict[str, np.ndarray]:
    """T_world_ct per level: the spine lies otherwise than in the CT scan.

    Neighbours turn against each other by N(0, `sigma_deg`) per axis (clipped) about the middle
    between their centroids and shift by N(0, `sigma_mm`) per axis; the turns add up along the
    chain, the middle level keeps its CT pose. `centroids_m`: cranial to caudal, in metres.
    """
    levels = list(centroids_m)
    middle = len(levels) // 2
    poses = {levels[middle]: np.eye(4)}
    for side in (range(middle - 1, -1, -1), range(middle + 1, len(levels))):
        previous = levels[middle]
        for i in side:
            level = levels[i]
            pivot = 0.5 * (centroids_m[previous] + centroids_m[level])
            turn = np.clip(rng.normal(0.0, sigma_deg, 3), -clip_deg, clip_deg)
            shift = rng.normal(0.0, sigma_mm, 3) * 1e-3
            poses[level] = poses[previous] @ rigid(np.radians(turn), pivot, shift)
            previous = level
    return {level: poses[level] for level in levels}


@dataclass(frozen=True)
class Breathing:
    """A sinusoid; per level an amplitude vector (metres), a pitch (radians about x) and a phase."""

    frequency_hz: float
    amplitude_m: dict[str, np.ndarray]
    pitch_rad: dict[str, float]
    phase_rad: dict[str, float]

    def at(self, level: str, t_s: float) -> tuple[np.ndarray, np.ndarray]:
        """(rotvec, shift) of the level at `t_s`."""
        wave = np.sin(2.0 * np.pi * self.frequency_hz * t_s + self.phase_rad[level])
        return np.array([self.pitch_rad[level] * wave, 0.0, 0.0]), self.amplitude_m[level] * wave


@dataclass(frozen=True)
class Push:
    """A tool presses one level: a smooth pulse, or (`lasting`) a fast step that stays: a bump."""

    level: str
    start_s: float
    duration_s: float
    rotvec_rad: np.ndarray
    shift_m: np.ndarray
    lasting: bool = False

    def weight(self, t_s: float) -> float:
        """0 to 1."""
        phase = (t_s - self.start_s) / self.duration_s
        if phase <= 0.0:
            return 0.0
        if phase >= 1.0:
            return 1.0 if self.lasting else 0.0
        half_cosine = 0.5 - 0.5 * np.cos(np.pi * phase)
        return float(half_cosine if self.lasting else np.sin(np.pi * phase) ** 2)


@dataclass(frozen=True)
class SpineMotion:
    """T_world_ct of every level at a time; with zero motion it is the operating pose."""

    rest: dict[str, np.ndarray]
    centroids_m: dict[str, np.ndarray]
    breathing: Breathing | None
    pushes: tuple[Push, ...] = ()

    def T_world_ct(self, level: str, t_s: float) -> np.ndarray:
        """(4, 4) pose of the level at `t_s` seconds."""
        rotvec, shift = np.zeros(3), np.zeros(3)
        if self.breathing is not None:
            rotvec, shift = self.breathing.at(level, t_s)
        for push in self.pushes:
            if push.level == level:
                weight = push.weight(t_s)
                rotvec = rotvec + weight * push.rotvec_rad
                shift = shift + weight * push.shift_m
        rest = self.rest[level]
        pivot = rest[:3, :3] @ self.centroids_m[level] + rest[:3, 3]
        return rigid(rotvec, pivot, shift) @ rest


@dataclass(frozen=True)
class CameraPath:
    """A smooth hand-held path about a mean pose: three sinusoids per axis; zero amplitude = still.

    T_camera_world(t) = D(t) @ mean, with D about the camera's own origin.
    """

    T_camera_world_mean: np.ndarray
    rotation_rad: np.ndarray  # (3, 3) wave, axis
    shift_m: np.ndarray  # (3, 3) wave, axis
    frequency_hz: np.ndarray  # (3,)
    phase_rad: np.ndarray  # (3, 6)

    def T_camera_world(self, t_s: float) -> np.ndarray:
        """(4, 4) pose at `t_s` seconds."""
        if not self.moves:
            return self.T_camera_world_mean
        angle = 2.0 * np.pi * self.frequency_hz[:, None] * t_s + self.phase_rad
        wave = np.sin(angle)
        rotvec = (self.rotation_rad * wave[:, :3]).sum(axis=0)
        shift = (self.shift_m * wave[:, 3:]).sum(axis=0)
        return rigid(rotvec, np.zeros(3), shift) @ self.T_camera_world_mean

    @property
    def moves(self) -> bool:
        """Whether the pose depends on time."""
        return bool(np.any(self.rotation_rad) or np.any(self.shift_m))


def hand_held(
    T_camera_world_mean: np.ndarray, rng: np.random.Generator, shift_mm: float, turn_deg: float
) -> CameraPath:
    """A path whose three waves (slow sway, arm, tremor) have falling amplitude."""
    fall = np.array([1.0, 0.35, 0.03])[:, None]
    return CameraPath(
        T_camera_world_mean,
        np.radians(turn_deg) * fall * rng.uniform(0.3, 1.0, (3, 3)),
        shift_mm * 1e-3 * fall * rng.uniform(0.3, 1.0, (3, 3)),
        np.array([rng.uniform(0.05, 0.15), rng.uniform(0.2, 0.5), rng.uniform(3.0, 7.0)]),
        rng.uniform(0.0, 2.0 * np.pi, (3, 6)),
    )


def still(T_camera_world: np.ndarray) -> CameraPath:
    """A camera on a stand."""
    return CameraPath(
        T_camera_world, np.zeros((3, 3)), np.zeros((3, 3)), np.zeros(3), np.zeros((3, 6))
    )
