# SPDX-License-Identifier: Apache-2.0
"""How likely a measured point lies at a signed distance from the bone.

A bone pixel shows bare bone (Gaussian), or bone under residual soft tissue, which only ever lies
outside (exponential thickness, convolved with the same Gaussian), or something else (uniform).
A symmetric kernel would be pulled outward by the tissue; this one is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import erfcx

OUTLIER_WIDTH_M = 20e-3
_SQRT2 = float(np.sqrt(2.0))
_NORM = float(1.0 / np.sqrt(2.0 * np.pi))


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
    z = distance_m / sigma_m
    gauss = _NORM / sigma_m * np.exp(-0.5 * z * z)
    ratio = sigma_m / tissue_scale_m
    # Exponential convolved with a Gaussian; erfcx keeps it finite where exp would overflow,
    # and the far right tail takes the plain exponential.
    arg = (ratio - z) / _SQRT2
    tail = np.exp(np.minimum(0.5 * ratio * ratio - distance_m / tissue_scale_m, 50.0))
    tissue = np.where(
        arg > -4.0,
        0.5 / tissue_scale_m * np.exp(-0.5 * z * z) * erfcx(np.maximum(arg, -4.0)),
        tail / tissue_scale_m,
    )
    share_clean = 0.15 + 0.7 * clean
    share = np.clip(bone, 0.05, 0.97)
    p_gauss = share * share_clean * gauss
    p_tissue = share * (1.0 - share_clean) * tissue
    total = p_gauss + p_tissue + (1.0 - share) / OUTLIER_WIDTH_M
    slope = -p_gauss * z / sigma_m + share * (1.0 - share_clean) * (gauss - tissue) / tissue_scale_m
    is_bone = (p_gauss + p_tissue) / total
    w_gauss = p_gauss / total
    w_tissue = p_tissue / total
    return PointLikelihood(
        log_density=np.log(total),
        score=-slope / total,
        curvature=(w_gauss + 0.35 * w_tissue) / sigma_m**2,
        bone=is_bone,
    )
