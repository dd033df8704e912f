# SPDX-License-Identifier: Apache-2.0
"""Peer methods for screw heads in a stereo pair; each looks at a pair alone.

- `SgbmPeer`: OpenCV's semi-global matching gives depth, heads are detected in the left view.
- `MatchPeer`: heads are detected in each view alone, matched along the rows and triangulated.

Both share one detector: the network that sees one view at a time (trained on the same pairs as
ours), or, where its model is missing, the places that our own finder sees in each view. Neither
gives an axis, a bound or a rod.
Parameters come from `peers_stereo_search.py`, which searches them on validation pairs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from spine_nav_common.core.types import Intrinsics, Rejected, StereoFrame
from spine_perception.core.inference import ModelError, find_model
from stereo_screw_tracker.core.finder import (
    CLOSER_SCORE,
    Finder,
    FinderNetwork,
    HeadPeaks,
    head_peaks,
    unmirrored,
)
from stereo_screw_tracker.core.finder import MODEL_NAME as FINDER_NAME
from stereo_screw_tracker.core.finder_grid import grey, letterbox, network_input
from stereo_screw_tracker.core.finder_look import Look, close_look, whole
from stereo_screw_tracker.core.finder_mono import MODEL_NAME, MODEL_VARIABLE, MonoFinder, match_rows

PARAMETERS_FILE = Path(__file__).with_name("peer_stereo_parameters.json")
SGBM, MATCH = "SGBM depth + detection in the left view", "detection in each view + matching"
WORK_M = (0.28, 0.95)  # where a peer may look for heads
LEAST_VALID = 0.1  # of the pixels about a head must have depth
_REACH_PX = 4  # how far the sub-pixel search moves the matched place
ONE_VIEW, OUR_PLACES = "network of one view", "places of our finder in each view"


@dataclass(frozen=True)
class PeerParameters:
    """What the search may choose. offset_mm: from the surface that is matched to the saddle point,
    along the line of sight, fitted with each candidate."""

    threshold: float = 0.5
    offset_mm: float = 0.0
    # SGBM
    max_width: int = 960
    block_px: int = 5
    smoothness: float = 1.0
    uniqueness: int = 5
    three_way: bool = True
    radius_mm: float = 4.0
    percentile: float = 50.0
    # matching
    patch_px: int = 0  # half the side of the patch for the sub-pixel match; 0: none


SETTINGS = {
    SGBM: ("threshold", "offset_mm", "max_width", "block_px", "smoothness", "uniqueness",
           "three_way", "radius_mm", "percentile"),
    MATCH: ("threshold", "offset_mm", "patch_px"),
}  # fmt: skip


@dataclass(frozen=True)
class Detections:
    """Heads in each view alone, in grid pixels of a look; x (2, H, W): both normalised views."""

    left: HeadPeaks
    right: HeadPeaks
    look: Look
    x: np.ndarray

    def left_px(self, chosen: np.ndarray | int) -> np.ndarray:
        """(..., 2) image pixels of heads in the left view."""
        box = letterbox(self.look.wide, self.look.high)
        return box.to_image(self.left.uv[chosen]) + (self.look.left, self.look.top)

    def right_px(self, chosen: np.ndarray | int) -> np.ndarray:
        """(..., 2) image pixels of heads in the right view."""
        box = letterbox(self.look.wide, self.look.high)
        return box.to_image(self.right.uv[chosen]) + (
            self.look.left - self.look.shift,
            self.look.top,
        )


class Detector(Protocol):
    """Finds heads in each view alone."""

    name: str
    model_sha256: str

    def detect(self, frame: StereoFrame) -> Detections: ...


class NetworkDetector:
    """A network's heat map in each view; it looks twice, as ours does."""

    def __init__(self, network: FinderNetwork, name: str) -> None:
        self._network = network
        self.name = name
        self.model_sha256 = network.model_sha256

    def detect(self, frame: StereoFrame) -> Detections:
        found = self._detect(frame, whole(frame))
        pairs = [
            (i, j)
            for i, j in match_rows(found.left, found.right, found.x)
            if 0.5 * (found.left.score[i] + found.right.score[j]) >= CLOSER_SCORE
        ]
        i, j = np.reshape(np.array(pairs, int), (-1, 2)).T
        left_px, right_px = found.left_px(i), found.right_px(j)
        closer = close_look(frame, left_px, left_px[:, 0] - right_px[:, 0])
        return found if closer is None else self._detect(frame, closer)

    def _detect(self, frame: StereoFrame, look: Look) -> Detections:
        x = network_input(*look.crop(frame), letterbox(look.wide, look.high))
        maps = self._network.run(x)[0]
        return Detections(head_peaks(maps[0]), unmirrored(head_peaks(maps[1])), look, x[0])


def load_detector(models: Path | None = None) -> Detector:
    """The network of one view; where its model is not there, the places (not the disparities) that
    our own finder gives in each view. ModelError if a model is unusable."""
    try:
        mono = models / MODEL_NAME if models else find_model(MODEL_NAME, MODEL_VARIABLE)
    except ModelError:
        mono = None
    if mono is not None and mono.is_file():
        return NetworkDetector(MonoFinder.load(mono).network, ONE_VIEW)
    finder = models / FINDER_NAME if models else None
    return NetworkDetector(Finder.load(finder).network, OUR_PLACES)


# -- SGBM -------------------------------------------------------------------------------------


class SgbmPeer:
    """Depth by semi-global matching, places by detection in the left view."""

    def __init__(self, detector: Detector, parameters: PeerParameters) -> None:
        self.detector = detector
        self.parameters = parameters

    def heads(self, frame: StereoFrame) -> np.ndarray | Rejected:
        """(N, 3) saddle points, metres, left optical frame."""
        found = self.detector.detect(frame)
        return sgbm_heads(frame, found, sgbm_depth(frame, self.parameters), self.parameters)


def sgbm_depth(frame: StereoFrame, p: PeerParameters) -> np.ndarray:
    """(h, w) float32 depth in metres, NaN = none; the image is reduced to `max_width` at most."""
    k = frame.intrinsics
    scale = min(1.0, p.max_width / k.width)
    size = (round(k.width * scale), round(k.height * scale))
    left, right = (
        cv2.resize(grey(i), size, interpolation=cv2.INTER_AREA) for i in (frame.left, frame.right)
    )
    f_b = k.fx * (size[0] / k.width) * frame.baseline_m
    least = int(f_b / WORK_M[1])
    count = 16 * -(-(int(np.ceil(f_b / WORK_M[0])) - least) // 16)
    # Without a margin there is no answer in the columns that the largest disparity leaves.
    margin = least + count
    padded = [cv2.copyMakeBorder(i, 0, 0, margin, 0, cv2.BORDER_REPLICATE) for i in (left, right)]
    area = p.block_px**2
    matcher = cv2.StereoSGBM_create(
        minDisparity=least,
        numDisparities=count,
        blockSize=p.block_px,
        P1=round(8 * p.smoothness * area),
        P2=round(32 * p.smoothness * area),
        disp12MaxDiff=1,
        preFilterCap=31,
        uniquenessRatio=p.uniqueness,
        speckleWindowSize=60,
        speckleRange=2,
        mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY if p.three_way else cv2.STEREO_SGBM_MODE_SGBM,
    )
    disparity = matcher.compute(*padded)[:, margin:].astype(np.float32) / 16.0
    with np.errstate(divide="ignore"):
        depth = f_b / disparity
    depth[disparity <= least] = np.nan
    return depth


def sgbm_heads(
    frame: StereoFrame, found: Detections, depth_m: np.ndarray, p: PeerParameters
) -> np.ndarray:
    """(N, 3): each detection above the threshold with a percentile of the depths about it."""
    k = frame.intrinsics
    scale = depth_m.shape[1] / k.width
    points = []
    for uv in found.left_px(found.left.score >= p.threshold):
        at = (uv + 0.5) * scale - 0.5
        near = _disc(depth_m, at, 6.0)
        if near is None:
            continue
        radius_px = p.radius_mm * 1e-3 * k.fx * scale / float(np.median(near))
        values = _disc(depth_m, at, max(radius_px, 1.0))
        if values is None:
            continue
        points.append(_along_ray(k, uv, float(np.percentile(values, p.percentile)), p.offset_mm))
    return np.reshape(points, (-1, 3))


def _disc(depth_m: np.ndarray, at: np.ndarray, radius_px: float) -> np.ndarray | None:
    """Depths within a radius of (u, v); None where too few pixels have one."""
    high, wide = depth_m.shape
    r = int(np.ceil(radius_px))
    u, v = (int(c) for c in np.round(at))
    rows, columns = np.mgrid[max(v - r, 0) : min(v + r + 1, high),
                             max(u - r, 0) : min(u + r + 1, wide)]  # fmt: skip
    inside = np.hypot(rows - at[1], columns - at[0]) <= radius_px
    values = depth_m[rows[inside], columns[inside]]
    valid = values[np.isfinite(values)]
    return valid if len(valid) >= max(1.0, LEAST_VALID * len(values)) else None


def _along_ray(k: Intrinsics, uv: np.ndarray, depth_m: float, offset_mm: float) -> np.ndarray:
    ray = np.array([(uv[0] - k.cx) / k.fx, (uv[1] - k.cy) / k.fy, 1.0])
    return ray * depth_m + 1e-3 * offset_mm * ray / np.linalg.norm(ray)


# -- matching ---------------------------------------------------------------------------------


class MatchPeer:
    """Detection in each view, rows and looks matched, triangulated."""

    def __init__(self, detector: Detector, parameters: PeerParameters) -> None:
        self.detector = detector
        self.parameters = parameters

    def heads(self, frame: StereoFrame) -> np.ndarray | Rejected:
        """(N, 3) saddle points, metres, left optical frame."""
        return matched_heads(frame, self.detector.detect(frame), self.parameters)


def matched_heads(frame: StereoFrame, found: Detections, p: PeerParameters) -> np.ndarray:
    """(N, 3): pairs of detections whose mean score reaches the threshold."""
    k = frame.intrinsics
    points = []
    for i, j in match_rows(found.left, found.right, found.x):
        if 0.5 * (found.left.score[i] + found.right.score[j]) < p.threshold:
            continue
        left, right = found.left_px(i), found.right_px(j)
        disparity = left[0] - right[0]
        if p.patch_px:
            disparity = fine_disparity(frame, left, disparity, p.patch_px)
        if not disparity > 0:
            continue
        depth = k.fx * frame.baseline_m / disparity
        if WORK_M[0] <= depth <= WORK_M[1]:
            uv = np.array([left[0], 0.5 * (left[1] + right[1])])
            points.append(_along_ray(k, uv, depth, p.offset_mm))
    return np.reshape(points, (-1, 3))


def fine_disparity(
    frame: StereoFrame, left_px: np.ndarray, disparity_px: float, patch_px: int
) -> float:
    """The disparity at which the patch about the left place correlates best with the right view,
    within a few pixels, by a parabola through the best three; as it was near the images' edges."""
    left, right = grey(frame.left), grey(frame.right)
    high, wide = left.shape
    u, v = (round(float(c)) for c in left_px)
    other, n = round(u - disparity_px), patch_px
    if not (
        n <= v < high - n and n <= u < wide - n
        and n + _REACH_PX <= other < wide - n - _REACH_PX
    ):  # fmt: skip
        return disparity_px
    patch = left[v - n : v + n + 1, u - n : u + n + 1]
    strip = right[v - n : v + n + 1, other - n - _REACH_PX : other + n + _REACH_PX + 1]
    alike = cv2.matchTemplate(strip, patch, cv2.TM_CCOEFF_NORMED)[0]
    best = int(alike.argmax())
    shift = 0.0
    if 0 < best < len(alike) - 1:
        a, b, c = (float(q) for q in alike[best - 1 : best + 2])
        if a - 2 * b + c < 0:
            shift = 0.5 * (a - c) / (a - 2 * b + c)
    return float(u - (other - _REACH_PX + best + shift))


# -- all of them ------------------------------------------------------------------------------


PEERS = {SGBM: SgbmPeer, MATCH: MatchPeer}


def _stored(detector: str, path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return dict(found["detectors"].get(detector, {}))


def load_parameters(detector: str, path: Path = PARAMETERS_FILE) -> dict[str, PeerParameters]:
    """Parameters per peer as the search wrote them for this detector; defaults where it did not."""
    stored = _stored(detector, path).get("peers", {})
    known = {f.name for f in fields(PeerParameters)}
    chosen = {}
    for name in PEERS:
        values = stored.get(name, {}).get("parameters", {})
        chosen[name] = PeerParameters(**{k: v for k, v in values.items() if k in known})
    return chosen


def search_origin(detector: str, path: Path = PARAMETERS_FILE) -> dict[str, Any] | None:
    """How the parameters of this detector came about; None: they are defaults."""
    stored = _stored(detector, path)
    return {k: v for k, v in stored.items() if k != "peers"} or None


def load_peers(models: Path | None = None) -> dict[str, Any]:
    """Both peers with their parameters, by name."""
    detector = load_detector(models)
    parameters = load_parameters(detector.name)
    return {name: peer(detector, parameters[name]) for name, peer in PEERS.items()}


def settings_of(name: str, p: PeerParameters) -> dict[str, Any]:
    """The parameters that this peer reads, for the tables."""
    values = asdict(p)
    return {k: values[k] for k in SETTINGS[name]}
