# SPDX-License-Identifier: Apache-2.0
"""What the files of `--calibration` hold, each by its kind."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from pathlib import Path

from .calibration_file import kind_of, read_values
from .depth_calibration import DepthCalibration, is_depth_calibration, load_depth_calibration
from .errors import CalibrationError
from .static_frames import StaticTransform, load_calibration


def calibrations(
    files: Iterable[Path], today: date | None = None
) -> tuple[DepthCalibration | None, list[StaticTransform]]:
    """The depth camera's calibration, and the transforms between cameras.

    today: on which a hand-eye calibration must not have expired; None for what was used long ago.

    Raises CalibrationError: a file cannot be used, or two are of depth.
    """
    depth: DepthCalibration | None = None
    transforms: list[StaticTransform] = []
    for file in files:
        if not is_depth_calibration(file):
            transforms += load_calibration(file)
            if today is not None and kind_of(file) == "handeye":
                _current(file, today)
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


def _current(file: Path, today: date) -> None:
    expires = date.fromisoformat(str(read_values(file, "handeye", 1)["expires"]))
    if today > expires:
        why = f"it has expired on {expires}"
        raise CalibrationError(file, "expires", why, "calibrate again: spinenav calibrate handeye")
