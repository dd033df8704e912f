# SPDX-License-Identifier: Apache-2.0
"""How the wound moved between two pairs, from its own texture: asked when heads are hidden.

Heads behind a hand are held where the others say that they went. One head, or two in part, say
little of a turn; the tissue that is still in view says it to some tenths of a millimetre. Points that
lie in front of the screws' surface are left out: they are the hand, and move by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from spine_nav_common.core.geometry import exp_so3, transform, transform_points
from spine_nav_common.core.types import Intrinsics, Rejected, StereoFrame

from .finder_grid import grey
from .triangulate import pair_jacobians, project_pair
from .types import StereoCamera

_WIDTH_PX = 640
_POINTS = 240
_LEAST = 16  # points that agree; fewer may be one thing that moves by itself
_LEAST_SHARE = 0.6  # of the points that were followed
_BACK_PX = 0.7  # a point that does not come back to where it was followed from is not used
_ROW_PX = 1.5
_AGREES_PX = 1.5
# of the surface of the heads: the wound, and what lies beside it
_NEARER_M, _FARTHER_M = 0.06, 0.08
_TRIES = 96
_ROUNDS = 6
_PIXEL = 0.35  # 1 sigma of a followed point, px of the small picture


@dataclass(frozen=True)
class Picture:
    """Both images of a pair, small and of one brightness: left, right (H, W) uint8; camera: theirs."""

    left: np.ndarray
    right: np.ndarray
    camera: StereoCamera


def picture(frame: StereoFrame) -> Picture:
    """What `wound_motion` needs of a pair."""
    scale = min(1.0, _WIDTH_PX / frame.left.shape[1])
    left, right = _even(frame.left, scale), _even(frame.right, scale)
    k = frame.intrinsics
    # pixel centres are at integers: the picture's corner is at -0.5
    small = Intrinsics(
        left.shape[1], left.shape[0], scale * k.fx, scale * k.fy,
        scale * (k.cx + 0.5) - 0.5, scale * (k.cy + 0.5) - 0.5,
    )  # fmt: skip
    return Picture(left, right, StereoCamera(small, frame.baseline_m))


def _even(image: np.ndarray, scale: float) -> np.ndarray:
    one = grey(image)
    if scale < 1.0:
        one = cv2.resize(one, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    mean, deviation = (float(v[0, 0]) for v in cv2.meanStdDev(one))
    return cv2.convertScaleAbs(
        one, alpha=45.0 / max(deviation, 4.0), beta=110.0 - 45.0 * mean / max(deviation, 4.0)
    )


@dataclass(frozen=True)
class Texture:
    """Points of a pair that later pairs are compared with: points_m (K, 3) in its left frame, left
    (K, 2) and right (K, 2) their places in the small `picture`."""

    picture: Picture
    points_m: np.ndarray
    left: np.ndarray
    right: np.ndarray


def texture(p: Picture, heads_m: np.ndarray) -> Texture | Rejected:
    """What can be followed of a pair in which the heads (N, 3) are well seen."""
    if not len(heads_m):
        return Rejected("no head says where the wound lies")
    points, left, right = _surface(p, heads_m)
    if len(points) < _LEAST:
        return Rejected(f"{len(points)} points of texture about the heads, {_LEAST} are needed")
    return Texture(p, points, left, right)


def wound_motion(then: Texture, now: Picture, T_guess: np.ndarray) -> np.ndarray | Rejected:
    """Rigid motion (4, 4) of what lies about the heads since `then`.

    Args:
        T_guess: (4, 4) the motion as it is thought to be; where the search begins.

    Returns:
        Within some tenths of a millimetre, breathing apart. Rejected where too little texture agrees.
    """
    places, kept = followed(then, now, T_guess, _ROW_PX)
    if len(kept) < _LEAST:
        return Rejected(f"{len(kept)} points could be followed, {_LEAST} are needed")
    points, seen = then.points_m[kept], places[:, :3]
    T = _settled(now.camera, points, seen, _agreed(now.camera, points, seen))
    agree = int((_off_px(now.camera, transform_points(T, points), seen) < _AGREES_PX).sum())
    if agree < max(_LEAST, _LEAST_SHARE * len(kept)):
        return Rejected(f"{agree} of {len(kept)} followed points move as one thing")
    return T


def _surface(p: Picture, heads_m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (K, 3) of texture near the surface of the heads, their places (K, 2) left and right."""
    corners = cv2.goodFeaturesToTrack(p.left, _POINTS, 0.01, 7.0)
    if corners is None:
        return np.zeros((0, 3)), np.zeros((0, 2)), np.zeros((0, 2))
    left = corners.reshape(-1, 2).astype(np.float32)
    k, b = p.camera.intrinsics, p.camera.baseline_m
    ray = (left - [k.cx, k.cy]) / [k.fx, k.fy]
    depth = _depth_of_surface(heads_m, ray)
    guess = left - np.stack([k.fx * b / depth, np.zeros(len(left))], 1).astype(np.float32)
    right, good = _tracked(p.left, p.right, left, guess.astype(np.float32))
    disparity = left[:, 0] - right[:, 0]
    good &= (np.abs(left[:, 1] - right[:, 1]) < _ROW_PX) & (disparity > 0.5)
    z = k.fx * b / np.maximum(disparity, 0.5)
    good &= (z > depth - _NEARER_M) & (z < depth + _FARTHER_M)
    points = np.concatenate([ray, np.ones((len(ray), 1))], 1) * z[:, None]
    return points[good], left[good], right[good]


def _depth_of_surface(heads_m: np.ndarray, ray: np.ndarray) -> np.ndarray:
    """(K,) depth of the heads' plane along rays (K, 2); one or two heads give their mean depth."""
    heads = heads_m[:, :2] / heads_m[:, 2:]
    mean = heads_m[:, 2].mean()
    if len(heads_m) < 4:
        return np.full(len(ray), mean)
    design = np.c_[np.ones(len(heads)), heads - heads.mean(axis=0)]
    prior = np.diag([0.0, 2e-2, 2e-2])  # a row on one line says nothing of the slope across it
    plane = np.linalg.solve(design.T @ design + prior, design.T @ (heads_m[:, 2] - mean))
    depth = mean + np.c_[np.ones(len(ray)), ray - heads.mean(axis=0)] @ plane
    return np.clip(depth, 0.6 * mean, 1.6 * mean)


def _tracked(
    a: np.ndarray, b: np.ndarray, at: np.ndarray, guess: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places (K, 2) in b of the points `at` in a, and which of them come back."""
    if not len(at):
        return at, np.zeros(0, bool)
    there, ok = _ahead(a, b, at, guess)
    back, ok_back = _flow(b, a, there, at)
    apart = np.linalg.norm(back - at, axis=1)
    return there, ok & ok_back & (apart < _BACK_PX)


def _ahead(
    a: np.ndarray, b: np.ndarray, at: np.ndarray, guess: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places (K, 2) in b of the points `at` in a, and which of them lie in it."""
    if not len(at):
        return at, np.zeros(0, bool)
    there, ok = _flow(a, b, at, guess)
    size = np.array([b.shape[1], b.shape[0]])
    return there, ok & ((there >= 0) & (there < size)).all(axis=1)


def _flow(
    a: np.ndarray, b: np.ndarray, at: np.ndarray, guess: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    there, ok, _ = cv2.calcOpticalFlowPyrLK(
        a, b, at, guess.copy(),
        winSize=(17, 17), maxLevel=4, flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.03),
    )  # fmt: skip
    return there, ok.ravel() == 1


def followed(
    then: Texture, now: Picture, T_guess: np.ndarray, row_px: float, back: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """(K, 4) left u, v and right u, v of the points in the pair of now, and their indices (K,).

    T_guess: (4, 4) about how they moved. row_px: by how much the rows of a point may differ. back:
    points are also followed back, and those that do not come back left out.
    """
    left, right = project_pair(now.camera, transform_points(T_guess, then.points_m))
    off = ~(np.isfinite(left).all(axis=1) & np.isfinite(right).all(axis=1))
    left[off], right[off] = then.left[off], then.right[off]
    track = _tracked if back else _ahead
    new_left, good = track(then.picture.left, now.left, then.left, left.astype(np.float32))
    guess = (new_left + right - left).astype(np.float32)
    new_right, good_too = track(now.left, now.right, new_left, guess)
    good &= good_too & (np.abs(new_left[:, 1] - new_right[:, 1]) < row_px)
    kept = np.flatnonzero(good)
    return np.c_[new_left[kept], new_right[kept]].astype(np.float64), kept


def _agreed(camera: StereoCamera, points: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """T_now_before (4, 4) that most points agree with: the best of many fits to three each."""
    k = camera.intrinsics
    z = k.fx * camera.baseline_m / np.maximum(seen[:, 0] - seen[:, 2], 0.5)
    goal = np.c_[(seen[:, 0] - k.cx) / k.fx * z, (seen[:, 1] - k.cy) / k.fy * z, z]
    rng = np.random.default_rng(0)  # the same answer for the same pair
    pick = rng.integers(0, len(points), (_TRIES, 4))
    a, b = points[pick], goal[pick]
    ca, cb = a.mean(axis=1, keepdims=True), b.mean(axis=1, keepdims=True)
    U, _, Vt = np.linalg.svd(np.swapaxes(a - ca, 1, 2) @ (b - cb))
    V = np.swapaxes(Vt, 1, 2)
    flip = np.sign(np.linalg.det(V @ np.swapaxes(U, 1, 2)))
    V[:, :, 2] *= np.where(flip < 0, -1.0, 1.0)[:, None]
    R = V @ np.swapaxes(U, 1, 2)
    t = cb[:, 0] - np.einsum("nij,nj->ni", R, ca[:, 0])
    moved = np.einsum("nij,kj->nki", R, points) + t[:, None]
    off = _off_px(camera, moved, seen)
    votes = (off < 2.0 * _AGREES_PX).sum(axis=1)
    best = int(np.argmax(votes))
    return transform(R[best], t[best])


def _off_px(camera: StereoCamera, moved: np.ndarray, seen: np.ndarray) -> np.ndarray:
    left, right = project_pair(camera, moved)
    residual = np.concatenate([left, right[..., :1]], -1) - seen
    return np.nan_to_num(np.linalg.norm(residual, axis=-1), nan=1e3)


def _settled(
    camera: StereoCamera, points: np.ndarray, seen: np.ndarray, T: np.ndarray
) -> np.ndarray:
    """T after Gauss-Newton on all three places of every point, reweighted (Cauchy)."""
    for _ in range(_ROUNDS):
        moved = transform_points(T, points)
        centre = moved.mean(axis=0)
        left, right = project_pair(camera, moved)
        J_left, J_right = pair_jacobians(camera, moved)
        J = np.concatenate([J_left, J_right[:, :1]], 1)  # (K, 3, 3) px per metre
        arm = moved - centre
        turn = np.stack([np.cross(axis, arm) for axis in np.eye(3)], -1)  # (K, 3, 3)
        A = np.concatenate([J, J @ turn], 2)
        residual = np.nan_to_num(np.concatenate([left, right[:, :1]], 1) - seen)
        off = _off_px(camera, moved, seen)
        weight = np.where(off < 4 * _AGREES_PX, 1.0 / (1.0 + (off / (2 * _PIXEL)) ** 2), 0.0)
        H = np.einsum("k,kia,kib->ab", weight, A, A) + 1e-3 * np.eye(6)
        step = -np.linalg.solve(H, np.einsum("k,kia,ki->a", weight, A, residual))
        R = exp_so3(step[3:])
        T = transform(R @ T[:3, :3], R @ (T[:3, 3] - centre) + centre + step[:3])
    return T


class Wound:
    """The last pair in which no head was hidden, and how the wound moved since."""

    def __init__(self) -> None:
        self._frame: StereoFrame | None = None
        self._heads_m = np.zeros((0, 3))
        self._texture: Texture | Rejected | None = None
        self._T = np.eye(4)
        self.waiting = False  # some head is hidden: later pairs are compared with that one

    def seen(self, frame: StereoFrame, heads_m: np.ndarray) -> None:
        """A pair with all of its heads (N, 3), to compare later ones with."""
        self._frame, self._heads_m = frame, heads_m
        self._texture, self._T, self.waiting = None, np.eye(4), False

    def passed(self, T_now_before: np.ndarray) -> None:
        """A pair with a hidden head went by."""
        self._T, self.waiting = T_now_before @ self._T, True

    def motion(self, frame: StereoFrame) -> np.ndarray | Rejected:
        """T_now_before (4, 4) from the pair before to this one."""
        if self._frame is None:
            return Rejected("no pair has shown all heads yet")
        if self._texture is None:
            self._texture = texture(picture(self._frame), self._heads_m)
        if isinstance(self._texture, Rejected):
            return self._texture
        now = picture(frame)
        if now.left.shape != self._texture.picture.left.shape:
            return Rejected("the picture's size has changed")
        T = wound_motion(self._texture, now, self._T)
        return T if isinstance(T, Rejected) else T @ np.linalg.inv(self._T)
