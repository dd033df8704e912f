# SPDX-License-Identifier: Apache-2.0
"""The measured bias of one depth camera, and depth without it.

`spinenav calibrate depth` writes the file; whoever decodes depth applies it before anything else
sees a pixel. What it could not tell stays in the predicted error, as the camera's description.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import BSpline

from .calibration_file import kind_of, read_values, refusal, write_values
from .depth_camera import DepthCamera
from .errors import CalibrationError
from .images import CameraModel

KIND, VERSION = "depth", 1
DEGREE = 3
_SAME_FOCAL = 0.01  # camera_info of one camera and profile agree better than this
_MOST_SHARE = 0.05  # more is no bias but another unit, or a board of another size


@dataclass(frozen=True)
class DepthField:
    """A depth camera's correction: true = z (1 + share(u, v) + per_m z) + offset_m.

    share: (J, I) coefficients of cubic B-splines on clamped uniform knots over the image's height and
    width. per_m in 1/m.
    """

    share: np.ndarray
    per_m: float = 0.0
    offset_m: float = 0.0

    def share_at(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """(N,) shares at places in the image, each 0 to 1 from its left or upper edge."""
        across, down = (spline_basis(x, n) for x, n in zip((u, v), self.share.shape[::-1]))
        found: np.ndarray = ((down @ self.share) * across).sum(axis=1)
        return found

    def share_image(self, width: int, height: int) -> np.ndarray:
        """(H, W) share of every pixel."""
        u, v = ((np.arange(n) + 0.5) / n for n in (width, height))
        across, down = (spline_basis(x, n) for x, n in zip((u, v), self.share.shape[::-1]))
        found: np.ndarray = down @ self.share @ across.T
        return found


@dataclass(frozen=True)
class DepthCalibration:
    """What was measured of one camera.

    Attributes:
        width, height, fx: of the image that depth is aligned to.
        bias: the correction.
        scale_share, field_share, field_width: what is left, 1 sigma, as `DepthCamera` has it.
        serial: of the camera, "" = not known. made, expires: dates.
        told: how it was measured, for people.
        sha256: of the file's values. path: where it was read.
    """

    width: int
    height: int
    fx: float
    bias: DepthField
    scale_share: float
    field_share: float
    field_width: float
    serial: str
    made: date
    expires: date
    told: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    path: Path = Path()

    def camera(self) -> DepthCamera:
        """What is left of the bias after the correction."""
        name = f"calibrated {self.serial}".strip()
        source = f"calibration of {self.made.isoformat()}, {self.sha256[:12]}"
        return DepthCamera(name, self.scale_share, self.field_share, self.field_width, source)

    def problem(self, model: CameraModel, today: date, serial: str = "") -> str:
        """Why it may not be used on images of this camera; "" = it may."""
        if today > self.expires:
            return f"it has expired on {self.expires}: calibrate again"
        if serial and self.serial and serial != self.serial:
            return f"it is of the camera {self.serial}, this is {serial}: give the calibration of this one"
        if (model.width, model.height) != (self.width, self.height):
            return (
                f"it is of {self.width}x{self.height} images, these have"
                f" {model.width}x{model.height}: calibrate this profile"
            )
        fx = model.raw_intrinsics().fx
        if abs(fx / self.fx - 1.0) > _SAME_FOCAL:
            return (
                f"it is of a focal length of {self.fx:.1f} px, camera_info has"
                f" {fx:.1f}: calibrate this camera and profile"
            )
        return ""


class DepthCorrector:
    """Applies a calibration to depth images; keeps its tables."""

    def __init__(self, calibration: DepthCalibration) -> None:
        c = self.calibration = calibration
        self._gain = (1.0 + c.bias.share_image(c.width, c.height)).astype(np.float32)

    def __call__(self, depth_m: np.ndarray) -> np.ndarray:
        """(H, W) float32 metres without the bias; NaN stays NaN."""
        bias = self.calibration.bias
        gain = self._gain if bias.per_m == 0.0 else self._gain + np.float32(bias.per_m) * depth_m
        return depth_m * gain + np.float32(bias.offset_m)


def spline_basis(x: np.ndarray, count: int) -> np.ndarray:
    """(N, count) values of cubic B-splines on clamped uniform knots over 0 to 1."""
    inner = np.linspace(0.0, 1.0, count - DEGREE + 1)
    knots = np.concatenate([np.zeros(DEGREE), inner, np.ones(DEGREE)])
    basis: np.ndarray = BSpline.design_matrix(np.clip(x, 0.0, 1.0), knots, DEGREE).toarray()
    return basis


def is_depth_calibration(path: Path) -> bool:
    """Whether a calibration file says that it is one of depth."""
    return kind_of(path) == KIND


def write_depth_calibration(path: Path, calibration: DepthCalibration) -> DepthCalibration:
    """Write it; returns it with its hash."""
    values = asdict(calibration)
    del values["sha256"], values["path"]
    values["bias"]["share"] = [[float(f"{x:.9g}") for x in row] for row in calibration.bias.share]
    values |= {k: getattr(calibration, k).isoformat() for k in ("made", "expires")}
    write_values(path, KIND, VERSION, values)
    return load_depth_calibration(path)


def load_depth_calibration(path: Path) -> DepthCalibration:
    """Read and check a file; CalibrationError says what is wrong with it and what to do."""
    values = read_values(path, KIND, VERSION)

    def refuse(field: str, why: str) -> CalibrationError:
        return refusal(path, KIND, field, why)

    try:
        said = values["bias"]
        share = np.array(said["share"], dtype=np.float64)
        found = DepthCalibration(
            width=int(values["width"]),
            height=int(values["height"]),
            fx=float(values["fx"]),
            bias=DepthField(share, float(said["per_m"]), float(said["offset_m"])),
            scale_share=float(values["scale_share"]),
            field_share=float(values["field_share"]),
            field_width=float(values["field_width"]),
            serial=str(values["serial"]),
            made=date.fromisoformat(values["made"]),
            expires=date.fromisoformat(values["expires"]),
            told=dict(values["told"]),
            sha256=str(values["sha256"]),
            path=path,
        )
        found.camera()
    except (KeyError, TypeError, ValueError) as error:
        raise refuse("values", f"not as they must be: {error!r}") from error
    numbers = [*share.ravel(), found.bias.per_m, found.bias.offset_m, found.fx]
    if share.ndim != 2 or min(share.shape) < DEGREE + 1 or not np.isfinite(numbers).all():
        raise refuse("bias", "coefficients that are no field of finite numbers")
    if float(np.abs(share).max()) > _MOST_SHARE:
        raise refuse("bias.share", f"more than {100 * _MOST_SHARE:.0f} % of the distance")
    return found
