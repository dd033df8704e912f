# SPDX-License-Identifier: Apache-2.0
"""The 95 % bound of a head's error in space: from its covariance to one honest number.

The network states its noise and the filter what averages out. Neither knows what calibration does
to the disparity, nor how far the network's own statements can be trusted; those sizes are fitted on
the `calibrate` scenes by training/calibration/stereo_fit_bounds.py.
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
            f"{file}: no fitted sizes ({error}); run python -m training.calibration.stereo_fit_bounds"
        ) from error
    bad = [name for name, size in sizes.items() if not 0.0 <= size < np.inf]
    if bad or not sizes["gain"] > 0.0:
        raise ValueError(
            f"{file}: {', '.join(bad) or 'gain'} must be positive; run python -m training.calibration.stereo_fit_bounds"
        )
    return BoundModel(**sizes)


def total_covariance(
    point_m: np.ndarray,
    covariance_m2: np.ndarray,
    confidence: np.ndarray,
    hidden_s: np.ndarray,
    metre_px: np.ndarray,
    model: BoundModel,
) -> np.ndarray:
    """Covariances (N, 3, 3) in m^2 with everything that the statement leaves out.

    Args:
        point_m, covariance_m2, confidence, hidden_s: (N, 3), (N, 3, 3), (N,), (N,), see BoundInputs.
        metre_px: (N,) fx * baseline of the camera: the disparity at one metre.
    """
    gain = model.gain * model.doubt ** (1.0 - np.clip(confidence, 0.0, 1.0))
    distance = np.linalg.norm(point_m, axis=1)
    view = point_m / distance[:, None]
    along = view[:, :, None] * view[:, None, :]
    # the ray is longer than its depth, so an error of depth is longer along it
    depth_m = point_m[:, 2] * distance / metre_px * model.disparity_px
    hidden_m = 1e-3 * model.hidden_mm_per_s * np.maximum(hidden_s, 0.0)
    across = np.eye(3) - along
    return (
        gain[:, None, None] ** 2 * covariance_m2
        + (1e-3 * model.lateral_mm) ** 2 * across
        + depth_m[:, None, None] ** 2 * along
        + hidden_m[:, None, None] ** 2 * np.eye(3)
    )


def bound95_mm(inputs: BoundInputs, camera: StereoCamera, model: BoundModel) -> float:
    """Distance in mm that 95 % of such heads stay under."""
    total = total_covariance(
        inputs.point_m[None],
        inputs.covariance_m2[None],
        np.array([inputs.confidence]),
        np.array([inputs.hidden_s]),
        np.array([camera.intrinsics.fx * camera.baseline_m]),
        model,
    )
    return 1e3 * float(radius_quantile(total, LEVEL)[0])


def radius_quantile(covariance: np.ndarray, level: float) -> np.ndarray:
    """Quantiles (N,) of the length of Gaussian vectors with these covariances (N, D, D).

    The squared length is a weighted sum of chi-squares, here the Gamma distribution of equal mean
    and variance: within 3 % at the 95th percentile for any shape of the ellipsoid.
    """
    mean = np.trace(covariance, axis1=1, axis2=2)
    variance = 2.0 * (covariance * covariance).sum(axis=(1, 2))
    scale = variance / np.maximum(mean, 1e-30)  # Gamma(k, theta): mean k theta, variance k theta^2
    shape = mean / np.maximum(scale, 1e-30)
    return np.where(mean > 0.0, np.sqrt(gammaincinv(np.maximum(shape, 1e-9), level) * scale), 0.0)
