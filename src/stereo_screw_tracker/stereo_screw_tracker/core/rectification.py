# SPDX-License-Identifier: Apache-2.0
"""Whether two images are a rectified pair the right way round: asked of the scene, and of the heads.

The networks compare the images along rows and to one side only: a swapped or unrectified pair looks
to them like a scene without screws. So the scene itself is asked (`check_rig`): corner features that match anywhere tell which it is, and they
know nothing of the networks' own errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from spine_nav_common.core.types import Rejected, StereoFrame

from .config import GhostConfig
from .finder_grid import normalise
from .types import HeadObservation

SWAPPED = (
    "left and right are swapped: heads have the wrong disparity; exchange the two image topics"
)
NOT_RECTIFIED = (
    "left and right rows differ by {:.1f} px (median of {} {}): the pair is not rectified or its"
    " calibration is off; feed rectified images (image_rect) or calibrate again"
)

LEAST_FOR_MEDIAN = 3  # heads needed to tell a bad pair from a bad head
_FEATURES = 600
_LEAST_MATCHES = 40  # fewer say nothing either way
_ROW_REACH = 0.06  # of the image's height: what a bad rectification may do
_MAJORITY = 4.0
_FLOW: dict[str, Any] = {
    "winSize": (15, 15),
    "maxLevel": 0,
    "criteria": (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 20, 0.02),
    "flags": cv2.OPTFLOW_USE_INITIAL_FLOW,
}
_FLOW_REACH_PX = 3.0


@dataclass(frozen=True)
class RigCheck:
    """wrong: why the pair is none, with the remedy. row_px: median row difference of matches when
    the pair is one; None where too little matches to tell."""

    wrong: Rejected | None
    row_px: float | None = None


def check_rig(frame: StereoFrame, row_limit_px: float) -> RigCheck:
    """Match the scene and see to which side, and along which rows, it moves."""
    left, right = (
        np.ascontiguousarray(i if i.ndim == 2 else i[..., 1]) for i in (frame.left, frame.right)
    )
    at_left, at_right = _matches(left, right)
    shift = at_left - at_right
    near = np.abs(shift[:, 1]) < _ROW_REACH * left.shape[0]
    near[near] = _agreeing(shift[near])
    if near.sum() < _LEAST_MATCHES:
        return RigCheck(None)
    behind = int(np.sum(shift[near, 0] < -1.0))
    ahead = near & (shift[:, 0] > 1.0)
    if behind > _MAJORITY * max(int(ahead.sum()), 1):
        return RigCheck(Rejected(SWAPPED))
    row = np.abs(_refined_rows(_even(left), _even(right), at_left[ahead], at_right[ahead]))
    if len(row) < _LEAST_MATCHES:
        return RigCheck(None)
    median = float(np.median(row))
    if median > row_limit_px:
        return RigCheck(Rejected(NOT_RECTIFIED.format(median, len(row), "features")))
    return RigCheck(None, median)


def _even(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 without exposure, gain and slow shading: one eye may be darker than the other."""
    return np.clip(110.0 + 40.0 * normalise(image), 0, 255).astype(np.uint8)


def _matches(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (K, 2) in both images that look alike and choose each other."""
    detector = cv2.ORB.create(_FEATURES, nlevels=4, fastThreshold=8)
    (at_left, tell_left), (at_right, tell_right) = (
        detector.detectAndCompute(i, None) for i in (left, right)
    )
    none = np.zeros((0, 2), np.float32)
    if tell_left is None or tell_right is None:
        return none, none
    found = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(tell_left, tell_right)
    if not found:
        return none, none
    return (
        np.array([at_left[m.queryIdx].pt for m in found], np.float32),
        np.array([at_right[m.trainIdx].pt for m in found], np.float32),
    )


def _agreeing(shift: np.ndarray) -> np.ndarray:
    """(K,) bool: others share this shift (K, 2). A scene's disparities cluster, accidents do not."""
    apart = np.abs(shift[:, None] - shift[None])
    alike = (apart[..., 0] < 8.0) & (apart[..., 1] < 3.0)
    return alike.sum(axis=1) > max(4, 0.05 * len(shift))


def _refined_rows(
    left: np.ndarray, right: np.ndarray, at_left: np.ndarray, at_right: np.ndarray
) -> np.ndarray:
    """Row differences (M,) to a fraction of a pixel: features themselves sit on whole pixels."""
    if not len(at_left):
        return np.zeros(0)
    moved, ok, _ = cv2.calcOpticalFlowPyrLK(
        left, right, at_left.reshape(-1, 1, 2), at_right.reshape(-1, 1, 2).copy(), **_FLOW
    )
    moved = moved.reshape(-1, 2)
    good = (ok.ravel() > 0) & (np.abs(moved - at_right).max(axis=1) < _FLOW_REACH_PX)
    return (at_left - moved)[good, 1]


def row_sigma_px(observation: HeadObservation) -> float:
    """Standard error of the difference of a head's two rows."""
    c = observation.covariance_px2
    return float(np.sqrt(max(c[1, 1] + c[3, 3] - 2.0 * c[1, 3], 0.0)))


def wrong_by_heads(
    observations: Sequence[HeadObservation], config: GhostConfig, rows_agree: bool
) -> Rejected | None:
    """Why the heads of this pair say that it is none, with the remedy, or None.

    rows_agree: the scene has shown that rows fit; heads are not asked about rows then.
    """
    finite = [
        o
        for o in observations
        if np.isfinite(o.left_px).all()
        and np.isfinite(o.right_px).all()
        and np.isfinite(o.covariance_px2).all()
    ]
    if not finite:
        return None
    disparity = np.array([o.left_px[0] - o.right_px[0] for o in finite])
    sigma = np.array(
        [np.sqrt(max(o.covariance_px2[0, 0] + o.covariance_px2[2, 2], 0.0)) for o in finite]
    )
    if np.mean(disparity < -3.0 * sigma) > 0.5:
        return Rejected(SWAPPED)
    if rows_agree or len(finite) < LEAST_FOR_MEDIAN:
        return None
    row = np.abs([o.left_px[1] - o.right_px[1] for o in finite])
    noise = float(np.median([row_sigma_px(o) for o in finite]))
    # the median of a Gaussian's absolute value is 0.67 sigma: three times that is no accident
    if np.median(row) > max(config.systematic_row_px, 2.0 * noise):
        return Rejected(NOT_RECTIFIED.format(float(np.median(row)), len(finite), "heads"))
    return None
