# SPDX-License-Identifier: Apache-2.0
"""How likely a measured point lies at a signed distance from the bone.

A bone pixel shows bare bone (Gaussian), or bone under residual soft tissue, which only ever lies
outside (exponential thickness, convolved with the same Gaussian), or something else (uniform).
A symmetric kernel would be pulled outward by the tissue; this one is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .kernels import OUTLIER_WIDTH_M, densities

__all__ = ["OUTLIER_WIDTH_M", "PointLikelihood", "point_likelihood"]


@dataclass(frozen=True)
class PointLikelihood:
    """Per point: log density, score psi = -d log p / ds (1/m) and a positive curvature (1/m^2)."""

    log_density: np.ndarray
    score: np.ndarray
    curvature: np.ndarray
    bone: np.ndarray  # responsibility of bare bone or thin tissue, 0 to 1


def point_likelihood(
    distance_m: np.ndarray,
    sigma_m: np.ndarray,
    tissue_scale_m: float,
    clean: np.ndarray,
    bone: np.ndarray,
) -> PointLikelihood:
    """Evaluate the mixture.

    Args:
        distance_m: (M,) signed distance to the bone, positive outside.
        sigma_m: (M,) standard deviation of the measurement along the bone's normal.
        tissue_scale_m: mean thickness of residual tissue.
        clean: (M,) probability that the bone is bare; bone: (M,) that it is bone at all.
    """
    return PointLikelihood(*densities(distance_m, sigma_m, tissue_scale_m, clean, bone))
