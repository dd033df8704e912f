# SPDX-License-Identifier: Apache-2.0
"""The measured lenses of one camera or of a stereo pair, as a file.

`spinenav calibrate intrinsics` and `stereo` write it. It takes the place of a camera_info that is
missing, or wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from .calibration_file import read_values, refusal, write_values
from .errors import CalibrationError
from .images import CameraModel, ImageError, decode_camera_info
from .rectify import stereo_rig

KINDS = {"intrinsics": 1, "stereo": 2}
VERSION = 1
_EYES = {1: ("camera",), 2: ("left", "right")}


@dataclass(frozen=True)
class CameraCalibration:
    """What was measured of one camera (kind `intrinsics`), or of two (kind `stereo`, left first).

    Attributes:
        cameras: with R and P that rectify a pair; of one camera R is the identity, P is K.
        distortion_model: as sensor_msgs/CameraInfo names it, of all.
        serial: of the camera, "" = not known. made, expires: dates. temperature_c: None = not known.
        told: how it was measured and what is left, for people.
        sha256: of the file's values. path: where it was read.
    """

    cameras: tuple[CameraModel, ...]
    distortion_model: str
    serial: str
    made: date
    expires: date
    temperature_c: float | None = None
    told: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    path: Path = Path()

    @property
    def kind(self) -> str:
        """Of the file: intrinsics or stereo."""
        return next(k for k, n in KINDS.items() if n == len(self.cameras))

    def problem(self, width: int, height: int, today: date, serial: str = "") -> str:
        """Why it may not be used on images of this size; "" = it may."""
        if today > self.expires:
            return f"it has expired on {self.expires}: calibrate again"
        if serial and self.serial and serial != self.serial:
            return f"it is of the camera {self.serial}, this is {serial}: give the calibration of this one"
        own = self.cameras[0]
        if (width, height) != (own.width, own.height):
            return (
                f"it is of {own.width}x{own.height} images, these have {width}x{height}: calibrate"
                " this profile"
            )
        return ""


def write_camera_calibration(path: Path, calibration: CameraCalibration) -> CameraCalibration:
    """Write it; returns it with its hash."""
    c = calibration
    cameras = []
    for name, m in zip(_EYES[len(c.cameras)], c.cameras, strict=True):
        matrices = {k: [float(x) for x in getattr(m, k).ravel()] for k in ("K", "D", "R", "P")}
        cameras.append({"name": name, "width": m.width, "height": m.height, **matrices})
    values = {
        "distortion_model": c.distortion_model, "cameras": cameras, "serial": c.serial,
        "made": c.made.isoformat(), "expires": c.expires.isoformat(),
        "temperature_c": c.temperature_c, "told": c.told,
    }  # fmt: skip
    write_values(path, c.kind, VERSION, values)
    return load_camera_calibration(path, c.kind)


@dataclass(frozen=True)
class _Info:
    """A camera_info by its fields, to be checked as one that was received."""

    width: int
    height: int
    distortion_model: str
    K: list[float]
    D: list[float]
    R: list[float]
    P: list[float]


def load_camera_calibration(path: Path, kind: str) -> CameraCalibration:
    """Read and check a file of a kind; CalibrationError says what is wrong with it and what to do."""

    def refuse(field: str, why: str) -> CalibrationError:
        return refusal(path, kind, field, why)

    values = read_values(path, kind, VERSION)
    try:
        said = values["cameras"]
        if len(said) != KINDS[kind]:
            raise ValueError(f"{len(said)} cameras")
        model = str(values["distortion_model"])
        cameras = tuple(
            decode_camera_info(
                _Info(int(c["width"]), int(c["height"]), model, c["K"], c["D"], c["R"], c["P"])
            )
            for c in said
        )
        temperature = values["temperature_c"]
        found = CameraCalibration(
            cameras, model, str(values["serial"]),
            date.fromisoformat(values["made"]), date.fromisoformat(values["expires"]),
            None if temperature is None else float(temperature),
            dict(values["told"]), str(values["sha256"]), path,
        )  # fmt: skip
        if kind == "stereo":
            stereo_rig(cameras[0], cameras[1], raw=True)
    except (KeyError, TypeError, ValueError, ImageError) as error:
        raise refuse("values", f"not as they must be: {error!r}") from error
    if not all(np.isfinite(c.P).all() for c in cameras):
        raise refuse("cameras", "numbers that are not finite")
    return found
