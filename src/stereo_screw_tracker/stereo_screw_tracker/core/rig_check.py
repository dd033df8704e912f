# SPDX-License-Identifier: Apache-2.0
"""Whether two images are a rectified pair the right way round, told from the scene itself.

The networks compare the images along rows and to one side only: a swapped or unrectified pair looks
to them like a scene without screws. Corner features that match anywhere tell which it is.
"""

from __future__ import annotations

import cv2
import numpy as np

from spine_nav_common.core.types import Rejected, StereoFrame

from .ghosts import NOT_RECTIFIED, SWAPPED

ROW_LIMIT_PX = 1.5  # features are placed to half a pixel; heads are asked more strictly (ghosts.py)
_FEATURES = 600
_LEAST_MATCHES = 40  # fewer say nothing either way
_ROW_REACH = 0.06  # of the image's height: what a bad rectification may do
_MAJORITY = 4.0


def check_rig(frame: StereoFrame, row_limit_px: float = ROW_LIMIT_PX) -> Rejected | None:
    """Why the pair is none, with the remedy; None where it is one, or too little matches to tell."""
    left, right = (i if i.ndim == 2 else i[..., 1] for i in (frame.left, frame.right))
    detector = cv2.ORB.create(_FEATURES, nlevels=4, fastThreshold=8)
    (at_left, tell_left), (at_right, tell_right) = (
        detector.detectAndCompute(np.ascontiguousarray(i), None) for i in (left, right)
    )
    if tell_left is None or tell_right is None:
        return None
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(tell_left, tell_right)
    if len(matches) < _LEAST_MATCHES:
        return None
    shift = np.array([at_left[m.queryIdx].pt for m in matches]) - np.array(
        [at_right[m.trainIdx].pt for m in matches]
    )
    near = shift[np.abs(shift[:, 1]) < _ROW_REACH * left.shape[0]]
    near = _agreeing(near)
    if len(near) < _LEAST_MATCHES:
        return None
    behind = int(np.sum(near[:, 0] < -1.0))
    ahead = int(np.sum(near[:, 0] > 1.0))
    if behind > _MAJORITY * max(ahead, 1):
        return Rejected(SWAPPED)
    row = np.abs(near[near[:, 0] > 1.0, 1])
    if len(row) >= _LEAST_MATCHES and np.median(row) > row_limit_px:
        return Rejected(NOT_RECTIFIED.format(float(np.median(row)), len(row), "features"))
    return None


def _agreeing(shift: np.ndarray) -> np.ndarray:
    """Matches (K, 2) whose shift others share: a scene's disparities cluster, accidents do not."""
    if not len(shift):
        return shift
    apart = np.abs(shift[:, None] - shift[None])
    alike = (apart[..., 0] < 8.0) & (apart[..., 1] < 3.0)
    return shift[alike.sum(axis=1) > max(4, 0.05 * len(shift))]
