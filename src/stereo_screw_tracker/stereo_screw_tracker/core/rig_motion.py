# SPDX-License-Identifier: Apache-2.0
"""Whether the two cameras moved against each other: a rig that was bumped, or rows out of time.

A pair alone does not tell a vergence that has changed: rows still agree, and every depth is wrong by
the same disparity. But the left eye sees by itself how the wound moved: what it has known of the
wound in space, brought to the present picture, foretells what the right eye sees. Where the right
eye sees it elsewhere, the right eye has moved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from spine_nav_common.core.geometry import exp_so3, transform, transform_points
from spine_nav_common.core.types import Rejected, StereoFrame

from .odometry import Picture, Texture, followed, picture, texture
from .triangulate import pair_jacobians, project_pair
from .types import StereoCamera

CHECK_NS = 300_000_000
"""Stamps between two thorough looks at the rig; the pairs between them get a glance."""
LEAST_CHANGE = 0.004  # of a head's disparity, and so of its depth: 2 mm at half a metre
LEAST_ROWS_PX = 1.0  # as ghosts.systematic_row_px
_SIGMAS = 5.0
_LEAST_POINTS = 24  # that a glance needs; where a hand leaves fewer, nothing is said
_LEAST_TO_JUDGE = 40
"""That a look needs. With fewer a hand's own points may be most of them: on a near wound 27 of 45 that
agreed had put the rows of a rig that stood still 1.1 px apart, and with that the rest of an operation."""
_KEPT = 0.6  # of a reference's points; with fewer a new one is begun
_LOST_NS = 5_000_000_000  # without an answer; then a new one is begun, and nothing links them
_ROW_REACH_PX = 6.0
_OFF_PX = 1.5
_ROUNDS = 7
_RESTS_PX = 0.01  # no point moves by more in a round: it is settled
_NEAR_M = 0.5  # the distance that words speak of
_LEAST_SIGMA_PX = 0.15  # of a followed point


@dataclass(frozen=True)
class RigChange:
    """How the right image was displaced against the left one since a reference.

    moved (2, 3): to the right and down, px of the small picture, over (1, x, y) of the normalised
    left image; covariance (2, 3, 3) of either row. T_now_then (4, 4): how the wound moved. points:
    how many say so.
    """

    moved: np.ndarray
    covariance: np.ndarray
    T_now_then: np.ndarray
    points: int


def rig_change(
    then: Texture, now: Picture, T_guess: np.ndarray, thorough: bool = True
) -> RigChange | Rejected:
    """How the right camera moved against the left one between two pairs.

    Args:
        T_guess: (4, 4) motion of the wound as it is thought to be; where the search begins.
        thorough: all points are followed, there and back; else every other one and there only.

    Returns:
        Rejected where too little texture moves as one thing in the left image.
    """
    if not thorough:
        half = np.arange(0, len(then.points_m), 2)
        then = replace(
            then, points_m=then.points_m[half], left=then.left[half], right=then.right[half]
        )
    least = _LEAST_TO_JUDGE if thorough else _LEAST_POINTS
    seen, kept = followed(then, now, T_guess, _ROW_REACH_PX, back=thorough)
    if len(kept) < least:
        return Rejected(f"{len(kept)} points could be followed, {least} are needed")
    points = then.points_m[kept].astype(np.float64)
    T = _by_left_eye(now.camera, points, seen[:, :2])
    if isinstance(T, Rejected):
        return T
    base = _base(now.camera, seen[:, :2])
    T, q, covariance, weight = _settled(now.camera, points, seen[:, :3], base, T)
    agree = weight > 0.3
    if agree.sum() < least:
        return Rejected(f"{int(agree.sum())} points agree, {least} are needed")
    was = then.right[kept, 1] - then.left[kept, 1]
    rows, rows_covariance = _line(base[agree], (seen[:, 3] - seen[:, 1] - was)[agree])
    return RigChange(
        np.stack([q, rows]), np.stack([covariance, rows_covariance]), T, int(agree.sum())
    )


def _base(camera: StereoCamera, left: np.ndarray) -> np.ndarray:
    """(K, 3) of 1, x, y of left pixels (K, 2)."""
    k = camera.intrinsics
    return np.c_[np.ones(len(left)), (left - [k.cx, k.cy]) / [k.fx, k.fy]]


def _by_left_eye(
    camera: StereoCamera, points: np.ndarray, left: np.ndarray
) -> np.ndarray | Rejected:
    """(4, 4) motion of points (K, 3) that brings most of them where the left eye sees them (K, 2)."""
    k = camera.intrinsics
    K = np.array([[k.fx, 0.0, k.cx], [0.0, k.fy, k.cy], [0.0, 0.0, 1.0]])
    cv2.setRNGSeed(0)  # the same answer for the same pair
    ok, turn, shift, agree = cv2.solvePnPRansac(
        points, left, K, None, reprojectionError=_OFF_PX, iterationsCount=60, flags=cv2.SOLVEPNP_EPNP
    )  # fmt: skip
    if not ok or agree is None or len(agree) < _LEAST_POINTS:
        return Rejected("the left image's points do not move as one thing")
    return transform(exp_so3(turn.ravel()), shift.ravel())


def _settled(
    camera: StereoCamera, points: np.ndarray, seen: np.ndarray, base: np.ndarray, T: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Motion T, displacement (3,) of the right eye along its rows, its covariance, and the points'
    weights (K,): Gauss-Newton on all three places (K, 3) of every point, reweighted (Cauchy)."""
    _, right = project_pair(camera, transform_points(T, points))
    q = np.array([float(np.nanmedian(seen[:, 2] - right[:, 0])), 0.0, 0.0])
    A = np.zeros((len(points), 3, 9))  # of the three places, to a shift, a turn and the right eye
    A[:, 2, 6:] = base
    prior = np.diag([1e-3] * 6 + [1e-6] * 3)
    weight, sigma, H = np.ones(len(points)), 1.0, prior
    for _ in range(_ROUNDS):
        moved = transform_points(T, points)
        centre = moved.mean(axis=0)
        left, right = project_pair(camera, moved)
        residual = np.nan_to_num(np.c_[left, right[:, 0] + base @ q] - seen, nan=1e3)
        off = np.linalg.norm(residual, axis=1)
        sigma = max(_LEAST_SIGMA_PX, float(np.median(off)))
        weight = np.where(off < 8.0 * sigma, 1.0 / (1.0 + (off / (3.0 * sigma)) ** 2), 0.0)
        J_left, J_right = pair_jacobians(camera, moved)
        A[:, :2, :3], A[:, 2, :3] = J_left, J_right[:, 0]
        A[:, :, 3:6] = np.cross((moved - centre)[:, None], A[:, :, :3])
        flat = A.reshape(-1, 9)  # one product of matrices: a look is asked of every pair
        weighted = flat.T * np.repeat(weight, 3)
        H = weighted @ flat + prior
        step = -np.linalg.solve(H, weighted @ residual.ravel())
        R = exp_so3(step[3:6])
        T = transform(R @ T[:3, :3], R @ (T[:3, 3] - centre) + centre + step[:3])
        q = q + step[6:]
        if np.abs(flat @ step).max() < _RESTS_PX:
            break
    return T, q, sigma**2 * np.linalg.inv(H)[6:, 6:], weight


def _line(base: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (3,) of values (K,) over base (K, 3), robust, and their covariance."""
    weight, q, H, sigma = np.ones(len(values)), np.zeros(3), np.eye(3), 1.0
    for _ in range(_ROUNDS):
        H = base.T @ (weight[:, None] * base) + 1e-6 * np.eye(3)
        q = np.linalg.solve(H, base.T @ (weight * values))
        off = np.abs(values - base @ q)
        sigma = max(_LEAST_SIGMA_PX, 1.5 * float(np.median(off)))
        weight = 1.0 / (1.0 + (off / (2.0 * sigma)) ** 2)
    return q, sigma**2 * np.linalg.inv(H)


def verdict(
    camera: StereoCamera, change: RigChange, heads_m: np.ndarray, suspected: bool = False
) -> Rejected | None:
    """What a change does to heads (N, 3) of now, seen by `camera`, the small picture's: why they
    cannot be believed, or None. A rig that is suspected has to be seen to stand where it stood."""
    left, right = project_pair(camera, heads_m)
    base, disparity = _base(camera, left), left[:, 0] - right[:, 0]
    moved = base @ change.moved.T  # (N, 2)
    sigma = np.sqrt(np.einsum("ni,eij,nj->ne", base, change.covariance, base))
    if suspected:
        moved = moved + np.where(moved < 0.0, -2.0, 2.0) * sigma
    else:
        moved = np.where(np.abs(moved) > _SIGMAS * sigma, moved, 0.0)
    # disparity is left minus right: a right image that moved to the right makes things far
    deeper = moved[:, 0] / disparity
    if np.abs(deeper).max() > LEAST_CHANGE:
        worst = float(deeper[np.abs(deeper).argmax()])
        return Rejected(
            f"the two images do not fit together as they did: depths would be wrong by"
            f" {100 * worst:+.1f} % ({1e3 * worst * _NEAR_M:+.0f} mm at {_NEAR_M:g} m); the two"
            " cameras moved against each other, or one of them reads its rows while it moves:"
            " calibrate the pair and start again"
        )
    rows = moved[:, 1]
    if np.abs(rows).max() > LEAST_ROWS_PX:
        worst = float(rows[np.abs(rows).argmax()])
        return Rejected(
            f"left and right rows have moved by {worst:+.1f} px against each other: the two cameras"
            " moved; calibrate the pair and start again"
        )
    return None


@dataclass(frozen=True)
class _Reference:
    """A pair that later ones are compared with: its texture and heads (N, 3), and how the right eye
    stood in it against the first one (`RigChange.moved`, `covariance`)."""

    texture: Texture
    heads_m: np.ndarray
    moved: np.ndarray
    covariance: np.ndarray


class RigWatch:
    """What the pairs so far say of the rig; one instance per operation."""

    def __init__(self) -> None:
        self._reference: _Reference | None = None
        self._T = np.eye(4)
        self._looked_ns: int | None = None
        self._answered_ns = 0
        self._wrong: Rejected | None = None

    def look(self, frame: StereoFrame, heads_m: np.ndarray) -> Rejected | None:
        """Why this pair cannot be used, or None; asked of every pair.

        A pair that was refused is followed by refused ones until the eyes are seen to agree again.

        Args:
            heads_m: (N, 3) the shown heads of the pair before: where the wound lies.
        """
        if self._reference is None and not len(heads_m):
            return None
        soon = self._looked_ns is not None and 0 <= frame.stamp_ns - self._looked_ns < CHECK_NS
        if soon and self._wrong is not None:
            return self._wrong
        now = picture(frame)
        if soon and self._glance(now):
            return None
        self._looked_ns = frame.stamp_ns
        then = self._reference
        if then is None or now.left.shape != then.texture.picture.left.shape:
            self._begin(now, frame.stamp_ns, heads_m, np.zeros((2, 3)), np.zeros((2, 3, 3)))
            return self._wrong
        change = rig_change(then.texture, now, self._T)
        if isinstance(change, Rejected):
            lost = frame.stamp_ns - self._answered_ns > _LOST_NS
            if lost and self._wrong is None and len(heads_m):
                self._begin(now, frame.stamp_ns, heads_m, then.moved, then.covariance)
            return self._wrong
        self._T, self._answered_ns = change.T_now_then, frame.stamp_ns
        heads_m = transform_points(change.T_now_then, then.heads_m)
        moved, covariance = then.moved + change.moved, then.covariance + change.covariance
        change = replace(change, moved=moved, covariance=covariance)
        self._wrong = verdict(now.camera, change, heads_m, suspected=self._wrong is not None)
        if self._wrong is None and change.points < _KEPT * len(then.texture.points_m):
            self._begin(now, frame.stamp_ns, heads_m, moved, covariance)
        return self._wrong

    def _glance(self, now: Picture) -> bool:
        """Whether the eyes stand as they did, at half the price of a look: what a glance doubts, a
        look decides."""
        then = self._reference
        if then is None:
            return True  # a look found too little to compare with
        if now.left.shape != then.texture.picture.left.shape:
            return False
        change = rig_change(then.texture, now, self._T, thorough=False)
        if isinstance(change, Rejected):
            return False
        heads_m = transform_points(change.T_now_then, then.heads_m)
        self._T = change.T_now_then
        moved, covariance = then.moved + change.moved, then.covariance + change.covariance
        change = replace(change, moved=moved, covariance=covariance)
        return verdict(now.camera, change, heads_m) is None

    def _begin(
        self,
        now: Picture,
        stamp_ns: int,
        heads_m: np.ndarray,
        moved: np.ndarray,
        covariance: np.ndarray,
    ) -> None:
        """Compare later pairs with this one, where it shows enough."""
        seen = texture(now, heads_m)
        if not isinstance(seen, Rejected) and len(seen.points_m) >= _LEAST_TO_JUDGE:
            self._reference = _Reference(seen, heads_m, moved, covariance)
            self._T, self._answered_ns = np.eye(4), stamp_ns
