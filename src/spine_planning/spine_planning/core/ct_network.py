# SPDX-License-Identifier: Apache-2.0
"""The CT network: what it is given, what it says, and the file that it is loaded from.

Grids are cubic, STEP_MM wide, arrays (Z, Y, X) whose axes go to S, P and L.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np

from spine_perception.core.backends import AUTO
from spine_perception.core.inference import ModelError, OnnxModel, find_model

STEP_MM = 2.0
BLOCK = 96  # voxels per side that the exported network takes at once
CENTRE_SCALE_MM = 30.0
CHANNELS = ("soft", "bone", "in_scan")
SOFT_HU, BONE_HU = 200.0, 1000.0
MASKS = ("vertebra", "sacrum", "rib")
"""Of the mask channels; `vertebra` holds the sacrum too."""
MODEL_NAME, MODEL_VARIABLE = "ct_unet.onnx", "SPINENAV_CT_MODEL"
INPUT = {
    "block": BLOCK,
    "step_mm": STEP_MM,
    "channels": list(CHANNELS),
    "soft_hu": SOFT_HU,
    "bone_hu": BONE_HU,
    "centre_scale_mm": CENTRE_SCALE_MM,
}


class CtNetwork(Protocol):
    """What the segmentation needs of a network."""

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x (1, 3, n, n, n) to mask logits (3, n, n, n) and vectors (3, n/2, n/2, n/2): from a cell's
        middle to its vertebra's centre, along L, P and S, in CENTRE_SCALE_MM."""
        ...


def ct_features(hu: np.ndarray, in_scan: np.ndarray) -> np.ndarray:
    """(3, Z, Y, X) float32 of Hounsfield units; outside the scan all channels are zero."""
    soft = np.clip(hu / SOFT_HU, -1.0, 1.0)
    bone = np.clip(hu / BONE_HU, -1.0, 2.0)
    inside = np.asarray(in_scan, np.float32)
    return np.stack([soft * inside, bone * inside, inside]).astype(np.float32)


class OnnxCtNetwork(OnnxModel):
    """The exported network; arguments and errors as `OnnxModel`."""

    def __init__(self, model: Path, backend: str = AUTO, threads: int | None = None) -> None:
        super().__init__(model, INPUT, backend, threads)

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        masks, vectors = self.run(x)
        return masks[0], vectors[0]


def load_network(backend: str = AUTO) -> OnnxCtNetwork | None:
    """The network that came with this version, on all cores, or None where there is none yet.

    Raises ModelError for a file that cannot be used.
    """
    try:
        path = find_model(MODEL_NAME, MODEL_VARIABLE)
    except ModelError:
        return None
    return OnnxCtNetwork(path, backend, os.cpu_count())
