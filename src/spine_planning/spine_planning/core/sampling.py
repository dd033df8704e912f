# SPDX-License-Identifier: Apache-2.0
"""Grey values of a scan at places in space, and whether they are Hounsfield units."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from spine_nav_common.core.errors import ScanError

from .scan import Scan

_BONE_HU = (30.0, 1200.0)  # median over whole vertebrae, osteoporotic to dense with contrast
_SOFT_HU = -40.0  # below it there is fat or air in every CT; other modalities hold no such values
_RING = 8


class Sampler:
    """A volume as a function of points (..., 3), LPS metres."""

    def __init__(self, image: sitk.Image) -> None:
        self._image = image  # the view below does not keep it alive
        self._values = sitk.GetArrayViewFromImage(image)
        self._origin = np.array(image.GetOrigin())
        R = np.array(image.GetDirection()).reshape(3, 3)
        self._to_index = np.linalg.inv(R * np.array(image.GetSpacing()))

    def __call__(self, points_m: np.ndarray) -> np.ndarray:
        """(...,) values, linear between voxels; NaN outside."""
        index = (1e3 * points_m - self._origin) @ self._to_index.T
        at = np.moveaxis(index[..., ::-1], -1, 0)
        return ndimage.map_coordinates(self._values, at, output=np.float32, order=1, cval=np.nan)


def hounsfield(scan: Scan, codes: np.ndarray) -> tuple[bool, str]:
    """Whether the grey values are HU, and a note where they are not.

    Raises ScanError where the tags say CT and the bones do not.
    """
    values = sitk.GetArrayViewFromImage(scan.upright)
    bone = values[(codes > 0)]
    middle, least = float(np.median(bone)), float(values.min())
    plausible = _BONE_HU[0] <= middle <= _BONE_HU[1] and least < _SOFT_HU
    if plausible:
        return scan.modality in ("", "CT"), ""
    if scan.modality == "CT":
        raise ScanError(
            "scan", "RescaleIntercept",
            f"the vertebrae have {middle:.0f} HU in the median and nothing is below {least:.0f}: a wrong"
            " rescale, an overflow, or a mask of another scan",
            "export the series again, and make the mask from it",
        )  # fmt: skip
    return False, "its grey values are no Hounsfield units: bone density is not told"


def density_along(
    sampler: Sampler, entry_m: np.ndarray, target_m: np.ndarray, diameter_mm: float
) -> float | None:
    """Mean HU on the thread's cylinder and its axis; None where it leaves the scan."""
    way = target_m - entry_m
    length = float(np.linalg.norm(way))
    way = way / length
    first = np.cross(np.eye(3)[int(np.abs(way).argmin())], way)
    first /= np.linalg.norm(first)
    second = np.cross(way, first)
    turns = np.linspace(0.0, 2.0 * np.pi, _RING, endpoint=False)
    ring = np.concatenate([
        np.zeros((1, 3)),
        0.5e-3 * diameter_mm * (np.cos(turns)[:, None] * first + np.sin(turns)[:, None] * second),
    ])  # fmt: skip
    s = np.arange(0.0, length, 1e-3)
    values = sampler(entry_m + s[:, None, None] * way + ring)
    return float(values.mean()) if np.isfinite(values).all() else None
