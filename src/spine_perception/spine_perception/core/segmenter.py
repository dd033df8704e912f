# SPDX-License-Identifier: Apache-2.0
"""Segmentation of an RGB-D frame by the U-Net: search the image, then look closely."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from spine_nav_common.core.types import Intrinsics, Rejected, RgbdFrame

from .colour_segmenter import ColourSegmenter
from .features import CENTRE_SCALE_M, N_CHANNELS, features, from_ray_frame
from .grid import (
    GRID_SIZE,
    PITCH_M,
    Grid,
    camera_points,
    centred_grid,
    sample_colour,
    sample_depth,
)
from .inference import ModelError, Network, OnnxNetwork, find_model
from .quality import check_frame, usable_depth
from .segmentation import RoiHint, Segmentation, SegmentsFrames

__all__ = ["ColourSegmenter", "ModelError", "RoiHint", "Segmentation", "Segmenter",
           "SegmentsFrames"]

SEARCH_PITCH_M = 0.0026  # the coarsest pitch that training shows
_BONE = 0.5
_MIN_BONE_AREA_M2 = 1.5e-4
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
        providers: tuple[str, ...] | None = None,
        threads: int | None = None,
    ) -> Segmenter:
        """Load a model, the packaged one by default; providers in the order TensorRT, CUDA, CPU.

        Raises ModelError, with the remedy, if the model is missing, damaged or does not load.
        """
        path = find_model() if model_path is None else Path(model_path)
        return cls(OnnxNetwork(path, providers, threads))

    @property
    def provider(self) -> str:
        """The execution provider that runs the network."""
        return self._network.provider

    @property
    def model_sha256(self) -> str:
        """Hash of the model file, as verified at load."""
        return self._network.model_sha256

    def warm_up(self) -> None:
        """Run once on zeros, so that the first frame is not the slow one."""
        self._network(np.zeros((1, N_CHANNELS, GRID_SIZE, GRID_SIZE), np.float32))

    def run(self, frame: RgbdFrame, hint: RoiHint | None = None) -> Segmentation | Rejected:
        """Segment one frame; with a hint one pass around it, else search the image first.

        Rejected if the frame is unusable (black, saturated, no depth, sizes that differ) or no
        bone is in view.
        """
        self.timings_ms = {"sample": 0.0, "features": 0.0, "network": 0.0, "votes": 0.0}
        refused = check_frame(frame)
        if refused is not None:
            return refused
        if hint is not None:
            grid = centred_grid(frame.intrinsics, (hint.u, hint.v), hint.depth_m)
            seg = self._pass(frame, grid)
        else:
            searched = [self._pass(frame, grid) for grid in _search_grids(frame)]
            best = max(searched, key=lambda s: _bone_area(s, frame.intrinsics))
            if _bone_area(best, frame.intrinsics) < _MIN_BONE_AREA_M2:
                return Rejected("no bone in view")
            seg = self._pass(frame, _close_grid(best, frame.intrinsics))
        if _bone_area(seg, frame.intrinsics) < _MIN_BONE_AREA_M2:
            return Rejected("no bone in view")
        return seg

    def _pass(self, frame: RgbdFrame, grid: Grid) -> Segmentation:
        affine, k = grid.affine(), frame.intrinsics
        clock = [time.perf_counter()]
        depth = sample_depth(frame.depth_m, affine, GRID_SIZE)
        colour = sample_colour(frame.colour, affine, GRID_SIZE)
        points, x, y = camera_points(depth, affine, k)
        clock.append(time.perf_counter())
        inputs = features(depth, colour, x, y, affine, (k.fx, k.fy))
        clock.append(time.perf_counter())
        masks, vectors = self._network(inputs[None])
        clock.append(time.perf_counter())
        seg = segmentation_of(masks, vectors, points, x, y, grid)
        clock.append(time.perf_counter())
        for name, start, end in zip(self.timings_ms, clock[:-1], clock[1:], strict=True):
            self.timings_ms[name] += (end - start) * 1e3
        return seg


def segmentation_of(
    masks: np.ndarray, vectors: np.ndarray, points: np.ndarray, x: np.ndarray, y: np.ndarray,
    grid: Grid,
) -> Segmentation:
    """Network output (2, n, n) and (9, n/2, n/2) as a Segmentation on the grid of n x n cells."""
    probability = 1.0 / (1.0 + np.exp(-np.clip(masks, -30.0, 30.0)))
    # Without depth there is no point to be bone.
    probability *= np.isfinite(points[..., 2])
    half = np.s_[::2, ::2]
    v = vectors.transpose(1, 2, 0)
    xh, yh = x[half], y[half]
    centre = points[half] + from_ray_frame(v[..., 0:3], xh, yh) * np.float32(CENTRE_SCALE_M)
    axes = []
    for part in (v[..., 3:6], v[..., 6:9]):
        axis = from_ray_frame(part, xh, yh)
        axes.append(axis / np.maximum(np.linalg.norm(axis, axis=2, keepdims=True), 1e-6))
    centre, cranial, dorsal = (
        a.astype(np.float32, copy=False).repeat(2, axis=0).repeat(2, axis=1)
        for a in (centre, *axes)
    )
    return Segmentation(
        bone=probability[0].astype(np.float32, copy=False),
        # Clean bone is bone: the two heads must not contradict each other.
        clean=np.minimum(probability[0], probability[1]).astype(np.float32, copy=False),
        centre_m=centre, cranial=cranial, dorsal=dorsal, points_m=points, grid=grid,
    )


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
