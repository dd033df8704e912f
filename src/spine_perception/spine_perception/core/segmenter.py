# SPDX-License-Identifier: Apache-2.0
"""Segmentation of an RGB-D frame by the U-Net: search the image, then look closely."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from spine_nav_common.core.runtime import fix_opencv_threads
from spine_nav_common.core.types import Intrinsics, Rejected, RgbdFrame

from . import kernels
from .backends import AUTO
from .colour_segmenter import ColourSegmenter
from .features import CENTRE_SCALE_M, features, roll_of
from .grid import (
    GRID_SIZE,
    PITCH_M,
    Grid,
    camera_points,
    centred_grid,
    sample_colour,
    sample_depth,
    upright_angle,
)
from .inference import ModelError, Network, OnnxNetwork, find_model
from .quality import check_frame, usable_depth
from .segmentation import RoiHint, Segmentation, SegmentsFrames

__all__ = [
    "ColourSegmenter",
    "ModelError",
    "RoiHint",
    "Segmentation",
    "Segmenter",
    "SegmentsFrames",
    "load_segmenter",
]

SEARCH_PITCH_M = 0.0026  # the coarsest pitch that training shows
_BONE = 0.5
_MIN_BONE_AREA_M2 = 1.5e-4
_UPRIGHT_RAD = np.radians(35.0)  # training shows most spines within 30 degrees of upright
_UPRIGHT_PASSES = 3
_LOGIT_LIMIT = 30.0
_MARGIN = 1.3  # grid over the extent of bone, so that a vertebra's surroundings are seen too


class Segmenter:
    """Finds bone, and what each bone pixel says of its vertebra.

    Not thread-safe: one segmenter per thread. Deterministic for a fixed thread count.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self.timings_ms: dict[str, float] = {}

    @classmethod
    def load(
        cls,
        model_path: str | Path | None = None,
        backend: str = AUTO,
        threads: int | None = None,
    ) -> Segmenter:
        """Load a model, the packaged one by default; backend, threads: see `OnnxModel`.

        Raises ModelError, with the remedy, if the model is missing, damaged or does not load.
        """
        path = find_model() if model_path is None else Path(model_path)
        return cls(OnnxNetwork(path, backend, threads))

    @property
    def provider(self) -> str:
        """What runs the network, and in which precision."""
        return self._network.provider

    @property
    def model_sha256(self) -> str:
        """Hash of the model file, as verified at load."""
        return self._network.model_sha256

    def warm_up(self) -> None:
        """Look once at a blank wall, so that everything is compiled before the first frame."""
        colour = np.full((48, 64, 3), 128, np.uint8)
        depth_m = np.full((48, 64), 0.5, np.float32)
        self.run(RgbdFrame(0, colour, depth_m, Intrinsics(64, 48, 60.0, 60.0, 31.5, 23.5)))

    def run(self, frame: RgbdFrame, hint: RoiHint | None = None) -> Segmentation | Rejected:
        """Segment one frame.

        With a full hint this takes one pass of the network. Without, the image is searched for
        bone, then looked at closely with the spine upright, which takes two to four passes.

        Rejected if the frame is unusable (black, saturated, no depth, sizes that differ) or no
        bone is in view.
        """
        self.timings_ms = dict.fromkeys(("sample", "features", "network", "votes"), 0.0)
        refused = check_frame(frame)
        if refused is not None:
            return refused
        k = frame.intrinsics
        if hint is not None:
            grid = centred_grid(k, (hint.u, hint.v), hint.depth_m)
            known = hint.cranial_px is not None
            angle = upright_angle(np.array(hint.cranial_px)) if known else 0.0
            seg = self._pass(frame, grid, angle)
        else:
            known = False
            searched = [self._pass(frame, grid, 0.0) for grid in _search_grids(frame)]
            seg = max(searched, key=lambda s: _bone_area(s, k))
        if _bone_area(seg, k) < _MIN_BONE_AREA_M2:
            return Rejected("no bone in view")
        if not known:
            seg = self._upright_pass(frame, seg, close=hint is None)
            if _bone_area(seg, k) < _MIN_BONE_AREA_M2:
                return Rejected("no bone in view")
        return seg

    def _upright_pass(self, frame: RgbdFrame, found: Segmentation, close: bool) -> Segmentation:
        """Look at the bone that was found with the spine's long axis upright, head up.

        The axis of the bone leaves the sense open, and may be wrong where few levels show; the
        network is better at upright spines, so its own answer is followed until it says upright.
        """
        k = frame.intrinsics
        grid = _close_grid(found, k) if close else found.grid
        angle = upright_angle(_long_axis_px(found))
        best, best_agreement = found, -1.0
        for _ in range(_UPRIGHT_PASSES):
            seg = self._pass(frame, grid, angle)
            direction, agreement = _mean_cranial_px(seg)
            turn = (upright_angle(direction) - angle + np.pi) % (2 * np.pi) - np.pi
            # Answers that contradict each other: the one whose cells agree more among themselves.
            if agreement > best_agreement or abs(turn) < _UPRIGHT_RAD:
                best, best_agreement = seg, agreement
            if abs(turn) < _UPRIGHT_RAD:
                break
            angle += turn
        return best

    def _pass(self, frame: RgbdFrame, grid: Grid, angle: float) -> Segmentation:
        """One pass of the network over a grid turned by `angle`, answered on the grid as it is."""
        k = frame.intrinsics
        clock = [time.perf_counter()]
        affine = grid.turned(angle)
        depth = sample_depth(frame.depth_m, affine, GRID_SIZE)
        colour = sample_colour(frame.colour, affine, GRID_SIZE)
        points, x, y = camera_points(depth, affine, k)
        clock.append(time.perf_counter())
        inputs = features(depth, colour, x, y, affine, (k.fx, k.fy))
        clock.append(time.perf_counter())
        masks, vectors = self._network(inputs[None])
        clock.append(time.perf_counter())
        votes = _decode(vectors, points, x, y, roll_of(affine))
        if angle != 0.0:
            upright = grid.affine()
            depth = sample_depth(frame.depth_m, upright, GRID_SIZE)
            points, _, _ = camera_points(depth, upright, k)
        seg = _lay_out(masks, votes, points, grid, angle)
        clock.append(time.perf_counter())
        for name, start, end in zip(self.timings_ms, clock[:-1], clock[1:], strict=True):
            self.timings_ms[name] += (end - start) * 1e3
        return seg


def _decode(
    vectors: np.ndarray, points: np.ndarray, x: np.ndarray, y: np.ndarray, roll: float
) -> np.ndarray:
    """Network vectors (9, n/2, n/2) in ray frames to (n/2, n/2, 9) centre (m), cranial, dorsal
    (unit) in the camera frame, for a grid of this roll whose cells have these points (n, n, 3) and
    ray slopes (n, n)."""
    return kernels.decode(vectors, points, x, y, np.cos(roll), np.sin(roll), CENTRE_SCALE_M)


def _lay_out(
    masks: np.ndarray, votes: np.ndarray, points: np.ndarray, grid: Grid, angle: float
) -> Segmentation:
    """Logits (2, n, n) and votes (n/2, n/2, 9) of the turned grid, on the grid itself."""
    laid = kernels.lay_out(masks, votes, points, _cell_turn(-angle), -_LOGIT_LIMIT)
    share, centre, cranial, dorsal = laid
    np.clip(share, -_LOGIT_LIMIT, _LOGIT_LIMIT, out=share)
    np.exp(np.negative(share, out=share), out=share)
    np.divide(np.float32(1.0), np.add(share, np.float32(1.0), out=share), out=share)
    bone = np.where(np.isfinite(points[..., 2]), share[0], np.float32(0.0))
    # Clean bone is bone: the two heads must not contradict each other.
    clean = np.minimum(bone, share[1])
    return Segmentation(bone, clean, centre, cranial, dorsal, points, grid)


def _cell_turn(angle: float) -> np.ndarray:
    """(2, 3) rotation by `angle` of cell coordinates (j, i) about the middle of the grid."""
    c, s = np.cos(angle), np.sin(angle)
    linear = np.array([[c, -s], [s, c]])
    half = np.full(2, 0.5 * (GRID_SIZE - 1))
    return np.column_stack([linear, half - linear @ half])


def _long_axis_px(seg: Segmentation) -> np.ndarray:
    """(2,) image direction of the long axis of the bone, of either sense."""
    points = seg.points_m[seg.bone > _BONE].astype(float)
    axis = np.linalg.eigh(np.cov(points.T))[1][:, -1]
    return _image_direction(points.mean(axis=0), axis)


def _mean_cranial_px(seg: Segmentation) -> tuple[np.ndarray, float]:
    """(2,) image direction of the mean cranial vote on bone, and the votes' agreement, 0 to 1."""
    bone = (seg.bone > _BONE) & np.isfinite(seg.cranial[..., 0])
    if not bone.any():
        return np.array([0.0, -1.0]), 0.0
    axis = seg.cranial[bone].astype(float).mean(axis=0)
    middle = seg.points_m[bone].astype(float).mean(axis=0)
    return _image_direction(middle, axis), float(np.linalg.norm(axis))


def _image_direction(point_m: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """(2,) where a small step along `vector` from a camera point goes in the image, not scaled."""
    return vector[:2] - point_m[:2] / point_m[2] * vector[2]


def _search_grids(frame: RgbdFrame) -> list[Grid]:
    """Grids of the search pitch that together cover the image."""
    k = frame.intrinsics
    few = frame.depth_m[::4, ::4]
    depth = float(np.median(few[usable_depth(few)]))
    pitch = min(SEARCH_PITCH_M, _pitch_covering(max(k.width, k.height), depth, k))
    reach = GRID_SIZE * pitch * 0.5 * (k.fx + k.fy) / depth
    return [
        centred_grid(k, (u, v), depth, pitch)
        for v in _tile_centres(k.height, reach)
        for u in _tile_centres(k.width, reach)
    ]


def load_segmenter(model: Path | None = None, backend: str = AUTO) -> Segmenter:
    """The network named, or the one that is shipped; warm, with a fixed thread count."""
    fix_opencv_threads()
    segmenter = Segmenter.load(model, backend)
    segmenter.warm_up()
    return segmenter


def _pitch_covering(extent_px: float, depth: float, k: Intrinsics) -> float:
    return max(PITCH_M, extent_px * depth / (0.5 * (k.fx + k.fy)) / (GRID_SIZE - 1))


def _tile_centres(extent: int, reach: float) -> list[float]:
    n = max(1, int(np.ceil(extent / reach - 0.15)))  # a 15 % rim of the image may stay unseen
    if n == 1:
        return [0.5 * (extent - 1)]
    return [float(c) for c in np.linspace(0.5 * reach, extent - 1 - 0.5 * reach, n)]


def _close_grid(seg: Segmentation, k: Intrinsics) -> Grid:
    """The grid around the bone that was found, at the nominal pitch if it fits."""
    i, j = np.nonzero(seg.bone > _BONE)
    depth = float(np.median(seg.points_m[i, j, 2]))
    j_low, j_high = np.percentile(j, [4, 96])
    i_low, i_high = np.percentile(i, [4, 96])
    g = seg.grid
    centre = (g.u0 + g.scale * 0.5 * (j_low + j_high), g.v0 + g.scale * 0.5 * (i_low + i_high))
    extent = _MARGIN * g.scale * max(j_high - j_low, i_high - i_low)
    pitch = min(SEARCH_PITCH_M, _pitch_covering(extent, depth, k))
    return centred_grid(k, centre, depth, pitch)


def _bone_area(seg: Segmentation, k: Intrinsics) -> float:
    """Area across the ray of the cells called bone, m2."""
    z = seg.points_m[..., 2][seg.bone > _BONE].astype(float)
    return float((z**2).sum() * seg.grid.scale**2 / (k.fx * k.fy))
