# SPDX-License-Identifier: Apache-2.0
"""A stereo pair by pairs of a flat board: both lenses, and how the cameras stand to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property

import cv2
import numpy as np
from scipy.optimize import least_squares

from spine_nav_common.core.camera_calibration import CameraCalibration
from spine_nav_common.core.geometry import invert, kabsch, transform, transform_points
from spine_nav_common.core.images import CameraModel
from spine_nav_common.core.types import Rejected

from .boards import LEAST_CORNERS, BoardView
from .calibrate_camera import (
    CameraFound,
    calibrate_camera,
    enough,
    outliers,
    summary,
)
from .coverage import Trouble
from .lens import MODELS, Kind, Left, Lens, NamedView, fit, folds, jackknife

_ROUNDS = 4
_MOST_DROPPED = 1 / 3
_BETTER = 1.01
_SAME_BASELINE = 0.03  # of what the data sheet says: a square measured wrongly is off by more


@dataclass(frozen=True)
class NamedPair:
    """A board in a pair; the same corners in both. left, right: views of the whole of it."""

    name: str
    left: NamedView
    right: NamedView

    @cached_property
    def both(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """board_m (N, 3), left and right pixels (N, 2) of corners that both eyes see."""
        a, b = self.left.board, self.right.board
        place = {tuple(p): i for i, p in enumerate(np.round(1e6 * b.board_m[:, :2]).astype(int))}
        own = [tuple(p) for p in np.round(1e6 * a.board_m[:, :2]).astype(int)]
        i = [n for n, p in enumerate(own) if p in place]
        j = [place[own[n]] for n in i]
        return a.board_m[i], a.corners_px[i], b.corners_px[j]


@dataclass(frozen=True)
class Rig:
    """Two lenses, and T_right_left (4, 4), which maps points of the left camera to the right, metres."""

    left: Lens
    right: Lens
    T_right_left: np.ndarray

    def settle(self, pair: NamedPair) -> tuple[Left, Left] | None:
        """The pose that fits both images best, and what is left in each."""
        board, px_left, px_right = pair.both
        start = self.left.start(BoardView(px_left, board))
        if start is None:
            return None
        scale = np.array([1.0, 1.0, 1.0, *[abs(start[5])] * 3])

        def off(x: np.ndarray) -> np.ndarray:
            at = scale * x
            return np.concatenate(
                [
                    (self.left.project(board, at) - px_left).ravel(),
                    (self.right.project(board, self.moved(at)) - px_right).ravel(),
                ]
            )

        found = scale * least_squares(off, start / scale, method="lm").x
        return (
            self.left.left(BoardView(px_left, board), found),
            self.right.left(BoardView(px_right, board), self.moved(found)),
        )

    def moved(self, vector: np.ndarray) -> np.ndarray:
        """(6,) a pose before the left camera, before the right."""
        T = self.T_right_left @ transform(cv2.Rodrigues(vector[:3])[0], vector[3:])
        return np.concatenate([cv2.Rodrigues(T[:3, :3])[0].ravel(), T[:3, 3]])

    def models(self) -> tuple[CameraModel, CameraModel]:
        """Both cameras with the R and P that rectify them."""
        size = (self.left.width, self.left.height)
        K1, D1, K2, D2 = self.left.K, self.left.D, self.right.K, self.right.D
        R, t = self.T_right_left[:3, :3], self.T_right_left[:3, 3:4]
        if self.left.kind.fisheye:
            R1, R2, P1, P2 = cv2.fisheye.stereoRectify(
                K1, D1, K2, D2, size, R, t, flags=cv2.CALIB_ZERO_DISPARITY
            )[:4]
        else:
            R1, R2, P1, P2 = cv2.stereoRectify(
                K1, D1, K2, D2, size, R, t, flags=cv2.CALIB_ZERO_DISPARITY, alpha=-1
            )[:4]
        fisheye = self.left.kind.fisheye
        return (
            CameraModel(*size, K1, D1, R1, P1, fisheye),
            CameraModel(*size, K2, D2, R2, P2, fisheye),
        )

    def triangulated(self, pair: NamedPair) -> tuple[np.ndarray, np.ndarray]:
        """(N,) metres by which triangulated corners lie off the board, laid on them as well as may be;
        (N,) pixels by which rectified rows are apart."""
        board, px_left, px_right = pair.both
        left, right = self.models()
        f, cx, cy, b = left.P[0, 0], left.P[0, 2], left.P[1, 2], -right.P[0, 3] / right.P[0, 0]
        a = _rectified(self.left, left, px_left)
        c = _rectified(self.right, right, px_right)
        z = f * b / (a[:, 0] - c[:, 0])
        v = 0.5 * (a[:, 1] + c[:, 1])
        points = np.column_stack([(a[:, 0] - cx) / f * z, (v - cy) / left.P[1, 1] * z, z])
        on = transform_points(kabsch(board, points), board)
        return np.linalg.norm(points - on, axis=1), a[:, 1] - c[:, 1]


def _rectified(lens: Lens, model: CameraModel, px: np.ndarray) -> np.ndarray:
    rays = np.column_stack([lens.rays(px), np.ones(len(px))]) @ model.R.T @ model.P[:, :3].T
    found: np.ndarray = rays[:, :2] / rays[:, 2:]
    return found


def fit_rig(
    kind: Kind, pairs: Sequence[NamedPair], size: tuple[int, int], joint: bool
) -> Rig | None:
    """Each lens by its own views, then how they stand by the pairs; joint: the lenses anew with that."""
    left = fit(kind, [p.left for p in pairs], size)
    right = fit(kind, [p.right for p in pairs], size)
    if left is None or right is None:
        return None
    both = [p.both for p in pairs]
    board = [b.astype(np.float32) for b, _, _ in both]
    px = [[x[i].astype(np.float32) for x in both] for i in (1, 2)]
    K, D = [left.K, right.K], [left.D, right.D]
    flags = cv2.CALIB_FIX_INTRINSIC
    if kind.fisheye:  # the pixels of a pinhole: with fixed lenses nothing is lost by it
        px = [
            [(lens.rays(x) @ lens.K[:2, :2].T + lens.K[:2, 2]).astype(np.float32) for x in own]
            for lens, own in zip((left, right), px, strict=True)
        ]
        D = [np.zeros(5), np.zeros(5)]
    elif joint:
        flags = cv2.CALIB_USE_INTRINSIC_GUESS | kind.flags
    try:
        _, K1, D1, K2, D2, R, t = cv2.stereoCalibrate(
            board,
            px[0],
            px[1],
            K[0].copy(),
            D[0].copy(),
            K[1].copy(),
            D[1].copy(),
            size,
            flags=flags,
        )[:7]
    except cv2.error:
        return None
    if joint and not kind.fisheye:
        left = Lens(kind, *size, K1, np.ravel(D1)[: kind.size])
        right = Lens(kind, *size, K2, np.ravel(D2)[: kind.size])
    T = transform(R, np.ravel(t))
    return Rig(left, right, T) if np.isfinite(T).all() else None


@dataclass(frozen=True)
class StereoChoice:
    """How a way to fit a rig errs. left: per pair, from the fit in which it took no part; rigs: of the
    folds; which: the rig that each pair took no part in."""

    joint: bool
    left: list[tuple[Left, Left] | None]
    rigs: list[Rig]
    which: list[int]

    @property
    def score_px(self) -> float:
        """RMS over both images of pairs that took no part."""
        return float(np.sqrt(np.mean([x**2 for x in self.rms_px()])))

    def rms_px(self) -> list[float]:
        """Of every pair; infinite where it fits no pose."""
        return [
            float("inf")
            if x is None
            else float(np.sqrt(0.5 * (x[0].rms_px ** 2 + x[1].rms_px ** 2)))
            for x in self.left
        ]


def cross_validated_rig(
    kind: Kind, pairs: Sequence[NamedPair], size: tuple[int, int], joint: bool, of: int = 5
) -> StereoChoice | None:
    """How a way to fit a rig errs on pairs that took no part; None: it fits not at all."""
    left: list[tuple[Left, Left] | None] = [None] * len(pairs)
    which = [0] * len(pairs)
    rigs: list[Rig] = []
    for used, out in folds(len(pairs), [p.left.size_px_per_m for p in pairs], of):
        rig = fit_rig(kind, [pairs[i] for i in used], size, joint)
        if rig is None:
            return None
        for i in out:
            left[i], which[i] = rig.settle(pairs[i]), len(rigs)
        rigs.append(rig)
    return StereoChoice(joint, left, rigs, which)


@dataclass(frozen=True)
class StereoFound:
    """A pair's calibration, and what is left of every pair, for pictures: (name, left, right); seen: how
    often each part of either image was shown."""

    calibration: CameraCalibration
    rig: Rig
    left: list[tuple[str, Left, Left]]
    dropped: list[Trouble]
    seen: tuple[np.ndarray, np.ndarray]


def calibrate_stereo(
    pairs: Sequence[NamedPair],
    dropped: Sequence[Trouble],
    size: tuple[int, int],
    board: str,
    *,
    today: date,
    model: str = "",
    serial: str = "",
    days: int = 180,
    temperature_c: float | None = None,
    baseline_mm: float | None = None,
) -> StereoFound | Rejected:
    """The calibration of a stereo camera, or why the pairs do not suffice.

    size: (width, height) of both. model: a key of `lens.MODELS`, "" = the one that errs least.
    baseline_mm: what the data sheet says: tells a board of another square size.
    """
    pairs, dropped = list(pairs), list(dropped)
    few = [p for p in pairs if len(p.both[0]) < LEAST_CORNERS]
    dropped += [
        Trouble(p.name, f"{len(p.both[0])} corners in both eyes, {LEAST_CORNERS} are needed")
        for p in few
    ]
    pairs = [p for p in pairs if p not in few]
    if (why := enough(len(pairs), dropped)) is not None:
        return why
    eyes = _eyes(pairs, size, board, today, model)
    if isinstance(eyes, Rejected):
        return eyes
    kind = eyes[0].lens.kind
    gone = {t.view for eye in eyes for t in eye.dropped}
    dropped += [t for eye in eyes for t in eye.dropped]
    pairs = [p for p in pairs if p.name not in gone]
    whole = len(pairs)
    choice = _best(kind, pairs, size)
    for _ in range(_ROUNDS):
        if isinstance(choice, Rejected):
            return choice
        rms = choice.rms_px()
        off = outliers(rms, [p.name for p in pairs])
        if not off:
            break
        dropped += [t for _, t in off]
        pairs = [p for p in pairs if p.name not in {t.view for _, t in off}]
        if whole - len(pairs) > _MOST_DROPPED * whole:
            return Rejected(
                f"{whole - len(pairs)} of {whole} pairs fit no common rig: {off[0][1]}. Were both images"
                " taken at once, and is neither mirrored?"
            )
        if (why := enough(len(pairs), dropped)) is not None:
            return why
        choice = _best(kind, pairs, size)
    if isinstance(choice, Rejected):
        return choice
    rig = fit_rig(kind, pairs, size, choice.joint)
    if rig is None:
        return Rejected("no rig fits these pairs: take them again")
    if (why := stands(rig, baseline_mm)) is not None:
        return why
    left = [(p.name, *x) for p, x in zip(pairs, choice.left, strict=True) if x is not None]
    told = {"board": board, "pairs": len(pairs), "left out": [str(t) for t in dropped]}
    told |= {"joint": choice.joint, **_told(rig, choice, pairs, left)}
    told |= {
        name: {k: v for k, v in eye.calibration.told.items() if k not in ("board", "left out")}
        for name, eye in zip(("left", "right"), eyes, strict=True)
    }
    calibration = CameraCalibration(
        rig.models(), MODELS[kind.model], serial, today, today + timedelta(days=days),
        temperature_c, told,
    )  # fmt: skip
    return StereoFound(calibration, rig, left, dropped, (eyes[0].seen, eyes[1].seen))


def _eyes(
    pairs: Sequence[NamedPair], size: tuple[int, int], board: str, today: date, model: str
) -> tuple[CameraFound, CameraFound] | Rejected:
    """Each eye by itself, both of one kind of lens: the richer of the two that were chosen."""
    found: list[CameraFound] = []
    views = {"left": [p.left for p in pairs], "right": [p.right for p in pairs]}
    for eye in ("left", "right"):
        one = calibrate_camera(views[eye], [], size, board, today=today, model=model)
        if isinstance(one, Rejected):
            return Rejected(f"{eye} eye: {one.reason}")
        found.append(one)
    kinds = [x.lens.kind for x in found]
    if kinds[0] != kinds[1]:
        if model == "" and kinds[0].model != kinds[1].model:
            pooled = []
            for m in {k.model for k in kinds}:
                again = _eyes(pairs, size, board, today, m)
                if not isinstance(again, Rejected):
                    pooled.append(again)
            if not pooled:
                return Rejected("the two eyes fit no common kind of lens: choose one by --model")
            return min(pooled, key=lambda two: sum(_squares(x.left) for x in two))
        richer = max(found, key=lambda x: (x.lens.kind.size, -x.lens.kind.flags)).lens.kind
        for i, x in enumerate(found):
            lens = fit(richer, [v for v in views[("left", "right")[i]]
                                if v.name not in {t.view for t in x.dropped}], size)  # fmt: skip
            if lens is None:
                return Rejected("the two eyes fit no common kind of lens: choose one by --model")
            found[i] = CameraFound(x.calibration, lens, x.left, x.dropped, x.seen)
    return found[0], found[1]


def _squares(left: Sequence[tuple[str, Left]]) -> float:
    return float(np.mean([x.rms_px**2 for _, x in left]))


def _best(kind: Kind, pairs: Sequence[NamedPair], size: tuple[int, int]) -> StereoChoice | Rejected:
    best: StereoChoice | None = None
    for joint in (False, True):
        found = cross_validated_rig(kind, pairs, size, joint)
        if found is not None and (best is None or _BETTER * found.score_px < best.score_px):
            best = found
    return best or Rejected("no rig fits these pairs: are left and right of one moment?")


def stands(rig: Rig, baseline_mm: float | None = None) -> Rejected | None:
    """Whether the cameras stand side by side, the left one left."""
    centre = invert(rig.T_right_left)[:3, 3]
    mm = 1e3 * float(np.linalg.norm(centre))
    if abs(centre[0]) < 0.7 * np.linalg.norm(centre):
        return Rejected(
            f"the right camera stands {1e3 * centre[0]:.1f}, {1e3 * centre[1]:.1f}, {1e3 * centre[2]:.1f}"
            " mm to the right, below and before the left: a pair stands side by side. Turn the camera,"
            " or look whether the images are of one moment and one of them is mirrored"
        )
    if centre[0] < 0.0:
        return Rejected(
            f"the right camera stands {-1e3 * centre[0]:.1f} mm to the left: left and right are swapped,"
            " or both images are mirrored. Swap them, or switch the mirroring off"
        )
    if baseline_mm is not None and abs(mm / baseline_mm - 1.0) > _SAME_BASELINE:
        share = baseline_mm / mm
        return Rejected(
            f"the baseline comes out as {mm:.2f} mm, --baseline says {baseline_mm:g}: squares are"
            f" {share:.3f} times what --board says, or the baseline is another. Measure ten squares"
        )
    return None


def _told(
    rig: Rig,
    choice: StereoChoice,
    pairs: Sequence[NamedPair],
    left: Sequence[tuple[str, Left, Left]],
) -> dict[str, object]:
    px = np.concatenate([np.linalg.norm(x.px, axis=1) for _, a, b in left for x in (a, b)])
    apart = [choice.rigs[w].triangulated(p) for p, w in zip(pairs, choice.which, strict=True)]
    board_mm = 1e3 * np.concatenate([m for m, _ in apart])
    centre = [1e3 * invert(r.T_right_left)[:3, 3] for r in choice.rigs]
    sigma = jackknife([np.array([np.linalg.norm(c)]) for c in centre])
    return {
        "model": rig.left.kind.model,
        "baseline_mm": round(1e3 * float(np.linalg.norm(rig.T_right_left[:3, 3])), 4),
        "baseline_sigma_mm": round(float(sigma[0]), 4),
        "held_out_px": summary(px),
        "held_out_rows_px": summary(np.abs(np.concatenate([r for _, r in apart]))),
        "held_out_mm": summary(board_mm),
    }
