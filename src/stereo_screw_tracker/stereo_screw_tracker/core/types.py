# SPDX-License-Identifier: Apache-2.0
"""What the rooms of the screw tracker hand each other. Rectified pixels, metres, left optical frame.

"Saddle point": where the axis of a seated rod crosses the tulip's axis (docs/contracts.md, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spine_nav_common.core.types import Intrinsics


@dataclass(frozen=True)
class StereoCamera:
    """A rectified pair: both cameras have `intrinsics`, the right one stands at +x `baseline_m`."""

    intrinsics: Intrinsics
    baseline_m: float


@dataclass(frozen=True)
class HeadObservation:
    """One screw head in one stereo pair, measured in both images apart.

    left_px, right_px (2,): the saddle point's image (u, v); right v is measured, not copied, so
    that it can speak against a wrong pair. covariance_px2 (4, 4) of (u_l, v_l, u_r, v_r).
    axis (3,) unit, out of the bone; axis_sigma_rad per tangent direction; confidence 0 to 1.
    """

    left_px: np.ndarray
    right_px: np.ndarray
    covariance_px2: np.ndarray
    axis: np.ndarray
    axis_sigma_rad: float
    confidence: float


@dataclass(frozen=True)
class RodSeeds:
    """K places on rods as the finder sees them in the left image: rough, unordered, any rod.

    point_m (K, 3), tangent (K, 3) unit with unknown sign, confidence (K,) 0 to 1.
    """

    point_m: np.ndarray
    tangent: np.ndarray
    confidence: np.ndarray


@dataclass(frozen=True)
class RodMeasurements:
    """K places of one rod measured across its axis in each view, in order along a curve.

    point_m (K, 3): the place asked for (hypothesis). normal_left, normal_right (K, 2): unit image
    normals of the projected curve there; offset_left_px, offset_right_px (K,): how far the rod's
    axis lies along that normal from the projected hypothesis; sigma_left_px, sigma_right_px (K,).
    confidence_left, confidence_right (K,) 0 to 1: whether a rod is seen there in that view.
    """

    point_m: np.ndarray
    normal_left: np.ndarray
    normal_right: np.ndarray
    offset_left_px: np.ndarray
    offset_right_px: np.ndarray
    sigma_left_px: np.ndarray
    sigma_right_px: np.ndarray
    confidence_left: np.ndarray
    confidence_right: np.ndarray


@dataclass(frozen=True)
class StereoObservation:
    """What the network sees in one pair."""

    heads: tuple[HeadObservation, ...]
    rod_seeds: RodSeeds
