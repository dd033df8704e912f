# SPDX-License-Identifier: Apache-2.0
"""The transform between two cameras from a file of `spinenav calibrate handeye`."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np

from spine_nav_common.core.calibration_file import read_values
from spine_nav_common.core.errors import CalibrationError
from spine_nav_common.core.geometry import adjoint, invert
from spine_nav_common.core.static_frames import load_calibration

from .core.between import Between

_AGAIN = (
    "calibrate the two cameras: spinenav calibrate handeye FIRST.tum SECOND.tum --inverted body"
)


def load_between(
    path: Path,
    frames: tuple[str, str],
    serials: tuple[str, str] = ("", ""),
    today: date | None = None,
) -> tuple[Between, tuple[str, ...]]:
    """T_first_second with its covariance, and what was taken for granted, in words.

    Args:
        frames: of the first and the second camera's images. The file's transform may be stated either way
            round. Where both cameras give one name (two drivers with their defaults), the file's parent is
            the first camera.
        serials: of the cameras, where they are known; "" = not.
        today: on which it must not have expired; None: at any time.

    Raises CalibrationError: it is of another kind, changed, expired, or of other cameras.
    """
    values = read_values(path, "handeye", 1)
    edges = load_calibration(path)
    first, second = (f.lstrip("/") for f in frames)
    expires = date.fromisoformat(str(values["expires"]))
    if today is not None and today > expires:
        raise CalibrationError(path, "expires", f"it has expired on {expires}", _AGAIN)
    theirs = {s for s in str(values.get("serial", "")).replace(" ", "").split(",") if s}
    for serial in serials:
        if serial and theirs and serial not in theirs:
            said = " and ".join(sorted(theirs))
            why = f"it is of the cameras {said}, this one is {serial}"
            raise CalibrationError(path, "serial", why, _AGAIN)
    if len(edges) != 1:
        raise CalibrationError(path, "transforms", f"{len(edges)} of them", _AGAIN)
    parent, child = (f.lstrip("/") for f in (edges[0].parent, edges[0].child))
    T = edges[0].T_parent_child
    covariance = np.array(values.get("covariance", ()), dtype=float)
    if covariance.shape != (36,) or not np.isfinite(covariance).all():
        raise CalibrationError(path, "covariance", "there is none", _AGAIN)
    covariance = covariance.reshape(6, 6)
    notes: tuple[str, ...] = ()
    if first == second:
        notes = (
            f"both cameras' images are of {first}: {path.name}'s {parent} is taken for the first camera",
        )
    elif (parent, child) == (second, first):
        J = adjoint(T)
        T, covariance = invert(T), J @ covariance @ J.T
    elif (parent, child) != (first, second):
        why = f"it joins {parent} and {child}, the cameras are {first} and {second}"
        raise CalibrationError(path, "transforms", why, f"{_AGAIN} --frames {first} {second}")
    if np.linalg.eigvalsh(0.5 * (covariance + covariance.T))[0] < -1e-12:
        raise CalibrationError(path, "covariance", "it is none", _AGAIN)
    return Between(T, covariance, path.name), notes
