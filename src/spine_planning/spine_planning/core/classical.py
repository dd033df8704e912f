# SPDX-License-Identifier: Apache-2.0
"""The classical peer of the CT network: threshold, morphology, watershed. For comparison alone; it
is not offered, since ribs, pelvis and contrast join what it finds."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from .ct_network import STEP_MM
from .vertebrae import Found, assembled

_BONE_HU = 160.0
_CANAL_MM = 60.0  # half width of the column that is kept about the spine's line
_LEAST_MM, _LEAST_ML = 20.0, 8.0


def classical_vertebrae(hu: np.ndarray) -> Found:
    """Instances of a volume (Z, Y, X), as `find_vertebrae`; the sacrum is not told apart."""
    values = ndimage.gaussian_filter(np.nan_to_num(hu, nan=-1000.0), 0.5)
    bone = ndimage.binary_closing(values > _BONE_HU, iterations=2)
    bone = np.stack([ndimage.binary_fill_holes(s) for s in bone])
    bone = ndimage.binary_opening(bone)
    parts, count = ndimage.label(bone)
    nothing = np.zeros(hu.shape, bool)
    if not count:
        return assembled([], bone.astype(float), nothing)
    sizes = np.bincount(parts.ravel())[1:]
    spine = parts == 1 + int(sizes.argmax())
    depth = STEP_MM * ndimage.distance_transform_edt(spine)
    line = _line(depth)
    far = np.hypot(
        np.arange(hu.shape[1])[None, :, None] - line[:, 0, None, None],
        np.arange(hu.shape[2])[None, None, :] - line[:, 1, None, None],
    )
    spine &= STEP_MM * far < _CANAL_MM
    # Bodies are thick, discs are dark: the profile along the line has a maximum in each body.
    near = STEP_MM * far < 16.0
    area = (spine & near).sum(axis=(1, 2)).astype(float)
    profile = ndimage.gaussian_filter1d(area, 7.0 / STEP_MM)
    reach = int(_LEAST_MM / STEP_MM)
    peaks = (profile == ndimage.maximum_filter1d(profile, 2 * (reach // 2) + 1)) & (profile > 20.0)
    marks = np.zeros(hu.shape, np.int32)
    for number, k in enumerate(np.flatnonzero(peaks)):
        j, i = np.round(line[k]).astype(int)
        marks[max(k - 2, 0) : k + 3, max(j - 3, 0) : j + 4, max(i - 3, 0) : i + 4] = number + 1
    marks[~spine] = 0
    owner = watershed(-depth, marks, mask=spine)
    kept = [
        (owner == n, False)
        for n in range(1, int(owner.max()) + 1)
        if (owner == n).sum() * STEP_MM**3 > 1e3 * _LEAST_ML
    ]
    return assembled(kept, spine.astype(float), nothing)


def _line(depth: np.ndarray) -> np.ndarray:
    """(Z, 2) row and column of the deepest bone of each slice, smoothed along the spine."""
    smooth = ndimage.gaussian_filter(depth, (2.0, 1.0, 1.0))
    flat = smooth.reshape(len(depth), -1)
    at = np.stack(np.unravel_index(flat.argmax(axis=1), depth.shape[1:]), axis=1).astype(float)
    weight = flat.max(axis=1)
    sigma = 15.0 / STEP_MM
    total = ndimage.gaussian_filter1d(weight, sigma) + 1e-6
    return np.stack(
        [ndimage.gaussian_filter1d(at[:, k] * weight, sigma) / total for k in (0, 1)], axis=1
    )
