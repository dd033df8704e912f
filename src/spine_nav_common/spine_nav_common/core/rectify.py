# SPDX-License-Identifier: Apache-2.0
"""Brings camera images to the pinhole geometry that the rest of the program assumes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import cv2
import numpy as np

from .align import OwnDepth
from .depth_calibration import DepthCalibration, DepthCorrector
from .errors import CalibrationError
from .images import CameraModel, ImageError, decode_image
from .types import Intrinsics

# Principal points closer than this need no resampling: 0.01 px moves a point at 0.5 m, seen with a
# 60 mm baseline and f = 600 px, by 0.07 mm in depth.
_SAME_PX = 0.01
_MOST_BASELINE_M = 0.5  # more is another unit


class RgbdRectifier:
    """Takes the measured bias out of aligned depth and the lens distortion out of both images; keeps
    its tables while the model stays.

    Args:
        depth: the depth camera's calibration, None = not calibrated.
        own: brings depth of a camera of its own to colour, None = it is aligned as it comes.
    """

    def __init__(self, depth: DepthCalibration | None = None, own: OwnDepth | None = None) -> None:
        self._own = own
        self._model: CameraModel | None = None
        self._maps: tuple[np.ndarray, np.ndarray] | None = None
        self._correct = None if depth is None else DepthCorrector(depth)
        self._fits: CameraModel | None = None

    def check(self, model: CameraModel) -> None:
        """Raises CalibrationError: it is not of this camera, or has expired."""
        if self._correct is None or model.same_as(self._fits):
            return
        if problem := self._correct.calibration.problem(model, date.today()):
            at = self._correct.calibration.path
            raise CalibrationError(at, "depth", problem, "or leave --calibration out")
        self._fits = model

    def __call__(
        self, model: CameraModel, colour: np.ndarray, depth_m: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Colour (H, W, 3) and depth (H, W) without distortion, on model.raw_intrinsics().

        Raises CalibrationError as `check`, ValueError where depth cannot be aligned.
        """
        if self._own is not None:
            depth_m = self._own(model, depth_m)
        if self._correct is not None:
            self.check(model)
            depth_m = self._correct(depth_m)
        if not model.distorted:
            return colour, depth_m
        if self._maps is None or not model.same_as(self._model):
            self._model, self._maps = model, model.rectify_maps(model.raw_intrinsics())
        colour = cv2.remap(colour, *self._maps, cv2.INTER_LINEAR)
        if self._own is not None:
            return colour, depth_m  # aligned to the pinhole, not to the lens
        # nearest: a mean over an edge would invent points between bone and background
        depth_m = cv2.remap(
            depth_m,
            *self._maps,
            cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=float("nan"),
        )
        return colour, depth_m


@dataclass(frozen=True)
class StereoRig:
    """How a pair is rectified: maps for cv2.remap, None where an image stays as it is."""

    intrinsics: Intrinsics
    baseline_m: float
    left_maps: tuple[np.ndarray, np.ndarray] | None
    right_maps: tuple[np.ndarray, np.ndarray] | None

    def decode(self, left: Any, right: Any) -> tuple[np.ndarray, np.ndarray]:
        """Both images of two image messages on the rig's common pinhole.

        Raises ImageError: damaged, of another size than camera_info says, no 8-bit mono or RGB, or
        one in colour and one in mono.
        """
        k = self.intrinsics
        images = {"left": decode_image(left), "right": decode_image(right)}
        for name, image in images.items():
            h, w = image.shape[:2]
            if (w, h) != (k.width, k.height):
                raise ImageError(f"{name} image is {w}x{h}, camera_info says {k.width}x{k.height}")
            if image.dtype != np.uint8:
                raise ImageError(f"{name} image is no mono8, rgb8 or bgr8")
        if images["left"].ndim != images["right"].ndim:
            raise ImageError("left and right differ in colour and mono")
        return self.rectify(images["left"], images["right"])

    def rectify(self, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both images on the rig's common pinhole."""
        if self.left_maps is not None:
            left = cv2.remap(left, *self.left_maps, cv2.INTER_LINEAR)
        if self.right_maps is not None:
            right = cv2.remap(right, *self.right_maps, cv2.INTER_LINEAR)
        return left, right


def stereo_rig(left: CameraModel, right: CameraModel, raw: bool) -> StereoRig:
    """The rig of two calibrated cameras; `raw` = images still distorted.

    Raises ImageError: sizes differ, no projection, no possible baseline, left and right swapped.
    """
    if (left.width, left.height) != (right.width, right.height):
        raise ImageError(
            f"left is {left.width}x{left.height} but right {right.width}x{right.height}"
        )
    intrinsics, own_right = left.rectified_intrinsics(), right.rectified_intrinsics()
    baseline_m = -float(right.P[0, 3]) / own_right.fx
    if baseline_m < 0.0:
        raise ImageError("the right camera_info has P[3] > 0: left and right are swapped")
    if baseline_m < 1e-4:
        raise ImageError("the right camera_info gives no baseline (P[3] = -fx * baseline)")
    if baseline_m > _MOST_BASELINE_M:
        raise ImageError(
            f"a baseline of {baseline_m:g} m is none of a stereo camera: P[3] is -fx * baseline in"
            " metres"
        )
    if raw:
        return StereoRig(
            intrinsics, baseline_m, left.rectify_maps(intrinsics), right.rectify_maps(intrinsics)
        )
    right_maps = None
    pairs = zip(
        (intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy),
        (own_right.fx, own_right.fy, own_right.cx, own_right.cy),
        strict=True,
    )
    if any(abs(a - b) > _SAME_PX for a, b in pairs):
        # image_proc may leave the principal points apart; disparity must be zero at infinity
        pinhole = CameraModel(
            right.width, right.height, right.P[:, :3], np.zeros(4), np.eye(3), right.P
        )
        right_maps = pinhole.rectify_maps(intrinsics)
    return StereoRig(intrinsics, baseline_m, None, right_maps)
