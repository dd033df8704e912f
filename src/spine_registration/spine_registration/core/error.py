# SPDX-License-Identifier: Apache-2.0
"""Predicted TRE: from a pose's covariance to a 95 % bound at the planned points.

The filter's covariance knows noise that differs from frame to frame. What stays the same in every
frame does not average out and is added here: the camera's own smooth bias, as the pixels in view
turn it into a pose error (bias.py), noise that is fixed to the image, tissue that hides the bone,
the mesh's own error. How the parts add up is fitted on the `calibrate` anatomies over many cameras
(training/calibration/fit_error.py).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

from .frame_kernels import mean_shifts

DRAWS = 256


@dataclass(frozen=True)
class ErrorModel:
    """How the parts of a pose's error add up; fitted by training/calibration/fit_error.py.

    filter_gain: on the filter's standard deviations, which assume noise that is new every frame.
    static_gain: on those of a single frame, for noise that stays the same from frame to frame.
    lateral_mm, axial_mm: bias across and along the viewing direction. rotation_deg: turn per axis
    that no pixel count removes. bias_gain: on the camera's stated bias.
    """

    filter_gain: float
    static_gain: float
    lateral_mm: float
    axial_mm: float
    rotation_deg: float
    bias_gain: float = 1.0


@dataclass(frozen=True)
class ErrorInputs:
    """What the prediction is made of, for one level in one frame.

    filter_covariance (6, 6), and frame_covariance (6, 6) of this frame with the springs alone,
    translation first, about anchor_m (3,) in the camera frame; points_m (K, 3) plan points;
    bias_response (6, B) twist per unit of the camera's bias.
    """

    filter_covariance: np.ndarray
    frame_covariance: np.ndarray
    anchor_m: np.ndarray
    points_m: np.ndarray
    bias_response: np.ndarray


def load_error_model(path: Path | None = None) -> ErrorModel:
    """The fitted sizes shipped with the package, or those of another fit.

    Raises:
        ValueError: the file is no JSON object, lacks a size or holds one that is not positive.
    """
    file = path or Path(__file__).parent.parent / "error_model.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        sizes = {f.name: float(content.get(f.name, -1.0)) for f in fields(ErrorModel)}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file}: no fitted sizes ({error}); run training/calibration/fit_error.py"
        ) from error
    bad = [name for name, size in sizes.items() if not 0.0 < size < np.inf]
    if bad:
        raise ValueError(
            f"{file}: {', '.join(bad)} must be positive; run training/calibration/fit_error.py"
        )
    return ErrorModel(**sizes)


def total_covariance(inputs: ErrorInputs, model: ErrorModel) -> np.ndarray:
    """(6, 6) covariance of a pose, systematic part included; about the anchor."""
    view = inputs.anchor_m / np.linalg.norm(inputs.anchor_m)
    along = np.outer(view, view)
    out = (
        model.filter_gain**2 * inputs.filter_covariance
        + model.static_gain**2 * inputs.frame_covariance
        + model.bias_gain**2 * (inputs.bias_response @ inputs.bias_response.T)
    )
    out[:3, :3] += 1e-6 * (model.lateral_mm**2 * (np.eye(3) - along) + model.axial_mm**2 * along)
    out[3:, 3:] += np.deg2rad(model.rotation_deg) ** 2 * np.eye(3)
    return out


def noise_covariance(inputs: ErrorInputs, model: ErrorModel) -> np.ndarray:
    """(6, 6) the part of `total_covariance` that is new with every frame; the rest stays."""
    return model.filter_gain**2 * inputs.filter_covariance


def predicted_tre_mm(
    covariance: np.ndarray, anchor_m: np.ndarray, points_m: np.ndarray, level: float = 0.95
) -> float:
    """Bound on the mean distance over the plan points, in mm, that `level` of errors stay under.

    Args:
        covariance: (6, 6) total, translation first, about `anchor_m` (3,).
        points_m: (K, 3) plan points, same frame as the anchor.
    """
    root = np.linalg.cholesky(covariance + 1e-14 * np.eye(6))
    tre = mean_shifts(_normal_draws() @ root.T, points_m - anchor_m)
    rank = math.ceil(level * (DRAWS - 1))  # of the sorted draws; np.quantile costs ten times more
    return float(1e3 * np.partition(tre, rank)[rank])


@lru_cache(maxsize=1)
def _normal_draws() -> np.ndarray:
    """(DRAWS, 6) fixed quasi-random normal numbers: the same covariance gives the same bound."""
    return ndtri(np.clip(qmc.Sobol(6, seed=7).random(DRAWS), 1e-6, 1 - 1e-6))
