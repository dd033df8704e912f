# SPDX-License-Identifier: Apache-2.0
"""The peer of the finder: heads detected in each image alone, then matched along the rows.

Same grid, same decoder and same training data, but the network never sees both views. `spinenav
bench` compares; the tracker does not use it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from spine_nav_common.core.types import StereoFrame
from spine_perception.core.backends import AUTO
from spine_perception.core.inference import OnnxModel, find_model

from .finder import (
    MIN_DISPARITY_PX,
    FinderNetwork,
    HeadCandidate,
    HeadPeaks,
    card_threshold,
    head_peaks,
    unmirrored,
)
from .finder_grid import BINS, CELL_PX, HEIGHT, MAPS, WIDTH, letterbox, network_input
from .finder_look import whole

MODEL_NAME = "screw_finder_mono.onnx"
MODEL_VARIABLE = "SPINENAV_SCREW_FINDER_MONO"
EXPECTED_INPUT = {"width": WIDTH, "height": HEIGHT, "maps": list(MAPS)}
ROW_PX = 6.0  # grid pixels that the rows of one head may differ
PATCH_PX = 12  # half the side of the patch that is compared
UNLIKE = 1.5  # cost from which on a match is none: rows far apart, or patches that disagree


class MonoFinder:
    """Screw heads of a stereo pair by detection and matching."""

    def __init__(self, network: FinderNetwork, head_threshold: float = 0.5) -> None:
        self.network = network
        self.head_threshold = head_threshold

    @classmethod
    def load(
        cls,
        model: Path | None = None,
        backend: str = AUTO,
        threads: int | None = None,
    ) -> MonoFinder:
        """From a model file and its card; ModelError if unusable."""
        path = model or find_model(MODEL_NAME, MODEL_VARIABLE)
        network = OnnxModel(path, EXPECTED_INPUT, backend, threads)
        return cls(network, card_threshold(path, network, "head"))

    def find(self, frame: StereoFrame) -> tuple[HeadCandidate, ...]:
        """Matched heads by falling score, the mean of both views'. Errors as `Finder.find`."""
        look = whole(frame)
        box = letterbox(look.wide, look.high)
        x = network_input(frame.left, frame.right, box)
        maps = self.network.run(x)[0]
        left, right = head_peaks(maps[0]), unmirrored(head_peaks(maps[1]))
        heads = []
        for i, k in match_rows(left, right, x[0]):
            score = float(left.score[i] + right.score[k]) / 2
            if score >= self.head_threshold:
                at_left, at_right = box.to_image(left.uv[i]), box.to_image(right.uv[k])
                disparity = float(at_left[0] - at_right[0])
                heads.append(HeadCandidate(at_left, at_right, disparity, score, True))
        return tuple(sorted(heads, key=lambda head: -head.score))


def match_rows(left: HeadPeaks, right: HeadPeaks, x: np.ndarray) -> list[tuple[int, int]]:
    """(left, right) indices of the assignment with the least total cost.

    x (2, HEIGHT, WIDTH): the normalised views. Cost: rows apart over ROW_PX, and 1 minus the
    patches' correlation.
    """
    if not len(left.uv) or not len(right.uv):
        return []
    rows = np.abs(left.uv[:, None, 1] - right.uv[None, :, 1])
    disparity = left.uv[:, None, 0] - right.uv[None, :, 0]
    patches = [_patches(x[eye], peaks.uv) for eye, peaks in enumerate((left, right))]
    cost = rows / ROW_PX + 1.0 - patches[0] @ patches[1].T
    possible = (
        (rows <= ROW_PX)
        & (disparity >= MIN_DISPARITY_PX)
        & (disparity <= (BINS - 1) * CELL_PX)
        & (cost < UNLIKE)
    )
    chosen = linear_sum_assignment(np.where(possible, cost - UNLIKE, 0.0))
    return [(int(i), int(k)) for i, k in zip(*chosen, strict=True) if possible[i, k]]


def _patches(view: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """(N, n) pixels about each place, mean 0 and length 1."""
    reach = np.arange(-PATCH_PX, PATCH_PX + 1)
    v = np.clip(np.round(uv[:, 1, None]).astype(int) + reach, 0, HEIGHT - 1)
    u = np.clip(np.round(uv[:, 0, None]).astype(int) + reach, 0, WIDTH - 1)
    patch = view[v[:, :, None], u[:, None, :]].reshape(len(uv), -1)
    patch = patch - patch.mean(axis=1, keepdims=True)
    return patch / np.maximum(np.linalg.norm(patch, axis=1, keepdims=True), 1e-6)
