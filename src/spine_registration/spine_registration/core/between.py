# SPDX-License-Identifier: Apache-2.0
"""How two cameras stand to each other: from a calibration, checked by the spine that both see, or from
the spine itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import chi2

from spine_nav_common.core.geometry import exp_so3, invert, log_so3, rotation_angle, skew
from spine_nav_common.core.types import LevelEstimate, Rejected

from .fusion import CHANCE, CameraPose, difference

LEAST_LEVELS = 2
"""So many must both cameras see: one alone tells its own turn, and the turn moves all others."""
LIKE_CHANCE = 1e-4
"""A calibration that differs from what the spine says by more than both allow with this chance is wrong."""
OWN_SHARE = 2.0
"""A transform that was made from the poses themselves repeats their errors: it counts as so many times
less certain, so that the second camera does not make the first one's bias look smaller than it is."""
_SETTLE = 4


@dataclass(frozen=True)
class Between:
    """T_first_second (4, 4): points of the second camera in the first one's frame, metres.

    covariance: (6, 6) of T exp(twist), translation first. source: who says so.
    """

    T_first_second: np.ndarray
    covariance: np.ndarray
    source: str


@dataclass(frozen=True)
class SeenByBoth:
    """A vertebra in both cameras' frames at one moment, and a point of its bone (3,), mesh frame."""

    first: LevelEstimate
    second: LevelEstimate
    anchor_ct_m: np.ndarray


def total(e: LevelEstimate) -> np.ndarray:
    """(6, 6) covariance of a pose that is shown. Raises ValueError where there is none."""
    if e.covariance is None or e.T_camera_ct is None:
        raise ValueError(f"{e.level} is {e.status.value} and has no pose")
    return e.covariance


def turned(covariance: np.ndarray, R: np.ndarray) -> np.ndarray:
    """A (6, 6) covariance in other axes: R (3, 3) turns the old ones into the new."""
    J = np.zeros((6, 6))
    J[:3, :3] = J[3:, 3:] = R
    return np.asarray(J @ covariance @ J.T)


def in_first(e: LevelEstimate, between: Between, anchor_ct_m: np.ndarray) -> CameraPose:
    """The second camera's pose in the first one's frame; what the transform errs by is bias."""
    own = total(e)
    noise = np.zeros((6, 6)) if e.noise is None else e.noise
    T_second_ct = np.asarray(e.T_camera_ct)
    T = between.T_first_second @ T_second_ct
    R = between.T_first_second[:3, :3]
    at_second = T_second_ct[:3, :3] @ anchor_ct_m + T_second_ct[:3, 3]
    J = np.zeros((6, 6))
    J[:3, :3] = J[3:, 3:] = R
    J[:3, 3:] = -R @ skew(at_second)
    bias = turned(own - noise, R) + J @ between.covariance @ J.T
    return CameraPose(T, turned(noise, R), bias)


def of_first(e: LevelEstimate) -> CameraPose:
    """The first camera's pose."""
    noise = np.zeros((6, 6)) if e.noise is None else e.noise
    return CameraPose(np.asarray(e.T_camera_ct), noise, total(e) - noise)


@dataclass(frozen=True)
class Offset:
    """By how far the second camera's poses lie off the first one's, as one rigid motion in the first's
    frame about `centre_m` (3,): twist (6,), its covariance (6, 6) by all errors that are told, and by how
    much the levels disagree about it (chi-square and its freedom)."""

    twist: np.ndarray
    covariance: np.ndarray
    centre_m: np.ndarray
    chi2: float
    freedom: int

    @property
    def mm(self) -> float:
        """Length of the motion at the levels' middle."""
        return 1e3 * float(np.linalg.norm(self.twist[:3]))

    @property
    def deg(self) -> float:
        """Angle of the motion."""
        return float(np.degrees(np.linalg.norm(self.twist[3:])))

    @property
    def one_motion(self) -> bool:
        """Whether one rigid motion explains all levels."""
        return bool(self.freedom == 0 or self.chi2 < chi2.isf(CHANCE, self.freedom))

    @property
    def none(self) -> bool:
        """Whether the cameras agree: the motion is not more than the errors that are told allow."""
        d2 = self.twist @ np.linalg.solve(self.covariance, self.twist)
        return bool(d2 < chi2.isf(LIKE_CHANCE, 6))

    @property
    def T(self) -> np.ndarray:
        """(4, 4) the motion: brings the second camera's poses onto the first's."""
        T = np.eye(4)
        T[:3, :3] = exp_so3(self.twist[3:])
        T[:3, 3] = self.centre_m + self.twist[:3] - T[:3, :3] @ self.centre_m
        return T


def offset(seen: Sequence[SeenByBoth], between: Between, moments: int = 1) -> Offset:
    """What moves the second camera's vertebrae onto the first's.

    Args:
        seen: of so many `moments`; what errs stays, so that many moments tell no more than one. Levels
            err independently here (in part they do).
    """
    firsts = [of_first(s.first) for s in seen]
    seconds = [
        in_first(s.second, replace(between, covariance=np.zeros((6, 6))), s.anchor_ct_m)
        for s in seen
    ]
    at = [
        f.T_common_ct[:3, :3] @ s.anchor_ct_m + f.T_common_ct[:3, 3] for f, s in zip(firsts, seen)
    ]
    centre = np.mean(at, axis=0)
    H, g, whole = np.zeros((6, 6)), np.zeros(6), 0.0
    for f, s, p, about in zip(firsts, seconds, at, seen, strict=True):
        d = difference(f.T_common_ct, s.T_common_ct, about.anchor_ct_m)
        W = np.linalg.inv(f.noise + f.bias + s.noise + s.bias)
        J = np.eye(6)
        J[:3, 3:] = -skew(p - centre)
        W /= moments
        H, g, whole = H + J.T @ W @ J, g + J.T @ W @ d, whole + d @ W @ d
    twist = np.linalg.solve(H, g)
    covariance = np.linalg.inv(H)
    # The transform's own error, as it shows at the levels' middle.
    T, J = between.T_first_second, np.zeros((6, 6))
    J[:3, :3] = J[3:, 3:] = T[:3, :3]
    J[:3, 3:] = -T[:3, :3] @ skew(T[:3, :3].T @ (centre - T[:3, 3]))
    covariance = covariance + J @ between.covariance @ J.T
    freedom = 6 * round(len(seen) / moments) - 6
    return Offset(twist, covariance, centre, float(whole - g @ twist), freedom)


def from_spine(seen: Sequence[SeenByBoth], moments: int = 1) -> Between | Rejected:
    """The transform by vertebrae that both cameras track, of one or several moments; Rejected where they
    are too few or do not agree with each other."""
    levels = {s.first.level for s in seen}
    if len(levels) < LEAST_LEVELS:
        both = ", ".join(sorted(levels)) or "none"
        return Rejected(
            f"{LEAST_LEVELS} levels that both cameras track are needed to register them by the spine,"
            f" there is {both}: calibrate the two cameras (spinenav calibrate handeye)"
        )
    between = _fitted(seen, moments)
    found = offset(seen, between, moments)
    if not found.one_motion:
        return Rejected(
            "the two cameras' vertebrae do not lie alike: no one transform explains all of them. One camera"
            " names or places a level wrongly; calibrate the two cameras (spinenav calibrate handeye)"
        )
    T = between.T_first_second
    R = T[:3, :3]
    J = np.zeros((6, 6))  # of T exp(twist) by a motion about the levels' middle
    J[:3, :3] = J[3:, 3:] = R.T
    J[:3, 3:] = -R.T @ skew(T[:3, 3] - found.centre_m)
    # Each level repeats its camera's bias: many of them are worth one.
    covariance = OWN_SHARE * len(levels) * (J @ found.covariance @ J.T)
    return replace(between, covariance=0.5 * (covariance + covariance.T))


def _fitted(seen: Sequence[SeenByBoth], moments: int) -> Between:
    """The transform that fits all levels best, whatever they say of each other; without a covariance."""
    start = np.asarray(seen[0].first.T_camera_ct) @ invert(np.asarray(seen[0].second.T_camera_ct))
    between = Between(start, np.zeros((6, 6)), "the spine itself")
    for _ in range(_SETTLE):
        found = offset(seen, between, moments)
        between = replace(between, T_first_second=found.T @ between.T_first_second)
    return between


def checked(between: Between, seen: Sequence[SeenByBoth], moments: int = 1) -> str:
    """Why a calibration does not fit the spine that both cameras see, with the remedy; "" = it fits."""
    found = offset(seen, between, moments)
    if found.none and found.one_motion:
        return ""
    if not found.one_motion and found.none:
        return "the two cameras' vertebrae do not lie alike: one camera names or places a level wrongly"
    true = _fitted(seen, moments).T_first_second
    return (
        f"{between.source} does not fit: by it the second camera's vertebrae lie {found.mm:.1f} mm and"
        f" {found.deg:.1f} deg off the first one's{_why(between.T_first_second, true)}"
    )


def _why(given: np.ndarray, true: np.ndarray) -> str:
    """What explains a wrong transform, and what to do."""
    length, due = np.linalg.norm(given[:3, 3]), np.linalg.norm(true[:3, 3])
    if _near(invert(given), true):
        return ": it is the other way round. Give the recordings, or --frames, in the other order"
    for axis in np.eye(3):
        flip = np.diag([*(1.0 - 2.0 * axis), 1.0])
        if _near(flip @ given @ flip, true):
            return ": it is mirrored. Were the board's images mirrored? Calibrate again"
    angle = np.degrees(rotation_angle(given[:3, :3].T @ true[:3, :3]))
    along = given[:3, 3] @ true[:3, 3] > 0.995 * length * due
    if angle < 1.5 and along and abs(length / max(due, 1e-6) - 1.0) > 0.01:
        return (
            f": its length is {length / due:.3f} times the true one. Measure the board's squares and"
            " calibrate again with their size"
        )
    return (
        ". A camera was moved since, or it is of other cameras: calibrate again (spinenav calibrate"
        " handeye), or leave --between out"
    )


def _near(a: np.ndarray, b: np.ndarray) -> bool:
    off = invert(a) @ b
    far = np.linalg.norm(a[:3, 3] - b[:3, 3])
    return bool(far < 0.015 and np.linalg.norm(log_so3(off[:3, :3])) < np.radians(2.5))
