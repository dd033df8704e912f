# SPDX-License-Identifier: Apache-2.0
"""What the files of `--calibration` hold, each by its kind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .depth_calibration import DepthCalibration, is_depth_calibration, load_depth_calibration
from .static_frames import CalibrationError, StaticTransform, load_calibration


def calibrations(files: Iterable[Path]) -> tuple[DepthCalibration | None, list[StaticTransform]]:
    """The depth camera's calibration, and the transforms between cameras.

    Raises CalibrationError: a file cannot be used, or two are of depth.
    """
    depth: DepthCalibration | None = None
    transforms: list[StaticTransform] = []
    for file in files:
        if not is_depth_calibration(file):
            transforms += load_calibration(file)
        elif depth is not None:
            raise CalibrationError(
                file,
                "kind",
                f"{depth.path} is a calibration of depth too",
                "give the newer one alone",
            )
        else:
            depth = load_depth_calibration(file)
    return depth, transforms
