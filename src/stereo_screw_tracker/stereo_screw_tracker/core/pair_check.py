# SPDX-License-Identifier: Apache-2.0
"""Whether a pair of images can be used at all, before any network sees it."""

from __future__ import annotations

import cv2
import numpy as np

from spine_nav_common.core.types import Rejected, StereoFrame

BASELINES_M = (0.002, 0.5)  # a stereo laparoscope has 4 mm; more than half a metre is a wrong unit
_BLACK = 12.0
_WHITE = 250
_WHITE_SHARE = 0.6
_LEAST_TEXTURE = 1.0  # grey levels; a sensor's own noise after shrinking stays below
_SMALL = (160, 120)
# Neighbouring rows differ less than every other row does (0.41 to 0.86 of it in 12 scenes of
# `calibrate`, 1.0 in pure noise), unless they were taken at two times (1.05 to 12 where it moves).
_COMBED = 1.1


def check_pair(frame: StereoFrame) -> Rejected | None:
    """Why this pair cannot be used, with the remedy, or None.

    Looks at sizes, type, camera, and whether either image is black, overexposed, without texture or
    interlaced, or both are the same image.
    """
    return _wrong_form(frame) or _wrong_camera(frame) or _wrong_content(frame)


Eyes = tuple[np.ndarray, np.ndarray]
"""Every seventh pixel of the left image and of the right one."""


def eyes_of(frame: StereoFrame) -> Eyes:
    """What `check_repeated` needs of the pair before."""
    return frame.left[::7, ::7].copy(), frame.right[::7, ::7].copy()


def check_repeated(before: Eyes | None, now: Eyes) -> Rejected | None:
    """Why this pair cannot be used if one of its images is that of the pair before.

    A sensor's noise makes no two images alike; an eye that stands still while the other goes on
    puts heads at wrong depths as soon as anything moves.
    """
    if before is None:
        return None
    left, right = (np.array_equal(a, b) for a, b in zip(before, now, strict=True))
    if left == right:
        return None
    which, other = ("left", "right") if left else ("right", "left")
    return Rejected(
        f"the {which} image is the one of the pair before, the {other} one is new: the {which} camera"
        " stands still or is slower; let both run at one rate, or check its cable"
    )


def _wrong_form(frame: StereoFrame) -> Rejected | None:
    left, right = frame.left, frame.right
    for name, image in (("left", left), ("right", right)):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
            return Rejected(
                f"{name} image is {image.dtype} {image.shape}: give 8-bit mono (H, W) or RGB (H, W, 3)"
            )
    if left.shape[:2] != right.shape[:2]:
        return Rejected(
            f"left image is {left.shape[1]}x{left.shape[0]} but right {right.shape[1]}x"
            f"{right.shape[0]}: give both cameras the same resolution"
        )
    size = (frame.intrinsics.height, frame.intrinsics.width)
    if left.shape[:2] != size:
        return Rejected(
            f"images are {left.shape[1]}x{left.shape[0]} but camera_info is for {size[1]}x{size[0]}:"
            " calibrate at the resolution that is recorded"
        )
    return None


def _wrong_camera(frame: StereoFrame) -> Rejected | None:
    k = frame.intrinsics
    numbers = (k.fx, k.fy, k.cx, k.cy, frame.baseline_m)
    if not np.isfinite(numbers).all() or min(k.fx, k.fy) <= 0.0:
        return Rejected("camera_info holds no usable focal length or principal point: calibrate")
    if frame.baseline_m < 0.0:
        return Rejected("the baseline is negative: left and right are swapped; exchange the topics")
    if not BASELINES_M[0] <= frame.baseline_m <= BASELINES_M[1]:
        return Rejected(
            f"a baseline of {frame.baseline_m:g} m is none of a stereo camera: P[3] of the right"
            " camera_info is -fx * baseline in metres"
        )
    return None


def _combed(image: np.ndarray) -> bool:
    """Whether even and odd rows are of two times."""
    grey = (image if image.ndim == 2 else image[..., 1])[:, ::4].astype(np.int16)
    even = grey[0::2][: (len(grey) - 1) // 2]
    next_row, next_but_one = grey[1::2][: len(even)], grey[2::2][: len(even)]
    apart = float(np.abs(even - next_but_one).mean())
    return float(np.abs(even - next_row).mean()) > _COMBED * max(apart, 1.0)


def _wrong_content(frame: StereoFrame) -> Rejected | None:
    small = {}
    for name, image in (("left", frame.left), ("right", frame.right)):
        grey = image if image.ndim == 2 else image[..., 1]
        grey = cv2.resize(grey, _SMALL, interpolation=cv2.INTER_AREA)
        if float(np.percentile(grey, 99)) < _BLACK:
            return Rejected(
                f"{name} image is black: uncover the lens or check the cable and exposure"
            )
        if float(np.mean(grey >= _WHITE)) > _WHITE_SHARE:
            return Rejected(f"{name} image is overexposed: shorten the exposure or dim the lamp")
        if float(grey.std()) < _LEAST_TEXTURE:
            return Rejected(f"{name} image shows nothing but one shade: check lens and focus")
        if _combed(image):
            return Rejected(
                f"{name} image is interlaced: its odd rows are of another time than its even ones;"
                " set the camera or the grabber to progressive"
            )
        small[name] = grey
    if np.array_equal(frame.left, frame.right):
        return Rejected("left and right are the same image: subscribe to both cameras")
    return None
