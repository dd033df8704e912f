# SPDX-License-Identifier: Apache-2.0
"""The 95 % bound of a head's error in space: from its covariance to one honest number.

The network states its noise and the filter what averages out. Neither knows what calibration does
to the disparity, nor how far the network's own statements can be trusted; those sizes are fitted on
the `calibrate` scenes by training/stereo_fit_bounds.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from scipy.special import gammaincinv

from .types import StereoCamera

LEVEL = 0.95
FILE = Path(__file__).parent.parent / "bounds.json"


@dataclass(frozen=True)
class BoundModel:
    """Sizes that turn a covariance into a bound.

    gain: on the stated standard deviations. lateral_mm: error across the line of sight that no
    statement covers, 1 sigma; disparity_px: the same along it, as disparity (calibration, bias).
    doubt: the gain grows by this factor from full to no confidence (exponentially).
    hidden_mm_per_s: 1 sigma per axis by which a head that is not measured wanders.
    """

    gain: float
    lateral_mm: float
    disparity_px: float
    doubt: float
    hidden_mm_per_s: float


@dataclass(frozen=True)
class BoundInputs:
    """What a bound is made of: point_m (3,) and covariance_m2 (3, 3) in the left optical frame,
    confidence 0 to 1, hidden_s since the head was measured."""

    point_m: np.ndarray
    covariance_m2: np.ndarray
    confidence: float
    hidden_s: float = 0.0


def load_bound_model(path: Path | None = None) -> BoundModel:
    """The fitted sizes that the package ships, or those of another fit.

    Raises:
        ValueError: no JSON object, or a size is missing or negative.
    """
    file = path or FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        sizes = {f.name: float(content.get(f.name, -1.0)) for f in fields(BoundModel)}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file}: no fitted sizes ({error}); run training/stereo_fit_bounds.py"
        ) from error
    bad = [name for name, size in sizes.items() if not 0.0 <= size < np.inf]
    if bad or not sizes["gain"] > 0.0:
        raise ValueError(
            f"{file}: {', '.join(bad) or 'gain'} must be positive; run training/stereo_fit_bounds.py"
        )
    return BoundModel(**sizes)


def total_covariance(inputs: BoundInputs, camera: StereoCamera, model: BoundModel) -> np.ndarray:
    """(3, 3) covariance in m^2 with everything that the statement leaves out."""
    gain = model.gain * model.doubt ** (1.0 - np.clip(inputs.confidence, 0.0, 1.0))
    view = inputs.point_m / np.linalg.norm(inputs.point_m)
    along = np.outer(view, view)
    z = float(inputs.point_m[2])
    depth_m = z**2 / (camera.intrinsics.fx * camera.baseline_m) * model.disparity_px
    depth_m *= float(np.linalg.norm(inputs.point_m)) / z  # the ray is longer than its depth
    hidden_m = 1e-3 * model.hidden_mm_per_s * max(inputs.hidden_s, 0.0)
    return (
        gain**2 * inputs.covariance_m2
        + (1e-3 * model.lateral_mm) ** 2 * (np.eye(3) - along)
        + depth_m**2 * along
        + hidden_m**2 * np.eye(3)
    )


def bound95_mm(inputs: BoundInputs, camera: StereoCamera, model: BoundModel) -> float:
    """Distance in mm that 95 % of such heads stay under."""
    return 1e3 * radius_quantile(total_covariance(inputs, camera, model), LEVEL)


def radius_quantile(covariance: np.ndarray, level: float) -> float:
    """Quantile of the length of a Gaussian vector with this covariance (D, D).

    Its square is a weighted sum of chi-squares, here the Gamma distribution of equal mean and
    variance: within 3 % at the 95th percentile for any shape of the ellipsoid.
    """
    mean = float(np.trace(covariance))
    variance = 2.0 * float((covariance * covariance).sum())
    if mean <= 0.0:
        return 0.0
    scale = variance / mean  # Gamma(shape k, scale theta): mean k theta, variance k theta^2
    return float(np.sqrt(gammaincinv(mean / scale, level) * scale))
