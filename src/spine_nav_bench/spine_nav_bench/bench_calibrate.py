# SPDX-License-Identifier: Apache-2.0
"""The core of `spinenav calibrate` beside OpenCV's own: lenses and pairs on real boards, a pointer on real
tracking, hand and eye and clocks on made motions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spine_nav_common.core.geometry import exp_se3, exp_so3, invert, transform
from spine_nav_common.core.handeye import calibrate_handeye, errors
from spine_nav_common.core.pivot import calibrate_pivot
from spine_nav_common.core.pose_streams import read_poses
from spine_nav_common.core.statistics import statistics
from spine_nav_common.core.types import Rejected
from spine_perception.core.boards import BoardFinder, BoardView, board_spec
from spine_perception.core.calibrate_camera import choose, cross_validated
from spine_perception.core.calibrate_stereo import NamedPair, cross_validated_rig
from spine_perception.core.lens import KINDS, NamedView

PIVOT = "tracking_pivot_calibration"
BOARDS = {
    "stereo_opencv_chessboard": ("chessboard:9x6:25", "left[0-9][0-9].jpg", ("left", "right")),
    "stereo_davinci_charuco": ("charuco:19x26:5:4:DICT_4X4_250", "L/Frame_*.jpg", ("L/", "R/")),
}
SEED, SEEDS = 440_000, 200
METHODS = ("TSAI", "PARK", "HORAUD", "ANDREFF", "DANIILIDIS")


def calibrate_record(data: Path, smoke: bool) -> dict[str, Any]:
    """Everything that the sets in `data` allow, and the made motions."""
    boards = [row for name in BOARDS if (data / name).is_dir() for row in _board_rows(data / name)]
    return {
        "lenses": boards,
        "pivot": _pivot_row(data / PIVOT) if (data / PIVOT).is_dir() else None,
        "handeye": handeye_rows(3 if smoke else SEEDS),
        "handeye_seeds": [SEED, 3 if smoke else SEEDS],
    }


def _board_rows(folder: Path) -> list[dict[str, Any]]:
    board, pattern, (left, right) = BOARDS[folder.name]
    spec = board_spec(board)
    finder = BoardFinder(spec)
    files = sorted(folder.glob(pattern))
    images = [
        [
            cv2.imread(str(f), 0),
            cv2.imread(str(folder / str(f.relative_to(folder)).replace(left, right)), 0),
        ]
        for f in files
    ]
    size = images[0][0].shape[::-1]
    found = [finder.find_pair(*two) for two in images]
    rows = []
    for i, eye in enumerate(("left", "right")):
        ours = _views([two[i] for two in found])
        peers = [ours] if board.startswith("charuco") else [
            _views([_corners(two[i], spec, how) for two in images]) for how in ("subpixel 11", "sector")
        ]  # fmt: skip
        choice = choose(ours, size)
        best = min(
            (
                c
                for views in peers
                for kind in KINDS[:3]
                if (c := cross_validated(kind, views, size))
            ),
            key=lambda c: c.score_px,
        )
        rows.append(
            {"set": folder.name, "eye": eye, "views": len(ours),
             "model": "refused" if isinstance(choice, Rejected) else choice.kind.model,
             "held_out_px": None if isinstance(choice, Rejected) else _pooled(choice.left),
             "opencv_held_out_px": _pooled(best.left), "opencv_model": best.kind.model,
             "opencv_views": len(best.left)}
        )  # fmt: skip
    rows.append(_stereo_row(folder.name, found, images, spec, size))
    return rows


def _stereo_row(
    name: str, found: Any, images: Any, spec: Any, size: tuple[int, int]
) -> dict[str, Any]:
    ours = _pairs(found)
    peers = [ours]
    if not str(spec).startswith("charuco"):
        peers = [
            _pairs([[_corners(image, spec, how) for image in two] for two in images])
            for how in ("subpixel 11", "sector")
        ]
    best, peer = (
        min((c for pairs in of for kind in KINDS[:2] for joint in joints
             if (c := cross_validated_rig(kind, pairs, size, joint))), key=lambda c: c.score_px)
        for of, joints in (([ours], (False, True)), (peers, (False, True)))
    )  # fmt: skip
    apart = [best.rigs[w].triangulated(p) for p, w in zip(ours, best.which, strict=True)]
    two = [x for pair in best.left if pair is not None for x in pair]
    theirs = [x for pair in peer.left if pair is not None for x in pair]
    baselines = [1e3 * np.linalg.norm(r.T_right_left[:3, 3]) for r in best.rigs]
    return {
        "set": name, "eye": "pair", "views": len(ours), "model": best.rigs[0].left.kind.model,
        "held_out_px": _pooled(two), "opencv_held_out_px": _pooled(theirs),
        "opencv_model": peer.rigs[0].left.kind.model, "opencv_views": len(peer.left),
        "baseline_squares": float(np.mean(baselines)) / (1e3 * spec.square_m),
        "board_mm": statistics(1e3 * np.concatenate([m for m, _ in apart])),
        "rows_px": statistics(np.abs(np.concatenate([r for _, r in apart]))),
    }  # fmt: skip


def _views(found: Sequence[Any]) -> list[NamedView]:
    return [NamedView(str(i), v) for i, v in enumerate(found) if isinstance(v, BoardView)]


def _pairs(found: Sequence[Any]) -> list[NamedPair]:
    both = [
        NamedPair(str(i), NamedView(str(i), a), NamedView(str(i), b))
        for i, (a, b) in enumerate(found)
        if isinstance(a, BoardView) and isinstance(b, BoardView)
    ]
    return [p for p in both if len(p.both[0]) >= 12]


def _corners(image: np.ndarray, spec: Any, how: str) -> BoardView | None:
    """As OpenCV's samples find them: 11 px windows; or its sector-based finder."""
    shape = (spec.columns, spec.rows)
    if how == "sector":
        ok, px = cv2.findChessboardCornersSB(
            image, shape, flags=cv2.CALIB_CB_EXHAUSTIVE | cv2.CALIB_CB_ACCURACY
        )
    else:
        ok, px = cv2.findChessboardCorners(image, shape)
        if ok:
            until = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-4)
            px = cv2.cornerSubPix(image, np.asarray(px, np.float32), (11, 11), (-1, -1), until)
    return BoardView(np.asarray(px, float).reshape(-1, 2), spec.corners_m) if ok else None


def _pooled(left: Sequence[Any]) -> float:
    """RMS over all corners of all views."""
    return float(
        np.sqrt(np.concatenate([(x.px**2).sum(axis=1) for x in left if x is not None]).mean())
    )


def _pivot_row(folder: Path) -> dict[str, Any]:
    stream = read_poses(str(folder), "mm")
    found = calibrate_pivot(stream.T)
    if isinstance(found, Rejected):
        return {"poses": len(stream), "refused": found.reason}
    R, t = stream.T[:, :3, :3], stream.T[:, :3, 3]
    A = np.concatenate([R, np.broadcast_to(-np.eye(3), R.shape)], axis=2).reshape(-1, 6)
    plain = np.linalg.lstsq(A, -t.ravel(), rcond=None)[0]
    off = np.linalg.norm(R @ plain[:3] + t - plain[3:], axis=1)
    return {
        "poses": len(stream), "used": int(found.used.sum()), "tip_mm": [1e3 * float(v) for v in found.tip_m],
        "sigma_mm": 1e3 * found.sigma_m, "swing_deg": found.swing_deg,
        "residual_mm": 1e3 * float(np.sqrt((found.residual_m[found.used] ** 2).mean())),
        "held_out_mm": 1e3 * float(np.sqrt((found.held_out_m**2).mean())),
        "plain_tip_mm": [1e3 * float(v) for v in plain[:3]],
        "plain_residual_mm": 1e3 * float(np.sqrt((off**2).mean())),
    }  # fmt: skip


def motion(seed: int, count: int = 15, mm: float = 0.2, deg: float = 0.1) -> tuple[np.ndarray, ...]:
    """a, b (N, 4, 4) and the true X of a camera that looks at a board from 0.3 to 0.5 m, tilted by up to 40
    and rolled by up to 90 degrees; both streams with noise (1 sigma per axis)."""
    rng = np.random.default_rng(seed)
    X = exp_se3(np.concatenate([rng.uniform(-0.08, 0.08, 3), rng.uniform(-1.5, 1.5, 3)]))
    Y = exp_se3(np.concatenate([rng.uniform(-1, 1, 3), rng.uniform(-1.5, 1.5, 3)]))
    a, b = [], []
    for _ in range(count):
        turn = np.radians(rng.uniform(-1, 1, 3) * [40.0, 40.0, 90.0])
        place = [rng.uniform(-0.08, 0.08), rng.uniform(-0.06, 0.06), rng.uniform(0.3, 0.5)]
        B = transform(exp_so3(turn), place)
        noise = [
            exp_se3(
                np.concatenate([rng.normal(0, 1e-3 * mm, 3), rng.normal(0, np.radians(deg), 3)])
            )
            for _ in range(2)
        ]
        a.append(Y @ invert(B) @ invert(X) @ noise[0])
        b.append(B @ noise[1])
    return np.array(a), np.array(b), X


def handeye_rows(seeds: int) -> list[dict[str, Any]]:
    """Errors of the camera's place and direction: ours, and OpenCV's five where this OpenCV has them."""
    off: dict[str, list[Any]] = {"SpineNav": []}
    told = []
    for seed in range(SEED, SEED + seeds):
        a, b, X = motion(seed)
        found = calibrate_handeye(a, b)
        assert not isinstance(found, Rejected), f"seed {seed}: {found.reason}"
        off["SpineNav"].append(errors(found.T_body_camera, X))
        told.append([found.sigma_mm, found.sigma_deg])
        if hasattr(cv2, "calibrateHandEye"):
            for name in METHODS:
                R, t = cv2.calibrateHandEye(
                    list(a[:, :3, :3]), list(a[:, :3, 3:]), list(b[:, :3, :3]), list(b[:, :3, 3:]),
                    method=getattr(cv2, f"CALIB_HAND_EYE_{name}"),
                )  # fmt: skip
                off.setdefault(f"OpenCV {name.title()}", []).append(
                    errors(transform(R, np.ravel(t)), X)
                )
    rows = []
    for name, one in off.items():
        mm, deg = np.array(one).T
        rows.append({"method": name, "mm": statistics(mm), "deg": statistics(deg)})
    rows[0]["sigma_mm"], rows[0]["sigma_deg"] = (float(x) for x in np.mean(told, axis=0))
    return rows
