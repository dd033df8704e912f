# SPDX-License-Identifier: Apache-2.0
"""What is known of a depth camera before anything is measured: its bias, which no frame averages
out.

A stereo head's calibration error is smooth over the image, the same in every frame, and grows with
the distance. The sizes here are defaults per model; a measured description of the very camera
replaces them (smaller where a calibration has removed the bias, never zero).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DepthCamera:
    """Bias of one depth camera, 1 sigma, as a share of the distance.

    scale_share: the same everywhere in the image. field_share: the part that varies over it;
    field_width: its correlation length, in slopes of the line of sight (x/z): about radians.
    source: where the numbers come from.
    """

    name: str
    scale_share: float
    field_share: float
    field_width: float
    source: str

    def __post_init__(self) -> None:
        if not (self.scale_share > 0.0 and self.field_share > 0.0 and self.field_width > 0.0):
            raise ValueError(f"depth camera {self.name}: shares and width must be positive")


# Data sheets promise 1.5 to 2 % of the distance at 2 m or at the far end of the range. Near targets
# measured after factory calibration lie an order lower (published-systems.md, section 12: sub-mm at
# 0.1 to 0.5 m for D405 and D415; 1 mm of an OR-light benchmark for D455). These defaults are ours
# and unverified; `generic` is the mean of the classes.
_SHEET = "default: data sheet and near-range studies, not this camera; unverified"
DEPTH_CAMERAS: dict[str, DepthCamera] = {
    c.name: c
    for c in (
        DepthCamera("generic", 1.0e-3, 1.0e-3, 0.20, _SHEET),
        DepthCamera("d405", 0.8e-3, 0.8e-3, 0.20, _SHEET),
        DepthCamera("d415", 0.8e-3, 0.8e-3, 0.20, _SHEET),
        DepthCamera("d435", 1.2e-3, 1.2e-3, 0.20, _SHEET),
        DepthCamera("zedm", 1.0e-3, 1.0e-3, 0.20, _SHEET),
    )
}
