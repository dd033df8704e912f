# SPDX-License-Identifier: Apache-2.0
"""First stage of the screw tracker: where heads and rods are, roughly, in the whole stereo pair.

The network answers for its reference view. It is asked twice in one batch: for the left image, and
for the right one through a mirror (mirrored right as reference, mirrored left as the other view),
so that a head is found in both images independently and the two answers can confirm each other.
A first pass sees the whole pair; where heads are small in it, a second one looks closer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy.ndimage import maximum_filter

from spine_nav_common.core.compiled import compiled
from spine_nav_common.core.types import StereoFrame
from spine_perception.core.backends import AUTO
from spine_perception.core.inference import ModelError, OnnxModel, find_model

from .finder_grid import (
    BINS,
    CELL_PX,
    HEIGHT,
    MAPS,
    SLOPE_SCALE,
    WIDTH,
    Letterbox,
    cell_centres,
    letterbox,
    network_input,
)
from .finder_look import Look, close_look, whole
from .types import RodSeeds

MODEL_NAME = "screw_finder.onnx"
MODEL_VARIABLE = "SPINENAV_SCREW_FINDER"
EXPECTED_INPUT = {"width": WIDTH, "height": HEIGHT, "bins": BINS, "maps": list(MAPS)}
PEAK_FLOOR = 0.05  # below it a peak is not even worth a confirmation
CLOSER_SCORE = 0.17  # what is worth a closer look
BIN_REACH = 2  # bins to either side of the best one that share in the disparity
SAME_HEAD_PX = 8.0  # grid pixels: nearer than two tulips can stand to each other
SAME_DISPARITY_PX = 12.0  # grid pixels between the answers of the two references
MIN_DISPARITY_PX = 4.0  # grid pixels: nothing in the operating field is that far away


class FinderNetwork(Protocol):
    """What the finder needs of a network; tests put a small fake here."""

    provider: str
    model_sha256: str

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """x (2, 2, 480, 640) to maps (2, len(MAPS), 60, 80), head and rod volume (2, BINS, 60, 80)."""
        ...


@dataclass(frozen=True)
class HeadCandidate:
    """A screw head's saddle point, to a few image pixels.

    left_px, right_px (2,): (u, v) in image pixels; disparity_px > 0 as the network compares the
    views, near to but not the same as the difference of the two u. score: 0 to 1. confirmed: found
    from both references; otherwise one of the places is the other moved by the disparity, and the
    score is at most 0.5.
    """

    left_px: np.ndarray
    right_px: np.ndarray
    disparity_px: float
    score: float
    confirmed: bool


@dataclass(frozen=True)
class Found:
    """Heads by falling score, and places on rods."""

    heads: tuple[HeadCandidate, ...]
    rod_seeds: RodSeeds


@dataclass(frozen=True)
class HeadPeaks:
    """Heads of one view by falling score, in grid pixels. uv (N, 2), disparity (N,), score (N,)."""

    uv: np.ndarray
    disparity: np.ndarray
    score: np.ndarray


class Finder:
    """Screw heads and rod places of a stereo pair. Not for several threads at once."""

    def __init__(
        self, network: FinderNetwork, head_threshold: float = 0.5, rod_threshold: float = 0.5
    ) -> None:
        self.network = network
        self.head_threshold = head_threshold
        self.rod_threshold = rod_threshold

    @classmethod
    def load(
        cls,
        model: Path | None = None,
        backend: str = AUTO,
        threads: int | None = None,
    ) -> Finder:
        """From a model file and its card, which holds the thresholds; ModelError if unusable."""
        path = model or find_model(MODEL_NAME, MODEL_VARIABLE)
        network = OnnxModel(path, EXPECTED_INPUT, backend, threads)
        head, rod = (card_threshold(path, network, name) for name in ("head", "rod"))
        return cls(network, head, rod)

    def warm_up(self) -> None:
        """One run on an empty pair, so that the first frame is not the slow one."""
        self.network.run(np.zeros((2, 2, HEIGHT, WIDTH), np.float32))

    def find(self, frame: StereoFrame, look: Look | None = None) -> Found:
        """Both views of one pair. An empty answer means that the network sees nothing there.

        look: where to look, if it is known (`finder_look.close_look`), in one pass; without it the
        whole pair is searched first. Raises ValueError if the views have different sizes.
        """
        if look is not None:
            return self._pass(frame, look)
        found = self._pass(frame, whole(frame), min(self.head_threshold, CLOSER_SCORE))
        likely = [head for head in found.heads if head.score >= CLOSER_SCORE]
        closer = close_look(
            frame,
            np.array([head.left_px for head in likely]).reshape(-1, 2),
            np.array([head.disparity_px for head in likely]),
        )
        if closer is not None:
            return self._pass(frame, closer)
        sure = tuple(head for head in found.heads if head.score >= self.head_threshold)
        return Found(sure, found.rod_seeds)

    def _pass(self, frame: StereoFrame, look: Look, least: float | None = None) -> Found:
        """What one run of the network sees in `look`; heads from score `least` on."""
        left_image, right_image = look.crop(frame)
        box = letterbox(look.wide, look.high)
        maps, head_volume, rod_volume = self.network.run(
            network_input(left_image, right_image, box)
        )
        left = head_peaks(maps[0], head_volume[0])
        right = unmirrored(head_peaks(maps[1], head_volume[1]))
        least = self.head_threshold if least is None else least
        heads = [
            replace(
                head,
                left_px=head.left_px + (look.left, look.top),
                right_px=head.right_px + (look.left - look.shift, look.top),
                disparity_px=head.disparity_px + look.shift,
            )
            for head in join_views(left, right, box, least)
        ]
        return Found(
            tuple(heads), rod_seeds(maps, rod_volume, box, look, frame, self.rod_threshold)
        )


def card_threshold(model: Path, network: OnnxModel, name: str) -> float:
    """A threshold of the model's card; ModelError unless it lies between 0 and 1."""
    chosen: Any = network.card.get("thresholds")
    try:
        value = float(chosen[name])
    except (TypeError, KeyError, ValueError):
        value = float("nan")
    if not 0 < value < 1:
        raise ModelError(
            f"{model.with_suffix('.json')}: field thresholds is {chosen}, needs {name} between "
            "0 and 1; run python -m training.screw_finder.export"
        )
    return value


def head_peaks(
    maps: np.ndarray, volume: np.ndarray | None = None, floor: float = PEAK_FLOOR
) -> HeadPeaks:
    """Local maxima of one reference view's heat, no two of them within SAME_HEAD_PX.

    maps (len(MAPS), h, w), volume (BINS, h, w); places in grid pixels of that view. Without a
    volume the disparities are NaN.
    """
    heat = _sigmoid(maps[MAPS.index("head")])
    rows, columns = np.nonzero((heat >= floor) & (heat == maximum_filter(heat, size=3)))
    order = np.argsort(-heat[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    offset = maps[[MAPS.index("head_du"), MAPS.index("head_dv")]][:, rows, columns].T
    # A cell speaks for its own surroundings only.
    uv = cell_centres()[rows, columns] + np.clip(offset, -2, 2) * CELL_PX
    keep = apart(uv, SAME_HEAD_PX)
    if volume is None:
        disparity = np.full(len(uv), np.nan)
    else:
        disparity = bin_disparity(volume[:, rows, columns].T)
        keep &= disparity >= MIN_DISPARITY_PX
    return HeadPeaks(uv[keep], disparity[keep], heat[rows, columns][keep])


def bin_disparity(logits: np.ndarray) -> np.ndarray:
    """(N, BINS) logits to (N,) grid pixels: mean of the bins about the best one."""
    if not len(logits):
        return np.zeros(0)
    best = logits.argmax(axis=1)
    near = np.clip(best[:, None] + np.arange(-BIN_REACH, BIN_REACH + 1), 0, BINS - 1)
    weight = np.exp(np.take_along_axis(logits, near, axis=1) - logits.max(axis=1)[:, None])
    # At the ends the clipped neighbours repeat a bin; it counts once.
    weight[:, 1:][np.diff(near, axis=1) == 0] = 0.0
    return CELL_PX * (near * weight).sum(axis=1) / weight.sum(axis=1)


def join_views(
    left: HeadPeaks, right: HeadPeaks, box: Letterbox, least: float = 0.0
) -> list[HeadCandidate]:
    """Candidates by falling score from `least` on: peaks that agree become one, the rest stand for
    themselves.

    A score is the mean of both references', and one that does not see the head says 0. On the
    validation pairs that parts heads from ghosts better than 1 - (1 - a)(1 - b), the rule for
    independent witnesses: what one reference alone believes in is mostly a ghost.
    """
    joined: list[tuple[float, np.ndarray, np.ndarray, float, bool]] = []
    free = np.ones(len(right.uv), bool)
    places = left.uv - np.stack([left.disparity, np.zeros(len(left.uv))], axis=1)
    away = np.hypot(*np.moveaxis(right.uv - places[:, None], -1, 0))
    unlike = np.abs(right.disparity - left.disparity[:, None]) >= SAME_DISPARITY_PX
    away[unlike | (away >= SAME_HEAD_PX)] = np.inf
    rows = zip(left.uv, left.disparity, left.score, places, away, strict=True)
    for uv, disparity, score, expected, row in rows:
        near = np.where(free, row, np.inf)
        k = int(near.argmin()) if len(near) else -1
        if k >= 0 and np.isfinite(near[k]):
            free[k] = False
            both = (score + right.score[k]) / 2
            mean = (disparity + right.disparity[k]) / 2
            joined.append((both, uv, right.uv[k], mean, True))
        else:
            joined.append((score / 2, uv, expected, disparity, False))
    for uv, disparity, score in zip(
        right.uv[free], right.disparity[free], right.score[free], strict=True
    ):
        joined.append((score / 2, uv + (disparity, 0.0), uv, disparity, False))
    # What the other camera does not have in view cannot be measured.
    joined = [head for head in joined if box.holds(head[1]) and box.holds(head[2])]
    joined = [head for head in joined if head[0] >= least]
    joined.sort(key=lambda head: -head[0])
    if not joined:
        return []
    # One place in one image is one head, whatever disparities are offered for it.
    keep = apart(np.array([h[1] for h in joined]), SAME_HEAD_PX)
    keep &= apart(np.array([h[2] for h in joined]), SAME_HEAD_PX)
    return [
        HeadCandidate(
            box.to_image(at_left),
            box.to_image(at_right),
            float(disparity / box.scale[0]),
            float(score),
            confirmed,
        )
        for (score, at_left, at_right, disparity, confirmed), kept in zip(joined, keep, strict=True)
        if kept
    ]


def rod_seeds(
    maps: np.ndarray,
    volume: np.ndarray,
    box: Letterbox,
    look: Look,
    frame: StereoFrame,
    threshold: float,
) -> RodSeeds:
    """Cells of both references that see a rod, as points and tangents in the left optical frame.

    Confidence: probability of a rod times the share of the disparity that lies about its best bin.
    """
    points, tangents, confidences = [], [], []
    for reference in (0, 1):
        m = dict(zip(MAPS, maps[reference], strict=True))
        presence = _sigmoid(m["rod"])
        at = presence >= threshold
        logits = volume[reference][:, at].T
        disparity = bin_disparity(logits)
        offset = np.stack([m["rod_du"][at], m["rod_dv"][at]], axis=1)
        uv = cell_centres()[at] + np.clip(offset, -2, 2) * CELL_PX
        angle = 0.5 * np.arctan2(m["rod_sin2"][at], m["rod_cos2"][at])
        way = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        slope = (m["rod_slope_u"][at] * way[:, 0] + m["rod_slope_v"][at] * way[:, 1]) / SLOPE_SCALE
        if reference == 1:
            # Back through the mirror, then from the right image into the left one.
            uv[:, 0] = WIDTH - 1 - uv[:, 0] + disparity
            way[:, 0] = slope - way[:, 0]
        confidence = presence[at] * _peak_share(logits)
        good = disparity >= MIN_DISPARITY_PX
        point, tangent = _lift(uv[good], disparity[good], way[good], slope[good], box, look, frame)
        points.append(point)
        tangents.append(tangent)
        confidences.append(confidence[good])
    return RodSeeds(np.concatenate(points), np.concatenate(tangents), np.concatenate(confidences))


def _lift(
    uv: np.ndarray,
    disparity: np.ndarray,
    way: np.ndarray,
    slope: np.ndarray,
    box: Letterbox,
    look: Look,
    frame: StereoFrame,
) -> tuple[np.ndarray, np.ndarray]:
    """Left grid pixels, disparities and their derivatives along the rod to points and tangents."""
    k = frame.intrinsics
    u, v = box.to_image(uv).T
    u, v = u + look.left, v + look.top
    d = disparity / box.scale[0] + look.shift
    du, dv, dd = way[:, 0] / box.scale[0], way[:, 1] / box.scale[1], slope / box.scale[0]
    z = k.fx * frame.baseline_m / d
    x, y = (u - k.cx) / k.fx, (v - k.cy) / k.fy
    dz = -z / d * dd
    tangent = np.stack([du / k.fx * z + x * dz, dv / k.fy * z + y * dz, dz], axis=1)
    length = np.linalg.norm(tangent, axis=1, keepdims=True)
    return np.stack([x * z, y * z, z], axis=1), tangent / np.maximum(length, 1e-12)


def _peak_share(logits: np.ndarray) -> np.ndarray:
    if not len(logits):
        return np.zeros(0)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    best = logits.argmax(axis=1)[:, None]
    near = np.abs(np.arange(BINS) - best) <= BIN_REACH
    return (p * near).sum(axis=1) / p.sum(axis=1)


def unmirrored(peaks: HeadPeaks) -> HeadPeaks:
    """Peaks of the mirrored right image as places in the right image."""
    uv = peaks.uv.copy()
    uv[:, 0] = WIDTH - 1 - uv[:, 0]
    return HeadPeaks(uv, peaks.disparity, peaks.score)


def apart(uv: np.ndarray, least: float) -> np.ndarray:
    """(N,) bool: whether no kept place before it is nearer than `least`."""
    return _apart(np.ascontiguousarray(uv, np.float64).reshape(-1, 2), float(least))


@compiled
def _apart(uv: np.ndarray, least: float) -> np.ndarray:
    keep = np.ones(len(uv), np.bool_)
    for i in range(len(uv)):
        for k in range(i):
            if keep[k] and np.hypot(uv[i, 0] - uv[k, 0], uv[i, 1] - uv[k, 1]) < least:
                keep[i] = False
                break
    return keep


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0)))
